"""A Future that costs an object and no more until somebody waits for it.

A condition variable and two lists are most of the price of a `concurrent.futures.Future`. Whoever wants to wait, to cancel or
to be called back asks for `_condition` first, so this one makes all three then. A future that nobody has asked anything is
finished by two plain stores, under the lock under which a condition is born.
"""

from __future__ import annotations

import threading
from concurrent import futures
from concurrent.futures._base import FINISHED, PENDING, RUNNING
from typing import Any

__all__ = ["FINISHED", "PENDING", "RUNNING", "Future", "birth"]

# Reentrant: the garbage collector may run a finalizer that looks at another future, in the middle.
birth = threading.RLock()


class _Condition:
    """Found where an instance has no `_condition` yet, which it has from then on."""

    def __get__(self, future: Future | None, owner: type[Future]) -> Any:
        if future is None:
            return self
        with birth:
            if not future._observed:
                future._waiters = []
                future._done_callbacks = []
                future.__dict__["_condition"] = threading.Condition()
                future._observed = True
        return future.__dict__["_condition"]


class Future(futures.Future[Any]):
    """What `Executor.submit` returns; a `concurrent.futures.Future` in every respect."""

    _observed = False
    _state = PENDING
    _result = None
    _exception = None
    _condition = _Condition()

    def __init__(self) -> None:  # the base would make what is made on first use
        pass
