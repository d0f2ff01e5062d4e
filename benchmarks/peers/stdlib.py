"""The standard library: Queue, SimpleQueue and Pipe of multiprocessing."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from peers.base import Channel, Peer, Receiver, Sender, Shape


class _Sender(Sender):
    def __init__(self, put: Callable[[Any], object], close: Callable[[], None]) -> None:
        self.put = put
        self.close = close


class _Receiver(Receiver):
    def __init__(self, get: Callable[[], Any], close: Callable[[], None]) -> None:
        self.get = get
        self.close = close


class _FeederSender(_Sender):
    def frame_put(self) -> Callable[[Any], object]:
        """A thread pickles the array some time after `put`, so that each one needs a copy of its own."""
        put = self.put
        return lambda frame: put(frame.copy())


class QueueChannel(Channel):
    """Inherited by the children; put and get pickle."""

    sender_class = _Sender

    def __init__(self, queue: Any) -> None:
        self.queue = queue

    def sender(self) -> Sender:
        return self.sender_class(self.queue.put, self.queue.close)

    def receiver(self) -> Receiver:
        return _Receiver(self.queue.get, self.queue.close)

    def close(self) -> None:
        self.queue.close()


class FedQueueChannel(QueueChannel):
    sender_class = _FeederSender


class PipeChannel(Channel):
    """Raw bytes, no pickle."""

    def __init__(self, reader: Connection, writer: Connection) -> None:
        self.reader = reader
        self.writer = writer

    def sender(self) -> Sender:
        return _Sender(self.writer.send_bytes, self.writer.close)

    def receiver(self) -> Receiver:
        return _Receiver(self.reader.recv_bytes, self.reader.close)

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


class MultiprocessingQueue(Peer):
    features = frozenset({"many", "frames", "sleeps", "solo"})

    def channel(self, label: str, shape: Shape) -> Channel:
        return FedQueueChannel(get_context(shape.start_method).Queue(min(shape.slots, 32767)))


class MultiprocessingSimpleQueue(Peer):
    features = frozenset({"many", "frames", "sleeps", "solo"})

    def channel(self, label: str, shape: Shape) -> Channel:
        return QueueChannel(get_context(shape.start_method).SimpleQueue())


class MultiprocessingPipe(Peer):
    features = frozenset({"frames", "sleeps", "solo"})

    def channel(self, label: str, shape: Shape) -> Channel:
        return PipeChannel(*get_context(shape.start_method).Pipe(duplex=False))
