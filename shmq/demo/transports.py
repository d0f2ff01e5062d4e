"""How the messages of the demo travel: over two queues of shmq, or over two of the standard library."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import shmq
from shmq.demo.processes import SPAWN

__all__ = ["SLOT_SIZE", "STOP", "Transport", "multiprocessing_transport", "put_when_there_is_room", "shmq_transport"]

SLOTS = 64
SLOT_SIZE = 128 << 10  # a few of a library's files are larger, and spill; the queue fits in the 64 MB that Docker gives
STOP = b""


@dataclass(frozen=True)
class Transport:
    """Two queues, and how a worker takes its messages from the first one."""

    files: Any
    reports: Any
    take: Callable[[Any], Iterator[memoryview]]
    survives_kills: bool


def leased(files: shmq.Queue) -> Iterator[memoryview]:
    """Yield each message under a lease, acknowledged when the next one is asked for."""
    while True:
        with files.receive() as lease:
            if lease.nbytes == len(STOP):
                return
            yield lease.view


def taken(files: multiprocessing.Queue[bytes]) -> Iterator[memoryview]:
    """Yield each message of a ``multiprocessing.Queue``, which is gone from it the moment it is taken."""
    while message := files.get():
        yield memoryview(message)


@contextlib.contextmanager
def shmq_transport(workers: int) -> Iterator[Transport]:
    """Make two anonymous shmq queues, which end with this process whatever ends it."""
    ports = workers + 8  # producer, parent, and the port of a dead worker that nobody has taken back yet
    with (
        shmq.Queue(slots=SLOTS, slot_size=SLOT_SIZE, in_flight=ports, ports=ports, oversize="spill") as files,
        shmq.Queue(slots=1024, slot_size=1024, ports=ports, oversize="spill") as reports,
    ):
        yield Transport(files, reports, leased, survives_kills=True)


@contextlib.contextmanager
def multiprocessing_transport() -> Iterator[Transport]:
    """Make the same two queues of the standard library."""
    files: multiprocessing.Queue[bytes] = SPAWN.Queue(SLOTS)
    reports: multiprocessing.Queue[Any] = SPAWN.Queue()
    try:
        yield Transport(files, reports, taken, survives_kills=False)
    finally:
        for each in (files, reports):
            each.cancel_join_thread()
            each.close()


def put_when_there_is_room(files: Any, message: bytes) -> None:
    """Put a message; where the machine's shared memory is full, wait until the workers have freed what they hold."""
    drained = False
    while True:
        try:
            files.put(message)
            return
        except shmq.OutOfMemory:
            if drained:
                raise
            stats = files.stats()
            drained = stats.ready + stats.returned + stats.leased == 0
            time.sleep(0 if drained else 0.01)
