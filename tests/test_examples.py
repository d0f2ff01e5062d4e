"""Every example runs, checks itself, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import shmq
from support.processes import survivors_of
from support.shared_memory import left_behind_by

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.relative_to(EXAMPLES) for path in EXAMPLES.rglob("*.py"))
ALONE = [path for path in SCRIPTS if len(path.parts) == 1]
WITH_C = [
    pytest.param(path, marks=pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"))
    for path in SCRIPTS
    if path not in ALONE
]
WATCHDOG = 120
SPAWNED = "import multiprocessing, {0}; multiprocessing.set_start_method('spawn'); {0}.main()"


def run(*arguments: str | Path, folder: Path) -> str:
    """Run Python in a session of its own; end all of it if the watchdog barks or a child outlives it."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(shmq.__file__).parents[1])},  # the same shmq that the tests test
    )
    try:
        output, _ = process.communicate(timeout=WATCHDOG)
    finally:
        survivors = survivors_of(process.pid)
        for pid in survivors:
            os.kill(pid, signal.SIGKILL)
    assert process.returncode == 0, output
    assert not survivors, f"still running: {survivors}"
    assert left_behind_by(process.pid) == []
    return output


@pytest.mark.parametrize("script", [*ALONE, *WITH_C], ids=str)
def test_example_runs_and_checks_itself(script: Path) -> None:
    assert run(EXAMPLES / script, folder=EXAMPLES).strip()


@pytest.mark.stress
@pytest.mark.parametrize("script", ALONE, ids=str)
def test_example_works_with_spawned_processes_too(script: Path) -> None:
    assert run("-c", SPAWNED.format(script.stem), folder=EXAMPLES).strip()


def test_segments_of_examples_are_known_by_the_pid() -> None:
    with shmq.Queue():
        assert len(left_behind_by(os.getpid())) == 4  # the segment, two semaphores, a folder for dead letters
    assert left_behind_by(os.getpid()) == []


def test_every_example_has_its_line_in_the_readme() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    assert [path for path in SCRIPTS if f"`python {path}`" not in readme] == []
