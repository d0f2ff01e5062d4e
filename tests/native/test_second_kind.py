"""A second kind of segment is attached, waited for, listened to and reaped by what knows no queue: see second_kind.c."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.native import ENGINE, Builder, run_native, titles
from test_native_floors import includes_of, lower_headers

SOURCE = Path(__file__).with_name("second_kind.c")


@pytest.mark.engine
@pytest.mark.parametrize("title", titles(SOURCE))
def test_of_another_kind_of_segment_passes(build: Builder, title: str) -> None:
    run_native(build.program(SOURCE, "-O1"), title)


def parts_below_a_queue() -> list[str]:
    parts = includes_of(ENGINE, "engine.c")
    return [part for part in parts if not part.startswith("queue/")]


def test_what_is_below_a_queue_sees_nothing_of_one() -> None:
    """So the compiler refuses each word of a queue there: its struct, and its part of the header, are not declared."""
    below = parts_below_a_queue()
    assert below[0] == "files.c" and below[-1] == "wait.c"
    seen = {part: lower_headers(ENGINE, part) for part in below}
    assert {part: headers for part, headers in seen.items() if any("queue" in header for header in headers)} == {}


@pytest.mark.engine
@pytest.mark.parametrize("word", ["geometry", "kept", "policy", "header->write_seq", "header->shut", "header->codec"])
def test_a_word_of_a_queue_is_refused_below_it(tmp_path: Path, word: str) -> None:
    folder = shutil.copytree(ENGINE, tmp_path / "engine")
    source = folder / "wait.c"
    source.write_text(
        f"{source.read_text()}\nconst void *names_a_queue(const struct shmq_port *port) {{ return &port->{word}; }}\n"
    )
    compiler = ["cc", "-std=c11", "-fsyntax-only", source]
    done = subprocess.run(compiler, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    assert f"has no member named '{word.rpartition('>')[2]}'" in done.stderr
