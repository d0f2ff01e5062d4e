"""Where the tasks of an event loop wait at a queue: one listener for all of them, which wakes as many as there is something for.

No thread waits, and nothing is polled. A timer looks for what nobody rings for (deaths, leases that expire, messages that rest),
as rarely as a sleeper does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from shmq._errors import SegmentNotFound, ShmqError
from shmq._waiting.bell import DONE, ITEMS, SLICE, SPACE, Listener

if TYPE_CHECKING:
    from typing import Protocol

    from shmq._waiting.handles import Waitable

    class WaitableInLoop(Waitable, Protocol):
        """What tasks wait for: it keeps the waiters of each event loop."""

        _loop_waiters: dict[asyncio.AbstractEventLoop, LoopWaiters]


__all__ = ["LoopWaiters", "waiters_of"]

SOONEST = 0.001  # seconds: a producer's first look by itself, since a consumer does not announce every freed cell
IN_VAIN = 4  # looks that promised something and did not keep it, before we look by the clock


class LoopWaiters:
    """Where the tasks of one event loop wait at one queue. It is there as long as somebody waits."""

    def __init__(self, queue: WaitableInLoop, loop: asyncio.AbstractEventLoop) -> None:
        self.queue = queue
        self.loop = loop
        self.waiting: tuple[deque[asyncio.Future[bool]], ...] = (deque(), deque(), deque())  # by side
        self.woken = [0, 0, 0]  # of those who wait, how many are about to look
        self.back = [0, 0, 0]  # of those who looked in vain, how many wait again, before all others
        self.in_vain = 0
        self.closing = False
        self.pause = SLICE
        self.listener = Listener(queue)
        try:
            loop.add_reader(self.listener.descriptor, self.rung)
        except BaseException:
            self.listener.close()
            raise
        self.timer = loop.call_later(SLICE, self.watch)

    def enter(self, side: int) -> asyncio.Future[bool]:
        """Queue up at the end: the future's result is True when it is worth a try."""
        waiter: asyncio.Future[bool] = self.loop.create_future()
        self.waiting[side].append(waiter)
        self.wake_if_worth(side)
        self.look_again_in(SOONEST if side == SPACE else SLICE)
        return waiter

    def again(self, side: int, scarce: bool = False) -> asyncio.Future[bool]:
        """A woken task came too late, and waits on. `scarce`: it lacks something that nobody rings for."""
        waiter: asyncio.Future[bool] = self.loop.create_future()
        self.waiting[side].insert(self.back[side], waiter)
        self.back[side] += 1
        self.woken[side] -= 1
        if scarce:
            self.in_vain = IN_VAIN + 1
        elif not self.woken[side]:
            self.in_vain += 1
        self.wake_if_worth(side)
        return waiter

    def served(self, side: int) -> None:
        """A woken task has taken what it wanted, so the next one may try. Never raises, since something was taken."""
        self.in_vain = 0
        self.woken[side] -= 1
        self.listener.took(side)
        self.wake_if_worth(side)
        self.close_if_idle(side)

    def withdraw(self, side: int, waiter: asyncio.Future[bool], keeps: bool = False) -> None:
        """End the wait of a task that was cancelled, has failed, or whose time is over.

        Another waiter is woken instead, here or in another process, unless this one `keeps` what it was woken for.
        """
        try:
            self.waiting[side].remove(waiter)
        except ValueError:
            self.woken[side] -= 1
        if keeps:
            self.listener.took(side)
            self.loop.call_soon(self.wake_if_worth, side)  # when it has taken it
        else:
            self.wake_if_worth(side)
        self.close_if_idle(side)

    def wake_if_worth(self, side: int, by_the_clock: bool = False) -> None:
        """Wake as many tasks as there is something for, and arm the bell for what comes. Never raises."""
        waiting = self.waiting[side]
        if not waiting or self.woken[side] or self.listener.handles.foreign or self.loop.is_closed():
            return  # a task that was woken calls this again; in a forked child, or under a loop that was closed, no task goes on
        self.back[side] = 0
        try:
            here = self.queue._worth(side)
            if here < len(waiting):  # otherwise nobody need be told
                self.listener.arm(side)
                here = self.queue._worth(side)
        except ShmqError:  # closed: the tasks find out
            here = len(waiting)
        if here and self.in_vain > IN_VAIN and not by_the_clock:
            self.look_again_in(min(SOONEST * 2.0 ** (self.in_vain - IN_VAIN - 1), SLICE))
        else:
            self.wake(side, here)

    def wake(self, side: int, count: int) -> None:
        waiting = self.waiting[side]
        while waiting and count:
            waiter = waiting.popleft()
            self.woken[side] += 1
            if waiter.done():  # cancelled, and yet to withdraw
                continue
            waiter.set_result(True)
            count -= 1

    def rung(self) -> None:
        """Called by the loop when the bell was rung."""
        self.listener.clear()
        self.in_vain = 0
        for side in (ITEMS, SPACE, DONE):
            self.wake_if_worth(side)

    def watch(self) -> None:
        """Called by the clock: look for what no bell is rung for."""
        if self.queue._loop_waiters.get(self.loop) is not self:
            return
        try:
            soon = self.queue._watch()
            self.listen_again()
        except SegmentNotFound as error:  # nobody is left who would wake them
            for waiter in [waiter for side in self.waiting for waiter in side if not waiter.done()]:
                waiter.set_exception(error)
            soon = SLICE
        except ShmqError:  # closed: the tasks find out
            soon = SLICE
        for side in (ITEMS, SPACE, DONE):
            self.wake_if_worth(side, by_the_clock=True)
        self.pause = min(2 * self.pause, SLICE)
        self.timer.cancel()
        self.timer = self.loop.call_later(max(min(self.pause, soon), SOONEST), self.watch)

    def listen_again(self) -> None:
        """Make the bell again where it was removed."""
        if self.listener.bell_is_gone():
            self.unregister_bell()
            with contextlib.suppress(OSError):  # then the clock must do, and tries again
                self.listener.listen_on()
                self.loop.add_reader(self.listener.descriptor, self.rung)

    def unregister_bell(self) -> None:
        descriptor = self.listener.descriptor
        if descriptor >= 0 and (self.listener.handle._owns_bell() or not is_watched_by_others(self.loop, descriptor, self.rung)):
            self.loop.remove_reader(descriptor)
        self.listener.descriptor = -1

    def look_again_in(self, pause: float) -> None:
        try:
            soon = max(min(pause, self.queue._watch()), SOONEST)
        except ShmqError:
            soon = 0.0
        self.pause = min(self.pause, pause)
        if self.timer.when() > self.loop.time() + soon:
            self.timer.cancel()
            self.timer = self.loop.call_later(soon, self.watch)

    def close_if_idle(self, side: int) -> None:
        """Called when a task has ceased to wait at this side. After the last one, what is rung there is rung for others."""
        if self.listener.handles.foreign:
            return  # the bell is the parent's, and so is what its loop listens to
        if not self.waiting[side] and not self.woken[side]:
            self.listener.disarm(side)
        if any(self.waiting) or any(self.woken):
            return
        if self.loop.is_closed():
            self.close_if_still_idle()
        elif not self.closing:  # a task that takes one message after the other waits again before this is called
            self.closing = True
            self.loop.call_soon(self.close_if_still_idle)

    def close_if_still_idle(self) -> None:
        self.closing = False
        if any(self.waiting) or any(self.woken) or self.queue._loop_waiters.get(self.loop) is not self:
            return
        del self.queue._loop_waiters[self.loop]
        self.close()

    def close(self) -> None:
        if not self.loop.is_closed():
            self.unregister_bell()
            self.timer.cancel()
        self.listener.close()


def is_watched_by_others(loop: asyncio.AbstractEventLoop, descriptor: int, callback: Callable[[], None]) -> bool:
    """Has the program given the loop a reader of its own for a number that was our bell's? Only asyncio's own loops tell."""
    try:
        # The loops of asyncio have one; another raises AttributeError.
        reader = loop._selector.get_key(descriptor).data[0]  # type: ignore[attr-defined]
    except (AttributeError, KeyError, LookupError, TypeError):
        return False
    return reader is None or reader._callback != callback


def waiters_of(queue: WaitableInLoop) -> LoopWaiters:
    """The waiters of the running loop at this queue."""
    loop = asyncio.get_running_loop()
    waiters = queue._loop_waiters.get(loop)
    if waiters is None:
        for other in list(queue._loop_waiters):  # which other threads may change
            if other.is_closed() and (left := queue._loop_waiters.pop(other, None)):
                left.close()  # the loop was closed under tasks that waited
        waiters = queue._loop_waiters[loop] = LoopWaiters(queue, loop)
    return waiters
