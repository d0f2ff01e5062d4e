"""Window: which tasks of a program are handed over to the pool, and which wait in this process until others are done.

Callers put their tasks themselves while the window is open. It is as wide as the work that the workers do in some milliseconds,
and always wider by one than there are workers. A task behind it stays in the backlog, where it can still be cancelled.

All methods are called under the lock.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import CancelledError

from shmq._errors import Full, OutOfMemory, ShmqError
from shmq.executor._channel import Channel
from shmq.executor._future import RUNNING, Future
from shmq.executor._pending import Call, Outcome, Pending
from shmq.executor._reply import ROOM_PATIENCE
from shmq.executor._tasks import Message, frozen

__all__ = ["Window"]

AHEAD = 0.02  # seconds of work that are handed over to each worker
UNSENDABLE = (ShmqError, OSError, MemoryError)  # no room for a large task, no descriptor for its side segment


class Window:
    """Between `least` and `most` tasks wide. `wake`: called when the manager thread has to hand over what waits."""

    def __init__(self, tasks: Channel, pending: Pending, least: int, most: int, wake: Callable[[], None]) -> None:
        self.tasks = tasks
        self.pending = pending
        self.width = self.least = least
        self.most = most
        self.wake = wake
        self.backlog: deque[tuple[int, Message]] = deque()  # a number that is not pending any more is passed over
        self.handed = 0  # tasks that were handed over and are not done
        self.pace = 0.0  # seconds that a task took, lately
        self.starved = False  # there was no room for a task
        self._in_large: set[int] = set()  # tasks that lie in large slots, or did when they were taken
        self._hopeful = -ROOM_PATIENCE  # when a task was out whose memory is freed after its outcome
        self._feeding = False

    # -- how wide ----------------------------------------------------------------------------------------------------------

    def measure(self, seconds: float, count: int) -> None:
        """Adapt the width to so many tasks that are about to be finished, and took so many seconds together."""
        self._hopeful = time.monotonic()
        pace = seconds / count
        # A few tasks say little, since they may have been interrupted, unless they took long.
        self.pace += (pace - self.pace) * (min(count, 64) / 128 if self.pending.done else 1.0)
        ahead = int(self.least * AHEAD / max(self.pace, 1e-6))
        self.width = max(self.least, min(ahead, self.most))

    def widen(self, workers: int) -> None:
        """Let each of so many workers have a task."""
        self.least = min(max(workers, 1) + 1, self.most)
        self.width = max(self.width, self.least)

    # -- handing over ------------------------------------------------------------------------------------------------------

    def hand_over(self, number: int, message: Message, future: Future) -> None:
        """Put a task, or let it wait in the backlog."""
        askers = self.pending.askers
        try:
            askers[number] = future
            urgent = self.handed <= 0
            if self.handed < self.width and not self.backlog:
                try:
                    if type(message) is bytes:
                        self.tasks.small.put(message, False)
                    else:
                        self._put_large(number, message)
                    future._state = RUNNING
                    self.handed += 1
                    return
                except Full:
                    self.starved = True
                except UNSENDABLE as error:
                    if not self._may_wait(error):
                        self.handed += 1
                        self.finish([(number, error, True)])
                        return
                    urgent = True
            self.backlog.append((number, frozen(message)))
            if urgent:
                self.wake()
        except BaseException:  # Ctrl-C: the caller will not have the future, so the client must not wait for it
            askers.pop(number, None)
            self._recount()
            raise

    def extend(self, call: Call, tasks: list[tuple[int, Message]]) -> None:
        """Let the tasks of a call wait in the backlog, and hand over as many as the window has room for."""
        self.backlog.extend(tasks)  # first: a task that waits and is not pending is passed over
        self.pending.askers.update(dict.fromkeys([number for number, _ in tasks], call))
        self.feed()
        if self.backlog and type(self.backlog[-1][1]) is not bytes:  # its arrays are still the caller's, who may fill them again
            number, message = self.backlog[-1]
            self.backlog[-1] = number, frozen(message)

    def feed(self) -> None:
        """Hand over tasks of the backlog, as many as the window has room for."""
        if self._feeding:  # a finalizer submits in the middle of it
            return
        self._feeding = True
        try:
            self._feed()
        except BaseException:
            self._recount()
            raise
        finally:
            self._feeding = False

    def _feed(self) -> None:
        """Hand over tasks; take each off the backlog after it was put.

        Where Ctrl-C comes between the two, a task runs twice, as after a death. The other way round it would never be run, and
        the client would wait for it for ever.
        """
        backlog, small = self.backlog, self.tasks.small
        self.starved = False
        if self.tasks.owed:
            self.tasks.put_owed()
        while backlog and self.handed < self.width and not self.starved:
            messages: list[bytes] = []
            for number, message in list(itertools.islice(backlog, self.width - self.handed)):
                if type(message) is not bytes or not self.begins(number):
                    break
                messages.append(message)
            if messages:
                try:
                    put = small.put_many(messages, 0)
                except Full:
                    put = 0
                for _ in range(put):
                    backlog.popleft()
                self.handed += put
                self.starved = put < len(messages)
            else:
                number, message = backlog[0]
                if self.begins(number):
                    self._feed_large(number, message)
                else:
                    backlog.popleft()

    def _feed_large(self, number: int, message: Message) -> None:
        """Hand over the large task that is first in the backlog."""
        try:
            self._put_large(number, message)
        except Full:
            self.starved = True
            return
        except UNSENDABLE as error:
            if self._may_wait(error):
                return
            self.backlog.popleft()
            self.handed += 1
            self.finish([(number, error, True)])
            return
        self.backlog.popleft()
        self.handed += 1

    def _put_large(self, number: int, message: Message) -> None:
        """Put a large task into a large slot, or beside. **Raises** Full, and UNSENDABLE."""
        # Only so many lie in large slots that each worker finds a cell for the one that it takes; the others are spilled.
        crowded = len(self._in_large) >= self.tasks.large_limit > 0
        if self.tasks.put(message, "goes beside" if crowded else "waits"):
            self._in_large.add(number)

    def _may_wait(self, error: BaseException) -> bool:
        """Is there no memory because of tasks that are handed over, or were a moment ago? Then there will be some."""
        if self.handed:
            self._hopeful = time.monotonic()
        self.starved = isinstance(error, OutOfMemory) and time.monotonic() - self._hopeful < ROOM_PATIENCE
        return self.starved

    def begins(self, number: int) -> bool:
        """Is a task of the backlog still to be run? From now on its future cannot be cancelled."""
        askers = self.pending.askers
        asker = askers.get(number)
        if type(asker) is not Future:
            return asker is not None
        own = asker.__dict__
        # One step that finds whether the future was cancelled, and prevents it from now on, unless it has a gate.
        if own.setdefault("_state", RUNNING) is RUNNING and "_gate" not in own:
            return True
        if asker.begin():
            return True
        del askers[number]
        return False

    # -- done --------------------------------------------------------------------------------------------------------------

    def finish(self, outcomes: Collection[Outcome]) -> None:
        """Finish tasks that were handed over."""
        self.handed -= self.pending.finish(outcomes)
        if self._in_large:
            self._in_large.difference_update([number for number, _, _ in outcomes])

    def finish_all(self, outcomes: Iterable[Outcome]) -> None:
        """Finish all tasks, also those of the backlog."""
        self.backlog.clear()
        self.handed = len(self.pending.askers)
        self.finish(list(outcomes))

    def out(self) -> set[int]:
        """The numbers of the tasks that are handed over and not done."""
        return self.pending.askers.keys() - {number for number, _ in self.backlog}

    def _recount(self) -> None:
        """Ctrl-C came, maybe between handing a task over and counting it."""
        askers = self.pending.askers
        self.handed = len(askers) - sum(number in askers for number, _ in self.backlog)

    # -- cancelling --------------------------------------------------------------------------------------------------------

    def cancel(self, call: Call) -> None:
        """Cancel what is left of a map call: its tasks in the backlog are not run."""
        waiting = {number for number, _ in self.backlog} if call.order else set()
        for number in call.order:
            if number in waiting:
                self.pending.askers.pop(number, None)
        call.order.clear()
        call.outcomes.clear()

    def cancel_backlog(self) -> list[Future]:
        """Take all tasks off the backlog. Return the futures that are to be cancelled, the last one first."""
        cancelled: list[Future] = []
        while self.backlog:
            number, _ = self.backlog[-1]
            asker = self.pending.askers.pop(number, None)
            self.backlog.pop()
            if type(asker) is Future:
                cancelled.append(asker)
            elif asker is not None:
                asker.fail(number, CancelledError())
        self.finish([])  # which lets the iterators of calls go on
        return cancelled
