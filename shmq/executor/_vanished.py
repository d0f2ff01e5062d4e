"""Vanished: tasks of which no outcome will come, since the file in which the task or its outcome was has been removed.

Nobody announces that. A task has vanished when it has no outcome, and is neither in the pool's queues nor with a worker. Which
one it is cannot be known before all others are done.
"""

from __future__ import annotations

from shmq._core import Hold
from shmq._errors import PayloadLost
from shmq.executor._channel import Channel
from shmq.executor._future import lock
from shmq.executor._window import Window

__all__ = ["Vanished", "vanished_task"]


class Vanished:
    """Vanished tasks of one client. `expected`: something has happened by which tasks may vanish."""

    def __init__(self, tasks: Channel, window: Window) -> None:
        self.tasks = tasks
        self.window = window
        self.expected = False

    def candidates(self) -> set[int] | None:
        """Tasks that are handed over although none is under way: their outcomes are there, or they have vanished.

        None where some are under way.
        """
        if self._are_under_way():
            return None
        with Hold(lock):
            out = self.window.out()
        if out and self._are_under_way():  # handed over before this look
            return None
        return out

    def _are_under_way(self) -> bool:
        """Is any task in the pool's queues, or with a worker?"""
        found = self.tasks.owed > 0 or any(queue._unfinished() for queue in self.tasks.queues)
        self.expected = self.expected or found
        return found


def vanished_task(number: int) -> PayloadLost:
    return PayloadLost(
        f"task {number} is in no queue of its pool, no worker has it, and no outcome of it came: the file in /dev/shm in which "
        "it or its outcome was has been removed. Whether it was run is not known"
    )
