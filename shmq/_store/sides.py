"""Side segments that the dead left: a process that is killed in put, or between an ack and the removal, leaves a file.

A process that opens a queue looks whether others have died since the last such look. Then it removes the side segments to which
nothing leads; `shmq doctor` does it for all queues. A key is an id of the port that wrote the file. Where that port's process
is dead, and neither the ring, a cell, the backlog nor a dead letter has the key, no process will ever have it again. So nothing
needs a lock. Two processes that look at once find the same. One that is killed meanwhile leaves the rest to the next one, since
its own death is counted as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shmq import _core
from shmq._errors import ShmqError
from shmq._segment import entries
from shmq._segment.segment import SIDE_KEY
from shmq._store.dead_letters import DeadLetters

if TYPE_CHECKING:
    from shmq._core import Observer, QueueHandle

__all__ = ["leaked", "reap_sides", "reap_sides_after"]

LOOKS = 3  # at letters that others write and put back meanwhile
FEW = 1000  # letters that a process reads when it opens a queue


def reap_sides_after(deaths: int, queue: QueueHandle[Any]) -> None:
    """Remove what the dead had left at this count of deaths: for a process that opens the queue.

    Where that takes long or cannot be done now, the next process that opens it tries, or the doctor.
    """
    with contextlib.suppress(ShmqError, OSError, MemoryError):
        if reap_sides(queue, briefly=True) is not None:
            queue._reaped_sides_of(deaths)


def reap_sides(queue: QueueHandle[Any], briefly: bool = False) -> int | None:
    """Remove the side segments of the dead to which nothing leads; return how many, or None where that cannot be told now.

    **Waits** for the lock of the backlog, unless it is to be done briefly. **Raises** what reading letters raises.
    """
    keys = leaked(queue, None if briefly else lambda: keys_in_backlog(queue))
    for key in keys or ():
        queue.segment.remove_side(key)
    return None if keys is None else len(keys)


def leaked(queue: Observer, of_backlog: Callable[[], set[bytes]] | None = None) -> set[bytes] | None:
    """Keys of the side segments of the dead to which nothing leads; None where that cannot be told now.

    `of_backlog` looks into the backlog, for which it takes a port and a lock, and lets all dead letters be read, however many.
    Without it, nothing can be told while messages wait there. **Raises** what reading letters raises.
    """
    beginning = f"{queue.segment.beside}."
    keys = [key for file in entries.list_files(beginning) if SIDE_KEY.fullmatch(key := file.removeprefix(beginning))]
    writing = queue._serials()  # after the listing, before the look: what was published in between is found by the look
    nowhere = {key.encode() for key in keys if _core.serial_of(int(key, 16)) not in writing}
    if nowhere:
        nowhere -= queue._side_keys()
    if nowhere:  # only now what takes long
        used = keys_in_use(queue, of_backlog)
        if used is None:
            return None
        nowhere -= used
    return nowhere


def keys_in_use(queue: Observer, of_backlog: Callable[[], set[bytes]] | None) -> set[bytes] | None:
    """Keys of the side segments to which something leads; None where that cannot be told now.

    Messages move from the backlog to the ring to a cell, and the look goes the same way. Letters come from cells and go back to
    the ring or the backlog: where any of them moved meanwhile, the look is worth nothing.
    """
    letters = DeadLetters(queue)
    for _ in range(LOOKS):
        files = letters._files()
        if of_backlog is None and (queue._backlog_count or len(files) > FEW):
            return None
        with contextlib.suppress(FileNotFoundError):
            waiting = set() if of_backlog is None else of_backlog()
            used = letters._side_keys(files) | waiting | queue._side_keys()
            if letters._files() == files:
                return used
    return None


def keys_in_backlog(queue: QueueHandle[Any]) -> set[bytes]:
    """Keys of the side segments to which messages of the backlog lead."""
    images = queue._in_backlog(queue._backlog_count) if queue.grows else []
    return {key for image in images if (key := queue._image_side_key(image)) is not None}
