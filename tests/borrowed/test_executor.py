"""CPython's own tests of ProcessPoolExecutor, run against shmq.Executor: taken from this interpreter, see _concurrent_futures.py.

They run in processes of their own, several at once, since most of their time they sleep.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import shmq

RUNNER = Path(__file__).with_name("_concurrent_futures.py")
SUITE = "test.test_concurrent_futures"
WATCHDOG = 110.0
AT_ONCE = 6

# What differs on purpose, by test: why. shmq.WorkerLost stands where the suite names BrokenProcessPool.
DIFFERENT = {
    "test_killed_child": "a worker that is asked to leave finishes its task, and is replaced: the pool is not broken",
    "test_broken_process_pool_traceback": "the same: its tasks would wait for ever for an event that nobody sets",
    "test_error_at_task_unpickle": "what unpickling a task raises is that future's exception, and breaks no pool",
    "test_exit_at_task_unpickle": "the same, where it raises SystemExit",
    "test_error_during_result_unpickle_in_result_handler": "what unpickling a result raises is that future's exception",
    "test_exit_during_result_unpickle_in_result_handler": "the same, where it raises SystemExit",
    "test_python_finalization_error": "it makes the start of a feeder thread fail, and shmq has none",
    "test_saturation": "its tasks do not pickle: shmq says so at once, and starts no worker for them",
    "test_processes_terminate": "the same",
    "test_gc_during_max_tasks_worker_exit_gh152967": "a pool replaces its workers without its executor, and does what was asked",
    "test_shutdown_no_wait_max_tasks_gh119592": "the same, where it is dropped after a shutdown that did not wait",
    "test_force_shutdown_during_max_tasks_worker_exit": "it sets a private flag in the place of terminate_workers()",
    "test_force_shutdown_workers_invalid_op": "it calls a private method, which shmq does not have",
    "test_terminate_workers": "the same: it puts a mock in that method's place",
    "test_kill_workers": "the same",
}

# The suite's classes, in parcels that take about as long.
PARCELS = [
    ("Wait",),
    ("ExecutorDeadlock", "AsCompleted"),
    ("ProcessPoolExecutor", "ProcessPoolShutdown", "Initializer", "FailingInitializer"),
]
KINDS = [kind for parcel in PARCELS for kind in parcel]
METHODS = ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.stress)]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("test") is None or importlib.util.find_spec(SUITE) is None,
    reason=f"this interpreter was built without {SUITE}",
)

Outcomes = dict[str, dict[str, str]]


def run(method: str, parcel: tuple[str, ...]) -> Outcomes:
    """Run a parcel in a process of its own."""
    done = subprocess.run(
        [sys.executable, RUNNER, method, *parcel],
        capture_output=True,
        text=True,
        timeout=WATCHDOG,
        cwd=Path(shmq.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    outcomes: Outcomes = json.loads(done.stdout)
    return outcomes


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> dict[str, Outcomes]:
    """The outcomes of all that was asked for, by start method."""
    asked = {item.callspec.params["method"] for item in request.session.items if item.path == request.path}
    found: dict[str, Outcomes] = {method: {} for method in asked}
    with ThreadPoolExecutor(AT_ONCE) as threads:
        running = {(method, parcel): threads.submit(run, method, parcel) for parcel in PARCELS for method in sorted(asked)}
        for (method, _), future in running.items():
            found[method] |= future.result()
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_the_suite_of_process_pools_passes(outcomes: dict[str, Outcomes], method: str, kind: str) -> None:
    found = outcomes[method][kind]
    assert found, f"the interpreter's suite has no {kind} tests"
    failed = {test: text for test, text in found.items() if text != "passed" and not text.startswith("skipped")}
    unexpected = {test: text for test, text in failed.items() if test not in DIFFERENT}
    assert not unexpected, "\n\n".join(f"{test}: {text}" for test, text in unexpected.items())
    surprising = [test for test in found if test in DIFFERENT and found[test] == "passed"]
    assert not surprising, f"listed as different, but the same: {surprising}"
