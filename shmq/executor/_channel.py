"""Channel: one line of messages of any size, made of two queues.

A small message goes into a slot of the first queue. A large message goes into a slot of the second queue, and a *ticket* into the
first: an empty message that says "there is a large one". So a consumer waits on one queue. The owner of the channel makes the
second queue when the first large message comes, so a program that sends no arrays reserves no memory for them. A message that
finds no large slot, or is larger than the slots are, is spilled.

Putting never waits, and taking never depends on what producers hold. A producer holds a cell of the large queue while it copies,
and spills the message where there is no slot or no cell for it. Loans and leases leave two cells of that queue alone; `get_large`
uses those, so that a client can always take outcomes. A worker needs a cell for a large task as long as the task runs, so a
client spills the tasks for which there are no cells.

A ticket names no message. A consumer that takes a ticket takes large messages until there is none, and only then acks the ticket.
A ticket is never begun with, so that no number of deaths makes it a dead letter. So for each large message that waits there is a
ticket, or a consumer that holds one and will look again. Where a producer dies after it has put a message and before its ticket,
the message is taken with the next one's ticket.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, Literal

from shmq._core import Lease
from shmq._errors import Empty, Full, InFlightLimit, OutOfMemory, SegmentExists, SegmentMismatch, SegmentNotFound
from shmq._queue import Queue
from shmq._segment import lifecycle
from shmq._segment.queue import QueueConfig
from shmq.executor._tasks import SMALL, Message

__all__ = ["LARGE", "MOST_WORKERS", "SLOTS", "Channel", "shape_of"]

Crowded = Literal["waits", "spills", "goes beside"]
TICKET = b""
LARGE = ".large"  # what the name of the second queue adds to that of the first one
SLOTS = 1024
LEAST_PORTS = 64
MOST_PORTS = 1000  # of 1,022 that a segment can have
GUESTS = 32  # handles at a queue of a pool that are not those of its workers
MOST_WORKERS = MOST_PORTS - 2 * GUESTS
CELL_PAUSE = 0.002  # seconds between two looks whether a cell has become free
LARGE_BYTES = 32 << 20  # at most so much memory for the large slots of a channel, if that is two slots or more
REAPER_PATIENCE = 5.0
MOST_DELIVERIES = 3
LARGE_SLOT = 1 << 20
# The shape of a pool with a name, where the program says nothing of it.
SHARED = {"private": False, "slot_size": None, "large_slots": 16, "ports": 256, "max_deliveries": None}


def shape_of(workers: int, private: bool) -> dict[str, Any]:
    """How the channels of a pool are made for so many workers. A pool with a name may have workers of other programs, too."""
    if private:
        return SHARED | {"private": True, "large_slots": max(4, 4 * workers), "ports": ports_for(workers, LEAST_PORTS)}
    return SHARED | {"ports": ports_for(workers, 256)}


def ports_for(workers: int, least: int) -> int:
    return min(max(least, workers + GUESTS), MOST_PORTS)


class Channel:
    """One end of a channel, for taking or for putting. Threads may share it.

    `private`: the name is told only to the pool's own processes, and the queues are removed like anonymous ones. `attach`: the
    channel is another process's, and SegmentNotFound is raised where it does not exist.
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
        slots: int = SLOTS,
    ) -> None:
        self.private = private
        self.slot_size = slot_size or LARGE_SLOT
        self.large_slots = max(2, min(large_slots, LARGE_BYTES // self.slot_size))
        self.ports = ports
        self.max_deliveries = max_deliveries
        if attach:
            self.small = Queue.attach(name)
        else:
            # Each handle leases one message at a time: a task, or a ticket.
            self.small = self._open(name, slots=slots, slot_size=SMALL, in_flight=max(256, ports), oversize="spill")
        self.large: Queue | None = None
        self._guest = attach
        self.owed = 0  # tickets for which there was no room
        self._ticket: Lease | None = None
        self._took = 0  # large messages on this ticket
        self._no_large = False

    def _open(self, name: str, **shape: Any) -> Queue:
        """Open or make the queue of this name. **Raises** SegmentMismatch where it has another max_deliveries."""
        deliveries = MOST_DELIVERIES if self.max_deliveries is None else self.max_deliveries
        config = QueueConfig.asked({**shape, "ports": self.ports, "max_deliveries": deliveries, "lifetime": "handles"})
        while True:
            with contextlib.suppress(SegmentNotFound):
                found = Queue.attach(name)
                there = found.segment.config.max_deliveries
                if self.max_deliveries not in (None, there):
                    found.close()
                    raise SegmentMismatch(
                        f"pool {name!r} exists with max_deliveries={there}, asked for {self.max_deliveries}: leave it out to "
                        "take what the pool has, or choose another name"
                    )
                return found
            with contextlib.suppress(SegmentExists):
                return Queue._make(name, config, anonymous=self.private)

    @property
    def large_name(self) -> str:
        return self.small.name + LARGE

    # -- putting -----------------------------------------------------------------------------------------------------------

    def put(self, message: Message, crowded: Crowded = "waits") -> bool:
        """Put a message without waiting; return whether it lies in a large slot. **Raises** Full, OutOfMemory, OSError.

        `crowded`: what becomes of a large message. "waits": Full is raised where the large slots have no room for it. "spills":
        it is spilled where they have none. "goes beside": it is spilled even where they have room. A message that is larger than
        a slot is always spilled.
        """
        if isinstance(message, bytes):
            self.small.put(message, False)
            return False
        nbytes = sum(map(len, message))
        large = self._large(nbytes) if nbytes > SMALL and crowded != "goes beside" else None
        if large is not None:
            if not large.full():
                if self._lay(large, message, nbytes):
                    self.owed += 1
                    self.put_owed()
                    return True
            elif crowded == "waits":
                raise Full(f"the large slots of {self.small.name!r} are full")
        self.small.put(b"".join(message), False)
        return False

    def _lay(self, large: Queue, message: list[Any], nbytes: int) -> bool:
        """Put a message into a large slot. False where no slot is free, or no cell, since views of others hold them all."""
        try:
            loan = large.loan(nbytes)
        except InFlightLimit:
            return False
        try:
            view = loan.view
            at = 0
            for piece in message:
                view[at : at + len(piece)] = piece
                at += len(piece)
            view.release()
            loan.publish(timeout=0)
        except Full:  # another producer took the last slot meanwhile
            return False
        finally:
            loan.abandon()
        return True

    @property
    def large_limit(self) -> int:
        """How many large messages can be under way at once, so that each consumer has a cell for the one that it takes."""
        return 0 if self.large is None else self.large.segment.config.in_flight - 1  # one is for a loan

    def put_owed(self) -> None:
        """Put the tickets for which there was no room."""
        while self.owed:
            try:
                self.small.put(TICKET, False)
            except Full:
                return
            self.owed -= 1

    def _large(self, nbytes: int) -> Queue | None:
        """The queue of large slots, for a message of that size; None where there is none, or its slots are smaller."""
        if self.large is None and nbytes <= self.slot_size:
            if self._guest:  # a queue that a guest made would be removed with the guest, and the message in it
                self.attached_large()
            else:
                self.make_large()
        return None if self.large is None or nbytes > self.large.slot_size else self.large

    def make_large(self) -> None:
        """Make the queue of large slots, if /dev/shm has room for it."""
        if self.large is None and not self._no_large:
            cells = min(2 * self.large_slots, 64)
            try:
                self.large = self._open(self.large_name, slots=self.large_slots, slot_size=self.slot_size, in_flight=cells)
            except OutOfMemory:
                self._no_large = True

    # -- taking ------------------------------------------------------------------------------------------------------------

    def receive(self, timeout: float) -> Lease:
        """Lease the next message, not begun with. **Waits** for one, and for a cell where others hold them all; **raises** Empty.

        A ticket that this consumer has taken is kept between the calls.
        """
        deadline = None
        while True:
            try:
                return self._receive(timeout)
            except InFlightLimit:
                now = time.monotonic()
                deadline = now + timeout if deadline is None else deadline
                if now >= deadline:
                    raise Empty(
                        f"there are messages in {self.small.name!r}, but other consumers hold all in-flight cells"
                    ) from None
            time.sleep(CELL_PAUSE)
            timeout = max(deadline - time.monotonic(), 0)

    def _receive(self, timeout: float) -> Lease:
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
        """Lease a large message; None where it is certain that there is none for this ticket."""
        large = self.attached_large()
        if large is None:
            return None
        deadline = time.monotonic() + REAPER_PATIENCE
        certain = self._took > 0  # one was taken for this ticket, and each other message has a ticket of its own
        while True:
            with contextlib.suppress(Empty):
                lease = large.receive_many(1, 0)[0]
                self._took += 1
                return lease
            if certain or time.monotonic() > deadline:
                return None
            # The ticket may be that of a dead consumer, whose message was not yet taken back, or is just being taken back by
            # another reaper. So this must be certain before the last look, not after it.
            certain = not large._reap() and not dead_ports(large)

    def get_large(self) -> bytes:
        """Take a copy of the next large message, by a cell that loans and leases leave alone. **Raises** Empty."""
        large = self.attached_large()
        if large is None:
            raise Empty
        message: bytes = large.get(False)
        return message

    def attached_large(self) -> Queue | None:
        """The queue of large slots, if it exists. **Raises** NoSharedMemory where this process has another /dev/shm."""
        if self.large is None:
            with contextlib.suppress(SegmentNotFound):
                if self.small.segment.is_out_of_sight():
                    raise self.small.segment.out_of_sight()
                if not self._guest:
                    self.large = Queue.attach(self.large_name)
                elif segment := lifecycle.find(
                    self.large_name
                ):  # not under its name's lock: the process that makes it may be stopped
                    self.large = Queue._inspect(segment)
        return self.large

    # -- operating ---------------------------------------------------------------------------------------------------------

    @property
    def queues(self) -> list[Queue]:
        large = self.attached_large()
        return [self.small] if large is None else [self.small, large]

    def close(self) -> None:
        """Close both queues. A ticket goes back to the other consumers."""
        self._ticket = None
        self.small.close()
        if self.large is not None:
            self.large.close()


def dead_ports(queue: Queue) -> bool:
    """Is there a port of a dead process, whose messages another reaper is just taking back?"""
    return not all(port.alive for port in queue._ports())
