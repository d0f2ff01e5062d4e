"""The ledger of a kill storm, and its judge.

Each process appends what it is about to do, and what it has done, to a file outside shared memory: whole records, which a
SIGKILL cannot tear. When everybody has come to rest the judge reads what became of each message. It knows nothing of the engine:
only what was intended, what returned, who was killed when, and what a queue promises.
"""

from __future__ import annotations

import os
import struct
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from pathlib import Path

import numpy as np


class Kind(IntEnum):
    """What a record says. A settlement has two: before the call, and after it returned."""

    INTENDED = 1
    PUT = 2
    NOT_PUT = 3  # put raised, or the loan was abandoned
    PREFETCHED = 4  # receive_many returned it; nothing was read
    BEGINNING = 5  # about to read a prefetched one
    RECEIVED = 6  # … or read since
    ACKING = 7
    ACKED = 8
    NACKING = 9
    NACKED = 10
    RELEASING = 11
    RELEASED = 12
    DROPPING = 13  # the lease object, unsettled
    DROPPED = 14
    REJECTING = 15
    REJECTED = 16
    EXTENDING = 17
    EXTENDED = 18
    LOST = 19  # LeaseLost was raised
    TORN = 20  # what was read is not what was put
    STALLED = 21  # a survivor: nothing went on from `began` to `time`


BEFORE = {Kind.ACKING, Kind.NACKING, Kind.RELEASING, Kind.DROPPING, Kind.REJECTING}
AFTER = {Kind.ACKED, Kind.NACKED, Kind.RELEASED, Kind.DROPPED, Kind.REJECTED, Kind.LOST}
SETTLING = BEFORE | AFTER
RECORD = struct.Struct("<QQQQQIIQQ")  # 64 bytes: no page boundary, at which a killed write would end, is inside one
DTYPE = np.dtype(
    [("number", "<u8"), ("id", "<u8"), ("time", "<u8"), ("began", "<u8"), ("lease", "<u8"),
     ("process", "<u4"), ("count", "<u4"), ("kind", "<u8"), ("", "<u8")]
)  # fmt: skip
assert DTYPE.itemsize == RECORD.size == 64
NUMBER_BITS = 24  # of a message within its process
ROUNDING_NS = 2_000  # deadlines are kept in microseconds


class Ledger:
    """Where one process writes. The file was opened with O_APPEND."""

    def __init__(self, fd: int, process: int) -> None:
        self.fd = fd
        self.process = process

    def record(self, kind: Kind, number: int = 0, id: int = 0, began: int = 0, lease: int = 0, count: int = 0) -> bytes:
        return RECORD.pack(number, id, time.monotonic_ns(), began, lease, self.process, count, kind, 0)

    def write(self, kind: Kind, number: int = 0, id: int = 0, began: int = 0, lease: int = 0, count: int = 0) -> None:
        os.write(self.fd, RECORD.pack(number, id, time.monotonic_ns(), began, lease, self.process, count, kind, 0))

    def write_all(self, records: Iterable[bytes]) -> None:
        os.write(self.fd, b"".join(records))


def read(paths: Iterable[Path]) -> np.ndarray:
    """All records, in no order."""
    return np.concatenate([np.fromfile(path, dtype=DTYPE) for path in paths])


@dataclass
class Kill:
    """When a process got its SIGKILL: between the two times."""

    before: int
    after: int
    consumer: bool = True


@dataclass
class Letter:
    """A dead letter: how often its message had failed."""

    failed: int


@dataclass
class Delivery:
    """A message in the hands of one process, as far as the process could tell."""

    process: int
    began: int  # the call that received it; 0: it is a dead letter, at the end of the chain
    received: int
    count: int
    lease: int  # 0: no time-out
    prefetched: bool
    deadline: int
    reading: bool = False
    read: bool = False
    torn: int = 0
    end: Kind | None = None
    ended: int = 0
    settling: int = 0

    @property
    def since(self) -> int:
        """For the order: whoever was not run until its time was over tells late of what it had at most until then."""
        late = self.lease and self.received >= self.began + self.lease and (self.end is Kind.LOST or self.end not in AFTER)
        return self.began + self.lease if late else self.received


@dataclass
class Verdict:
    """What the judge found. Every figure is a count."""

    messages: int = 0  # intended
    returned: int = 0  # … whose put returned
    interrupted: int = 0  # … whose put was killed
    interrupted_there: int = 0  # … and whose message is there nevertheless
    deliveries: int = 0
    acked: int = 0
    acked_unsaid: int = 0  # gone, by a process that was killed after it had begun to ack
    ack_undone: int = 0  # redelivered, by the death of a process that had begun to ack
    letters: int = 0
    duplicates: Counter[str] = field(default_factory=Counter)  # deliveries after the first, by why
    silent: int = 0  # failed deliveries to a process that was killed before it could say so
    silent_expiries: int = 0
    lost: int = 0
    unexplained: int = 0
    torn: int = 0
    stalls: int = 0
    other: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, more: Verdict) -> None:
        for name, value in vars(more).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)

    @property
    def sound(self) -> bool:
        return not (self.lost or self.unexplained or self.torn or self.stalls or self.other or self.violations)


class Judge:
    """Judges one ledger. `kills`: by process. `letters`: by number. `delays`: (from, to) in which the machine did not run us."""

    def __init__(
        self,
        records: np.ndarray,
        kills: dict[int, Kill],
        letters: dict[int, Letter] | None = None,
        delays: list[tuple[int, int]] | None = None,
    ) -> None:
        self.records = records.copy()
        self.kills = kills
        self.letters = letters or {}
        self.delays = delays or []
        self.verdict = Verdict(letters=len(self.letters))
        self.gaps: list[tuple[int, int, int]] = []  # (to, from, number): a failed delivery of which nobody tells
        self.holding: set[int] = set()  # killed processes that had a delivery of which they told

    def judge(self) -> Verdict:
        self.name_the_unread()
        order = np.lexsort((self.records["time"], self.records["number"]))
        self.records = self.records[order]
        records, verdict = self.records, self.verdict
        kinds = records["kind"]
        verdict.deliveries = int(np.count_nonzero((kinds == Kind.RECEIVED) | (kinds == Kind.TORN)))
        numbers, starts, sizes = np.unique(records["number"], return_index=True, return_counts=True)
        plain = self.plain(starts, sizes)
        verdict.messages = verdict.returned = verdict.acked = int(np.count_nonzero(plain))
        for number, start, size in zip(numbers[~plain].tolist(), starts[~plain].tolist(), sizes[~plain].tolist(), strict=True):
            mine = records[start : start + size]
            if number == 0:
                self.judge_nameless(mine)
            else:
                self.judge_message(number, mine)
        self.match_gaps()
        self.judge_prefixes()
        return verdict

    def name_the_unread(self) -> None:
        """Whoever has not read a message knows its id alone; somebody who has read it says which one that is."""
        records = self.records
        known = records[(records["id"] != 0) & (records["number"] != 0)]
        ids, first = np.unique(known["id"], return_index=True)
        nameless = np.flatnonzero((records["number"] == 0) & (records["id"] != 0))
        if len(ids):
            place = np.minimum(np.searchsorted(ids, records["id"][nameless]), len(ids) - 1)
            found = ids[place] == records["id"][nameless]
            records["number"][nameless[found]] = known["number"][first][place[found]]

    def plain(self, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Which messages were intended, put, received once, and acked by who received them: no more is to be said."""
        wanted = [Kind.INTENDED, Kind.PUT, Kind.RECEIVED, Kind.ACKING, Kind.ACKED]
        plain = sizes == len(wanted)
        rows = starts[plain][:, None] + np.arange(len(wanted))[None, :]
        kinds = np.sort(self.records["kind"][rows], axis=1)
        good = (kinds == np.array(wanted, dtype=np.uint64)[None, :]).all(axis=1)
        by_consumers = self.records["kind"][rows] >= Kind.RECEIVED
        for column, wanted_value in (("process", None), ("count", 1), ("id", None)):
            values = self.records[column][rows].astype(np.int64)
            if wanted_value is not None:
                values = np.where(self.records["kind"][rows] == Kind.RECEIVED, values, wanted_value)
                good &= (values == wanted_value).all(axis=1)
                continue
            least = np.where(by_consumers, values, np.iinfo(np.int64).max).min(axis=1)
            good &= least == np.where(by_consumers, values, -1).max(axis=1)
        plain[plain] = good
        if self.letters:
            numbers = self.records["number"][starts]
            plain &= ~np.isin(numbers, np.fromiter(self.letters, dtype=np.uint64, count=len(self.letters)))
        return plain

    # -- one message ---------------------------------------------------------------------------------------------------

    def judge_message(self, number: int, records: np.ndarray) -> None:
        verdict = self.verdict
        kinds = set(records["kind"].tolist())
        there = bool(kinds - {Kind.INTENDED, Kind.PUT, Kind.NOT_PUT}) or number in self.letters
        verdict.messages += 1
        verdict.returned += Kind.PUT in kinds
        if Kind.INTENDED not in kinds:
            self.violate("other", f"message {number:#x} was never intended", records)
        if not kinds & {Kind.PUT, Kind.NOT_PUT}:
            verdict.interrupted += 1
            verdict.interrupted_there += there
            if number >> NUMBER_BITS not in self.kills:
                self.violate("other", f"the put of message {number:#x} by a living process did not return", records)
        if Kind.NOT_PUT in kinds and there:
            self.violate("other", f"message {number:#x} is there, although its put raised", records)
        ids = {row for row in records["id"].tolist() if row}
        if len(ids) > 1:
            self.violate("unexplained", f"message {number:#x} was published {len(ids)} times", records)
        if not there:
            if Kind.PUT in kinds:
                self.violate("lost", f"message {number:#x} was put and never received", records)
            return
        chain = self.deliveries_of(records)
        if number in self.letters:
            letter = Delivery(0, 0, 1 << 63, self.letters[number].failed + 1, 0, False, 0)
            chain.append(letter)
        self.judge_chain(number, chain, records)
        self.judge_fate(number, chain[-1], records)

    def deliveries_of(self, records: np.ndarray) -> list[Delivery]:
        """The deliveries that somebody tells of, in the order in which they failed."""
        done: list[Delivery] = []
        open: dict[int, Delivery] = {}
        for row in records[np.argsort(records["time"], kind="stable")]:
            kind, process, at = Kind(int(row["kind"])), int(row["process"]), int(row["time"])
            if kind <= Kind.NOT_PUT:
                continue
            mine = open.get(process)
            if kind is Kind.PREFETCHED or (kind in (Kind.RECEIVED, Kind.TORN, Kind.LOST) and (mine is None or mine.end in AFTER)):
                began, lease = int(row["began"]), int(row["lease"])
                mine = Delivery(process, began, at, int(row["count"]), lease, kind is Kind.PREFETCHED, began + lease)
                open[process] = mine
                done.append(mine)
            if mine is None:
                self.violate("other", "a settlement of what was not received", records)
                continue
            if kind is Kind.BEGINNING:
                mine.reading = True
            elif kind is Kind.RECEIVED:
                mine.read = True
            elif kind is Kind.TORN:
                mine.torn = at
            elif kind is Kind.EXTENDING:
                mine.deadline = min(mine.deadline, at + int(row["lease"])) if mine.lease else at + int(row["lease"])
                mine.lease = mine.lease or int(row["lease"])
            elif kind is Kind.EXTENDED:
                mine.deadline = int(row["began"]) + int(row["lease"])
            elif kind in SETTLING:
                mine.end, mine.ended = kind, at
                if kind in BEFORE:
                    mine.settling = at
        return sorted(done, key=lambda delivery: (delivery.count, delivery.since))

    def judge_chain(self, number: int, chain: list[Delivery], records: np.ndarray) -> None:
        """Each delivery but the last has failed, for a reason, and the count says so."""
        first = chain[0]
        intended = int(records["time"].min())
        self.note_gap(number, first.count - 1, intended, first.received)
        for before, after in pairwise(chain):
            why = self.why(before, after)
            if after.began:
                self.verdict.duplicates[why or "unexplained"] += 1
            if why is None:
                what = "after its ack had returned" if before.end is Kind.ACKED else "although the one before had not failed"
                self.violate("unexplained", f"message {number:#x} was delivered (count {after.count}) {what}", records)
                continue
            if before.settling and before.end is Kind.ACKING:
                self.verdict.ack_undone += 1
            least, most = self.counts_for(before)
            step = after.count - before.count
            if step < least:
                self.violate("other", f"message {number:#x}: the count went from {before.count} to {after.count}: {why}", records)
            self.note_gap(number, step - most, before.received, after.received)
        for delivery in chain:
            if delivery.process in self.kills and delivery.end not in AFTER and delivery.began:
                self.holding.add(delivery.process)
            if delivery.end is Kind.LOST and not (delivery.lease and delivery.ended >= delivery.deadline - ROUNDING_NS):
                self.violate("unexplained", f"message {number:#x}: a lease ended before its time", records)
            late = delivery.lease and delivery.torn >= delivery.deadline - ROUNDING_NS
            if delivery.torn and not (late and delivery.end in (Kind.LOST, None)):
                self.violate("torn", f"message {number:#x} is torn", records)

    def why(self, before: Delivery, after: Delivery) -> str | None:
        """Why there is a delivery after this one."""
        kill = self.kills.get(before.process)
        at = after.received
        expired = before.lease and at >= before.deadline - ROUNDING_NS
        if before.end is Kind.ACKED:
            return None
        if before.end is Kind.LOST:
            return "expired"
        if before.end in (Kind.NACKING, Kind.NACKED) and at >= before.settling:
            return "nacked"
        if before.end in (Kind.RELEASING, Kind.RELEASED) and at >= before.settling:
            return "released"
        if before.end in (Kind.DROPPING, Kind.DROPPED) and at >= before.settling:
            return "dropped"
        if before.end in (Kind.REJECTING, Kind.REJECTED) and not after.began:
            return "rejected"
        if before.end in AFTER:
            return None
        if kill is not None and at >= kill.before:
            return "killed"
        return "expired" if expired else None

    def counts_for(self, delivery: Delivery) -> tuple[int, int]:
        """By how much the count goes up with the end of this delivery, at least and at most."""
        unsure = delivery.prefetched and delivery.lease  # its time may have been over before it was begun with
        if delivery.end in (Kind.NACKED, Kind.REJECTED):
            return 1, 1
        if delivery.end is Kind.RELEASED:
            return 0, 0
        if delivery.end is Kind.RELEASING:
            return 0, 1
        if delivery.prefetched and not delivery.reading:
            return (0, 1) if delivery.end in (Kind.NACKING, Kind.REJECTING) else (0, 0)
        if delivery.prefetched and not delivery.read:
            return 0, 1
        return 0 if unsure else 1, 1

    def judge_fate(self, number: int, last: Delivery, records: np.ndarray) -> None:
        verdict = self.verdict
        if not last.began:
            return  # a dead letter
        if last.end is Kind.ACKED:
            verdict.acked += 1
        elif last.end is Kind.ACKING and last.process in self.kills:
            verdict.acked_unsaid += 1
        else:
            self.violate("lost", f"message {number:#x} is neither acked nor a dead letter", records)

    def judge_nameless(self, records: np.ndarray) -> None:
        """Stalls; and messages that were received by nobody who could read them: lost, as the producer's own records say."""
        for row in records[records["kind"] == Kind.STALLED]:
            began, ended = int(row["began"]), int(row["time"])
            excused = sum(max(min(ended, to) - max(began, at), 0) for at, to in self.delays)
            if ended - began - excused > 1_000_000_000:
                seconds = (ended - began) * 1e-9
                text = f"process {row['process']} stood still for {seconds:.2f} s, {excused * 1e-9:.2f} s of it for want of a CPU"
                self.violate("stalls", text, records[records["kind"] == Kind.STALLED])
        for row in records[records["kind"] == Kind.TORN]:
            self.violate(
                "torn", f"process {row['process']} read a torn message of id {row['id']:#x}", records[records["id"] == row["id"]]
            )

    # -- all together --------------------------------------------------------------------------------------------------

    def note_gap(self, number: int, failures: int, after: int, before: int) -> None:
        for _ in range(failures):
            self.gaps.append((before, after, number))

    def match_gaps(self) -> None:
        """A failed delivery of which nobody tells was that of a process killed before it could: each of these explains one."""
        free = sorted(
            (kill.before, kill.after) for process, kill in self.kills.items() if kill.consumer and process not in self.holding
        )
        times = [after for _, after in free]
        used: dict[int, int] = {}
        for before, after, number in sorted(self.gaps):
            place = bisect_right(times, after)
            while place in used:
                place += 1
            if place < len(free) and free[place][0] <= before:
                used[place] = number
                self.verdict.silent += 1
                continue
            mine = self.records[self.records["number"] == number]
            leases = mine["lease"][mine["lease"] > 0]
            if len(leases) and before - after >= int(leases.min()):
                self.verdict.silent_expiries += 1
                continue
            self.violate("unexplained", f"message {number:#x} has failed once more than anybody can have failed", mine)
            self.verdict.violations[-1] += "".join(self.who_died(after, before, {free[place]: used[place] for place in used}))

    def who_died(self, after: int, before: int, used: dict[tuple[int, int], int]) -> Iterator[str]:
        """The consumers that were killed in that time, and what they said last."""
        for process, kill in self.kills.items():
            if kill.consumer and kill.after > after and kill.before <= before:
                taken = used.get((kill.before, kill.after))
                why = "it held what it told of" if process in self.holding else f"explains {taken:#x}" if taken else "free"
                yield f"\n  process {process}, killed at {kill.before}, dead at {kill.after}: {why}"
                last = self.records[self.records["process"] == process]
                for line in self.lines(last[np.argsort(last["time"])][-6:]):
                    yield f"\n  {line}"

    def judge_prefixes(self) -> None:
        """Of an interrupted put_many a prefix is there."""
        kinds, numbers = self.records["kind"], self.records["number"]
        producers = kinds <= Kind.NOT_PUT
        settled = numbers[(kinds == Kind.PUT) | (kinds == Kind.NOT_PUT)]
        open = np.setdiff1d(numbers[kinds == Kind.INTENDED], settled)
        there = set(np.intersect1d(open, numbers[~producers]).tolist()) | set(self.letters)
        batches: dict[int, list[int]] = defaultdict(list)
        for number in open.tolist():
            batches[number >> NUMBER_BITS].append(number)
        for process, batch in batches.items():
            flags = [number in there for number in batch]
            if flags != sorted(flags, reverse=True):
                mine = self.records[np.isin(numbers, np.array(batch, dtype=np.uint64))]
                self.violate("other", f"of the batch that process {process} was putting, no prefix is there", mine)

    def violate(self, figure: str, text: str, records: np.ndarray) -> None:
        setattr(self.verdict, figure, getattr(self.verdict, figure) + 1)
        self.verdict.violations.append("\n".join([text, *self.lines(records)]))

    def lines(self, records: np.ndarray) -> list[str]:
        """The records in words, with the kills of those who wrote them, by time."""
        said = [
            (
                int(row["time"]),
                f"process {row['process']:7} {Kind(int(row['kind'])).name:10} number {int(row['number']):#x} "
                f"id {int(row['id']):#x} count {row['count']} began {row['began']} lease {row['lease']}",
            )
            for row in records[:200]
        ]
        for process in {int(row["process"]) for row in records[:200]} & set(self.kills):
            said.append((self.kills[process].before, f"process {process:7} SIGKILL, dead at {self.kills[process].after}"))
        return [f"    {at} {what}" for at, what in sorted(said)]
