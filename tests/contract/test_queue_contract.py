"""What every face of a queue does, run against each face: a list of behaviours, each a function of a factory.

The standard library's own queues stand in the list to show that the behaviours are theirs.
"""

from __future__ import annotations

import multiprocessing
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Children, wait_until

import shmq

Factory = Callable[[int], Any]  # maxsize -> a queue
Make = Callable[..., shmq.Queue]
LONG = 60.0  # seconds: longer than anything here takes
BEHAVIOURS: list[Callable[[Factory], None]] = []


def behaviour(function: Callable[[Factory], None]) -> Callable[[Factory], None]:
    BEHAVIOURS.append(function)
    return function


@pytest.fixture
def factories(make: Make) -> dict[str, Factory]:
    return {
        "shmq.Queue": lambda maxsize: make(slots=maxsize, slot_size=256),
        "shmq.Queue of large slots": lambda maxsize: make(slots=maxsize, slot_size=4096),
        "queue.Queue": queue.Queue,
    }


@pytest.mark.parametrize("face", ["shmq.Queue", "shmq.Queue of large slots", "queue.Queue"])
@pytest.mark.parametrize("index", range(17))
def test_each_face_behaves(factories: dict[str, Factory], face: str, index: int) -> None:
    BEHAVIOURS[index](factories[face])


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def ended(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def filled(factory: Factory, count: int) -> Any:
    q = factory(count)
    for number in range(count):
        q.put(number)
    return q


def rest(q: Any) -> list[Any]:
    return [q.get_nowait() for _ in range(q.qsize())]
