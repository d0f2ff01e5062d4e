"""``shmq worker``: workers that are started apart from the program that asks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import WATCHDOG, wait_until

import shmq

pytest.importorskip("click")
pytest.importorskip("rich")

MODULE = """
import os, time
from pathlib import Path

def note(data):
    if data == "bad":
        raise ValueError("a bad one")
    if data == "deadly":
        os._exit(9)
    Path(data).touch()

def slowly(data):
    Path(f"{data}.begun").touch()
    time.sleep(0.5)
    Path(f"{data}.done").touch()

def choosy(lease):
    lease.reject("not today")

broken = 3
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, name: str) -> Iterator[Start]:
    """Start `shmq worker` in a folder with a module `work`; it is asked to stop before its queue goes."""
    (tmp_path / "work.py").write_text(MODULE)
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "shmq.cli", "worker", *arguments],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(shmq.__file__).parents[1])},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            assert process.wait(WATCHDOG) == 0
        if process.stderr:
            process.stderr.close()


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=WATCHDOG)
    return process.returncode, errors


# -- pools -----------------------------------------------------------------------------------------------------------------


def test_a_pool_with_a_name_runs_on_workers_started_elsewhere(start: Start, name: str) -> None:
    start(name, "-c", "2")
    with shmq.Executor(0, name=name) as pool:
        assert pool.submit(os.getpid).result(WATCHDOG) != os.getpid()
        assert list(pool.map(abs, range(-50, 0))) == list(range(50, 0, -1))
        array = np.arange(50_000.0)
        assert np.array_equal(pool.submit(np.negative, array).result(WATCHDOG), -array)
        wait_until(lambda: len(pool.stats().workers) == 2)


def test_several_programs_share_a_pool_and_get_their_own_answers(start: Start, name: str) -> None:
    start(name, "-c", "2")
    with shmq.Executor(0, name=name) as one, shmq.Executor(0, name=name) as other:
        first, second = one.map(abs, range(0, -200, -1)), other.map(abs, range(-200, -400, -1))
        assert (list(first), list(second)) == (list(range(200)), list(range(200, 400)))
        pids = {executor.submit(os.getpid).result(WATCHDOG) for executor in (one, other) for _ in range(50)}
        assert len(pids) <= 2


def test_a_task_that_kills_workers_of_another_program_is_lost_and_they_are_replaced(start: Start, name: str) -> None:
    process = start(name, "-c", "2")
    with shmq.Executor(0, name=name) as pool:
        error = pool.submit(os._exit, 3).exception(WATCHDOG)
        assert isinstance(error, shmq.WorkerLost) and error.exit_codes == (None,) * 3
        assert "only the program that had started them" in str(error)
        assert pool.submit(abs, -1).result(WATCHDOG) == 1
    process.terminate()
    status, errors = finished(process)
    assert status == 0
    assert errors.count("ended with status 3, and is replaced") == 3


def test_a_pool_goes_with_the_last_who_has_it_open(start: Start, name: str) -> None:
    process = start(name, "-c", "1")
    with shmq.Executor(1, "fork", name=name) as pool:
        assert pool.submit(abs, -1).result(WATCHDOG) == 1
        assert f"{name}.tasks" in shmq.list_segments()
        wait_until(lambda: len(pool.stats().workers) == 2)
        process.terminate()
        assert finished(process)[0] == 0
    assert not [segment for segment in shmq.list_segments() if segment.startswith(name)]


def test_a_pool_that_exists_keeps_its_values(name: str) -> None:
    with (
        shmq.Executor(1, "fork", name=name, max_deliveries=2) as pool,
        pytest.raises(shmq.SegmentMismatch, match="max_deliveries=2"),
    ):
        shmq.Executor(1, "fork", name=pool.stats().name, max_deliveries=4)


# -- queues ----------------------------------------------------------------------------------------------------------------


def test_a_function_is_called_with_each_message(start: Start, name: str, tmp_path: Path) -> None:
    with shmq.Queue(name) as queue:
        queue.put_many([f"{tmp_path}/{number}" for number in range(20)])
        start(name, "work:note", "-c", "2", "--prefetch", "4")
        wait_until(lambda: queue.stats().acks == 20)
    assert len(list(tmp_path.glob("[0-9]*"))) == 20


def test_a_message_at_which_it_raises_or_dies_becomes_a_dead_letter(start: Start, name: str, tmp_path: Path) -> None:
    with shmq.Queue(name, max_deliveries=2) as queue:
        queue.put_many(["bad", "deadly", f"{tmp_path}/good"])
        start(name, "work:note", "-c", "1", "--prefetch", "3")
        wait_until(lambda: len(queue.dead_letters) == 2)
        wait_until((tmp_path / "good").exists)
        letters = {letter.data: letter for letter in queue.dead_letters}
        assert "a bad one" in letters["bad"].error and letters["deadly"].cause == "died"
        assert letters["bad"].delivery_count == letters["deadly"].delivery_count == 2


def test_a_function_that_asks_for_the_lease_may_reject_it(start: Start, name: str) -> None:
    with shmq.Queue(name) as queue:
        queue.put("x")
        start(name, "work:choosy", "-c", "1")
        wait_until(lambda: len(queue.dead_letters) == 1)
        assert queue.dead_letters[0].reason == "not today"


def test_at_sigterm_workers_finish_the_message_and_give_back_the_others(start: Start, name: str, tmp_path: Path) -> None:
    with shmq.Queue(name) as queue:
        queue.put_many([f"{tmp_path}/{number}" for number in range(3)])
        process = start(name, "work:slowly", "-c", "1", "--prefetch", "3")
        wait_until((tmp_path / "0.begun").exists)
        process.terminate()
        assert finished(process)[0] == 0
        assert (tmp_path / "0.done").exists() and not (tmp_path / "1.begun").exists()
        stats = queue.stats()
        assert (stats.acks, stats.returned, stats.nacks) == (1, 2, 0)
        assert [lease.delivery_count for lease in queue.receive_many(3)] == [1, 1]


@pytest.mark.parametrize("function", [["work:note"], []])
def test_when_the_queue_is_unlinked_they_leave_and_say_so(start: Start, name: str, function: list[str]) -> None:
    process = start(name, *function, "-c", "1")
    found = name if function else f"{name}.tasks"
    wait_until(lambda: found in shmq.list_segments() and shmq.Queue.attach(found).stats().waiting_consumers)
    shmq.Queue.attach(found).unlink()
    status, errors = finished(process)
    assert status == 1 and f"{found!r} was unlinked" in errors


def test_at_the_second_signal_they_are_killed(start: Start, name: str, tmp_path: Path) -> None:
    with shmq.Queue(name) as queue:
        queue.put(f"{tmp_path}/0")
        process = start(name, "work:slowly", "-c", "1")
        wait_until((tmp_path / "0.begun").exists)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert finished(process)[0] == 0
        if not (tmp_path / "0.done").exists():  # it may just have been done
            assert queue.receive(timeout=WATCHDOG).data == f"{tmp_path}/0"


def test_autoscale_starts_more_while_messages_wait(start: Start, name: str, tmp_path: Path) -> None:
    with shmq.Queue(name) as queue:
        start(name, "work:slowly", "--autoscale", "1,3")
        queue.put_many([f"{tmp_path}/{number}" for number in range(12)])
        wait_until(lambda: queue.stats().leased == 3)
        queue.purge()


# -- what cannot be --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("missing:note",), "there is no module 'missing'"),
        (("work:missing",), "module 'work' has no 'missing'"),
        (("work",), "write MODULE:FUNCTION"),
        (("work:broken",), "is no function, but 3"),
        (("work:note", "--autoscale", "3,1"), "write MIN,MAX"),
        (("work:note", "--autoscale", "1,3", "-c", "2"), "exclude each other"),
        (("work:note", "-c", "0"), "0 is not in the range"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(start: Start, name: str, arguments: tuple[str, ...], says: str) -> None:
    status, errors = finished(start(name, *arguments))
    assert status != 0 and says in errors and "Traceback" not in errors
    assert name not in shmq.list_segments()
