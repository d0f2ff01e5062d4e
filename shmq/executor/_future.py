"""A Future that costs an object and no more until somebody waits for it.

A condition variable and two lists are most of the price of a `concurrent.futures.Future`. This one has them once they are
needed: a list of waiters for `wait` and `as_completed`, one of callbacks, and something to sleep on for a thread that wants the
result of a future that has none. One of which nothing was asked yet is finished by two plain stores.

One lock serves all futures of all executors of the process, and the executors themselves: a batch of outcomes takes it once,
and where there is but one, no two threads can wait for each other's. It is reentrant, since the garbage collector may run a
finalizer that looks at a future, or submits, in the middle of anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures._base import FINISHED, PENDING, RUNNING
from typing import Any, final

__all__ = ["FINISHED", "PENDING", "RUNNING", "Future", "lock"]

lock = threading.RLock()
UNDONE = (PENDING, RUNNING)


class _Gate:
    """What all futures have for a condition. To take it is to take the lock."""

    acquire = lock.acquire
    release = lock.release
    __enter__ = lock.__enter__
    __exit__ = lock.__exit__

    def __init__(self) -> None:
        self.sleepers: set[threading.Condition] = set()

    def wait(self, timeout: float | None = None) -> bool:
        """A future that is waited for knows how (`Future.sleep`); by this way it is asked whether it is done."""
        return False

    def notify_all(self) -> None:
        """Some future is cancelled, or finished by somebody else than its executor: which one is not said."""
        for condition in self.sleepers:
            condition.notify_all()


class _Nobody:
    """The waiters of a future that is done: whoever comes now need not be told."""

    def append(self, waiter: object) -> None:
        pass

    def remove(self, waiter: object) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return iter(())


GATE = _Gate()
NOBODY: Any = _Nobody()


class _Waiters:
    """Found where an instance has no list of waiters yet, which it has from then on, unless it is done."""

    def __get__(self, future: Future | None, owner: type[Future]) -> Any:
        if future is None:
            return self
        if future._state is FINISHED:
            return NOBODY
        own = future.__dict__
        own["_observed"] = True
        return own.setdefault("_waiters", [])


class _Callbacks:
    """The same for its list of callbacks."""

    def __get__(self, future: Future | None, owner: type[Future]) -> Any:
        if future is None:
            return self
        own = future.__dict__
        own["_observed"] = True
        return own.setdefault("_done_callbacks", [])


@final
class Future(futures.Future[Any]):
    """What `Executor.submit` returns; a `concurrent.futures.Future` in every respect."""

    _observed = False  # somebody may have to be told
    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _condition: Any = GATE
    _waiters: Any = _Waiters()
    _done_callbacks: Any = _Callbacks()
    _sleepers: threading.Condition | None = None

    def __init__(self) -> None:  # the base would make what is made on first use
        pass

    def result(self, timeout: float | None = None) -> Any:
        if self._state in UNDONE:
            self.sleep(timeout)
        elif self._exception is None and self._state is FINISHED:
            return self._result
        try:
            return super().result(0)
        finally:
            self = None  # type: ignore[assignment]  # or the exception's traceback would keep it, and it the exception

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if self._state in UNDONE:
            self.sleep(timeout)
        return super().exception(0)

    def sleep(self, timeout: float | None) -> None:
        """Until it is done, or so many seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with lock:
            condition = self._sleepers
            if condition is None:
                condition = self._sleepers = threading.Condition(lock)
                self._observed = True
            GATE.sleepers.add(condition)
            try:
                while self._state in UNDONE:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return
                    condition.wait(left)
            finally:
                GATE.sleepers.discard(condition)

    def finish(self, value: Any, failed: bool) -> bool:
        """Set the outcome; under the lock. True where callbacks are to be run, outside it.

        What `set_result` and `set_exception` do, without taking a lock for each future.
        """
        if self._state not in UNDONE:
            return False  # whoever has it has finished or cancelled it himself
        if failed:
            self._exception = value
        else:
            self._result = value
        self._state = FINISHED
        if not self._observed:
            return False
        own = self.__dict__
        for waiter in own.get("_waiters", ()):
            if failed:
                waiter.add_exception(self)
            else:
                waiter.add_result(self)
        if self._sleepers is not None:
            self._sleepers.notify_all()
        return "_done_callbacks" in own
