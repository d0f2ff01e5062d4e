"""What is waited for, as its waiters see it: no queue, but something with a bell that can be looked at.

A waiter listens through a handle (see shmq/_native/bell.h). A handle has one bell, and a bell has one listener. So a process in
which several listen has further handles of the same thing.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Protocol

    class Handle(Protocol):
        """A port of what is waited for, and its bell. shmq/_binding/attach.pxi says what each method does."""

        @property
        def closed(self) -> bool: ...
        def close(self) -> None: ...
        def _bell(self) -> int: ...
        def _has_bell(self) -> bool: ...
        def _owns_bell(self) -> bool: ...
        def _arm(self, side: int) -> bool: ...
        def _disarm(self, side: int) -> bool: ...
        def _clear_bell(self) -> None: ...
        def _pass_on(self, side: int) -> None: ...
        def _worth(self, side: int) -> int: ...
        def _watch(self) -> float: ...

    class Waitable(Handle, Protocol):
        """What is waited for: a handle that tells whether there is something, and makes further handles."""

        _listening_handles: ListeningHandles

        @property
        def segment(self) -> Any: ...
        def _inspect(self, segment: Any, /) -> Handle: ...
        def _ready(self) -> bool: ...
        def _spin(self, side: int) -> bool: ...
        def _unfinished(self) -> int: ...


class ListeningHandles:
    """The handles through which this process listens to one queue: the queue's own, and further ones where several listen.

    It has no lock, so that a fork, a signal handler or a finalizer may come between any two lines. Taking and freeing are one
    step each of a list that threads share.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.own: list[None] = [None]  # an entry: the queue's own is free
        self.further: list[Handle] = []  # free ones

    def take(self, queue: Waitable) -> Handle:
        with contextlib.suppress(IndexError):
            self.own.pop()
            return queue
        with contextlib.suppress(IndexError):
            return self.further.pop()
        return queue._inspect(queue.segment)

    def free(self, queue: Waitable, handle: Handle) -> None:
        if self.foreign:
            return
        if handle is queue:
            self.own.append(None)
        elif queue.closed or self.further:
            handle.close()  # one is kept for the next; more would be ports that others lack
        else:
            self.further.append(handle)
            if queue.closed:  # meanwhile, and its close() may have come too early for this one
                self.close()

    @property
    def own_is_free(self) -> bool:
        """Does nobody listen by the queue's own handle?"""
        return bool(self.own)

    @property
    def foreign(self) -> bool:
        """Is this a forked child? Then these handles are the parent's, and the child has handles of its own."""
        return self.pid != os.getpid()

    def close(self) -> None:
        """Close the handles that are free, once the queue's handle is closed. Those in use are closed by their listeners."""
        with contextlib.suppress(IndexError):
            while True:
                self.further.pop().close()
