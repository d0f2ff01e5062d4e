"""What all tests share: names of their own, child processes under a watchdog, and the check that nothing is left behind."""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# OpenBLAS starts a thread per core when NumPy is imported, which takes half of that time; no test computes with it. It is set
# before the first import of NumPy, and each process that a test starts inherits it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import shmq

WATCHDOG = 120.0  # seconds: no test waits longer, for anything; one that does is ended by faulthandler_timeout
SHM = "/dev/shm"
PREFIX = f"shmq-{os.geteuid()}."  # what the names of all files of this user's queues begin with; those of semaphores after "sem."
_numbers = itertools.count()


def left_behind_by(pid: int) -> list[str]:
    """Files in shared memory of a queue that this process has named, as anonymous queues and those of these tests are: by the
    first number in the name. Another number there may be the pid of some other process that runs tests."""
    of_pid = re.compile(rf"(?:sem\.)?shmq-\d+\.[a-z-]+[.-]{pid}(?!\d)")
    return sorted(name for name in os.listdir(SHM) if of_pid.match(name))


# What each child of the fork server would import anew. Not shmq: it is to meet it as a new process does.
multiprocessing.set_forkserver_preload(["numpy", "pytest"])


def pytest_collection_finish() -> None:
    """What pytest has collected is nothing that a test's collection of garbage need look at: it would take 50 ms each time."""
    gc.collect()
    gc.freeze()


def side_files(queue: shmq.Queue) -> list[str]:
    """The side segments that messages of a queue have in shared memory."""
    side = re.compile(rf"{re.escape(PREFIX + queue.name)}\+[0-9a-f]{{16}}\.[0-9a-f]{{16}}")
    return sorted(filter(side.fullmatch, os.listdir(SHM)))


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a segment, a semaphore, a side segment or a child behind."""
    yield
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    left = left_behind_by(os.getpid())
    for file in left:
        path = f"{SHM}/{file}"
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)  # a folder of dead letters
    assert not children, f"still running: {children}"
    assert not left, f"left in {SHM}: {left}"


@pytest.fixture
def name() -> Iterator[str]:
    """A queue name of this test alone; whatever it names is unlinked afterwards."""
    unique = f"test.{os.getpid()}.{next(_numbers)}"
    yield unique
    if unique in shmq.list_segments():
        shmq.unlink(unique)


@pytest.fixture
def make(name: str) -> Iterator[Callable[..., shmq.Queue]]:
    """Make queues of this test's own names, with the given parameters; closed and unlinked afterwards."""
    made: list[shmq.Queue] = []

    def make(**parameters: Any) -> shmq.Queue:
        queue = shmq.Queue.create(f"{name}.{len(made)}", **parameters)
        made.append(queue)
        return queue

    yield make
    for queue in made:
        queue.close()
        with contextlib.suppress(shmq.SegmentNotFound):  # the test has unlinked it
            shmq.unlink(queue.name)


@pytest.fixture
def queue(make: Callable[..., shmq.Queue]) -> shmq.Queue:
    """A small queue: 16 slots of 256 bytes."""
    return make(slots=16, slot_size=256)


def engine_sources(folder: Path) -> list[Path]:
    """What to compile of the engine, without the interface for C programs."""
    return [folder / "engine.c"]


class Children:
    """Child processes of one start method, joined or killed within the watchdog."""

    def __init__(self, method: str) -> None:
        self.context = multiprocessing.get_context(method)
        self.started: list[Any] = []

    def start(self, target: Callable[..., object], *arguments: object) -> Any:
        process = self.context.Process(target=target, args=arguments)
        process.start()
        self.started.append(process)
        return process

    def join(self) -> None:
        """Wait for all; each must end with status 0."""
        deadline = time.monotonic() + WATCHDOG / 2
        for process in self.started:
            process.join(max(deadline - time.monotonic(), 0))
        codes = [process.exitcode for process in self.started]
        self.kill()
        assert all(code == 0 for code in codes), f"exit codes {codes}"

    def kill(self) -> None:
        for process in self.started:
            if process.is_alive():
                process.kill()
            process.join()
        self.started.clear()


@pytest.fixture
def children() -> Iterator[Children]:
    """Forked children."""
    group = Children("fork")
    yield group
    group.kill()


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def any_children(request: pytest.FixtureRequest) -> Iterator[Children]:
    """Children of each start method."""
    group = Children(request.param)
    yield group
    group.kill()


def wait_until(condition: Callable[[], object], seconds: float = WATCHDOG / 4) -> None:
    """Look again and again until the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def is_stopped(pid: int) -> bool:
    """Has SIGSTOP had its effect?"""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def session_of(leader: int) -> list[int]:
    """The processes of a session that are there, its leader among them."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            state, _, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state != "Z":
            found.append(int(pid))
    return found


def survivors_of(leader: int, seconds: float = 5.0) -> list[int]:
    """Those that are still there so many seconds after their leader has ended."""
    deadline = time.monotonic() + seconds
    while (found := session_of(leader)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def receive_and_stay(queue: shmq.Queue, ready: shmq.Queue) -> None:
    """The body of a child: take a message, say so, and keep it."""
    lease = queue.receive()
    ready.put(os.getpid())
    time.sleep(WATCHDOG)
    lease.ack()
