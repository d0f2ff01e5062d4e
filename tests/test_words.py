"""The words that docs/glossary.md refuses are not said, and functions let go by the verbs that it gives them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GLOSSARY = ROOT / "docs" / "glossary.md"
FOLDERS = ("shmq", "docs", "tests", "examples", "benchmarks")
SUFFIXES = {".py", ".pyi", ".pyx", ".pxi", ".pxd", ".c", ".h", ".md"}
LEFT_OUT = {
    GLOSSARY,  # it names them
    Path(__file__),
    *(ROOT / "tests" / "borrowed").rglob("*"),  # others wrote these
    *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.c") if (path.with_suffix(".pyx")).exists()),  # Cython's
}
FILES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    if path.suffix in SUFFIXES and path not in LEFT_OUT and not any(part.startswith((".", "build")) for part in path.parts[-3:])
)
# Refused words that have to stand somewhere: (file, word): why.
EXCEPTIONS = {
    ("shmq/_waiting/awaiting.py", "send"): "a method of every coroutine",
}


def refused_words() -> dict[str, str]:
    """Where each refused word of the glossary's table is refused: "everywhere" or "names"."""
    table = GLOSSARY.read_text().partition("## Refused words")[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| `")]
    return {word: where for refused, _, where in rows for word in re.findall(r"`([^`]+)`", refused)}


REFUSED = refused_words()
EVERYWHERE = {word for word, where in REFUSED.items() if where == "everywhere"}
NAMES = {word for word, where in REFUSED.items() if where == "names"}


def words_of(text: str) -> list[str]:
    """Its words in lower case, those of identifiers one by one: `_takeOr_bury` has three."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text)]


def names_defined(path: Path) -> Iterator[str]:
    """The names that a Python file defines; every identifier of a file in C or Cython."""
    text = path.read_text()
    if path.suffix in (".py", ".pyi"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield node.name
            elif isinstance(node, ast.arg):
                yield node.arg
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                yield node.id if isinstance(node, ast.Name) else node.attr
    elif path.suffix in (".c", ".h"):
        yield from re.findall(r"[A-Za-z_]\w*", re.sub(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"', "", text, flags=re.DOTALL))
    elif path.suffix in (".pyx", ".pxi", ".pxd"):
        yield from re.findall(r"[A-Za-z_]\w*", re.sub(r'""".*?"""|"(?:\\.|[^"\\\n])*"|#.*', "", text, flags=re.DOTALL))


def refused_in(path: Path) -> set[str]:
    name = path.relative_to(ROOT).as_posix()
    said = f" {' '.join(words_of(path.read_text()))} "
    found = {word for word in EVERYWHERE if f" {word} " in said}
    if name.startswith("shmq/"):
        found |= {word for defined in names_defined(path) for word in words_of(defined)} & NAMES
    return {word for word in found if (name, word) not in EXCEPTIONS}


def test_the_glossary_refuses_words():
    assert {"buried", "by now", "anew"} <= EVERYWHERE
    assert {"enqueue", "place"} <= NAMES
    assert set(REFUSED.values()) == {"everywhere", "names"}


def test_words_are_found_in_names_and_phrases():
    assert words_of("self.take_orBury(SHMQ_TO_BURY)") == ["self", "take", "or", "bury", "shmq", "to", "bury"]
    assert words_of("it is there by\n now") == ["it", "is", "there", "by", "now"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_refused_word_is_said(path):
    assert sorted(refused_in(path)) == [], "docs/glossary.md says what to say instead"


def test_every_exception_is_needed():
    for name, word in EXCEPTIONS:
        assert word in words_of((ROOT / name).read_text())


# ---- public docstrings -----------------------------------------------------------------------------------------------------


LETTING_GO = GLOSSARY.read_text().partition("## One verb for letting go")[2].partition("## Refused words")[0]
PUBLIC = {
    **{
        ("shmq/_native/client/client.c", f"shmq_{verb}"): "the interface for C programs"
        for verb in ("abandon", "ack", "detach", "nack")
    },
    ("shmq/executor/_future.py", "release"): "the interface of threading.Condition",
    ("shmq/mp.py", "cancel_join_thread"): "the interface of multiprocessing",
}


def verbs_of_letting_go() -> dict[str, set[str]]:
    """By each verb of the glossary's table, the nouns of its rows."""
    found: dict[str, set[str]] = {}
    for what, verbs in re.findall(r"^\| ([^|]+) \| (\*\*[^|]+) \|", LETTING_GO, re.MULTILINE):
        for verb in re.findall(r"\*\*([a-z ]+)\*\*", verbs):
            found.setdefault(verb.replace(" ", "_"), set()).update(re.findall(r"[a-z]{3,}", what))
    return found


def functions_of(path: Path) -> Iterator[tuple[str, str]]:
    """The functions and methods that a file of Python, Cython or C defines, each with the class that it is in."""
    text = path.read_text()
    if path.suffix == ".py":
        waiting: list[tuple[ast.AST, str]] = [(ast.parse(text), "")]
        while waiting:
            parent, owner = waiting.pop()
            for node in ast.iter_child_nodes(parent):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield owner, node.name
                waiting.append((node, node.name if isinstance(node, ast.ClassDef) else owner))
    elif path.suffix in (".pyx", ".pxi"):
        owner = ""
        for line in text.splitlines():
            if kind := re.match(r"(?:cdef )?class (\w+)", line):
                owner = kind[1]
            elif function := re.match(r"(\s*)(?:def|cdef|cpdef)\b[^=(#]*?(\w+)\(", line):
                yield owner if function[1] else "", function[2]
    else:
        code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        for name in re.findall(r"^(?:[a-z_]\w* +)+\**([a-z]\w*)\([^;{)]*\)\s*\{", code, re.MULTILINE):
            yield "", name


def test_functions_let_go_by_the_verb_of_their_level():
    allowed, refused = verbs_of_letting_go(), set(re.findall(r"`(\w+)`", LETTING_GO.rpartition("Nothing is called")[2]))
    assert len(allowed) > 10 and "let_go" in refused
    wrong = []
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith("shmq/") or name.startswith("shmq/cli/") or path.suffix not in (".py", ".pyx", ".pxi", ".c", ".h"):
            continue
        for owner, function in functions_of(path):
            words = f"_{'_'.join(words_of(function))}_"
            around = [*words_of(name), *words_of(owner), *words_of(function)]
            for verb in refused | set(allowed):
                nouns = allowed.get(verb, set())
                fits = any(noun in word or word in noun for noun in nouns for word in around if len(word) > 2)
                if f"_{verb}_" in words and not fits and (name, function) not in PUBLIC:
                    wrong.append(
                        f"{name}: {owner and owner + '.'}{function}: {verb} is for {', '.join(sorted(nouns)) or 'nothing'}"
                    )
    assert wrong == []
