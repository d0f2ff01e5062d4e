"""Files: what lies in /dev/shm under the names of this user's queues, and the one way to open, make, list and remove it.

All of them are flat, of mode 0600, and named after the segment that they stand beside::

    shmq-UID.NAME                         the segment
    sem.shmq-UID.NAME+NONCE.items|space   the semaphores on which consumers and producers sleep
    shmq-UID.NAME+NONCE.KEY               a side segment with one message that was too large for a slot
    shmq-UID.NAME+NONCE.dead/             the queue's dead letters (shmq/_store/dead_letters.py), the one folder, mode 0700
    shmq-UID.NAME+NONCE.PORT.bell         the bell of a port (shmq/_native/bell.h)
    shmq-UID.NAME+NONCE.backlog           messages that found the ring of a queue without a bound full (shmq/_store/backlog.py)
    shmq-UID.NAME+NONCE.workers           the board of a worker pool (shmq/executor/_board.py)
    .shmq-UID.lock                        the user's lock file (shmq/_native/owner.h)

The user's number stands in each name, since a queue is one user's: two users may use one name, each for a queue of its own.

/dev/shm is one folder for all users. Each of these names can be read there or guessed, so another user may put something under
it: a file of their own, a link to one of ours, a FIFO that blocks whoever opens it. Hence two rules, which
shmq/_native/files.h keeps for the engine:

- A file is used only if it is this user's, of the expected kind, without permissions for others, and under one name. That is
  asked of the open descriptor, and what is in a folder is reached from the folder's descriptor.
- What is another user's is never listed, read, followed or removed, and no reason to fail. Only a caller that needs that
  name is told what is in its way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Sequence

import posix_ipc

from shmq import _core
from shmq._errors import NoSharedMemory, OutOfMemory, SegmentForeign, SegmentMismatch, SegmentNotFound

__all__ = ["SEPARATOR", "SHM", "Folder", "list_files", "make_file", "map_file", "open_file", "prefix", "remove"]

SHM = "/dev/shm"  # glibc's place for POSIX names
SEPARATOR = "+"  # not allowed in the names of queues: what stands behind it belongs to one incarnation of a segment
SEMAPHORE = "sem."
MODE = 0o600
SMALL = 256 << 10  # bytes that are read faster than they are mapped
SAFELY = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def prefix() -> str:
    """What the names of all files of this user's queues begin with; those of semaphores after "sem."."""
    return f"shmq-{os.geteuid()}."


def lock_file() -> str:
    """The path of the file by whose locks the kernel tells which processes live."""
    return f"{SHM}/.shmq-{os.geteuid()}.lock"


# -- what is ours, and what is wrong -------------------------------------------------------------------------------------------


def check(found: os.stat_result, file: str, is_kind: Callable[[int], bool] = stat.S_ISREG) -> None:
    """Raise SegmentMismatch or SegmentForeign unless this is what only this user can have made."""
    if not is_kind(found.st_mode):
        raise SegmentMismatch(f"{file} in {SHM} is no {'folder' if is_kind is stat.S_ISDIR else 'regular file'}: refused")
    if found.st_uid != os.geteuid():
        raise SegmentForeign(f"{file} in {SHM} belongs to user {found.st_uid}, this process runs as {os.geteuid()}: refused")
    if found.st_mode & 0o077:
        raise SegmentForeign(f"{file} in {SHM} has mode {stat.S_IMODE(found.st_mode):#o}: others may have written to it; refused")
    if found.st_nlink > 1 and is_kind is stat.S_ISREG:
        raise SegmentForeign(f"{file} in {SHM} has {found.st_nlink} names: it may be another file of this user's; refused")


def failure(file: str, nbytes: int, error: BaseException) -> BaseException:
    """What to raise for an error of the system that was met with a file: in words, where something can be done about it."""
    if not isinstance(error, OSError):
        return error
    number = out_of_descriptors(error) or error.errno
    if number == errno.ENOMEM:
        return OutOfMemory(
            f"{file} needs {nbytes:,} bytes of address space, and this process may not have so many more: "
            "use fewer or smaller slots, or raise its limit (`ulimit -v`, RLIMIT_AS)"
        )
    if number in (errno.EMFILE, errno.ENFILE):
        return OSError(number, os.strerror(number), f"{SHM}/{file}")
    if number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        space = os.statvfs(SHM)
        free, size = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
        enough = max((size - free + nbytes - 1).bit_length() - 20, 6)  # MiB, as a power of two
        return OutOfMemory(
            f"{file} needs {nbytes:,} bytes, and {SHM} has {free:,} free of {size:,}: "
            "use fewer or smaller slots, take what waits (messages larger than a slot lie there too), unlink what is no longer "
            "used (`shmq ls`), or enlarge it "
            f"(Docker: --shm-size={1 << enough}m; elsewhere `mount -o remount,size={1 << enough}m {SHM}`)"
        )
    return without_memory() or error


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


def without_memory() -> NoSharedMemory | None:
    """What to say where /dev/shm is not there, or nothing can be made in it; None where it can be used."""
    if os.access(SHM, os.W_OK | os.X_OK, effective_ids=True):
        return None
    if not os.path.isdir(SHM):
        what = "there is none" if not os.path.lexists(SHM) else "it is no folder"
        todo = "mount one: `mount -t tmpfs -o mode=1777 tmpfs /dev/shm`"
    elif os.statvfs(SHM).f_flag & os.ST_RDONLY:
        what, todo = "it is read-only", "remount it: `mount -o remount,rw /dev/shm`"
    else:
        what, todo = f"user {os.geteuid()} may not write to it", "give it the mode it has elsewhere: `chmod 1777 /dev/shm`"
    return NoSharedMemory(f"queues are in {SHM}, and {what}. {todo[0].upper()}{todo[1:]}, or allow it to this container")


def check_shared_memory() -> None:
    """Raise NoSharedMemory where there is no /dev/shm that this user may write to."""
    if wrong := without_memory():
        raise wrong


# -- one file ------------------------------------------------------------------------------------------------------------------


def open_file(file: str, flags: int = os.O_RDWR, folder: int | None = None) -> int:
    """A descriptor of an existing regular file, once it is known to be this user's alone.

    **Raises** SegmentNotFound, SegmentForeign, SegmentMismatch, NoSharedMemory, OSError where descriptors have run out.
    """
    try:
        fd = os.open(f"{SHM}/{file}" if folder is None else file, flags | SAFELY, dir_fd=folder)
    except FileNotFoundError:
        raise without_memory() or SegmentNotFound(f"there is no segment {file.removeprefix(prefix())!r}") from None
    except PermissionError:
        raise SegmentForeign(f"{file} in {SHM} may not be opened by this user") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV):  # a link, a folder, a socket, a device
            raise SegmentMismatch(f"{file} in {SHM} is no regular file: {error.strerror}") from None
        raise failure(file, 0, error) from None
    try:
        check(os.fstat(fd), file)
    except BaseException:
        os.close(fd)
        raise
    return fd


def map_file(file: str, private: bool = False, readonly: bool = False) -> tuple[_core.Mapping, tuple[int, int]]:
    """Map an existing file; and its device and inode. **Raises** as `open_file`; BlockingIOError where it has no size yet."""
    fd = open_file(file, os.O_RDONLY if readonly else os.O_RDWR)
    try:
        found = os.fstat(fd)
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
    fd = open_file(file, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        if 0 < size <= SMALL:
            data = bytearray(size)
            if os.readv(fd, [data]) == size:
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
        os.posix_fallocate(
            shared.fd, 0, nbytes
        )  # ftruncate would succeed on a full file system, and the first write end in SIGBUS
        return _core.Mapping(shared.fd, nbytes)
    except BaseException as error:  # also an interrupt: reserving gigabytes takes a while
        remove(file)
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


def memory_of(file: str) -> int:
    """The bytes of memory that something of this user's takes, a folder with what is in it."""
    if (found := status_of(file)) is None:
        return 0
    nbytes = found.st_blocks * 512
    if stat.S_ISDIR(found.st_mode):
        with contextlib.suppress(OSError, SegmentForeign, SegmentMismatch), Folder(file) as folder:
            nbytes += sum(os.lstat(name, dir_fd=folder.fd).st_blocks * 512 for name in folder.names())
    return nbytes


def remove(file: str) -> bool:
    """Remove whatever of this user's has this name: a file, a semaphore, a bell that nobody listens to, a folder of dead letters.

    False where there is nothing, or nothing of ours. **Raises** NoSharedMemory.
    """
    found = status_of(file)
    if found is None:
        return False
    if stat.S_ISDIR(found.st_mode):
        return file.endswith(".dead") and remove_folder(file)
    if file.endswith(".bell") and stat.S_ISFIFO(found.st_mode) and is_listened_to(file):
        return False  # its owner goes on: the bell is opened by its name, and goes with the handle
    try:
        os.unlink(f"{SHM}/{file}")
    except (FileNotFoundError, PermissionError):
        return False  # another process was quicker, and perhaps another user has put something there since
    except OSError as error:
        raise failure(file, 0, error) from None
    return True


def is_listened_to(bell: str) -> bool:
    """Has somebody opened this bell to hear it?"""
    try:
        os.close(os.open(f"{SHM}/{bell}", os.O_WRONLY | SAFELY))
    except OSError:
        return False
    return True


def list_files(*beginnings: str) -> list[str]:
    """Names of this user's files that begin with one of these, in no order. **Raises** NoSharedMemory."""
    check_shared_memory()
    names = []
    with os.scandir(SHM) as entries:
        for entry in entries:
            if entry.name.startswith(beginnings):
                with contextlib.suppress(OSError):  # unlinked while we looked
                    if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                        names.append(entry.name)
    return names


# -- semaphores ----------------------------------------------------------------------------------------------------------------


def make_semaphore(name: str) -> None:
    """A new semaphore of this POSIX name. **Raises** SegmentForeign where something has its name, OutOfMemory, NoSharedMemory."""
    file = f"{SEMAPHORE}{name[1:]}"
    try:
        posix_ipc.Semaphore(name, posix_ipc.O_CREX, mode=MODE, initial_value=0).close()
    except posix_ipc.ExistentialError:
        raise without_memory() or SegmentForeign(f"{file} is in {SHM} already, and not of this queue: refused") from None
    except (OSError, posix_ipc.Error) as error:
        raise without_memory() or failure(file, _core.PAGE, error) from None
    os.chmod(f"{SHM}/{file}", MODE)  # whatever the umask left of it; nobody else can have replaced it


def has_semaphore(name: str) -> bool:
    """Is it there? **Raises** SegmentForeign, SegmentMismatch where something else has its name."""
    file = f"{SEMAPHORE}{name[1:]}"
    try:
        check(os.lstat(f"{SHM}/{file}"), file)
    except FileNotFoundError:
        return False
    return True


def remove_semaphore(name: str) -> bool:
    """Remove it, if it is this user's."""
    return remove(f"{SEMAPHORE}{name[1:]}")


# -- folders -------------------------------------------------------------------------------------------------------------------


class Folder:
    """A private folder in /dev/shm, open: what is in it is reached from its descriptor, whatever has its name by then.

    Nobody but its user can have put anything into it, since it belongs to that user and is closed to all others.
    **Raises** FileNotFoundError, SegmentForeign, NoSharedMemory.
    """

    def __init__(self, file: str, make: bool = False) -> None:
        path = f"{SHM}/{file}"
        if make:
            make_folder(file)
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | SAFELY)
        except FileNotFoundError:
            raise without_memory() or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
        except PermissionError:
            raise SegmentForeign(f"{file} in {SHM} may not be opened by this user") from None
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise SegmentForeign(f"{file} in {SHM} is no folder: refused") from None
            raise failure(file, 0, error) from None
        try:
            check(os.fstat(self.fd), file, stat.S_ISDIR)
        except BaseException:
            os.close(self.fd)
            raise

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)

    def names(self) -> list[str]:
        """The names of all that is in it."""
        return os.listdir(self.fd)

    def has(self, name: str) -> bool:
        """Is there something of this name?"""
        try:
            os.lstat(name, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str) -> bytes:
        """All of a file. **Raises** as `open_file`."""
        with open(open_file(name, os.O_RDONLY, self.fd), "rb") as file:
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        """A new file, in place of one of this name. **Raises** OutOfMemory, NoSharedMemory."""
        with contextlib.suppress(FileNotFoundError):
            self.remove(name)
        write_file(name, [memoryview(content)], self.fd)

    def rename(self, name: str, other: str) -> None:
        """**Raises** FileNotFoundError, NoSharedMemory."""
        try:
            os.rename(name, other, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise failure(name, 0, error) from None

    def remove(self, name: str) -> None:
        """**Raises** FileNotFoundError, NoSharedMemory."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise failure(name, 0, error) from None


def make_folder(file: str) -> None:
    """A private folder; what is there already is left as it is. **Raises** OutOfMemory, NoSharedMemory."""
    try:
        os.mkdir(f"{SHM}/{file}", 0o700)
        os.chmod(f"{SHM}/{file}", 0o700)  # whatever the umask left of it
    except FileExistsError:
        pass
    except OSError as error:
        raise failure(file, _core.PAGE, error) from None


def remove_folder(file: str) -> bool:
    """Remove a folder, and what is in it and this user's."""
    with contextlib.suppress(OSError):
        os.rmdir(f"{SHM}/{file}")  # most are empty, and there may be no descriptor left
        return True
    try:
        fd = os.open(f"{SHM}/{file}", os.O_RDONLY | os.O_DIRECTORY | SAFELY)
    except OSError:
        return False
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            return False
        for name in os.listdir(fd):
            with contextlib.suppress(FileNotFoundError):
                if os.lstat(name, dir_fd=fd).st_uid == os.geteuid():
                    os.unlink(name, dir_fd=fd)
        os.rmdir(f"{SHM}/{file}")
    except OSError:  # another process was quicker, or is writing another letter now
        return False
    finally:
        os.close(fd)
    return True
