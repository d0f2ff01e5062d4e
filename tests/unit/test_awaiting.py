"""The awaited forms: aget, aput, areceive, loans, async for, ajoin, wait_any; on asyncio's loop and on uvloop's."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import shmq
from shmq import aio
from support.processes import receive_and_stay

Make = Callable[..., shmq.Queue]
Run = Callable[[Coroutine[Any, Any, Any]], Any]
LONG = 30.0

try:
    import uvloop
except ImportError:
    uvloop = None


@pytest.fixture(params=["asyncio", pytest.param("uvloop", marks=pytest.mark.skipif(uvloop is None, reason="no uvloop"))])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on a loop of its own, under a watchdog."""

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        loop = asyncio.new_event_loop() if request.param == "asyncio" else uvloop.new_event_loop()
        try:
            return loop.run_until_complete(asyncio.wait_for(coroutine, 2 * LONG))
        finally:
            loop.close()

    return run


async def turns(count: int = 3) -> None:
    """Let the loop go round: what is to be waiting waits then."""
    for _ in range(count):
        await asyncio.sleep(0)


def idle(queue: shmq.Queue) -> bool:
    """Nobody of this process waits at the queue, and nothing is left of those that did."""
    return not queue._loop_waiters and queue._waiters() == (0, 0) and queue._listening_handles.own_is_free


# -- taking and putting ------------------------------------------------------------------------------------------------------


def test_a_message_that_is_there_is_taken_without_a_turn_of_the_loop(run, queue):
    queue.put("there")
    coroutine = queue.aget()
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert stopped.value.value == "there"


def test_a_put_in_the_same_thread_in_another_and_in_another_process_each_wake(run, queue, children):
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, queue.put, "same")
        came = [await queue.aget()]
        threading.Timer(0.05, queue.put, ["thread"]).start()
        came.append(await queue.aget())
        children.start(put_later, queue, "process")
        return [*came, await queue.aget()]

    assert run(main()) == ["same", "thread", "process"]
    assert idle(queue)
    children.join()


def put_later(queue: shmq.Queue, obj: object) -> None:
    time.sleep(0.05)
    queue.put(obj)


def test_tasks_of_one_loop_are_served_in_the_order_in_which_they_came(run, queue):
    async def main() -> list[int]:
        tasks = [asyncio.create_task(queue.aget()) for _ in range(50)]
        await turns()
        for number in range(50):
            await queue.aput(number)
        return await asyncio.gather(*tasks)

    assert run(main()) == list(range(50))
    assert idle(queue)


def test_aput_waits_for_room_and_keeps_the_order(run, make):
    queue = make(slots=2)

    async def main() -> list[int]:
        async def put() -> None:
            for number in range(200):
                await queue.aput(number)

        task = asyncio.create_task(put())
        came = [await queue.aget() for _ in range(200)]
        await task
        return came

    assert run(main()) == list(range(200))
    assert idle(queue)


@pytest.mark.parametrize("count", [3000])
def test_thousands_wait_on_one_loop_and_each_gets_one(run, queue, children, count):
    async def main() -> list[int]:
        tasks = [asyncio.create_task(queue.aget()) for _ in range(count)]
        await turns()
        children.start(put_many, queue, count)
        return await asyncio.gather(*tasks)

    assert run(main()) == list(range(count))
    assert idle(queue)
    children.join()


def put_many(queue: shmq.Queue, count: int) -> None:
    for number in range(count):
        queue.put(number)


# -- time-outs ---------------------------------------------------------------------------------------------------------------


def test_time_outs_are_kept_and_raise_what_the_calls_raise(run, make):
    queue = make(slots=1)

    async def main() -> None:
        begun = time.monotonic()
        with pytest.raises(shmq.Empty):
            await queue.aget(timeout=0.1)
        with pytest.raises(shmq.Empty):
            await queue.areceive(timeout=0.1)
        queue.put(1)
        with pytest.raises(shmq.Full):
            await queue.aput(2, timeout=0.1)
        assert time.monotonic() - begun >= 0.3 - 3 * 0.001  # uvloop's clock ticks in milliseconds
        for nothing in (0, -1):
            with pytest.raises(shmq.Full):
                await queue.aput(2, timeout=nothing)
        for wrong in ("1", float("nan")):
            with pytest.raises((TypeError, ValueError)):
                await queue.aput(2, timeout=wrong)
        assert await queue.aget(timeout=0) == 1

    run(main())
    assert idle(queue)


# -- cancellation ------------------------------------------------------------------------------------------------------------


def test_a_cancelled_wait_takes_nothing_and_leaves_nothing(run, queue):
    async def main() -> None:
        for call in (queue.aget, queue.areceive):
            task = asyncio.ensure_future(call() if call == queue.aget else call().receive())
            await turns()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert idle(queue)
        queue.put("untouched")
        assert await queue.aget() == "untouched"

    run(main())


def test_a_task_that_is_cancelled_after_it_was_woken_passes_its_message_on(run, queue):
    async def main() -> None:
        first, second = (asyncio.create_task(queue.aget()) for _ in range(2))
        await turns()
        waiters = queue._loop_waiters[asyncio.get_running_loop()]
        queue.put("one")
        waiters.wake_if_worth(0)  # the first is woken, and has not run
        first.cancel()
        assert await second == "one"
        assert first.cancelled()

    run(main())
    assert idle(queue)


@pytest.mark.parametrize("seed", range(3))
def test_random_cancellations_lose_nothing_and_double_nothing(run, make, children, seed):
    import random

    queue, count = make(slots=8), 400
    random = random.Random(seed)

    async def main() -> list[int]:
        children.start(put_many, queue, count)
        came: list[int] = []

        async def take() -> None:
            came.append(await queue.aget())

        tasks: list[asyncio.Task[None]] = []
        while len(came) < count:
            tasks = [task for task in tasks if not task.done()]
            tasks += [asyncio.create_task(take()) for _ in range(random.randrange(4))]
            for task in random.sample(tasks, min(len(tasks), random.randrange(3))):
                task.cancel()
            await asyncio.sleep(random.choice([0, 0, 0.001]))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return came

    assert run(main()) == list(range(count))
    assert idle(queue)
    children.join()


def test_a_cancelled_put_puts_nothing(run, make):
    queue = make(slots=1)

    async def main() -> None:
        queue.put(1)
        task = asyncio.create_task(queue.aput(2))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await queue.aget() == 1

    run(main())
    assert queue.empty() and idle(queue)


# -- leases and loans --------------------------------------------------------------------------------------------------------


def test_a_lease_is_had_by_await_and_by_async_with(run, queue):
    async def main() -> None:
        queue.put_many([1, 2, 3])
        lease = await queue.areceive()
        async with lease:
            assert lease.data == 1
        async with queue.areceive(lease_timeout=5) as second:
            assert second.data == 2 and second.expires_at is not None
        with pytest.raises(KeyError):
            async with queue.areceive():
                raise KeyError
        assert (await queue.areceive()).delivery_count == 2

    run(main())


WAYS_TO_RUN = {
    "create_task": lambda awaited: asyncio.create_task(awaited),
    "ensure_future": lambda awaited: asyncio.ensure_future(awaited),
    "wait_for": lambda awaited: asyncio.wait_for(awaited, LONG),
    "gather": lambda awaited: first_of(asyncio.gather(awaited)),
    "shield": lambda awaited: asyncio.shield(awaited),
    "another coroutine": lambda awaited: first_of(awaited, alone=True),
    "run_coroutine_threadsafe": lambda awaited: asyncio.wrap_future(
        asyncio.run_coroutine_threadsafe(awaited, asyncio.get_running_loop())
    ),
}


async def first_of(awaited: Any, alone: bool = False) -> Any:
    return await awaited if alone else (await awaited)[0]


@pytest.mark.parametrize("there", [True, False], ids=["there already", "waited for"])
@pytest.mark.parametrize("way", WAYS_TO_RUN.values(), ids=WAYS_TO_RUN)
def test_whatever_can_be_awaited_can_be_made_a_task(run, queue, way, there):
    async def main() -> None:
        iterator = queue.__aiter__()
        for take in (queue.aget, queue.areceive, iterator.__anext__):
            if there:
                queue.put("message")
            pending = way(take())
            await turns()
            if not there:
                queue.put("message")
            taken = await pending
            if isinstance(taken, shmq.Lease):
                assert taken.data == "message"
                taken.ack()
            else:
                assert taken == "message"
                queue.task_done()
        assert await way(queue.ajoin())
        await way(queue.aput("put"))
        await way(queue.loan(3).apublish())
        first, second = queue.drain()
        assert (first, len(second)) == ("put", 3)

    run(main())


@pytest.mark.skipif(not hasattr(asyncio, "TaskGroup"), reason="Python 3.11 has TaskGroup")
def test_a_task_group_receives(run, queue):
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            receiving = group.create_task(queue.areceive())
            group.create_task(queue.aput("message"))
        assert receiving.result().data == "message"
        receiving.result().ack()

    run(main())


def test_asyncio_run_takes_a_receive(queue):
    queue.put("message")
    asyncio.run(queue.areceive()).ack()


def test_a_receive_that_is_a_task_can_be_cancelled_and_loses_nothing(run, queue):
    async def main() -> None:
        task = asyncio.create_task(queue.areceive())
        await turns()
        assert "areceive" in repr(task) and task.get_stack()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        queue.put("message")
        async with queue.areceive() as lease:
            assert (lease.data, lease.delivery_count) == ("message", 1)

    run(main())
    assert idle(queue)


def test_a_receive_that_nobody_awaits_takes_nothing(queue):
    queue.put("message")
    receiving = queue.areceive()
    receiving.close()
    del receiving
    assert queue.get_nowait() == "message"


def test_a_receive_that_was_awaited_cannot_be_awaited_again(run, queue):
    async def main() -> None:
        queue.put_many([1, 2])
        receiving = queue.areceive()
        (await receiving).ack()
        with pytest.raises(RuntimeError, match="already awaited"):
            await receiving
        assert queue.get_nowait() == 2

    run(main())


def test_a_misspelt_keyword_of_areceive_is_refused_at_once(queue):
    with pytest.raises(TypeError, match="lease_time_out"):
        queue.areceive(lease_time_out=3)


def test_async_for_acks_when_the_body_ends_and_nacks_when_it_raises(run, queue):
    async def main() -> None:
        queue.put_many([1, 2, 3])
        seen = []
        with pytest.raises(KeyError):
            async for lease in queue:
                seen.append(lease.data)
                if lease.data == 2:
                    raise KeyError
        assert seen == [1, 2]
        async for lease in queue.consume(timeout=0.1):
            seen.append((lease.data, lease.delivery_count))
        assert seen == [1, 2, (2, 2), (3, 1)]

    run(main())
    assert queue.stats().acks == 3 and idle(queue)


def test_async_for_with_prefetch_gives_the_unbegun_back(run, queue):
    async def main() -> None:
        queue.put_many(list(range(6)))
        async for lease in queue.consume(prefetch=4):
            if lease.data == 1:
                break
        assert [lease.data async for lease in queue.consume(timeout=0)] == [2, 3, 4, 5]

    run(main())


def test_async_for_waits_for_what_another_process_puts(run, queue, children):
    async def main() -> list[int]:
        children.start(put_many, queue, 100)
        came = []
        async for lease in queue:
            came.append(lease.data)
            if len(came) == 100:
                break
        return came

    assert run(main()) == list(range(100))
    children.join()


def test_a_loan_is_published_when_there_is_room_and_the_loop_goes_on_meanwhile(run, make):
    queue = make(slots=1, slot_size=64)

    async def main() -> None:
        queue.put(b"in the way")
        asyncio.get_running_loop().call_later(0.05, queue.get)
        async with queue.loan((4,), "u1") as array:
            array[:] = 7
        assert queue.get().tolist() == [7] * 4
        loan = queue.loan(8)
        queue.put(b"in the way")
        with pytest.raises(shmq.Full):
            await loan.apublish(timeout=0.05)
        task = asyncio.ensure_future(loan.apublish())
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        queue.get()
        await loan.apublish(3)
        assert queue.get() == bytes(3)
        with pytest.raises(KeyError):
            async with queue.loan(8):
                raise KeyError

    run(main())
    assert queue.empty() and queue.stats().loaned == 0


def test_a_lease_that_no_cell_is_free_for_says_who_holds_them(run, make):
    queue = make(slots=8, in_flight=1)

    async def main() -> None:
        queue.put_many([1, 2])
        lease = await queue.areceive()
        with pytest.raises(shmq.InFlightLimit, match="in_flight=1"):
            await queue.areceive()
        asyncio.get_running_loop().call_later(0.1, lease.ack)
        assert (await queue.areceive()).data == 2

    run(main())


# -- what else ends a wait ---------------------------------------------------------------------------------------------------


def test_a_shutdown_wakes_those_that_wait(run, make):
    queue, full = make(), make(slots=1)

    async def main() -> list[Any]:
        full.put(1)
        tasks = [asyncio.create_task(call) for call in (queue.aget(), queue.aget(), full.aput(2))]
        await turns()
        queue.shutdown()
        full.shutdown()
        assert [lease.data async for lease in queue] == []
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(result) for result in run(main())] == [shmq.ShutDown] * 3
    assert idle(queue) and idle(full)


def test_closing_the_handle_wakes_those_that_wait(run, make):
    queue = make()

    async def main() -> None:
        tasks = [asyncio.create_task(queue.aget()) for _ in range(3)]
        await turns()
        queue.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [shmq.Closed] * 3
        with pytest.raises(shmq.Closed):
            await queue.aget()

    run(main())
    assert not queue._loop_waiters


def test_what_a_killed_process_held_comes_to_a_task_that_waits(run, make, children):
    queue, ready = make(), make()

    async def main() -> tuple[Any, int]:
        queue.put("of the dead")
        children.start(receive_and_stay, queue, ready)
        os.kill(await ready.aget(), signal.SIGKILL)
        async with queue.areceive(timeout=LONG) as lease:
            return lease.data, lease.delivery_count

    assert run(main()) == ("of the dead", 2)
    children.kill()


def test_what_rests_and_what_expires_comes_to_a_task_that_waits(run, make):
    queue = make(lease_timeout=0.1)

    async def main() -> None:
        queue.put("rests")
        (await queue.areceive()).nack(delay=0.1)
        lease = await queue.areceive(timeout=LONG)
        assert lease.delivery_count == 2
        assert (await queue.areceive(timeout=LONG)).delivery_count == 3  # nobody acked the second
        with pytest.raises(shmq.LeaseLost):
            lease.ack()

    run(main())


def test_ajoin_is_woken_by_the_last_step(run, queue):
    async def main() -> None:
        queue.put(1)
        assert not await queue.ajoin(timeout=0.05)
        task = asyncio.create_task(queue.ajoin())
        await turns()
        (await queue.areceive()).ack()
        assert await task

    run(main())
    assert idle(queue)


def test_loops_in_two_threads_wait_at_one_handle(queue):
    async def take(count: int) -> list[int]:
        return [await queue.aget() for _ in range(count)]

    came: list[int] = []
    threads = [threading.Thread(target=lambda: came.extend(asyncio.run(take(100)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(200):
        queue.put(number)
        if number % 20 == 0:
            time.sleep(0.002)
    for thread in threads:
        thread.join(LONG)
    assert sorted(came) == list(range(200))


def test_a_loop_that_was_closed_under_those_who_waited_is_forgotten(queue):
    loop = asyncio.new_event_loop()
    task = loop.create_task(queue.aget())
    loop.run_until_complete(turns())
    loop.close()
    queue.put("for another loop")
    assert asyncio.run(queue.aget()) == "for another loop"
    asyncio.run(wait_shortly(queue))
    assert idle(queue)
    task._log_destroy_pending = False  # it is to stay pending


async def wait_shortly(queue: shmq.Queue) -> None:
    with pytest.raises(shmq.Empty):
        await queue.aget(timeout=0.05)


# -- wait_any ----------------------------------------------------------------------------------------------------------------


def test_the_first_queue_that_has_a_message_is_awaited(run, make, children):
    several = [make() for _ in range(3)]

    async def main() -> None:
        children.start(put_later, several[1], "there")
        assert await aio.wait_any(several, timeout=LONG) is several[1]
        assert several[1].get_nowait() == "there"
        with pytest.raises(shmq.Empty, match="none of 3 queues"):
            await aio.wait_any(several, timeout=0.05)
        with pytest.raises(ValueError, match="wait for ever"):
            await aio.wait_any([])
        task = asyncio.create_task(aio.wait_any(several))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert all(map(idle, several))
    children.join()


# -- the face with the interface of asyncio.Queue ----------------------------------------------------------------------------


def test_a_queue_of_tasks_is_one_of_processes_too(run, any_children):
    queue = aio.Queue(4)

    async def main() -> None:
        any_children.start(put_many, queue.queue, 20)
        assert [await queue.get() for _ in range(20)] == list(range(20))
        for _ in range(20):
            queue.task_done()
        await queue.join()
        with pytest.raises(asyncio.QueueEmpty):
            queue.get_nowait()

    run(main())
    queue.close()
    any_children.join()


def test_another_face_of_a_queue_that_is_there(run, queue):
    async def main() -> None:
        face = aio.Queue(queue=queue)
        await face.put(1)
        assert face.maxsize == 16 and face.qsize() == queue.qsize() == 1 and queue.name in repr(face)
        assert await queue.aget() == 1

    run(main())
