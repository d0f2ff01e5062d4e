"""Zero-copy views show their message as long as they live, whatever becomes of the lease: acked, given back, expired."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np
import pytest

import shmq
from support.processes import Children, wait_until

Make = Callable[..., shmq.Queue]
GEOMETRIES = pytest.mark.parametrize("slot_size", [256, 8192], ids=["small slots", "large slots"])
LONG = 30.0


def numbers(value: int, slot_size: int) -> np.ndarray:
    return np.full(slot_size // 8, value, "u8")


def overwrite(q: shmq.Queue, slot_size: int) -> None:
    """Send so many messages through the queue that each slot that can be used is used."""
    for value in range(1000, 1000 + 4 * (q.maxsize + q.stats().in_flight_limit + 4)):
        q.put(numbers(value, slot_size), timeout=0)
        assert q.get(timeout=0)[0] == value


@GEOMETRIES
@pytest.mark.parametrize("end", ["nack", "release", "drop"])
def test_a_view_outlives_a_lease_that_was_given_back(make: Make, slot_size: int, end: str) -> None:
    q = make(slots=2, slot_size=slot_size, in_flight=4)
    q.put(numbers(7, slot_size))
    lease = q.receive(timeout=0)
    view = lease.array
    if end == "drop":
        del lease  # the view keeps it: it is given back when both are gone
        assert q.empty()
    else:
        getattr(lease, end)()
        assert q.get(timeout=0)[0] == 7
    overwrite(q, slot_size)
    assert (view == 7).all()
    del view
    gc.collect()
    if end == "drop":
        assert q.get(timeout=0)[0] == 7
    assert q.stats().held == 0
    shmq.verify(q)


@GEOMETRIES
def test_a_view_outlives_a_lease_whose_time_is_over(make: Make, slot_size: int) -> None:
    q = make(slots=2, slot_size=slot_size, in_flight=4, lease_timeout=0.02)
    q.put(numbers(7, slot_size))
    lost = q.receive(timeout=0)
    view, memory = lost.array, lost.view
    with q.receive(timeout=LONG, lease_timeout=None) as again:
        assert again.delivery_count == 2
    overwrite(q, slot_size)
    assert (view == 7).all() and memory[:8] == b"\7" + bytes(7)
    with pytest.raises(shmq.LeaseLost):
        lost.ack()
    with pytest.raises(shmq.LeaseLost):
        _ = lost.array
    assert [holding.state for holding in q.leases()] == ["held"]
    del view
    assert q.stats().held == 1
    memory.release()
    assert q.stats().held == 0
    shmq.verify(q)


@GEOMETRIES
def test_a_process_may_look_at_a_message_through_several_lost_leases(make: Make, slot_size: int) -> None:
    q = make(slots=2, slot_size=slot_size, in_flight=4)
    q.put(numbers(7, slot_size))
    views = []
    for _ in range(3):
        lease = q.receive(timeout=0)
        views.append(lease.array)
        lease.nack()
    last = q.receive(timeout=0)
    views.append(last.array)
    last.ack()
    del last, lease
    for _ in range(4):
        overwrite(q, slot_size)
        assert all((view == 7).all() for view in views)
        views.pop(0)
    overwrite(q, slot_size)
    assert (q.stats().held, q.stats().leased) == (0, 0)
    shmq.verify(q)


@GEOMETRIES
def test_a_fifth_viewer_of_a_message_is_given_a_copy(make: Make, slot_size: int) -> None:
    q = make(slots=2, slot_size=slot_size, in_flight=4, lease_timeout=0.01)
    q.put(numbers(7, slot_size))
    leases, views = [], []
    for _ in range(6):
        leases.append(q.receive(timeout=LONG))
        views.append(leases[-1].array)
    with pytest.raises(BufferError, match="four others"):
        memoryview(leases[-1])
    q.receive(timeout=LONG, lease_timeout=None).ack()
    overwrite(q, slot_size)
    assert all((view == 7).all() for view in views)
    assert not views[-1].flags.writeable
    views.clear()
    leases.clear()
    assert q.stats().held == 0
    shmq.verify(q)


def test_views_of_a_lease_that_was_extended_to_a_time_out_are_safe_too(make: Make) -> None:
    q = make(slots=2, slot_size=256, in_flight=4)
    q.put(numbers(7, 256))
    lease = q.receive(timeout=0)
    view = lease.array
    lease.extend(0.01)
    assert q.get(timeout=LONG)[0] == 7
    overwrite(q, 256)
    assert (view == 7).all()
    with pytest.raises(shmq.LeaseLost):
        lease.extend()


def look_until_told(q: shmq.Queue, answers: shmq.Queue, orders: shmq.Queue) -> None:
    lease = q.receive(timeout=LONG)
    view = lease.array
    answers.put("looking")
    orders.get(timeout=LONG)
    answers.put(int(view.sum()) if (view == 7).all() else "overwritten")


@GEOMETRIES
@pytest.mark.parametrize("fate", ["told", "killed"])
def test_a_view_in_another_process_keeps_its_slot_until_the_view_or_it_is_gone(
    make: Make, children: Children, slot_size: int, fate: str
) -> None:
    q = make(slots=2, slot_size=slot_size, in_flight=4, lease_timeout=0.05)
    answers, orders = (make(slots=4, slot_size=64) for _ in range(2))
    q.put(numbers(7, slot_size))
    viewer = children.start(look_until_told, q, answers, orders)
    assert answers.get(timeout=LONG) == "looking"
    assert q.get(timeout=LONG)[0] == 7
    overwrite(q, slot_size)
    assert [(holding.state, holding.pid) for holding in q.leases()] == [("held", viewer.pid)]
    if fate == "killed":
        viewer.kill()
        viewer.join()
        q._reap()
        children.started.clear()
    else:
        orders.put("go on")
        assert answers.get(timeout=LONG) == 7 * (slot_size // 8)
        children.join()
    wait_until(lambda: q.stats().held == 0)
    shmq.verify(q)


def test_a_closed_handle_stays_attached_while_a_lost_lease_is_looked_at(make: Make) -> None:
    q = make(slots=2, slot_size=256, in_flight=4)
    other = shmq.Queue.attach(q.name)
    q.put(numbers(7, 256))
    lease = other.receive(timeout=0)
    view = lease.array
    lease.nack()
    other.close()
    assert q.get(timeout=0)[0] == 7
    overwrite(q, 256)
    assert (view == 7).all()
    assert q.stats().ports == 2
    del view, lease
    gc.collect()
    assert (q.stats().ports, q.stats().held) == (1, 0)


def test_a_copy_that_was_torn_by_the_next_holder_is_a_lost_lease_and_no_message(make: Make) -> None:
    class Slow:
        """Takes so long to unpickle that the lease is over by then."""

        def __reduce__(self) -> tuple[Callable[[float], None], tuple[float]]:
            return time.sleep, (0.1,)

    q = make(slots=2, slot_size=1024, in_flight=4, lease_timeout=0.03)
    q.put(Slow())
    lease = q.receive(timeout=0)
    taker = shmq.Queue.attach(q.name)
    wait_until(lambda: taker._expire() or time.sleep(0.01), LONG)
    with pytest.raises(shmq.LeaseLost):
        _ = lease.data
    taker.close()
