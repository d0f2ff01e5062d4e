"""What every face of a queue does: one list of behaviours, run against each of them.

A face is whatever can be asked to put, get and the rest with `queue.Queue`'s names and time-outs. A behaviour takes a
function that makes one of a given capacity, and does what a user would.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

MakeFace = Callable[[int], Any]
Behaviour = Callable[[MakeFace], None]
LONG = 60.0  # seconds: a call that lasts so long has failed

behaviours: list[Behaviour] = []


def behaviour(check: Behaviour) -> Behaviour:
    """Add a check to the list."""
    behaviours.append(check)
    return check


def raises(error: type[BaseException], call: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """The call raises this very kind of error, as an `except` clause of the standard library's user sees it."""
    try:
        call(*arguments, **named)
    except error:
        return
    raise AssertionError(f"{call} did not raise {error.__name__}")


def in_thread(call: Callable[..., Any], *arguments: Any, **named: Any) -> Callable[[], Any]:
    """Run it in another thread; the result of what this returns is the call's."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call(*arguments, **named)), daemon=True)
    thread.start()

    def end() -> Any:
        thread.join(LONG)
        assert not thread.is_alive(), "still waiting"
        return results[0]

    return end


@behaviour
def first_in_is_first_out(make: MakeFace) -> None:
    face = make(10)
    for number in range(10):
        face.put(number)
    assert [face.get() for _ in range(10)] == list(range(10))


@behaviour
def order_is_kept_over_many_laps(make: MakeFace) -> None:
    face = make(3)
    expected = 0
    for number in range(100):
        face.put(number)
        if face.full():
            for _ in range(1 + number % 3):
                assert face.get() == expected
                expected += 1


@behaviour
def a_message_is_visible_as_soon_as_put_returns(make: MakeFace) -> None:
    face = make(5)
    for number in range(5):
        assert (face.qsize(), face.empty(), face.full()) == (number, number == 0, False)
        face.put(number)
    assert (face.qsize(), face.empty(), face.full()) == (5, False, True)


@behaviour
def a_message_is_gone_as_soon_as_get_returns(make: MakeFace) -> None:
    face = make(5)
    for number in range(5):
        face.put(number)
    for left in (4, 3, 2, 1, 0):
        face.get()
        assert (face.qsize(), face.empty(), face.full()) == (left, left == 0, False)


@behaviour
def a_full_queue_raises_full_and_keeps_what_it_has(make: MakeFace) -> None:
    face = make(2)
    face.put("a")
    face.put_nowait("b")
    raises(queue.Full, face.put_nowait, "c")
    raises(queue.Full, face.put, "c", False)
    raises(queue.Full, face.put, "c", block=False)
    raises(queue.Full, face.put, "c", True, 0.01)
    raises(queue.Full, face.put, "c", timeout=0.01)
    assert [face.get(), face.get()] == ["a", "b"]


@behaviour
def an_empty_queue_raises_empty(make: MakeFace) -> None:
    face = make(2)
    raises(queue.Empty, face.get_nowait)
    raises(queue.Empty, face.get, False)
    raises(queue.Empty, face.get, block=False)
    raises(queue.Empty, face.get, True, 0.01)
    raises(queue.Empty, face.get, timeout=0.01)
    face.put("still works")
    assert face.get_nowait() == "still works"


@behaviour
def a_time_out_lasts_as_long_as_was_said(make: MakeFace) -> None:
    face = make(1)
    for call in (lambda: face.get(timeout=0.1), lambda: face.put("second", timeout=0.1)):
        began = time.monotonic()
        raises(queue.Empty if face.empty() else queue.Full, call)
        assert 0.1 <= time.monotonic() - began < LONG / 2
        if face.empty():
            face.put("first")


@behaviour
def not_blocking_ignores_the_time_out(make: MakeFace) -> None:
    face = make(1)
    raises(queue.Empty, face.get, False, LONG)
    face.put("x")
    raises(queue.Full, face.put, "y", False, LONG)


@behaviour
def get_waits_for_put(make: MakeFace) -> None:
    face = make(2)
    result = in_thread(face.get, timeout=LONG)
    face.put("late")
    assert result() == "late"


@behaviour
def put_waits_for_get(make: MakeFace) -> None:
    face = make(1)
    face.put("first")
    done = in_thread(face.put, "second", timeout=LONG)
    assert face.get(timeout=LONG) == "first"
    done()
    assert face.get(timeout=LONG) == "second"


@behaviour
def a_queue_of_one_takes_turns(make: MakeFace) -> None:
    face = make(1)
    done = in_thread(lambda: [face.put(number, timeout=LONG) for number in range(100)])
    assert [face.get(timeout=LONG) for _ in range(100)] == list(range(100))
    done()


@behaviour
def falsy_objects_are_messages_like_others(make: MakeFace) -> None:
    face = make(8)
    things = [None, False, 0, "", b"", (), [], {}]
    for thing in things:
        face.put(thing)
    got = [face.get() for _ in things]
    assert got == things and [type(thing) for thing in got] == [type(thing) for thing in things]


@behaviour
def what_was_put_is_a_copy(make: MakeFace) -> None:
    face = make(2)
    thing = ["as it was"]
    face.put(thing)
    thing.append("changed")
    assert face.get() == ["as it was"]


@behaviour
def an_object_that_cannot_travel_raises_in_put_and_stops_nobody(make: MakeFace) -> None:
    face = make(2)
    raises(Exception, face.put, lambda: None)
    assert face.empty()
    face.put("next")
    assert face.get() == "next"


@behaviour
def each_message_goes_to_one_of_many_consumers(make: MakeFace) -> None:
    face = make(7)
    consumers = [in_thread(lambda: list(iter(lambda: face.get(timeout=LONG), None))) for _ in range(3)]
    producers = [in_thread(lambda base=base: [face.put(base + n, timeout=LONG) for n in range(200)]) for base in (0, 1000)]
    for end in producers:
        end()
    for _ in consumers:
        face.put(None, timeout=LONG)
    taken = [end() for end in consumers]
    assert sorted(sum(taken, [])) == [base + n for base in (0, 1000) for n in range(200)]
    for mine in taken:  # each producer's messages in its order
        assert [n for n in mine if n < 1000] == sorted(n for n in mine if n < 1000)
        assert [n for n in mine if n >= 1000] == sorted(n for n in mine if n >= 1000)


@behaviour
def the_capacity_is_what_was_asked_for(make: MakeFace) -> None:
    for capacity in (1, 2, 3, 8, 100):
        face = make(capacity)
        assert face.maxsize == capacity
        for number in range(capacity):
            face.put_nowait(number)
        raises(queue.Full, face.put_nowait, "one too many")
