"""Plan: what a worker process is told when it is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Plan", "tasks_name"]


class Plan(NamedTuple):
    """What one worker is to do. It is pickled where the worker is not forked."""

    pool: str
    channel: dict[str, Any]  # how the pool's channels are made
    row: int  # of the board
    claim: int  # of that row: see Board
    crew: int  # identity of the process that started it
    client: int = 0  # which is told when the initializer raises
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    most_tasks: int | None = None  # after which the worker leaves


def tasks_name(pool: str) -> str:
    """The name of the queue of a pool's tasks."""
    return f"{pool}.tasks"
