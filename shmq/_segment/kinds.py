"""Kinds: what a segment can hold. Its number stands in the segment's header.

What is true of every segment (its name, its files, its ports, its life) is written without a look at the kind. What is not is
asked of the Kind, and a kind is added by registering one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shmq import _core
from shmq._errors import SegmentMismatch
from shmq._segment.config import Config

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq._segment.config import Header

__all__ = ["KINDS", "QUEUE", "Kind", "kind_of", "register"]

KINDS: dict[int, Kind] = {}  # by number


class Kind:
    """What a segment can hold.

    `describe`: from a segment's memory and header to the values that it was made with; raises SegmentCorrupt. `observer`: makes
    what looks at a segment without a port. `beside`: how the names of the files end that are made with it, semaphores apart.
    """

    def __init__(
        self,
        number: int,
        noun: str,
        describe: Callable[[_core.Mapping, Header], Any],
        observer: Callable[[], _core.Mapped],
        beside: tuple[str, ...] = (),
    ) -> None:
        self.number = number
        self.noun = noun
        self.describe = describe
        self.observer = observer
        self.beside = beside


def register(kind: Kind) -> Kind:
    """From now on segments of this kind are known."""
    KINDS[kind.number] = kind
    return kind


def kind_of(header: Header) -> Kind:
    """What a segment holds. **Raises** SegmentMismatch where this version of shmq does not know it."""
    kind = KINDS.get(header["kind"])
    if kind is None:
        known = ", ".join(f"{kind.noun} ({number})" for number, kind in sorted(KINDS.items()))
        raise SegmentMismatch(
            f"it holds something of kind {header['kind']}, which this version of shmq does not know: it knows {known}. Use the "
            "version that made it; or, when no program uses it any more, remove it with `shmq unlink`"
        )
    return kind


def describe_queue(memory: _core.Mapping, header: Header) -> Config:
    """What a queue was made with."""
    return Config.found({**header, **_core.read_queue(memory)})


QUEUE = register(Kind(_core.KIND_QUEUE, "queue", describe_queue, _core.Observer, beside=("backlog", "dead")))
