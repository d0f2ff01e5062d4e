"""The doctor: what the dead, an unlucky logout or a small /dev/shm left of this user's queues.

It looks, takes no port, and changes nothing. What can be repaired is repaired by shmq/_repair.py, which goes the same way.

A process that opens a queue takes back what the dead held as well. The doctor sees the queues that nobody opens, and their files.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache, singledispatch
from glob import escape as glob_escape
from glob import glob
from typing import Literal, TypeAlias

import psutil

from shmq import _core
from shmq._core import Mapped, Observer
from shmq._errors import SegmentNotFound, ShmqError
from shmq._observe.look import Sight, look, older
from shmq._observe.verify import verify
from shmq._segment import entries, listing, shared_memory
from shmq._segment import segment as _segment
from shmq._segment.segment import Segment
from shmq._segment.shared_memory import SEMAPHORE, SEPARATOR, SHM, prefix
from shmq._store import sides
from shmq._store.dead_letters import DeadLetters

__all__ = ["Finding", "examine", "walk"]

LOGIND = ("/etc/systemd/logind.conf", "/etc/systemd/logind.conf.d/*.conf")  # the later ones win
SYSTEMD = "/run/systemd/system"
LINGER = "/var/lib/systemd/linger"
FIRST_USER = 1000  # systemd removes nothing of system users
MIB = 1 << 20
SMALL = 64 * MIB  # bytes: what a Docker container has unless it is told otherwise
NEARLY_FULL = 0.95
REMAINS = {  # what nobody can use any more, by its state
    "half-made": "that was never finished",
    "other boot": "of another boot",
    "left over": "that has outlived its users",
}
# NAME+NONCE and what comes behind it: a side segment, the dead letters, a semaphore.
BESIDE = re.compile(rf"(?:sem\.)?shmq-\d+\.(?P<name>[^+]+){re.escape(SEPARATOR)}(?P<nonce>[0-9a-f]{{16}})\.(?P<what>.+)")


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    level: Literal["repairable", "repaired", "warning", "error"]
    subject: str  # a queue's name, or a path
    text: str  # what was found, and what was done or is to be done about it


Used: TypeAlias = Callable[[], set[str]]
OfQueue: TypeAlias = Callable[[str], Iterator[Finding]]
OfStrays: TypeAlias = Callable[[str, "list[re.Match[str]]", Used], Iterator[Finding]]


def examine(names: Collection[str] = ()) -> list[Finding]:
    """Look at everything, or at the queues of these names and what is beside them; tell what was found, and change nothing."""
    return walk(names, examine_segment, examine_strays)


def walk(names: Collection[str], of_queue: OfQueue, of_strays: OfStrays) -> list[Finding]:
    """Go through everything, or through what is of these names; `of_queue` and `of_strays` look, or repair as well."""
    for name in names:
        _segment.check_name(name)
    if wrong := shared_memory.without_memory():
        return [Finding("error", SHM, str(wrong))]
    there = [name for name in listing.list_segments() if not names or name in names]
    findings = [] if names else [*examine_shared_memory(), *examine_logind(), *examine_older()]
    for name in there:
        findings += each_for_itself(name, of_queue(name))
    used = cache(listing.used_although_removed)  # which takes a look at every process
    untouched = {finding.subject for finding in findings if finding.level == "error"}
    for name, files in strays(names).items():
        if name not in untouched:  # its lock would be waited for once more
            findings += each_for_itself(name, of_strays(name, files, used))
    known = {*there, *(finding.subject for finding in findings)}
    return findings + [examine_nothing(name) for name in dict.fromkeys(names) if name not in known]


def each_for_itself(name: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """All that was found about a name. An error that ends the search is one finding more, and takes none of the others away."""
    try:
        yield from findings
    except SegmentNotFound:
        pass  # unlinked while we looked
    except (ShmqError, OSError) as error:
        yield Finding("error", name, f"{type(error).__name__}: {error}")


def number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


# -- where queues are ------------------------------------------------------------------------------------------------------


def examine_shared_memory() -> Iterator[Finding]:
    """Is /dev/shm large enough, and not full? Is its lock file the one by which this process tells the living from the dead?"""
    space = os.statvfs(SHM)
    size, free = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
    advice = "enlarge it: `mount -o remount,size=… /dev/shm`, Docker: --shm-size"
    if size <= SMALL:
        yield Finding("warning", SHM, f"it has only {size // MIB} MiB; {advice}")
    if size and free < size * (1 - NEARLY_FULL):
        yield Finding(
            "warning", SHM, f"only {free:,} of {size:,} bytes are free; unlink queues that are no longer used, or {advice}"
        )
    lock = shared_memory.lock_file()
    try:
        ours = _core.lock_inode()  # made here, where there was none
    except ShmqError as error:
        yield Finding("error", lock, str(error))
        return
    try:
        there = os.stat(lock, follow_symlinks=False).st_ino
    except FileNotFoundError:
        there = 0
    if there != ours:
        yield Finding(
            "error",
            lock,
            "it was removed, or made again, while this process had it open: processes from before and after cannot tell whether "
            "the others live. Stop all of them, unlink the queues, and start again",
        )


def examine_older() -> Iterator[Finding]:
    """What an older shmq left. Other programs may still use it."""
    for name, count in sorted(older().items()):
        yield Finding(
            "warning",
            f"{SHM}/shmq.{name}",
            f"{number(count, 'file')} of a queue that an older shmq made; this one does not use it. When no program has it open "
            f"any more, remove it: rm -rf {SHM}/shmq.{name} {SHM}/*shmq.{name}+*",
        )


def examine_logind() -> Iterator[Finding]:
    """systemd removes a user's files from /dev/shm at the last logout, unless it is told not to."""
    uid = os.geteuid()
    if uid < FIRST_USER or not os.path.isdir(SYSTEMD):
        return
    setting = "yes"  # what systemd does where nothing is said
    for pattern in LOGIND:
        for path in sorted(glob(pattern)):
            with contextlib.suppress(OSError), open(path, errors="replace") as file:
                setting = next(
                    (found[1].lower() for found in map(REMOVE_IPC.match, reversed(file.readlines())) if found), setting
                )
    if setting in ("no", "false", "0", "off"):
        return
    with contextlib.suppress(KeyError, OSError):
        if os.path.exists(f"{LINGER}/{psutil.Process().username()}"):
            return
    yield Finding(
        "warning",
        "RemoveIPC",
        "systemd removes this user's queues from /dev/shm at the last logout, also from under running processes: "
        "set RemoveIPC=no in /etc/systemd/logind.conf, or `loginctl enable-linger`",
    )


REMOVE_IPC = re.compile(r"\s*RemoveIPC\s*=\s*(\w+)")


# -- a queue ---------------------------------------------------------------------------------------------------------------


def examine_nothing(name: str) -> Finding:
    """The finding about a name that was asked for, and that no queue has."""
    others = [path.partition("-")[2].partition(".")[0] for path in glob(f"{SHM}/shmq-*.{glob_escape(name)}")]
    if others:
        return Finding("error", name, f"this user has no queue of this name; others have: user {', '.join(sorted(others))}")
    return Finding("error", name, "there is no queue of this name, and nothing left of one; `shmq ls` lists those that there are")


def examine_segment(name: str) -> Iterator[Finding]:
    """One segment, and what belongs to it, without a port."""
    sight = look(name)
    if sight.state in REMAINS:
        yield Finding("repairable", name, remains(sight))
    elif sight.state != "usable" or sight.observer is None:
        yield unusable(sight)
    else:
        yield from (Finding("repairable", name, text) for text in what_the_dead_left(sight.observer.segment))
        yield from examine_contents(sight.observer)


def remains(sight: Sight) -> str:
    return f"the remains of a queue {REMAINS[sight.state]}"


def unusable(sight: Sight) -> Finding:
    return Finding("error", sight.name, f"{sight.state}: {sight.problem}")


def what_the_dead_left(segment: Segment) -> Iterator[str]:
    """What every segment has, whatever it holds: semaphores, and ports of the dead."""
    if gone := segment.missing_semaphores():
        yield semaphores(gone)
    if pids := sorted(set(_core.attachments(segment.memory)[1])):
        yield died(pids)


@singledispatch
def examine_contents(observer: Mapped) -> Iterator[Finding]:
    """What a segment holds, by the class of its kind's observers."""
    return iter(())


@examine_contents.register
def _(queue: Observer) -> Iterator[Finding]:
    yield from (Finding("repairable", queue.name, text) for text in what_the_dead_left_in(queue))
    yield from examine_numbers(queue)


def what_the_dead_left_in(queue: Observer) -> Iterator[str]:
    """What `shmq doctor` repairs: see shmq/_repair.py, which counts again what it finds when it repairs."""
    now = _core.monotonic_ns() * 1e-9
    if count := sum(cell.state == "leased" and cell.ends is not None and cell.ends < now for cell in queue._occupied()):
        yield over(count)
    if count := queue._hopeless():
        yield hopeless(count)
    yield from map(interrupted, DeadLetters(queue)._leftovers())
    if leaked := sides.leaked(queue):
        yield leading_nowhere(len(leaked))


# What is found, in words. What was done about it follows.


def semaphores(gone: list[str]) -> str:
    return f"its semaphores ({', '.join(gone)}) were gone, as after a logout with systemd's RemoveIPC"


def died(pids: list[int]) -> str:
    return f"{number(len(pids), 'process')} (pid {', '.join(map(str, pids))}) had died"


def over(leases: int) -> str:
    return f"{number(leases, 'lease')} over, and nobody was waiting"


def hopeless(messages: int) -> str:
    return f"{number(messages, 'message')} failed too often or rejected"


def interrupted(leftover: str) -> str:
    put_back = ".out." in leftover
    what = "being put back by a process that died, perhaps after it was" if put_back else "half-written by a process that died"
    return f"dead letter {leftover.partition('.')[0]} was {what}"


def leading_nowhere(count: int) -> str:
    return f"{number(count, 'side segment')} to which no message leads"


def examine_numbers(queue: Observer) -> Iterator[Finding]:
    """What no repair mends: dead letters, about which the user decides, and broken invariants."""
    if count := len(DeadLetters(queue)):
        text = f"{number(count, 'dead letter')}: `shmq dead {queue.name}` shows them, `shmq redrive {queue.name}` puts them back"
        yield Finding("warning", queue.name, text)
    try:
        verify(queue)
    except ShmqError as error:
        yield Finding("error", queue.name, f"{error}. The queue is damaged: `shmq unlink` it, and create it again")


# -- what no queue leads to ---------------------------------------------------------------------------------------------------


def strays(names: Collection[str] = ()) -> dict[str, list[re.Match[str]]]:
    """By name, all files that stand beside queues."""
    found: dict[str, list[re.Match[str]]] = {}
    for file in filter(None, map(BESIDE.fullmatch, entries.list_files(prefix(), f"{SEMAPHORE}{prefix()}"))):
        if not names or file["name"] in names:
            found.setdefault(file["name"], []).append(file)
    return found


def examine_strays(name: str, files: list[re.Match[str]], used: Used) -> Iterator[Finding]:
    """Files beside a queue that is gone, or that was made again since."""
    try:
        observer = look(name).observer
    except SegmentNotFound:
        observer = None
    old = of_no_queue(files, None if observer is None else observer.segment)
    if old and name in used():
        yield still_open(name, old)
    elif old:
        yield Finding("repairable", name, astray(len(old)))


def of_no_queue(files: list[re.Match[str]], segment: Segment | None) -> list[str]:
    """Which of the files beside queues of a name are not this segment's."""
    nonce = "" if segment is None else f"{segment.nonce:016x}"
    return [file.string for file in files if file["nonce"] != nonce]


def still_open(name: str, old: list[str]) -> Finding:
    text = f"{number(len(old), 'file')} of a queue that was unlinked, but is still open in some process: left alone"
    return Finding("warning", name, text)


def astray(count: int) -> str:
    return f"{number(count, 'file')} (semaphore, side segment, dead letters) of a queue that is gone"
