"""shmq: message queues between processes on one machine, in shared memory."""

from shmq._backoff import Backoff
from shmq._bell import wait_any
from shmq._codec import Codec, JSONCodec, json_codec
from shmq._core import Lease, Loan
from shmq._errors import (
    Closed,
    Empty,
    Full,
    InFlightLimit,
    LeaseLost,
    MessageTooLarge,
    OutOfMemory,
    PayloadLost,
    PickleRefused,
    SegmentCorrupt,
    SegmentExists,
    SegmentForeign,
    SegmentMismatch,
    SegmentNotFound,
    ShmqError,
    ShutDown,
    TooManyPorts,
)
from shmq._include import get_include
from shmq._queue import Queue
from shmq._segment import list_segments, unlink
from shmq._stats import Holding, QueueStats, verify
from shmq._version import __version__

__all__ = [
    "Backoff",
    "Closed",
    "Codec",
    "Empty",
    "Full",
    "Holding",
    "InFlightLimit",
    "JSONCodec",
    "Lease",
    "LeaseLost",
    "Loan",
    "MessageTooLarge",
    "OutOfMemory",
    "PayloadLost",
    "PickleRefused",
    "Queue",
    "QueueStats",
    "SegmentCorrupt",
    "SegmentExists",
    "SegmentForeign",
    "SegmentMismatch",
    "SegmentNotFound",
    "ShmqError",
    "ShutDown",
    "TooManyPorts",
    "__version__",
    "get_include",
    "json_codec",
    "list_segments",
    "unlink",
    "verify",
    "wait_any",
]
