"""Shared memory: /dev/shm, the names that this user's files have there, and what to say where it cannot be used.

All files are flat, of mode 0600, and named after the segment that they stand beside::

    shmq-UID.NAME                         the segment
    sem.shmq-UID.NAME+NONCE.items|space   the semaphores on which consumers and producers sleep
    shmq-UID.NAME+NONCE.KEY               a side segment with one message that was too large for a slot
    shmq-UID.NAME+NONCE.dead/             the queue's dead letters (shmq/_store/dead_letters.py), the one folder, mode 0700
    shmq-UID.NAME+NONCE.PORT.bell         the bell of a port (shmq/_native/bell.h)
    shmq-UID.NAME+NONCE.backlog           messages that found the ring of a queue without a bound full (shmq/_store/backlog.py)
    shmq-UID.NAME+NONCE.workers           the board of a worker pool (shmq/executor/_board.py)
    .shmq-UID.lock                        the user's lock file (shmq/_native/owner.h)

The user's number stands in each name, since a queue is one user's: two users may use one name, each for a queue of its own.

/dev/shm is one folder for all users, where each of these names can be read or guessed. Another user may put something under
it: a file of their own, a link to one of ours, a FIFO that blocks a process that opens it. Hence two rules, which
shmq/_native/files.h keeps for the engine:

- A file is used only if it is this user's, of the expected kind, without permissions for others, and under one name. That is
  asked of the open descriptor, and what is in a folder is reached from the folder's descriptor.
- What is another user's is never listed, read, followed or removed, and no reason to fail. Only a caller that needs that
  name is told what is in its way.
"""

from __future__ import annotations

import errno
import os

from shmq._errors import NoSharedMemory, OutOfMemory

__all__ = ["SEMAPHORE", "SEPARATOR", "SHM", "check_shared_memory", "failure", "lock_file", "prefix", "without_memory"]

SHM = "/dev/shm"  # glibc's place for POSIX names
SEPARATOR = "+"  # not allowed in the names of queues: what stands behind it belongs to one incarnation of a segment
SEMAPHORE = "sem."


def prefix() -> str:
    """What the names of all files of this user's queues begin with; those of semaphores after "sem."."""
    return f"shmq-{os.geteuid()}."


def what_there_is() -> str:
    """Where to look for a segment that was not found, in words."""
    return f"`shmq ls` lists those of user {os.geteuid()} in this {SHM}"


def lock_file() -> str:
    """The path of the file by whose locks the kernel tells which processes live."""
    return f"{SHM}/.shmq-{os.geteuid()}.lock"


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
    if "maximum number of files open" in words:
        return errno.EMFILE
    return errno.ENFILE if "limit on the total number of open files" in words else 0


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
