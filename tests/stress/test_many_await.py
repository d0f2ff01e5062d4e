"""Many that wait in event loops, while others publish, give up and are killed: nobody is forgotten, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shmq
from shmq import aio
from shmq._waiting import bell, loop_waiters
from support.processes import Children, wait_until

Make = Callable[..., shmq.Queue]
LONG = 30.0
NEVER = 3600.0
long_too = pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.stress)])


def loops() -> Iterator[Any]:
    yield pytest.param(asyncio.new_event_loop, id="asyncio")
    with contextlib.suppress(ImportError):
        import uvloop

        yield pytest.param(uvloop.new_event_loop, id="uvloop")


# -- no wake-up is lost -------------------------------------------------------------------------------------------------------


@long_too
@pytest.mark.parametrize("new_loop", list(loops()))
@pytest.mark.parametrize("kind", ["tasks", "wait_any", "aio.wait_any"])
def test_no_wake_up_is_lost_however_they_come_and_go(
    make: Make, children: Children, monkeypatch, kind, new_loop, seconds
) -> None:
    """Nobody looks by the clock, and producers wait for the end of all work before they go on: one lost ring, and all is still.
    Consumers come, give up and go for a moment after each message, then they wait for as long as it takes."""
    for module in (bell, loop_waiters):
        monkeypatch.setattr(module, "SLICE", NEVER)
    queue = make(slots=64)
    consumers = [children.start(CONSUMERS[kind], queue.name, new_loop, seed) for seed in range(3)]
    wait_until(lambda: queue._waiters()[0] >= 3)
    producers = [children.start(produce_in_bursts, queue.name, seed, seconds / 3) for seed in range(2)]
    for producer in producers:
        producer.join(2 * LONG)
    codes = [producer.exitcode for producer in producers]
    queue.shutdown()
    for consumer in consumers:
        consumer.join(LONG)
    assert codes == [0, 0], f"stopped with {queue!r}, {queue._waiters()} waiting"
    assert [consumer.exitcode for consumer in consumers] == [0, 0, 0]


def produce_in_bursts(name: str, seed: int, seconds: float) -> None:
    chance, end = random.Random(seed), time.monotonic() + seconds
    with shmq.Queue.attach(name) as queue:
        while time.monotonic() < end:
            for _ in range(chance.choice([1, 1, 1, 2, 5])):
                queue.put(b"work")
                if not chance.randrange(3):
                    time.sleep(chance.choice([0, 0.0001]))
            begun = time.monotonic()  # with the last tick join looks once more: that is too late as well
            assert queue.join(LONG) and time.monotonic() - begun < LONG, f"{queue!r}: {queue._waiters()} waiting"


def consume_by_tasks(name: str, new_loop: Callable[[], Any], seed: int) -> None:
    """Up to twenty tasks, some of which are cancelled at any moment, or give up by themselves."""
    chance = random.Random(seed)

    async def main(queue: shmq.Queue) -> None:
        over = asyncio.Event()
        came = asyncio.Event()

        async def work(timeout: float | None) -> None:
            try:
                (await queue.areceive(timeout)).ack()
                came.set()
            except shmq.Empty:
                pass
            except shmq.ShutDown:
                over.set()
                came.set()

        tasks: set[asyncio.Task[None]] = set()
        while not over.is_set():
            for _ in range(chance.randrange(5)):
                tasks = {task for task in tasks if not task.done()}
                while len(tasks) < chance.choice([1, 3, 20]):
                    tasks.add(asyncio.create_task(work(chance.choice([None, 0.0005, 0.005]))))
                for task in chance.sample(sorted(tasks, key=id), chance.randrange(len(tasks))):
                    task.cancel()
                await asyncio.sleep(chance.choice([0, 0, 0.0002, 0.002]))
            came.clear()
            tasks.add(asyncio.create_task(work(None)))
            await came.wait()
        await asyncio.gather(*tasks, return_exceptions=True)

    with shmq.Queue.attach(name) as queue:
        loop = new_loop()
        loop.run_until_complete(main(queue))
        loop.close()


def consume_by_wait_any(name: str, new_loop: object, seed: int) -> None:
    chance = random.Random(seed)
    with shmq.Queue.attach(name) as queue, shmq.Queue() as empty, contextlib.suppress(shmq.ShutDown):
        while True:
            for timeout in (*chance.choices([0.0005, 0.005], k=chance.randrange(4)), None):
                with contextlib.suppress(shmq.Empty):
                    shmq.wait_any([empty, queue], timeout)
                    queue.receive(0).ack()


def consume_by_awaited_wait_any(name: str, new_loop: Callable[[], Any], seed: int) -> None:
    chance = random.Random(seed)

    async def main(queue: shmq.Queue, empty: shmq.Queue) -> None:
        async def work() -> None:
            while True:
                for timeout in (*chance.choices([0.0005, 0.005], k=chance.randrange(4)), None):
                    with contextlib.suppress(shmq.Empty):
                        await aio.wait_any([empty, queue], timeout)
                        queue.receive(0).ack()

        async def take() -> None:
            while True:
                (await queue.areceive()).ack()

        with contextlib.suppress(shmq.ShutDown):
            await asyncio.gather(work(), work(), take())

    with shmq.Queue.attach(name) as queue, shmq.Queue() as empty:
        loop = new_loop()
        loop.run_until_complete(main(queue, empty))
        for task in asyncio.all_tasks(loop):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, shmq.ShutDown):
                loop.run_until_complete(task)
        loop.close()


CONSUMERS = {"tasks": consume_by_tasks, "wait_any": consume_by_wait_any, "aio.wait_any": consume_by_awaited_wait_any}


@long_too
@pytest.mark.parametrize("new_loop", list(loops()))
def test_a_waiter_that_gives_up_as_the_message_comes_leaves_it_to_another(
    make: Make, children: Children, monkeypatch: pytest.MonkeyPatch, new_loop: Any, seconds: int
) -> None:
    """Two consumers cancel all that they await while a message comes, and a third one waits on. Nobody looks by the clock."""
    for module in (bell, loop_waiters):
        monkeypatch.setattr(module, "SLICE", NEVER)
    queue, answers, chance = make(), make(), random.Random(seconds)
    controls = [make() for _ in range(2)]
    for seed, control in enumerate(controls):
        children.start(give_up_when_told, queue.name, control.name, answers.name, new_loop, seed)
    children.start(consume_patiently, queue.name, new_loop)
    wait_until(lambda: queue._waiters()[0] == 1)
    end, rounds = time.monotonic() + seconds / 2, 0
    while time.monotonic() < end:
        for word in ("wait", "give up"):
            for control in controls:
                control.put(word)
            if word == "give up":
                until = time.perf_counter() + chance.uniform(0, 0.0004)
                while time.perf_counter() < until:
                    pass
                queue.put(b"work")
            for _ in controls:
                assert answers.get(timeout=LONG) == word
        begun = time.monotonic()
        assert queue.join(LONG) and time.monotonic() - begun < LONG, f"in round {rounds}: {queue!r}, {queue._waiters()} waiting"
        rounds += 1
    for control in controls:
        control.put("end")
    queue.shutdown()
    children.join()
    assert rounds > 10


def give_up_when_told(name: str, control: str, answers: str, new_loop: Callable[[], Any], seed: int) -> None:
    chance = random.Random(seed)

    async def main(queue: shmq.Queue, told: shmq.Queue, tell: shmq.Queue) -> None:
        async def work() -> None:
            (await queue.areceive()).ack()

        tasks: list[asyncio.Task[None]] = []
        while (word := await told.aget()) != "end":
            if word == "wait":
                tasks = [asyncio.create_task(work()) for _ in range(chance.choice([1, 1, 3]))]
                await asyncio.sleep(0)
            else:
                until = time.perf_counter() + chance.uniform(0, 0.0003)
                while time.perf_counter() < until:
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            tell.put(word)

    with shmq.Queue.attach(name) as queue, shmq.Queue.attach(control) as told, shmq.Queue.attach(answers) as tell:
        loop = new_loop()
        loop.run_until_complete(main(queue, told, tell))
        loop.close()


def consume_patiently(name: str, new_loop: Callable[[], Any]) -> None:
    async def main(queue: shmq.Queue) -> None:
        async for lease in queue:
            del lease

    with shmq.Queue.attach(name) as queue:
        loop = new_loop()
        loop.run_until_complete(main(queue))
        loop.close()


# -- nothing is lost ------------------------------------------------------------------------------------------------------------


@long_too
def test_what_killed_processes_awaited_and_held_is_acked_once(
    make: Make, children: Children, tmp_path: Path, seconds: int
) -> None:
    """Thousands of waiters, cancelled at random; producers and consumers, killed at random. Who is killed between a step and the
    line that tells of it explains one difference."""
    queue, chance = make(slots=32, in_flight=64, max_deliveries=0), random.Random(seconds)
    put, acked = tmp_path / "put", tmp_path / "acked"
    put.touch()
    acked.touch()
    numbers = iter(range(1000))

    def start(role: Callable[..., None]) -> tuple[Callable[..., None], Any]:
        return role, children.start(role, queue.name, str(put if role is keep_putting else acked), next(numbers))

    running = [start(role) for role in (keep_putting, keep_putting, keep_acking, keep_acking, keep_acking)]
    kills: Counter[Callable[..., None]] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(chance.uniform(0.02, 0.2))
        victim = chance.randrange(len(running))
        role, process = running[victim]
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills[role] += 1
        running[victim] = start(role)
    for role, process in running:
        if role is keep_putting:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills[role] += 1
    assert queue.join(LONG), f"{queue!r}: {queue.stats()}"
    queue.shutdown()
    for role, process in running:
        if role is keep_acking:
            process.join(LONG)
            assert process.exitcode == 0
    children.kill()

    was_put, was_acked = put.read_text().split(), Counter(acked.read_text().split())
    assert max(was_acked.values()) == 1, "acked twice"
    assert len(set(was_put) - set(was_acked)) <= kills[keep_acking], "lost"
    assert len(set(was_acked) - set(was_put)) <= kills[keep_putting], "from nowhere"
    assert len(was_acked) > 100


def keep_putting(name: str, ledger: str, number: int) -> None:
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND)
    chance = random.Random(number)

    async def main() -> None:
        with shmq.Queue.attach(name) as queue:
            for count in range(1 << 20):
                message = f"{number}.{count}"
                await queue.aput(message)
                os.write(file, f"{message}\n".encode())
                if not chance.randrange(50):
                    await asyncio.sleep(chance.uniform(0, 0.01))

    asyncio.run(main())


def keep_acking(name: str, ledger: str, number: int) -> None:
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND)
    chance = random.Random(number)

    async def main() -> None:
        over = asyncio.Event()

        async def work() -> None:
            try:
                lease = await queue.areceive()
                if not chance.randrange(20):
                    await asyncio.sleep(0.001)  # with a lease in its hands: cancelled here, it goes back
                message = lease.data
                lease.ack()
                os.write(file, f"{message}\n".encode())
            except shmq.ShutDown:
                over.set()
            except shmq.InFlightLimit:
                pass

        tasks: set[asyncio.Task[None]] = set()
        while not over.is_set():
            tasks = {task for task in tasks if not task.done()}
            tasks |= {asyncio.create_task(work()) for _ in range(1000 - len(tasks))}
            await asyncio.sleep(chance.choice([0, 0.001, 0.005]))
            for task in chance.sample(sorted(tasks, key=id), chance.randrange(30)):
                task.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    with shmq.Queue.attach(name) as queue:
        asyncio.run(main())
