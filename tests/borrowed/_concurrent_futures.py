"""CPython's own tests of process pools, taken from the interpreter that runs this, with shmq.Executor in the pool's place.

    python tests/borrowed/_concurrent_futures.py fork Wait AsCompleted    prints the outcome of each test, as JSON

Most interpreters carry them, as the module `test.test_concurrent_futures` or, from 3.12 on, as a package of that name. Nothing
of them is copied: their classes are found by name, and what they know of ProcessPoolExecutor's inside is lent to them here.
"""

from __future__ import annotations

import importlib
import io
import json
import re
import sys
import traceback
import unittest
import weakref
from collections.abc import Iterator, Mapping
from concurrent import futures
from concurrent.futures import process
from types import ModuleType, SimpleNamespace
from typing import Any

import shmq

SUITE = "test.test_concurrent_futures"
PARTS = ("test_wait", "test_as_completed", "test_init", "test_shutdown", "test_deadlock", "test_process_pool")
KINDS = (
    "Wait",
    "AsCompleted",
    "Initializer",
    "FailingInitializer",
    "ProcessPoolShutdown",
    "ExecutorDeadlock",
    "ProcessPoolExecutor",
)
# Tests that wait where the pool does what it promises, one for ever, one for half a minute: they are not begun.
# test_executor.py says why they differ.
ENDLESS = {"test_broken_process_pool_traceback", "test_force_shutdown_during_max_tasks_worker_exit"}
SPAWN_WORKER = getattr(process, "_spawn_worker", None)  # from 3.14.10 on
METHODS = {"fork": "Fork", "spawn": "Spawn", "forkserver": "Forkserver"}


def modules() -> list[ModuleType]:
    """The suite's modules that have test classes. Raises ImportError where the interpreter has none."""
    suite = importlib.import_module(SUITE)
    if not hasattr(suite, "__path__"):
        return [suite]
    return [importlib.import_module(f"{SUITE}.{part}") for part in PARTS]


made: weakref.WeakSet[shmq.Executor] = weakref.WeakSet()


class Processes(Mapping[int, Any]):
    """Those that a crew has by now, whenever it is asked."""

    def __init__(self, crew: Any) -> None:
        self.crew = crew

    def __getitem__(self, pid: int) -> Any:
        return self.crew.processes[pid]

    def __iter__(self) -> Iterator[int]:
        return iter(self.crew.processes)

    def __len__(self) -> int:
        return len(self.crew.processes)


class SuiteExecutor(shmq.Executor):
    """What the suite looks at, beside the public methods."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        made.add(self)
        crew = self._client.crew
        launch = crew._launch

        def launch_unless_patched(worker: Any) -> None:
            """Raise what a test has put in the place of ProcessPoolExecutor's way to start a worker."""
            if (patched := getattr(process, "_spawn_worker", None)) is not SPAWN_WORKER:
                patched()
            launch(worker)
            worker.close = lambda: None  # the suite looks at those that have ended

        crew._launch = launch_unless_patched  # type: ignore[method-assign]

    @property
    def _processes(self) -> Mapping[int, Any]:
        return Processes(self._client.crew)

    @property
    def _executor_manager_thread(self) -> Any:
        return self._client.manager.thread

    @property
    def _call_queue(self) -> Any:
        return SimpleNamespace(join_thread=lambda: None)  # shmq has no feeder thread

    @property
    def _broken(self) -> bool:
        return self._client.broken is not None


class Futures:
    """`concurrent.futures` with our executor where the suite names the class."""

    ProcessPoolExecutor = SuiteExecutor

    def __getattr__(self, name: str) -> Any:
        return getattr(futures, name)


def lend(module: ModuleType) -> None:
    """Put our executor, and our exception, in the place of theirs."""
    module.futures = Futures()  # type: ignore[attr-defined]
    if hasattr(module, "BrokenProcessPool"):
        module.BrokenProcessPool = shmq.WorkerLost
    if hasattr(module, "assert_python_ok"):
        original = module.assert_python_ok

        def assert_python_ok(*arguments: str) -> Any:
            return original(
                *(
                    re.sub(r"from concurrent\.futures import (\w+)", r"from shmq import Executor as \1", text)
                    for text in arguments
                )
            )

        module.assert_python_ok = assert_python_ok
    for name in METHODS.values():
        mixin = getattr(module, f"ProcessPool{name}Mixin", None)
        if mixin is not None:
            mixin.executor_type = SuiteExecutor


def classes(method: str, kind: str) -> Iterator[type[unittest.TestCase]]:
    for module in modules():
        found = getattr(module, f"ProcessPool{METHODS[method]}{kind}Test", None)
        if found is not None:
            yield found


class Outcomes(unittest.TestResult):
    """Each test's outcome: "passed", "skipped: …" or what went wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.found.setdefault(test.id().rpartition(".")[2], "passed")
        for executor in list(made):  # a test that fails leaves without it
            executor.shutdown()

    def note(self, test: unittest.TestCase, text: str) -> None:
        self.found[test.id().rpartition(".")[2]] = text

    def addError(self, test: Any, err: Any) -> None:
        self.note(test, "".join(traceback.format_exception(*err)))

    def addFailure(self, test: Any, err: Any) -> None:
        self.addError(test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self.addError(test, err)

    def addSkip(self, test: Any, reason: str) -> None:
        self.note(getattr(test, "test_case", test), f"skipped: {reason}")  # a subtest may be what is skipped


def run(method: str, kinds: list[str]) -> dict[str, dict[str, str]]:
    """Run the classes of these kinds; return the outcomes by kind and test."""
    for module in modules():
        lend(module)
    found = {}
    for kind in kinds:
        outcomes = Outcomes()
        for case in classes(method, kind):
            names = unittest.defaultTestLoader.getTestCaseNames(case)
            outcomes.found |= {name: "not begun: it would wait" for name in names if name in ENDLESS}
            unittest.TestSuite(case(name) for name in names if name not in ENDLESS).run(outcomes)
        found[kind] = outcomes.found
    return found


if __name__ == "__main__":
    screen, sys.stdout = sys.stdout, io.StringIO()
    outcomes = run(sys.argv[1], sys.argv[2:])
    json.dump(outcomes, screen)
