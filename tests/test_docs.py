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
