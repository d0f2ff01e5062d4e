"""A queue in select, selectors and the event loops of others: `Queue.fileno()`."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import selectors
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import shmq
from shmq._waiting import fileno
from shmq._waiting.bell import ITEMS
from support.forked import succeeded
from support.processes import Children, receive_and_stay, wait_until

Make = Callable[..., shmq.Queue]
LONG = 60.0


@pytest.fixture
def queue(make: Make) -> shmq.Queue:
    return make(slots=64, slot_size=64, in_flight=16, ports=8)


@pytest.fixture
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by the clock: what is rung, is rung by a publisher or by a get."""
    monkeypatch.setattr(fileno, "watch", lambda readable: None)


def is_readable(queue: shmq.Queue, seconds: float = 0) -> bool:
    return select.select([queue], [], [], seconds)[0] == [queue]


@pytest.mark.usefixtures("no_clock")
@pytest.mark.parametrize(
    "take",
    [
        shmq.Queue.get_nowait,
        lambda queue: queue.receive(0).ack(),
        lambda queue: queue.get(timeout=0.001),
        lambda queue: queue.get_many(1, timeout=0),
    ],
    ids=["get_nowait", "receive", "get", "get_many"],
)
def test_it_is_readable_from_a_message_until_a_call_finds_nothing(queue: shmq.Queue, take: Callable[[shmq.Queue], Any]) -> None:
    assert not is_readable(queue)
    for _ in range(3):
        queue.put(1)
        queue.put(2)
        assert is_readable(queue) and is_readable(queue)
        take(queue)
        assert is_readable(queue)
        take(queue)
        assert is_readable(queue)  # nobody has looked yet
        with pytest.raises(shmq.Empty):
            take(queue)
        assert not is_readable(queue)


@pytest.mark.usefixtures("no_clock")
def test_what_was_there_before_the_first_call_is_told(queue: shmq.Queue) -> None:
    queue.put(1)
    assert is_readable(queue)


@pytest.mark.usefixtures("no_clock")
def test_that_a_call_has_taken_all_messages_is_found_out_by_the_next_look(queue: shmq.Queue) -> None:
    queue.fileno()
    queue.put_many(range(5))
    assert queue.drain() == list(range(5))
    with pytest.raises(shmq.Empty):
        queue.get_nowait()
    assert not is_readable(queue)
    queue.put(1)
    assert is_readable(queue)


@pytest.mark.usefixtures("no_clock")
def test_it_is_the_same_descriptor_until_the_handle_is_closed(queue: shmq.Queue) -> None:
    number = queue.fileno()
    assert queue.fileno() == number
    queue.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    with pytest.raises(shmq.Closed):
        queue.fileno()


def test_a_handle_that_is_dropped_takes_its_descriptor_with_it(queue: shmq.Queue) -> None:
    other = shmq.Queue.attach(queue.name)
    number = other.fileno()
    del other
    gc.collect()
    wait_until(lambda: gone(number))
    assert queue.stats().ports == 1


def gone(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


@pytest.mark.usefixtures("no_clock")
def test_a_queue_that_was_shut_down_is_readable_for_good(queue: shmq.Queue) -> None:
    assert not is_readable(queue)
    queue.shutdown()
    for _ in range(3):
        assert is_readable(queue)
        with pytest.raises(shmq.ShutDown):
            queue.get_nowait()


def put_numbers(queue: shmq.Queue, first: int, count: int) -> None:
    for number in range(first, first + count):
        queue.put(number, timeout=LONG)


def take_all(queue: shmq.Queue, results: shmq.Queue, one_at_a_time: bool) -> None:
    """As an event loop does it: until it is told that there is no more."""
    with selectors.DefaultSelector() as selector:
        selector.register(queue, selectors.EVENT_READ)
        while True:
            assert selector.select(LONG), "nobody rang"
            try:
                while True:
                    results.put(queue.get_nowait())
                    if one_at_a_time:
                        break
            except shmq.Empty:
                pass
            except shmq.ShutDown:
                selector.unregister(queue)
                return


@pytest.mark.parametrize("one_at_a_time", [True, False])
def test_several_loops_take_every_message_of_several_producers_once(make: Make, children: Children, one_at_a_time: bool) -> None:
    queue, results = make(slots=8, slot_size=64, in_flight=8), make(slots=4096, slot_size=64)
    takers = [children.start(take_all, queue, results, one_at_a_time) for _ in range(2)]
    putters = [children.start(put_numbers, queue, 1000 * n, 500) for n in range(2)]
    for putter in putters:
        putter.join(LONG)
    queue.shutdown()
    for taker in takers:
        taker.join(LONG)
    children.join()
    assert sorted(results.drain()) == [1000 * n + i for n in range(2) for i in range(500)]


def test_a_forked_child_has_its_own_descriptor_and_clears_nothing_of_its_parent(queue: shmq.Queue) -> None:
    number = queue.fileno()
    queue.put("for the parent")

    def take_and_put_more() -> None:
        assert queue.get_nowait() == "for the parent"
        for _ in range(2):
            with pytest.raises(shmq.Empty):
                queue.get_nowait()
        assert queue.fileno() != number and not is_readable(queue)
        queue.put("more")
        assert is_readable(queue, LONG)

    assert succeeded(take_and_put_more)
    assert is_readable(queue) and queue.fileno() == number
    assert queue.get_nowait() == "more"


def test_what_a_killed_process_held_makes_it_readable(queue: shmq.Queue, make: Make, children: Children) -> None:
    queue.fileno()
    ready = make(slots=4, slot_size=64)
    child = children.start(receive_and_stay, queue, ready)
    queue.put("held")
    assert ready.get(timeout=LONG)
    with pytest.raises(shmq.Empty):
        queue.get_nowait()
    assert not is_readable(queue)
    child.kill()
    assert is_readable(queue, LONG)
    assert queue.receive(0).data == "held"
    children.kill()


def test_a_message_that_rests_makes_it_readable_when_it_is_due(queue: shmq.Queue) -> None:
    queue.fileno()
    queue.put("x")
    queue.receive(0).nack(delay=0.3)
    with pytest.raises(shmq.Empty):
        queue.get_nowait()
    assert not is_readable(queue)
    begun = time.monotonic()
    assert is_readable(queue, LONG)
    assert time.monotonic() - begun > 0.1
    assert queue.get_nowait() == "x"


def test_a_ring_that_was_lost_with_who_rang_is_made_up_for(queue: shmq.Queue) -> None:
    queue.fileno()
    queue._readable.handle._disarm(ITEMS)  # as one who claims the bell, and is killed before it rings
    queue.put("x")
    assert is_readable(queue, LONG)


@pytest.mark.usefixtures("no_clock")
def test_one_that_is_told_and_closed_leaves_the_message_to_another(queue: shmq.Queue) -> None:
    handles = [shmq.Queue.attach(queue.name) for _ in range(2)]
    for handle in handles:
        handle.fileno()
    queue.put("x")
    (told,), _, _ = select.select(handles, [], [], 0)
    told.close()
    handles.remove(told)
    assert is_readable(handles[0])
    assert handles[0].get_nowait() == "x"
    handles[0].close()


def test_an_event_loop_of_others_takes_it_as_a_reader(queue: shmq.Queue) -> None:
    got: list[Any] = []

    async def main() -> None:
        loop, enough = asyncio.get_running_loop(), asyncio.Event()

        def ready() -> None:
            try:
                got.append(queue.get_nowait())
            except shmq.Empty:
                return
            if len(got) == 10:
                enough.set()

        loop.add_reader(queue, ready)
        thread = threading.Thread(target=put_numbers, args=(queue, 0, 10))
        thread.start()
        await asyncio.wait_for(enough.wait(), LONG)
        loop.remove_reader(queue)
        thread.join()

    asyncio.run(main())
    assert got == list(range(10))


@pytest.mark.usefixtures("no_clock")
def test_a_producer_rings_once_and_not_for_every_message(queue: shmq.Queue) -> None:
    number = queue.fileno()
    queue.put_many(range(50))
    assert os.read(number, 100) == b"\0"
