"""Anonymous segments: made, named, and removed where their creator was killed before it could do it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from shmq import _core
from shmq._errors import ShmqError
from shmq._segment import files, lifecycle
from shmq._segment.listing import list_segments
from shmq._segment.segment import Segment, file_of

if TYPE_CHECKING:
    from shmq._segment.config import Config
    from shmq._segment.kinds import Kind

ANONYMOUS_PREFIX = "anon."


def anonymous_name() -> str:
    """A name for a segment that nobody finds by name."""
    return f"{ANONYMOUS_PREFIX}{os.getpid()}.{os.urandom(4).hex()}"


class AnonymousReaper:
    """Removes anonymous segments whose creator was killed before it could: with each segment that is made it looks at some.

    It lists all segments once, and again after a number of creations that grows with the list. So a creation costs the same
    however many segments there are.
    """

    LOOKS = 16  # segments that are looked at with each creation

    def __init__(self) -> None:
        self.names: list[str] = []
        self.rest = 0  # creations before all are listed again

    def reap(self) -> list[str]:
        """Look at some, remove what is left over; return their names."""
        if not self.names:
            if self.rest > 0:
                self.rest -= 1
                return []
            names = [name for name in list_segments() if name.startswith(ANONYMOUS_PREFIX)]
            self.rest = len(names) // self.LOOKS
            self.names = sorted(names, key=seems_abandoned)  # those last, which are looked at first
        looked_at, self.names = self.names[-self.LOOKS :], self.names[: -self.LOOKS]
        return list(filter(remove_if_left_over, looked_at))


reap_anonymous = AnonymousReaper().reap


def create(kind: Kind[Any], config: Config) -> Segment:
    """A new segment that nobody finds by name; where nothing else was asked for, it goes with its creator.

    **Raises** OutOfMemory, ValueError.
    """
    reap_anonymous()
    config.given.setdefault("lifetime", "creator")
    return lifecycle.create(anonymous_name(), kind, config, anonymous=True)


def seems_abandoned(name: str) -> bool:
    """Is there no process of the pid in the name? A hint: in another pid namespace there may be."""
    try:
        os.kill(int(name.removeprefix(ANONYMOUS_PREFIX).partition(".")[0]), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return True
    except PermissionError:
        pass
    return False


def remove_if_left_over(name: str) -> bool:
    """Remove an anonymous segment that nobody will use again; not one that a process is opening at this moment."""
    try:
        if not is_left_over(name):
            return False
        with lifecycle.NameLock(name, patience=0):
            return is_left_over(name) and lifecycle.remove(name)  # it may have been opened between the look and the lock
    except (ShmqError, OSError):
        return False  # another process has it locked, or it is not ours to judge


def is_left_over(name: str) -> bool:
    """Has an anonymous segment outlived its users? **Raises** as `map_file`, and SegmentMismatch, SegmentCorrupt."""
    memory, _ = files.map_file(file_of(name))
    header = _core.read_header(memory)
    if header is None or not header["anonymous"] or header["lock_inode"] != _core.lock_inode():
        return False  # beside another lock file, the living look dead
    return lifecycle.outlived(header, memory)
