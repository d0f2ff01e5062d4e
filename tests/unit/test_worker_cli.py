"""``shmq worker``: workers that are started apart from the program that asks."""

from __future__ import annotations

import builtins
import importlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import shmq
from shmq.executor._function import Function, find_function
from support.processes import WATCHDOG, wait_until

pytest.importorskip("click")
pytest.importorskip("rich")

MODULE = """
import asyncio, functools, logging, os, time
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

async def later(data):
    await asyncio.sleep(0)
    with open(data, "a") as file:
        file.write(f"{os.getpid()} {id(asyncio.get_running_loop())}")

def returns_a_coroutine(data):
    return later(data)

def returns_a_generator(data):
    return (Path(data).touch() for _ in range(1))

def generates(data):
    yield Path(data).touch()

async def generates_later(data):
    yield Path(data).touch()

async def cancels(data):
    raise asyncio.CancelledError

class Thing:
    async def __call__(self, data):
        await later(data)

    async def method(self, data):
        await later(data)

    def plain(self, data):
        Path(data).touch()

    @staticmethod
    def static(data):
        Path(data).touch()

class Generating:
    def __call__(self, data):
        yield data

thing, generating = Thing(), Generating()
partial, partial_generator = functools.partial(later), functools.partial(generates)

def two(one, other):
    pass

def injecting(function):
    @functools.wraps(function)
    def wrapper(data):
        return function("a session", data)
    return wrapper

@injecting
def injected(session, data):
    Path(data).touch()

@functools.lru_cache
def cached(data):
    Path(data).touch()

async def leaves_something_behind(data):
    async def linger():
        try:
            await asyncio.sleep(1000)
        finally:
            Path(f"{data}.cancelled").touch()
    asyncio.ensure_future(linger())
    await asyncio.sleep(0)

def exits(data):
    raise SystemExit("enough")

class Reversing:
    name = "reversing"

    def encode(self, obj):
        return obj[::-1].encode()

    def decode(self, data):
        return bytes(data).decode()[::-1]

codec = Reversing()

def tells(data):
    logging.getLogger("app").info("at work on %s", data)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, name: str) -> Iterator[Start]:
    """Start `shmq worker` in a folder with a module `work`; it is asked to stop before its queue goes."""
    (tmp_path / "work.py").write_text(MODULE)
    program = [str(tmp_path / "bin" / "shmq")]  # as the installed script, beside which no module of the user's lies
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "shmq").write_text("from shmq.cli import main\n\nif __name__ == '__main__':\n    main()\n")
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *program, "worker", *arguments],
            cwd=tmp_path,
            start_new_session=True,  # as the first process of a terminal's foreground group
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


def test_a_task_that_kills_another_programs_workers_is_lost_and_those_replaced(start: Start, name: str) -> None:
    process = start(name, "-c", "2")
    with shmq.Executor(0, name=name) as pool:
        error = pool.submit(os._exit, 3).exception(WATCHDOG)
        assert isinstance(error, shmq.WorkerLost) and error.exit_codes == (None,) * 3
        assert "only the program that started them" in str(error)
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
    with shmq.Queue(name) if function else shmq.Executor(0, name=name):
        wait_until(lambda: shmq.Queue.attach(found).stats().waiting_consumers)
        shmq.Queue.attach(found).unlink()
        status, errors = finished(process)
    assert status == 1 and f"{found!r} was unlinked" in errors


# -- what the function may be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_coroutines_run_to_their_end_in_one_loop_per_worker(start: Start, name: str, tmp_path: Path, method: str) -> None:
    with shmq.Queue(name) as queue:
        queue.put_many([f"{tmp_path}/{number}" for number in range(20)])
        process = start(name, "work:later", "-c", "2", "--start-method", method)
        wait_until(lambda: queue.stats().acks == 20)
        process.terminate()
        assert finished(process)[0] == 0
    ran = [(tmp_path / str(number)).read_text() for number in range(20)]
    assert len(set(ran)) == len({line.split()[0] for line in ran}) <= 2


@pytest.fixture
def module(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of that module, where this process imports it."""
    unique = f"work_{name.replace('.', '_')}"
    (tmp_path / f"{unique}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return unique


@pytest.mark.parametrize(
    "function",
    ["later", "returns_a_coroutine", "partial", "thing", "thing.method", "thing.plain", "Thing.static", "injected", "cached"],
)
def test_whatever_can_be_called_with_a_message_has_run_when_the_call_is_over(module: str, tmp_path: Path, function: str) -> None:
    call = Function(f"{module}:{function}")
    for made in ("one", "other"):
        call(SimpleNamespace(data=f"{tmp_path}/{made}"))  # type: ignore[arg-type]  # all that it looks at
        assert (tmp_path / made).exists()
    call.close()


def test_what_a_coroutine_leaves_behind_is_cancelled_at_the_end(module: str, tmp_path: Path) -> None:
    call = Function(f"{module}:leaves_something_behind")
    call(SimpleNamespace(data=f"{tmp_path}/it"))  # type: ignore[arg-type]  # all that it looks at
    assert not (tmp_path / "it.cancelled").exists()
    call.close()
    assert (tmp_path / "it.cancelled").exists()


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("generates", "is a generator function: to call it runs nothing of it"),
        ("generates_later", "is a generator function"),
        ("partial_generator", "is a generator function"),
        ("generating", "is a generator function"),
        ("Thing", "is a class: to call it only makes an object"),
        ("Thing.method", "cannot be called with one argument, the message: missing a required argument: 'data'"),
        ("two", "cannot be called with one argument, the message: missing a required argument: 'other'"),
        ("broken", "is no function, but 3"),
    ],
)
def test_what_would_run_nothing_is_refused_before_anything_is_taken(module: str, function: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{module}:{function} {says}")):
        find_function(f"{module}:{function}")


@pytest.mark.parametrize("function", ["abs", "print", "len"])
def test_what_is_built_in_may_be_called(function: str) -> None:
    assert find_function(f"builtins:{function}") is getattr(builtins, function)


@pytest.mark.parametrize(
    ("function", "says"),
    [("returns_a_generator", "returned a generator, so nothing of it was run"), ("cancels", "CancelledError")],
)
def test_what_turns_out_not_to_have_run_is_not_acked(start: Start, name: str, tmp_path: Path, function: str, says: str) -> None:
    with shmq.Queue(name, max_deliveries=1) as queue:
        queue.put(f"{tmp_path}/made")
        process = start(name, f"work:{function}", "-c", "1")
        wait_until(lambda: len(queue.dead_letters) == 1)
        process.terminate()
        status, errors = finished(process)
        assert says in queue.dead_letters[0].error and says in errors
        assert queue.stats().acks == 0 and "is replaced" not in errors and status == 0


# -- modules of the current folder ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_workers_of_a_pool_find_modules_of_the_current_folder(
    start: Start, name: str, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"mine_{name.replace('.', '_')}_{method}"
    (tmp_path / f"{module}.py").write_text("def double(number): return number * 2")
    monkeypatch.syspath_prepend(tmp_path)
    double = importlib.import_module(module).double
    start(name, "-c", "1", "--start-method", method)
    with shmq.Executor(0, name=name) as pool:
        assert pool.submit(double, 21).result(WATCHDOG) == 42


# -- leases --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", ["1", "3"])
def test_a_lease_is_extended_as_long_as_the_function_runs(start: Start, name: str, tmp_path: Path, prefetch: str) -> None:
    with shmq.Queue(name, lease_timeout=0.2, max_deliveries=3) as queue:
        queue.put_many([f"{tmp_path}/{number}" for number in range(3)])
        start(name, "work:slowly", "-c", "2", "--prefetch", prefetch)  # 0.5 s each
        wait_until(lambda: queue.stats().acks == 3)
        stats = queue.stats()
        assert (stats.nacks, stats.dead_letters) == (0, 0)
        assert stats.expired == 0 or prefetch != "1"  # what was taken ahead may expire, and has not been begun with


# -- the queue is another's to make ----------------------------------------------------------------------------------------------


def test_a_queue_that_is_not_there_yet_is_waited_for(start: Start, name: str, tmp_path: Path) -> None:
    process = start(name, "work:note", "-c", "1")
    assert process.stderr is not None
    assert f"waiting for queue {name!r}: no program has made it yet" in process.stderr.readline()
    with shmq.Queue(name, slots=7, slot_size=77, max_deliveries=2) as queue:
        queue.put(f"{tmp_path}/made")
        wait_until(lambda: queue.stats().acks == 1)
        process.terminate()
        status, errors = finished(process)
    assert status == 0 and "waiting" not in errors and "the end: 1 done, 0 failed, 0 messages given up" in errors


def test_a_pool_that_is_not_there_yet_is_waited_for(start: Start, name: str) -> None:
    process = start(name, "-c", "1")
    assert process.stderr is not None
    assert f"waiting for pool {name!r}" in process.stderr.readline()
    with shmq.Executor(0, name=name, max_deliveries=2) as pool:
        assert pool.submit(abs, -1).result(WATCHDOG) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_waits_for_its_queue_leaves_when_it_is_told_to(start: Start, name: str, number: signal.Signals) -> None:
    process = start(name, "work:note")
    assert process.stderr is not None and "waiting" in process.stderr.readline()
    process.send_signal(number)
    assert finished(process) == (0, "")


class Listing:
    """A codec of lists of one text, of which JSON knows nothing."""

    name = "reversing"

    def encode(self, obj: list[str]) -> bytes:
        return obj[0][::-1].encode()

    def decode(self, data: memoryview) -> list[str]:
        return [bytes(data).decode()[::-1]]


def test_a_queue_with_a_codec_is_served_by_whoever_names_it(start: Start, name: str, tmp_path: Path) -> None:
    with shmq.Queue(name, codec=Listing()) as queue:
        queue.put([f"{tmp_path}/made"])
        status, errors = finished(start(name, "work:note"))
        assert status == 1 and "was made with the codec 'reversing'" in errors and "--codec MODULE:CODEC" in errors
        start(name, "work:note", "--codec", "work:codec", "-c", "1", "--start-method", "spawn")
        wait_until(lambda: queue.stats().acks == 1)
    assert (tmp_path / "made").exists()


def test_ctrl_c_in_a_terminal_lets_the_workers_finish_their_message(start: Start, name: str, tmp_path: Path) -> None:
    with shmq.Queue(name) as queue:
        queue.put(f"{tmp_path}/0")
        process = start(name, "work:slowly", "-c", "2")
        wait_until((tmp_path / "0.begun").exists)
        os.killpg(process.pid, signal.SIGINT)
        status, errors = finished(process)
        assert status == 0 and "the end: 1 done, 0 failed" in errors and "Traceback" not in errors
        assert queue.stats().acks == 1


# -- what is said of failures ----------------------------------------------------------------------------------------------------


def until(process: subprocess.Popen[str], words: str) -> str:
    """What a program says up to the line with these words."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if words in line:
            return said
    raise AssertionError(f"{words!r} is not in {said}")


def test_a_message_that_failed_rests_although_the_queue_has_no_policy(start: Start, name: str) -> None:
    with shmq.Queue(name) as queue:
        queue.put("bad")
        process = start(name, "work:note", "-c", "2")
        said = until(process, "failed, 2 of 20")
        assert queue.stats().receives == 2
        assert re.search(
            r"message \d+ of queue '\S+' failed, 1 of 20: ValueError: a bad one; next try in (0\.9|1\.0|1\.1) s", said
        )
        assert re.search(r"failed, 2 of 20: ValueError: a bad one; next try in (1\.[89]|2\.[012]) s", said)
        assert said.count("Traceback") == 1
        queue.purge()


def test_each_failure_and_the_end_of_a_message_are_told_and_what_to_do(start: Start, name: str) -> None:
    with shmq.Queue(name, max_deliveries=3, backoff=shmq.Backoff(initial=0.01, jitter=0)) as queue:
        queue.put("bad")
        process = start(name, "work:note", "-c", "1")
        said = until(process, "given up")
        assert "failed, 1 of 3: ValueError: a bad one; next try in 0.0 s" in said
        assert "failed, 3 of 3: ValueError: a bad one\n" in said
        (line,) = [line for line in said.splitlines() if "given up" in line]
        assert "after 3 deliveries (nacked; max_deliveries=3; ValueError: a bad one): it is a dead letter now" in line
        assert f"`shmq dead {name}` shows it, `shmq redrive {name}` puts it back" in line
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ERROR \[\d+\] shmq: ", line)
        assert "a bad one" in queue.dead_letters[0].error
        process.terminate()
        assert "the end: 0 done, 3 failed, 1 message given up" in finished(process)[1]


def test_a_message_that_kills_its_workers_is_told_with_them(start: Start, name: str) -> None:
    with shmq.Queue(name, max_deliveries=2) as queue:
        queue.put("deadly")
        process = start(name, "work:note", "-c", "1")
        said = until(process, "given up")
        number = queue.dead_letters[0].id
        process.terminate()
        said += finished(process)[1]
    assert len(re.findall(rf"worker \d+ at message {number} ended with status 9, and is replaced", said)) == 2
    assert f"message {number} of queue {name!r} was given up after 2 deliveries (died; max_deliveries=2)" in said
    assert "1 message given up" in said


def test_a_function_that_exits_ends_its_worker_and_the_message_counts(start: Start, name: str) -> None:
    with shmq.Queue(name, max_deliveries=1) as queue:
        queue.put("x")
        process = start(name, "work:exits", "-c", "1")
        until(process, "ended with status 1, and is replaced")
        assert "enough" in queue.dead_letters[0].error


def test_workers_outlast_a_queue_whose_every_cell_rests(start: Start, name: str, tmp_path: Path) -> None:
    with shmq.Queue(name, in_flight=2, max_deliveries=2) as queue:
        queue.put_many(["bad", "bad", "bad", f"{tmp_path}/good"])
        process = start(name, "work:note", "-c", "2")
        wait_until((tmp_path / "good").exists)
        wait_until(lambda: len(queue.dead_letters) == 3)
        process.terminate()
        assert "is replaced" not in finished(process)[1]


@pytest.mark.parametrize(
    ("method", "level", "shown"),
    [("fork", (), True), ("spawn", (), True), ("forkserver", (), True), ("fork", ("--log-level", "warning"), False)],
)
def test_what_the_users_code_logs_is_shown_from_the_level_on(
    start: Start, name: str, method: str, level: tuple[str, ...], shown: bool
) -> None:
    with shmq.Queue(name) as queue:
        queue.put("it")
        process = start(name, "work:tells", "-c", "1", "--start-method", method, *level)
        wait_until(lambda: queue.stats().acks == 1)
        process.terminate()
        _, errors = finished(process)
    assert (re.search(r"^\S+ \S+ INFO \[\d+\] app: at work on it$", errors, re.M) is not None) == shown
    assert ("1 worker for queue" in errors) == ("the end: 1 done" in errors) == shown


def test_when_the_queue_is_shut_down_they_finish_what_there_is_and_leave(start: Start, name: str, tmp_path: Path) -> None:
    with shmq.Queue(name) as queue:
        queue.put_many([f"{tmp_path}/{number}" for number in range(3)])
        process = start(name, "work:note", "-c", "2")
        wait_until(lambda: queue.stats().acks == 3)
        queue.shutdown()
        status, errors = finished(process)
    assert status == 0 and "was shut down, and all of its messages are done" in errors and "Traceback" not in errors


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
        (("work:generates",), "work:generates is a generator function: to call it runs nothing of it"),
        (("work:note", "--log-level", "loud"), "'loud' is not one of"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(start: Start, name: str, arguments: tuple[str, ...], says: str) -> None:
    status, errors = finished(start(name, *arguments))
    assert status != 0 and says in errors and "Traceback" not in errors
    assert name not in shmq.list_segments()
