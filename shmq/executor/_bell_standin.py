"""Stand-in until shmq._bell is there: looks every other millisecond."""

from __future__ import annotations

import select
import time
from typing import Any


def wait_many(queues: Any, timeout: float | None = None, descriptors: Any = ()) -> tuple[list[Any], list[int]]:
    deadline = None if timeout is None else time.monotonic() + timeout
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    while True:
        ready = [queue for queue in queues if not queue.empty()]
        events = [fd for fd, _ in poll.poll(0 if ready else 1)]
        if ready or events or (deadline is not None and time.monotonic() >= deadline):
            return ready, events
