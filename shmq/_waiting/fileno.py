"""A queue as a descriptor: what `Queue.fileno()` gives to select, selectors, and the event loops of others (Qt, GTK).

The descriptor is a bell (shmq/_native/bell.h) of a handle that nobody else listens by. It is readable from a message's arrival
until a get of the queue finds nothing. Then it is cleared and armed again, and rung at once where something has come meanwhile.
So it says "readable" once too often for a burst of messages, and never once too rarely.

No bell is rung for deaths, leases that are over, and messages that rest; and a ring may be lost with the process that rang. A
process that sleeps in select has no clock for that. One thread of the process looks instead, as often as a sleeper does.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from shmq._errors import ShmqError
from shmq._waiting import bell
from shmq._waiting.bell import ITEMS

if TYPE_CHECKING:
    from shmq._waiting.handles import Waitable

__all__ = ["Readable"]


class Readable:
    """The descriptor of one queue in this process, until it is closed. **Raises** Closed, TooManyPorts, OSError."""

    def __init__(self, queue: Waitable) -> None:
        self.pid = os.getpid()
        self.handle = queue._inspect(queue.segment)
        try:
            self.descriptor = self.handle._bell()
            self.found_nothing()
        except BaseException:
            self.handle.close()
            raise
        watch(self)

    @property
    def foreign(self) -> bool:
        """Is this a forked child? Then the descriptor is the parent's, which would not hear what the child clears."""
        return self.pid != os.getpid()

    def found_nothing(self) -> None:
        """A get has found the queue empty: be silent until there is something. Never raises ShmqError."""
        if not self.foreign:
            with contextlib.suppress(ShmqError):  # closed by another thread
                self.handle._clear_bell()
                self.handle._arm(ITEMS)
                self.ring_if_worth()

    def ring_if_worth(self) -> None:
        if self.handle._worth(ITEMS) and not bell.readable([self.descriptor], 0):
            with contextlib.suppress(BlockingIOError):
                os.write(self.descriptor, b"\0")

    def look(self) -> float:
        """Look for what no bell is rung for; return the seconds until something of that kind is due. **Raises** Closed."""
        soon = self.handle._watch()
        self.ring_if_worth()
        return soon

    def close(self) -> None:
        """Listen no longer. A ring that was not heard, or not answered, is passed on to another waiter."""
        if not self.foreign and not self.handle.closed:
            if not self.handle._disarm(ITEMS):
                self.handle._pass_on(ITEMS)
            self.handle.close()


class Clock:
    """The thread that looks for processes in select, which have no clock. It holds no lock, and keeps no handle alive."""

    def __init__(self) -> None:
        self.new: SimpleQueue[weakref.ref[Readable]] = SimpleQueue()
        self.pid = os.getpid()
        threading.Thread(target=self.run, name="shmq-fileno", daemon=True).start()

    def run(self) -> None:
        watched: list[weakref.ref[Readable]] = []
        pause: float | None = None
        while True:
            with contextlib.suppress(Empty):
                watched.append(self.new.get(timeout=pause))
            looks = [(reference, self.look_for(reference)) for reference in watched]
            watched = [reference for reference, soon in looks if soon is not None]
            pause = min([bell.SLICE, *(soon for _, soon in looks if soon is not None)]) if watched else None

    @staticmethod
    def look_for(reference: weakref.ref[Readable]) -> float | None:
        """Look at one; return the seconds until the next look, or None where it is gone."""
        readable = reference()
        if readable is None:
            return None
        try:
            return max(readable.look(), SOONEST)
        except ShmqError:
            return None


SOONEST = 0.001  # seconds
_clock: Clock | None = None


def watch(readable: Readable) -> None:
    global _clock
    if _clock is None or _clock.pid != os.getpid():  # a forked child has no threads
        _clock = Clock()
    _clock.new.put(weakref.ref(readable))
