"""Somebody looks for the dead in time, and not everybody does: see watch.py."""

from __future__ import annotations

import pytest
from watch import EVERYBODY, LONG_AGO, MUTANTS, NEVER_ENDS, NO_DEPUTY, NO_SWAP, OF_ITS_OWN, TOO_OFTEN, Configuration, check, main

pytestmark = pytest.mark.engine

NEEDED = {NO_DEPUTY: LONG_AGO, OF_ITS_OWN: LONG_AGO, NEVER_ENDS: LONG_AGO, NO_SWAP: TOO_OFTEN, EVERYBODY: TOO_OFTEN}


@pytest.mark.parametrize(
    "configuration",
    [
        Configuration(1),
        Configuration(2, faults=1, arrivals=1),
        Configuration(3, faults=1),
        Configuration(3, faults=2),
        pytest.param(Configuration(4, faults=1), marks=pytest.mark.stress),
        pytest.param(Configuration(3, faults=2, arrivals=1), marks=pytest.mark.stress),
    ],
    ids=str,
)
def test_a_look_is_never_long_ago_and_never_taken_twice(configuration: Configuration) -> None:
    result = check(configuration)
    assert not result.fault, "\n".join(result.trace)
    assert result.states > 5


@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_rule_about_the_watch_is_needed(mutant: str) -> None:
    result = check(Configuration(3, faults=1, arrivals=1, mutant=mutant))
    assert result.fault == NEEDED[mutant]
    assert result.trace


def test_the_program_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["1"]) == 0
    assert "correct" in capsys.readouterr().out
    assert main(["2", "--mutant", NO_SWAP]) == 1
    assert TOO_OFTEN in capsys.readouterr().out
