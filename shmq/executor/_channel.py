"""Channel: one line of messages of any size, made of two queues.

Small messages go into small slots. A large one goes into a slot of the second queue, which its owner makes when the first one
comes, and a *ticket* into the first: an empty message that says no more than "there is a large one". So everybody waits on one
queue, and who never sends arrays reserves no memory for them. What finds no large slots, or is larger than they are, is spilled.

A ticket names no message. Whoever takes one takes large messages until there is none, and only then acks it; and a ticket is
never begun with, so that no number of deaths wears it out. So there is always a ticket for each large message that waits, or
somebody who holds one and will look again. A message without a ticket, whose sender died between the two, goes with the next.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from shmq._core import Lease
from shmq._errors import Empty, Full, InFlightLimit, OutOfMemory, SegmentExists, SegmentMismatch, SegmentNotFound
from shmq._queue import Queue, _config
from shmq.executor._tasks import SMALL, Message

__all__ = ["SHARED", "Channel"]

TICKET = b""
SLOTS = 1024
LARGE_BYTES = 32 << 20  # at most so much memory for the large slots of a channel, if that is two slots or more
REAPER_PATIENCE = 5.0
MOST_DELIVERIES = 3
LARGE_SLOT = 1 << 20
# What a program says of a pool with a name that it does not make itself, or makes as it is usual.
SHARED = {"private": False, "slot_size": None, "large_slots": 16, "ports": 256, "max_deliveries": None}


class Channel:
    """One end, for taking or for putting. Threads take turns by themselves.

    `private`: nobody finds it by name but those who were told, and it is swept away like an anonymous queue. `attach`: only
    where it is already; raises SegmentNotFound where it is not.
    """

    def __init__(
        self,
        name: str,
        *,
        private: bool,
        slot_size: int | None,
        large_slots: int,
        ports: int,
        max_deliveries: int | None,
        attach: bool = False,
    ) -> None:
        self.private = private
        self.slot_size = slot_size or LARGE_SLOT
        self.large_slots = max(2, min(large_slots, LARGE_BYTES // self.slot_size))
        self.ports = ports
        self.max_deliveries = max_deliveries
        if attach:
            self.small = Queue.attach(name)
        else:
            self.small = self._open(name, slots=SLOTS, slot_size=SMALL, in_flight=256, oversize="spill")
        self.large: Queue | None = None
        self._guest = attach
        self.owed = 0  # tickets for which there was no room
        self._ticket: Lease | None = None
        self._took = 0  # large messages on this ticket
        self._no_large = False

    def _open(self, name: str, **shape: Any) -> Queue:
        """The queue of this name, made where there is none. Raises SegmentMismatch where another max_deliveries was asked for."""
        deliveries = MOST_DELIVERIES if self.max_deliveries is None else self.max_deliveries
        config = _config(**shape, ports=self.ports, max_deliveries=deliveries, lifetime="handles")
        while True:
            with contextlib.suppress(SegmentNotFound):
                found = Queue.attach(name)
                there = found.segment.config.max_deliveries
                if self.max_deliveries not in (None, there):
                    found.close()
                    raise SegmentMismatch(f"pool {name!r} exists with max_deliveries={there}, asked for {self.max_deliveries}")
                return found
            with contextlib.suppress(SegmentExists):
                return Queue._make(name, config, anonymous=self.private)

    @property
    def large_name(self) -> str:
        return f"{self.small.name}.large"

    # -- putting -----------------------------------------------------------------------------------------------------------

    def put(self, message: Message, timeout: float | None = None) -> None:
        """Put a message. **Waits** for room up to `timeout` seconds (0: tries once). **Raises** Full, OutOfMemory."""
        if isinstance(message, bytes):
            self.small.put(message, timeout != 0, timeout)
            return
        nbytes = sum(map(len, message))
        large = self._large(nbytes) if nbytes > SMALL else None
        if large is None:
            self.small.put(b"".join(message), timeout != 0, timeout)
            return
        if timeout == 0 and large.full():
            raise Full(f"the large slots of {self.small.name!r} are full")
        try:
            loan = large.loan(nbytes)
        except InFlightLimit:  # somebody keeps views of them all
            self.small.put(b"".join(message), timeout != 0, timeout)
            return
        try:
            view = loan.view
            at = 0
            for piece in message:
                view[at : at + len(piece)] = piece
                at += len(piece)
            view.release()
            loan.publish(timeout=timeout)
        finally:
            loan.abandon()
        self.owed += 1
        self.settle()

    def settle(self) -> None:
        """Put the tickets for which there was no room."""
        while self.owed:
            try:
                self.small.put(TICKET, False)
            except Full:
                return
            self.owed -= 1

    def _large(self, nbytes: int) -> Queue | None:
        """The queue of large slots; None where there is none, or its slots are too small."""
        if self.large is None and nbytes <= self.slot_size:
            if self._guest:  # what a guest makes would go with it, and its message too
                self.attached_large()
            else:
                self.make_large()
        return None if self.large is None or nbytes > self.large.slot_size else self.large

    def make_large(self) -> None:
        """Have large slots from now on, if there is room for them."""
        if self.large is None and not self._no_large:
            cells = min(2 * self.large_slots, 64)
            try:
                self.large = self._open(self.large_name, slots=self.large_slots, slot_size=self.slot_size, in_flight=cells)
            except OutOfMemory:
                self._no_large = True

    # -- taking ------------------------------------------------------------------------------------------------------------

    def receive(self, timeout: float | None) -> Lease:
        """The next message, not begun with. **Waits** for one; **raises** Empty, and keeps a ticket until then if it has one."""
        while True:
            if self._ticket is not None:
                lease = self._receive_large()
                if lease is not None:
                    return lease
                ticket, self._ticket = self._ticket, None
                ticket.ack()
            lease = self.small.receive_many(1, timeout)[0]
            if lease.nbytes:
                return lease
            self._ticket, self._took = lease, 0

    def _receive_large(self) -> Lease | None:
        """A large message; None where there is none for this ticket, for certain."""
        large = self.attached_large()
        if large is None:
            return None
        deadline = time.monotonic() + REAPER_PATIENCE
        certain = self._took > 0  # there was one for this ticket: those of others have their own
        while True:
            with contextlib.suppress(Empty):
                lease = large.receive_many(1, 0)[0]
                self._took += 1
                return lease
            if certain or time.monotonic() > deadline:
                return None
            # The ticket may be a dead man's, and what he held not yet be taken back, or be taken back by another this very
            # moment. So this is certain before the last look, not after it.
            certain = not large._reap() and not dead_ports(large)

    def attached_large(self) -> Queue | None:
        """The queue of large slots, if there is one."""
        if self.large is None:
            with contextlib.suppress(SegmentNotFound):
                self.large = Queue.attach(self.large_name)
        return self.large

    # -- operating ---------------------------------------------------------------------------------------------------------

    @property
    def queues(self) -> list[Queue]:
        large = self.attached_large()
        return [self.small] if large is None else [self.small, large]

    def close(self) -> None:
        """Close both queues; a ticket goes back."""
        self._ticket = None
        self.small.close()
        if self.large is not None:
            self.large.close()


def dead_ports(queue: Queue) -> bool:
    """Is there a port whose process is dead, and somebody else at taking back what it held?"""
    return not all(alive for _, _, _, alive, _ in queue._ports())
