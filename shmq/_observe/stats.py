"""What can be seen of a queue from outside: counts, holders, and whether its invariants hold."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shmq import _core
from shmq._errors import SegmentCorrupt

if TYPE_CHECKING:
    from shmq._core import Observer

__all__ = ["Holding", "QueueStats", "verify"]


UNKNOWN = "a process that has just left"
MOST_NAMED = 8  # processes in an error message


@dataclass(frozen=True)
class QueueStats:
    """A queue at one moment. Counts run since the queue was created, over all processes, the dead included."""

    name: str
    capacity: int  # slots of the ring
    slot_size: int  # bytes
    ready: int  # messages that wait, those in the backlog included
    backlog: int  # messages that found the ring full and wait beside the segment
    leased: int  # delivered, not yet acked
    loaned: int  # being written in place
    held: int  # acked, but a view of them is still alive
    returned: int  # given back, waiting for redelivery, those that rest included
    in_flight_limit: int  # leases and loans that can be out at once
    ports: int  # attached handles
    puts: int
    gets: int
    receives: int
    acks: int
    nacks: int
    redeliveries: int
    expired: int  # leases whose time was over
    deaths: int  # handles whose process died without closing them
    dead_lettered: int  # messages that became dead letters
    dead_letters: int  # … and still are
    waiting_consumers: int
    waiting_producers: int


def stats_of(port: Observer) -> QueueStats:
    """Read a segment. The numbers are of one look, not of one instant."""
    from shmq._store.dead_letters import DeadLetters

    states = Counter(state for state, _, _, _ in port._cells())
    puts, gets, receives, acks, nacks, redeliveries = port._counters()
    consumers, producers = port._waiters()
    expired, deaths, dead_lettered = port._events()
    return QueueStats(
        name=port.name,
        capacity=port.segment.config.slots,
        slot_size=port.slot_size,
        ready=port.qsize(),
        backlog=port._backlog_count,
        leased=states["leased"],
        loaned=states["loaned"],
        held=states["held"],
        returned=states["orphan"],
        in_flight_limit=port.segment.config.in_flight,
        ports=len(port._ports()),
        puts=puts,
        gets=gets,
        receives=receives,
        acks=acks,
        nacks=nacks,
        redeliveries=redeliveries,
        expired=expired,
        deaths=deaths,
        dead_lettered=dead_lettered,
        dead_letters=len(DeadLetters(port)),
        waiting_consumers=consumers,
        waiting_producers=producers,
    )


@dataclass(frozen=True)
class Holding:
    """A message, or an empty slot, in the hands of a process. Times are those of time.monotonic()."""

    state: str  # "leased", "loaned" (being written in place), or "held" (acked, and still looked at)
    pid: int
    process: str  # pid and command line
    message_id: int  # 0 of a loan
    since: float  # when it was leased; 0.0 of a loan
    expires_at: float | None  # None: when the holder dies
    begun: bool  # False: prefetched, and not yet looked at
    delivery_count: int
    nbytes: int

    @property
    def held_for(self) -> float:
        """Seconds since it was leased; 0.0 of a loan. How old the message is says the `age` of its Lease."""
        return _core.monotonic_ns() * 1e-9 - self.since if self.since else 0.0


def holdings_of(port: Observer) -> list[Holding]:
    """Who holds what, longest first."""
    from shmq._observe.liveness import holders_of

    pids, holders = {index: pid for index, _, pid, _, _ in port._ports()}, holders_of(port)
    found = [
        Holding(
            state=state,
            pid=pids.get(owner, 0),
            process=holders.get(owner, UNKNOWN),
            message_id=0 if state == "loaned" else id,
            since=0.0 if state == "loaned" else since,
            expires_at=ends,
            begun=begun,
            delivery_count=failed + 1,
            nbytes=0 if state == "loaned" else nbytes,
        )
        for state, owner, id, since, ends, begun, failed, nbytes in port._holdings()
        if state != "orphan"
    ]
    return sorted(found, key=lambda holding: (holding.since, holding.pid))


def holders_report(port: Observer) -> str:
    """Who holds in-flight cells, in words: for the message of InFlightLimit."""
    from shmq._observe.liveness import holders_of

    holders = holders_of(port)
    now = _core.monotonic_ns() * 1e-9
    held = Counter(
        (holders.get(owner, UNKNOWN), state) for state, owner, _, _ in port._cells() if state in ("loaned", "leased", "held")
    )
    since = min((at for state, _, _, at in port._cells() if state == "leased" and at), default=None)
    age = "" if since is None else f"; the oldest lease is {now - since:.1f} s old"
    parts = [f"{count} {state} by {holder}" for (holder, state), count in held.most_common(5)]
    if returned := sum(state == "orphan" for state, *_ in port._cells()):
        parts.append(f"{returned} with messages that came back, and are due or rest")
    return (
        f"every in-flight cell of queue {port.name!r} is in use (in_flight={port.segment.config.in_flight}): "
        f"{', '.join(parts)}{age}. "
        "Ack or release leases, drop views of acked messages, or create the queue with a larger in_flight="
    )


def attached_report(port: Observer) -> str:
    """Who has how many handles, in words: those who have most of them."""
    from shmq._observe.liveness import holders_of

    handles = Counter(holders_of(port).values()).most_common()
    parts = [f"{count} by {who}" if count > 1 else who for who, count in handles[:MOST_NAMED]]
    if len(handles) > MOST_NAMED:
        parts.append(f"{len(handles) - MOST_NAMED} other processes")
    return ", ".join(parts)


LOOKS = 400  # at a segment where others are at work: in each of them every slot is on its way now and then
LOOK_PAUSE = 0.0005


def verify(port: Observer) -> None:
    """Check a queue against the format's invariants: every slot in exactly one cell, owners attached, laps in step.

    Raises SegmentCorrupt that names a violation. Others may be at work meanwhile: one look then finds slots on their way from
    cell to cell, so what is wrong in one look is looked at again, and only what stays wrong is reported. A process that is
    stopped in the middle of an exchange is no violation: its intent says which of two slots its cell names.
    """
    port.qsize()  # raises Closed
    problems = look(port)
    for _ in range(LOOKS):
        if not problems:
            return
        time.sleep(LOOK_PAUSE)
        again = look(port)
        problems = {what: text for what, text in again.items() if what in problems}
    if problems:
        raise SegmentCorrupt(f"queue {port.name!r}: {'; '.join(sorted(problems.values())[:5])}")


def look(port: Observer) -> dict[tuple[str, int], str]:
    """What one look finds wrong, by (kind, number)."""
    ring_bytes, cells, intents = port._words()
    ring = np.frombuffer(ring_bytes, dtype=np.uint64)
    total = len(ring) + len(cells)
    in_cells = np.array(cells, dtype=np.uint64)
    slots = np.concatenate([ring, in_cells]) & np.uint64(0xFFFFFF)
    problems = {("slot", int(slot)): f"a cell names slot {slot}, beyond its {total}" for slot in slots[slots >= total]}
    counts = np.bincount(slots[slots < total].astype(np.int64), minlength=total)
    settle(counts, [(give, take) for cell, give, take in intents if cell < len(cells) and cells[cell] & 0xFFFFFF == give])
    for slot in np.flatnonzero(counts != 1)[:1000]:
        problems["slot", int(slot)] = f"slot {slot} is named by {counts[slot]} cells"
    problems |= look_at_laps(port, ring)
    owners = {index for index, *_ in port._ports()}
    for number, word in enumerate(cells):
        state, owner = word >> 34 & 7, word >> 24 & 1023
        if (state in OWNED) != (owner in owners):
            problems["cell", number] = (
                f"in-flight cell {number} is {_core.CELL_STATES[state]} with owner {owner}, attached are {sorted(owners)}"
            )
    return problems


def settle(counts: np.ndarray[Any, np.dtype[np.int64]], open_exchanges: list[tuple[int, int]]) -> None:
    """Count for each port in an open exchange the slot that it has, instead of the one that its cell still names.

    It has given away the one and taken the other, or not: whichever is nowhere else. Where both are nowhere else, another
    open exchange decides; where none does, they are of a circle, and it does not matter who has which.
    """
    left = [(give, take) for give, take in open_exchanges if max(give, take) < len(counts)]
    for give, _ in left:
        counts[give] -= 1
    while left:
        give, take = next((pair for pair in left if counts[pair[0]] or counts[pair[1]]), left[0])
        left.remove((give, take))
        counts[take if counts[give] else give] += 1


OWNED = [number for number, state in enumerate(_core.CELL_STATES) if state in ("idle", "loaned", "leased", "timed", "held")]


def look_at_laps(port: Observer, ring: np.ndarray[Any, np.dtype[np.uint64]]) -> dict[tuple[str, int], str]:
    """The laps go down by one where write_seq or read_seq is, and nowhere else; READY cells lie between the two."""
    progress = ((ring >> np.uint64(26)) * np.uint64(2) + (ring >> np.uint64(24) & np.uint64(1))).astype(np.int64)
    steps = (progress - progress[0] + (1 << 38)) % (1 << 39) - (1 << 38)  # in half laps, modulo the width of a lap
    wrong = np.flatnonzero((steps > 0) | (steps < -2) | (np.diff(steps, prepend=0) > 0))
    return {("lap", int(cell)): f"ring cell {cell} is {steps[cell]} half laps from the first" for cell in wrong[:1000]}
