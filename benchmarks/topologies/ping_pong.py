"""There and back through two queues with both sides awake; and from a put to a consumer that was asleep."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from statistics import median
from time import perf_counter_ns, sleep

from cases import Case
from flow import MESSAGES, opened
from harness import Failed, Line, Work, label, run_roles
from peers.base import Channel, Peer, Shape

from native import limit

_SHAPE = Shape(slots=16)
_PAUSE_SECONDS = 0.001


def _call(there: Channel, back: Channel, count: int, line: Line) -> list[int]:
    sender, receiver = there.sender(), back.receiver()
    put, get = sender.put, receiver.get
    trips = []
    with opened(line, sender, receiver):
        line.pin()
        put(MESSAGES[0])
        get()
        line.wait()
        for number in range(count):
            message = MESSAGES[number % len(MESSAGES)]
            began = perf_counter_ns()
            put(message)
            answer = get()
            trips.append(perf_counter_ns() - began)
            if answer != message:
                raise Failed(f"content: round trip {number} brought {answer!r}")
    return trips


def _answer(there: Channel, back: Channel, count: int, line: Line) -> list[int]:
    receiver, sender = there.receiver(), back.sender()
    put, get = sender.put, receiver.get
    with opened(line, receiver, sender):
        line.pin()
        put(get())
        line.wait()
        for _ in range(count):
            put(get())
    return []


def _post(channel: Channel, count: int, line: Line) -> list[int]:
    sender = channel.sender()
    put = sender.put
    with opened(line, sender):
        line.pin()
        put(MESSAGES[0])
        line.wait()
        for _ in range(count):
            sleep(_PAUSE_SECONDS)
            put(perf_counter_ns().to_bytes(8, "little"))
    return []


def _wake(channel: Channel, count: int, line: Line) -> list[int]:
    receiver = channel.receiver()
    get = receiver.get
    delays = []
    with opened(line, receiver):
        line.pin()
        get()
        line.wait()
        for _ in range(count):
            message = get()
            delays.append(perf_counter_ns() - int.from_bytes(message, "little"))
    return delays


def _median_of(roles: list[Callable[[Line], list[int]]], work: Work) -> float:
    return float(median(chain.from_iterable(run_roles(roles, work.timeout))))


def _awake(peer: Peer, work: Work) -> float:
    with peer.channel(label(), _SHAPE) as there, peer.channel(label(), _SHAPE) as back:
        return _median_of([partial(_call, there, back, work.count), partial(_answer, there, back, work.count)], work)


def _asleep(peer: Peer, work: Work) -> float:
    count = _pings(work)
    with peer.channel(label(), _SHAPE) as channel:
        return _median_of([partial(_post, channel, count), partial(_wake, channel, count)], work)


def _bare_semaphore(work: Work) -> float:
    return limit(work.timeout, "semaphore", _pings(work))


def _pings(work: Work) -> int:
    return max(50, int(work.seconds / _PAUSE_SECONDS))


CASES = [
    Case("ping_pong", "round trip, both awake, p50", _awake, most=500_000),
    Case(
        "ping_pong",
        "put to a sleeping receiver, p50",
        _asleep,
        needs=frozenset({"sleeps"}),
        baselines={"bare C": _bare_semaphore},
        pilot=0,
    ),
]
