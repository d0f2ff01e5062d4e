"""The words of a segment, read and written by offset: what a scribbler can do to them."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import shmq
from support.shared_memory import PREFIX


class Words:
    """A second mapping of a queue's file, and where its words are (format/queue.h)."""

    def __init__(self, queue: shmq.Queue) -> None:
        with Path(f"/dev/shm/{PREFIX}{queue.name}").open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)
        self.slots, self.cells, self.ports = struct.unpack_from("<III", self.memory, 40)
        self.cells_at = 1024 + 128 * self.ports
        self.ring_at = self.cells_at + 64 * self.cells

    def __getitem__(self, offset: int) -> int:
        return int(struct.unpack_from("<Q", self.memory, offset)[0])

    def __setitem__(self, offset: int, word: int) -> None:
        struct.pack_into("<Q", self.memory, offset, word & 0xFFFFFFFFFFFFFFFF)

    def port(self, index: int) -> int:
        return 1024 + 128 * index

    def cell(self, index: int) -> int:
        return self.cells_at + 64 * index

    def ring(self, index: int) -> int:
        return self.ring_at + 8 * index
