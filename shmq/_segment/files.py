"""Files: the one way to open, map, read, make and write a file in /dev/shm.

Which files there are, and whose: shmq/_segment/shared_memory.py. A file is used once its open descriptor was asked whether
only this user can have made it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Sequence

import posix_ipc

from shmq import _core
from shmq._errors import SegmentForeign, SegmentMismatch, SegmentNotFound
from shmq._segment.shared_memory import SHM, failure, prefix, what_there_is, without_memory

__all__ = ["check", "identity_of", "make_file", "map_file", "open_file", "read_or_map", "size_of", "status_of", "write_file"]

MODE = 0o600
SMALL = 256 << 10  # bytes that are read faster than they are mapped
SAFELY = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def check(found: os.stat_result, file: str, is_kind: Callable[[int], bool] = stat.S_ISREG) -> None:
    """Raise SegmentMismatch or SegmentForeign unless this is what only this user can have made."""
    if not is_kind(found.st_mode):
        kind = "folder" if is_kind is stat.S_ISDIR else "regular file"
        raise SegmentMismatch(f"{file} in {SHM} is no {kind}: refused. shmq did not make it: remove it by hand")
    if found.st_uid != os.geteuid():
        raise SegmentForeign(
            f"{file} in {SHM} belongs to user {found.st_uid}, this process runs as {os.geteuid()}: refused. "
            "Its owner or root must remove it"
        )
    if found.st_mode & 0o077:
        mode = f"{stat.S_IMODE(found.st_mode):#o}"
        raise SegmentForeign(f"{file} in {SHM} has mode {mode}: others may have written to it; refused. Remove it by hand")
    if found.st_nlink > 1 and is_kind is stat.S_ISREG:
        raise SegmentForeign(
            f"{file} in {SHM} has {found.st_nlink} names: it may be another file of this user's; refused. Remove this one by hand"
        )


def open_file(file: str, flags: int = os.O_RDWR, folder: int | None = None) -> tuple[int, os.stat_result]:
    """A descriptor of an existing regular file, once it is known to be this user's alone; and what it was then.

    **Raises** SegmentNotFound, SegmentForeign, SegmentMismatch, NoSharedMemory, OSError where descriptors have run out.
    """
    try:
        fd = os.open(f"{SHM}/{file}" if folder is None else file, flags | SAFELY, dir_fd=folder)
    except FileNotFoundError:
        name = file.removeprefix(prefix())
        raise without_memory() or SegmentNotFound(f"there is no segment {name!r}: make it first; {what_there_is()}") from None
    except PermissionError:
        raise SegmentForeign(f"{file} in {SHM} may not be opened by this user: its owner or root must remove it") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV):  # a link, a folder, a socket, a device
            raise SegmentMismatch(
                f"{file} in {SHM} is no regular file: {error.strerror}. shmq did not make it: remove it by hand"
            ) from None
        raise failure(file, 0, error) from None
    try:
        found = os.fstat(fd)
        check(found, file)
    except BaseException:
        os.close(fd)
        raise
    return fd, found


def map_file(file: str, private: bool = False, readonly: bool = False) -> tuple[_core.Mapping, tuple[int, int]]:
    """Map an existing file; and its device and inode. **Raises** as `open_file`; BlockingIOError where it has no size yet."""
    fd, found = open_file(file, os.O_RDONLY if readonly else os.O_RDWR)
    try:
        if found.st_size == 0:
            raise BlockingIOError
        try:
            return _core.Mapping(fd, found.st_size, private, readonly), identity_of(found)
        except OSError as error:
            raise failure(file, found.st_size, error) from None
    finally:
        os.close(fd)


def identity_of(found: os.stat_result) -> tuple[int, int]:
    """What tells a file from all others, whatever its name."""
    return found.st_dev, found.st_ino


def read_or_map(file: str) -> _core.Mapping | bytearray:
    """What is in a file, read where it is small; what is written to it stays in this process. **Raises** as `map_file`."""
    fd, found = open_file(file, os.O_RDONLY)
    try:
        if 0 < found.st_size <= SMALL:
            data = bytearray(found.st_size)
            if os.readv(fd, [data]) == found.st_size:
                return data
    finally:
        os.close(fd)
    return map_file(file, private=True)[0]


def make_file(file: str, nbytes: int) -> _core.Mapping:
    """A new file of `nbytes` zeroed, reserved bytes, mapped. **Raises** OutOfMemory, FileExistsError; leaves nothing behind."""
    try:
        shared = posix_ipc.SharedMemory(f"/{file}", posix_ipc.O_CREX, mode=MODE)
    except posix_ipc.ExistentialError:
        raise without_memory() or FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), f"{SHM}/{file}") from None
    except (OSError, posix_ipc.Error) as error:
        raise without_memory() or failure(file, nbytes, error) from None
    try:
        os.fchmod(shared.fd, MODE)  # whatever the umask left of it
        # Where the file system is full, ftruncate would succeed, and the first write end in SIGBUS.
        os.posix_fallocate(shared.fd, 0, nbytes)
        return _core.Mapping(shared.fd, nbytes)
    except BaseException as error:  # also an interrupt: reserving gigabytes takes a while
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{SHM}/{file}")
        raise failure(file, nbytes, error) from None
    finally:
        shared.close_fd()


def write_file(file: str, parts: Sequence[memoryview], folder: int | None = None) -> None:
    """A new file with these bytes. **Raises** FileExistsError, OutOfMemory, NoSharedMemory; leaves nothing behind.

    By write(2): a mapping would have every page zeroed and faulted in before it is filled.
    """
    nbytes = sum(len(part) for part in parts)
    path = f"{SHM}/{file}" if folder is None else file
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFELY, MODE, dir_fd=folder)
    except FileExistsError:
        raise
    except OSError as error:
        raise failure(file, nbytes, error) from None
    try:
        os.fchmod(fd, MODE)
        for part in parts:
            while part:
                part = part[os.write(fd, part) :]
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path, dir_fd=folder)
        os.ftruncate(fd, 0)  # so that what is told to be free is what a second try would find
        raise failure(file, nbytes, error) from None
    finally:
        os.close(fd)


def status_of(file: str) -> os.stat_result | None:
    """What the name leads to, if it is this user's. Links are not followed."""
    try:
        found = os.lstat(f"{SHM}/{file}")
    except OSError:
        return None
    return found if found.st_uid == os.geteuid() else None


def size_of(file: str) -> int:
    """The bytes in a file of this user's; 0 where there is none."""
    found = status_of(file)
    return found.st_size if found is not None and stat.S_ISREG(found.st_mode) else 0
