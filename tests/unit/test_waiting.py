"""Waiting: time-outs, sleepers that are woken by all that should wake them, signals, and handles that are closed meanwhile."""

from __future__ import annotations

import _thread
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import shmq
from support.processes import Children, wait_until

Make = Callable[..., shmq.Queue]
LONG = 60.0  # seconds: longer than anything here takes; a call that lasts so long has failed


@pytest.fixture
def q(make: Make) -> shmq.Queue:
    return make(slots=4, slot_size=64, in_flight=4)


def fill(queue: shmq.Queue) -> None:
    queue.put_many([b"old"] * queue.maxsize, timeout=0)
    assert queue.full()


def loan_of(queue: shmq.Queue) -> shmq.Loan:
    loan = queue.loan(3)
    loan.view[:] = b"new"
    return loan


TAKING: dict[str, Callable[..., Any]] = {
    "get": lambda q, **t: q.get(**t),
    "get_many": lambda q, **t: q.get_many(3, **t)[0],
    "get_many of one": lambda q, **t: q.get_many(1, **t)[0],
    "receive": lambda q, **t: settled(q.receive(**t)),
    "receive_many": lambda q, **t: settled(q.receive_many(3, **t)[0]),
}
PUTTING: dict[str, Callable[..., Any]] = {
    "put": lambda q, **t: q.put(b"new", **t),
    "put of an object": lambda q, **t: q.put([b"new"], **t),
    "put_many": lambda q, **t: q.put_many([b"new"], **t),
    "publish": lambda q, **t: loan_of(q).publish(**t),
}
taking = pytest.mark.parametrize("take", TAKING.values(), ids=TAKING)
putting = pytest.mark.parametrize("put", PUTTING.values(), ids=PUTTING)


def settled(lease: shmq.Lease) -> Any:
    with lease:
        return lease.data


def consumers(queue: shmq.Queue) -> int:
    return queue.stats().waiting_consumers


def producers(queue: shmq.Queue) -> int:
    return queue.stats().waiting_producers


class InThread:
    """A call in another thread, through another handle; its result or exception when it has ended."""

    def __init__(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        self.result: Any = None
        self.error: BaseException | None = None

        def run() -> None:
            try:
                self.result = call(*arguments, **named)
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def end(self) -> Any:
        self.thread.join(LONG)
        assert not self.thread.is_alive(), "still waiting"
        if self.error is not None:
            raise self.error
        return self.result


@pytest.fixture
def other(q: shmq.Queue) -> Iterator[shmq.Queue]:
    """A second handle, for another thread."""
    with shmq.Queue.attach(q.name) as handle:
        yield handle


# -- time-outs -----------------------------------------------------------------------------------------------------------------


@taking
@pytest.mark.parametrize("timeout", [0, -1, -0.5, 0.0, False])
def test_taking_with_no_time_tries_once(q: shmq.Queue, take: Callable[..., Any], timeout: Any) -> None:
    with pytest.raises(shmq.Empty):
        take(q, timeout=timeout)
    q.put(b"there")
    assert take(q, timeout=timeout) == b"there"


@putting
@pytest.mark.parametrize("timeout", [0, -1, -0.5, 0.0, False])
def test_putting_with_no_time_tries_once(q: shmq.Queue, put: Callable[..., Any], timeout: Any) -> None:
    fill(q)
    with pytest.raises(shmq.Full):
        put(q, timeout=timeout)
    q.get()
    put(q, timeout=timeout)
    assert q.qsize() == 4


@taking
@pytest.mark.parametrize("timeout", [0.001, 0.13])
def test_taking_waits_as_long_as_was_said(q: shmq.Queue, take: Callable[..., Any], timeout: float) -> None:
    began = time.monotonic()
    with pytest.raises(shmq.Empty, match=q.name):
        take(q, timeout=timeout)
    assert timeout <= time.monotonic() - began < timeout + LONG / 2
    assert consumers(q) == 0
    shmq.verify(q)


@putting
@pytest.mark.parametrize("timeout", [0.001, 0.13])
def test_putting_waits_as_long_as_was_said(q: shmq.Queue, put: Callable[..., Any], timeout: float) -> None:
    fill(q)
    began = time.monotonic()
    with pytest.raises(shmq.Full, match=q.name):
        put(q, timeout=timeout)
    assert timeout <= time.monotonic() - began < timeout + LONG / 2
    assert producers(q) == 0
    assert q.drain() == [b"old"] * 4
    shmq.verify(q)


def test_not_blocking_ignores_the_timeout(q: shmq.Queue) -> None:
    with pytest.raises(shmq.Empty):
        q.get(False, LONG)
    with pytest.raises(shmq.Empty):
        q.get(block=False)
    fill(q)
    with pytest.raises(shmq.Full):
        q.put(b"new", False, LONG)
    with pytest.raises(shmq.Full):
        q.put(b"new", block=False)


def test_put_many_within_its_time_puts_what_fits(q: shmq.Queue) -> None:
    began = time.monotonic()
    assert q.put_many(range(9), timeout=0.1) == 4
    assert time.monotonic() - began >= 0.1
    assert q.drain() == [0, 1, 2, 3]


def test_a_timeout_is_not_needed_where_there_is_something_to_take(q: shmq.Queue) -> None:
    q.put_many(range(4))
    assert q.get_many(2, timeout=LONG) == [0, 1]
    assert q.get(timeout=LONG) == 2
    assert q.receive(timeout=LONG).data == 3


# -- who wakes whom ------------------------------------------------------------------------------------------------------------


def nacked(q: shmq.Queue, lease: shmq.Lease) -> None:
    lease.nack()


def released(q: shmq.Queue, lease: shmq.Lease) -> None:
    lease.release()


def raised(q: shmq.Queue, lease: shmq.Lease) -> None:
    with pytest.raises(LookupError), lease:
        raise LookupError


@taking
@putting
def test_a_sleeping_consumer_is_woken_by_every_way_to_put(q: shmq.Queue, other: shmq.Queue, take: Any, put: Any) -> None:
    sleeper = InThread(take, other, timeout=LONG)
    wait_until(lambda: consumers(q) == 1)
    put(q)
    assert sleeper.end() in (b"new", [b"new"])
    assert consumers(q) == 0


@putting
@taking
def test_a_sleeping_producer_is_woken_by_every_way_to_take(q: shmq.Queue, other: shmq.Queue, take: Any, put: Any) -> None:
    fill(q)
    sleeper = InThread(put, other, timeout=LONG)
    wait_until(lambda: producers(q) == 1)
    assert take(q) == b"old"
    sleeper.end()
    assert producers(q) == 0
    assert q.drain()[-1] in (b"new", [b"new"])


@pytest.mark.parametrize("clear", [shmq.Queue.purge, shmq.Queue.drain], ids=["purge", "drain"])
def test_a_sleeping_producer_is_woken_by_clearing_the_queue(
    q: shmq.Queue, other: shmq.Queue, clear: Callable[[Any], Any]
) -> None:
    fill(q)
    sleeper = InThread(other.put, b"new", timeout=LONG)
    wait_until(lambda: producers(q) == 1)
    clear(q)
    sleeper.end()


@taking
@pytest.mark.parametrize("back", [nacked, released, raised])
def test_a_sleeping_consumer_is_woken_by_a_message_that_comes_back(
    q: shmq.Queue, other: shmq.Queue, take: Any, back: Any
) -> None:
    q.put(b"again")
    lease = q.receive(timeout=0)
    sleeper = InThread(take, other, timeout=LONG)
    wait_until(lambda: consumers(q) == 1)
    back(q, lease)
    assert sleeper.end() == b"again"


def test_a_sleeping_consumer_is_woken_by_a_dropped_lease(q: shmq.Queue, other: shmq.Queue) -> None:
    q.put(b"again")
    lease = q.receive(timeout=0)
    sleeper = InThread(other.receive, timeout=LONG)
    wait_until(lambda: consumers(q) == 1)
    del lease
    assert sleeper.end().delivery_count == 2


def exit_with_a_lease(name: str, connection: Any) -> None:
    lease = shmq.Queue.attach(name).receive(timeout=0)
    connection.recv()
    assert not lease.settled


def test_a_sleeping_consumer_is_woken_by_the_exit_of_a_process_with_a_lease(
    q: shmq.Queue, other: shmq.Queue, children: Children
) -> None:
    q.put(b"again")
    ours, theirs = children.context.Pipe()
    children.start(exit_with_a_lease, q.name, theirs)
    wait_until(lambda: q.stats().leased == 1)
    sleeper = InThread(other.get, timeout=LONG)
    wait_until(lambda: consumers(q) == 1)
    ours.send("exit")
    assert sleeper.end() == b"again"
    children.join()


@pytest.mark.parametrize("sleepers", [2, 5])
def test_a_batch_wakes_as_many_consumers_as_it_has_messages(make: Make, sleepers: int) -> None:
    queue = make(slots=8, slot_size=64)
    handles = [shmq.Queue.attach(queue.name) for _ in range(sleepers)]
    calls = [InThread(handle.get, timeout=LONG) for handle in handles]
    wait_until(lambda: consumers(queue) == sleepers)
    queue.put_many(range(sleepers))
    assert sorted(call.end() for call in calls) == list(range(sleepers))
    for handle in handles:
        handle.close()
    assert consumers(queue) == 0


@pytest.mark.parametrize("sleepers", [2, 5])
def test_a_batch_that_is_taken_lets_all_sleeping_producers_in(make: Make, sleepers: int) -> None:
    queue = make(slots=5, slot_size=64)
    fill(queue)
    handles = [shmq.Queue.attach(queue.name) for _ in range(sleepers)]
    calls = [InThread(handle.put, number, timeout=LONG) for number, handle in enumerate(handles)]
    wait_until(lambda: producers(queue) == sleepers)
    assert queue.get_many(5) == [b"old"] * 5
    for call in calls:
        call.end()
    assert sorted(queue.drain()) == list(range(sleepers))
    for handle in handles:
        handle.close()


def test_one_message_wakes_nobody_in_vain_for_long(make: Make) -> None:
    """Three sleep, one message comes: one has it, and the others sleep on and are found by the next ones."""
    queue = make(slots=8, slot_size=64)
    handles = [shmq.Queue.attach(queue.name) for _ in range(3)]
    calls = [InThread(handle.get, timeout=LONG) for handle in handles]
    for number in range(3):
        wait_until(lambda left=3 - number: consumers(queue) == left)
        queue.put(number)
        wait_until(lambda done=number + 1: sum(not call.thread.is_alive() for call in calls) == done)
    assert sorted(call.end() for call in calls) == [0, 1, 2]
    for handle in handles:
        handle.close()


def test_threads_sleep_on_one_handle_together(q: shmq.Queue) -> None:
    calls = [InThread(q.get, timeout=LONG) for _ in range(4)]
    wait_until(lambda: consumers(q) == 4)
    for number in range(4):
        q.put(number)
    assert sorted(call.end() for call in calls) == [0, 1, 2, 3]
    shmq.verify(q)


def test_both_ends_sleep_on_one_handle_and_wake_each_other(make: Make) -> None:
    queue = make(slots=1, slot_size=64)
    consumer = InThread(lambda: [queue.get(timeout=LONG) for _ in range(200)])
    producer = InThread(lambda: [queue.put(number, timeout=LONG) for number in range(200)])
    producer.end()
    assert consumer.end() == list(range(200))


def sleep_until_killed(name: str, call: str) -> None:
    queue = shmq.Queue.attach(name)
    queue.get() if call == "get" else queue.put(b"from the dead")


def test_the_death_of_a_sleeping_consumer_takes_no_wake_up_from_the_others(
    q: shmq.Queue, other: shmq.Queue, children: Children
) -> None:
    victims = [children.start(sleep_until_killed, q.name, "get") for _ in range(2)]
    wait_until(lambda: consumers(q) == 2)
    sleeper = InThread(other.get, timeout=LONG)
    wait_until(lambda: consumers(q) == 3)
    for victim in victims:
        victim.kill()
        victim.join(LONG)
    q.put(b"for the living")
    assert sleeper.end() == b"for the living"
    assert q.empty()


def test_the_death_of_a_sleeping_producer_takes_no_wake_up_from_the_others(
    q: shmq.Queue, other: shmq.Queue, children: Children
) -> None:
    fill(q)
    victims = [children.start(sleep_until_killed, q.name, "put") for _ in range(2)]
    wait_until(lambda: producers(q) == 2)
    sleeper = InThread(other.put, b"new", timeout=LONG)
    wait_until(lambda: producers(q) == 3)
    for victim in victims:
        victim.kill()
        victim.join(LONG)
    assert q.get() == b"old"
    sleeper.end()
    assert q.drain() == [b"old"] * 3 + [b"new"]


# -- others work meanwhile -----------------------------------------------------------------------------------------------------


@taking
def test_other_threads_run_while_one_waits(q: shmq.Queue, take: Callable[..., Any]) -> None:
    sleeper = InThread(take, q, timeout=LONG)
    wait_until(lambda: consumers(q) == 1)
    total = sum(range(100_000))
    assert total == 4_999_950_000
    q.put(b"x")
    assert sleeper.end() == b"x"


def test_waiting_costs_next_to_no_processor_time(q: shmq.Queue) -> None:
    before = time.process_time()
    with pytest.raises(shmq.Empty):
        q.get(timeout=0.6)
    assert time.process_time() - before < 0.2


def test_waiting_for_room_costs_next_to_no_processor_time(q: shmq.Queue) -> None:
    fill(q)
    before = time.process_time()
    with pytest.raises(shmq.Full):
        q.put(b"new", timeout=0.6)
    assert time.process_time() - before < 0.2


# -- in-flight cells -----------------------------------------------------------------------------------------------------------


def test_receive_waits_for_a_lease_to_be_settled(q: shmq.Queue, other: shmq.Queue) -> None:
    fill(q)
    leases = q.receive_many(4, timeout=0)
    q.put(b"fifth")
    sleeper = InThread(lambda: settled(other.receive(timeout=LONG)))
    leases.pop().ack()
    assert sleeper.end() == b"fifth"


@pytest.mark.parametrize("timeout", [0, 0.05, None])
def test_at_the_limit_receive_says_so_within_its_time_and_takes_nothing(q: shmq.Queue, timeout: float | None) -> None:
    fill(q)
    leases = [q.receive(timeout=0) for _ in range(4)]
    q.put(b"fifth")
    with pytest.raises(shmq.InFlightLimit, match="4 leased by pid"):
        q.receive(timeout=timeout)
    assert q.get(timeout=LONG) == b"fifth"
    assert [lease.data for lease in leases] == [b"old"] * 4
    shmq.verify(q)


# -- closing meanwhile ---------------------------------------------------------------------------------------------------------


@taking
def test_closing_the_handle_ends_whoever_waits_for_a_message(q: shmq.Queue, other: shmq.Queue, take: Callable[..., Any]) -> None:
    sleepers = [InThread(take, other, timeout=LONG) for _ in range(2)]
    wait_until(lambda: consumers(q) == 2)
    other.close()
    for sleeper in sleepers:
        with pytest.raises(shmq.Closed, match=q.name):
            sleeper.end()
    wait_until(lambda: q.stats().ports == 1)
    assert consumers(q) == 0
    q.put(b"x")
    assert q.get_nowait() == b"x"
    shmq.verify(q)


@pytest.mark.parametrize(
    "put", [put for name, put in PUTTING.items() if name != "publish"], ids=[n for n in PUTTING if n != "publish"]
)
def test_closing_the_handle_ends_whoever_waits_for_room(q: shmq.Queue, other: shmq.Queue, put: Callable[..., Any]) -> None:
    fill(q)
    sleepers = [InThread(put, other, timeout=LONG) for _ in range(2)]
    wait_until(lambda: producers(q) == 2)
    other.close()
    for sleeper in sleepers:
        with pytest.raises(shmq.Closed, match=q.name):
            sleeper.end()
    wait_until(lambda: q.stats().ports == 1)
    assert q.drain() == [b"old"] * 4
    shmq.verify(q)


def test_closing_the_handle_leaves_a_waiting_publication_open(q: shmq.Queue, other: shmq.Queue) -> None:
    fill(q)
    loan = loan_of(other)
    sleeper = InThread(loan.publish, timeout=LONG)
    wait_until(lambda: producers(q) == 1)
    other.close()
    with pytest.raises(shmq.Closed):
        sleeper.end()
    q.get()
    loan.publish(timeout=0)
    assert q.drain()[-1] == b"new"
    assert q.stats().ports == 1


def test_closing_the_handle_during_a_large_copy_is_safe(make: Make) -> None:
    queue = make(slots=2, slot_size=8 << 20)
    frame = np.ones(8 << 20, "u1")
    for _ in range(20):
        handle = shmq.Queue.attach(queue.name)
        copy = InThread(handle.put, frame, timeout=LONG)
        handle.close()
        try:
            copy.end()
            assert queue.get(timeout=0).sum() == len(frame)
        except shmq.Closed:
            pass
        assert queue.empty()
    wait_until(lambda: queue.stats().ports == 1)
    shmq.verify(queue)


# -- signals -------------------------------------------------------------------------------------------------------------------


def when(condition: Callable[[], object], act: Callable[[], object]) -> threading.Thread:
    """Act in another thread once the condition holds."""

    def run() -> None:
        wait_until(condition)
        act()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def interrupt(signum: int = signal.SIGINT) -> None:
    signal.pthread_kill(threading.main_thread().ident, signum)


@pytest.fixture
def on_alarm() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Set what SIGALRM calls."""
    before = signal.getsignal(signal.SIGALRM)

    def set_handler(act: Callable[[], object]) -> None:
        signal.signal(signal.SIGALRM, lambda *_: act())

    yield set_handler
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@taking
def test_ctrl_c_ends_whoever_waits_for_a_message_and_loses_nothing(q: shmq.Queue, take: Callable[..., Any]) -> None:
    thread = when(lambda: consumers(q) == 1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        take(q, timeout=LONG)
    thread.join(LONG)
    assert consumers(q) == 0
    q.put(b"x")
    assert take(q, timeout=0) == b"x"
    shmq.verify(q)


@putting
def test_ctrl_c_ends_whoever_waits_for_room_and_loses_nothing(q: shmq.Queue, put: Callable[..., Any]) -> None:
    fill(q)
    thread = when(lambda: producers(q) == 1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        put(q, timeout=LONG)
    thread.join(LONG)
    assert producers(q) == 0
    assert q.drain() == [b"old"] * 4
    assert q.stats().loaned == 0
    shmq.verify(q)


def test_ctrl_c_during_put_many_leaves_a_prefix(q: shmq.Queue) -> None:
    thread = when(lambda: producers(q) == 1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        q.put_many(range(9), timeout=LONG)
    thread.join(LONG)
    assert q.drain() == [0, 1, 2, 3]
    shmq.verify(q)


def test_ctrl_c_during_a_loop_gives_back_nothing_that_was_acked(q: shmq.Queue) -> None:
    q.put("x")
    thread = when(lambda: consumers(q) == 1, interrupt)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        for lease in q:
            seen.append(lease.data)
    thread.join(LONG)
    assert seen == ["x"]
    stats = q.stats()
    assert (stats.leased, stats.returned, stats.acks) == (0, 0, 1)


def test_ctrl_c_ends_a_receive_that_waits_for_a_cell(q: shmq.Queue) -> None:
    fill(q)
    leases = q.receive_many(4, timeout=0)
    q.put(b"fifth")
    fired: list[float] = []

    def act() -> None:
        fired.append(time.monotonic())
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, lambda *_: act())
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            q.receive(timeout=LONG)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert fired
    assert len(leases) == 4 and q.get_nowait() == b"fifth"
    shmq.verify(q)


@taking
def test_an_interrupt_from_another_thread_ends_whoever_waits(q: shmq.Queue, take: Callable[..., Any]) -> None:
    """No system call is interrupted then: the waiting side has to look."""
    thread = when(lambda: consumers(q) == 1, _thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        take(q, timeout=5)
        time.sleep(0.1)  # not reached
    thread.join(LONG)
    assert consumers(q) == 0


def test_an_interrupt_from_another_thread_ends_whoever_waits_for_room(q: shmq.Queue) -> None:
    fill(q)
    thread = when(lambda: producers(q) == 1, _thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        q.put(b"new", timeout=5)
    thread.join(LONG)
    assert q.drain() == [b"old"] * 4


def test_what_a_signal_handler_raises_comes_out_of_the_call(q: shmq.Queue, on_alarm: Any) -> None:
    def refuse() -> None:
        raise LookupError("from the handler")

    on_alarm(refuse)
    thread = when(lambda: consumers(q) == 1, lambda: interrupt(signal.SIGALRM))
    with pytest.raises(LookupError, match="from the handler"):
        q.get(timeout=LONG)
    thread.join(LONG)
    shmq.verify(q)


def test_a_signal_handler_may_use_the_queue_that_is_waited_on(q: shmq.Queue, on_alarm: Any) -> None:
    on_alarm(lambda: q.put(b"from the handler"))
    thread = when(lambda: consumers(q) == 1, lambda: interrupt(signal.SIGALRM))
    assert q.get(timeout=LONG) == b"from the handler"
    thread.join(LONG)
    on_alarm(lambda: taken.append(q.get_nowait()))
    taken: list[Any] = []
    fill(q)
    thread = when(lambda: producers(q) == 1, lambda: interrupt(signal.SIGALRM))
    q.put(b"new", timeout=LONG)
    thread.join(LONG)
    assert taken == [b"old"] and q.drain()[-1] == b"new"
    shmq.verify(q)


def test_a_signal_handler_may_close_the_queue_that_is_waited_on(q: shmq.Queue, other: shmq.Queue, on_alarm: Any) -> None:
    on_alarm(other.close)
    thread = when(lambda: consumers(q) == 1, lambda: interrupt(signal.SIGALRM))
    with pytest.raises(shmq.Closed):
        other.get(timeout=LONG)
    thread.join(LONG)
    assert q.stats().ports == 1


@pytest.mark.parametrize("fast", [0.001, 0.0002])
def test_a_storm_of_signals_neither_shortens_nor_stretches_a_timeout(q: shmq.Queue, on_alarm: Any, fast: float) -> None:
    arrived: list[None] = []
    on_alarm(lambda: arrived.append(None))
    signal.setitimer(signal.ITIMER_REAL, fast, fast)
    began = time.monotonic()
    with pytest.raises(shmq.Empty):
        q.get(timeout=0.4)
    assert 0.4 <= time.monotonic() - began < 0.4 + LONG / 2
    assert len(arrived) > 20


def test_a_storm_of_signals_loses_no_message(make: Make, on_alarm: Any) -> None:
    queue = make(slots=2, slot_size=64)
    arrived: list[None] = []
    on_alarm(lambda: arrived.append(None))
    with shmq.Queue.attach(queue.name) as handle:
        consumer = InThread(lambda: [handle.get(timeout=LONG) for _ in range(3000)])
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for number in range(3000):
            queue.put(number, timeout=LONG)
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert consumer.end() == list(range(3000))
    assert arrived
    shmq.verify(queue)


class Interrupted(Exception):
    pass


def test_an_exception_at_any_moment_of_a_call_leaves_the_queue_whole(make: Make, on_alarm: Any) -> None:
    """The handler raises at random moments: each call has happened or not, and no cell leaks."""
    queue = make(slots=4, slot_size=4096, in_flight=4)

    def strike() -> None:
        raise Interrupted

    on_alarm(strike)
    payloads = [b"x", "text", np.arange(100), {"a": [1]}]
    strikes = 0
    deadline = time.monotonic() + 1.0
    number = 0
    while time.monotonic() < deadline:
        number += 1
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-6 + number % 50 * 2e-6)
            queue.put(payloads[number % 4], timeout=0.001)
            with queue.receive(timeout=0.001) as lease:
                lease.data  # noqa: B018
            queue.get(timeout=0.001)
        except (Interrupted, shmq.Empty, shmq.Full) as error:
            strikes += isinstance(error, Interrupted)
        finally:
            while True:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    break
                except Interrupted:
                    strikes += 1
        if number % 64 == 0:
            queue.purge()
    assert strikes > 10
    lease = None
    queue.purge()
    assert len([queue.loan(1) for _ in range(4)]) == 4
    stats = queue.stats()
    assert (stats.ready, stats.leased, stats.loaned, stats.returned, stats.held) == (0, 0, 0, 0, 0)
    shmq.verify(queue)


# -- between processes ---------------------------------------------------------------------------------------------------------


@taking
def test_without_a_timeout_whoever_takes_waits_for_a_later_put(q: shmq.Queue, other: shmq.Queue, take: Any) -> None:
    thread = when(lambda: consumers(q) == 1, lambda: other.put(b"late"))
    assert take(q) == b"late"
    thread.join(LONG)


@putting
def test_without_a_timeout_whoever_puts_waits_for_a_later_get(q: shmq.Queue, other: shmq.Queue, put: Any) -> None:
    fill(q)
    thread = when(lambda: producers(q) == 1, other.get)
    put(q)
    thread.join(LONG)
    assert q.qsize() == 4


def return_all(name: str, back: str, count: int) -> None:
    there = shmq.Queue.attach(name, spin=False)
    answers = shmq.Queue.attach(back, spin=False)
    for _ in range(count):
        answers.put(there.get(timeout=LONG), timeout=LONG)


@pytest.mark.parametrize("slots", [1, 8])
def test_no_wake_up_is_lost_between_two_processes_that_both_sleep(make: Make, children: Children, slots: int) -> None:
    """A lost one would cost a slice of a tenth of a second: some hundreds of them would be too many."""
    there, back = (make(slots=slots, slot_size=64, spin=False) for _ in range(2))
    children.start(return_all, there.name, back.name, 2000)
    began = time.monotonic()
    for number in range(2000):
        there.put(number, timeout=LONG)
        assert back.get(timeout=LONG) == number
    assert time.monotonic() - began < LONG / 2
    children.join()


def wait_idly(name: str, answers: str) -> None:
    queue = shmq.Queue.attach(name)
    before = time.process_time()
    with pytest.raises(shmq.Empty):
        queue.get(timeout=1.0)
    shmq.Queue.attach(answers).put(time.process_time() - before)


def test_four_idle_consumers_cost_next_to_no_processor_time(make: Make, children: Children) -> None:
    queue, answers = make(), make()
    for _ in range(4):
        children.start(wait_idly, queue.name, answers.name)
    assert sum(answers.get(timeout=LONG) for _ in range(4)) < 0.05
    children.join()


def produce_for_ever(name: str, answers: str) -> None:
    queue, out = shmq.Queue.attach(name), shmq.Queue.attach(answers)
    for number in itertools.count(1):
        queue.put(number)
        if number == 100:
            out.put("a producer")


def consume_for_ever(name: str, answers: str) -> None:
    queue, out = shmq.Queue.attach(name), shmq.Queue.attach(answers)
    for number in itertools.count(1):
        queue.get()
        if number == 100:
            out.put("a consumer")


@pytest.mark.parametrize("slots", [1, 64])
def test_each_of_three_producers_and_three_consumers_gets_its_share(make: Make, children: Children, slots: int) -> None:
    queue, answers = make(slots=slots, slot_size=64), make()
    for _ in range(3):
        children.start(consume_for_ever, queue.name, answers.name)
        children.start(produce_for_ever, queue.name, answers.name)
    assert sorted(answers.get(timeout=LONG) for _ in range(6)) == ["a consumer"] * 3 + ["a producer"] * 3
    children.kill()
    queue._reap()
    shmq.verify(queue)
