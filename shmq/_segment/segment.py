"""A segment: its name, its files, and the memory that is mapped. Nothing about what is in it."""

from __future__ import annotations

import contextlib
import os
import re
from functools import cache
from typing import TYPE_CHECKING

from shmq import _core
from shmq._errors import NoSharedMemory, PayloadLost, SegmentCorrupt, SegmentForeign, SegmentMismatch, SegmentNotFound
from shmq._segment import entries, files, semaphores
from shmq._segment.kinds import kind_of
from shmq._segment.shared_memory import SEPARATOR, SHM, prefix

if TYPE_CHECKING:
    from shmq._segment.config import Header

SIDES = ("items", "space")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
LONGEST_NAME = 200
SIDE_KEY = re.compile("[0-9a-f]{16}")


class Segment:
    """One mapped segment of any kind. The mapping lives as long as somebody holds its buffer.

    **Raises** SegmentMismatch where the kind is unknown, SegmentCorrupt where what it holds contradicts itself.
    """

    def __init__(self, name: str, memory: _core.Mapping, header: Header, identity: tuple[int, int]) -> None:
        self.name = name
        self.memory = memory
        self.nonce: int = header["nonce"]
        self.anonymous: bool = header["anonymous"]
        self.creator: int = header["creator"]
        self.creator_pid: int = header["creator_pid"]
        self.created_at: float = header["created_at"]
        self.kind = kind_of(header)
        self.config = self.kind.config_of(memory, header)  # what it was made with
        self.ports: int = header["ports"]
        self.lifetime: str = self.config.lifetime
        self.identity = identity  # device and inode
        self.made = False  # by the handle that has it
        # What the names of all files begin with that stand beside this segment.
        self.beside = f"{file_of(name)}{SEPARATOR}{self.nonce:016x}"

    def __str__(self) -> str:
        """What messages call it."""
        return f"{self.kind.noun} {self.name!r}"

    @property
    def path_prefix(self) -> str:
        """What the paths of all files begin with that stand beside this segment."""
        return f"{SHM}/{self.beside}"

    def file(self, what: str) -> str:
        """The name of the file beside this segment that ends like this."""
        return f"{self.beside}.{what}"

    def is_current(self) -> bool:
        """Does its name still lead to it?"""
        return self.identity_at_name() == self.identity

    def is_replaced(self) -> bool:
        """Does its name lead to another segment? Not where it leads nowhere: that may be wanted."""
        with contextlib.suppress(OSError):
            return self.identity_at_name() not in (self.identity, None)
        return False

    def identity_at_name(self) -> tuple[int, int] | None:
        """Device and inode of what its name leads to now; None where that is nothing."""
        try:
            return files.identity_of(os.lstat(f"{SHM}/{file_of(self.name)}"))
        except FileNotFoundError:
            return None

    def is_out_of_sight(self) -> bool:
        """Does this process see another /dev/shm than the segment's? Then what it does not find there may exist all the same."""
        try:
            return os.stat(SHM).st_dev != self.identity[0] and not self.is_current()
        except FileNotFoundError:
            return True

    def out_of_sight(self) -> NoSharedMemory:
        """The exception for a segment that is out of sight."""
        return NoSharedMemory(
            f"this process sees another {SHM} than that in which {self} is: its root was changed (chroot), or "
            f"something was mounted there since it opened the {self.kind.noun}"
        )

    # -- semaphores: those of the two sides, at which processes wait -------------------------------------------------------------

    def semaphore_name(self, side: int) -> str:
        """POSIX name of the semaphore of a side: 0 items, 1 space."""
        return f"/{self.beside}.{SIDES[side]}"

    def missing_semaphores(self) -> list[str]:
        """The sides whose semaphores are gone. Raises SegmentForeign, SegmentMismatch where something else has such a name."""
        return [name for side, name in enumerate(SIDES) if not semaphores.has_semaphore(self.semaphore_name(side))]

    def repair_semaphores(self) -> list[str]:
        """Make the semaphores again that are gone, under the name's lock; return their sides. Raises as `missing_semaphores`."""
        gone = self.missing_semaphores()
        for name in gone:
            semaphores.make_semaphore(self.semaphore_name(SIDES.index(name)))
        return gone

    # -- side segments: a file for each message that is too large for a slot -----------------------------------------------------

    def side_file(self, key: bytes) -> str:
        """The name of the side segment with this key. Raises SegmentCorrupt where it can be none."""
        text = key.decode("ascii", "replace")
        if not SIDE_KEY.fullmatch(text):
            raise SegmentCorrupt(f"a message in {self} names an impossible side segment: unlink it and create it again")
        return self.file(text)

    def write_side(self, key: bytes, parts: list[memoryview]) -> None:
        """A new side segment with these bytes, which `open_side` finds by the key. Raises OutOfMemory, FileExistsError."""
        files.write_file(self.side_file(key), parts)

    def open_side(self, key: bytes) -> _core.Mapping | bytearray:
        """Map a side segment, or read a small one: what is written to it stays in this process.

        **Raises** PayloadLost; NoSharedMemory where this process sees another /dev/shm; OSError or MemoryError where it has no
        descriptor or no memory for it.
        """
        try:
            return files.read_or_map(self.side_file(key))
        except BlockingIOError:
            raise PayloadLost(f"the side segment of a message in {self} is empty: its payload is lost") from None
        except SegmentNotFound:
            if self.is_out_of_sight():  # it is lost to this process alone
                raise self.out_of_sight() from None
            raise PayloadLost(f"the side segment of a message in {self} is gone: its payload is lost") from None
        except (SegmentForeign, SegmentMismatch) as error:
            raise PayloadLost(f"the side segment of a message in {self} is not what was written: {error}") from None

    def side_bytes(self, key: bytes) -> int:
        """The size of a side segment; 0 of one that is gone, as those of acked messages are."""
        return files.size_of(self.side_file(key)) if SIDE_KEY.fullmatch(key.decode("ascii", "replace")) else 0

    def remove_side(self, key: bytes) -> None:
        """Remove a side segment; one that is gone already is no error."""
        entries.remove(self.side_file(key))


def check_name(name: str, noun: str = "queue", longest: int = LONGEST_NAME) -> str:
    """The name, if it can be one. Raises ValueError or TypeError that says what a name is."""
    if not isinstance(name, str):
        raise TypeError(f"a {noun}'s name is a str, not {type(name).__name__}")
    if not NAME.fullmatch(name) or len(name) > longest:
        raise ValueError(
            f"{name!r} cannot name a {noun}: a name has 1 to {longest} letters, digits, '.', '_' or '-', "
            "and begins with a letter or digit"
        )
    return name


def file_of(name: str) -> str:
    """The name of a segment's file."""
    return f"{prefix()}{name}"


@cache  # no process outlives it
def boot_id() -> bytes:
    """The kernel's random id of this boot: a segment of another boot is stale."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))
