"""One call of `map`: its outcomes, in the order of its items, without a Future for each of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import TimeoutError
from typing import TYPE_CHECKING, Any, final

from shmq._core import Hold
from shmq.executor._future import lock

if TYPE_CHECKING:
    from shmq.executor._client import Client

__all__ = ["MapCall"]


@final
class MapCall:
    """What was asked of a pool by one `map`, and what came back. All but `results` is called under the lock."""

    __slots__ = ("awaited", "client", "errors", "gate", "order", "outcomes")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.order: deque[int] = deque()  # numbers of the tasks whose values are still to be handed out
        self.outcomes: dict[int, Any] = {}
        self.errors: dict[int, BaseException] = {}
        self.awaited = 0
        self.gate: Any = None

    def fail(self, number: int, error: BaseException) -> None:
        self.errors[number] = error
        self.outcomes[number] = None

    def await_(self, number: int, deadline: float | None) -> None:
        """Wait for the outcome of a task. Raises TimeoutError."""
        client = self.client
        gate = threading.Lock()
        gate.acquire()
        with Hold(lock):
            if number in self.outcomes:
                return
            if client.ended:  # in a forked child
                raise RuntimeError(client.refusal)
            self.awaited, self.gate = number, gate
            client.gated.append(self)
        try:
            if not gate.acquire(timeout=-1 if deadline is None else max(deadline - time.monotonic(), 0)):
                raise TimeoutError
        finally:
            with Hold(lock):
                if self in client.gated:
                    client.gated.remove(self)

    def results(self, deadline: float | None, chunks: bool, more: Iterator[object] | None) -> Iterator[Any]:
        """The values, in order. `more`: submits another item each time it is asked."""
        order, outcomes, errors = self.order, self.outcomes, self.errors
        try:
            while order:
                number = order[0]
                if number not in outcomes:
                    self.await_(number, deadline)
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
            self.client.give_up(self)
