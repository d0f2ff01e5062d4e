"""Segments: create, attach, list and unlink named shared memory, and nothing about what is in it.

Their files, and who may have put something else under a name: shmq/_files.py.

Creation is atomic for those who open at the same moment: whoever opens or creates holds a named lock, which the kernel
gives back at death, so that under it a segment without its magic word is known to be abandoned half-made.
Nothing here uses ``multiprocessing``'s resource tracker, which unlinks segments behind other processes' backs.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import zlib
from glob import glob
from typing import Any

from shmq import _core, _files
from shmq._backoff import Backoff
from shmq._errors import (
    NoSharedMemory,
    OutOfMemory,
    PayloadLost,
    SegmentCorrupt,
    SegmentExists,
    SegmentForeign,
    SegmentMismatch,
    SegmentNotFound,
    ShmqError,
)
from shmq._files import SEPARATOR, SHM, prefix

__all__ = ["Config", "Segment", "attach", "create", "list_segments", "open_or_create", "unlink"]

SIDES = ("items", "space")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
SIDE_KEY = re.compile(r"[0-9a-f]{16}")
SIDE_FILE = re.compile(rf"{re.escape(SEPARATOR)}([0-9a-f]{{16}})\.[0-9a-f]{{16}}$")
REMOVED = re.compile(rf" {re.escape(SHM)}/shmq-(\d+)\.([^+]+) \(deleted\)$")
LOCK_PATIENCE = 30.0
LOG_START = 4096  # where the records of a backlog begin
# What a queue has unless it is told otherwise. All slots are reserved when it is made, so large ones are fewer: the ring, and
# what is in flight beside it, take DEFAULT_BYTES each, or FEWEST slots. A container's /dev/shm has 64 MiB by default.
SLOTS = 1024
SLOT_SIZE = 1024
DEFAULT_BYTES = 16 << 20
FEWEST = 4


# How long a segment's name lasts: "persistent" ones until somebody unlinks them.
LIFETIMES = {"creator": _core.FLAG_WITH_CREATOR, "handles": _core.FLAG_WITH_HANDLES, "persistent": 0}


class Config:
    """What a segment was, or is to be, made with. None: whatever is there, or the default where it is made."""

    # Written out, since making a dataclass costs more than the rest of `import shmq`.
    __slots__ = (
        *("slots", "slot_size", "in_flight", "ports", "oversize", "allow_pickle", "codec"),
        *("lease_timeout", "max_deliveries", "backoff", "lifetime", "overflow"),
    )

    def __init__(
        self,
        slots: int | None = None,
        slot_size: int | None = None,
        in_flight: int | None = None,
        ports: int | None = None,
        oversize: str | None = None,
        allow_pickle: bool | None = None,
        codec: str | None = None,
        lease_timeout: float | None = None,
        max_deliveries: int | None = None,
        backoff: Backoff | None = None,
        lifetime: str | None = None,
        overflow: str | None = None,
    ) -> None:
        self.slots = slots
        self.slot_size = slot_size
        self.in_flight = in_flight
        self.ports = ports
        self.oversize = oversize
        self.allow_pickle = allow_pickle
        self.codec = codec
        self.lease_timeout = lease_timeout
        self.max_deliveries = max_deliveries
        self.backoff = backoff
        self.lifetime = lifetime
        self.overflow = overflow

    def completed(self) -> Config:
        """The defaults filled in."""
        slot_size = SLOT_SIZE if self.slot_size is None else self.slot_size
        affordable = max(FEWEST, DEFAULT_BYTES // slot_size)
        slots = min(SLOTS, affordable) if self.slots is None else self.slots
        small = slot_size < _core.PAGE
        in_flight = min(max(slots // 8, 64), 256) if small else min(max(slots, FEWEST), affordable, 64)
        return Config(
            slots=slots,
            slot_size=slot_size,
            in_flight=in_flight if self.in_flight is None else self.in_flight,
            ports=64 if self.ports is None else self.ports,
            oversize="spill" if self.oversize is None else self.oversize,
            allow_pickle=True if self.allow_pickle is None else self.allow_pickle,
            codec="" if self.codec is None else self.codec,
            lease_timeout=self.lease_timeout,
            max_deliveries=20 if self.max_deliveries is None else self.max_deliveries,
            backoff=Backoff() if self.backoff is None else self.backoff,
            lifetime="persistent" if self.lifetime is None else self.lifetime,
            overflow="block" if self.overflow is None else self.overflow,
        )

    def differences(self, found: Config) -> list[str]:
        """Each value that was asked for and is another there, in words."""
        return [
            f"{field} is {getattr(found, field)!r}, asked for {getattr(self, field)!r}"
            for field in self.__slots__
            if getattr(self, field) is not None and getattr(self, field) != getattr(found, field)
        ]


def config_of(header: dict[str, Any]) -> Config:
    """The configuration that a segment's header tells."""
    lease_timeout, initial, maximum, factor, jitter, max_deliveries = header["policy"]
    return Config(
        slots=header["slots"],
        slot_size=header["slot_size"],
        in_flight=header["cells"] - _core.reserved_cells(header["slot_size"], header["ports"]),
        ports=header["ports"],
        oversize="spill" if header["flags"] & _core.FLAG_SPILLS else "error",
        allow_pickle=bool(header["flags"] & _core.FLAG_PICKLES),
        codec=header["codec"],
        lease_timeout=round(lease_timeout, 6) or None,
        max_deliveries=max_deliveries,
        backoff=Backoff(round(initial, 6), factor, round(maximum, 6), jitter),
        lifetime=next((lifetime for lifetime, flag in LIFETIMES.items() if header["flags"] & flag), "persistent"),
        overflow="grow" if header["flags"] & _core.FLAG_GROWS else "block",
    )


class Segment:
    """One mapped segment. The mapping lives as long as somebody holds its buffer."""

    def __init__(self, name: str, memory: _core.Mapping, header: dict[str, Any], identity: tuple[int, int]) -> None:
        self.name = name
        self.memory = memory
        self.nonce: int = header["nonce"]
        self.anonymous = bool(header["flags"] & _core.FLAG_ANONYMOUS)
        self.creator: int = header["creator"]
        self.creator_pid: int = header["creator_pid"]
        self.created_at: float = header["created_at"]
        self.config = config_of(header)
        self.identity = identity  # device and inode
        self.made = False  # … by this very handle

    @property
    def beside(self) -> str:
        """What the names of all files begin with that stand beside this very segment."""
        return f"{file_of(self.name)}{SEPARATOR}{self.nonce:016x}"

    @property
    def place(self) -> str:
        """The same with the folder."""
        return f"{SHM}/{self.beside}"

    @property
    def dead_letters_file(self) -> str:
        """The folder of the queue's dead letters."""
        return f"{self.beside}.dead"

    @property
    def backlog_file(self) -> str:
        """The log of a queue without a bound."""
        return f"{self.beside}.backlog"

    def semaphore_name(self, side: int) -> str:
        """POSIX name of the semaphore of a side: 0 items, 1 space."""
        return f"/{self.beside}.{SIDES[side]}"

    def repair_semaphores(self) -> list[str]:
        """Make those anew that are gone; return which. Under the name's lock. Raises SegmentForeign, SegmentMismatch."""
        gone = [index for index in range(len(SIDES)) if not _files.has_semaphore(self.semaphore_name(index))]
        for index in gone:
            _files.make_semaphore(self.semaphore_name(index))
        return [SIDES[index] for index in gone]

    def side_file(self, key: bytes) -> str:
        text = key.decode("ascii", "replace")
        if not SIDE_KEY.fullmatch(text):
            raise SegmentCorrupt(f"a message in queue {self.name!r} names an impossible side segment")
        return f"{self.beside}.{text}"

    def write_side(self, key: bytes, parts: list[memoryview]) -> None:
        """A new side segment with these bytes, which `open_side` finds by the key. Raises OutOfMemory, FileExistsError."""
        _files.write_file(self.side_file(key), parts)

    def open_side(self, key: bytes) -> _core.Mapping | bytearray:
        """Map a side segment, or read a small one: what is written to it stays in this process.

        **Raises** PayloadLost; NoSharedMemory where this process sees another /dev/shm; OSError or MemoryError where it has no
        descriptor or no memory for it.
        """
        try:
            return _files.read_or_map(self.side_file(key))
        except BlockingIOError:
            raise PayloadLost(f"the side segment of a message in queue {self.name!r} is empty: its payload is lost") from None
        except SegmentNotFound:
            if is_out_of_sight(self):  # it is lost to this process alone
                raise out_of_sight(self) from None
            raise PayloadLost(f"the side segment of a message in queue {self.name!r} is gone: its payload is lost") from None
        except (SegmentForeign, SegmentMismatch) as error:
            raise PayloadLost(f"the side segment of a message in queue {self.name!r} is not what was written: {error}") from None

    def side_bytes(self, key: bytes) -> int:
        """The size of a side segment; 0 of one that is gone, as those of acked messages are."""
        return _files.size_of(self.side_file(key)) if SIDE_KEY.fullmatch(key.decode("ascii", "replace")) else 0

    def unlink_side(self, key: bytes) -> None:
        """Remove a side segment; one that is gone already is no error."""
        _files.remove(self.side_file(key))


# -- names and places -----------------------------------------------------------------------------------------------------


def check_name(name: str) -> str:
    """The name, if it can be one. Raises ValueError or TypeError that says what a name is."""
    if not isinstance(name, str):
        raise TypeError(f"a queue's name is a str, not {type(name).__name__}")
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a queue: a name has 1 to 200 letters, digits, '.', '_' or '-', "
            "and begins with a letter or digit"
        )
    return name


def file_of(name: str) -> str:
    """The name of a segment's file."""
    return f"{prefix()}{name}"


def boot_id() -> bytes:
    """The kernel's random id of this boot: a segment of another boot is stale."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))


# -- life of a segment --------------------------------------------------------------------------------------------------------


class NameLock(_core.NameLock):
    """One opener of a name at a time, over all processes of the user: see shmq._core.NameLock."""

    def __init__(self, name: str, patience: float | None = None) -> None:
        letters = name.encode()
        # Two sums, since names with one sum would wait for each other, and one is made to collide in a moment.
        key = zlib.crc32(letters) | zlib.crc32(letters[::-1]) << 32
        super().__init__(name, key, LOCK_PATIENCE if patience is None else patience)


def find(name: str) -> Segment | None:
    """The segment of this name, or None where it is not ready. Raises as `map_file`, and SegmentCorrupt."""
    try:
        memory, identity = _files.map_file(file_of(name))
    except BlockingIOError:
        return None
    try:
        header = _core.read_header(memory)
    except (SegmentMismatch, SegmentCorrupt) as error:
        raise type(error)(f"segment {name!r} cannot be used: {error}") from None
    if header is None:
        return None
    if header["boot_id"] != boot_id():
        return None  # of another boot: as abandoned as one that was never finished
    if header["lock_inode"] == _core.lock_inode() and outlived(header, memory):
        return None
    if header["lock_inode"] != _core.lock_inode():
        raise SegmentMismatch(
            f"segment {name!r} was made beside another lock file than {SHM}/.shmq-{os.geteuid()}.lock is now: "
            "its users cannot be told from the dead. Stop them, then `shmq unlink` it"
        )
    return Segment(name, memory, header, identity)


def outlived(header: dict[str, Any], memory: _core.Mapping) -> bool:
    """Was this segment to go with its creator or its last handle, and those are gone without having had the time to remove it?"""
    if header["flags"] & _core.FLAG_WITH_CREATOR:
        return not _core.alive(header["creator"])
    if header["flags"] & _core.FLAG_WITH_HANDLES:
        living, _, ever = _core.attachments(memory)
        return not living and (ever > 0 or not _core.alive(header["creator"]))  # 0: the creator has yet to attach
    return False


def attach(name: str) -> Segment:
    """The segment of this name. Raises SegmentNotFound and what `find` raises."""
    check_name(name)
    segment = find(name)
    if segment is None:
        with NameLock(name):  # whoever was making it has finished, or is dead
            segment = find(name)
            if segment is None:
                remove(name)
                raise SegmentNotFound(
                    f"there is no segment {name!r}: only the remains of one that was never finished, that has outlived its "
                    "creator or its last handle, or that is of another boot"
                )
    return segment


def create(name: str, config: Config, anonymous: bool = False) -> Segment:
    """A new segment. Raises SegmentExists, OutOfMemory, ValueError."""
    check_name(name)
    with NameLock(name):
        if existing(name):
            raise SegmentExists(f"there is a segment {name!r} already: attach to it, or unlink it first")
        return make(name, config, anonymous)


def open_or_create(name: str, config: Config) -> Segment:
    """The segment of this name, made with `config` where there is none. Raises SegmentMismatch naming each differing value."""
    check_name(name)
    with NameLock(name):
        return existing(name) or make(name, config, anonymous=False)


def existing(name: str) -> Segment | None:
    """The usable segment, if there is one. Remains are removed. Under the name's lock. One look: its last user may be leaving."""
    try:
        segment = find(name)
    except SegmentNotFound:
        return None
    if segment is None:
        remove(name)
    return segment


def make(name: str, config: Config, anonymous: bool) -> Segment:
    """Lay out a new segment. Under the name's lock; killed here, the next opener finds it without its magic word."""
    full = config.completed()
    assert full.slots is not None and full.slot_size is not None and full.in_flight is not None and full.ports is not None
    cells = full.in_flight + _core.reserved_cells(full.slot_size, full.ports)
    nbytes = _core.segment_bytes(full.slots, full.slot_size, cells, full.ports)
    if nbytes == 0 or full.in_flight < 1:
        raise ValueError(
            f"a queue of {full.slots:,} slots of {full.slot_size:,} bytes, {full.in_flight:,} in flight, {full.ports:,} ports "
            "cannot be: each must be at least 1, slots and in-flight messages below 2**24 together, "
            f"in_flight + ports at most {_core.MAX_CELLS:,}, ports at most 1,022, slot_size at most 2**38"
        )
    flags = (
        (_core.FLAG_SPILLS if full.oversize == "spill" else 0)
        | (_core.FLAG_PICKLES if full.allow_pickle else 0)
        | (_core.FLAG_ANONYMOUS if anonymous else 0)
        | LIFETIMES[full.lifetime or "persistent"]
        | (_core.FLAG_GROWS if full.overflow == "grow" else 0)
    )
    nonce = int.from_bytes(os.urandom(8), "little") >> 2 | 1
    try:
        memory = _files.make_file(file_of(name), nbytes)
    except OutOfMemory as error:
        shape = f"{full.slots:,} slots, and {cells:,} for what is in flight, of {full.slot_size:,} bytes each"
        raise OutOfMemory(f"a queue of {shape}: {error}") from None
    beside = f"{file_of(name)}{SEPARATOR}{nonce:016x}"
    try:
        codec = (full.codec or "").encode("ascii")
        backoff = full.backoff or Backoff()
        policy = (full.lease_timeout or 0, backoff.initial, backoff.maximum, backoff.factor, backoff.jitter, full.max_deliveries)
        _core.format_segment(
            memory, full.slots, full.slot_size, cells, full.ports, nonce, flags, codec, boot_id(), os.getpid(), policy
        )
        _files.make_folder(f"{beside}.dead")  # first: nobody knows the nonce before, and can have put a folder there
        for side in SIDES:
            _files.make_semaphore(f"/{beside}.{side}")
        if full.overflow == "grow":
            _files.make_file(f"{beside}.backlog", LOG_START)
        _core.mark_ready(memory)
    except BaseException:
        # By their names: to list the folder takes a descriptor, and there may be none.
        for file in (*always_beside(beside), file_of(name)):
            _files.remove(file)
        raise
    header = _core.read_header(memory)
    assert header is not None
    segment = Segment(name, memory, header, _files.identity_of(os.lstat(f"{SHM}/{file_of(name)}")))
    segment.made = True
    return segment


def always_beside(beside: str) -> list[str]:
    """The names of what is made with a segment."""
    return [*(f"{_files.SEMAPHORE}{beside}.{side}" for side in SIDES), f"{beside}.backlog", f"{beside}.dead"]


def remove(name: str, apart_from: int = 0) -> bool:
    """Unlink a segment's file, and what stands beside it; mapped ones go on until they are unmapped.

    Those who have it open go on among themselves, and find the large messages that wait: side segments stay until `tidy`, unless
    only the process of the identity `apart_from` is left. Raises NoSharedMemory, OSError where there is no descriptor left to
    list the folder: then nothing was removed.
    """
    files = list_beside(name)
    nonce, in_use = "", False
    try:  # a listing may pass over a file while others make and remove theirs
        memory = _files.map_file(file_of(name))[0]
        header = _core.read_header(memory)
    except (ShmqError, OSError):
        header = None
    if header is not None:
        nonce = f"{header['nonce']:016x}"
        files += always_beside(f"{file_of(name)}{SEPARATOR}{nonce}")
        in_use = header["lock_inode"] == _core.lock_inode() and _core.attachments(memory, apart_from)[0] > 0
    sides = {file: side[1] for file in files if (side := SIDE_FILE.search(file))}
    earlier = any(of != nonce for of in sides.values()) and name in used_although_removed()
    found = _files.remove(file_of(name))
    for file in dict.fromkeys(files):
        if file not in sides or not (in_use if sides[file] == nonce else earlier):
            found |= _files.remove(file)
    return found


def tidy(segment: Segment, ending: bool = False) -> None:
    """A handle of a segment that was removed is gone: unless others go on, remove what stayed beside it, or was made since."""
    if not _core.attachments(segment.memory, _core.identity() if ending else 0)[0]:
        beside = f"{segment.beside}."
        for file in dict.fromkeys(_files.list_files(beside, f"{_files.SEMAPHORE}{beside}") + always_beside(segment.beside)):
            _files.remove(file)


def used_although_removed() -> set[str]:
    """Names of queues that some process of ours has mapped although they were unlinked. Looks at every process."""
    names: set[str] = set()
    for maps in glob("/proc/[0-9]*/maps"):
        with contextlib.suppress(OSError), open(maps, errors="replace") as file:
            names.update(found[2] for found in map(REMOVED.search, file) if found and found[1] == str(os.geteuid()))
    return names


def list_beside(name: str) -> list[str]:
    """The names of this user's files beside the segments of this name, those of earlier incarnations too."""
    beside = f"{file_of(name)}{SEPARATOR}"
    return _files.list_files(beside, f"{_files.SEMAPHORE}{beside}")


def leave(segment: Segment, ending: bool = False) -> None:
    """The creator, or a handle, is gone: remove a segment that goes with it, or what is beside one that was removed.

    Nobody opens it meanwhile: under the name's lock.

    `ending`: so does this process, and the ports that it still has count no longer. A finalizer may come here in the middle of
    whatever this thread does under a name's lock: then it is done after that.
    """
    if not is_current(segment):
        tidy(segment, ending)  # nor will it ever be again
        return
    if segment.config.lifetime == "persistent":
        return
    if _core.after_name_lock(lambda: leave(segment, ending)):
        return
    apart_from = _core.identity() if ending else 0
    with NameLock(segment.name):
        if is_current(segment) and (segment.config.lifetime == "creator" or not _core.attachments(segment.memory, apart_from)[0]):
            remove(segment.name, apart_from)


def unlink(name: str) -> None:
    """Remove a queue by name. Handles that are attached go on among themselves; new ones do not find it.

    The last of them takes the large messages along that are left.

    Raises SegmentNotFound, NoSharedMemory, SegmentForeign where it is another user's, SegmentMismatch where it is a folder.
    """
    check_name(name)
    with contextlib.suppress(FileNotFoundError):  # its remains may still be there
        there = os.lstat(f"{SHM}/{file_of(name)}")
        if there.st_uid != os.geteuid():
            raise SegmentForeign(f"segment {name!r} belongs to user {there.st_uid}, this process runs as {os.geteuid()}: refused")
        if stat.S_ISDIR(there.st_mode):
            raise SegmentMismatch(f"{file_of(name)} in {SHM} is a folder, which shmq did not make: remove it by hand")
    with NameLock(name):  # not between two steps of somebody who opens it
        if not remove(name):
            raise SegmentNotFound(f"there is no segment {name!r}")


def is_current(segment: Segment) -> bool:
    """Does the segment's name still lead to it?"""
    try:
        found = os.lstat(f"{SHM}/{file_of(segment.name)}")
    except FileNotFoundError:
        return False
    return _files.identity_of(found) == segment.identity


def is_out_of_sight(segment: Segment) -> bool:
    """Does this process see another /dev/shm than the segment's? Then what it does not find there may exist all the same."""
    try:
        return os.stat(SHM).st_dev != segment.identity[0] and not is_current(segment)
    except FileNotFoundError:
        return True


def out_of_sight(segment: Segment) -> NoSharedMemory:
    """What to say then."""
    return NoSharedMemory(
        f"this process sees another {SHM} than that in which queue {segment.name!r} is: its root was changed (chroot), or "
        "something was mounted there since it opened the queue"
    )


def is_replaced(segment: Segment) -> bool:
    """Does the segment's name lead to another one by now? Not where it leads nowhere: that may be wanted."""
    try:
        return _files.identity_of(os.lstat(f"{SHM}/{file_of(segment.name)}")) != segment.identity
    except OSError:
        return False


def has_stayed(segment: Segment) -> bool:
    """Now that a port of it is attached: does the name still lead to the segment, and so for as long as the port is?

    Whoever removes one with its last handle looks for ports and removes it under the name's lock: so look under it too, lest
    this look fall between those two steps.
    """
    if segment.config.lifetime == "persistent":
        return True
    with NameLock(segment.name):
        return is_current(segment)


def memory_of_all() -> dict[str, int]:
    """Bytes of /dev/shm that each name takes: its segment, and whatever lies beside it (dead letters included). One look."""
    total: dict[str, int] = {}
    for file in _files.list_files(prefix(), f"{_files.SEMAPHORE}{prefix()}"):
        name = file.removeprefix(_files.SEMAPHORE).removeprefix(prefix()).partition(SEPARATOR)[0]
        total[name] = total.get(name, 0) + _files.memory_of(file)
    return total


def list_segments() -> list[str]:
    """Names of all segments in /dev/shm that this user owns, sorted. **Raises** NoSharedMemory."""
    names = (file.removeprefix(prefix()) for file in _files.list_files(prefix()))
    return sorted(filter(NAME.fullmatch, names))


ANONYMOUS_PREFIX = "anon."


def anonymous_name() -> str:
    """A name for a queue that nobody finds by name."""
    return f"{ANONYMOUS_PREFIX}{os.getpid()}.{os.urandom(4).hex()}"


class Sweeper:
    """Removes anonymous segments whose creator was killed before it could: some with each that is made.

    A list of all is made once, and again when so many have been made since that it costs each of them the same, however
    many segments there are.
    """

    LOOKS = 16  # segments that are looked at with each creation

    def __init__(self) -> None:
        self.names: list[str] = []
        self.rest = 0  # creations before all are listed again

    def sweep(self) -> list[str]:
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


sweep_anonymous = Sweeper().sweep


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
        with NameLock(name, patience=0):
            return is_left_over(name) and remove(name)  # it may have been opened between the look and the lock
    except (ShmqError, OSError):
        return False  # another process has it locked, or it is not ours to judge


def is_left_over(name: str) -> bool:
    """Has an anonymous segment outlived its users? **Raises** as `map_file`, and SegmentMismatch, SegmentCorrupt."""
    memory, _ = _files.map_file(file_of(name))
    header = _core.read_header(memory)
    if header is None or not header["flags"] & _core.FLAG_ANONYMOUS or header["lock_inode"] != _core.lock_inode():
        return False  # beside another lock file, the living look dead
    return outlived(header, memory)
