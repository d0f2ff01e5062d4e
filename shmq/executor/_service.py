"""Service: a crew that one program runs for others, until it is told to stop. What `shmq worker` does."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from shmq import _core, _segment
from shmq._bell import wait_many
from shmq._errors import SegmentNotFound
from shmq._queue import Queue
from shmq.executor._autoscale import Autoscale
from shmq.executor._board import Board
from shmq.executor._channel import SHARED, Channel
from shmq.executor._consumer import Consumption, consume
from shmq.executor._crew import Crew, Death
from shmq.executor._worker import Plan, run, tasks_name

__all__ = ["Service"]

LOOK_ROUND = 1.0  # seconds between two looks whether the queue still has its name


class Service:
    """Workers for the pool of this name, or, where a function is named, for the queue."""

    def __init__(
        self, name: str, function: str | None, least: int, most: int, prefetch: int, method: str, max_tasks: int | None
    ) -> None:
        self.scale = Autoscale(least, most)
        self.channel: Channel | None = None
        if function is None:
            channel: dict[str, Any] = dict(SHARED)
            self.channel = Channel(tasks_name(name), **channel)
            self.queue = self.channel.small
        else:
            channel = {"consume": Consumption(function, prefetch, os.getcwd())}
            self.queue = Queue(name)
        plan = Plan(pool=name, channel=channel, row=0, turn=0, crew=_core.identity(), most_tasks=max_tasks)
        context = multiprocessing.get_context(method)
        self.crew = Crew(context, Board(self.queue), run if function is None else consume, plan)
        self.asked = 0
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def ask(self, number: int, frame: FrameType | None = None) -> None:
        """A signal came: at the first one the workers leave when they are done with what they run, at the second at once."""
        self.asked += 1
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"\0")

    def serve(self, report: Callable[[Death], None]) -> bool:
        """Keep the workers at it until asked to stop. `report` is told of each death. False where no worker comes up.

        **Raises** SegmentNotFound once the queue has been unlinked: nothing that is put under its name would reach them.
        """
        there = True
        before = {number: signal.signal(number, self.ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self.crew.grow(self.scale.least)
            while not self.asked and (there := _segment.is_current(self.queue.segment)):
                for death in self.crew.collect():
                    report(death)
                if self.crew.hopeless:
                    return False
                self.wait(self.crew.fill())
            self.crew.stop()
            while self.crew.processes:
                if self.asked > 1:
                    self.crew.kill()
                self.wait(None)
                self.crew.collect()
            if not there:
                raise SegmentNotFound(f"queue {self.queue.name!r} was unlinked, and the workers have left; start them again")
            return True
        finally:
            self.crew.kill()
            self.crew.join()
            for number, handler in before.items():
                signal.signal(number, handler)
            self.close()

    def wait(self, pause: float | None) -> None:
        """Until a worker ends, a signal comes, or it is time to look at the backlog."""
        workers = self.crew.wanted
        pauses = [pause] if pause is not None else []
        if self.scale.least < self.scale.most and not self.asked:
            busy = sum(row.running != 0 for row in self.crew.stats())
            self.crew.resize(self.scale.wanted(workers, busy, self.queue.qsize()))
            pauses.append(self.scale.patience(self.crew.wanted) or 0.25)
        if not self.asked:
            pauses.append(LOOK_ROUND)
        _, woken = wait_many([], min(pauses, default=None), [self._read, *self.crew.sentinels])
        if self._read in woken:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4096)

    def close(self) -> None:
        self.crew.board.close()
        if self.channel is not None:
            self.channel.close()
        self.queue.close()
        os.close(self._read)
        os.close(self._write)
