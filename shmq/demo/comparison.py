"""The demo on its screen: the same job over shmq, over ``multiprocessing.Queue`` and in one process, and what came out."""

from __future__ import annotations

import contextlib
import time
from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

import shmq
from shmq._screen import printable, show, size
from shmq.demo.costs import ROUNDS, Cost, queue_costs
from shmq.demo.files import File, files_below, inspect, pack
from shmq.demo.job import Job
from shmq.demo.processes import Children
from shmq.demo.progress import advancing, bars
from shmq.demo.results import Outcome, complain, counted, how_measured, results, verdict
from shmq.demo.transports import SLOT_SIZE, Transport, multiprocessing_transport, shmq_transport

__all__ = ["run"]

COST_SAMPLE = 128 << 20  # bytes that the cost measurement holds in memory, once per transport


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


def in_parallel(
    progress: Progress,
    name: str,
    opened: AbstractContextManager[Transport],
    files: list[File],
    workers: int,
    kill: bool,
) -> Outcome:
    """Let worker processes do the job; with ``kill``, without one of its workers from the middle on."""
    outcome = Outcome()
    with opened as transport, Children() as children:
        job = Job(transport, workers, children)
        for report in advancing(progress, name, files, job.run([file.path for file in files])):
            outcome.reports[report.path] = report
            if kill and len(outcome.reports) == max(1, len(files) // 2):
                job.kill_one()
        if transport.survives_kills:
            outcome.came_back = transport.files.stats().redeliveries
        job.end()
    outcome.seconds, outcome.deaths = job.seconds, job.deaths
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
        costs = queue_costs([group for group in (small, large) if group], workers, ROUNDS, (ours, theirs))
    progress.update(bar, total=1, completed=1)
    return costs
