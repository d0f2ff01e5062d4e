"""A second kind of segment is attached, waited for, listened to and reaped by what knows no queue: see second_kind.c."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.native import ENGINE, Builder, run_native, titles

SOURCE = Path(__file__).with_name("second_kind.c")


@pytest.mark.engine
@pytest.mark.parametrize("title", titles(SOURCE))
def test_of_another_kind_of_segment_passes(build: Builder, title: str) -> None:
    run_native(build.program(SOURCE, "-O1"), title)


def test_what_is_below_a_queue_names_nothing_of_one() -> None:
    queues = re.compile(r"\b(?:shmq_(?:cell|slot|ring|lease|orphan|view|geometry)\w*|geometry|cells)\b")
    parts = ["port.c", "bell.c", "wake.c", "reap.c", "watch.c", "wait.c", "bell.h", "wake.h", "reap.h", "watch.h", "wait.h"]
    code = {part: re.sub(r"/\*.*?\*/", "", (ENGINE / part).read_text(), flags=re.DOTALL) for part in parts}
    assert {part: queues.findall(text) for part, text in code.items() if queues.search(text)} == {}
