"""What the compiled core asks of the Python half of a handle is declared. Each that is declared is asked, and answered."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shmq
import shmq.mp
from shmq import _core
from shmq._upcalls import AttachmentUpcalls, QueueUpcalls, Readable
from shmq.executor._queue_worker import Source

BINDING = Path(shmq.__file__).parent / "_binding"
TEXT = "\n".join(path.read_text() for path in sorted(BINDING.glob("*.pxi")))
HANDLES = (shmq.Queue, shmq.mp.Queue, shmq.mp.SimpleQueue, Source)


def declared_in(*protocols: type) -> set[str]:
    """The methods and attributes that these protocols declare themselves."""
    return {
        name
        for protocol in protocols
        for name in {**vars(protocol), **inspect.get_annotations(protocol)}
        if re.match(r"_[a-z]", name) and name not in ("_is_protocol", "_is_runtime_protocol", "_abc_impl")
    }


WORDS = re.compile(r'"""(?:.|\n)*?"""|"(?:[^"\\\n]|\\.)*"|#.*')


def without_words(text: str) -> str:
    """Cython without its comments, docstrings and strings, but for what an f-string inserts."""

    def inserted(found: re.Match[str]) -> str:
        words = found[0]
        return "" if words.startswith(('"""', "#")) else f'"{" ".join(re.findall(r"{([^{}]*)}", words))}"'

    return WORDS.sub(inserted, text)


def asked_in(text: str) -> set[str]:
    """The private attributes of a handle that the binding reads, by whatever name it has the handle."""
    return set(re.findall(r"\b(?:self|port|queue|handle)\.(_[a-z]\w*)", without_words(text)))


def answered_in(text: str) -> set[str]:
    """The private methods, properties and fields of the binding's own classes."""
    return set(re.findall(r"^    (?:cdef|def) (?:[^\n(=]*\s)?(_[a-z]\w*)", without_words(text), re.MULTILINE))


def answers_of(kind: type) -> Iterator[str]:
    """What a class written in Python answers in the place of the core."""
    for base in kind.__mro__:
        if base.__module__ not in ("shmq._core", "builtins", "typing"):
            yield from (name for name in vars(base) if re.match(r"_[a-z]", name) and hasattr(_core.QueueHandle, name))


def faults(text: str, declared: set[str], answers: set[str]) -> Iterator[str]:
    """`text`: of the binding; `answers`: what Python answers in the place of the core."""
    asked, own = asked_in(text), answered_in(text)
    yield from (f"{name} is asked for, and not declared" for name in sorted(asked - own - declared))
    yield from (f"{name} is answered by Python, and not declared" for name in sorted(answers - declared))
    yield from (f"{name} is declared, and never asked for" for name in sorted(declared - asked))


DECLARED = declared_in(AttachmentUpcalls, QueueUpcalls)


def test_every_up_call_is_declared_and_every_declared_one_is_made() -> None:
    answers = {name for kind in HANDLES for name in answers_of(kind)}
    assert list(faults(TEXT, DECLARED, answers)) == []
    assert {"_attached", "_write_dead_letter", "_reducers"} <= answers | asked_in(TEXT)


def test_what_is_not_declared_or_not_asked_is_found() -> None:
    text = '''
    def _own(self):
        """It mentions self._said, and calls nothing."""
        self._own() # not self._commented
        self.port._declared(f"{self._asked()}, never self._quoted")
'''
    assert list(faults(text, {"_declared", "_forgotten"}, {"_declared", "_own"})) == [
        "_asked is asked for, and not declared",
        "_own is answered by Python, and not declared",
        "_forgotten is declared, and never asked for",
    ]


@pytest.mark.parametrize("kind", HANDLES)
@pytest.mark.parametrize("name", sorted(DECLARED))
def test_a_queue_answers_what_is_declared_with_these_parameters(kind: type, name: str) -> None:
    answer, declared = getattr(kind, name), getattr(QueueUpcalls, name, None)
    if declared is not None:
        parameters = inspect.signature(declared).parameters.values()
        by_name = {each.name: None for each in parameters if each.kind == each.KEYWORD_ONLY}
        inspect.signature(answer).bind(*[None] * (len(parameters) - len(by_name)), **by_name)


@pytest.mark.parametrize("name", sorted(declared_in(AttachmentUpcalls) - {"_after_sleep"}))
def test_another_kind_of_segment_need_not_answer(name: str) -> None:
    assert hasattr(_core.Attachment, name)


@pytest.mark.parametrize("protocol", [AttachmentUpcalls, QueueUpcalls, Readable])
def test_a_declared_up_call_says_when_it_is_made(protocol: Any) -> None:
    for name, method in vars(protocol).items():
        if inspect.isfunction(method) and not name.startswith("__") and name != "_no_init_or_replace_init":
            assert len((method.__doc__ or "").split()) > 5, name
