"""Leases and loans: a message in the user's hands, in place, until it is settled one way or the other."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

import shmq
from support.processes import Children, wait_until

Make = Callable[..., shmq.Queue]

SIZES = {"small slots": 256, "large slots": 8192, "slots of a megabyte": 1 << 20}
TICK = 0.1  # seconds that the kernel's coarse clock may lag behind, generously


@pytest.fixture(params=SIZES.values(), ids=SIZES.keys())
def q(request: pytest.FixtureRequest, make: Make) -> Iterator[shmq.Queue]:
    queue = make(slots=4, slot_size=request.param, in_flight=4)
    yield queue
    if not queue.closed:
        shmq.verify(queue)


@pytest.fixture
def spilling(make: Make) -> Iterator[shmq.Queue]:
    queue = make(slots=4, slot_size=64, oversize="spill")
    yield queue
    shmq.verify(queue)


def counts(queue: shmq.Queue) -> dict[str, int]:
    """What is where, without the places where nothing is."""
    stats = queue.stats()
    places = {state: getattr(stats, state) for state in ("ready", "leased", "loaned", "held", "returned")}
    return {state: count for state, count in places.items() if count}


def aside(call: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Run a call in another thread; `result(timeout)` waits for it, and raises what it raised."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def churn(queue: shmq.Queue) -> None:
    """Write into every slot that the queue can reach."""
    total = queue.maxsize + len(queue._cells())
    for _ in range(total):
        queue.put(np.full(32, 0xEE, "u1"), timeout=0)
        queue.get(timeout=0)
    for _ in range(3):
        queue.put_many([np.full(32, 0xEE, "u1")] * queue.maxsize, timeout=0)
        queue.drain()


# -- settling --------------------------------------------------------------------------------------------------------------


def test_an_acked_message_is_gone(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0)
    assert (lease.data, lease.settled, counts(q)) == ("x", False, {"leased": 1})
    lease.ack()
    assert (lease.settled, counts(q)) == (True, {})
    assert q.empty()


def test_a_nacked_message_comes_back_before_newer_ones_as_a_failed_attempt(q: shmq.Queue) -> None:
    q.put_many(["old", "new"])
    q.receive(timeout=0).nack()
    assert counts(q) == {"ready": 1, "returned": 1}
    with q.receive(timeout=0) as lease:
        assert (lease.data, lease.delivery_count) == ("old", 2)
    assert q.drain() == ["new"]


def test_a_released_message_comes_back_before_newer_ones_uncounted(q: shmq.Queue) -> None:
    q.put_many(["old", "new"])
    q.receive(timeout=0).release()
    with q.receive(timeout=0) as lease:
        assert (lease.data, lease.delivery_count) == ("old", 1)
    assert q.drain() == ["new"]


def test_a_dropped_lease_comes_back_at_once_as_a_failed_attempt(q: shmq.Queue) -> None:
    q.put_many(["old", "new"])
    lease = q.receive(timeout=0)
    del lease
    with q.receive(timeout=0) as lease:
        assert (lease.data, lease.delivery_count) == ("old", 2)
    assert q.drain() == ["new"]


@pytest.mark.parametrize("take", [lambda q: q.get(timeout=0), lambda q: q.get_many(1, timeout=0)[0]], ids=["get", "get_many"])
def test_what_came_back_goes_to_get_too(q: shmq.Queue, take: Callable[[shmq.Queue], Any]) -> None:
    q.put_many(["old", "new"])
    q.receive(timeout=0).nack()
    assert [take(q), take(q)] == ["old", "new"]


def test_what_came_back_goes_to_another_handle(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0)
    with shmq.Queue.attach(q.name) as other:
        with pytest.raises(shmq.Empty):
            other.receive(timeout=0)
        lease.nack()
        other.receive(timeout=0).ack()


def test_what_comes_back_wakes_a_consumer_that_waits(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0)
    with shmq.Queue.attach(q.name) as other:
        waiting = aside(other.get)
        wait_until(lambda: q.stats().waiting_consumers)
        lease.nack()
        assert waiting.result(30) == "x"


SETTLE: dict[str, Callable[[Any], None]] = {
    "ack": lambda lease: lease.ack(),
    "nack": lambda lease: lease.nack(),
    "release": lambda lease: lease.release(),
}
settle = pytest.mark.parametrize("settle", SETTLE.values(), ids=SETTLE.keys())


@pytest.mark.parametrize("again", SETTLE.values(), ids=SETTLE.keys())
@settle
def test_a_settled_lease_is_lost(q: shmq.Queue, settle: Callable[[Any], None], again: Callable[[Any], None]) -> None:
    q.put_many(["old", "new"])
    lease = q.receive(timeout=0)
    settle(lease)
    before = counts(q)
    with pytest.raises(shmq.LeaseLost, match="settled before"):
        again(lease)
    assert counts(q) == before


@settle
def test_a_settled_lease_has_no_power_over_a_later_message(q: shmq.Queue, settle: Callable[[Any], None]) -> None:
    q.put("x")
    stale = q.receive(timeout=0)
    stale.nack()
    lease = q.receive(timeout=0)  # the same cell, the same slot
    with pytest.raises(shmq.LeaseLost):
        settle(stale)
    assert lease.data == "x"
    lease.ack()


@settle
@pytest.mark.parametrize("look", ["data", "array", "writable_array", "view"])
def test_a_settled_lease_shows_nothing(q: shmq.Queue, settle: Callable[[Any], None], look: str) -> None:
    q.put("x")
    lease = q.receive(timeout=0)
    settle(lease)
    with pytest.raises(shmq.LeaseLost):
        getattr(lease, look)


def test_data_is_made_once_and_outlives_the_lease(q: shmq.Queue) -> None:
    q.put({"a": [1]})
    lease = q.receive(timeout=0)
    data = lease.data
    assert lease.data is data
    lease.ack()
    churn(q)
    assert lease.data is data
    assert data == {"a": [1]}


def test_deliveries_are_counted_for_each_message_alone(q: shmq.Queue) -> None:
    q.put("often")
    for attempt in range(1, 8):
        lease = q.receive(timeout=0)
        assert lease.delivery_count == attempt
        lease.nack()
        q.receive(timeout=0).release()
    q.purge()
    for _ in range(q.maxsize + len(q._cells())):  # whichever slot it had
        q.put("next")
        with q.receive(timeout=0) as lease:
            assert lease.delivery_count == 1


@pytest.mark.parametrize("look", ["data", "view"])
def test_beginning_with_a_lease_whose_time_is_over_does_not_begin_with_anothers(q: shmq.Queue, look: str) -> None:
    """It was delivered again in the same cell: what the new holder has not begun with has not failed when it comes back."""
    q.put("x")
    with shmq.Queue.attach(q.name) as other:
        (late,) = other.receive_many(1, timeout=0, lease_timeout=1e-3)
        time.sleep(0.002)
        assert q._expire() == 1
        (lease,) = q.receive_many(1, timeout=0, lease_timeout=1e-3)
        assert lease.delivery_count == 1
        with contextlib.suppress(shmq.LeaseLost):
            getattr(late, look)
        assert [holding.begun for holding in q.leases()] == [False]
        time.sleep(0.002)
        assert q._expire() == 1
        again = q.receive(timeout=0)
        assert again.delivery_count == 1
        again.ack()


def test_leases_settle_in_any_order(q: shmq.Queue) -> None:
    q.put_many([0, 1, 2, 3])
    leases = q.receive_many(4, timeout=0)
    leases[2].ack()
    leases[0].nack()
    leases[3].release()
    leases[1].ack()
    assert sorted(q.drain()) == [0, 3]
    assert counts(q) == {}


# -- as a context manager ----------------------------------------------------------------------------------------------------


def test_a_block_acks(q: shmq.Queue) -> None:
    q.put("x")
    with q.receive(timeout=0) as lease:
        assert counts(q) == {"leased": 1}
    assert lease.settled
    assert counts(q) == {}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_raises_nacks_and_lets_the_exception_pass(q: shmq.Queue, error: type[BaseException]) -> None:
    q.put("x")
    with pytest.raises(error, match="mine"), q.receive(timeout=0):
        raise error("mine")
    with q.receive(timeout=0) as lease:
        assert lease.delivery_count == 2


@pytest.mark.parametrize("raises", [False, True], ids=["ends", "raises"])
@settle
def test_a_block_leaves_alone_what_was_settled_inside(q: shmq.Queue, settle: Callable[[Any], None], raises: bool) -> None:
    q.put("x")
    stays = {}
    try:
        with q.receive(timeout=0) as lease:
            settle(lease)
            stays = counts(q)
            if raises:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert raises
    assert counts(q) == stays


def test_a_settled_lease_cannot_be_entered(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0)
    lease.ack()
    with pytest.raises(shmq.LeaseLost):
        lease.__enter__()


# -- in a loop ---------------------------------------------------------------------------------------------------------------


def test_a_loop_acks_when_the_body_has_ended(q: shmq.Queue) -> None:
    q.put_many([0, 1, 2])
    seen = []
    for lease in q:
        assert counts(q).get("leased") == 1
        seen.append(lease.data)
        if lease.data == 1:
            continue
        if lease.data == 2:
            break
    assert seen == [0, 1, 2]
    assert lease.settled
    assert counts(q) == {}
    assert q.stats().acks == 3


def test_a_loop_whose_body_raises_nacks(q: shmq.Queue) -> None:
    q.put_many([0, 1, 2])
    with pytest.raises(ZeroDivisionError):
        for lease in q:
            assert 1 // (1 - lease.data)
    with q.receive(timeout=0) as again:
        assert (again.data, again.delivery_count) == (1, 2)
    assert q.drain() == [2]


def test_a_loop_in_a_function_that_raises_nacks(q: shmq.Queue) -> None:
    def work() -> None:
        for _ in q:
            with memoryview(b"x"):  # something to unwind
                raise ZeroDivisionError

    q.put("x")
    with pytest.raises(ZeroDivisionError):
        work()
    with q.receive(timeout=0) as lease:
        assert lease.delivery_count == 2


def test_a_loop_in_a_function_that_returns_acks(q: shmq.Queue) -> None:
    def first() -> Any:
        for lease in q:
            return lease.data

    q.put_many([0, 1])
    assert [first(), first()] == [0, 1]
    assert counts(q) == {}


def test_a_loop_whose_body_handles_its_exception_acks(q: shmq.Queue) -> None:
    q.put("x")
    for _ in q:
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            break
    assert counts(q) == {}


@settle
def test_a_loop_leaves_alone_what_its_body_settled(q: shmq.Queue, settle: Callable[[Any], None]) -> None:
    q.put("x")
    for lease in q:
        settle(lease)
        stays = counts(q)
        break
    assert counts(q) == stays


def test_a_loop_over_a_number_of_messages_acks_them_and_takes_no_more(q: shmq.Queue) -> None:
    q.put_many([0, 1, 2])
    assert [lease.data for lease in itertools.islice(q, 2)] == [0, 1]
    assert counts(q) == {"ready": 1}


def test_a_numbered_loop_whose_body_raises_nacks(q: shmq.Queue) -> None:
    q.put_many([0, 1])
    with pytest.raises(ZeroDivisionError):
        for number, _ in enumerate(q):
            assert 1 // (1 - number)
    with q.receive(timeout=0) as lease:
        assert (lease.data, lease.delivery_count) == (1, 2)


def test_closing_the_handle_in_the_body_ends_the_loop_and_acks(q: shmq.Queue) -> None:
    q.put_many([0, 1])
    with shmq.Queue.attach(q.name) as other:
        seen = []
        for lease in other:
            seen.append(lease.data)
            other.close()
        assert seen == [0]
    assert counts(q) == {"ready": 1}
    assert q.stats().ports == 1


def test_closing_the_handle_ends_a_loop_that_waits_in_another_thread(q: shmq.Queue) -> None:
    q.put_many([0, 1])
    other = shmq.Queue.attach(q.name)
    loop = aside(lambda: [lease.data for lease in other])
    wait_until(lambda: q.stats().waiting_consumers)
    other.close()
    assert loop.result(30) == [0, 1]
    assert counts(q) == {}


def test_a_loop_over_a_closed_handle_does_nothing(q: shmq.Queue) -> None:
    q.put("x")
    q.close()
    assert list(q) == []


# -- many at once ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "taken"), [(1, 1), (2, 2), (3, 3), (100, 3)])
def test_receive_many_takes_what_is_there_in_order(q: shmq.Queue, wanted: int, taken: int) -> None:
    q.put_many([0, 1, 2])
    leases = q.receive_many(wanted, timeout=0)
    assert [lease.data for lease in leases] == [0, 1, 2][:taken]
    assert counts(q).get("leased") == taken
    for lease in leases:
        lease.ack()
    assert counts(q).get("ready", 0) == 3 - taken


def test_receive_many_waits_for_the_first(q: shmq.Queue) -> None:
    with shmq.Queue.attach(q.name) as other:
        waiting = aside(other.receive_many, 4)
        wait_until(lambda: q.stats().waiting_consumers)
        q.put("x")
        (lease,) = waiting.result(30)
        assert lease.data == "x"
        lease.ack()


def test_receive_many_of_nothing_raises_empty(q: shmq.Queue) -> None:
    with pytest.raises(shmq.Empty):
        q.receive_many(4, timeout=0)


@pytest.mark.parametrize("wanted", [0, -1])
def test_receive_many_takes_at_least_one(q: shmq.Queue, wanted: int) -> None:
    q.put("x")
    with pytest.raises(ValueError, match="at least 1"):
        q.receive_many(wanted)
    assert counts(q) == {"ready": 1}


def test_receive_many_takes_no_more_than_may_be_in_flight(make: Make) -> None:
    q = make(slots=8, slot_size=64, in_flight=3)
    q.put_many(list(range(8)))
    assert [lease.data for lease in q.receive_many(8, timeout=0)] == [0, 1, 2]
    assert sorted(q.drain()) == list(range(8))
    shmq.verify(q)


# -- in place ----------------------------------------------------------------------------------------------------------------

SENT = np.arange(30, dtype="u1")
LOOKS: dict[str, Callable[[Any], Any]] = {
    "array": lambda lease: lease.array,
    "writable array": lambda lease: lease.writable_array,
    "part of an array": lambda lease: lease.array[::2],
    "view": lambda lease: lease.view,
    "part of a view": lambda lease: lease.view[3:9],
    "memoryview of the lease": memoryview,
    "array of the view": lambda lease: np.frombuffer(lease.view, "u1"),
}
look = pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())


@look
def test_what_a_lease_shows_outlives_the_ack(q: shmq.Queue, look: Callable[[Any], Any]) -> None:
    q.put(SENT)
    lease = q.receive(timeout=0)
    seen = look(lease)
    before = bytes(seen)
    lease.ack()
    assert counts(q) == {"held": 1}
    churn(q)
    assert bytes(seen) == before
    del lease, seen
    assert counts(q) == {}


@look
def test_what_a_lease_shows_outlives_the_handle(q: shmq.Queue, look: Callable[[Any], Any]) -> None:
    other = shmq.Queue.attach(q.name)
    q.put(SENT)
    lease = other.receive(timeout=0)
    seen = look(lease)
    before = bytes(seen)
    lease.ack()
    other.close()
    del lease, other
    churn(q)
    assert bytes(seen) == before
    assert counts(q) == {"held": 1}
    assert q.stats().ports == 2
    del seen
    assert counts(q) == {}
    assert q.stats().ports == 1


def test_what_a_lease_shows_outlives_the_segment(q: shmq.Queue) -> None:
    q.put(SENT)
    with q.receive(timeout=0) as lease:
        array = lease.array
    q.close()
    q.unlink()
    assert (array == SENT).all()


RECORDS = np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "i4"), ("b", "f8")])


@pytest.mark.parametrize("sent", [RECORDS, np.arange(24, dtype=">i2").reshape(2, 3, 2, 2, 1)], ids=["records", "five dimensions"])
def test_arrays_with_a_description_outlive_the_ack_too(q: shmq.Queue, sent: np.ndarray) -> None:
    q.put(sent)
    with q.receive(timeout=0) as lease:
        array = lease.array
    churn(q)
    assert (array.dtype, array.shape, array.tolist()) == (sent.dtype, sent.shape, sent.tolist())
    assert not array.flags.writeable
    del lease, array
    assert counts(q) == {}


@pytest.mark.parametrize("sent", [np.arange(500), np.tile(RECORDS, 50)], ids=["plain", "records"])
def test_arrays_in_a_side_segment_outlive_the_ack_too(spilling: shmq.Queue, sent: np.ndarray) -> None:
    spilling.put(sent)
    with spilling.receive(timeout=0) as lease:
        array = lease.array
    churn(spilling)
    assert array.tolist() == sent.tolist()
    assert not array.flags.writeable
    del lease, array
    assert counts(spilling) == {}


def test_the_slot_goes_back_with_the_last_of_several_views(q: shmq.Queue) -> None:
    q.put(SENT)
    with q.receive(timeout=0) as lease:
        views = [lease.array, lease.view, lease.array[5:]]
    while views:
        assert counts(q) == {"held": 1}
        views.pop(0)
    assert counts(q) == {}


def test_a_view_that_is_gone_before_the_ack_holds_nothing(q: shmq.Queue) -> None:
    q.put(SENT)
    with q.receive(timeout=0) as lease:
        assert lease.array.sum() == SENT.sum()
        assert bytes(lease.view) == SENT.tobytes()
    assert counts(q) == {}


def test_an_array_of_a_lease_cannot_be_written(q: shmq.Queue) -> None:
    q.put(SENT)
    with q.receive(timeout=0) as lease:
        with pytest.raises(ValueError, match="read-only"):
            lease.array[0] = 1
        with pytest.raises(ValueError):
            lease.array.flags.writeable = True
        with pytest.raises(ValueError):
            lease.array[1:].flags.writeable = True


def test_a_view_of_a_lease_cannot_be_written(q: shmq.Queue) -> None:
    q.put(SENT)
    with q.receive(timeout=0) as lease:
        for view in (lease.view, memoryview(lease)):
            assert view.readonly
            with pytest.raises(TypeError):
                view[0] = 1
        assert not np.frombuffer(lease, "u1").flags.writeable


@pytest.mark.parametrize("sent", [SENT, RECORDS, b"hello"], ids=["plain", "records", "bytes"])
def test_a_writable_array_changes_the_slot_and_nothing_else(q: shmq.Queue, sent: Any) -> None:
    q.put_many([sent, b"next"])
    lease = q.receive(timeout=0)
    lease.writable_array[:] = 0
    assert set(bytes(lease.view)) == {0}
    assert not lease.array.flags.writeable
    lease.nack()
    lease = q.receive(timeout=0)
    assert set(bytes(lease.view)) == {0}
    lease.ack()
    assert q.get(timeout=0) == b"next"


def write_in_place(name: str) -> None:
    with shmq.Queue.attach(name).receive(timeout=30) as lease:
        lease.writable_array[:] = 7
        assert set(bytes(lease.view)) == {7}


def test_a_writable_array_of_a_spilled_message_can_be_written(spilling: shmq.Queue, children: Any) -> None:
    spilling.put(bytes(5000))
    children.start(write_in_place, spilling.name)  # a child: where it cannot be written, this is a SIGSEGV
    children.join()


@pytest.mark.parametrize("thing", [b"hello", bytearray(b"hello"), memoryview(b"hello")], ids=["bytes", "bytearray", "memoryview"])
def test_the_array_of_bytes_is_one_of_bytes(q: shmq.Queue, thing: Any) -> None:
    q.put(thing)
    with q.receive(timeout=0) as lease:
        assert (lease.array.dtype, lease.array.shape, lease.nbytes) == (np.uint8, (5,), 5)
        assert lease.array.tobytes() == bytes(lease.view) == b"hello"


def test_the_array_of_text_has_its_utf_8(q: shmq.Queue) -> None:
    q.put("žluť")
    with q.receive(timeout=0) as lease:
        assert lease.array.tobytes().decode() == "žluť"


@pytest.mark.parametrize("thing", [b"", np.empty((0, 3))], ids=["bytes", "array"])
def test_an_empty_message_has_an_empty_array(q: shmq.Queue, thing: Any) -> None:
    q.put(thing)
    with q.receive(timeout=0) as lease:
        assert lease.array.size == lease.nbytes == len(lease.view) == 0


def test_a_whole_slot_is_shown(q: shmq.Queue) -> None:
    sent = np.frombuffer(os.urandom(q.slot_size), "u1")
    q.put(sent)
    with q.receive(timeout=0) as lease:
        assert (lease.array == sent).all()
        assert lease.array.ctypes.data % 64 == 0


# -- what a lease knows --------------------------------------------------------------------------------------------------------


def test_ids_are_unique_over_messages_and_handles(q: shmq.Queue) -> None:
    ids = []
    with shmq.Queue.attach(q.name) as other:
        for _ in range(25):
            q.put(1)
            other.put(2)
            for handle in (other, q):
                with handle.receive(timeout=0) as lease:
                    ids.append(lease.id)
    assert len(set(ids)) == len(ids) == 50


def test_id_and_time_stay_over_redeliveries(q: shmq.Queue) -> None:
    q.put("x")
    seen = set()
    for _ in range(3):
        lease = q.receive(timeout=0)
        seen.add((lease.id, lease.published_at))
        lease.nack()
    assert len(seen) == 1


@pytest.mark.parametrize("publish", [lambda q: q.put("x"), lambda q: q.put_many(["x"]), lambda q: q.loan(1).publish()])
def test_the_time_of_publication_is_on_the_monotonic_clock(q: shmq.Queue, publish: Callable[[shmq.Queue], Any]) -> None:
    before = time.monotonic()
    publish(q)
    after = time.monotonic()
    with q.receive(timeout=0) as lease:
        assert before - TICK <= lease.published_at <= after
        assert 0 <= lease.age <= time.monotonic() - before + TICK


def test_the_age_grows(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0)
    young = lease.age
    wait_until(lambda: lease.age > young)
    lease.ack()


def test_the_numbers_of_a_lease_outlive_it(q: shmq.Queue) -> None:
    q.put(b"hello")
    lease = q.receive(timeout=0)
    numbers = lease.id, lease.published_at, lease.nbytes, lease.delivery_count
    lease.ack()
    churn(q)
    assert (lease.id, lease.published_at, lease.nbytes, lease.delivery_count) == numbers


# -- the limit ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=SIZES.values(), ids=SIZES.keys())
def tight(request: pytest.FixtureRequest, make: Make) -> Iterator[shmq.Queue]:
    """Two may be in flight; five messages wait."""
    queue = make(slots=6, slot_size=request.param, in_flight=2)
    queue.put_many([0, 1, 2, 3, 4])
    yield queue
    shmq.verify(queue)


def test_the_limit_of_leases_names_its_holder(tight: shmq.Queue) -> None:
    leases = tight.receive_many(2, timeout=0)
    with pytest.raises(shmq.InFlightLimit, match=rf"in_flight=2.* 2 leased by pid {os.getpid()}\b"):
        tight.receive(timeout=0)
    assert counts(tight) == {"ready": 3, "leased": len(leases)}


def test_the_limit_of_leases_loses_nothing(tight: shmq.Queue) -> None:
    leases = tight.receive_many(2, timeout=0)
    for _ in range(3):
        with pytest.raises(shmq.InFlightLimit):
            tight.receive(timeout=0)
        with pytest.raises(shmq.InFlightLimit):
            tight.receive_many(2, timeout=0)
    leases.pop(0).ack()
    with tight.receive(timeout=0) as lease:
        assert lease.data == 2
    assert [lease.data for lease in leases] == [1]
    leases.pop().ack()
    assert tight.drain() == [3, 4]


def test_put_and_get_go_on_at_the_limit_of_leases(tight: shmq.Queue) -> None:
    leases = tight.receive_many(2, timeout=0)
    assert tight.get(timeout=0) == 2
    for i in range(50):
        tight.put(i, timeout=0)
        tight.get(timeout=0)
    assert tight.put_many([b"x", b"y", b"z"], timeout=0) == 3
    assert len(tight.get_many(10, timeout=0)) >= 1
    assert [lease.data for lease in leases] == [0, 1]


def test_loans_and_views_count_towards_the_limit(tight: shmq.Queue) -> None:
    with tight.receive(timeout=0) as lease:
        array = lease.array
    loan = tight.loan(8)
    with pytest.raises(shmq.InFlightLimit, match="1 held"):
        tight.receive(timeout=0)
    with pytest.raises(shmq.InFlightLimit, match="1 loaned"):
        tight.loan(8)
    del lease, array
    loan.abandon()
    assert len(tight.receive_many(2, timeout=0)) == 2


def test_messages_that_came_back_can_be_received_at_the_limit(tight: shmq.Queue) -> None:
    for lease in tight.receive_many(2, timeout=0):
        lease.nack()
    for _ in range(3):
        leases = tight.receive_many(2, timeout=0)
        assert sorted(lease.data for lease in leases) == [0, 1]
        for lease in leases:
            lease.release()


def test_a_receive_at_the_limit_goes_on_when_a_lease_ends(tight: shmq.Queue) -> None:
    def patiently() -> Any:
        with shmq.Queue.attach(tight.name) as other:
            while True:
                try:
                    with other.receive() as lease:
                        return lease.data
                except shmq.InFlightLimit:  # after a second: the machine is slow
                    pass

    leases = tight.receive_many(2, timeout=0)
    waiting = aside(patiently)
    leases[0].ack()
    assert waiting.result(30) == 2


class Gate:
    """Is unpickled when the file is gone."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return pass_gate, (self.path,)


def pass_gate(path: str) -> str:
    with open(path + ".entered", "w"):
        pass
    wait_until(lambda: not os.path.exists(path))
    return "through"


def get_two(name: str) -> None:
    with shmq.Queue.attach(name) as queue:
        assert queue.get_many(2, timeout=30) == ["through", "second"]


TAKE_A_CELL: dict[str, Callable[[shmq.Queue], Any]] = {
    "loan": lambda queue: queue.loan(8),
    "receive": lambda queue: queue.receive(timeout=0),
    "receive_many": lambda queue: queue.receive_many(3, timeout=0)[0],
}


@pytest.mark.parametrize("take", TAKE_A_CELL.values(), ids=TAKE_A_CELL)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_call_that_needs_a_cell_that_a_running_get_holds_waits_for_it(
    make: Make, children: Children, tmp_path: Any, size: int, take: Callable[[shmq.Queue], Any]
) -> None:
    queue, gate = make(slots=8, slot_size=size, in_flight=4), tmp_path / "gate"
    gate.touch()
    queue.put_many(["for the lease"] * 3 + [Gate(str(gate)), "second", "third"])
    held = queue.receive_many(3, timeout=0)
    held.pop().ack() if size >= 4096 else None  # there the batch holds two of them, and otherwise one and its port's own
    children.start(get_two, queue.name)
    wait_until(lambda: os.path.exists(f"{gate}.entered"))
    threading.Timer(0.1, gate.unlink).start()
    with take(queue) as taken:
        assert len(held) + 1 == queue.stats().leased + queue.stats().loaned
        del taken
    children.join()


@pytest.mark.parametrize("in_flight", [1, 2, 3, 8, 64])
def test_a_batch_leaves_half_of_the_cells_to_others(make: Make, in_flight: int) -> None:
    queue = make(slots=100, in_flight=in_flight)
    queue.put_many(list(range(100)))
    taken = []
    while not queue.empty():
        batch = queue.get_many(100, timeout=0)
        assert len(batch) == min(max(in_flight // 2, 1), 100 - len(taken))
        taken += batch
    assert taken == list(range(100))


def test_where_messages_that_rest_occupy_every_cell_who_does_not_wait_is_told(tight: shmq.Queue) -> None:
    for lease in tight.receive_many(2, timeout=0):
        lease.nack(delay=3600)  # however long the next lines take on a busy machine
    for take in (lambda: tight.receive(timeout=0), lambda: tight.receive_many(2, timeout=0.01)):
        with pytest.raises(shmq.Empty, match=r"rest after a failure .* due in \d"):
            take()
    tight.purge()


def test_a_receive_waits_for_the_first_of_messages_that_rest_in_every_cell(tight: shmq.Queue) -> None:
    late, early = tight.receive_many(2, timeout=0)
    late.nack(delay=3600)
    due = time.monotonic() + 0.3
    early.nack(delay=0.3)
    with tight.receive() as lease:
        assert time.monotonic() >= due - 1e-3
        assert (lease.data, lease.delivery_count) == (1, 2)
    with tight.receive(timeout=0) as lease:  # in the cell that is free now
        assert lease.data == 2
    tight.purge()


# -- after the handle was closed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settle", "left"),
    [(SETTLE["ack"], {}), (SETTLE["nack"], {"returned": 1}), (SETTLE["release"], {"returned": 1})],
    ids=SETTLE.keys(),
)
def test_a_lease_settles_after_its_handle_was_closed(q: shmq.Queue, settle: Callable[[Any], None], left: dict[str, int]) -> None:
    other = shmq.Queue.attach(q.name)
    q.put("x")
    lease = other.receive(timeout=0)
    other.close()
    assert lease.data == "x"
    assert counts(q) == {"leased": 1}
    settle(lease)
    assert counts(q) == left
    assert q.stats().ports == 1


def test_a_loan_is_published_after_its_handle_was_closed(q: shmq.Queue) -> None:
    other = shmq.Queue.attach(q.name)
    loan = other.loan(5)
    other.close()
    loan.view[:] = b"hello"
    loan.publish()
    assert q.get(timeout=0) == b"hello"
    assert q.stats().ports == 1


def test_a_loan_is_abandoned_after_its_handle_was_closed(q: shmq.Queue) -> None:
    other = shmq.Queue.attach(q.name)
    loan = other.loan(5)
    other.close()
    loan.abandon()
    assert counts(q) == {}
    assert q.stats().ports == 1


# -- loans -------------------------------------------------------------------------------------------------------------------


def test_a_loan_by_size_hands_out_memory_and_sends_bytes(q: shmq.Queue) -> None:
    with q.loan(5) as memory:
        assert counts(q) == {"loaned": 1}
        memory[:] = b"hello"
    assert counts(q) == {"ready": 1}
    assert q.get(timeout=0) == b"hello"


@pytest.mark.parametrize("dtype", ["u1", "?", "i4", "f8", "c16", ">i2", "S3", "U2"])
@pytest.mark.parametrize("shape", [(), 3, (0, 2), (2, 3), [2, 1, 2, 2]], ids=str)
def test_a_loan_by_shape_hands_out_an_array_and_sends_it(q: shmq.Queue, shape: Any, dtype: str) -> None:
    with q.loan(shape, dtype) as array:
        assert array.dtype == dtype
        array[...] = sent = np.arange(array.size).reshape(array.shape).astype(dtype)
    got = q.get(timeout=0)
    assert (got.dtype, got.shape, got.tolist()) == (sent.dtype, sent.shape, sent.tolist())


def test_a_loan_may_have_the_size_of_a_slot(q: shmq.Queue) -> None:
    sent = np.frombuffer(os.urandom(q.slot_size), "u1")
    with q.loan(q.slot_size, "u1") as array:
        array[:] = sent
    with q.loan(q.slot_size) as memory:
        memory[:] = sent
    assert (q.get(timeout=0) == sent).all()
    assert q.get(timeout=0) == sent.tobytes()


def test_a_frame_is_read_where_it_was_written(q: shmq.Queue) -> None:
    with q.loan((4, 8), "u2") as frame:
        frame[:] = 7
        place = frame.ctypes.data
    with q.receive(timeout=0) as lease:
        assert lease.array.ctypes.data == place
        assert (lease.array == 7).all()


def test_loans_are_published_in_any_order(q: shmq.Queue) -> None:
    loans = [q.loan(1) for _ in range(3)]
    for number, loan in enumerate(loans):
        loan.view[0] = number
    for number in (2, 0, 1):
        loans[number].publish()
    assert q.drain() == [b"\2", b"\0", b"\1"]


def test_an_abandoned_loan_sends_nothing(q: shmq.Queue) -> None:
    for _ in range(10):
        loan = q.loan(5)
        loan.view[:] = b"wrong"
        loan.abandon()
        loan.abandon()
    assert counts(q) == {}
    assert q.stats().puts == 0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_abandons_the_loan_and_passes(q: shmq.Queue, error: type[BaseException]) -> None:
    with pytest.raises(error, match="mine"), q.loan(5) as memory:
        memory[:] = b"wrong"
        raise error("mine")
    assert counts(q) == {}


@pytest.mark.parametrize("loan", [lambda q: q.loan(5), lambda q: q.loan((2, 3), "u1")], ids=["by size", "by shape"])
def test_a_dropped_loan_frees_its_cell(q: shmq.Queue, loan: Callable[[shmq.Queue], Any]) -> None:
    for _ in range(10):  # more than may be in flight
        taken = loan(q)
        assert counts(q) == {"loaned": 1}
        del taken
        assert counts(q) == {}


@pytest.mark.parametrize(
    "take", [lambda loan: loan.array, lambda loan: loan.view, memoryview], ids=["array", "view", "memoryview"]
)
@pytest.mark.parametrize("loan", [lambda q: q.loan(5), lambda q: q.loan((2, 3), "u1")], ids=["by size", "by shape"])
def test_a_dropped_loan_frees_its_cell_with_its_last_view(
    q: shmq.Queue, loan: Callable[[shmq.Queue], Any], take: Callable[[Any], Any]
) -> None:
    for _ in range(10):
        view = take(loan(q))
        assert counts(q) == {"loaned": 1}
        del view
        assert counts(q) == {}


@pytest.mark.parametrize("end", ["publish", "abandon"])
def test_an_array_is_read_only_once_its_loan_has_ended(q: shmq.Queue, end: str) -> None:
    loan = q.loan(8, "u1")
    array = loan.array
    array[:] = 1
    getattr(loan, end)()
    with pytest.raises(ValueError, match="read-only"):
        array[:] = 2
    assert q.drain() == [] if end == "abandon" else (q.get(timeout=0) == 1).all()


def test_the_array_of_a_loan_is_always_the_same(q: shmq.Queue) -> None:
    loan = q.loan(8, "u1")
    assert loan.array is loan.array
    loan.abandon()


@pytest.mark.parametrize("nbytes", [0, 1, 15, 16])
def test_a_loan_by_size_may_shrink(q: shmq.Queue, nbytes: int) -> None:
    loan = q.loan(16)
    loan.view[:] = bytes(range(16))
    loan.publish(nbytes=nbytes)
    assert q.get(timeout=0) == bytes(range(nbytes))


@pytest.mark.parametrize("nbytes", [-1, 17])
def test_a_loan_does_not_grow(q: shmq.Queue, nbytes: int) -> None:
    loan = q.loan(16)
    with pytest.raises(ValueError, match="loan of 16 bytes"):
        loan.publish(nbytes=nbytes)
    loan.publish()
    assert len(q.get(timeout=0)) == 16


def test_a_loan_by_shape_does_not_shrink(q: shmq.Queue) -> None:
    loan = q.loan(16, "u1")
    with pytest.raises(ValueError):
        loan.publish(nbytes=8)
    loan.abandon()
    assert q.empty()


END: dict[str, Callable[[Any], None]] = {"publish": lambda loan: loan.publish(), "abandon": lambda loan: loan.abandon()}


@pytest.mark.parametrize("use", [lambda loan: loan.publish(), lambda loan: loan.view, lambda loan: loan.array, memoryview])
@pytest.mark.parametrize("end", END.values(), ids=END.keys())
def test_a_loan_that_has_ended_is_lost(q: shmq.Queue, end: Callable[[Any], None], use: Callable[[Any], Any]) -> None:
    loan = q.loan(5)
    end(loan)
    with pytest.raises(shmq.LeaseLost):
        use(loan)
    loan.abandon()  # nothing to do
    assert q.qsize() == q.stats().puts <= 1


@pytest.mark.parametrize("end", END.values(), ids=END.keys())
def test_a_block_leaves_alone_a_loan_that_ended_inside(q: shmq.Queue, end: Callable[[Any], None]) -> None:
    loan = q.loan(5)
    with loan:
        end(loan)
        stays = counts(q)
    assert counts(q) == stays


BAD_LOANS: dict[str, tuple[tuple[Any, ...], type[Exception]]] = {
    "objects": ((3, "O"), TypeError),
    "objects in a field": ((3, [("n", "i4"), ("thing", "O")]), TypeError),
    "no such dtype": ((3, "nonsense"), TypeError),
    "shape without dtype": (((2, 3),), TypeError),
    "fraction": ((1.5,), TypeError),
    "text": (("5",), TypeError),
    "fraction in a shape": (((2, 1.5), "u1"), TypeError),
    "negative": ((-1,), ValueError),
    "negative in a shape": (((2, -1), "u1"), ValueError),
    "too large": (((1 << 20) + 1,), shmq.MessageTooLarge),
    "too large by shape": ((((1 << 17) + 1), "f8"), shmq.MessageTooLarge),
    "beyond 64 bits": ((1 << 64,), shmq.MessageTooLarge),
    "beyond 64 bits by shape": (((1 << 31, 1 << 31, 1 << 31), "f8"), shmq.MessageTooLarge),
}


@pytest.mark.parametrize(("arguments", "error"), BAD_LOANS.values(), ids=BAD_LOANS.keys())
def test_a_loan_that_cannot_be_is_refused_and_takes_nothing(q: shmq.Queue, arguments: Any, error: type[Exception]) -> None:
    for _ in range(5):  # more than may be in flight
        with pytest.raises(error):
            q.loan(*arguments)
    assert counts(q) == {}


def test_the_refusal_of_a_large_loan_says_how_large(q: shmq.Queue) -> None:
    with pytest.raises(shmq.MessageTooLarge, match=rf"{q.slot_size + 1:,} bytes.*{q.slot_size:,} bytes"):
        q.loan(q.slot_size + 1)


def test_a_loan_does_not_spill(spilling: shmq.Queue) -> None:
    with pytest.raises(shmq.MessageTooLarge):
        spilling.loan(65)


@pytest.fixture
def full(q: shmq.Queue) -> shmq.Queue:
    q.put_many([b"0", b"1", b"2", b"3"])
    return q


def test_a_loan_on_a_full_queue_is_published_once_there_is_room(full: shmq.Queue) -> None:
    loan = full.loan(5)
    loan.view[:] = b"hello"
    with shmq.Queue.attach(full.name) as other:
        publishing = aside(loan.publish)
        wait_until(lambda: other.stats().waiting_producers)
        assert other.get(timeout=0) == b"0"
        publishing.result(30)
    assert full.drain() == [b"1", b"2", b"3", b"hello"]


def test_a_block_on_a_full_queue_waits_for_room(full: shmq.Queue) -> None:
    def send() -> None:
        with full.loan(5) as memory:
            memory[:] = b"hello"

    with shmq.Queue.attach(full.name) as other:
        sending = aside(send)
        wait_until(lambda: other.stats().waiting_producers)
        assert other.get(timeout=0) == b"0"
        sending.result(30)
    assert full.drain() == [b"1", b"2", b"3", b"hello"]


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_loan_that_found_no_room_stays_usable(full: shmq.Queue, timeout: float) -> None:
    loan = full.loan(4, "u1")
    loan.array[:] = 1
    for _ in range(3):
        with pytest.raises(shmq.Full, match="4 of 4"):
            loan.publish(timeout=timeout)
    assert counts(full) == {"ready": 4, "loaned": 1}
    loan.array[:] = 2
    assert full.get(timeout=0) == b"0"
    loan.publish(timeout=0)
    assert full.drain()[3].tolist() == [2, 2, 2, 2]


def test_a_loan_that_found_no_room_for_a_part_is_still_whole(full: shmq.Queue) -> None:
    loan = full.loan(16)
    loan.view[:] = bytes(range(16))
    with pytest.raises(shmq.Full):
        loan.publish(nbytes=4, timeout=0)
    assert loan.nbytes == len(loan.view) == 16
    full.get(timeout=0)
    loan.publish(timeout=0)
    assert full.drain()[3] == bytes(range(16))


def test_a_loan_that_found_no_room_can_be_abandoned(full: shmq.Queue) -> None:
    loan = full.loan(4)
    with pytest.raises(shmq.Full):
        loan.publish(timeout=0)
    loan.abandon()
    assert counts(full) == {"ready": 4}


def test_leases_and_loans_are_not_made_by_hand() -> None:
    for kind in (shmq.Lease, shmq.Loan):
        with pytest.raises(TypeError):
            kind()
