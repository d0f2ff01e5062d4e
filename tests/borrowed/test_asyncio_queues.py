"""CPython's own tests of asyncio.Queue, as the running interpreter carries them, against shmq.aio.Queue."""

from __future__ import annotations

import asyncio
import sys
import unittest
from typing import Any

from borrowing import borrowed, with_differences

import shmq.aio

theirs = borrowed("test.test_asyncio.test_queues")

# What differs on purpose. One of these that passes is a failure, too.
DIFFERENCES = {
    "test_repr": "a queue between processes does not show its messages: to read them is to decode them all",
    "test_str": "the same",
    "test_format": "counts stand in shared memory, and cannot be set from outside; the name is shown",
    "test_get_with_putters": "it puts a future of its own among the tasks that wait: there is no such list to put it into",
}
if sys.version_info < (3, 11):
    DIFFERENCES |= {
        "test_maxsize": "it asks how late it is by a simulated clock, whose loop hears no bell",
        "test_blocking_get_wait": "the same",
        "test_get_cancelled": "the same",
        "test_blocking_put_wait": "the same",
        "test_why_are_getters_waiting": "it asks for the loop to which asyncio's queue is bound; ours is bound to none",
        "test_why_are_putters_waiting": "the same",
    }
NOT_OURS = ("Lifo", "Priority")  # other orders than that of publication


class Adapted(unittest.TestCase):
    """Ours in the place of asyncio.Queue, on real event loops: simulated ones hear no bell."""

    q_class = shmq.aio.Queue

    def setUp(self) -> None:
        self.made: list[shmq.aio.Queue] = []
        self.loops: list[asyncio.AbstractEventLoop] = []

        class Queue(shmq.aio.Queue):  # named as theirs
            def __init__(made, *arguments: Any, **named: Any) -> None:  # `self` is the test
                super().__init__(*arguments, **named)
                self.made.append(made)

            @property
            def _getters(made) -> Any:
                return [waiter for waiters in made.queue._loop_waiters.values() for waiter in waiters.waiting[0]]

            @property
            def _putters(made) -> Any:
                return [waiter for waiters in made.queue._loop_waiters.values() for waiter in waiters.waiting[1]]

        self.q_class = Queue  # type: ignore[misc]
        self.genuine = asyncio.Queue
        asyncio.Queue = Queue  # type: ignore[misc,assignment]
        super().setUp()

    def new_test_loop(self, gen: Any = None) -> asyncio.AbstractEventLoop:
        """Of their older tests: a loop whose clock is simulated."""
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self.loops.append(loop)
        return loop

    def tearDown(self) -> None:
        asyncio.Queue = self.genuine  # type: ignore[misc]
        super().tearDown()
        for queue in self.made:
            queue.close()
        for loop in self.loops:
            loop.close()
        asyncio.set_event_loop(None)


def adapted(case: type) -> type:
    """Their test case, with ours in the place of asyncio.Queue and with what differs on purpose expected to fail."""
    return with_differences(type(case.__name__, (Adapted, case), {"__module__": __name__}), DIFFERENCES)


for name, case in list(vars(theirs).items()):
    if isinstance(case, type) and issubclass(case, unittest.TestCase) and "Tests" in name and not name.startswith(NOT_OURS):
        globals()[name] = adapted(case)
del name, case
