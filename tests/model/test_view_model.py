"""A slot is used again when nobody looks at it any more, and then for certain: see views.py."""

from __future__ import annotations

import pytest
from views import (
    DETACH_LOOKS_FIRST,
    FREES_REGARDLESS,
    LOOKS_BEFORE_IT_SAYS,
    MUTANTS,
    NO_SECOND_LOOK,
    REAPER_FORGETS_NOT,
    SETTLES_NOT,
    Configuration,
    check,
    main,
)

pytestmark = pytest.mark.engine

NEEDED = {
    LOOKS_BEFORE_IT_SAYS: "written under a viewer",
    FREES_REGARDLESS: "written under a viewer",
    NO_SECOND_LOOK: "never free again",
    REAPER_FORGETS_NOT: "never free again",
    SETTLES_NOT: "never free again",
    DETACH_LOOKS_FIRST: "never free again",
}


@pytest.mark.parametrize(
    "configuration",
    [
        Configuration(2, rounds=2, expiries=2),
        Configuration(2, rounds=2, expiries=1, crashes=1),
        Configuration(2, rounds=2, expiries=1, detaches=1),
        Configuration(2, rounds=1, expiries=1, crashes=1, detaches=1),
        pytest.param(Configuration(2, rounds=2, expiries=2, crashes=2), marks=pytest.mark.stress),
        pytest.param(Configuration(3, rounds=1, expiries=2, crashes=1), marks=pytest.mark.stress),
        pytest.param(Configuration(2, rounds=2, expiries=2, crashes=1, detaches=1), marks=pytest.mark.stress),
    ],
    ids=str,
)
def test_no_slot_is_written_under_a_viewer_and_none_is_kept_for_nobody(configuration: Configuration) -> None:
    result = check(configuration)
    assert not result.fault, "\n".join(result.trace)
    assert result.states > 5000


@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_rule_about_views_is_needed(mutant: str) -> None:
    result = check(Configuration(2, rounds=2, expiries=1, crashes=1, detaches=mutant == DETACH_LOOKS_FIRST, mutant=mutant))
    assert result.fault == NEEDED[mutant]
    assert result.trace


def test_the_program_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["1", "--rounds", "2"]) == 0
    assert "correct" in capsys.readouterr().out
    assert main(["2", "--mutant", FREES_REGARDLESS]) == 1
    assert "written under a viewer" in capsys.readouterr().out
