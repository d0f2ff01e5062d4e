"""A queue without a bound: order, counts and memory of the log beside the segment, and who is stopped at it.

Deaths are in tests/crash/test_backlog_deaths.py.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import random
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmq
from shmq import _core
from shmq._repair import repair
from shmq._store.sides import keys_in_backlog
from support.processes import Children, descriptors, is_stopped, wait_until
from support.shared_memory import side_files

Make = Callable[..., shmq.Queue]
LONG = 60.0
SHM = Path("/dev/shm")


@pytest.fixture(params=[256, 4096], ids=["small slots", "large slots"])
def q(request: pytest.FixtureRequest, make: Make) -> shmq.Queue:
    """Four slots, and no bound."""
    return make(slots=4, slot_size=request.param, overflow="grow", oversize="spill")


def log_of(queue: shmq.Queue) -> Path:
    return Path(SHM, queue.segment.file("backlog"))


def fill(queue: shmq.Queue, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        queue.put(number, block=False)


# -- order and counts --------------------------------------------------------------------------------------------------------


def test_more_than_the_ring_holds_comes_out_in_its_order(q: shmq.Queue) -> None:
    fill(q, 1_000)
    assert q.stats().backlog == 996
    assert [q.get(timeout=LONG) for _ in range(1_000)] == list(range(1_000))
    assert (q.qsize(), q.empty(), q.stats().backlog) == (0, True, 0)
    shmq.verify(q)


def test_put_never_says_full_and_counts_at_each_step(q: shmq.Queue) -> None:
    for number in range(12):
        assert (q.qsize(), q.empty(), q.full()) == (number, number == 0, False)
        q.put_nowait(number)
    for number in range(12):
        assert q.qsize() == 12 - number
        assert q.get_nowait() == number
    with pytest.raises(shmq.Empty):
        q.get_nowait()
    assert q.stats().puts == q.stats().gets == 12


def test_order_holds_while_the_backlog_comes_and_goes(q: shmq.Queue) -> None:
    chance = random.Random(7)
    put = got = 0
    for _ in range(3_000):
        if chance.random() < (0.7 if put // 200 % 2 else 0.4):
            q.put_nowait(put)
            put += 1
        elif got < put:
            assert q.get_nowait() == got
            got += 1
    assert q.drain() == list(range(got, put))


def test_every_way_of_taking_finds_what_waits_in_the_backlog(q: shmq.Queue) -> None:
    taken: list[int] = []
    fill(q, 100)
    taken += [q.get(), *q.get_many(3)]
    with q.receive() as lease:
        taken.append(lease.data)
    leases = q.receive_many(3)
    taken += [lease.data for lease in leases]
    for lease in leases:
        lease.ack()
    for lease in q.consume(timeout=0):
        taken.append(lease.data)
        if len(taken) == 30:
            break
    del lease
    for lease in q.consume(prefetch=2, timeout=0):
        taken.append(lease.data)
        if len(taken) == 40:
            break
    taken += q.drain()
    assert taken == list(range(100))


def test_every_way_of_putting_keeps_behind_the_backlog(q: shmq.Queue) -> None:
    fill(q, 10)
    assert q.put_many(list(range(10, 20))) == 10
    with q.loan((2,), "i4") as array:
        array[:] = 20
    q.put(21)
    got = q.drain()
    assert got[:20] == list(range(20)) and got[20].tolist() == [20, 20] and got[21:] == [21]
    assert q.put_many(list(range(20))) == 20
    assert q.drain() == list(range(20))


def test_every_kind_of_message_survives_the_backlog(q: shmq.Queue) -> None:
    things: list[Any] = [
        b"bytes", "text", bytearray(b"array"), {"a": [1]}, np.arange(6).reshape(2, 3), np.asfortranarray(np.ones((2, 3))),
        np.zeros(2, [("x", "i4"), ("y", "f8")]), {"array": np.arange(9)}, b"x" * 100_000, {"big": np.arange(50_000)}, b"",
    ]  # fmt: skip
    fill(q, 4)
    for thing in things:
        q.put(thing)
    assert q.peek(4 + len(things))[:5] == [0, 1, 2, 3, b"bytes"]
    assert len(q.peek(1_000)) == 4 + len(things)
    got = q.drain()[4:]
    for before, after in zip(things, got, strict=True):
        assert type(before) is type(after)
        assert pickle.dumps(before) == pickle.dumps(after) or np.array_equal(before, after)


def test_what_is_taken_from_the_backlog_was_published_when_it_was_put(q: shmq.Queue) -> None:
    fill(q, 6)
    before = _core.monotonic_ns() * 1e-9
    time.sleep(0.05)
    q.get_many(4)
    with q.receive() as lease:
        assert lease.published_at <= before


def test_purge_throws_the_backlog_away_too(q: shmq.Queue) -> None:
    fill(q, 100)
    q.put(b"x" * 10_000)
    assert q.purge() == 101
    assert q.empty() and q.stats().backlog == 0
    assert side_files(q) == []


def test_join_waits_for_the_backlog(q: shmq.Queue) -> None:
    fill(q, 20)
    assert q.join(timeout=0) is False
    for _ in range(20):
        q.get()
        q.task_done()
    assert q.join(timeout=0) is True


def test_a_queue_says_how_it_overflows(name: str, make: Make) -> None:
    q = make(overflow="grow")
    assert q.segment.config.overflow == "grow"
    with shmq.Queue(q.name, overflow="grow"), pytest.raises(shmq.SegmentMismatch, match="overflow is 'grow'"):
        shmq.Queue(q.name, overflow="block")
    with pytest.raises(ValueError, match="overflow must be"):
        shmq.Queue(name, overflow="burst")  # type: ignore[arg-type]


def test_awaited_calls_find_the_backlog_too(q: shmq.Queue) -> None:
    async def there_and_back() -> list[int]:
        for number in range(50):
            await q.aput(number)
        taker = asyncio.create_task(q.aget(timeout=LONG))
        got = [await taker]
        return got + [await q.aget(timeout=LONG) for _ in range(49)]

    assert asyncio.run(there_and_back()) == list(range(50))


def test_an_awaiting_task_is_woken_by_what_goes_to_the_backlog(q: shmq.Queue) -> None:
    async def take() -> list[int]:
        return [await q.aget(timeout=LONG) for _ in range(500)]

    producer = threading.Timer(0.05, fill, (q, 500))
    producer.start()
    assert asyncio.run(take()) == list(range(500))
    producer.join()


# -- waiting -----------------------------------------------------------------------------------------------------------------


def test_a_consumer_that_sleeps_is_woken_by_what_goes_to_the_backlog(q: shmq.Queue) -> None:
    got: list[int] = []
    consumer = threading.Thread(target=lambda: got.extend(q.get(timeout=LONG) for _ in range(2_000)))
    consumer.start()
    fill(q, 2_000)
    consumer.join(LONG)
    assert got == list(range(2_000))


def produce(queue: shmq.Queue, producer: int, count: int) -> None:
    for number in range(count):
        queue.put((producer, number))


def consume(queue: shmq.Queue, results: shmq.Queue) -> None:
    mine = []
    while (message := queue.get(timeout=LONG)) is not None:
        mine.append(message)
    results.put(mine)


def test_several_of_each_keep_the_order_of_each_producer(any_children: Children, make: Make) -> None:
    q, results = make(slots=8, slot_size=64, overflow="grow"), make(overflow="grow", oversize="spill")
    for producer in range(3):
        any_children.start(produce, q, producer, 2_000)
    consumers = [any_children.start(consume, q, results) for _ in range(2)]
    for producer in any_children.started[:3]:
        producer.join(LONG)
    for _ in consumers:
        q.put(None)
    taken = [results.get(timeout=LONG) for _ in consumers]
    any_children.join()
    for mine in taken:
        for producer in range(3):
            numbers = [number for who, number in mine if who == producer]
            assert numbers == sorted(numbers)
    assert sorted(taken[0] + taken[1]) == [(producer, number) for producer in range(3) for number in range(2_000)]


def test_a_producer_keeps_to_the_pace_of_a_consumer_at_work(q: shmq.Queue, children: Children) -> None:
    """Its puts wait 50 ms in all before one goes to the backlog. On a loaded machine the consumer may take longer than that."""
    results = shmq.Queue(oversize="spill")
    children.start(consume, q, results)
    wait_until(lambda: q.stats().waiting_consumers)
    waited = 0.0
    for number in range(200):
        began = time.monotonic()
        q.put(number)
        waited += time.monotonic() - began
        assert q.stats().backlog == 0 or waited > 0.045
    q.put(None)
    assert results.get(timeout=LONG) == list(range(200))
    children.join()
    results.close()


def test_no_put_waits_long_for_a_consumer_that_is_not_at_work(make: Make) -> None:
    q = make(slots=4, slot_size=64, overflow="grow")
    fill(q, 4)
    q.put(4)  # waits for a moment, in case somebody takes something
    before = time.monotonic()
    produce(q, 0, 1_000)
    assert q.stats().backlog >= 1_000
    assert time.monotonic() - before < LONG


# -- shutdown ----------------------------------------------------------------------------------------------------------------


def test_what_is_in_the_backlog_can_still_be_taken_after_a_shutdown(q: shmq.Queue) -> None:
    fill(q, 20)
    q.shutdown()
    for put in (lambda: q.put(1), lambda: q.put_many([1])):
        with pytest.raises(shmq.ShutDown):
            put()
    assert [q.get() for _ in range(20)] == list(range(20))
    with pytest.raises(shmq.ShutDown):
        q.get()


# -- memory and files --------------------------------------------------------------------------------------------------------


def blocks(queue: shmq.Queue) -> int:
    return os.stat(log_of(queue)).st_blocks * 512


def test_the_log_gives_back_what_was_taken(make: Make) -> None:
    q = make(slots=4, slot_size=4096, overflow="grow")
    message = b"x" * 4000
    for _ in range(1_000):
        q.put(message, block=False)
    assert blocks(q) > 3 << 20
    for _ in range(900):
        q.get()
    assert blocks(q) < 1 << 20
    for _ in range(100):
        q.get()
    assert blocks(q) == 4096


def test_a_backlog_that_is_never_empty_does_not_grow_for_ever(make: Make) -> None:
    q = make(slots=4, slot_size=1024, overflow="grow")
    fill(q, 50)
    for number in range(5_000):
        q.put(b"x" * 1000, block=False)
        q.get()
        assert q.stats().backlog > 0
        if number % 500 == 0:
            assert blocks(q) < 1 << 20
    q.purge()


def test_a_queue_of_the_other_kind_has_no_log_and_no_descriptor_for_it(make: Make) -> None:
    q = make(slots=4)
    assert not log_of(q).exists()
    assert not q.grows


def test_descriptors_are_as_many_however_much_waits(q: shmq.Queue) -> None:
    before = len(descriptors())
    fill(q, 500)
    q.drain()
    assert len(descriptors()) == before
    for _ in range(20):
        with shmq.Queue.attach(q.name) as other:
            fill(other, 10)
            other.drain()
    del other
    assert len(descriptors()) == before


def test_the_log_goes_with_the_queue(name: str) -> None:
    with shmq.Queue(name, overflow="grow", slots=2) as q:
        fill(q, 10)
        log = log_of(q)
        assert log.exists()
        q.unlink()
        assert not log.exists()
        with shmq.Queue.create(name, overflow="grow", slots=2) as another:
            assert another.empty()
            fill(q, 10, first=10)  # those who have it open go on among themselves
            assert q.drain() == list(range(20))
            assert another.empty()
            another.unlink()


def test_a_log_that_is_gone_is_said(name: str, make: Make) -> None:
    q = make(overflow="grow")
    log_of(q).unlink()
    with pytest.raises(shmq.SegmentCorrupt, match=r"the backlog of queue .* is gone"):
        shmq.Queue.attach(q.name)


def test_a_log_that_is_damaged_is_said(make: Make) -> None:
    q = make(slots=2, overflow="grow")
    fill(q, 5)
    with open(log_of(q), "r+b") as file:
        file.seek(4096)
        file.write((1 << 60).to_bytes(8, "little"))
    with pytest.raises(shmq.SegmentCorrupt, match="the backlog of queue"):
        q.drain()


def test_side_segments_of_the_backlog_are_no_leftovers(make: Make, children: Children) -> None:
    q = make(slots=2, slot_size=64, overflow="grow", oversize="spill")
    process = children.start(spill_and_die, q)
    process.join()
    children.started.clear()
    findings = repair([q.name])
    assert not [finding for finding in findings if "side segment" in finding.text]
    assert q.drain() == [b"x" * 1000 + bytes([number]) for number in range(6)]


def spill_and_die(queue: shmq.Queue) -> None:
    for number in range(6):
        queue.put(b"x" * 1000 + bytes([number]))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_full_dev_shm_is_said_and_nothing_is_half_put(q: shmq.Queue) -> None:
    """A limit on the size of files stands for a full file system: a write ends in the middle of the record."""
    fill(q, 10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log_of(q).stat().st_size + 20, before[1]))
    try:
        for _ in range(3):
            with pytest.raises(shmq.OutOfMemory, match="backlog"):
                q.put("does not fit")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    q.put(10)
    assert q.drain() == list(range(11))


class Interrupted(Exception):
    pass


def test_an_interrupt_at_any_moment_of_a_put_leaves_it_whole_or_not_at_all(make: Make) -> None:
    q = make(slots=2, slot_size=64, overflow="grow", oversize="spill")
    big, chance, done = b"x" * 1000, random.Random(1), [0, 0]

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(400):
            fill(q, 4)
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.random() * 100e-6 + 1e-6)
                q.put(big, block=False)
                time.sleep(0.01)
            except Interrupted:
                pass
            got = q.drain()
            assert got in ([0, 1, 2, 3], [0, 1, 2, 3, big])
            done[got[-1] == big] += 1
            assert q._side_keys() | keys_in_backlog(q) == set()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert done[True] > 0


def test_a_death_between_two_words_is_repaired_by_the_next(q: shmq.Queue) -> None:
    fill(q, 10)
    with log_of(q).open("r+b") as log:
        log.seek(16)
        log.write((1).to_bytes(8, "little"))  # at work
    np.frombuffer(q.segment.memory, "u8")[408 // 8] += 1  # counted, and the tail not moved; or the head moved, and not counted
    assert q.drain() == list(range(10))
    assert q.empty() and q.qsize() == 0


def take_until_empty(queue: shmq.Queue, told: shmq.Queue, how: str) -> None:
    taken, false = 0, 0
    while True:
        try:
            if how == "get":
                queue.get_nowait()
                taken += 1
            elif how == "get_many":
                taken += len(queue.get_many(5, timeout=0))
            elif how == "drain":
                taken += len(queue.drain())
                raise shmq.Empty
            else:
                taken += queue.purge()
                raise shmq.Empty
        except shmq.Empty:
            if queue.qsize() == 0:  # nobody puts any more: when one is told Empty, all have been taken
                break
            false += 1
    told.put((taken, false))


@pytest.mark.parametrize("how", ["get", "get_many", "drain", "purge"])
@pytest.mark.parametrize("slots", [1, 4, 64])
def test_consumers_of_one_backlog_are_never_told_empty_while_messages_wait(
    make: Make, children: Children, how: str, slots: int
) -> None:
    queue, told, count = make(slots=slots, overflow="grow"), make(), 6_000
    for number in range(count):
        queue.put(number)
    for _ in range(4):
        children.start(take_until_empty, queue, told, how)
    children.join()
    counts = told.drain()
    assert sum(taken for taken, _ in counts) == count
    assert [false for _, false in counts] == [0] * 4


# -- who comes in between ----------------------------------------------------------------------------------------------------


def test_collectors_that_put_at_any_moment_of_a_put_wait_for_nobody(make: Make) -> None:
    """CPython's test of re-entry is in tests/borrowed; here the ring is full, and messages go to the log and come back."""
    q = make(slots=2, slot_size=64, overflow="grow", oversize="spill")
    numbers, before = iter(range(10**9)), gc.get_threshold()

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            q.put((next(numbers), "x" * 100), block=False)

    gc.set_threshold(2)
    got: list[int] = []
    try:
        for _ in range(1_500):
            Cycle()
            q.put((next(numbers), "x" * 100), block=False)
            if len(got) % 7 == 0:
                got.append(q.get(timeout=LONG)[0])
            else:
                got += [number for number, _ in q.get_many(3, timeout=LONG)]
            if len(got) % 50 == 0:
                q.peek(5)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    got += [number for number, _ in q.drain()]
    assert sorted(got) == list(range(next(numbers)))
    shmq.verify(q)


def test_signal_handlers_that_put_at_any_moment_of_a_put_wait_for_nobody(make: Make) -> None:
    q = make(slots=2, slot_size=64, overflow="grow")
    from_handler, put = 0, 0

    def handler(*_: object) -> None:
        nonlocal from_handler
        from_handler += 1
        q.put(("handler", from_handler), block=False)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        until = time.monotonic() + 1.0
        got = []
        while time.monotonic() < until:
            q.put(("loop", put), block=False)
            put += 1
            if put % 3 == 0:
                got.append(q.get(timeout=LONG))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    got += q.drain()
    assert from_handler > 10
    assert [number for who, number in got if who == "loop"] == list(range(put))
    # A handler is interrupted by the next signal, too, before it puts its number.
    assert sorted(number for who, number in got if who == "handler") == list(range(1, from_handler + 1))


def test_threads_that_put_and_take_large_messages_share_one_handle(make: Make) -> None:
    q = make(slots=2, slot_size=1 << 17, overflow="grow")
    payloads = [bytes([number]) * (1 << 17) for number in range(4)]

    def put(payload: bytes) -> None:
        for _ in range(30):
            q.put(payload)

    threads = [threading.Thread(target=put, args=(payload,)) for payload in payloads]
    for thread in threads:
        thread.start()
    got = [q.get(timeout=LONG) for _ in range(120)]
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(payloads * 30)


def test_a_child_that_is_forked_while_a_thread_appends_goes_on_with_the_log(make: Make, children: Children) -> None:
    q = make(slots=2, slot_size=1 << 16, overflow="grow")
    stop = threading.Event()

    def put() -> None:
        while not stop.is_set():
            q.put(b"x" * (1 << 16), block=False)
            if q.qsize() > 50:
                q.get_many(40)

    thread = threading.Thread(target=put)
    thread.start()
    try:
        for number in range(8):
            child = children.start(q.put, f"child {number}")
            child.join(LONG)
    finally:
        stop.set()
        thread.join()
    children.join()
    assert q.drain() != []
    shmq.verify(q)


# -- a holder of the lock that is stopped ------------------------------------------------------------------------------------


def stop_at_work(queue: shmq.Queue) -> None:
    while not _core.try_lock(queue.segment.nonce ^ 0x6C6F67):  # backlog_lock in growing.pxi
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGSTOP)
    _core.unlock(queue.segment.nonce ^ 0x6C6F67)
    queue.put("from the stopped one")


def test_others_take_from_the_ring_while_somebody_is_stopped_at_the_backlog(q: shmq.Queue, children: Children) -> None:
    fill(q, 6)
    process = children.start(stop_at_work, q)
    wait_until(lambda: is_stopped(process.pid))
    assert [q.get_nowait() for _ in range(4)] == [0, 1, 2, 3]
    for get in (lambda: q.get(timeout=0.1), q.get_nowait, q.get_nowait, lambda: q.get_many(3, timeout=0)):
        with pytest.raises(shmq.Empty, match=r"2 messages wait in the backlog .* is it stopped"):
            get()
    with pytest.raises(shmq.Full, match="is it stopped"):
        q.put_nowait("x")
    os.kill(process.pid, signal.SIGCONT)
    assert [q.get(timeout=LONG) for _ in range(3)] == [4, 5, "from the stopped one"]
    children.join()


def test_a_batch_keeps_to_its_timeout_while_somebody_is_stopped_at_the_backlog(q: shmq.Queue, children: Children) -> None:
    fill(q, 4)
    process = children.start(stop_at_work, q)
    wait_until(lambda: is_stopped(process.pid))
    with pytest.raises(shmq.Full, match="is it stopped"):
        q.put_many(["x", "y"], timeout=0.1)
    assert q.drain() == [0, 1, 2, 3]
    assert q.put_many(range(9), timeout=0.1) == 4  # what there was room for
    os.kill(process.pid, signal.SIGCONT)
    assert [q.get(timeout=LONG) for _ in range(5)] == [0, 1, 2, 3, "from the stopped one"]
    children.join()


def test_the_lock_of_a_killed_one_is_free(q: shmq.Queue, children: Children) -> None:
    fill(q, 6)
    process = children.start(stop_at_work, q)
    wait_until(lambda: is_stopped(process.pid))
    process.kill()
    process.join()
    children.started.clear()
    q.put(6)
    assert [q.get(timeout=LONG) for _ in range(7)] == list(range(7))
