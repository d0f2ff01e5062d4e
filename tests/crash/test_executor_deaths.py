"""Executor: workers die in every way and at every time, and cost the task that they ran, at most."""

from __future__ import annotations

import ctypes
import multiprocessing.util
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmq
from support.processes import WATCHDOG, wait_until
from support.shared_memory import left_behind_by

START_METHODS = ["fork", "spawn", "forkserver"]
LARGE = 300_000


def square(number: int) -> int:
    return number * number


def nap(seconds: float, value: Any = None) -> Any:
    time.sleep(seconds)
    return value


def die(how: str, *arguments: object) -> None:
    import faulthandler

    faulthandler.disable()
    if how == "exit":
        os._exit(7)
    elif how == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(path: str, value: Any) -> Any:
    """Kill the first worker that runs this; the second one returns."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return value
    os.kill(os.getpid(), signal.SIGKILL)


def start_slowly(seconds: float) -> None:
    time.sleep(seconds)


class DiesWhenUnpickled:
    def __reduce__(self) -> Any:
        return die, ("kill",)


@pytest.fixture
def pool() -> Iterator[shmq.Executor]:
    with shmq.Executor(2, "fork") as executor:
        yield executor


@pytest.mark.parametrize("method", START_METHODS)
def test_a_task_whose_worker_is_killed_runs_again_on_another_one(method: str, tmp_path: Path) -> None:
    with shmq.Executor(2, method) as pool:
        assert pool.submit(die_once, str(tmp_path / "once"), 5).result(WATCHDOG) == 5
        wait_until(lambda: pool.stats().deaths == 1)  # the other worker may be quicker than the news


@pytest.mark.parametrize(("how", "code"), [("exit", 7), ("segfault", -signal.SIGSEGV), ("kill", -signal.SIGKILL)])
def test_a_task_that_kills_its_workers_fails_alone_naming_how(pool: shmq.Executor, how: str, code: int) -> None:
    before = [pool.submit(square, number) for number in range(50)]
    poison = pool.submit(die, how)
    after = [pool.submit(square, number) for number in range(50)]
    error = poison.exception(WATCHDOG)
    assert isinstance(error, shmq.WorkerLost) and isinstance(error, BrokenProcessPool)
    assert error.exit_codes == (code,) * 3
    assert "3 deliveries" in str(error) and (f"status {code}" if code > 0 else signal.Signals(-code).name) in str(error)
    assert "test_executor_deaths.die" in str(error)
    assert [future.result(WATCHDOG) for future in before + after] == [number * number for number in range(50)] * 2
    assert not isinstance(pool.submit(square, 3).exception(), shmq.WorkerLost)


def test_how_often_is_the_pools_to_say() -> None:
    with shmq.Executor(1, "fork", max_deliveries=1) as pool:
        error = pool.submit(die, "exit").exception(WATCHDOG)
        assert isinstance(error, shmq.WorkerLost) and error.exit_codes == (7,)


def test_a_task_that_kills_when_it_is_unpickled_fails_alone(pool: shmq.Executor) -> None:
    assert isinstance(pool.submit(square, DiesWhenUnpickled()).exception(WATCHDOG), shmq.WorkerLost)
    assert pool.submit(square, 3).result(WATCHDOG) == 9


def test_one_item_of_a_map_is_lost_and_no_other(pool: shmq.Executor) -> None:
    values = pool.map(die_if, [("kill" if number == 5 else "", number) for number in range(20)])
    assert [next(values) for _ in range(5)] == list(range(5))
    with pytest.raises(shmq.WorkerLost):
        next(values)
    assert list(pool.map(square, range(5))) == [0, 1, 4, 9, 16]


def die_if(asked: tuple[str, int]) -> int:
    if asked[0]:
        die(asked[0])
    return asked[1]


def test_large_arguments_survive_their_workers(pool: shmq.Executor, tmp_path: Path) -> None:
    arrays = [np.full(LARGE, number, np.uint8) for number in range(12)]
    asked = [pool.submit(die_once, str(tmp_path / str(number)), array) for number, array in enumerate(arrays)]
    for future, array in zip(asked, arrays, strict=True):
        assert np.array_equal(future.result(WATCHDOG), array)


def test_a_large_task_that_kills_fails_alone_and_those_behind_it_are_done(pool: shmq.Executor) -> None:
    array = np.zeros(LARGE, np.uint8)
    poison = [pool.submit(die, "kill", array) for _ in range(3)]
    good = [pool.submit(len, array) for _ in range(10)]
    assert [future.result(WATCHDOG) for future in good] == [LARGE] * 10
    assert all(isinstance(future.exception(WATCHDOG), shmq.WorkerLost) for future in poison)


def test_idle_workers_that_are_killed_are_replaced(pool: shmq.Executor) -> None:
    assert pool.submit(square, 2).result() == 4
    wait_until(lambda: [worker.state for worker in pool.stats().workers] == ["ready"] * 2)
    for worker in pool.stats().workers:
        os.kill(worker.pid, signal.SIGKILL)
    assert [future.result(WATCHDOG) for future in [pool.submit(square, number) for number in range(10)]] == [
        number * number for number in range(10)
    ]
    wait_until(lambda: pool.stats().deaths == 2 and len(pool.stats().workers) == 2)


def test_all_workers_killed_at_once_in_the_middle_lose_nothing(pool: shmq.Executor) -> None:
    asked = [pool.submit(nap, 0.1, number) for number in range(8)]
    wait_until(lambda: sum(worker.running != 0 for worker in pool.stats().workers) == 2)
    for worker in pool.stats().workers:
        os.kill(worker.pid, signal.SIGKILL)
    assert [future.result(WATCHDOG) for future in asked] == list(range(8))


def test_workers_killed_while_they_start_are_replaced() -> None:
    with shmq.Executor(2, "fork", initializer=start_slowly, initargs=(0.3,)) as pool:
        asked = [pool.submit(square, number) for number in range(10)]
        wait_until(lambda: pool.stats().workers)
        os.kill(pool.stats().workers[0].pid, signal.SIGKILL)
        assert [future.result(WATCHDOG) for future in asked] == [number * number for number in range(10)]


def test_a_worker_that_is_asked_to_leave_finishes_its_task_first(pool: shmq.Executor) -> None:
    asked = pool.submit(nap, 0.3, "done")
    wait_until(lambda: [worker.state for worker in pool.stats().workers] == ["ready"] * 2)
    wait_until(lambda: any(worker.running for worker in pool.stats().workers))
    for worker in pool.stats().workers:
        os.kill(worker.pid, signal.SIGTERM)
    assert asked.result(WATCHDOG) == "done"
    assert pool.submit(square, 2).result(WATCHDOG) == 4
    assert pool.stats().deaths == 0


# Python prints and forgets what strikes in a finalizer of its own import system: the process that it struck goes on.
INTERRUPTED = """
import os, sys
import shmq

def say_who_forgets(what, program=os.getpid()):
    if os.getpid() == program and "_get_module_lock" in repr(what.object):
        print("the program itself forgets", file=sys.stderr, flush=True)
    else:
        sys.__unraisablehook__(what)

sys.unraisablehook = say_who_forgets
with shmq.Executor(2, {method!r}) as pool:
    print("begins", flush=True)
    for value in pool.map(abs, range(10**6)):
        pass
"""


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.stress) for seed in range(1, 6))])
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_program_that_is_interrupted_at_any_moment_ends(method: str, seed: int) -> None:
    """Ctrl-C in a terminal reaches all its processes; most come while the first workers and the thread are started."""
    chance = random.Random(seed)
    for _ in range(2 if seed == 0 else 20):
        program = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED.format(method=method)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert program.stdout is not None and program.stdout.readline() == "begins\n"
        time.sleep(chance.choice([0.02, 0.1, 1.0]) * chance.random())
        os.killpg(program.pid, signal.SIGINT)
        _, errors = program.communicate(timeout=WATCHDOG / 2)  # until the last worker has ended, who has the pipe, too
        goes_on = "the program itself forgets" in errors
        assert program.returncode == (0 if goes_on else -signal.SIGINT), errors
        if method == "fork":  # the servers of multiprocessing are as interrupted, and say so
            told = (not goes_on) + len(re.findall("Exception ignored .*_get_module_lock", errors))
            assert errors.count("Traceback") == errors.count("\nKeyboardInterrupt") == told, errors
        assert left_behind_by(program.pid) == []


def test_shutdown_waits_for_a_task_that_is_run_again(tmp_path: Path) -> None:
    pool = shmq.Executor(1, "fork")
    asked = [pool.submit(die_once, str(tmp_path / str(number)), number) for number in range(3)]
    pool.shutdown()
    assert [future.result(0) for future in asked] == [0, 1, 2]


class BeginsSlowly:
    """While it lives, what multiprocessing forks here needs half a second before it runs anything of ours."""

    def __init__(self) -> None:
        multiprocessing.util.register_after_fork(self, lambda _: time.sleep(0.5))


def test_a_request_to_leave_in_a_workers_first_moments_reaches_the_worker(
    tmp_path: Path,
) -> None:
    """Forked, it begins with the parent's handlers: what runs those has not been asked to leave, and works on for ever."""
    slow = BeginsSlowly()
    heard = tmp_path / "heard"
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.touch())
    try:
        with shmq.Executor(1, "fork") as pool:
            worked = pool.submit(os.getpid)
            wait_until(lambda: pool._client.crew.processes)
            (asked,) = pool._client.crew.processes
            os.kill(asked, signal.SIGTERM)
            assert worked.result(WATCHDOG / 4) != asked
            assert pool._client.crew.last_death[:2] == (asked, -signal.SIGTERM)
            assert not heard.exists()
        os.kill(os.getpid(), signal.SIGTERM)  # this process hears as before
        wait_until(heard.exists)
    finally:
        signal.signal(signal.SIGTERM, before)
        del slow


def leave_a_child(seconds: float) -> tuple[int, int]:
    """Fork; return the pids of the worker and of its child, which has all that the worker has open."""
    child = os.fork()
    if child == 0:
        time.sleep(seconds)
        os._exit(0)
    return os.getpid(), child


@pytest.mark.parametrize("method", START_METHODS)
def test_a_worker_that_is_killed_is_missed_although_a_child_of_it_lives_on(method: str) -> None:
    with shmq.Executor(1, method) as pool:
        worker, child = pool.submit(leave_a_child, WATCHDOG).result(WATCHDOG)
        try:
            wait_until(lambda: pool._client.tasks.small.stats().acks)  # or the next worker would leave a child, too
            os.kill(worker, signal.SIGKILL)
            assert pool.submit(square, 3).result(WATCHDOG / 2) == 9
        finally:
            os.kill(child, signal.SIGKILL)


def test_workers_are_replaced_in_a_program_that_throws_exit_statuses_away() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with shmq.Executor(1, "fork") as pool:
            os.kill(pool.submit(os.getpid).result(WATCHDOG), signal.SIGKILL)
            assert pool.submit(square, 3).result(WATCHDOG) == 9
            error = pool.submit(die, "exit").exception(WATCHDOG)
            assert isinstance(error, shmq.WorkerLost) and error.exit_codes == (None,) * 3
            assert "its exit status is lost" in str(error)
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("failures", [2, 1000])
def test_a_worker_that_cannot_be_started_is_tried_again_and_then_given_up(
    pool: shmq.Executor, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pool.submit(square, 2).result(WATCHDOG) == 4
    wait_until(lambda: [worker.state for worker in pool.stats().workers] == ["ready"] * 2)
    left = iter(range(failures))
    original = os.fork

    def fork() -> int:
        if next(left, None) is not None:
            raise BlockingIOError("no more processes")
        return original()

    monkeypatch.setattr(os, "fork", fork)
    for worker in pool.stats().workers:
        os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: pool.stats().deaths == 2)
    if failures < 3:
        assert pool.submit(square, 3).result(WATCHDOG) == 9
    else:
        with pytest.raises(shmq.WorkerLost, match="could not be started: no more processes"):
            pool.submit(square, 3).result(WATCHDOG)


def test_workers_that_leave_finish_what_they_run_for_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    from shmq.executor import _board, _client

    monkeypatch.setattr(_client, "GRACE", 0.1)
    name = f"test.{os.getpid()}.shared"
    with shmq.Executor(1, "fork", name=name, max_deliveries=1) as host, shmq.Executor(0, name=name) as guest:
        assert host.submit(square, 2).result(WATCHDOG) == 4
        asked = guest.submit(nap, 1.0, "done")
        # Not merely that a task runs: the first one's outcome is there before its worker has done with it, and a worker that
        # is asked to leave then takes no other. With no worker left the guest's task would wait for ever.
        wait_until(lambda: guest._client.id in [row.words[_board.CLIENT] for row in host._client.board.rows()])
        host.shutdown()
        assert asked.result(WATCHDOG) == "done"


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_nothing_is_left_when_the_program_itself_is_killed(method: str) -> None:
    program = f"""
import os, shmq, signal, sys, time
if __name__ == "__main__":
    pool = shmq.Executor(2, {method!r})
    pids = sorted({{pool.submit(os.getpid).result() for _ in range(50)}})
    pool.submit(len, bytes(300_000)).result()
    print(*pids, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=WATCHDOG)
    assert process.returncode == -signal.SIGKILL
    for pid in map(int, output.split()):
        wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))  # type: ignore[misc]
    wait_until(lambda: left_behind_by(process.pid) == [])  # another process of this run may be at one of its queues now


def test_in_a_storm_of_kills_every_future_ends_with_its_value_or_says_why_not() -> None:
    chance = random.Random(5)
    array = np.arange(LARGE // 8, dtype=np.float64)
    with shmq.Executor(3, "fork", max_deliveries=5) as pool:
        small = {number: pool.submit(nap, 0.001, number) for number in range(600)}
        large = {number: pool.submit(np.add, array, number) for number in range(60)}
        mapped = pool.map(square, range(600))
        kills = 0
        while kills < 40 and not all(future.done() for future in [*small.values(), *large.values()]):
            time.sleep(chance.random() * 0.03)
            workers = pool.stats().workers
            if workers:
                os.kill(chance.choice(workers).pid, signal.SIGKILL)
                kills += 1
        lost = 0
        for number, future in [*small.items(), *large.items()]:
            try:
                found = future.result(WATCHDOG)
            except shmq.WorkerLost:
                lost += 1
            else:
                assert np.array_equal(found, number if future is small.get(number) else array + number)
        assert list(mapped) == [number * number for number in range(600)]
        assert pool.stats().pending == 0
    assert kills >= 10 and lost <= kills // 5


FORK_SERVER_DIES = """
import os, signal
from multiprocessing import forkserver
import shmq

forkserver.ensure_running()
server = forkserver._forkserver._forkserver_pid
read_signed = forkserver.read_signed
deaths = 0

def die_before_it_answers(descriptor):  # it may have answered: then nobody hears it
    global deaths
    if deaths:
        return read_signed(descriptor)
    deaths = 1
    os.kill(server, signal.SIGKILL)
    os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)
    raise EOFError("unexpected EOF")

forkserver.read_signed = die_before_it_answers
with shmq.Executor(1, "forkserver") as pool:
    print(pool.submit(abs, -3).result(30), deaths)
"""


def test_a_fork_server_that_dies_while_it_starts_a_worker_is_replaced() -> None:
    done = subprocess.run([sys.executable, "-c", FORK_SERVER_DIES], capture_output=True, text=True, timeout=WATCHDOG)
    assert (done.returncode, done.stdout) == (0, "3 1\n"), done.stderr


def die_if_among_the_first(most: int, folder: str) -> None:
    for number in range(most):
        try:
            os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)


def test_workers_that_die_together_while_they_start_are_one_failed_start(tmp_path: Path) -> None:
    with shmq.Executor(4, "fork", initializer=die_if_among_the_first, initargs=(4, str(tmp_path))) as pool:
        assert pool.submit(square, 3).result(WATCHDOG) == 9
        wait_until(lambda: pool.stats().deaths == 4)
