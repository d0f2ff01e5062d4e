"""Worker: a process that takes leases from a queue, does its work for each, and leaves when it is asked to."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from shmq import _core
from shmq._core import Lease
from shmq._errors import Empty, ShmqError
from shmq._queue import Queue
from shmq._signals import HEARD
from shmq.executor import _board
from shmq.executor._board import Board
from shmq.executor._plan import Plan
from shmq.executor._reserve import is_limit

if TYPE_CHECKING:
    import logging

__all__ = ["Worker", "live"]

LOOK_ROUND = 1.0  # seconds between two looks whether the process of the crew lives
START_PATIENCE = 10.0  # seconds for a new worker to find a port, descriptors and memory


forked = 0  # counts the forks that lead to this process: where it has grown since the worker was made, a task has forked it


class Leave(BaseException):
    """Raised in a worker that has nothing to do, when it is asked to leave."""


class Worker:
    """A worker process, whatever its work is. It takes leases, may be asked to leave between them, and has a row of a board."""

    def __init__(self, plan: Plan, queue: Queue) -> None:
        self.plan = plan
        self.forked = forked
        self.board = Board(queue)
        self.row = self.board.row(plan.row)
        if self.disowned():
            sys.exit()
        self.row.enter()
        self.leaving = False
        self.idle = False
        self.poor = False  # something was lacking
        self.looked = time.monotonic()
        queue._after_sleep = self.leave_if_asked

    # -- what kinds of workers differ in --------------------------------------------------------------------------------

    def receive(self, timeout: float) -> Lease:
        """Take the next lease, not begun with. **Raises** Empty."""
        raise NotImplementedError

    def run_task(self, lease: Lease) -> None:
        """Do the work that the message asks for, and settle the lease."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what the worker holds, before its process ends."""
        raise NotImplementedError

    def tell(self, error: BaseException) -> None:
        """Tell the client what the initializer raised."""

    def look_round(self) -> None:
        """Do what is to be done once a second."""

    # -- what they have in common ---------------------------------------------------------------------------------------

    def asked(self) -> bool:
        """Was the worker asked to leave, by the board or by a signal?"""
        return self.leaving or self.row.words[_board.ASKED] != 0

    def leave_if_asked(self) -> None:
        """Called whenever the wait for a lease is interrupted."""
        if self.idle and self.asked():
            self.idle = False
            raise Leave

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM: leave when the task is done. A crew that wants the end at once says so on the board before."""
        if self.row.words[_board.ASKED] == _board.DIE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.leaving = True
        self.leave_if_asked()

    def spend_reserve(self) -> None:
        """Something is lacking: free what is kept for that."""

    def recover(self) -> bool:
        """Is what was lacking there again? If not, this worker leaves, since a new one has more."""
        return True

    def prepare(self) -> bool:
        """Run the initializer. False where it raised: the crew sees on the board that this worker was never ready."""
        if self.plan.initializer is not None:
            try:
                self.plan.initializer(*self.plan.initargs)
            except BaseException as error:
                self.end_if_forked(error)
                import logging

                logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
                self.tell(error)
                return False
            self.end_if_forked()
        self.row.words[_board.STATE] = _board.READY
        return True

    def end_if_forked(self, error: BaseException | None = None) -> None:
        """End this process if the user's code has forked it, and has returned in it as well.

        Such a process is no worker, and puts no outcome. It ends as if the user's code had been its whole program.
        """
        if self.forked == forked:
            return
        status = 0
        if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
            status = error.code or 0
        elif error is not None:
            traceback.print_exception(error)
            status = 1
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status & 0xFF)

    def work(self) -> None:
        """Run tasks until the worker is asked to leave, has run `most_tasks`, or the process of its crew is gone."""
        left = self.plan.most_tasks
        while left is None or left > 0:
            lease = self.next_task()
            if lease is None:
                return
            try:
                self.run_task(lease)
            except (
                BaseException
            ):  # not the task's, so it ends this worker; the delivery counts, so that no task does that for ever
                self.spend_reserve()
                if not lease.settled:
                    lease.nack()
                raise
            del lease
            if left is not None:
                left -= 1

    def next_task(self) -> Lease | None:
        """Wait for the next lease. None where the worker is to leave."""
        try:
            while True:
                self.idle = True
                if self.poor:
                    self.poor = False
                    self.leaving = not self.recover()
                if self.asked() or self.orphaned():
                    return None
                try:
                    lease = self.receive_somehow()
                except Empty:
                    continue
                self.idle = False
                return lease
        except Leave:
            return None
        finally:
            self.idle = False

    def receive_somehow(self) -> Lease:
        """Take the next lease. Where something is lacking for that, free what is kept, and try once more."""
        try:
            return self.receive(LOOK_ROUND)
        except (OSError, ShmqError, MemoryError) as error:
            if not is_limit(error):
                raise
            error.__traceback__ = None  # its frames may hold a lease, which has to come back
            self.spend_reserve()
        return self.receive(LOOK_ROUND)

    def orphaned(self) -> bool:
        """Is the process of the crew gone, or does the crew not know of this worker? Looks once a second."""
        now = time.monotonic()
        if now - self.looked < LOOK_ROUND:
            return False
        self.looked = now
        self.look_round()
        return self.disowned() or not _core.alive(self.plan.crew)

    def disowned(self) -> bool:
        """Was the crew interrupted when it started this worker, so that it does not know of it? Then the row's claim is over."""
        return self.row.words[_board.CLAIM] != self.plan.claim

    def begin(self, client: int, number: int) -> int:
        """Say on the board which task is begun; return when, in nanoseconds."""
        words = self.row.words
        began = time.perf_counter_ns()
        words[_board.SINCE] = began
        words[_board.CLIENT] = client
        words[_board.TASK] = number
        return began

    def end(self, began: int, how: int) -> None:
        """Say on the board that the task is over. `how`: the word that counts it, DONE or FAILED."""
        words = self.row.words
        words[_board.BUSY] += time.perf_counter_ns() - began
        words[how] += 1
        words[_board.TASK] = 0


def live(plan: Plan, make: Callable[[], Worker]) -> None:
    """Make a worker, and run it until it leaves."""
    hear_as_a_worker()
    try:
        worker = make_patiently(plan, make)
    except ShmqError:
        if _core.alive(plan.crew):
            raise
        return  # the pool is gone
    signal.signal(signal.SIGTERM, worker.hear)
    if not worker.asked():
        if not worker.prepare():
            sys.exit(1)
        worker.work()
    if not worker.disowned():
        worker.row.words[_board.STATE] = _board.LEFT
    worker.close()


def make_patiently(plan: Plan, make: Callable[[], Worker]) -> Worker:
    """Make the worker. Where ports, descriptors or memory are lacking, try again for some seconds."""
    deadline, said = time.monotonic() + START_PATIENCE, False
    while True:
        try:
            return make()
        except (OSError, MemoryError, ShmqError) as error:
            if not is_limit(error) or time.monotonic() > deadline or not _core.alive(plan.crew):
                raise
            if not said:
                log().warning("a worker of %r waits, since it cannot attach to its queue: %s", plan.pool, error)
            said = True
        time.sleep(START_PATIENCE / 10)


def hear_as_a_worker() -> None:
    """Set the signal handlers of a worker.

    Ctrl-C in a terminal reaches all its processes, but the program that started this one handles it. So SIGINT has a handler that
    does nothing. If it were ignored instead, the programs that tasks start would ignore it, too.
    """
    signal.signal(signal.SIGINT, overhear)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the handler that a forked worker has inherited
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)  # the crew forks with these blocked


def overhear(number: int, frame: FrameType | None) -> None:
    """Handle SIGINT by doing nothing."""


def hear_as_others_do() -> None:
    """In a process that a task has forked: it is no worker, so SIGTERM and Ctrl-C end it."""
    global forked
    forked += 1
    if signal.getsignal(signal.SIGINT) is overhear:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(getattr(signal.getsignal(signal.SIGTERM), "__self__", None), Worker):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=hear_as_others_do)


def log() -> logging.Logger:
    import logging

    return logging.getLogger("shmq")
