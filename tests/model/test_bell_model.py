"""No message lies there while somebody waits for it and was not told, in any order of the steps: see bells.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bells import (
    CLEARS_LAST,
    CROWD,
    DEAF,
    FLAG_FIRST,
    HEARS_ONLY,
    KEEPS_A_RING,
    KEEPS_WHAT_IT_HEARD,
    LEAVES_THE_POST,
    LOOKS_FIRST,
    LOOKS_NOT_AFTER,
    LOST,
    MISCOUNTED,
    MUTANTS,
    NEVER_DISARMS,
    NO_SECOND_LOOK,
    PASSES_ON_ONE,
    POSTS_AND_RINGS,
    REAPS_NO_SLEEPERS,
    RINGS_ALL,
    RINGS_THE_DEAD,
    SECOND_RINGS_ONE,
    WAITS_FOR_THE_POST,
    Configuration,
    check,
    main,
)

pytestmark = pytest.mark.engine

NEEDED = {
    FLAG_FIRST: (Configuration("PLL"), DEAF),
    LOOKS_FIRST: (Configuration("PLL"), LOST),
    CLEARS_LAST: (Configuration("PLL"), DEAF),
    NO_SECOND_LOOK: (Configuration("PLL"), DEAF),
    NEVER_DISARMS: (Configuration("PLL"), DEAF),
    RINGS_ALL: (Configuration("PLL"), CROWD),
    RINGS_THE_DEAD: (Configuration("PDL"), LOST),
    KEEPS_A_RING: (Configuration("PPLL"), LOST),
    KEEPS_WHAT_IT_HEARD: (Configuration("PGL"), LOST),
    PASSES_ON_ONE: (Configuration("PGLS", puts=2), LOST),
    REAPS_NO_SLEEPERS: (Configuration("PSL", crashes=1), MISCOUNTED),
    HEARS_ONLY: (Configuration("PPGLC"), LOST),
    POSTS_AND_RINGS: (Configuration("PSL"), CROWD),
    LEAVES_THE_POST: (Configuration("PLS"), MISCOUNTED),
    WAITS_FOR_THE_POST: (Configuration("PPSSC"), MISCOUNTED),
    LOOKS_NOT_AFTER: (Configuration("PTL"), LOST),
    SECOND_RINGS_ONE: (Configuration("PPLLC"), DEAF),
}
FOUND_LATE = {PASSES_ON_ONE, SECOND_RINGS_ONE}


def stress(configuration: Configuration) -> object:
    return pytest.param(configuration, marks=pytest.mark.stress)


@pytest.mark.parametrize(
    "configuration",
    [
        Configuration("PPLL"),
        Configuration("PGL", puts=2),
        Configuration("PTLS", puts=2),
        Configuration("PPST"),
        Configuration("PDLS", puts=2),
        Configuration("PSL", puts=2, crashes=1),
        Configuration("PLL", crashes=1),
        Configuration("PSTC", puts=2, crashes=1),
        stress(Configuration("PPLLC")),
        stress(Configuration("PPGL")),
        stress(Configuration("PPGS", puts=2)),
        stress(Configuration("PPLST", puts=2)),
        stress(Configuration("PGLS", puts=2, crashes=1)),
        stress(Configuration("PPLS", puts=2, crashes=1)),
        stress(Configuration("PPLT", crashes=2)),
        stress(Configuration("PLLL", puts=2)),
    ],
    ids=str,
)
def test_nobody_waits_beside_a_message_and_was_not_told(configuration: Configuration) -> None:
    result = check(configuration)
    assert not result.fault, "\n".join((*result.trace, result.fault))
    assert result.states > 1000


@pytest.mark.parametrize(
    "mutant",
    [pytest.param(mutant, marks=[pytest.mark.stress] if mutant in FOUND_LATE else []) for mutant in MUTANTS],
)
def test_each_rule_about_bells_is_needed(mutant: str) -> None:
    configuration, fault = NEEDED[mutant]
    result = check(replace(configuration, mutant=mutant))
    assert result.fault == fault
    assert result.trace


def test_the_program_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["PLS"]) == 0
    assert "correct" in capsys.readouterr().out
    assert main(["PLL", "--mutant", LOOKS_FIRST]) == 1
    assert LOST in capsys.readouterr().out
