"""Reserve: descriptors and memory that a worker keeps, so that it can still put an outcome when it has no others left."""

from __future__ import annotations

import contextlib
import errno
import os

from shmq._errors import Full, InFlightLimit, TooManyPorts

__all__ = ["Reserve", "is_limit"]

DESCRIPTORS = 4  # as many as are open at once, at most, while a file is mapped
MEMORY = 1 << 20  # bytes: more than malloc keeps for itself, so that they go back to the kernel
LIMITS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EAGAIN}


def is_limit(error: BaseException) -> bool:
    """Does this exception say that something is lacking at the moment? Then the caller waits, does without it, or says so."""
    if isinstance(error, OSError):
        return error.errno in LIMITS
    return isinstance(error, MemoryError | InFlightLimit | TooManyPorts | Full)  # OutOfMemory is a MemoryError


class Reserve:
    """A reserve that is kept until it is spent."""

    def __init__(self) -> None:
        # Of the file to which all descriptors lead: the number of one may be another file's by then.
        self._identity: tuple[int, int] | None = None
        self._descriptors: list[int] = []
        self._memory: bytearray | None = None
        self.restore()

    def spend(self) -> None:
        """Free the memory and the descriptors."""
        self._memory = None
        while self._descriptors:
            descriptor = self._descriptors.pop()
            with contextlib.suppress(OSError):  # a task has closed all descriptors that it found
                if identity(descriptor) == self._identity:
                    os.close(descriptor)

    def restore(self) -> bool:
        """Fill the reserve again. False where descriptors or memory are lacking for that."""
        try:
            if self._memory is None:
                self._memory = bytearray(MEMORY)
            while len(self._descriptors) < DESCRIPTORS:
                if self._descriptors:
                    self._descriptors.append(os.dup(self._descriptors[0]))
                else:
                    self._descriptors.append(os.memfd_create("shmq-reserve"))
                    self._identity = identity(self._descriptors[0])
        except (OSError, MemoryError):
            return False
        return True


def identity(descriptor: int) -> tuple[int, int]:
    """Which file a descriptor leads to: its device and inode."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
