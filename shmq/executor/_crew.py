"""Crew: worker processes that one program starts, and keeps at their number.

A worker that dies is replaced at once. One that dies before it was ever ready is replaced after a pause that doubles, and
after the third in a row, with none ready in between, the crew gives up: what cannot start would die for ever.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from shmq.executor import _board
from shmq.executor._board import Board, Row, WorkerStats
from shmq.executor._worker import Plan

__all__ = ["Crew", "Death", "describe_exit"]

STARTS = 3
PAUSE = 0.1  # seconds, after the first worker that did not come up


class Death(NamedTuple):
    """How a worker ended."""

    pid: int
    exit_code: int
    was_ready: bool
    left: bool  # as it should
    client: int
    task: int  # that it was running, or 0


class Crew:
    """The workers that this process has started. `target(plan)` is what one of them runs, the plan with the number of its row."""

    def __init__(self, context: BaseContext, board: Board, target: Callable[[Plan], None], plan: Plan) -> None:
        self.context = context
        self.board = board
        self.target = target
        self.plan = plan
        self.processes: dict[int, BaseProcess] = {}  # by pid
        self.wanted = 0
        self.failed_starts = 0
        self.last_death: Death | None = None
        self.not_before = 0.0
        self.deaths = 0
        self.stopping = False
        self._rows: dict[int, Row] = {}
        self._asked: set[int] = set()  # to leave
        self._lock = threading.RLock()

    # -- starting ----------------------------------------------------------------------------------------------------------

    def grow(self, wanted: int) -> None:
        """Let it be that many workers from now on, at least."""
        with self._lock:
            self.wanted = max(self.wanted, wanted)
            self.fill()

    def fill(self) -> float | None:
        """Start what is missing. Return for how many seconds to wait before the next try, None where nothing is missing."""
        with self._lock:
            while len(self.processes) < self.wanted and not self.stopping:
                pause = self.not_before - time.monotonic()
                if pause > 0:
                    return pause
                self._start()
        return None

    def _start(self) -> None:
        row = self.board.claim()
        process = self.context.Process(target=self.target, args=(self.plan._replace(row=row.index),), name="shmq-worker")  # type: ignore[attr-defined]
        try:
            process.start()
        except BaseException:
            row.words[_board.STATE] = _board.FREE
            raise
        self.processes[process.pid] = process
        self._rows[process.pid] = row

    @property
    def hopeless(self) -> bool:
        """Nothing that was started has come up, again and again."""
        return self.failed_starts >= STARTS

    # -- looking -----------------------------------------------------------------------------------------------------------

    @property
    def sentinels(self) -> list[int]:
        with self._lock:
            return [process.sentinel for process in self.processes.values()]

    def collect(self) -> list[Death]:
        """The workers that have ended since the last look; their rows are free from then on."""
        with self._lock:
            if self.failed_starts and any(row.words[_board.STATE] == _board.READY for row in self._rows.values()):
                self.failed_starts = 0
            ended = [pid for pid, process in self.processes.items() if process.exitcode is not None]
            return [self._bury(pid) for pid in ended]

    def _bury(self, pid: int) -> Death:
        process, row = self.processes.pop(pid), self._rows.pop(pid)
        state = row.words[_board.STATE]
        # One that was asked before it could listen has died of it, and has left all the same.
        early = pid in self._asked and state == _board.STARTING
        death = Death(
            pid=pid,
            exit_code=process.exitcode or 0,
            was_ready=early or state in (_board.READY, _board.LEFT),
            left=early or state == _board.LEFT,
            client=row.words[_board.CLIENT],
            task=row.words[_board.TASK],
        )
        self._asked.discard(pid)
        row.words[_board.STATE] = _board.FREE
        process.join()
        process.close()
        self.deaths += not death.left
        self.last_death = death
        if not death.was_ready and not self.stopping:
            self.failed_starts += 1
            self.not_before = time.monotonic() + PAUSE * 2.0**self.failed_starts / 2
        return death

    def stats(self) -> list[WorkerStats]:
        with self._lock:
            return [row.stats() for row in self._rows.values()]

    # -- stopping ----------------------------------------------------------------------------------------------------------

    def resize(self, wanted: int) -> None:
        """Let it be that many workers from now on; those that are idle leave first."""
        with self._lock:
            if wanted < self.wanted:
                idle_last = sorted(self.processes, key=lambda pid: self._rows[pid].words[_board.TASK] == 0)
                for pid in idle_last[wanted:]:
                    self._ask(pid)
            self.wanted = wanted
            self.fill()

    def _ask(self, pid: int) -> None:
        self._asked.add(pid)
        with contextlib.suppress(ProcessLookupError, ValueError):
            self.processes[pid].terminate()

    def stop(self) -> None:
        """Ask all to leave when they are done with the task that they run."""
        with self._lock:
            self.stopping = True
            for pid in list(self.processes):
                self._ask(pid)

    def kill(self) -> None:
        with self._lock:
            self.stopping = True
            for process in self.processes.values():
                process.kill()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all have ended; False where some have not in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for process in list(self.processes.values()):
            process.join(None if deadline is None else max(deadline - time.monotonic(), 0))
        self.collect()
        return not self.processes


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
