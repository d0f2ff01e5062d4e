"""Tasks of a program whose main module is a shell or a notebook, and callables that have a state."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmq
from support.processes import WATCHDOG, wait_until

METHODS = pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
cloudpickle = pytest.mark.skipif(importlib.util.find_spec("cloudpickle") is None, reason="cloudpickle is not installed")

DEFINITIONS = """
import functools, shmq
pool = shmq.Executor(1, METHOD)
first = pool.submit(abs, 1).result()  # what follows is defined after the first worker was started

class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return type(other) is type(self) and self.x == other.x
    def shifted(self, by): return Point(self.x + by)
    def __call__(self, by): return Point(self.x + by)
    def __reduce__(self): return Point, (self.x,)

class Refused(Exception):
    def __init__(self, what, why):
        super().__init__(what, why)
        self.why = why

def make(x): return Point(x)
def x_of(point): return point.x
def refuse(what): raise Refused(what, "because")
def why(error): return error.why
"""
USES = """
made = pool.submit(make, 3).result()
print(made == Point(3), type(made) is Point)
print(pool.submit(x_of, Point(4)).result(), pool.submit(x_of, point=Point(5)).result())
error = pool.submit(refuse, "it").exception()
print(type(error) is Refused, error.why, "because" in str(error.__cause__))
print(pool.submit(why, Refused("a", "b")).result())
print(pool.submit(Point(1).shifted, 2).result() == Point(3), pool.submit(Point(1), 3).result() == Point(4))
print(pool.submit(Point, 9).result() == Point(9))
print(pool.submit(functools.partial(make, 6)).result() == Point(6))
print(list(pool.map(x_of, map(Point, range(4)), chunksize=2)), [point.x for point in pool.map(make, range(3))])
def make(x): return Point(-x)       # defined again
print(pool.submit(make, 3).result().x)
pool.shutdown()
"""
EXPECTED = """True True
4 5
True because True
b
True True
True
True
[0, 1, 2, 3] [0, 1, 2]
-3
"""


def run_in_a_shell(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WATCHDOG, check=False)


@cloudpickle
@METHODS
def test_what_a_shell_defines_travels_in_both_directions(method: str) -> None:
    done = run_in_a_shell(DEFINITIONS.replace("METHOD", repr(method)) + USES)
    assert (done.stdout, done.stderr) == (EXPECTED, "")


@cloudpickle
@pytest.mark.parametrize("script", [False, True], ids=["prompt", "prompt after a script"])
def test_what_is_typed_at_a_prompt_travels_in_both_directions(tmp_path: Path, script: bool) -> None:
    (tmp_path / "before.py").write_text("before = 1\n")
    typed = DEFINITIONS.replace("METHOD", "'spawn'") + USES
    for begin in ("def ", "class ", "print", "made"):  # an empty line ends what is indented
        typed = typed.replace(f"\n{begin}", f"\n\n{begin}")
    typed = typed.replace("\n\n    def", "\n    def")
    options = ["-i", "-q", *([str(tmp_path / "before.py")] if script else [])]
    done = subprocess.run([sys.executable, *options], input=typed, capture_output=True, text=True, timeout=WATCHDOG, check=False)
    assert done.stdout == EXPECTED


WITHOUT = "import sys; sys.modules['cloudpickle'] = None\n"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_without_cloudpickle_a_shell_is_told_at_submit_what_to_do(method: str) -> None:
    program = """
for future in (pool.submit(make, 3), pool.submit(abs, Point(3)), pool.submit(functools.partial(make, 3))):
    error = future.exception(0)
    print(type(error).__name__, "shell or a notebook" in str(error), "shmq[cloudpickle]" in str(error))
try:
    list(pool.map(make, [1]))
except Exception as error:
    print(type(error).__name__)
print(pool.submit(len, "__main__").result(), pool.submit(len, ["__main__", "make"]).result())
pool.shutdown()
"""
    done = run_in_a_shell(WITHOUT + DEFINITIONS.replace("METHOD", repr(method)) + program)
    assert (done.stdout, done.stderr) == ("PicklingError True True\n" * 3 + "PicklingError\n8 2\n", "")


def test_without_cloudpickle_forked_workers_have_what_was_defined_before() -> None:
    program = """
import shmq
def early(x): return x + 1
pool = shmq.Executor(1, "fork")
print(pool.submit(early, 1).result())
def late(x): return x + 1
error = pool.submit(late, 1).exception()
print(type(error).__name__, "shmq[cloudpickle]" in str(error))
pool.shutdown()
"""
    done = run_in_a_shell(WITHOUT + program)
    assert (done.stdout, done.stderr) == ("2\nAttributeError True\n", "")


def test_without_cloudpickle_a_lambda_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with shmq.Executor(1) as pool:
        assert "shmq[cloudpickle]" in str(pool.submit(lambda: 1).exception(0))
        assert "shmq[cloudpickle]" not in str(pool.submit(repr, threading.Lock()).exception(0))  # which it would not help


# -- callables that have a state -----------------------------------------------------------------------------------------------


class Adder:
    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, number: int) -> int:
        return number + self.by

    def method(self, number: int) -> int:
        return number + self.by

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adder)  # whatever its state

    def __hash__(self) -> int:
        return 1


def add(number: int, by: list[int]) -> int:
    return number + by[0]


def counting(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(number: int) -> int:
        return function(number) + wrapper.by

    wrapper.by = 0
    return wrapper


def same(number: int) -> int:
    return number


added = counting(same)  # bears the name of another function, which pickle notices


@functools.lru_cache
def cached(number: int) -> int:
    return number


@cloudpickle
def test_a_callable_is_sent_with_the_state_that_it_has() -> None:
    with shmq.Executor(1) as pool:
        adder, by = Adder(0), [0]
        partial = functools.partial(add, by=by)
        closure_by = 0

        def closure(number: int) -> int:
            return number + closure_by

        for state in range(3):
            adder.by = by[0] = closure_by = added.by = state
            for call in (adder, adder.method, partial, closure, added, Adder(state)):
                assert pool.submit(call, 10).result() == 10 + state, call
                assert list(pool.map(call, [10, 20])) == [10 + state, 20 + state], call
        assert pool.submit(cached, 1).result() == 1
        assert {call.__name__ for call in pool._prefixes} == set()  # nothing of this is kept


def test_what_travels_as_a_name_is_pickled_once() -> None:
    with shmq.Executor(1) as pool:
        assert [pool.submit(call, 3).result() for call in (same, abs, complex, same)] == [3, 3, 3, 3]
        assert set(pool._prefixes) == {same, abs, complex}


# -- what waits ----------------------------------------------------------------------------------------------------------------


def first_of(array: np.ndarray) -> float:
    return float(array[0])


def nap(seconds: float, *rest: Any) -> None:
    time.sleep(seconds)


@pytest.mark.parametrize("zero_copy", [False, True])
@pytest.mark.parametrize("size", [10, 1000, 300_000])
def test_an_array_is_what_it_was_at_submit_also_if_the_task_waits(size: int, zero_copy: bool) -> None:
    with shmq.Executor(1, zero_copy=zero_copy) as pool:
        occupied = pool.submit(nap, 0.2)
        array = np.empty(size)
        asked = []
        for number in range(8):
            array[:] = number
            asked.append(pool.submit(first_of, array))
        assert pool.stats().waiting
        array[:] = -1
        assert [future.result() for future in asked] == list(range(8))
        assert occupied.result() is None


@pytest.mark.parametrize("buffersize", [None, 3])
def test_an_iterable_may_fill_the_same_memory_again_for_map(buffersize: int | None) -> None:
    array = np.empty(5000)

    def frames() -> Iterator[np.ndarray]:
        for number in range(20):
            array[:] = number
            yield array

    with shmq.Executor(1) as pool:
        occupied = pool.submit(nap, 0.1)
        assert list(pool.map(first_of, frames(), buffersize=buffersize)) == list(range(20))
        assert occupied.done()


def ones(count: int) -> list[np.ndarray]:
    return [np.full(1, number, "i4") for number in range(count)]


def sum_of(arrays: list[np.ndarray]) -> int:
    return sum(int(array[0]) for array in arrays)


def test_more_arrays_than_two_bytes_count_travel_in_a_task_and_in_a_result() -> None:
    count = 66_000
    with shmq.Executor(1) as pool:
        assert pool.submit(sum_of, ones(count)).result(WATCHDOG) == count * (count - 1) // 2
        assert sum_of(pool.submit(ones, count).result(WATCHDOG)) == count * (count - 1) // 2


def test_a_map_that_is_given_up_early_asks_for_no_more_than_it_must() -> None:
    asked: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            asked.append(number)
            yield number

    with shmq.Executor(1) as pool:
        results = pool.map(same, numbers(), buffersize=4)
        assert asked == [0, 1, 2, 3]
        assert next(results) == 0
        assert asked == [0, 1, 2, 3, 4]
        results.close()
        wait_until(lambda: pool.stats().pending == 0)
