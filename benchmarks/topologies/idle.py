"""Four consumers that have nothing to do: how much of a CPU do they take together?"""

from __future__ import annotations

from functools import partial
from time import process_time_ns, sleep

from cases import Case
from flow import opened
from harness import Line, Span, Work, label, run_roles
from peers.base import Channel, Peer, Shape

_CONSUMERS = 4
_SETTLE_SECONDS = 0.1


def _waiting(channel: Channel, line: Line) -> Span:
    receiver = channel.receiver()
    with opened(line, receiver):
        began = process_time_ns()
        receiver.get()
        ended = process_time_ns()
    return Span(began, ended)


def _ending(channels: list[Channel], seconds: float, line: Line) -> Span:
    """Send nothing for a while, and then one message to each consumer."""
    senders = [channel.sender() for channel in channels]
    with opened(line, *senders):
        sleep(_SETTLE_SECONDS + seconds)
        for sender in senders:
            for _ in range(_CONSUMERS // len(senders)):
                sender.put(b"the end")
    return Span(0, 0)


def _idle(peer: Peer, work: Work) -> float:
    """Consumers of one queue where the peer can have several, and of a queue each where it cannot."""
    shared = "many" in peer.features
    shape = Shape(slots=64, consumers=_CONSUMERS if shared else 1)
    channels = [peer.channel(label(), shape) for _ in range(1 if shared else _CONSUMERS)]
    seconds = 10 * work.seconds
    consumers = [partial(_waiting, channels[number % len(channels)]) for number in range(_CONSUMERS)]
    try:
        spans = run_roles([*consumers, partial(_ending, channels, seconds)], work.timeout + seconds)
    finally:
        for channel in channels:
            channel.close()
    busy = sum(span.ended - span.began for span in spans)
    return float(busy / ((_SETTLE_SECONDS + seconds) * 1e9))


CASES = [Case("idle", "4 idle consumers, share of a CPU", _idle, unit="share", pilot=0)]
