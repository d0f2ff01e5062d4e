"""The protocol is correct in every order of its steps, and each of its rules is needed: see exchange.py."""

from __future__ import annotations

import faulthandler
from dataclasses import replace

import pytest
from exchange import (
    ACK_IGNORES_GENERATION,
    AMBIGUOUS_PROVES,
    ANOTHERS,
    COUNTS_AGAIN,
    EXPIRY_COUNTS_FIRST,
    FAULTS,
    FREES_FIRST,
    LATER_LAP_NOT_HELPED,
    MISCOUNTED,
    MUTANTS,
    NACK_COUNTS_FIRST,
    NO_INTENT,
    PERMUTATION,
    REAPER_COUNTS_FIRST,
    STRANDED,
    Configuration,
    check,
    main,
)

pytestmark = pytest.mark.engine

SHORT = {
    "two producers and two consumers": Configuration("PPCC", 2),
    "a death among one producer and two consumers": Configuration("PCC", 2, crashes=1),
    "reapers that die, and theirs": Configuration("PCCC", 1, crashes=3, mortal="C"),
    "an open exchange among others that are open": Configuration("PPCW", 2, crashes=1, mortal="C"),
    "a ring of two": Configuration("PCC", 3, ring=2, crashes=1, mortal="C"),
    "everything that ends a lease, and a death": Configuration("PCC", 1, crashes=1, expiries=2, nacks=1, extends=1),
    "whoever ends a lease dies, and so does its reaper": Configuration("PCWW", 1, crashes=2, expiries=1, nacks=1),
    "a process that starts again": Configuration("PCC", 2, crashes=1, restarts=1),
    "leases put aside": Configuration("PCW", 2, pool=2, expiries=2, aside=True),
}

LONG = {
    "two deaths among two producers and two consumers": Configuration("PPCC", 2, crashes=2),
    "everything that ends a lease, and two deaths": Configuration("PCC", 2, crashes=2, expiries=2, nacks=1),
    "leases put aside by two": Configuration("PCC", 2, pool=2, expiries=2, aside=True),
    "two deaths, and a cell for each consumer": Configuration("PPCC", 2, pool=2, crashes=2),
    "a ring of two, a cell for each consumer, and a death": Configuration("PPCC", 3, ring=2, pool=2, crashes=1),
    "deaths and new processes": Configuration("PCC", 2, crashes=3, restarts=2, expiries=1),
}

# What leaves out a rule, where that shows, and how.
NEEDED = {
    AMBIGUOUS_PROVES: (Configuration("PPCW", 2, crashes=1, mortal="C"), PERMUTATION),
    ACK_IGNORES_GENERATION: (Configuration("PCW", 1, expiries=1, aside=True), ANOTHERS),
    EXPIRY_COUNTS_FIRST: (Configuration("PCW", 1, expiries=1), MISCOUNTED),
    NACK_COUNTS_FIRST: (Configuration("PCW", 1, expiries=1, nacks=1), MISCOUNTED),
    REAPER_COUNTS_FIRST: (Configuration("PCWW", 1, crashes=1, expiries=1), MISCOUNTED),
    COUNTS_AGAIN: (Configuration("PCW", 1, crashes=1, nacks=1), MISCOUNTED),
    LATER_LAP_NOT_HELPED: (Configuration("PPC", 2, crashes=1), STRANDED),
    FREES_FIRST: (Configuration("PCCW", 1, crashes=2), STRANDED),
    NO_INTENT: (Configuration("PC", 1, crashes=1), PERMUTATION),
}


def correct(configuration: Configuration) -> bool:
    result = check(configuration)
    print(result)
    return not result.fault and result.complete


@pytest.mark.parametrize("name", SHORT)
def test_the_protocol_is_correct_with(name: str) -> None:
    assert correct(SHORT[name])


@pytest.mark.stress
@pytest.mark.parametrize("name", LONG)
def test_the_protocol_is_correct_at_length_with(name: str) -> None:
    faulthandler.cancel_dump_traceback_later()  # minutes, as announced
    assert correct(LONG[name])


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_rule_is_needed(mutant: str) -> None:
    configuration, fault = NEEDED[mutant]
    assert correct(configuration), "with the rule"
    result = check(replace(configuration, mutant=mutant))
    assert result.fault == FAULTS[fault]
    assert len(result.trace) > 1 and result.trace[0].split()[0] == "0"


def test_by_hand_the_trace_of_a_fault_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["PC", "1", "--crashes", "1", "--mutant", NO_INTENT]) == 1
    assert "is killed" in capsys.readouterr().out


def test_by_hand_a_limit_is_not_a_proof(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["PPCC", "2", "--limit", "100"]) == 0
    assert "nothing found so far" in capsys.readouterr().out
