"""Client: one program's side of a pool.

The program's threads submit tasks to the window. The manager thread takes outcomes in batches, finishes futures, hands over what
waits in the backlog, and looks after the workers that this program has started.

Nothing here refers to the Executor. When that is dropped, its client closes by itself once all tasks are done.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

from shmq import _core
from shmq._core import Hold
from shmq._errors import ShmqError
from shmq._worker_lost import WorkerLost
from shmq.executor import _living
from shmq.executor._autoscale import Autoscale
from shmq.executor._board import Board, WorkerStats
from shmq.executor._channel import SLOTS, Channel
from shmq.executor._crew import Crew, Death, describe_exit
from shmq.executor._future import CANCELLED, PENDING, RUNNING, Future, lock
from shmq.executor._losses import Losses
from shmq.executor._manager import Manager
from shmq.executor._outcomes import Outcomes
from shmq.executor._pending import Outcome, Pending
from shmq.executor._plan import Plan, tasks_name
from shmq.executor._reply import client_name
from shmq.executor._reserve import is_limit
from shmq.executor._task_worker import run
from shmq.executor._unserved import Unserved
from shmq.executor._vanished import Vanished, vanished_task
from shmq.executor._window import Window

__all__ = ["Client", "ExecutorStats"]

DUPLICATES = 124  # slots for outcomes that come twice, since a worker died between putting one and the ack
LINGER = 0.0002  # seconds to hold back while outcomes come one by one and many are out
LINGER_BATCH = 32  # outcomes; with so many there is no need to hold back
LOOK_ROUND = 0.5  # seconds between two looks at what nothing announces: dead letters of workers of other programs
STARVED = 0.005  # seconds between two looks for room in a queue that other programs have filled
SUSPICIOUS = 0.05  # seconds between two looks for the dead letter of a task whose worker has died
GRACE = 5.0  # seconds for the workers of a broken pool to leave before they are killed


@dataclass(frozen=True)
class ExecutorStats:
    """A pool, as one of the programs that use it sees it."""

    name: str
    pending: int  # tasks of this program that are not done
    waiting: int  # pending tasks that are not handed over yet, so that they can be cancelled
    done: int  # tasks of this program
    window: int  # how many tasks may be handed over at once
    deaths: int  # workers of this program that died
    workers: list[WorkerStats]  # all workers of the pool, whichever program has started them


class Client:
    """`pool`: its name. `private`: no other program has workers or tasks in it."""

    def __init__(
        self,
        pool: str,
        channel: dict[str, Any],
        private: bool,
        context: BaseContext,
        most_workers: int,
        plan: dict[str, Any],
        scale: Autoscale | None,
    ) -> None:
        self.pool = pool
        self.private = private
        self.id = os.getpid() << 32 | secrets.randbits(32)
        self.tasks = Channel(tasks_name(pool), **channel)
        # A slot for each task that is handed over at once, so that no worker has to wait with an outcome.
        slots = max(SLOTS, most_workers + DUPLICATES)
        ports = self.tasks.small.segment.config.ports
        answers = channel | {"private": True, "max_deliveries": 0, "ports": ports}
        self.results = Channel(client_name(self.id), slots=slots, **answers)
        self.outcomes = Outcomes(self.results)
        self.board = Board(self.tasks.small)
        self.scale = scale
        self.most_workers = most_workers
        self.max_deliveries = self.tasks.small.segment.config.max_deliveries or 0
        identity = _core.identity()
        self.crew = Crew(
            context, self.board, run, Plan(pool=pool, channel=channel, row=0, claim=0, crew=identity, client=self.id, **plan)
        )
        self.manager = Manager(pool)
        self.pending = Pending()
        self.window = Window(self.tasks, self.pending, max(most_workers, 1) + 1, slots - DUPLICATES, self.manager.wake)
        self.losses = Losses(self.id, self.pending.askers, private)
        self.vanished = Vanished(self.tasks, self.window)
        self.unserved = Unserved(pool)
        self.shut = False  # `shutdown` was called
        self.broken: WorkerLost | None = None
        self._looked_for_workers = -LOOK_ROUND
        self._pause: float | None = None  # seconds before the crew tries again to start workers
        _living.add(self)

    def begin(self) -> None:
        """Start the manager thread, unless it runs."""
        self.manager.begin(self.run)

    def stats(self) -> ExecutorStats:
        with Hold(lock):
            pending = len(self.pending.askers)
            return ExecutorStats(
                name=self.pool,
                pending=pending,
                waiting=pending - self.window.handed,
                done=self.pending.done,
                window=self.window.width,
                deaths=self.crew.deaths,
                workers=[row.stats() for row in self.board.rows()],
            )

    # -- the manager thread ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """The body of the manager thread."""
        if not self.manager.enter():
            return
        try:
            while not self.manager.look_patiently(self.look):
                pass
        except BaseException as error:  # the futures must not wait for ever for outcomes that this thread will not take
            log().error("the executor of %r cannot go on", self.pool, exc_info=True)
            self.fail_all(worker_lost(f"the executor cannot go on: {error!r}", error))
        finally:
            self.close()

    def look(self) -> bool:
        """Do what is to be done, and wait for more. True when all is done and no more will be submitted."""
        count = self.take()
        if 0 < count < LINGER_BATCH and self.window.handed > 4 * LINGER_BATCH:
            time.sleep(LINGER)
            return False
        if count:
            return False
        self.look_after_crew()
        with Hold(lock):
            self.window.feed()
            finished = self.shut and not self.pending.askers
            timeout = self.patience()
        self.pending.tell()
        if finished:
            return True
        self.manager.sleep(self.results.small, timeout, self.crew.end)
        return False

    def patience(self) -> float | None:
        """For how many seconds at most the manager thread sleeps; None where everything that can happen will wake it."""
        timeouts = [self._pause] if self._pause is not None else []
        if self.scale and self.crew.wanted and (pause := self.scale.patience(self.crew.wanted)) is not None:
            timeouts.append(pause)
        if self.window.starved or self.tasks.owed:
            timeouts.append(STARVED)
        if self.losses.awaited:
            timeouts.append(SUSPICIOUS)
        if self.vanished.expected:
            timeouts.append(LOOK_ROUND)
        if not self.private:  # submitting does not wake this thread
            timeouts.append(LOOK_ROUND)
        return min(timeouts, default=None)

    def take(self) -> int:
        """Take the outcomes that are there, and finish their tasks; return how many were taken."""
        count = self.outcomes.take()
        found = self.outcomes.found
        if found:
            self.unserved.outcome()
            with Hold(lock):
                self.window.measure(self.outcomes.seconds, len(found))
                self.window.finish(found)
                self.outcomes.clear()
                if self.window.backlog:
                    self.window.feed()
            self.pending.tell()
        return count

    def finish(self, outcomes: list[Outcome]) -> None:
        """Finish those of these tasks that are still pending."""
        with Hold(lock):
            self.window.finish([outcome for outcome in outcomes if outcome[0] in self.pending.askers])
        self.pending.tell()

    # -- workers -----------------------------------------------------------------------------------------------------------

    def look_after_crew(self) -> None:
        """Note which workers have died, have as many as are wanted, and look for tasks that were lost."""
        for death in self.crew.collect():
            self.note_death(death)
        if self.crew.hopeless and not self.broken:
            self.fail_all(self.crew.why_hopeless(self.outcomes.start_error))
        if self.scale and self.crew.wanted and not self.shut:
            self.crew.follow(self.scale, len(self.window.backlog) + self.tasks.small.qsize())
        self._pause = self.crew.fill() if self.pending.askers or not self.shut else None
        if self.losses.awaited or (self.pending.askers and not self.private):
            self.search_losses()
        if self.vanished.expected or self.outcomes.payloads_lost:
            self.search_vanished()
        if not self.private:
            self.look_for_workers()

    def note_death(self, death: Death) -> None:
        """A worker of this program has ended: its task may be lost."""
        self.losses.note(death)
        self.vanished.expected = True
        if not death.left and not self.crew.leaving:
            task = f" while it ran task {death.task}" if death.task else ""
            log().warning("worker %d of %r %s%s", death.pid, self.pool, describe_exit(death.exit_code), task)

    def search_losses(self) -> None:
        """Fail the tasks that were given up."""
        self.finish([(number, error, 1) for number, error in self.losses.search(self.tasks.queues)])

    def search_vanished(self) -> None:
        """Fail the tasks of which no outcome will come."""
        candidates = self.vanished.candidates()
        if candidates is None:
            return
        while self.take():  # outcomes are put before their tasks are done
            pass
        self.losses.expected = True
        self.search_losses()
        if self.losses.expected:  # a letter is there of which not all is known
            return
        self.vanished.expected, self.outcomes.payloads_lost = False, 0
        self.finish([(number, vanished_task(number), 1) for number in candidates])

    def look_for_workers(self) -> None:
        """Adapt the window to the workers of all programs, and warn where the pool has none."""
        now = time.monotonic()
        if now - self._looked_for_workers < LOOK_ROUND:
            return
        self._looked_for_workers = now
        self.vanished.expected = True  # the worker that met a removed file may be another program's
        if not self.pending.askers:
            self.unserved.look(0, 0)
            return
        rows = self.board.rows()
        with Hold(lock):
            self.window.widen(max(self.most_workers, len(rows)))
        self.unserved.look(len(self.pending.askers), len(rows) + len(self.crew.processes))

    def fail_all(self, error: WorkerLost) -> None:
        """Fail every task, and take no more: none of them will ever be done."""
        why, codes = error.args
        with Hold(lock):
            self.broken = error
            self.pending.refusal = self.pending.refusal or why
            self.window.finish_all(
                [(number, worker_lost(why, error.__cause__, codes), 1) for number in list(self.pending.askers)]
            )
        self.crew.ask_to_leave()  # not under the lock: the crew's own may be held by a thread that waits for this one
        self.pending.tell()

    # -- the end -----------------------------------------------------------------------------------------------------------

    def shutdown(self, why: str, cancel_futures: bool = False) -> None:
        """Take no more tasks, and close when those that were submitted are done, or cancelled where they wait in the backlog."""
        cancelled: list[Future] = []
        with Hold(lock):
            self.shut = True
            self.pending.refusal = self.pending.refusal or why
            if cancel_futures:
                cancelled = self.window.cancel_backlog()
        for future in reversed(cancelled):
            with future._condition:
                if future._state is RUNNING:  # its turn had come, and there was no room
                    future._state = PENDING
            future.cancel()
            if future._state is CANCELLED:
                future.set_running_or_notify_cancel()
        if self.manager.begun:
            self.manager.wake()
        elif self.pending.askers:  # the thread that submits has not yet come to it, or was interrupted before
            if not self.crew.wanted and self.most_workers:
                self.crew.grow(1)
            try:
                self.begin()
            except RuntimeError:  # there can be no more threads: the interpreter exits
                self.close()
        else:
            self.close()

    def end_workers(self, end: Callable[[Crew], None], why: str) -> None:
        """End this program's workers in the middle of what they run, and shut down."""
        self.shutdown(why, cancel_futures=True)
        end(self.crew)
        self.fail_all(worker_lost(why, None))
        if self.manager.begun:
            self.manager.wake()

    def join(self) -> None:
        """Wait until all tasks are done and the workers have left."""
        self.manager.join()

    def close(self) -> None:
        """Let the workers leave, and close everything."""
        if not self.manager.close():
            return
        self.crew.ask_to_leave()
        if self.broken:
            # What a worker still runs may be a task of another program that shares the pool. No future waits for ours.
            while not self.crew.join(GRACE) and not self.private and any(worker.running for worker in self.crew.stats()):
                pass
            self.crew.kill()
        self.crew.join()  # for as long as their finalizers, and the threads that tasks have started, take
        with contextlib.ExitStack() as closing:
            for part in (self.results, self.tasks, self.board, self.crew):
                closing.callback(self.close_part, part)

    def close_part(self, part: Channel | Board | Crew) -> None:
        """Close a part. Where a limit hinders the removal of its files, the next process that opens a pool removes them."""
        try:
            part.close()
        except (OSError, MemoryError, ShmqError) as error:
            if not is_limit(error):
                raise
            log().warning("the executor of %r leaves files behind for a while, since something is lacking: %r", self.pool, error)

    def after_fork(self) -> None:
        """In a forked child: refuse tasks, since the pool is the parent's."""
        self.shut = self.pending.foreign = True
        self.manager.after_fork()
        self.crew.after_fork()
        self.pending.refusal = (
            f"this executor belongs to process {self.id >> 32}, of which this one is a fork: make one of its own here"
        )


def worker_lost(why: str, cause: BaseException | None, codes: tuple[int | None, ...] = ()) -> WorkerLost:
    """An exception for one future alone: if futures shared one, each `raise` would lengthen the traceback of all."""
    error = WorkerLost(why, codes)
    error.__cause__ = cause
    return error


def log() -> logging.Logger:
    return logging.getLogger("shmq")
