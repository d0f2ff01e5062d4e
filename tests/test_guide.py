"""Each page of the guide does what it shows, and the page of errors has a place for each."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmq
from shmq import _errors
from support import pages
from support.processes import WATCHDOG, survivors_of
from support.shared_memory import left_behind_by
from support.texts import all_words, texts_of

PACKAGE = Path(shmq.__file__).parent
ROOT = Path(__file__).parent.parent
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
COMPILED = {path for path in GUIDE if any(block.language == "c" for block in pages.blocks_of(path.read_text()))}
UNITS = [
    pytest.param(block, id=block.file)
    for path in GUIDE
    for block in pages.blocks_of(path.read_text())
    if block.file.endswith(".service")
]


@pytest.fixture(scope="module")
def runner() -> Iterator[subprocess.Popen[str]]:
    """The program that runs pages: one for all, since most of a page's time would be imports."""
    command = [sys.executable, pages.__file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.communicate("", timeout=WATCHDOG)
        assert process.returncode == 0


@pytest.mark.parametrize("page", GUIDE, ids=lambda path: path.stem)
def test_a_page_of_the_guide_does_what_it_shows(page: Path, name: str, tmp_path: Path, runner: subprocess.Popen[str]) -> None:
    if page in COMPILED and shutil.which("cc") is None:
        pytest.skip("no C compiler")
    assert runner.stdin is not None and runner.stdout is not None
    print(json.dumps([str(page), name, str(tmp_path)]), file=runner.stdin, flush=True)
    pid, status = json.loads(runner.stdout.readline())
    survivors = survivors_of(pid)
    for survivor in survivors:
        os.kill(survivor, signal.SIGKILL)
    assert status == 0, (tmp_path / "said").read_text()
    assert not survivors, f"still running: {survivors}"
    assert left_behind_by(pid) == []


def test_every_page_of_the_guide_is_in_its_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert {page.name for page in GUIDE if f"(guide/{page.name})" not in index} == set()


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_of_the_guide_is_one_that_systemd_takes(unit: pages.Block, tmp_path: Path) -> None:
    text = re.sub(r"(?<=ExecStart=)\S*/", f"{Path(sys.executable).parent}/", unit.text)
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.optionxform = str
    parsed.read_string(text)
    assert parsed.sections() == ["Unit", "Service", "Install"]
    program = parsed["Service"]["ExecStart"].split()
    assert os.access(program[0], os.X_OK)
    if program[0].endswith("/shmq"):
        from shmq.cli._group import load

        command = load(program[1])
        command.make_context(program[1], program[2:])  # raises where it has no such option
    if shutil.which("systemd-analyze"):
        (tmp_path / unit.file).write_text(text)
        checked = subprocess.run(["systemd-analyze", "verify", tmp_path / unit.file], capture_output=True, text=True)
        assert (checked.returncode, unit.file in checked.stderr) == (0, False), checked.stderr


TROUBLE = (ROOT / "docs" / "guide" / "troubleshooting.md").read_text()
SAYINGS = sorted(
    {saying for cells in re.findall(r"^\| (`.*?`) \|", TROUBLE, re.MULTILINE) for saying in re.findall(r"`([^`]+)`", cells)}
)
ENTRIES = {saying: re.compile("…(?:[^:\n]*…)?".join(map(re.escape, saying.strip("… ").split("…")))) for saying in SAYINGS}
OF_DEMONSTRATIONS = ("demo/", "cli/bench")  # which say what they found when they checked themselves


def test_each_exception_has_its_place_among_the_troubles() -> None:
    headings = set(re.findall(r"^### (\w+)", TROUBLE, re.MULTILINE))
    assert {*_errors.__all__, "WorkerLost"} - headings == set()


def test_each_text_of_an_error_has_its_place_among_the_troubles() -> None:
    said = [text for text in texts_of(PACKAGE) if not text.place.startswith(OF_DEMONSTRATIONS)]
    assert len(said) > 150
    missing = [
        f"{place}: {words}"
        for place, words in said
        if sum(map(str.isalpha, words)) > 9 and not any(entry.search(words) for entry in ENTRIES.values())
    ]
    assert missing == [], "docs/guide/troubleshooting.md has no entry for these"


def test_no_refusal_ends_without_a_word_on_what_to_do() -> None:
    ends = re.compile(
        r"(?:refused|refuses|is it stopped\?|is corrupt|names a slot or a lap that cannot be|no segment …|by this user)$"
    )
    assert [f"{place}: {words}" for place, words in texts_of(PACKAGE) if ends.search(words)] == []


def test_each_trouble_is_one_that_shmq_tells_of() -> None:
    words = all_words(PACKAGE)
    assert [saying for saying, entry in ENTRIES.items() if not entry.search(words)] == []


def test_each_text_of_the_c_client_has_its_place_among_its_troubles() -> None:
    client = (Path(shmq.get_include()) / "client.c").read_text()
    texts = re.findall(r'"([^"]+)"', client.partition("shmq_strerror(int error) {")[2].partition("};")[0])
    assert len(texts) > 10
    troubles = (ROOT / "docs" / "guide" / "c-producers.md").read_text().partition("`shmq_strerror` says")[2]
    assert [text for text in texts if text != "success" and text not in troubles] == []
