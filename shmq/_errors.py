"""Every exception of shmq, and nothing else.

::

    ShmqError
    ├── Empty              (queue.Empty)        nothing arrived in time
    ├── Full               (queue.Full)         no room in time
    ├── ShutDown           (queue.ShutDown)     somebody shut the queue: nothing goes in, and for a get: it is empty
    ├── Closed             (ValueError)         this handle was closed by this program
    ├── MessageTooLarge    (ValueError)         larger than a slot, and the queue does not spill
    ├── PickleRefused      (TypeError)          the object needs pickle, and the segment does not allow it
    ├── LeaseLost                               the lease was settled, or taken back, before this call
    ├── InFlightLimit                           every in-flight cell is loaned or leased
    ├── TooManyPorts                            every port is in use by a living process
    ├── SegmentExists      (FileExistsError)
    ├── SegmentNotFound    (FileNotFoundError)
    ├── SegmentMismatch    (ValueError)         other configuration, other format version, other machine
    ├── SegmentForeign     (PermissionError)    another user's
    ├── SegmentCorrupt                          the words in the segment contradict the format
    │   └── PayloadLost                         the side segment of one spilled message is gone
    ├── OutOfMemory        (MemoryError)        /dev/shm is full
    └── NoSharedMemory     (OSError)            /dev/shm is missing, or may not be written to
"""

from __future__ import annotations

import queue

__all__ = [
    "Closed",
    "Empty",
    "Full",
    "InFlightLimit",
    "LeaseLost",
    "MessageTooLarge",
    "NoSharedMemory",
    "OutOfMemory",
    "PayloadLost",
    "PickleRefused",
    "SegmentCorrupt",
    "SegmentExists",
    "SegmentForeign",
    "SegmentMismatch",
    "SegmentNotFound",
    "ShmqError",
    "ShutDown",
    "TooManyPorts",
]


class ShmqError(Exception):
    """The base of every exception that shmq raises on its own account."""


class Empty(ShmqError, queue.Empty):
    """No message arrived within the time-out. Nothing was taken."""


class Full(ShmqError, queue.Full):
    """No room became free within the time-out. Nothing was put."""


class ShutDown(ShmqError, getattr(queue, "ShutDown", Exception)):  # type: ignore[misc]  # from Python 3.13 on
    """The queue was shut down: no message goes in any more. For a get: and it is empty."""


class Closed(ShmqError, ValueError):
    """The handle was closed in this process. Others go on; attach again to continue."""


class MessageTooLarge(ShmqError, ValueError):
    """The message does not fit into a slot. Raised before anything is taken."""


class PickleRefused(ShmqError, TypeError):
    """The object can only travel by pickle, and the segment refuses pickle."""


class LeaseLost(ShmqError):
    """The message is no longer this lease's: acked, given back, or taken back before this call."""


class InFlightLimit(ShmqError):
    """Every in-flight cell is loaned or leased. The message names the holders."""


class TooManyPorts(ShmqError):
    """As many living handles are attached as the segment has ports."""


class SegmentExists(ShmqError, FileExistsError):
    """A strict create found a segment of that name."""


class SegmentNotFound(ShmqError, FileNotFoundError):
    """There is no segment of that name."""


class SegmentMismatch(ShmqError, ValueError):
    """The segment was made with other values, by another format version, or on another kind of machine."""


class SegmentForeign(ShmqError, PermissionError):
    """The segment, or the lock file beside it, belongs to another user."""


class SegmentCorrupt(ShmqError):
    """A word in the segment is outside what its format allows."""


class PayloadLost(SegmentCorrupt):
    """The side segment of a spilled message is gone. The message is given up: the next call goes on behind it."""


class NoSharedMemory(ShmqError, OSError):
    """There is no /dev/shm that this user may write to: it is missing, or read-only. Nothing was changed."""


class OutOfMemory(ShmqError, MemoryError):
    """The shared-memory file system has no room for the segment. Nothing was left behind."""
