"""Two ports meet: one acts before each access to shared memory that a call of the other makes. See meetings.c."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.native import ACCESSES, Builder, run_native

pytestmark = pytest.mark.engine

SOURCE = Path(__file__).with_name("meetings.c")


@pytest.fixture(scope="session")
def program(build: Builder) -> Path:
    return build.program(SOURCE, "-O1", *ACCESSES)


@pytest.mark.parametrize("meeting", re.findall(r'^    \{"(\w+)", viewer', SOURCE.read_text(), re.M))
def test_whatever_the_order_no_cell_is_kept_for_one_who_has_gone(program: Path, meeting: str) -> None:
    assert int(run_native(program, meeting)) > 20


@pytest.mark.parametrize("ending", re.findall(r'^    \{"(\w+)", (?!viewer)', SOURCE.read_text(), re.M))
def test_no_loop_ends_while_the_message_of_another_process_comes_back(program: Path, ending: str) -> None:
    assert int(run_native(program, ending)) > 10
