"""Texts of errors and of the log, as they stand in the sources: "…" for what is put in when they are raised."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

LITERAL = re.compile(r"""[rf]{0,2}("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')""")
NOTED = "warning|error|critical|exception"  # methods of a logger
RAISED = "Error|Empty|Full|Closed|ShutDown|PayloadLost|LeaseLost|WorkerLost|PickleRefused|MessageTooLarge|InFlightLimit"
MORE = "OutOfMemory|NoSharedMemory|TooManyPorts|Segment(?:Corrupt|Exists|Foreign|Mismatch|NotFound)"
CALL = re.compile(rf"\b(?:type\(error\)|\w*(?:{RAISED}|{MORE})|{NOTED}|fail)\(")


class Text(NamedTuple):
    place: str  # file and line
    words: str


def texts_of(folder: Path) -> list[Text]:
    """What is said by each call that makes an exception, or notes something in the log, below a folder."""
    found = []
    for path in sources(folder):
        source = path.read_text()
        for call in CALL.finditer(source):
            line = source[: call.start()].rpartition("\n")[2].lstrip()
            if not line.startswith(("#", "class ", "except", "cdef", "def ")) and (
                words := rendered(argument(source, call.end()))
            ):
                found.append(Text(f"{path.relative_to(folder)}:{source[: call.start()].count(chr(10)) + 1}", words))
    return found


def all_words(folder: Path) -> str:
    """Everything that stands in a literal below a folder, literals that follow one another as one."""
    between = re.compile(r"[\s+()]*(?:#.*\n\s*)*")
    words = []
    for path in sources(folder):
        source, end = path.read_text(), -1
        for literal in LITERAL.finditer(source):
            follows = end >= 0 and between.fullmatch(source, end, literal.start())
            words.append(literal[1][1:-1] if follows else "\n" + literal[1][1:-1])
            end = literal.end()
    return without_fields("".join(words))


def sources(folder: Path) -> list[Path]:
    return sorted(path for kind in ("py", "pyx", "pxi") for path in folder.rglob(f"*.{kind}"))


def argument(source: str, at: int) -> str:
    """What stands between the parentheses of which the first ends there."""
    begin, depth = at, 1
    while depth and at < len(source):
        if literal := LITERAL.match(source, at):
            at = literal.end()
            continue
        depth += {"(": 1, ")": -1}.get(source[at], 0)
        at += 1
    return source[begin : at - 1]


def rendered(code: str) -> str:
    return without_fields("".join(literal[1][1:-1] for literal in LITERAL.finditer(code)))


def without_fields(text: str) -> str:
    before = ""
    while before != text:
        before, text = text, re.sub(r"\{[^{}\n]*\}|%[.\d]*[srdf]", "…", text)
    return text.replace("\\", "")
