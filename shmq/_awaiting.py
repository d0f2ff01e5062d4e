"""Waiting in an event loop: tasks that wait at a queue are woken by the queue's bell, and take for themselves.

A task that is woken takes its message in its own step: between being woken and taking nothing is in its hands, so that
cancelling it loses nothing, and the next one is woken in its stead. No thread waits, nothing is polled; a timer looks for
what nobody rings for (deaths, leases that expire, messages that rest), as rarely as a sleeper does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from shmq import _core
from shmq._bell import DONE, ITEMS, SLICE, SPACE, Listener
from shmq._errors import Closed, Empty, Full, InFlightLimit, ShmqError, ShutDown

if TYPE_CHECKING:
    from shmq._core import Lease, Leases, Loan
    from shmq._queue import Queue

__all__ = ["Place", "Receiving", "any_of", "done", "next_lease", "publish", "wait"]

Result = TypeVar("Result")

SOONEST = 0.001  # seconds: a producer's first look by itself, since a consumer does not announce every freed cell
CELL_PATIENCE = 1.0  # … as long as `receive` waits for an in-flight cell before it says who holds them all
IN_VAIN = 4  # looks that promised something and did not keep it, before we look by the clock


class Place:
    """Where the tasks of one event loop wait at one queue. It is there as long as somebody waits."""

    def __init__(self, queue: Queue, loop: asyncio.AbstractEventLoop) -> None:
        self.queue = queue
        self.loop = loop
        self.waiting: tuple[deque[asyncio.Future[bool]], ...] = (deque(), deque(), deque())  # by side
        self.woken = [0, 0, 0]  # of those who wait, how many are about to look
        self.in_vain = 0
        self.pause = SLICE
        self.listener = Listener(queue)
        loop.add_reader(self.listener.descriptor, self.rung)
        self.timer = loop.call_later(SLICE, self.watch)

    def enter(self, side: int, first: bool = False) -> asyncio.Future[bool]:
        """Wait for one's turn: the future's result is True when it is worth a try."""
        turn: asyncio.Future[bool] = self.loop.create_future()
        if first:
            self.waiting[side].appendleft(turn)
        else:
            self.waiting[side].append(turn)
        self.rouse(side)
        self.look_again_in(SOONEST if side == SPACE else SLICE)
        return turn

    def leave(self, side: int, turn: asyncio.Future[bool], keeps: bool = False) -> None:
        """Wait no longer: cancelled, or the time is over. Who was woken wakes another one in his stead, unless he `keeps` what
        he was woken for."""
        try:
            self.waiting[side].remove(turn)
        except ValueError:
            self.woken[side] -= 1
        if not keeps:
            self.rouse(side)
        self.end_if_idle([side] if keeps else [])

    def served(self, side: int) -> None:
        """A woken task has taken what it wanted, or failed: it is the next one's turn."""
        self.in_vain = 0
        self.woken[side] -= 1
        self.rouse(side)
        self.end_if_idle()

    def again(self, side: int) -> asyncio.Future[bool]:
        """A woken task came too late, and waits on, before all others."""
        self.woken[side] -= 1
        self.in_vain += 1
        return self.enter(side, first=True)

    def rouse(self, side: int) -> None:
        """Wake as many as there is something for, and be told of what comes."""
        waiting = self.waiting[side]
        if not waiting or self.woken[side]:
            return  # who was woken calls this again
        self.listener.arm(side)
        if self.in_vain > IN_VAIN:
            return  # the clock's turn
        try:
            if not self.queue._promising(side):
                return
            length = self.queue.qsize()
        except ShmqError:  # closed: the tasks find out
            length = len(waiting)
        here = len(waiting) if side == DONE else length if side == ITEMS else self.queue.maxsize - length
        self.wake(side, max(here, 1))

    def wake(self, side: int, count: int) -> None:
        waiting = self.waiting[side]
        while waiting and count:
            turn = waiting.popleft()
            self.woken[side] += 1
            if turn.done():  # cancelled, and yet to leave
                continue
            turn.set_result(True)
            count -= 1

    def rung(self) -> None:
        """Called by the loop when the bell was rung."""
        self.listener.hush()
        self.in_vain = 0
        for side in (ITEMS, SPACE, DONE):
            self.rouse(side)

    def watch(self) -> None:
        """Called by the clock: what nobody rings for."""
        self.in_vain = 0
        try:
            soon = self.queue._watch()
        except ShmqError:  # closed: the tasks find out
            for side in (ITEMS, SPACE, DONE):
                self.wake(side, len(self.waiting[side]))
            return
        for side in (ITEMS, SPACE, DONE):
            self.rouse(side)
        self.pause = min(2 * self.pause, SLICE)
        self.timer = self.loop.call_later(max(min(self.pause, soon), SOONEST), self.watch)

    def look_again_in(self, pause: float) -> None:
        try:
            soon = max(min(pause, self.queue._watch()), SOONEST)
        except ShmqError:
            soon = 0.0
        self.pause = min(self.pause, pause)
        if self.timer.when() > self.loop.time() + soon:
            self.timer.cancel()
            self.timer = self.loop.call_later(soon, self.watch)

    def end_if_idle(self, keeps: Sequence[int] = ()) -> None:
        if any(self.waiting) or any(self.woken) or self.queue._places.pop(self.loop, None) is None:
            return
        self.end(keeps)

    def end(self, keeps: Sequence[int] = ()) -> None:
        if not self.loop.is_closed():
            self.loop.remove_reader(self.listener.descriptor)
            self.timer.cancel()
        self.listener.close(keeps)


def place_of(queue: Queue) -> Place:
    """The place of the running loop at this queue."""
    loop = asyncio.get_running_loop()
    place = queue._places.get(loop)
    if place is None:
        for other in [other for other in queue._places if other.is_closed()]:
            queue._places.pop(other).end()  # a loop that was closed under those who waited
        place = queue._places[loop] = Place(queue, loop)
    return place


async def wait(queue: Queue, side: int, attempt: Callable[[], Result], timeout: float | None) -> Result:
    """Try again whenever it is worth it, until it is neither Empty nor Full. Raises what the last try raised on time-out."""
    _core.check_seconds(timeout)
    if timeout is not None and timeout <= 0:
        return attempt()
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    cells_deadline: float | None = None
    place = place_of(queue)
    turn = place.enter(side)
    while True:
        timer = None if deadline is None else loop.call_at(deadline, expire, turn)
        try:
            in_time = await turn
        except BaseException:  # cancelled
            place.leave(side, turn)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if not in_time:
            place.leave(side, turn)
            return attempt()  # a last look: it may have come with the last tick
        try:
            result = attempt()
        except (Empty, Full):
            turn = place.again(side)
            continue
        except InFlightLimit:  # nobody tells when a lease is settled
            now = loop.time()
            cells_deadline = cells_deadline or now + CELL_PATIENCE
            if now > min(cells_deadline, deadline or cells_deadline):
                place.served(side)
                raise
            place.in_vain = IN_VAIN
            turn = place.again(side)
            place.look_again_in(SOONEST)
            continue
        except BaseException:
            place.served(side)
            raise
        place.served(side)
        return result


async def any_of(queues: Sequence[Queue], timeout: float | None) -> Queue | None:
    """The first of the queues that has something; None on time-out. See shmq.aio.wait_any."""
    _core.check_seconds(timeout)
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    while True:
        for queue in queues:
            if queue._ready():
                return queue
        left = None if deadline is None else deadline - loop.time()
        if left is not None and left <= 0:
            return None
        entered: list[tuple[Place, asyncio.Future[bool]]] = []
        ready: Queue | None = None
        try:
            for queue in queues:
                place = place_of(queue)
                entered.append((place, place.enter(ITEMS)))
            await asyncio.wait([turn for _, turn in entered], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            ready = next((queue for queue in queues if queue._ready()), None)
        finally:
            for place, turn in entered:
                place.leave(ITEMS, turn, keeps=place.queue is ready)
        if ready is not None:
            return ready


def expire(turn: asyncio.Future[bool]) -> None:
    if not turn.done():
        turn.set_result(False)


async def done(queue: Queue, timeout: float | None) -> bool:
    """See Queue.ajoin."""

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


class Receiving:
    """What `Queue.areceive` returns: awaited, it is a Lease; as an asynchronous context, that of the lease."""

    def __init__(self, queue: Queue, timeout: float | None, arguments: dict[str, Any]) -> None:
        self.queue = queue
        self.timeout = timeout
        self.arguments = arguments
        self.lease: Lease | None = None

    def __await__(self) -> Any:
        return self.receive().__await__()

    async def receive(self) -> Lease:
        try:
            return self.attempt()
        except (Empty, InFlightLimit):
            return await wait(self.queue, ITEMS, self.attempt, self.timeout)

    def attempt(self) -> Lease:
        return self.queue.receive(0, **self.arguments)

    async def __aenter__(self) -> Lease:
        self.lease = await self.receive()
        return self.lease.__enter__()

    async def __aexit__(self, *exc: Any) -> None:
        assert self.lease is not None
        self.lease.__exit__(*exc)


async def next_lease(queue: Queue, leases: Leases, timeout: float | None) -> Lease:
    """The next step of an `async for` over a queue."""
    leases._finish()
    try:
        try:
            return leases._take()
        except (Empty, InFlightLimit):
            return await wait(queue, ITEMS, leases._take, timeout)
    except (Empty, Closed, ShutDown):
        raise StopAsyncIteration from None


async def publish(queue: Queue, loan: Loan[Any], nbytes: int | None, timeout: float | None) -> None:
    """See Loan.apublish."""

    def attempt() -> None:
        loan.publish(nbytes, 0)

    try:
        return attempt()
    except Full:
        return await wait(queue, SPACE, attempt, timeout)
