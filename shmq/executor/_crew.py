"""Crew: worker processes that one program starts, and keeps at their number.

A worker that ends is replaced at once. Where the new one cannot be started, or dies before it is ready, the crew tries again
after a pause, which doubles each time. After the third failure in a row the crew is hopeless: what cannot start would fail for
ever. Workers that were started before the last pause count as one failure, since Ctrl-C in a terminal ends all that are just
starting. Where several workers in a row became ready and died before they had done anything, the next ones are started after
pauses, too.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from shmq._core import Hold
from shmq._signals import HEARD, put_off_signals
from shmq._worker_lost import WorkerLost
from shmq.executor import _board
from shmq.executor._autoscale import Autoscale
from shmq.executor._board import Board, WorkerRow, WorkerStats
from shmq.executor._plan import Plan

__all__ = ["Crew", "Death", "describe_exit"]

STARTS = 3
PAUSE = 0.1  # seconds, after the first worker that did not become ready
LONGEST_PAUSE = 5.0  # seconds, after many workers that became ready, and died before they had done anything
PASSING = (OSError, MemoryError, EOFError)  # no processes, memory, descriptors, rows; a fork server that has ended
COUNTED = (_board.DONE, _board.FAILED, _board.DEAD_LETTERED)  # words of the board
STATUS_PATIENCE = 1.0  # seconds for the exit status of a worker that has ended


class Death(NamedTuple):
    """How a worker ended."""

    pid: int
    exit_code: int | None  # None: the program has taken it (a waitpid for any child; SIGCHLD ignored)
    was_ready: bool
    left: bool  # it ended because it was asked to
    client: int
    task: int  # number of the task that it was running, or 0


class Member(NamedTuple):
    """A worker that has been started."""

    process: BaseProcess
    row: WorkerRow
    end: int  # a descriptor that is readable once the process has ended
    attempt: int  # failed starts in a row before this one


class Crew:
    """The workers that this process has started. Each runs `target(plan)`, where the plan has the number of the worker's row.

    The crew's lock is held while a worker is started, and so while the program's own code pickles the worker's arguments.
    """

    def __init__(self, context: BaseContext, board: Board, target: Callable[[Plan], None], plan: Plan) -> None:
        self.context = context
        self.board = board
        self.target = target
        self.plan = plan
        self.wanted = 0
        self.failed_starts = 0
        self.idle_deaths = 0  # deaths in a row of workers that were ready and had done nothing
        self.last_death: Death | None = None
        self.start_error: Exception | None = None  # why the last worker could not be started
        self.not_before = 0.0
        self.deaths = 0
        self.sums = dict.fromkeys(COUNTED, 0)  # of the workers that have ended
        self.leaving = False
        self._members: dict[int, Member] = {}  # by pid
        self._ends = select.epoll()  # readable while one of them has ended
        self._lock = threading.RLock()

    # -- starting ----------------------------------------------------------------------------------------------------------

    def grow(self, wanted: int) -> None:
        """Have at least so many workers from now on. **Raises** what hinders that and will not pass by itself."""
        with Hold(self._lock):
            self.wanted = max(self.wanted, wanted)
            self.fill(PASSING)

    def fill(self, passing: tuple[type[Exception], ...] = (Exception,)) -> float | None:
        """Start the workers that are missing. Return the seconds before the next try, or None where no worker is missing.

        Where starting a worker raises one of the exceptions `passing`, the crew tries again later, and the others go on
        meanwhile.
        """
        with Hold(self._lock):
            while len(self._members) < self.wanted and not self.leaving:
                pause = self.not_before - time.monotonic()
                if pause > 0:
                    return pause
                try:
                    self._start()
                except passing as error:
                    self.start_error = error
                    self._note_failed_start()
        return None

    def _start(self) -> None:
        """Start a worker. Interrupted by Ctrl-C, it may have started one that the crew does not know of: that one is disowned."""
        row = self.board.claim()
        plan = self.plan._replace(row=row.index, claim=row.words[_board.CLAIM])
        make: Callable[..., BaseProcess] = self.context.Process  # type: ignore[attr-defined]  # each kind of context has its own
        process = make(target=self.target, args=(plan,), name="shmq-worker")
        try:
            self._launch(process)
            self._enlist(process, row)
        except BaseException:
            if process.pid not in self._members:
                row.free()
            raise

    def _launch(self, process: BaseProcess) -> None:
        """Start the worker's process. A forked worker has SIGINT and SIGTERM blocked until it unblocks them, as `live` does.

        It begins with the signal handlers of its parent. A SIGTERM in its first moments would run those instead of the worker's
        own, and the worker would go on, while the sender waits for its end.

        This thread handles no signal either before the start is over. What a handler raises in a callback that runs at a fork
        (logging has some), Python prints and forgets, so that a program which was interrupted would go on. Elsewhere in the start
        it may leave a lock of the standard library taken (CPython 3.14), for which the manager thread would wait for ever.
        """
        with put_off_signals():
            if self.context.get_start_method() != "fork":  # a program that is executed would keep them blocked
                process.start()
                return
            before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _enlist(self, process: BaseProcess, row: WorkerRow) -> None:
        assert process.pid is not None
        # Not the sentinel of multiprocessing, a pipe: a process that a task has forked keeps it open beyond the worker's end.
        try:
            end = os.pidfd_open(process.pid)
        except OSError:
            end = process.sentinel
        self._ends.register(end, select.EPOLLIN)
        self._members[process.pid] = Member(process, row, end, self.failed_starts)

    def _note_failed_start(self) -> None:
        self.failed_starts += 1
        self.not_before = time.monotonic() + PAUSE * 2.0**self.failed_starts / 2

    @property
    def hopeless(self) -> bool:
        """Is it time to give up, since the last tries have all failed, and no worker became ready?"""
        return self.failed_starts >= STARTS

    def why_hopeless(self, raised: BaseException | None) -> WorkerLost:
        """The exception that says why no worker became ready. `raised`: by the initializer."""
        death, cause = self.last_death, raised or self.start_error
        if raised:
            why = f"its initializer raised {raised!r}"
        elif cause or death is None:
            why = f"the last one could not be started: {cause}"
        else:
            why = f"the last one {describe_exit(death.exit_code)}"
        codes = () if death is None or death.left else (death.exit_code,)
        error = WorkerLost(f"no worker came up, {self.failed_starts} times in a row: {why}", codes)
        error.__cause__ = cause
        return error

    # -- looking -----------------------------------------------------------------------------------------------------------

    @property
    def processes(self) -> dict[int, BaseProcess]:
        """The processes of the workers, by pid."""
        with Hold(self._lock):
            return {pid: member.process for pid, member in self._members.items()}

    @property
    def end(self) -> int:
        """A descriptor that is readable while a worker has ended and was not collected."""
        return self._ends.fileno()

    def collect(self) -> list[Death]:
        """How workers have ended since the last call. Their rows of the board are free from then on."""
        with Hold(self._lock):
            if self.failed_starts and any(row.words[_board.STATE] == _board.READY for _, row, _, _ in self._members.values()):
                self.failed_starts = 0
            ended = {end for end, _ in self._ends.poll(0)}
            for end in ended - {member.end for member in self._members.values()}:  # Ctrl-C came before it was a member
                self._ends.unregister(end)
            return [self._collect_one(pid) for pid, member in list(self._members.items()) if member.end in ended]

    def _collect_one(self, pid: int) -> Death:
        process, row, end, attempt = self._members.pop(pid)
        self._ends.unregister(end)
        if end != process.sentinel:
            os.close(end)
        if process.exitcode is None:  # the fork server may be about to tell
            process.join(STATUS_PATIENCE)
        state = row.words[_board.STATE]
        # A worker that was asked to leave before it was ready need not have become ready.
        early = state == _board.STARTING and row.words[_board.ASKED] == _board.LEAVE
        death = Death(
            pid=pid,
            exit_code=process.exitcode,
            was_ready=early or state in (_board.READY, _board.LEFT),
            left=early or state == _board.LEFT,
            client=row.words[_board.CLIENT],
            task=row.words[_board.TASK],
        )
        if state != _board.STARTING:  # otherwise the words are those of the worker that had the row before
            for word in COUNTED:
                self.sums[word] += row.words[word]
            idle = not (death.left or death.task or any(row.words[word] for word in COUNTED))
            self.idle_deaths = self.idle_deaths + 1 if idle else 0
        row.free()
        if death.exit_code is None:
            process._popen.returncode = 255  # type: ignore[attr-defined]  # multiprocessing would take it for alive for ever
        process.close()
        self.deaths += not death.left
        self.last_death, self.start_error = death, None
        if not death.was_ready and not self.leaving and attempt == self.failed_starts:
            self._note_failed_start()
        elif death.was_ready and self.idle_deaths > 1:
            self.not_before = time.monotonic() + min(PAUSE * 2.0 ** min(self.idle_deaths - 2, 64), LONGEST_PAUSE)
        return death

    def stats(self) -> list[WorkerStats]:
        with Hold(self._lock):
            return [member.row.stats() for member in self._members.values()]

    # -- leaving -----------------------------------------------------------------------------------------------------------

    def follow(self, scale: Autoscale, waiting: int) -> None:
        """Have as many workers as the scale wants while so many tasks wait."""
        busy = sum(worker.running != 0 for worker in self.stats())
        self.resize(scale.wanted(self.wanted, busy, waiting))

    def resize(self, wanted: int) -> None:
        """Have so many workers from now on. Where there are more, idle ones are asked to leave first."""
        with Hold(self._lock):
            if wanted < self.wanted:
                idle_last = sorted(self._members, key=lambda pid: self._members[pid].row.words[_board.TASK] == 0)
                for pid in idle_last[wanted:]:
                    self._members[pid].row.ask(_board.LEAVE)
                self.board.wake_all()
            self.wanted = wanted
            self.fill()

    def ask_to_leave(self) -> None:
        """Ask all workers to leave when the task that they run is done, and start no more of them."""
        self._ask(_board.LEAVE)

    def terminate(self) -> None:
        """End all workers by SIGTERM, in the middle of what they run."""
        for process in self._ask(_board.DIE):
            with contextlib.suppress(ProcessLookupError, ValueError):
                process.terminate()

    def kill(self) -> None:
        """End all workers by SIGKILL, in the middle of what they run."""
        for process in self._ask(_board.DIE):
            with contextlib.suppress(ProcessLookupError, ValueError):
                process.kill()

    def _ask(self, what: int) -> list[BaseProcess]:
        with Hold(self._lock):
            self.leaving = True
            for member in self._members.values():
                member.row.ask(what)
            self.board.wake_all()
            return [member.process for member in self._members.values()]

    def after_fork(self) -> None:
        """In a forked child: the workers are the parent's, and so is the thread that held the lock."""
        self._lock._at_fork_reinit()  # type: ignore[attr-defined]  # CPython has it, the stubs do not

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all workers have ended. False where some have not within `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._members:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            wait([self.end], left)
            self.collect()
        return True

    def close(self) -> None:
        """Close the descriptor, once all workers have ended."""
        self._ends.close()


def describe_exit(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "ended, and its exit status is lost"
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
