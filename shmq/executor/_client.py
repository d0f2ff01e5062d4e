"""Client: what one program has asked of a pool, and the thread that brings the answers.

Callers put their tasks themselves, as long as the *window* is open: so many tasks are handed over at once as the workers do in
some milliseconds, and always one more than there are workers. What is behind it waits in this process, where it can still be
cancelled. The manager thread takes outcomes in batches, finishes futures, hands over what waits, and looks after the crew.

Nothing here refers to the Executor: when that is dropped, the client ends by itself once all is done.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from multiprocessing.util import Finalize
from typing import Any

from shmq import _core
from shmq._core import Hold
from shmq._errors import Full, OutOfMemory, PayloadLost, ShmqError
from shmq._waiting.bell import wait_many
from shmq._worker_lost import WorkerLost
from shmq.executor._autoscale import Autoscale
from shmq.executor._board import Board, WorkerStats
from shmq.executor._channel import SLOTS, Channel
from shmq.executor._crew import Crew, Death, describe_exit
from shmq.executor._future import CANCELLED, DONE, FINISHED, PENDING, RUNNING, Future, finishing, lock
from shmq.executor._losses import Losses
from shmq.executor._map import MapCall
from shmq.executor._outcomes import Outcomes
from shmq.executor._plan import Plan, tasks_name
from shmq.executor._reply import ROOM_PATIENCE, client_name
from shmq.executor._reserve import is_limit
from shmq.executor._signals import put_off_signals
from shmq.executor._task_worker import run
from shmq.executor._tasks import Message, frozen
from shmq.executor._unserved import Unserved

__all__ = ["Client", "ExecutorStats"]

AHEAD = 0.02  # seconds of work that are handed over to each worker
DUPLICATES = 124  # outcomes that come twice, since a worker died between one and the ack, have room, too
LINGER = 0.0002  # seconds to hold back while outcomes come one by one and many are out
LINGER_BATCH = 32
LOOK_ROUND = 0.5  # seconds between two looks at what nobody announces: dead letters of workers that others have started
STARVED = 0.005  # … and for room in a queue that others have filled
SUSPICIOUS = 0.05
UNSENDABLE = (ShmqError, OSError, MemoryError)  # no room for a large task, no descriptor for its side segment
GRACE = 5.0  # seconds for the workers of a broken pool to leave before they are killed


@dataclass(frozen=True)
class ExecutorStats:
    """A pool, as one of its clients sees it."""

    name: str
    pending: int  # tasks of this client that are not done
    waiting: int  # … of which not yet handed over, so that they can be cancelled
    done: int
    window: int  # how many tasks may be handed over at once
    deaths: int  # workers of this client that died
    workers: list[WorkerStats]  # all of the pool, whoever started them


class Client:
    """One program's side of a pool."""

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
        # As many slots as tasks are handed over at once: no worker has to wait with an outcome.
        slots = max(SLOTS, most_workers + DUPLICATES)
        ports = self.tasks.small.segment.config.ports
        answers = channel | {"private": True, "max_deliveries": 0, "ports": ports}
        self.results = Channel(client_name(self.id), slots=slots, **answers)
        self.outcomes = Outcomes(self.results)
        self.most_ahead = slots - DUPLICATES
        self.board = Board(self.tasks.small)
        self.scale = scale
        self.most_workers = most_workers
        self.max_deliveries = self.tasks.small.segment.config.max_deliveries or 0
        identity = _core.identity()
        self.crew = Crew(
            context, self.board, run, Plan(pool=pool, channel=channel, row=0, turn=0, crew=identity, client=self.id, **plan)
        )
        self.pending: dict[int, Future | MapCall] = {}
        self.backlog: deque[tuple[int, Message]] = deque()
        self.gated: list[MapCall] = []
        self.handed = 0
        self.done = 0
        self.window = self.least_window = max(most_workers, 1) + 1
        self.pace = 0.0  # seconds of a task, lately
        self.closing = False
        self.broken: WorkerLost | None = None
        self.losses = Losses(self.id, private)
        self.doubtful = False  # a task, or its outcome, may have vanished
        self.in_large: set[int] = set()  # tasks that lie in large slots, or did when they were taken
        self.needy = False  # something was lacking: said once
        self.unserved = Unserved(pool)
        self.starved = False  # there was no room for a task
        self.looked_for_workers = -LOOK_ROUND
        self.hopeful = -ROOM_PATIENCE  # when something was out that may have had memory: it is freed after its outcome
        self.feeding = False
        self.pause: float | None = None
        self.refusal: str | None = None  # why no task is taken any more
        self.later: deque[Future] = deque()  # done, and to be called back
        self.numbers = itertools.count(1)
        self.next_number = self.numbers.__next__
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.thread: threading.Thread | None = None
        self.begun = False
        self.ended = False
        clients.add(self)
        leave_before_children_are_joined()

    # -- asking ------------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the manager thread. It enters itself: interrupted here by Ctrl-C, one may have been started, or not.

        Not in the middle of its start: that one would not be joined, and go on while the interpreter ends.
        """
        with Hold(lock):
            if not (self.begun or self.ended) and (self.thread is None or not self.thread.is_alive()):
                thread = threading.Thread(target=self.run, name="shmq-executor")
                with put_off_signals():
                    self.thread = thread
                    thread.start()

    def enter(self) -> bool:
        """This is the manager thread, unless there is another one, or nothing to manage any more."""
        with Hold(lock):
            if self.begun or self.ended:
                return False
            self.thread = threading.current_thread()
            self.begun = True
            return True

    def join(self) -> None:
        """Wait until all is done and the workers have left."""
        thread = self.thread
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():  # a callback's would never end
            thread.join()

    def hand_over(self, number: int, message: Message, future: Future) -> None:
        """Put a task, or let it wait for its turn. Under the lock."""
        try:
            self.pending[number] = future
            urgent = self.handed <= 0
            if self.handed < self.window and not self.backlog:
                try:
                    if type(message) is bytes:
                        self.tasks.small.put(message, False)
                    else:
                        self.put_large(number, message)
                    future._state = RUNNING
                    self.handed += 1
                    return
                except Full:
                    self.starved = True
                except UNSENDABLE as error:
                    if not self.may_wait(error):
                        self.handed += 1
                        self.finish([(number, error, True)])
                        return
                    urgent = True
            self.backlog.append((number, frozen(message)))
            if urgent:
                self.wake()
        except BaseException:  # Ctrl-C: nobody will have the future, nor may anybody wait for it
            self.pending.pop(number, None)
            self.recount()
            raise

    def feed(self) -> None:
        """Hand over what waits, as far as the window is open. Under the lock."""
        if self.feeding:  # by a finalizer, in the middle of it
            return
        self.feeding = True
        try:
            self.feed_open_window()
        except BaseException:
            self.recount()
            raise
        finally:
            self.feeding = False

    def freeze_last(self) -> None:
        """What waits last may have come this moment, and with arrays that are still the caller's. Under the lock."""
        if self.backlog and type(self.backlog[-1][1]) is not bytes:
            number, message = self.backlog[-1]
            self.backlog[-1] = number, frozen(message)

    def recount(self) -> None:
        """Ctrl-C came, maybe between what was handed over and its being counted."""
        pending = self.pending
        self.handed = len(pending) - sum(number in pending for number, _ in self.backlog)

    def feed_open_window(self) -> None:
        """Takes nothing off the backlog before it is put: interrupted in between, a task runs twice, as after a death; the other
        way round nobody would ever run it, and everybody wait for it."""
        backlog, small = self.backlog, self.tasks.small
        self.starved = False
        if self.tasks.owed:
            self.tasks.settle()
        while backlog and self.handed < self.window and not self.starved:
            messages: list[bytes] = []
            for number, message in list(itertools.islice(backlog, self.window - self.handed)):
                if type(message) is not bytes or not self.begins(number):
                    break
                messages.append(message)
            if messages:
                try:
                    put = small.put_many(messages, 0)
                except Full:
                    put = 0
                for _ in range(put):
                    backlog.popleft()
                self.handed += put
                self.starved = put < len(messages)
            else:
                number, message = backlog[0]
                if self.begins(number):
                    self.feed_large(number, message)
                else:
                    backlog.popleft()

    def feed_large(self, number: int, message: Message) -> None:
        """Hand over what is first in the backlog."""
        try:
            self.put_large(number, message)
        except Full:
            self.starved = True
            return
        except UNSENDABLE as error:
            if self.may_wait(error):
                return
            self.backlog.popleft()
            self.handed += 1
            self.finish([(number, error, True)])
            return
        self.backlog.popleft()
        self.handed += 1

    def put_large(self, number: int, message: Message) -> None:
        """Raises Full, and UNSENDABLE."""
        # So many that each worker finds a cell for what it takes; the others are spilled.
        crowded = len(self.in_large) >= self.tasks.places > 0
        if self.tasks.put(message, "goes beside" if crowded else "waits"):
            self.in_large.add(number)

    def may_wait(self, error: BaseException) -> bool:
        """Is there no memory because of what is handed over, or was a moment ago? Then there will be."""
        if self.handed:
            self.hopeful = time.monotonic()
        self.starved = isinstance(error, OutOfMemory) and time.monotonic() - self.hopeful < ROOM_PATIENCE
        return self.starved

    def begins(self, number: int) -> bool:
        """Is a task that waits still to be run? From now on its future cannot be cancelled."""
        asker = self.pending.get(number)
        if type(asker) is not Future:
            return asker is not None
        own = asker.__dict__
        # Both at once: nobody has cancelled it, and nobody can any more, unless somebody is just about to.
        if own.setdefault("_state", RUNNING) is RUNNING and "_gate" not in own:
            return True
        if asker.begin():
            return True
        del self.pending[number]
        return False

    def give_up(self, call: MapCall) -> None:
        """Nobody wants what is left of a map call: what was not handed over never will be."""
        with Hold(lock):
            waiting = {number for number, _ in self.backlog} if call.order else set()
            for number in call.order:
                if number in waiting:
                    self.pending.pop(number, None)
            call.order.clear()
            call.outcomes.clear()

    def wake(self) -> None:
        with Hold(lock):
            if not self.ended:  # from then on the number may be another file's
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_write, b"\0")

    # -- the manager thread ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        if not self.enter():
            return
        try:
            while not self.look_patiently():
                pass
        except BaseException as error:  # nobody may wait for ever for what this thread will not bring
            log().error("the executor of %r cannot go on", self.pool, exc_info=True)
            self.break_off(f"the executor cannot go on: {error!r}", error)
        finally:
            self.end()

    def look_patiently(self) -> bool:
        """As `look`; where something is lacking, it is tried again, and said once."""
        try:
            finished = self.look()
            self.needy = False
            return finished
        except (OSError, MemoryError, ShmqError) as error:
            if not is_limit(error):
                raise
            if not self.needy:
                log().warning("the executor of %r waits, since something is lacking: %r", self.pool, error)
            self.needy = True
            error.__traceback__ = None
        time.sleep(SUSPICIOUS)
        return False

    def look(self) -> bool:
        """Do what is to do, and wait for more. True when all is done and nobody will ask again."""
        count = self.take()
        if 0 < count < LINGER_BATCH and self.handed > 4 * LINGER_BATCH:
            time.sleep(LINGER)
            return False
        if count:
            return False
        self.look_after_crew()
        with Hold(lock):
            self.feed()
            finished = self.closing and not self.pending
            timeout = self.patience()
        self.tell()
        if finished:
            return True
        _, woken = wait_many([self.results.small], timeout, [self._wake_read, *self.crew.sentinels])
        if self._wake_read in woken:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        return False

    def patience(self) -> float | None:
        timeouts = [self.pause] if self.pause is not None else []
        if self.scale and self.crew.wanted and (pause := self.scale.patience(self.crew.wanted)) is not None:
            timeouts.append(pause)
        if self.starved or self.tasks.owed:
            timeouts.append(STARVED)
        if self.losses.awaited:
            timeouts.append(SUSPICIOUS)
        if self.doubtful:
            timeouts.append(LOOK_ROUND)
        if not self.private:  # whoever submits does not wake this thread
            timeouts.append(LOOK_ROUND)
        return min(timeouts, default=None)

    def take(self) -> int:
        """Take the outcomes that are there, and finish what they are of; return how many."""
        count = self.outcomes.take()
        found = self.outcomes.found
        if found:
            pace = self.outcomes.seconds / len(found)
            # A few that were interrupted say little, unless they took long.
            self.pace += (pace - self.pace) * (min(len(found), 64) / 128 if self.done else 1.0)
            ahead = int(self.least_window * AHEAD / max(self.pace, 1e-6))
            self.window = max(self.least_window, min(ahead, self.most_ahead))
            self.unserved.outcome()
            with Hold(lock):
                self.hopeful = time.monotonic()
                self.finish(found)
                self.outcomes.tell()
                if self.backlog:
                    self.feed()
            self.tell()
        return count

    def finish(self, outcomes: list[tuple[int, Any, int]]) -> None:
        """Tell those who asked, and note who is to be called back. Under the lock."""
        pending = self.pending
        before = len(pending)
        observed: list[tuple[Future, Any, int]] = []
        with Hold(finishing):
            for number, value, failed in outcomes:
                asker = pending.pop(number, None)
                if type(asker) is Future:
                    if asker.__dict__.setdefault("_gate", DONE) is not DONE:
                        observed.append((asker, value, failed))
                    else:
                        if failed:
                            asker._exception = value
                        else:
                            asker._result = value
                        asker._state = FINISHED
                elif asker is not None:  # None: delivered twice, since its worker died between the outcome and the ack
                    asker.outcomes[number] = value
                    if failed:
                        asker.errors[number] = value
        for future, value, failed in observed:
            if future.finish(value, failed != 0):
                self.later.append(future)
        self.handed -= before - len(pending)
        self.done += before - len(pending)
        if self.losses.awaited:
            self.losses.forget([number for number, _, _ in outcomes])
        if self.in_large:
            self.in_large.difference_update([number for number, _, _ in outcomes])
        for call in self.gated[:]:
            if call.awaited in call.outcomes:
                self.gated.remove(call)
                call.gate.release()

    def tell(self) -> None:
        """Call back those who asked for it. By the manager thread, and not under the lock: that is the users' code."""
        while self.later:
            try:
                self.later.popleft()._invoke_callbacks()  # type: ignore[attr-defined]
            except BaseException:  # a SystemExit, say; an Exception is logged already
                log().error("a callback of a future raised", exc_info=True)

    # -- workers -----------------------------------------------------------------------------------------------------------

    def look_after_crew(self) -> None:
        deaths = self.crew.collect()
        for death in deaths:
            self.mourn(death)
        if self.crew.hopeless and not self.broken:
            self.give_up_starting()
        if self.scale and self.crew.wanted and not self.closing:
            busy = sum(worker.running != 0 for worker in self.crew.stats())
            waiting = len(self.backlog) + self.tasks.small.qsize()
            self.crew.resize(self.scale.wanted(self.crew.wanted, busy, waiting))
        self.pause = self.crew.fill() if self.pending or not self.closing else None
        if self.losses.awaited or (self.pending and not self.private):
            self.search_losses()
        if self.doubtful or self.outcomes.payloads_lost:
            self.search_vanished()
        if not self.private:
            self.look_for_workers()

    def mourn(self, death: Death) -> None:
        self.losses.note(death)
        self.doubtful = True
        if not death.left and not self.crew.stopping:
            task = f" while it ran task {death.task}" if death.task else ""
            log().warning("worker %d of %r %s%s", death.pid, self.pool, describe_exit(death.exit_code), task)

    def search_losses(self) -> None:
        """Fail the tasks that were given up."""
        for number, error in self.losses.search(self.tasks.queues, self.pending):
            with Hold(lock):
                if number in self.pending:
                    self.finish([(number, error, 1)])
        self.tell()

    def search_vanished(self) -> None:
        """Fail the tasks that are neither in the pool's queues nor with a worker, and without an outcome.

        Somebody has removed the file in which one, or its outcome, was. Which it was is not known before all others are done.
        """
        if self.is_under_way():
            return
        with Hold(lock):
            out = self.pending.keys() - {number for number, _ in self.backlog}
        if out and self.is_under_way():  # handed over before this look
            return
        while self.take():  # outcomes are put before their tasks are done
            pass
        self.losses.expected = True
        self.search_losses()
        if self.losses.expected:  # a letter is there of which not all is known
            return
        self.doubtful, self.outcomes.payloads_lost = False, 0
        with Hold(lock):
            vanished = [number for number in out if number in self.pending]
            self.finish([(number, vanished_task(number), 1) for number in vanished])
        self.tell()

    def is_under_way(self) -> bool:
        """Is any task in the pool's queues, or with a worker?"""
        self.doubtful = self.tasks.owed > 0 or any(queue._unfinished() for queue in self.tasks.queues)
        return self.doubtful

    def look_for_workers(self) -> None:
        """Others may have workers in this pool, more than this program has; or nobody has any."""
        now = time.monotonic()
        if now - self.looked_for_workers < LOOK_ROUND:
            return
        self.looked_for_workers = now
        self.doubtful = True  # workers of others have met what has vanished
        if not self.pending:
            self.unserved.look(0, 0)
            return
        rows = self.board.rows()
        self.least_window = min(max(self.most_workers, len(rows), 1) + 1, self.most_ahead)
        self.window = max(self.window, self.least_window)
        self.unserved.look(len(self.pending), len(rows) + len(self.crew.processes))

    def give_up_starting(self) -> None:
        """No worker comes up."""
        death, cause = self.crew.last_death, self.outcomes.start_error or self.crew.start_error
        if self.outcomes.start_error:
            why = f"its initializer raised {self.outcomes.start_error!r}"
        elif cause or death is None:
            why = f"the last one could not be started: {cause}"
        else:
            why = f"the last one {describe_exit(death.exit_code)}"
        codes = () if death is None or death.left else (death.exit_code,)
        self.break_off(f"no worker came up, {self.crew.failed_starts} times in a row: {why}", cause, codes)

    def break_off(self, why: str, cause: BaseException | None, codes: tuple[int | None, ...] = ()) -> None:
        """Nothing that was asked will ever be done."""
        with Hold(lock):
            self.broken = broken(why, cause, codes)
            self.refusal = self.refusal or why
            self.backlog.clear()
            self.handed = len(self.pending)
            self.finish([(number, broken(why, cause, codes), True) for number in list(self.pending)])
        self.crew.stop()  # not under the lock: the crew's own may be held by a thread that waits for this one
        self.tell()

    # -- the end -----------------------------------------------------------------------------------------------------------

    def leave(self, why: str, cancel: bool = False) -> None:
        """Take no more tasks, and end when those that were asked for are done; `cancel`: those that were handed over."""
        cancelled: list[Future] = []
        with Hold(lock):
            self.closing = True
            self.refusal = self.refusal or why
            if cancel:
                while self.backlog:
                    number, _ = self.backlog[-1]
                    asker = self.pending.pop(number, None)
                    self.backlog.pop()
                    if type(asker) is Future:
                        cancelled.append(asker)
                    elif type(asker) is MapCall:
                        asker.fail(number, CancelledError())
                self.finish([])
        for future in reversed(cancelled):
            with future._condition:
                if future._state is RUNNING:  # its turn had come, and there was no room
                    future._state = PENDING
            future.cancel()
            if future._state is CANCELLED:
                future.set_running_or_notify_cancel()
        if self.begun:
            self.wake()
        elif self.pending:  # whoever asked has not come to it, or was interrupted before
            if not self.crew.wanted and self.most_workers:
                self.crew.grow(1)
            try:
                self.begin()
            except RuntimeError:  # there can be no more threads: the interpreter exits
                self.end()
        else:
            self.end()

    def end(self) -> None:
        """Let the workers leave, and close everything."""
        with Hold(lock):
            if self.ended:
                return
            self.ended = True
        self.crew.stop()
        if self.broken:
            # What one of them still runs may be another program's task, which shares the pool; nobody waits for ours.
            while not self.crew.join(GRACE) and not self.private and any(worker.running for worker in self.crew.stats()):
                pass
            self.crew.kill()
        self.crew.join()  # for as long as their finalizers, and the threads that tasks have started, take
        with contextlib.ExitStack() as closing:
            for descriptor in (self._wake_read, self._wake_write):
                closing.callback(os.close, descriptor)
            for part in (self.results, self.tasks, self.board):
                closing.callback(self.close, part)

    def close(self, part: Channel | Board) -> None:
        """Where something is lacking for the removal of its files, whoever opens a pool next removes them."""
        try:
            part.close()
        except (OSError, MemoryError, ShmqError) as error:
            if not is_limit(error):
                raise
            log().warning("the executor of %r leaves files behind for a while, since something is lacking: %r", self.pool, error)

    def end_workers(self, end: Callable[[Crew], None], why: str) -> None:
        """End this program's workers in the middle of what they run, and with them this client."""
        self.leave(why, cancel=True)
        end(self.crew)
        self.break_off(why, None)
        if self.begun:
            self.wake()

    def disown(self) -> None:
        """In a forked child: all this is the parent's."""
        self.closing = self.ended = True
        self.thread = None
        self.crew.disown()
        self.refusal = f"this executor belongs to process {self.id >> 32}, of which this one is a fork: make one of its own here"

    def stats(self) -> ExecutorStats:
        with Hold(lock):
            return ExecutorStats(
                name=self.pool,
                pending=len(self.pending),
                waiting=len(self.pending) - self.handed,
                done=self.done,
                window=self.window,
                deaths=self.crew.deaths,
                workers=[row.stats() for row in self.board.rows()],
            )


def broken(why: str, cause: BaseException | None, codes: tuple[int | None, ...]) -> WorkerLost:
    """An exception for one future alone: each `raise` of one that futures share would lengthen the traceback of all."""
    error = WorkerLost(why, codes)
    error.__cause__ = cause
    return error


def vanished_task(number: int) -> PayloadLost:
    return PayloadLost(
        f"task {number} is in no queue of its pool, no worker has it, and no outcome of it came: the file in /dev/shm in which "
        "it or its outcome was has been removed. Whether it was run is not known"
    )


def log() -> logging.Logger:
    return logging.getLogger("shmq")


clients: weakref.WeakSet[Client] = weakref.WeakSet()
leaves_in = 0  # pid


def leave_all() -> None:
    """The interpreter is about to exit: finish what was asked for, as every executor of the standard library does."""
    leaving = list(clients)
    for client in leaving:
        client.leave("cannot schedule new futures: the interpreter is shutting down")
    for client in leaving:
        client.join()


def leave_before_children_are_joined() -> None:
    """A process of multiprocessing waits for its children first, and only then for its threads: it would wait for our workers."""
    global leaves_in
    if leaves_in != os.getpid():
        leaves_in = os.getpid()
        Finalize(None, leave_all, exitpriority=100)


def disown_all() -> None:
    for client in list(clients):
        client.disown()
    clients.clear()


os.register_at_fork(after_in_child=disown_all)
# Before the threads that are no daemons are joined, unlike atexit: the manager thread is one.
threading._register_atexit(leave_all)  # type: ignore[attr-defined]
