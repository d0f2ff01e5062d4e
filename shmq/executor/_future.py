"""A Future that costs an object and no more until somebody waits for it.

A condition variable and two lists are most of the price of a `concurrent.futures.Future`. Whoever wants to wait, to cancel or
to be called back asks for `_condition` first, so this one makes all three then. A future that nobody has asked anything is
finished by two plain stores; from then on nothing about it changes, and one condition serves all of that kind.

One lock serves all futures of all executors of the process, and the executors themselves: a batch of outcomes takes it once,
and where there is but one, no two threads can wait for each other's. It is reentrant, since the garbage collector may run a
finalizer that looks at a future, or submits, in the middle of anything.
"""

from __future__ import annotations

import threading
from concurrent import futures
from concurrent.futures._base import FINISHED, PENDING, RUNNING
from typing import Any, final

__all__ = ["DONE", "FINISHED", "PENDING", "RUNNING", "Future", "lock"]

lock = threading.RLock()


class _Gate:
    """A condition on that lock, made when somebody waits: who only looks, as `wait` and `as_completed` do at each of thousands
    of futures, needs no more than the lock. Not a threading.Condition from the start, which costs five times as much."""

    __slots__ = ("_condition",)

    _condition: threading.Condition

    acquire = lock.acquire
    release = lock.release
    __enter__ = lock.__enter__
    __exit__ = lock.__exit__

    def wait(self, timeout: float | None = None) -> bool:
        try:
            condition = self._condition
        except AttributeError:
            condition = self._condition = threading.Condition(lock)
        return condition.wait(timeout)

    def notify_all(self) -> None:
        try:
            condition = self._condition
        except AttributeError:  # nobody has waited
            return
        condition.notify_all()


class _Nobody:
    """The waiters of a future that is done: whoever comes now need not be told."""

    def append(self, waiter: object) -> None:
        pass

    def remove(self, waiter: object) -> None:
        pass


DONE = _Gate()  # of all futures that nobody has looked at before they were done


class _Condition:
    """Found where an instance has no `_condition` yet, which it has from then on."""

    def __get__(self, future: Future | None, owner: type[Future]) -> Any:
        if future is None:
            return self
        own = future.__dict__
        with lock:
            gate = own.get("_condition")  # where another thread was quicker
            if gate is None:
                own["_waiters"] = []
                own["_done_callbacks"] = []
                own["_observed"] = True
                gate = own["_condition"] = _Gate()
        return gate


@final
class Future(futures.Future[Any]):
    """What `Executor.submit` returns; a `concurrent.futures.Future` in every respect."""

    _observed = False
    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _condition: Any = _Condition()
    _waiters: Any = _Nobody()
    _done_callbacks: Any = ()

    def __init__(self) -> None:  # the base would make what is made on first use
        pass

    def finish(self, value: Any, failed: bool) -> bool:
        """Set the outcome; under the lock. True where callbacks are to be run, outside it.

        What `set_result` and `set_exception` do, without taking a lock for each future.
        """
        if self._state not in (PENDING, RUNNING):
            return False  # whoever has it has finished or cancelled it himself
        if failed:
            self._exception = value
        else:
            self._result = value
        self._state = FINISHED
        if not self._observed:
            self._condition = DONE
            return False
        for waiter in self._waiters:
            if failed:
                waiter.add_exception(self)
            else:
                waiter.add_result(self)
        self._condition.notify_all()
        return bool(self._done_callbacks)
