"""Board: what each worker of a pool is at, in a file of shared memory beside the pool's segment.

::

    shmq-UID.NAME+NONCE.workers     rows of 16 words; a row is one worker's, or free

A row is claimed by the crew that starts the worker and freed by it when it has read what a dead one was at, or by others once the
crew is dead. From then on only the worker writes to it (but for `ASKED`), each word by one store; a reader sees one word as it
is, and several as they were a moment apart. That is enough: the queue decides what becomes of a task, the board tells people.

A worker is asked to leave on the board, too. It looks there between its tasks, and whenever its wait for one is interrupted, as
`wake_all` does: no signal, which a program may handle as it likes, and which its own children would inherit.

Each claim is a *turn* of its row, with a number. A worker whose turn is over has been disowned: its crew was interrupted while
it started it, and does not know of it. It leaves.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass

from shmq import _core
from shmq._errors import SegmentNotFound
from shmq._queue import Queue
from shmq._segment import files, lifecycle
from shmq._waiting.bell import ITEMS

__all__ = ["DIE", "FREE", "LEAVE", "LEFT", "READY", "STARTING", "Board", "Row", "WorkerStats"]

WORDS = 16
ROWS = 1024
OWNER, PID, STATE, CREW, TURN, ASKED, STARTED, DONE, FAILED, BUSY, CLIENT, TASK, SINCE, GIVEN_UP = range(14)
FREE, STARTING, READY, LEFT = range(4)
LEAVE, DIE = 1, 2  # what a worker is asked for: to end when it has done its task, or at once
STATES = ("free", "starting", "ready", "left")


@dataclass(frozen=True)
class WorkerStats:
    """One worker process at one moment."""

    pid: int
    state: str  # "starting", "ready", or "left" for one that has ended as it should
    started_at: float  # seconds since the epoch
    done: int  # tasks that returned
    failed: int  # tasks that raised
    busy: float  # seconds in tasks, without the one that is running
    running: int  # the number of the task that it runs, or 0
    running_for: float  # seconds


class Row:
    """One worker's row."""

    def __init__(self, words: memoryview, index: int) -> None:
        self.index = index
        self.words = words[index * WORDS : (index + 1) * WORDS]

    def free(self) -> None:
        """The turn is over."""
        self.words[TURN] += 1
        self.words[STATE] = FREE  # after that it may be another crew's

    def ask(self, what: int) -> None:
        """Ask the worker to leave, or to die. It learns that when it is roused, or within a quarter of a second."""
        self.words[ASKED] = max(self.words[ASKED], what)

    def enter(self) -> None:
        """This process is the worker."""
        for word in range(STARTED, WORDS):
            self.words[word] = 0
        self.words[STARTED] = time.time_ns()
        self.words[PID] = os.getpid()
        self.words[OWNER] = _core.identity()

    def stats(self) -> WorkerStats:
        words = list(self.words)
        task = words[TASK]
        return WorkerStats(
            pid=words[PID],
            state=STATES[words[STATE] & 3],
            started_at=words[STARTED] * 1e-9,
            done=words[DONE],
            failed=words[FAILED],
            busy=words[BUSY] * 1e-9,
            running=task,
            running_for=max(_core.monotonic_ns() - words[SINCE], 0) * 1e-9 if task else 0.0,
        )


class Board:
    """The rows of a pool's workers."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        file = f"{queue.segment.beside}.workers"
        self._file = file
        with lifecycle.NameLock(file):
            try:
                memory, _ = files.map_file(file)
            except (SegmentNotFound, BlockingIOError):  # never made, or its maker died before it had a size
                files.remove(file)
                memory = files.make_file(file, ROWS * WORDS * 8)
        self._words = memoryview(memory).cast("Q")

    def row(self, index: int) -> Row:
        return Row(self._words, index)

    def claim(self) -> Row:
        """A free row, for a worker of this process. Raises OSError where there is none."""
        words = self._words
        with lifecycle.NameLock(self._file):
            for at in range(0, len(words), WORDS):
                if words[at + STATE] == FREE or not _core.alive(words[at + CREW]):
                    words[at + OWNER] = words[at + PID] = words[at + TASK] = words[at + ASKED] = 0
                    words[at + CREW] = _core.identity()
                    words[at + TURN] += 1
                    words[at + STATE] = STARTING
                    return Row(words, at // WORDS)
        raise BlockingIOError(
            errno.EAGAIN, f"a pool has at most {ROWS} workers, and all rows of its board are taken by living ones"
        )

    def rows(self) -> list[Row]:
        """Those of workers that live, or of which a living crew has not yet read how they ended."""
        return [
            Row(self._words, at // WORDS)
            for at in range(0, len(self._words), WORDS)
            if self._words[at + STATE] != FREE and self._words[at + OWNER] and _core.alive(self._words[at + OWNER])
        ]

    def wake_all(self) -> None:
        """Let the workers that wait for a task look at the board."""
        if not self._queue.closed:
            self._queue._wake_all(ITEMS)

    def close(self) -> None:
        self._words = memoryview(b"").cast("Q")
