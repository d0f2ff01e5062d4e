"""Executor: a limit (cells, ports, descriptors, memory, a client that takes nothing) kills nobody, and makes nobody wait."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmq
from shmq._store import dead_letters
from shmq.executor import _channel, _reply, _task_worker, _tasks, _unserved, _worker
from shmq.executor._channel import Channel, shape_of
from shmq.executor._plan import Plan
from shmq.executor._reply import Reply
from shmq.executor._reserve import Reserve, is_limit
from support.processes import WATCHDOG, wait_until
from support.programs import run_program

LARGE = 300_000  # bytes: beyond a small slot
Pool = Callable[..., shmq.Executor]


def square(number: int) -> int:
    return number * number


def die(code: int) -> None:
    os._exit(code)


def ones(nbytes: int, seconds: float = 0) -> np.ndarray:
    time.sleep(seconds)
    return np.ones(nbytes, np.uint8)


def meet(folder: str, many: int, array: Any = None) -> int:
    """Return once so many tasks have come here, each on a worker of its own."""
    Path(folder, str(os.getpid())).touch()
    wait_until(lambda: len(os.listdir(folder)) >= many)
    return len(array) if array is not None else 0


kept: list[int] = []


def take_all_descriptors(nbytes: int) -> bytes:
    """Leave this process none, as a task does that forgets to close what it opens."""
    if not kept:  # a limit below what it has would leave none to what it closes, either
        most = max(64, *map(int, os.listdir("/proc/self/fd"))) + 16
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with contextlib.suppress(OSError):
        while True:
            kept.append(os.open("/dev/null", os.O_RDONLY))
    return bytes(nbytes)


def take_all_memory(nbytes: int) -> bytes:
    """Leave this process about as much address space as it has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    value = bytes(nbytes)
    resource.setrlimit(resource.RLIMIT_AS, (used + nbytes, resource.getrlimit(resource.RLIMIT_AS)[1]))
    return value


@pytest.fixture
def shared(name: str) -> Iterator[Pool]:
    """Executors of one pool with a name."""
    made: list[shmq.Executor] = []

    def make(max_workers: int, **more: Any) -> shmq.Executor:
        made.append(shmq.Executor(max_workers, "fork", name=name, **more))
        return made[-1]

    yield make
    for pool in reversed(made):
        pool.shutdown()


@pytest.fixture
def few_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two large slots, four cells for those that are under way, whatever the number of workers."""
    monkeypatch.setattr(_channel, "LARGE_BYTES", 2 << 20)


# -- cells and ports -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_cells")
def test_more_workers_than_cells_run_a_large_task_each_at_once(tmp_path: Path) -> None:
    with shmq.Executor(8, "fork") as pool:
        asked = [pool.submit(meet, str(tmp_path), 8, np.ones(LARGE, np.uint8)) for _ in range(8)]
        assert [future.result(WATCHDOG) for future in asked] == [LARGE] * 8
        assert pool.stats().deaths == 0


@pytest.mark.usefixtures("few_cells")
def test_more_workers_than_cells_return_large_values_at_once() -> None:
    with shmq.Executor(8, "fork") as pool:
        assert sum(len(value) for value in pool.map(ones, [LARGE] * 100, timeout=WATCHDOG)) == 100 * LARGE
        assert pool.stats().deaths == 0


@pytest.fixture
def channel(name: str) -> Iterator[Channel]:
    """A channel with two large slots, four cells for what is under way, and a message."""
    made = Channel(name, **shape_of(2, private=True) | {"large_slots": 2})
    assert made.put([b"x" * LARGE])
    yield made
    made.close()


def test_a_client_takes_outcomes_though_producers_hold_every_cell(channel: Channel) -> None:
    assert channel.large is not None
    loans = []
    with pytest.raises(shmq.InFlightLimit):
        while True:
            loans.append(channel.large.loan(LARGE))
    assert channel.get_large() == b"x" * LARGE
    assert not channel.put([b"y" * LARGE], "spills")  # and whoever puts then finds a way beside
    for loan in loans:
        loan.abandon()


def test_a_worker_waits_for_a_cell_as_for_a_task(channel: Channel) -> None:
    assert channel.large is not None
    loans = []
    with pytest.raises(shmq.InFlightLimit):
        while True:
            loans.append(channel.large.loan(LARGE))
    with pytest.raises(shmq.Empty, match="other consumers hold all in-flight cells"):
        channel.receive(0.05)
    loans.pop().abandon()
    channel.receive(WATCHDOG).ack()
    for loan in loans:
        loan.abandon()


def test_the_queues_of_a_pool_have_a_port_and_a_cell_for_each_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = shmq.Executor(600, "fork")
    for channel in (pool._client.tasks, pool._client.results):
        config = channel.small.segment.config
        assert config.ports > 600 and config.in_flight > 600 and config.slots > 600
    pool.shutdown()
    with pytest.raises(ValueError, match="max_workers must be at most"):
        shmq.Executor(5000, "fork")


def test_a_worker_without_a_port_waits_for_one_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = logging.FileHandler(tmp_path / "log")
    monkeypatch.setattr(logging.getLogger("shmq"), "handlers", [log])
    original, times = _task_worker.TaskWorker.__init__, iter(range(2))

    def make(worker: _task_worker.TaskWorker, plan: Plan) -> None:
        if next(times, None) is not None:
            raise shmq.TooManyPorts("all 64 ports are attached")
        original(worker, plan)

    monkeypatch.setattr(_task_worker.TaskWorker, "__init__", make)  # before the worker is forked
    monkeypatch.setattr(_worker, "START_PATIENCE", 1.0)
    with shmq.Executor(1, "fork") as pool:
        assert pool.submit(square, 3).result(WATCHDOG) == 9
        assert pool.stats().deaths == 0
    log.close()
    assert (tmp_path / "log").read_text().count("all 64 ports are attached") == 1


def test_a_pool_whose_board_is_full_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from shmq.executor import _board

    monkeypatch.setattr(_board, "ROWS", 2)
    with shmq.Executor(3, "fork") as pool:  # two come up
        assert [future.result(WATCHDOG) for future in [pool.submit(square, number) for number in range(9)]]
        assert "at most 2 workers" in str(pool._client.crew.start_error)


# -- clients that take nothing -----------------------------------------------------------------------------------------------


STOPPED = """
import sys, time
import numpy as np, shmq
from shmq.executor import _window
sys.path.insert(0, {tests!r})
from test_pool_limits import ones

_window.AHEAD = 1000.0  # hand over as much as can be
with shmq.Executor(0, name={name!r}) as pool:
    pool.submit(ones, 10).result()
    asked = [pool.submit(ones, {nbytes}) for _ in range({many})]
    print(pool.stats().window, flush=True)
    print(sum(len(future.result()) for future in asked), flush=True)
"""


def test_a_stopped_client_does_not_make_others_wait(shared: Pool, name: str) -> None:
    many = 100
    pool = shared(2)
    assert pool.submit(square, 2).result(WATCHDOG) == 4
    program = STOPPED.format(tests=str(Path(__file__).parent), name=name, nbytes=LARGE, many=many)
    environment = {**os.environ, "PYTHONPATH": f"{Path(shmq.__file__).parents[1]}:{Path(__file__).parents[1]}"}
    client = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert client.stdout is not None and int(client.stdout.readline()) > many
        os.kill(client.pid, signal.SIGSTOP)
        assert pool.submit(square, 3).result(WATCHDOG / 2) == 9
        wait_until(lambda: sum(worker.done for worker in pool.stats().workers) >= many + 3)
        assert pool.stats().deaths == 0
        os.kill(client.pid, signal.SIGCONT)
        assert client.communicate(timeout=WATCHDOG)[0] == f"{many * LARGE}\n"
    finally:
        client.kill()
        client.wait()


@pytest.fixture
def reply() -> Iterator[Reply]:
    """A way to a client that is this process, and takes nothing by itself."""
    client = os.getpid() << 32 | 7
    settings = shape_of(1, private=True)
    results = Channel(_reply.client_name(client), **settings | {"max_deliveries": 0})
    reply = Reply(client, settings)
    reply.results = results  # type: ignore[attr-defined]
    yield reply
    reply.close()
    results.close()


def test_outcomes_nobody_takes_leave_a_quarter_of_the_memory_free(reply: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(_reply.time, "sleep", naps.append)
    monkeypatch.setattr(_reply, "STALL_PATIENCE", 0.2)
    monkeypatch.setattr(_reply, "leaves_some", lambda nbytes: False)
    message = [b"x" * LARGE]
    reply.put(message)  # nothing waits: memory is given as long as there is some
    with pytest.raises(shmq.OutOfMemory, match=f"process {os.getpid()} takes none"):
        reply.put(message)
    assert naps
    naps.clear()
    with pytest.raises(shmq.OutOfMemory):
        reply.put(message)
    assert not naps  # once is enough to find out that it does not take
    assert len(reply.results.small.get(False)) == LARGE  # type: ignore[attr-defined]
    reply.put(message)


def test_an_outcome_for_a_client_that_is_gone_is_dropped(reply: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def full(*arguments: Any) -> None:
        tried.append(arguments)
        raise shmq.OutOfMemory("full")

    monkeypatch.setattr(reply.channel, "put", full)
    monkeypatch.setattr(_reply._core, "alive", lambda owner: False)
    reply.put([b"x" * LARGE])
    assert tried


def test_a_client_that_is_lacking_descriptors_for_a_moment_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for error in (
        OSError(errno.EMFILE, "too many open files"),
        MemoryError(),
        shmq.InFlightLimit("all"),
        shmq.TooManyPorts("all"),
    ):
        caplog.clear()
        with shmq.Executor(1, "fork") as pool:
            assert pool.submit(square, 2).result(WATCHDOG) == 4
            original, times = pool._client.take, iter(range(3))

            def take(original: Any = original, times: Any = times, error: BaseException = error) -> Any:
                if next(times, None) is not None:
                    raise error
                return original()

            monkeypatch.setattr(pool._client, "take", take)
            assert pool.submit(square, 3).result(WATCHDOG) == 9
            assert [record.message for record in caplog.records if "something is lacking" in record.message] != []
            assert len(caplog.records) == 1


LOWERED = """
import resource, sys, time
import shmq
pool = shmq.Executor(12, "fork")
asked = [pool.submit(time.sleep, 0.1) for _ in range(24)]
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), hard))
print(*{future.result() for future in asked})
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
pool.shutdown()
"""


@pytest.mark.parametrize("limit", [8, 1])
def test_a_pool_goes_on_below_a_limit_of_descriptors_that_was_lowered(limit: int) -> None:
    """poll(2) takes no more descriptors than the limit says, however many are open: EINVAL."""
    assert run_program(LOWERED, limit) == "None\n"


@pytest.mark.parametrize("meets", ["attached_large", "make_large"])
def test_a_client_that_meets_a_limit_after_it_took_outcomes_loses_none(meets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with shmq.Executor(1, "fork") as pool:
        assert pool.submit(square, 2).result(WATCHDOG) == 4
        original, times = getattr(pool._client.results, meets), iter(range(3))

        def meet_a_limit() -> Any:
            if next(times, None) is not None:
                raise OSError(errno.EMFILE, "none left")
            return original()

        monkeypatch.setattr(pool._client.results, meets, meet_a_limit)
        for _ in range(3):
            asked = [pool.submit(ones, LARGE) for _ in range(4)] + [pool.submit(square, number) for number in range(4)]
            for future in asked:
                assert future.result(WATCHDOG / 4) is not None


def test_a_pool_that_nobody_serves_says_so_and_what_to_do(
    shared: Pool, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_unserved, "PATIENCE", 0.1)
    guest = shared(0)
    asked = guest.submit(square, 3)
    wait_until(lambda: caplog.records)
    assert f"no worker serves pool {name!r}" in caplog.text and f"`shmq worker {name}`" in caplog.text
    time.sleep(1.2)
    assert len(caplog.records) == 1
    host = shared(1)
    assert host.submit(square, 2).result(WATCHDOG) == 4
    assert asked.result(WATCHDOG) == 9


def test_a_client_without_workers_hands_over_as_much_as_others_workers_do(shared: Pool, tmp_path: Path) -> None:
    host, guest = shared(4), shared(0)
    futures = [host.submit(time.sleep, 0.1) for _ in range(4)]
    assert [future.result(WATCHDOG) for future in futures] == [None] * 4
    asked = [guest.submit(meet, str(tmp_path), 4) for _ in range(4)]
    assert [future.result(WATCHDOG) for future in asked] == [0] * 4


# -- dead letters ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the letters that are read."""
    found: list[str] = []
    original = dead_letters.DeadLetters._read

    def read(letters: Any, name: str) -> Any:
        found.append(name)
        return original(letters, name)

    monkeypatch.setattr(dead_letters.DeadLetters, "_read", read)
    return found


def dead_letter_tasks_of(pool: shmq.Executor, client: int, many: int) -> None:
    for number in range(many):
        pool._client.tasks.small.put(_tasks.TASK.pack(10_000 + number, client, 0, 0, 0))
        pool._client.tasks.small.receive(WATCHDOG).reject("the test says so")


def test_what_a_lost_task_costs_does_not_grow_with_others_letters(shared: Pool, reads: list[str]) -> None:
    other = shared(0, max_deliveries=1)
    dead_letter_tasks_of(other, other._client.id, 50)
    pool = shared(1)
    assert isinstance(pool.submit(die, 1).exception(WATCHDOG), shmq.WorkerLost)
    reads.clear()
    for _ in range(5):
        assert isinstance(pool.submit(die, 1).exception(WATCHDOG), shmq.WorkerLost)
    assert len(reads) <= 10  # its own, twice where not all was known at first
    assert len(other._client.tasks.small.dead_letters) == 50


def test_letters_of_clients_that_are_gone_are_thrown_away(shared: Pool) -> None:
    pool = shared(1, max_deliveries=1)
    dead_letter_tasks_of(pool, 1 << 32 | 5, 20)
    assert isinstance(pool.submit(die, 1).exception(WATCHDOG), shmq.WorkerLost)
    wait_until(lambda: len(pool._client.tasks.small.dead_letters) == 0)


# -- what a task leaves to its worker ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [10, LARGE, 3 << 20])
def test_a_task_that_leaves_its_worker_no_descriptors_has_its_outcome(nbytes: int) -> None:
    with shmq.Executor(1, "fork") as pool:
        assert len(pool.submit(take_all_descriptors, nbytes).result(WATCHDOG)) == nbytes
        assert pool.submit(square, 3).result(WATCHDOG) == 9
        assert len(pool.submit(ones, LARGE).result(WATCHDOG)) == LARGE


def test_a_worker_without_descriptors_takes_a_spilled_task() -> None:
    with shmq.Executor(1, "fork") as pool:
        for _ in range(3):
            assert len(pool.submit(take_all_descriptors, 10).result(WATCHDOG)) == 10
            assert pool.submit(len, bytes(3 << 20)).result(WATCHDOG) == 3 << 20
        assert pool.stats().deaths == 0


def test_a_worker_without_descriptors_answers_other_clients(shared: Pool) -> None:
    host, guest = shared(1), shared(0)
    host.submit(take_all_descriptors, 10).result(WATCHDOG)
    assert guest.submit(square, 3).result(WATCHDOG) == 9
    assert host.submit(square, 4).result(WATCHDOG) == 16
    assert len(guest.submit(ones, LARGE).result(WATCHDOG)) == LARGE
    assert host.stats().deaths == 0


@pytest.mark.parametrize("nbytes", [10, LARGE, 8 << 20])
def test_a_task_that_leaves_its_worker_no_memory_has_an_outcome(nbytes: int) -> None:
    with shmq.Executor(1, "fork") as pool:
        error = pool.submit(take_all_memory, nbytes).exception(WATCHDOG)
        assert error is None or isinstance(error, MemoryError)
        for _ in range(3):
            assert pool.submit(square, 3).exception(WATCHDOG) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the root of a process")
def test_a_task_that_changes_its_workers_root_loses_no_outcome(shared: Pool, tmp_path: Path) -> None:
    host, guest = shared(1), shared(0)
    assert host.submit(os.chroot, str(tmp_path)).result(WATCHDOG) is None
    assert guest.submit(square, 3).result(WATCHDOG) == 9  # by a worker that sees shared memory
    assert host.submit(square, 4).result(WATCHDOG) == 16


def test_a_delivery_that_ends_by_the_workers_own_exception_counts(shared: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    host, guest = shared(1), shared(0)
    original = _task_worker.TaskWorker.reply_to

    def reply_to(worker: _task_worker.TaskWorker, client: int) -> Any:
        if client == guest._client.id:
            raise OSError(errno.EIO, "no way")
        return original(worker, client)

    monkeypatch.setattr(_task_worker.TaskWorker, "reply_to", reply_to)  # before the workers are forked
    assert host.submit(square, 2).result(WATCHDOG) == 4
    error = guest.submit(square, 3).exception(WATCHDOG)
    assert isinstance(error, shmq.WorkerLost) and "3 deliveries" in str(error)
    assert host.submit(square, 4).result(WATCHDOG) == 16


def test_a_reserve_closes_nothing_that_became_anothers() -> None:
    reserve = Reserve()
    taken = list(reserve._descriptors)
    for descriptor in taken:
        os.close(descriptor)
    read, write = os.pipe()
    os.dup2(read, taken[0])
    reserve.spend()
    os.fstat(taken[0])
    for descriptor in {taken[0], read, write}:
        os.close(descriptor)
    assert reserve.restore()
    reserve.spend()


def test_what_is_a_limit_and_what_is_not() -> None:
    limits = [OSError(errno.EMFILE, ""), OSError(errno.ENOSPC, ""), MemoryError(), shmq.OutOfMemory(""), shmq.InFlightLimit("")]
    assert all(map(is_limit, [*limits, shmq.TooManyPorts(""), shmq.Full("")]))
    others = [OSError(errno.EIO, ""), shmq.SegmentNotFound(""), shmq.SegmentCorrupt(""), ValueError(), KeyboardInterrupt()]
    assert not any(map(is_limit, others))
