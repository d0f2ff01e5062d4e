"""CPython's tests of the queues for threads (test.test_queue), shutdown included, run against shmq.mp.Queue."""

from __future__ import annotations

import gc
import queue
import unittest
from typing import Any

from borrowing import borrowed, with_differences

import shmq.mp

suite = borrowed("test.test_queue")

DIFFERENCES = {
    "test_negative_timeout_raises_exception": "a negative timeout is over, as in multiprocessing, and not an error",
    "test_shrinking_queue": "a queue that others use cannot be given another size from here",
}


class QueueTest(suite.BaseQueueTestMixin, unittest.TestCase):  # type: ignore[misc, name-defined]
    queue = queue

    def setUp(self) -> None:
        super().setUp()
        self.made: list[shmq.mp.Queue] = []

    def tearDown(self) -> None:
        for made in self.made:
            made.close()

    def type2test(self, maxsize: int = 0) -> Any:
        self.made.append(shmq.mp.Queue(maxsize))
        return self.made[-1]


with_differences(QueueTest, DIFFERENCES)


class SimpleQueueTest(suite.BaseSimpleQueueTest, unittest.TestCase):  # type: ignore[misc, name-defined]
    """SimpleQueue, re-entry included: a finalizer may put at any moment of a put."""

    queue = queue
    test_reentrancy = suite.CSimpleQueueTest.test_reentrancy

    def tearDown(self) -> None:
        gc.collect()  # what is left of the test of re-entry puts, too: before the queue is closed

    def type2test(self) -> Any:
        made = shmq.mp.SimpleQueue()
        self.addCleanup(made.close)
        return made


with_differences(
    SimpleQueueTest, DIFFERENCES | {"test_references": "a message is a copy, which pickle makes: a local class has none"}
)
