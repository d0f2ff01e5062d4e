"""Executor: what it promises beyond the suite that it borrows from CPython (tests/borrowed/test_executor.py)."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import gc
import io
import itertools
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.console
import rich.progress

import shmq
from shmq._segment import lifecycle
from shmq.executor import _channel, _crew, _future
from support.processes import WATCHDOG, wait_until

LARGE = 300_000  # bytes: beyond a small slot
START_METHODS = ["fork", "spawn", "forkserver"]


def square(number: int) -> int:
    return number * number


def nap(seconds: float, value: Any = None) -> Any:
    time.sleep(seconds)
    return value


def twice(array: np.ndarray) -> np.ndarray:
    return array * 2


def writable(array: np.ndarray) -> bool:
    return bool(array.flags.writeable)


def fail(text: str) -> None:
    raise LookupError(text)


def note(path: str, number: int) -> int:
    """Leave a trace that this task was begun."""
    Path(path, str(number)).touch()
    time.sleep(0.02)
    return number


def keep_a_pool() -> int:
    global kept
    kept = shmq.Executor(1, "fork")
    return kept.submit(square, 3).result(WATCHDOG)


class Unhashable:
    """Callable, and with a state that each call has for itself."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.calls


@pytest.fixture
def pool() -> Iterator[shmq.Executor]:
    with shmq.Executor(2, "fork") as executor:
        yield executor


# -- calls and values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", START_METHODS)
def test_every_start_method_runs_calls(method: str) -> None:
    with shmq.Executor(2, method) as pool:
        assert pool.submit(square, 7).result(WATCHDOG) == 49
        assert list(pool.map(square, range(20))) == [number * number for number in range(20)]


def test_positional_and_keyword_arguments_arrive(pool: shmq.Executor) -> None:
    assert pool.submit(dict, [("a", 1)], b=2).result() == {"a": 1, "b": 2}
    assert pool.submit(sorted, (3, 1, 2), reverse=True).result() == [3, 2, 1]


def test_a_callable_without_a_hash_is_pickled_for_each_call(pool: shmq.Executor) -> None:
    counter = Unhashable()
    assert [pool.submit(counter).result() for _ in range(3)] == [1, 1, 1]
    assert counter.calls == 0


def test_partial_and_methods_and_classes_are_callables(pool: shmq.Executor) -> None:
    assert pool.submit(functools.partial(pow, 2), 5).result() == 32
    assert pool.submit("a-b".split, "-").result() == ["a", "b"]
    assert pool.submit(complex, 1, 2).result() == 1 + 2j


def test_lambdas_travel_where_cloudpickle_is_installed(pool: shmq.Executor) -> None:
    pytest.importorskip("cloudpickle")
    factor = 3
    assert pool.submit(lambda number: number * factor, 5).result() == 15
    assert list(pool.map(lambda number: number + factor, range(3))) == [3, 4, 5]
    assert list(pool.submit(map, lambda number: number * factor, [1, 2]).result()) == [3, 6]  # as an argument, and in a result


def test_without_cloudpickle_the_future_says_what_does_not_pickle(pool: shmq.Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    assert "pickle" in str(pool.submit(lambda: 1).exception()).lower()
    with pytest.raises((pickle.PicklingError, AttributeError)):
        list(pool.map(lambda number: number, [1]))


def test_an_exception_brings_the_text_of_its_traceback(pool: shmq.Executor) -> None:
    error = pool.submit(fail, "not here").exception()
    assert isinstance(error, LookupError) and error.args == ("not here",)
    assert "raise LookupError(text)" in str(error.__cause__)


class NeedsTwo(Exception):
    """Pickles, and does not unpickle, as so many exceptions."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


class BecomesSomethingElse(Exception):
    """What pickle makes of it is no exception."""

    def __reduce__(self) -> Any:
        return self.args


def fail_with(*reduction: Any) -> None:
    raise BecomesSomethingElse(*reduction)


def fail_with_two() -> None:
    raise NeedsTwo("dust", "the lens")


def test_of_an_exception_that_does_not_unpickle_the_text_arrives(pool: shmq.Executor) -> None:
    error = pool.submit(fail_with_two).exception(WATCHDOG)
    assert isinstance(error, TypeError)
    assert "NeedsTwo: dust in the lens" in str(error.__cause__)


def test_a_value_that_does_not_pickle_is_an_exception_of_its_own_future(pool: shmq.Executor) -> None:
    assert pool.submit(threading.Lock).exception() is not None
    assert pool.submit(square, 2).result() == 4


def test_more_tasks_than_any_queue_has_slots_come_back_once_each(pool: shmq.Executor) -> None:
    asked = [pool.submit(square, number) for number in range(5000)]
    assert [future.result() for future in asked] == [number * number for number in range(5000)]
    assert pool.stats().done == 5000


def test_futures_work_with_the_tools_of_the_standard_library(pool: shmq.Executor) -> None:
    asked = [pool.submit(nap, 0.01 * (number % 3), number) for number in range(12)]
    assert {future.result() for future in futures.as_completed(asked, WATCHDOG)} == set(range(12))
    done, not_done = futures.wait(asked, WATCHDOG)
    assert len(done) == 12 and not not_done
    called: list[int] = []
    asked[0].add_done_callback(lambda future: called.append(future.result()))
    late = pool.submit(nap, 0.05, 99)
    late.add_done_callback(lambda future: called.append(future.result()))
    wait_until(lambda: called == [0, 99])


def test_asyncio_runs_in_it(pool: shmq.Executor) -> None:
    async def ask() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(pool, square, number) for number in range(10)))

    assert asyncio.run(ask()) == [number * number for number in range(10)]


def test_several_threads_submit_at_once(pool: shmq.Executor) -> None:
    def ask(base: int) -> list[int]:
        return [future.result() for future in [pool.submit(square, base + number) for number in range(500)]]

    with futures.ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ask, range(0, 4000, 1000)))
    assert found == [[(base + number) ** 2 for number in range(500)] for base in range(0, 4000, 1000)]


@pytest.mark.parametrize("method", START_METHODS)
def test_functions_of_a_shell_travel_where_cloudpickle_is_installed(method: str) -> None:
    pytest.importorskip("cloudpickle")
    program = f"""
import shmq
pool = shmq.Executor(1, {method!r})
pool.submit(abs, 1).result()
def late(number):
    return number + 1
print(pool.submit(late, 4).result(), list(pool.map(late, range(3))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WATCHDOG)
    assert (done.stdout, done.stderr) == ("5 [1, 2, 3]\n", "")


def test_progress_bars_count_what_comes(pool: shmq.Executor) -> None:
    console = rich.console.Console(file=io.StringIO())
    with rich.progress.Progress(console=console) as progress:
        task = progress.add_task("map", total=30)
        assert list(progress.track(pool.map(square, range(30)), task_id=task)) == [number * number for number in range(30)]
        assert progress.tasks[0].completed == 30
        asked = [pool.submit(square, number) for number in range(30)]
        assert len(list(progress.track(futures.as_completed(asked, WATCHDOG), total=30))) == 30
        assert progress.finished


def test_tqdm_counts_what_comes(pool: shmq.Executor) -> None:
    tqdm = pytest.importorskip("tqdm")
    with tqdm.tqdm(pool.map(square, range(30)), total=30, file=io.StringIO()) as bar:
        assert list(bar) == [number * number for number in range(30)] and bar.n == 30
    asked = [pool.submit(square, number) for number in range(30)]
    with tqdm.tqdm(futures.as_completed(asked, WATCHDOG), total=30, file=io.StringIO()) as bar:
        assert len(list(bar)) == 30 and bar.n == 30


# -- map -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 7, 1000])
def test_map_keeps_the_order_whatever_the_chunks(pool: shmq.Executor, chunksize: int) -> None:
    assert list(pool.map(pow, range(100), itertools.repeat(2), chunksize=chunksize)) == [number**2 for number in range(100)]


def test_map_with_a_buffersize_reads_no_further_ahead(pool: shmq.Executor) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    values = pool.map(square, numbers(), buffersize=4)
    assert taken == [0, 1, 2, 3]
    assert [next(values) for _ in range(10)] == [number * number for number in range(10)]
    assert len(taken) == 14
    values.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("named", "error"),
    [
        ({"chunksize": 0}, ValueError),
        ({"chunksize": 1.5}, TypeError),
        ({"buffersize": 0}, ValueError),
        ({"buffersize": "2"}, TypeError),
    ],
)
def test_map_refuses_sizes_that_cannot_be(pool: shmq.Executor, named: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="must be"):
        pool.map(square, [1], **named)


@pytest.mark.parametrize("becomes", [(str, ("a text",)), (object, ()), (threading.Event, ())], ids=lambda it: it[0].__name__)
def test_an_exception_that_pickle_makes_something_else_of_is_a_type_error(pool: shmq.Executor, becomes: Any) -> None:
    error = pool.submit(fail_with, *becomes).exception(WATCHDOG)
    assert isinstance(error, TypeError) and "is no exception: see its class's __reduce__" in str(error)
    assert "BecomesSomethingElse" in str(error.__cause__)


def test_map_raises_what_an_item_raised_when_its_turn_comes(pool: shmq.Executor) -> None:
    values = pool.map(divmod, [1, 1, 1], [1, 0, 1])
    assert next(values) == (1, 0)
    with pytest.raises(ZeroDivisionError):
        next(values)
    assert list(values) == []


def test_map_times_out_and_the_pool_goes_on(pool: shmq.Executor) -> None:
    with pytest.raises(futures.TimeoutError):
        list(pool.map(nap, [0, 0.6], timeout=0.1))
    assert pool.submit(square, 3).result() == 9


def test_closing_a_map_gives_up_what_was_not_handed_over(pool: shmq.Executor, tmp_path: Path) -> None:
    values = pool.map(note, itertools.repeat(str(tmp_path)), range(200))
    assert next(values) == 0
    values.close()  # type: ignore[attr-defined]
    pool.shutdown()
    assert len(list(tmp_path.iterdir())) < 50


# -- arrays ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [64, LARGE, 3 << 20])
def test_arrays_of_every_size_go_and_come(pool: shmq.Executor, nbytes: int) -> None:
    array = np.arange(nbytes // 8, dtype=np.float64)
    for _ in range(3):
        assert np.array_equal(pool.submit(twice, array).result(), array * 2)
    assert np.array_equal(list(pool.map(twice, [array, array + 1]))[1], (array + 1) * 2)


def test_arrays_are_private_copies_unless_views_are_asked_for(pool: shmq.Executor) -> None:
    array = np.zeros(LARGE // 8)
    assert pool.submit(writable, array).result()
    assert writable(pool.submit(twice, array).result())


def test_with_zero_copy_arrays_are_read_only_views_that_stay_as_they_are() -> None:
    with shmq.Executor(2, "fork", zero_copy=True) as pool:
        array = np.arange(LARGE // 8, dtype=np.float64)
        assert not pool.submit(writable, array).result()
        kept = [pool.submit(twice, array + number).result() for number in range(4)]
        assert not any(map(writable, kept))
        for _ in range(20):
            pool.submit(twice, -array).result()  # would overwrite them, if their slots were free
        assert all(np.array_equal(found, (array + number) * 2) for number, found in enumerate(kept))


def test_a_program_that_keeps_every_view_gets_copies_from_then_on() -> None:
    with shmq.Executor(1, "fork", zero_copy=True) as pool:
        array = np.ones(LARGE // 8)
        kept = [pool.submit(twice, array).result(WATCHDOG) for _ in range(100)]
        assert all(found[0] == 2 for found in kept)


def test_no_large_slots_are_reserved_before_something_large_comes(pool: shmq.Executor) -> None:
    pool.submit(square, 1).result()
    large = [name for name in shmq.list_segments() if f".{os.getpid()}." in name and name.endswith(".large")]
    assert not large
    pool.submit(len, bytes(LARGE)).result()
    assert [name for name in shmq.list_segments() if f".{os.getpid()}." in name and name.endswith(".large")]


def test_without_room_for_large_slots_large_messages_are_spilled(pool: shmq.Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., Any] = lifecycle.create

    def create(name: str, *arguments: Any, **named: Any) -> Any:
        if name.endswith(".large"):
            raise shmq.OutOfMemory("no room")
        return original(name, *arguments, **named)

    monkeypatch.setattr(lifecycle, "create", create)  # before the workers are forked
    array = np.arange(LARGE // 8, dtype=np.float64)
    assert np.array_equal(pool.submit(twice, array).result(), array * 2)


def test_a_task_that_finds_no_memory_while_others_are_out_waits_for_theirs(
    pool: shmq.Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = pool._client.tasks.put
    times = iter(range(3))

    def put(*arguments: Any) -> None:
        if next(times, None) is not None:
            raise shmq.OutOfMemory("full")
        original(*arguments)

    before = pool.submit(nap, 0.3)
    monkeypatch.setattr(pool._client.tasks, "put", put)
    assert pool.submit(len, bytes(LARGE)).result(WATCHDOG) == LARGE
    before.result()
    times = iter(range(3))
    before = pool.submit(nap, 0.3)
    assert list(pool.map(len, [bytes(LARGE)] * 3)) == [LARGE] * 3


def test_an_outcome_that_finds_no_memory_waits_for_what_others_free(monkeypatch: pytest.MonkeyPatch) -> None:
    original = _channel.Channel.put
    times = iter(range(3))

    def put(*arguments: Any) -> None:
        if next(times, None) is not None:
            raise shmq.OutOfMemory("full")
        original(*arguments)

    monkeypatch.setattr(_channel.Channel, "put", put)  # before the worker is forked
    with shmq.Executor(1, "fork") as pool:
        assert len(pool.submit(bytes, LARGE).result(WATCHDOG)) == LARGE


# -- cancelling and the end ------------------------------------------------------------------------------------------------


def test_what_waits_can_be_cancelled_and_what_was_handed_over_cannot() -> None:
    with shmq.Executor(1, "fork") as pool:
        asked = [pool.submit(nap, 0.1, number) for number in range(6)]
        assert not asked[0].cancel()
        assert asked[5].cancel() and asked[5].cancelled()
        assert [future.result() for future in asked[:5]] == list(range(5))


def test_shutdown_cancels_what_waits_where_asked_to() -> None:
    pool = shmq.Executor(1, "fork")
    asked = [pool.submit(nap, 0.05, number) for number in range(20)]
    pool.shutdown(cancel_futures=True)
    assert asked[0].result() == 0
    assert sum(future.cancelled() for future in asked) >= 15
    assert all(future.done() for future in asked)


def test_after_shutdown_nothing_is_taken(pool: shmq.Executor) -> None:
    pool.shutdown()
    for ask in (lambda: pool.submit(square, 1), lambda: pool.map(square, [1])):
        with pytest.raises(RuntimeError, match="was shut down"):
            ask()


def test_a_callback_may_shut_the_pool_down(pool: shmq.Executor, caplog: pytest.LogCaptureFixture) -> None:
    asked = [pool.submit(nap, 0.1, number) for number in range(3)]
    asked[0].add_done_callback(lambda future: pool.shutdown())
    assert [future.result(WATCHDOG) for future in asked] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="was shut down"):
        pool.submit(square, 1)
    assert not caplog.records


def test_an_executor_that_was_never_used_leaves_nothing() -> None:
    shmq.Executor(3).shutdown()
    shmq.Executor(3)


def test_a_dropped_executor_finishes_what_was_asked_and_ends() -> None:
    pool = shmq.Executor(2, "fork")
    asked = [pool.submit(nap, 0.05, number) for number in range(4)]
    crew, thread = pool._client.crew, pool._client.manager.thread
    del pool
    assert [future.result(WATCHDOG) for future in asked] == list(range(4))
    wait_until(lambda: not crew.processes and not thread.is_alive())  # which closes the pool's queues at its end


def test_a_forked_child_is_told_that_the_executor_is_its_parents(pool: shmq.Executor, children: Any) -> None:
    pool.submit(square, 1).result()

    def body() -> None:
        with pytest.raises(RuntimeError, match="belongs to process"):
            pool.submit(square, 2)
        with shmq.Executor(1, "fork") as own:
            assert own.submit(square, 3).result() == 9

    children.start(body)
    children.join()
    assert pool.submit(square, 4).result() == 16


def test_a_second_shutdown_writes_nothing_into_files_that_were_opened_since(tmp_path: Path) -> None:
    pool = shmq.Executor(1, "fork")
    assert pool.submit(square, 3).result(WATCHDOG) == 9
    pool.shutdown(wait=False)
    wait_until(lambda: not pool._client.manager.thread.is_alive())
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open(tmp_path / str(number), "wb")) for number in range(20)]
        pool.shutdown()
        pool._client.manager.wake()
        assert [os.fstat(file.fileno()).st_size for file in opened] == [0] * 20


@pytest.mark.parametrize("method", START_METHODS)
def test_a_worker_that_has_a_pool_of_its_own_ends_when_it_is_to(method: str) -> None:
    with shmq.Executor(1, method) as pool:
        assert pool.submit(keep_a_pool).result(WATCHDOG) == 9
        pid = pool.stats().workers[0].pid
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: pid not in [worker.pid for worker in pool.stats().workers])
        assert pool.stats().deaths == 0


def test_the_end_of_the_program_waits_for_what_was_asked() -> None:
    program = "import shmq, time, operator; pool = shmq.Executor(2); pool.submit(print, 'apple', flush=True)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WATCHDOG, check=True)
    assert (done.stdout, done.stderr) == ("apple\n", "")


def test_what_ends_the_manager_thread_ends_the_waiting(pool: shmq.Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pool.submit(nap, 0.3)

    def take() -> int:
        raise LookupError("no such queue")

    monkeypatch.setattr(pool._client, "take", take)
    error = asked.exception(WATCHDOG)
    assert isinstance(error, shmq.WorkerLost) and isinstance(error.__cause__, LookupError)
    with pytest.raises(shmq.WorkerLost, match="no such queue"):
        pool.submit(square, 1)


def test_a_callback_that_raises_whatever_it_likes_ends_nothing_else(pool: shmq.Executor) -> None:
    asked = pool.submit(nap, 0.1)
    asked.add_done_callback(sys.exit)
    asked.result(WATCHDOG)
    assert pool.submit(square, 3).result(WATCHDOG) == 9


@pytest.mark.parametrize("error", [OSError("too many open files"), MemoryError("none left"), shmq.OutOfMemory("full")])
def test_what_cannot_be_sent_is_the_exception_of_its_future(
    pool: shmq.Executor, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(*arguments: Any) -> None:
        raise error

    assert pool.submit(square, 2).result(WATCHDOG) == 4
    with monkeypatch.context() as patch:
        patch.setattr(pool._client.tasks, "put", put)
        assert pool.submit(len, bytes(LARGE)).exception(WATCHDOG) is error
        with pytest.raises(type(error)):
            list(pool.map(len, [bytes(LARGE)]))
    assert pool.submit(len, bytes(LARGE)).result(WATCHDOG) == LARGE


def test_a_process_interrupted_while_asking_is_not_waited_for(pool: shmq.Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    assert pool.submit(square, 2).result(WATCHDOG) == 4
    with monkeypatch.context() as patch:
        patch.setattr(pool._client.tasks, "put", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.submit(len, bytes(LARGE))
        with pytest.raises(KeyboardInterrupt):
            pool.map(len, [bytes(LARGE)] * 3)
    assert pool.stats().pending == 0


def test_of_a_map_whose_iterable_raises_only_what_was_handed_over_is_run() -> None:
    def items() -> Iterator[float]:
        yield from itertools.repeat(0.01, 2000)
        raise ValueError("no more")

    with shmq.Executor(1, "fork") as pool:
        with pytest.raises(ValueError, match="no more"):
            pool.map(time.sleep, items())
        assert pool.stats().waiting == 0 and pool.stats().pending < 500
        assert pool.submit(square, 2).result(WATCHDOG) == 4


@pytest.mark.parametrize("method", START_METHODS)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_program_interrupted_while_a_worker_starts_is_not_haunted_by_it(
    moment: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started and not known to the pool, it would never be asked to leave, and multiprocessing waits for it at exit."""
    enlist = _crew.Crew._enlist

    def interrupted(crew: _crew.Crew, *arguments: Any) -> None:
        monkeypatch.undo()
        if moment == "after":
            enlist(crew, *arguments)
        raise KeyboardInterrupt

    with shmq.Executor(1, method) as pool:
        monkeypatch.setattr(_crew.Crew, "_enlist", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.submit(square, 2)
        (started,) = multiprocessing.active_children()
        assert pool.submit(square, 3).result(WATCHDOG) == 9
        wait_until(lambda: [worker.state for worker in pool.stats().workers] == ["ready"])
        if moment == "before":
            started.join(WATCHDOG / 4)
            assert started.exitcode == 0
        assert len(multiprocessing.active_children()) == 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_program_interrupted_while_its_manager_thread_starts_can_go_on_or_end(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        monkeypatch.undo()
        if moment == "after":
            start(thread)
        raise KeyboardInterrupt

    for goes_on in (True, False):
        with shmq.Executor(1, "fork") as pool:
            monkeypatch.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool.submit(square, 2)
            assert not goes_on or pool.submit(square, 3).result(WATCHDOG) == 9
        assert [thread for thread in threading.enumerate() if thread.name == "shmq-executor"] == []


# -- futures ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hurry() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hurry")
def test_callbacks_run_in_the_manager_thread_and_never_in_one_that_asks(pool: shmq.Executor) -> None:
    """Whoever asks may hold a lock that a callback of another future takes."""
    asker, asking = threading.current_thread(), False
    called: list[bool] = []

    def call_back(future: futures.Future[int]) -> None:
        called.append(asking and threading.current_thread() is asker)

    for number in range(5000):
        asking = True
        future = pool.submit(square, number)
        asking = False
        future.add_done_callback(call_back)
    wait_until(lambda: len(called) == 5000)
    assert not any(called)


def test_a_sleeper_is_woken_by_a_cancel_though_another_has_given_up() -> None:
    with shmq.Executor(1, "fork") as pool:
        last = [pool.submit(time.sleep, 0.2) for _ in range(6)][-1]
        seen: list[BaseException] = []

        def sleep() -> None:
            try:
                last.result()
            except futures.CancelledError as error:
                seen.append(error)

        sleeper = threading.Thread(target=sleep)
        sleeper.start()
        with pytest.raises(futures.TimeoutError):
            last.result(0.1)
        assert last.cancel()
        sleeper.join(WATCHDOG / 4)
        assert len(seen) == 1


def test_a_future_whose_task_found_no_room_is_cancelled_with_the_others() -> None:
    pool = shmq.Executor(1, "fork")
    asked = [pool.submit(time.sleep, 0.2) for _ in range(6)]
    with _future.lock:
        number, _ = pool._client.window.backlog[0]
        assert pool._client.window.begins(number)
    assert asked[3].cancel()  # by hand: it is told, too
    pool.shutdown(cancel_futures=True)
    done, not_done = futures.wait(asked, timeout=0)
    assert not not_done and sum(future.cancelled() for future in done) >= 3


@pytest.mark.usefixtures("hurry")
def test_waiters_for_our_futures_and_for_others_do_not_wait_for_each_other(pool: shmq.Executor) -> None:
    """`wait` takes the conditions of all in one order, which works where no two futures share one."""
    with futures.ThreadPoolExecutor(1) as threads:
        go = threading.Event()
        ours = [*(pool.submit(square, number) for number in range(20)), *(pool.submit(time.sleep, 1) for _ in range(10))]
        theirs = [threads.submit(go.wait, WATCHDOG) for _ in range(20)]
        end = time.monotonic() + 1

        def look(seed: int) -> None:
            chance = random.Random(seed)
            while time.monotonic() < end:
                futures.wait(chance.sample(ours, 3) + chance.sample(theirs, 3), timeout=0)

        lookers = [threading.Thread(target=look, args=(seed,), daemon=True) for seed in range(4)]
        for looker in lookers:
            looker.start()
        for looker in lookers:
            looker.join(WATCHDOG / 4)
        go.set()
        assert not any(looker.is_alive() for looker in lookers)


def test_a_future_does_not_travel(pool: shmq.Executor) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pool.submit(square, pool.submit(square, 1)).result(WATCHDOG)


def test_an_executor_does_not_travel(pool: shmq.Executor) -> None:
    for ask in (lambda: pool.submit(square, pool), lambda: pool.submit(pool.submit, square)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"an executor cannot be pickled.*make one of its own, with the same name="):
            ask().result(WATCHDOG)
    with pytest.raises(TypeError, match="an executor cannot be pickled"):
        copy.copy(pool)


def test_a_future_that_failed_before_it_was_put_is_freed_without_a_collection(pool: shmq.Executor) -> None:
    gc.collect()
    gc.disable()
    try:
        failed = weakref.ref(pool.submit(square, threading.Lock()))
        assert failed() is None
    finally:
        gc.enable()


def test_a_task_that_meets_a_shutdown_in_another_thread_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = shmq.Executor(1, "fork")
    original = pool._grow

    def grow() -> None:
        pool.shutdown()  # between the task and the first worker
        original()

    monkeypatch.setattr(pool, "_grow", grow)
    assert pool.submit(square, 3).result(WATCHDOG) == 9


# -- workers ---------------------------------------------------------------------------------------------------------------


def test_the_initializer_runs_in_each_worker_before_its_first_task() -> None:
    with shmq.Executor(2, "fork", initializer=os.putenv, initargs=("SHMQ_TEST", "1")) as pool:
        assert pool.submit(os.system, 'test "$SHMQ_TEST" = 1').result() == 0


def test_an_initializer_that_always_raises_ends_the_waiting_naming_it() -> None:
    with shmq.Executor(2, "fork", initializer=fail, initargs=("no licence",)) as pool:
        error = pool.submit(square, 1).exception(WATCHDOG)
        assert isinstance(error, shmq.WorkerLost) and "no licence" in str(error)
        assert isinstance(error, futures.BrokenExecutor)
        with pytest.raises(shmq.WorkerLost, match="no licence"):
            pool.submit(square, 2)


def test_a_worker_is_replaced_after_its_tasks() -> None:
    with shmq.Executor(1, "forkserver", max_tasks_per_child=2) as pool:
        pids = [pool.submit(os.getpid).result(WATCHDOG) for _ in range(6)]
    assert len(set(pids)) == 3 and pids[0] == pids[1]
    assert pool.stats().deaths == 0


def test_autoscale_adds_workers_to_a_backlog() -> None:
    with shmq.Executor(autoscale=(1, 4), mp_context="fork") as pool:
        assert pool.submit(square, 2).result() == 4
        assert len(pool.stats().workers) == 1
        asked = [pool.submit(nap, 0.2) for _ in range(12)]
        wait_until(lambda: len(pool.stats().workers) == 4)
        futures.wait(asked, WATCHDOG)


def test_autoscale_lets_idle_workers_go(monkeypatch: pytest.MonkeyPatch) -> None:
    from shmq.executor import _autoscale

    monkeypatch.setattr(_autoscale, "IDLE", 0.1)
    with shmq.Executor(autoscale=(1, 3), mp_context="fork") as pool:
        futures.wait([pool.submit(nap, 0.2) for _ in range(9)], WATCHDOG)
        wait_until(lambda: len(pool.stats().workers) == 1)
        assert pool.stats().deaths == 0
        assert pool.submit(square, 2).result() == 4


def test_stats_tell_what_each_worker_is_at(pool: shmq.Executor) -> None:
    pool.submit(fail, "x").exception()
    asked = [pool.submit(nap, 0.3) for _ in range(2)]
    wait_until(lambda: sum(worker.running != 0 for worker in pool.stats().workers) == 2)
    stats = pool.stats()
    assert stats.pending == 2 and sum(worker.failed for worker in stats.workers) == 1
    assert all(worker.state == "ready" and worker.pid != os.getpid() for worker in stats.workers)
    futures.wait(asked)
    wait_until(lambda: sum(worker.done for worker in pool.stats().workers) == 2)
    assert sum(worker.busy for worker in pool.stats().workers) > 0.5


@pytest.mark.parametrize(
    ("named", "error"),
    [
        ({"max_workers": 0}, ValueError),
        ({"max_workers": -1, "name": "x"}, ValueError),
        ({"autoscale": (3, 2)}, ValueError),
        ({"autoscale": (1, 2), "max_workers": 2}, ValueError),
        ({"initializer": 3}, TypeError),
        ({"max_tasks_per_child": 0}, ValueError),
        ({"max_tasks_per_child": 2, "mp_context": "fork"}, ValueError),
        ({"max_tasks_per_child": "2"}, TypeError),
        ({"mp_context": "thread"}, ValueError),
        ({"max_deliveries": -1}, ValueError),
        ({"slot_size": "big"}, TypeError),
        ({"slot_size": 0}, ValueError),
        ({"max_workers": 1.5}, TypeError),
        ({"max_workers": "2"}, TypeError),
        ({"autoscale": 4}, TypeError),
        ({"autoscale": (1,)}, TypeError),
        ({"autoscale": ("1", "2")}, TypeError),
        ({"initializer": abs, "initargs": 5}, TypeError),
        ({"mp_context": 5}, TypeError),
        ({"name": 5}, TypeError),
        ({"name": ""}, TypeError),
    ],
)
def test_parameters_that_cannot_be_are_refused_by_name(named: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="|".join([*named, "cannot find context"])):
        shmq.Executor(**named)
