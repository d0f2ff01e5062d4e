"""Executor: Ctrl-C at each line of what the program's own thread runs, one after the other. Nobody waits for ever afterwards."""

from __future__ import annotations

import ast
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from conftest import WATCHDOG, wait_until
from faults import run_program

import shmq
import shmq.executor

SOURCES = str(Path(shmq.executor.__file__).parent)
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


class InterruptAtLine:
    """Raises KeyboardInterrupt in this thread before the given line that it runs of the executor, counted from 0."""

    def __init__(self, line: int) -> None:
        self.left = line
        self.pid = os.getpid()  # a forked worker is not to be interrupted
        self.where = ""

    def __enter__(self) -> InterruptAtLine:
        self.before = sys.gettrace()
        sys.settrace(self.enter)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(self.before)

    def enter(self, frame: FrameType, event: str, argument: object) -> Any:
        return self.look if frame.f_code.co_filename.startswith(SOURCES) else None

    def look(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code.co_filename
        if event == "line" and os.getpid() == self.pid and frame.f_lineno not in never_interrupted(code):
            if self.left == 0:
                self.where = f"{Path(code).name}:{frame.f_lineno}"
                sys.settrace(None)
                raise KeyboardInterrupt
            self.left -= 1
        return self.look


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


def cancel(pool: shmq.Executor) -> None:
    asked = [pool.submit(double, number) for number in range(6)]
    asked[-1].cancel()


@pytest.mark.parametrize("fresh", [True, False], ids=["of a new pool", "of a pool at work"])
@pytest.mark.parametrize("stride", [17, pytest.param(1, marks=pytest.mark.stress)])
@pytest.mark.parametrize("ask", [submit, submit_large, ask_by_map, take_by_map, cancel])
def test_who_is_interrupted_at_any_line_can_go_on_and_can_leave(
    ask: Callable[[shmq.Executor], None], stride: int, fresh: bool
) -> None:
    line, reached = 0, 0
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    while True:
        with shmq.Executor(1, "fork") as pool:
            if not fresh:
                assert pool.submit(double, 1).result(WATCHDOG) == 2
            with InterruptAtLine(line) as interrupt:
                try:
                    ask(pool)
                except KeyboardInterrupt:
                    reached += 1
            where = f"line {line}, {interrupt.where}"
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before, where
            assert pool.submit(double, 4).result(WATCHDOG / 4) == 8, where
            wait_until(lambda pool=pool: pool.stats().pending == 0)
            client = pool._client
            assert client.handed == 0 and not client.backlog, where
        assert [thread.name for thread in threading.enumerate() if thread.name == "shmq-executor"] == [], where
        wait_until(lambda: not multiprocessing.active_children())
        if not interrupt.where:
            break
        line += stride
    assert reached > 100 / stride


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
