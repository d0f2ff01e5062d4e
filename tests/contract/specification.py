"""What a queue with leases is, in plain Python: the specification that test_specification.py holds shmq.Queue to.

Nothing waits here: each call is the one with a time-out of 0. Where the promise leaves a choice (how many a batch takes) the
model names the choices and is told which one was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shmq import Empty, Full, InFlightLimit


@dataclass(eq=False)
class Message:
    """One message and the attempts to deliver it that have failed."""

    content: Any
    failed: int = 0
    position: int = 0  # when it was put


class Model:
    """A queue of `slots` messages of which `in_flight` can be out at once."""

    def __init__(self, slots: int, in_flight: int) -> None:
        self.slots, self.in_flight = slots, in_flight
        self.ring: list[Message] = []  # waiting, oldest first
        self.returned: list[Message] = []  # came back: delivered before what is in the ring
        self.leased: list[Message] = []
        self.loaned = 0
        self.held = 0  # acked, but still being looked at
        self.puts = self.taken = self.gone = self.nacks = self.redeliveries = 0

    def put(self, message: Message) -> None:
        if len(self.ring) == self.slots:
            raise Full
        self.ring.append(message)
        self.puts += 1
        message.position = self.puts

    def put_many(self, messages: list[Message]) -> int:
        count = min(len(messages), self.slots - len(self.ring))
        if messages and not count:
            raise Full
        for message in messages[:count]:
            self.put(message)
        return count

    def next(self, *, lease: bool = False) -> Message:
        """The message that is delivered next: of what came back the one that was put first, then what is in the ring.

        A lease needs an in-flight cell, unless the message is in one already.
        """
        if self.returned:
            return min(self.returned, key=lambda message: message.position)
        if lease and self.in_use() == self.in_flight:
            raise InFlightLimit
        if not self.ring:
            raise Empty
        return self.ring[0]

    def batch(self, most: int) -> tuple[int, int]:
        """The least and the greatest number of messages that get_many(most) may return: one that came back comes alone."""
        if self.returned:
            return 1, 1
        there = min(most, len(self.next() and self.ring))
        most = max(self.in_flight // 2, 1)  # it leaves cells to others
        return min(there, max(min(self.in_flight - self.in_use(), most), 1)), min(there, most)

    def take(self, message: Message) -> None:
        self.redeliveries += message in self.returned
        (self.returned if message in self.returned else self.ring).remove(message)
        self.taken += 1

    def get(self, message: Message) -> None:
        self.take(message)
        self.gone += 1

    def receive(self, message: Message) -> None:
        self.take(message)
        self.leased.append(message)

    def ack(self, message: Message, *, looking: bool = False) -> None:
        self.leased.remove(message)
        self.gone += 1
        self.held += looking

    def give_back(self, message: Message, *, failed: bool) -> None:
        self.leased.remove(message)
        self.returned.append(message)
        message.failed += failed
        self.nacks += failed

    def loan(self) -> None:
        if self.in_use() == self.in_flight:
            raise InFlightLimit
        self.loaned += 1

    def publish(self, message: Message) -> None:
        self.put(message)
        self.loaned -= 1

    def in_use(self) -> int:
        """In-flight cells that are not free."""
        return len(self.leased) + len(self.returned) + self.loaned + self.held
