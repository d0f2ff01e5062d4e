"""Holdings: which process holds which message since when, in rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shmq import _core
from shmq._observe.holders import UNKNOWN
from shmq._observe.liveness import describe

if TYPE_CHECKING:
    from shmq._core import Observer

__all__ = ["Holding", "holdings_of"]


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
    cells = port._occupied()  # first: a handle that is attached after this look holds none of them
    processes = port._processes()
    words = {process: describe(*process) for process in set(processes.values())}
    found = []
    for cell in cells:
        loaned = cell.state == "loaned"  # what its slot says is of an earlier message
        process = processes.get(cell.owner)
        if cell.state != "orphan":
            holding = Holding(
                state=cell.state,
                pid=process.pid if process else 0,
                process=words[process] if process else UNKNOWN,
                message_id=0 if loaned else cell.message_id,
                since=0.0 if loaned else cell.since,
                expires_at=cell.ends,
                begun=cell.begun,
                delivery_count=cell.failed + 1,
                nbytes=0 if loaned else cell.nbytes,
            )
            found.append(holding)
    return sorted(found, key=lambda holding: (holding.since, holding.pid))
