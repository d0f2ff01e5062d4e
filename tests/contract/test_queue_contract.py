"""What every face of a queue does, run against each face: a list of behaviours, each a function of a factory.

The standard library's own queues stand in the list of faces to show that the behaviours are theirs.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import shmq
import shmq.mp
from support.processes import Children, wait_until

Factory = Callable[[int], Any]  # maxsize -> a queue
Make = Callable[..., shmq.Queue]
Behaviour = Callable[[Factory], None]
LONG = 60.0  # seconds: longer than anything here takes
BEHAVIOURS: list[Behaviour] = []


def behaviour(function: Behaviour) -> Behaviour:
    """Add to the list."""
    BEHAVIOURS.append(function)
    return function


def filled(factory: Factory, count: int) -> Any:
    q = factory(count)
    for number in range(count):
        q.put(number)
    return q


def rest(q: Any) -> list[Any]:
    return [q.get_nowait() for _ in range(q.qsize())]


class Calls:
    """The same call in several threads, under a watchdog."""

    def __init__(self, *calls: Callable[[], object]) -> None:
        self.threads = [threading.Thread(target=call, daemon=True) for call in calls]
        for thread in self.threads:
            thread.start()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(LONG)
            assert not thread.is_alive(), "still waiting"


# -- order and counts --------------------------------------------------------------------------------------------------


@behaviour
def messages_come_out_in_the_order_in_which_they_went_in(factory: Factory) -> None:
    assert rest(filled(factory, 7)) == list(range(7))


@behaviour
def order_holds_over_many_laps(factory: Factory) -> None:
    q = factory(3)
    q.put(0)
    for number in range(1, 50):
        q.put(number)
        assert q.get() == number - 1


@behaviour
def the_counts_are_exact_at_each_step(factory: Factory) -> None:
    q = factory(4)
    steps = [*range(4), *range(4, 0, -1)]
    for step, count in enumerate(steps):
        assert (q.qsize(), q.empty(), q.full()) == (count, count == 0, count == 4)
        q.put(step) if step < 4 else q.get()
    assert (q.qsize(), q.empty(), q.full()) == (0, True, False)


@behaviour
def maxsize_is_what_was_asked_for(factory: Factory) -> None:
    for size in (1, 2, 5):
        assert factory(size).maxsize == size


@behaviour
def a_queue_of_one_is_full_and_empty_by_turns(factory: Factory) -> None:
    q = factory(1)
    for number in range(5):
        q.put(number)
        assert q.full()
        assert q.get() == number
        assert q.empty()


# -- no room, nothing there --------------------------------------------------------------------------------------------


@behaviour
def a_full_queue_raises_full_and_keeps_what_it_has(factory: Factory) -> None:
    q = filled(factory, 2)
    for put in (q.put_nowait, lambda new: q.put(new, False), lambda new: q.put(new, block=False)):
        with pytest.raises(queue.Full):
            put("new")
    assert rest(q) == [0, 1]


@behaviour
def an_empty_queue_raises_empty_and_still_works(factory: Factory) -> None:
    q = factory(2)
    for get in (q.get_nowait, lambda: q.get(False), lambda: q.get(block=False)):
        with pytest.raises(queue.Empty):
            get()
    q.put("x")
    assert q.get() == "x"


@behaviour
def put_gives_up_when_its_time_has_passed(factory: Factory) -> None:
    q = filled(factory, 2)
    for put in (
        lambda: q.put("new", True, 0.02),
        lambda: q.put("new", block=True, timeout=0.02),
        lambda: q.put("new", timeout=0.02),
    ):
        began = time.monotonic()
        with pytest.raises(queue.Full):
            put()
        assert time.monotonic() - began >= 0.02
    assert rest(q) == [0, 1]


@behaviour
def get_gives_up_when_its_time_has_passed(factory: Factory) -> None:
    q = factory(2)
    for get in (lambda: q.get(True, 0.02), lambda: q.get(block=True, timeout=0.02), lambda: q.get(timeout=0.02)):
        began = time.monotonic()
        with pytest.raises(queue.Empty):
            get()
        assert time.monotonic() - began >= 0.02


@behaviour
def a_time_out_means_nothing_where_nobody_waits(factory: Factory) -> None:
    q = factory(1)
    with pytest.raises(queue.Empty):
        q.get(False, LONG)
    q.put("x", False, LONG)
    with pytest.raises(queue.Full):
        q.put("new", False, LONG)
    assert q.get(True, LONG) == "x"


@behaviour
def a_time_out_of_zero_tries_once(factory: Factory) -> None:
    q = factory(1)
    with pytest.raises(queue.Empty):
        q.get(timeout=0)
    q.put("x", timeout=0)
    with pytest.raises(queue.Full):
        q.put("new", timeout=0)
    assert q.get(timeout=0) == "x"


@behaviour
def put_and_its_kin_return_nothing(factory: Factory) -> None:
    q = factory(3)
    assert q.put("a") is None
    assert q.put("b", True, 1.0) is None
    assert q.put_nowait("c") is None


# -- what travels ------------------------------------------------------------------------------------------------------


@behaviour
def what_is_false_travels_like_anything_else(factory: Factory) -> None:
    q = factory(9)
    false: list[Any] = [None, False, 0, 0.0, "", b"", [], (), {}]
    for message in false:
        q.put(message)
    got = rest(q)
    assert got == false
    assert [type(message) for message in got] == [type(message) for message in false]


@behaviour
def objects_of_many_types_come_out_equal(factory: Factory) -> None:
    messages: list[Any] = ["ä€😀", b"\0\xff", bytearray(b"x"), -1, 2**70, 1.5, 2j, {"a": [1, (2,)]}, {1, 2}, range(3), ...]
    q = factory(len(messages))
    for message in messages:
        q.put(message)
    got = rest(q)
    assert got == messages
    assert [type(message) for message in got] == [type(message) for message in messages]


# -- waiting -----------------------------------------------------------------------------------------------------------


@behaviour
def get_waits_for_a_later_put(factory: Factory) -> None:
    q = factory(2)
    got: list[Any] = []
    calls = Calls(lambda: got.append(q.get()))
    q.put("late")
    calls.join()
    assert got == ["late"]


@behaviour
def put_waits_for_a_later_get(factory: Factory) -> None:
    q = filled(factory, 2)
    calls = Calls(lambda: q.put(2))
    assert q.get() == 0
    calls.join()
    assert rest(q) == [1, 2]


@behaviour
def every_message_goes_to_exactly_one_consumer(factory: Factory) -> None:
    q = factory(3)
    got: list[list[int]] = [[], [], []]

    def consume(mine: list[int]) -> None:
        while (number := q.get(timeout=LONG)) is not None:
            mine.append(number)

    consumers = Calls(*(lambda mine=mine: consume(mine) for mine in got))
    producers = Calls(*(lambda first=first: [q.put(n, timeout=LONG) for n in range(first, first + 50)] for first in (0, 50, 100)))
    producers.join()
    for _ in got:
        q.put(None, timeout=LONG)
    consumers.join()
    assert sorted(got[0] + got[1] + got[2]) == list(range(150))
    for mine in got:
        for first in (0, 50, 100):
            of_one = [number for number in mine if first <= number < first + 50]
            assert of_one == sorted(of_one)


class Awaited:
    """A queue whose calls are awaited, each on a loop of its own, in whatever thread it is made."""

    def __init__(self, q: shmq.Queue) -> None:
        self.q = q

    def put(self, obj: object, block: bool = True, timeout: float | None = None) -> None:
        asyncio.run(self.q.aput(obj, timeout if block else 0))

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return asyncio.run(self.q.aget(timeout if block else 0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.q, name)


FACES = [
    "shmq.Queue",
    "shmq.Queue of large slots",
    "shmq.Queue, awaited",
    "shmq.mp.Queue",
    "shmq.mp.JoinableQueue",
    "queue.Queue",
]


@pytest.fixture
def factories(make: Make) -> dict[str, Factory]:
    return {
        "shmq.Queue": lambda maxsize: make(slots=maxsize, slot_size=256),
        "shmq.Queue of large slots": lambda maxsize: make(slots=maxsize, slot_size=4096),
        "shmq.Queue, awaited": lambda maxsize: Awaited(make(slots=maxsize, slot_size=256)),
        "shmq.mp.Queue": shmq.mp.Queue,
        "shmq.mp.JoinableQueue": shmq.mp.JoinableQueue,
        "queue.Queue": lambda maxsize: queue.Queue(maxsize),
    }


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("behave", BEHAVIOURS, ids=lambda function: function.__name__)
def test_each_face_behaves(factories: dict[str, Factory], face: str, behave: Behaviour) -> None:
    behave(factories[face])


# -- in place of multiprocessing.Queue ---------------------------------------------------------------------------------


def square(tasks: Any, results: Any) -> None:
    """A worker as in the standard library's documentation."""
    for number in iter(tasks.get, None):
        results.put((number, number * number))


def produce(tasks: Any, first: int, count: int) -> None:
    for number in range(first, first + count):
        tasks.put(number)


def run_program(make_queue: Factory, children: Children) -> None:
    """Two producers, three workers, one collector; more work than either queue holds."""
    tasks, results = make_queue(4), make_queue(4)
    workers = [children.start(square, tasks, results) for _ in range(3)]
    for first in (0, 100):
        children.start(produce, tasks, first, 100)
    got = dict(results.get(True, LONG) for _ in range(200))
    for _ in workers:
        tasks.put(None)
    children.join()
    assert got == {number: number * number for number in range(200)}
    wait_until(lambda: tasks.empty() and results.empty())


def test_a_program_of_producers_and_workers_runs_on_multiprocessings_queue(children: Children) -> None:
    run_program(multiprocessing.get_context("fork").Queue, children)


def test_the_same_program_runs_on_shmq(make: Make, any_children: Children) -> None:
    run_program(lambda maxsize: make(slots=maxsize, slot_size=256), any_children)


def test_the_same_program_runs_on_anonymous_queues(children: Children) -> None:
    made: list[shmq.Queue] = []

    def anonymous(maxsize: int) -> shmq.Queue:
        made.append(shmq.Queue(slots=maxsize, slot_size=256))
        return made[-1]

    run_program(anonymous, children)
    for q in made:
        q.close()


@pytest.mark.parametrize("face", [shmq.mp.Queue, shmq.mp.JoinableQueue])
def test_the_same_program_runs_on_the_drop_in(face: Factory, any_children: Children) -> None:
    run_program(face, any_children)


def test_shmqs_errors_are_those_of_the_standard_library() -> None:
    assert issubclass(shmq.Empty, queue.Empty)
    assert issubclass(shmq.Full, queue.Full)


def test_what_is_changed_after_put_is_not_changed_in_the_queue(make: Make) -> None:
    q = make(slots=2, slot_size=256)
    message, raw = [1], bytearray(b"abc")
    q.put(message)
    q.put(raw)
    message.append(2)
    raw[0] = 0
    assert [q.get(), q.get()] == [[1], bytearray(b"abc")]
