"""Waiting for several things at once: queues, descriptors, the end of all work.

A waiter at one queue sleeps in the binding, on a semaphore. A waiter for more than that listens: a handle's bell
(shmq/_native/bell.h) is a descriptor, which poll(2) or an event loop waits for beside others. A bell has one listener; a second
one of the same handle listens through a handle of its own, so that neither hears what was meant for the other.

A ring may be lost with the process that rang, and nobody rings when a lease expires or a process dies. So a listener looks again
after a slice of time, as rarely as a sleeper does.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from shmq import _core
from shmq._errors import Empty

if TYPE_CHECKING:
    from shmq._waiting.handles import Waitable

__all__ = ["DONE", "ITEMS", "SLICE", "SPACE", "Listener", "wait_any", "wait_done", "wait_many"]

Q = TypeVar("Q", bound="Waitable")

ITEMS, SPACE, DONE = _core.ITEMS, _core.SPACE, _core.DONE  # sides
SLICE = _core.SLICE  # seconds


class Listener:
    """One listener at one queue, until it is closed. **Raises** Closed, TooManyPorts, OSError where there can be no bell."""

    def __init__(self, queue: Waitable) -> None:
        self.queue = queue
        self.handles = queue._listening_handles
        self.handle = self.handles.take(queue)
        self.armed: set[int] = set()
        self.told = [0, 0, 0]  # by side: how often it was rung for something that nobody has taken
        try:
            self.descriptor = self.handle._bell()
        except BaseException:
            self.handles.free(queue, self.handle)
            raise

    def listen_on(self) -> None:
        """Make another bell where this one was removed, or the program has closed its descriptor. **Raises** OSError, Closed."""
        self.descriptor = self.handle._bell()

    def arm(self, side: int) -> None:
        """Have the bell rung once when this side is worth a look. The caller looks again before it waits."""
        if not self.handle._arm(side) and side in self.armed:
            self.told[side] += 1
        self.armed.add(side)

    def took(self, side: int) -> None:
        """Something was taken for which the bell was rung."""
        self.told[side] = max(self.told[side] - 1, 0)

    def disarm(self, side: int) -> None:
        """Have the bell rung no more for this side. A ring for something that was not taken is passed on to another waiter."""
        if side in self.armed:
            self.armed.remove(side)
            if not self.handle._disarm(side):
                self.told[side] += 1
        told, self.told[side] = self.told[side], 0
        for _ in range(told):
            (self.handle if self.queue.closed else self.queue)._pass_on(side)  # the queue knows better what is there

    def bell_is_gone(self) -> bool:
        """Has somebody removed the bell, so that nobody can ring it?"""
        return not self.handle._has_bell()

    def clear(self) -> None:
        """Empty the bell, which was rung and heard."""
        self.handle._clear_bell()

    def close(self) -> None:
        """Listen no longer."""
        for side in (ITEMS, SPACE, DONE):
            self.disarm(side)
        self.handle._clear_bell()
        self.handles.free(self.queue, self.handle)


def wait_many(queues: Sequence[Q], timeout: float | None = None, descriptors: Iterable[int] = ()) -> tuple[list[Q], list[int]]:
    """Wait until one of the queues has something (a message, or a shutdown), or one of the descriptors is readable.

    Returns those that have, and those that are; nothing where the time is over. Nothing is taken: another consumer may be
    quicker. **Waits** up to `timeout` seconds (None: for ever; 0: only looks), asleep but for some microseconds at the first
    queue. **Raises** Closed.
    """
    timeout = _core.seconds_of(timeout)
    others = list(descriptors)
    deadline = None if timeout is None else time.monotonic() + timeout
    ready = [queue for queue in queues if queue._ready()]
    if not ready and queues and (timeout is None or timeout > 0) and queues[0]._spin(ITEMS):
        ready = [queue for queue in queues if queue._ready()]
    if ready or (timeout is not None and timeout <= 0):
        return ready, readable(others, 0)
    listeners: list[Listener] = []
    ready = []
    try:
        for queue in queues:
            listeners.append(Listener(queue))
        while True:
            for listener in listeners:
                listener.listen_on()
                listener.clear()
                listener.arm(ITEMS)
            pause = min([SLICE, *(queue._watch() for queue in queues)])  # before the look: what falls due between them is seen
            ready = [queue for queue in queues if queue._ready()]
            left = None if deadline is None else deadline - time.monotonic()
            if ready or (left is not None and left <= 0):
                return ready, readable(others, 0)
            found = readable(
                [*others, *(listener.descriptor for listener in listeners)], pause if left is None else min(pause, left)
            )
            if heard := [descriptor for descriptor in others if descriptor in found]:
                ready = [queue for queue in queues if queue._ready()]
                return ready, heard
    finally:
        for listener in listeners:
            if listener.queue in ready[:1]:
                listener.took(ITEMS)  # from the first one something will be taken; from the others, nobody knows
            listener.close()


def readable(descriptors: Sequence[int], seconds: float) -> list[int]:
    """Which of the descriptors are readable, or at their end, within so many seconds."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(max(seconds * 1000, 0))] if descriptors or seconds > 0 else []


def wait_any(queues: Iterable[Q], timeout: float | None = None) -> Q:
    """Wait until one of several queues has a message, and return that queue: the first in the order given.

    Nothing is taken: where others consume from the same queue, they may be quicker, so take with `get_nowait` or `receive(0)` and
    be ready for Empty. **Waits** up to `timeout` seconds (None: for ever; 0: only looks). **Raises** Empty on time-out; Closed;
    ValueError without queues. A queue that was shut down counts as one that has something: get says what.
    """
    several = list(queues)
    if not several:
        raise ValueError("wait_any() of no queue would wait for ever")
    ready, _ = wait_many(several, timeout)
    if not ready:
        raise Empty(f"none of {len(several)} queues has a message{f' after {timeout} s' if timeout else ''}")
    return ready[0]


def wait_done(queue: Waitable, timeout: float | None = None) -> bool:
    """Wait until no message of the queue is unfinished; True, or False on time-out. **Raises** Closed."""
    timeout = _core.seconds_of(timeout)
    deadline = None if timeout is None else time.monotonic() + timeout
    if queue._unfinished() == 0:
        return True
    listener = Listener(queue)
    try:
        while True:
            listener.listen_on()
            listener.clear()
            listener.arm(DONE)
            if queue._unfinished() == 0:
                return True
            left = SLICE if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            readable([listener.descriptor], min(SLICE, queue._watch(), left))
    finally:
        listener.close()
