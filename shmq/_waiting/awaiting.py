"""Waiting in an event loop: tasks that wait at a queue are woken by the queue's bell, and take for themselves.

A task that is woken takes its message in its own step. Between being woken and taking it holds nothing, so cancelling it loses
nothing, and the next task is woken in its stead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from shmq import _core
from shmq._errors import Closed, Empty, Full, InFlightLimit, ShutDown
from shmq._waiting.bell import DONE, ITEMS, SPACE
from shmq._waiting.loop_waiters import waiters_of

if TYPE_CHECKING:
    from shmq._core import Lease, Leases, Loan
    from shmq._waiting.loop_waiters import LoopWaiters, WaitableInLoop

__all__ = ["Receiving", "any_of", "done", "next_lease", "publish", "wait"]

Result = TypeVar("Result")
T = TypeVar("T")
Q = TypeVar("Q", bound="WaitableInLoop")

CELL_PATIENCE = 1.0  # seconds; `receive` waits as long for an in-flight cell before it says which processes hold them all


async def wait(queue: WaitableInLoop, side: int, attempt: Callable[[], Result], timeout: float | None) -> Result:
    """Try `attempt` whenever it is worth it, until it is neither Empty nor Full. **Raises** what the last try in time raised."""
    timeout = _core.seconds_of(timeout)
    if timeout is not None and timeout <= 0:
        return attempt()
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    cells_deadline: float | None = None
    waiters = waiters_of(queue)
    waiter = waiters.enter(side)
    while True:
        timer = None if deadline is None else loop.call_at(deadline, expire, waiter)
        try:
            in_time = await waiter
        except BaseException:  # cancelled
            waiters.withdraw(side, waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if not in_time:
            try:
                return attempt()  # a last look: it may have come with the last tick
            finally:
                waiters.withdraw(side, waiter)
        try:
            result = attempt()
        except (Empty, Full):
            waiter = waiters.again(side)
            continue
        except InFlightLimit:  # nobody tells when a lease is settled
            now = loop.time()
            cells_deadline = cells_deadline or now + CELL_PATIENCE
            if now > min(cells_deadline, deadline or cells_deadline):
                waiters.withdraw(side, waiter)
                raise
            waiter = waiters.again(side, scarce=True)
            continue
        except BaseException:
            waiters.withdraw(side, waiter)
            raise
        waiters.served(side)
        return result


async def any_of(queues: Sequence[Q], timeout: float | None) -> Q | None:
    """Wait for the first of several queues that has something, and return it; None on time-out. Nothing is taken."""
    timeout = _core.seconds_of(timeout)
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    for queue in queues:
        if queue._ready():
            return queue
    if timeout is not None and timeout <= 0:
        return None
    entered: list[tuple[LoopWaiters, asyncio.Future[bool]]] = []
    ready: Q | None = None
    try:
        for queue in queues:
            waiters = waiters_of(queue)
            entered.append((waiters, waiters.enter(ITEMS)))
        while True:
            left = None if deadline is None else max(deadline - loop.time(), 0)
            woken, _ = await asyncio.wait([waiter for _, waiter in entered], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            ready = next((queue for queue in queues if queue._ready()), None)
            if ready is not None or not woken:
                return ready
            for waiter in woken:
                waiter.result()  # raises SegmentNotFound: see LoopWaiters.watch
            for number, (waiters, waiter) in enumerate(entered):
                if waiter in woken:
                    entered[number] = waiters, waiters.again(ITEMS)
    finally:
        for waiters, waiter in entered:
            waiters.withdraw(ITEMS, waiter, keeps=waiters.queue is ready)


def expire(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)


async def done(queue: WaitableInLoop, timeout: float | None) -> bool:
    """Wait until every message of the queue is done; True, or False on time-out."""

    def attempt() -> bool:
        if queue._unfinished():
            raise Empty
        return True

    try:
        return attempt()
    except Empty:
        pass
    try:
        return await wait(queue, DONE, attempt, timeout)
    except Empty:
        return False


class Receiving(Coroutine[Any, Any, "Lease[T]"], Generic[T]):
    """What `Queue.areceive` returns: a coroutine whose result is a Lease; as an asynchronous context, that of the lease.

    Nothing is begun, and no message taken, before it is awaited, made a task, or entered.
    """

    def __init__(self, queue: WaitableInLoop, attempt: Callable[[], Lease[T]], timeout: float | None) -> None:
        self.queue = queue
        self.attempt = attempt  # at once, without waiting
        self.timeout = timeout
        self.lease: Lease[T] | None = None
        self.running: Coroutine[Any, Any, Lease[T]] | None = None
        self.__name__ = "areceive"  # of the task that runs it
        self.__qualname__ = "Queue.areceive"

    async def receive(self) -> Lease[T]:
        try:
            return self.attempt()
        except (Empty, InFlightLimit):
            return await wait(self.queue, ITEMS, self.attempt, self.timeout)

    # What a coroutine has: asyncio's tasks drive it by these.

    def begun(self) -> Coroutine[Any, Any, Lease[T]]:
        if self.running is None:
            self.running = self.receive()
        return self.running

    def __await__(self) -> Generator[Any, Any, Lease[T]]:
        return self.begun().__await__()

    def send(self, value: Any) -> Any:
        return self.begun().send(value)

    def throw(self, *error: Any) -> Any:
        return self.begun().throw(*error)

    def close(self) -> None:
        if self.running is not None:
            self.running.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("cr_"):  # for the debug mode of asyncio, and for a task's stack
            return getattr(self.begun(), name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    async def __aenter__(self) -> Lease[T]:
        self.lease = await self
        return self.lease.__enter__()

    async def __aexit__(self, *exc: Any) -> None:
        assert self.lease is not None
        self.lease.__exit__(*exc)


async def next_lease(queue: WaitableInLoop, leases: Leases[T], timeout: float | None) -> Lease[T]:
    """The next step of an `async for` over a queue."""
    leases._finish()
    try:
        try:
            return leases._take()
        except (Empty, InFlightLimit):
            return await wait(queue, ITEMS, leases._take, timeout)
    except (Empty, Closed, ShutDown):
        raise StopAsyncIteration from None


async def publish(queue: WaitableInLoop, loan: Loan[Any], nbytes: int | None, timeout: float | None) -> None:
    """Publish a loan, once the queue has room for it. **Raises** Full on time-out."""

    def attempt() -> None:
        loan.publish(nbytes, 0)

    try:
        return attempt()
    except Full:
        return await wait(queue, SPACE, attempt, timeout)
