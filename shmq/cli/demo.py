"""``shmq demo``: the main job on real input, checked, beside ``multiprocessing.Queue``."""

from __future__ import annotations

import contextlib
import sysconfig
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

import shmq
from shmq.cli._job import (
    SLOT_SIZE,
    Cost,
    Crew,
    File,
    Report,
    Transport,
    files_below,
    inspect,
    multiprocessing_transport,
    pack,
    queue_costs,
    shmq_transport,
)
from shmq.cli._processes import Children, available_cpus, leaving_cleanly
from shmq.cli._screen import console, duration, fail, printable, quantity, ratio, show, size, table

__all__ = ["demo"]

COST_ROUNDS = 3
COST_SAMPLE = 128 << 20  # bytes that the cost measurement holds in memory, once per transport
REDRAW = 0.05
Step = TypeVar("Step", File, Report)
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


@click.command(short_help="Hash and compress a folder in worker processes.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False), required=False)
@click.option("--workers", type=click.IntRange(1, 64), help="Worker processes (default: one per available CPU).")
@click.option("--compare/--no-compare", default=True, help="Also do the job over multiprocessing.Queue (default).")
@click.option("--kill", is_flag=True, help="Send SIGKILL to a worker halfway through: no file may be lost.")
def demo(folder: str | None, workers: int | None, compare: bool, kill: bool) -> None:
    """Hash and compress every file below FOLDER in worker processes, and check the result.

    One process reads the files and puts them into a queue. The workers take them with leases, compute SHA-256 and the
    size that zlib makes of them, and report through a second queue. A worker that is killed on the way loses nothing:
    its lease comes back, and another worker takes the file. In the end the count and every digest are compared with a
    sequential pass; the exit status is 1 if anything differs.

    FOLDER is by default the standard library of this Python.
    """
    with leaving_cleanly():
        try:
            agreed = run(console(), folder or sysconfig.get_path("stdlib"), workers or available_cpus(), compare, kill)
        except shmq.ShmqError as failed:
            raise fail(failed) from failed
    raise SystemExit(0 if agreed else 1)


def run(screen: Console, folder: str, workers: int, compare: bool, kill: bool) -> bool:
    """Do the job in each way, show what came out, and return whether everything agreed."""
    files = files_below(folder)
    if not files:
        raise shmq.ShmqError(f"there is no regular file below {folder}")
    largest = max(file.size for file in files)
    screen.print(Text(printable(folder), style="bold"), soft_wrap=True)
    screen.print(
        f"{counted(len(files), 'file')}, {size(sum(file.size for file in files))}, the largest {size(largest)};"
        f" {counted(workers, 'worker')}"
    )
    with bars(screen) as progress:
        if compare:  # each way of doing the job shall find the files in memory, the first one too
            for file in advancing(progress, "read once", files, files):
                with contextlib.suppress(OSError):
                    pack(file.path)
        ours = in_parallel(progress, "shmq", shmq_transport(workers), files, workers, kill)
        files = [file for file in files if file.path in ours.done]
        theirs: Outcome | None = None
        costs: list[list[Cost]] = []
        if compare and files:
            theirs = in_parallel(progress, "multiprocessing.Queue", multiprocessing_transport(), files, workers, False)
            costs = costs_of_both(progress, files, workers)
        alone = one_by_one(progress, "check: one process", files)
    show(screen, results(ours, theirs, alone, costs))
    left_out = [f"{path}: {report.problem}" for path, report in ours.reports.items() if report.problem]
    complain(screen, "yellow", "left out", left_out)
    if costs:
        screen.print(how_measured(costs, workers))
        screen.print()
    if ours.deaths:
        screen.print(
            f"{counted(ours.deaths, 'worker')} killed on the way;"
            f" {counted(ours.came_back, 'file')} came back and went to another worker."
        )
    agreed = verdict(screen, "shmq", ours, alone, files)
    if theirs:
        agreed &= verdict(screen, "multiprocessing.Queue", theirs, alone, files)
    return agreed


# ---- the passes ------------------------------------------------------------------------------------------------------


def in_parallel(
    progress: Progress,
    name: str,
    opened: AbstractContextManager[Transport],
    files: list[File],
    workers: int,
    kill: bool,
) -> Outcome:
    """Let a crew do the job; with ``kill``, without one of its workers from the middle on."""
    outcome = Outcome()
    with opened as transport, Children() as children:
        crew = Crew(transport, workers, children)
        for report in advancing(progress, name, files, crew.run([file.path for file in files])):
            outcome.reports[report.path] = report
            if kill and len(outcome.reports) == max(1, len(files) // 2):
                crew.kill_one()
        if transport.survives_kills:
            outcome.came_back = transport.files.stats().redeliveries
        crew.dismiss()
    outcome.seconds, outcome.deaths = crew.seconds, crew.deaths
    return outcome


def one_by_one(progress: Progress, name: str, files: list[File]) -> Outcome:
    """Do the job here, without any queue."""
    outcome = Outcome()
    started = time.monotonic()
    for file in advancing(progress, name, files, files):
        with contextlib.suppress(OSError):
            outcome.reports[file.path] = inspect(memoryview(pack(file.path)))
    outcome.seconds = time.monotonic() - started
    return outcome


def costs_of_both(progress: Progress, files: list[File], workers: int) -> list[list[Cost]]:
    """Measure what the two queues themselves cost: for the messages that fit in a slot, and for the larger ones."""
    sample: list[File] = []
    nbytes = 0
    for file in files:
        if nbytes + file.size <= COST_SAMPLE:
            sample.append(file)
            nbytes += file.size
    small = [file.path for file in sample if file.message_size <= SLOT_SIZE]
    large = [file.path for file in sample if file.message_size > SLOT_SIZE]
    bar = progress.add_task("the queues alone", total=None, files=f"{len(sample):,}", speed="")
    with shmq_transport(workers) as ours, multiprocessing_transport() as theirs:
        costs = queue_costs([group for group in (small, large) if group], workers, COST_ROUNDS, (ours, theirs))
    progress.update(bar, total=1, completed=1)
    return costs


# ---- the screen ------------------------------------------------------------------------------------------------------


class SecondsColumn(ProgressColumn):
    """How long a pass has taken, in tenths of a second: on a fast machine some take less than one."""

    def render(self, task: Task) -> Text:
        seconds = task.finished_time if task.finished else task.elapsed
        return Text(f"{seconds or 0:5.1f} s", style="progress.elapsed")


def bars(screen: Console) -> Progress:
    """Return the progress display, which shows nothing where nobody looks."""
    return Progress(
        TextColumn("{task.description:<21}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[files]:>9} files", style="progress.download"),
        TextColumn("{task.fields[speed]:>10}", style="progress.data.speed"),
        SecondsColumn(),
        console=screen,
        disable=not screen.is_terminal,
        expand=False,
    )


def advancing(progress: Progress, name: str, files: list[File], steps: Iterable[Step]) -> Iterator[Step]:
    """Pass ``steps`` on while a bar follows them by bytes; it is redrawn now and then, not at each of them."""
    bar = progress.add_task(name, total=sum(file.size for file in files), files="0", speed="")
    started = time.monotonic()
    count, nbytes, redrawn = 0, 0, started

    def redraw() -> None:
        speed = size(nbytes / max(redrawn - started, 1e-6))
        progress.update(bar, completed=nbytes, files=f"{count:,}", speed=f"{speed}/s")

    for step in steps:
        yield step
        count, nbytes = count + 1, nbytes + step.size
        if (now := time.monotonic()) > redrawn + REDRAW:
            redrawn = now
            redraw()
    redrawn = time.monotonic()
    redraw()


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
        f" {COST_ROUNDS} rounds."
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
