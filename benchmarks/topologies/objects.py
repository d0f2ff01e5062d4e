"""Python objects, one producer and one consumer: what a program pays that takes shmq.mp.Queue for multiprocessing.Queue."""

from __future__ import annotations

from functools import partial
from itertools import cycle, islice
from pickle import dumps, loads
from time import perf_counter_ns

from cases import Case
from flow import stream
from harness import Failed, Work
from peers.base import Peer, Receiver, Sender, Shape
from peers.shmq import ShmqMp

_SHAPE = Shape(slots=1_024, slot_size=256)
# Different ones, so that one which comes twice or not at all shows in the sum; made before the clock runs.
_DICTS = [{"id": number, "path": f"{number:03}.png"} for number in range(1, 252)]


def _produce(sender: Sender, numbers: range) -> None:
    put = sender.put
    first = numbers.start % len(_DICTS)
    for message in islice(cycle(_DICTS), first, first + len(numbers)):
        put(message)


def _consume(receiver: Receiver, count: int) -> int:
    get = receiver.get
    total = 0
    for _ in range(count):
        total += get()["id"]
    return total


def _sum(numbers: range) -> int:
    laps, rest = divmod(len(numbers), len(_DICTS))
    return laps * sum(message["id"] for message in _DICTS) + sum(message["id"] for message in _DICTS[:rest])


def _dicts(peer: Peer, work: Work) -> float:
    return stream(peer, work, _SHAPE, _produce, _consume, _sum)


def _pickling(work: Work) -> tuple[float, float]:
    """Return nanoseconds of one dumps and of one loads, by the same loops."""
    began = perf_counter_ns()
    for message in islice(cycle(_DICTS), work.count):
        dumps(message)
    between = perf_counter_ns()
    pickled = [dumps(message) for message in _DICTS]
    total = 0
    again = perf_counter_ns()
    for data in islice(cycle(pickled), work.count):
        total += loads(data)["id"]
    ended = perf_counter_ns()
    if total != _sum(range(work.count)):
        raise Failed("content: pickle lost something")
    return (between - began) / work.count, (ended - again) / work.count


def _in_one(work: Work) -> float:
    """Nanoseconds of dumps and loads, one after the other."""
    return sum(_pickling(work))


def _in_two(work: Work) -> float:
    """Nanoseconds of dumps and loads in two processes, if handing over cost nothing: the slower one sets the pace."""
    return max(_pickling(work))


CASES = [
    Case(
        "objects",
        "small dicts, 1 → 1",
        _dicts,
        only=frozenset({"shmq", "multiprocessing.Queue", "multiprocessing.SimpleQueue"}),
        baselines={"shmq.mp.Queue": partial(_dicts, ShmqMp()), "dumps + loads": _in_one, "the slower of the two": _in_two},
    )
]
