"""A verified stream through one channel: the body of every topology in which messages only go one way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, cycle, islice
from time import perf_counter_ns

from harness import Failed, Line, Span, Work, elapsed, label, run_roles
from peers.base import BATCH, Channel, Peer, Receiver, Sender, Shape

Produce = Callable[[Sender, range], None]
Consume = Callable[[Receiver, int], int]

# Different ones, so that a message which comes twice or not at all shows in the sum; made before the clock runs.
MESSAGES = [bytes([number]) * 64 for number in range(1, 252)]
BATCHES = [list(islice(cycle(MESSAGES), first, first + BATCH)) for first in range(len(MESSAGES))]


def messages(numbers: range) -> Iterable[bytes]:
    """Return the message of each number without making one."""
    first = numbers.start % len(MESSAGES)
    return islice(cycle(MESSAGES), first, first + len(numbers))


def batches(numbers: range) -> Iterable[list[bytes]]:
    """Return the same messages in lists of BATCH; the last list may be shorter."""
    firsts = range(numbers.start, numbers.stop, BATCH)
    whole = len(numbers) // BATCH
    rest = list(messages(numbers[whole * BATCH :]))
    return chain((BATCHES[first % len(MESSAGES)] for first in firsts[:whole]), [rest] if rest else [])


def message_sum(numbers: range) -> int:
    """Return what the consumers of messages 0 … n-1 must have added up."""
    laps, rest = divmod(len(numbers), len(MESSAGES))
    return laps * sum(message[0] for message in MESSAGES) + sum(message[0] for message in MESSAGES[:rest])


def produce_messages(sender: Sender, numbers: range) -> None:
    sender.produce(messages(numbers))


def consume_messages(receiver: Receiver, count: int) -> int:
    return receiver.consume(count)


@contextmanager
def opened(line: Line, *ends: Sender | Receiver) -> Iterator[None]:
    """Go on when all processes have opened their ends; close them when all have finished."""
    line.wait()
    for end in ends:
        end.settle()
    line.wait()
    yield
    line.wait()
    for end in ends:
        end.close()


def sending(channel: Channel, warm: int, count: int, produce: Produce, line: Line) -> Span:
    """Open a producer's end, send `warm` messages, and then `count` against the clock."""
    sender = channel.sender()
    with opened(line, sender):
        produce(sender, range(warm))
        line.wait()
        began = perf_counter_ns()
        produce(sender, range(warm, warm + count))
        ended = perf_counter_ns()
    return Span(began, ended)


def taking(channel: Channel, warm: int, count: int, consume: Consume, line: Line) -> Span:
    """Open a consumer's end, take `warm` messages, and then `count` against the clock."""
    receiver = channel.receiver()
    with opened(line, receiver):
        total = consume(receiver, warm)
        line.wait()
        began = perf_counter_ns()
        total += consume(receiver, count)
        ended = perf_counter_ns()
    return Span(began, ended, total)


def verify(spans: Sequence[Span], expected: int) -> None:
    """Raise Failed unless the consumers have added up what the producers sent."""
    total = sum(span.total for span in spans)
    if total != expected:
        raise Failed(f"content: expected a sum of {expected}, received {total}")


def stream(
    peer: Peer,
    work: Work,
    shape: Shape,
    produce: Produce = produce_messages,
    consume: Consume = consume_messages,
    expected: Callable[[range], int] = message_sum,
) -> float:
    """Move `work.count` messages from all producers to all consumers; return nanoseconds per message.

    Every consumer takes the same share, from all producers together. One lap of the ring goes ahead of the clock: pages are
    mapped, connections made.
    """
    unit = shape.producers * shape.consumers
    warm = max(1, min(shape.slots, work.count) // unit)
    count = max(1, work.count // unit)
    with peer.channel(label(), shape) as channel:
        send = partial(sending, channel, warm * shape.consumers, count * shape.consumers, produce)
        take = partial(taking, channel, warm * shape.producers, count * shape.producers, consume)
        spans = run_roles([send] * shape.producers + [take] * shape.consumers, work.timeout)
    verify(spans, expected(range((warm + count) * shape.consumers)) * shape.producers)
    return elapsed(spans) / (count * unit)
