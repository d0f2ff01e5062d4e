"""One producer, one consumer, 64 bytes: a call per message, batches, and the two ends of the ring."""

from __future__ import annotations

from functools import partial
from time import perf_counter_ns

from cases import SHMQ_ONLY, Case
from flow import batches, messages, stream
from harness import Work
from peers.base import Peer, Receiver, Sender, Shape

from native import limit

_SHAPE = Shape()
_PAUSE = range(6)


def _single(peer: Peer, work: Work) -> float:
    return stream(peer, work, _SHAPE)


def _batched(peer: Peer, work: Work) -> float:
    return stream(
        peer,
        work,
        _SHAPE,
        lambda sender, numbers: sender.produce_batches(batches(numbers)),
        lambda receiver, count: receiver.consume_batches(count),
    )


def _slow_produce(sender: Sender, numbers: range) -> None:
    put = sender.put
    for message in messages(numbers):
        put(message)
        for _ in _PAUSE:
            pass


def _slow_consume(receiver: Receiver, count: int) -> int:
    get = receiver.get
    total = 0
    for _ in range(count):
        total += get()[0]
        for _ in _PAUSE:
            pass
    return total


def _pause_ns(count: int) -> float:
    """Return what the pause of the two loops above costs a message."""
    numbers = range(count)
    began = perf_counter_ns()
    for _ in messages(numbers):
        pass
    between = perf_counter_ns()
    for _ in messages(numbers):
        for _ in _PAUSE:
            pass
    ended = perf_counter_ns()
    return ((ended - between) - (between - began)) / count


def _near_empty(peer: Peer, work: Work) -> float:
    """The producer pauses after each message, so that the consumer waits for every one; the pause is taken off."""
    return stream(peer, work, _SHAPE, produce=_slow_produce) - _pause_ns(work.count)


def _near_full(peer: Peer, work: Work) -> float:
    """The consumer pauses after each message, so that the producer waits for every slot; the pause is taken off."""
    return stream(peer, work, _SHAPE, consume=_slow_consume) - _pause_ns(work.count)


def _bare_ring(work: Work) -> float:
    return limit(work.timeout, "ring", work.count)


_case = partial(Case, "one_to_one")

CASES = [
    _case("64 B, a call per message", _single, baselines={"bare C": _bare_ring}),
    _case("64 B, batches of 64", _batched, needs=frozenset({"batch"})),
    _case("64 B, ring nearly empty", _near_empty, only=SHMQ_ONLY),
    _case("64 B, ring nearly full", _near_full, only=SHMQ_ONLY),
]
