"""asyncio: what an `await` costs when a message is there, and how long a task sleeps after a put.

Beside shmq: asyncio.Queue, which stays in one process, and what programs do today: a thread that waits at a
multiprocessing.Queue.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import chain
from statistics import median
from time import perf_counter_ns, sleep
from typing import Any

from cases import SHMQ_ONLY, Case
from flow import MESSAGES, message_sum, messages
from harness import Failed, Line, Work, label, run_roles
from peers.base import Peer, Shape

_CHUNK = 250
_PAUSE_SECONDS = 0.001


async def _take(get: Callable[[], Awaitable[bytes]], fill: Callable[[range], object], count: int) -> float:
    """Nanoseconds per message, in chunks that are there before the clock runs."""
    spent = total = 0
    for first in range(0, count, _CHUNK):
        fill(range(first, first + _CHUNK))
        began = perf_counter_ns()
        for _ in range(_CHUNK):
            total += (await get())[0]
        spent += perf_counter_ns() - began
    taken = -(-count // _CHUNK) * _CHUNK
    if total != message_sum(range(taken)):
        raise Failed(f"content: received a sum of {total}")
    return spent / taken


def _there(peer: Peer, work: Work) -> float:
    with peer.channel(label(), Shape(slots=_CHUNK)) as channel:
        queue: Any = channel.receiver().queue  # type: ignore[attr-defined]  # shmq's own
        return asyncio.run(_take(queue.aget, lambda numbers: queue.put_many(list(messages(numbers))), work.count))


def _there_in_asyncio(work: Work) -> float:
    async def take() -> float:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        return await _take(queue.get, lambda numbers: [queue.put_nowait(message) for message in messages(numbers)], work.count)

    return asyncio.run(take())


def _post(put: Callable[[bytes], object], count: int, line: Line) -> list[int]:
    line.pin()
    line.wait()
    for _ in range(count):
        sleep(_PAUSE_SECONDS)
        put(perf_counter_ns().to_bytes(8, "little"))
    line.wait()
    return []


def _woken(get: Callable[[], Awaitable[bytes]], count: int, line: Line) -> list[int]:
    async def take() -> list[int]:
        line.wait()
        delays = []
        for _ in range(count):
            message = await get()
            delays.append(perf_counter_ns() - int.from_bytes(message, "little"))
        return delays

    line.pin()
    delays = asyncio.run(take())
    line.wait()
    return delays


def _asleep(peer: Peer, work: Work) -> float:
    count = max(50, int(work.seconds / _PAUSE_SECONDS))
    with peer.channel(label(), Shape(slots=16)) as channel:
        put, get = channel.sender().put, channel.receiver().queue.aget  # type: ignore[attr-defined]
        delays = run_roles([partial(_post, put, count), partial(_woken, get, count)], work.timeout)
    return float(median(chain.from_iterable(delays)))


def _asleep_by_thread(work: Work) -> float:
    count = max(50, int(work.seconds / _PAUSE_SECONDS))
    queue: multiprocessing.Queue[bytes] = multiprocessing.get_context("fork").Queue()

    def get() -> Awaitable[bytes]:
        return asyncio.get_running_loop().run_in_executor(None, queue.get)

    delays = run_roles([partial(_post, queue.put, count), partial(_woken, get, count)], work.timeout)
    return float(median(chain.from_iterable(delays)))


assert len(MESSAGES) > _CHUNK  # a chunk's messages differ
CASES = [
    Case("awaited", "await of a message that is there", _there, only=SHMQ_ONLY, baselines={"asyncio.Queue": _there_in_asyncio}),
    Case(
        "awaited",
        "put to a task that waits, p50",
        _asleep,
        only=SHMQ_ONLY,
        baselines={"a thread at multiprocessing.Queue": _asleep_by_thread},
        pilot=0,
    ),
]
