"""MapCall: one call of `map`. It hands out the values in the order of the items, without a Future for each of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import TimeoutError
from typing import Any, final

from shmq._core import Hold
from shmq.executor._future import lock
from shmq.executor._window import Window

__all__ = ["MapCall"]


@final
class MapCall:
    """What one `map` has asked of a pool, and what came back. `fail` is called under the lock."""

    __slots__ = ("awaited", "errors", "gate", "order", "outcomes", "window")

    def __init__(self, window: Window) -> None:
        self.window = window
        self.order: deque[int] = deque()  # numbers of the tasks whose values are still to be handed out
        self.outcomes: dict[int, Any] = {}
        self.errors: dict[int, BaseException] = {}
        self.awaited = 0
        self.gate: Any = None

    def fail(self, number: int, error: BaseException) -> None:
        """A task of this call could not be submitted, or was cancelled."""
        self.errors[number] = error
        self.outcomes[number] = None

    def results(self, deadline: float | None, chunks: bool, more: Iterator[object] | None) -> Iterator[Any]:
        """The values, in order. `more`: submits another item each time it is asked."""
        order, outcomes, errors = self.order, self.outcomes, self.errors
        try:
            while order:
                number = order[0]
                if number not in outcomes:
                    self._wait(number, deadline)
                order.popleft()
                if number in errors:
                    del outcomes[number]
                    raise errors.pop(number)
                if more is not None:
                    next(more, None)
                if chunks:
                    values = outcomes.pop(number)
                    values.reverse()
                    while values:
                        yield values.pop()
                else:
                    yield outcomes.pop(number)
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Cancel what is left of the call: its tasks that wait in the backlog are not run."""
        with Hold(lock):
            self.window.cancel(self)

    def _wait(self, number: int, deadline: float | None) -> None:
        """Wait for the outcome of a task. **Raises** TimeoutError; RuntimeError in a forked child."""
        pending = self.window.pending
        gate = threading.Lock()
        gate.acquire()
        with Hold(lock):
            if number in self.outcomes:
                return
            if pending.foreign:
                raise RuntimeError(pending.refusal)
            self.awaited, self.gate = number, gate
            pending.calls.append(self)
        try:
            if not gate.acquire(timeout=-1 if deadline is None else max(deadline - time.monotonic(), 0)):
                raise TimeoutError
        finally:
            with Hold(lock):
                if self in pending.calls:
                    pending.calls.remove(self)
