"""``shmq ls``: which segments there are, what is in them, and who has them open."""

from __future__ import annotations

import os
from contextlib import suppress

import click

import shmq
from shmq.cli._screen import console, show, size, table

__all__ = ["holders", "ls"]

FOLDER = "/dev/shm"
PREFIX = "shmq."


@click.command()
def ls() -> None:
    """List the segments of this machine: what is in each of them, and which processes have it open."""
    screen = console()
    names = sorted(shmq.list_segments())
    if not names:
        click.echo("there are no segments", err=True)
        return
    shown = table("segment", "capacity", "ready", "leased", "ports", "size", "held by")
    shown.columns[-1].justify = "left"
    held = holders()
    for name in names:
        shown.add_row(name, *figures(name), size(nbytes(name)), ", ".join(held.get(name, [])) or "nobody")
    show(screen, shown)


def figures(name: str) -> tuple[str, ...]:
    """Return capacity, ready, leased and ports of a queue, or what stood in the way of looking."""
    try:
        with shmq.Queue.attach(name) as queue:
            stats = queue.stats()
    except shmq.ShmqError as error:
        return type(error).__name__, "", "", ""
    return f"{stats.capacity:,}", f"{stats.ready:,}", f"{stats.leased:,}", f"{stats.ports - 1:,}"


def nbytes(name: str) -> int:
    with suppress(OSError):
        return os.stat(f"{FOLDER}/{PREFIX}{name}").st_size
    return 0


def holders() -> dict[str, list[str]]:
    """Return the processes that have each segment mapped, as ``pid name``, as far as this user may look."""
    held: dict[str, list[str]] = {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        with suppress(OSError):
            with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
                paths = {line.split(maxsplit=5)[-1].strip() for line in maps if PREFIX in line}
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                process = f"{pid} {comm.read().strip()}"
            for path in paths:
                if path.startswith(f"{FOLDER}/{PREFIX}"):
                    held.setdefault(path[len(f"{FOLDER}/{PREFIX}") :], []).append(process)
    return held
