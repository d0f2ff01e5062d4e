"""Leases with a time-out: who gets the message when it is over, what the late one can still do, and how to keep it longer."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import shmq
from support.processes import Children, is_stopped, wait_until

Make = Callable[..., shmq.Queue]
LONG = 60.0
SHORT = 0.06  # seconds of a lease that is to expire
YEAR = 366 * 86400.0


@pytest.fixture
def q(make: Make) -> Iterator[shmq.Queue]:
    queue = make(slots=8, slot_size=256, in_flight=8)
    yield queue
    gc.collect()
    if not queue.closed:
        shmq.verify(queue)


@pytest.fixture(params=[256, 4096], ids=["small slots", "large slots"])
def sized(request: pytest.FixtureRequest, make: Make) -> Iterator[shmq.Queue]:
    """Where the cells of put and get are each port's own, and where they are everybody's."""
    queue = make(slots=8, slot_size=request.param, in_flight=8)
    yield queue
    gc.collect()
    shmq.verify(queue)


@pytest.fixture
def timed(make: Make) -> shmq.Queue:
    """Leases of this queue expire soon."""
    return make(slots=8, slot_size=256, in_flight=8, lease_timeout=SHORT)


def counts(queue: shmq.Queue) -> tuple[int, int, int]:
    """Ready, leased, returned."""
    stats = queue.stats()
    return stats.ready, stats.leased, stats.returned


def aside(call: Callable[[], Any]) -> Callable[[], Any]:
    """Run it in a thread; the function returned waits for the result."""
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(call()))
    thread.start()

    def join() -> Any:
        thread.join(LONG)
        assert result, "did not return, or raised"
        return result[0]

    return join


# -- values --------------------------------------------------------------------------------------------------------------------

BAD = [0, -1, -0.5, math.nan, math.inf, -math.inf, YEAR * 1.01, 10**12, "1", b"1", True, False, [1], {}]


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_a_queue_refuses_a_lease_timeout_that_cannot_be(name: str, bad: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="lease_timeout"):
        shmq.Queue(name, slots=2, slot_size=64, lease_timeout=bad)
    assert name not in shmq.list_segments()


@pytest.mark.parametrize("bad", BAD, ids=repr)
@pytest.mark.parametrize(
    "take",
    [
        lambda q, bad: q.receive(timeout=0, lease_timeout=bad),
        lambda q, bad: q.receive_many(2, timeout=0, lease_timeout=bad),
        lambda q, bad: q.consume(timeout=0, lease_timeout=bad),
    ],
    ids=["receive", "receive_many", "consume"],
)
def test_a_bad_lease_timeout_raises_at_once_and_takes_nothing(queue: shmq.Queue, take: Callable[..., Any], bad: Any) -> None:
    queue.put("x")
    with pytest.raises((ValueError, TypeError)):
        take(queue, bad)
    assert counts(queue) == (1, 0, 0)


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_a_bad_extension_raises_and_leaves_the_lease_as_it_was(queue: shmq.Queue, bad: Any) -> None:
    queue.put("x")
    lease = queue.receive(timeout=0, lease_timeout=100)
    before = lease.expires_at
    with pytest.raises((ValueError, TypeError)):
        lease.extend(bad)
    assert lease.expires_at == before and not lease.settled
    lease.ack()


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf, YEAR * 1.01, "1", [1], True], ids=repr)
@pytest.mark.parametrize("how", ["nack", "release"])
def test_a_bad_delay_raises_and_keeps_the_lease(queue: shmq.Queue, how: str, bad: Any) -> None:
    queue.put("x")
    lease = queue.receive(timeout=0)
    with pytest.raises((ValueError, TypeError)):
        getattr(lease, how)(bad)
    assert not lease.settled and counts(queue) == (0, 1, 0)
    lease.ack()


@pytest.mark.parametrize("seconds", [1e-6, 1, 0.25, YEAR, int(YEAR)])
def test_a_lease_timeout_may_be_a_microsecond_or_a_year(make: Make, seconds: float) -> None:
    queue = make(slots=2, slot_size=64, lease_timeout=seconds)
    assert queue.segment.config.lease_timeout == seconds
    queue.put("x")
    if seconds > 0.1:
        for lease in queue.consume(prefetch=2, timeout=0):
            assert lease.expires_at == pytest.approx(time.monotonic() + seconds, abs=LONG)
            lease.extend(seconds)
            assert lease.data == "x"


@pytest.mark.parametrize("seconds", [7842602.919515189, 31622399.999999, 1 / 3, 0.1 + 0.2, 1e-6])
def test_a_queue_can_be_opened_again_with_the_lease_timeout_it_was_made_with(name: str, seconds: float) -> None:
    with (
        shmq.Queue(name, slots=2, slot_size=64, lease_timeout=seconds),
        shmq.Queue(name, slots=2, slot_size=64, lease_timeout=seconds) as again,
    ):
        assert again.segment.config.lease_timeout == pytest.approx(seconds, abs=1e-6)


def test_the_queues_time_out_holds_unless_receive_says_otherwise(make: Make) -> None:
    queue = make(slots=8, slot_size=64, lease_timeout=50)
    queue.put_many(range(3))
    of_queue, shorter, none = queue.receive(), queue.receive(lease_timeout=5), queue.receive(lease_timeout=None)
    now = time.monotonic()
    assert of_queue.expires_at is not None and 40 < of_queue.expires_at - now <= 50
    assert shorter.expires_at is not None and 0 < shorter.expires_at - now <= 5
    assert none.expires_at is None


def test_without_a_time_out_a_lease_has_no_end(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0)
    assert lease.expires_at is None
    with pytest.raises(ValueError, match="no time-out"):
        lease.extend()
    assert not lease.settled
    time.sleep(SHORT)
    assert q._expire() == 0
    lease.ack()


def test_none_for_one_message_outlasts_the_time_out_of_the_queue(timed: shmq.Queue) -> None:
    timed.put("x")
    with timed.receive(lease_timeout=None) as lease:
        time.sleep(2 * SHORT)
        with pytest.raises(shmq.Empty):
            timed.get(timeout=2 * SHORT)
        assert lease.data == "x"
    assert timed.stats().expired == 0


# -- who gets it ---------------------------------------------------------------------------------------------------------------


def test_a_consumer_that_waits_gets_what_was_held_too_long(q: shmq.Queue) -> None:
    q.put("x")
    held = q.receive(timeout=0, lease_timeout=SHORT)
    ends = held.expires_at
    with q.receive(timeout=LONG) as lease:
        assert time.monotonic() >= ends
        assert (lease.data, lease.delivery_count, lease.id) == ("x", 2, held.id)
    assert q.stats().expired == 1 and q.stats().acks == 1


def test_a_consumer_that_was_asleep_before_the_lease_began_gets_it(q: shmq.Queue) -> None:
    join = aside(lambda: q.receive(timeout=LONG))
    wait_until(lambda: q.stats().waiting_consumers)
    q.put("first")
    first = join()
    join = aside(lambda: q.get(timeout=LONG))
    wait_until(lambda: q.stats().waiting_consumers)
    first.extend(SHORT)  # a lease without a time-out until now
    assert join() == "first"


@pytest.mark.parametrize("poll", ["get_nowait", "receive", "get_many"])
def test_a_consumer_that_polls_gets_it_although_nobody_waits(q: shmq.Queue, poll: str) -> None:
    q.put("x")
    held = q.receive(timeout=0, lease_timeout=SHORT)
    assert q.empty()

    def look() -> bool:
        try:
            if poll == "get_nowait":
                return bool(q.get_nowait() == "x")
            if poll == "get_many":
                return q.get_many(3, timeout=0) == ["x"]
            return bool(q.receive(timeout=0).data == "x")
        except shmq.Empty:
            return False

    wait_until(look)
    with pytest.raises(shmq.LeaseLost):
        held.ack()


def receive_once(q: shmq.Queue, answers: shmq.Queue) -> None:
    with q.receive(timeout=LONG) as lease:
        answers.put((lease.data, lease.delivery_count, os.getpid()))


def test_another_process_that_is_asleep_gets_it(queue: shmq.Queue, make: Make, any_children: Children) -> None:
    answers = make(slots=4, slot_size=256)
    child = any_children.start(receive_once, queue, answers)
    pid = child.pid
    wait_until(lambda: queue.stats().waiting_consumers)
    # A message that the child does not get: it is put and taken by one handle while the child is stopped.
    os.kill(pid, signal.SIGSTOP)
    queue.put("x")
    held = queue.receive(timeout=LONG, lease_timeout=SHORT)
    os.kill(pid, signal.SIGCONT)
    assert answers.get(timeout=LONG) == ("x", 2, pid)
    with pytest.raises(shmq.LeaseLost):
        held.ack()
    any_children.join()
    assert queue.stats().acks == 1


def test_every_consumer_gets_one_of_several_that_expire_together(sized: shmq.Queue) -> None:
    sized.put_many(range(6))
    held = [sized.receive(timeout=0, lease_timeout=SHORT) for _ in range(6)]
    joins = [aside(lambda: sized.get(timeout=LONG)) for _ in range(6)]
    assert sorted(join() for join in joins) == list(range(6))
    for lease in held:
        with pytest.raises(shmq.LeaseLost):
            lease.nack()


def test_expiry_is_not_early(q: shmq.Queue) -> None:
    q.put("x")
    for _ in range(3):
        began = time.monotonic()
        lease = q.receive(timeout=LONG, lease_timeout=SHORT)
    with pytest.raises(shmq.Empty):
        q.get_nowait()
    assert q.get(timeout=LONG) == "x"
    assert time.monotonic() - began >= SHORT - 1e-5
    assert lease.delivery_count == 3


def test_an_expired_lease_that_nobody_wants_can_still_be_acked(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0, lease_timeout=0.001)
    time.sleep(0.02)
    assert lease.data == "x"  # nobody has taken it away: it is ours, and once
    lease.ack()
    assert q.stats().expired == 0 and q.empty()


# -- too late ------------------------------------------------------------------------------------------------------------------

LATE: dict[str, Callable[[Any], Any]] = {
    "ack": lambda lease: lease.ack(),
    "nack": lambda lease: lease.nack(),
    "nack, later": lambda lease: lease.nack(delay=5),
    "release": lambda lease: lease.release(),
    "reject": lambda lease: lease.reject("no"),
    "extend": lambda lease: lease.extend(),
    "extend by": lambda lease: lease.extend(100),
    "data": lambda lease: lease.data,
    "block": lambda lease: lease.__exit__(None, None, None),
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE.keys())
@pytest.mark.parametrize("holder", [None, 50], ids=["for ever", "timed"])
def test_a_consumer_that_is_late_has_lost_the_lease_and_changes_nothing(
    sized: shmq.Queue, late: Callable[[Any], Any], holder: float | None
) -> None:
    sized.put("x")
    old = sized.receive(timeout=0, lease_timeout=0.001)
    new = sized.receive(timeout=LONG, lease_timeout=holder)
    before = sized._cells(), sized.leases(), new.expires_at
    with pytest.raises(shmq.LeaseLost):
        late(old)
    assert (sized._cells(), sized.leases(), new.expires_at) == before
    assert (new.data, new.delivery_count) == ("x", 2)
    new.ack()
    assert counts(sized) == (0, 0, 0) and sized.stats().acks == 1 and not sized.dead_letters


@pytest.mark.parametrize("late", LATE.values(), ids=LATE.keys())
def test_a_late_consumer_has_no_power_over_the_next_message_in_that_cell(q: shmq.Queue, late: Callable[[Any], Any]) -> None:
    q.put("x")
    old = q.receive(timeout=0, lease_timeout=0.001)
    assert q.get(timeout=LONG) == "x"
    q.put("y")
    new = q.receive(timeout=0, lease_timeout=50)
    with pytest.raises(shmq.LeaseLost):
        late(old)
    assert new.data == "y" and not new.settled
    new.ack()
    assert counts(q) == (0, 0, 0)


@pytest.mark.parametrize("look", ["data", "array", "view", "__enter__"])
def test_a_late_look_does_not_begin_with_what_another_has_prefetched(q: shmq.Queue, look: str) -> None:
    q.put("x")
    old = q.receive_many(1, timeout=0, lease_timeout=0.001)[0]
    new = q.receive_many(1, timeout=LONG, lease_timeout=50)[0]
    try:
        seen = getattr(old, look)
        if look == "__enter__":
            seen()
        del seen
    except shmq.LeaseLost:
        pass
    assert [holding.begun for holding in q.leases()] == [False]
    new.release()


def test_dropping_a_late_lease_changes_nothing(q: shmq.Queue) -> None:
    q.put("x")
    old = q.receive(timeout=0, lease_timeout=0.001)
    new = q.receive(timeout=LONG, lease_timeout=50)
    del old
    gc.collect()
    assert counts(q) == (0, 1, 0)
    new.ack()


def test_a_late_block_that_raises_lets_its_own_exception_pass(q: shmq.Queue) -> None:
    q.put("x")
    with pytest.raises(ZeroDivisionError), q.receive(timeout=0, lease_timeout=0.001):
        assert q.get(timeout=LONG) == "x"
        _ = 1 / 0
    assert counts(q) == (0, 0, 0) and q.stats().nacks == 0


def test_a_late_loop_logs_that_the_lease_was_lost_and_goes_on(q: shmq.Queue, caplog: pytest.LogCaptureFixture) -> None:
    q.put("late")
    seen = []
    for lease in q.consume(timeout=0, lease_timeout=0.001):
        seen.append(lease.data)
        if len(seen) == 1:
            assert q.get(timeout=LONG) == "late"
            q.put("next")
        lease.extend(LONG) if len(seen) == 2 else None
    assert seen == ["late", "next"]
    assert "a loop's body took longer than its lease" in caplog.text


def test_data_that_was_read_in_time_stays(q: shmq.Queue) -> None:
    q.put("x")
    old = q.receive(timeout=0, lease_timeout=0.001)
    while True:
        try:
            assert old.data == "x"
            break
        except shmq.LeaseLost:  # this process had to wait for so long
            old = q.receive(timeout=LONG, lease_timeout=0.01)
    assert q.get(timeout=LONG) == "x"
    assert old.data == "x"


def hold_stopped(q: shmq.Queue, answers: shmq.Queue) -> None:
    lease = q.receive(timeout=LONG, lease_timeout=SHORT)
    assert lease.data == "x"
    answers.put("holds")
    os.kill(os.getpid(), signal.SIGSTOP)
    for late in (lease.extend, lease.ack):
        try:
            late()
            answers.put(f"{late.__name__} succeeded")
        except shmq.LeaseLost:
            answers.put("lost")


def test_a_stopped_process_loses_its_lease_and_the_message_is_acked_once(
    sized: shmq.Queue, make: Make, children: Children
) -> None:
    answers = make(slots=8, slot_size=256)
    child = children.start(hold_stopped, sized, answers)
    sized.put("x")
    assert answers.get(timeout=LONG) == "holds"
    with sized.receive(timeout=LONG) as lease:  # from one who is stopped, and alive
        assert (lease.data, lease.delivery_count) == ("x", 2)
        wait_until(lambda: is_stopped(child.pid))
        os.kill(child.pid, signal.SIGCONT)
        assert [answers.get(timeout=LONG) for _ in range(2)] == ["lost", "lost"]
    children.join()
    assert sized.stats().acks == 1 and sized.stats().expired == 1 and counts(sized) == (0, 0, 0)


# -- longer --------------------------------------------------------------------------------------------------------------------


def test_an_extension_begins_the_time_again(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0, lease_timeout=50)
    first = lease.expires_at
    time.sleep(0.02)
    lease.extend()
    assert first is not None and lease.expires_at is not None and lease.expires_at >= first + 0.015
    lease.extend(5)
    assert lease.expires_at == pytest.approx(time.monotonic() + 5, abs=1)
    lease.extend()  # the time-out with which it was received
    assert lease.expires_at == pytest.approx(time.monotonic() + 50, abs=1)
    lease.ack()


def test_an_extended_lease_is_not_taken_away(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0, lease_timeout=0.3)
    for _ in range(20):
        lease.extend(0.3)
        with pytest.raises(shmq.Empty):
            q.get(timeout=0.02)
    lease.ack()
    assert q.stats().expired == 0


def test_an_extension_may_shorten(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0, lease_timeout=500)
    join = aside(lambda: q.get(timeout=LONG))
    wait_until(lambda: q.stats().waiting_consumers)
    lease.extend(0.001)
    assert join() == "x"


def test_a_lease_without_time_out_can_be_given_one(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0)
    lease.extend(0.001)
    assert lease.expires_at is not None
    assert q.get(timeout=LONG) == "x"
    with pytest.raises(shmq.LeaseLost):
        lease.ack()


@pytest.mark.parametrize("settle", ["ack", "nack", "release", "reject"])
def test_an_extended_lease_can_be_settled_in_every_way(sized: shmq.Queue, settle: str) -> None:
    sized.put("x")
    lease = sized.receive(timeout=0)
    for _ in range(100):
        lease.extend(50)
    getattr(lease, settle)()
    assert counts(sized) == ((0, 0, 0) if settle in ("ack", "reject") else (0, 0, 1))
    with pytest.raises(shmq.LeaseLost):
        lease.extend(5)


def test_views_of_an_extended_lease_stay(q: shmq.Queue) -> None:
    q.put(np.arange(10))
    lease = q.receive(timeout=0, lease_timeout=50)
    array = lease.array
    lease.extend()
    lease.ack()
    q.put(np.zeros(10))
    assert array.tolist() == list(range(10))


# -- by itself -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3])
def test_a_lease_that_extends_itself_outlasts_many_time_outs(queue: shmq.Queue, count: int) -> None:
    queue.put_many(range(count))
    leases = [queue.receive(timeout=0, lease_timeout=0.3, extend=True) for _ in range(count)]
    with pytest.raises(shmq.Empty):
        queue.get(timeout=1.0)
    assert [lease.data for lease in leases] == list(range(count))
    for lease in leases:
        lease.ack()
    assert queue.stats().expired == 0


def test_receive_many_and_consume_extend_too(make: Make) -> None:
    queue = make(slots=8, slot_size=64, lease_timeout=0.3)
    queue.put_many(range(4))
    leases = queue.receive_many(2, timeout=0, extend=True)
    seen = []
    for lease in queue.consume(timeout=0, extend=True, prefetch=1):
        with pytest.raises(shmq.Empty):
            while queue.get(timeout=0.5) in (2, 3):
                pass  # the one that the loop has not come to
        seen.append(lease.data)
    assert seen == [2]
    assert [lease.data for lease in leases] == [0, 1]
    for lease in leases:
        lease.ack()
    assert queue.stats().expired == 0


def test_extending_ends_when_the_lease_is_settled_or_dropped(q: shmq.Queue, caplog: pytest.LogCaptureFixture) -> None:
    from shmq._waiting import renewal

    q.put_many(list("abc"))
    acked, dropped, released = (q.receive(timeout=0, lease_timeout=0.1, extend=True) for _ in range(3))
    acked.ack()
    released.release()
    del dropped
    gc.collect()
    assert sorted(q.drain()) == ["b", "c"]
    assert renewal._renewal is not None
    wait_until(lambda: renewal._renewal.new.empty() and not renewal._renewal.leases)
    assert not caplog.records
    assert sum(thread.name == "shmq-renewal" for thread in threading.enumerate()) == 1


def test_a_self_extending_lease_that_is_lost_is_told_once(q: shmq.Queue, caplog: pytest.LogCaptureFixture) -> None:
    q.put("x")
    with caplog.at_level(logging.WARNING, "shmq"):
        lease = q.receive(timeout=0, lease_timeout=0.15, extend=True)
        taken = None
        while taken is None:
            lease.extend(0.001)  # as if the thread had not come to it in time; it may come between this and the get
            with contextlib.suppress(shmq.Empty):
                taken = q.get(timeout=0.02)
        assert taken == "x"
        wait_until(lambda: caplog.records)
    time.sleep(0.1)
    assert len(caplog.records) == 1 and q.name in caplog.text and str(lease.id) in caplog.text
    with pytest.raises(shmq.LeaseLost):
        lease.ack()


def extend_in_child(q: shmq.Queue, answers: shmq.Queue) -> None:
    lease = q.receive(timeout=LONG, lease_timeout=0.3, extend=True)
    answers.put("holds")
    time.sleep(1.0)
    lease.ack()
    answers.put("acked")


def test_leases_extend_themselves_in_a_forked_child_too(queue: shmq.Queue, make: Make, children: Children) -> None:
    answers = make(slots=4, slot_size=64)
    queue.put_many(["ours", "theirs"])
    ours = queue.receive(timeout=0, lease_timeout=0.3, extend=True)  # the thread runs here before the fork
    children.start(extend_in_child, queue, answers)
    assert answers.get(timeout=LONG) == "holds"
    with pytest.raises(shmq.Empty):
        queue.get(timeout=0.9)
    assert answers.get(timeout=LONG) == "acked"
    children.join()
    ours.ack()
    assert queue.stats().expired == 0


def test_a_forked_child_does_not_extend_what_it_inherited(q: shmq.Queue, children: Children) -> None:
    q.put("x")
    lease = q.receive(timeout=0, lease_timeout=50)
    child = children.start(extend_inherited, lease)
    child.join(LONG)
    assert child.exitcode == 0
    lease.ack()


def extend_inherited(lease: shmq.Lease) -> None:
    with pytest.raises(shmq.LeaseLost, match="parent"):
        lease.extend(5)


def test_extending_without_a_time_out_does_nothing(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0, extend=True)
    assert lease.expires_at is None
    lease.ack()


# -- get is never timed out ----------------------------------------------------------------------------------------------------


class Slow:
    def __reduce__(self) -> Any:
        return slowly, ()


def slowly() -> str:
    time.sleep(4 * SHORT)
    return "slow"


@pytest.mark.parametrize("take", [lambda q: q.get(timeout=0), lambda q: q.get_many(2, timeout=0)[0]], ids=["get", "get_many"])
def test_get_is_never_timed_out(timed: shmq.Queue, take: Callable[..., Any]) -> None:
    timed.put(Slow())
    other = shmq.Queue.attach(timed.name)
    join = aside(lambda: take(timed))
    wait_until(lambda: timed.stats().leased)
    with pytest.raises(shmq.Empty):
        other.get(timeout=3 * SHORT)
    assert join() == "slow"
    assert timed.stats().expired == 0 and timed.stats().redeliveries == 0
    other.close()


# -- taken ahead ---------------------------------------------------------------------------------------------------------------


def take_ahead(q: shmq.Queue, answers: shmq.Queue, begin: int, how: str) -> None:
    leases = q.receive_many(4, timeout=LONG, lease_timeout=SHORT if how == "stop" else None)
    for lease in leases[:begin]:
        assert lease.data is not None
    answers.put(len(leases))
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize("how", ["kill", "stop"])
@pytest.mark.parametrize("begin", [0, 1, 4])
def test_only_what_was_begun_with_has_failed(sized: shmq.Queue, make: Make, children: Children, begin: int, how: str) -> None:
    answers = make(slots=4, slot_size=64)
    sized.put_many(range(4))
    children.start(take_ahead, sized, answers, begin, how)
    assert answers.get(timeout=LONG) == 4
    found = {}
    while len(found) < 4:
        with sized.receive(timeout=LONG) as lease:
            found[lease.data] = lease.delivery_count
    assert found == {number: 2 if number < begin else 1 for number in range(4)}
    children.kill()


@pytest.mark.parametrize("begin", ["data", "array", "view", "__enter__"])
def test_any_look_begins(q: shmq.Queue, begin: str) -> None:
    q.put_many(range(2))
    leases = q.receive_many(2, timeout=0)
    assert [holding.begun for holding in q.leases()] == [False, False]
    looked = getattr(leases[0], begin)
    if begin == "__enter__":
        looked()
    assert sorted(holding.begun for holding in q.leases()) == [False, True]
    del looked
    for lease in leases:
        lease.ack()


def test_an_extension_does_not_begin(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive_many(1, timeout=0, lease_timeout=50)[0]
    for _ in range(5):
        lease.extend()
    assert not q.leases()[0].begun
    lease.extend(0.001)
    again = q.receive(timeout=LONG)
    assert again.delivery_count == 1
    again.ack()


def loop_and_die(q: shmq.Queue, answers: shmq.Queue) -> None:
    for number, lease in enumerate(q.consume(prefetch=4)):
        answers.put(lease.data)
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_loop_that_is_killed_fails_the_message_in_hand_alone(q: shmq.Queue, make: Make, children: Children) -> None:
    answers = make(slots=8, slot_size=64)
    q.put_many(range(5))
    children.start(loop_and_die, q, answers)
    assert [answers.get(timeout=LONG) for _ in range(2)] == [0, 1]
    found = {}
    while len(found) < 4:
        with q.receive(timeout=LONG) as lease:
            found[lease.data] = lease.delivery_count
    assert found == {1: 2, 2: 1, 3: 1, 4: 1}
    children.kill()


@pytest.mark.parametrize("prefetch", [1, 2, 3, 8, 100])
def test_a_loop_sees_all_in_order_whatever_it_prefetches(q: shmq.Queue, prefetch: int) -> None:
    q.put_many(range(8))
    assert [lease.data for lease in q.consume(prefetch, timeout=0)] == list(range(8))
    assert counts(q) == (0, 0, 0) and q.stats().acks == 8


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", None])
def test_a_prefetch_that_cannot_be_is_refused(q: shmq.Queue, bad: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        q.consume(prefetch=bad)


@pytest.mark.parametrize("end", ["break", "raise"])
@pytest.mark.parametrize("before", [0, 3], ids=["fresh cells", "used cells"])
def test_what_a_loop_has_not_come_to_goes_back_in_order_and_unfailed(sized: shmq.Queue, end: str, before: int) -> None:
    for number in range(before):  # so that the cells in use are not those from the first on
        sized.put(number)
        sized.receive(timeout=0).ack()
    sized.put_many(list("abcdef"))
    with pytest.raises(LookupError) if end == "raise" else _nothing():
        for lease in sized.consume(prefetch=5, timeout=0):
            assert lease.data == "a"
            if end == "break":
                break
            raise LookupError
    rest = list("bcdef")
    if end == "raise":
        again = sized.receive(timeout=0)
        assert (again.data, again.delivery_count) == ("a", 2)
        again.release()
    leases = [sized.receive(timeout=0) for _ in range(5 + (end == "raise"))]
    came = [lease.data for lease in leases if lease.data != "a"]
    assert sorted(came) == rest
    assert all(lease.delivery_count == 1 for lease in leases if lease.data != "a")
    assert came == rest
    for lease in leases:
        lease.ack()


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_a_loop_ends_when_nothing_has_come_for_so_long(q: shmq.Queue) -> None:
    q.put_many(range(3))
    began = time.monotonic()
    assert [lease.data for lease in q.consume(prefetch=2, timeout=0.1)] == [0, 1, 2]
    assert time.monotonic() - began >= 0.1
    assert counts(q) == (0, 0, 0)


def test_what_expired_before_the_loop_came_to_it_is_left_out(q: shmq.Queue) -> None:
    q.put_many(range(3))
    seen, stolen = [], []
    for lease in q.consume(prefetch=3, timeout=0, lease_timeout=SHORT):
        seen.append(lease.data)
        if lease.data == 0:
            lease.ack()
            stolen = [q.get(timeout=LONG), q.get(timeout=LONG)]
    assert seen == [0] and sorted(stolen) == [1, 2]
    assert q.stats().redeliveries == 2


def test_the_time_of_a_prefetched_message_begins_when_the_loop_comes_to_it(q: shmq.Queue) -> None:
    q.put_many(range(3))
    ends = []
    for lease in q.consume(prefetch=3, timeout=0, lease_timeout=50):
        ends.append(lease.expires_at)
        time.sleep(0.01)
    assert all(later >= sooner + 0.009 for sooner, later in itertools.pairwise(ends))


# -- later ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["nack", "release"])
def test_a_message_with_a_delay_is_not_delivered_before_it(q: shmq.Queue, how: str) -> None:
    q.put("x")
    getattr(q.receive(timeout=0), how)(delay=YEAR)  # however long the next lines take on a busy machine
    assert q.empty() and q.qsize() == 0 and q.stats().returned == 1
    with pytest.raises(shmq.Empty):
        q.get_nowait()
    with pytest.raises(shmq.Empty):
        q.get(timeout=0.01)


@pytest.mark.parametrize("how", ["nack", "release"])
def test_a_message_with_a_delay_is_delivered_after_it_and_wakes_who_waits(q: shmq.Queue, how: str) -> None:
    q.put("x")
    lease = q.receive(timeout=0)
    due = time.monotonic() + 0.15
    getattr(lease, how)(delay=0.15)
    with q.receive(timeout=LONG) as again:  # nobody but the clock wakes it
        assert time.monotonic() >= due - 1e-3
        assert again.delivery_count == (2 if how == "nack" else 1)


def test_a_message_that_is_due_is_there_for_whoever_polls(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0)
    due = time.monotonic() + 0.05
    lease.release(delay=0.05)
    wait_until(lambda: not q.empty())
    assert time.monotonic() >= due - 1e-3
    assert q.qsize() == 0
    assert q.get_nowait() == "x"


def test_a_sleeper_wakes_for_what_comes_first(q: shmq.Queue) -> None:
    q.put_many(["late", "early"])
    late, early = q.receive(timeout=0), q.receive(timeout=0)
    join = aside(lambda: [q.get(timeout=LONG), q.get(timeout=LONG)])
    wait_until(lambda: q.stats().waiting_consumers)
    late.nack(delay=3600)
    early.nack(delay=0.1)
    wait_until(lambda: q.stats().returned == 1)
    q.put("now")
    assert join() == ["early", "now"]


def test_a_message_that_rests_does_not_hold_up_the_others(q: shmq.Queue) -> None:
    q.put_many(range(8))
    q.receive(timeout=0).nack(delay=50)
    assert [q.get(timeout=LONG) for _ in range(7)] == list(range(1, 8))
    assert q.drain() == []
    assert q.stats().returned == 1


def release_later(q: shmq.Queue, delay: float) -> None:
    q.receive(timeout=LONG).release(delay=delay)


def test_a_rest_goes_on_although_its_maker_has_gone(q: shmq.Queue, children: Children) -> None:
    q.put("x")
    children.start(release_later, q, 0.2)
    children.join()
    assert q.get(timeout=LONG) == "x"


@pytest.mark.parametrize("how", ["nack", "release"])
def test_without_a_delay_it_comes_back_at_once(q: shmq.Queue, how: str) -> None:
    q.put("x")
    for delay in (0, 0.0, None):
        getattr(q.receive(timeout=0), how)(delay)
        assert not q.empty()
    assert q.get_nowait() == "x"


def test_a_consumer_that_always_finds_a_message_gets_what_was_held_too_long(make: Make) -> None:
    """It never waits, and so has no other occasion to look."""
    queue = make(slots=2048, slot_size=64)
    queue.put("held")
    held = queue.receive(timeout=0, lease_timeout=0.05)
    queue.put_many(range(2000))
    deadline = time.monotonic() + LONG
    while True:
        with queue.receive(timeout=0, lease_timeout=None) as lease:
            if lease.data == "held":
                break
            queue.put(0)
        assert time.monotonic() < deadline
    with pytest.raises(shmq.LeaseLost):
        held.ack()


@pytest.mark.parametrize("take", ["receive", "receive_many"])
def test_a_large_message_whose_time_is_over_while_it_is_opened_is_anothers(make: Make, take: str) -> None:
    q = make(slots=4, slot_size=64, oversize="spill")
    q.put(b"x" * 1000)
    arguments = (0,) if take == "receive" else (3, 0)
    open_side = q.segment.open_side
    with shmq.Queue.attach(q.name) as other:

        def late(key: bytes) -> Any:
            other.receive(timeout=LONG).ack()  # as soon as the time of the other lease is over
            return open_side(key)

        q.segment.open_side = late
        with pytest.raises(shmq.Empty):
            getattr(q, take)(*arguments, lease_timeout=0.05)
        q.segment.open_side = open_side
        assert q._unfinished() == 0
    shmq.verify(q)
