"""TaskWorker: takes a task, runs it, puts its outcome, and acks the task. In this order no death loses a task or an outcome."""

from __future__ import annotations

import time
from typing import Any

from shmq._core import Lease
from shmq._errors import Full, OutOfMemory, SegmentNotFound, ShmqError
from shmq.executor import _board, _tasks
from shmq.executor._channel import Channel
from shmq.executor._plan import Plan, tasks_name
from shmq.executor._reply import Reply
from shmq.executor._reserve import Reserve, is_limit
from shmq.executor._tasks import Message
from shmq.executor._worker import Worker, live

__all__ = ["TaskWorker", "run"]

MOST_REPLIES = 64  # ways to clients that a worker keeps open


class TaskWorker(Worker):
    """Runs the tasks of a pool."""

    def __init__(self, plan: Plan) -> None:
        self.tasks = Channel(tasks_name(plan.pool), **plan.channel)
        super().__init__(plan, self.tasks.small)
        self.receive = self.tasks.receive  # type: ignore[method-assign]  # bound once: a call less for each task
        self.reserve = Reserve()
        self.replies: dict[int, Reply | None] = {}
        self.callables: dict[bytes, Any] = {}
        if plan.client:
            self.reply_to(plan.client)  # before the initializer, which may leave the process without descriptors

    def run_task(self, lease: Lease) -> None:
        data = lease.data if lease.nbytes <= _tasks.SMALL else lease.view
        number, client, length, flags, count = _tasks.task_of(data)
        reply = self.reply_to(client)  # before the task, which may leave the process without descriptors
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
        function = body = value = data = (
            None  # before the outcome is there: the program that waits for it may expect that they are freed
        )
        if reply is not None:
            self.answer(reply, message)
        self.end(began, how)
        lease.ack()

    def failure(self, number: int, seconds: float, error: BaseException) -> Message:
        """The outcome of a task that raised; made with the memory of the reserve where no other is left."""
        try:
            return _tasks.make_failure(number, seconds, error)
        except MemoryError:
            self.spend_reserve()
            return _tasks.make_failure(number, seconds, error)

    def answer(self, reply: Reply, message: Message) -> None:
        """Put an outcome. Where something is lacking, spend the reserve; where that does not help, put the error instead."""
        try:
            reply.put(message)
        except (OSError, ShmqError, MemoryError) as error:
            if not is_limit(error):
                raise
            self.spend_reserve()
            try:
                if isinstance(error, OutOfMemory | Full):
                    raise  # the reserve holds no part of /dev/shm
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
                self.close_reply(client)

    def reply_to(self, client: int) -> Reply | None:
        """The way to a client, opened where it is not open yet; None where the client is gone."""
        try:
            return self.replies[client]
        except KeyError:
            pass
        if len(self.replies) >= MOST_REPLIES:
            self.close_reply(next(iter(self.replies)))
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
            # The client is gone, and so are its segments. Or a task has changed this process's root, where no segment can be
            # seen.
            if not self.tasks.small.segment.is_current():
                raise
            return None

    def spend_reserve(self) -> None:
        self.reserve.spend()
        self.poor = True

    def recover(self) -> bool:
        return self.reserve.restore()

    def close(self) -> None:
        self.reserve.spend()  # the last handle of a client's outcomes removes their files, which takes a descriptor
        for client in list(self.replies):
            self.close_reply(client)
        self.tasks.close()

    def close_reply(self, client: int) -> None:
        reply = self.replies.pop(client)
        if reply is not None:
            reply.close()


def run(plan: Plan) -> None:
    """The body of a process that runs the tasks of a pool."""
    live(plan, lambda: TaskWorker(plan))
