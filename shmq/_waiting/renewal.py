"""Renewal: a thread that extends leases while this process works on them.

There is one per process, started by the first `receive(extend=True)`. It wakes when a third of the shortest time-out has
passed. So only a process that was stopped, or kept the interpreter lock, for two thirds of the time-out loses a lease.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
import weakref
from typing import TYPE_CHECKING, TypeAlias

from shmq._errors import LeaseLost

if TYPE_CHECKING:
    from shmq._core import Lease

__all__ = ["keep"]

Entry: TypeAlias = "tuple[weakref.ref[Lease], float, float]"

log = logging.getLogger("shmq")


class Renewal:
    """The leases that this process extends, each with the seconds of one extension and the time of the next one.

    It has no lock: new leases come by a SimpleQueue, whose `put` a signal handler or a finalizer may call in the middle of
    another.
    """

    def __init__(self) -> None:
        self.new: queue.SimpleQueue[Entry] = queue.SimpleQueue()
        self.leases: list[Entry] = []  # the thread's
        self.pid = os.getpid()
        threading.Thread(target=self.run, name="shmq-renewal", daemon=True).start()

    def add(self, lease: Lease, seconds: float) -> None:
        self.new.put((weakref.ref(lease), seconds, time.monotonic() + seconds / 3))

    def run(self) -> None:
        while True:
            soonest = min((due for _, _, due in self.leases), default=None)
            with contextlib.suppress(queue.Empty):
                self.leases.append(self.new.get(timeout=None if soonest is None else max(soonest - time.monotonic(), 0)))
            self.leases = [kept for kept in map(self.look, self.leases) if kept is not None]

    def look(self, entry: Entry) -> Entry | None:
        """Extend the lease if it is time; None where it is settled, gone or lost."""
        reference, seconds, due = entry
        lease = reference()
        if lease is None or lease.settled:
            return None
        if time.monotonic() < due:
            return entry
        try:
            lease.extend(seconds)
        except LeaseLost as error:
            if lease._lost:  # otherwise it was settled a moment ago, by another thread
                log.warning("%s", error)
            return None
        except Exception:  # of this one lease; the others are still to be kept
            log.exception("a lease could not be extended")
            return None
        return reference, seconds, time.monotonic() + seconds / 3


_renewal: Renewal | None = None


def keep(lease: Lease, seconds: float) -> None:
    """Extend the lease, by so many seconds each time, until it is settled or dropped."""
    global _renewal
    if _renewal is None or _renewal.pid != os.getpid():  # a forked child has no threads
        _renewal = Renewal()
    _renewal.add(lease, seconds)
