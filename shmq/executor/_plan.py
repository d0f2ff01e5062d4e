"""Plan: what a worker process is told when it is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from shmq._segment.segment import LONGEST_NAME, check_name
from shmq.executor._channel import LARGE

__all__ = ["Plan", "tasks_name"]

TASKS = ".tasks"


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
    """The name of the queue of a pool's tasks. Raises ValueError or TypeError that says what names a pool."""
    return check_name(pool, "pool", LONGEST_NAME - len(TASKS + LARGE)) + TASKS
