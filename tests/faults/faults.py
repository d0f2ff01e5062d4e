"""What the tests of faults share: programs of their own, the words of a segment, private places."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from conftest import PREFIX, wait_until

import shmq

LONG = 30.0
PROMPT = 5.0  # seconds within which others go on; they need milliseconds, and a loaded machine more


def run_program(script: str, *arguments: object, before: tuple[str, ...] = (), **options: Any) -> str:
    """What a Python program of its own prints; it must end with status 0. `before`: what starts it, such as unshare."""
    command = [*before, sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * LONG, **options)
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def require(*command: str, to: tuple[str, ...] = ("true",)) -> tuple[str, ...]:
    """The command, if this user may run something under it; otherwise the test is skipped."""
    try:
        tried = subprocess.run([*command, *to], capture_output=True, text=True, timeout=LONG)
    except FileNotFoundError:
        pytest.skip(f"there is no {command[0]}")
    if tried.returncode:
        pytest.skip(f"`{' '.join(command)}` is not permitted here: {tried.stderr.strip()}")
    return command


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


def reap_all(queue: shmq.Queue) -> None:
    """Until nobody dead is left: by us, or by another process of this user (a doctor looks at all queues)."""

    def nobody_dead() -> bool:
        queue._reap()
        return all(alive for _, _, _, alive, _ in queue._ports())

    wait_until(nobody_dead)


def files_of(name: str) -> list[str]:
    return sorted(file for file in os.listdir("/dev/shm") if name in file)


def descriptors(pid: int | str = "self") -> dict[int, str]:
    """What each descriptor of a process leads to."""
    found = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(number)] = os.readlink(f"/proc/{pid}/fd/{number}")
        except FileNotFoundError:
            pass  # the one that lists
    return found
