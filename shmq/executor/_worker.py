"""What a worker process does: take a task, run it, put its outcome, ack. In this order a death costs nothing but the task."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

from shmq import _core, _segment
from shmq._core import Lease
from shmq._errors import Empty, Full, OutOfMemory, SegmentNotFound, ShmqError
from shmq._queue import Queue
from shmq.executor import _board, _tasks
from shmq.executor._board import Board
from shmq.executor._channel import Channel
from shmq.executor._tasks import Message

__all__ = ["HEARD", "ROOM_PATIENCE", "Plan", "Worker", "client_name", "live", "run", "tasks_name"]

LOOK_ROUND = 1.0  # seconds between two looks whether the crew's process lives
MOST_REPLIES = 64
HEARD = {signal.SIGINT, signal.SIGTERM}
ROOM_PATIENCE = 0.5  # seconds without memory for an outcome, and without another outcome whose memory will be free


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


class Leave(BaseException):
    """Raised by a signal in a worker that has nothing to do."""


def client_name(client: int) -> str:
    """The name of the queue of a client's outcomes: its pid, and a number by chance."""
    return f"{_segment.ANONYMOUS_PREFIX}{client >> 32}.{client & 0xFFFFFFFF:08x}.results"


def tasks_name(pool: str) -> str:
    return f"{pool}.tasks"


class Worker:
    """A worker process, whatever its work is: leases come in, signals are obeyed between them, the board tells how it goes."""

    def __init__(self, plan: Plan, queue: Queue) -> None:
        self.plan = plan
        self.row = Board(queue).row(plan.row)
        if self.disowned():
            sys.exit()
        self.row.enter()
        self.leaving = False
        self.idle = False
        self.looked = time.monotonic()

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

    def asked_to_leave(self, number: int, frame: FrameType | None) -> None:
        self.leaving = True
        if self.idle:
            self.idle = False
            raise Leave

    def prepare(self) -> bool:
        """Run the initializer. False where it raised: the crew learns from the board that this worker never was ready."""
        if self.plan.initializer is not None:
            try:
                self.plan.initializer(*self.plan.initargs)
            except BaseException as error:
                import logging

                logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
                self.tell(error)
                return False
        self.row.words[_board.STATE] = _board.READY
        return True

    def work(self) -> None:
        """Run tasks until asked to leave, or enough, or the crew's process is gone."""
        left = self.plan.most_tasks
        while left is None or left > 0:
            lease = self.next_task()
            if lease is None:
                return
            self.run_task(lease)
            del lease
            if left is not None:
                left -= 1

    def next_task(self) -> Lease | None:
        try:
            while True:
                self.idle = True
                if self.leaving or self.orphaned():
                    return None
                try:
                    lease = self.receive(LOOK_ROUND)
                except Empty:
                    continue
                self.idle = False
                return lease
        except Leave:
            return None
        finally:
            self.idle = False

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
        self.replies: dict[int, Channel | None] = {}
        self.callables: dict[bytes, Any] = {}

    def run_task(self, lease: Lease) -> None:
        data = lease.data if lease.nbytes <= _tasks.SMALL else lease.view
        number, client, length, flags, count = _tasks.task_of(data)
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
            message = _tasks.make_value(number, (time.perf_counter_ns() - began) * 1e-9, value)
            how = _board.DONE
        except BaseException as error:
            message = _tasks.make_failure(number, (time.perf_counter_ns() - began) * 1e-9, error)
            how = _board.FAILED
        function = body = value = data = None  # before the outcome is seen: whoever waits for it may look for them
        self.reply(client, message)
        self.end(began, how)
        lease.ack()

    def tell(self, error: BaseException) -> None:
        if self.plan.client:
            self.reply(self.plan.client, _tasks.make_failure(0, 0.0, error))

    def look_round(self) -> None:
        for client, channel in list(self.replies.items()):
            if channel is None or not _core.alive(channel.small.segment.creator):
                self.forget(client)

    def reply(self, client: int, message: Message) -> None:
        """Put the outcome, unless nobody is there to take it."""
        try:
            channel = self.replies[client]
        except KeyError:
            channel = self.open_reply(client)
        hopeful = time.monotonic()
        while channel is not None:
            try:
                channel.put(message, LOOK_ROUND)
                while channel.owed:
                    channel.settle()
                    time.sleep(0.001)
                return
            except Full:
                if not _core.alive(channel.small.segment.creator):
                    return
            except OutOfMemory as error:
                if not channel.small.empty() and _core.alive(channel.small.segment.creator):
                    hopeful = time.monotonic()
                if time.monotonic() - hopeful < ROOM_PATIENCE:
                    time.sleep(0.005)
                    continue
                number, seconds, _, _ = _tasks.outcome_of(message if isinstance(message, bytes) else message[0])
                message = _tasks.make_failure(number, seconds, error)

    def open_reply(self, client: int) -> Channel | None:
        if len(self.replies) >= MOST_REPLIES:
            self.forget(next(iter(self.replies)))
        try:
            channel = Channel(client_name(client), attach=True, **(self.plan.channel | {"max_deliveries": None, "private": True}))
        except SegmentNotFound:
            channel = None
        self.replies[client] = channel
        return channel

    def close(self) -> None:
        for client in list(self.replies):
            self.forget(client)
        self.tasks.close()

    def forget(self, client: int) -> None:
        channel = self.replies.pop(client)
        if channel is not None:
            channel.close()


def live(plan: Plan, make: Callable[[], Worker]) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that started this one to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not what a forked worker has inherited
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)  # see Crew: it forks with these blocked
    try:
        worker = make()
    except ShmqError:
        if _core.alive(plan.crew):
            raise
        return  # the pool is gone
    signal.signal(signal.SIGTERM, worker.asked_to_leave)
    if not worker.prepare():
        sys.exit(1)
    worker.work()
    if not worker.disowned():
        worker.row.words[_board.STATE] = _board.LEFT
    worker.close()


def run(plan: Plan) -> None:
    """The body of a process that runs the tasks of a pool."""
    live(plan, lambda: TaskWorker(plan))
