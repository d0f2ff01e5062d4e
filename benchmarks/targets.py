"""The targets of the project, each with its measured value: what is promised is checked against every results file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

KIB, MIB = 1 << 10, 1 << 20


class Results:
    """The results of one run, by case and peer."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._reports = {(f"{report['topology']}/{report['case']}", report["peer"]): report for report in document["results"]}

    def values(self, case: str, peer: str = "shmq") -> list[float]:
        """Return one value per round. Raises KeyError where nothing was measured."""
        report = self._reports[case, peer]
        if "median" not in report:
            raise KeyError(case, peer)
        values: list[float] = report["values"]
        return values

    def median(self, case: str, peer: str = "shmq") -> float:
        return float(median(self.values(case, peer)))

    def ratio(self, case: str, over: str, peer: str = "shmq", over_peer: str = "shmq") -> float:
        """Return the median over the rounds of one value divided by another one of the same round."""
        pairs = zip(self.values(case, peer), self.values(over, over_peer), strict=True)
        return float(median(value / other for value, other in pairs))

    def rivals(self, case: str) -> dict[str, float]:
        """Return the medians of all other queues in this case."""
        return {
            peer: report["median"]
            for (key, peer), report in self._reports.items()
            if key == case and peer not in ("shmq", "bare C") and "median" in report
        }


@dataclass(frozen=True)
class Verdict:
    """One promise: what was measured, and whether it is kept (None: not measured)."""

    promise: str
    measured: str
    met: bool | None


Check = Callable[[Results], tuple[str, bool]]

_ONE = "one_to_one/64 B, a call per message"
_BATCH = "one_to_one/64 B, batches of 64"
_EMPTY, _FULL = "one_to_one/64 B, ring nearly empty", "one_to_one/64 B, ring nearly full"
_DICTS = "objects/small dicts, 1 → 1"
_ALONE = "flatness/ring of {}, one process"
_BETWEEN = "flatness/ring of {}, 1 → 1"
_RINGS = ("16", "1,024", "65,536", "1,048,576")
_SIZES = ("64 KiB", "1 MiB", "6 MiB")
_TIE = 1.3  # between two quiet runs a median moves by that much


def _at_most(case: str, limit: float, unit: str, scale: float) -> Check:
    def check(results: Results) -> tuple[str, bool]:
        value = results.median(case)
        return f"{value / scale:.4g} {unit}", value <= limit * scale

    return check


def _against_multiprocessing(results: Results) -> tuple[str, bool]:
    ratio = results.ratio(_ONE, _ONE, peer="multiprocessing.Queue", over_peer="shmq")
    return f"{ratio:.0f}×", ratio >= 50


def _ahead_of_everybody(results: Results) -> tuple[str, bool]:
    own = results.median(_ONE)
    rivals = results.rivals(_ONE)
    best = min(rivals, key=lambda peer: rivals[peer])
    return f"{own:.0f} ns, the best peer {rivals[best]:.0f} ns ({best})", own < rivals[best]


def _regime(case: str) -> Check:
    def check(results: Results) -> tuple[str, bool]:
        best = min((_ONE, _EMPTY, _FULL), key=results.median)
        ratio = results.ratio(case, best)
        return f"{results.median(case):.0f} ns, {ratio:.2f}× the best regime", ratio <= 2

    return check


def _throughput_kept(case: str) -> Check:
    def check(results: Results) -> tuple[str, bool]:
        ratio = results.ratio(_ONE, case)
        return f"{results.median(case):.0f} ns a message, {ratio:.2f} of 1 → 1", ratio >= 0.5

    return check


def _asleep(results: Results) -> tuple[str, bool]:
    case = "ping_pong/put to a sleeping receiver, p50"
    ratio = results.ratio(case, case, over_peer="bare C")
    own, bare = results.median(case) / 1e3, results.median(case, "bare C") / 1e3
    return f"{own:.1f} µs, bare {bare:.1f} µs: {ratio:.2f}×", ratio <= 1.15


def _of_bare_c(case: str, least: float) -> Check:
    def check(results: Results) -> tuple[str, bool]:
        ratio = results.ratio(case, case, peer="bare C", over_peer="shmq")
        return f"{ratio:.2f} of bare C", ratio >= least

    return check


def _ends(results: Results) -> tuple[str, bool]:
    times = [results.median(f"frames/{size}, only the ends, both sides in one process") for size in _SIZES]
    return ", ".join(f"{time / 1e3:.2f}" for time in times) + " µs", max(times) <= min(2_000, _TIE * min(times))


def _warm_slots(results: Results) -> tuple[str, bool]:
    ratio = results.ratio("frames/1 MiB, ring of 64, two in flight", "frames/1 MiB, ring of 4, two in flight")
    return f"{ratio:.2f}× the time of a ring of 4", ratio <= _TIE


def _drop_in(results: Results) -> tuple[str, bool]:
    ratio = results.ratio(_DICTS, _DICTS, peer="multiprocessing.Queue", over_peer="shmq.mp.Queue")
    return f"{ratio:.1f}×", ratio >= 4.5


def _pickling(results: Results) -> tuple[str, bool]:
    ratio = results.ratio(_DICTS, _DICTS, peer="shmq.mp.Queue", over_peer="dumps + loads")
    pipelined = results.ratio(_DICTS, _DICTS, peer="shmq.mp.Queue", over_peer="the slower of the two")
    return f"{ratio:.2f}×; {pipelined:.2f}× the slower of the two", ratio <= 1.25


def _payload(results: Results) -> tuple[str, bool]:
    ratio = results.median("memory/1,024 × 1 KiB, both ends") / MIB
    return f"{ratio:.2f}× the payload", ratio <= 1.25


def _growth(results: Results) -> tuple[str, bool]:
    grown = results.median("memory/growth over ten million messages")
    return f"{grown / KIB:.0f} KiB", grown <= 64 * KIB


def _import(results: Results) -> tuple[str, bool]:
    ratio = results.ratio("startup/import", "startup/import", over_peer="numpy")
    return f"{ratio:.2f}× numpy", ratio <= 0.5


def _flat(cases: list[str]) -> Check:
    def check(results: Results) -> tuple[str, bool]:
        times = [results.median(case) for case in cases]
        return ", ".join(f"{time:.0f}" for time in times) + " ns", max(times) <= _TIE * min(times)

    return check


def _times(case: str, over: str, least: float) -> Check:
    def check(results: Results) -> tuple[str, bool]:
        ratio = results.ratio(case, case, peer=over, over_peer="shmq")
        return f"{ratio:.1f}×", ratio >= least

    return check


def _ahead_of(case: str, others: tuple[str, ...]) -> Check:
    def check(results: Results) -> tuple[str, bool]:
        ratios = {other: results.ratio(case, case, peer=other, over_peer="shmq") for other in others}
        return ", ".join(f"{ratio:.1f}× {other}" for other, ratio in ratios.items()), min(ratios.values()) > 1

    return check


TARGETS: list[tuple[str, Check]] = [
    ("1 → 1, 64 B, a call per message: ≤ 110 ns", _at_most(_ONE, 110, "ns", 1)),
    ("1 → 1, 64 B: ≥ 50× multiprocessing.Queue", _against_multiprocessing),
    ("1 → 1, 64 B: ahead of every peer", _ahead_of_everybody),
    ("1 → 1, 64 B, batches: ≤ 45 ns", _at_most(_BATCH, 45, "ns", 1)),
    ("ring nearly empty: within 2× of the best regime", _regime(_EMPTY)),
    ("ring nearly full: within 2× of the best regime", _regime(_FULL)),
    ("2 → 2: at least half of 1 → 1", _throughput_kept("many_to_many/2 → 2, 64 B")),
    ("4 → 4: at least half of 1 → 1", _throughput_kept("many_to_many/4 → 4, 64 B")),
    ("small dicts, shmq.mp.Queue: ≥ 4.5× multiprocessing.Queue", _drop_in),
    ("small dicts, shmq.mp.Queue: within 1.25× of dumps + loads", _pickling),
    ("round trip, both awake: p50 ≤ 1 µs", _at_most("ping_pong/round trip, both awake, p50", 1, "µs", 1e3)),
    ("put to a sleeper: within 15 % of a bare semaphore", _asleep),
    ("await of a message that is there: ≤ 2 µs", _at_most("awaited/await of a message that is there", 2, "µs", 1e3)),
    *((f"{size}, put + get: ≥ 0.8", _of_bare_c(f"frames/{size}, put + get, all bytes read", 0.8)) for size in _SIZES),
    *((f"{size}, loan + view: ≥ 0.9", _of_bare_c(f"frames/{size}, loan + view, all bytes read", 0.9)) for size in _SIZES),
    ("only the ends: the same at 64 KiB, 1 MiB, 6 MiB, ≤ 2 µs, both sides together", _ends),
    ("two frames in flight: a ring of 64 × 1 MiB as fast as a ring of 4", _warm_slots),
    ("four idle consumers: < 0.2 % of a CPU", _at_most("idle/4 idle consumers, share of a CPU", 0.2, "%", 0.01)),
    ("1,024 × 1 KiB: within 25 % of the payload, PSS of both ends", _payload),
    ("no growth over ten million messages", _growth),
    ("import shmq: ≤ half of import numpy", _import),
    ("create + open + close: ≤ 0.5 ms", _at_most("startup/create + open + close", 0.5, "ms", 1e6)),
    ("flat from 16 to 1,048,576 slots, one process", _flat([_ALONE.format(slots) for slots in _RINGS])),
    ("flat from 16 to 1,048,576 slots, 1 → 1", _flat([_BETWEEN.format(slots) for slots in _RINGS])),
    ("no-op tasks: ≥ 10× ProcessPoolExecutor", _times("tasks/no-op, map", "ProcessPoolExecutor", 10)),
    ("no-op tasks: ≥ 2× Pool.imap_unordered", _times("tasks/no-op, map", "multiprocessing.Pool", 2)),
    ("no-op tasks, submit + wait: ≥ 10× ProcessPoolExecutor", _times("tasks/no-op, submit + wait", "ProcessPoolExecutor", 10)),
    ("tasks with 256 KiB arrays: ≥ 5× ProcessPoolExecutor", _times("tasks/256 KiB array in and out", "ProcessPoolExecutor", 5)),
    ("… and ahead of joblib/loky and mpire", _ahead_of("tasks/256 KiB array in and out", ("joblib/loky", "mpire"))),
    ("flat from 2 to 64 attached handles", _flat([f"flatness/{ports} attached handles" for ports in (2, 16, 64)])),
]


def verdicts(document: dict[str, Any]) -> Iterator[Verdict]:
    """Compare every target with the results; what was not measured is said, not skipped."""
    results = Results(document)
    for promise, check in TARGETS:
        try:
            yield Verdict(promise, *check(results))
        except (KeyError, ValueError):
            yield Verdict(promise, "not measured", None)
