"""The interface between a topology and a message queue: a peer makes channels, a channel gives senders and receivers.

`put` and `get` are the peer's own bound methods wherever it has blocking ones, so that a measured loop pays for the
peer and not for its adapter. Where an API differs (it polls, returns a tuple, lends memory), the adapter overrides the
loop itself instead of wrapping every call in another Python function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import sched_yield
from typing import Any

from native import content

BATCH = 64


@dataclass(frozen=True)
class Shape:
    """What a channel must hold, and for how many."""

    slots: int = 8192
    slot_size: int = 64
    producers: int = 1
    consumers: int = 1
    ports: int | None = None
    start_method: str = "fork"


class Sender:
    """A producer's end, opened in the process that uses it. `put` returns when the channel has the message."""

    put: Callable[[Any], object]

    def settle(self) -> None:
        """Finish what can only be done when every other end is open."""

    def close(self) -> None:
        """Give up this end; everything that was put has been taken."""

    def frame(self, source: bytearray) -> Any:
        """Return the object over `source` that `put` sends best without copying it first."""
        import numpy

        return numpy.frombuffer(source, "u1")

    def frame_put(self) -> Callable[[Any], object]:
        """Return what puts such an object; its memory may change as soon as that has returned."""
        return self.put

    def produce(self, messages: Iterable[bytes]) -> None:
        """Put messages, one call each."""
        put = self.put
        for message in messages:
            put(message)

    def produce_batches(self, batches: Iterable[list[bytes]]) -> None:
        """Put lists of messages, one call each."""
        raise NotImplementedError

    def produce_frames(self, numbers: Iterable[int], nbytes: int, write: Callable[[Any, int], None]) -> None:
        """Let `write(buffer, number)` write each frame into the channel's own memory."""
        raise NotImplementedError


class Receiver:
    """A consumer's end, opened in the process that uses it. `get` waits for a message and returns its bytes."""

    get: Callable[[], Any]

    def settle(self) -> None:
        """Finish what can only be done when every other end is open."""

    def close(self) -> None:
        """Give up this end."""

    def frame_get(self) -> Callable[[], Any]:
        """Return what waits for a frame and returns anything that exports its buffer."""
        return self.get

    def consume(self, count: int) -> int:
        """Get messages, one call each; return the sum of their first bytes."""
        get = self.get
        total = 0
        for _ in range(count):
            total += get()[0]
        return total

    def consume_batches(self, count: int) -> int:
        """Get messages up to BATCH a call; return the sum of their first bytes."""
        raise NotImplementedError

    def consume_frames(self, count: int, read: Callable[[Any], int]) -> int:
        """Let `read(buffer)` read each frame in the channel's own memory; return the sum of what it returns."""
        raise NotImplementedError


class Channel:
    """One queue: made in the parent, opened in the children, removed in the parent."""

    def sender(self) -> Sender:
        """Open a producer's end."""
        raise NotImplementedError

    def receiver(self) -> Receiver:
        """Open a consumer's end."""
        raise NotImplementedError

    def close(self) -> None:
        """Remove whatever the channel left under a name."""

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Peer:
    """A way to move messages between processes. `features` says which topologies it can take part in.

    many: several producers and consumers, each message to one of them; batch: several messages a call; frames: arrays
    of megabytes; loan: written and read in place; sleeps: an idle consumer is asleep; solo: both ends in one process;
    mapped: messages wait in memory of the processes and not of the kernel.
    """

    name: str
    module: str
    distribution: str | None = None
    features: frozenset[str] = frozenset()

    def channel(self, label: str, shape: Shape) -> Channel:
        """Make a channel."""
        raise NotImplementedError


def until_accepted(try_put: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Return a `put` for a peer that only knows how to try."""

    def put(message: Any) -> None:
        while not try_put(message):
            sched_yield()

    return put


def until_given(try_get: Callable[[], Any]) -> Callable[[], Any]:
    """Return a `get` for a peer that only knows how to try."""

    def get() -> Any:
        while (message := try_get()) is None:
            sched_yield()
        return message

    return get


def consume_lists(get_many: Callable[[], list[Any]], count: int) -> int:
    """Take lists until `count` messages have come; return the sum of their first bytes."""
    tally = content().tally
    total = 0
    while count > 0:
        batch = get_many()
        count -= len(batch)
        total += tally(batch)
    return total
