"""Holdings: who holds what since when, what is logged when somebody waits for it, and verify while others are at work."""

from __future__ import annotations

import logging
import mmap
import os
import re
import signal
import struct
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import shmq
from shmq import _core
from shmq._observe.holders import UNKNOWN, attached_report, holders_report
from shmq._observe.holdings import holdings_of
from support.processes import Children, is_stopped, wait_until
from support.shared_memory import PREFIX

Make = Callable[..., shmq.Queue]
LONG = 60.0
TICK = 0.02  # seconds that the kernel's coarse clock may lag behind


@pytest.fixture(params=[256, 4096], ids=["small slots", "large slots"])
def q(request: pytest.FixtureRequest, make: Make) -> shmq.Queue:
    return make(slots=8, slot_size=request.param, in_flight=8)


# -- leases() ------------------------------------------------------------------------------------------------------------------


def test_of_an_idle_queue_nobody_holds_anything(q: shmq.Queue) -> None:
    assert q.leases() == []
    q.put("x")
    assert q.leases() == []
    q.receive(timeout=0).nack()
    assert q.leases() == []  # what came back is nobody's


def test_a_holding_tells_who_what_since_when_and_until_when(q: shmq.Queue) -> None:
    q.put(b"12345")
    q.receive(timeout=0).nack()
    before = time.monotonic()
    lease = q.receive(timeout=0, lease_timeout=50)
    after = time.monotonic()
    (held,) = q.leases()
    assert (held.state, held.pid, held.message_id, held.delivery_count, held.nbytes) == ("leased", os.getpid(), lease.id, 2, 5)
    assert held.process.startswith(f"pid {os.getpid()} (") and held.begun
    assert before - TICK <= held.since <= after
    assert held.expires_at == lease.expires_at
    assert 0 <= held.held_for <= time.monotonic() - before + 2 * TICK
    lease.ack()
    assert q.leases() == []


def test_the_age_grows(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0)
    first = q.leases()[0].held_for
    time.sleep(0.05)
    assert q.leases()[0].held_for >= first + 0.04
    lease.ack()


def test_an_extension_shows_and_changes_nothing_else(q: shmq.Queue) -> None:
    q.put("x")
    lease = q.receive(timeout=0)
    (before,) = q.leases()
    assert before.expires_at is None
    lease.extend(50)
    (held,) = q.leases()
    assert held.expires_at == lease.expires_at and held.since == before.since
    lease.ack()


def test_each_state_is_told(q: shmq.Queue) -> None:
    q.put(np.arange(4, dtype="u1"))
    q.put(b"leased")
    acked = q.receive(timeout=0)
    view = acked.array
    acked.ack()
    lease, loan = q.receive(timeout=0), q.loan(10)
    held = {holding.state: holding for holding in q.leases()}
    assert sorted(held) == ["held", "leased", "loaned"]
    assert (held["held"].nbytes, held["leased"].nbytes, held["loaned"].nbytes) == (4, 6, 0)
    assert held["held"].message_id == acked.id
    assert (held["loaned"].message_id, held["loaned"].since, held["loaned"].held_for) == (0, 0.0, 0.0)
    lease.ack()
    loan.abandon()
    del view, acked
    assert q.leases() == []


def test_a_spilled_message_tells_the_size_of_its_payload(make: Make) -> None:
    queue = make(slots=4, slot_size=64, oversize="spill")
    queue.put(b"x" * 5000)
    lease = queue.receive(timeout=0)
    assert queue.leases()[0].nbytes == lease.nbytes == 5000
    lease.ack()


def hold(q: shmq.Queue, count: int, ready: Any) -> None:
    leases = q.receive_many(count, timeout=LONG)
    assert leases[0].data is not None
    ready.send(os.getpid())
    ready.recv()
    for lease in leases:
        lease.ack()


def test_holdings_of_several_processes_are_told_longest_first(q: shmq.Queue, children: Children) -> None:
    q.put_many(range(6))
    pipes = []
    for count in (1, 3):
        ours, theirs = children.context.Pipe()
        children.start(hold, q, count, theirs)
        assert ours.poll(LONG)
        pipes.append((ours, ours.recv()))
        time.sleep(2 * TICK)
    mine = q.receive(timeout=0)
    held = q.leases()
    first, second = (pid for _, pid in pipes)
    assert [holding.pid for holding in held] == [first, second, second, second, os.getpid()]
    assert [holding.begun for holding in held].count(True) == 3 and not all(holding.begun for holding in held)
    assert all(f"pid {holding.pid} (" in holding.process for holding in held)
    assert [holding.since for holding in held] == sorted(holding.since for holding in held)
    mine.ack()
    for connection, _ in pipes:
        connection.send("go on")
    children.join()
    assert q.leases() == [] and q.get(timeout=0) == 5


def test_a_holder_that_was_killed_is_told_until_it_is_taken_back(q: shmq.Queue, children: Children) -> None:
    q.put("x")
    ours, theirs = children.context.Pipe()
    child = children.start(hold, q, 1, theirs)
    assert ours.poll(LONG) and ours.recv() == child.pid
    children.kill()
    assert [holding.pid for holding in q.leases()] == [child.pid]
    assert q._reap() == 1
    assert q.leases() == []


def test_holdings_of_a_closed_handle_cannot_be_told(q: shmq.Queue) -> None:
    q.close()
    with pytest.raises(shmq.Closed):
        q.leases()


def churn(q: shmq.Queue, until: float) -> None:
    while time.monotonic() < until:
        try:
            q.put(b"x" * 10, timeout=0.01)
            lease = q.receive(timeout=0.01, lease_timeout=5)
            (lease.ack, lease.release, lease.nack)[lease.id % 3]()
        except (shmq.Full, shmq.Empty, shmq.InFlightLimit):
            pass


def test_holdings_of_a_queue_at_work_are_always_plausible(q: shmq.Queue, children: Children) -> None:
    until = time.monotonic() + 0.3
    pids = {children.start(churn, q, until).pid for _ in range(2)}
    while time.monotonic() < until:
        for held in q.leases():
            assert held.state == "leased" and held.nbytes in (0, 10) and held.delivery_count >= 1
            assert held.pid in pids
            assert held.expires_at is None or held.expires_at < time.monotonic() + 6
    children.join()
    q.drain()


# -- stalls --------------------------------------------------------------------------------------------------------------------


def poke(queue: shmq.Queue, change: Callable[[mmap.mmap, int, int], None]) -> None:
    """Change a queue's file behind everybody's back; `change` gets the memory and the offsets of in-flight and ring cells."""
    with open(f"/dev/shm/{PREFIX}{queue.name}", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        _, cells, ports = struct.unpack_from("<III", memory, 40)
        cells_at = 1024 + 128 * ports
        change(memory, cells_at, cells_at + 64 * cells)


STATES = 7 << 34


def occupy_reserved(memory: mmap.mmap, cells_at: int, ring_at: int) -> None:
    """The two cells that large slots leave to put and get, as if somebody's long copies were going on in them."""
    for cell in range(2):
        (word,) = struct.unpack_from("<Q", memory, cells_at + 64 * cell)
        struct.pack_into("<Q", memory, cells_at + 64 * cell, word & ~STATES & ~(1023 << 24) | 3 << 34)


def free_reserved(memory: mmap.mmap, cells_at: int, ring_at: int) -> None:
    for cell in range(2):
        (word,) = struct.unpack_from("<Q", memory, cells_at + 64 * cell)
        struct.pack_into("<Q", memory, cells_at + 64 * cell, word & ~STATES | 1023 << 24)


def test_a_stall_is_logged_once_for_each_call_with_those_who_could_end_it(
    make: Make, caplog: pytest.LogCaptureFixture, children: Children
) -> None:
    full, no_cells, starved = make(slots=1, slot_size=64), make(slots=4, slot_size=4096, in_flight=1), make(slots=4, slot_size=64)
    full.put("first")
    loan = no_cells.loan(1)
    poke(no_cells, occupy_reserved)
    threads = [threading.Thread(target=queue.put, args=("x",)) for queue in (full, no_cells)]
    threads.append(threading.Thread(target=starved.get))
    with caplog.at_level(logging.INFO, "shmq"):
        for thread in threads:
            thread.start()
        wait_until(lambda: len(caplog.records) >= 2, 20)
        time.sleep(0.7)
    starved.put("x")
    assert full.get(timeout=LONG) == "first"
    poke(no_cells, free_reserved)
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2 and all(record.levelname == "WARNING" for record in caplog.records)
    (of_full,) = (text for text in texts if full.name in text)
    (of_cells,) = (text for text in texts if no_cells.name in text)
    assert "waiting for 5 s" in of_full and "is full" in of_full and f"pid {os.getpid()}" in of_full
    assert "every in-flight cell" in of_cells and "loaned by pid" in of_cells
    assert full.get(timeout=LONG) == "x" and no_cells.get(timeout=LONG) == "x"
    loan.abandon()
    shmq.verify(no_cells)


# -- the report of InFlightLimit -----------------------------------------------------------------------------------------------

AS_OF = re.compile(
    r"every in-flight cell of queue '[^']*' (is|was) in use \(in_flight=(\d+)\): (.+?)(; the oldest lease is .*)?\. Ack or "
)


def told(queue: shmq.Queue) -> tuple[str, list[str]]:
    """Whether every cell is or was in use, and each part of what the report says about them."""
    found = AS_OF.match(holders_report(queue))
    assert found, holders_report(queue)
    return found[1], re.split(r", (?=\d+ )", found[3])


def test_a_report_of_holders_who_have_all_given_back_says_so(q: shmq.Queue) -> None:
    assert told(q) == ("was", ["8 given back while this was written"])


def test_a_report_names_what_holds_each_cell_and_how_many_were_given_back(q: shmq.Queue) -> None:
    q.put_many(range(5))
    loan, lease, acked = q.loan(10), q.receive(timeout=0), q.receive(timeout=0)
    view = acked.view
    acked.ack()
    q.receive(timeout=0).nack(delay=3600)
    verb, parts = told(q)
    assert verb == "was" and sum(int(part.partition(" ")[0]) for part in parts) == 8
    assert [re.sub(r"pid \d+ \(.*\)", "pid", part) for part in sorted(parts)] == [
        "1 held by pid",
        "1 leased by pid",
        "1 loaned by pid",
        "1 with messages that came back, and are due or rest",
        "4 given back while this was written",
    ]
    loans = [q.loan(10) for _ in range(4)]
    assert told(q)[0] == "is"
    with pytest.raises(shmq.InFlightLimit, match=re.escape(holders_report(q)[:60])):
        q.loan(10)
    for one in [*loans, loan]:
        one.abandon()
    lease.ack()
    del view, acked


def test_a_report_names_the_process_whose_call_has_a_cell(q: shmq.Queue) -> None:
    at = 1024 + 128 * q.segment.ports + 64 * (len(q._cells()) - 1)
    with open(f"/dev/shm/{PREFIX}{q.name}", "r+b", buffering=0) as file:
        before = os.pread(file.fileno(), 8, at)
        (word,) = struct.unpack("<Q", before)
        idle = (word & ~(0x1FFF << 24)) | 2 << 34 | q._ports()[0].number << 24
        os.pwrite(file.fileno(), struct.pack("<Q", idle), at)
        verb, (call, free) = told(q)
        os.pwrite(file.fileno(), before, at)
    assert verb == "was" and free.startswith("7 given back")
    assert call.startswith(f"1 in a call by pid {os.getpid()} (")


def test_a_holder_that_left_before_it_could_be_named_is_counted() -> None:
    cells = [_core.Cell("leased", owner, owner, 1.0) for owner in range(7)]
    assert told(pretended(cells, in_flight=7)) == ("is", [f"7 leased by {UNKNOWN}"])


def test_a_process_that_attaches_after_the_look_is_not_named_as_the_holder(make: Make) -> None:
    """The cells are looked at before the ports."""
    order: list[str] = []
    port = pretended([], in_flight=0, order=order)
    holders_report(port)
    holdings_of(port)
    assert order == ["cells", "processes", "occupied", "processes"]


def test_where_all_have_left_a_report_of_the_attached_says_so() -> None:
    assert attached_report(pretended([], in_flight=0)) == "processes that have just left"


def pretended(cells: list[Any], in_flight: int, order: list[str] | None = None) -> Any:
    """What looks like a queue with these cells, and nobody attached."""
    order = [] if order is None else order
    return SimpleNamespace(
        name="pretended",
        segment=SimpleNamespace(config=SimpleNamespace(in_flight=in_flight)),
        _cells=lambda: order.append("cells") or cells,
        _occupied=lambda: order.append("occupied") or [],
        _processes=lambda: order.append("processes") or {},
    )


# -- verify while others work --------------------------------------------------------------------------------------------------


def produce(q: shmq.Queue, stop: shmq.Queue) -> None:
    number = 0
    while stop.empty():
        try:
            q.put(number, timeout=0.01)
            q.put_many(range(5), timeout=0)
            number += 1
        except shmq.Full:
            pass


def consume(q: shmq.Queue, stop: shmq.Queue) -> None:
    number = 0
    while stop.empty():
        try:
            number += 1
            if number % 3 == 0:
                q.get_many(4, timeout=0.01)
            elif number % 3 == 1:
                q.get(timeout=0.01)
            else:
                lease = q.receive(timeout=0.01, lease_timeout=(None, 0.0001, 5)[number % 7 % 3])
                if number % 5:
                    lease.ack()
                else:
                    lease.release()
        except (shmq.Empty, shmq.LeaseLost, shmq.InFlightLimit):
            pass


def hammer(q: shmq.Queue, stop: shmq.Queue, children: Children) -> list[Any]:
    workers = [children.start(work, q, stop) for work in (produce, produce, consume, consume)]
    wait_until(lambda: q.stats().puts > 100 and q.stats().acks > 5)
    return workers


def test_verify_of_a_queue_at_work_finds_nothing(q: shmq.Queue, make: Make, children: Children) -> None:
    stop = make(slots=2, slot_size=64)
    hammer(q, stop, children)
    for _ in range(300):
        shmq.verify(q)
    stop.put("stop")
    children.join()
    shmq.verify(q)
    stop.drain()


def test_verify_finds_nothing_whatever_a_process_was_stopped_in(q: shmq.Queue, make: Make, children: Children) -> None:
    stop = make(slots=2, slot_size=64)
    workers = hammer(q, stop, children)
    caught = 0
    begun = time.monotonic()
    while caught == 0 or (caught < 5 and time.monotonic() < begun + 0.5):
        assert time.monotonic() < begun + LONG, "never stopped in the middle of an exchange"
        worker = workers[caught % 4]
        os.kill(worker.pid, signal.SIGSTOP)
        wait_until(lambda pid=worker.pid: is_stopped(pid))
        in_exchange = any(is_open for _, _, pid, _, is_open in q._ports() if pid == worker.pid)
        caught += in_exchange
        shmq.verify(q)
        os.kill(worker.pid, signal.SIGCONT)
        time.sleep(0.0005)
    stop.put("stop")
    children.join()
    shmq.verify(q)
    stop.drain()


def test_verify_finds_damage_while_others_work(make: Make, children: Children) -> None:
    """Of a slot in a cell of a port that nobody has: the work goes on around it."""
    queue, stop = make(slots=8, slot_size=256, in_flight=8, ports=8), make(slots=2, slot_size=64)
    hammer(queue, stop, children)

    def damage(memory: mmap.mmap, cells_at: int, ring_at: int) -> None:
        at = cells_at + 64 * 7  # the kept cell of a port that is not attached
        (word,) = struct.unpack_from("<Q", memory, at)
        struct.pack_into("<Q", memory, at, word & ~STATES & ~(1023 << 24) | 4 << 34 | 7 << 24)  # leased by it

    poke(queue, damage)
    with pytest.raises(shmq.SegmentCorrupt, match="owner 7"):
        shmq.verify(queue)
    stop.put("stop")
    children.join()
    stop.drain()
