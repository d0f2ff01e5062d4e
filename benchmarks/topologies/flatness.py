"""The cost of a message against the size of the ring and the number of attached handles."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from time import perf_counter_ns

from cases import SHMQ_ONLY, Case
from flow import MESSAGES, message_sum, messages, stream, verify
from harness import Line, Span, Work, elapsed, label, run_roles
from peers.base import Channel, Peer, Shape

RING_SLOTS = (16, 1_024, 65_536, 1_048_576)
PORTS = (2, 16, 64)


def _taking_turns(channel: Channel, warm: int, count: int, line: Line) -> Span:
    """Put and get in one process: the cost of the queue alone, after a lap that has touched every slot."""
    sender, receiver = channel.sender(), channel.receiver()
    put, get = sender.put, receiver.get
    total = 0
    for message in messages(range(warm)):
        put(message)
        total += get()[0]
    began = perf_counter_ns()
    for message in messages(range(warm, warm + count)):
        put(message)
        total += get()[0]
    ended = perf_counter_ns()
    sender.close()
    receiver.close()
    return Span(began, ended, total)


def _alone(shape: Shape, peer: Peer, work: Work) -> float:
    warm = shape.slots + len(MESSAGES)
    with peer.channel(label(), shape) as channel:
        spans = run_roles([partial(_taking_turns, channel, warm, work.count)], work.timeout)
    verify(spans, message_sum(range(warm + work.count)))
    return elapsed(spans) / work.count


def _between_two(shape: Shape, peer: Peer, work: Work) -> float:
    return stream(peer, work, shape)


def _crowded(ports: int, peer: Peer, work: Work) -> float:
    """The handles beside the two that work are open in the parent and do nothing."""
    shape = Shape(ports=max(PORTS) + 8)
    with peer.channel(label(), shape) as channel, ExitStack() as idle:
        for _ in range(ports - 2):
            idle.callback(channel.receiver().close)
        warm = shape.slots
        spans = run_roles([partial(_taking_turns, channel, warm, work.count)], work.timeout)
    verify(spans, message_sum(range(warm + work.count)))
    return elapsed(spans) / work.count


_case = partial(Case, "flatness", only=SHMQ_ONLY)

CASES = [
    *(_case(f"ring of {slots:,}, one process", partial(_alone, Shape(slots=slots))) for slots in RING_SLOTS),
    *(_case(f"ring of {slots:,}, 1 → 1", partial(_between_two, Shape(slots=slots))) for slots in RING_SLOTS),
    *(_case(f"{ports} attached handles", partial(_crowded, ports)) for ports in PORTS),
]
