"""All processes killed at once, with messages in every state: the next one to attach finds every message."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import shmq
from support.processes import Children, descriptors, reap_all, wait_until
from support.programs import LONG
from support.shared_memory import files_of

Make = Callable[..., shmq.Queue]

GEOMETRIES: list[dict[str, Any]] = [
    {"slots": 1, "slot_size": 64},
    {"slots": 5, "slot_size": 64},
    {"slots": 64, "slot_size": 200},
    {"slots": 5, "slot_size": 4096},
    {"slots": 64, "slot_size": 8192},
]
geometry = pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: f"{g['slots']} slots of {g['slot_size']}")


def payload(number: int) -> bytes:
    """Every third one is spilled."""
    return b"%d." % number + bytes(20_000 if number % 3 == 0 else 10)


def number_of(data: bytes) -> int:
    return int(data.partition(b".")[0])


def be_in_every_state(name: str, first: int, answers: str) -> None:
    """Leave messages leased, timed, prefetched, resting, given back, and a loan; then sleep in get, or wait for room."""
    queue, out = shmq.Queue.attach(name), shmq.Queue.attach(answers)
    number = first
    kept: list[Any] = []

    def leased(count: int = 1, **how: Any) -> list[Any]:
        nonlocal number
        for _ in range(count):
            queue.put(payload(number), timeout=LONG)
            number += 1
            kept.append(queue.receive(timeout=LONG, **how))
        return kept[-count:]

    leased(1)
    leased(1, lease_timeout=3600.0)
    leased(1)[0].data  # noqa: B018
    queue.put(payload(number), timeout=LONG)
    number += 1
    kept.extend(queue.receive_many(1, timeout=LONG))  # prefetched, and not begun with
    leased(1)[0].nack(delay=0.2)  # rests
    leased(1)[0].release(delay=0.1)
    kept.append(queue.loan(8))
    out.put((first, number))
    time.sleep(LONG)


def lay_hands_on(make: Make, children: Children, geometry: dict[str, Any], consumers: int) -> tuple[shmq.Queue, set[int]]:
    """A queue that is open here and in processes that are in every state; and the messages in it, none of which was acked."""
    parameters = dict(geometry, in_flight=8 * consumers + 4, ports=16, oversize="spill", max_deliveries=0)
    queue, answers = make(**parameters), make(slots=64)
    expected: set[int] = set()
    for index in range(consumers):
        children.start(be_in_every_state, queue.name, 1000 * index, answers.name)
        first, end = answers.get(timeout=LONG)
        expected |= set(range(first, end))
    number = 100_000
    while not queue.full():
        queue.put(payload(number))
        expected.add(number)
        number += 1
    return queue, expected


def kill_all(children: Children) -> None:
    for child in children.started:
        os.kill(child.pid, signal.SIGKILL)
    for child in children.started:
        child.join()
    children.started.clear()


@geometry
def test_the_next_to_attach_finds_every_message(make: Make, children: Children, geometry: dict[str, Any]) -> None:
    numbers = Counter[int]()
    queue, expected = lay_hands_on(make, children, geometry, consumers=1 if geometry["slots"] == 1 else 2)
    name = queue.name
    queue.close()  # only the dead are attached
    kill_all(children)
    with shmq.Queue.attach(name) as survivor:
        deadline = time.monotonic() + LONG
        while set(numbers) != expected:
            assert time.monotonic() < deadline, f"missing: {sorted(expected - set(numbers))}"
            try:
                numbers[number_of(survivor.get(timeout=0.1))] += 1
            except shmq.Empty:
                pass
        with pytest.raises(shmq.Empty):
            survivor.get(timeout=0.3)
        assert set(numbers.values()) == {1}
        reap_all(survivor)
        stats = survivor.stats()
        assert (stats.ready, stats.leased, stats.loaned, stats.held, stats.returned, stats.ports) == (0, 0, 0, 0, 0, 1)
        shmq.verify(survivor)
        assert len(files_of(name)) == 4, "side segments were left"


def test_deaths_are_failures_only_of_messages_that_were_begun_with(make: Make, children: Children) -> None:
    queue, expected = lay_hands_on(make, children, {"slots": 16, "slot_size": 64}, consumers=1)
    kill_all(children)
    reap_all(queue)
    counts: dict[int, int] = {}
    while len(counts) < len(expected):
        lease = queue.receive(timeout=LONG)
        counts[number_of(lease.data)] = lease.delivery_count
        lease.ack()
    assert [counts[number] for number in range(6)] == [2, 2, 2, 1, 2, 1]
    assert {count for number, count in counts.items() if number >= 100_000} == {1}


def exhaust(name: str) -> None:
    """Fail for the last time, and die before it can be dead-lettered: as a holder that never comes back."""
    queue = shmq.Queue.attach(name)
    leases = [queue.receive(timeout=LONG), queue.receive(timeout=LONG)]
    assert len(leases) == 2
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("slot_size", [64, 4096])
def test_what_failed_for_the_last_time_by_death_is_a_dead_letter_and_not_lost(
    make: Make, children: Children, slot_size: int
) -> None:
    queue = make(slots=4, slot_size=slot_size, oversize="spill", max_deliveries=1)
    queue.put_many([payload(0), payload(1), payload(2)])
    children.start(exhaust, queue.name).join(LONG)
    children.started.clear()
    assert number_of(queue.get(timeout=LONG)) == 2
    reap_all(queue)
    with pytest.raises(shmq.Empty):
        queue.get(timeout=0)
    wait_until(lambda: len(queue.dead_letters) == 2)
    assert sorted(number_of(letter.data) for letter in queue.dead_letters) == [0, 1]
    assert {letter.cause for letter in queue.dead_letters} == {"died"}
    shmq.verify(queue)


def work_for_ever(name: str, first: int) -> None:
    queue = shmq.Queue.attach(name)
    for number in range(first, first + 10_000_000):
        try:
            queue.put(payload(number), timeout=0.01)
            with queue.receive(timeout=0.01, lease_timeout=[None, 60.0][number % 2]) as lease:
                bytes(lease.view)
            leases = queue.receive_many(2, timeout=0)
            leases[0].nack(delay=0)
        except (shmq.Full, shmq.Empty):
            pass


def kill_in_the_middle_of_work(make: Make, children: Children, geometry: dict[str, Any], rounds: int) -> None:
    queue = make(**geometry, in_flight=16, ports=16, oversize="spill", max_deliveries=0)
    for round in range(rounds):
        for worker in range(4):
            children.start(work_for_ever, queue.name, 1_000_000 * worker)
        time.sleep(0.02 + round % 7 * 0.003)
        kill_all(children)
        reap_all(queue)
        shmq.verify(queue)
        for number in range(2 * queue.maxsize):
            while True:
                try:
                    queue.put(payload(number), timeout=0)
                    break
                except shmq.Full:
                    queue.get(timeout=LONG)
            queue.get(timeout=LONG)
        queue.purge()
        stats = queue.stats()
        assert (stats.ready, stats.leased, stats.loaned, stats.held, stats.returned, stats.ports) == (0, 0, 0, 0, 0, 1)
        loans = [queue.loan(1) for _ in range(16)]
        for loan in loans:
            loan.abandon()


@pytest.mark.parametrize("geometry", [GEOMETRIES[1], GEOMETRIES[3]], ids=["small", "large"])
def test_four_killed_at_once_in_the_middle_of_work_leave_a_whole_queue(
    make: Make, children: Children, geometry: dict[str, Any]
) -> None:
    kill_in_the_middle_of_work(make, children, geometry, rounds=6)


@pytest.mark.stress
@geometry
def test_four_killed_at_once_again_and_again_leave_a_whole_queue(
    make: Make, children: Children, geometry: dict[str, Any]
) -> None:
    kill_in_the_middle_of_work(make, children, geometry, rounds=200)


# -- many of them ------------------------------------------------------------------------------------------------------


def footprint(queue: shmq.Queue) -> tuple[int, int, int]:
    return queue.stats().ports, len(descriptors()), len(files_of(queue.name))


@pytest.mark.parametrize("slot_size", [64, 4096])
def test_a_thousand_handles_leave_no_trace(make: Make, slot_size: int) -> None:
    queue = make(slots=4, slot_size=slot_size, ports=3)
    shmq.Queue.attach(queue.name).close()
    before = footprint(queue)
    for number in range(1000):
        handle = shmq.Queue.attach(queue.name)
        if number % 10 == 0:
            handle.put(number)
            assert handle.receive(timeout=0).data == number  # dropped: it comes back
            assert queue.get(timeout=0) == number
        if number % 2:
            handle.close()
        del handle
    assert footprint(queue) == before
    shmq.verify(queue)


def killed_with_full_hands(queue: shmq.Queue, times: int) -> None:
    """Children by plain fork: 200 in a second."""
    for number in range(times):
        queue.put(number)
        child = os.fork()
        if child == 0:
            try:
                own = shmq.Queue.attach(queue.name)
                kept = [own.receive(timeout=LONG), own.loan(1)]
                os.kill(os.getpid(), signal.SIGKILL if kept else 0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        reap_all(queue)
        lease = queue.receive(timeout=LONG)
        assert (lease.data, lease.delivery_count) == (number, 2)
        lease.ack()


@pytest.mark.parametrize(
    "kills", [100, pytest.param(500, marks=pytest.mark.engine), pytest.param(5000, marks=pytest.mark.stress)]
)
@pytest.mark.parametrize("slot_size", [64, 4096])
def test_kills_leave_no_trace_however_many(make: Make, slot_size: int, kills: int) -> None:
    queue = make(slots=4, slot_size=slot_size, ports=3, in_flight=4)
    before = footprint(queue)
    killed_with_full_hands(queue, kills)
    assert footprint(queue) == before
    shmq.verify(queue)
