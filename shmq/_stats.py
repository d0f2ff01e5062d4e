"""What can be seen of a queue from outside: counts, holders, and whether its invariants hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shmq import _core
from shmq._errors import SegmentCorrupt

if TYPE_CHECKING:
    from shmq._core import Port

__all__ = ["QueueStats", "verify"]


@dataclass(frozen=True)
class QueueStats:
    """A queue at one moment. Counts run since the queue was created, over all processes, the dead included."""

    name: str
    capacity: int  # slots of the ring
    slot_size: int  # bytes
    ready: int  # messages that wait in the ring
    leased: int  # delivered, not yet acked
    loaned: int  # being written in place
    held: int  # acked, but a view of them is still alive
    returned: int  # given back, waiting for redelivery
    in_flight_limit: int  # leases and loans that can be out at once
    ports: int  # attached handles
    puts: int
    gets: int
    receives: int
    acks: int
    nacks: int
    redeliveries: int
    waiting_consumers: int
    waiting_producers: int


def stats_of(port: Port) -> QueueStats:
    """Read a port's segment. The numbers are of one look, not of one instant."""
    states = Counter(state for state, _, _, _ in port._cells())
    puts, gets, receives, acks, nacks, redeliveries = port._counters()
    consumers, producers = port._waiters()
    return QueueStats(
        name=port.name,
        capacity=port.maxsize,
        slot_size=port.slot_size,
        ready=port.qsize(),
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
        waiting_consumers=consumers,
        waiting_producers=producers,
    )


def holders_report(port: Port) -> str:
    """Who holds in-flight cells, in words: for the message of InFlightLimit."""
    from shmq._liveness import describe

    pids = {index: pid for index, _, pid, _, _ in port._ports()}
    now = _core.monotonic_ns() * 1e-9
    held = Counter((pids.get(owner, 0), state) for state, owner, _, _ in port._cells() if state in ("loaned", "leased", "held"))
    since = min((at for state, _, _, at in port._cells() if state == "leased" and at), default=None)
    age = "" if since is None else f"; the oldest lease is {now - since:.1f} s old"
    parts = [f"{count} {state} by {describe(pid)}" for (pid, state), count in held.most_common(5)]
    return (
        f"every in-flight cell of queue {port.name!r} is in use (in_flight={port.segment.config.in_flight}): "
        f"{', '.join(parts)}{age}. "
        "Ack or release leases, drop views of acked messages, or create the queue with a larger in_flight="
    )


def verify(port: Port) -> None:
    """Check a quiet queue against the format's invariants: every slot in exactly one cell, laps in step.

    Raises SegmentCorrupt that names the first violation. Where processes are at work while it looks, a slot may be seen
    twice on its way; call it when nobody moves.
    """
    ring, cells = port._ring(), port._cells()
    seen = Counter(slot for _, _, slot in ring) + Counter(slot for _, _, slot, _ in cells)
    total = len(ring) + len(cells)
    for slot in range(total):
        if seen[slot] != 1:
            raise SegmentCorrupt(f"slot {slot} of queue {port.name!r} is named by {seen[slot]} cells")
    if len(seen) != total:
        raise SegmentCorrupt(f"queue {port.name!r} names a slot beyond its {total}")
    waiting = sum(ready for _, ready, _ in ring)
    if waiting != port.qsize():
        raise SegmentCorrupt(f"queue {port.name!r} has {waiting} messages in its ring and counts {port.qsize()}")
    owners = {index for index, *_ in port._ports()}
    for state, owner, slot, _ in cells:
        owned = state in ("idle", "loaned", "leased", "held")
        if state == "?" or owned != (owner in owners):
            raise SegmentCorrupt(
                f"slot {slot} of queue {port.name!r} is {state} with owner {owner}, attached are {sorted(owners)}"
            )
