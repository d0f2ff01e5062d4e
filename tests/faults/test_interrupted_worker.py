"""Executor: an exception at each line that a worker runs between taking a task and acking it, one after the other.

Its client has an outcome in the end: the task's, or one that says what the worker was lacking. Where each worker fails at the
same line, each delivery counts, and the task is given up after so many. Nobody waits for ever.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import shmq
import shmq.executor
from support.processes import WATCHDOG

SOURCES = str(Path(shmq.executor.__file__).parent)
LARGE = 5000  # bytes: more than a small slot has
ERRORS = {"descriptors": OSError(errno.EMFILE, "none left"), "memory": MemoryError("none left"), "interrupt": KeyboardInterrupt()}


def double(value: Any) -> Any:
    return value * 2


class RaiseAtLine:
    """Raises in this process before the given line that it runs of the executor, counted from the call of the function `since`
    until run_task returns. It leaves a trace in `seen`, and where that is there already and `once` is true, it does nothing."""

    def __init__(self, line: int, error: BaseException, since: str, seen: str, once: bool) -> None:
        self.line, self.error, self.since, self.once = line, error, since, once
        self.seen = Path(seen)
        self.left: int | None = None
        self.tracer = self.enter  # kept: CPython 3.11 may call a trace function after its last reference is gone

    def enter(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(SOURCES):
            return None
        if frame.f_code.co_name == self.since:
            self.left = self.line
        return self.look

    def look(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "return" and frame.f_code.co_name == "run_task":
            self.left = None
        elif event == "line" and self.left is not None:
            if self.left == 0:
                sys.settrace(None)
                if self.once and self.seen.exists():
                    return None
                self.seen.write_text(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
                raise self.error
            self.left -= 1
        return self.look


def raise_at(line: int, error: str, since: str, seen: str, once: bool) -> None:
    """The initializer of a worker."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # its tracebacks are not this test's
    sys.settrace(RaiseAtLine(line, ERRORS[error], since, seen, once).tracer)


def outcomes_with(once: bool, since: str, error: str, value: Any, stride: int, folder: Path) -> int:
    """Run a task for each line, and look at its outcome; return how many lines there were."""
    line = 0
    while True:
        seen = folder / str(line)
        arguments = (line, error, since, str(seen), once)
        with shmq.Executor(1, "fork", initializer=raise_at, initargs=arguments, max_deliveries=2) as pool:
            asked = pool.submit(double, value)
            failure = asked.exception(WATCHDOG / 4)
            where = f"line {line}, {seen.read_text() if seen.exists() else 'not reached'}"
            if not seen.exists():
                assert failure is None, where
                return line
            if failure is None:
                assert asked.result() == value * 2, where
            else:
                allowed = (type(ERRORS[error]),) if once else (type(ERRORS[error]), shmq.WorkerLost)
                assert isinstance(failure, allowed), (where, failure)
        line += stride


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.stress)])
@pytest.mark.parametrize("value", [21, b"x" * LARGE], ids=["small", "large"])
@pytest.mark.parametrize("error", list(ERRORS))
def test_an_exception_in_a_worker_at_any_line_costs_no_outcome(error: str, value: Any, stride: int, tmp_path: Path) -> None:
    assert outcomes_with(True, "_receive", error, value, stride, tmp_path) > 20


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.stress)])
@pytest.mark.parametrize("value", [21, b"x" * LARGE], ids=["small", "large"])
@pytest.mark.parametrize("error", list(ERRORS))
def test_an_exception_in_every_worker_at_the_same_line_is_counted(error: str, value: Any, stride: int, tmp_path: Path) -> None:
    assert outcomes_with(False, "run_task", error, value, stride, tmp_path) > 20
