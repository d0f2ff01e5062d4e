"""What each call costs as a queue grows, in steps: accesses to shared memory, and questions to the kernel. See steps.c.

The table of ARCHITECTURE.md, "What grows with what", is this one in words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from support.native import ACCESSES, Builder, run_native

pytestmark = pytest.mark.engine

SOURCE = Path(__file__).with_name("steps.c")
LOOK, SLICE = 80, 250  # milliseconds: SHMQ_SLICE_MS and SHMQ_SLICE_MOST_MS of wait.h

HANDLES, CELLS = "handles that are attached", "in-flight cells"
GROWTH: dict[str, set[str]] = {
    "put": set(),
    "get": set(),
    "receive": set(),
    "ack": set(),
    "nack": set(),
    "task_done": set(),
    "qsize": set(),
    "poll": set(),
    "wake": set(),
    "ack_during_a_join": set(),
    "second_ack_after_a_join": set(),
    "first_ack_after_a_join": {HANDLES},
    "wake_for_bells": {HANDLES},
    "attach": {HANDLES},
    "look": {HANDLES},
    "adopt": {CELLS},
    "detach": {CELLS},
    "join": {HANDLES, CELLS},
    "reap": {HANDLES, CELLS},
}
SMALLEST = (3, 16, 2)  # ports, in_flight, handles
LARGER = [
    (64, 16, 2),
    (512, 16, 2),
    (64, 1000, 2),
    (512, 15_800, 2),
    (64, 16, 60),
    (512, 16, 64),
    (512, 16, 510),
    (512, 15_800, 510),
]
STEPS_EACH = 6  # at most, for each handle and for each cell


@pytest.fixture(scope="session")
def steps(build: Builder) -> Callable[..., list[int]]:
    program = build.program(SOURCE, "-O1", *ACCESSES, link=("-Wl,--wrap=fcntl", "-Wl,--wrap=sem_clockwait"))
    return lambda *arguments: [int(number) for number in run_native(program, *arguments).split()]


def test_no_call_is_forgotten() -> None:
    table = SOURCE.read_text().partition("calls[] = {")[2].partition("};")[0]
    assert sorted(re.findall(r'\{"(\w+)",', table)) == sorted(GROWTH)


@pytest.mark.parametrize("call", GROWTH)
def test_a_call_takes_more_steps_for_what_the_table_names_and_nothing_else(steps: Callable[..., list[int]], call: str) -> None:
    least, _ = steps(call, *SMALLEST)
    for ports, in_flight, handles in LARGER:
        found, _ = steps(call, ports, in_flight, handles)
        more_handles, more_cells = handles - SMALLEST[2], ports + in_flight - SMALLEST[0] - SMALLEST[1]
        grows = STEPS_EACH * ((HANDLES in GROWTH[call]) * more_handles + (CELLS in GROWTH[call]) * more_cells)
        assert least <= found <= least + grows, f"{ports} ports, {in_flight} in flight, {handles} handles"
        if not grows:
            assert found == least


@pytest.mark.parametrize("sleepers", [2, 16, 64])
def test_waiters_together_ask_the_kernel_once_about_each_of_them_in_a_slice(
    steps: Callable[..., list[int]], sleepers: int
) -> None:
    questions, naps, milliseconds = steps("idle", sleepers, 1000)
    looks = milliseconds / LOOK + 2
    assert 0 < questions <= looks * sleepers
    assert naps <= sleepers * (milliseconds / SLICE + 2) + 4 * looks  # the watch and its deputy look more often
