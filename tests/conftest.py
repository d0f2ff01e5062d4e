"""The fixtures of all tests: names of their own, child processes under a watchdog, and the check that nothing is left behind."""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# OpenBLAS starts a thread per core when NumPy is imported, which takes half of that time; no test computes with it. It is set
# before the first import of NumPy, and each process that a test starts inherits it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Where a shell starts the run in the background, SIGINT is ignored, and all processes of the run would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("support")

import shmq
from support.native import Builder
from support.processes import Children
from support.programs import WithoutNumpy
from support.shared_memory import SHM, left_behind_by

_numbers = itertools.count()

# What each child of the fork server would import again. Not shmq: it is to meet it as a new process does.
multiprocessing.set_forkserver_preload(["numpy", "pytest"])


def pytest_configure(config: pytest.Config) -> None:
    """Let the processes of a run share byte code, in a folder of the run, where none is to be written beside the sources.

    Each of some five hundred interpreters would compile shmq again; a worker of pytest-xdist itself has most of what it needs.
    """
    if not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="shmq-tests-", ignore_cleanup_errors=True)
        config.add_cleanup(folder.cleanup)
        os.environ["SHMQ_TESTS_BYTECODE"] = folder.name
    elif os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ["PYTHONPYCACHEPREFIX"] = os.environ["SHMQ_TESTS_BYTECODE"]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Each worker of pytest-xdist needs all test modules: it rewrites the assertions of a share, and finds the others' rewritten.

    Otherwise each would rewrite all, which takes twice as long as the rest of the collection.
    """
    gc.disable()  # a collection of tests makes little garbage, and much that is looked at again and again
    worker = getattr(session.config, "workerinput", None)
    if worker is None:
        return (yield)
    prefix, never = sys.pycache_prefix, sys.dont_write_bytecode
    if never:
        sys.pycache_prefix, sys.dont_write_bytecode = os.environ["SHMQ_TESTS_BYTECODE"], False
    number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    asked = {Path(argument.partition("::")[0]).resolve() for argument in session.config.args}
    files = sorted(file for file in Path(__file__).parent.rglob("test_*.py") if asked & {file, *file.parents})
    for file in files[number::count]:
        sys.path.insert(0, str(file.parent))
        with contextlib.suppress(pytest.skip.Exception):
            importlib.import_module(file.stem)
    try:
        return (yield)
    finally:
        sys.pycache_prefix, sys.dont_write_bytecode = prefix, never


def pytest_collection_finish() -> None:
    """What pytest has collected is nothing that a test's collection of garbage need look at: it would take 50 ms each time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a segment, a semaphore, a side segment or a child behind."""
    yield
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    left = left_behind_by(os.getpid())
    for file in left:
        path = f"{SHM}/{file}"
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)  # a folder of dead letters
    assert not children, f"still running: {children}"
    assert not left, f"left in {SHM}: {left}"


@pytest.fixture
def name() -> Iterator[str]:
    """A queue name of this test alone; whatever it names is unlinked afterwards."""
    unique = f"test.{os.getpid()}.{next(_numbers)}"
    yield unique
    if unique in shmq.list_segments():
        shmq.unlink(unique)


@pytest.fixture
def make(name: str) -> Iterator[Callable[..., shmq.Queue]]:
    """Make queues of this test's own names, with the given parameters; closed and unlinked afterwards."""
    made: list[shmq.Queue] = []

    def make(**parameters: Any) -> shmq.Queue:
        queue = shmq.Queue.create(f"{name}.{len(made)}", **parameters)
        made.append(queue)
        return queue

    yield make
    for queue in made:
        queue.close()
        with contextlib.suppress(shmq.SegmentNotFound):  # the test has unlinked it
            shmq.unlink(queue.name)


@pytest.fixture
def queue(make: Callable[..., shmq.Queue]) -> shmq.Queue:
    """A small queue: 16 slots of 256 bytes."""
    return make(slots=16, slot_size=256)


@pytest.fixture(scope="session")
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Compile programs in C, each once in a run."""
    folder = tmp_path_factory.getbasetemp()
    return Builder((folder.parent if hasattr(request.config, "workerinput") else folder) / "built")


@pytest.fixture
def without_numpy(tmp_path: Path) -> WithoutNumpy:
    """Processes that find a broken NumPy."""
    return WithoutNumpy(tmp_path)


@pytest.fixture
def children() -> Iterator[Children]:
    """Forked children."""
    group = Children("fork")
    yield group
    group.kill()


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def any_children(request: pytest.FixtureRequest) -> Iterator[Children]:
    """Children of each start method."""
    group = Children(request.param)
    yield group
    group.kill()
