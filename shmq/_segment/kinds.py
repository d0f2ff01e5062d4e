"""Kinds: what a segment can hold. Its number stands in the segment's header.

What is true of every segment (its name, its files, its ports, its life) is written without a look at the kind. What is not is
asked of the Kind, and a kind is added by registering one: a queue's is in shmq/_segment/queue.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from shmq import _core
from shmq._errors import SegmentMismatch
from shmq._segment.config import Config

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq._segment.config import Header

__all__ = ["KINDS", "Kind", "kind_of", "register"]

C = TypeVar("C", bound=Config)

KINDS: dict[int, Kind[Any]] = {}  # by number


class Kind(Generic[C]):
    """What a segment can hold.

    Each kind says its number, its table of values and its size. The other answers, as they stand here, are those of a segment
    that holds nothing but ports.
    """

    number: int  # in the header of each segment of this kind
    config: type[C]  # what they are made with
    observer: Callable[[], _core.Mapped] = _core.Mapped  # makes what looks at one without a port
    beside: tuple[str, ...] = ()  # how the names of the files end that can be made with one, semaphores apart

    @property
    def noun(self) -> str:
        """What messages call a segment of this kind."""
        return self.config.noun

    def nbytes(self, config: C) -> int:
        """The bytes of a segment with these values. **Raises** ValueError where there can be none."""
        raise NotImplementedError

    def shape(self, config: C) -> str:
        """What has no room in memory, in words."""
        return f"a {self.noun}"

    def lay_out(self, memory: _core.Mapping, header: Header) -> None:
        """Write the header, and all that a segment begins with, into zeroed memory."""
        _core.begin_segment(memory, self.number, header)

    def make_beside(self, beside: str, config: C) -> None:
        """Make the files that stand beside a segment from its beginning; their names begin with `beside` and a dot."""

    def config_of(self, memory: _core.Mapping, header: Header) -> C:
        """What a segment was made with. **Raises** SegmentCorrupt."""
        return self.config.found(header)


K = TypeVar("K", bound=Kind[Any])


def register(kind: K) -> K:
    """From now on segments of this kind are known."""
    KINDS[kind.number] = kind
    return kind


def kind_of(header: Header) -> Kind[Any]:
    """What a segment holds. **Raises** SegmentMismatch where this version of shmq does not know it."""
    kind = KINDS.get(header["kind"])
    if kind is None:
        known = ", ".join(f"{kind.noun} ({number})" for number, kind in sorted(KINDS.items()))
        raise SegmentMismatch(
            f"it holds something of kind {header['kind']}, which this version of shmq does not know: it knows {known}. Use the "
            "version that made it; or, when no program uses it any more, remove it with `shmq unlink`"
        )
    return kind
