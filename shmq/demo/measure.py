"""The measurements of ``shmq bench``, without their screen: this process produces, one child consumes.

Both queues take turns within each round, so that a machine which slows down meanwhile slows both, and the median over
the rounds is what counts. Each trial is verified: how many messages arrived, and what their contents add up to.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import shmq
from shmq.demo.processes import SPAWN, Children

__all__ = ["ROUNDS", "ROWS", "Comparison", "Measured", "measure"]

ROUNDS = 5
SLOTS = 1024
BATCH = 64
SMALL = [bytes([1 + number]) * 64 for number in range(BATCH)]
FRAME = 1 << 20
FRAME_SLOTS = 4
PATIENCE = 60.0


@dataclass(frozen=True)
class Lane:
    """The queues of one kind: small messages to the child and back, and large ones to it."""

    there: Any
    back: Any
    frames: Any


Give = Callable[[Lane, int], "Given"]
Take = Callable[[Lane, int], int]


@dataclass(frozen=True)
class Given:
    """What the child must add up to; and the time a message takes, where the sender itself can tell."""

    total: int
    seconds: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One topology: how each kind of queue does it, and with how many messages in a trial."""

    name: str
    ours: tuple[Give, Take, int]
    theirs: tuple[Give, Take, int]
    nbytes: int = 0  # of one message, where the bandwidth is what matters


@dataclass(frozen=True)
class Measured:
    """Seconds a message, and how many messages were sent and verified over all rounds."""

    ours: float
    theirs: float
    verified: int


def measure() -> Iterator[Measured]:
    """Yield the outcome of each of :data:`ROWS`. Raises ShmqError if anything is lost or changed on the way."""
    with shmq_lane() as ours, multiprocessing_lane() as theirs, Children() as children:
        lanes = (ours, theirs)
        pipe, end = SPAWN.Pipe()
        children.start(consume, end, lanes)
        end.close()
        for row in ROWS:
            trials = [[trial(pipe, lanes, number, row) for number in (0, 1)] for _ in range(ROUNDS)]
            ours_seconds, theirs_seconds = (statistics.median(side) for side in zip(*trials, strict=True))
            yield Measured(ours_seconds, theirs_seconds, ROUNDS * (row.ours[2] + row.theirs[2]))
        pipe.send(None)


def trial(pipe: Connection, lanes: tuple[Lane, Lane], number: int, row: Comparison) -> float:
    """Send one trial's messages over one lane, and return the seconds that each of them took."""
    give, take, count = (row.ours, row.theirs)[number]
    pipe.send((number, take, count))
    expect(pipe)
    started = time.monotonic()
    given = give(lanes[number], count)
    total, ended = expect(pipe)
    if total != given.total:
        raise shmq.ShmqError(f"{row.name}: the contents add up to {total}, not to {given.total}")
    return (ended - started) / count if given.seconds is None else given.seconds


def expect(pipe: Connection) -> Any:
    with contextlib.suppress(EOFError, ConnectionResetError):
        if pipe.poll(PATIENCE):
            return pipe.recv()
    raise shmq.ShmqError("the consuming process ended early")


def consume(pipe: Connection, lanes: tuple[Lane, Lane]) -> None:
    """Take what each trial sends, in the child, and answer what it added up to and when the last message was there."""
    while task := pipe.recv():
        number, take, count = task
        pipe.send("ready")
        pipe.send((take(lanes[number], count), time.monotonic()))


@contextlib.contextmanager
def shmq_lane() -> Iterator[Lane]:
    with (
        shmq.Queue(slots=SLOTS, slot_size=64) as there,
        shmq.Queue(slots=SLOTS, slot_size=64) as back,
        shmq.Queue(slots=FRAME_SLOTS, slot_size=FRAME) as frames,
    ):
        yield Lane(there, back, frames)


@contextlib.contextmanager
def multiprocessing_lane() -> Iterator[Lane]:
    lane = Lane(SPAWN.Queue(SLOTS), SPAWN.Queue(SLOTS), SPAWN.Queue(FRAME_SLOTS))
    try:
        yield lane
    finally:
        for queue in (lane.there, lane.back, lane.frames):
            queue.cancel_join_thread()
            queue.close()


# ---- the two ends of each topology -----------------------------------------------------------------------------------


def put_each(lane: Lane, count: int) -> Given:
    put = lane.there.put
    for number in range(count):
        put(SMALL[number % BATCH])
    return Given(sum(SMALL[number % BATCH][0] for number in range(count)))


def get_each(lane: Lane, count: int) -> int:
    get, total = lane.there.get, 0
    for _ in range(count):
        total += get()[0]
    return total


def put_batches(lane: Lane, count: int) -> Given:
    put_many, sent = lane.there.put_many, 0
    while sent < count:
        start = sent % BATCH  # put_many may take a part of the batch only
        sent += put_many(SMALL[start:])
    return Given(sum(SMALL[number % BATCH][0] for number in range(count)))


def get_batches(lane: Lane, count: int) -> int:
    get_many, taken, total = lane.there.get_many, 0, 0
    while taken < count:
        messages = get_many(BATCH)
        taken += len(messages)
        for message in messages:
            total += message[0]
    return total


def put_lists(lane: Lane, count: int) -> Given:
    """The standard queue has no batches; a list as one message is what its users do instead."""
    for _ in range(count // BATCH):
        lane.there.put(SMALL)
    return Given(count // BATCH * sum(message[0] for message in SMALL))


def get_lists(lane: Lane, count: int) -> int:
    total = 0
    for _ in range(count // BATCH):
        for message in lane.there.get():
            total += message[0]
    return total


def ping(lane: Lane, count: int) -> Given:
    put, get, clock, laps = lane.there.put, lane.back.get, time.perf_counter, []
    for number in range(count):
        message = SMALL[number % BATCH]
        started = clock()
        put(message)
        answer = get()
        laps.append(clock() - started)
        if answer != message:
            raise shmq.ShmqError("round trip: another message came back")
    return Given(count, statistics.median(laps))


def pong(lane: Lane, count: int) -> int:
    get, put = lane.there.get, lane.back.put
    for _ in range(count):
        put(get())
    return count


def put_arrays(lane: Lane, count: int) -> Given:
    import numpy as np  # on first use: `shmq --help` imports this module, too

    frame = np.zeros(FRAME // 8, "u8")
    for number in range(count):
        frame[:] = number
        # The standard queue pickles in a thread of its own, later: it must not see the next frame in this one.
        lane.frames.put(frame if isinstance(lane.frames, shmq.Queue) else frame.copy())
    return Given(frame.size * sum(range(count)))


def get_arrays(lane: Lane, count: int) -> int:
    return sum(int(lane.frames.get().sum()) for _ in range(count))


def loan_arrays(lane: Lane, count: int) -> Given:
    for number in range(count):
        with lane.frames.loan((FRAME // 8,), "u8") as frame:
            frame[:] = number
    return Given(FRAME // 8 * sum(range(count)))


def view_arrays(lane: Lane, count: int) -> int:
    total = 0
    for _ in range(count):
        with lane.frames.receive() as lease:
            total += int(lease.array.sum())
    return total


ROWS = (
    Comparison("64 B, one call a message", (put_each, get_each, 200_000), (put_each, get_each, 20_000)),
    Comparison("64 B, batches of 64", (put_batches, get_batches, 64 * 8_000), (put_lists, get_lists, 64 * 2_000)),
    Comparison("64 B, round trip", (ping, pong, 20_000), (ping, pong, 2_000)),
    Comparison("1 MiB arrays, put and get", (put_arrays, get_arrays, 400), (put_arrays, get_arrays, 60), FRAME),
    Comparison("1 MiB arrays, loan and view", (loan_arrays, view_arrays, 400), (put_arrays, get_arrays, 60), FRAME),
)
