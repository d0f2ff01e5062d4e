"""The C interface over a segment in which a peer writes anything, anywhere: see hostile.c."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import shmq
from support.engine import engine_sources

pytestmark = pytest.mark.engine

ENGINE = Path(shmq.get_include()).parent
SOURCE = Path(__file__).with_name("hostile.c")
WATCHDOG = 90
VARIANTS = {
    "plain": ["-O2"],
    "address": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """hostile.c with the engine in one of the variants, compiled once. It includes client.c."""
    sources = [SOURCE, *engine_sources(ENGINE)]

    @functools.cache
    def build(variant: str) -> Path:
        program = tmp_path_factory.mktemp(variant) / "hostile"
        command = ["cc", "-std=c11", "-Wall", "-Wextra", *VARIANTS[variant], f"-I{ENGINE}", *sources, "-o", program]
        built = subprocess.run([*command, "-lrt", "-lpthread"], capture_output=True, text=True, timeout=WATCHDOG)
        assert built.returncode == 0, built.stderr
        return program

    return build


@pytest.mark.parametrize("variant", ["plain", pytest.param("address", marks=pytest.mark.sanitizer)])
@pytest.mark.parametrize("title", re.findall(r"^TEST\((\w+)\)", SOURCE.read_text(), re.MULTILINE))
def test_calls_return_and_touch_nothing_outside_the_segment(build, variant, title):
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([build(variant), title], capture_output=True, text=True, timeout=WATCHDOG, env=environment)
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
