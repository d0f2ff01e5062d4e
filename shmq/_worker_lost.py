"""The one exception that is a standard executor's too: apart from the others, since its base costs 3 ms to import."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor

from shmq._errors import ShmqError

__all__ = ["WorkerLost"]


class WorkerLost(ShmqError, BrokenExecutor):
    """A task was given up: as many workers died while they ran it as `max_deliveries` allows, or none could be started.

    `exit_codes`: how each of them ended, as subprocess counts it (below zero: the signal); None where that is not known,
    because somebody else had started that worker.
    """

    def __init__(self, message: str, exit_codes: tuple[int | None, ...] = ()) -> None:
        super().__init__(message, exit_codes)
        self.exit_codes = exit_codes

    def __str__(self) -> str:
        return str(self.args[0])
