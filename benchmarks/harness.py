"""Child processes with a common start and a watchdog: every measurement of every topology runs through here.

A role is a function of a `Line`. It opens its ends, waits at the line, works, and returns what it has to report. A
role that is not done when the time is up is killed by its own pid, and the measurement counts as `Hangs`.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Barrier
from typing import Any, TypeAlias

Role: TypeAlias = Callable[["Line"], Any]

_numbers = itertools.count()


class Hangs(Exception):
    """The measurement was not over in time; its processes have been killed."""


class Failed(Exception):
    """A role raised, died, or received other content than was sent."""


@dataclass(frozen=True)
class Work:
    """How much to do, and how long the watchdog waits for it."""

    count: int
    seconds: float
    timeout: float


@dataclass(frozen=True)
class Span:
    """What one role measured, on the clock that all processes share."""

    began: int
    ended: int
    total: int = 0


@dataclass(frozen=True)
class Trouble:
    """A role's traceback on its way to the parent."""

    text: str


class Line:
    """Where all roles of a measurement wait for each other."""

    def __init__(self, barrier: Barrier, number: int) -> None:
        self._barrier = barrier
        self._number = number

    def wait(self) -> None:
        """Go on when everybody is here."""
        self._barrier.wait()

    def pin(self) -> None:
        """Keep the calling thread on a CPU that no other role has, as far as there are enough.

        A sleeper that wakes on the CPU of its waker is a different measurement from one that wakes an idle CPU. Chance
        must not decide which of the two is measured. Roles pin themselves after they have opened their ends: a
        queue looks at the number of CPUs when it decides whether to spin.
        """
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[self._number % len(cpus)]})


def label() -> str:
    """Return a name that no other channel of this or another run has."""
    return f"shmq-bench-{os.getpid()}-{next(_numbers)}"


def elapsed(spans: Sequence[Span]) -> int:
    """Return the nanoseconds from the first start to the last end."""
    return max(span.ended for span in spans) - min(span.began for span in spans)


def _child(role: Role, line: Line, outcome: Connection) -> None:
    try:
        outcome.send(role(line))
    except BaseException:
        outcome.send(Trouble(traceback.format_exc()))


def run_roles(roles: Sequence[Role], timeout: float, method: str = "fork", parent: bool = False) -> list[Any]:
    """Run every role in a process of its own; return their reports in order. Raises Hangs or Failed.

    With `parent` the roles may have children themselves.
    """
    context: Any = multiprocessing.get_context(method)
    barrier = context.Barrier(len(roles))
    reports: dict[Connection, Any] = {}
    children: list[tuple[Any, Connection]] = []
    for number, role in enumerate(roles):
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(role, Line(barrier, number), theirs), daemon=not parent)
        child.start()
        theirs.close()
        children.append((child, ours))
    deadline = time.monotonic() + timeout
    try:
        while len(reports) < len(children):
            open_pipes = [pipe for _, pipe in children if pipe not in reports]
            ready = wait(open_pipes, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise Hangs(f"not done after {timeout:g} s")
            for pipe in open_pipes:
                if pipe in ready:
                    reports[pipe] = _report(pipe)
    finally:
        finished = len(reports) == len(children)
        for child, pipe in children:
            child.join(5.0 if finished else 0.0)
            if child.is_alive():
                child.kill()
                child.join()
            pipe.close()
    return [reports[pipe] for _, pipe in children]


def _report(pipe: Connection) -> Any:
    report: Any = Trouble("a child process died")
    with suppress(EOFError):
        report = pipe.recv()
    if isinstance(report, Trouble):
        raise Failed(report.text.strip())
    return report
