"""What a worker process does: take a task, run it, put its outcome, ack. In this order a death costs nothing but the task."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from shmq import _core
from shmq._core import Lease
from shmq._errors import Empty, Full, OutOfMemory, SegmentNotFound, ShmqError
from shmq._queue import Queue
from shmq._segment import segment
from shmq.executor import _board, _tasks
from shmq.executor._board import Board
from shmq.executor._channel import Channel
from shmq.executor._reply import Reply
from shmq.executor._reserve import Reserve, is_limit
from shmq.executor._signals import HEARD
from shmq.executor._tasks import Message

if TYPE_CHECKING:
    import logging

__all__ = ["Plan", "Worker", "live", "run", "tasks_name"]

LOOK_ROUND = 1.0  # seconds between two looks whether the crew's process lives
MOST_REPLIES = 64
START_PATIENCE = 10.0  # seconds for a new worker to find a port, descriptors and memory


class Plan(NamedTuple):
    """What a worker is told when it is started."""

    pool: str
    channel: dict[str, Any]
    row: int
    turn: int  # of that row
    crew: int  # identity of the process that started it
    client: int = 0  # who is told when the initializer raises
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    most_tasks: int | None = None


forked = 0  # this process is the child of a task if that many times more than when the worker was made


class Leave(BaseException):
    """Raised in a worker that has nothing to do, when it is asked to leave."""


def tasks_name(pool: str) -> str:
    return f"{pool}.tasks"


class Worker:
    """A worker process, whatever its work is: leases come in, between them it may be asked to leave, and a board tells of it."""

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
        queue._awakened = self.leave_if_asked

    # -- what kinds of workers differ in --------------------------------------------------------------------------------

    def receive(self, timeout: float) -> Lease:
        """The next lease, not begun with. Raises Empty."""
        raise NotImplementedError

    def run_task(self, lease: Lease) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def tell(self, error: BaseException) -> None:
        """The initializer raised."""

    def look_round(self) -> None:
        """Once a second."""

    # -- what they have in common ---------------------------------------------------------------------------------------

    def asked(self) -> bool:
        """Is it to leave, by the board or by a signal?"""
        return self.leaving or self.row.words[_board.ASKED] != 0

    def leave_if_asked(self) -> None:
        if self.idle and self.asked():
            self.idle = False
            raise Leave

    def hear(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM, from whoever wants this process to end when it has done its task; from the crew, which says so on the board,
        it is to end at once."""
        if self.row.words[_board.ASKED] == _board.DIE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.leaving = True
        self.leave_if_asked()

    def spend_reserve(self) -> None:
        """Something is lacking."""

    def recover(self) -> bool:
        """Is what was lacking there again? If not, this worker leaves: a new one is better off."""
        return True

    def prepare(self) -> bool:
        """Run the initializer. False where it raised: the crew learns from the board that this worker never was ready."""
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
        """A process that the program's own code has forked, and that comes back from it, ends here.

        It is no worker, and has nothing to say of the task: it ends as if the task had been all of its program.
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
        """Run tasks until asked to leave, or enough, or the crew's process is gone."""
        left = self.plan.most_tasks
        while left is None or left > 0:
            lease = self.next_task()
            if lease is None:
                return
            try:
                self.run_task(lease)
            except BaseException:  # this worker's own, which ends it: the delivery counts, so that no task does that for ever
                self.spend_reserve()
                if not lease.settled:
                    lease.nack()
                raise
            del lease
            if left is not None:
                left -= 1

    def next_task(self) -> Lease | None:
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
        """Where something is lacking for a task, take it with the help of what was kept."""
        try:
            return self.receive(LOOK_ROUND)
        except (OSError, ShmqError, MemoryError) as error:
            if not is_limit(error):
                raise
            error.__traceback__ = None  # in its frames may be a lease, which is to be taken again
            self.spend_reserve()
        return self.receive(LOOK_ROUND)

    def orphaned(self) -> bool:
        now = time.monotonic()
        if now - self.looked < LOOK_ROUND:
            return False
        self.looked = now
        self.look_round()
        return self.disowned() or not _core.alive(self.plan.crew)

    def disowned(self) -> bool:
        """Has the crew given this worker up before it knew of it?"""
        return self.row.words[_board.TURN] != self.plan.turn

    def begin(self, client: int, number: int) -> int:
        """Say on the board what is begun; return when."""
        words = self.row.words
        began = time.perf_counter_ns()
        words[_board.SINCE] = began
        words[_board.CLIENT] = client
        words[_board.TASK] = number
        return began

    def end(self, began: int, how: int) -> None:
        """Say on the board that it is done, or has failed."""
        words = self.row.words
        words[_board.BUSY] += time.perf_counter_ns() - began
        words[how] += 1
        words[_board.TASK] = 0


class TaskWorker(Worker):
    """Runs the tasks of a pool."""

    def __init__(self, plan: Plan) -> None:
        self.tasks = Channel(tasks_name(plan.pool), **plan.channel)
        super().__init__(plan, self.tasks.small)
        self.receive = self.tasks.receive  # type: ignore[method-assign]
        self.reserve = Reserve()
        self.replies: dict[int, Reply | None] = {}
        self.callables: dict[bytes, Any] = {}
        if plan.client:
            self.reply_to(plan.client)  # before the initializer, which may leave this process without descriptors

    def run_task(self, lease: Lease) -> None:
        data = lease.data if lease.nbytes <= _tasks.SMALL else lease.view
        number, client, length, flags, count = _tasks.task_of(data)
        reply = self.reply_to(client)  # before the task, for the same reason
        began = self.begin(client, number)
        function: Any
        body: Any
        value: Any
        message: Message
        try:
            function, body = _tasks.load_task(data, length, flags, count, self.callables)
            if flags & _tasks.CHUNK:
                value = [function(*arguments) for arguments in body]
            elif type(body) is tuple:
                value = function(*body)
            else:
                value = function(*body[0], **body[1])
            self.end_if_forked()
            message = _tasks.make_value(number, (time.perf_counter_ns() - began) * 1e-9, value)
            how = _board.DONE
        except BaseException as error:
            self.end_if_forked(error)
            message = self.failure(number, (time.perf_counter_ns() - began) * 1e-9, error)
            how = _board.FAILED
        function = body = value = data = None  # before the outcome is seen: whoever waits for it may look for them
        if reply is not None:
            self.answer(reply, message)
        self.end(began, how)
        lease.ack()

    def failure(self, number: int, seconds: float, error: BaseException) -> Message:
        """The outcome of a task that raised, where need be made of what was kept for it."""
        try:
            return _tasks.make_failure(number, seconds, error)
        except MemoryError:
            self.spend_reserve()
            return _tasks.make_failure(number, seconds, error)

    def answer(self, reply: Reply, message: Message) -> None:
        """Put the outcome; where something is lacking for it, with the reserve; where that does not help, say what is lacking."""
        try:
            reply.put(message)
        except (OSError, ShmqError, MemoryError) as error:
            if not is_limit(error):
                raise
            self.spend_reserve()
            try:
                if isinstance(error, OutOfMemory | Full):
                    raise  # of /dev/shm no reserve is kept
                reply.put(message)
            except (OSError, ShmqError, MemoryError) as lacking:
                number, seconds, _, _ = _tasks.outcome_of(message if isinstance(message, bytes) else message[0])
                reply.put(_tasks.make_failure(number, seconds, lacking))

    def tell(self, error: BaseException) -> None:
        reply = self.reply_to(self.plan.client) if self.plan.client else None
        if reply is not None:
            self.answer(reply, self.failure(0, 0.0, error))

    def look_round(self) -> None:
        for client, reply in list(self.replies.items()):
            if reply is None or not reply.alive:
                self.forget(client)

    def reply_to(self, client: int) -> Reply | None:
        """The way to this client; None where it is gone."""
        try:
            return self.replies[client]
        except KeyError:
            pass
        if len(self.replies) >= MOST_REPLIES:
            self.forget(next(iter(self.replies)))
        try:
            reply = self.open_reply(client)
        except (OSError, MemoryError, ShmqError) as error:
            if not is_limit(error):
                raise
            self.spend_reserve()
            reply = self.open_reply(client)
        self.replies[client] = reply
        return reply

    def open_reply(self, client: int) -> Reply | None:
        try:
            return Reply(client, self.plan.channel)
        except SegmentNotFound:
            # The client is gone, and its segments are. Or a task has changed this process's root, and none is to be seen.
            if not segment.is_current(self.tasks.small.segment):
                raise
            return None

    def spend_reserve(self) -> None:
        self.reserve.spend()
        self.poor = True

    def recover(self) -> bool:
        return self.reserve.restore()

    def close(self) -> None:
        self.reserve.spend()  # whoever is the last one at a client's outcomes removes them, which takes a descriptor
        for client in list(self.replies):
            self.forget(client)
        self.tasks.close()

    def forget(self, client: int) -> None:
        reply = self.replies.pop(client)
        if reply is not None:
            reply.close()


def live(plan: Plan, make: Callable[[], Worker]) -> None:
    """The life of a worker process."""
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
    """Make the worker, after a while if there are no ports, descriptors or memory at first."""
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
    """Ctrl-C in a terminal reaches all its processes, and is for the program that started this one to handle.

    So SIGINT has a handler that does nothing. Were it ignored, the programs that tasks start would ignore it, too.
    """
    signal.signal(signal.SIGINT, overhear)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not what a forked worker has inherited
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)  # see Crew: it forks with these blocked


def overhear(number: int, frame: FrameType | None) -> None:
    pass


def hear_as_others_do() -> None:
    """In a process that a task has forked: it is no worker, and SIGTERM and Ctrl-C are to end it."""
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


def run(plan: Plan) -> None:
    """The body of a process that runs the tasks of a pool."""
    live(plan, lambda: TaskWorker(plan))
