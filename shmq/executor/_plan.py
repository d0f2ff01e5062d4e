"""Plan: what a worker process is told when it is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Plan", "tasks_name"]


class Plan(NamedTuple):
    """It is pickled where the worker is not forked."""

    pool: str
    channel: dict[str, Any]
    row: int
    turn: int  # of that row
    crew: int  # identity of the process that started it
    client: int = 0  # who is told when the initializer raises
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    most_tasks: int | None = None


def tasks_name(pool: str) -> str:
    """The name of the queue of a pool's tasks."""
    return f"{pool}.tasks"
