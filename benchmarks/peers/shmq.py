"""shmq itself, used as anybody would: bound methods in a plain loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import shmq
import shmq.mp
from peers.base import BATCH, Channel, Peer, Receiver, Sender, Shape, consume_lists
from peers.stdlib import QueueChannel


class ShmqSender(Sender):
    def __init__(self, queue: shmq.Queue) -> None:
        self.queue = queue
        self.put = queue.put
        self.close = queue.close

    def produce_batches(self, batches: Iterable[list[bytes]]) -> None:
        put_many = self.queue.put_many
        for batch in batches:
            sent = put_many(batch)
            while sent < len(batch):
                sent += put_many(batch[sent:])

    def produce_frames(self, numbers: Iterable[int], nbytes: int, write: Callable[[Any, int], None]) -> None:
        loan = self.queue.loan
        for number in numbers:
            with loan(nbytes) as frame:
                write(frame, number)


class ShmqReceiver(Receiver):
    def __init__(self, queue: shmq.Queue) -> None:
        self.queue = queue
        self.get = queue.get
        self.close = queue.close

    def consume_batches(self, count: int) -> int:
        return consume_lists(partial(self.queue.get_many, BATCH), count)

    def consume_frames(self, count: int, read: Callable[[Any], int]) -> int:
        receive = self.queue.receive
        total = 0
        for _ in range(count):
            with receive() as lease:
                total += read(lease.view)
        return total


class ShmqChannel(Channel):
    def __init__(self, label: str, shape: Shape) -> None:
        self.name = label
        self.queue = shmq.Queue.create(label, slots=shape.slots, slot_size=shape.slot_size, ports=shape.ports)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (self.name,)

    def sender(self) -> ShmqSender:
        return ShmqSender(shmq.Queue.attach(self.name))

    def receiver(self) -> ShmqReceiver:
        return ShmqReceiver(shmq.Queue.attach(self.name))

    def close(self) -> None:
        self.queue.close()
        shmq.unlink(self.name)


def _attached(name: str) -> ShmqChannel:
    channel = ShmqChannel.__new__(ShmqChannel)
    channel.name = name
    return channel


class ShmqMp(Peer):
    """The drop-in for multiprocessing.Queue, made and passed on as that is. Not in the list: it is compared by objects alone."""

    def channel(self, label: str, shape: Shape) -> Channel:
        return QueueChannel(shmq.mp.Queue())


class Shmq(Peer):
    distribution = "shmq"
    features = frozenset({"mapped", "many", "batch", "frames", "loan", "sleeps", "solo"})

    def channel(self, label: str, shape: Shape) -> ShmqChannel:
        return ShmqChannel(label, shape)
