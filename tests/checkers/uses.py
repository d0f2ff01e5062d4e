"""What users write, for type checkers: nothing here is an error. Not executed; misuses.py has what is to be one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_type

import shmq
import shmq.aio
import shmq.mp


def a_queue_of_whatever() -> None:
    queue = shmq.Queue("jobs", slots=16, oversize="error", backoff=shmq.Backoff(), lifetime="handles")
    assert_type(queue, shmq.Queue[Any])
    queue.put({"any": "thing"})
    queue.put_many(n for n in range(3))
    with queue as entered, queue.receive(timeout=1, lease_timeout=None, extend=True) as lease:
        assert_type(entered, shmq.Queue[Any])
        assert_type(lease.data, Any)
        assert_type(lease.array, NDArray[Any])
        assert_type(lease.expires_at, "float | None")
    for letter in queue.dead_letters:
        print(letter.reason)
    try:
        queue.get_nowait()
    except (shmq.Empty, shmq.ShutDown, shmq.WorkerLost):
        pass


def a_queue_of_something() -> None:
    queue: shmq.Queue[int] = shmq.Queue()
    same = shmq.Queue[int].attach(queue.name)
    made = shmq.Queue[int].create("numbers", slots=8, slot_size=64, ports=4, lease_timeout=5.0)
    assert_type(made, shmq.Queue[int])
    assert_type(same, shmq.Queue[int])
    queue.put(1)
    queue.put_many([1, 2])
    assert_type(queue.get(), int)
    assert_type(queue.get_many(3), list[int])
    assert_type(queue.drain(), list[int])
    assert_type(queue.peek(), list[int])
    assert_type(queue.receive(), shmq.Lease[int])
    assert_type(queue.receive_many(2)[0].data, int)
    assert_type(shmq.wait_any([queue, same], 1), shmq.Queue[int])
    for lease in queue:
        assert_type(lease.data, int)
    for lease in queue.consume(prefetch=2, timeout=0):
        assert_type(lease, shmq.Lease[int])


class Frames(shmq.Queue[NDArray[np.uint8]]):
    def latest(self) -> NDArray[np.uint8]:
        return self.get_many(8)[-1]


def loans(queue: Frames) -> None:
    with queue.loan(8) as memory:
        assert_type(memory, memoryview)
    with queue.loan((2, 3), "u1") as array:
        assert_type(array, NDArray[Any])
    assert_type(Frames.attach("frames"), Frames)


async def awaited(queue: shmq.Queue[str]) -> None:
    await queue.aput("x")
    assert_type(await queue.aget(timeout=1), str)
    assert_type(await queue.areceive(1, lease_timeout=5, extend=True), shmq.Lease[str])
    task: asyncio.Task[shmq.Lease[str]] = asyncio.create_task(queue.areceive())
    assert_type((await task).data, str)
    async with queue.areceive() as lease:
        assert_type(lease, shmq.Lease[str])
    async for lease in queue:
        assert_type(lease.data, str)
    first = await shmq.aio.wait_any([queue])
    assert_type(first, shmq.Queue[str])
    inner: shmq.aio.Queue[str] = shmq.aio.Queue(queue=queue)
    assert_type(await inner.get(), str)


def the_drop_in() -> None:
    tasks: shmq.mp.JoinableQueue[dict[str, int]] = shmq.mp.JoinableQueue(10)
    tasks.put({"id": 1})
    assert_type(tasks.get(), dict[str, int])
    simple: shmq.mp.SimpleQueue[bytes] = shmq.mp.SimpleQueue()
    assert_type(simple.get(), bytes)
    assert_type(shmq.mp.Queue().get(), Any)


def root(number: int, *, digits: int = 3) -> str:
    return f"{number**0.5:.{digits}}"


def pools() -> Iterator[str]:
    with shmq.Executor(2) as pool:
        assert_type(pool.submit(root, 2, digits=5), Future[str])
        yield from pool.map(root, [1, 2], chunksize=2)
