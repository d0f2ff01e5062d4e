"""What came out of the demo, in a table and in words."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shmq._screen import duration, printable, quantity, ratio, size, table
from shmq.demo.costs import ROUNDS, Cost
from shmq.demo.files import File, Report
from shmq.demo.transports import SLOT_SIZE

__all__ = ["Outcome", "complain", "counted", "how_measured", "results", "verdict"]

NAMED = 10  # how many paths a complaint lists


@dataclass
class Outcome:
    """The job done once: what was reported, how long it took, and what went on meanwhile."""

    reports: dict[str, Report] = field(default_factory=dict)
    seconds: float = 0.0
    deaths: int = 0
    came_back: int = 0

    @property
    def done(self) -> dict[str, Report]:
        return {path: report for path, report in self.reports.items() if not report.problem}

    @property
    def nbytes(self) -> int:
        return sum(report.size for report in self.reports.values())


def results(ours: Outcome, theirs: Outcome | None, alone: Outcome, costs: list[list[Cost]]) -> Table:
    """Return the final table: the two queues and how many times ours is better, then the job without any queue."""
    ways = [ours, theirs, alone] if theirs else [ours, alone]
    shown = table("the same job", "shmq", *(["multiprocessing.Queue", ""] if theirs else []), "one process")

    def add(what: str, figures: list[str], times: str = "", style: str = "") -> None:
        *queues, one_process = figures
        shown.add_row(what, *queues, *([times] if theirs else []), one_process, style=style)

    add("time", [duration(way.seconds) for way in ways], ratio(ours.seconds, theirs.seconds) if theirs else "")
    add("files per second", [quantity(len(way.done) / way.seconds) for way in ways])
    add("bytes per second", [size(way.nbytes / way.seconds) for way in ways])
    for both in costs:
        large = both[0].nbytes > both[0].messages * SLOT_SIZE
        what = f"own cost, over {size(SLOT_SIZE)}" if large else "own cost per message"
        own = [cost.seconds for cost in both]
        add(what, [*map(duration, own), "–"], ratio(*own), style="bold")
    return shown


def how_measured(costs: list[list[Cost]], workers: int) -> str:
    messages, nbytes = sum(cost[0].messages for cost in costs), sum(cost[0].nbytes for cost in costs)
    return (
        f"Own cost of the queue, per message: {counted(messages, 'message')} ({size(nbytes)}) loaded beforehand, one"
        f" process puts them, {counted(workers, 'process')} get them as bytes and do nothing else; both queues in turn, median of"
        f" {ROUNDS} rounds."
    )


def verdict(screen: Console, name: str, outcome: Outcome, alone: Outcome, files: list[File]) -> bool:
    """Compare an outcome with the sequential pass and say how it stands; return whether all files agree."""
    different = [file for file in files if outcome.done.get(file.path) != alone.reports.get(file.path)]
    changed = [file for file in different if file.changed()]
    wrong = [file for file in different if file not in changed]
    complain(screen, "yellow", "changed meanwhile, not compared", [file.path for file in changed])
    complain(screen, "red", f"{name}: differs from the sequential pass", [file.path for file in wrong])
    mark = ("✗ ", "bold red") if wrong else ("✓ ", "green")
    equal = f"{len(files) - len(different):,} of {len(files):,} files"
    screen.print(Text.assemble(mark, f"{name}: {equal} agree with the sequential pass"))
    return not wrong


def complain(screen: Console, style: str, what: str, paths: list[str]) -> None:
    """Name the paths that something is to be said about, or the first of them where there are many."""
    for path in paths[:NAMED]:
        screen.print(Text(f"{what}: {printable(path)}", style=style), soft_wrap=True)
    if len(paths) > NAMED:
        screen.print(Text(f"{what}: {len(paths) - NAMED:,} more", style=style), soft_wrap=True)


def counted(number: int, noun: str) -> str:
    """Return ``1 file``, ``2 files``, ``3 processes``."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
