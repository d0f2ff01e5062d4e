"""Sleeping and waking under load: no wake-up is lost, nobody starves, and coming and going disturbs nobody."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import shmq
from support.processes import Children, wait_until

Make = Callable[..., shmq.Queue]
LONG = 100.0
SLICE = 0.07  # seconds: whoever sleeps longer was not woken, but looked by itself (SHMQ_SLICE_MS of watch.h)
SEEN_LATE = 0.05  # the share of hand-overs that a busy machine may delay by so much

lengths = pytest.mark.parametrize("times", [pytest.param(1, id="short"), pytest.param(50, id="long", marks=pytest.mark.stress)])


# -- hand-overs ------------------------------------------------------------------------------------------------------------


def answer(questions: str, answers: str, count: int) -> None:
    with shmq.Queue.attach(questions, spin=False) as there, shmq.Queue.attach(answers, spin=False) as back:
        for _ in range(count):
            back.put(there.get(timeout=LONG), timeout=LONG)


@lengths
@pytest.mark.parametrize("slot_size", [64, 4096], ids=["small slots", "large slots"])
def test_every_sleeping_consumer_is_woken_at_once(make: Make, children: Children, slot_size: int, times: int) -> None:
    """Both sides sleep before each message: two wake-ups a round."""
    count = 2000 * times
    there, back = (make(slots=4, slot_size=slot_size, spin=False) for _ in range(2))
    children.start(answer, there.name, back.name, count)
    late = 0
    for number in range(count):
        began = time.monotonic()
        there.put(number, timeout=LONG)
        assert back.get(timeout=LONG) == number
        late += time.monotonic() - began > SLICE
    children.join()
    assert late <= count * SEEN_LATE, f"{late} of {count} hand-overs waited for a whole slice"
    shmq.verify(there)
    shmq.verify(back)


def produce(name: str, count: int) -> None:
    with shmq.Queue.attach(name, spin=False) as queue:
        for number in range(count):
            queue.put(number, timeout=LONG)


@lengths
def test_every_sleeping_producer_is_woken_at_once(make: Make, children: Children, times: int) -> None:
    """One slot, and a consumer that does not take before the producer sleeps."""
    count = 500 * times
    queue = make(slots=1, slot_size=64, spin=False)
    children.start(produce, queue.name, count)
    late = 0
    for number in range(count):
        if number < count - 1:
            wait_until(lambda: queue.stats().waiting_producers)
        began = time.monotonic()
        assert queue.get(timeout=LONG) == number
        if number < count - 1:
            wait_until(queue.full)
            late += time.monotonic() - began > SLICE
    children.join()
    assert late <= count * SEEN_LATE, f"{late} of {count} hand-overs waited for a whole slice"
    shmq.verify(queue)


def consume_until_none(name: str, counts: str) -> None:
    taken = 0
    with shmq.Queue.attach(name, spin=False) as queue, shmq.Queue.attach(counts) as out:
        while queue.get(timeout=LONG) is not None:
            taken += 1
        out.put(taken)


@lengths
@pytest.mark.parametrize("consumers", [2, 4])
def test_bursts_wake_enough_of_the_sleepers(make: Make, children: Children, consumers: int, times: int) -> None:
    """Whenever all sleep, a burst of one to seven messages comes."""
    bursts = 100 * times
    queue, counts = make(slots=8, slot_size=64, spin=False), make(slots=8, slot_size=64)
    for _ in range(consumers):
        children.start(consume_until_none, queue.name, counts.name)
    late = total = 0
    for burst in range(bursts):
        wait_until(lambda: queue.stats().waiting_consumers >= consumers)
        began = time.monotonic()
        total += queue.put_many(range(1 + burst % 7), timeout=LONG)
        wait_until(queue.empty)
        late += time.monotonic() - began > SLICE
    for _ in range(consumers):
        queue.put(None, timeout=LONG)
    children.join()
    assert sum(counts.drain()) == total
    assert late <= bursts * SEEN_LATE, f"{late} of {bursts} bursts waited for a whole slice"
    shmq.verify(queue)


# -- fairness --------------------------------------------------------------------------------------------------------------


def put_for_ever(name: str, counts: str, mine: int) -> None:
    with shmq.Queue.attach(name) as queue, shmq.Queue.attach(counts) as out:
        number = 0
        try:
            while True:
                queue.put((mine, number), timeout=LONG)
                number += 1
                if number % 50 == 0:
                    out.put(("producer", mine), timeout=LONG)
        except shmq.Closed:
            pass


def get_for_ever(name: str, counts: str, mine: int) -> None:
    with shmq.Queue.attach(name) as queue, shmq.Queue.attach(counts) as out:
        number = 0
        while True:
            queue.get(timeout=LONG)
            number += 1
            if number % 50 == 0:
                out.put(("consumer", mine), timeout=LONG)


@lengths
@pytest.mark.parametrize("slots", [2, 64])
def test_nobody_starves_among_many(make: Make, children: Children, slots: int, times: int) -> None:
    """Four put and four take as fast as they can, until each of the eight has had its share."""
    queue, counts = make(slots=slots, slot_size=64), make(slots=4096, slot_size=64)
    for mine in range(4):
        children.start(put_for_ever, queue.name, counts.name, mine)
        children.start(get_for_ever, queue.name, counts.name, mine)
    had: dict[Any, int] = {(side, mine): 0 for side in ("producer", "consumer") for mine in range(4)}
    while min(had.values()) < 4 * times:
        had[counts.get(timeout=LONG)] += 1
    children.kill()
    queue._reap()
    counts._reap()
    shmq.verify(queue)


# -- coming and going --------------------------------------------------------------------------------------------------------


def come_and_go(name: str, rounds: int) -> None:
    for number in range(rounds):
        with shmq.Queue.attach(name) as queue:
            queue.put(number, timeout=LONG)
            with queue.receive(timeout=LONG):
                pass


@lengths
@pytest.mark.parametrize("slot_size", [64, 4096], ids=["small slots", "large slots"])
def test_handles_that_come_and_go_lose_nothing(make: Make, children: Children, slot_size: int, times: int) -> None:
    rounds = 100 * times
    queue = make(slots=3, slot_size=slot_size, ports=6)
    for _ in range(4):
        children.start(come_and_go, queue.name, rounds)
    children.join()
    stats = queue.stats()
    assert (stats.puts, stats.acks, stats.ports) == (4 * rounds, 4 * rounds, 1)
    assert (stats.ready, stats.leased, stats.returned) == (0, 0, 0)
    shmq.verify(queue)


def open_and_close(name: str, rounds: int) -> None:
    for _ in range(rounds):
        with shmq.Queue(name, slots=2, slot_size=64) as queue:
            queue.put(b"x", timeout=LONG)
            queue.get(timeout=LONG)


def unlink_again_and_again(name: str, rounds: int) -> None:
    for _ in range(rounds):
        try:
            shmq.unlink(name)
        except shmq.SegmentNotFound:
            pass


@lengths
def test_a_name_that_is_unlinked_again_and_again_can_always_be_opened(name: str, children: Children, times: int) -> None:
    """Whoever opens has a whole queue, of this name or of the one before; nobody's is half removed."""
    for _ in range(2):
        children.start(unlink_again_and_again, name, 1000 * times)
        children.start(open_and_close, name, 200 * times)
    children.join()
