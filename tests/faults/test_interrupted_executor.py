"""Executor: Ctrl-C at each line, and after each call, of what the program's own thread runs. Nobody waits for ever afterwards."""

from __future__ import annotations

import ast
import ctypes
import functools
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, _base
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import shmq
import shmq.executor
from shmq._core import Hold
from support.processes import WATCHDOG, wait_until
from support.programs import run_program

SOURCES = (str(Path(shmq.executor.__file__).parent), _base.__file__)
LARGE = 5000  # bytes: more than a small slot has


def double(value: Any) -> Any:
    return value * 2


@functools.cache
def never_interrupted(path: str) -> frozenset[int]:
    """Lines before which CPython looks at no signals: where a `with` is entered or left, and where a `try` or a `finally` begins.
    It looks after calls and at jumps back, and what is raised there still belongs to the line, or the block, before."""
    found = set()
    for node in ast.walk(ast.parse(Path(path).read_text())):
        if isinstance(node, ast.With):
            found.add(node.lineno)
        elif isinstance(node, ast.Try):
            found |= {node.lineno, *(statement.lineno for statement in node.finalbody[:1])}
    return frozenset(found)


def nap(seconds: float) -> int:
    time.sleep(seconds)
    return int(seconds * 100)


class Interrupt:
    """Raises KeyboardInterrupt in this thread, at one of the places in the executor's code where it can come. `left`: how many of
    them it passes before.

    The collector is off meanwhile: the finalizer of an earlier pool would be one place more, which is not there in the next run.
    Each tracer is kept: CPython 3.11 may call a trace function that a finalizer took off, after its last reference is gone.
    """

    installed: Callable[[], Any]
    install: Callable[[Any], None]

    def __init__(self, left: int) -> None:
        self.left = left
        self.tracer = self.enter
        self.pid = os.getpid()  # a forked worker is not to be interrupted
        self.where = ""

    def __enter__(self) -> Interrupt:
        gc.disable()
        self.before = self.installed()
        self.install(self.tracer)
        return self

    def __exit__(self, *exc: object) -> None:
        self.install(self.before)
        gc.enable()

    def enter(self, frame: FrameType, event: str, argument: object) -> Any:
        raise NotImplementedError

    def pass_by(self, frame: FrameType) -> None:
        if os.getpid() == self.pid:
            if self.left == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                sys.settrace(None)
                sys.setprofile(None)
                raise KeyboardInterrupt
            self.left -= 1


class InterruptAtLine(Interrupt):
    """… before a line."""

    least = 100
    installed, install = sys.gettrace, sys.settrace

    def enter(self, frame: FrameType, event: str, argument: object) -> Any:
        return self.look if frame.f_code.co_filename.startswith(SOURCES) else None

    def look(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line" and frame.f_lineno not in never_interrupted(frame.f_code.co_filename):
            self.pass_by(frame)
        return self.look


class InterruptAfterCall(Interrupt):
    """… when a function that is written in C has done its work, and nothing is made yet of what it returns. As CPython 3.14
    reports, and handles, a signal that comes while a `with` statement takes a lock."""

    least = 20
    installed, install = sys.getprofile, sys.setprofile

    def enter(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "c_return" and frame.f_code.co_filename.startswith(SOURCES):
            self.pass_by(frame)


def submit(pool: shmq.Executor) -> None:
    for number in range(6):  # more than the window is wide
        pool.submit(double, number)


def submit_large(pool: shmq.Executor) -> None:
    for _ in range(3):
        pool.submit(double, b"x" * LARGE)


def ask_by_map(pool: shmq.Executor) -> None:
    pool.map(double, range(6))


def take_by_map(pool: shmq.Executor) -> None:
    assert list(pool.map(double, [1, b"x" * LARGE, 2])) == [2, b"xx" * LARGE, 4]


def wait_for_results(pool: shmq.Executor) -> None:
    asked = [pool.submit(nap, number / 100) for number in range(3)]
    assert [future.result(WATCHDOG) for future in asked] == [0, 1, 2]


def cancel(pool: shmq.Executor) -> None:
    asked = [pool.submit(double, number) for number in range(6)]
    asked[-1].cancel()


@pytest.mark.parametrize("fresh", [True, False], ids=["of a new pool", "of a pool at work"])
@pytest.mark.parametrize("stride", [17, pytest.param(1, marks=pytest.mark.stress)])
@pytest.mark.parametrize("ask", [submit, submit_large, ask_by_map, take_by_map, wait_for_results, cancel])
@pytest.mark.parametrize("kind", [InterruptAtLine, InterruptAfterCall])
def test_a_program_interrupted_at_any_place_can_go_on_and_can_end(
    kind: type[InterruptAtLine | InterruptAfterCall], ask: Callable[[shmq.Executor], None], stride: int, fresh: bool
) -> None:
    place, reached = 0, 0
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    while True:
        with shmq.Executor(1, "fork") as pool:
            if not fresh:
                assert pool.submit(double, 1).result(WATCHDOG) == 2
            with kind(place) as interrupt:
                try:
                    ask(pool)
                except KeyboardInterrupt:
                    reached += 1
            where = f"place {place}, {interrupt.where}"
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before, where
            assert pool.submit(double, 4).result(WATCHDOG / 4) == 8, where
            wait_until(lambda pool=pool: pool.stats().pending == 0)
            client = pool._client
            assert client.window.handed == 0 and not client.window.backlog, where
        assert [thread.name for thread in threading.enumerate() if thread.name == "shmq-executor"] == [], where
        wait_until(lambda: not multiprocessing.active_children())
        if not interrupt.where:
            break
        place += stride
    assert reached > kind.least / stride


INTERRUPTED_AT_A_FORK = """
import os, signal, threading
import shmq

stay = threading.Event()
listener = threading.Thread(target=stay.wait, daemon=True)  # no mask of the thread that forks keeps a signal from this one
listener.start()
arrived, there = os.pipe()
os.set_blocking(there, False)
signal.set_wakeup_fd(there)
before = signal.pthread_sigmask(signal.SIG_BLOCK, ())  # what started this may block some
times = 0

def interrupt():
    global times
    times += 1
    if times == 1:
        signal.pthread_kill(listener.ident, signal.SIGINT)
        os.read(arrived, 1)  # the listener has heard it

with shmq.Executor(1, "fork") as pool:
    os.register_at_fork(after_in_parent=interrupt)
    try:
        pool.submit(abs, -1)
        print("goes on")
    except KeyboardInterrupt:
        print("interrupted")
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before)
"""


def test_an_interrupt_in_the_middle_of_a_fork_is_not_forgotten() -> None:
    assert run_program(INTERRUPTED_AT_A_FORK) == "interrupted\nTrue True\n"


INTERRUPTED_IN_A_START = """
import multiprocessing, signal, sys, threading
import shmq

method, what = sys.argv[1:]
kind = threading.Thread if what == "thread" else multiprocessing.get_context(method).Process
start, started = kind.start, []

def start_interrupted(one):
    kind.start = start
    signal.raise_signal(signal.SIGINT)
    start(one)
    started.append(one)

with shmq.Executor(1, method) as pool:
    kind.start = start_interrupted
    try:
        pool.submit(abs, -1)
        print("goes on")
    except KeyboardInterrupt:
        print("interrupted", len(started))
print(threading.active_count())
"""


@pytest.mark.parametrize(
    ("method", "what"), [("fork", "process"), ("forkserver", "process"), ("spawn", "process"), ("fork", "thread")]
)
def test_an_interrupt_waits_until_what_a_pool_starts_has_started(method: str, what: str) -> None:
    assert run_program(INTERRUPTED_IN_A_START, method, what) == "interrupted 1\n1\n"


class RaisesWhenTaken:
    """A lock. SIGINT comes while it is being taken, too late for that to fail, and too early for Python code to notice."""

    def __init__(self) -> None:
        self.given_back = 0
        self.acquire = functools.partial(getattr(ctypes.PyDLL(None), "raise"), signal.SIGINT)

    def release(self) -> None:
        self.given_back += 1


def test_a_lock_that_is_being_taken_when_an_interrupt_comes_is_given_back() -> None:
    lock = RaisesWhenTaken()
    with pytest.raises(KeyboardInterrupt), Hold(lock):
        signal.getsignal(signal.SIGINT)  # CPython until 3.13 looks at signals after this call
    assert lock.given_back == 1


def test_a_hold_is_dropped_with_its_lock_given_back_once() -> None:
    lock = threading.RLock()
    hold = Hold(lock)
    assert in_another_thread(take, lock)
    hold.__enter__()
    assert not in_another_thread(take, lock)
    del hold
    assert in_another_thread(take, lock)
    with Hold(lock), Hold(lock):
        assert not in_another_thread(take, lock)
    assert in_another_thread(take, lock)


def take(lock: Any) -> bool:
    taken: bool = lock.acquire(False)
    if taken:
        lock.release()
    return taken


def in_another_thread(function: Callable[..., Any], *arguments: object) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result(WATCHDOG)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_what_starts_workers_is_imported_before_there_is_a_manager_thread(method: str) -> None:
    program = """
        import sys
        import shmq
        if __name__ == "__main__":
            pool = shmq.Executor(1, sys.argv[1])
            before = set(sys.modules)
            pool.submit(abs, -1).result()
            print(sorted(name for name in set(sys.modules) - before if name.startswith("multiprocessing.")))
            pool.shutdown()
    """
    assert run_program(program, method) == "[]\n"
