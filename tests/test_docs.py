"""What the documents show is executed, and what they point at exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def test_the_readme_shows_code():
    assert len(PYTHON_BLOCKS) >= 2


@pytest.mark.parametrize("number", range(len(PYTHON_BLOCKS)))
def test_a_python_block_of_the_readme_runs_as_it_stands(number):
    subprocess.run([sys.executable, "-c", PYTHON_BLOCKS[number]], check=True, timeout=60)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_into_the_tree_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if "://" not in target:
            assert (ROOT / target).exists(), f"{document.name} points at {target}"


def test_the_readme_has_exactly_the_two_commands_that_set_everything_up():
    commands = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(commands) == 2
    assert "shmq demo" in commands[0]
    assert commands[1].strip().endswith("pytest")


LOCKS = (ROOT / "ARCHITECTURE.md").read_text().partition("## Locks")[2].partition("\n## ")[0]
TAKES_A_LOCK = re.compile(r"\b(?:R?Lock|Condition|NameLock)\(|pthread_mutex_lock\(|\bshmq_owner_lock\(|critical_section\(self\)")


def test_every_test_in_the_list_of_locks_exists():
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    named = set(re.findall(r"`(test_\w+)`", LOCKS))
    assert len(named) >= 20
    assert named <= set(re.findall(r"^def (test_\w+)", tests, re.MULTILINE))


def test_every_file_that_takes_a_lock_is_in_the_list_of_locks():
    sources = [path for kind in (".py", ".pxi", ".pyx", ".c") for path in (ROOT / "shmq").rglob("*" + kind)]
    taking = set()
    for path in sources:
        lines = path.read_text().splitlines()
        if path.name != "_core.c" and any(TAKES_A_LOCK.search(line) for line in lines if "class " not in line):
            taking.add(path.relative_to(ROOT / "shmq").as_posix().removeprefix("_native/").removeprefix("executor/"))
    assert {"owner.c", "_crew.py"} <= taking
    assert {name for name in taking if f"`{name}`" not in LOCKS} == {"_binding/birth.pxi"}  # where NameLock itself is
