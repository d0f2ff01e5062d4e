"""Looking at segments from outside: what each is, also one that cannot be used, without a port and without changing it.

A process that attaches takes a port, waits for locks and takes back what the dead held; and it may find no port free. A look does
none of that: it maps the file for reading, checks it, and reads.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from shmq import _core
from shmq._core import Mapped
from shmq._errors import NoSharedMemory, SegmentCorrupt, SegmentForeign, SegmentMismatch, SegmentNotFound, ShmqError
from shmq._segment import entries, files, lifecycle, segment
from shmq._segment.segment import Segment

__all__ = ["Sight", "look", "older"]

OLDER = re.compile(r"(?:sem\.)?shmq\.([A-Za-z0-9][A-Za-z0-9._-]*)(?:\+.*)?")
UNUSABLE = {SegmentMismatch: "mismatch", SegmentForeign: "foreign", SegmentCorrupt: "damaged"}


class Sight(NamedTuple):
    """A segment as it was found."""

    name: str
    # "usable", "half-made", "other boot", "left over", "other lock file", "mismatch", "unknown kind", "damaged", "foreign" or
    # "unreadable"
    state: str
    problem: str = ""  # why it cannot be used, in words
    observer: Mapped | None = None  # where its numbers can be read


def look(name: str) -> Sight:
    """The segment of this name. **Raises** SegmentNotFound, NoSharedMemory, ValueError for what can be no name."""
    segment.check_name(name)
    try:
        memory, identity = files.map_file(segment.file_of(name), readonly=True)
        header = _core.read_header(memory)
    except (SegmentNotFound, NoSharedMemory):
        raise
    except BlockingIOError:
        header = None
    except ShmqError as error:
        return Sight(name, UNUSABLE.get(type(error), "unreadable"), str(error))
    if header is None:
        return Sight(name, "half-made", "it is being made at this moment, or whoever made it was killed before it was finished")
    state, problem = "usable", ""
    if header["boot_id"] != segment.boot_id():
        state, problem = "other boot", "it was made before the machine was last booted: its messages are those of that time"
    elif header["lock_inode"] != lock_inode():
        state, problem = "other lock file", "it was made beside another lock file: whether its users live cannot be told"
    elif lifecycle.outlived(header, memory):
        state, problem = "left over", "it was to go with its creator, or with its last handle, and those are gone"
    try:
        found = Segment(name, memory, header, identity)
        observer = found.kind.observer()
        observer._observe(found)
    except SegmentMismatch as error:
        return Sight(name, "unknown kind", str(error))
    except SegmentCorrupt as error:  # or it is being written over
        return Sight(name, "damaged", str(error))
    return Sight(name, state, problem, observer)


def older() -> dict[str, int]:
    """Names of this user's queues that an older shmq made, whose files bore no user's number, and how many files each has."""
    found: dict[str, int] = {}
    for name in filter(None, map(OLDER.fullmatch, entries.list_files("shmq.", "sem.shmq."))):
        found[name[1]] = found.get(name[1], 0) + 1
    return found


def lock_inode() -> int:
    """The inode of the lock file, or 0 where there is none."""
    try:
        return _core.lock_inode()
    except (ShmqError, OSError):
        return 0
