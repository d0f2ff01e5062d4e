"""One queue in many hands: forked, pickled, attached by name, killed, and shared among threads."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import shmq
from support.processes import Children, wait_until

Make = Callable[..., shmq.Queue]
LONG = 60.0  # seconds: longer than anything here takes; a call that lasts so long has failed
KILLS = 30
GEOMETRIES = {"small slots": 64, "large slots": 4096, "copies without the lock": 1 << 16}
_kept: list[Any] = []  # what a child still holds when it exits

geometries = pytest.mark.parametrize("slot_size", GEOMETRIES.values(), ids=GEOMETRIES)


@pytest.fixture(params=[64, 4096], ids=["small slots", "large slots"])
def q(request: pytest.FixtureRequest, make: Make) -> shmq.Queue:
    return make(slots=4, slot_size=request.param, in_flight=4)


@pytest.fixture
def answers(make: Make) -> shmq.Queue:
    return make(slots=64, slot_size=256)


class Threads:
    """Threads under a watchdog; what one of them raises, join raises."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def start(self, call: Callable[..., object], *arguments: object) -> None:
        def run() -> None:
            try:
                call(*arguments)
            except BaseException as error:
                self.errors.append(error)

        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(LONG)
            assert not thread.is_alive(), "still running"
        if self.errors:
            raise self.errors[0]


@pytest.fixture
def threads() -> Threads:
    return Threads()


def run_program(code: str, *arguments: str) -> None:
    """Run a program that has nothing of this one but the names on its command line."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], timeout=LONG, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def kill(process: Any) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join(LONG)
    assert process.exitcode == -signal.SIGKILL


# -- ways to hand a queue over -----------------------------------------------------------------------------------------


def double(q: shmq.Queue, answers: shmq.Queue) -> None:
    for _ in range(3):
        answers.put(q.get(timeout=LONG) * 2)


def test_a_handle_works_in_a_child_of_every_start_method(q: shmq.Queue, answers: shmq.Queue, any_children: Children) -> None:
    any_children.start(double, q, answers)
    for message in (21, "ab", [1]):
        q.put(message, timeout=LONG)
    assert [answers.get(timeout=LONG) for _ in range(3)] == [42, "abab", [1, 1]]
    any_children.join()
    shmq.verify(q)


def tell_configuration(q: shmq.Queue, answers: shmq.Queue) -> None:
    answers.put((q.name, q.maxsize, q.slot_size, q.spin, q.codec is not None and q.codec.name))


def test_a_handle_takes_its_own_settings_along(make: Make, answers: shmq.Queue, any_children: Children) -> None:
    q = make(slots=3, slot_size=128, codec=shmq.json_codec, spin=False)
    any_children.start(tell_configuration, q, answers)
    assert answers.get(timeout=LONG) == (q.name, 3, 128, False, "json")
    any_children.join()


def put_square(q: shmq.Queue, number: int) -> int:
    q.put(number * number, timeout=LONG)
    return os.getpid()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_handle_travels_with_the_tasks_of_a_pool(answers: shmq.Queue, method: str) -> None:
    with multiprocessing.get_context(method).Pool(2) as pool:
        pids = pool.starmap(put_square, [(answers, number) for number in range(20)])
        assert sorted(answers.drain()) == [number * number for number in range(20)]
        assert os.getpid() not in pids
        pool.close()
        pool.join()


DOUBLE_ONE = """
import sys, shmq
with shmq.Queue.attach(sys.argv[1]) as q, shmq.Queue.attach(sys.argv[2]) as answers:
    answers.put(q.get(timeout=60) * 2)
"""


def test_an_unrelated_program_attaches_by_name(q: shmq.Queue, answers: shmq.Queue) -> None:
    q.put("ab")
    run_program(DOUBLE_ONE, q.name, answers.name)
    assert answers.get_nowait() == "abab"
    assert q.stats().ports == answers.stats().ports == 1


def put_one(q: shmq.Queue) -> None:
    q.put("from the child", timeout=LONG)


def test_an_anonymous_queue_outlives_the_children_that_used_it(any_children: Children) -> None:
    with shmq.Queue(slots=4, slot_size=64) as q:
        any_children.start(put_one, q)
        any_children.join()
        assert q.get(timeout=LONG) == "from the child"
        assert q.name in shmq.list_segments()
    assert q.name not in shmq.list_segments()


# -- fork --------------------------------------------------------------------------------------------------------------


def count_ports(q: shmq.Queue, answers: shmq.Queue, go: shmq.Queue) -> None:
    q.purge()  # looking alone would attach nobody: test_looks.py
    answers.put(q.stats().ports)
    go.get(timeout=LONG)


def test_a_forked_childs_handle_attaches_again(make: Make, answers: shmq.Queue, children: Children) -> None:
    q, go = make(), make()
    assert q.stats().ports == 1
    for expected in (2, 3, 4):
        children.start(count_ports, q, answers, go)
        assert answers.get(timeout=LONG) == expected
    assert q.stats().ports == 4
    go.put_many([None] * 3)
    children.join()
    q._reap()
    assert q.stats().ports == 1


def do_nothing(q: shmq.Queue) -> None:
    pass


def test_a_forked_child_that_does_not_use_its_handle_takes_no_port(make: Make, children: Children) -> None:
    q = make(ports=1)
    children.start(do_nothing, q)
    children.join()
    assert q.stats().ports == 1
    q.put(b"x")
    assert q.get_nowait() == b"x"


def attach_one_too_many(q: shmq.Queue, answers: shmq.Queue) -> None:
    try:
        q.put(b"x")
    except shmq.TooManyPorts as error:
        answers.put(str(error))


def test_a_forked_child_without_a_port_left_is_told_so(make: Make, answers: shmq.Queue, children: Children) -> None:
    q = make(ports=1)
    children.start(attach_one_too_many, q, answers)
    assert str(os.getpid()) in answers.get(timeout=LONG)
    children.join()


def close_inherited(q: shmq.Queue, answers: shmq.Queue) -> None:
    q.close()
    try:
        q.put(b"x")
    except shmq.Closed:
        answers.put("closed")


def test_a_child_that_closes_its_inherited_handle_leaves_the_parents_open(
    q: shmq.Queue, answers: shmq.Queue, children: Children
) -> None:
    children.start(close_inherited, q, answers)
    assert answers.get(timeout=LONG) == "closed"
    children.join()
    q.put(b"x")
    assert (q.get_nowait(), q.stats().ports) == (b"x", 1)


def pass_on(q: shmq.Queue, answers: shmq.Queue, generations: int) -> None:
    answers.put(q.get(timeout=LONG))
    q.put(generations)
    if generations:
        child = multiprocessing.get_context("fork").Process(target=pass_on, args=(q, answers, generations - 1))
        child.start()
        child.join(LONG)
        assert child.exitcode == 0


def test_a_handle_is_inherited_through_generations(q: shmq.Queue, answers: shmq.Queue, children: Children) -> None:
    q.put("first")
    children.start(pass_on, q, answers, 2)
    assert [answers.get(timeout=LONG) for _ in range(3)] == ["first", 2, 1]
    children.join()
    assert q.get(timeout=LONG) == 0


def settle_the_parents(lease: shmq.Lease, how: str, answers: shmq.Queue) -> None:
    try:
        getattr(lease, how)()
    except shmq.LeaseLost as error:
        answers.put(str(error))


@pytest.mark.parametrize("how", ["ack", "nack", "release"])
def test_a_forked_child_cannot_settle_its_parents_lease(q: shmq.Queue, answers: shmq.Queue, children: Children, how: str) -> None:
    q.put("the parent's")
    lease = q.receive()
    children.start(settle_the_parents, lease, how, answers)
    assert q.name in answers.get(timeout=LONG)
    children.join()
    q._reap()
    assert (q.stats().leased, q.stats().returned) == (1, 0)
    lease.ack()
    assert q.empty()


def drop(held: list[Any], q: shmq.Queue, used: bool) -> None:
    if used:
        q.put("from the child", timeout=LONG)
    held.clear()


@pytest.mark.parametrize("used", [False, True], ids=["unused", "after a call of its own"])
def test_a_forked_child_that_drops_its_parents_lease_leaves_it_leased(q: shmq.Queue, children: Children, used: bool) -> None:
    q.put("the parent's")
    lease = q.receive()
    children.start(drop, [lease], q, used)
    children.join()
    q._reap()
    assert (q.stats().leased, q.stats().returned) == (1, 0)
    assert (lease.data, lease.delivery_count) == ("the parent's", 1)
    lease.ack()
    assert q.drain() == ["from the child"] * used
    shmq.verify(q)


def test_a_forked_child_that_drops_its_parents_loan_leaves_it_open(q: shmq.Queue, children: Children) -> None:
    loan = q.loan(3)
    children.start(drop, [loan], q, True)
    children.join()
    q._reap()
    assert (q.stats().loaned, q.get_nowait()) == (1, "from the child")
    loan.view[:] = b"abc"
    loan.publish(timeout=0)
    assert q.get_nowait() == b"abc"
    shmq.verify(q)


def publish_the_parents(loan: shmq.Loan, answers: shmq.Queue) -> None:
    try:
        loan.publish(timeout=0)
    except shmq.LeaseLost:
        answers.put("refused")


def test_a_forked_child_cannot_publish_its_parents_loan(q: shmq.Queue, answers: shmq.Queue, children: Children) -> None:
    loan = q.loan(3)
    children.start(publish_the_parents, loan, answers)
    assert answers.get(timeout=LONG) == "refused"
    children.join()
    assert (q.stats().loaned, q.qsize()) == (1, 0)
    loan.abandon()


def use_when_told(q: shmq.Queue, answers: shmq.Queue, go: shmq.Queue) -> None:
    answers.put((q.purge(), q.stats().ports))
    q.put(go.get(timeout=LONG), timeout=LONG)


def test_a_fork_while_another_thread_waits_disturbs_neither(
    q: shmq.Queue, make: Make, answers: shmq.Queue, children: Children, threads: Threads
) -> None:
    """The child goes on with a handle in which a thread that it does not have was asleep."""
    go = make()
    got: list[Any] = []
    threads.start(lambda: got.append(q.get(timeout=LONG)))
    wait_until(lambda: q.stats().waiting_consumers == 1)
    children.start(use_when_told, q, answers, go)
    assert answers.get(timeout=LONG) == (0, 2)
    assert got == []
    go.put("from the child")
    threads.join()
    children.join()
    assert got == ["from the child"]
    q._reap()
    assert (q.stats().ports, q.stats().waiting_consumers) == (1, 0)
    shmq.verify(q)


# -- exits -------------------------------------------------------------------------------------------------------------


def exit_with_a_lease(q: shmq.Queue) -> None:
    _kept.append(q.receive(timeout=LONG))


def test_a_child_that_exits_with_a_lease_gives_it_back_at_once(q: shmq.Queue, any_children: Children) -> None:
    q.put("x")
    any_children.start(exit_with_a_lease, q)
    any_children.join()
    lease = q.receive(timeout=0)
    assert lease.data == "x"
    lease.ack()
    shmq.verify(q)


EXIT_WITH_A_LEASE = """
import sys, shmq
q = shmq.Queue.attach(sys.argv[1])
lease, loan = q.receive(timeout=60), q.loan(8)
if sys.argv[2] == "exit":
    sys.exit(0)
"""


@pytest.mark.parametrize("how", ["end", "exit"])
def test_a_program_that_exits_with_a_lease_gives_it_back_at_once_uncounted(q: shmq.Queue, how: str) -> None:
    q.put("x")
    run_program(EXIT_WITH_A_LEASE, q.name, how)
    assert q.stats().loaned == 0
    assert q.stats().ports == 1
    lease = q.receive(timeout=0)
    assert (lease.data, lease.delivery_count) == ("x", 1)
    lease.ack()
    shmq.verify(q)


# -- kills -------------------------------------------------------------------------------------------------------------


def hold_leases(q: shmq.Queue, count: int, answers: shmq.Queue) -> None:
    _kept.extend(q.receive(timeout=LONG) for _ in range(count))
    answers.put("holding")
    signal.pause()


def test_what_a_killed_holder_had_goes_to_a_consumer_that_waits(
    q: shmq.Queue, answers: shmq.Queue, children: Children, threads: Threads
) -> None:
    q.put("work")
    holder = children.start(hold_leases, q, 1, answers)
    assert answers.get(timeout=LONG) == "holding"
    got: list[Any] = []

    def consume() -> None:
        with shmq.Queue.attach(q.name) as handle, handle.receive(timeout=LONG) as lease:
            got.append((lease.data, lease.delivery_count))

    threads.start(consume)
    wait_until(lambda: q.stats().waiting_consumers == 1)
    kill(holder)
    threads.join()
    assert got == [("work", 2)]
    assert q.empty()
    shmq.verify(q)


def test_all_that_a_killed_holder_had_comes_back(q: shmq.Queue, answers: shmq.Queue, children: Children) -> None:
    q.put_many(range(4))
    holder = children.start(hold_leases, q, 3, answers)
    assert answers.get(timeout=LONG) == "holding"
    kill(holder)
    q._reap()
    leases = [q.receive(timeout=0) for _ in range(4)]
    assert sorted((lease.data, lease.delivery_count) for lease in leases) == [(0, 2), (1, 2), (2, 2), (3, 1)]
    for lease in leases:
        lease.ack()
    shmq.verify(q)


def test_each_killed_holder_counts_as_a_delivery(q: shmq.Queue, answers: shmq.Queue, children: Children) -> None:
    q.put("work")
    for _ in range(3):
        holder = children.start(hold_leases, q, 1, answers)
        assert answers.get(timeout=LONG) == "holding"
        kill(holder)
    lease = q.receive(timeout=LONG)
    assert (lease.data, lease.delivery_count) == ("work", 4)
    lease.ack()


def hold_loan(q: shmq.Queue, answers: shmq.Queue) -> None:
    loan = q.loan(8)
    loan.view[:] = b"half-way"
    _kept.append(loan)
    answers.put("holding")
    signal.pause()


def test_the_loan_of_a_killed_process_vanishes_and_its_slot_comes_back(
    make: Make, answers: shmq.Queue, children: Children
) -> None:
    q = make(slots=2, slot_size=64, in_flight=1)
    holder = children.start(hold_loan, q, answers)
    assert answers.get(timeout=LONG) == "holding"
    with pytest.raises(shmq.InFlightLimit, match=str(holder.pid)):
        q.loan(8)
    kill(holder)
    loan = q.loan(8)
    assert q.empty()
    loan.abandon()
    assert (q.stats().loaned, q.stats().puts) == (0, 0)
    shmq.verify(q)


def sized(number: int, size: int) -> bytes:
    """A message that shows when half of it is another's."""
    return b"%08d" % number * (size // 8)


def number_in(message: bytes, size: int) -> int:
    assert message == message[:8] * (size // 8), "torn"
    return int(message[:8])


def put_and_give_back(q: shmq.Queue, answers: shmq.Queue, first: int, size: int) -> None:
    """Put numbers from `first` on, and take others' only to give them back; for ever."""
    numbers = itertools.count(first)
    handle = shmq.Queue.attach(q.name)
    answers.put("at work")
    while True:
        with suppress(shmq.Full):
            if next(numbers) % 2:
                handle.put(sized(next(numbers), size), timeout=0)
            else:
                with suppress(shmq.InFlightLimit):
                    loan = handle.loan(size)
                    loan.view[:] = sized(next(numbers), size)
                    loan.publish(timeout=0)
        with suppress(shmq.Empty, shmq.InFlightLimit):
            lease = handle.receive(timeout=0)
            lease.nack() if next(numbers) % 3 else lease.release()


@geometries
def test_what_survivors_put_is_got_exactly_once_however_others_are_killed(
    make: Make, answers: shmq.Queue, children: Children, slot_size: int
) -> None:
    q = make(slots=4, slot_size=slot_size, in_flight=8, max_deliveries=0)  # they nack as often as it takes
    chance = random.Random(slot_size)
    got: Counter[int] = Counter()
    put = 0
    for victim_number in range(1, KILLS + 1):
        victim = children.start(put_and_give_back, q, answers, victim_number * 1_000_000, slot_size)
        assert answers.get(timeout=LONG) == "at work"
        for _ in range(chance.randrange(1, 200)):
            with suppress(shmq.Full):
                q.put(sized(put, slot_size), timeout=0)
                put += 1
            with suppress(shmq.Empty):
                got[number_in(q.get(timeout=0), slot_size)] += 1
        kill(victim)
    q._reap()
    shmq.verify(q)
    got.update(number_in(message, slot_size) for message in q.drain())
    assert max(got.values()) == 1
    assert put > KILLS
    assert [number for number in range(put) if number not in got] == []
    assert sum(number < 1_000_000 for number in got) == put
    stats = q.stats()
    assert (stats.ports, stats.leased, stats.loaned, stats.returned, stats.ready) == (1, 0, 0, 0, 0)
    shmq.verify(q)


def get_and_report(q: shmq.Queue, got: shmq.Queue, answers: shmq.Queue, size: int) -> None:
    source, target = shmq.Queue.attach(q.name), shmq.Queue.attach(got.name)
    answers.put("at work")
    while True:
        message = source.get()
        target.put(number_in(message, size))


@geometries
def test_a_killed_get_takes_at_most_the_message_that_it_returned(
    make: Make, answers: shmq.Queue, children: Children, slot_size: int
) -> None:
    q, reports = make(slots=4, slot_size=slot_size), make(slots=16, slot_size=64)
    chance = random.Random(slot_size + 1)
    got: Counter[int] = Counter()
    put = 0
    for _ in range(KILLS):
        victim = children.start(get_and_report, q, reports, answers, slot_size)
        assert answers.get(timeout=LONG) == "at work"
        for _ in range(chance.randrange(1, 100)):
            with suppress(shmq.Full):
                q.put(sized(put, slot_size), timeout=0)
                put += 1
            with suppress(shmq.Empty):
                got[reports.get(timeout=0)] += 1
        kill(victim)
    for queue in (q, reports):
        queue._reap()
        shmq.verify(queue)
    got.update(reports.drain())
    got.update(number_in(message, slot_size) for message in q.drain())
    assert max(got.values()) == 1
    assert put - KILLS <= len(got) <= put
    shmq.verify(q)


# -- threads on one handle ---------------------------------------------------------------------------------------------


@geometries
def test_threads_share_one_handle_four_to_four(make: Make, threads: Threads, slot_size: int) -> None:
    q = make(slots=3, slot_size=slot_size)
    each = 40 if slot_size > 4096 else 200
    got: list[list[int]] = [[] for _ in range(4)]

    def produce(first: int) -> None:
        for number in range(first, first + each):
            q.put(sized(number, slot_size), timeout=LONG)

    def consume(mine: list[int]) -> None:
        while (message := q.get(timeout=LONG)) is not None:
            mine.append(number_in(message, slot_size))

    consumers = Threads()
    for index in range(4):
        threads.start(produce, index * each)
        consumers.start(consume, got[index])
    threads.join()
    for _ in range(4):
        q.put(None, timeout=LONG)
    consumers.join()
    assert sorted(itertools.chain(*got)) == list(range(4 * each))
    for mine in got:
        for producer in range(4):
            from_one = [number for number in mine if number // each == producer]
            assert from_one == sorted(from_one)
    shmq.verify(q)


def test_threads_share_one_handle_for_leases_and_loans(q: shmq.Queue, threads: Threads) -> None:
    got: list[int] = []

    def produce(first: int) -> None:
        for number in range(first, first + 100):
            while True:
                with suppress(shmq.InFlightLimit), q.loan(8) as view:
                    view[:] = b"%08d" % number
                    break

    def consume() -> None:
        while len(got) < 200:
            with suppress(shmq.Empty, shmq.InFlightLimit), q.receive(timeout=0.01) as lease:
                got.append(int(bytes(lease.view)))

    for first in (0, 100):
        threads.start(produce, first)
        threads.start(consume)
    threads.join()
    assert sorted(got) == list(range(200))
    assert q.empty()
    shmq.verify(q)


def test_a_thread_that_waits_in_get_is_told_when_another_closes_the_handle(q: shmq.Queue, threads: Threads) -> None:
    handle = shmq.Queue.attach(q.name)
    threads.start(handle.get)
    wait_until(lambda: q.stats().waiting_consumers == 1)
    handle.close()
    with pytest.raises(shmq.Closed, match=q.name):
        threads.join()
    wait_until(lambda: q.stats().ports == 1)
    shmq.verify(q)


def test_a_thread_that_waits_in_put_is_told_when_another_closes_the_handle(q: shmq.Queue, threads: Threads) -> None:
    q.put_many(range(4))
    handle = shmq.Queue.attach(q.name)
    threads.start(handle.put, "x")
    wait_until(lambda: q.stats().waiting_producers == 1)
    handle.close()
    with pytest.raises(shmq.Closed, match=q.name):
        threads.join()
    wait_until(lambda: q.stats().ports == 1)
    assert q.drain() == [0, 1, 2, 3]
