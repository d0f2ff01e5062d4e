"""kickmsg: publish-subscribe in shared memory, one publisher to one subscriber.

It overwrites what a subscriber has not read, so a lossless channel needs credits. The receiver counts in a shared word how
many messages it has taken, and the sender waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from os import sched_yield
from typing import Any

import kickmsg
from counter import Counter

from peers.base import Channel, Peer, Receiver, Sender, Shape

_FOREVER = 1e6


class KickmsgSender(Sender):
    def __init__(self, region: Any, taken: memoryview, slots: int) -> None:
        self.publisher = kickmsg.Publisher(region)
        self.taken = taken
        self.slots = slots
        self.sent = 0
        self.credit = slots

    def _wait_for_credit(self) -> None:
        while (credit := self.slots - (self.sent - self.taken[0])) <= 0:
            sched_yield()
        self.credit = credit

    def put(self, message: Any) -> None:
        if not self.credit:
            self._wait_for_credit()
        if isinstance(message, bytes):
            self.publisher.send(message)
        else:
            slot = self._slot()
            memoryview(slot)[: len(message)] = message
            slot.publish(len(message))
        self.credit -= 1
        self.sent += 1

    def _slot(self) -> Any:
        while (slot := self.publisher.allocate()) is None:
            sched_yield()
        return slot

    def produce_frames(self, numbers: Iterable[int], nbytes: int, write: Callable[[Any, int], None]) -> None:
        for number in numbers:
            if not self.credit:
                self._wait_for_credit()
            slot = self._slot()
            write(slot, number)
            slot.publish(nbytes)
            self.credit -= 1
            self.sent += 1


class KickmsgReceiver(Receiver):
    def __init__(self, region: Any, taken: memoryview, slots: int) -> None:
        self.subscriber = kickmsg.Subscriber(region)
        self.receive = partial(self.subscriber.receive, _FOREVER)
        self.taken = taken
        self.stride = max(1, slots // 8)
        self.count = 0

    def _count(self) -> None:
        self.count += 1
        if self.count % self.stride == 0:
            self.taken[0] = self.count

    def get(self) -> bytes:
        message = self.receive()
        self._count()
        return message

    def consume_frames(self, count: int, read: Callable[[Any], int]) -> int:
        receive_view = self.subscriber.receive_view
        total = 0
        for _ in range(count):
            view = receive_view(_FOREVER)
            total += read(view)
            view.release()
            self._count()
        return total


class KickmsgChannel(Channel):
    def __init__(self, label: str, shape: Shape) -> None:
        self.name = f"/{label}"
        self.slots = shape.slots
        config = kickmsg.Config()
        config.max_subscribers = 1
        config.sub_ring_capacity = 1 << (shape.slots - 1).bit_length()
        config.pool_size = shape.slots + 4
        config.max_payload_size = shape.slot_size
        self.region = kickmsg.SharedRegion.create(self.name, kickmsg.ChannelType.PubSub, config)
        self.taken = Counter()

    def __reduce__(self) -> tuple[object, ...]:
        return _named, (self.name, self.slots, self.taken)

    def sender(self) -> KickmsgSender:
        return KickmsgSender(kickmsg.SharedRegion.open(self.name), self.taken.word(), self.slots)

    def receiver(self) -> KickmsgReceiver:
        return KickmsgReceiver(kickmsg.SharedRegion.open(self.name), self.taken.word(), self.slots)

    def close(self) -> None:
        self.region.unlink()


def _named(name: str, slots: int, taken: Counter) -> KickmsgChannel:
    channel = KickmsgChannel.__new__(KickmsgChannel)
    channel.name, channel.slots, channel.taken = name, slots, taken
    return channel


class Kickmsg(Peer):
    distribution = "kickmsg"
    features = frozenset({"mapped", "frames", "loan", "sleeps", "solo"})

    def channel(self, label: str, shape: Shape) -> KickmsgChannel:
        return KickmsgChannel(label, shape)
