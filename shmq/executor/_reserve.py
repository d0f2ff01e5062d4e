"""Reserve: descriptors and memory that a process keeps, so that it can still say what happened when it has no others left."""

from __future__ import annotations

import contextlib
import errno
import os

from shmq._errors import Full, InFlightLimit, TooManyPorts

__all__ = ["Reserve", "is_limit"]

DESCRIPTORS = 4  # the most that are open at once while something is mapped
MEMORY = 1 << 20  # bytes: more than malloc keeps, so that it is the kernel's again once it is free
LIMITS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EAGAIN}


def is_limit(error: BaseException) -> bool:
    """Is there merely not enough of something at the moment? Whoever meets a limit waits, does without, or says so."""
    if isinstance(error, OSError):
        return error.errno in LIMITS
    return isinstance(error, MemoryError | InFlightLimit | TooManyPorts | Full)  # OutOfMemory is a MemoryError


class Reserve:
    """Kept until it is spent."""

    def __init__(self) -> None:
        self._identity: tuple[int, int] | None = None  # of the file that all of them lead to: a number alone may be another's
        self._descriptors: list[int] = []
        self._memory: bytearray | None = None
        self.restore()

    def spend(self) -> None:
        """Let there be a little of everything."""
        self._memory = None
        while self._descriptors:
            descriptor = self._descriptors.pop()
            with contextlib.suppress(OSError):  # a task closed all that it found
                if identity(descriptor) == self._identity:
                    os.close(descriptor)

    def restore(self) -> bool:
        """Keep as much as there is to be kept again. False where that is not all."""
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
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
