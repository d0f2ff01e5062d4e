"""A worker whose work is a function of the user's: it is called with each message of a queue."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from shmq._core import Lease
from shmq._errors import LeaseLost
from shmq._queue import Queue
from shmq.executor import _board
from shmq.executor._worker import Plan, Worker, live

__all__ = ["Consumption", "consume", "find_function"]


class Consumption(NamedTuple):
    """What such a worker is told beside its plan: it travels as the plan's `channel`."""

    function: str
    prefetch: int
    folder: str


def find_function(name: str) -> Callable[..., Any]:
    """The function that MODULE:FUNCTION names. Raises ValueError that says what is wrong."""
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise ValueError(f"{name!r} names no function: write MODULE:FUNCTION, as in package.module:function")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(f"module {module_name!r} cannot be imported: {error}") from error
        raise ValueError(f"there is no module {error.name!r} in {os.getcwd()} nor elsewhere on the path") from None
    except Exception as error:
        raise ValueError(f"module {module_name!r} cannot be imported: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ValueError(f"module {module_name!r} has no {path!r}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{name} is no function, but {found!r}")
    return found  # type: ignore[no-any-return]


def wants_lease(function: Callable[..., Any]) -> bool:
    """Is its first parameter called `lease`? Then it is given the lease itself, and may extend or reject it."""
    try:
        return next(iter(inspect.signature(function).parameters), "") == "lease"
    except (TypeError, ValueError):
        return False


class Consumer(Worker):
    """Acks what the function returns from, nacks what it raises at."""

    def __init__(self, plan: Plan, function: Callable[..., Any], prefetch: int) -> None:
        self.queue = Queue.attach(plan.pool)
        super().__init__(plan, self.queue)
        self.function = function
        self.prefetch = prefetch
        self.wants_lease = wants_lease(function)
        self.ahead: list[Lease] = []

    def receive(self, timeout: float) -> Lease:
        if not self.ahead:
            self.ahead = self.queue.receive_many(self.prefetch, timeout)
            self.ahead.reverse()
        return self.ahead.pop()

    def run_task(self, lease: Lease) -> None:
        began = self.begin(0, lease.id)
        try:
            with lease:
                self.function(lease if self.wants_lease else lease.data)
        except LeaseLost as error:
            logging.getLogger("shmq").warning("%s", error)
            self.end(began, _board.FAILED)
        except Exception:
            first = lease.delivery_count == 1  # once is enough to be told where
            logging.getLogger("shmq").error("message %d of queue %r failed", lease.id, self.plan.pool, exc_info=first)
            self.end(began, _board.FAILED)
        else:
            self.end(began, _board.DONE)

    def close(self) -> None:
        for lease in reversed(self.ahead):  # the oldest first: they come back in their order
            if not lease.settled:
                lease.release()
        self.ahead.clear()
        self.queue.close()


def consume(plan: Plan) -> None:
    """The body of such a worker process."""
    asked = Consumption(*plan.channel["consume"])
    if asked.folder not in sys.path:
        sys.path.insert(0, asked.folder)
    live(plan, lambda: Consumer(plan, find_function(asked.function), asked.prefetch))
