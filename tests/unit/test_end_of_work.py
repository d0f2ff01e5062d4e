"""task_done and join, shutdown: when the work is done, and when no more is to come."""

from __future__ import annotations

import asyncio
import os
import queue as standard
import signal
import sys
import threading
import time
from collections.abc import Callable

import pytest

import shmq
from support.processes import receive_and_stay, wait_until
from support.shared_memory import PREFIX

Make = Callable[..., shmq.Queue]
LONG = 30.0
DONE_WAITERS = 400  # of the header: format/queue.h

# -- join ----------------------------------------------------------------------------------------------------------------


def test_an_empty_queue_is_done(queue):
    assert queue.join(0) and queue.join(LONG) and queue.join()


def test_a_message_that_waits_is_not_done(queue):
    queue.put(1)
    assert not queue.join(0)
    assert not queue.join(0.05)


def test_a_message_that_get_took_is_done_by_task_done(queue):
    queue.put(1)
    queue.get()
    assert not queue.join(0)
    queue.task_done()
    assert queue.join(0)


def test_messages_taken_in_a_batch_count_each(queue):
    queue.put_many([1, 2, 3])
    queue.get_many(3)
    for left in (2, 1, 0):
        queue.task_done()
        assert queue._unfinished() == left


def test_task_done_without_a_get_is_refused(queue):
    with pytest.raises(ValueError, match="more often than get"):
        queue.task_done()
    queue.put(1)
    with pytest.raises(ValueError):
        queue.task_done()
    queue.receive().ack()
    with pytest.raises(ValueError):  # an ack has said it
        queue.task_done()


def test_a_lease_is_done_by_its_ack_and_not_before(queue):
    queue.put(1)
    lease = queue.receive()
    assert not queue.join(0)
    lease.ack()
    assert queue.join(0)


def test_a_message_that_came_back_and_rests_is_not_done(queue):
    queue.put(1)
    queue.receive().nack(delay=0.2)
    assert not queue.join(0)
    queue.receive(timeout=LONG).ack()
    assert queue.join(0)


def test_a_dead_letter_and_a_purged_message_are_done(queue):
    queue.put_many([1, 2])
    queue.receive().reject("hopeless")
    assert not queue.join(0)
    queue.purge()
    assert queue.join(0)


@pytest.mark.parametrize("how", ["task_done", "ack", "reject", "purge"])
def test_a_join_is_woken_by_the_last_step(queue, how):
    queue.put(1)
    lease = queue.receive() if how in ("ack", "reject") else None
    if how == "task_done":
        queue.get()
    step = getattr(queue if lease is None else lease, how)
    joined = threading.Thread(target=queue.join)
    joined.start()
    wait_until(lambda: queue.segment and queue._listening_handles.own_is_free is False)
    step()
    joined.join(LONG)
    assert not joined.is_alive()


@pytest.mark.parametrize("how", ["task_done", "ack"])
def test_a_join_whose_time_is_over_costs_one_step_of_others_and_no_more(queue, how):
    queue.put(1)
    stays = queue.receive()
    assert not queue.join(0.001)
    assert someone_is_said_to_join(queue)
    queue.put(2)
    if how == "ack":
        queue.receive().ack()
    else:
        queue.get()
        queue.task_done()
    assert not someone_is_said_to_join(queue)
    stays.ack()
    assert queue.join(0)


def someone_is_said_to_join(queue: shmq.Queue) -> bool:
    with open(f"/dev/shm/{PREFIX}{queue.name}", "rb") as file:
        file.seek(DONE_WAITERS)
        return int.from_bytes(file.read(4), "little") != 0


def work(queue: shmq.Queue, leased: bool) -> None:
    for _ in range(50):
        if leased:
            with queue.receive(timeout=LONG):
                pass
        else:
            queue.get(timeout=LONG)
            queue.task_done()


@pytest.mark.parametrize("leased", [False, True], ids=["get and task_done", "receive and ack"])
def test_join_waits_for_the_work_of_other_processes(make, any_children, leased):
    queue = make(slots=16)
    for _ in range(2):
        any_children.start(work, queue, leased)
    for number in range(100):
        queue.put(number)
    assert queue.join(LONG)
    assert queue._unfinished() == 0 and queue.empty()
    any_children.join()


def test_what_a_killed_holder_leased_is_not_done_until_another_has_done_it(make, children):
    queue, ready = make(), make()
    queue.put(1)
    children.start(receive_and_stay, queue, ready)
    os.kill(ready.get(timeout=LONG), signal.SIGKILL)
    assert not queue.join(0.3)
    queue.receive(timeout=LONG).ack()
    assert queue.join(LONG)
    children.kill()


def test_joining_a_closed_queue_is_refused(queue):
    queue.close()
    with pytest.raises(shmq.Closed):
        queue.join(0)
    with pytest.raises(shmq.Closed):
        queue.task_done()


def test_counts_of_a_handle_that_was_closed_are_not_lost(make):
    queue = make()
    queue.put_many([1, 2])
    other = shmq.Queue.attach(queue.name)
    other.get()
    other.close()
    queue.get()
    assert queue._unfinished() == 2
    queue.task_done()
    queue.task_done()
    assert queue.join(0)


# -- shutdown --------------------------------------------------------------------------------------------------------------


def test_after_a_shutdown_nothing_goes_in(queue):
    queue.put("before")
    loan = queue.loan(8)
    queue.shutdown()
    for put in (queue.put, queue.put_nowait, lambda obj: queue.put_many([obj]), lambda obj: queue.put(obj, timeout=LONG)):
        with pytest.raises(shmq.ShutDown, match="was shut down: no message goes in any more"):
            put("after")
    with pytest.raises(shmq.ShutDown):
        loan.publish()
    loan.abandon()
    assert queue.qsize() == 1


def test_what_was_in_it_is_taken_and_then_get_raises(queue):
    queue.put_many([1, 2, 3])
    queue.shutdown()
    assert queue.get() == 1
    assert queue.receive().data == 2  # dropped: it comes back
    assert queue.get() == 2
    assert queue.get_many(5) == [3]
    for get in (queue.get, queue.get_nowait, queue.receive, lambda: queue.get_many(2), lambda: queue.get(timeout=LONG)):
        with pytest.raises(shmq.ShutDown, match="it is empty"):
            get()


def test_a_loop_over_a_queue_that_was_shut_down_ends(queue):
    queue.put_many([1, 2, 3])
    queue.shutdown()
    assert [lease.data for lease in queue] == [1, 2, 3]
    assert [lease.data for lease in queue.consume(prefetch=2)] == []


def test_after_a_shutdown_a_loop_waits_for_what_rests(queue):
    queue.put_many(["first", "second"])
    queue.shutdown()
    seen = []
    for lease in queue:
        seen.append((lease.data, lease.delivery_count))
        if len(seen) == 1:
            lease.nack(delay=0.05)
    assert seen == [("first", 1), ("second", 1), ("first", 2)]


def test_after_a_shutdown_get_waits_for_what_rests(queue):
    queue.put("it")
    queue.receive().nack(delay=0.1)
    queue.shutdown()
    with pytest.raises(shmq.Empty):
        queue.get_nowait()
    with pytest.raises(shmq.Empty):
        shmq.wait_any([queue], timeout=0)
    assert shmq.wait_any([queue], timeout=LONG) is queue
    assert queue.get() == "it"
    for get in (queue.get, queue.get_nowait, queue.receive):
        with pytest.raises(shmq.ShutDown):
            get()
    assert shmq.wait_any([queue], timeout=LONG) is queue  # get says what


def test_an_immediate_shutdown_throws_away_what_rests(queue):
    queue.put("it")
    queue.receive().nack(delay=LONG)
    queue.shutdown(immediate=True)
    with pytest.raises(shmq.ShutDown):
        queue.get()
    assert queue.join(0)


def loop_to_the_end(queue: shmq.Queue, prefetch: int) -> list[tuple[object, int]]:
    return [(lease.data, lease.delivery_count) for lease in queue.consume(prefetch)]


def loop_to_the_end_in_asyncio(queue: shmq.Queue, prefetch: int) -> list[tuple[object, int]]:
    async def main() -> list[tuple[object, int]]:
        return [(lease.data, lease.delivery_count) async for lease in queue.consume(prefetch)]

    return asyncio.run(main())


@pytest.mark.parametrize("loop", [loop_to_the_end, loop_to_the_end_in_asyncio])
@pytest.mark.parametrize("prefetch", [1, 4])
def test_a_loop_waits_for_what_another_process_holds_and_may_lose(make, children, loop, prefetch):
    queue, ready = make(), make()
    queue.put("of the dead")
    holder = children.start(receive_and_stay, queue, ready)
    assert ready.get(timeout=LONG)
    queue.put("in the ring")
    queue.shutdown()

    def kill() -> None:
        wait_until(lambda: queue.stats().acks == 1)
        time.sleep(0.2)  # it has begun to wait, most likely
        holder.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    assert loop(queue, prefetch) == [("in the ring", 1), ("of the dead", 2)]
    thread.join()
    children.kill()


def test_get_does_not_wait_for_what_another_process_holds(make, children):
    """Consumers that collect leases until the end would wait for one another."""
    queue, ready = make(), make()
    queue.put("held")
    children.start(receive_and_stay, queue, ready)
    assert ready.get(timeout=LONG)
    queue.shutdown()
    for get in (queue.get, queue.receive, lambda: queue.get_many(2)):
        with pytest.raises(shmq.ShutDown):
            get()
    children.kill()


def test_a_loop_does_not_wait_for_what_its_own_process_holds(queue):
    queue.put_many(["mine", "next"])
    with shmq.Queue.attach(queue.name) as other:
        lease, another = queue.receive(), other.receive()
        queue.shutdown()
        assert [lease.data for lease in queue] == []
        lease.ack()
        another.ack()


def work_to_the_end(queue: shmq.Queue, told: shmq.Queue) -> None:
    for lease in queue:
        told.put(lease.data)
        if lease.delivery_count < 3:
            lease.nack(delay=0.01 * lease.delivery_count)


def test_when_all_loops_have_ended_all_work_is_done(make, children):
    queue, told = make(slots=64), make()
    for _ in range(4):
        children.start(work_to_the_end, queue, told)
    queue.put_many(list(range(40)))
    queue.shutdown()
    children.join()
    assert sorted(told.drain()) == sorted([*range(40)] * 3)
    assert queue.join(0)


def test_an_immediate_shutdown_throws_away_what_waits(queue):
    queue.put_many([1, 2, 3])
    lease = queue.receive()
    queue.shutdown(immediate=True)
    with pytest.raises(shmq.ShutDown):
        queue.get()
    assert not queue.join(0)  # what is leased is somebody's
    lease.ack()
    assert queue.join(0)


def test_a_second_shutdown_changes_nothing_and_an_immediate_one_may_follow(queue):
    queue.put(1)
    queue.shutdown()
    queue.shutdown()
    assert queue.qsize() == 1
    queue.shutdown(immediate=True)
    assert queue.qsize() == 0


def test_the_shutdown_is_every_process_s_and_outlives_its_caller(queue):
    queue.shutdown()
    with shmq.Queue.attach(queue.name) as other, pytest.raises(shmq.ShutDown):
        other.put(1)


def get_until_the_end(queue: shmq.Queue, told: shmq.Queue) -> None:
    try:
        queue.get()
    except shmq.ShutDown:
        told.put("get")


def put_until_the_end(queue: shmq.Queue, told: shmq.Queue) -> None:
    try:
        while True:
            queue.put(0)
    except shmq.ShutDown:
        told.put("put")


@pytest.mark.parametrize("waits", [get_until_the_end, put_until_the_end])
def test_those_that_wait_in_other_processes_are_woken(make, children, waits):
    queue, told = make(slots=2), make()
    for _ in range(3):
        children.start(waits, queue, told)
    wait_until(lambda: sum(queue._waiters()) == 3)
    queue.shutdown()
    assert [told.get(timeout=LONG) for _ in range(3)] == [waits.__name__[:3]] * 3
    children.join()


def test_the_error_is_that_of_the_standard_library_where_it_has_one():
    assert issubclass(shmq.ShutDown, shmq.ShmqError)
    if sys.version_info >= (3, 13):
        assert issubclass(shmq.ShutDown, standard.ShutDown)


def test_a_closed_handle_cannot_be_shut_down(queue):
    queue.close()
    with pytest.raises(shmq.Closed):
        queue.shutdown()
