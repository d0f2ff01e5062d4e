"""Several producers and consumers on one queue, each message to one of them."""

from __future__ import annotations

from cases import Case
from flow import stream
from harness import Work
from peers.base import Peer, Shape


def _many(shape: Shape, name: str) -> Case:
    def measure(peer: Peer, work: Work) -> float:
        return stream(peer, work, shape)

    return Case("many_to_many", name, measure, needs=frozenset({"many"}))


CASES = [
    _many(Shape(producers=2, consumers=2), "2 → 2, 64 B"),
    _many(Shape(producers=4, consumers=4), "4 → 4, 64 B"),
]
