"""Statistics: a queue in numbers, as one look finds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shmq._core import Observer

__all__ = ["QueueStats", "stats_of"]


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
    dead_letters: int  # messages that are dead letters now
    waiting_consumers: int
    waiting_producers: int


def stats_of(port: Observer) -> QueueStats:
    """Read a segment. The numbers are of one look, not of one instant."""
    from shmq._store.dead_letters import DeadLetters

    cells, counters, waiters, events = port._cell_counts(), port._counters(), port._waiters(), port._events()
    return QueueStats(
        name=port.name,
        capacity=port.segment.config.slots,
        slot_size=port.slot_size,
        ready=port.qsize(),
        backlog=port._backlog_count,
        leased=cells.leased,
        loaned=cells.loaned,
        held=cells.held,
        returned=cells.orphan,
        in_flight_limit=port.segment.config.in_flight,
        ports=len(port._ports()),
        **counters._asdict(),
        **events._asdict(),
        dead_letters=len(DeadLetters(port)),
        waiting_consumers=waiters.consumers,
        waiting_producers=waiters.producers,
    )
