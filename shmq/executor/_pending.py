"""Pending: the tasks that a program has submitted and that are not done, and who is told their outcomes.

A task belongs to its future, or to the call of `map` that submitted it. All methods but `tell` are called under the lock.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from shmq._core import Hold
from shmq.executor._future import DONE, FINISHED, Future, finishing

__all__ = ["Call", "Outcome", "Pending"]

Outcome = tuple[int, Any, int]  # number of the task, its value or exception, and whether it failed


class Call(Protocol):
    """A call of `map`, as this module and the window see it."""

    order: deque[int]  # numbers of the tasks whose values are still to be handed out
    outcomes: dict[int, Any]
    errors: dict[int, BaseException]
    awaited: int  # number of the task for which the call's iterator waits
    gate: Any  # a lock that the iterator waits for

    def fail(self, number: int, error: BaseException) -> None: ...


class Pending:
    """Tasks by number. `refusal`: why no further task is taken, or None while they are."""

    def __init__(self) -> None:
        self.askers: dict[int, Future | Call] = {}
        self.done = 0
        self.calls: list[Call] = []  # those whose iterators wait
        self.later: deque[Future] = deque()  # futures that are done, and whose callbacks are to run
        self.refusal: str | None = None
        self.foreign = False  # this process is a forked child: no outcome will come
        self.next_number = itertools.count(1).__next__

    def finish(self, outcomes: Iterable[Outcome]) -> int:
        """Hand the outcomes to the futures and calls that wait for them; return how many tasks are done by that.

        An outcome without a task is passed over: it came twice, since its worker died between putting it and acking the task.
        """
        askers = self.askers
        before = len(askers)
        observed: list[tuple[Future, Any, int]] = []
        with Hold(finishing):
            for number, value, failed in outcomes:
                asker = askers.pop(number, None)
                if type(asker) is Future:
                    if asker.__dict__.setdefault("_gate", DONE) is not DONE:
                        observed.append((asker, value, failed))
                    else:
                        if failed:
                            asker._exception = value
                        else:
                            asker._result = value
                        asker._state = FINISHED
                elif asker is not None:
                    asker.outcomes[number] = value
                    if failed:
                        asker.errors[number] = value
        for future, value, failed in observed:
            if future.finish(value, failed != 0):
                self.later.append(future)
        count = before - len(askers)
        self.done += count
        for call in self.calls[:]:
            if call.awaited in call.outcomes:
                self.calls.remove(call)
                call.gate.release()
        return count

    def tell(self) -> None:
        """Run the callbacks of futures that are done: in the manager thread, without the lock, since they are the user's code."""
        while self.later:
            try:
                # CPython has it, the stubs do not.
                self.later.popleft()._invoke_callbacks()  # type: ignore[attr-defined]
            except BaseException:  # a SystemExit, say; an Exception is logged already
                logging.getLogger("shmq").error("a callback of a future raised", exc_info=True)
