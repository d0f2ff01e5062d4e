"""Who waits at a queue whose name was unlinked and made again is told, instead of waiting for ever for what nobody can put."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

import shmq
from support.processes import Children, wait_until

Make = Callable[..., shmq.Queue]
LONG = 20.0


def by_loop(queue: shmq.Queue) -> None:
    for _ in queue:
        pass


def by_wait_any(queue: shmq.Queue) -> None:
    with shmq.Queue() as other:
        shmq.wait_any([other, queue])


def by_aget(queue: shmq.Queue) -> None:
    asyncio.run(queue.aget())


def by_awaited_any(queue: shmq.Queue) -> None:
    from shmq import aio

    with shmq.Queue() as other:
        asyncio.run(aio.wait_any([other, queue]))


def by_put(queue: shmq.Queue) -> None:
    while True:
        queue.put("x")


WAYS: dict[str, Callable[[shmq.Queue], Any]] = {
    "get": shmq.Queue.get,
    "receive": shmq.Queue.receive,
    "loop": by_loop,
    "wait_any": by_wait_any,
    "aget": by_aget,
    "aio.wait_any": by_awaited_any,
    "put": by_put,
}


def wait_until_told(name: str, way: str, told: shmq.Queue) -> None:
    queue = shmq.Queue.attach(name)
    try:
        WAYS[way](queue)
    except shmq.SegmentNotFound as error:
        told.put(str(error))
    queue.close()


def waiting(queue: shmq.Queue) -> int:
    return sum(queue._waiters())


@pytest.mark.parametrize("way", WAYS)
def test_those_that_all_wait_at_the_old_one_are_told(name: str, make: Make, children: Children, way: str) -> None:
    old, told = shmq.Queue.create(name, slots=2), make()
    for _ in range(2):
        children.start(wait_until_told, name, way, told)
    wait_until(lambda: waiting(old) == 2)
    old.unlink()
    old.close()
    with shmq.Queue.create(name):
        for _ in range(2):
            assert "was unlinked and made again" in told.get(timeout=LONG)
        children.join()
    shmq.unlink(name)


class Told(logging.Handler):
    def __init__(self, told: shmq.Queue) -> None:
        super().__init__()
        self.told = told

    def emit(self, record: logging.LogRecord) -> None:
        self.told.put(record.getMessage())


def get_two_in_the_old_one(name: str, told: shmq.Queue) -> None:
    logging.getLogger("shmq").addHandler(Told(told))
    queue = shmq.Queue.attach(name)
    for _ in range(2):
        told.put(queue.get())
    queue.close()


def test_where_others_may_still_put_a_warning_says_so_once_and_the_wait_goes_on(
    name: str, make: Make, children: Children
) -> None:
    old, told = shmq.Queue.create(name), make()
    children.start(get_two_in_the_old_one, name, told)
    wait_until(lambda: waiting(old) == 1)
    old.unlink()
    with shmq.Queue.create(name) as new:
        assert "was unlinked and made again" in told.get(timeout=LONG)
        with pytest.raises(shmq.Empty):
            told.get(timeout=1.5)  # not again
        old.put("first")
        old.put("second")
        assert [told.get(timeout=LONG) for _ in range(2)] == ["first", "second"]
        children.join()
        assert new.qsize() == 0
    old.close()
    shmq.unlink(name)


def test_a_queue_that_was_only_unlinked_goes_on_in_silence(name: str, make: Make, children: Children) -> None:
    old, told = shmq.Queue.create(name), make()
    children.start(get_two_in_the_old_one, name, told)
    wait_until(lambda: waiting(old) == 1)
    old.unlink()
    with pytest.raises(shmq.Empty):
        told.get(timeout=2.5)
    old.put("first")
    old.put("second")
    assert [told.get(timeout=LONG) for _ in range(2)] == ["first", "second"]
    children.join()
    old.close()
