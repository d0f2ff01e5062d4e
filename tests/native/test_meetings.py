"""Two ports meet: one acts before each access to shared memory that a call of the other makes. See meetings.c."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import shmq
from support.engine import engine_sources

pytestmark = pytest.mark.engine

ENGINE = Path(shmq.get_include()).parent
SOURCE = Path(__file__).with_name("meetings.c")
WATCHDOG = 90


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("meetings") / "meetings"
    flags = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE=", f"-I{ENGINE}"]
    hook = ["-include", str(SOURCE.with_name("every_access.h"))]
    command = ["cc", *flags, *hook, SOURCE, *engine_sources(ENGINE), "-o", path, "-lrt", "-lpthread"]
    built = subprocess.run(command, capture_output=True, text=True, timeout=WATCHDOG)
    assert built.returncode == 0, built.stderr
    return path


@pytest.mark.parametrize("meeting", re.findall(r'^    \{"(\w+)", viewer', SOURCE.read_text(), re.M))
def test_whatever_the_order_no_cell_is_kept_for_one_who_has_gone(program: Path, meeting: str) -> None:
    done = subprocess.run([program, meeting], capture_output=True, text=True, timeout=WATCHDOG)
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
    assert int(done.stdout) > 20


@pytest.mark.parametrize("ending", re.findall(r'^    \{"(\w+)", (?!viewer)', SOURCE.read_text(), re.M))
def test_no_loop_ends_while_the_message_of_another_process_comes_back(program: Path, ending: str) -> None:
    done = subprocess.run([program, ending], capture_output=True, text=True, timeout=WATCHDOG)
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
    assert int(done.stdout) > 10
