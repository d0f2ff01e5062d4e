"""Notices: what a queue's handle notes in the log by itself. Each becomes a method of Queue, which the compiled half calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmq._errors import SegmentNotFound
from shmq._observe.holders import attached_report, holders_report

if TYPE_CHECKING:
    import logging
    from typing import Any, Protocol

    from shmq._core import QueueHandle

    class Handle(Protocol):
        """A queue's handle, which remembers what it was told of its name."""

        _told_of_name: bool
        name: Any
        segment: Any

        def _all_wait(self) -> bool: ...
        def _holders(self) -> str: ...


__all__ = ["could_not_dead_letter", "late", "look_at_name", "stalled"]


def stalled(queue: QueueHandle[Any], seconds: float, unannounced: bool) -> None:
    """A call has waited for so long: for an in-flight cell, which nobody announces, or else for room."""
    what = (
        holders_report(queue)
        if unannounced
        else f"queue {queue.name!r} is full, and nobody takes from it; attached are {attached_report(queue)}"
    )
    log().warning("waiting for %.0f s: %s", seconds, what)


def late(queue: QueueHandle[Any], error: BaseException) -> None:
    """The body of a loop over a queue has lost its lease."""
    log().warning("a loop's body took longer than its lease: %s", error)


def could_not_dead_letter(queue: QueueHandle[Any], failure: BaseException) -> None:
    """A message failed too often, and its letter cannot be written."""
    log().error(
        "a message of queue %r is to be a dead letter, and cannot be written: %s. It is kept, and tried again",
        queue.name,
        failure,
    )


def look_at_name(queue: Handle) -> None:
    """Tell a waiter at a queue whose name was made again: no new process can come to the old one.

    Handles of the old one may go on among themselves, so this only warns, once. Where all who are attached wait, they would do so
    for ever: then it **raises** SegmentNotFound. Threads that share a handle cannot be told from one that waits alone.
    """
    if not queue.segment.is_replaced():
        return
    if queue._all_wait():
        raise SegmentNotFound(
            f"queue {queue.name!r} was unlinked and made again. This handle is of the old one, and so are those of "
            f"{queue._holders()}, which all wait: nobody else can find it. Attach again"
        )
    if not queue._told_of_name:
        queue._told_of_name = True
        log().warning(
            "queue %r was unlinked and made again: this handle, which waits, is of the old one, and so are those of %s",
            queue.name,
            queue._holders(),
        )


def log() -> logging.Logger:
    import logging  # on first use: `import shmq` stays light

    return logging.getLogger("shmq")
