"""The job of the demo, without its screen: one producer, some workers, and what they are checked against.

::

    producer ── files ──▶ worker 1 … n ── reports ──▶ parent

A worker reports on a file before it acknowledges the message. So a worker that is killed loses nothing: its lease comes
back and another worker takes the file. A file may be reported twice for the same reason, which is why the parent counts
paths and not reports.

The same functions run over ``multiprocessing.Queue`` for the comparison; all that differs is the transport.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import shmq
from shmq.demo.files import Report, inspect, pack
from shmq.demo.processes import SPAWN, Children
from shmq.demo.transports import STOP, Transport, put_when_there_is_room

__all__ = ["Job"]

DEATHS_ALLOWED = 20


@dataclass
class Job:
    """One producer and ``size`` workers on one transport, driven by the process that made them."""

    transport: Transport
    size: int
    children: Children
    deaths: int = 0
    repeats: int = 0
    seconds: float = 0.0
    workers: list[SpawnProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._next_look = 0.0
        receiver, self._start = SPAWN.Pipe(duplex=False)
        self._producer = self.children.start(produce, receiver, self.transport)
        for _ in range(self.size):
            self._hire()
        ready = 0
        while ready < 1 + self.size:
            ready += self._next_report() is not None

    def run(self, paths: list[str]) -> Iterator[Report]:
        """Have the files inspected, and yield the first report on each of them as it arrives."""
        pending = set(paths)
        started = time.monotonic()
        self._start.send(paths)
        while pending:
            report = self._next_report()
            if report is None or not report.path:
                continue
            if report.path in pending:
                pending.remove(report.path)
                self.seconds = time.monotonic() - started
                yield report
            else:
                self.repeats += 1

    def end(self) -> None:
        """End the processes, now that there is nothing left to do."""
        for _ in self.workers:
            self.transport.files.put(STOP)
        for process in (self._producer, *self.workers):
            process.join(timeout=5)

    def kill_one(self) -> None:
        """Send SIGKILL to a worker, as the kernel does when memory runs out."""
        victim = self.workers[0]
        victim.kill()
        victim.join()
        self._replace_the_dead()

    def _hire(self) -> None:
        self.workers.append(self.children.start(work, self.transport))

    def _next_report(self) -> Report | None:
        """Wait for a report, and see now and then whether everybody is still there."""
        report: Report | None = None
        with contextlib.suppress(queue.Empty):
            report = self.transport.reports.get(timeout=0.1)
        if report is None or time.monotonic() > self._next_look:
            self._replace_the_dead()
            self._next_look = time.monotonic() + 0.5
        return report

    def _replace_the_dead(self) -> None:
        if self._producer.exitcode:
            raise shmq.ShmqError(f"the producer ended early ({_cause(self._producer.exitcode)})")
        for worker in [worker for worker in self.workers if worker.exitcode is not None]:
            cause = _cause(worker.exitcode)
            if not cause.startswith("SIG") or not self.transport.survives_kills:
                raise shmq.ShmqError(f"a worker ended early ({cause})")
            self.deaths += 1
            if self.deaths > DEATHS_ALLOWED:
                raise shmq.ShmqError(f"{self.deaths} workers were killed, the last one by {cause}: giving up")
            self.workers.remove(worker)
            self._hire()


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit status {exitcode}"


def produce(start: Connection, transport: Transport) -> None:
    """Put each file; what cannot be read or does not fit is reported instead, so that nobody waits for it."""
    transport.reports.put(Report(""))
    for path in start.recv():
        try:
            put_when_there_is_room(transport.files, pack(path))
        except (OSError, MemoryError) as error:
            transport.reports.put(Report(path, problem=getattr(error, "strerror", None) or str(error)))


def work(transport: Transport) -> None:
    """Inspect files until told to stop."""
    transport.reports.put(Report(""))
    for message in transport.take(transport.files):
        transport.reports.put(inspect(message))
