"""The engine alone: compiled by plain ``cc``, with threads as the ports of one segment, bare and under sanitizers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import shmq
from support.engine import engine_sources

pytestmark = pytest.mark.engine

ENGINE = Path(shmq.get_include()).parent
SOURCE = Path(__file__).with_name("engine_test.c")
WATCHDOG = 110

VARIANTS = {
    "plain": ["-O2"],
    # Without -fno-builtin, ThreadSanitizer does not see payloads that are copied by an inlined memcpy.
    "thread": ["-O1", "-fsanitize=thread", "-fno-builtin"],
    "address": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"],
    "musl": ["-O2", "-static"],
}
PLAIN = pytest.param("plain")
UNDER_THREAD, UNDER_ADDRESS = (pytest.param(variant, marks=pytest.mark.sanitizer) for variant in ("thread", "address"))
ALL = [PLAIN, UNDER_THREAD, UNDER_ADDRESS]
WITH_MUSL = pytest.param("musl", marks=pytest.mark.skipif(not shutil.which("musl-gcc"), reason="musl-gcc is not installed"))
PAGE = 4096

SINGLES = [
    "capacities",
    "lagging",
    "far_behind",
    "batches",
    "never_back",
    "generations",
    "failures",
    "orphans",
    "ages",
    "shutting",
    "delivering",
    "detaching",
    "ids",
    "taken_away_asleep",
    "limits",
    "warm",
    "geometries",
    "headers",
    "corruption",
    "owners",
    "lock_file_closed",
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


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """The program in each variant, compiled on first use."""
    folder, done = tmp_path_factory.mktemp("engine"), {}

    def compiled(variant):
        if variant not in done:
            engine = engine_sources(ENGINE)
            flags = ["-std=c11", "-g", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE=", *VARIANTS[variant]]
            compiler = "musl-gcc" if variant == "musl" else "cc"
            command = [compiler, *flags, f"-I{ENGINE}", SOURCE, *engine, "-o", folder / variant, "-lrt", "-lpthread"]
            built = subprocess.run(command, capture_output=True, text=True)
            assert built.returncode == 0, built.stderr
            done[variant] = folder / variant
        return done[variant]

    return compiled


@pytest.fixture
def run(compiled):
    def run(variant, *arguments):
        program = compiled(variant)
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=WATCHDOG)
        assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
        assert done.stderr == ""

    return run


def fewer(variant, count):
    """Sanitizers make everything some ten times as slow, and meet as much in fewer messages."""
    return count if variant in ("plain", "musl") else count // 4


def test_the_engine_needs_neither_python_nor_its_client(compiled):
    symbols = subprocess.run(["nm", "-u", compiled("plain")], capture_output=True, text=True, check=True).stdout
    assert "Py" not in symbols
    assert all("Python.h" not in source.read_text() for source in ENGINE.rglob("*.[ch]"))


@pytest.mark.parametrize("variant", [*ALL, WITH_MUSL])
@pytest.mark.parametrize("single", SINGLES)
def test_of_a_single_thread_passes(run, variant, single):
    run(variant, single)


def test_no_test_of_a_single_thread_is_forgotten():
    table = SOURCE.read_text().partition("singles[] = {")[2].partition("};")[0]
    assert sorted(re.findall(r'\{"(\w+)", \w+\}', table)) == sorted(SINGLES)


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("start", ["fresh", "edge"])
@pytest.mark.parametrize(("mode", "producers", "consumers", "slots", "slot_size", "count"), FLOWS)
def test_threads_lose_nothing_tear_nothing_and_keep_the_order(
    run, variant, start, mode, producers, consumers, slots, slot_size, count
):
    run(variant, "flow", mode, producers, consumers, slots, slot_size, fewer(variant, count), start)


@pytest.mark.parametrize("variant", [*ALL, WITH_MUSL])
@pytest.mark.parametrize(
    ("producers", "consumers", "slots", "count"), [(1, 1, 1, 2000), (2, 2, 2, 2000), (3, 2, 8, 2000), (1, 3, 64, 5000)]
)
def test_threads_that_sleep_are_woken(run, variant, producers, consumers, slots, count):
    run(variant, "park", producers, consumers, slots, fewer(variant, count))


@pytest.mark.parametrize("variant", ALL)
def test_a_lease_that_is_acked_and_nacked_at_once_is_settled_once(run, variant):
    run(variant, "settle", fewer(variant, 10_000))


@pytest.mark.parametrize("variant", [PLAIN, UNDER_ADDRESS])
@pytest.mark.parametrize("seed", range(1, 5))
def test_hostile_words_end_in_an_error_and_never_outside_the_segment(run, variant, seed):
    run(variant, "hostile", seed, 1000)


# Not under ThreadSanitizer: where a segment is scribbled over, two ports may be handed one slot, and that is no fault of theirs.
@pytest.mark.parametrize("variant", [PLAIN, UNDER_ADDRESS])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_segment_that_is_scribbled_over_meanwhile_hangs_nobody(run, variant, seed):
    run(variant, "scribble", seed, 150)
