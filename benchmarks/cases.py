"""What one row of the results is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from harness import Work
from peers.base import Peer

SHMQ_ONLY = frozenset({"shmq"})

Measure = Callable[[Peer, Work], float]
Baseline = Callable[[Work], float]


@dataclass(frozen=True)
class Case:
    """One thing to measure, for every peer that has the features it needs. Lower values are better.

    `unit` is "ns" (per message, frame, round trip or call), "share" (of one CPU) or "bytes". With `pilot` the amount
    of work is found by a short run; without it the measurement chooses its own. `baselines` are not queues, but what
    a queue is compared with: the bare C limit, another import.
    """

    topology: str
    name: str
    measure: Measure
    unit: str = "ns"
    needs: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    pilot: int = 2_000
    most: int = 20_000_000
    nbytes: int = 0

    @property
    def key(self) -> str:
        return f"{self.topology}/{self.name}"

    def suits(self, peer: Peer) -> bool:
        """Return whether the peer can take part."""
        return self.needs <= peer.features and (not self.only or peer.name in self.only)
