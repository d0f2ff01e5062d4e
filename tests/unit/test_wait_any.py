"""Waiting for the first of several queues, and for descriptors beside them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shmq
from shmq._waiting.bell import wait_many
from support.processes import receive_and_stay, wait_until
from support.shared_memory import PREFIX

Make = Callable[..., shmq.Queue]
SHM = Path("/dev/shm")
LONG = 30.0


@pytest.fixture
def several(make: Make) -> list[shmq.Queue]:
    return [make(slots=4, slot_size=64) for _ in range(3)]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def bells_of(queue: shmq.Queue) -> list[str]:
    return [file.name for file in SHM.iterdir() if file.name.startswith(f"{PREFIX}{queue.name}+") and file.name.endswith(".bell")]


def put_later(queue: shmq.Queue, obj: object) -> None:
    time.sleep(0.1)
    queue.put(obj)


def test_the_queue_that_has_a_message_is_returned_and_nothing_is_taken(several):
    several[1].put("here")
    assert shmq.wait_any(several, timeout=LONG) is several[1]
    assert several[1].get_nowait() == "here"


def test_of_two_that_have_something_the_first_in_the_order_given_is_returned(several):
    several[2].put(2)
    several[0].put(0)
    assert shmq.wait_any(reversed(several)) is several[2]


def test_a_put_in_another_process_wakes_who_waits_for_several(several, any_children):
    any_children.start(put_later, several[2], "from afar")
    assert shmq.wait_any(several, timeout=LONG) is several[2]
    assert several[2].get_nowait() == "from afar"
    any_children.join()


def test_without_a_message_the_time_out_is_empty_and_is_kept(several):
    begun = time.monotonic()
    with pytest.raises(shmq.Empty, match=r"none of 3 queues has a message after 0\.15 s"):
        shmq.wait_any(several, timeout=0.15)
    assert time.monotonic() - begun >= 0.15
    with pytest.raises(shmq.Empty):
        shmq.wait_any(several, timeout=0)
    with pytest.raises(shmq.Empty):
        shmq.wait_any(several, timeout=-1)


@pytest.mark.parametrize("timeout", ["1", b"1", float("nan")])
def test_what_is_no_time_out_is_refused(several, timeout):
    with pytest.raises((TypeError, ValueError)):
        shmq.wait_any(several, timeout=timeout)


def test_waiting_for_no_queue_is_refused_at_once():
    with pytest.raises(ValueError, match="wait for ever"):
        shmq.wait_any([])


def test_a_message_that_comes_back_is_one(several):
    several[1].put("again")
    lease = several[1].receive()
    threading.Timer(0.1, lease.nack, [0]).start()
    assert shmq.wait_any(several, timeout=LONG) is several[1]
    assert several[1].receive(0).delivery_count == 2


def test_a_message_that_rests_is_one_when_it_is_due(several):
    several[0].put("rested")
    several[0].receive().nack(delay=0.2)
    begun = time.monotonic()
    assert shmq.wait_any(several, timeout=LONG) is several[0]
    assert time.monotonic() - begun >= 0.15
    several[0].receive(0).ack()


def test_a_lease_whose_time_is_over_is_one(make):
    queue, other = make(lease_timeout=0.15), make()
    queue.put("late")
    held = queue.receive()
    assert shmq.wait_any([other, queue], timeout=LONG) is queue
    queue.receive(0).ack()
    with pytest.raises(shmq.LeaseLost):
        held.ack()


def test_what_a_killed_process_held_is_one(make, children):
    queue, other, ready = make(), make(), make()
    queue.put("of the dead")
    children.start(receive_and_stay, queue, ready)
    os.kill(ready.get(timeout=LONG), signal.SIGKILL)
    assert shmq.wait_any([other, queue], timeout=LONG) is queue
    queue.receive(0).ack()
    children.kill()


def test_a_queue_that_was_shut_down_counts_as_one_that_has_something(several):
    threading.Timer(0.1, several[1].shutdown).start()
    assert shmq.wait_any(several, timeout=LONG) is several[1]
    with pytest.raises(shmq.ShutDown):
        several[1].get()


def test_a_closed_queue_cannot_be_waited_for(several):
    several[2].close()
    with pytest.raises(shmq.Closed):
        shmq.wait_any(several, timeout=LONG)
    assert several[0]._waiters() == several[1]._waiters() == (0, 0)


def test_a_readable_descriptor_ends_the_wait_beside_the_queues(several, pipe):
    threading.Timer(0.1, os.write, [pipe[1], b"x"]).start()
    assert wait_many(several, LONG, [pipe[0]]) == ([], [pipe[0]])
    several[0].put(1)
    assert wait_many(several, LONG, [pipe[0]]) == ([several[0]], [pipe[0]])


def test_descriptors_alone_can_be_waited_for_and_so_can_nothing_at_all(pipe):
    assert wait_many([], 0.01, [pipe[0]]) == ([], [])
    assert wait_many([], 0.01) == ([], [])


def test_a_task_that_waited_leaves_no_bell_armed(several):
    with pytest.raises(shmq.Empty):
        shmq.wait_any(several, timeout=0.05)
    assert [queue._waiters() for queue in several] == [(0, 0)] * 3


def test_a_ring_that_was_not_needed_is_passed_on(make, children):
    """Two wait; one is told of the message, and leaves without it: the other is told."""
    queue, other, told = make(), make(), make()
    queue_listener = shmq._waiting.bell.Listener(queue)
    queue_listener.arm(0)
    children.start(tell_what_came, queue, other, told)
    wait_until(lambda: queue._waiters()[0] == 2)
    while queue._disarm(0):  # until the other one is the next to be rung, then ours
        break
    queue_listener.arm(0)
    queue.put("for whoever takes it")
    queue_listener.close()
    assert told.get(timeout=LONG) == "for whoever takes it"
    children.join()


def tell_what_came(queue: shmq.Queue, other: shmq.Queue, told: shmq.Queue) -> None:
    assert shmq.wait_any([other, queue], timeout=LONG) is queue
    told.put(queue.get_nowait())


def test_threads_that_wait_at_one_handle_are_each_woken(make):
    queue, other = make(), make()
    came: list[object] = []

    def wait() -> None:
        while True:
            try:
                came.append(shmq.wait_any([other, queue], timeout=LONG).get_nowait())
            except shmq.Empty:
                continue
            return

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: queue._waiters()[0] == 4)
    for number in range(4):
        queue.put(number)
    for thread in threads:
        thread.join(LONG)
    assert sorted(came) == [0, 1, 2, 3]
    assert queue.stats().ports == 2  # each listened at a port of its own, and keeps one for the next wait
    queue.close()
    assert bells_of(queue) == []


def test_a_bell_goes_with_its_handle(make):
    queue = make()
    with pytest.raises(shmq.Empty):
        shmq.wait_any([queue], timeout=0.01)
    assert len(bells_of(queue)) == 1
    queue.close()
    assert bells_of(queue) == []


def wait_and_be_killed(queue: shmq.Queue) -> None:
    shmq.wait_any([queue], timeout=LONG)


def test_a_killed_listener_leaves_no_bell_and_its_ring_goes_to_the_next(make, children):
    queue, told = make(), make()
    dead = children.start(wait_and_be_killed, queue)
    wait_until(lambda: bells_of(queue) and queue._waiters()[0] == 1)
    os.kill(dead.pid, signal.SIGKILL)
    dead.join()
    children.started.clear()
    children.start(tell_what_came, queue, make(), told)
    wait_until(lambda: queue._waiters()[0] >= 1)
    queue.put("there")
    assert told.get(timeout=LONG) == "there"
    children.join()
    queue._reap()
    assert bells_of(queue) == []


def test_a_forked_child_has_a_bell_of_its_own(make, children):
    queue, other, told = make(), make(), make()
    with pytest.raises(shmq.Empty):
        shmq.wait_any([other, queue], timeout=0.01)  # the parent's bells are made
    children.start(tell_what_came, queue, other, told)
    wait_until(lambda: queue._waiters()[0] == 1)
    queue.put("for the child")
    assert told.get(timeout=LONG) == "for the child"
    children.join()
    queue.put("for the parent")
    assert shmq.wait_any([other, queue], timeout=LONG) is queue


def test_something_else_under_the_name_of_a_bell_does_no_harm(make):
    queue = make()
    path = Path(f"{queue.segment.path_prefix}.0.bell")
    path.write_text("not a bell")
    with pytest.raises(shmq.Empty):
        shmq.wait_any([queue], timeout=0.01)  # whatever was there is replaced
    assert path.is_fifo()
    path.unlink()
    path.symlink_to("/etc/passwd")
    queue._arm(0)
    queue.put(1)  # cannot ring, and does not follow
    assert shmq.wait_any([queue], timeout=LONG) is queue
    queue.close()
    assert not path.is_symlink()
