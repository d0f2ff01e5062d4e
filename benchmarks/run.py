"""Run the benchmarks: `python benchmarks/run.py [--quick] [--only NAME] [--peers a,b] [--repeat 5] [--json OUT]`.

Every case runs A B C, A B C, …: a machine that gets slower in the middle gets slower for all of them. What is reported
is the median and the range; a ratio is the median of the ratios within one round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import machine

machine.use_the_tree()  # before anything imports shmq: it may be installed elsewhere

from cases import Case  # noqa: E402
from harness import Failed, Hangs, Work  # noqa: E402
from peers import NAMES, installed  # noqa: E402
from peers.base import Peer  # noqa: E402
from table import show  # noqa: E402
from topologies import CASES  # noqa: E402

from native import content  # noqa: E402

SECONDS, QUICK_SECONDS = 0.5, 0.1
REPEAT, QUICK_REPEAT = 5, 2
TIMEOUT_SECONDS = 20.0


class Contestant:
    """One peer, or one baseline, in one case: how much work it gets, and what it has reported."""

    def __init__(self, name: str, measure: Callable[[Work], float], case: Case, seconds: float, timeout: float) -> None:
        self.name = name
        self.values: list[float] = []
        self.trouble = ""
        self._measure = measure
        self._work = Work(case.pilot, seconds, timeout)
        self._case = case

    def _attempt(self) -> float | None:
        """Return one value, or None and say in `trouble` why there is none."""
        try:
            return self._measure(self._work)
        except (Hangs, subprocess.TimeoutExpired):
            self.trouble = "hangs"
        except subprocess.CalledProcessError as error:
            self.trouble = f"fails: {error.stderr.strip()}"
        except Exception as error:
            self.trouble = f"fails: {str(error).splitlines()[-1] if str(error) else type(error).__name__}"
            if not isinstance(error, Failed) or "content" not in self.trouble:
                print(f"{self._case.key}, {self.name}:\n{error}", file=sys.stderr)
        return None

    def calibrate(self) -> None:
        """Find the amount of work that takes `seconds`; the short runs warm the files and caches, too."""
        if not self._case.pilot:
            return
        wanted_ns = self._work.seconds * 1e9
        for _ in range(3):
            value = self._attempt()
            if value is None:
                return
            enough = self._work.count * value >= wanted_ns / 4
            count = int(min(self._case.most, wanted_ns / max(value, 1.0), 20 * self._work.count))
            self._work = Work(max(1, count), self._work.seconds, self._work.timeout)
            if enough:
                return

    def run(self) -> None:
        """Measure once, unless it already got into trouble."""
        value = None if self.trouble else self._attempt()
        if value is not None:
            self.values.append(value)

    def report(self) -> dict[str, Any]:
        """Return what goes into the JSON."""
        case, values = self._case, self.values
        result: dict[str, Any] = {
            "topology": case.topology,
            "case": case.name,
            "peer": self.name,
            "unit": case.unit,
            "nbytes": case.nbytes,
            "count": self._work.count,
            "values": values,
            "trouble": self.trouble,
        }
        if values and not self.trouble:
            result |= {"median": median(values), "min": min(values), "max": max(values)}
        return result


def contest(case: Case, peers: list[Peer], seconds: float, repeat: int, timeout: float) -> list[dict[str, Any]]:
    """Run one case with everybody who can take part; return their reports."""
    entries: list[tuple[str, Callable[[Work], float]]] = list(case.baselines.items())
    entries += [(peer.name, partial(case.measure, peer)) for peer in peers if case.suits(peer)]
    contestants = [Contestant(name, measure, case, seconds, timeout) for name, measure in entries]
    for contestant in contestants:
        contestant.calibrate()
    for _ in range(repeat):
        for contestant in contestants:
            contestant.run()
    return [contestant.report() for contestant in contestants]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmark shmq and its peers on this machine.")
    parser.add_argument("--quick", action="store_true", help="short runs, to see that everything works")
    parser.add_argument("--only", metavar="A,B", default="", help="cases whose 'topology/name' contains one of these")
    parser.add_argument("--peers", metavar="A,B", default=",".join(NAMES), help="default: all that are installed")
    parser.add_argument("--repeat", type=int, metavar="N", help=f"rounds (default {REPEAT}, quick {QUICK_REPEAT})")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_SECONDS, help="seconds until a measurement 'hangs'")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results here")
    arguments = parser.parse_args()
    unknown = set(arguments.peers.split(",")) - set(NAMES)
    if unknown:
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}; known: {', '.join(NAMES)}")
    return arguments


def main() -> None:
    arguments = _arguments()
    seconds = QUICK_SECONDS if arguments.quick else SECONDS
    repeat = arguments.repeat or (QUICK_REPEAT if arguments.quick else REPEAT)
    cases = [case for case in CASES if any(part in case.key for part in arguments.only.split(","))]
    if not cases:
        sys.exit(f"no case contains {arguments.only!r}; there are: {', '.join(case.key for case in CASES)}")
    content()  # compiled once, inherited by every child
    peers = installed(tuple(arguments.peers.split(",")))
    about = machine.describe(peer.distribution for peer in peers if peer.distribution)
    results: list[dict[str, Any]] = []
    for case in cases:
        reports = contest(case, peers, seconds, repeat, arguments.timeout)
        if not reports:
            continue
        results += reports
        print(case.key)
        for report in reports:
            print(f"    {report['peer']:<28}{show(report)}", flush=True)
    if arguments.json:
        document = {"machine": about, "repeat": repeat, "seconds": seconds, "results": results}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
