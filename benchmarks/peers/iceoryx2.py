"""iceoryx2: publish-subscribe in shared memory, one publisher to one subscriber, lossless.

Two ways to wait: an event per message, on which the subscriber sleeps, or no event and a subscriber that polls.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from os import sched_yield
from typing import Any

import iceoryx2 as iox2

from peers.base import Channel, Peer, Receiver, Sender, Shape


class _Service:
    """A node with the service, and with the event beside it if it is wanted."""

    def __init__(self, label: str, shape: Shape, events: bool) -> None:
        iox2.set_log_level(iox2.LogLevel.Error)
        self.node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
        name = iox2.ServiceName.new(label)
        self.messages = (
            self.node.service_builder(name)
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .max_publishers(1)
            .max_subscribers(1)
            .subscriber_max_buffer_size(shape.slots)
            .enable_safe_overflow(False)
            .open_or_create()
        )
        self.event = self.node.service_builder(name).event().open_or_create() if events else None


class Iceoryx2Sender(Sender):
    def __init__(self, service: _Service, shape: Shape) -> None:
        self.service = service
        self.publisher = (
            service.messages.publisher_builder()
            .initial_max_slice_len(shape.slot_size)
            .backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        self.notifier = service.event.notifier_builder().create() if service.event else None

    def settle(self) -> None:
        self.publisher.update_connections()

    def put(self, message: Any) -> None:
        sample = self.publisher.loan_slice_uninit(len(message))
        source = message if isinstance(message, bytes) else message.ctypes.data
        ctypes.memmove(sample.payload_ptr, source, len(message))
        self._send(sample)

    def _send(self, sample: Any) -> None:
        sample.assume_init().send()
        if self.notifier:
            self.notifier.notify()

    def produce_frames(self, numbers: Iterable[int], nbytes: int, write: Callable[[Any, int], None]) -> None:
        loan, send = self.publisher.loan_slice_uninit, self._send
        memory = ctypes.c_uint8 * nbytes
        for number in numbers:
            sample = loan(nbytes)
            write(memory.from_address(sample.payload_ptr), number)
            send(sample)

    def close(self) -> None:
        self.publisher.delete()


class Iceoryx2Receiver(Receiver):
    def __init__(self, service: _Service, shape: Shape) -> None:
        self.service = service
        self.subscriber = service.messages.subscriber_builder().buffer_size(shape.slots).create()
        self.listener = service.event.listener_builder().create() if service.event else None

    def settle(self) -> None:
        self.subscriber.receive()

    def _take(self) -> Any:
        receive = self.subscriber.receive
        while (sample := receive()) is None:
            if self.listener:
                self.listener.blocking_wait()
            else:
                sched_yield()
        return sample

    def get(self) -> bytes:
        sample = self._take()
        message = ctypes.string_at(sample.payload_ptr, sample.header.number_of_elements)
        sample.delete()
        return message

    def consume_frames(self, count: int, read: Callable[[Any], int]) -> int:
        take = self._take
        total = 0
        for _ in range(count):
            sample = take()
            memory = ctypes.c_uint8 * sample.header.number_of_elements
            total += read(memory.from_address(sample.payload_ptr))
            sample.delete()
        return total

    def close(self) -> None:
        self.subscriber.delete()


class Iceoryx2Channel(Channel):
    def __init__(self, label: str, shape: Shape, events: bool) -> None:
        self.arguments = (label, shape, events)
        self.shape = shape

    def sender(self) -> Iceoryx2Sender:
        return Iceoryx2Sender(_Service(*self.arguments), self.shape)

    def receiver(self) -> Iceoryx2Receiver:
        return Iceoryx2Receiver(_Service(*self.arguments), self.shape)


class Iceoryx2(Peer):
    distribution = "iceoryx2"
    features = frozenset({"mapped", "frames", "loan", "sleeps", "solo"})
    events = True

    def channel(self, label: str, shape: Shape) -> Iceoryx2Channel:
        return Iceoryx2Channel(label, shape, self.events)


class Iceoryx2Polling(Iceoryx2):
    features = frozenset({"mapped", "frames", "loan", "solo"})
    events = False
