"""Runs the list of behaviours against every face."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from behaviours import Behaviour, behaviours

import shmq

Make = Callable[..., shmq.Queue]


class Reversed:
    """shmq.Queue through two handles: what one puts the other gets."""

    def __init__(self, queue: shmq.Queue, other: shmq.Queue) -> None:
        self.put, self.put_nowait, self.maxsize = queue.put, queue.put_nowait, queue.maxsize
        self.get, self.get_nowait = other.get, other.get_nowait
        self.qsize, self.empty, self.full = other.qsize, other.empty, queue.full


class Leased:
    """shmq.Queue whose messages are received and acked instead of got."""

    def __init__(self, queue: shmq.Queue) -> None:
        self.queue = queue
        self.put, self.put_nowait, self.maxsize = queue.put, queue.put_nowait, queue.maxsize
        self.qsize, self.empty, self.full = queue.qsize, queue.empty, queue.full

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        with self.queue.receive(timeout if block else 0) as lease:
            return lease.data

    def get_nowait(self) -> Any:
        return self.get(False)


class Batched:
    """shmq.Queue by batches of one."""

    def __init__(self, queue: shmq.Queue) -> None:
        self.queue = queue
        self.maxsize, self.qsize, self.empty, self.full = queue.maxsize, queue.qsize, queue.empty, queue.full

    def put(self, thing: Any, block: bool = True, timeout: float | None = None) -> None:
        assert self.queue.put_many([thing], timeout if block else 0) == 1

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        (thing,) = self.queue.get_many(1, timeout if block else 0)
        return thing

    def put_nowait(self, thing: Any) -> None:
        self.put(thing, False)

    def get_nowait(self) -> Any:
        return self.get(False)


FACES: dict[str, Callable[[shmq.Queue], Any]] = {
    "Queue": lambda queue: queue,
    "two handles": lambda queue: Reversed(queue, shmq.Queue.attach(queue.name)),
    "leases": Leased,
    "batches": Batched,
}


@pytest.mark.parametrize("check", behaviours, ids=lambda check: check.__name__)
@pytest.mark.parametrize("face", FACES.values(), ids=FACES)
@pytest.mark.parametrize("slot_size", [128, 4096], ids=["small slots", "large slots"])
def test_every_face_behaves_like_the_standard_queue(
    make: Make, face: Callable[[shmq.Queue], Any], check: Behaviour, slot_size: int
) -> None:
    made: list[shmq.Queue] = []

    def make_face(capacity: int) -> Any:
        made.append(make(slots=capacity, slot_size=slot_size))
        return face(made[-1])

    check(make_face)
    for queue in made:
        shmq.verify(queue)


@pytest.mark.parametrize("check", behaviours, ids=lambda check: check.__name__)
def test_an_anonymous_queue_behaves_like_the_standard_queue(check: Behaviour) -> None:
    made: list[shmq.Queue] = []

    def make_face(capacity: int) -> shmq.Queue:
        made.append(shmq.Queue(slots=capacity, slot_size=128))
        return made[-1]

    check(make_face)
    for queue in made:
        queue.close()
