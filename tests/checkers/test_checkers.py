"""What checkers and editors are told is true at run time. The gate has mypy and pyright look at uses.py and misuses.py."""

from __future__ import annotations

import inspect
import types

import docstrings
import pytest

import shmq
import shmq.aio
import shmq.mp

PUBLIC = [
    (kind, name)
    for kind in (shmq.Queue, shmq.Lease, shmq.Loan)
    for name in sorted(dir(kind))
    if not name.startswith("_") and callable(getattr(kind, name))
]


def test_editors_find_the_docstrings_of_the_core_in_its_stub() -> None:
    stub = docstrings.STUB.read_text()
    words = str.split  # the formatter has blank lines of its own
    assert words(docstrings.documented(stub)) == words(stub), "python tests/checkers/docstrings.py writes them"


@pytest.mark.parametrize(("kind", "name"), PUBLIC, ids=[f"{kind.__name__}.{name}" for kind, name in PUBLIC])
def test_a_public_method_tells_its_signature_and_what_it_does(kind: type, name: str) -> None:
    assert inspect.signature(getattr(kind, name)) is not None
    assert inspect.getdoc(getattr(kind, name))


@pytest.mark.parametrize("kind", [shmq.Queue, shmq.Lease, shmq.Loan, shmq.mp.Queue, shmq.mp.SimpleQueue, shmq.aio.Queue])
def test_what_is_generic_for_checkers_is_so_at_run_time(kind: type) -> None:
    alias = kind[int]  # type: ignore[index]
    assert isinstance(alias, types.GenericAlias) and alias.__origin__ is kind and alias.__args__ == (int,)


def test_a_queue_of_a_kind_is_made_and_derived_from_like_any() -> None:
    class Numbers(shmq.Queue[int]):
        pass

    for made in (shmq.Queue[int](slots=2), Numbers(slots=2)):
        with made:
            made.put(1)
            assert made.get() == 1 and isinstance(made, shmq.Queue)


def test_a_misspelt_name_is_no_name_of_ours() -> None:
    with pytest.raises(AttributeError, match="'Qeueu'"):
        shmq.Qeueu  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("make", [shmq.Queue, shmq.Queue.create])
def test_a_misspelt_parameter_is_no_parameter(make: type[shmq.Queue], name: str) -> None:
    with pytest.raises(TypeError, match="slot_sizes"):
        make(name, slot_sizes=3)  # type: ignore[call-arg]
    assert name not in shmq.list_segments()
