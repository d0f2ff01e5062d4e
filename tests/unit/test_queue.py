"""The queue as its users see it, in one process."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import shmq

PAGED = {"slots": 8, "slot_size": 8192}
SMALL = {"slots": 8, "slot_size": 256}


@pytest.fixture(params=[SMALL, PAGED], ids=["small slots", "large slots"])
def q(request, make):
    queue = make(**request.param)
    yield queue
    if not queue.closed:
        shmq.verify(queue)


def test_messages_come_out_in_the_order_in_which_they_went_in(q):
    for lap in range(5):
        for i in range(8):
            q.put(b"%d.%d" % (lap, i))
        assert [q.get() for _ in range(8)] == [b"%d.%d" % (lap, i) for i in range(8)]


def test_a_message_is_visible_when_put_returns(q):
    for i in range(8):
        assert q.qsize() == i
        assert q.empty() == (i == 0)
        q.put(b"x")
    assert q.full()


def test_a_full_queue_raises_full_and_takes_nothing(q):
    for i in range(8):
        q.put(i)
    with pytest.raises(shmq.Full, match="8 of 8"):
        q.put(9, timeout=0.01)
    with pytest.raises(shmq.Full):
        q.put_nowait(9)
    assert q.drain() == list(range(8))


def test_an_empty_queue_raises_empty_after_the_time_out(q):
    began = time.monotonic()
    with pytest.raises(shmq.Empty):
        q.get(timeout=0.2)
    assert time.monotonic() - began >= 0.199
    with pytest.raises(shmq.Empty):
        q.get_nowait()
    with pytest.raises(shmq.Empty):
        q.receive(timeout=0)


@pytest.mark.parametrize("slots", [1, 2, 3, 7])
def test_any_capacity_works(make, slots):
    q = make(slots=slots, slot_size=8)
    for i in range(50):
        assert q.put_many([b"%d" % i] * slots, timeout=0) == slots
        assert q.full()
        assert q.get_many(slots) == [b"%d" % i] * slots
    shmq.verify(q)


def test_put_many_waits_until_all_are_in(make):
    q = make(slots=4, slot_size=64)
    got = []
    reader = threading.Thread(target=lambda: got.extend(q.get() for _ in range(100)))
    reader.start()
    assert q.put_many([b"%d" % i for i in range(100)]) == 100
    reader.join()
    assert got == [b"%d" % i for i in range(100)]


def test_put_many_says_how_many_went_in(q):
    assert q.put_many([b"x"] * 11, timeout=0.01) == 8
    with pytest.raises(shmq.Full):
        q.put_many([b"x"], timeout=0)


def test_put_many_with_one_that_is_too_large_puts_none(make):
    q = make(slots=8, slot_size=64, oversize="error")
    with pytest.raises(shmq.MessageTooLarge):
        q.put_many([b"x", b"y" * (q.slot_size + 1)])
    assert q.empty()


def test_get_many_takes_what_is_there(q):
    q.put_many([1, "two", b"3", np.arange(4)])
    taken = q.get_many(100)
    assert taken[:3] == [1, "two", b"3"]
    assert (taken[3] == np.arange(4)).all()


def test_an_ack_ends_a_message_and_a_nack_brings_it_back_first(q):
    q.put(b"first")
    q.put(b"second")
    lease = q.receive()
    assert (lease.data, lease.delivery_count) == (b"first", 1)
    lease.nack()
    lease = q.receive()
    assert (lease.data, lease.delivery_count) == (b"first", 2)
    lease.release()
    lease = q.receive()
    assert (lease.data, lease.delivery_count) == (b"first", 2)
    lease.ack()
    with pytest.raises(shmq.LeaseLost):
        lease.ack()
    assert q.get() == b"second"
    assert q.empty()


def test_a_dropped_lease_comes_back_at_once(q):
    q.put("x")
    q.receive()
    with q.receive(timeout=1) as lease:
        assert lease.delivery_count == 2


def test_the_context_manager_acks_or_nacks(q):
    q.put("x")
    with pytest.raises(RuntimeError), q.receive():
        raise RuntimeError
    with q.receive(timeout=0) as lease:
        assert lease.delivery_count == 2
    assert q.empty()


def test_a_loop_acks_at_the_end_of_its_body_and_at_a_break(q):
    q.put_many([1, 2, 3])
    for lease in q:
        if lease.data == 2:
            break
    del lease
    assert q.drain() == [3]


def test_a_loop_whose_body_raises_gives_the_message_back(q):
    q.put("x")

    def work():
        for _ in q:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert q.receive(timeout=0).delivery_count == 2


def test_a_view_outlives_ack_and_close(q):
    q.put(np.arange(20))
    lease = q.receive()
    view = lease.array
    lease.ack()
    assert q.stats().held == 1
    q.put_many([np.zeros(20, "i8")] * 5)
    q.drain()
    assert (view == np.arange(20)).all()
    assert not view.flags.writeable
    q.close()
    assert (view == np.arange(20)).all()


def test_a_loan_is_published_at_the_end_of_its_block_and_read_only_then(q):
    with q.loan((3, 4), "i2") as array:
        array[:] = np.arange(12).reshape(3, 4)
    assert not array.flags.writeable
    got = q.get()
    assert got.dtype == np.int16
    assert (got == np.arange(12).reshape(3, 4)).all()


def test_a_loan_whose_block_raises_sends_nothing(q):
    with pytest.raises(RuntimeError), q.loan(10) as memory:
        memory[:2] = b"no"
        raise RuntimeError
    assert q.empty()
    assert q.stats().loaned == 0


def test_a_dropped_loan_gives_its_slot_back(q):
    array = q.loan(10, "u1").array
    assert q.stats().loaned == 1
    del array
    assert q.stats().loaned == 0


def test_every_method_of_a_closed_handle_raises_closed(q):
    q.close()
    q.close()
    calls = [
        lambda: q.put(1),
        q.get,
        lambda: q.put_many([1]),
        lambda: q.get_many(1),
        q.receive,
        lambda: q.loan(1),
        q.qsize,
        q.peek,
    ]
    for call in calls:
        with pytest.raises(shmq.Closed):
            call()


def test_closing_ends_a_get_that_waits_in_another_thread(q):
    raised = []

    def wait():
        try:
            q.get()
        except shmq.Closed as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while q.stats().waiting_consumers == 0:
        time.sleep(0.001)
    q.close()
    thread.join(10)
    assert raised


def test_threads_share_a_handle(make):
    q = make(slots=16, slot_size=64)
    got: list[int] = []

    def produce(base):
        for i in range(2000):
            q.put(base + i)

    def consume():
        while (item := q.get()) is not None:
            got.append(item)

    consumers = [threading.Thread(target=consume) for _ in range(3)]
    producers = [threading.Thread(target=produce, args=(n * 2000,)) for n in range(3)]
    for thread in consumers + producers:
        thread.start()
    for thread in producers:
        thread.join()
    for _ in consumers:
        q.put(None)
    for thread in consumers:
        thread.join()
    assert sorted(got) == list(range(6000))
    shmq.verify(q)


def test_large_copies_in_threads_do_not_disturb_each_other(make):
    q = make(slots=4, slot_size=1 << 20)
    sums: list[int] = []

    def produce(value):
        for _ in range(20):
            q.put(np.full(1 << 20, value, "u1"))

    def consume():
        for _ in range(20):
            array = q.get()
            assert (array == array[0]).all()
            sums.append(int(array[0]))

    threads = [threading.Thread(target=produce, args=(n,)) for n in (1, 2)] + [threading.Thread(target=consume) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sums) == [1] * 20 + [2] * 20
    shmq.verify(q)


def test_the_limit_of_leases_names_its_holder_and_loses_nothing(make):
    q = make(slots=8, slot_size=64, in_flight=2)
    q.put_many([b"%d" % i for i in range(8)])
    leases = []
    with pytest.raises(shmq.InFlightLimit, match="pid"):
        while True:
            leases.append(q.receive(timeout=0))
    assert q.get() == b"%d" % len(leases)  # put and get have a cell of their own
    del leases
    assert len(q.drain()) == 7


def test_peek_looks_and_purge_throws_away(q):
    q.put_many(["a", {"b": 1}, b"c"])
    assert q.peek(2) == ["a", {"b": 1}]
    assert q.qsize() == 3
    assert q.purge() == 3
    assert q.empty()
