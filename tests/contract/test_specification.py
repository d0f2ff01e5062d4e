"""Random histories of one queue against its specification in specification.py; every invariant is looked at after every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from specification import Message, Model

import shmq

Make = Callable[..., shmq.Queue]
GEOMETRIES: dict[str, dict[str, Any]] = {
    "1 small slot": {"slots": 1, "slot_size": 64, "in_flight": 1},
    "2 small slots": {"slots": 2, "slot_size": 64, "in_flight": 2},
    "5 small slots": {"slots": 5, "slot_size": 64, "in_flight": 3},
    "1 large slot": {"slots": 1, "slot_size": 4096, "in_flight": 2},
    "5 large slots": {"slots": 5, "slot_size": 4096, "in_flight": 1},
    "spills": {"slots": 2, "slot_size": 64, "in_flight": 3, "oversize": "spill"},
}
geometries = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)

KINDS: dict[str, Callable[[int], Any]] = {
    "bytes": lambda n: b"%d" % n * (n % 4 + 1),
    "bytearray": lambda n: bytearray(b"%d" % n),
    "text": lambda n: f"№ {n}",
    "array": lambda n: np.array([[n, 1], [2, 3]], "i2"),
    "fortran": lambda n: np.array([[n, 1, 2], [3, 4, 5]], "f4", order="F"),
    "number": lambda n: n,
    "object": lambda n: {"n": n},
}
contents = st.sampled_from(sorted(KINDS))
which = st.integers(0, 7)
yes_or_no = st.booleans()


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    return bool(np.array_equal(one, other) and one.dtype == other.dtype if isinstance(one, np.ndarray) else one == other)


def expected_of(call: Callable[[], Any]) -> tuple[Any, type[Exception] | None]:
    """What the model returns, or the class that it raises."""
    try:
        return call(), None
    except shmq.ShmqError as error:
        return None, type(error)


class Machine(RuleBasedStateMachine):
    """Two handles on one queue in one process, what they hold, and the model of it."""

    def __init__(self, make: Make, geometry: dict[str, Any]) -> None:
        super().__init__()
        self.queue = make(ports=8, **{"oversize": "error", **geometry})
        self.spills = geometry.get("oversize") == "spill"
        self.model = Model(geometry["slots"], geometry["in_flight"])
        self.handles = [self.queue, shmq.Queue.attach(self.queue.name)]
        self.leases: list[tuple[shmq.Lease, Message, list[Any]]] = []  # with the views of each
        self.loans: list[tuple[shmq.Loan, Message]] = []
        self.held: list[tuple[list[Any], Message]] = []  # views that outlived their lease's ack
        self.ids: dict[Message, int] = {}
        self.made = 0

    def teardown(self) -> None:
        self.leases.clear()
        self.loans.clear()
        self.held.clear()
        for handle in self.handles:
            handle.close()
        if self.queue.name in shmq.list_segments():
            shmq.unlink(self.queue.name)

    def new(self, kind: str) -> Message:
        self.made += 1
        if self.spills and self.made % 3 == 0:
            return Message(b"%d " % self.made * 100)
        return Message(KINDS[kind](self.made))

    def handle(self, index: int) -> shmq.Queue:
        return self.handles[index % 2]

    def check(self, expected: type[Exception] | None, call: Callable[[], Any]) -> Any:
        """Make the call; it must raise what the model raised, or nothing."""
        if expected is None:
            return call()
        with pytest.raises(expected):
            call()
        return None

    def expected(self, content: Any, message: Message) -> Message:
        assert same(message.content, content), f"got {content!r}, expected {message}"
        return message

    # -- put and get -----------------------------------------------------------------------------------------------

    @rule(index=which, kind=contents)
    def put(self, index: int, kind: str) -> None:
        message = self.new(kind)
        _, error = expected_of(lambda: self.model.put(message))
        self.check(error, lambda: self.handle(index).put(message.content, timeout=0))

    @rule(index=which, kinds=st.lists(contents, max_size=7))
    def put_many(self, index: int, kinds: list[str]) -> None:
        messages = [self.new(kind) for kind in kinds]
        count, error = expected_of(lambda: self.model.put_many(messages))
        assert self.check(error, lambda: self.handle(index).put_many([m.content for m in messages], timeout=0)) == count

    @rule(index=which)
    def put_too_large(self, index: int) -> None:
        if not self.spills:
            handle = self.handle(index)
            with pytest.raises(shmq.MessageTooLarge):
                handle.put(bytes(handle.slot_size + 1), timeout=0)

    @rule(index=which)
    def get(self, index: int) -> None:
        message, error = expected_of(self.model.next)
        content = self.check(error, lambda: self.handle(index).get(timeout=0))
        if error is None:
            self.model.get(self.expected(content, message))

    @rule(index=which, most=st.integers(1, 7))
    def get_many(self, index: int, most: int) -> None:
        bounds, error = expected_of(lambda: self.model.batch(most))
        batch = self.check(error, lambda: self.handle(index).get_many(most, timeout=0))
        if error is None:
            assert bounds[0] <= len(batch) <= bounds[1]
            for content in batch:
                self.model.get(self.expected(content, self.model.next()))

    # -- leases ----------------------------------------------------------------------------------------------------

    def leased(self, lease: shmq.Lease, message: Message) -> None:
        self.model.receive(self.expected(lease.data, message))
        assert lease.delivery_count == message.failed + 1
        assert self.ids.setdefault(message, lease.id) == lease.id
        self.leases.append((lease, message, []))

    @rule(index=which)
    def receive(self, index: int) -> None:
        message, error = expected_of(lambda: self.model.next(lease=True))
        lease = self.check(error, lambda: self.handle(index).receive(timeout=0))
        if error is None:
            self.leased(lease, message)

    @rule(index=which, most=st.integers(1, 4))
    def receive_many(self, index: int, most: int) -> None:
        _, error = expected_of(lambda: self.model.next(lease=True))
        leases = self.check(error, lambda: self.handle(index).receive_many(most, timeout=0))
        if error is None:
            assert 1 <= len(leases) <= most
            for lease in leases:
                self.leased(lease, self.model.next(lease=True))

    @precondition(lambda self: self.leases)
    @rule(index=which)
    def look(self, index: int) -> None:
        lease, _, views = self.leases[index % len(self.leases)]
        views.append(lease.array if index % 2 else lease.view)

    @precondition(lambda self: self.leases)
    @rule(index=which, twice=yes_or_no)
    def ack(self, index: int, twice: bool) -> None:
        lease, message, views = self.leases.pop(index % len(self.leases))
        lease.ack()
        self.model.ack(message, looking=bool(views))
        if views:
            self.held.append((views, message))
        if twice:
            with pytest.raises(shmq.LeaseLost):
                lease.ack()

    @precondition(lambda self: self.leases)
    @rule(index=which, how=st.sampled_from(["nack", "release", "drop"]))
    def give_back(self, index: int, how: str) -> None:
        lease, message, views = self.leases.pop(index % len(self.leases))
        views.clear()
        if how == "drop":
            del lease
        else:
            getattr(lease, how)()
            with pytest.raises(shmq.LeaseLost):
                lease.nack()
        self.model.give_back(message, failed=how != "release")

    @precondition(lambda self: self.held)
    @rule(index=which)
    def look_away(self, index: int) -> None:
        self.held.pop(index % len(self.held))
        self.model.held -= 1

    # -- loans -----------------------------------------------------------------------------------------------------

    @rule(index=which, array=yes_or_no)
    def loan(self, index: int, array: bool) -> None:
        message = self.new("array" if array else "bytes")
        if isinstance(message.content, bytes) and len(message.content) > self.queue.slot_size:
            message = Message(message.content[: self.queue.slot_size])
        content, handle = message.content, self.handle(index)
        _, error = expected_of(self.model.loan)
        if isinstance(content, bytes):
            loan = self.check(error, lambda: handle.loan(len(content)))
        else:
            loan = self.check(error, lambda: handle.loan(content.shape, content.dtype))
        if error is None:
            (loan.view if isinstance(content, bytes) else loan.array)[:] = content
            self.loans.append((loan, message))

    @precondition(lambda self: self.loans)
    @rule(index=which)
    def publish(self, index: int) -> None:
        loan, message = self.loans[index % len(self.loans)]
        _, error = expected_of(lambda: self.model.publish(message))
        self.check(error, lambda: loan.publish(timeout=0))
        if error is None:
            self.loans.pop(index % len(self.loans))
            with pytest.raises(shmq.LeaseLost):
                loan.publish(timeout=0)

    @precondition(lambda self: self.loans)
    @rule(index=which, drop=yes_or_no)
    def abandon(self, index: int, drop: bool) -> None:
        loan, _ = self.loans.pop(index % len(self.loans))
        if not drop:
            loan.abandon()
        self.model.loaned -= 1

    # -- operating -------------------------------------------------------------------------------------------------

    @rule(index=which, n=st.integers(0, 6))
    def peek(self, index: int, n: int) -> None:
        seen = self.handle(index).peek(n)
        assert len(seen) == min(n, len(self.model.ring))
        assert all(same(content, message.content) for content, message in zip(seen, self.model.ring, strict=False))

    @rule(index=which)
    def purge(self, index: int) -> None:
        waiting = self.model.returned + self.model.ring
        assert self.handle(index).purge() == len(waiting)
        for message in waiting:
            self.model.get(message)

    @rule(index=which)
    def drain(self, index: int) -> None:
        for content in self.handle(index).drain():
            self.model.get(self.expected(content, self.model.next()))
        assert not self.model.ring
        assert not self.model.returned

    @rule(index=which)
    def close_and_attach(self, index: int) -> None:
        """Leases, loans and views of the closed handle go on."""
        name = self.handle(index).name
        self.handle(index).close()
        self.handles[index % 2] = shmq.Queue.attach(name)

    # -- after every step --------------------------------------------------------------------------------------------

    @invariant()
    def counts_are_the_models(self) -> None:
        model, stats = self.model, self.handles[0].stats()
        assert (stats.ready, stats.leased, stats.loaned, stats.held, stats.returned) == (
            len(model.ring),
            len(model.leased),
            model.loaned,
            model.held,
            len(model.returned),
        )
        assert (stats.puts, stats.nacks, stats.redeliveries) == (model.puts, model.nacks, model.redeliveries)
        assert (stats.gets + stats.receives, stats.gets + stats.acks) == (model.taken, model.gone)
        for handle in self.handles:
            assert handle.qsize() == len(model.ring)
            assert handle.empty() == (not model.ring and not model.returned)
            assert handle.full() == (len(model.ring) == model.slots)

    @invariant()
    def every_slot_is_in_one_place(self) -> None:
        shmq.verify(self.handles[1])

    @invariant()
    def what_is_looked_at_does_not_change(self) -> None:
        for views, message in [(views, message) for _, message, views in self.leases] + self.held:
            content = message.content
            for view in views:
                if isinstance(content, np.ndarray):
                    assert np.asarray(view).tobytes(order="A") == content.tobytes(order="A")
                elif isinstance(content, bytes | bytearray):
                    assert bytes(view) == content
                elif isinstance(content, str):
                    assert bytes(view).decode() == content


def run(make: Make, geometry: dict[str, Any], **values: Any) -> None:
    profile = settings(deadline=None, database=None, print_blob=False, suppress_health_check=list(HealthCheck), **values)
    run_state_machine_as_test(lambda: Machine(make, geometry), settings=profile)  # type: ignore[no-untyped-call]


@geometries
def test_a_queue_does_what_its_specification_says(make: Make, geometry: dict[str, Any]) -> None:
    run(make, geometry, max_examples=25, stateful_step_count=40, derandomize=True)


@pytest.mark.stress
@geometries
def test_a_queue_does_what_its_specification_says_for_long(make: Make, geometry: dict[str, Any]) -> None:
    run(make, geometry, max_examples=500, stateful_step_count=100)
