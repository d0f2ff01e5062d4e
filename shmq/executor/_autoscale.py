"""Autoscale: how many workers a backlog calls for."""

from __future__ import annotations

import time

__all__ = ["Autoscale"]

PATIENCE = 0.05  # seconds for which all workers are busy and something waits, before there are more
IDLE = 5.0  # seconds for which some are idle and nothing waits, before there is one worker fewer


class Autoscale:
    """Between `least` and `most` workers: half as many again while there is a backlog, one fewer after a while without."""

    def __init__(self, least: int, most: int) -> None:
        if not 0 < least <= most:
            raise ValueError(f"autoscale=({least}, {most}): the first number must be at least 1, and not above the second")
        self.least = least
        self.most = most
        self._since = time.monotonic()
        self._trend = 0

    def wanted(self, workers: int, busy: int, waiting: int) -> int:
        """How many workers there should be. `workers`: how many there are; `waiting`: tasks that no worker has begun."""
        now = time.monotonic()
        trend = 1 if waiting and busy >= workers else -1 if not waiting and busy < workers else 0
        if trend != self._trend:
            self._trend, self._since = trend, now
        if trend > 0 and workers < self.most and now - self._since >= PATIENCE:
            self._since = now
            return min(self.most, workers + max(workers // 2, 1))
        if trend < 0 and workers > self.least and now - self._since >= IDLE:
            self._since = now
            return workers - 1
        return max(workers, self.least)

    def patience(self, workers: int) -> float | None:
        """Seconds after which the caller asks `wanted` again, since nothing announces that a backlog begins; None: no need to."""
        if workers < self.most:
            return PATIENCE if self._trend > 0 else PATIENCE * 4
        return IDLE / 5 if workers > self.least else None
