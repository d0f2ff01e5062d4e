"""A second kind of segment is attached, waited for, listened to and reaped by what knows no queue: see kinds.c."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import shmq
from support.engine import engine_sources

ENGINE = Path(shmq.get_include()).parent
SOURCE = Path(__file__).with_name("kinds.c")
SINGLES = re.findall(r'\{"(\w+)", \w+\}', SOURCE.read_text())


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kinds") / "kinds"
    flags = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE=", f"-I{ENGINE}"]
    command = ["cc", *flags, SOURCE, *engine_sources(ENGINE), "-o", path, "-lrt", "-lpthread"]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return path


@pytest.mark.engine
@pytest.mark.parametrize("single", SINGLES)
def test_of_another_kind_of_segment_passes(program: Path, single: str) -> None:
    done = subprocess.run([program, single], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_below_a_queue_names_nothing_of_one() -> None:
    queues = re.compile(r"\b(?:shmq_(?:cell|slot|ring|lease|orphan|view|geometry)\w*|geometry|cells)\b")
    parts = ["port.c", "bell.c", "wake.c", "reap.c", "watch.c", "wait.c", "bell.h", "wake.h", "reap.h", "watch.h", "wait.h"]
    code = {part: re.sub(r"/\*.*?\*/", "", (ENGINE / part).read_text(), flags=re.DOTALL) for part in parts}
    assert {part: queues.findall(text) for part, text in code.items() if queues.search(text)} == {}
