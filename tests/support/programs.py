"""Programs that a test runs as processes of their own, and what they need of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import shmq

LONG = 30.0
PROMPT = 5.0  # seconds within which others go on; they need milliseconds, and a loaded machine more


def run_program(script: str, *arguments: object, before: tuple[str, ...] = (), **options: Any) -> str:
    """What a Python program of its own prints; it must end with status 0. `before`: what starts it, such as unshare."""
    command = [*before, sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * LONG, **options)
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


class WithoutNumpy:
    """An environment for processes that find a NumPy which cannot be imported, and notes that one has tried."""

    def __init__(self, folder: Path) -> None:
        self.tried = folder / "tried"
        (folder / "numpy").mkdir()
        (folder / "numpy" / "__init__.py").write_text(
            f"open({str(self.tried)!r}, 'w').close()\nraise ImportError('this NumPy is broken')"
        )
        package = Path(shmq.__file__).parents[1]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(package)])}

    def was_tried(self) -> bool:
        return self.tried.exists()


def require(*command: str, to: tuple[str, ...] = ("true",)) -> tuple[str, ...]:
    """The command, if this user may run something under it; otherwise the test is skipped."""
    try:
        tried = subprocess.run([*command, *to], capture_output=True, text=True, timeout=LONG)
    except FileNotFoundError:
        pytest.skip(f"there is no {command[0]}")
    if tried.returncode:
        pytest.skip(f"`{' '.join(command)}` is not permitted here: {tried.stderr.strip()}")
    return command
