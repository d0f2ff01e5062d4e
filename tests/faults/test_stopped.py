"""SIGSTOP: worse than a kill, since the stopped process wakes up later and goes on.

In windows that no test from outside can hit, by stopped.c: a child stops itself at every crash point of the engine, others
go on, then it goes on itself. From outside, by the library as users have it.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shmq
from shmq._segment import lifecycle
from support.native import CRASH_POINTS, POINTS, Builder, run_native
from support.processes import Children, wait_until

pytestmark = pytest.mark.engine

SOURCE = Path(__file__).with_name("stopped.c")
ROLES = re.findall(r'^    \{"(\w+)", \w+, play_', SOURCE.read_text(), re.M)
TIMED = ("timed", "timed_adopt", "timed_nack", "extend", "watch", "finish_under_a_viewer", "expire", "detach")
LONG = 30.0
PROMPT = 5.0  # seconds within which others go on; they need milliseconds, and a loaded machine more
SLOT_SIZES = [64, 4096]

Make = Callable[..., shmq.Queue]


@pytest.fixture(scope="session")
def program(build: Builder) -> Path:
    return build.program(SOURCE, "-O1", *CRASH_POINTS)


def windows(program: Path, role: str, slot_size: int, how: str) -> dict[str, int]:
    """The crash points at which a child was stopped in this role, each with how often it passed; and "lost", late acks."""
    printed = run_native(program, role, slot_size, how, *POINTS)
    found = {point: int(number) for point, number in map(str.split, printed.splitlines())}
    assert found.pop("slowest") < PROMPT * 1e6
    return found


def test_every_window_of_the_engine_has_a_role_that_is_stopped_in_it(program: Path) -> None:
    reached: set[str] = set()
    needed = ("put", "ack", "nack", "adopt", "timed_nack", "extend", "watch", "finish_under_a_viewer")
    for role in (*needed, "wait_for_item", "attach", "detach", "reap_getter", "wait_for_bell", "ring"):
        reached |= windows(program, role, 64, "soon").keys()
    assert reached - {"lost"} == set(POINTS)


@pytest.mark.parametrize("slot_size", SLOT_SIZES)
@pytest.mark.parametrize("role", ROLES)
def test_while_a_process_is_stopped_others_go_on_and_nothing_is_lost_or_doubled(program: Path, role: str, slot_size: int) -> None:
    """Of a stopped reaper: others put and take, and cannot take back what the dead held until it goes on, or is killed."""
    assert windows(program, role, slot_size, "soon")


@pytest.mark.parametrize("slot_size", SLOT_SIZES)
@pytest.mark.parametrize("role", TIMED)
def test_a_holder_that_is_stopped_past_its_lease_takes_nothing_twice(program: Path, role: str, slot_size: int) -> None:
    found = windows(program, role, slot_size, "past")
    if role in ("timed", "timed_adopt", "extend"):
        assert found["lost"] >= 1  # at least the window in which the ack was about to happen


@pytest.mark.stress
@pytest.mark.parametrize("again", range(5))
@pytest.mark.parametrize("role", ROLES)
def test_others_outlive_every_lease_of_one_who_is_stopped_anywhere(program: Path, role: str, again: int) -> None:
    for slot_size in SLOT_SIZES:
        assert windows(program, role, slot_size, "past")


# -- from outside ------------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped() -> Iterator[Callable[[Any], None]]:
    """Stop a process, and see that it has stopped; it goes on at the end of the test, so that it can be killed or joined."""
    victims: list[int] = []

    def stop(process: Any) -> None:
        victims.append(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: state_of(process.pid) == "T")

    yield stop
    for pid in victims:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def hold_and_ack_late(name: str, connection: Any) -> None:
    with shmq.Queue.attach(name) as queue:
        lease = queue.receive(timeout=LONG)
        connection.send(lease.data)
        connection.recv()
        try:
            lease.ack()
            connection.send("acked")
        except shmq.LeaseLost:
            connection.send("LeaseLost")


@pytest.mark.parametrize("slot_size", SLOT_SIZES)
def test_a_late_ack_of_a_stopped_holder_is_lost_and_removes_nothing(
    make: Make, children: Children, stopped: Any, slot_size: int
) -> None:
    queue = make(slots=4, slot_size=slot_size, lease_timeout=0.1)
    ours, theirs = children.context.Pipe()
    queue.put("work")
    child = children.start(hold_and_ack_late, queue.name, theirs)
    assert ours.poll(LONG) and ours.recv() == "work"
    stopped(child)
    began = time.monotonic()
    lease = queue.receive(timeout=PROMPT, lease_timeout=None)
    assert time.monotonic() - began < PROMPT
    assert (lease.data, lease.delivery_count) == ("work", 2)
    os.kill(child.pid, signal.SIGCONT)
    ours.send("go on")
    assert ours.poll(LONG) and ours.recv() == "LeaseLost"
    children.join()
    assert lease.data == "work"
    lease.ack()
    assert queue.empty()
    assert queue.stats().acks == 1
    shmq.verify(queue)


def take_one(name: str, answers: str) -> None:
    with shmq.Queue.attach(name) as queue, shmq.Queue.attach(answers) as out:
        out.put(queue.get(timeout=LONG))


def test_a_sleeper_that_is_stopped_takes_no_wake_up_with_it(make: Make, children: Children, stopped: Any) -> None:
    """The wake-up may go to the stopped one: the other looks by itself at the end of its slice."""
    queue, answers = make(slots=4), make()
    sleepers = [children.start(take_one, queue.name, answers.name) for _ in range(2)]
    wait_until(lambda: queue.stats().waiting_consumers == 2)
    stopped(sleepers[0])
    queue.put("one")
    assert answers.get(timeout=PROMPT) == "one"
    os.kill(sleepers[0].pid, signal.SIGCONT)
    queue.put("two")
    assert answers.get(timeout=PROMPT) == "two"
    children.join()


def put_and_take_for_ever(name: str, ledger: str, first: int) -> None:
    """Puts numbers and takes numbers, in every way, and says what it took before it acks."""
    queue, out = shmq.Queue.attach(name), shmq.Queue.attach(ledger)
    for number in range(first, first + 100_000):
        while True:
            try:
                queue.put(number, timeout=0.001)
                break
            except shmq.Full:
                out.put(queue.get(timeout=0))
        if number % 3 == 0:
            out.put(queue.get(timeout=LONG))
        elif number % 3 == 1:
            with queue.receive(timeout=LONG) as lease:
                out.put(lease.data)
        else:
            queue.receive(timeout=LONG).release()
            out.put(queue.get(timeout=LONG))


def test_a_process_that_is_stopped_again_and_again_loses_and_doubles_nothing(
    make: Make, children: Children, stopped: Any
) -> None:
    queue, ledger = make(slots=8, slot_size=64), make(slots=100_000, slot_size=64)
    child = children.start(put_and_take_for_ever, queue.name, ledger.name, 0)
    own, taken = 10_000_000, []
    for _ in range(60):
        time.sleep(0.002)
        stopped(child)
        for _ in range(20):
            while True:
                try:
                    queue.put(own, timeout=0)
                    break
                except shmq.Full:
                    taken.append(queue.get(timeout=PROMPT))
            own += 1
            taken.append(queue.get(timeout=PROMPT))  # there is one: ours, unless the stopped one has it
        assert queue._reap() == 0
        queue.put(own, timeout=PROMPT)  # whoever waits for one is not kept waiting
        own += 1
        os.kill(child.pid, signal.SIGCONT)
    stopped(child)
    os.kill(child.pid, signal.SIGKILL)
    os.kill(child.pid, signal.SIGCONT)
    child.join()
    children.started.clear()
    queue._reap()
    shmq.verify(queue)
    taken += queue.drain() + ledger.drain()
    numbers = sorted(taken)
    doubles = [number for number, other in itertools.pairwise(numbers) if number == other]
    assert len(doubles) <= 1  # the one that was told, and not yet acked, when the child was killed
    assert set(range(10_000_000, own)) <= set(numbers)
    theirs = [number for number in set(numbers) if number < 10_000_000]
    assert len(theirs) >= max(theirs, default=0)  # all but, perhaps, one that was got and not yet told


def stop_while_opening(name: str) -> None:
    with lifecycle.NameLock(name):
        os.kill(os.getpid(), signal.SIGSTOP)


def test_a_process_stopped_while_it_opens_a_name_is_waited_for_and_then_named(
    name: str, children: Children, stopped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = children.start(stop_while_opening, name)
    wait_until(lambda: state_of(child.pid) == "T")
    monkeypatch.setattr(lifecycle, "LOCK_PATIENCE", 0.2)
    with pytest.raises(shmq.ShmqError, match="is it stopped"):
        shmq.Queue(name, slots=2)
    os.kill(child.pid, signal.SIGCONT)
    children.join()
    with shmq.Queue(name, slots=2) as queue:
        queue.put("goes on")
    shmq.unlink(name)


# -- a reaper ---------------------------------------------------------------------------------------------------------------


def hold(name: str, connection: Any) -> None:
    with shmq.Queue.attach(name) as queue:
        leases = [queue.receive(timeout=LONG), queue.receive(timeout=LONG, lease_timeout=0.05)]
        connection.send([lease.data for lease in leases])
        time.sleep(LONG)


def stop_as_reaper(nonce: int) -> None:
    assert shmq._core.try_lock(nonce)
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize("then", [signal.SIGCONT, signal.SIGKILL])
def test_while_a_reaper_is_stopped_only_leases_with_a_time_out_come_back(
    make: Make, children: Children, stopped: Any, then: signal.Signals
) -> None:
    """What holds meanwhile: put, get, leases that expire. What does not: redelivery of what a dead process held for life."""
    queue = make(slots=8)
    queue.put_many(["for life", "for a time"])
    ours, theirs = children.context.Pipe()
    victim = children.start(hold, queue.name, theirs)
    assert ours.poll(LONG) and ours.recv() == ["for life", "for a time"]
    reaper = children.start(stop_as_reaper, queue.segment.nonce)
    wait_until(lambda: state_of(reaper.pid) == "T")
    victim.kill()
    victim.join()
    for number in range(40):
        queue.put(number, timeout=PROMPT)
        got = queue.get(timeout=PROMPT)
        assert got in (number, "for a time")
        if got == "for a time":
            assert queue.get(timeout=PROMPT) == number
    if not queue.stats().expired:
        assert queue.get(timeout=PROMPT) == "for a time"
    with pytest.raises(shmq.Empty):
        queue.get(timeout=0.3)
    assert queue._reap() == 0
    os.kill(reaper.pid, then)
    lease = queue.receive(timeout=PROMPT)
    assert (lease.data, lease.delivery_count) == ("for life", 2)
    lease.ack()
    reaper.join()
    children.started.clear()
    shmq.verify(queue)
