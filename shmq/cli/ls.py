"""``shmq ls``: which segments there are, what is in them, and who has them open."""

from __future__ import annotations

import time
from collections import Counter
from functools import singledispatch

import click

import shmq
from shmq._core import Mapped, Observer
from shmq._observe.liveness import holders_of
from shmq._observe.look import Sight, look, older
from shmq._observe.stats import stats_of
from shmq._screen import age, printable, size
from shmq._segment.listing import memory_of_all
from shmq.cli._listing import Row, listing

__all__ = ["ls"]

HEADINGS = ("segment", "slots", "ready", "leased", "returned", "dead", "ports", "size", "age")
EXPENDABLE = ("age", "slots", "size", "ports", "dead", "returned")


@click.command(short_help="List the queues, what is in them, and who has them open.")
def ls() -> None:
    """List the segments of this user: what is in each of them, and which processes have it open.

    Looking takes no port and changes nothing: it works where every port is taken, and says why a segment cannot be used.
    READY are messages that wait, LEASED those that a process has and has not acked. RETURNED are those that came back and wait
    (or rest) to be delivered again, DEAD those that were given up. PORTS are open handles of possible ones. SIZE is what the
    segment takes of /dev/shm with all that is its.
    """
    names = shmq.list_segments()
    if others := older():
        click.echo(f"not listed: {', '.join(sorted(others))}, of an older shmq; see shmq doctor", err=True)
    if not names:
        click.echo("there are no segments", err=True)
        return
    memory = memory_of_all()
    rows = []
    for name in names:
        try:
            sight = look(name)
            rows.append(row_of(sight, size(memory.get(name, 0))))
        except shmq.SegmentNotFound:
            continue  # unlinked while we looked
        except (shmq.ShmqError, OSError) as error:  # it, or what lies beside it, was changed while we looked
            rows.append(row_of(Sight(name, "unreadable", str(error)), size(memory.get(name, 0))))
    listing(HEADINGS, rows, notes="held by", expendable=EXPENDABLE)


def row_of(sight: Sight, memory: str) -> Row:
    """A segment in figures and words."""
    problem = [f"{sight.state}: {printable(sight.problem)}"] if sight.problem else []
    if sight.observer is None:
        return Row((sight.name, *["?"] * 6, memory, "?"), problem, "red")
    segment = sight.observer.segment
    ports = f"{len(sight.observer._ports()):,}/{segment.ports:,}"
    holders = [] if problem else holders_in(sight)
    cells = (sight.name, *figures_of(sight.observer), ports, memory, age(time.time() - segment.created_at))
    return Row(cells, problem or holders, "yellow" if problem else "")


@singledispatch
def figures_of(observer: Mapped) -> tuple[str, ...]:
    """What a segment holds in figures, below the headings from "slots" to "dead": by the class of its kind's observers."""
    return ("-",) * 5


@figures_of.register
def _(queue: Observer) -> tuple[str, ...]:
    stats = stats_of(queue)
    return tuple(f"{figure:,}" for figure in (stats.capacity, stats.ready, stats.leased, stats.returned, stats.dead_letters))


def holders_in(sight: Sight) -> list[str]:
    """The processes that have a segment open, those with most handles first."""
    assert sight.observer is not None
    handles = Counter(holders_of(sight.observer).values())
    return [
        f"{printable(who)}{f', {count} handles' if count > 1 else ''}"
        for who, count in sorted(handles.items(), key=lambda holder: (-holder[1], holder[0]))
    ] or ["nobody"]
