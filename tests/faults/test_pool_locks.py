"""Executor: its locks where a fork, another thread, or code that runs in the middle of something meets them."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

import shmq
from shmq.executor import _future
from support.processes import WATCHDOG, wait_until


def square(number: int) -> int:
    return number * number


def fail(text: str) -> None:
    raise LookupError(text)


@pytest.fixture(params=["lock", "finishing"])
def held(request: pytest.FixtureRequest) -> Iterator[None]:
    """A thread of this process holds one of the locks that all its executors share."""
    holds, go = threading.Event(), threading.Event()

    def hold() -> None:
        with getattr(_future, request.param):
            holds.set()
            go.wait(WATCHDOG)

    holder = threading.Thread(target=hold)
    holder.start()
    assert holds.wait(WATCHDOG)
    yield
    go.set()
    holder.join()


@pytest.mark.usefixtures("held")
def test_a_child_forked_while_a_thread_holds_the_futures_locks_uses_pools(children: Any) -> None:
    def body() -> None:
        with shmq.Executor(1, "fork") as own:
            assert own.submit(square, 3).result(WATCHDOG / 4) == 9
            assert list(own.map(square, range(3), timeout=WATCHDOG / 4)) == [0, 1, 4]

    children.start(body)
    children.join()


def test_a_child_forked_while_a_thread_holds_the_crews_lock_is_refused(children: Any) -> None:
    with shmq.Executor(1, "fork") as pool:
        assert pool.submit(square, 2).result(WATCHDOG) == 4
        holds, go = threading.Event(), threading.Event()

        def hold() -> None:
            with pool._client.crew._lock:
                holds.set()
                go.wait(WATCHDOG)

        holder = threading.Thread(target=hold)
        holder.start()
        assert holds.wait(WATCHDOG)

        def body() -> None:
            with pytest.raises(RuntimeError, match="belongs to process"):
                pool.submit(square, 2)
            pool.stats()
            assert pool._client.crew.processes
            pool.shutdown()

        children.start(body)
        children.join()
        go.set()
        holder.join()
        assert pool.submit(square, 3).result(WATCHDOG) == 9


def test_a_map_that_a_forked_child_goes_on_with_says_whose_it_is(children: Any) -> None:
    with shmq.Executor(1, "fork") as pool:
        values = pool.map(time.sleep, [0.5, 0])

        def body() -> None:
            with pytest.raises(RuntimeError, match="belongs to process"):
                next(values)

        children.start(body)
        children.join()
        assert list(values) == [None, None]


def test_each_future_of_a_broken_pool_has_an_exception_of_its_own() -> None:
    with shmq.Executor(1, "fork", initializer=fail, initargs=("no licence",)) as pool:
        asked = [pool.submit(square, number) for number in range(6)]
        seen = []
        for future in asked:
            try:
                future.result(WATCHDOG)
            except concurrent.futures.process.BrokenProcessPool as error:
                seen.append(error)
                here = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == __file__]
                assert len(here) == 1
        assert len(set(map(id, seen))) == 6
        assert all(isinstance(error.__cause__, LookupError) for error in seen)


def test_a_pool_breaks_while_a_thread_that_starts_workers_submits() -> None:
    """Where workers are started, arguments are pickled: that is the program's code, and may ask any pool for something."""
    with shmq.Executor(1, "fork") as pool:
        asked = pool.submit(time.sleep, 0.2)
        waits = threading.Event()

        def start_and_submit() -> None:
            with pool._client.crew._lock:
                waits.set()
                wait_until(breaks.is_alive)
                breaks.join(0.5)  # until it waits for this one
                pool._client.manager.wake()  # takes the lock of all executors

        starter = threading.Thread(target=start_and_submit)
        breaks = threading.Thread(target=pool._client.fail_all, args=(shmq.WorkerLost("the test says so"),))
        starter.start()
        assert waits.wait(WATCHDOG)
        breaks.start()
        starter.join(WATCHDOG / 4)
        breaks.join(WATCHDOG / 4)
        assert not starter.is_alive() and not breaks.is_alive()
        assert isinstance(asked.exception(WATCHDOG), shmq.WorkerLost)


def test_a_signal_handler_that_submits_meets_no_lock_of_its_own_thread() -> None:
    """The handler runs between any two instructions of the thread that asks and takes."""
    inner: list[Any] = []
    with shmq.Executor(1, "fork") as pool:
        assert pool.submit(square, 2).result(WATCHDOG) == 4
        before = signal.signal(signal.SIGALRM, lambda number, frame: inner.append(pool.submit(square, 5)))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            for number in range(500):
                assert pool.submit(square, number).result(WATCHDOG / 4) == number * number
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert inner and all(future.result(WATCHDOG / 4) == 25 for future in inner)
        wait_until(lambda: pool.stats().pending == 0)


class SubmitsWhenFreed:
    """Refers to itself, so that the garbage collector frees it, in the middle of whatever this process runs."""

    def __init__(self, pool: shmq.Executor, asked: list[Any]) -> None:
        self.me = self
        self.pool, self.asked = pool, asked

    def __del__(self) -> None:
        if os.getpid() == self.pool._client.id >> 32:
            self.asked.append(self.pool.submit(square, 6))


def test_a_finalizer_that_submits_in_the_middle_of_anything_is_served() -> None:
    import gc

    asked: list[Any] = []
    before = gc.get_threshold()
    with shmq.Executor(1, "fork") as pool:
        assert pool.submit(square, 2).result(WATCHDOG) == 4
        gc.set_threshold(5)
        try:
            for number in range(200):
                SubmitsWhenFreed(pool, asked)
                assert pool.submit(square, number).result(WATCHDOG / 4) == number * number
        finally:
            gc.set_threshold(*before)
        gc.collect()
        assert len(asked) == 200 and all(future.result(WATCHDOG / 4) == 36 for future in asked)
