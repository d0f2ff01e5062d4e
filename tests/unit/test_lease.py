"""Leases in odd circumstances: garbage, threads, forks, exceptions on their way, settled while they are read."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmq
from support.processes import Children

Make = Callable[..., shmq.Queue]


@pytest.fixture(params=[4096, 256], ids=["large slots", "small slots"])
def q(request: pytest.FixtureRequest, make: Make) -> shmq.Queue:
    return make(slots=8, slot_size=request.param, in_flight=8)


def counts(queue: shmq.Queue) -> tuple[int, int, int, int]:
    """Ready, leased, held, returned."""
    stats = queue.stats()
    return stats.ready, stats.leased, stats.held, stats.returned


def test_repr_tells_size_queue_and_delivery(q: shmq.Queue) -> None:
    q.put(b"abc")
    lease = q.receive(timeout=0)
    assert q.name in repr(lease) and "3 bytes" in repr(lease) and "delivery 1" in repr(lease)
    assert "settled" not in repr(lease)
    lease.ack()
    assert "settled" in repr(lease)


def test_a_queue_with_nothing_but_what_came_back_is_not_empty(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0)
    assert q.empty()
    lease.nack()
    assert not q.empty()
    assert q.get_nowait() == "x"
    assert q.empty()


def test_leased_messages_take_no_room_in_the_ring(q: shmq.Queue) -> None:
    q.put_many(range(8))
    leases = q.receive_many(5, timeout=0)
    assert q.put_many(range(8, 20), timeout=0) == 5
    for lease in leases:
        lease.nack()
    assert counts(q) == (8, 0, 0, 5)
    del lease
    assert sorted(q.drain()) == list(range(13))
    shmq.verify(q)


@pytest.mark.parametrize("returned", [1, 2, 3, 6])
def test_receive_many_takes_what_came_back_and_what_is_new(q: shmq.Queue, returned: int) -> None:
    q.put_many(range(6))
    for lease in q.receive_many(returned, timeout=0):
        lease.nack()
    del lease
    leases = q.receive_many(100, timeout=0)
    assert [lease.delivery_count for lease in leases] == [2] * returned + [1] * (6 - returned)
    assert sorted(lease.data for lease in leases) == list(range(6))


def test_dropping_a_list_of_leases_gives_all_back(q: shmq.Queue) -> None:
    q.put_many(range(5))
    q.receive_many(5, timeout=0)
    assert counts(q) == (0, 0, 0, 5)


def failing(q: shmq.Queue, error: BaseException) -> None:
    for _ in q:
        raise error


def test_a_loop_inside_of_an_except_clause_acks_at_a_break(q: shmq.Queue) -> None:
    q.put("x")
    try:
        raise RuntimeError("being handled")
    except RuntimeError:
        for _ in q:
            break
    assert counts(q) == (0, 0, 0, 0)


def test_a_generator_over_a_loop_that_is_closed_settles_its_message(q: shmq.Queue) -> None:
    q.put_many(["a", "b"])

    def each() -> Any:
        for lease in q:
            yield lease.data

    values = each()
    assert next(values) == "a"
    values.close()
    ready, leased, held, returned = counts(q)
    # From CPython 3.13 on, closing a generator may end its loop without raising GeneratorExit in the body.
    assert (ready, leased, held) == (1, 0, 0)
    assert returned + q.stats().acks == 1


def test_two_loops_over_one_queue_share_its_messages(q: shmq.Queue) -> None:
    q.put_many(range(6))
    pairs = []
    for one, other in zip(q, q, strict=False):
        pairs.append((one.data, other.data))
        if len(pairs) == 3:
            break
    assert pairs == [(0, 1), (2, 3), (4, 5)]


def overwrite(q: shmq.Queue, rounds: int = 40) -> None:
    """Send other messages through every free slot."""
    for number in range(rounds):
        q.put(np.full(10, 1000 + number, "i4"))
        q.get_nowait()


def test_the_lease_itself_is_a_buffer(q: shmq.Queue) -> None:
    q.put(b"abc")
    with q.receive(timeout=0) as lease:
        assert bytes(lease) == b"abc"
        assert bytearray(lease) == b"abc"
        assert memoryview(lease).readonly


@pytest.mark.parametrize("look", ["array", "view"])
def test_an_exception_passes_unharmed_through_the_end_of_a_view(q: shmq.Queue, look: str) -> None:
    q.put(np.arange(4, dtype="u1"))
    with q.receive(timeout=0) as lease, pytest.raises(IndexError):
        getattr(lease, look)[99]  # the view dies while the exception is on its way
    q.put(np.arange(4, dtype="u1"))
    lease = q.receive(timeout=0)

    def look_and_fail() -> None:
        shown = getattr(lease, look)
        lease.ack()
        raise LookupError(f"{len(shown)}")

    with pytest.raises(LookupError, match="4"):
        look_and_fail()


@pytest.mark.parametrize("how", ["nack", "release"])
def test_giving_back_under_a_view_is_possible_and_harmless(q: shmq.Queue, how: str) -> None:
    q.put(np.arange(10))
    lease = q.receive(timeout=0)
    shown = lease.array
    getattr(lease, how)()
    assert q.get_nowait().tolist() == list(range(10))
    del shown, lease
    gc.collect()
    assert counts(q) == (0, 0, 0, 0)
    shmq.verify(q)


def test_dropping_lease_and_view_unsettled_gives_the_message_back(q: shmq.Queue) -> None:
    q.put(np.arange(10))
    shown = q.receive(timeout=0).array
    assert counts(q) == (0, 1, 0, 0)  # the view is the last that holds the lease
    del shown
    gc.collect()
    assert counts(q) == (0, 0, 0, 1)


def test_views_keep_the_queue_going_up_to_the_limit(make: Make) -> None:
    queue = make(slots=4, slot_size=4096, in_flight=4)
    views = []
    for number in range(4):
        queue.put(np.full(10, number))
        with queue.receive(timeout=0) as lease:
            views.append(lease.array)
    queue.put(np.full(10, 4))
    with pytest.raises(shmq.InFlightLimit, match="held"):
        queue.receive(timeout=0)
    views.pop(1)
    with queue.receive(timeout=0) as lease:
        assert lease.data[0] == 4
    assert [view[0] for view in views] == [0, 2, 3]


def test_a_lease_keeps_its_dropped_handle_alive(q: shmq.Queue) -> None:
    q.put(np.arange(3))
    lease = shmq.Queue.attach(q.name).receive(timeout=0)
    gc.collect()
    assert counts(q) == (0, 1, 0, 0)
    assert lease.array.tolist() == [0, 1, 2]
    lease.ack()
    del lease
    gc.collect()
    assert q.stats().ports == 1


def settle_inherited(lease: shmq.Lease, how: str, answers: shmq.Queue) -> None:
    try:
        getattr(lease, how)
        getattr(lease, how)()
        answers.put("settled")
    except shmq.LeaseLost as error:
        answers.put(str(error))
    except TypeError:  # a property
        answers.put("looked")


@pytest.mark.parametrize("how", ["ack", "nack", "release", "__enter__"])
def test_a_forked_child_cannot_settle_its_parents_lease(q: shmq.Queue, make: Make, children: Children, how: str) -> None:
    answers = make(slots=4, slot_size=1024)
    q.put("x")
    lease = q.receive(timeout=0)
    children.start(settle_inherited, lease, how, answers)
    assert answers.get(timeout=60) not in ("settled", "looked")
    children.join()
    assert counts(q) == (0, 1, 0, 0)
    lease.ack()
    shmq.verify(q)


def drop_inherited(leases: list[shmq.Lease], array: Any, answers: shmq.Queue) -> None:
    leases.clear()
    answers.put(array.tolist())
    del array
    gc.collect()


def test_a_forked_child_that_drops_its_parents_leases_and_views_changes_nothing(
    q: shmq.Queue, make: Make, children: Children
) -> None:
    answers = make(slots=4, slot_size=1024)
    q.put_many([np.arange(3), np.arange(4)])
    lease, acked = q.receive(timeout=0), q.receive(timeout=0)
    array = acked.array
    acked.ack()
    children.start(drop_inherited, [lease], array, answers)
    assert answers.get(timeout=60) == [0, 1, 2, 3]
    children.join()
    assert counts(q) == (0, 1, 1, 0)
    lease.ack()
    del array, acked
    assert counts(q) == (0, 0, 0, 0)
    shmq.verify(q)


class Settles:
    """An object that acks its own lease, and has the slot used again, while it is being unpickled."""

    during: Any = None

    def __reduce__(self) -> Any:
        return settle_mine, ()


def settle_mine() -> str:
    Settles.during()
    return "done"


@pytest.mark.parametrize("how", ["ack", "nack", "release"])
def test_a_message_that_is_settled_while_it_is_decoded_is_decoded_whole(q: shmq.Queue, how: str) -> None:
    q.put([Settles(), "x" * 100, 5])
    lease = q.receive(timeout=0)

    def during() -> None:
        Settles.during = lambda: None
        getattr(lease, how)()
        if how != "ack":
            q.get_nowait()
        overwrite(q)

    Settles.during = during
    try:
        assert lease.data == ["done", "x" * 100, 5]
    finally:
        Settles.during = None
    assert counts(q) == (0, 0, 0, 0)
    shmq.verify(q)


def test_leases_in_a_reference_cycle_come_back_when_it_is_collected(q: shmq.Queue) -> None:
    q.put("x")
    cycle: list[Any] = [q.receive(timeout=0)]
    cycle.append(cycle)
    assert counts(q) == (0, 1, 0, 0)
    del cycle
    gc.collect()
    assert counts(q) == (0, 0, 0, 1)


def collect_a_cycle(name: str, holding: str) -> None:
    """Nothing but the cycle holds the handle: whatever of it is cleared first, the memory must outlive the last slot."""
    gc.collect()
    queue = shmq.Queue.attach(name)
    held = (
        queue.receive(timeout=0) if holding == "lease" else queue.loan(3) if holding == "loan" else queue.receive(timeout=0).array
    )
    cycle: list[Any] = [held]
    cycle.append(cycle)
    del queue, held, cycle
    gc.collect()


@pytest.mark.parametrize("holding", ["lease", "loan", "array"])
def test_a_handle_in_a_reference_cycle_with_what_it_lent_is_collected(q: shmq.Queue, children: Children, holding: str) -> None:
    q.put("x")
    children.start(collect_a_cycle, q.name, holding)
    children.join()
    assert q.get(timeout=0) == "x"
    assert q.stats().ports == 1
    shmq.verify(q)


def test_a_lease_may_be_settled_in_another_thread(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0)
    thread = threading.Thread(target=lease.ack)
    thread.start()
    thread.join(60)
    assert lease.settled and counts(q) == (0, 0, 0, 0)


@pytest.mark.parametrize("how", ["ack", "nack", "release"])
def test_of_many_threads_that_settle_one_lease_one_succeeds(q: shmq.Queue, how: str) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            q.put("x")
            lease = q.receive(timeout=0)
            outcomes: list[str] = []
            barrier = threading.Barrier(4)

            def settle(lease: shmq.Lease = lease, barrier: Any = barrier, outcomes: list[str] = outcomes) -> None:
                barrier.wait(60)
                try:
                    getattr(lease, how)()
                    outcomes.append("settled")
                except shmq.LeaseLost:
                    outcomes.append("lost")

            threads = [threading.Thread(target=settle) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert sorted(outcomes) == ["lost", "lost", "lost", "settled"]
            assert q.purge() == (0 if how == "ack" else 1)
    finally:
        sys.setswitchinterval(interval)
    shmq.verify(q)


class Refuses:
    """Pickles here, and does not unpickle there."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


@pytest.mark.parametrize("slot_size", [64])  # with large slots there is no cell in which they could stay: see the next test
@pytest.mark.parametrize("take", [lambda q: q.get(timeout=0), lambda q: q.get_many(2, timeout=0)], ids=["get", "get_many"])
def test_what_did_not_decode_takes_no_cell_that_put_and_get_need(make: Make, slot_size: int, take: Callable[..., Any]) -> None:
    queue = make(slots=4, slot_size=slot_size, in_flight=1)
    queue.put_many(["leased", Refuses(), Refuses(), "ready"])
    leases = [queue.receive(timeout=0)]
    for _ in range(2):
        with pytest.raises(ValueError, match="no number"):
            take(queue)
        try:
            leases.append(queue.receive(timeout=0))
        except shmq.InFlightLimit:  # as it should be, with one in flight
            leases[0].ack()
            leases[0] = queue.receive(timeout=0)
    queue.put("put", timeout=0)
    assert queue.get(timeout=0) == "ready"


@pytest.mark.parametrize("take", [lambda q: q.get(timeout=0), lambda q: q.get_many(2, timeout=0)], ids=["get", "get_many"])
def test_a_message_that_does_not_decode_while_all_cells_are_leased_is_a_letter(make: Make, take: Callable[..., Any]) -> None:
    queue = make(slots=4, slot_size=4096, in_flight=1)
    queue.put_many(["leased", Refuses(), Refuses(), "ready"])
    lease = queue.receive(timeout=0)
    for number in (1, 2):
        with pytest.raises(ValueError, match="no number"):
            take(queue)
        assert len(queue.dead_letters) == number
    queue.put("put", timeout=0)
    assert queue.get_many(4, timeout=0) + queue.drain() == ["ready", "put"]
    assert {letter.reason for letter in queue.dead_letters} == {"every in-flight cell was in use"}
    assert all("no number" in letter.error for letter in queue.dead_letters)
    lease.ack()
    shmq.verify(queue)


def test_a_thousand_leases_leave_nothing_behind(q: shmq.Queue) -> None:
    for number in range(1000):
        q.put(number)
        lease = q.receive(timeout=0)
        (lease.ack, lease.nack, lease.release)[number % 3]()
        if number % 3:
            assert q.get_nowait() == number
    assert counts(q) == (0, 0, 0, 0)
    shmq.verify(q)


def write_dead_letter_and_die(name: str, how: str) -> None:
    """Reject the message, or dead-letter a rejected one: the letter is written, and then there is a SIGKILL."""

    class Dying(shmq.Queue):
        def _write_dead_letter(self, image: bytes, **about: Any) -> None:
            super()._write_dead_letter(image, **about)
            os.kill(os.getpid(), signal.SIGKILL)

    with Dying.attach(name) as q:
        if how == "reject":
            q.receive(timeout=0).reject("hopeless")
        else:
            q.receive(timeout=0)


def test_a_rejected_message_stays_a_dead_letter_whoever_dies_while_writing_it(q: shmq.Queue, children: Children) -> None:
    q.put("x")
    for how in ("reject", "dead-letter", "dead-letter"):
        dying = children.start(write_dead_letter_and_die, q.name, how)
        dying.join()
        assert dying.exitcode == -signal.SIGKILL
        children.started.clear()
        q._reap()
    with pytest.raises(shmq.Empty):
        q.receive(timeout=0)
    (letter,) = q.dead_letters
    assert (letter.data, letter.cause, letter.delivery_count) == ("x", "rejected", 1)
    assert q.stats().returned == 0
    q.dead_letters.purge()
