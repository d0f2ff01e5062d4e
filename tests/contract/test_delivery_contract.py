"""What delivery promises: receive, ack, nack, release, reject and dead letters, as a list of behaviours.

Each is a function of a factory, and is run against each kind of queue. Whatever is to deliver as shmq does is held to this list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import shmq

Factory = Callable[..., Any]  # parameters of a queue -> an empty queue
Make = Callable[..., shmq.Queue]
Behaviour = Callable[[Factory], None]
SOON = 0.02  # seconds
LONG = 60.0  # seconds: longer than anything here takes
BEHAVIOURS: list[Behaviour] = []


def behaviour(function: Behaviour) -> Behaviour:
    """Add to the list."""
    BEHAVIOURS.append(function)
    return function


def filled(factory: Factory, *messages: Any, **parameters: Any) -> Any:
    q = factory(**parameters)
    for message in messages:
        q.put(message)
    return q


# -- receive and ack ---------------------------------------------------------------------------------------------------


@behaviour
def messages_are_received_in_the_order_in_which_they_were_put(factory: Factory) -> None:
    q = filled(factory, 0, 1, 2)
    leases = [q.receive(0) for _ in range(3)]
    assert [lease.data for lease in leases] == [0, 1, 2]
    for lease in leases:
        lease.ack()


@behaviour
def a_message_that_is_leased_is_delivered_to_nobody_else(factory: Factory) -> None:
    q = filled(factory, "x")
    lease = q.receive(0)
    with pytest.raises(shmq.Empty):
        q.receive(SOON)
    lease.ack()


@behaviour
def an_acked_message_is_gone(factory: Factory) -> None:
    q = filled(factory, "x")
    q.receive(0).ack()
    with pytest.raises(shmq.Empty):
        q.receive(SOON)
    assert q.empty() and len(q.dead_letters) == 0


@behaviour
def a_lease_is_ended_once(factory: Factory) -> None:
    for end in ("ack", "nack", "release", "reject"):
        q = filled(factory, "x")
        lease = q.receive(0)
        lease.ack()
        with pytest.raises(shmq.LeaseLost):
            getattr(lease, end)()
        assert q.empty() and len(q.dead_letters) == 0


@behaviour
def a_block_that_ends_well_acks(factory: Factory) -> None:
    q = filled(factory, "x")
    with q.receive(0) as lease:
        assert lease.data == "x"
    with pytest.raises(shmq.Empty):
        q.receive(SOON)


# -- it comes back -----------------------------------------------------------------------------------------------------


@behaviour
def a_nacked_message_comes_back_and_its_deliveries_are_counted(factory: Factory) -> None:
    q = filled(factory, "x", max_deliveries=0)
    for count in (1, 2, 3):
        lease = q.receive(LONG)
        assert (lease.data, lease.delivery_count) == ("x", count)
        lease.nack(0)
    q.receive(LONG).ack()


@behaviour
def what_came_back_is_delivered_before_what_never_was(factory: Factory) -> None:
    q = filled(factory, "first", "second")
    q.receive(0).nack(0)
    assert q.receive(LONG).data == "first"


@behaviour
def a_nacked_message_is_not_delivered_before_its_delay_has_passed(factory: Factory) -> None:
    q = filled(factory, "x")
    q.receive(0).nack(LONG)
    with pytest.raises(shmq.Empty):
        q.receive(SOON)


@behaviour
def others_are_delivered_while_one_is_delayed(factory: Factory) -> None:
    q = filled(factory, "delayed", "other")
    q.receive(0).nack(LONG)
    lease = q.receive(LONG)
    assert lease.data == "other"
    lease.ack()


@behaviour
def a_release_is_no_failure_however_often(factory: Factory) -> None:
    q = filled(factory, "x", max_deliveries=2)
    for _ in range(5):
        q.receive(LONG).release()
    lease = q.receive(LONG)
    assert lease.data == "x" and len(q.dead_letters) == 0
    lease.ack()


@behaviour
def a_block_that_raises_nacks(factory: Factory) -> None:
    q = filled(factory, "x", backoff=shmq.Backoff(0))
    with pytest.raises(ZeroDivisionError), q.receive(0):
        raise ZeroDivisionError
    lease = q.receive(LONG)
    assert (lease.data, lease.delivery_count) == ("x", 2)
    lease.ack()


@behaviour
def a_message_whose_lease_runs_out_comes_back_and_the_late_ack_is_refused(factory: Factory) -> None:
    q = filled(factory, "x")
    late = q.receive(0, lease_timeout=SOON)
    lease = q.receive(LONG)
    assert (lease.data, lease.delivery_count) == ("x", 2)
    with pytest.raises(shmq.LeaseLost):
        late.ack()
    lease.ack()


# -- it is given up ----------------------------------------------------------------------------------------------------


@behaviour
def a_message_that_has_failed_as_often_as_it_may_is_a_dead_letter(factory: Factory) -> None:
    q = filled(factory, "poison", "good", max_deliveries=2)
    for _ in range(2):
        q.receive(LONG).nack(0)
    assert q.receive(LONG).data == "good"
    (letter,) = q.dead_letters
    assert letter.data == "poison"


@behaviour
def a_rejected_message_is_a_dead_letter_at_once_with_the_reason_given(factory: Factory) -> None:
    q = filled(factory, "x")
    q.receive(0).reject("not one of mine")
    with pytest.raises(shmq.Empty):
        q.receive(SOON)
    (letter,) = q.dead_letters
    assert (letter.data, letter.reason) == ("x", "not one of mine")


@behaviour
def dead_letters_are_listed_oldest_first(factory: Factory) -> None:
    q = filled(factory, 0, 1, 2)
    for _ in range(3):
        q.receive(0).reject()
    assert [letter.data for letter in q.dead_letters] == [0, 1, 2]


@behaviour
def a_redriven_letter_is_a_message_with_all_its_deliveries_before_it(factory: Factory) -> None:
    q = filled(factory, "x")
    q.receive(0).reject()
    assert q.redrive() == 1 and len(q.dead_letters) == 0
    lease = q.receive(LONG)
    assert (lease.data, lease.delivery_count) == ("x", 1)
    lease.ack()


@behaviour
def purged_letters_are_gone(factory: Factory) -> None:
    q = filled(factory, "x")
    q.receive(0).reject()
    assert q.dead_letters.purge() == 1 and len(q.dead_letters) == 0
    with pytest.raises(shmq.Empty):
        q.receive(SOON)


class Awaited:
    """A queue whose messages are awaited, each on a loop of its own."""

    def __init__(self, q: shmq.Queue) -> None:
        self.q = q

    def put(self, obj: object) -> None:
        asyncio.run(self.q.aput(obj))

    def receive(self, timeout: float, **options: Any) -> shmq.Lease:
        return asyncio.run(self.q.areceive(timeout, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.q, name)


KINDS: dict[str, dict[str, Any]] = {
    "of small slots": {"slots": 4, "slot_size": 256},
    "of large slots": {"slots": 4, "slot_size": 4096},
    "that spills": {"slots": 4, "slot_size": 64, "oversize": "spill"},
    "that grows": {"slots": 1, "slot_size": 256, "overflow": "grow"},
}


@pytest.mark.parametrize("awaited", [False, True], ids=["called", "awaited"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behave", BEHAVIOURS, ids=lambda function: function.__name__)
def test_each_kind_of_queue_delivers(make: Make, behave: Behaviour, kind: str, awaited: bool) -> None:
    def factory(**parameters: Any) -> Any:
        q = make(**KINDS[kind], **parameters)
        return Awaited(q) if awaited else q

    behave(factory)
