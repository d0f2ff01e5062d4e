"""Loans in odd circumstances: views that outlive them, forks, deaths, exceptions on their way."""

from __future__ import annotations

import gc
import io
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

import shmq
from support.processes import Children

Make = Callable[..., shmq.Queue]


@pytest.fixture(params=[8192, 256], ids=["large slots", "small slots"])
def q(request: pytest.FixtureRequest, make: Make) -> shmq.Queue:
    return make(slots=4, slot_size=request.param, in_flight=4)


def counts(queue: shmq.Queue) -> tuple[int, int, int]:
    """Ready, loaned, puts."""
    stats = queue.stats()
    return stats.ready, stats.loaned, stats.puts


def test_a_file_can_be_read_into_a_loan(q: shmq.Queue) -> None:
    loan = q.loan(100)
    count = io.BytesIO(b"from a file").readinto(loan.view)
    loan.publish(count)
    assert q.get_nowait() == b"from a file"


def test_the_loan_itself_is_a_writable_buffer(q: shmq.Queue) -> None:
    loan = q.loan(3)
    count = io.BytesIO(b"abcdef").readinto(loan)
    loan.publish()
    assert (count, q.get_nowait()) == (3, b"abc")


def test_loans_lie_on_cache_lines_and_large_ones_on_pages(q: shmq.Queue) -> None:
    boundary = 4096 if q.slot_size >= 4096 else 64
    for _ in range(10):
        with q.loan((4,), "u1") as array:
            assert array.ctypes.data % boundary == 0
        q.get_nowait()


def test_several_loans_are_places_of_their_own(q: shmq.Queue) -> None:
    loans = [q.loan((8,), "i4") for _ in range(4)]
    for number, loan in enumerate(loans):
        loan.array[:] = number
    assert counts(q) == (0, 4, 0)
    for loan in reversed(loans):
        loan.publish()
    assert [int(array[0]) for array in q.drain()] == [3, 2, 1, 0]  # the order of publication
    shmq.verify(q)


def test_nothing_is_visible_before_a_loan_is_published(q: shmq.Queue) -> None:
    loan = q.loan(3)
    loan.view[:] = b"abc"
    assert q.empty() and q.peek() == [] and counts(q) == (0, 1, 0)
    loan.publish()
    assert not q.empty() and q.peek() == [b"abc"] and counts(q) == (1, 0, 1)


@pytest.mark.parametrize("how", ["publish", "abandon"])
@pytest.mark.parametrize("look", ["array", "view"])
def test_looking_at_a_settled_loan_is_harmless_also_after_close_and_unlink(name: str, how: str, look: str) -> None:
    queue = shmq.Queue.create(name, slots=2, slot_size=4096)
    loan = queue.loan(4)
    shown = getattr(loan, look)
    getattr(loan, how)()
    queue.close()
    queue.unlink()
    del queue, loan
    gc.collect()
    assert len(bytes(shown)) == 4


@pytest.mark.parametrize("look", ["array", "view"])
def test_a_view_that_outlives_its_loan_costs_the_queue_nothing(q: shmq.Queue, look: str) -> None:
    views = []
    for _ in range(10):
        loan = q.loan(4)
        views.append(getattr(loan, look))
        loan.publish()
        q.get_nowait()
    assert counts(q)[:2] == (0, 0)
    views.clear()
    shmq.verify(q)


def test_an_exception_passes_unharmed_through_the_end_of_a_view(q: shmq.Queue) -> None:
    with pytest.raises(IndexError):
        q.loan(4).view[99]
    with pytest.raises(IndexError):
        q.loan((4,), "u1").array[99]
    assert counts(q) == (0, 0, 0)


def test_no_more_loans_than_may_be_in_flight(q: shmq.Queue) -> None:
    loans = [q.loan(1) for _ in range(4)]
    with pytest.raises(shmq.InFlightLimit, match=rf"(?s)loaned.*pid {os.getpid()}"):
        q.loan(1)
    q.put(b"put goes on")
    assert q.get_nowait() == b"put goes on"
    loans.pop().abandon()
    q.loan(1).publish()
    assert len(q.get_nowait()) == 1  # whatever was in the slot
    loans.clear()
    assert counts(q)[:2] == (0, 0)
    shmq.verify(q)


def test_a_loan_keeps_its_dropped_handle_alive(q: shmq.Queue) -> None:
    loan = shmq.Queue.attach(q.name).loan(3)
    gc.collect()
    loan.view[:] = b"abc"
    loan.publish()
    assert q.get_nowait() == b"abc"
    del loan
    gc.collect()
    assert q.stats().ports == 1


def use_inherited(loan: shmq.Loan, answers: shmq.Queue) -> None:
    for use in (loan.publish, loan.__enter__, lambda: loan.view):
        try:
            use()
            answers.put("worked")
        except shmq.LeaseLost:
            answers.put("lost")
    loan.abandon()


def test_a_forked_child_cannot_publish_or_abandon_its_parents_loan(q: shmq.Queue, make: Make, children: Children) -> None:
    answers = make(slots=4, slot_size=64)
    loan = q.loan(3)
    children.start(use_inherited, loan, answers)
    assert [answers.get(timeout=60) for _ in range(3)] == ["lost"] * 3
    children.join()
    assert counts(q) == (0, 1, 0)
    loan.view[:] = b"abc"
    loan.publish()
    assert q.get_nowait() == b"abc"
    shmq.verify(q)


def loan_and_wait(name: str, connection: Any) -> None:
    queue = shmq.Queue.attach(name)
    loans = [queue.loan(3), queue.loan((3,), "u1")]
    loans[0].view[:] = b"abc"
    connection.send(None)
    signal.pause()


def test_what_a_killed_process_was_writing_is_never_seen(q: shmq.Queue, children: Children) -> None:
    ours, theirs = children.context.Pipe()
    child = children.start(loan_and_wait, q.name, theirs)
    assert ours.poll(60)
    assert counts(q)[1] == 2
    os.kill(child.pid, signal.SIGKILL)
    child.join(60)
    with shmq.Queue.attach(q.name):  # whoever attaches reaps
        assert counts(q) == (0, 0, 0)
    assert len([q.loan(1) for _ in range(4)]) == 4
    shmq.verify(q)
