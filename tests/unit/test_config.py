"""The table of configuration values, and that whoever lists them elsewhere lists all of them."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import shmq
from shmq import _core
from shmq._segment import queue as _queue
from shmq._segment.config import Mark
from shmq._segment.queue import QueueConfig

TABLE = set(QueueConfig.TABLE)
NO_VALUES = {"self", "cls", "name", "mode", "spin"}  # parameters of a queue that its segment does not keep
ANOTHER: dict[str, Any] = {  # of each value, one that is not its default
    "slots": 7,
    "slot_size": 4096,
    "in_flight": 9,
    "ports": 5,
    "oversize": "error",
    "overflow": "grow",
    "allow_pickle": False,
    "codec": shmq.json_codec,
    "lease_timeout": 1.5,
    "max_deliveries": 3,
    "backoff": shmq.Backoff(0.25, 3.0, 8.0, 0.5),
    "lifetime": "handles",
}
NONSENSE: dict[str, Any] = {name: object() for name in TABLE}


def kept(value: str, given: Any) -> Any:
    return given.name if value == "codec" else given


def typed_fields(name: str) -> set[str]:
    """The fields of a class that only type checkers see."""
    tree = ast.parse(Path(inspect.getfile(_queue)).read_text())
    found = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    return {field.target.id for field in found.body if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)}


# -- whoever lists the values ------------------------------------------------------------------------------------------------


def test_the_keywords_of_queue_are_those_of_the_table() -> None:
    assert set(inspect.signature(shmq.Queue).parameters) - NO_VALUES == TABLE


def test_the_keywords_of_create_are_those_of_the_table() -> None:
    typed = set(inspect.signature(shmq.Queue.create).parameters) - NO_VALUES - {"values"}
    assert typed | typed_fields("Values") == TABLE


def test_the_docstring_of_queue_describes_each_value_and_no_other() -> None:
    described = re.findall(r":param (\w+):", inspect.getdoc(shmq.Queue) or "")
    assert sorted(set(described) - NO_VALUES) == sorted(TABLE)
    assert len(described) == len(set(described))


def test_create_names_every_parameter_where_it_knows_one_not() -> None:
    with pytest.raises(TypeError, match="no parameter 'slot'") as refused:
        shmq.Queue.create("q", slot=3)  # type: ignore[call-arg]
    assert all(name in str(refused.value) for name in TABLE)


def test_this_test_tries_every_value() -> None:
    assert set(ANOTHER) == TABLE


# -- each value ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", sorted(TABLE))
def test_what_was_asked_for_comes_back_from_the_header(value: str) -> None:
    default = QueueConfig({})
    asked = QueueConfig.asked({value: ANOTHER[value]})
    assert getattr(asked, value) == kept(value, ANOTHER[value]) != getattr(default, value)
    header: dict[str, Any] = {}
    asked.pack(header)
    found = QueueConfig.found(header)
    for other in TABLE:
        assert getattr(found, other) == getattr(asked, other), other


@pytest.mark.parametrize("value", sorted(TABLE))
def test_a_segment_keeps_what_it_was_made_with(value: str, name: str) -> None:
    with shmq.Queue.create(name, **{value: ANOTHER[value]}) as made:
        assert getattr(made.segment.config, value) == kept(value, ANOTHER[value])
        with shmq.Queue(name, **{value: ANOTHER[value], "codec": ANOTHER["codec"] if value == "codec" else None}) as again:
            assert again.segment.nonce == made.segment.nonce


@pytest.mark.parametrize("value", sorted(TABLE - {"codec"}))
def test_a_value_that_differs_is_named_with_what_is_there(value: str, name: str) -> None:
    with shmq.Queue.create(name) as made, pytest.raises(shmq.SegmentMismatch) as refused:
        shmq.Queue(name, **{value: ANOTHER[value]})
    assert f"{value} is {getattr(made.segment.config, value)!r}, asked for {ANOTHER[value]!r}" in str(refused.value)


@pytest.mark.parametrize("value", sorted(TABLE))
def test_nonsense_is_refused_by_the_name_of_the_value(value: str) -> None:
    with pytest.raises((TypeError, ValueError), match=value):
        shmq.Queue(**{value: NONSENSE[value]})


def test_what_was_not_given_follows_what_was() -> None:
    asked = QueueConfig.asked({"slot_size": 1 << 20, "slots": None})
    assert (asked.slots, asked.in_flight) == (16, 16)
    assert asked.given == {"slot_size": 1 << 20}


MARKS = ["spills", "pickles", "grows", "with_creator", "with_handles", "anonymous"]
VALUES = {"slots": 4, "slot_size": 64, "in_flight": 4, "ports": 2, "codec": "", "lease_timeout_ns": 0, "max_deliveries": 0}
REST = {"retry_initial_ns": 0, "retry_maximum_ns": 0, "retry_factor": 1.0, "retry_jitter": 0.0}


def marks_found(header: dict[str, Any]) -> list[str]:
    """The marks in the header of a queue that is made with this one."""
    memory = bytearray(_core.segment_bytes(4, 64, 4, 2))
    _core.format_segment(memory, {**VALUES, **REST, "nonce": 1, "creator_pid": 1, "boot_id": bytes(16), **header})
    _core.mark_ready(memory)
    found = _core.read_header(memory)
    assert found is not None
    return [name for name, value in found.items() if value is True]


@pytest.mark.parametrize("marks", [[], *([mark] for mark in MARKS), MARKS])
def test_a_mark_that_is_written_into_a_header_is_read_and_no_other(marks: list[str]) -> None:
    assert sorted(marks_found(dict.fromkeys(marks, True))) == sorted(marks)


def test_no_two_values_have_the_same_mark() -> None:
    fields = [row.field for row in QueueConfig.TABLE.values() if isinstance(row.field, Mark)]
    marks = [mark for field in fields for mark in field.marks.values()]
    assert sorted(marks) == sorted(set(MARKS) - {"anonymous"})


def test_only_the_binding_knows_the_bits_of_a_header() -> None:
    assert [name for name in dir(_core) if name.startswith("FLAG")] == []
    assert not any("header.flags" in path.read_text() for path in Path(_core.__file__).parent.rglob("*.py"))
