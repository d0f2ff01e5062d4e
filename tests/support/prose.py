"""Docstrings and comments of sources in Python and Cython, and their sentences."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MOST_WORDS = 30
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
DIRECTIVE = re.compile(r"noqa|type:|fmt:|pragma|-- |cython:|distutils:|!")
LITERAL = re.compile(r"""\"\"\".*?\"\"\"|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'""", re.DOTALL)


class Prose(NamedTuple):
    line: int  # the first one
    text: str


def docstrings_of(path: Path) -> Iterator[Prose]:
    source = path.read_text()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
                yield Prose(node.body[0].lineno, text)
    else:
        for found in LITERAL.finditer(source):
            if found[0].startswith('"""'):
                yield Prose(source[: found.start()].count("\n") + 1, found[0].strip('"'))


def comments_of(path: Path) -> Iterator[Prose]:
    """Lines of comment that follow one another are one text; so is each comment behind code."""
    source = path.read_text()
    lines = source.splitlines()
    block: list[str] = []
    begin = last = column = -1
    for line, at, text in comment_tokens(path, source):
        words = text.lstrip("#").strip()
        alone = not lines[line - 1][:at].strip()
        if not (alone and block and line == last + 1 and at == column):
            if block:
                yield Prose(begin, " ".join(block))
            block, begin, column = [], line, at
        if DIRECTIVE.match(words) is None:
            block.append(words.partition("  # ")[0])
        last = line if alone else -1
    if block:
        yield Prose(begin, " ".join(block))


def comment_tokens(path: Path, source: str) -> Iterator[tuple[int, int, str]]:
    """Line, column and text of each comment."""
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield *token.start, token.string
        return
    code = LITERAL.sub(lambda literal: re.sub(r"[^\n]", "x", literal[0]), source)
    for number, line in enumerate(code.splitlines(), 1):
        if (at := line.find("#")) >= 0:
            yield number, at, source.splitlines()[number - 1][at:]


def sentences_of(text: str) -> list[str]:
    """Its sentences, without code; a semicolon ends one."""
    text = re.sub(r"``[^`]*``|`[^`]*`", "code", text)
    paragraphs = re.split(r"\n\s*\n|\n(?=:param|    |- )", text)
    return [sentence for part in paragraphs for sentence in re.split(r"(?<=[.!?;])[*)]*\s+", " ".join(part.split()))]


def is_long(sentence: str) -> bool:
    return len(re.findall(r"[\w'’]+(?:[.,-]\w+)*", sentence)) > MOST_WORDS
