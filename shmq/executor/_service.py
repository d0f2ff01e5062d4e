"""Service: a crew that one program runs for others until it is told to stop, as `shmq worker` does."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

from shmq import _core
from shmq._errors import SegmentNotFound
from shmq._queue import Queue
from shmq._waiting.bell import wait_many
from shmq.executor import _board
from shmq.executor._autoscale import Autoscale
from shmq.executor._board import Board
from shmq.executor._channel import Channel, shape_of
from shmq.executor._crew import Crew, Death, describe_exit
from shmq.executor._function import find
from shmq.executor._plan import Plan, tasks_name
from shmq.executor._queue_worker import Consumption, consume
from shmq.executor._task_worker import run

__all__ = ["Service", "Wish", "log_to_stderr"]

LOOK_ROUND = 1.0  # seconds between two looks whether the queue still has its name
LOOK_OUT = 0.2  # seconds between two looks whether the queue exists
FORMAT = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"

log = logging.getLogger("shmq")


class Wish(NamedTuple):
    """Which pool or queue is to be served, and by how many workers."""

    name: str  # of a pool; of a queue, where a function is named
    function: str | None
    least: int  # workers
    most: int
    prefetch: int = 1
    codec: str | None = None  # MODULE:CODEC of a queue
    method: str = "fork"
    max_tasks: int | None = None
    log_level: int = logging.INFO


class Service:
    """Workers for a pool; or for a queue, where the wish names a function."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.scale = Autoscale(wish.least, wish.most)
        self.shape = shape_of(wish.most, private=False)
        self.codec = find(wish.codec, "CODEC") if wish.codec else None
        self.asked = 0
        self.channel: Channel | None = None
        self.queue: Queue | None = None
        self.crew: Crew | None = None
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def ask(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal: at the first one the workers leave when what they run is done, at the second one at once."""
        self.asked += 1
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"\0")

    # -- its life ------------------------------------------------------------------------------------------------------------

    def serve(self) -> bool:
        """Wait for the queue, and run workers for it until a signal comes. False where no worker becomes ready.

        **Raises** what attaching raises; SegmentNotFound once the queue was unlinked, since no message that is put under its name
        would reach the workers.
        """
        before = {number: signal.signal(number, self.ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            queue = self.find()
            if queue is None:
                return True
            crew = self.crew = self.start_crew(queue)
            there = over = False
            while not self.asked and (there := queue.segment.is_current()) and not (over := is_done(queue)):
                self.look_at(crew.collect())
                if crew.hopeless:
                    return False
                self.wait(crew.fill())
            if over:
                log.info("queue %r was shut down, and all of its messages are done", queue.name)
            elif self.asked:
                log.info("asked to stop: the workers finish what they run (a second signal kills them)")
            self.ask_crew_to_leave(crew)
            if not (there or self.asked):
                raise SegmentNotFound(f"queue {queue.name!r} was unlinked, and the workers have left; start them again")
            return True
        finally:
            self.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def find(self) -> Queue | None:
        """Wait until the queue exists; None where a signal comes before.

        It is not made here: it would have other values than those for which the program asks that uses it.
        """
        name = self.wish.name if self.wish.function else tasks_name(self.wish.name)
        told = False
        while not self.asked:
            try:
                if self.wish.function:
                    self.queue = Queue.attach(name, codec=self.codec)
                else:
                    self.channel = Channel(name, attach=True, **self.shape)
                    self.queue = self.channel.small
                return self.queue
            except SegmentNotFound:
                if not told:
                    what = "queue" if self.wish.function else "pool"
                    log.info("waiting for %s %r: no program has made it yet", what, self.wish.name)
                told = True
            self.sleep(LOOK_OUT)
        return None

    def start_crew(self, queue: Queue) -> Crew:
        """Start the workers."""
        wish = self.wish
        channel: dict[str, Any] = (
            {"consume": Consumption(wish.function, wish.prefetch, wish.codec)} if wish.function else self.shape
        )
        plan = Plan(pool=wish.name, channel=channel, row=0, claim=0, crew=_core.identity(), most_tasks=wish.max_tasks)
        body = functools.partial(logged, consume if wish.function else run, wish.log_level)
        crew = Crew(multiprocessing.get_context(wish.method), Board(queue), body, plan)
        many = f"{wish.least} to {wish.most} workers" if wish.least < wish.most else number_of(wish.least, "worker")
        log.info("%s for %s %r; Ctrl-C ends", many, "queue" if wish.function else "pool", wish.name)
        crew.grow(wish.least)
        return crew

    def ask_crew_to_leave(self, crew: Crew) -> None:
        """Ask the workers to leave, and wait until they have finished what they run, or a second signal comes."""
        crew.ask_to_leave()
        while crew.processes:
            if self.asked > 1:
                crew.kill()
            self.wait(None)
            self.look_at(crew.collect())

    def look_at(self, deaths: list[Death]) -> None:
        """Log the workers that have died."""
        for death in deaths:
            if not death.left:
                at = f" at {'message' if self.wish.function else 'task'} {death.task}" if death.task else ""
                end = "" if self.crew is None or self.crew.leaving else ", and is replaced"
                log.warning("worker %d%s %s%s", death.pid, at, describe_exit(death.exit_code), end)

    def close(self) -> None:
        """Kill the workers that are left, log the sums, and close everything."""
        if self.crew is not None:
            self.crew.kill()
            self.crew.join()
            done, failed, dead_lettered = (self.crew.sums[word] for word in (_board.DONE, _board.FAILED, _board.DEAD_LETTERED))
            lost = f", {number_of(dead_lettered, 'message')} given up" if self.wish.function else ""
            log.info("the end: %d done, %d failed%s", done, failed, lost)
            self.crew.board.close()
            self.crew.close()
        if self.channel is not None:
            self.channel.close()
        if self.queue is not None:
            self.queue.close()
        os.close(self._read)
        os.close(self._write)

    # -- waiting -------------------------------------------------------------------------------------------------------------

    def wait(self, pause: float | None) -> None:
        """Wait until a worker ends, a signal comes, or it is time to look at the backlog."""
        assert self.crew is not None and self.queue is not None
        pauses = [pause] if pause is not None else []
        if self.scale.least < self.scale.most and not self.asked:
            self.crew.follow(self.scale, self.queue.qsize())
            pauses.append(self.scale.patience(self.crew.wanted) or 0.25)
        if not self.asked:
            pauses.append(LOOK_ROUND)
        self.sleep(min(pauses, default=None), self.crew.end)

    def sleep(self, seconds: float | None, *descriptors: int) -> None:
        """Wait so long, or until a signal comes or one of these descriptors is readable."""
        _, woken = wait_many([], seconds, [self._read, *descriptors])
        if self._read in woken:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4096)


def is_done(queue: Queue) -> bool:
    """Was the queue shut down, and are all of its messages done?"""
    if not queue._shut:
        return False
    stats = queue.stats()
    return stats.ready + stats.returned + stats.leased == 0


def number_of(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


# -- logs ----------------------------------------------------------------------------------------------------------------------


def log_to_stderr(level: int) -> None:
    """Show log records from this level on, those of the user's code included, unless the root logger has a handler already."""
    logging.basicConfig(format=FORMAT, stream=sys.stderr, level=level)


def logged(body: Callable[[Plan], None], level: int, plan: Plan) -> None:
    """The body of a worker that logs like the program that has started it, also where it was not forked."""
    log_to_stderr(level)
    body(plan)
