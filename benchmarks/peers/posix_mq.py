"""posix_ipc.MessageQueue: the kernel's own queue. Ten messages of 8 KiB unless the machine allows more."""

from __future__ import annotations

from pathlib import Path

import posix_ipc

from peers.base import Channel, Peer, Receiver, Sender, Shape


class MqSender(Sender):
    def __init__(self, queue: posix_ipc.MessageQueue) -> None:
        self.put = queue.send
        self.close = queue.close


class MqReceiver(Receiver):
    def __init__(self, queue: posix_ipc.MessageQueue) -> None:
        self.receive = queue.receive
        self.close = queue.close

    def get(self) -> bytes:
        return self.receive()[0]

    def consume(self, count: int) -> int:
        receive = self.receive
        total = 0
        for _ in range(count):
            total += receive()[0][0]
        return total


class MqChannel(Channel):
    def __init__(self, label: str, shape: Shape) -> None:
        self.name = f"/{label}"
        most = int(Path("/proc/sys/fs/mqueue/msg_max").read_text())
        posix_ipc.MessageQueue(
            self.name, posix_ipc.O_CREX, max_messages=min(shape.slots, most), max_message_size=shape.slot_size
        ).close()

    def sender(self) -> MqSender:
        return MqSender(posix_ipc.MessageQueue(self.name))

    def receiver(self) -> MqReceiver:
        return MqReceiver(posix_ipc.MessageQueue(self.name))

    def close(self) -> None:
        posix_ipc.unlink_message_queue(self.name)


class PosixMessageQueue(Peer):
    distribution = "posix_ipc"
    features = frozenset({"many", "sleeps", "solo"})

    def channel(self, label: str, shape: Shape) -> MqChannel:
        return MqChannel(label, shape)
