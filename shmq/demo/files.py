"""The work of the demo: a file as a message, and what a worker finds out about it.

A message is one file: the length of its path, the path, the content. The workers hash and compress it where it lies, in
the leased slot.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from typing import NamedTuple

__all__ = ["File", "Report", "files_below", "inspect", "pack"]

SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__"})


class File(NamedTuple):
    """One regular file of the folder, as it was when the folder was listed."""

    path: str
    size: int
    modified_ns: int

    @property
    def message_size(self) -> int:
        return 2 + len(os.fsencode(self.path)) + self.size

    def changed(self) -> bool:
        """Whether the file is another one now, so that a difference proves nothing."""
        try:
            now = os.stat(self.path)
        except OSError:
            return True
        return (now.st_size, now.st_mtime_ns) != (self.size, self.modified_ns)


class Report(NamedTuple):
    """What a worker found out about one file; ``problem`` says why the file was left out."""

    path: str
    digest: str = ""
    size: int = 0
    compressed: int = 0
    problem: str = ""


def files_below(folder: str) -> list[File]:
    """List the regular files below ``folder`` in a stable order, following no link and no pipe."""
    found: list[File] = []
    for parent, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS)
        with contextlib.suppress(OSError), os.scandir(parent) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    found.append(File(entry.path, status.st_size, status.st_mtime_ns))
    return found


def pack(path: str) -> bytes:
    """Read a file into one message."""
    name = os.fsencode(path)
    with open(path, "rb", buffering=0) as file:
        return b"".join((len(name).to_bytes(2, "little"), name, file.readall()))


def inspect(message: memoryview) -> Report:
    """Hash and compress the file in a message: the work itself, on the bytes where they lie."""
    start = 2 + int.from_bytes(message[:2], "little")
    content = message[start:]
    digest = hashlib.sha256(content).hexdigest()
    return Report(os.fsdecode(bytes(message[2:start])), digest, len(content), len(zlib.compress(content, 1)))
