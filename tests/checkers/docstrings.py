"""The docstrings of the compiled core, for editors: they read its stub, and do not import it. Run, this writes them there."""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path

import shmq
from shmq import _core

STUB = Path(shmq.__file__).with_name("_core.pyi")


def quoted(text: str, margin: str) -> str:
    return textwrap.indent(f'"""{text}\n"""' if "\n" in text else f'"""{text}"""', margin)


def documented(stub: str) -> str:
    """The stub, each public class, method and property in it with the docstring that it has in the core."""
    lines = stub.splitlines()
    for place in reversed([node for node in ast.parse(stub).body if isinstance(node, ast.ClassDef)]):
        kind = getattr(_core, place.name)
        public = [node for node in place.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
        for node in reversed(public):
            if text := inspect.getdoc(getattr(kind, node.name)):
                body = node.body[0]
                header = lines[body.lineno - 1][: body.col_offset].rstrip()
                lines[body.lineno - 1 : node.end_lineno] = [*([header] if header else []), quoted(text, "        ")]
        if place.name in shmq.__all__:
            end = place.body[0].end_lineno if ast.get_docstring(place) is not None else place.lineno
            lines[place.lineno : end] = [quoted(inspect.getdoc(kind) or "", "    ")]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    STUB.write_text(documented(STUB.read_text()))
