"""Board: what each worker of a pool does, in a file of shared memory beside the pool's segment.

::

    shmq-UID.NAME+NONCE.workers     rows of 16 words; a row is one worker's, or free

The crew that starts a worker claims a row for it. It frees the row when the worker has ended and the crew has read what it did
last; another crew frees it once this one is dead. While the worker runs, it alone writes to its row (but for `ASKED`), each
word by one store. A reader sees one word as it is, and several words as they were a moment apart. That is enough: the queue
decides what becomes of a task, and the board tells people.

A crew asks a worker to leave on the board, too. The worker looks there between its tasks, and whenever its wait for a task is
interrupted, as `wake_all` does. A signal would not do: a program may handle it as it likes, and its own children would inherit
that.

Each claim has a number, which the row keeps: its *claim*. A worker whose claim is over is *disowned*: its crew was interrupted
while it started the worker, and does not know of it. The worker sees that, and leaves.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass

from shmq import _core
from shmq._errors import SegmentNotFound
from shmq._queue import Queue
from shmq._segment import entries, files, lifecycle
from shmq._waiting.bell import ITEMS

__all__ = ["DIE", "FREE", "LEAVE", "LEFT", "READY", "STARTING", "Board", "WorkerRow", "WorkerStats"]

WORDS = 16
ROWS = 1024
OWNER, PID, STATE, CREW, CLAIM, ASKED, STARTED, DONE, FAILED, BUSY, CLIENT, TASK, SINCE, DEAD_LETTERED = range(14)
FREE, STARTING, READY, LEFT = range(4)
LEAVE, DIE = 1, 2  # what a worker is asked for: to end when its task is done, or at once
STATES = ("free", "starting", "ready", "left")


@dataclass(frozen=True)
class WorkerStats:
    """One worker process at one moment."""

    pid: int
    state: str  # "starting", "ready", or "left" where it has ended because it was asked to
    started_at: float  # seconds since 1970
    done: int  # tasks that returned
    failed: int  # tasks that raised
    busy: float  # seconds in tasks that are done
    running: int  # the number of the task that it runs, or 0
    running_for: float  # seconds since that task was begun


class WorkerRow:
    """One worker's row."""

    def __init__(self, words: memoryview, index: int) -> None:
        self.index = index
        self.words = words[index * WORDS : (index + 1) * WORDS]

    def free(self) -> None:
        """End this claim."""
        self.words[CLAIM] += 1
        self.words[STATE] = FREE  # from here on the row may be another crew's

    def ask(self, what: int) -> None:
        """Ask the worker to LEAVE, or to DIE. It sees that when it is woken, or within a quarter of a second."""
        self.words[ASKED] = max(self.words[ASKED], what)

    def enter(self) -> None:
        """Say that this process is the worker of the row."""
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
        file = queue.segment.file("workers")
        self._file = file
        with lifecycle.NameLock(file):
            try:
                memory, _ = files.map_file(file)
            except (SegmentNotFound, BlockingIOError):  # not made yet, or its maker died before it had a size
                entries.remove(file)
                memory = files.make_file(file, ROWS * WORDS * 8)
        self._words = memoryview(memory).cast("Q")

    def row(self, index: int) -> WorkerRow:
        return WorkerRow(self._words, index)

    def claim(self) -> WorkerRow:
        """Claim a free row for a worker of this process. **Raises** OSError where there is none."""
        words = self._words
        with lifecycle.NameLock(self._file):
            for at in range(0, len(words), WORDS):
                if words[at + STATE] == FREE or not _core.alive(words[at + CREW]):
                    words[at + OWNER] = words[at + PID] = words[at + TASK] = words[at + ASKED] = 0
                    words[at + CREW] = _core.identity()
                    words[at + CLAIM] += 1
                    words[at + STATE] = STARTING
                    return WorkerRow(words, at // WORDS)
        raise BlockingIOError(
            errno.EAGAIN, f"a pool has at most {ROWS} workers, and as many run now: each has a row of the pool's board. Use fewer"
        )

    def rows(self) -> list[WorkerRow]:
        """The rows of workers whose process lives."""
        return [
            WorkerRow(self._words, at // WORDS)
            for at in range(0, len(self._words), WORDS)
            if self._words[at + STATE] != FREE and self._words[at + OWNER] and _core.alive(self._words[at + OWNER])
        ]

    def wake_all(self) -> None:
        """Let the workers that wait for a task look at the board now."""
        if not self._queue.closed:
            self._queue._wake_all(ITEMS)

    def close(self) -> None:
        self._words = memoryview(b"").cast("Q")
