"""membridge: one producer to one consumer in a ring of bytes; both sides poll."""

from __future__ import annotations

from collections.abc import Iterable
from os import sched_yield

import membridge

from peers.base import Channel, Peer, Receiver, Sender, Shape, until_accepted, until_given

_HEADER_BYTES = 24
_LENGTH_BYTES = 4


class MembridgeSender(Sender):
    def __init__(self, memory: membridge.SharedMemory) -> None:
        self.memory = memory
        self.push = memory.spsc().push
        self.put = until_accepted(self.push)

    def frame(self, source: bytearray) -> bytearray:
        return source

    def produce(self, messages: Iterable[bytes]) -> None:
        push = self.push
        for message in messages:
            while not push(message):
                sched_yield()


class MembridgeReceiver(Receiver):
    def __init__(self, memory: membridge.SharedMemory) -> None:
        self.memory = memory
        self.pop = memory.spsc().pop
        self.get = until_given(self.pop)

    def consume(self, count: int) -> int:
        pop = self.pop
        total = 0
        for _ in range(count):
            while (message := pop()) is None:
                sched_yield()
            total += message[0]
        return total


class MembridgeChannel(Channel):
    def __init__(self, label: str, shape: Shape) -> None:
        self.name = f"/{label}"
        wanted = shape.slots * (shape.slot_size + _LENGTH_BYTES)
        self.memory = membridge.SharedMemory.create(self.name, (1 << (wanted - 1).bit_length()) + _HEADER_BYTES)
        self.ring = self.memory.spsc()

    def __reduce__(self) -> tuple[object, ...]:
        return _named, (self.name,)

    def sender(self) -> MembridgeSender:
        return MembridgeSender(membridge.SharedMemory.open(self.name))

    def receiver(self) -> MembridgeReceiver:
        return MembridgeReceiver(membridge.SharedMemory.open(self.name))

    def close(self) -> None:
        membridge.SharedMemory.remove(self.name)


def _named(name: str) -> MembridgeChannel:
    channel = MembridgeChannel.__new__(MembridgeChannel)
    channel.name = name
    return channel


class Membridge(Peer):
    distribution = "membridge"
    features = frozenset({"mapped", "frames", "solo"})

    def channel(self, label: str, shape: Shape) -> MembridgeChannel:
        return MembridgeChannel(label, shape)
