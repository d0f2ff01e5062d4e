"""The one exception that is a standard pool's too: apart from the others, since its base imports multiprocessing."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool

from shmq._errors import ShmqError

__all__ = ["WorkerLost"]


class WorkerLost(ShmqError, BrokenProcessPool):
    """A task was given up: as many workers died while they ran it as `max_deliveries` allows, or none could be started.

    An `except` clause that was written for ProcessPoolExecutor catches it: it is a BrokenProcessPool. But the pool goes on.

    `exit_codes`: how each of them ended, as subprocess counts it (below zero: the signal); None where that is not known,
    because somebody else had started that worker.
    """

    def __init__(self, message: str, exit_codes: tuple[int | None, ...] = ()) -> None:
        super().__init__(message, exit_codes)
        self.exit_codes = exit_codes

    def __str__(self) -> str:
        return str(self.args[0])
