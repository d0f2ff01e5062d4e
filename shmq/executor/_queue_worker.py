"""QueueWorker: calls a function of the user's with each message of a queue."""

from __future__ import annotations

import logging
import random
import time
from typing import Any, NamedTuple

from shmq._core import Lease
from shmq._errors import Empty, InFlightLimit, LeaseLost, ShutDown
from shmq._queue import Queue
from shmq._segment.backoff import Backoff
from shmq.executor import _board
from shmq.executor._function import Function, find
from shmq.executor._plan import Plan
from shmq.executor._worker import Worker, live

__all__ = ["BACKOFF", "Consumption", "consume"]

BACKOFF = Backoff(initial=1.0, factor=2.0, maximum=60.0, jitter=0.1)  # where the queue was made without one
PAUSE = 0.2  # seconds between two looks at a queue from which nothing can be taken, and which wakes no consumer then
LONGEST = 300  # characters of an exception in a line of the log; the dead letter has all of them

log = logging.getLogger("shmq")


class Consumption(NamedTuple):
    """What a QueueWorker is told beside its plan. It travels as the plan's `channel`."""

    function: str
    prefetch: int
    codec: str | None  # MODULE:CODEC


class Source(Queue):
    """The queue. It logs when this process makes a dead letter of one of its messages, for whatever reason."""

    dead_lettered = 0

    def _write_dead_letter(self, image: bytes, **about: Any) -> None:
        super()._write_dead_letter(image, **about)
        self.dead_lettered += 1
        error = about["error"]
        why = [about["cause"], about["reason"], "" if error is None else in_a_line(error)]
        log.error(
            "message %d of queue %r was given up after %s (%s): it is a dead letter now. "
            "`shmq dead %s` shows it, `shmq redrive %s` puts it back",
            about["id"], self.name, deliveries(about["delivery_count"]), "; ".join(filter(None, why)), self.name, self.name,
        )  # fmt: skip


class QueueWorker(Worker):
    """Acks a message when the function returns, and nacks it when the function raises."""

    def __init__(self, plan: Plan, function: Function, prefetch: int, codec: Any) -> None:
        source = Source.attach(plan.pool, codec=codec)
        assert isinstance(source, Source)
        self.queue = source
        super().__init__(plan, source)
        self.function = function
        self.prefetch = prefetch
        self.ahead: list[Lease] = []
        config = self.queue.segment.config
        self.most: int = config.max_deliveries
        self.lease_timeout: float = config.lease_timeout or 0.0
        self.backoff: Backoff = config.backoff if config.backoff.initial else BACKOFF

    def receive(self, timeout: float) -> Lease:
        if self.ahead:
            return self.ahead.pop()
        try:
            self.ahead = self.queue.receive_many(self.prefetch, timeout)
        except (
            InFlightLimit,
            ShutDown,
        ):  # other consumers hold all that there can be, or it rests after a failure; or nothing comes any more
            time.sleep(PAUSE)
            raise Empty from None
        finally:
            self.row.words[_board.DEAD_LETTERED] = self.queue.dead_lettered
        self.ahead.reverse()
        return self.ahead.pop()

    def run_task(self, lease: Lease) -> None:
        try:
            if lease.expires_at is not None:
                lease.extend()  # the lease's time begins now, not when the message was taken ahead
        except LeaseLost:
            return  # another consumer has the message, and this one has not begun with it
        began, how = self.begin(0, lease.id), _board.FAILED
        try:
            how = self.attempt(lease)
        finally:
            self.row.words[_board.DEAD_LETTERED] = self.queue.dead_lettered
            self.end(began, how)

    def attempt(self, lease: Lease) -> int:
        """Call the function, and settle the lease as its end demands. Return the word of the board that counts it."""
        try:
            lease.__enter__()
            if lease.expires_at is not None:
                self.queue._keep(lease, self.lease_timeout)
            self.function(lease)
            self.end_if_forked()
            if not lease.settled:
                lease.ack()
            return _board.DONE
        except BaseException as error:
            self.end_if_forked(error)
            if lease.settled:
                self.tell_late(lease, error)
            else:
                self.fail(lease, error)
            if isinstance(error, SystemExit | KeyboardInterrupt | GeneratorExit):
                raise  # the function wants to end the worker; any other exception is the message's
        return _board.FAILED

    def fail(self, lease: Lease, error: BaseException) -> None:
        """Give the message back: it is tried again after a while, or becomes a dead letter after its last delivery."""
        failed = lease.delivery_count
        rest = min(self.backoff.initial * self.backoff.factor ** min(failed - 1, 64), self.backoff.maximum)
        rest *= 1 + self.backoff.jitter * random.uniform(-1, 1)
        last = 0 < self.most <= failed
        log.log(
            logging.WARNING if failed > 1 else logging.ERROR,
            "message %d of queue %r failed, %d of %s: %s%s",
            lease.id, self.queue.name, failed, self.most or "any number", in_a_line(error),
            "" if last else f"; next try in {rest:.1f} s",
            exc_info=failed == 1,  # one traceback is enough
        )  # fmt: skip
        try:
            lease._fail(error, rest)
        except LeaseLost as lost:
            log.warning("%s", lost)

    def tell_late(self, lease: Lease, error: BaseException) -> None:
        """Log that the function raised when the lease had been settled, or lost."""
        if isinstance(error, LeaseLost):
            log.warning("%s", error)
        else:
            log.error("message %d of queue %r: %s, after it had been settled", lease.id, self.queue.name, in_a_line(error))

    def close(self) -> None:
        for lease in reversed(self.ahead):  # the oldest first, so that they come back in their order
            if not lease.settled:
                lease.release()
        self.ahead.clear()
        self.queue.close()
        self.function.close()


def in_a_line(error: BaseException) -> str:
    """An exception's class and text in one line, without characters that cannot be printed."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def deliveries(count: int) -> str:
    return f"{count:,} {'delivery' if count == 1 else 'deliveries'}"


def consume(plan: Plan) -> None:
    """The body of a worker process that calls a function with each message of a queue."""
    asked = Consumption(*plan.channel["consume"])
    codec = find(asked.codec, "CODEC") if asked.codec else None
    live(plan, lambda: QueueWorker(plan, Function(asked.function), asked.prefetch, codec))
