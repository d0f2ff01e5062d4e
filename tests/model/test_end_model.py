"""A loop ends when nothing can come back any more, neither sooner nor never: see ends.py."""

from __future__ import annotations

import pytest
from ends import ASLEEP, LOOKS_FIRST, MUTANTS, NO_CHANGES, ONE_LOOK, TOO_EARLY, Configuration, check, main

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    "configuration",
    [
        Configuration(0),
        Configuration(2),
        Configuration(2, crashes=1),
        pytest.param(Configuration(6, crashes=1), marks=pytest.mark.stress),
    ],
    ids=str,
)
def test_a_loop_ends_after_the_last_message_and_sleeps_beside_none(configuration: Configuration) -> None:
    result = check(configuration)
    assert not result.fault, "\n".join(result.trace)
    assert result.states > 400


@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_rule_about_the_end_is_needed(mutant: str) -> None:
    result = check(Configuration(2, crashes=1, mutant=mutant))
    assert result.fault == (ASLEEP if mutant in (LOOKS_FIRST, NO_CHANGES) else TOO_EARLY)
    assert result.trace


def test_the_program_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--moves", "1"]) == 0
    assert "correct" in capsys.readouterr().out
    assert main(["--moves", "1", "--mutant", ONE_LOOK]) == 1
    assert TOO_EARLY in capsys.readouterr().out
