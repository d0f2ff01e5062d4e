"""Several deaths, and life that goes on between them and the reaping: the ring has moved on, slots are in other hands.

test_crash_points.py kills in every state that a process can be in. Here several die, and the reaper, and the reaper's
reaper; and processes of all roles die at random under the eyes of the living. many_deaths.c plays the roles and says what a
survivor finds; what it must find stands here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.native import CRASH_POINTS, POINTS, Builder, run_native

pytestmark = pytest.mark.engine

SOURCE = Path(__file__).with_name("many_deaths.c")


@pytest.fixture(scope="session")
def program(build: Builder) -> Path:
    """The engine with its crash points, and the roles."""
    return build.program(SOURCE, "-O1", *CRASH_POINTS)


def run(program: Path, *arguments: object) -> list[str]:
    """What the program prints. Its children die with it, and it by its own watchdog."""
    printed = run_native(program, *arguments)
    assert printed.endswith("sound\n")
    return printed.splitlines()[:-1]


@dataclass(frozen=True)
class Case:
    """Who dies where, one after the other, and what is left: number -> delivery count.

    `acts`: ROLE@POINT:NTH …; the messages of the first are 100, 101, …, of the second 200, ….
    `preload`: so many messages 1, 2, … are in the ring before.
    """

    acts: str
    preload: int
    left: dict[int, int] = field(hash=False)
    slots: int = 4
    slot_sizes: tuple[int, ...] = (64, 4096)


ONE = [
    Case("put@exchange_intended:1", 1, {1: 1}),
    Case("put@exchange_happened:1", 1, {1: 1, 100: 1}),
    Case("put@exchange_recorded:1", 1, {1: 1, 100: 1}),
    Case("put@park_announced:1", 4, {1: 1, 2: 1, 3: 1, 4: 1}),
    Case("put_many@exchange_happened:3", 1, {1: 1, 100: 1, 101: 1, 102: 1}),
    Case("publish@driver_loaned:1", 1, {1: 1}),
    Case("publish@exchange_happened:1", 1, {1: 1, 100: 1}),
    Case("get@exchange_intended:1", 3, {1: 1, 2: 1, 3: 1}),
    Case("get@exchange_happened:1", 3, {1: 2, 2: 1, 3: 1}),
    Case("get@exchange_recorded:1", 3, {1: 2, 2: 1, 3: 1}),
    Case("get@driver_leased:1", 3, {1: 2, 2: 1, 3: 1}),
    Case("get@driver_got:1", 3, {2: 1, 3: 1}),
    Case("get@park_announced:1", 0, {}),
    Case("get_many@exchange_happened:2", 4, {1: 2, 2: 2, 3: 1, 4: 1}),
    Case("ack@ack_begun:1", 2, {1: 2, 2: 1}),
    Case("ack@ack_done:1", 2, {2: 1}),
    Case("look@driver_held:1", 2, {2: 1}),
    Case("nack@delivery_ended:1", 2, {1: 2, 2: 1}),
    Case("release@lease_orphaned:1", 2, {1: 1, 2: 1}),
    Case("adopt@orphan_adopted:1", 2, {1: 3, 2: 1}),  # nacked once before
    Case("attach@port_claimed:1", 1, {1: 1}),
    Case("detach@driver_hands_full:1", 3, {1: 2, 2: 2, 3: 1}),
]
# Several are in an open moment at once: what one gave, the next one took.
SEVERAL = [
    Case("put@exchange_happened:1 get@exchange_intended:1", 0, {100: 1}),
    Case("put@exchange_happened:1 get@exchange_happened:1", 0, {100: 2}),
    Case("put@exchange_happened:1 put@exchange_happened:1", 0, {100: 1, 200: 1}),
    Case("get@exchange_happened:1 put@exchange_happened:1", 4, {1: 2, 2: 1, 3: 1, 4: 1, 200: 1}),
    Case("nack@lease_orphaned:1 adopt@orphan_adopted:1", 1, {1: 4}),
    Case("put@exchange_happened:1 get@exchange_happened:1", 0, {100: 2}, slots=1),
    Case("get@exchange_happened:1 put@exchange_happened:1 get@exchange_happened:1", 1, {1: 2, 200: 2}, slots=1),
    *(
        Case(f"{' '.join(['put@exchange_happened:1 get@exchange_happened:1'] * 2)} put@{last}:1", 0, left, slots)
        for slots in (1, 2)
        for last, left in (
            ("exchange_intended", {100: 2, 300: 2}),
            ("exchange_happened", {100: 2, 300: 2, 500: 1}),
        )
    ),
]
OPEN = [case for case in ONE if re.fullmatch(r"(put|get)@exchange_(intended|happened):1", case.acts)]
HANDS_FULL = ONE[-1]


def reaped_by_the_dying(case: Case, point: str, reapers: int) -> Case:
    """The reaper dies too, and so does the next one at the same point."""
    # With large slots a port keeps no cell, so that the second reaper finds none to free.
    slot_sizes = (64,) if point == "reap_cell" and case is not HANDS_FULL else case.slot_sizes
    return Case(" ".join([case.acts, *[f"reap@{point}:1"] * reapers]), case.preload, case.left, slot_sizes=slot_sizes)


REAPERS = [
    *(
        reaped_by_the_dying(case, point, 2)
        for case in OPEN
        for point in ("reap_judged", "reap_settled", "reap_counted", "reap_cell", "reap_retired")
    ),
    *(reaped_by_the_dying(HANDS_FULL, point, 3) for point in ("reap_counted", "reap_cell", "reap_retired")),
]
CASES = [
    pytest.param(case, slot_size, id=f"{case.acts}, {case.slots} slots of {slot_size}")
    for case in [*ONE, *SEVERAL, *REAPERS]
    for slot_size in case.slot_sizes
]


@pytest.mark.parametrize("between", ["nothing", "laps", "hands"])
@pytest.mark.parametrize(("case", "slot_size"), CASES)
def test_what_was_put_is_there_once_and_whole(program, case, slot_size, between):
    options = [f"slots={case.slots}", f"slot_size={slot_size}", f"preload={case.preload}", f"between={between}"]
    acts = case.acts.split()
    lines = run(program, *options, *acts)
    assert lines[: len(acts)] == [f"died {place}" for place in range(len(acts))], "a crash point was not reached"
    found = [tuple(map(int, line.split()[1:])) for line in lines[len(acts) :]]
    assert sorted(found) == sorted(case.left.items())
    fresh = [number for number, count in found if count == 1]
    assert between != "nothing" or fresh == sorted(fresh), "out of order"


def storm(program: Path, seed: int, rounds: int) -> int:
    """How many were killed."""
    passed = [point for point in POINTS if not point.startswith("bell_")]  # nobody in the storm has a bell
    (line,) = run(program, "storm", seed, rounds, *passed)
    return int(line.split()[1])


@pytest.mark.parametrize("seed", range(1, 4))
def test_the_ledger_of_the_living_is_right_while_others_die_at_random(program, seed):
    assert storm(program, seed, 200) > 50


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(100, 150))
def test_the_ledger_of_the_living_is_right_while_thousands_die_at_random(program, seed):
    assert storm(program, seed, 500) > 200
