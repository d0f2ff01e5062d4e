"""Outcomes: what a client takes from the channel into which the workers put the outcomes of its tasks.

What was taken is kept here until the client has finished its tasks. So a limit that is met in the middle (no descriptor for the
large slots, say) loses nothing, and the next try goes on where this one has stopped.
"""

from __future__ import annotations

from typing import Any

from shmq._errors import Empty, InFlightLimit, PayloadLost
from shmq.executor import _tasks
from shmq.executor._channel import Channel
from shmq.executor._reserve import is_limit

__all__ = ["Outcomes"]

BATCH = 256  # outcomes that are taken at once


class Outcomes:
    """Outcomes that were taken. `as_views`: arrays may be views of the large slots."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.as_views = False
        self.found: list[tuple[int, Any, int]] = []  # number of the task, its value or exception, and whether it failed
        self.seconds = 0.0  # that the tasks of those outcomes took together
        self.start_error: BaseException | None = None  # raised by an initializer
        self.payloads_lost = 0  # outcomes whose file was removed, so that their tasks are not known
        self._ticket = False  # a ticket was taken: there may be large outcomes

    def take(self) -> int:
        """Take the outcomes that are there, without waiting; return how many, tickets and errors of initializers included."""
        batch: list[bytes] = []
        try:
            batch = self.channel.small.get_many(BATCH, 0)
        except Empty:
            if not (self._ticket or self.found):
                return 0
        except PayloadLost:
            self.payloads_lost += 1
            return 1
        self._ticket = self._ticket or b"" in batch
        outcome_of = _tasks.outcome_of
        for message in batch:
            if not message:
                continue
            number, took, kind, count = outcome_of(message)
            if number:
                self.seconds += took
                self._load(message, number, kind, count, self.as_views)
            else:
                self.start_error = _tasks.load_outcome(message, kind, count, False)
        if self._ticket:
            self._take_large()
            self._ticket = False
        elif max(map(len, batch), default=0) > _tasks.SMALL:  # it was spilled: let there be a large slot for the next one
            self._make_large()
        return len(batch) or len(self.found)

    def clear(self) -> None:
        """Forget what was found, once its tasks are finished: an exception in it refers to a frame that refers to this list."""
        self.found.clear()
        self.seconds = 0.0

    def _load(self, data: Any, number: int, kind: int, count: int, as_views: bool) -> None:
        try:
            self.found.append((number, _tasks.load_outcome(data, kind, count, as_views), kind))
        except BaseException as error:
            self.found.append((number, error, 1))

    def _make_large(self) -> None:
        try:
            self.channel.make_large()
        except Exception as error:
            if not is_limit(error):
                raise

    def _take_large(self) -> None:
        """Take the outcomes that are in the large slots."""
        large = self.channel.attached_large()
        while large is not None:
            # At most half of the cells may be held by views that the program keeps: the workers need the others.
            data: Any
            cells = large._cell_counts()
            as_views = self.as_views and 2 * (cells.leased + cells.held) < sum(cells)
            try:
                lease = large.receive(0)
                data = lease.view
            except Empty:
                return
            except InFlightLimit:  # workers' loans and kept views hold all cells but the two that they leave alone
                lease, data = None, self._copy()
                if data is None:
                    return
            number, _, kind, count = _tasks.outcome_of(data)
            self._load(data, number, kind, count, as_views)
            del data
            if lease is not None:
                lease.ack()

    def _copy(self) -> bytes | None:
        try:
            return self.channel.get_large()
        except Empty:
            return None
