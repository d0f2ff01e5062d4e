"""``shmq ls``: which segments there are, what is in them, and who has them open."""

from __future__ import annotations

import os
from contextlib import suppress

import click
from rich.text import Text

import shmq
from shmq import _segment
from shmq._liveness import describe
from shmq._segment import SEPARATOR, SHM
from shmq.cli._screen import console, printable, show, size, table

__all__ = ["ls"]


@click.command()
def ls() -> None:
    """List the segments of this user: what is in each of them, and which processes have it open."""
    screen = console()
    names = shmq.list_segments()
    if not names:
        click.echo("there are no segments", err=True)
        return
    shown = table("segment", "capacity", "ready", "leased", "ports", "size")
    shown.add_column("held by", overflow="fold")  # the one that gives way on a narrow terminal
    unusable = []
    for name in names:
        try:
            with shmq.Queue._inspect(_segment.attach(name)) as queue:
                stats, pids = queue.stats(), [pid for _, _, pid, _, _ in queue._ports()]
        except shmq.SegmentNotFound:
            continue  # unlinked while we looked
        except shmq.ShmqError as error:
            unusable.append(error)
            shown.add_row(name, "?", "?", "?", "?", size(nbytes(name)), type(error).__name__)
            continue
        pids.remove(os.getpid())  # the port through which we looked
        held_by = [printable(describe(pid)) for pid in sorted(set(pids))] or ["nobody"]
        figures = (stats.capacity, stats.ready + stats.returned, stats.leased, len(pids))
        separator = "\n" if screen.is_terminal else ", "
        shown.add_row(name, *(f"{figure:,}" for figure in figures), size(nbytes(name)), Text(separator.join(held_by)))
    show(screen, shown)
    for problem in unusable:
        click.echo(f"{type(problem).__name__}: {problem}", err=True)


def nbytes(name: str) -> int:
    """Return the memory of a segment, and of its messages that were too large for a slot."""
    own = f"{_segment.prefix()}{name}"
    total = 0
    with suppress(OSError), os.scandir(SHM) as entries:
        for entry in entries:
            if entry.name == own or entry.name.startswith(f"{own}{SEPARATOR}"):
                total += entry.stat().st_size
    return total
