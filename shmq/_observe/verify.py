"""Verification: does a queue keep the invariants of its format?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from shmq._errors import SegmentCorrupt

if TYPE_CHECKING:
    from shmq._core import Observer

__all__ = ["verify"]

LOOKS = 400  # at a segment where others are at work: in each of them every slot is on its way now and then
LOOK_PAUSE = 0.0005
OWNED = ("idle", "loaned", "leased", "held")  # states of a cell that has an owner


def verify(port: Observer) -> None:
    """Check a queue against the format's invariants: every slot in exactly one cell, owners attached, laps in step.

    Raises SegmentCorrupt that names a violation. Others may be at work meanwhile, and one look
    then finds slots on their way from cell to cell. So only what stays wrong in further looks is reported. A process that is
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
    placement = port._placement()
    cells = placement.cells
    named = placement.named
    begun = [found for found in placement.exchanges if found.cell < len(cells) and cells[found.cell].slot == found.gives]
    count_exchanges(named, [(found.gives, found.takes) for found in begun if max(found.gives, found.takes) < placement.total])
    problems = {
        ("slot", slot): f"slot {slot} is named by {count} cells"
        if slot < placement.total
        else f"a cell names slot {slot}, beyond its {placement.total}"
        for slot, count in named.items()
        if slot >= placement.total or count != 1
    }
    problems |= {
        ("lap", cell): f"ring cell {cell} is {ahead} half laps from the first" for cell, ahead in placement.out_of_step.items()
    }
    owners = {attached.number for attached in port._ports()}
    for number, cell in enumerate(cells):
        if (cell.state in OWNED) != (cell.owner in owners):
            problems["cell", number] = (
                f"in-flight cell {number} is {cell.state} with owner {cell.owner}, attached are {sorted(owners)}"
            )
    return problems


def count_exchanges(named: dict[int, int], open_exchanges: list[tuple[int, int]]) -> None:
    """Count for each port in an open exchange the slot that it has, instead of the one that its cell still names.

    It has given away the one and taken the other, or not: whichever is nowhere else. Where both are nowhere else, another
    open exchange decides; where none does, they are of a circle, and it does not matter who has which.
    """
    left = open_exchanges.copy()
    for give, _ in left:
        named[give] -= 1
    while left:
        give, take = next((pair for pair in left if named[pair[0]] or named[pair[1]]), left[0])
        left.remove((give, take))
        named[take if named[give] else give] += 1
