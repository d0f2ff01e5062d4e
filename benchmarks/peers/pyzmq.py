"""pyzmq: push and pull over ipc; each sender connects to all receivers, which it serves in turn.

With a send buffer without a limit the turn is strict, and that is what lets a topology give each consumer an equal
share. The queue is then bounded by memory only, which favours it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import zmq

from peers.base import Channel, Peer, Receiver, Sender, Shape


class ZmqSender(Sender):
    def __init__(self, addresses: list[str]) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PUSH)
        self.socket.set_hwm(0)
        for address in addresses:
            self.socket.connect(address)
        self.put = self.socket.send

    def close(self) -> None:
        self.socket.close(linger=-1)
        self.context.term()


class ZmqReceiver(Receiver):
    def __init__(self, address: str) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PULL)
        self.socket.set_hwm(0)
        self.socket.bind(address)
        self.get = self.socket.recv

    def frame_get(self) -> Callable[[], Any]:
        return partial(self.socket.recv, copy=False)

    def close(self) -> None:
        self.socket.close(linger=0)
        self.context.term()


class ZmqChannel(Channel):
    def __init__(self, label: str, consumers: int) -> None:
        self.paths = [os.path.join(tempfile.gettempdir(), f"{label}-{index}") for index in range(consumers)]
        self.claims = [f"{path}.claim" for path in self.paths]

    def sender(self) -> ZmqSender:
        return ZmqSender([f"ipc://{path}" for path in self.paths])

    def receiver(self) -> ZmqReceiver:
        return ZmqReceiver(f"ipc://{self._claim()}")

    def _claim(self) -> str:
        """Return the first path that no other receiver has taken."""
        for path, claim in zip(self.paths, self.claims, strict=True):
            try:
                os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return path
        raise RuntimeError("more receivers than the channel was made for")

    def close(self) -> None:
        for path in self.paths + self.claims:
            if os.path.exists(path):
                os.unlink(path)


class PyZmq(Peer):
    distribution = "pyzmq"
    features = frozenset({"mapped", "many", "frames", "sleeps", "solo"})

    def channel(self, label: str, shape: Shape) -> ZmqChannel:
        return ZmqChannel(label, shape.consumers)
