"""CPython's tests of the queues of multiprocessing, run against shmq.mp with each start method."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.queues
import unittest
import unittest.mock
from typing import Any

from borrowing import borrowed, with_differences

import shmq.mp

suite = borrowed("test._test_multiprocessing")

DIFFERENCES = {
    "test_queue_feeder_donot_stop_onexc": "what does not pickle raises in put, where somebody can catch it",
    "test_queue_feeder_on_queue_feeder_error": "there is no feeder thread whose errors could be hooked",
    "test_closed_queue_empty_exceptions": "whatever is asked of a closed queue raises Closed, a ValueError",
    "test_empty_exceptions": "… and so for a SimpleQueue",
    "test_closed": "there is no pipe",
}
NAMES = ("Queue", "JoinableQueue", "SimpleQueue")


class Replaced:
    """Our types under multiprocessing's names, and one start method as the default."""

    method: str

    @classmethod
    def setUpClass(cls) -> None:
        cls.patches = contextlib.ExitStack()
        for name in NAMES:
            for module in (multiprocessing, multiprocessing.queues):
                cls.patches.enter_context(unittest.mock.patch.object(module, name, getattr(shmq.mp, name)))
        cls.before = multiprocessing.get_start_method(allow_none=True)
        multiprocessing.set_start_method(cls.method, force=True)
        super().setUpClass()  # type: ignore[misc]

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()  # type: ignore[misc]
        multiprocessing.set_start_method(cls.before, force=True)
        cls.patches.close()


def generated(base: type, method: str, *more: type, **attributes: Any) -> type:
    """The suite's class with ours in it, under a name by which a spawned child finds it."""
    name = f"{base.__name__.strip('_')}With{method.capitalize()}"
    case = type(name, (Replaced, base, *more), {"method": method, "__module__": __name__, "__qualname__": name, **attributes})
    return with_differences(case, DIFFERENCES)


FACES = {name: staticmethod(getattr(shmq.mp, name)) for name in ("Queue", "JoinableQueue")}
for each in ("fork", "spawn", "forkserver"):
    for case in (
        generated(suite._TestQueue, each, suite.ProcessesMixin, unittest.TestCase, **FACES),
        generated(suite.TestSimpleQueue, each),
    ):
        globals()[case.__name__] = case
del case
