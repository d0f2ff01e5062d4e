"""Up-calls: all that the compiled core asks of the Python half of a handle.

The core (shmq/_binding) knows no log, no event loop, and no file beside the segment. Where it needs one of them it calls a
method, or reads an attribute, of the handle that it works for. `shmq.Queue` answers as declared here. A second kind of segment
has a protocol of its own beside that of a queue, on the same `AttachmentUpcalls`. To those of an attachment the core has
answers that do nothing.

Each runs in the thread whose call needs it, which may run a finalizer or a signal handler. That thread has the *handle* (in the
table of locks in ARCHITECTURE), and no lock between processes. An up-call may run user's code, and use or close the handle: the
core looks again afterwards. Where nothing else is said, what it raises ends the call, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from shmq._core import Lease, Leases, Loan

__all__ = ["AttachmentUpcalls", "QueueUpcalls"]


class AttachmentUpcalls(Protocol):
    """What an attachment to a segment of any kind asks."""

    _noun: str  # what error texts call such a segment
    _after_sleep: Callable[[], object] | None  # called whenever a call that waits has slept for a while

    def _attached(self) -> None:
        """This process has a port of its own: at opening, and on the first use in a forked child.

        What it raises ends the attachment, and the port is free again.
        """

    def _detached(self) -> None:
        """This process has given its port back: the segment may go with its last handle.

        Called by `close`, or by the end of the last use after it: of a view, in a deallocator, too. An Exception is dropped.
        """

    def _interpreter_exits(self) -> None:
        """A call came to a handle that the interpreter's exit has closed; Closed follows. A daemon thread does not return."""

    def _holders(self) -> str:
        """Which processes are attached, in words: for TooManyPorts. The handle has no port then."""

    def _look_at_name(self) -> None:
        """A call, or an event loop, has waited for about a second: is the name another segment's?

        Called about once a second, where nothing is to be taken or where there is no room. Raises SegmentNotFound.
        """

    def _stalled(self, seconds: float, unannounced: bool) -> None:
        """A call has waited for that long, 5 s or more, for room or for another process; called once in a call.

        `unannounced`: for an in-flight cell, of which nobody tells. It runs the program's log handlers.
        """


class Readable(Protocol):
    """Whose descriptor is readable while a message may be there."""

    def found_nothing(self) -> None:
        """A call has found the queue empty, and raises Empty. Raises OSError at most, which takes the place of Empty."""


class QueueUpcalls(AttachmentUpcalls, Protocol):
    """What a queue's port asks besides."""

    _reducers: Any  # what this class's handles pickle with: a mapping from classes to reducers; None: copyreg's
    _keeps_types: bool  # what exports a buffer is pickled, too, so that its type comes out
    _readable: Readable | None  # set by the first `fileno`
    _backlog: Any  # of a queue that grows: the log, a shmq._core.Log. `_attached` sets it

    def _in_flight_report(self) -> str:
        """Which processes hold the in-flight cells, in words: for InFlightLimit, and for Full where a put finds no cell."""

    def _write_dead_letter(
        self, image: bytes, *, id: int, cause: str, reason: str, error: BaseException | None, delivery_count: int,
        published: float, first_failed: float,
    ) -> None:  # fmt: skip
        """Keep the message whose image this is as a dead letter; `published` and `first_failed` are ages in seconds.

        Called by whatever call finds that a message has failed too often, or was rejected. The message is the caller's meanwhile:
        neither `close` nor the interpreter's exit gives it back. Whatever it raises, the message rests for a second, and then the
        next call that comes to it tries again.
        """

    def _could_not_dead_letter(self, failure: BaseException) -> None:
        """`_write_dead_letter` raised OSError or OutOfMemory in a call that wanted another message. The call goes on."""

    def _keep(self, lease: Lease[Any], seconds: float) -> None:
        """Extend the lease by itself until it is settled: for `extend=True`. Where it raises, the lease is dropped unsettled."""

    def _late(self, error: BaseException) -> None:
        """The body of a loop over the queue has ended after its lease had: the LeaseLost of its ack. The loop goes on."""

    def _anext(self, leases: Leases[Any], timeout: float | None) -> Awaitable[Lease[Any]]:
        """`async for` wants the next lease: for `Leases.__anext__`."""

    def _apublish(self, loan: Loan[Any], nbytes: int | None, timeout: float | None) -> Awaitable[None]:
        """Publish without blocking the event loop: for `Loan.apublish`."""
