"""Worker pools with two workers: tasks that do nothing, and tasks that are given an array and return one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from time import perf_counter_ns
from typing import Any

import numpy as np
from cases import SHMQ_ONLY, Case
from harness import Failed, Line, Span, Work, elapsed, run_roles
from peers.base import Peer

WORKERS = 2
WARM = 200
KIB = 1 << 10
ARRAY = 256 * KIB

Values = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
Opened = Callable[[], AbstractContextManager[Values]]


# -- pools: each hands out its map, with one task per item -----------------------------------------------------------------------


@contextmanager
def _shmq(**named: Any) -> Iterator[Values]:
    import shmq

    with shmq.Executor(WORKERS, "fork", **named) as pool:
        yield pool.map


@contextmanager
def _process_pool_executor() -> Iterator[Values]:
    with ProcessPoolExecutor(WORKERS, get_context("fork")) as pool:
        yield pool.map


@contextmanager
def _multiprocessing_pool() -> Iterator[Values]:
    with get_context("fork").Pool(WORKERS) as pool:
        yield partial(pool.imap_unordered, chunksize=1)


@contextmanager
def _loky() -> Iterator[Values]:
    from joblib.externals.loky import ProcessPoolExecutor as Pool

    with Pool(WORKERS) as pool:
        yield pool.map


@contextmanager
def _mpire() -> Iterator[Values]:
    from mpire import WorkerPool

    def values(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        wrapped = [(item,) for item in items]  # an array would be taken for a list of tasks
        return pool.imap_unordered(function, wrapped, iterable_len=len(wrapped), chunk_size=1)  # type: ignore[no-any-return]

    with WorkerPool(WORKERS, start_method="fork", keep_alive=True) as pool:
        yield values


@contextmanager
def _submitting(opened: Callable[[], Executor]) -> Iterator[Values]:
    def values(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        futures = [pool.submit(function, item) for item in items]
        wait(futures)
        return [future.result() for future in futures]

    with opened() as pool:
        yield values


def _shmq_executor() -> Executor:
    import shmq

    return shmq.Executor(WORKERS, "fork")


# -- work --------------------------------------------------------------------------------------------------------------------


def _nothing(number: int) -> int:
    return number


def _one_more(array: np.ndarray) -> np.ndarray:
    return array + 1


def _numbers(count: int) -> Iterator[int]:
    return iter(range(count))


def _arrays(count: int) -> Iterator[np.ndarray]:
    array = np.zeros(ARRAY // 8)
    return (array for _ in range(count))


def _sum_of_numbers(values: Iterable[int], count: int) -> int:
    total = sum(values)
    if total != count * (count - 1) // 2:
        raise Failed(f"content: {count:,} tasks returned a total of {total:,}")
    return total


def _sum_of_arrays(values: Iterable[np.ndarray], count: int) -> int:
    total = 0
    for array in values:
        total += int(array[0] + array[-1])
    if total != 2 * count:
        raise Failed(f"content: {count:,} arrays have ends of {total:,} together")
    return total


def _role(
    opened: Opened,
    function: Callable[[Any], Any],
    items: Callable[[int], Iterator[Any]],
    verify: Callable[[Any, int], int],
    count: int,
    line: Line,
) -> Span:
    with opened() as values:
        verify(values(function, items(WARM)), WARM)
        began = perf_counter_ns()
        total = verify(values(function, items(count)), count)
        return Span(began, perf_counter_ns(), total)


def _nothing_in(opened: Opened, work: Work) -> float:
    spans = run_roles([partial(_role, opened, _nothing, _numbers, _sum_of_numbers, work.count)], work.timeout, parent=True)
    return elapsed(spans) / work.count


def _arrays_through(opened: Opened, work: Work) -> float:
    spans = run_roles([partial(_role, opened, _one_more, _arrays, _sum_of_arrays, work.count)], work.timeout, parent=True)
    return elapsed(spans) / work.count


def _of(measure: Callable[[Opened, Work], float], opened: Opened) -> Callable[[Peer, Work], float]:
    return lambda peer, work: measure(opened, work)


_MAPS: dict[str, Opened] = {"ProcessPoolExecutor": _process_pool_executor, "multiprocessing.Pool": _multiprocessing_pool}
_SUBMITS: dict[str, Callable[[], Executor]] = {"ProcessPoolExecutor": partial(ProcessPoolExecutor, WORKERS, get_context("fork"))}
if find_spec("joblib"):
    _MAPS["joblib/loky"] = _loky
if find_spec("mpire"):
    _MAPS["mpire"] = _mpire

_case = partial(Case, "tasks", only=SHMQ_ONLY, pilot=2_000)

CASES = [
    _case(
        "no-op, map",
        _of(_nothing_in, _shmq),
        baselines={name: partial(_nothing_in, opened) for name, opened in _MAPS.items()},
    ),
    _case(
        "no-op, submit + wait",
        _of(_nothing_in, partial(_submitting, _shmq_executor)),
        baselines={name: partial(_nothing_in, partial(_submitting, opened)) for name, opened in _SUBMITS.items()},
        most=50_000,
    ),
    _case(
        "256 KiB array in and out",
        _of(_arrays_through, _shmq),
        baselines={name: partial(_arrays_through, opened) for name, opened in _MAPS.items()},
        pilot=200,
    ),
    _case("256 KiB array in and out, zero-copy", _of(_arrays_through, partial(_shmq, zero_copy=True)), pilot=200),
]
