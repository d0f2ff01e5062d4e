"""``shmq bench``: a short benchmark on the user's machine, beside the standard library.

The repository's ``benchmarks/`` has the long form, with more topologies and more peers.
"""

from __future__ import annotations

import platform
import time
from contextlib import suppress

import click

import shmq
from shmq._screen import console, duration, ratio, show, size, table
from shmq.demo.measure import ROUNDS, ROWS, Comparison, Measured, measure
from shmq.demo.processes import available_cpus, leaving_cleanly

__all__ = ["bench"]


@click.command(short_help="Measure this machine, beside multiprocessing.Queue.")
def bench() -> None:
    """Measure this machine: shmq beside multiprocessing.Queue, in a few seconds.

    One process produces, one consumes. Every message is counted and its content added up; a difference ends the command
    with exit status 1. Close other programs first: the figures are those of the machine as it is now.
    """
    screen = console()
    shown = table("one producer, one consumer", "shmq", "multiprocessing.Queue", "", "verified")
    started = time.monotonic()
    try:
        with leaving_cleanly(), screen.status("starting") as status:
            outcomes = measure()
            for row in ROWS:
                status.update(row.name)
                measured = next(outcomes)
                shown.add_row(row.name, *cells(row, measured), f"{measured.verified:,}")
    except shmq.ShmqError as failed:
        raise click.ClickException(str(failed)) from failed
    show(screen, shown)
    screen.print(
        "Batches: multiprocessing.Queue has none, so a list of 64 goes as one message there.\n"
        f"Median of {ROUNDS} rounds in which the two take turns; {time.monotonic() - started:.0f} s in all.\n"
        f"{processor()}, {available_cpus()} available · {platform.python_implementation()}"
        f" {platform.python_version()} · shmq {shmq.__version__}"
    )


def cells(row: Comparison, measured: Measured) -> tuple[str, str, str]:
    """Return both figures of a row, as bandwidth where messages are large, and how many times ours is better."""
    both = (measured.ours, measured.theirs)
    if row.nbytes:
        ours, theirs = (f"{size(row.nbytes / seconds)}/s" for seconds in both)
    else:
        ours, theirs = (duration(seconds) for seconds in both)
    return ours, theirs, ratio(*both)


def processor() -> str:
    """Return the processor's name as Linux gives it, else what Python knows."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
