"""Counters near the edge of their width: laps, generations, tags, serial numbers. What comes round must not be noticed.

The words of a fresh, quiet segment are set to what they would be after years; then the queue is used until all of them
have come round, several times over.

How far the width carries. A cell says all about itself, so whoever claims it by a stale word that happens to be true again does
nothing wrong. Only two know more than the word says: who holds a lease that was lost, and who is about to end one whose
time is over. They are fooled by a word of exactly 2**27 generations later with the same state, owner and slot. The
owner is the handle itself (nobody else writes its number while it lives), so the first must keep a lost lease while other
threads go on with the same handle and the same cell, and settle it in the one state of 134 million that matches. Measured
here: put, receive and ack of one cell move it by 4 generations, 4.5 to 6 million times a second from Python; the bare
engine, put and get, by 3, 24 to 30 million times a second. So it takes 6 seconds of full speed from Python, 1.5 seconds of
an engine that does nothing else. Laps: 2**38 of them, of a ring of one slot, take the engine 2.5 hours; a larger ring,
so many times longer.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

import shmq
from support.processes import reap_all, wait_until
from support.programs import LONG
from support.shared_memory import PREFIX
from support.words import Words

Make = Callable[..., shmq.Queue]

LAPS, GENERATIONS, TAGS, SEQUENCES = 1 << 38, 1 << 27, 1 << 16, 1 << 62
WRITE_SEQ, READ_SEQ, ATTACHMENTS = 256, 320, 456
GEOMETRIES: list[dict[str, Any]] = [
    {"slots": 1, "slot_size": 64},
    {"slots": 3, "slot_size": 64},
    {"slots": 64, "slot_size": 64},
    {"slots": 3, "slot_size": 4096},
]
geometry = pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: f"{g['slots']} slots of {g['slot_size']}")


def age(queue: shmq.Queue, *, laps: int | None = None, generation: int | None = None) -> None:
    """Let a fresh queue look as if it had been used for so long. Nobody may be in a call."""
    words = Words(queue)
    if laps is not None:
        for index in range(words.slots):
            assert words[words.ring(index)] >> 26 == 0
            words[words.ring(index)] |= laps << 26
        words[WRITE_SEQ] = words[READ_SEQ] = laps << 24
    if generation is not None:
        for index in range(words.cells):
            cell = words.cell(index)
            words[cell] = words[cell] & ((1 << 37) - 1) | generation % GENERATIONS << 37


def let_expire(queue: shmq.Queue, before: int) -> None:
    """Wait until one lease more has expired than before: taken back by us, or by any doctor who comes by."""

    def has_expired() -> bool:
        queue._expire()
        return queue.stats().expired == before + 1

    wait_until(has_expired)


def lap(queue: shmq.Queue) -> int:
    words = Words(queue)
    return words[words.ring(0)] >> 26


def use_in_every_way(queue: shmq.Queue, operations: int, seed: int) -> None:
    """Put, take, lease, extend, nack, release, let expire, prefetch, all by chance; what was put is completed exactly once."""
    chance = random.Random(seed)
    other = shmq.Queue.attach(queue.name)
    next_number, completed, waiting = 0, set(), 0
    for _ in range(operations):
        handle = queue if chance.random() < 0.5 else other
        kind = chance.randrange(10)
        if kind < 4 and waiting < queue.maxsize:
            handle.put(next_number, timeout=LONG)
            next_number += 1
            waiting += 1
        elif not waiting:
            continue
        elif kind < 6:
            completed.add(handle.get(timeout=LONG))
            waiting -= 1
        elif kind == 6:
            with handle.receive(timeout=LONG, lease_timeout=60.0) as lease:
                lease.extend(chance.choice([1.0, 30.0]))
                completed.add(lease.data)
            waiting -= 1
        elif kind == 7:
            lease = handle.receive(timeout=LONG, lease_timeout=chance.choice([None, 60.0]))
            assert lease.data not in completed
            lease.nack(delay=0) if chance.random() < 0.5 else lease.release()
        elif kind == 8:
            leases = handle.receive_many(min(waiting, 3), timeout=LONG, lease_timeout=60.0)
            completed.add(leases[0].data)
            leases[0].ack()
            waiting -= 1
            for lease in leases[1:]:
                lease.release()
        elif chance.random() < 0.02:
            before = queue.stats().expired
            lease = handle.receive(timeout=LONG, lease_timeout=1e-6)
            let_expire(queue, before)
            with pytest.raises(shmq.LeaseLost):
                lease.ack()
    while waiting:
        completed.add(queue.get(timeout=LONG))
        waiting -= 1
    other.close()
    assert completed == set(range(next_number))
    assert queue.empty()


@geometry
@pytest.mark.parametrize("before", [2, 40])
def test_laps_come_round(make: Make, geometry: dict[str, Any], before: int) -> None:
    queue = make(**geometry, max_deliveries=0)
    age(queue, laps=LAPS - before)
    shmq.verify(queue)
    fill = list(range(queue.maxsize))
    for _ in range(before + 20):
        assert queue.put_many(fill, timeout=0) == len(fill)
        with pytest.raises(shmq.Full):
            queue.put(-1, timeout=0)
        assert queue.qsize() == len(fill) and queue.peek() == [0]
        shmq.verify(queue)
        assert queue.drain() == fill
        with pytest.raises(shmq.Empty):
            queue.get(timeout=0)
        assert queue.qsize() == 0
    assert lap(queue) == 20
    shmq.verify(queue)


@geometry
@pytest.mark.parametrize("seed", range(3))
def test_laps_and_generations_come_round_under_every_kind_of_use(make: Make, geometry: dict[str, Any], seed: int) -> None:
    queue = make(**geometry, in_flight=4, ports=4, max_deliveries=0)
    age(queue, laps=LAPS - 20, generation=GENERATIONS - 300)
    use_in_every_way(queue, 3000, seed)
    shmq.verify(queue)
    assert queue.stats().returned == queue.stats().leased == 0
    if geometry["slots"] <= 3:
        assert lap(queue) < LAPS // 2, "it has not come round"


@pytest.mark.stress
@geometry
@pytest.mark.parametrize("seed", range(100, 104))
def test_a_million_operations_around_the_edges(make: Make, geometry: dict[str, Any], seed: int) -> None:
    for part in range(10):
        queue = make(**geometry, in_flight=4, ports=4, max_deliveries=0)
        age(queue, laps=LAPS - 1000, generation=random.Random(seed + part).choice([GENERATIONS, TAGS, 7 * TAGS]) - 3000)
        use_in_every_way(queue, 25_000, seed * 100 + part)
        shmq.verify(queue)


@pytest.mark.parametrize("slot_size", [64, 4096])
@pytest.mark.parametrize("edge", [GENERATIONS, TAGS, 5 * TAGS])
@pytest.mark.parametrize("before", range(8))
def test_a_lease_is_right_at_every_generation_around_an_edge(make: Make, slot_size: int, edge: int, before: int) -> None:
    """Each step of a lease's life meets the edge in one of these."""
    queue = make(slots=2, slot_size=slot_size, in_flight=1, ports=2, max_deliveries=0)
    age(queue, generation=edge - before)
    queue.put("x")
    lease = queue.receive(timeout=0, lease_timeout=60.0)
    assert lease.expires_at is not None and 50 < lease.expires_at - time.monotonic() <= 60
    assert queue._expire() == 0
    lease.extend(30.0)
    assert queue._expire() == 0
    lease.nack(delay=0)
    assert queue._expire() == 0
    again = queue.receive(timeout=0, lease_timeout=60.0)
    assert queue._expire() == 0 and again.delivery_count == 2
    again.extend(0.001)
    let_expire(queue, 0)
    with pytest.raises(shmq.LeaseLost):
        again.ack()
    (ahead,) = queue.receive_many(1, timeout=0, lease_timeout=0.001)
    assert ahead.delivery_count == 3
    let_expire(queue, 1)
    last = queue.receive(timeout=0, lease_timeout=60.0)
    assert last.delivery_count == 3  # the one before was not begun with
    last.ack()
    assert queue.empty()
    shmq.verify(queue)


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_deadline_of_65536_generations_ago_does_not_end_a_new_lease(make: Make, ahead: int) -> None:
    """The tag of a deadline has 16 bits: without care, one of long ago is taken for that of the lease that begins."""
    queue = make(slots=2, slot_size=64, in_flight=1, ports=2)
    words = Words(queue)
    cell = words.cell(2)
    queue.put("old")
    lease = queue.receive(timeout=0, lease_timeout=0.001)
    lease.ack()
    tag = words[cell + 16] >> 48
    # Untimed from now on: claim, exchange, nack; then an adoption with a time-out, the fourth change of the word.
    words[cell] = words[cell] & ((1 << 37) - 1) | (tag - 4 - ahead + 3 * TAGS) % GENERATIONS << 37
    time.sleep(0.002)
    queue.put("new")
    queue.receive(timeout=0, lease_timeout=None).nack(delay=0)
    lease = queue.receive(timeout=0, lease_timeout=60.0)
    assert words[cell] >> 37 & (TAGS - 1) == (tag - ahead) % TAGS, "not the coincidence that this is about"
    queue._expire()
    assert queue.stats().expired == 0
    lease.ack()


@pytest.mark.parametrize("slot_size", [64, 4096])
def test_the_dead_are_taken_back_at_the_edge_of_generations(make: Make, slot_size: int) -> None:
    for before in range(8):
        queue = make(slots=4, slot_size=slot_size, in_flight=4, ports=4)
        age(queue, laps=LAPS - 1, generation=GENERATIONS - before)
        queue.put_many(["a", "b", "c"])
        child = os.fork()
        if child == 0:
            handle = shmq.Queue.attach(queue.name)
            kept = [handle.receive(timeout=0), handle.receive(timeout=0, lease_timeout=60.0), handle.loan(8)]
            os.kill(os.getpid(), 9)
            os._exit(len(kept))
        os.waitpid(child, 0)
        reap_all(queue)
        shmq.verify(queue)
        found = [(lease.data, lease.delivery_count) for lease in queue.receive_many(3, timeout=0)]
        assert sorted(found) == [("a", 2), ("b", 2), ("c", 1)]


def test_failed_deliveries_are_counted_up_to_the_edge_and_not_beyond(make: Make) -> None:
    queue = make(slots=2, slot_size=64, in_flight=1, ports=2, max_deliveries=0)
    words = Words(queue)
    queue.put("x")
    lease = queue.receive(timeout=0)
    slot = words[words.cell(2)] & 0xFFFFFF
    deliveries = (words.ring_at + 8 * words.slots + 127 & ~127) + slot * 128 + 24
    lease.nack(delay=0)
    assert words[deliveries] & 0xFFFF == 1
    words[deliveries] |= 0xFFFE
    for _ in range(3):
        lease = queue.receive(timeout=0)
        assert lease.delivery_count == 0x10000
        lease.nack(delay=0)
    assert queue.receive(timeout=0).data == "x"


@pytest.mark.parametrize("attachments", [(1 << 24) - 2, (1 << 44) - 2, (1 << 44) + 5, (1 << 64) - 2])
def test_messages_and_side_files_are_told_apart_after_ever_so_many_attachments(make: Make, attachments: int) -> None:
    from shmq._repair import repair_segment

    queue = make(slots=8, slot_size=64, oversize="spill")
    Words(queue)[ATTACHMENTS] = attachments
    handles = [shmq.Queue.attach(queue.name) for _ in range(5)]
    for handle in handles:
        handle.put(bytes(5000))
    # A side segment that is being written: nothing leads to it yet, and only its writer's serial number tells of it.
    sides = [
        f"{PREFIX}{queue.name}+{queue.segment.nonce:016x}.{(attachments + n) % (1 << 44) << 20 | 0xFFFF:016x}" for n in range(5)
    ]
    for side in sides:
        with open(f"/dev/shm/{side}", "wb") as file:
            file.write(b"x")
    list(repair_segment(queue.name))
    assert [side for side in sides if not os.path.exists(f"/dev/shm/{side}")] == []
    leases = queue.receive_many(5, timeout=0)
    assert len({lease.id for lease in leases}) == 5 and all(lease.data == bytes(5000) for lease in leases)
    for lease in leases:
        lease.ack()
    for side in sides:
        os.unlink(f"/dev/shm/{side}")
    for handle in handles:
        handle.close()


def test_a_stale_word_of_another_generation_never_matches(make: Make) -> None:
    """A lease that was lost is tried again and again while its cell goes on: it never ends another's lease."""
    queue = make(slots=2, slot_size=64, in_flight=1, ports=2, max_deliveries=0)
    queue.put(-1)
    age_of = Words(queue)
    cell = age_of.cell(2)
    stale = queue.receive(timeout=0, lease_timeout=1e-6)
    let_expire(queue, 0)
    word = age_of[cell]
    assert queue.get(timeout=0) == -1
    for number in range(3000):
        queue.put(number)
        lease = queue.receive(timeout=0)
        assert age_of[cell] != word
        lease.ack()
    with pytest.raises(shmq.LeaseLost):
        stale.ack()
    shmq.verify(queue)
