"""Semaphores: the two of each segment, on which those sleep who wait for something, or for room."""

from __future__ import annotations

import os

import posix_ipc

from shmq import _core
from shmq._errors import SegmentForeign
from shmq._segment.files import MODE, check
from shmq._segment.shared_memory import SEMAPHORE, SHM, failure, without_memory

__all__ = ["has_semaphore", "make_semaphore"]


def make_semaphore(name: str) -> None:
    """A new semaphore of this POSIX name. **Raises** SegmentForeign where something has its name, OutOfMemory, NoSharedMemory."""
    file = f"{SEMAPHORE}{name[1:]}"
    try:
        posix_ipc.Semaphore(name, posix_ipc.O_CREX, mode=MODE, initial_value=0).close()
    except posix_ipc.ExistentialError:
        raise without_memory() or SegmentForeign(
            f"{file} is in {SHM} already, and not of this segment: refused. Remove it, or let its owner or root do so"
        ) from None
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
