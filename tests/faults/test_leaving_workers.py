"""Executor: how workers leave. The board asks them, so that signals are the program's own; they finish what they have begun."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import pytest

import shmq
from shmq.executor import _client
from support.processes import WATCHDOG, wait_until

START_METHODS = ["fork", "spawn", "forkserver"]


def square(number: int) -> int:
    return number * number


def sleep_long() -> None:
    time.sleep(WATCHDOG)


def note_signals(path: str) -> None:
    """What programs do that have something to clean up."""
    signal.signal(signal.SIGTERM, lambda number, frame: Path(path).touch())


def finish_slowly(path: str) -> None:
    """What programs do whose connections take a while to close."""
    Finalize(None, finish, (path,), exitpriority=20)


def finish(path: str) -> None:
    time.sleep(0.5)
    Path(path, str(os.getpid())).touch()


def start_slowly(seconds: float) -> None:
    time.sleep(seconds)


def what_a_program_hears() -> str:
    code = (
        "from signal import *; print(getsignal(SIGINT) is default_int_handler, getsignal(SIGTERM) is SIG_DFL)"  # as Python begins
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def say_and_sleep(connection: Any) -> None:
    connection.send("here")
    time.sleep(WATCHDOG)


def end_a_child_by(number: int) -> int:
    """Fork a child of this worker, send it a signal, and return how it ended."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=say_and_sleep, args=(there,))
    child.start()
    here.recv()
    assert child.pid is not None
    os.kill(child.pid, number)
    child.join(WATCHDOG / 4)
    code = child.exitcode
    child.kill()
    child.join()
    return code if code is not None else 0


@pytest.mark.parametrize("method", START_METHODS)
def test_a_program_that_handles_sigterm_in_its_workers_hears_none_at_the_end(method: str, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    with shmq.Executor(2, method, initializer=note_signals, initargs=(str(heard),)) as pool:
        assert pool.submit(square, 3).result(WATCHDOG) == 9
    assert not heard.exists()
    assert pool._client.crew.deaths == 0 and pool._client.crew.last_death.exit_code == 0


def test_workers_take_as_long_as_they_need_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_client, "GRACE", 0.01)
    with shmq.Executor(2, "fork", initializer=finish_slowly, initargs=(str(tmp_path),)) as pool:
        assert pool.submit(square, 3).result(WATCHDOG) == 9
        wait_until(lambda: [worker.state for worker in pool.stats().workers] == ["ready"] * 2)
    assert len(list(tmp_path.iterdir())) == 2


def test_workers_that_are_still_starting_leave_when_they_are_asked() -> None:
    with shmq.Executor(3, "fork", initializer=start_slowly, initargs=(0.3,)) as pool:
        assert pool.submit(square, 3).result(WATCHDOG) == 9
    with shmq.Executor(2, "spawn") as pool:
        pool.submit(square, 3)
    assert pool._client.crew.deaths == 0


def test_an_idle_worker_leaves_without_a_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up may be lost with the process that was to pass it on: the board is looked at in between."""
    pool = shmq.Executor(2, "fork")
    assert pool.submit(square, 3).result(WATCHDOG) == 9
    monkeypatch.setattr(pool._client.board, "wake_all", lambda: None)
    pool.shutdown()
    assert pool._client.crew.deaths == 0


def test_programs_that_tasks_start_hear_signals_as_any_program() -> None:
    with shmq.Executor(1, "fork") as pool:
        assert pool.submit(what_a_program_hears).result(WATCHDOG) == "True True\n"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_that_tasks_fork_end_by_signals_as_any_process(method: str) -> None:
    with shmq.Executor(1, method) as pool:
        assert pool.submit(end_a_child_by, signal.SIGTERM).result(WATCHDOG) == -signal.SIGTERM
        assert pool.submit(end_a_child_by, signal.SIGINT).result(WATCHDOG) == 1  # KeyboardInterrupt


def test_ctrl_c_in_a_terminal_does_not_interrupt_a_task() -> None:
    with shmq.Executor(1, "fork") as pool:
        asked = pool.submit(time.sleep, 0.5)
        wait_until(lambda: any(worker.running for worker in pool.stats().workers))
        os.kill(pool.stats().workers[0].pid, signal.SIGINT)
        assert asked.result(WATCHDOG) is None and pool.stats().deaths == 0


@pytest.mark.parametrize("method", START_METHODS)
@pytest.mark.parametrize(("end", "number"), [("terminate_workers", signal.SIGTERM), ("kill_workers", signal.SIGKILL)])
def test_workers_are_ended_in_the_middle_of_a_task(method: str, end: str, number: int) -> None:
    pool = shmq.Executor(1, method)
    asked: list[Any] = [pool.submit(sleep_long) for _ in range(6)]
    wait_until(lambda: any(worker.running for worker in pool.stats().workers))
    getattr(pool, end)()
    running = [future for future in asked if not future.cancelled()]
    assert len(running) in range(1, 6)
    for future in running:
        with pytest.raises(BrokenProcessPool, match=end):
            future.result(WATCHDOG)
    with pytest.raises(RuntimeError, match=end):
        pool.submit(square, 2)
    pool.shutdown()
    assert pool._client.crew.last_death.exit_code == -number
    assert pool._client.crew.deaths == 1


@pytest.mark.parametrize("end", ["terminate_workers", "kill_workers"])
def test_workers_of_a_pool_that_was_never_used_or_is_shut_down_are_ended(end: str) -> None:
    pool = shmq.Executor(2, "fork")
    getattr(pool, end)()
    with pytest.raises(RuntimeError, match=end):
        pool.submit(square, 2)
    with shmq.Executor(2, "fork") as pool:
        assert pool.submit(square, 3).result(WATCHDOG) == 9
    getattr(pool, end)()


def test_ending_its_workers_leaves_others_of_the_pool_alone(name: str) -> None:
    with shmq.Executor(1, "fork", name=name) as mine, shmq.Executor(1, "fork", name=name) as other:
        assert other.submit(square, 2).result(WATCHDOG) == 4
        assert mine.submit(square, 3).result(WATCHDOG) == 9
        mine.kill_workers()
        assert other.submit(square, 4).result(WATCHDOG) == 16
        assert other.stats().deaths == 0
