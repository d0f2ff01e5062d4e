"""Waiting for several things at once, where everything goes wrong: cancellation in every gap, lost bells, no descriptors, forks.

Most run without a clock: a ring that is lost then stays lost, and the wait ends with its time-out instead of with the message.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import select
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import shmq
from shmq import aio
from shmq._waiting import bell, loop_waiters
from support.processes import Children, descriptors, reap_all, wait_until
from support.programs import LONG
from support.shared_memory import files_of
from support.words import Words

Make = Callable[..., shmq.Queue]
ITEMS, SPACE, DONE = bell.ITEMS, bell.SPACE, bell.DONE
NEVER = 3600.0


@pytest.fixture
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by the clock. Children that are forked inherit it."""
    for module in (bell, loop_waiters):
        monkeypatch.setattr(module, "SLICE", NEVER)
    monkeypatch.setattr(loop_waiters, "SOONEST", 0.001)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    async def main() -> Any:
        return await asyncio.wait_for(coroutine, 2 * LONG)

    return asyncio.run(main())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.001)


def was_rung(listener: bell.Listener) -> bool:
    return bool(bell.readable([listener.descriptor], 0))


@pytest.fixture
def other(queue: shmq.Queue) -> Iterator[shmq.Queue]:
    """Another handle of the queue, as another process would have."""
    with shmq.Queue.attach(queue.name) as handle:
        yield handle


class Another:
    """Somebody else who listens, behind those who were there first."""

    def __init__(self, handle: shmq.Queue, side: int = ITEMS) -> None:
        self.listener = bell.Listener(handle)
        self.listener.arm(side)

    def was_told(self) -> bool:
        return was_rung(self.listener)

    def close(self) -> None:
        self.listener.close()


@pytest.fixture
def another(queue: shmq.Queue) -> Iterator[Callable[..., Another]]:
    made: list[Another] = []
    with shmq.Queue.attach(queue.name) as handle:

        def another(side: int = ITEMS) -> Another:
            made.append(Another(handle, side))
            return made[-1]

        yield another
        for one in made:
            one.close()


# -- who was told, and goes without, tells another -----------------------------------------------------------------------------


@pytest.mark.usefixtures("no_clock")
@pytest.mark.parametrize("gap", ["not yet heard", "heard, and about to take"])
def test_a_cancelled_task_leaves_its_message_to_another_process(queue, other, another, gap):
    async def main() -> bool:
        task = asyncio.create_task(other.aget())
        await turns()
        waiting = another()
        queue.put("for one of them")
        assert not waiting.was_told()
        waiters = other._loop_waiters[asyncio.get_running_loop()]
        if gap == "heard, and about to take":
            waiters.rung()
            assert waiters.woken[ITEMS] == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return waiting.was_told()

    assert run(main())


@pytest.mark.usefixtures("no_clock")
def test_a_bell_is_disarmed_where_other_tasks_wait_for_something_else(queue, other, another):
    async def main() -> bool:
        queue.put("unfinished")
        joining = asyncio.create_task(other.ajoin())
        await other.aget()
        taking = asyncio.create_task(other.aget())
        await turns()
        taking.cancel()
        await turns()
        waiting = another()
        queue.put("for the one that waits")
        told = waiting.was_told()
        joining.cancel()
        await asyncio.gather(joining, taking, return_exceptions=True)
        return told

    assert run(main())


@pytest.mark.usefixtures("no_clock")
def test_a_ring_between_the_look_and_the_return_of_wait_any_is_passed_on(queue, other, another):
    waiting: list[Another] = []
    looks = iter(range(100))
    ready = other._ready

    def look() -> bool:
        number, found = next(looks), ready()
        if number == 0:
            queue.put("first")  # nobody is armed yet
        elif number == 1:  # armed: it has seen the first message, and is rung for the second one
            waiting.append(another())
            queue.put("second")
            assert not waiting[0].was_told()
        return found

    other._ready = look
    other._spin = lambda side: False
    assert shmq.wait_any([other], LONG) is other
    assert other.get_nowait() == "first"
    assert waiting[0].was_told()


@pytest.mark.usefixtures("no_clock")
def test_a_claim_is_not_covered_by_arming_again(queue, other, another):
    listener = bell.Listener(other)
    listener.arm(ITEMS)
    queue.put("message")
    assert was_rung(listener)
    listener.arm(ITEMS)
    waiting = another()
    listener.close()
    assert waiting.was_told()


@pytest.mark.usefixtures("no_clock")
def test_a_listener_that_was_told_twice_and_goes_passes_on_twice(queue, other, another):
    listener = bell.Listener(other)
    for number in range(2):
        listener.arm(ITEMS)
        queue.put(number)
    waiting = [another(), Another(shmq.Queue.attach(queue.name))]
    listener.close()
    assert [one.was_told() for one in waiting] == [True, True]
    waiting[1].close()
    waiting[1].listener.queue.close()


@pytest.mark.usefixtures("no_clock")
def test_a_ring_is_passed_on_by_a_handle_that_is_closed_under_those_who_wait(queue, other, another):
    async def main() -> bool:
        task = asyncio.create_task(other.aget())
        await turns()
        waiting = another()
        queue.put("message")
        other.close()
        with pytest.raises(shmq.Closed):
            await task
        return waiting.was_told()

    assert run(main())


@pytest.mark.usefixtures("no_clock")
def test_room_that_was_freed_is_passed_on_at_once(make, another):
    queue = make(slots=64)
    for number in range(64):
        queue.put(number)

    async def main() -> bool:
        with shmq.Queue.attach(queue.name) as other, shmq.Queue.attach(queue.name) as third:
            task = asyncio.create_task(other.aput("more"))
            await turns()
            queue.get()
            assert was_rung(other._loop_waiters[asyncio.get_running_loop()].listener)
            waiting = Another(third, SPACE)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            told = waiting.was_told()
            waiting.close()
            return told

    assert run(main())


@pytest.mark.usefixtures("no_clock")
def test_the_task_that_wait_any_returns_to_takes_before_others_are_woken(queue):
    async def main() -> list[int]:
        came: list[int] = []

        async def first() -> None:
            await aio.wait_any([queue])
            came.append(queue.get_nowait())

        tasks = [asyncio.create_task(first()), asyncio.create_task(queue.aget())]
        await turns()
        queue.put(1)
        queue._loop_waiters[asyncio.get_running_loop()].rung()
        queue.put(2)  # while the first is woken, and has yet to go on
        came.append(await asyncio.wait_for(tasks[1], LONG))
        await tasks[0]
        return came

    assert run(main()) == [1, 2]


@pytest.mark.usefixtures("no_clock")
def test_a_task_whose_message_cannot_be_decoded_leaves_the_others_their_turn(make):
    queue = make(max_deliveries=1)

    class Unpicklable:
        def __reduce__(self) -> Any:
            return explode, ()

    async def main() -> tuple[type, Any]:
        tasks = [asyncio.create_task(queue.aget()) for _ in range(2)]
        await turns()
        queue.put(Unpicklable())
        failed, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        queue.put("sound")
        (left,) = set(tasks) - failed
        return type(failed.pop().exception()), await left

    assert run(main()) == (ArithmeticError, "sound")


def explode() -> None:
    raise ArithmeticError


@pytest.mark.usefixtures("no_clock")
def test_tasks_are_woken_for_what_waits_beside_a_queue_without_a_bound(make):
    queue = make(slots=2, overflow="grow")

    async def main() -> list[int]:
        with shmq.Queue.attach(queue.name) as other:
            tasks = [asyncio.create_task(other.aget()) for _ in range(30)]
            await turns()
            for number in range(30):
                queue.put(number)
            return await asyncio.gather(*tasks)

    assert run(main()) == list(range(30))


# -- each step of a wait, by hand -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_clock")
@pytest.mark.parametrize("call", ["aget", "areceive", "iterate", "ajoin", "wait_any", "aput"])
@pytest.mark.parametrize("how", ["throw", "close", "cancel twice"])
def test_a_wait_that_is_ended_from_outside_leaves_nothing(make, call, how):
    queue = make(slots=1)
    if call in ("ajoin", "aput"):
        queue.put("there")
    calls: dict[str, Callable[[], Any]] = {
        "aget": queue.aget,
        "areceive": lambda: queue.areceive().receive(),
        "iterate": lambda: queue.__aiter__().__anext__(),
        "ajoin": queue.ajoin,
        "wait_any": lambda: aio.wait_any([queue, queue]),
        "aput": lambda: queue.aput("more"),
    }

    async def main() -> None:
        coroutine = calls[call]()
        if how == "cancel twice":
            task = asyncio.ensure_future(coroutine)
            await turns()
            task.cancel()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            coroutine.send(None)
            if how == "throw":
                with pytest.raises(KeyError):
                    coroutine.throw(KeyError())
            else:
                coroutine.close()
        await turns()
        assert not queue._loop_waiters
        assert queue._waiters() == (0, 0)

    run(main())
    assert queue._listening_handles.own_is_free
    assert queue.qsize() == (call in ("ajoin", "aput"))


@pytest.mark.usefixtures("no_clock")
def test_wait_for_timeouts_and_task_groups_take_nothing_that_they_do_not_return(queue, children):
    children.start(put_slowly, queue, 300)

    async def main() -> list[int]:
        came: list[int] = []

        async def take(seconds: float) -> None:
            with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                came.append(await asyncio.wait_for(queue.aget(), seconds))

        async def take_within(seconds: float) -> None:
            with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                if sys.version_info < (3, 11):
                    return await take(seconds)
                async with asyncio.timeout(seconds):
                    item = await queue.aget()
                    came.append(item)

        while len(came) < 300:
            await asyncio.gather(*(kind(0.0003 * n) for n in range(1, 6) for kind in (take, take_within)))
        return came

    # Before Python 3.12 wait_for may drop what came with the tick of its time-out: CPython's own queue loses it, too.
    if sys.version_info >= (3, 12):
        assert sorted(run(main())) == list(range(300))
    else:
        children.kill()


def put_slowly(queue: shmq.Queue, count: int) -> None:
    for number in range(count):
        queue.put(number)
        time.sleep(0.0004)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks_wait_as_others_do(queue):
    async def main() -> list[int]:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        tasks = [asyncio.create_task(queue.aget()) for _ in range(5)]
        for number in range(5):
            queue.put(number)
        return [await task for task in tasks]

    assert run(main()) == list(range(5))


# -- looking costs nothing while there is nothing -----------------------------------------------------------------------------


def test_a_wait_for_several_looks_rarely_where_a_message_had_come_back_before(queue, other):
    queue.put("once")
    queue.receive(0).nack()
    queue.receive(0).ack()
    looks = counted(other, "_ready")
    with pytest.raises(shmq.Empty):
        run(aio.wait_any([other], 0.3))
    assert len(looks) < 30


@pytest.mark.parametrize("wait", ["join", "wait_any", "ajoin"])
def test_a_wait_looks_rarely_after_something_that_rested_was_taken_elsewhere(queue, other, wait):
    queue.put("resting")
    queue.receive(0).nack(0.02)
    with pytest.raises(shmq.Empty):
        other.get_nowait()  # and knows when it is due
    lease = queue.receive(LONG)
    looks = counted(other, "_watch")
    if wait == "join":
        assert not other.join(0.3)
    elif wait == "ajoin":
        assert not run(other.ajoin(0.3))
    else:
        with pytest.raises(shmq.Empty):
            shmq.wait_any([other], 0.3)
    assert len(looks) < 30
    lease.ack()


def counted(queue: shmq.Queue, method: str) -> list[None]:
    calls: list[None] = []
    real = getattr(queue, method)

    def call(*arguments: Any) -> Any:
        calls.append(None)
        return real(*arguments)

    setattr(queue, method, call)
    return calls


@pytest.mark.usefixtures("no_clock")
def test_a_batch_that_others_take_first_leaves_nobody_deaf(queue, other):
    """Five tasks are woken for five messages, and somebody is quicker: the next message wakes again."""

    async def main() -> str:
        tasks = [asyncio.create_task(other.aget()) for _ in range(8)]
        await turns()
        waiters = other._loop_waiters[asyncio.get_running_loop()]
        for _ in range(5):
            for number in range(6):
                queue.put(number)
            waiters.listener.clear()
            for side in (ITEMS,):
                waiters.wake_if_worth(side)
            while queue.qsize():
                queue.get()
            await turns(2)
            waiters.listener.clear()  # as if nobody had rung: what was rung so far was for what is gone
        queue.put("the next")
        done, others = await asyncio.wait(tasks, timeout=LONG, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        return done.pop().result()

    assert run(main()) == "the next"


def test_tasks_that_came_too_late_keep_their_order(queue, other):
    async def main() -> list[int]:
        tasks = [asyncio.create_task(other.aget()) for _ in range(6)]
        await turns()
        waiters = other._loop_waiters[asyncio.get_running_loop()]
        for number in range(3):
            queue.put(number)
        waiters.rung()
        assert waiters.woken[ITEMS] == 3
        while queue.qsize():
            queue.get()
        await turns()
        for number in range(6):
            queue.put(number)
        return [await task for task in tasks]

    assert run(main()) == list(range(6))


# -- bells that are gone, or cannot be had --------------------------------------------------------------------------------------


def bell_of(queue: shmq.Queue) -> Path:
    (name,) = (file for file in files_of(queue.name) if file.endswith(".bell"))
    return Path("/dev/shm") / name


@pytest.mark.parametrize("by", ["nothing", "a file", "a link", "a folder"])
def test_a_bell_that_was_replaced_is_not_followed_and_is_made_again(queue, other, tmp_path, by):
    target = tmp_path / "target"
    target.write_text("untouched")

    async def main() -> list[str]:
        came = []
        task = asyncio.create_task(other.aget())
        await turns()
        path = bell_of(other)
        path.unlink()
        if by == "a file":
            path.write_text("")
        elif by == "a link":
            path.symlink_to(target)
        elif by == "a folder":
            path.mkdir()
        queue.put("by the clock")
        came.append(await task)
        if by == "a folder":
            path.rmdir()
        task = asyncio.create_task(other.aget())
        await turns()
        queue.put("by the new bell")
        assert was_rung(other._loop_waiters[asyncio.get_running_loop()].listener)
        came.append(await task)
        return came

    assert run(main()) == ["by the clock", "by the new bell"]
    assert target.read_text() == "untouched"


def test_a_bell_that_was_removed_is_made_again_while_somebody_waits(queue, other):
    async def main() -> str:
        task = asyncio.create_task(other.aget())
        await turns()
        bell_of(other).unlink()
        await until(lambda: any(file.endswith(".bell") for file in files_of(other.name)))
        queue.put("message")
        assert was_rung(other._loop_waiters[asyncio.get_running_loop()].listener)
        return await task

    assert run(main()) == "message"


@pytest.mark.usefixtures("no_clock")
def test_unlinking_a_queue_leaves_the_bells_of_those_who_go_on(queue, other):
    async def main() -> str:
        task = asyncio.create_task(other.aget())
        await turns()
        queue.unlink()
        queue.put("among ourselves")
        return await task

    assert run(main()) == "among ourselves"
    other.close()
    assert files_of(queue.name) == []


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("no_clock")
def test_a_publisher_without_descriptors_leaves_the_bells_to_others(queue, other):
    listener = bell.Listener(other)
    listener.arm(ITEMS)
    with no_descriptors():
        queue.put("told nobody")
    assert not was_rung(listener)
    queue.put("told")
    assert was_rung(listener)
    listener.close()


def test_a_wait_without_descriptors_fails_and_the_next_one_does_not(queue):
    async def main() -> str:
        with no_descriptors(), pytest.raises(OSError):
            await queue.aget()
        assert not queue._loop_waiters
        task = asyncio.create_task(queue.aget())
        await turns()
        queue.put("message")
        return await task

    assert run(main()) == "message"
    with shmq.Queue.attach(queue.name) as other:
        with no_descriptors(), pytest.raises(OSError):
            shmq.wait_any([other], 1)
        assert other._listening_handles.own_is_free


def test_a_loop_that_cannot_watch_descriptors_gives_the_bell_back(queue):
    class Loop(asyncio.SelectorEventLoop):
        def add_reader(self, *arguments: Any) -> None:
            raise NotImplementedError

    loop = Loop(select_only())
    try:
        with pytest.raises(NotImplementedError):
            loop.run_until_complete(queue.aget())
    finally:
        asyncio.SelectorEventLoop.add_reader(loop, 0, print)
        loop.remove_reader(0)
        loop.close()
    assert queue._listening_handles.own_is_free
    assert not queue._loop_waiters


def select_only() -> Any:
    import selectors

    return selectors.SelectSelector()


def test_a_crowd_that_waited_once_leaves_the_ports_to_others(make):
    queue = make(ports=12)
    threads = [threading.Thread(target=shmq.wait_any, args=([queue],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: queue._waiters()[0] == 8)
    queue.shutdown()
    for thread in threads:
        thread.join()
    others = [shmq.Queue.attach(queue.name) for _ in range(10)]
    for other in others:
        other.close()


def test_where_no_port_is_left_a_further_listener_says_so_and_the_first_goes_on(make):
    queue = make(ports=1)
    thread = threading.Thread(target=shmq.wait_any, args=([queue],))
    thread.start()
    wait_until(lambda: queue._waiters()[0] == 1)
    with pytest.raises(shmq.TooManyPorts):
        run(queue.aget(1))
    queue.put("message")
    thread.join()
    assert queue.get() == "message"


# -- handles, loops and processes that end ------------------------------------------------------------------------------------


def test_a_loop_that_is_closed_under_a_message_complains_of_nothing(queue, monkeypatch):
    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(queue.aget()) for _ in range(2)]
    loop.run_until_complete(turns())
    queue.put("message")
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False
    del task, tasks
    gc.collect()
    assert run(queue.aget(1)) == "message"
    with pytest.raises(shmq.Empty):
        run(queue.aget(0.01))  # whoever comes next clears away what is left of the closed loop
    gc.collect()
    assert not complaints
    assert queue._listening_handles.own_is_free


def test_a_queue_that_nobody_holds_is_freed_whoever_had_waited(queue):
    async def main() -> None:
        for way in ("came", "cancelled", "closed", "too late"):
            anonymous = shmq.Queue()
            task = asyncio.create_task(anonymous.aget(0.001 if way == "too late" else None))
            await turns()
            if way == "came":
                anonymous.put("message")
            elif way == "cancelled":
                task.cancel()
            elif way == "closed":
                anonymous.close()
            await asyncio.gather(task, return_exceptions=True)
            name, gone = anonymous.name, weakref.ref(anonymous)
            del anonymous, task
            await turns()
            gc.collect()
            assert gone() is None, way
            assert files_of(name) == [], way

    run(main())


def test_thousands_of_waits_leave_no_descriptor_and_no_file(queue, other):
    def everything() -> tuple[int, list[str]]:
        return len(descriptors()), files_of(queue.name)

    async def main() -> None:
        async def wait(number: int) -> None:
            task = asyncio.create_task(other.aget(0.0001 if number % 3 == 1 else None))
            await asyncio.sleep(0)
            if number % 3 == 0:
                queue.put(number)
            elif number % 3 == 2:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        for number in range(10):
            await wait(number)
        before = everything()
        for number in range(2000):
            await wait(number)
        assert everything() == before

    run(main())


@pytest.mark.usefixtures("no_clock")
def test_a_child_that_is_forked_under_those_who_wait_takes_nothing_from_them(queue):
    async def main() -> str:
        task = asyncio.create_task(queue.aget())
        await turns()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                task.get_coro().close()
                queue._loop_waiters.clear()
                queue.close()
                gc.collect()
                os._exit(0)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert status == 0
        assert queue.stats().ports == 1
        queue.put("for the parent")
        return await task

    assert run(main()) == "for the parent"


@pytest.mark.usefixtures("no_clock")
def test_a_forked_child_waits_with_a_bell_of_its_own(queue):
    async def main() -> list[str]:
        task = asyncio.create_task(queue.aget())
        await turns()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                asyncio._set_running_loop(None)
                os._exit(asyncio.new_event_loop().run_until_complete(queue.aget(LONG)) not in ("one", "two"))
            os._exit(2)
        await until(lambda: queue._waiters()[0] == 2)
        queue.put("one")
        queue.put("two")
        came = await task
        assert os.waitpid(child, 0)[1] == 0
        return came

    assert run(main()) in ("one", "two")


def test_a_sleeper_that_was_killed_is_taken_off_the_count(queue, children):
    child = children.start(sleep_at, queue.name)
    wait_until(lambda: queue._waiters() == (1, 0))
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    reap_all(queue)
    assert queue._waiters() == (0, 0)
    listener = bell.Listener(queue)
    listener.arm(ITEMS)
    queue.put("rings, and is not posted to the dead")
    assert was_rung(listener)
    listener.close()
    children.kill()


def sleep_at(name: str) -> None:
    shmq.Queue.attach(name).get()


@pytest.mark.usefixtures("no_clock")
def test_a_sleeper_whose_handler_raises_passes_its_message_on(queue, another):
    """The signal comes with the post: whoever is woken by both goes without the message."""

    class Stop(Exception):
        pass

    def stop(number: int, frame: Any) -> None:
        raise Stop

    before = signal.signal(signal.SIGUSR1, stop)
    sleeper = threading.main_thread().ident
    waiting: list[Another] = []

    def both() -> None:
        wait_until(lambda: queue._waiters()[0] == 1)
        waiting.append(another())
        with shmq.Queue.attach(queue.name) as other:
            other.put("message")
            signal.pthread_kill(sleeper, signal.SIGUSR1)

    sys.setswitchinterval(1)  # the one that posts sends the signal before the sleeper has the interpreter again
    try:
        thread = threading.Thread(target=both)
        thread.start()
        came = None
        with contextlib.suppress(Stop):
            came = queue.get(timeout=LONG)
        thread.join()
    finally:
        sys.setswitchinterval(0.005)
        signal.signal(signal.SIGUSR1, before)
    assert came == "message" or waiting[0].was_told()


def test_what_is_no_time_out_is_refused_also_where_nobody_has_to_wait(queue):
    calls: list[Callable[[Any], Any]] = [
        lambda timeout: queue.aget(timeout),
        lambda timeout: queue.aput("more", timeout),
        lambda timeout: queue.areceive(timeout),
        lambda timeout: queue.ajoin(timeout),
        lambda timeout: aio.wait_any([queue], timeout),
    ]
    for bad, error in (("1", TypeError), (b"1", TypeError), (float("nan"), ValueError), ([], TypeError)):
        queue.put("there")
        for call in calls:
            with pytest.raises(error):
                run(awaited(call, bad))
        queue.purge()
    assert run(queue.ajoin(float("inf"))) is True


async def awaited(call: Callable[[Any], Any], timeout: Any) -> Any:
    return await call(timeout)


@pytest.mark.parametrize("timeout", [float("inf"), 1e300])
def test_a_time_out_beyond_all_clocks_is_for_ever(queue, timeout):
    async def main() -> str:
        task = asyncio.create_task(queue.aget(timeout))
        await turns()
        queue.put("message")
        return await task

    assert run(main()) == "message"
    try:
        import uvloop
    except ImportError:
        return
    loop = uvloop.new_event_loop()
    try:
        assert loop.run_until_complete(main()) == "message"
    finally:
        loop.close()


# -- the end of the work ---------------------------------------------------------------------------------------------------------


def test_what_was_taken_is_counted_whoever_goes_and_whoever_reaps(make, children):
    """No moment in which the gets of a handle that goes are seen nowhere: join would return too early."""
    queue = make(slots=1024)
    stop = threading.Event()
    early: list[int] = []

    def look() -> None:
        while not stop.is_set():
            if (left := queue._unfinished()) < 1:
                early.append(left)

    queue.put("never done")
    thread = threading.Thread(target=look)
    thread.start()
    for number in range(80):
        queue.put(number)
        with shmq.Queue.attach(queue.name) as handle:
            handle.get()
            handle.task_done()
    stop.set()
    thread.join()
    assert early == []


@pytest.mark.usefixtures("no_clock")
def test_an_open_get_counts_as_a_message_and_the_last_step_after_it_tells(queue, other):
    listener = bell.Listener(other)
    listener.arm(DONE)
    queue.put("work")
    words = Words(queue)
    lease = queue.receive(0)
    intent = words.port(other._ports()[-1][0]) + 64
    words[intent] = 2 << 62 | 5 << 48  # getting, into its cell
    lease.ack()
    assert not was_rung(listener)
    words[intent] = 0
    other._watch()
    queue.put("the next")
    queue.receive(0).ack()
    assert was_rung(listener)
    listener.close()


def test_a_shutdown_races_with_puts_and_every_waiter_ends(make, children):
    for immediate in (False, True):
        queue = make(slots=4)
        waiting = [children.start(take_until_shut, queue.name) for _ in range(2)]

        async def main(queue: shmq.Queue = queue, immediate: bool = immediate) -> tuple[int, int]:
            put = came = 0

            async def putting() -> None:
                nonlocal put
                with contextlib.suppress(shmq.ShutDown):
                    while True:
                        await queue.aput(b"message")
                        put += 1

            async def taking() -> None:
                nonlocal came
                with contextlib.suppress(shmq.ShutDown):
                    while True:
                        await queue.aget()
                        came += 1

            tasks = [asyncio.create_task(kind()) for kind in (putting, taking) for _ in range(8)]
            await asyncio.sleep(0.05)
            queue.shutdown(immediate)
            await asyncio.gather(*tasks)
            return put, came

        put, came = run(main())
        for child in waiting:
            child.join(LONG)
            assert child.exitcode == 0
        assert came <= put
        assert select.select([], [], [], 0) == ([], [], [])


def take_until_shut(name: str) -> None:
    with shmq.Queue.attach(name) as queue, contextlib.suppress(shmq.ShutDown):
        while True:
            queue.get()


def test_join_and_kills_and_gets_come_to_an_end(make, children: Children):
    queue = make(slots=64, lease_timeout=None)
    for number in range(200):
        if queue.full():
            break
        queue.put(number)
    workers = [children.start(work, queue.name) for _ in range(3)]
    wait_until(lambda: queue.stats().acks > 5)
    os.kill(workers[0].pid, signal.SIGKILL)
    assert queue.join(LONG)
    assert run(queue.ajoin(LONG))
    assert queue.stats().acks == 64
    children.kill()


def work(name: str) -> None:
    for lease in shmq.Queue.attach(name):
        time.sleep(0.002)
        del lease
