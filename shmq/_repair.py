"""Repair: what the doctor finds is put right, for all queues of this user.

It visits what shmq/_observe/doctor.py visits, which says what is wrong. A queue is repaired through a handle of its own. One
whose ports are all taken is only looked at. Repair loses no message.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import singledispatch

from shmq import _core
from shmq._core import Mapped, Observer
from shmq._errors import SegmentNotFound, TooManyPorts
from shmq._observe import doctor
from shmq._observe.doctor import Finding, number
from shmq._observe.look import Sight, look
from shmq._queue import Queue
from shmq._segment import entries, lifecycle
from shmq._segment.segment import Segment
from shmq._store import sides

__all__ = ["repair"]

PATIENCE = 2.0  # seconds for a process that has a name locked: it takes microseconds, unless it is stopped


def repair(names: Collection[str] = ()) -> list[Finding]:
    """Examine everything, or the queues of these names and what is beside them; repair what can be, and tell what was found."""
    return doctor.walk(names, repair_segment, repair_strays)


def repair_segment(name: str) -> Iterator[Finding]:
    """One segment, and what belongs to it."""
    sight = look(name)
    if sight.state in doctor.REMAINS:
        yield from remove_remains(sight)
        return
    if sight.state != "usable" or sight.observer is None:
        yield doctor.unusable(sight)
        return
    with lifecycle.NameLock(name, PATIENCE):
        segment = lifecycle.find(name)
        if segment is None:
            return  # it went while we looked
        if made := segment.repair_semaphores():
            late = "Processes that had it open before are woken up to 0.25 s late until they open it again"
            yield Finding("repaired", name, f"{doctor.semaphores(made)}: made again. {late}")
    yield from repair_contents(sight.observer, segment)


@singledispatch
def repair_contents(observer: Mapped, segment: Segment) -> Iterator[Finding]:
    """Take back what the dead held, by the class of the observers of a kind. A kind without an answer is only looked at."""
    if pids := sorted(set(_core.attachments(segment.memory)[1])):
        yield Finding("repairable", segment.name, doctor.died(pids))
    yield from doctor.examine_contents(observer)


@repair_contents.register
def _(observer: Observer, segment: Segment) -> Iterator[Finding]:
    name = segment.name
    dead = _core.attachments(segment.memory)[1]
    try:
        queue = Queue._inspect(segment)  # takes back what the dead held
    except TooManyPorts as error:
        yield Finding("error", name, f"{error}. Until one of them is closed it can only be looked at, and nothing be repaired")
        yield from doctor.examine_numbers(observer)
        return
    with queue:
        if pids := sorted(set(dead)):
            yield Finding("repaired", name, f"{doctor.died(pids)}: what they held was taken back")
        if left := sum(not port.alive for port in queue._ports()):
            yield Finding("error", name, f"{number(left, 'handle')} of the dead cannot be taken back: is the segment damaged?")
        if count := queue._expire():
            yield Finding("repaired", name, f"{doctor.over(count)}: given back")
        if count := queue._dead_letter_all():
            yield Finding("repaired", name, f"{doctor.hopeless(count)}: dead letters now")
        letters = queue.dead_letters
        for leftover in letters._leftovers():
            letters._repair(leftover)
            yield Finding("repaired", name, f"{doctor.interrupted(leftover)}: {'kept' if '.out.' in leftover else 'removed'}")
        if leaked := sides.reap_sides(queue):
            yield Finding("repaired", name, f"{doctor.leading_nowhere(leaked)}: removed")
        yield from doctor.examine_numbers(queue)


def remove_remains(sight: Sight) -> Iterator[Finding]:
    with lifecycle.NameLock(sight.name, PATIENCE):  # not in the middle of its creation
        if lifecycle.find(sight.name) is None:
            lifecycle.remove(sight.name)
            yield Finding("repaired", sight.name, f"{doctor.remains(sight)}: removed")


def repair_strays(name: str, files: list[re.Match[str]], used: doctor.Used) -> Iterator[Finding]:
    """Remove files beside a queue that is gone, or that was made again since."""
    with lifecycle.NameLock(name, PATIENCE):
        try:
            segment = lifecycle.find(name)
        except SegmentNotFound:
            segment = None
        old = doctor.of_no_queue(files, segment)
        if old and name in used():
            yield doctor.still_open(name, old)
            return
        removed = sum(map(entries.remove, old))
    if removed:
        yield Finding("repaired", name, f"{doctor.astray(removed)}: removed")
