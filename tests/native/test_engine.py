"""The engine alone: compiled by plain ``cc``, with threads as the ports of one segment, bare and under sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from support.native import ADDRESS, ENGINE, THREAD, Builder, run_native, titles

pytestmark = pytest.mark.engine

HERE = Path(__file__).parent
FLOW = HERE / "flow.c"
WATCHDOG = 110.0

VARIANTS = {"plain": ("-O2",), "thread": ("-O1", *THREAD), "address": ("-O1", *ADDRESS), "musl": ("-O2", "-static")}
PLAIN = pytest.param("plain")
UNDER_THREAD, UNDER_ADDRESS = (pytest.param(variant, marks=pytest.mark.sanitizer) for variant in ("thread", "address"))
ALL = [PLAIN, UNDER_THREAD, UNDER_ADDRESS]
WITH_MUSL = pytest.param("musl", marks=pytest.mark.skipif(not shutil.which("musl-gcc"), reason="musl-gcc is not installed"))
PAGE = 4096

SINGLES = [
    pytest.param(HERE / f"{noun}_test.c", title, id=title)
    for noun in ("ring", "lease", "delivery", "port", "header")
    for title in titles(HERE / f"{noun}_test.c")
]
FLOWS = [
    # mode, producers, consumers, slots, slot_size, messages of each producer
    ("single", 1, 1, 1, 64, 20_000),
    ("single", 1, 1, 64, 64, 50_000),
    ("single", 2, 2, 1, 64, 10_000),
    ("single", 3, 2, 2, 100, 10_000),
    ("single", 2, 3, 3, 64, 10_000),
    ("single", 2, 2, 64, 64, 20_000),
    ("single", 1, 1, 1, PAGE, 3_000),
    ("single", 2, 2, 3, PAGE, 3_000),
    ("batch", 1, 1, 1, 64, 20_000),
    ("batch", 1, 1, 64, 64, 50_000),
    ("batch", 2, 2, 3, 64, 20_000),
    ("batch", 3, 3, 64, 64, 10_000),
    ("batch", 2, 2, 2, PAGE, 3_000),
    ("lease", 1, 1, 1, 64, 10_000),
    ("lease", 2, 2, 3, 64, 10_000),
    ("lease", 1, 3, 64, 64, 10_000),
    ("lease", 2, 2, 2, 2 * PAGE, 2_000),
    ("timed", 1, 2, 1, 64, 5_000),
    ("timed", 2, 3, 4, 64, 5_000),
    ("timed", 1, 3, 64, 64, 10_000),
    ("timed", 2, 2, 3, PAGE, 2_000),
    ("churn", 2, 2, 2, 64, 10_000),
    ("churn", 1, 3, 64, 64, 10_000),
    ("churn", 2, 2, 3, PAGE, 3_000),
]


def compiled(build: Builder, source: Path, variant: str) -> Path:
    return build.program(source, *VARIANTS[variant], compiler="musl-gcc" if variant == "musl" else "cc")


def run(build: Builder, source: Path, variant: str, *arguments: object) -> None:
    run_native(compiled(build, source, variant), *arguments, seconds=WATCHDOG)


def fewer(variant: str, count: int) -> int:
    """Sanitizers make everything some ten times as slow, and meet as much in fewer messages."""
    return count if variant in ("plain", "musl") else count // 4


def test_the_engine_needs_neither_python_nor_its_client(build: Builder) -> None:
    program = compiled(build, FLOW, "plain")
    symbols = subprocess.run(["nm", "-u", program], capture_output=True, text=True, check=True).stdout
    assert "Py" not in symbols
    assert all("Python.h" not in source.read_text() for source in ENGINE.rglob("*.[ch]"))


@pytest.mark.parametrize("variant", [*ALL, WITH_MUSL])
@pytest.mark.parametrize(("source", "title"), SINGLES)
def test_of_a_single_thread_passes(build: Builder, variant: str, source: Path, title: str) -> None:
    run(build, source, variant, title)


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("start", ["fresh", "edge"])
@pytest.mark.parametrize(("mode", "producers", "consumers", "slots", "slot_size", "count"), FLOWS)
def test_threads_lose_nothing_tear_nothing_and_keep_the_order(
    build: Builder, variant: str, start: str, mode: str, producers: int, consumers: int, slots: int, slot_size: int, count: int
) -> None:
    run(build, FLOW, variant, mode, producers, consumers, slots, slot_size, fewer(variant, count), start)


@pytest.mark.parametrize("variant", [*ALL, WITH_MUSL])
@pytest.mark.parametrize(
    ("producers", "consumers", "slots", "count"), [(1, 1, 1, 2000), (2, 2, 2, 2000), (3, 2, 8, 2000), (1, 3, 64, 5000)]
)
def test_threads_that_sleep_are_woken(
    build: Builder, variant: str, producers: int, consumers: int, slots: int, count: int
) -> None:
    run(build, FLOW, variant, "park", producers, consumers, slots, fewer(variant, count))


@pytest.mark.parametrize("variant", ALL)
def test_a_lease_that_is_acked_and_nacked_at_once_is_settled_once(build: Builder, variant: str) -> None:
    run(build, FLOW, variant, "settle", fewer(variant, 10_000))
