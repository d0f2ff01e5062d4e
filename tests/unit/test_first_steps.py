"""What somebody meets who has just got shmq: sources that were not built, a small /dev/shm, a first message."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import shmq

PACKAGE = Path(shmq.__file__).parent


# -- sources ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder with shmq's sources, as they are cloned: without the compiled core."""
    shutil.copytree(PACKAGE, tmp_path / "shmq", ignore=shutil.ignore_patterns("*.so", "_core.c", "__pycache__"))
    return tmp_path


def import_fails_in(folder: Path, statement: str = "import shmq") -> str:
    """The last line of what Python says when it executes this in that folder. Where shmq is installed with -e, the hook of that
    would find the core of the other folder: -S."""
    done = subprocess.run([sys.executable, "-S", "-c", statement], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("statement", ["import shmq", "import shmq.mp", "from shmq.executor import Executor"])
def test_sources_without_their_core_say_so_and_what_to_type(sources: Path, statement: str) -> None:
    error = import_fails_in(sources, statement)
    assert error.startswith(f"ImportError: {sources}/shmq has no compiled core") and "it was not built" in error
    assert f"`{sys.executable} -m pip install -e {sources}`" in error and "another folder" in error


def test_sources_with_a_core_for_another_python_name_it(sources: Path) -> None:
    (sources / "shmq" / "_core.cpython-27-pdp11-unix.so").touch()
    assert "there is _core.cpython-27-pdp11-unix.so" in import_fails_in(sources)


def test_another_module_that_is_missing_is_not_mistaken_for_the_core(sources: Path) -> None:
    (sources / "shmq" / "_core.py").write_text("import no_such_module\n")
    assert import_fails_in(sources) == "ModuleNotFoundError: No module named 'no_such_module'"
