"""Unserved: logs when the tasks of a client wait in a pool that has no workers."""

from __future__ import annotations

import logging
import time

__all__ = ["Unserved"]

PATIENCE = 5.0  # seconds, as for a put that finds no consumer


class Unserved:
    """The warning of one client, which is logged once until an outcome comes."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self._since: float | None = None  # since when tasks wait, and no worker is there
        self._said = False

    def look(self, pending: int, workers: int) -> None:
        """Log the warning if it is due. `pending`: tasks that are not done; `workers`: how many are ready."""
        if not pending or workers:
            self._since = None
            return
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if now - self._since >= PATIENCE and not self._said:
            self._said = True
            logging.getLogger("shmq").warning(
                "waiting for %.0f s: no worker serves pool %r, and %d of this program's tasks are pending; start workers with "
                "`shmq worker %s`, or give the Executor a max_workers= above 0",
                now - self._since,
                self.pool,
                pending,
                self.pool,
            )

    def outcome(self) -> None:
        """An outcome has come."""
        self._since, self._said = None, False
