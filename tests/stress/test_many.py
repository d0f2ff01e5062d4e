"""Many producers and many consumers: every message arrives once, whole, and in its producer's order."""

from __future__ import annotations

import time
import zlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

import shmq
from support.processes import Children

Make = Callable[..., shmq.Queue]
LONG = 100.0
TOPOLOGIES = {"1 to 1": (1, 1), "2 to 2": (2, 2), "4 to 1": (4, 1), "1 to 4": (1, 4)}
topologies = pytest.mark.parametrize(("producers", "consumers"), TOPOLOGIES.values(), ids=TOPOLOGIES)


def message_of(producer: int, number: int, size: int) -> bytes:
    head = b"%03d %09d " % (producer, number)
    body = (head * (size // len(head) + 1))[: size - 4]
    return zlib.crc32(body).to_bytes(4, "little") + body


def opened(message: bytes) -> tuple[int, int]:
    """Producer and number of a message that is whole."""
    assert zlib.crc32(message[4:]) == int.from_bytes(message[:4], "little"), "torn"
    return int(message[4:7]), int(message[8:17])


def produce(name: str, answers: str, producer: int, seconds: float, size: int, batch: int) -> None:
    """Put numbered messages for so long; tell how many."""
    with shmq.Queue.attach(name) as q, shmq.Queue.attach(answers) as out:
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            messages = [message_of(producer, number + i, size) for i in range(batch)]
            if batch == 1:
                q.put(messages[0], timeout=LONG)
            elif number // batch % 2:
                assert q.put_many(messages, timeout=LONG) == batch
            else:
                for message in messages:
                    with q.loan(len(message)) as view:
                        view[:] = message
            number += batch
        out.put(("produced", producer, number))


def consume(name: str, answers: str, batch: int) -> None:
    """Take messages until an empty one comes; tell how many of each producer, and the sum of their numbers."""
    counts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    latest: dict[int, int] = defaultdict(lambda: -1)
    with shmq.Queue.attach(name) as q, shmq.Queue.attach(answers) as out:
        done = False
        while not done:
            if batch > 1:
                messages = q.get_many(batch, timeout=LONG)
            else:
                with q.receive(timeout=LONG) as lease:
                    messages = [bytes(lease.view)]
            for message in messages:
                if not message:
                    assert not done or q.put(b"", timeout=LONG) is None  # another's
                    done = True
                    continue
                producer, number = opened(message)
                assert number > latest[producer], "out of order"
                latest[producer] = number
                counts[producer][0] += 1
                counts[producer][1] += number
        out.put(("consumed", dict(counts)))


def run(
    make: Make, children: Children, producers: int, consumers: int, seconds: float, slots: int, slot_size: int, batch: int
) -> None:
    in_flight = producers + consumers * (batch + 1)  # so that no loan, which never waits, finds them all in use
    q, answers = make(slots=slots, slot_size=slot_size, in_flight=in_flight), make(slots=64, slot_size=4096)
    takers = [children.start(consume, q.name, answers.name, batch) for _ in range(consumers)]
    for producer in range(producers):
        children.start(produce, q.name, answers.name, producer, seconds, slot_size, batch)
    produced: dict[int, int] = {}
    for _ in range(producers):
        _, producer, count = answers.get(timeout=LONG)
        produced[producer] = count
    for _ in takers:
        q.put(b"", timeout=LONG)
    totals: dict[int, Any] = defaultdict(lambda: [0, 0])
    for _ in takers:
        _, counts = answers.get(timeout=LONG)
        for producer, (count, total) in counts.items():
            totals[producer][0] += count
            totals[producer][1] += total
    children.join()
    assert dict(totals) == {producer: [count, count * (count - 1) // 2] for producer, count in produced.items()}
    assert q.empty()
    assert q.stats().puts >= sum(produced.values()) + consumers
    shmq.verify(q)


@topologies
def test_every_message_arrives_once_in_its_producers_order(
    make: Make, children: Children, producers: int, consumers: int
) -> None:
    run(make, children, producers, consumers, seconds=0.25, slots=8, slot_size=64, batch=1)


def test_every_message_of_many_arrives_once_in_batches_of_large_slots(make: Make, children: Children) -> None:
    run(make, children, 2, 2, seconds=0.5, slots=5, slot_size=4096, batch=3)


@pytest.mark.stress
@topologies
@pytest.mark.parametrize("slots", [1, 7, 1024])
@pytest.mark.parametrize(("slot_size", "batch"), [(64, 1), (256, 16), (4096, 1), (1 << 17, 3)])
def test_every_message_arrives_once_in_its_producers_order_for_long(
    make: Make, children: Children, producers: int, consumers: int, slots: int, slot_size: int, batch: int
) -> None:
    run(make, children, producers, consumers, seconds=5.0, slots=slots, slot_size=slot_size, batch=batch)
