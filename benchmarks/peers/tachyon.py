"""tachyon-ipc: one producer to one consumer in a shared arena; a full arena raises, an empty one spins, then sleeps."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from os import sched_yield
from time import sleep
from typing import Any

from tachyon import TachyonBus, TachyonError

from peers.base import BATCH, Channel, Peer, Receiver, Sender, Shape

_HEADER_BYTES = 64
_FEWEST_MESSAGES = 64  # it deadlocks with a shorter ring


class TachyonSender(Sender):
    def __init__(self, path: str, capacity: int) -> None:
        self.bus = TachyonBus()
        self.bus.listen(socket_path=path, capacity=capacity)

    def _acquire(self, nbytes: int) -> Any:
        while True:
            try:
                return self.bus.acquire_tx(nbytes)
            except TachyonError:
                self.bus.flush()
                sched_yield()

    def put(self, message: Any) -> None:
        with self._acquire(len(message)) as guard:
            with memoryview(guard) as memory:
                memory[: len(message)] = message
            guard.actual_size = len(message)
        self.bus.flush()

    def produce_batches(self, batches: Iterable[list[bytes]]) -> None:
        for batch in batches:
            for message in batch:
                with self._acquire(len(message)) as guard:
                    with memoryview(guard) as memory:
                        memory[: len(message)] = message
                    guard.actual_size = len(message)
            self.bus.flush()

    def produce_frames(self, numbers: Iterable[int], nbytes: int, write: Callable[[Any, int], None]) -> None:
        acquire, flush = self._acquire, self.bus.flush
        for number in numbers:
            with acquire(nbytes) as guard:
                write(guard, number)
                guard.actual_size = nbytes
            flush()

    def close(self) -> None:
        self.bus.destroy()


class TachyonReceiver(Receiver):
    def __init__(self, path: str) -> None:
        self.bus = TachyonBus()
        while not self._connected(path):
            sleep(0.001)

    def _connected(self, path: str) -> bool:
        try:
            self.bus.connect(socket_path=path)
        except ConnectionError:
            return False
        return True

    def get(self) -> bytes:
        with self.bus.acquire_rx() as guard, memoryview(guard) as memory:
            return memory.tobytes()

    def consume_batches(self, count: int) -> int:
        drain = self.bus.drain_batch
        total = 0
        while count > 0:
            with drain(min(BATCH, count)) as batch:
                for index in range(len(batch)):
                    with memoryview(batch[index]) as memory:
                        total += memory[0]
                count -= len(batch)
        return total

    def consume_frames(self, count: int, read: Callable[[Any], int]) -> int:
        acquire = self.bus.acquire_rx
        total = 0
        for _ in range(count):
            with acquire() as guard:
                total += read(guard)
        return total

    def close(self) -> None:
        self.bus.destroy()


class TachyonChannel(Channel):
    """The sender listens on a socket until its receiver has connected."""

    def __init__(self, label: str, shape: Shape) -> None:
        self.path = os.path.join(tempfile.gettempdir(), label)
        wanted = max(shape.slots, _FEWEST_MESSAGES) * (shape.slot_size + _HEADER_BYTES)
        self.capacity = 1 << (wanted - 1).bit_length()

    def sender(self) -> TachyonSender:
        return TachyonSender(self.path, self.capacity)

    def receiver(self) -> TachyonReceiver:
        return TachyonReceiver(self.path)

    def close(self) -> None:
        if os.path.exists(self.path):
            os.unlink(self.path)


class Tachyon(Peer):
    distribution = "tachyon-ipc"
    features = frozenset({"mapped", "batch", "frames", "loan", "sleeps"})

    def channel(self, label: str, shape: Shape) -> TachyonChannel:
        return TachyonChannel(label, shape)
