"""Docstrings and comments are read without their neighbours: short sentences that name the actor."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmq
from shmq import aio, mp
from support.prose import comments_of, docstrings_of, is_long, sentences_of

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for pattern in (
        *("shmq/**/*.py", "shmq/**/*.pxi", "shmq/*.pyx"),
        *("tests/support/*.py", "tests/*.py", "benchmarks/**/*.py", "examples/**/*.py", ".ci/*.py"),
    )
    for path in ROOT.glob(pattern)
)
HEADLESS = re.compile(r"(?:^|[;:] )[*(\"]*(?:who|whoever)\b(?!.*\?)|\bwhoever\b", re.IGNORECASE)
LEANS = re.compile(r"(?:…|\.\.\.|The same\b|See \S+\.$|As \S+\.$)")


def crooked(path: Path) -> Iterator[str]:
    """What is said in a source so that a reader stumbles."""
    for kind, found in (("docstring", docstrings_of(path)), ("comment", comments_of(path))):
        for line, text in found:
            where = f"{path.relative_to(ROOT)}:{line}"
            if LEANS.match(text.partition("\n")[0]):
                yield f"{where}: a {kind} that leans on another: {text}"
            for sentence in sentences_of(text):
                if is_long(sentence):
                    yield f"{where}: more than thirty words: {sentence}"
                if HEADLESS.search(sentence):
                    yield f"{where}: who is that: {sentence}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_and_comments_are_short_and_stand_alone(path):
    assert list(crooked(path)) == []


CROOKED = '''"""The same for reading."""

def open():
    """… and open it. Whoever comes next finds it."""
    return 1  # who has it open goes on

    # Is it open? If so, who has it open?
    # A sentence which begins in one line of a comment and ends in another
    # one is as long as all its lines together, so that nobody can hide
    # any of its more than thirty words behind the end of a line.
'''


@pytest.mark.parametrize("suffix", [".py", ".pxi"])
def test_crooked_sentences_are_found(tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / f"crooked{suffix}"
    path.write_text(CROOKED)
    found = [": ".join(text.split(": ")[:2]) for text in crooked(path)]
    assert found == [
        f"crooked{suffix}:1: a docstring that leans on another",
        f"crooked{suffix}:4: a docstring that leans on another",
        f"crooked{suffix}:4: who is that",
        f"crooked{suffix}:5: who is that",
        f"crooked{suffix}:7: more than thirty words",
    ]


TESTS = [
    (path.relative_to(ROOT).as_posix(), name)
    for path in sorted((ROOT / "tests").rglob("test_*.py"))
    if "borrowed" not in path.parts
    for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
]
MOST_CHARACTERS = 75  # of the name of a test


def test_the_name_of_a_test_is_a_sentence_that_fits_into_a_line():
    assert len(TESTS) > 1000
    assert [where for where in TESTS if len(where[1]) > MOST_CHARACTERS or where[1].count("_") < 3] == []
    assert [where for where in TESTS if re.match(r"test_(?:those_)?who(?:ever)?_", where[1])] == [], "who is that?"


def public_docstrings() -> dict[str, str]:
    """The docstring of each public class, function, method and property, by its name."""
    found = {}
    for module in (shmq, aio, mp):
        for name in module.__all__:
            thing = getattr(module, name)
            if name.startswith("__") or not (inspect.isclass(thing) or callable(thing)):
                continue
            found[f"{module.__name__}.{name}"] = inspect.getdoc(thing) or ""
            for attribute in dir(thing) if inspect.isclass(thing) and not issubclass(thing, BaseException) else ():
                value = inspect.getattr_static(thing, attribute)
                described = (
                    callable(value)
                    or isinstance(value, property | classmethod | staticmethod)
                    or "method" in type(value).__name__
                    or "descriptor" in type(value).__name__
                )
                if not attribute.startswith("_") and described and not inspect.isclass(value):
                    found[f"{module.__name__}.{name}.{attribute}"] = inspect.getdoc(getattr(thing, attribute)) or ""
    return found


DOCSTRINGS = public_docstrings()


@pytest.mark.parametrize("name", DOCSTRINGS)
def test_a_public_docstring_stands_alone(name):
    text = DOCSTRINGS[name]
    first = text.partition("\n")[0]
    assert first, "it is empty"
    assert not first.startswith(("…", "...")), first
    assert not re.match(r"(As|The same as|See|Like) \S+[.:]?$", first), f"it points to a neighbour only: {first}"
    assert len(re.findall(r"\w+", first)) >= 3, first


@pytest.mark.parametrize("name", DOCSTRINGS)
def test_a_sentence_of_a_public_docstring_has_at_most_thirty_words(name):
    assert list(filter(is_long, sentences_of(DOCSTRINGS[name]))) == []


@pytest.mark.parametrize("name", DOCSTRINGS)
def test_the_names_that_a_public_docstring_mentions_exist(name):
    mentioned = re.findall(r"\bshmq(?:\.[A-Za-z_]\w*)+", DOCSTRINGS[name])
    for dotted in set(mentioned) - {"shmq.h", "shmq.c"}:  # these are files
        thing = shmq
        for part in dotted.split(".")[1:]:
            assert hasattr(thing, part), f"there is no {dotted}"
            thing = getattr(thing, part)
