"""Deaths at the backlog of a queue without a bound: at every step of an append and of a refill, and at random."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

import shmq
from shmq import _core
from support.processes import WATCHDOG, Children, wait_until

Make = Callable[..., shmq.Queue]
LONG = 60.0
APPENDS, REFILLS = 4, 8  # windows between the steps of each


def die_at(queue: shmq.Queue, work: str, step: int) -> None:
    """Append or refill, and be killed in the window of that number."""
    _core.die_in_window(step)
    if work == "append":
        queue.put("last", block=False)
    else:
        queue.get(timeout=LONG)
    os._exit(0)


def died(queue: shmq.Queue, children: Children, work: str, step: int) -> bool:
    process = children.start(die_at, queue, work, step)
    process.join(LONG)
    assert process.exitcode in (0, -signal.SIGKILL)
    queue._reap()
    return process.exitcode != 0


def all_that_waits(queue: shmq.Queue) -> list[Any]:
    queue.put("mark")
    got = list(iter(lambda: queue.get(timeout=LONG), "mark"))
    assert (queue.qsize(), queue.empty(), queue.stats().backlog) == (0, True, 0)
    shmq.verify(queue)
    return got


def test_a_death_at_any_step_of_an_append_leaves_the_message_whole_or_not_there(make: Make, children: Children) -> None:
    q = make(slots=2, slot_size=64, overflow="grow")
    step, killed = 0, True
    while killed:
        step += 1
        for number in range(6):
            q.put(number, block=False)
        killed = died(q, children, "append", step)
        got = all_that_waits(q)
        assert got[:6] == list(range(6))
        assert got[6:] == ["last"] or (killed and got[6:] == [])
    assert step == APPENDS + 1


def test_a_death_at_any_step_of_a_refill_delivers_one_message_twice_at_most(make: Make, children: Children) -> None:
    q = make(slots=2, slot_size=64, overflow="grow")
    step, killed = 0, True
    while killed:
        step += 1
        for number in range(6):
            q.put(number, block=False)
        assert q.get_many(2) == [0, 1]  # the ring is empty: the child fetches from the backlog
        killed = died(q, children, "refill", step)
        got = all_that_waits(q)
        if not killed:
            assert got == [3, 4, 5]
            break
        assert set(got) == {2, 3, 4, 5}
        assert len(got) <= 5
        assert got == sorted(got)
    assert step == REFILLS + 1


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
