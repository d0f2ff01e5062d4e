"""Executor and queues: messages whose files are removed, or out of sight; workers that die idle; what tasks fork."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shmq
from shmq.executor._channel import Channel
from support.processes import WATCHDOG, Children, wait_until
from support.shared_memory import SHM, side_files

LARGE = 300_000  # bytes: into a large slot
SPILLED = 3_000_000  # … into a file of its own
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the root of a process")


def zeros(nbytes: int) -> bytes:
    return bytes(nbytes)


def remove_side_files(queue: shmq.Queue) -> None:
    wait_until(lambda: bool(side_files(queue)))
    for file in side_files(queue):
        os.unlink(f"{SHM}/{file}")


# -- out of sight ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def other_root(tmp_path: Path) -> str:
    """A folder with a /dev/shm in it in which there is nothing."""
    (tmp_path / "dev/shm").mkdir(parents=True)
    return str(tmp_path)


@only_root
@pytest.mark.parametrize("nbytes", [LARGE, SPILLED])
def test_a_worker_that_sees_another_shared_memory_loses_no_large_task(other_root: str, nbytes: int) -> None:
    with shmq.Executor(1, "fork") as pool:
        assert pool.submit(os.chroot, other_root).result(WATCHDOG) is None
        assert pool.submit(len, bytes(nbytes)).result(WATCHDOG) == nbytes


@only_root
def test_a_spilled_message_out_of_sight_is_not_lost(make: Any, children: Children, other_root: str) -> None:
    queue = make(slots=4, slot_size=64, oversize="spill")
    queue.put(bytes(SPILLED))

    def look_in_vain() -> None:
        assert queue.put("x", timeout=WATCHDOG) is None  # it has a port of its own from here on
        os.chroot(other_root)
        for take in (queue.get, queue.receive):
            with pytest.raises(shmq.NoSharedMemory, match="another /dev/shm"):
                take(timeout=1)

    children.start(look_in_vain)
    children.join()
    with queue.receive(WATCHDOG) as lease:
        assert len(lease.data) == SPILLED and lease.delivery_count == 1


# -- removed ---------------------------------------------------------------------------------------------------------------


def test_a_task_whose_file_is_removed_fails_alone() -> None:
    with shmq.Executor(1, "fork") as pool:
        first = pool.submit(time.sleep, 0.5)
        lost = pool.submit(len, bytes(SPILLED))
        remove_side_files(pool._client.tasks.small)
        others = [pool.submit(len, bytes(SPILLED)) for _ in range(3)]
        assert first.result(WATCHDOG) is None
        assert [other.result(WATCHDOG) for other in others] == [SPILLED] * 3
        assert isinstance(lost.exception(WATCHDOG), shmq.PayloadLost)
        assert pool.submit(abs, -1).result(WATCHDOG) == 1


def test_an_outcome_whose_file_is_removed_fails_alone() -> None:
    with shmq.Executor(1, "fork") as pool:
        outcomes = pool._client.outcomes
        assert pool.submit(abs, -1).result(WATCHDOG) == 1
        there, take = threading.Event(), outcomes.take
        outcomes.take = lambda: take() if there.is_set() else 0  # type: ignore[method-assign]
        lost = pool.submit(zeros, SPILLED)
        remove_side_files(outcomes.channel.small)
        there.set()
        assert isinstance(lost.exception(WATCHDOG), shmq.PayloadLost)
        assert len(pool.submit(zeros, SPILLED).result(WATCHDOG)) == SPILLED


# -- ends ------------------------------------------------------------------------------------------------------------------


def test_a_client_without_descriptors_ends_without_an_exception(children: Children) -> None:
    def use_up() -> None:
        raised: list[Any] = []
        threading.excepthook = raised.append
        pool = shmq.Executor(1, "fork")
        assert pool.submit(abs, -1).result(WATCHDOG) == 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        with contextlib.suppress(OSError):
            while True:
                os.open("/dev/null", os.O_RDONLY)
        pool.shutdown()
        assert not raised

    children.start(use_up)
    children.join()
    shmq.Executor(1, "fork").shutdown()  # removes what is left


def test_workers_that_die_idle_are_replaced_after_ever_longer_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(channel: Channel, timeout: float) -> Any:
        raise OSError(errno.EIO, "no way")

    monkeypatch.setattr(Channel, "receive", receive)  # before the workers are forked
    pool = shmq.Executor(1, "fork")
    crew = pool._client.crew
    pauses: dict[int, float] = {}
    fill = crew.fill

    def note(*passing: Any) -> float | None:
        pause = fill(*passing)
        pauses.setdefault(crew.idle_deaths, pause or 0.0)
        return pause

    crew.fill = note  # type: ignore[method-assign]
    asked = pool.submit(abs, -1)
    wait_until(lambda: len(pauses) >= 5)
    pool.kill_workers()
    assert isinstance(asked.exception(WATCHDOG), shmq.WorkerLost)
    assert pauses[1] == 0 < pauses[2] < pauses[3] < pauses[4]
    pool.shutdown()


# -- forks -----------------------------------------------------------------------------------------------------------------


def fork(come_back: Callable[[], Any]) -> int:
    """The status of a child that comes back from the task by itself."""
    child = os.fork()
    if child == 0:
        return come_back()  # type: ignore[no-any-return]
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def come_back() -> int:
    return -1


def come_back_with_an_exception() -> int:
    raise ValueError


def come_back_by_exit() -> int:
    raise SystemExit(7)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_a_task_forks_answers_for_nobody_and_ends_when_it_comes_back(method: str) -> None:
    with shmq.Executor(1, method) as pool:
        for way, status in ((come_back, 0), (come_back_with_an_exception, 1), (come_back_by_exit, 7)):
            assert pool.submit(fork, way).result(WATCHDOG) == status
        wait_until(lambda: pool.stats().workers[0].done == 3)
        assert pool.stats().deaths == 0
