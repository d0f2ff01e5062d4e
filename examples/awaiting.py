"""asyncio in front, processes behind: a thousand tasks of one event loop await answers from workers on other cores."""

from __future__ import annotations

import asyncio
import multiprocessing
from typing import Any

import shmq

REQUESTS = 1_000
WORKERS = 2


def work(requests: shmq.Queue, answers: shmq.Queue) -> None:
    """A worker process: it knows nothing of asyncio."""
    for request in requests:  # a lease: comes back to another worker if this one is killed
        number, value = request.data
        answers.put((number, sum(divisor for divisor in range(1, value) if value % divisor == 0) == value))


async def is_perfect(value: int, number: int, requests: shmq.Queue, pending: dict[int, asyncio.Future[bool]]) -> bool:
    """Ask a worker, and sleep until the answer is there; the loop serves everybody else meanwhile."""
    pending[number] = asyncio.get_running_loop().create_future()
    await requests.aput((number, value))  # waits, awaited, where the workers are behind
    return await pending[number]


async def hand_out(answers: shmq.Queue, pending: dict[int, asyncio.Future[bool]]) -> None:
    async for answer in answers.consume(prefetch=64):
        number, result = answer.data
        pending.pop(number).set_result(result)


async def ask(requests: shmq.Queue, answers: shmq.Queue) -> list[int]:
    pending: dict[int, asyncio.Future[bool]] = {}
    handing_out = asyncio.create_task(hand_out(answers, pending))
    calls = [is_perfect(value, value, requests, pending) for value in range(1, REQUESTS + 1)]
    perfect = await asyncio.gather(*calls)
    handing_out.cancel()
    assert not pending
    return [value for value, found in enumerate(perfect, 1) if found]


def main() -> None:
    with shmq.Queue(slots=64, slot_size=64) as requests, shmq.Queue(slots=64, slot_size=64) as answers:
        workers: list[Any] = [multiprocessing.Process(target=work, args=(requests, answers)) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        perfect = asyncio.run(ask(requests, answers))
        requests.shutdown()  # the workers' loops end
        for worker in workers:
            worker.join()
    assert perfect == [6, 28, 496]
    print(f"{REQUESTS:,} tasks asked {WORKERS} processes: the perfect numbers are {perfect}")


if __name__ == "__main__":
    main()
