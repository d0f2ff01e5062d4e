"""cloudtoid-interprocess: bytes in a shared ring; sending only tries, receiving can wait."""

from __future__ import annotations

from collections.abc import Iterable
from os import sched_yield

from cloudtoid_interprocess import Publisher, Subscriber

from peers.base import Channel, Peer, Receiver, Sender, Shape, until_accepted

_HEADER_BYTES = 8


class CloudtoidSender(Sender):
    def __init__(self, label: str, nbytes: int) -> None:
        self.publisher = Publisher(label, nbytes)
        self.put = until_accepted(self.publisher.try_send)
        self.close = self.publisher.close

    def produce(self, messages: Iterable[bytes]) -> None:
        try_send = self.publisher.try_send
        for message in messages:
            while not try_send(message):
                sched_yield()

    def produce_batches(self, batches: Iterable[list[bytes]]) -> None:
        try_send_batch = self.publisher.try_send_batch
        for batch in batches:
            sent = try_send_batch(batch)
            while sent < len(batch):
                sched_yield()
                sent += try_send_batch(batch[sent:])


class CloudtoidReceiver(Receiver):
    def __init__(self, label: str, nbytes: int) -> None:
        self.subscriber = Subscriber(label, nbytes)
        self.get = self.subscriber.receive
        self.close = self.subscriber.close

    def consume_batches(self, count: int) -> int:
        return self.consume(count)


class CloudtoidChannel(Channel):
    """Lives as long as an end is open: the parent keeps one."""

    def __init__(self, label: str, nbytes: int) -> None:
        self.arguments = (label, nbytes)
        self.keeper = Subscriber(label, nbytes)

    def __reduce__(self) -> tuple[object, ...]:
        return _named, self.arguments

    def sender(self) -> CloudtoidSender:
        return CloudtoidSender(*self.arguments)

    def receiver(self) -> CloudtoidReceiver:
        return CloudtoidReceiver(*self.arguments)

    def close(self) -> None:
        self.keeper.close()


def _named(label: str, nbytes: int) -> CloudtoidChannel:
    channel = CloudtoidChannel.__new__(CloudtoidChannel)
    channel.arguments = (label, nbytes)
    return channel


class Cloudtoid(Peer):
    distribution = "cloudtoid-interprocess"
    features = frozenset({"mapped", "many", "batch", "frames", "sleeps", "solo"})

    def channel(self, label: str, shape: Shape) -> CloudtoidChannel:
        return CloudtoidChannel(label, shape.slots * (shape.slot_size + _HEADER_BYTES))
