"""Random SIGKILL and restart under the public interface: nothing lost, no duplicate unexplained, nobody stands still.

kill_storm.py is the storm, storm_ledger.py its judge; here they run for some seconds, and the judge is shown ledgers that it
must not accept. A hundred thousand kills take about ten minutes:

    python tests/crash/kill_storm.py --kills 100000 --producers 2 --consumers 2 --seed 1 --spill --lease-timeout 0.05 --progress
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from storm_ledger import Judge, Kill, Kind, Letter, Verdict, read

PROGRAM = Path(__file__).with_name("kill_storm.py")
SMALL, PAGED = [], ["--paged"]
TIMED = ["--spill", "--lease-timeout", "0.05"]
DEAD_LETTERED = ["--max-deliveries", "5"]
FORMS = {
    "small slots": SMALL,
    "small slots, spilled, timed": [*SMALL, *TIMED],
    "large slots, spilled, timed, dead-lettered": [*PAGED, *TIMED, *DEAD_LETTERED],
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def run(*arguments: object, watchdog: float = 100) -> str:
    """What the program says. Its processes die with it."""
    command = [sys.executable, PROGRAM, "--name", f"storm.{os.getpid()}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=watchdog)
    assert done.returncode == 0, f"{arguments}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def kills_in(report: str) -> int:
    match = re.match(r"([\d,]+) kills in", report)
    assert match, report
    return int(match[1].replace(",", ""))


@forms
@pytest.mark.parametrize("kills", [200, pytest.param(600, marks=pytest.mark.engine)])
def test_no_kill_loses_doubles_or_stalls_anything(form: list[str], kills: int) -> None:
    assert kills_in(run("--kills", kills, "--round", kills // 2, "--seed", 1, *form)) == kills


@pytest.mark.stress
@forms
@pytest.mark.parametrize("seed", range(2, 5))
def test_thousands_of_kills_lose_double_or_stall_nothing(form: list[str], seed: int) -> None:
    assert kills_in(run("--kills", 5000, "--seed", seed, *form)) == 5000


def test_what_a_killed_holder_had_is_soon_with_a_peer_that_waits() -> None:
    assert "redelivered to a waiting peer" in run("--recovery", 10, "--within", 10_000)  # how soon is measured, not tested


@pytest.mark.stress
def test_what_a_killed_holder_had_is_soon_with_a_peer_that_waits_300_times() -> None:
    run("--recovery", 300, "--within", 10_000)


# -- the judge can condemn ---------------------------------------------------------------------------------------------


class Ledgers:
    """The ledger of a real storm, to be falsified."""

    def __init__(self, folder: Path) -> None:
        run("--kills", 200, "--round", 200, "--seed", 5, "--keep", folder)
        self.records = read(folder.glob("*.ledger"))
        self.kills: dict[int, Kill] = pickle.loads((folder / "kills").read_bytes())

    def judge(self, records: np.ndarray | None = None, letters: dict[int, Letter] | None = None) -> Verdict:
        return Judge(self.records if records is None else records, self.kills, letters).judge()

    def rows(self, kind: Kind, by_survivors: bool = True) -> np.ndarray:
        """Places of the records of this kind, in the order of time."""
        dead = np.isin(self.records["process"], list(self.kills))
        rows = np.flatnonzero((self.records["kind"] == kind) & (dead != by_survivors))
        return rows[np.argsort(self.records["time"][rows])]

    def altered(self, row: int, **values: int) -> np.ndarray:
        records = self.records.copy()
        for name, value in values.items():
            records[name][row] = value
        return records

    def with_one_more(self, row: int, **values: int) -> np.ndarray:
        return np.concatenate([self.records, self.altered(row, **values)[row : row + 1]])


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> Ledgers:
    return Ledgers(tmp_path_factory.mktemp("ledgers"))


def test_the_judge_accepts_the_ledger_as_it_is(ledgers: Ledgers) -> None:
    verdict = ledgers.judge()
    assert verdict.sound, verdict.violations
    assert verdict.acked > 100
    assert verdict.duplicates["killed"] > 0


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_ledger_without_one_of_its_acks_has_lost_a_message(ledgers: Ledgers, place: int) -> None:
    row = ledgers.rows(Kind.ACKED)[place]
    verdict = ledgers.judge(np.delete(ledgers.records, row))
    assert (verdict.lost, verdict.unexplained) == (1, 0)
    assert f"{int(ledgers.records['number'][row]):#x}" in verdict.violations[0]
    assert "ACKING" in verdict.violations[0]


def test_a_message_that_was_put_and_never_received_is_lost(ledgers: Ledgers) -> None:
    number = ledgers.records["number"][ledgers.rows(Kind.PUT)[0]]
    mine = ledgers.records["number"] == number
    assert ledgers.judge(ledgers.records[~mine | (ledgers.records["kind"] <= Kind.PUT)]).lost == 1
    assert ledgers.judge(ledgers.records[~mine | (ledgers.records["kind"] <= Kind.PUT)], {int(number): Letter(5)}).lost == 0


def test_a_delivery_after_an_ack_is_unexplained(ledgers: Ledgers) -> None:
    row = ledgers.rows(Kind.ACKED)[0]
    at = int(ledgers.records["time"][row])
    again = ledgers.with_one_more(row, kind=Kind.RECEIVED, count=2, began=at + 1, time=at + 2)
    verdict = ledgers.judge(again)
    assert verdict.unexplained == 1
    assert "after its ack had returned" in verdict.violations[0]


def test_two_acks_are_unexplained(ledgers: Ledgers) -> None:
    row = ledgers.rows(Kind.ACKED)[0]
    number = ledgers.records["number"][row]
    mine = ledgers.records[(ledgers.records["number"] == number) & (ledgers.records["kind"] >= Kind.RECEIVED)].copy()
    mine["process"] += 1 << 20
    mine["time"] += 10
    assert ledgers.judge(np.concatenate([ledgers.records, mine])).unexplained > 0


def test_a_redelivery_without_a_kill_is_unexplained(ledgers: Ledgers) -> None:
    """Of every holder that was killed with a message in its hands it is said that it lived."""
    kills = dict(ledgers.kills)
    holder = next(
        int(ledgers.records["process"][row])
        for row in ledgers.rows(Kind.RECEIVED, by_survivors=False)[::-1]
        if not np.any(
            (ledgers.records["process"] == ledgers.records["process"][row])
            & (ledgers.records["number"] == ledgers.records["number"][row])
            & (ledgers.records["kind"] >= Kind.ACKING)
        )
    )
    del kills[holder]
    assert Judge(ledgers.records, kills).judge().unexplained > 0


def test_a_message_published_twice_is_unexplained(ledgers: Ledgers) -> None:
    row = ledgers.rows(Kind.ACKED)[0]
    assert ledgers.judge(ledgers.altered(row, id=12345)).unexplained > 0


def test_a_count_that_did_not_go_up_is_seen(ledgers: Ledgers) -> None:
    row = ledgers.rows(Kind.NACKING)[0]
    id, nacking = ledgers.records["id"][row], ledgers.records["time"][row]
    received = np.isin(ledgers.records["kind"], [Kind.RECEIVED, Kind.PREFETCHED])
    later = np.flatnonzero((ledgers.records["id"] == id) & (ledgers.records["time"] > nacking) & received)
    records = ledgers.records.copy()
    records["count"][later] -= 1
    assert not ledgers.judge(records).sound


def test_a_count_that_went_up_too_often_is_unexplained(ledgers: Ledgers) -> None:
    """There are fewer kills than that."""
    records = ledgers.records.copy()
    id = records["id"][ledgers.rows(Kind.RECEIVED)[-1]]
    records["count"][records["id"] == id] += 1000
    assert ledgers.judge(records).unexplained > 0


def test_a_torn_message_is_seen(ledgers: Ledgers) -> None:
    assert ledgers.judge(ledgers.altered(ledgers.rows(Kind.RECEIVED)[0], kind=Kind.TORN)).torn == 1


def test_a_stall_is_seen_unless_the_machine_stood_still(ledgers: Ledgers) -> None:
    row = ledgers.rows(Kind.RECEIVED)[0]
    at = int(ledgers.records["time"][row])
    records = ledgers.with_one_more(row, number=0, id=0, kind=Kind.STALLED, began=at - 1_500_000_000)
    assert Judge(records, ledgers.kills).judge().stalls == 1
    assert Judge(records, ledgers.kills, delays=[(at - 1_400_000_000, at)]).judge().stalls == 0


def test_of_an_interrupted_batch_a_prefix_must_be_there(ledgers: Ledgers) -> None:
    process = next(process for process, kill in ledgers.kills.items() if not kill.consumer)
    row = ledgers.rows(Kind.INTENDED)[0]
    batch = [ledgers.altered(row, number=(process << 24) + n, process=process)[row : row + 1] for n in (9001, 9002)]
    there = [
        ledgers.altered(row, number=(process << 24) + 9002, id=777, kind=kind, count=1, process=1 << 20)[row : row + 1]
        for kind in (Kind.RECEIVED, Kind.ACKED)
    ]
    assert ledgers.judge(np.concatenate([ledgers.records, *batch])).sound
    assert ledgers.judge(np.concatenate([ledgers.records, *batch, *there])).other == 1
