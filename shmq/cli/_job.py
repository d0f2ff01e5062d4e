"""The work of ``shmq demo``, without its screen: one producer, some workers, and what they are checked against.

::

    producer ── files ──▶ worker 1 … n ── reports ──▶ parent

A message is one file: the length of its path, the path, the content. The workers hash and compress it where it lies,
in the leased slot, and report before they acknowledge. So a worker that is killed loses nothing: its lease comes back
and another worker takes the file. A file may be reported twice for the same reason, which is why the parent counts
paths and not reports.

The same functions run over ``multiprocessing.Queue`` for the comparison; all that differs is a :class:`Transport`. This
module imports neither click nor rich, because every worker imports it.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import queue
import signal
import statistics
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

import shmq
from shmq.cli._processes import SPAWN, Children

__all__ = ["Cost", "Crew", "File", "Report", "Transport", "files_below", "inspect", "pack"]
__all__ += ["SLOT_SIZE", "multiprocessing_transport", "queue_costs", "shmq_transport"]

SLOTS = 64
SLOT_SIZE = 128 << 10  # a few of a library's files are larger, and spill; the queue fits in the 64 MB that Docker gives
SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__"})
DEATHS_ALLOWED = 20
ANSWER_PATIENCE = 60.0
STOP = b""


class File(NamedTuple):
    """One regular file of the folder, as it was when the folder was listed."""

    path: str
    size: int
    modified_ns: int

    @property
    def message_size(self) -> int:
        return 2 + len(os.fsencode(self.path)) + self.size

    def changed(self) -> bool:
        """Whether the file is another one now, so that a difference proves nothing."""
        try:
            now = os.stat(self.path)
        except OSError:
            return True
        return (now.st_size, now.st_mtime_ns) != (self.size, self.modified_ns)


class Report(NamedTuple):
    """What a worker found out about one file; ``problem`` says why the file was left out."""

    path: str
    digest: str = ""
    size: int = 0
    compressed: int = 0
    problem: str = ""


def files_below(folder: str) -> list[File]:
    """List the regular files below ``folder`` in a stable order, following no link and no pipe."""
    found: list[File] = []
    for parent, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS)
        with contextlib.suppress(OSError), os.scandir(parent) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    found.append(File(entry.path, status.st_size, status.st_mtime_ns))
    return found


def pack(path: str) -> bytes:
    """Read a file into one message."""
    name = os.fsencode(path)
    with open(path, "rb", buffering=0) as file:
        return b"".join((len(name).to_bytes(2, "little"), name, file.readall()))


def inspect(message: memoryview) -> Report:
    """Hash and compress the file in a message: the work itself, on the bytes where they lie."""
    start = 2 + int.from_bytes(message[:2], "little")
    content = message[start:]
    digest = hashlib.sha256(content).hexdigest()
    return Report(os.fsdecode(bytes(message[2:start])), digest, len(content), len(zlib.compress(content, 1)))


# ---- how the messages travel -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transport:
    """Two queues, and how a worker takes its messages from the first one."""

    files: Any
    reports: Any
    take: Callable[[Any], Iterator[memoryview]]
    survives_kills: bool


def leased(files: shmq.Queue) -> Iterator[memoryview]:
    """Yield each message under a lease, acknowledged when the next one is asked for."""
    while True:
        with files.receive() as lease:
            if lease.nbytes == len(STOP):
                return
            yield lease.view


def taken(files: multiprocessing.Queue[bytes]) -> Iterator[memoryview]:
    """Yield each message of a ``multiprocessing.Queue``, which is gone from it the moment it is taken."""
    while message := files.get():
        yield memoryview(message)


@contextlib.contextmanager
def shmq_transport(workers: int) -> Iterator[Transport]:
    """Make two anonymous shmq queues, which end with this process whatever ends it."""
    ports = workers + 8  # producer, parent, and the port of a dead worker that nobody has taken back yet
    with (
        shmq.Queue(slots=SLOTS, slot_size=SLOT_SIZE, in_flight=ports, ports=ports, oversize="spill") as files,
        shmq.Queue(slots=1024, slot_size=1024, ports=ports, oversize="spill") as reports,
    ):
        yield Transport(files, reports, leased, survives_kills=True)


@contextlib.contextmanager
def multiprocessing_transport() -> Iterator[Transport]:
    """Make the same two queues of the standard library."""
    files: multiprocessing.Queue[bytes] = SPAWN.Queue(SLOTS)
    reports: multiprocessing.Queue[Report] = SPAWN.Queue()
    try:
        yield Transport(files, reports, taken, survives_kills=False)
    finally:
        for each in (files, reports):
            each.cancel_join_thread()
            each.close()


# ---- the job ---------------------------------------------------------------------------------------------------------


@dataclass
class Crew:
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

    def dismiss(self) -> None:
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


def put_when_there_is_room(files: Any, message: bytes) -> None:
    """Put a message; where the machine's shared memory is full, wait until the workers have freed what they hold."""
    drained = False
    while True:
        try:
            files.put(message)
            return
        except shmq.OutOfMemory:
            if drained:
                raise
            stats = files.stats()
            drained = stats.ready + stats.returned + stats.leased == 0
            time.sleep(0 if drained else 0.01)


def work(transport: Transport) -> None:
    """Inspect files until told to stop."""
    transport.reports.put(Report(""))
    for message in transport.take(transport.files):
        transport.reports.put(inspect(message))


# ---- the queue's own cost --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What moving one message takes when nothing is done with it."""

    seconds: float
    messages: int
    nbytes: int


def queue_costs(groups: list[list[str]], workers: int, rounds: int, transports: Iterable[Transport]) -> list[list[Cost]]:
    """Move each group of files over each transport in turn; return the median cost, a list of transports per group.

    The producer has loaded the messages beforehand, and the workers only call ``get``, which gives ``bytes`` on either
    side. Raises ShmqError when what arrived is not what was sent.
    """
    costs = []
    with Children() as children:
        carriers = [_Carrier(transport, groups, workers, children) for transport in transports]
        for number, group in enumerate(groups):
            turns = [[carrier.round(number) for carrier in carriers] for _ in range(rounds)]
            medians = [statistics.median(seconds) for seconds in zip(*turns, strict=True)]
            nbytes = carriers[0].sent[number][1]
            costs.append([Cost(seconds / len(group), len(group), nbytes) for seconds in medians])
        for carrier in carriers:
            carrier.dismiss()
    return costs


class _Carrier:
    def __init__(self, transport: Transport, groups: list[list[str]], workers: int, children: Children) -> None:
        self.giver = self._begin(children, give, transport.files, groups, workers)
        self.takers = [self._begin(children, take_only, transport.files) for _ in range(workers)]
        self.sent: list[tuple[int, int]] = _answer(self.giver)

    @staticmethod
    def _begin(children: Children, body: Callable[..., None], *arguments: Any) -> Connection:
        ours, theirs = SPAWN.Pipe()
        children.start(body, theirs, *arguments)
        theirs.close()
        return ours

    def round(self, group: int) -> float:
        """Move one group's messages and return how long it took from the first put to the last get."""
        for child in (*self.takers, self.giver):
            child.send(group)
        started = _answer(self.giver)
        tallies = [_answer(taker) for taker in self.takers]
        arrived = (sum(tally[0] for tally in tallies), sum(tally[1] for tally in tallies))
        if arrived != self.sent[group]:
            raise shmq.ShmqError("{} messages of {} bytes arrived, sent were {} of {}".format(*arrived, *self.sent[group]))
        return float(max(tally[2] for tally in tallies) - started)

    def dismiss(self) -> None:
        for pipe in (self.giver, *self.takers):
            pipe.send(None)


def _answer(child: Connection) -> Any:
    with contextlib.suppress(EOFError, ConnectionResetError):
        if child.poll(ANSWER_PATIENCE):
            return child.recv()
    raise shmq.ShmqError("a process ended early while the queue's own cost was measured")


def give(parent: Connection, files: Any, groups: list[list[str]], workers: int) -> None:
    """Load the messages, then put a group of them in each round."""
    loaded = [[pack(path) for path in group] for group in groups]
    parent.send([(len(messages), sum(map(len, messages))) for messages in loaded])
    while (group := parent.recv()) is not None:
        started = time.monotonic()
        for message in loaded[group]:
            put_when_there_is_room(files, message)
        for _ in range(workers):
            files.put(STOP)
        parent.send(started)


def take_only(parent: Connection, files: Any) -> None:
    """Take messages and do nothing with them, in each round until its end."""
    while parent.recv() is not None:
        count = nbytes = 0
        last = time.monotonic()
        while message := files.get():
            count += 1
            nbytes += len(message)
            last = time.monotonic()
        parent.send((count, nbytes, last))
