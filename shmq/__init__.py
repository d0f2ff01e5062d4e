"""shmq: message queues between processes on one machine, in shared memory."""

import typing as _typing

try:
    from shmq._core import Lease, Loan
except ModuleNotFoundError as _missing:
    if _missing.name == "shmq._core":
        from shmq._unbuilt import unbuilt

        raise unbuilt(__path__[0]) from None
    raise

from shmq._codec.codec import Codec, JSONCodec, json_codec
from shmq._errors import (
    Closed,
    Empty,
    Full,
    InFlightLimit,
    LeaseLost,
    MessageTooLarge,
    NoSharedMemory,
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
from shmq._observe.verify import verify
from shmq._queue import Queue
from shmq._segment.backoff import Backoff
from shmq._segment.lifecycle import unlink
from shmq._segment.listing import list_segments
from shmq._version import __version__
from shmq._waiting.bell import wait_any

if _typing.TYPE_CHECKING:
    from shmq import aio as aio
    from shmq import mp as mp
    from shmq._observe.holdings import Holding
    from shmq._observe.stats import QueueStats
    from shmq._store.dead_letters import DeadLetter, DeadLetters
    from shmq._worker_lost import WorkerLost
    from shmq.executor import Executor, ExecutorStats, WorkerStats

__all__ = [
    "Backoff",
    "Closed",
    "Codec",
    "DeadLetter",
    "DeadLetters",
    "Empty",
    "Executor",
    "ExecutorStats",
    "Full",
    "Holding",
    "InFlightLimit",
    "JSONCodec",
    "Lease",
    "LeaseLost",
    "Loan",
    "MessageTooLarge",
    "NoSharedMemory",
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
    "WorkerLost",
    "WorkerStats",
    "__version__",
    "get_include",
    "json_codec",
    "list_segments",
    "unlink",
    "verify",
    "wait_any",
]

# They bring dataclasses, concurrent.futures, multiprocessing and json, which a program that only wants a queue need not pay for.
_ON_FIRST_USE = {
    "DeadLetter": "shmq._store.dead_letters",
    "DeadLetters": "shmq._store.dead_letters",
    "Executor": "shmq.executor",
    "ExecutorStats": "shmq.executor",
    "Holding": "shmq._observe.holdings",
    "QueueStats": "shmq._observe.stats",
    "WorkerLost": "shmq._worker_lost",
    "WorkerStats": "shmq.executor",
}


if not _typing.TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> _typing.Any:
        from importlib import import_module

        if name in ("aio", "mp"):
            return import_module(f"shmq.{name}")
        if name not in _ON_FIRST_USE:
            raise AttributeError(f"module 'shmq' has no attribute {name!r}")
        return getattr(import_module(_ON_FIRST_USE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_FIRST_USE})
