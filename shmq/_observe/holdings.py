"""Holdings: which process holds which message since when, and who is attached; in rows, and in words for messages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shmq import _core
from shmq._observe.liveness import holders_of

if TYPE_CHECKING:
    from shmq._core import Observer

__all__ = ["Holding", "attached_report", "holders_report", "holdings_of"]

HOLDING = ("loaned", "leased", "held")  # states of a cell that somebody holds
UNKNOWN = "a process that has just left"
MOST_NAMED = 8  # processes in an error message


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
    """The messages and empty slots that processes hold, those held longest first."""
    pids, holders = {attached.number: attached.pid for attached in port._ports()}, holders_of(port)
    found = []
    for cell in port._occupied():
        loaned = cell.state == "loaned"  # what its slot says is of an earlier message
        if cell.state != "orphan":
            holding = Holding(
                state=cell.state,
                pid=pids.get(cell.owner, 0),
                process=holders.get(cell.owner, UNKNOWN),
                message_id=0 if loaned else cell.message_id,
                since=0.0 if loaned else cell.since,
                expires_at=cell.ends,
                begun=cell.begun,
                delivery_count=cell.failed + 1,
                nbytes=0 if loaned else cell.nbytes,
            )
            found.append(holding)
    return sorted(found, key=lambda holding: (holding.since, holding.pid))


def holders_report(port: Observer) -> str:
    """Which processes hold in-flight cells, in words: for the message of InFlightLimit."""
    holders, cells = holders_of(port), port._cells()
    now = _core.monotonic_ns() * 1e-9
    held = Counter((holders.get(cell.owner, UNKNOWN), cell.state) for cell in cells if cell.state in HOLDING)
    since = min((cell.leased_at for cell in cells if cell.state == "leased" and cell.leased_at), default=None)
    age = "" if since is None else f"; the oldest lease is {now - since:.1f} s old"
    parts = [f"{count} {state} by {holder}" for (holder, state), count in held.most_common(5)]
    if returned := sum(cell.state == "orphan" for cell in cells):
        parts.append(f"{returned} with messages that came back, and are due or rest")
    return (
        f"every in-flight cell of queue {port.name!r} is in use (in_flight={port.segment.config.in_flight}): "
        f"{', '.join(parts)}{age}. "
        "Ack or release leases, drop views of acked messages, or create the queue with a larger in_flight="
    )


def attached_report(port: Observer) -> str:
    """Which processes are attached, in words: those with most handles first, and how many others there are."""
    handles = Counter(holders_of(port).values()).most_common()
    parts = [f"{count} by {who}" if count > 1 else who for who, count in handles[:MOST_NAMED]]
    if len(handles) > MOST_NAMED:
        parts.append(f"{len(handles) - MOST_NAMED} other processes")
    return ", ".join(parts)
