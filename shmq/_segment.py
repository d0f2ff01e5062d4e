"""Segments: create, attach, list and unlink named shared memory, and nothing about what is in it.

Files, all under /dev/shm (glibc's place for POSIX names), mode 0600::

    shmq-UID.NAME                         the segment
    sem.shmq-UID.NAME+NONCE.items|space   the semaphores on which consumers and producers sleep
    shmq-UID.NAME+NONCE.KEY               a side segment with one message that was too large for a slot
    shmq-UID.NAME+NONCE.dead/             the queue's dead letters (shmq/_dead_letters.py)
    shmq-UID.NAME+NONCE.PORT.bell         the bell of a port (shmq/_native/bell.h)
    shmq-UID.NAME+NONCE.backlog           messages that found the ring of a queue without a bound full (shmq/_backlog.py)
    .shmq-UID.lock                        the user's lock file (shmq/_native/owner.h)

The user's number stands in each name, since a queue is one user's: so two users may use one name, each for a queue of its own,
and neither can take a name away from the other by accident.

Creation is atomic for those who open at the same moment: whoever opens or creates holds a named lock, which the kernel
gives back at death, so that under it a segment without its magic word is known to be abandoned half-made.
Nothing here uses ``multiprocessing``'s resource tracker, which unlinks segments behind other processes' backs.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import stat
import sys
import time
import zlib
from typing import Any

import posix_ipc

from shmq import _core
from shmq._backoff import Backoff
from shmq._errors import (
    OutOfMemory,
    PayloadLost,
    SegmentCorrupt,
    SegmentExists,
    SegmentForeign,
    SegmentMismatch,
    SegmentNotFound,
    ShmqError,
)

__all__ = ["Config", "Segment", "attach", "create", "list_segments", "open_or_create", "unlink"]

SHM = "/dev/shm"
SEPARATOR = "+"  # not allowed in names: what stands behind it belongs to one incarnation of a segment
SIDES = ("items", "space")
MODE = 0o600
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
SIDE_KEY = re.compile(r"[0-9a-f]{16}")
SMALL_SIDE = 256 << 10  # bytes that are read faster than they are mapped
LOCK_PATIENCE = 30.0
LOG_START = 4096  # where the records of a backlog begin
# What a queue has unless it is told otherwise. All slots are reserved when it is made, so large ones are fewer: the ring, and
# what is in flight beside it, take DEFAULT_BYTES each, or FEWEST slots. A container's /dev/shm has 64 MiB by default.
SLOTS = 1024
SLOT_SIZE = 1024
DEFAULT_BYTES = 16 << 20
FEWEST = 4
UNMAPPED_FD: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


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

    def __init__(self, name: str, memory: mmap.mmap, header: dict[str, Any], inode: int) -> None:
        self.name = name
        self.memory = memory
        self.nonce: int = header["nonce"]
        self.anonymous = bool(header["flags"] & _core.FLAG_ANONYMOUS)
        self.creator: int = header["creator"]
        self.creator_pid: int = header["creator_pid"]
        self.created_at: float = header["created_at"]
        self.config = config_of(header)
        self.inode = inode
        self.made = False  # … by this very handle

    @property
    def place(self) -> str:
        """What the paths of all files begin with that stand beside this very segment."""
        return f"{SHM}/{prefix()}{self.name}{SEPARATOR}{self.nonce:016x}"

    @property
    def dead_letters_path(self) -> str:
        """The folder of the queue's dead letters; it is there once there was one."""
        return f"{self.place}.dead"

    @property
    def backlog_path(self) -> str:
        """POSIX name of the log of a queue without a bound."""
        return backlog_path(self.name, self.nonce)

    def semaphore_name(self, side: int) -> str:
        """POSIX name of the semaphore of a side: 0 items, 1 space."""
        return semaphore_name(self.name, self.nonce, SIDES[side])

    def repair_semaphores(self) -> list[str]:
        """Make those anew that are gone; return which. Under the name's lock."""
        gone = [side for side in SIDES if not os.path.exists(f"{SHM}/sem.{semaphore_name(self.name, self.nonce, side)[1:]}")]
        for side in gone:
            make_semaphore(semaphore_name(self.name, self.nonce, side))
        return gone

    def side_path(self, key: bytes) -> str:
        text = key.decode("ascii", "replace")
        if not SIDE_KEY.fullmatch(text):
            raise SegmentCorrupt(f"a message in queue {self.name!r} names an impossible side segment")
        return f"/{prefix()}{self.name}{SEPARATOR}{self.nonce:016x}.{text}"

    def write_side(self, key: bytes, parts: list[memoryview]) -> None:
        """A new side segment with these bytes, which `open_side` finds by the key. Raises OutOfMemory.

        By write(2): a mapping would have every page zeroed and faulted in before it is filled.
        """
        path = self.side_path(key)
        try:
            fd = os.open(f"{SHM}{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
        except OSError as error:
            raise memory_error(path, sum(len(part) for part in parts), error) from None
        try:
            os.fchmod(fd, MODE)
            for part in parts:
                while part:
                    part = part[os.write(fd, part) :]
        except BaseException as error:
            unlink_memory(path)
            os.ftruncate(fd, 0)  # so that what is told to be free is what a second try would find
            raise memory_error(path, sum(len(part) for part in parts), error) from None
        finally:
            os.close(fd)

    def open_side(self, key: bytes) -> mmap.mmap | bytearray:
        """Map a side segment, or read a small one: what is written to it stays in this process. Raises PayloadLost."""
        try:
            small = read_small(self.side_path(key))
            if small is not None:
                return small
            memory, _ = map_memory(self.side_path(key), private=True)
        except SegmentNotFound:
            raise PayloadLost(f"the side segment of a message in queue {self.name!r} is gone: its payload is lost") from None
        return memory

    def side_bytes(self, key: bytes) -> int:
        """The size of a side segment; 0 of one that is gone, as those of acked messages are."""
        try:
            return os.stat(f"{SHM}{self.side_path(key)}").st_size
        except (FileNotFoundError, SegmentCorrupt):
            return 0

    def unlink_side(self, key: bytes) -> None:
        """Remove a side segment; one that is gone already is no error."""
        unlink_memory(self.side_path(key))


class Log:
    """The file of a queue's backlog: three words in its first page that are mapped, and what is written behind it.

    It is opened with the segment, and stays the same file when that is unlinked.
    """

    def __init__(self, segment: Segment) -> None:
        self.path = segment.backlog_path
        self.fd = -1
        try:
            memory, inode = map_memory(self.path)
            self.fd = os.open(f"{SHM}{self.path}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (SegmentNotFound, FileNotFoundError):
            raise SegmentCorrupt(
                f"the backlog of queue {segment.name!r} is gone from {SHM}: unlink the queue and create it anew"
            ) from None
        if os.fstat(self.fd).st_ino != inode:
            raise SegmentCorrupt(f"the backlog of queue {segment.name!r} was made anew while it was opened")
        self.words = memoryview(memory).cast("Q")

    def write(self, offset: int, data: bytes) -> None:
        """Raises OutOfMemory."""
        rest = memoryview(data)
        try:
            while rest:
                written = os.pwrite(self.fd, rest, offset)
                offset, rest = offset + written, rest[written:]
        except OSError as error:
            raise memory_error(self.path, len(data), error) from None

    def read(self, offset: int, nbytes: int) -> bytes:
        """So many bytes, or what there is."""
        data = os.pread(self.fd, nbytes, offset)
        while len(data) < nbytes and (more := os.pread(self.fd, nbytes - len(data), offset + len(data))):
            data += more
        return data

    def shrink(self, nbytes: int) -> None:
        """Give back what is behind so many bytes."""
        os.truncate(self.fd, nbytes)

    def punch(self, offset: int) -> None:
        """Give back what is between the first page and `offset`; that stays what it is."""
        _core.punch_hole(self.fd, LOG_START, offset // LOG_START * LOG_START - LOG_START)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


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


def prefix() -> str:
    """What the names of all files of this user's queues begin with; those of semaphores after "sem."."""
    return f"shmq-{os.geteuid()}."


def path_of(name: str) -> str:
    return f"/{prefix()}{name}"


def semaphore_name(name: str, nonce: int, side: str) -> str:
    return f"/{prefix()}{name}{SEPARATOR}{nonce:016x}.{side}"


def backlog_path(name: str, nonce: int) -> str:
    return f"/{prefix()}{name}{SEPARATOR}{nonce:016x}.backlog"


def boot_id() -> bytes:
    """The kernel's random id of this boot: a segment of another boot is stale."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))


# -- memory ------------------------------------------------------------------------------------------------------------------


def make_memory(path: str, nbytes: int) -> mmap.mmap:
    """A new shared-memory file of `nbytes` zeroed, reserved bytes. Raises OutOfMemory, FileExistsError; leaves nothing behind."""
    try:
        shared = posix_ipc.SharedMemory(path, posix_ipc.O_CREX, mode=MODE)
    except posix_ipc.ExistentialError:
        raise FileExistsError(path) from None
    except OSError as error:
        raise memory_error(path, nbytes, error) from None
    try:
        os.fchmod(shared.fd, MODE)  # whatever the umask left of it
        os.posix_fallocate(
            shared.fd, 0, nbytes
        )  # ftruncate would succeed on a full file system, and the first write end in SIGBUS
        return mmap.mmap(shared.fd, nbytes, **UNMAPPED_FD)
    except BaseException as error:  # also an interrupt: reserving gigabytes takes a while
        unlink_memory(path)
        raise memory_error(path, nbytes, error) from None
    finally:
        shared.close_fd()


def memory_error(path: str, nbytes: int, error: BaseException) -> BaseException:
    """What to raise for an error met while memory was reserved or mapped: OutOfMemory in words where that is what it was."""
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return OutOfMemory(
            f"{path[1:]} needs {nbytes:,} bytes of address space, and this process may not have so many more: "
            "use fewer or smaller slots, or raise its limit (`ulimit -v`, RLIMIT_AS)"
        )
    if isinstance(error, OSError) and out_of_descriptors(error):
        return OSError(out_of_descriptors(error), os.strerror(out_of_descriptors(error)), f"{SHM}{path}")
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EFBIG):
        return error
    space = os.statvfs(SHM)
    free, size = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    enough = max((size - free + nbytes - 1).bit_length() - 20, 6)  # MiB, as a power of two
    return OutOfMemory(
        f"{path[1:]} needs {nbytes:,} bytes, and {SHM} has {free:,} free of {size:,}: "
        "use fewer or smaller slots, take what waits (messages larger than a slot lie there too), unlink what is no longer "
        "used (`shmq ls`), or enlarge it "
        f"(Docker: --shm-size={1 << enough}m; elsewhere `mount -o remount,size={1 << enough}m {SHM}`)"
    )


def out_of_descriptors(error: OSError) -> int:
    """EMFILE or ENFILE where that is what it was, else 0: posix_ipc raises them without errno."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return error.errno
    words = str(error)
    return (
        errno.EMFILE
        if "maximum number of files open" in words
        else errno.ENFILE
        if "limit on the total number of open files" in words
        else 0
    )


def map_memory(path: str, private: bool = False, readonly: bool = False) -> tuple[mmap.mmap, int]:
    """Map an existing file, once it is known to be a regular file of this user; and its inode.

    Raises SegmentNotFound, SegmentForeign, SegmentMismatch; BlockingIOError where it has no size yet.
    """
    try:
        shared = posix_ipc.SharedMemory(path, read_only=readonly)
    except posix_ipc.ExistentialError:
        raise SegmentNotFound(f"there is no segment {path[1:].removeprefix(prefix())!r}") from None
    except posix_ipc.PermissionsError:
        raise SegmentForeign(f"{path[1:]} in {SHM} may not be opened by this user") from None
    except (OSError, ValueError) as error:  # posix_ipc: ValueError for a directory
        if isinstance(error, OSError) and out_of_descriptors(error):
            raise memory_error(path, 0, error) from None
        raise SegmentMismatch(f"{path[1:]} in {SHM} is no segment: {error}") from None
    try:
        found = os.fstat(shared.fd)
        if not stat.S_ISREG(found.st_mode):
            raise SegmentMismatch(f"{path[1:]} in {SHM} is no regular file")
        if found.st_uid != os.geteuid():
            raise SegmentForeign(
                f"{path[1:]} in {SHM} belongs to user {found.st_uid}, this process runs as {os.geteuid()}: refused"
            )
        if found.st_mode & 0o077:
            raise SegmentForeign(
                f"{path[1:]} in {SHM} has mode {stat.S_IMODE(found.st_mode):#o}: others may have written to it; refused"
            )
        if found.st_size == 0:
            raise BlockingIOError
        flags = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
        access = mmap.PROT_READ if readonly else mmap.PROT_READ | mmap.PROT_WRITE
        try:
            return mmap.mmap(shared.fd, found.st_size, flags, access, **UNMAPPED_FD), found.st_ino
        except OSError as error:
            raise memory_error(path, found.st_size, error) from None
    finally:
        shared.close_fd()


def read_small(path: str) -> bytearray | None:
    """What is in a small file; None where it is large, or not what `map_memory` would take, who says why."""
    try:
        fd = os.open(f"{SHM}{path}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
        if not ours or not 0 < found.st_size <= SMALL_SIDE:
            return None
        data = bytearray(found.st_size)
        return data if os.readv(fd, [data]) == len(data) else None
    finally:
        os.close(fd)


def unlink_memory(path: str) -> bool:
    try:
        posix_ipc.unlink_shared_memory(path)
    except posix_ipc.ExistentialError:
        return False
    return True


# -- life of a segment --------------------------------------------------------------------------------------------------------


class NameLock:
    """One opener of a name at a time, over all processes of the user."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = zlib.crc32(name.encode())  # names that collide wait for each other, no more

    def __enter__(self) -> None:
        deadline = time.monotonic() + LOCK_PATIENCE
        while not _core.try_lock(self.key):
            if time.monotonic() > deadline:
                raise ShmqError(f"another process has been opening {self.name!r} for {LOCK_PATIENCE:.0f} s: is it stopped?")
            time.sleep(0.0005)

    def __exit__(self, *exc: object) -> None:
        _core.unlock(self.key)


def find(name: str) -> Segment | None:
    """The segment of this name, or None where it is not ready. Raises as `map_memory`, and SegmentCorrupt."""
    try:
        memory, inode = map_memory(path_of(name))
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
    return Segment(name, memory, header, inode)


def outlived(header: dict[str, Any], memory: mmap.mmap) -> bool:
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
        memory = make_memory(path_of(name), nbytes)
    except OutOfMemory as error:
        shape = f"{full.slots:,} slots, and {cells:,} for what is in flight, of {full.slot_size:,} bytes each"
        raise OutOfMemory(f"a queue of {shape}: {error}") from None
    try:
        codec = (full.codec or "").encode("ascii")
        backoff = full.backoff or Backoff()
        policy = (full.lease_timeout or 0, backoff.initial, backoff.maximum, backoff.factor, backoff.jitter, full.max_deliveries)
        _core.format_segment(
            memory, full.slots, full.slot_size, cells, full.ports, nonce, flags, codec, boot_id(), os.getpid(), policy
        )
        for side in SIDES:
            make_semaphore(semaphore_name(name, nonce, side))
        if full.overflow == "grow":
            make_memory(backlog_path(name, nonce), LOG_START)
        _core.mark_ready(memory)
    except BaseException:
        for side in SIDES:  # by their names: to list the folder takes a descriptor, and there may be none
            remove_beside(f"sem.{semaphore_name(name, nonce, side)[1:]}")
        unlink_memory(backlog_path(name, nonce))
        unlink_memory(path_of(name))
        raise
    header = _core.read_header(memory)
    assert header is not None
    segment = Segment(name, memory, header, os.stat(f"{SHM}{path_of(name)}").st_ino)
    segment.made = True
    return segment


def make_semaphore(semaphore: str) -> None:
    try:
        posix_ipc.Semaphore(semaphore, posix_ipc.O_CREX, mode=MODE, initial_value=0).close()
    except OSError as error:
        raise memory_error(f"/sem.{semaphore[1:]}", mmap.PAGESIZE, error) from None
    os.chmod(f"{SHM}/sem.{semaphore[1:]}", MODE)  # whatever the umask left of it


def remove(name: str) -> bool:
    """Unlink a segment's file, semaphores and side segments; mapped ones go on until they are unmapped."""
    entries = os.listdir(SHM)  # first: where there is no descriptor left for it, nothing is removed, and a second try can be made
    entries += [entry for entry in always_beside(name) if entry not in entries]
    found = unlink_memory(path_of(name))
    beside = f"{prefix()}{name}{SEPARATOR}"
    for entry in entries:
        if entry.removeprefix("sem.").startswith(beside):
            found |= remove_beside(entry)
    return found


def always_beside(name: str) -> list[str]:
    """What was made with the segment. A listing may pass over a file while others make and remove theirs."""
    try:
        header = _core.read_header(map_memory(path_of(name))[0])
    except (ShmqError, OSError):
        return []
    if header is None:
        return []
    semaphores = [f"sem.{semaphore_name(name, header['nonce'], side)[1:]}" for side in SIDES]
    return [*semaphores, backlog_path(name, header["nonce"])[1:]]


def remove_beside(entry: str) -> bool:
    """Remove a file that stands beside a segment: a semaphore, a side segment, a bell, or the folder of its dead letters."""
    if entry.endswith(".dead"):
        return remove_folder(f"{SHM}/{entry}")
    if entry.endswith(".bell") and is_listened_to(f"{SHM}/{entry}"):
        return False  # of one who goes on: it is opened by its name, and goes with the handle
    if not entry.startswith("sem."):
        return unlink_memory(f"/{entry}")
    try:
        posix_ipc.unlink_semaphore(f"/{entry.removeprefix('sem.')}")
    except posix_ipc.ExistentialError:
        return False  # somebody else was quicker
    return True


def is_listened_to(path: str) -> bool:
    """Has somebody opened this bell to hear it?"""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW))
    except OSError:
        return False
    return True


def remove_folder(path: str) -> bool:
    """Remove a folder of dead letters and what is in it."""
    try:
        for entry in os.listdir(path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}/{entry}")
        os.rmdir(path)
    except OSError:  # somebody else was quicker, or is writing another letter this very moment
        return False
    return True


def leave(segment: Segment, ending: bool = False) -> None:
    """The creator, or a handle, is gone: remove a segment that goes with it. Nobody opens it meanwhile: under the name's lock.

    `ending`: so does this process, and the ports that it still has count no longer.
    """
    if not is_current(segment):
        return  # nor will it ever be again
    apart_from = _core.identity() if ending else 0
    with NameLock(segment.name):
        if is_current(segment) and (segment.config.lifetime == "creator" or not _core.attachments(segment.memory, apart_from)[0]):
            remove(segment.name)


def unlink(name: str) -> None:
    """Remove a queue by name. Handles that are attached go on among themselves; new ones do not find it.

    Raises SegmentNotFound, and SegmentForeign where it is another user's.
    """
    check_name(name)
    try:
        owner = os.stat(f"{SHM}{path_of(name)}", follow_symlinks=False).st_uid
    except FileNotFoundError:
        owner = os.geteuid()  # its remains may still be there
    if owner != os.geteuid():
        raise SegmentForeign(f"segment {name!r} belongs to user {owner}, this process runs as {os.geteuid()}: refused")
    with NameLock(name):  # not between two steps of somebody who opens it
        if not remove(name):
            raise SegmentNotFound(f"there is no segment {name!r}")


def is_current(segment: Segment) -> bool:
    """Does the segment's name still lead to it?"""
    try:
        return os.stat(f"{SHM}{path_of(segment.name)}", follow_symlinks=False).st_ino == segment.inode
    except FileNotFoundError:
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
    for entry in os.scandir(SHM):
        name = entry.name.removeprefix("sem.")
        if not name.startswith(prefix()):
            continue
        name = name.removeprefix(prefix()).partition(SEPARATOR)[0]
        with contextlib.suppress(OSError):  # gone while we looked, or not ours to look into
            files = [entry, *(os.scandir(entry.path) if entry.is_dir(follow_symlinks=False) else ())]
            total[name] = total.get(name, 0) + sum(file.stat(follow_symlinks=False).st_blocks * 512 for file in files)
    return total


def list_segments() -> list[str]:
    """Names of all segments in /dev/shm that this user owns, sorted."""
    names, ours = [], prefix()
    for entry in os.scandir(SHM):
        name = entry.name.removeprefix(ours)
        if entry.name.startswith(ours) and NAME.fullmatch(name):
            try:
                if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                    names.append(name)
            except FileNotFoundError:
                pass  # unlinked while we looked
    return sorted(names)


ANONYMOUS_PREFIX = "anon."


def anonymous_name() -> str:
    """A name for a queue that nobody finds by name."""
    return f"{ANONYMOUS_PREFIX}{os.getpid()}.{os.urandom(4).hex()}"


def sweep_anonymous() -> list[str]:
    """Remove anonymous segments whose creator is dead and had no time to; return their names."""
    swept = []
    for name in list_segments():
        if not name.startswith(ANONYMOUS_PREFIX):
            continue
        try:
            memory, _ = map_memory(path_of(name))
            header = _core.read_header(memory)
            if header is None or not header["flags"] & _core.FLAG_ANONYMOUS or not outlived(header, memory):
                continue
            remove(name)
            swept.append(name)
        except (ShmqError, BlockingIOError):
            continue  # not ours to judge
    return swept
