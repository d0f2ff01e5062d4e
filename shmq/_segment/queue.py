"""A queue, as a segment: the values that it is made with, how large it is, how it is laid out, and what lies beside it.

A value is added here, as one attribute of QueueConfig. What users type stands beside it, in the signature of Queue and in Values;
a test compares them, and the documentation, with the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmq import _core
from shmq._segment import files, folders
from shmq._segment.backoff import Backoff
from shmq._segment.config import Config, Mark, Rest, Timeout, Value, Word, codec_name, one_of, rest, seconds, truth, whole
from shmq._segment.kinds import Kind, register

if TYPE_CHECKING:
    from typing import Literal

    from typing_extensions import TypedDict

    from shmq._segment.config import Header, Lifetime

    Oversize = Literal["error", "spill"]
    Overflow = Literal["block", "grow"]

    class Values(TypedDict, total=False):
        """The parameters of Queue.create beside the codec; the docstring of Queue describes them."""

        slots: int | None
        slot_size: int | None
        in_flight: int | None
        ports: int | None
        oversize: Oversize | None
        overflow: Overflow | None
        allow_pickle: bool | None
        lease_timeout: float | None
        max_deliveries: int | None
        backoff: Backoff | None
        lifetime: Lifetime | None


__all__ = ["BACKLOG", "DEAD_LETTERS", "QUEUE", "QueueConfig"]

# All slots are reserved when a queue is made, so large ones are fewer: the ring, and what is in flight beside it, take
# DEFAULT_BYTES each, or FEWEST slots. A container's /dev/shm has 64 MiB by default.
SLOTS = 1024
SLOT_SIZE = 1024
DEFAULT_BYTES = 16 << 20
FEWEST = 4
MOST_DELIVERIES = 0xFFFE  # what the format counts to

# How the names of the files end that are made with a queue.
DEAD_LETTERS = "dead"
BACKLOG = "backlog"  # of one without a bound
LOG_START = 4096  # where the records of a backlog begin


# -- its values ----------------------------------------------------------------------------------------------------------------


def slots_by_default(config: QueueConfig) -> int:
    """As many slots as fit into DEFAULT_BYTES, at most SLOTS."""
    return min(SLOTS, affordable(config))


def in_flight_by_default(config: QueueConfig) -> int:
    """An eighth of the ring, and enough for some processes; of slots of a page or more as many as fit into DEFAULT_BYTES."""
    if config.slot_size < _core.PAGE:
        return min(max(config.slots // 8, 64), 256)
    return min(max(config.slots, FEWEST), affordable(config), 64)


def affordable(config: QueueConfig) -> int:
    """How many slots fit into DEFAULT_BYTES."""
    return max(FEWEST, DEFAULT_BYTES // config.slot_size)


class QueueConfig(Config):
    """What a queue was, or is to be, made with."""

    noun = "queue"

    slots: Value[int] = Value(whole(1), Word("slots"), slots_by_default)
    slot_size = Value(whole(1), Word("slot_size"), SLOT_SIZE)
    in_flight: Value[int] = Value(whole(1), Word("in_flight"), in_flight_by_default)
    oversize = Value(one_of("error", "spill"), Mark({"error": None, "spill": "spills"}), "spill")
    overflow = Value(one_of("block", "grow"), Mark({"block": None, "grow": "grows"}), "block")
    allow_pickle = Value(truth, Mark({False: None, True: "pickles"}), True)
    codec = Value(codec_name, Word("codec"), "")
    lease_timeout: Value[float | None] = Value(seconds, Timeout("lease_timeout_ns"), None)
    max_deliveries = Value(whole(0, MOST_DELIVERIES), Word("max_deliveries"), 20)
    backoff = Value(rest, Rest(), Backoff())


# -- its segment ---------------------------------------------------------------------------------------------------------------


class QueueKind(Kind[QueueConfig]):
    """Segments that hold a queue."""

    number = _core.KIND_QUEUE
    config = QueueConfig
    observer = _core.Observer
    beside = (DEAD_LETTERS, BACKLOG)

    def nbytes(self, config: QueueConfig) -> int:
        nbytes = _core.segment_bytes(config.slots, config.slot_size, config.in_flight, config.ports)
        if nbytes == 0:
            raise ValueError(
                f"a queue of {config.slots:,} slots of {config.slot_size:,} bytes, {config.in_flight:,} in flight, "
                f"{config.ports:,} ports cannot be: each must be at least 1, slots at most {_core.MAX_SLOTS:,}, "
                f"in_flight + ports at most {_core.MAX_CELLS:,}, ports at most 1,022, slot_size at most 2**38"
            )
        return nbytes

    def shape(self, config: QueueConfig) -> str:
        cells = config.in_flight + _core.reserved_cells(config.slot_size, config.ports)
        return f"a queue of {config.slots:,} slots, and {cells:,} for what is in flight, of {config.slot_size:,} bytes each"

    def lay_out(self, memory: _core.Mapping, header: Header) -> None:
        _core.format_segment(memory, header)

    def make_beside(self, beside: str, config: QueueConfig) -> None:
        folders.make_folder(f"{beside}.{DEAD_LETTERS}")
        if config.overflow == "grow":
            files.make_file(f"{beside}.{BACKLOG}", LOG_START)

    def config_of(self, memory: _core.Mapping, header: Header) -> QueueConfig:
        return QueueConfig.found({**header, **_core.read_queue(memory)})


QUEUE = register(QueueKind())
