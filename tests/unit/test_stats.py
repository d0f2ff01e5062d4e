"""What can be seen of a queue: counts, holders, sleepers, and whether its invariants hold."""

from __future__ import annotations

import dataclasses
import mmap
import os
import signal
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmq
from support.processes import Children, wait_until
from support.shared_memory import PREFIX

Make = Callable[..., shmq.Queue]
SLOT_MASK = (1 << 24) - 1  # format/queue.h: the low bits of every cell


def numbers(queue: shmq.Queue, *fields: str) -> tuple[int, ...]:
    stats = queue.stats()
    return tuple(getattr(stats, field) for field in fields)


# -- one number at a time ------------------------------------------------------------------------------------------------------


def test_a_new_queue_has_counted_nothing(make: Make) -> None:
    queue = make(slots=16, slot_size=256, in_flight=5)
    assert dataclasses.asdict(queue.stats()) == {
        "name": queue.name,
        "capacity": 16,
        "slot_size": 256,
        "in_flight_limit": 5,
        "ports": 1,
        **dict.fromkeys(("ready", "backlog", "leased", "loaned", "held", "returned"), 0),
        **dict.fromkeys(("puts", "gets", "receives", "acks", "nacks", "redeliveries"), 0),
        **dict.fromkeys(("expired", "deaths", "dead_lettered", "dead_letters"), 0),
        **dict.fromkeys(("waiting_consumers", "waiting_producers"), 0),
    }


def test_the_numbers_cannot_be_changed(queue: shmq.Queue) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        queue.stats().puts = 5  # type: ignore[misc]


def test_puts_and_ready_count_what_was_put(queue: shmq.Queue) -> None:
    queue.put(b"a")
    queue.put_nowait(b"b")
    queue.put_many([b"c", b"d", b"e"])
    assert numbers(queue, "puts", "ready", "gets") == (5, 5, 0)


def test_gets_count_what_was_taken(queue: shmq.Queue) -> None:
    queue.put_many([b"x"] * 6)
    queue.get()
    queue.get_nowait()
    queue.get_many(3)
    assert numbers(queue, "gets", "ready", "receives", "acks") == (5, 1, 0, 0)


def test_a_failed_put_and_a_failed_get_count_nothing(make: Make) -> None:
    queue = make(slots=1, slot_size=8, oversize="error")
    with pytest.raises(shmq.Empty):
        queue.get_nowait()
    queue.put(b"x")
    with pytest.raises(shmq.Full):
        queue.put_nowait(b"y")
    with pytest.raises(shmq.MessageTooLarge):
        queue.put(bytes(9))
    assert numbers(queue, "puts", "gets") == (1, 0)


def test_peek_counts_nothing(queue: shmq.Queue) -> None:
    queue.put(b"x")
    queue.peek(5)
    assert numbers(queue, "gets", "receives", "ready") == (0, 0, 1)


def test_a_published_loan_counts_as_a_put(queue: shmq.Queue) -> None:
    with queue.loan(4) as view:
        assert numbers(queue, "loaned", "puts", "ready") == (1, 0, 0)
        view[:] = b"loan"
    assert numbers(queue, "loaned", "puts", "ready") == (0, 1, 1)


def test_an_abandoned_loan_counts_nothing(queue: shmq.Queue) -> None:
    queue.loan(4).abandon()
    assert numbers(queue, "loaned", "puts", "ready") == (0, 0, 0)


def test_a_lease_is_counted_until_it_is_acked(queue: shmq.Queue) -> None:
    queue.put(b"x")
    lease = queue.receive(timeout=0)
    assert numbers(queue, "receives", "leased", "ready", "acks") == (1, 1, 0, 0)
    lease.ack()
    assert numbers(queue, "receives", "leased", "ready", "acks") == (1, 0, 0, 1)


def test_receive_many_counts_each_message(queue: shmq.Queue) -> None:
    queue.put_many([b"x"] * 3)
    leases = queue.receive_many(5, timeout=0)
    assert numbers(queue, "receives", "leased") == (3, 3)
    for lease in leases:
        lease.ack()
    assert numbers(queue, "leased", "acks") == (0, 3)


def test_a_nacked_message_is_returned_and_then_redelivered(queue: shmq.Queue) -> None:
    queue.put(b"x")
    queue.receive(timeout=0).nack()
    assert numbers(queue, "nacks", "returned", "leased", "ready", "redeliveries") == (1, 1, 0, 0, 0)
    with queue.receive(timeout=0) as lease:
        assert lease.delivery_count == 2
        assert numbers(queue, "returned", "leased", "redeliveries", "receives") == (0, 1, 1, 2)
    assert numbers(queue, "acks", "nacks") == (1, 1)


def test_a_released_message_is_returned_without_a_nack(queue: shmq.Queue) -> None:
    queue.put(b"x")
    queue.receive(timeout=0).release()
    assert numbers(queue, "nacks", "returned", "acks") == (0, 1, 0)
    assert queue.receive(timeout=0).delivery_count == 1


def test_a_returned_message_that_is_got_counts_as_get_and_redelivery(queue: shmq.Queue) -> None:
    queue.put(b"x")
    queue.receive(timeout=0).nack()
    assert queue.get_nowait() == b"x"
    assert numbers(queue, "gets", "redeliveries", "returned") == (1, 1, 0)


def test_a_dropped_lease_counts_as_a_nack(queue: shmq.Queue) -> None:
    queue.put(b"x")
    queue.receive(timeout=0)
    assert numbers(queue, "nacks", "returned", "leased") == (1, 1, 0)


def test_an_acked_message_is_held_while_it_is_viewed(queue: shmq.Queue) -> None:
    queue.put(np.arange(4))
    with queue.receive(timeout=0) as lease:
        array = lease.array
    del lease
    assert numbers(queue, "held", "leased", "acks") == (1, 0, 1)
    assert array[3] == 3
    del array
    assert numbers(queue, "held") == (0,)


def test_purge_and_drain_count_what_they_take(queue: shmq.Queue) -> None:
    queue.put_many([b"x"] * 4)
    queue.receive(timeout=0).release()
    assert queue.purge() == 4
    assert numbers(queue, "ready", "returned", "acks") == (0, 0, 4)
    queue.put_many([b"y"] * 3)
    assert queue.drain() == [b"y"] * 3
    assert numbers(queue, "ready", "gets", "puts") == (0, 3, 7)


def test_the_numbers_hold_for_large_slots_too(make: Make) -> None:
    queue = make(slots=4, slot_size=8192, in_flight=3)
    queue.put_many([bytes(8192)] * 3)
    lease = queue.receive(timeout=0)
    loan = queue.loan(100)
    assert numbers(queue, "ready", "leased", "loaned", "in_flight_limit") == (2, 1, 1, 3)
    lease.nack()
    loan.abandon()
    assert numbers(queue, "ready", "leased", "loaned", "returned") == (2, 0, 0, 1)


# -- over handles and processes ------------------------------------------------------------------------------------------------


def test_ports_count_the_attached_handles(queue: shmq.Queue) -> None:
    with shmq.Queue.attach(queue.name), shmq.Queue.attach(queue.name):
        assert numbers(queue, "ports") == (3,)
    assert numbers(queue, "ports") == (1,)


def test_all_handles_see_the_same_numbers(queue: shmq.Queue) -> None:
    with shmq.Queue.attach(queue.name) as other:
        queue.put_many([b"x"] * 3)
        other.get()
        lease = other.receive(timeout=0)
        assert queue.stats() == other.stats()
        lease.ack()


def test_counters_survive_the_handle_that_counted(queue: shmq.Queue) -> None:
    with shmq.Queue.attach(queue.name) as other:
        other.put_many([b"x"] * 3)
        other.get()
        other.receive(timeout=0).nack()
        other.receive(timeout=0).ack()
    assert numbers(queue, "puts", "gets", "receives", "nacks", "redeliveries", "acks") == (3, 1, 2, 1, 1, 1)


def test_a_handle_that_is_closed_with_a_lease_keeps_it_until_it_is_settled(queue: shmq.Queue) -> None:
    other = shmq.Queue.attach(queue.name)
    queue.put(b"x")
    lease = other.receive(timeout=0)
    other.close()
    assert numbers(queue, "leased", "ports") == (1, 2)
    lease.ack()
    assert numbers(queue, "leased", "ports", "acks") == (0, 1, 1)


def work_and_wait(name: str, connection: Any) -> None:
    queue = shmq.Queue.attach(name)
    queue.put_many([b"x"] * 4)
    queue.get()
    queue.receive(timeout=0).ack()
    lease = queue.receive(timeout=0)
    loan = queue.loan(10)
    connection.send((lease.id, loan.nbytes))
    signal.pause()


def test_counters_survive_a_killed_process_and_what_it_held_comes_back(queue: shmq.Queue, children: Children) -> None:
    ours, theirs = children.context.Pipe()
    child = children.start(work_and_wait, queue.name, theirs)
    assert ours.poll(60)
    ours.recv()
    counted = ("puts", "gets", "receives", "acks")
    assert numbers(queue, *counted, "leased", "loaned", "ports") == (4, 1, 2, 1, 1, 1, 2)
    os.kill(child.pid, signal.SIGKILL)
    child.join(60)
    children.kill()
    assert numbers(queue, *counted) == (4, 1, 2, 1)  # not reaped yet
    with shmq.Queue.attach(queue.name):  # whoever attaches reaps
        assert numbers(queue, *counted) == (4, 1, 2, 1)
        assert numbers(queue, "leased", "loaned", "returned", "ready") == (0, 0, 1, 1)
    assert numbers(queue, "ports", "nacks") == (1, 0)
    shmq.verify(queue)


def get_one(name: str) -> None:
    with shmq.Queue.attach(name) as queue:
        queue.get(timeout=60)


def put_one(name: str) -> None:
    with shmq.Queue.attach(name) as queue:
        queue.put(b"late", timeout=60)


def test_sleeping_consumers_are_counted(queue: shmq.Queue, children: Children) -> None:
    for _ in range(2):
        children.start(get_one, queue.name)
    wait_until(lambda: numbers(queue, "waiting_consumers") == (2,))
    queue.put_many([b"x", b"y"])
    children.join()
    assert numbers(queue, "waiting_consumers", "gets") == (0, 2)


def test_sleeping_producers_are_counted(make: Make, children: Children) -> None:
    queue = make(slots=1, slot_size=64)
    queue.put(b"first")
    children.start(put_one, queue.name)
    wait_until(lambda: numbers(queue, "waiting_producers") == (1,))
    assert queue.get() == b"first"
    assert queue.get(timeout=60) == b"late"
    children.join()
    assert numbers(queue, "waiting_producers") == (0,)


# -- verify --------------------------------------------------------------------------------------------------------------------


def test_verify_passes_on_a_new_queue(queue: shmq.Queue) -> None:
    shmq.verify(queue)


@pytest.mark.parametrize("slot_size", [64, 4096])
def test_verify_passes_in_every_state_of_a_message(make: Make, slot_size: int) -> None:
    queue = make(slots=5, slot_size=slot_size, in_flight=4)
    for _ in range(3):  # laps
        queue.put_many([b"a", b"b", b"c", b"d", b"e"])
        queue.receive(timeout=0).nack()
        shmq.verify(queue)
        lease, acked = queue.receive(timeout=0), queue.receive(timeout=0)
        view = acked.view
        acked.ack()
        loan = queue.loan(8)
        shmq.verify(queue)
        view.release()
        loan.publish()
        lease.ack()
        shmq.verify(queue)
        queue.drain()
        shmq.verify(queue)


def poke(queue: shmq.Queue, change: Callable[[mmap.mmap, int, int], None]) -> None:
    """Change a queue's file behind everybody's back; `change` gets the memory and the offsets of in-flight and ring cells."""
    with open(f"/dev/shm/{PREFIX}{queue.name}", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        slots, cells, ports = struct.unpack_from("<III", memory, 40)
        assert slots == queue.maxsize
        cells_at = 1024 + 128 * ports
        change(memory, cells_at, cells_at + 64 * cells)


def word_at(memory: mmap.mmap, offset: int) -> int:
    word: int = struct.unpack_from("<Q", memory, offset)[0]
    return word


def rename_slot(memory: mmap.mmap, target: int, source: int) -> None:
    """Let the cell at `target` name the slot that the cell at `source` names."""
    word = word_at(memory, target) & ~SLOT_MASK | word_at(memory, source) & SLOT_MASK
    struct.pack_into("<Q", memory, target, word)


def test_verify_finds_two_ring_cells_that_name_one_slot(queue: shmq.Queue) -> None:
    named = []

    def change(memory: mmap.mmap, cells_at: int, ring_at: int) -> None:
        named.append(word_at(memory, ring_at + 8 * 3) & SLOT_MASK)
        named.append(word_at(memory, ring_at + 8 * 5) & SLOT_MASK)
        rename_slot(memory, ring_at + 8 * 3, ring_at + 8 * 5)

    poke(queue, change)
    with pytest.raises(shmq.SegmentCorrupt, match=rf"{queue.name}.*slot ({named[0]}|{named[1]}) .* (0|2) cells"):
        shmq.verify(queue)


def test_verify_finds_a_ring_cell_and_an_in_flight_cell_that_name_one_slot(queue: shmq.Queue) -> None:
    poke(queue, lambda memory, cells_at, ring_at: rename_slot(memory, cells_at + 64 * 2, ring_at))
    with pytest.raises(shmq.SegmentCorrupt, match=r"slot \d+"):
        shmq.verify(queue)


def test_verify_finds_a_cell_that_names_a_slot_beyond_the_end(queue: shmq.Queue) -> None:
    def change(memory: mmap.mmap, cells_at: int, ring_at: int) -> None:
        struct.pack_into("<Q", memory, ring_at, word_at(memory, ring_at) | SLOT_MASK)

    poke(queue, change)
    with pytest.raises(shmq.SegmentCorrupt, match=queue.name):
        shmq.verify(queue)


def test_verify_finds_a_ready_cell_that_nobody_counted(queue: shmq.Queue) -> None:
    def change(memory: mmap.mmap, cells_at: int, ring_at: int) -> None:
        struct.pack_into("<Q", memory, ring_at + 8 * 7, word_at(memory, ring_at + 8 * 7) | 1 << 24)

    poke(queue, change)
    with pytest.raises(shmq.SegmentCorrupt, match="ring cell 7 is 1 half laps from the first"):
        shmq.verify(queue)


def test_verify_finds_an_in_flight_cell_of_an_owner_that_is_not_attached(queue: shmq.Queue) -> None:
    def change(memory: mmap.mmap, cells_at: int, ring_at: int) -> None:
        word = word_at(memory, cells_at + 64 * 9)
        leased_by_port_5 = word & ~(0x7 << 34 | 0x3FF << 24) | 4 << 34 | 5 << 24
        struct.pack_into("<Q", memory, cells_at + 64 * 9, leased_by_port_5)

    poke(queue, change)
    with pytest.raises(shmq.SegmentCorrupt, match="leased with owner 5"):
        shmq.verify(queue)


def test_verify_and_stats_refuse_a_closed_handle(queue: shmq.Queue) -> None:
    queue.close()
    with pytest.raises(shmq.Closed):
        shmq.verify(queue)
    with pytest.raises(shmq.Closed):
        queue.stats()
