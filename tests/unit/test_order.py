"""What comes back is delivered in the order in which it was put, before anything newer."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

import shmq
from support.processes import Children, wait_until

Make = Callable[..., shmq.Queue]


class Fickle:
    """Cannot be unpickled the first time."""

    def __init__(self, number: int, path: str) -> None:
        self.state = number, path

    def __reduce__(self) -> tuple[Any, ...]:
        return unpickled, self.state


def unpickled(number: int, path: str) -> int:
    if os.path.exists(path):
        os.unlink(path)
        raise RuntimeError("not yet")
    return number


@pytest.mark.parametrize("stop", [3, 124, 144, 145, 146, 150, 991])
@pytest.mark.parametrize("prefetch", [1, 8, 50])
def test_a_loop_that_is_left_gives_its_messages_back_in_their_order(make: Make, prefetch: int, stop: int) -> None:
    queue = make(slots=1024)
    queue.put_many(list(range(1000)))
    for lease in queue.consume(prefetch=prefetch):
        if lease.data == stop:
            break
    assert queue.drain() == list(range(stop + 1, 1000))


@pytest.mark.parametrize("slot_size", [64, 8192])
def test_leases_of_two_consumers_come_back_in_the_order_of_their_messages(make: Make, slot_size: int) -> None:
    queue, chance = make(slots=16, slot_size=slot_size, in_flight=40), random.Random(1)
    with shmq.Queue.attach(queue.name) as other:
        leases = []
        for number in range(40):  # more than a lap of the ring
            queue.put(number)
            leases.append(chance.choice([queue, other]).receive(timeout=0))
        queue.put("newer")
        again = []
        for _ in range(3):  # however often they come back
            chance.shuffle(leases)
            for lease in leases:
                chance.choice([lease.nack, lease.release])()
            leases = [chance.choice([queue, other]).receive(timeout=0) for _ in range(40)]
            again.append([lease.data for lease in leases])
        assert again == [list(range(40))] * 3
        for lease in leases:
            lease.ack()
    assert queue.drain() == ["newer"]


def test_a_batch_that_could_not_be_decoded_comes_back_in_its_order(make: Make, tmp_path: Any) -> None:
    queue, flag = make(slots=16), tmp_path / "flag"
    flag.touch()
    queue.put_many([0, 1, Fickle(2, str(flag)), 3, 4])
    with pytest.raises(RuntimeError, match="not yet"):
        queue.get_many(5, timeout=0)
    assert [queue.get(timeout=0) for _ in range(5)] == list(range(5))


def hold(name: str, count: int) -> None:
    queue = shmq.Queue.attach(name)
    leases = [queue.receive(timeout=5) for _ in range(count)]
    for lease in leases:
        assert lease.data is not None
    time.sleep(600)


def test_what_a_killed_consumer_held_comes_back_in_its_order(make: Make, children: Children) -> None:
    queue = make(slots=64)
    for number in range(30):  # so that its cells are somewhere
        queue.put(number)
        queue.receive(timeout=0).ack()
    queue.put_many(list(range(20)))
    holder = children.start(hold, queue.name, 12)
    wait_until(lambda: queue.stats().leased == 12)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert queue._reap() == 1  # otherwise its death is noticed within 0.1 s, and what is in the ring is taken meanwhile
    assert [queue.get(timeout=5) for _ in range(20)] == list(range(20))
    children.started.clear()


def test_messages_that_rest_come_in_their_order_once_they_are_due(make: Make) -> None:
    queue = make(slots=64)
    queue.put_many(list(range(8)))
    leases = queue.receive_many(6, timeout=0)
    for lease in reversed(leases):
        lease.nack(delay=0.05 if lease.data % 2 else 0)
    assert [queue.get(timeout=0) for _ in range(3)] == [0, 2, 4]
    time.sleep(0.06)
    assert queue.drain() == [1, 3, 5, 6, 7]


def test_a_dead_letter_that_is_redriven_is_a_new_message(make: Make) -> None:
    queue = make(slots=64)
    queue.put_many(["old", "new"])
    queue.receive(timeout=0).reject("for the test")
    assert queue.redrive() == 1
    assert queue.drain() == ["new", "old"]
