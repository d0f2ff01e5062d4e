"""Entries: whatever has a name in /dev/shm and is this user's is listed, measured and removed here, file or not."""

from __future__ import annotations

import contextlib
import os
import stat

from shmq._errors import SegmentForeign, SegmentMismatch
from shmq._segment.files import SAFELY, status_of
from shmq._segment.folders import Folder, remove_folder
from shmq._segment.shared_memory import SHM, check_shared_memory, failure

__all__ = ["list_files", "memory_of", "remove"]


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
