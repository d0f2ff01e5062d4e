"""faster-fifo: a circular buffer of bytes under one process-shared mutex; put and get pickle."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from faster_fifo import Queue

from peers.base import BATCH, Channel, Peer, Receiver, Sender, Shape, consume_lists

_PICKLE_BYTES = 64  # per message, beside the payload
_FOREVER = float(1 << 20)  # its default is to raise Full or Empty after ten seconds


class FasterFifoSender(Sender):
    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.put = partial(queue.put, block=True, timeout=_FOREVER)

    def produce_batches(self, batches: Iterable[list[bytes]]) -> None:
        put_many = partial(self.queue.put_many, block=True, timeout=_FOREVER)
        for batch in batches:
            put_many(batch)


class FasterFifoReceiver(Receiver):
    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.get = partial(queue.get, block=True, timeout=_FOREVER)

    def consume_batches(self, count: int) -> int:
        return consume_lists(partial(self.queue.get_many, timeout=_FOREVER, max_messages_to_get=BATCH), count)


class FasterFifoChannel(Channel):
    def __init__(self, nbytes: int) -> None:
        self.queue = Queue(nbytes)

    def sender(self) -> FasterFifoSender:
        return FasterFifoSender(self.queue)

    def receiver(self) -> FasterFifoReceiver:
        return FasterFifoReceiver(self.queue)


class FasterFifo(Peer):
    distribution = "faster-fifo"
    features = frozenset({"mapped", "many", "batch", "frames", "sleeps", "solo"})

    def channel(self, label: str, shape: Shape) -> FasterFifoChannel:
        return FasterFifoChannel(shape.slots * (shape.slot_size + _PICKLE_BYTES) + (1 << 10))
