"""The Python layer of waiting between any two of its lines: a fork, a signal handler, and the collector's finalizers come there.

Nothing of it holds a lock, so whatever comes in between goes on, and so does what it interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import shmq
from shmq import aio
from shmq._waiting import awaiting, bell, fileno, loop_waiters, renewal
from support.forked import succeeded
from support.programs import LONG

Make = Callable[..., shmq.Queue]
FILES = {module.__file__ for module in (awaiting, bell, fileno, loop_waiters, renewal, aio)}


def wait_for_several(queue: shmq.Queue, other: shmq.Queue) -> None:
    with contextlib.suppress(shmq.Empty):
        shmq.wait_any([queue, other], timeout=0.001)


def wait_for_the_end(queue: shmq.Queue, other: shmq.Queue) -> None:
    other.put("unfinished")
    other.join(timeout=0.001)
    other.get_nowait()
    other.task_done()


def wait_in_a_loop(queue: shmq.Queue, other: shmq.Queue) -> None:
    async def main() -> None:
        with contextlib.suppress(shmq.Empty):
            await queue.aget(timeout=0.001)

    asyncio.run(main())


def keep_a_lease(queue: shmq.Queue, other: shmq.Queue) -> None:
    other.put("leased")
    other.receive(timeout=0, lease_timeout=LONG, extend=True).ack()


def wait_in_select(queue: shmq.Queue, other: shmq.Queue) -> None:
    with shmq.Queue.attach(queue.name) as handle:
        assert select.select([handle], [], [], 0.001) in (([], [], []), ([handle], [], []))
        with contextlib.suppress(shmq.Empty):
            handle.get_nowait()


OPERATIONS = [wait_for_several, wait_for_the_end, wait_in_a_loop, wait_in_select, keep_a_lease]


def at_line(nth: int, act: Callable[[], None], operation: Callable[[], None]) -> bool:
    """Run the operation in a thread of its own, with `act` before the nth line of the layer. False: it has fewer."""
    lines, met = 0, False
    failures: list[str] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines, met
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line" and not met:
            lines += 1
            if lines == nth:
                met = True
                sys.settrace(None)  # what comes in between may run lines of the layer, too
                frame.f_trace = None
                act()
        return trace

    def run() -> None:
        sys.settrace(trace)
        try:
            operation()
        except BaseException:
            failures.append(traceback.format_exc())
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive(), f"hangs where something came before line {nth}"
    assert not failures, f"before line {nth}: {failures[0]}"
    return met


def use_everything(queue: shmq.Queue) -> None:
    """What a handler, a finalizer or a child may do with a queue: every way to wait, and to make others wake."""
    queue.put("between")
    assert shmq.wait_any([queue], timeout=LONG) is queue
    assert queue.get(timeout=0) == "between"
    queue.task_done()
    with contextlib.suppress(shmq.Empty):
        shmq.wait_any([queue], timeout=0.0001)
    assert not queue.join(timeout=0.0001) or queue.qsize() == 0
    queue.put("leased")
    queue.receive(timeout=0, lease_timeout=LONG, extend=True).ack()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_handler_or_finalizer_may_use_and_close_the_queue_between_two_lines(make: Make, operation: Any) -> None:
    queue, other = make(slots=4, slot_size=64, in_flight=8), make(slots=4, slot_size=64, in_flight=8)

    def intrude() -> None:
        use_everything(queue)
        with shmq.Queue.attach(queue.name) as again:
            use_everything(again)

    nth = 1
    while at_line(nth, intrude, lambda: operation(queue, other)):
        nth += 1
    assert nth > 3
    use_everything(queue)
    assert (queue.qsize(), queue._listening_handles.own_is_free, queue._waiters()) == (0, True, (0, 0))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_child_that_is_forked_between_any_two_lines_uses_and_closes_the_queue(make: Make, operation: Any) -> None:
    queue, other = make(slots=4, slot_size=64, in_flight=8), make(slots=4, slot_size=64, in_flight=8)

    def child() -> None:
        with shmq.Queue.attach(queue.name) as again:
            use_everything(again)
        use_everything(queue)
        queue.close()
        other.close()

    nth, forks = 1, 0
    met = True
    while met:
        stopped, go_on = threading.Event(), threading.Event()

        def stop(stopped: threading.Event = stopped, go_on: threading.Event = go_on) -> None:
            stopped.set()
            assert go_on.wait(2 * LONG)

        def forked(stopped: threading.Event = stopped, go_on: threading.Event = go_on) -> None:
            nonlocal forks
            if stopped.wait(LONG):
                forks += succeeded(child)
            go_on.set()

        forker = threading.Thread(target=forked, daemon=True)
        forker.start()
        met = at_line(nth, stop, lambda: operation(queue, other))
        stopped.set()
        forker.join(LONG)
        assert forks == nth, f"forked before line {nth}, the child fails"
        nth += 1
    assert nth > 3
