"""Deaths at the backlog of a queue without a bound: after every change that an append and a refill make, and at random."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import mmap
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shmq
from shmq import _core
from support.native import Builder
from support.processes import WATCHDOG, Children, wait_until
from support.shared_memory import PREFIX, SHM

Make = Callable[..., shmq.Queue]
LONG = 60.0
CHANGES = Path(__file__).with_name("changes.c")
HEAD_AT, TAIL_AT, AT_WORK_AT = 0, 8, 16  # in the log: shmq/_store/backlog.py
WRITE_SEQ_AT, BACKLOG_AT = 256, 408  # format/segment.h
NOT_HERE = 77
APPENDS, REFILLS, EMPTYINGS = 5, 8, 11  # changes that each makes


class Watch:
    """Kills a child after the nth change of what an append or a refill works on: see changes.c."""

    def __init__(self, library: ctypes.CDLL, queue: shmq.Queue) -> None:
        self.library = library
        log, segment = f"{queue.segment.path_prefix}.backlog", f"{SHM}/{PREFIX}{queue.name}"
        with open(log, "r+b") as file:
            self.log, self.size = mmap.mmap(file.fileno(), mmap.PAGESIZE), os.dup(file.fileno())
        with open(segment, "r+b") as file:
            self.segment = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        words = [(self.log, HEAD_AT), (self.log, TAIL_AT), (self.log, AT_WORK_AT)]
        words += [(self.segment, WRITE_SEQ_AT), (self.segment, BACKLOG_AT)]
        self.words = [ctypes.c_uint64.from_buffer(memory, at) for memory, at in words]

    def kill(self, pid: int, change: int) -> bool:
        """True: it was killed; False: it ended after fewer changes."""
        addresses = (ctypes.c_void_p * len(self.words))(*map(ctypes.addressof, self.words))
        done: int = self.library.kill_after(pid, addresses, len(self.words), self.size, change)
        assert done >= 0, f"it cannot be watched: {os.strerror(-done)}"
        return done == 1

    def close(self) -> None:
        self.words.clear()
        self.log.close()
        self.segment.close()
        os.close(self.size)


@pytest.fixture(scope="session")
def changes(build: Builder) -> ctypes.CDLL:
    return ctypes.CDLL(str(build.library(CHANGES)))


@contextlib.contextmanager
def watching(library: ctypes.CDLL, queue: shmq.Queue) -> Iterator[Watch]:
    watch = Watch(library, queue)
    try:
        yield watch
    finally:
        watch.close()


def work_watched(queue: shmq.Queue, work: str) -> None:
    """Append or refill; from the stop on, the parent sees every instruction."""
    queue._reap()  # attached
    if ctypes.CDLL(None).ptrace(0, 0, 0, 0) != 0:  # PTRACE_TRACEME
        os._exit(NOT_HERE)
    os.kill(os.getpid(), signal.SIGSTOP)
    if work == "append":
        queue.put("last", block=False)
    else:
        queue.get(timeout=LONG)
    os._exit(0)


def died(queue: shmq.Queue, children: Children, watch: Watch, work: str, change: int) -> bool:
    """Was the process that does this work killed, after so many changes?"""
    process = children.start(work_watched, queue, work)
    killed = watch.kill(process.pid, change)
    process.join(LONG)
    if process.exitcode == NOT_HERE:
        pytest.skip("ptrace is not allowed here")
    assert process.exitcode == (-signal.SIGKILL if killed else 0)
    queue._reap()
    return killed


def all_that_waits(queue: shmq.Queue) -> list[Any]:
    queue.put("mark")
    got = list(iter(lambda: queue.get(timeout=LONG), "mark"))
    assert (queue.qsize(), queue.empty(), queue.stats().backlog) == (0, True, 0)
    shmq.verify(queue)
    return got


def test_a_death_at_any_step_of_an_append_leaves_the_message_whole_or_not_there(
    make: Make, children: Children, changes: ctypes.CDLL
) -> None:
    q = make(slots=2, slot_size=64, overflow="grow")
    step, killed = 0, True
    with watching(changes, q) as watch:
        while killed:
            step += 1
            for number in range(6):
                q.put(number, block=False)
            killed = died(q, children, watch, "append", step)
            got = all_that_waits(q)
            assert got[:6] == list(range(6))
            assert got[6:] == ["last"] or (killed and got[6:] == [])
    assert step == APPENDS + 1


@pytest.mark.parametrize(("put", "steps"), [(6, REFILLS), (4, EMPTYINGS)], ids=["some of the log", "the whole log"])
def test_a_death_at_any_step_of_a_refill_delivers_one_message_twice_at_most(
    make: Make, children: Children, changes: ctypes.CDLL, put: int, steps: int
) -> None:
    q = make(slots=2, slot_size=64, overflow="grow")
    step, killed = 0, True
    with watching(changes, q) as watch:
        while killed:
            step += 1
            for number in range(put):
                q.put(number, block=False)
            assert q.get_many(2) == [0, 1]  # the ring is empty: the child fetches from the backlog
            killed = died(q, children, watch, "refill", step)
            got = all_that_waits(q)
            if killed:
                assert set(got) == set(range(2, put))
                assert len(got) <= put - 1
                assert got == sorted(got)
            else:
                assert got == list(range(3, put))
    assert step == steps + 1


def test_the_core_that_users_have_kills_no_process() -> None:
    """What dies in the tests is killed from outside: nothing in the core asks for it."""
    assert b"\0kill\0" not in Path(_core.__file__).read_bytes()


def produce(queue: shmq.Queue, ledger: Any, producer: int) -> None:
    """Put numbers; the ledger has the first one whose put has not returned."""
    while True:
        queue.put((producer, ledger[producer]))
        ledger[producer] += 1
        if queue.qsize() > 300:
            time.sleep(0.002)


def consume(queue: shmq.Queue, results: shmq.Queue) -> None:
    while True:
        with queue.receive() as lease:
            results.put(lease.data)


class Storm:
    """Two producers and two consumers, killed and replaced at random; everything that was taken is counted."""

    def __init__(self, queue: shmq.Queue, results: shmq.Queue, context: Any) -> None:
        self.queue, self.results, self.context = queue, results, context
        self.ledger = context.Array("q", 2, lock=False)
        self.uncertain: set[tuple[int, int]] = set()  # whose put was killed
        self.taken = (bytearray(), bytearray())  # how often each number of each producer was
        self.running = [self.start(role) for role in range(4)]

    def start(self, role: int) -> Any:
        target, arguments = (produce, (self.queue, self.ledger, role)) if role < 2 else (consume, (self.queue, self.results))
        process = self.context.Process(target=target, args=arguments, daemon=True)
        process.start()
        return process

    def kill(self, role: int) -> None:
        self.running[role].kill()
        self.running[role].join()
        if role < 2:
            self.uncertain.add((role, self.ledger[role]))
            self.ledger[role] += 1

    def collect(self) -> None:
        with contextlib.suppress(shmq.Empty):
            while True:
                for producer, number in self.results.get_many(256, timeout=0):
                    times = self.taken[producer]
                    times.extend(bytes(max(number + 1 - len(times), 0)))
                    times[number] += 1

    def is_over(self) -> bool:
        self.collect()
        return self.queue.empty() and not self.queue.leases() and self.results.empty()

    def rage(self, kills: int) -> None:
        chance = random.Random(kills)
        for number in range(kills):
            if number % 100 == 0:
                faulthandler.dump_traceback_later(WATCHDOG, exit=True)  # for the next hundred
            time.sleep(chance.random() * 0.01)
            role = chance.randrange(4)
            self.kill(role)
            self.collect()
            self.running[role] = self.start(role)
        self.kill(0)
        self.kill(1)
        wait_until(self.is_over, LONG)
        self.kill(2)
        self.kill(3)
        self.collect()


def judge(storm: Storm, kills: int) -> None:
    again = 0
    assert min(storm.ledger) > 0, "a producer never came to its first message"
    for producer, taken in enumerate(storm.taken):
        assert len(taken) <= storm.ledger[producer], "never put"
        missing = {(producer, number) for number in range(storm.ledger[producer]) if not taken[number : number + 1].strip(b"\0")}
        assert missing <= storm.uncertain, "lost"
        again += sum(taken) - (len(taken) - taken.count(0))
    assert again <= kills, "more came twice than were killed"
    shmq.verify(storm.queue)


@pytest.mark.parametrize("kills", [60, pytest.param(3_000, marks=pytest.mark.stress)])
def test_a_storm_of_kills_loses_nothing_and_doubles_one_message_a_kill_at_most(
    make: Make, children: Children, kills: int
) -> None:
    q = make(slots=4, slot_size=64, overflow="grow", max_deliveries=0)
    storm = Storm(q, make(slots=8192, slot_size=64), children.context)
    try:
        storm.rage(kills)
    finally:
        for process in storm.running:
            process.kill()
            process.join()
    judge(storm, kills)
