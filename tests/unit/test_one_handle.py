"""Many threads on one handle: leases, loans, views and the pickler are shared. With `PYTHON_GIL=0` they really run at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import shmq
from shmq.executor import Executor

Make = Callable[..., shmq.Queue]
THREADS = 8
LONG = 60.0


def in_threads(work: Callable[[int], object], count: int = THREADS) -> None:
    """Run it in so many threads at once; raise what the first one of them raised."""
    errors: list[BaseException] = []
    together = threading.Barrier(count)

    def run(number: int) -> None:
        together.wait(LONG)
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    if errors:
        raise errors[0]


def nothing_is_held(queue: shmq.Queue) -> None:
    with shmq.Queue.attach(queue.name) as other:
        queue.close()
        assert len(other._ports()) == 1, "the port is still attached"
        assert [cell for cell in other._cells() if cell[0] not in ("spare", "warm", "idle")] == []
        shmq.verify(other)


def test_threads_that_put_take_lease_and_lend_leave_nothing_behind(make: Make) -> None:
    q = make(slots=64, slot_size=256, oversize="spill", in_flight=128)

    def work(number: int) -> None:
        for n in range(400):
            q.put((number, n, "x" * (400 if n % 50 == 0 else 5)))
            if n % 3 == 0:
                with q.receive() as lease:
                    lease.data  # noqa: B018
            elif n % 3 == 1:
                q.get()
            else:
                lease = q.receive()
                array = lease.array
                lease.ack()
                del array, lease
            if n % 10 == 0:
                with q.loan(16) as view:
                    view[:] = bytes(16)
                q.get()

    in_threads(work)
    assert q.empty()
    nothing_is_held(q)


@pytest.mark.parametrize("how", ["ack", "nack", "release", "reject"])
def test_of_threads_that_settle_one_lease_one_does(make: Make, how: str) -> None:
    q = make(slots=4, slot_size=64, max_deliveries=0)
    for _ in range(60):
        q.put(b"x")
        lease = q.receive()
        lost: list[int] = []

        def settle(number: int, lease: Any = lease, lost: list[int] = lost) -> None:
            try:
                getattr(lease, how)()
            except shmq.LeaseLost:
                lost.append(number)

        in_threads(settle, 4)
        assert len(lost) == 3
        del lease, settle
        q.purge()
    q.dead_letters.purge()
    nothing_is_held(q)


def test_a_loan_is_published_once_and_its_id_is_no_other_messages(make: Make) -> None:
    q = make(slots=256, slot_size=64, in_flight=128)
    for _ in range(20):
        loans = [q.loan(8) for _ in range(4)]

        def publish(number: int, loans: list[Any] = loans) -> None:
            q.put(b"put")
            try:
                loans[number % 4].publish()
            except shmq.LeaseLost:
                q.put(b"put")

        in_threads(publish)
        leases = q.receive_many(16, timeout=0)
        assert len({lease.id for lease in leases}) == len(leases) == 16
        for lease in leases:
            lease.ack()
        del lease, leases, loans, publish
    nothing_is_held(q)


def test_views_of_one_lease_in_many_threads_keep_it_until_the_last_is_gone(make: Make) -> None:
    q = make(slots=4, slot_size=64)
    for _ in range(20):
        q.put(b"message")
        lease = q.receive()

        def look(number: int, lease: Any = lease) -> None:
            for _ in range(20):
                try:
                    view = memoryview(lease)
                except shmq.LeaseLost:
                    return
                assert bytes(view) == b"message"
                if number == 0:
                    lease.ack() if not lease.settled else None
                del view

        in_threads(look)
        assert lease.settled
        del lease, look
    nothing_is_held(q)


def itself(thing: Any) -> Any:
    return thing


def test_threads_that_submit_to_one_executor_get_their_own_results() -> None:
    with Executor(2) as pool:

        def submit(number: int) -> None:
            futures = [pool.submit(itself, (number, n, "y" * (n % 70))) for n in range(100)]
            assert [future.result(LONG)[:2] for future in futures] == [(number, n) for n in range(100)]

        in_threads(submit, 6)
