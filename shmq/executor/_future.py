"""Future: costs an object and no more until a thread waits for it.

A condition variable and two lists are most of the price of a `concurrent.futures.Future`. This one gets a *gate* when a thread
asks for its condition: to wait, to cancel, to be called back. A gate is a lock, on which a thread can also sleep. A future
without a gate is finished by three plain stores, and from then on nothing about it changes.

Each future has a gate of its own, since `wait` takes the gates of many futures, in an order that only works where no two share
one. Locks are taken in this order: `lock`, gates, `finishing`. While `finishing` is held, nothing is waited for.
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

# The lock of all executors of the process. Reentrant, since the garbage collector may run a finalizer that submits, between any
# two lines.
lock = threading.RLock()
finishing = threading.RLock()  # held while futures without a gate get DONE and their outcome
UNDONE = (PENDING, RUNNING)


def renew_locks() -> None:
    """In a forked child: a thread of the parent may have held the locks, and the child has no such thread to release them."""
    lock._at_fork_reinit()  # type: ignore[attr-defined]  # CPython has it, the stubs do not
    finishing._at_fork_reinit()  # type: ignore[attr-defined]  # CPython has it, the stubs do not


os.register_at_fork(after_in_child=renew_locks)


class _Gate(type(threading.RLock())):  # type: ignore[misc]  # RLock is a function; its class has no public name
    """The condition of a future: a lock that gets a threading.Condition, which costs five times as much, when a thread sleeps."""

    condition: threading.Condition | None = None  # on which threads sleep

    def wait(self, timeout: float | None = None) -> bool:
        if self.condition is None:
            self.condition = threading.Condition(self)
        return self.condition.wait(timeout)

    def notify_all(self) -> None:
        if self.condition is not None:
            self.condition.notify_all()


class _Pass(Hold):
    """A gate that is taken by one `with` statement: the standard library writes ``with future._condition:``."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lock, name)


class _Done:
    """The condition of all futures that had no gate when they were finished.

    There is nothing to hold: a thread that takes it waits until the outcome is there.
    """

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
    """The waiters of a future that is done: a waiter that comes now need not be notified."""

    def append(self, waiter: object) -> None:
        pass

    def remove(self, waiter: object) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return iter(())


DONE = _Done()
NOBODY = _Nobody()


class _Condition:
    """Descriptor of a future's condition: gives the future a gate, unless it is done."""

    def __get__(self, future: Future | None, owner: type[Future]) -> Any:
        if future is None:
            return self
        own = future.__dict__
        own.setdefault("_waiters", [])
        gate = own.setdefault("_gate", _Gate())  # unless another thread has given it one, or it was finished, in the meantime
        return gate if gate is DONE else _Pass(gate)


class _Lazily:
    """Descriptor of a future's list: gives the future an empty list, unless the future is done, so that nobody would read it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, future: Future | None, owner: type[Future]) -> Any:
        if future is None:
            return self
        own = future.__dict__
        return NOBODY if own.get("_gate") is DONE else own.setdefault(self.name, [])


@final
class Future(futures.Future[Any]):
    """What `Executor.submit` returns: a `concurrent.futures.Future` in every respect."""

    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _condition: Any = _Condition()
    _waiters: Any = _Lazily("_waiters")
    _done_callbacks: Any = _Lazily("_done_callbacks")

    def __init__(self) -> None:  # the base would make the condition and the lists, which are made on first use here
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

        It does what `set_result` and `set_exception` do; but a future that the program has finished or cancelled stays as it is.
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
        """From now on the future cannot be cancelled. False where it was cancelled or finished before."""
        with self._condition:
            if self._state is PENDING:
                self._state = RUNNING
            elif self._state is CANCELLED:
                self.set_running_or_notify_cancel()
            return self._state is RUNNING

    def __reduce__(self) -> Any:
        raise TypeError(
            "a future cannot be pickled or copied: it belongs to the process that submitted the task. "
            "Send what its result() returns"
        )
