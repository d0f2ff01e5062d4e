"""Child processes of the demo and the bench: they never outlive it, and Ctrl-C is the parent's to handle."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

__all__ = ["SPAWN", "Children", "available_cpus", "leaving_cleanly"]

# spawn, since a parent that draws a progress bar has a thread, and a fork copies the locks which that thread holds.
SPAWN = multiprocessing.get_context("spawn")
ASKING = (signal.SIGTERM, signal.SIGHUP)  # to leave; SIGHUP: the terminal was closed
DEFERRED = (signal.SIGINT, *ASKING)
FORGOTTEN_AGAIN = 0.01


def available_cpus() -> int:
    """Return how many processors this process may run on, which in a container is not what the machine has."""
    return len(os.sched_getaffinity(0))


class Children:
    """Processes that end with the block: by themselves, or by SIGKILL when the block is left early.

    SIGKILL is no violence here: whatever a killed process held of a shmq queue goes back by itself.
    """

    def __init__(self) -> None:
        self.processes: list[SpawnProcess] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
            process.close()
        self.processes.clear()

    def start(self, body: Callable[..., None], *arguments: Any) -> SpawnProcess:
        """Start ``body(*arguments)`` in a process that has SIGINT blocked from its first instruction on."""
        process = SPAWN.Process(target=_run, args=(body, *arguments), daemon=True)
        resource_tracker.ensure_running()  # it unblocks these signals when it has to start; so not inside the block
        with _signals_deferred():
            process.start()
            self.processes.append(process)
        return process


def _run(body: Callable[..., None], *arguments: Any) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    body(*arguments)


def _end_with_parent() -> None:
    """A child whose parent was killed would wait on its queue for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Let a child be started whole: the parent gets its signals afterwards, the child has SIGINT blocked for good.

    The mask is what the child inherits. It would not be enough here, since the kernel may give a signal to any thread,
    NumPy has some, and Python would raise the exception in this one.
    """
    arrived: list[int] = []
    handlers = {number: signal.getsignal(number) for number in DEFERRED}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        for number in DEFERRED:
            signal.signal(number, lambda number, _: arrived.append(number))
        signal.pthread_sigmask(signal.SIG_BLOCK, DEFERRED)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in arrived:
            signal.raise_signal(late)


@contextlib.contextmanager
def leaving_cleanly() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP unwind the block, children and queues included, and leave with the usual status."""
    main = threading.get_ident()
    unraisable_before = sys.unraisablehook

    def exit_by(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def hear_again(forgotten: sys.UnraisableHookArgs) -> None:
        """Send a signal again whose exception struck in a finalizer, where Python forgets it and goes on."""
        error = forgotten.exc_value
        status = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else getattr(error, "code", None)
        number = next((number for number in DEFERRED if status == 128 + number), None)
        if number is None or threading.get_ident() != main:
            unraisable_before(forgotten)
        else:  # from another thread and a little later: here it would strike in the finalizer once more
            threading.Timer(FORGOTTEN_AGAIN, os.kill, (os.getpid(), number)).start()

    # nohup ignores SIGHUP, and so does its child.
    before = {number: signal.signal(number, exit_by) for number in ASKING if signal.getsignal(number) != signal.SIG_IGN}
    sys.unraisablehook = hear_again
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        sys.unraisablehook = unraisable_before
        for number, handler in before.items():
            signal.signal(number, handler)
