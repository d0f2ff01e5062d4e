"""Holders: which processes hold in-flight cells, and which are attached, in words for messages."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from shmq import _core
from shmq._observe.liveness import holders_of

if TYPE_CHECKING:
    from shmq._core import Observer

__all__ = ["UNKNOWN", "attached_report", "holders_report"]

HOLDING = ("loaned", "leased", "held")  # states of a cell that a user's object holds
IN_A_CALL = "idle"  # the state of a cell for as long as a call runs, or that a handle of small slots keeps
FREE = ("spare", "warm")
UNKNOWN = "a process that has just left"
NOBODY = "processes that have just left"
MOST_HOLDERS = 5
MOST_NAMED = 8  # processes in an error message


def holders_report(port: Observer) -> str:
    """Which processes hold in-flight cells, in words: for the message of InFlightLimit.

    By the time of the look a holder may have given its cell back, and the report says so.
    """
    cells, in_flight = port._cells(), port.segment.config.in_flight
    holders = holders_of(port)  # after the cells: a handle that is attached since then holds none of them
    held: Counter[tuple[str, str]] = Counter()
    for number, cell in enumerate(cells, in_flight - len(cells)):  # below 0: those that leases and loans may not take
        if cell.state in HOLDING:
            held[cell.state, holders.get(cell.owner, UNKNOWN)] += 1
        elif cell.state == IN_A_CALL and number >= 0:
            held["in a call", holders.get(cell.owner, UNKNOWN)] += 1
    parts = [f"{count} {state} by {holder}" for (state, holder), count in held.most_common(MOST_HOLDERS)]
    if more := held.total() - sum(count for _, count in held.most_common(MOST_HOLDERS)):
        parts.append(f"{more} by others")
    if returned := sum(cell.state == "orphan" for cell in cells):
        parts.append(f"{returned} with messages that came back, and are due or rest")
    if free := sum(cell.state in FREE for cell in cells[len(cells) - in_flight :]):
        parts.append(f"{free} given back while this was written")
    since = min((cell.leased_at for cell in cells if cell.state == "leased" and cell.leased_at), default=None)
    age = "" if since is None else f"; the oldest lease is {_core.monotonic_ns() * 1e-9 - since:.1f} s old"
    was = "was" if free else "is"
    return (
        f"every in-flight cell of queue {port.name!r} {was} in use (in_flight={in_flight}): {', '.join(parts)}{age}. "
        "Ack or release leases, drop views of acked messages, or create the queue with a larger in_flight="
    )


def attached_report(port: Observer) -> str:
    """Which processes are attached, in words: those with most handles first, and how many others there are."""
    handles = Counter(holders_of(port).values()).most_common()
    parts = [f"{count} by {who}" if count > 1 else who for who, count in handles[:MOST_NAMED]]
    if len(handles) > MOST_NAMED:
        parts.append(f"{len(handles) - MOST_NAMED} other processes")
    return ", ".join(parts) or NOBODY
