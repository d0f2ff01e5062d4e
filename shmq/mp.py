"""The queues of ``multiprocessing``, under their names and with their constructors, over shared memory.

::

    from shmq.mp import JoinableQueue, Queue, SimpleQueue    # instead of: from multiprocessing import …

What is the same: constructors and defaults, positional arguments, exceptions, and the type of what comes out. What is
better: `put` has finished when it returns (no thread, so nothing to flush, and a process ends when it ends); a killed
process neither hangs the others nor takes a message with it; a queue may be pickled anywhere, also into itself. What is
different, on purpose:

- What does not pickle raises in `put`, where somebody can catch it, and not in a thread that prints it.
- What does not unpickle raises in `get` once, and is a dead letter then.
- A queue that was closed in this process raises Closed, a ValueError, whatever is asked of it.
- A Queue takes `task_done`, `join` and `shutdown`, as a thread's queue does, and the leases of shmq.Queue.

A queue lives as long as anybody has it open, as those of `multiprocessing` do, and not only as long as its creator.
"""

from __future__ import annotations

import operator
import weakref
from multiprocessing.context import get_spawning_popen
from typing import Any, cast

from shmq import _queue
from shmq._codec.reducers import reducers_of_exporters
from shmq._queue import T

__all__ = ["JoinableQueue", "Queue", "SimpleQueue"]

# 2.2 MiB: a pool of hundreds of processes finds a port, and nearly all messages fit into a slot; a larger one takes a side
# segment. A program with a queue for each of a few workers stays within the 64 MiB of a container's /dev/shm.
SLOTS = 512
SLOT_SIZE = 1984  # 2 KiB with the header
PORTS = 512
# A queue that was given a large maxsize has a ring of that size, and smaller slots beyond so many bytes. One that was given
# more than MOST was given none: slots for so many would take hundreds of megabytes.
MEMORY = 8 << 20
SMALLEST_SLOT_SIZE = 192
MOST = 1 << 20


class Queue(_queue.Queue[T]):
    """multiprocessing.Queue, over shared memory.

    :param maxsize: how many messages may wait; 0 or less, or more than a million: as many as /dev/shm has room for.
    :param ctx: taken for compatibility; one queue serves processes of every start method.
    """

    _reducers = reducers_of_exporters
    _keeps_types = True
    _of_children: weakref.ref[Any] | None = None

    def __init__(self, maxsize: int = 0, *, ctx: Any = None) -> None:
        try:
            maxsize = operator.index(maxsize)
        except TypeError:
            raise TypeError(f"maxsize must be a whole number, not {maxsize!r}") from None
        bounded = 0 < maxsize <= MOST
        slots = maxsize if bounded else SLOTS
        super().__init__(
            slots=slots,
            slot_size=SLOT_SIZE if slots <= MEMORY // SLOT_SIZE else max(MEMORY // slots // 64 * 64, SMALLEST_SLOT_SIZE),
            ports=PORTS,
            oversize="spill",
            overflow="block" if bounded else "grow",
            lifetime="handles",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        popen: Any = get_spawning_popen()
        if popen is not None:  # the child has yet to open it: until then its Popen has it open
            popen._shmq_handles = [*getattr(popen, "_shmq_handles", ()), self._companion()]
        return super().__reduce__()

    def _companion(self) -> Queue[T]:
        """A handle that nobody closes, as this one may be; one for all children, since it takes a port."""
        companion: Queue[T] | None = None if self._of_children is None else self._of_children()
        if companion is None:
            companion = cast("Queue[T]", _queue._attach_again(Queue, self.name, self.segment.nonce, self.codec, self.spin))
            self._of_children = weakref.ref(companion)
        companion.qsize()  # in a forked child it takes a port of that child's
        return companion

    def join_thread(self) -> None:
        """Return: there is no thread. **Raises** AssertionError where the queue is not closed, as multiprocessing does."""
        if not self.closed:
            raise AssertionError(f"queue {self.name!r} is not closed: close() comes before join_thread()")

    def cancel_join_thread(self) -> None:
        """Do nothing: there is no thread, and what was put is in the queue."""

    # What a thread's queue tells of itself, beside the methods:

    @property
    def is_shutdown(self) -> bool:
        """Was shutdown() called, in any process?"""
        return self._shut

    @property
    def unfinished_tasks(self) -> int:
        """How many messages join() waits for."""
        return self._unfinished()


class JoinableQueue(Queue[T]):
    """multiprocessing.JoinableQueue, over shared memory: each message is a task, until task_done() is called for it."""


class SimpleQueue(Queue[T]):
    """multiprocessing.SimpleQueue, over shared memory."""

    def __init__(self, *, ctx: Any = None) -> None:
        super().__init__(ctx=ctx)
