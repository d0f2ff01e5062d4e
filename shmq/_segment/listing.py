"""Listing: which segments this user has, which files stand beside them, and how much memory they take."""

from __future__ import annotations

import contextlib
import os
import re
from glob import glob

from shmq._segment import entries
from shmq._segment.segment import NAME, file_of
from shmq._segment.shared_memory import SEMAPHORE, SEPARATOR, SHM, prefix

REMOVED = re.compile(rf" {re.escape(SHM)}/shmq-(\d+)\.([^+]+) \(deleted\)$")


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
    return entries.list_files(beside, f"{SEMAPHORE}{beside}")


def memory_of_all() -> dict[str, int]:
    """Bytes of /dev/shm that each name takes: its segment, and whatever lies beside it (dead letters included). One look."""
    total: dict[str, int] = {}
    for file in entries.list_files(prefix(), f"{SEMAPHORE}{prefix()}"):
        name = file.removeprefix(SEMAPHORE).removeprefix(prefix()).partition(SEPARATOR)[0]
        total[name] = total.get(name, 0) + entries.memory_of(file)
    return total


def list_segments() -> list[str]:
    """Names of all segments in /dev/shm that this user owns, sorted. **Raises** NoSharedMemory."""
    names = (file.removeprefix(prefix()) for file in entries.list_files(prefix()))
    return sorted(filter(NAME.fullmatch, names))
