"""A Future that costs an object and no more until somebody waits for it.

A condition variable and two lists are most of the price of a `concurrent.futures.Future`. This one has a *gate*, a lock on which
one can sleep if need be, from when somebody asks for its condition: to wait, to cancel, to be called back. One that nobody has
asked anything is finished by three plain stores, and from then on nothing about it changes.

Gates are of one future each, since `wait` takes those of many, in an order that only works where no two futures share one.
Locks are taken in the order: the executor's `lock`, gates, `finishing`; and while that is held, nothing is waited for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures._base import CANCELLED, FINISHED, PENDING, RUNNING
from typing import Any, final

from shmq._core import Hold

__all__ = ["CANCELLED", "FINISHED", "PENDING", "RUNNING", "Future", "finishing", "lock"]

# Of all executors of the process. Reentrant, since the garbage collector may run a finalizer that submits in the middle of
# anything.
lock = threading.RLock()
finishing = threading.RLock()  # held while futures without a gate are given DONE and their outcome
UNDONE = (PENDING, RUNNING)


def renew_locks() -> None:
    """In a forked child: a thread of the parent may have held them, and no such thread is here to give them back."""
    lock._at_fork_reinit()  # type: ignore[attr-defined]  # CPython has it, the stubs do not
    finishing._at_fork_reinit()  # type: ignore[attr-defined]  # CPython has it, the stubs do not


os.register_at_fork(after_in_child=renew_locks)


class _Gate(type(threading.RLock())):  # type: ignore[misc]  # RLock is a function; its class has no public name
    """The condition of a future. Not a threading.Condition from the start, which costs five times as much."""

    condition: threading.Condition | None = None  # of those who sleep

    def wait(self, timeout: float | None = None) -> bool:
        if self.condition is None:
            self.condition = threading.Condition(self)
        return self.condition.wait(timeout)

    def notify_all(self) -> None:
        if self.condition is not None:
            self.condition.notify_all()


class _Pass(Hold):
    """A gate for one `with` statement, since the standard library says ``with future._condition:``."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lock, name)


class _Done:
    """The condition of all futures that nobody had asked anything before they were done. There is nothing to hold: whoever takes
    it waits until the outcome is there."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        with Hold(finishing):
            return True

    def release(self) -> None:
        pass

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        pass

    def wait(self, timeout: float | None = None) -> bool:
        return True

    def notify_all(self) -> None:
        pass


class _Nobody:
    """The waiters of such a future: whoever comes now need not be told."""

    def append(self, waiter: object) -> None:
        pass

    def remove(self, waiter: object) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return iter(())


DONE = _Done()
NOBODY = _Nobody()


class _Condition:
    """Found whenever somebody asks an instance for its condition; from then on that has a gate, if it was not done before."""

    def __get__(self, future: Future | None, owner: type[Future]) -> Any:
        if future is None:
            return self
        own = future.__dict__
        own.setdefault("_waiters", [])
        gate = own.setdefault("_gate", _Gate())  # not where another thread was quicker, or its outcome
        return gate if gate is DONE else _Pass(gate)


class _Lazily:
    """Found where an instance has no such list yet, which it has from then on, unless nobody will ever look at it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, future: Future | None, owner: type[Future]) -> Any:
        if future is None:
            return self
        own = future.__dict__
        return NOBODY if own.get("_gate") is DONE else own.setdefault(self.name, [])


@final
class Future(futures.Future[Any]):
    """What `Executor.submit` returns; a `concurrent.futures.Future` in every respect."""

    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _condition: Any = _Condition()
    _waiters: Any = _Lazily("_waiters")
    _done_callbacks: Any = _Lazily("_done_callbacks")

    def __init__(self) -> None:  # the base would make what is made on first use
        pass

    def result(self, timeout: float | None = None) -> Any:
        if self._state is FINISHED and self._exception is None:
            return self._result
        try:
            return super().result(timeout)
        finally:
            self = None  # type: ignore[assignment]  # or the exception's traceback would keep it, and it the exception

    def finish(self, value: Any, failed: bool) -> bool:
        """Set the outcome of a future that has a gate. True where callbacks are to be run, outside all locks.

        What `set_result` and `set_exception` do; but one that was finished or cancelled by whoever has it stays what it is.
        """
        own = self.__dict__
        gate = own["_gate"]
        with Hold(gate):
            if self._state not in UNDONE:
                if self._state is CANCELLED:
                    self.set_running_or_notify_cancel()
                return False
            if failed:
                self._exception = value
            else:
                self._result = value
            self._state = FINISHED
            for waiter in own["_waiters"]:
                if failed:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
            if gate.condition is not None:
                gate.condition.notify_all()
            return "_done_callbacks" in own

    def begin(self) -> bool:
        """From now on it cannot be cancelled. False where it has been, or somebody else has finished it."""
        with self._condition:
            if self._state is PENDING:
                self._state = RUNNING
            elif self._state is CANCELLED:
                self.set_running_or_notify_cancel()
            return self._state is RUNNING

    def __reduce__(self) -> Any:
        raise TypeError("a future cannot be pickled or copied: it is of the process that asked")
