"""Death at every crash point of the engine, and after every store that it makes to shared memory; what the survivors find.

The work is done by crash_points.c: a child takes a role and dies in it, then this process's side takes back
what is lost, drains the queue, and compares with a ledger: nothing lost, nothing twice, nothing torn, every slot in exactly
one cell, the leases of others untouched. Here stands what must have become of the role's own messages.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.native import ACCESSES, CRASH_POINTS, POINTS, Builder, run_native

pytestmark = pytest.mark.engine

SOURCE = Path(__file__).with_name("crash_points.c")


def taken_back(outcome: str, leases: int = 1) -> dict[str, list[str]]:
    """What becomes of a dead one's two messages, wherever its reaper dies; the dead one held four cells, and so many leases."""
    once = {point: [outcome] for point in ("reap_judged", "reap_settled", "reap_untimed", "reap_retired")}
    return once | {"delivery_ended": [outcome] * leases, "reap_counted": [outcome] * 4, "reap_cell": [outcome] * 4}


# Role → crash point that it passes → what has become of its messages, for each hit at which it may die: "-" gone, else the
# delivery count with which they are found. Of batches, what has become of one message after the other.
PASSED: dict[str, dict[str, list[str]]] = {
    "putter": {"exchange_intended": ["-"], "exchange_happened": ["1"], "exchange_recorded": ["1"]},
    "batch_putter": {
        "exchange_intended": ["- - -", "1 - -", "1 1 -"],
        "exchange_happened": ["1 - -", "1 1 -", "1 1 1"],
        "exchange_recorded": ["1 - -", "1 1 -", "1 1 1"],
    },
    "publisher": {"exchange_intended": ["-"], "exchange_happened": ["1"], "exchange_recorded": ["1"]},
    "abandoner": {},
    "getter": {"exchange_intended": ["1"], "exchange_happened": ["2"], "exchange_recorded": ["2"]},
    "receiver": {"exchange_intended": ["1"], "exchange_happened": ["2"], "exchange_recorded": ["2"]},
    "batch_receiver": {
        "exchange_intended": ["1 1 1", "2 1 1", "2 2 1"],
        "exchange_happened": ["2 1 1", "2 2 1", "2 2 2"],
        "exchange_recorded": ["2 1 1", "2 2 1", "2 2 2"],
    },
    "acker": {"ack_begun": ["2"], "ack_done": ["-"]},
    "looking_acker": {"ack_begun": ["2"], "ack_done": ["-"]},
    "nacker": {"delivery_ended": ["2"], "lease_orphaned": ["2"]},
    "releaser": {"delivery_ended": ["2"], "lease_orphaned": ["1"]},  # given back uncounted, unless death was quicker
    "adopter": {"orphan_adopted": ["3"]},  # it had come back once before
    "timed_receiver": {"exchange_intended": ["1"], "exchange_happened": ["2"], "exchange_recorded": ["2"]},
    "timed_acker": {"ack_begun": ["2"], "ack_done": ["-"]},
    "timed_nacker": {"lease_taken_over": ["2"], "delivery_ended": ["2"], "lease_orphaned": ["2"]},
    "timed_adopter": {"orphan_adopted": ["3"]},
    "extender": {"extend_written": ["2"]},
    "extender_ahead": {"extend_written": ["1"]},  # of a message that was not begun with
    # Who looks at a message goes on looking when the lease has ended.
    "viewer": {"view_begun": ["2"], "view_ended": ["2"]},
    "finishing_viewer": {  # gave the message back, took it again, and is done with it
        "orphan_adopted": ["3"],
        "ack_begun": ["3"],
        "ack_done": ["-"],
        "cell_handed": ["-"],
        "view_ended": ["-"],
    },
    "finisher": {"ack_begun": ["2"], "ack_done": ["-"], "cell_handed": ["-"]},  # while the survivor looks
    # The survivor's lease is over: the role takes it over, or the survivor does so afterwards.
    "expirer": {"lease_taken_over": ["2"], "delivery_ended": ["2"], "lease_orphaned": ["2"]},
    # … of a message that was not begun with.
    "expirer_unbegun": {"lease_taken_over": ["1"], "delivery_ended": ["1"], "lease_orphaned": ["1"]},
    # The first cell is an empty one, the second holds the lease.
    "detacher": {"detach_cell": ["2", "1"], "delivery_ended": ["2"], "lease_orphaned": ["1"]},
    "attacher": {"port_claimed": ["1"]},
    "item_waiter": {"park_noted": [""], "park_announced": [""]},
    "space_waiter": {"park_noted": ["1"], "park_announced": ["1"]},
    "bell_owner": {"bell_marked": [""], "bell_made": [""], "bell_armed": [""]},
    "leaving_bell_owner": {"detach_cell": [""], "bell_unlinked": [""]},
    "ringing_putter": {"exchange_intended": ["-"], "exchange_happened": ["1"], "exchange_recorded": ["1"], "bell_claimed": ["1"]},
    # They take back a dead process's lease, loan and idle cells; it died in a get or a put of the second message.
    "reaper_after_get": taken_back("2 2", leases=2),
    "reaper_before_get": taken_back("2 1"),
    "reaper_after_put": taken_back("2 1"),
    "reaper_before_put": taken_back("2 -"),
    "reaper_of_bell": {"reap_counted": [""], "reap_cell": [""], "reap_retired": [""], "bell_unlinked": [""]},
}
REAPERS = [role for role in PASSED if role.startswith("reaper")]
DEATHS = [
    pytest.param(role, point, nth, outcome, id=f"{role}-{point}-{nth}")
    for role, points in PASSED.items()
    for point, outcomes in points.items()
    for nth, outcome in enumerate(outcomes, 1)
]


@pytest.fixture(scope="session")
def program(build: Builder) -> Path:
    return build.program(SOURCE, "-O1", *CRASH_POINTS, *ACCESSES)


def deaths_in(output):
    return int(output.split()[0])


def test_every_crash_point_of_the_engine_has_a_role_that_passes_it():
    assert set(POINTS) == {point for points in PASSED.values() for point in points}


@pytest.mark.parametrize("role", PASSED)
def test_the_table_knows_every_crash_point_that_a_role_passes(program, role):
    passed = {name: int(hits) for name, hits in (line.split() for line in run_native(program, "passes", role).splitlines())}
    assert passed == {point: len(outcomes) for point, outcomes in PASSED[role].items()}


@pytest.mark.parametrize(("role", "point", "nth", "outcome"), DEATHS)
def test_a_death_at_a_crash_point_leaves_what_the_table_says(program, role, point, nth, outcome):
    found = [line.split() for line in run_native(program, "kill", role, point, nth).splitlines()]
    assert found, "in no queue did the role come so far"
    wanted = [count.replace("-", "0") for count in outcome.split()]
    for slots, *messages in found:
        assert messages == wanted[: len(messages)], f"queue of {slots} slots"


@pytest.mark.parametrize("role", [*PASSED, "dead_getter", "dead_putter"])
def test_a_death_after_any_store_loses_nothing(program, role):
    assert deaths_in(run_native(program, "scan", role)) > 0


@pytest.mark.parametrize("role", REAPERS)
def test_a_reaper_that_dies_while_it_takes_back_a_dead_reaper_loses_nothing(program, role):
    assert deaths_in(run_native(program, "pairs", role)) > (50 if role == "reaper_of_bell" else 100)  # that dead one held little


@pytest.mark.parametrize("putters", range(8))
def test_three_that_die_in_the_middle_of_their_calls_are_told_apart(program, putters):
    assert deaths_in(run_native(program, "crowd", putters)) > 100


def test_a_sleeper_that_is_killed_takes_no_message_and_no_wake_up_with_it(program):
    run_native(program, "asleep")
