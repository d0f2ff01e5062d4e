"""Executor: workers that leave after their last task, and are replaced, or cannot be; whatever else happens at that moment."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

import shmq
from support.processes import WATCHDOG, wait_until

ERRORS = [OSError("no more processes"), EOFError("unexpected EOF"), pickle.PicklingError("it has changed since")]


def wait_for(path: str) -> int:
    """Return what this worker is, once there is such a file."""
    wait_until(lambda: os.path.exists(path))
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@pytest.fixture
def pool() -> Iterator[shmq.Executor]:
    """One worker at a time, each of which leaves after a task."""
    with shmq.Executor(1, "forkserver", max_tasks_per_child=1) as executor:
        yield executor


def ask(pool: shmq.Executor, gate: Path, many: int = 3) -> list[Any]:
    """Submit tasks that wait for the gate; return their futures once the first one runs."""
    asked = [pool.submit(wait_for, str(gate)) for _ in range(many)]
    wait_until(lambda: any(worker.running for worker in pool.stats().workers))
    return asked


def refuse_to_start(pool: shmq.Executor, error: Exception) -> None:
    def launch(process: Any) -> None:
        raise error

    pool._client.crew._launch = launch  # type: ignore[method-assign]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("gone", [False, True], ids=["held", "dropped"])
def test_a_pool_that_cannot_replace_its_only_worker_breaks_with_the_reason(gate: Path, error: Exception, gone: bool) -> None:
    pool = shmq.Executor(1, "forkserver", max_tasks_per_child=1)
    client = pool._client
    asked = ask(pool, gate)
    refuse_to_start(pool, error)
    if gone:
        del pool
    gate.touch()
    asked[0].result(WATCHDOG)
    for future in asked[1:]:
        with pytest.raises(shmq.WorkerLost, match=f"3 times in a row: .*could not be started: {error}") as lost:
            future.result(WATCHDOG)
        assert lost.value.__cause__ is error and lost.value.exit_codes == ()
    if not gone:
        with pytest.raises(shmq.WorkerLost, match=str(error)):
            pool.submit(os.getpid)
        pool.shutdown()
    wait_until(lambda: client.manager.closed and not client.manager.thread.is_alive())


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_pool_that_cannot_replace_one_worker_goes_on_with_the_others(gate: Path, error: Exception) -> None:
    with shmq.Executor(2, "forkserver", max_deliveries=1) as pool:
        asked = pool.submit(wait_for, str(gate))
        lost = pool.submit(time.sleep, WATCHDOG)
        wait_until(lambda: sum(worker.running != 0 for worker in pool.stats().workers) == 2)
        refuse_to_start(pool, error)
        [victim] = [worker.pid for worker in pool.stats().workers if worker.running == 2]
        os.kill(victim, signal.SIGKILL)
        assert isinstance(lost.exception(WATCHDOG), shmq.WorkerLost)
        for _ in range(4):  # tries to replace it
            tried = pool._client.crew.not_before
            wait_until(lambda tried=tried: pool._client.crew.not_before > tried)
        gate.touch()
        assert asked.result(WATCHDOG) == pool.submit(os.getpid).result(WATCHDOG)


@pytest.mark.parametrize("shut", [False, True], ids=["in use", "shut down"])
@pytest.mark.parametrize("gone", [False, True], ids=["held", "dropped"])
def test_a_pool_that_is_left_replaces_its_workers_until_all_is_done(gate: Path, shut: bool, gone: bool) -> None:
    pool = shmq.Executor(1, "forkserver", max_tasks_per_child=1)
    client = pool._client
    asked = ask(pool, gate)
    if shut:
        pool.shutdown(wait=False)
    if gone:
        del pool
    gate.touch()
    assert len({future.result(WATCHDOG) for future in asked}) == 3
    if not (shut or gone):
        pool.shutdown(wait=False)
    wait_until(lambda: client.manager.closed and not client.manager.thread.is_alive())
    assert not client.crew.processes


@pytest.mark.parametrize("end", ["terminate_workers", "kill_workers"])
def test_a_worker_that_is_being_started_does_not_escape_the_end_of_all(pool: shmq.Executor, gate: Path, end: str) -> None:
    asked = ask(pool, gate)
    crew = pool._client.crew
    launch, started = crew._launch, []

    def launch_at_the_end(process: Any) -> None:
        ending.start()
        wait_until(lambda: pool._client.shut)
        launch(process)
        started.append(process.pid)

    ending = threading.Thread(target=getattr(pool, end))
    crew._launch = launch_at_the_end  # type: ignore[method-assign]
    gate.touch()
    asked[0].result(WATCHDOG)
    for future in asked[1:]:
        with pytest.raises((shmq.WorkerLost, CancelledError)):
            future.result(WATCHDOG)
    ending.join(WATCHDOG)
    pool.shutdown()
    [pid] = started
    assert pid not in [child.pid for child in multiprocessing.active_children()]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
