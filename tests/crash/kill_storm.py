"""The kill storm: producers and consumers that use the public interface are killed at random and started again.

    python tests/crash/kill_storm.py --kills 100000 --producers 2 --consumers 2 --seed 1 [--slot-size 16384] [--spill]
                                     [--lease-timeout 0.1] [--max-deliveries 5]
    python tests/crash/kill_storm.py --recovery 300

One producer and one consumer more are never killed: what they do goes on. Everybody keeps a ledger outside shared memory; after
each round of kills the queue is drained and the judge (storm_ledger.py) reads it. Victims are forked from this process, which
has imported everything, and die by SIGKILL after 0 to 10 ms, now and then later. The exit status is 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import heapq
import mmap
import os
import pickle
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from storm_ledger import NUMBER_BITS, Judge, Kill, Kind, Ledger, Letter, Verdict, read

import shmq
from shmq._repair import repair_segment
from shmq._segment.shared_memory import prefix

SHM = "/dev/shm"
HEAD = struct.Struct("<QII")  # of a message: number, bytes, checksum of all the rest
WORKING, DRAINING, DONE = range(3)
SECOND = 1_000_000_000
MOST_DYING = 8
HANG = 20.0  # seconds without a word from a survivor, or until the queue is drained: given up
die_with_parent = ctypes.CDLL(None).prctl


# -- messages ----------------------------------------------------------------------------------------------------------


def message_of(number: int, size: int) -> bytes:
    body = (struct.pack("<Q", number) * (size // 8 + 1))[: size - HEAD.size]
    return HEAD.pack(number, size, zlib.crc32(body, number & 0xFFFFFFFF)) + body


def number_in(message: Any) -> int | None:
    """The number of a whole message; None of a torn one."""
    if isinstance(message, dict):
        message = message["message"]
    if isinstance(message, np.ndarray):
        message = message.data
    number, size, checksum = HEAD.unpack_from(message)
    whole = size == len(message) and zlib.crc32(message[HEAD.size :], number & 0xFFFFFFFF) == checksum
    return number if whole else None


# -- who plays ---------------------------------------------------------------------------------------------------------


class Shared:
    """What the processes of a storm tell each other beside the queue: the phase, and when each survivor last went on."""

    def __init__(self) -> None:
        self.memory = memoryview(mmap.mmap(-1, 4096)).cast("Q")  # whose words are read and written whole

    @property
    def phase(self) -> int:
        return self.memory[0]

    @phase.setter
    def phase(self, phase: int) -> None:
        self.memory[0] = phase

    def beat(self, who: int) -> None:
        self.memory[1 + who] = time.monotonic_ns()

    def last_beat(self, who: int) -> int:
        return self.memory[1 + who]


PRODUCER, CONSUMER = 0, 1


class Player:
    """A process of the storm: its queue, its ledger, its dice; `steady` where it is never killed."""

    def __init__(self, storm: Storm, queue: shmq.Queue, role: int, process: int, seed: int, steady: bool) -> None:
        self.q = queue
        self.options = storm.options
        self.shared = storm.shared
        self.role = role
        self.ledger = Ledger(storm.files[role, steady], process)
        self.chance = random.Random(seed)
        self.steady = steady
        self.next_number = process << NUMBER_BITS

    def went_on(self) -> None:
        """A survivor has put or received: notes whether that took long."""
        if not self.steady:
            return
        before, now = self.shared.last_beat(self.role), time.monotonic_ns()
        self.shared.beat(self.role)
        if before and now - before > SECOND and self.shared.phase == WORKING:
            self.ledger.write(Kind.STALLED, began=before)

    # -- producers -----------------------------------------------------------------------------------------------------

    def produce(self) -> None:
        ways = [self.put, self.put, self.put, self.put_many, self.put_loan, self.put_array, self.put_object]
        if self.options.spill:
            ways.append(self.put_spilled)
        while self.shared.phase == WORKING:
            self.chance.choice(ways)()
            self.went_on()
            if self.steady:
                time.sleep(0.001)

    def size(self) -> int:
        most = self.options.slot_size
        return self.chance.randrange(HEAD.size, most + 1) if self.chance.random() < 0.2 else min(most, 128)

    def new_number(self) -> int:
        self.next_number += 1
        return self.next_number

    def intend(self, publish: Callable[[int, int], object], size: int | None = None) -> None:
        number = self.new_number()
        self.ledger.write(Kind.INTENDED, number)
        try:
            publish(number, size or self.size())
        except shmq.Full:
            self.ledger.write(Kind.NOT_PUT, number)
        else:
            self.ledger.write(Kind.PUT, number)

    def put(self) -> None:
        timeout = 0.002 if self.chance.random() < 0.1 else None
        self.intend(lambda number, size: self.q.put(message_of(number, size), timeout=timeout))

    def put_array(self) -> None:
        self.intend(lambda number, size: self.q.put(np.frombuffer(message_of(number, size), "u1")))

    def put_object(self) -> None:
        self.intend(lambda number, size: self.q.put({"message": message_of(number, size)}), min(self.options.slot_size - 64, 160))

    def put_spilled(self) -> None:
        self.intend(
            lambda number, size: self.q.put(message_of(number, size)), self.options.slot_size * self.chance.randrange(2, 5)
        )

    def put_loan(self) -> None:
        size = self.size()
        as_array = self.chance.random() < 0.5
        try:
            loan = self.q.loan(size, "u1") if as_array else self.q.loan(size)
        except shmq.InFlightLimit:
            time.sleep(0.0002)
            return
        number = self.new_number()
        self.ledger.write(Kind.INTENDED, number)
        if as_array:
            loan.array[:] = np.frombuffer(message_of(number, size), "u1")
        else:
            loan.view[:] = message_of(number, size)
        if self.chance.random() < 0.1:
            loan.abandon()
            self.ledger.write(Kind.NOT_PUT, number)
        else:
            loan.publish()
            self.ledger.write(Kind.PUT, number)

    def put_many(self) -> None:
        numbers = [self.new_number() for _ in range(self.chance.randrange(2, 9))]
        self.ledger.write_all([self.ledger.record(Kind.INTENDED, number) for number in numbers])
        timeout = 0.002 if self.chance.random() < 0.1 else None
        try:
            put = self.q.put_many([message_of(number, self.size()) for number in numbers], timeout=timeout)
        except shmq.Full:
            put = 0
        kinds = [Kind.PUT] * put + [Kind.NOT_PUT] * (len(numbers) - put)
        self.ledger.write_all([self.ledger.record(kind, number) for kind, number in zip(kinds, numbers, strict=True)])

    # -- consumers -----------------------------------------------------------------------------------------------------

    def consume(self) -> None:
        while self.shared.phase != DONE:
            try:
                if self.chance.random() < 0.2:
                    self.take_many()
                else:
                    self.take_one()
            except shmq.Empty:
                continue
            except shmq.InFlightLimit:
                if self.steady:
                    continue  # it has waited for a second: the gap shows
                time.sleep(0.0002)
                continue
            self.went_on()

    def lease_timeout(self) -> float | None:
        """Half of the leases have none, where the storm has any."""
        return self.options.lease_timeout if self.options.lease_timeout and self.chance.random() < 0.5 else None

    def take_one(self) -> None:
        timeout = self.lease_timeout()
        nanoseconds = int((timeout or 0) * 1e9)
        began = time.monotonic_ns()
        lease = self.q.receive(timeout=0.05, lease_timeout=timeout)
        if not nanoseconds and self.chance.random() < 0.02:
            number, id = number_in(lease.data) or 0, lease.id
            self.ledger.write(Kind.RECEIVED if number else Kind.TORN, number, id, began, 0, lease.delivery_count)
            self.ledger.write(Kind.DROPPING, number, id)
            del lease
            self.ledger.write(Kind.DROPPED, number, id)
        else:
            self.handle(lease, began, nanoseconds)

    def take_many(self) -> None:
        timeout = self.lease_timeout()
        nanoseconds = int((timeout or 0) * 1e9)
        began = time.monotonic_ns()
        leases = self.q.receive_many(self.chance.randrange(2, 6), timeout=0.05, lease_timeout=timeout)
        ledger = self.ledger
        ledger.write_all(
            [ledger.record(Kind.PREFETCHED, 0, lease.id, began, nanoseconds, lease.delivery_count) for lease in leases]
        )
        for place, lease in enumerate(leases):
            if self.chance.random() < 0.1:
                for unread in leases[place:]:
                    self.settle(Kind.RELEASING, unread.release, 0, unread.id)
                return
            ledger.write(Kind.BEGINNING, 0, lease.id)
            self.handle(lease, began, nanoseconds)
            leases[place] = lease = None  # type: ignore[call-overload,assignment]

    def handle(self, lease: shmq.Lease, began: int, nanoseconds: int) -> None:
        """Read it, tell, and settle it in some way."""
        ledger, id, dice = self.ledger, lease.id, self.chance.random()
        view = None
        try:
            if dice < 0.5:
                number = number_in(lease.data)
            else:
                view = lease.view
                with contextlib.suppress(struct.error):
                    number = number_in(view)
                if number is None:
                    view.release()
                    view = None
                    number = number_in(lease.data)  # a pickle
                if nanoseconds and time.monotonic_ns() >= began + nanoseconds:
                    number = number_in(lease.data)  # a view of what may be another's says nothing; this raises then
        except shmq.LeaseLost:
            ledger.write(Kind.LOST, 0, id, began, nanoseconds, lease.delivery_count)
            return
        ledger.write(Kind.TORN if number is None else Kind.RECEIVED, number or 0, id, began, nanoseconds, lease.delivery_count)
        number = number or 0
        dice = self.chance.random()
        if nanoseconds and dice < 0.03:
            time.sleep(self.options.lease_timeout * self.chance.choice([0.5, 1.2]))
        elif dice < 0.03 and not self.steady:
            signal.pause()
        elif nanoseconds and dice < 0.2:
            before = time.monotonic_ns()
            ledger.write(Kind.EXTENDING, number, id, 0, nanoseconds)
            try:
                lease.extend()
            except shmq.LeaseLost:
                ledger.write(Kind.LOST, number, id, began, nanoseconds, lease.delivery_count)
                return
            ledger.write(Kind.EXTENDED, number, id, before, nanoseconds)
        dice = self.chance.random()
        if dice < 0.04:
            delay = self.chance.choice([None, 0, 0.005])
            self.settle(Kind.NACKING, lambda: lease.nack(delay), number, id)
        elif dice < 0.08:
            delay = self.chance.choice([0, 0.005])
            self.settle(Kind.RELEASING, lambda: lease.release(delay), number, id)
        elif dice < 0.09 and self.options.max_deliveries:
            self.settle(Kind.REJECTING, lambda: lease.reject("hopeless"), number, id)
        elif dice < 0.15:
            with contextlib.suppress(shmq.LeaseLost):
                self.ack_by_block(lease, number)
                return
            ledger.write(Kind.LOST, number, id)
        else:
            self.settle(Kind.ACKING, lease.ack, number, id)
            if view is not None and dice < 0.2:
                time.sleep(0.0002)  # looks at it although it is acked

    def ack_by_block(self, lease: shmq.Lease, number: int) -> None:
        id = lease.id
        with lease:
            self.ledger.write(Kind.ACKING, number, id)
        self.ledger.write(Kind.ACKED, number, id)

    def settle(self, kind: Kind, call: Callable[[], object], number: int, id: int) -> None:
        self.ledger.write(kind, number, id)
        try:
            call()
        except shmq.LeaseLost:
            self.ledger.write(Kind.LOST, number, id)
        else:
            self.ledger.write(Kind(kind + 1), number, id)


def watch_the_machine(shared: Shared, fd: int) -> None:
    """The control: notes when a process that only sleeps was not run for more than 20 ms."""
    while shared.phase != DONE:
        before = time.monotonic_ns()
        time.sleep(0.005)
        now = time.monotonic_ns()
        if now - before > 25_000_000:
            os.write(fd, struct.pack("<QQ", before + 5_000_000, now))


# -- the storm ---------------------------------------------------------------------------------------------------------


class Storm:
    """A queue, those who use it, and who kills them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.chance = random.Random(options.seed)
        self.folder = Path(tempfile.mkdtemp(prefix="kill-storm."))
        self.shared = Shared()
        self.process = 0
        self.files: dict[tuple[int, bool], int] = {}
        self.q = shmq.Queue.create(
            options.name,
            slots=options.slots,
            slot_size=options.slot_size,
            in_flight=options.in_flight,
            ports=options.ports,
            oversize="spill" if options.spill else "error",
            max_deliveries=options.max_deliveries,
        )
        self.total = Verdict()
        self.killed = 0
        self.delays: list[tuple[int, int]] = []
        self.longest = [0, 0]
        self.strays = 0

    # -- processes -----------------------------------------------------------------------------------------------------

    def start(self, play: Callable[[Player], None], role: int, steady: bool = False) -> tuple[int, int]:
        """Fork one; returns its pid and its number."""
        self.process += 1
        seed, by_name = self.chance.getrandbits(64), self.chance.random() < 0.1
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid, self.process
        status = 3
        try:
            die_with_parent(1, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(0)
            queue = shmq.Queue.attach(self.options.name) if by_name else self.q
            play(Player(self, queue, role, self.process, seed, steady))
            queue.close()
            status = 0
        except BaseException:
            os.write(self.errors, f"process {self.process}, pid {os.getpid()}:\n{traceback.format_exc()}\n".encode())
        finally:
            os._exit(status)

    def victim(self, role: int, due: list[tuple[float, int, int, int]]) -> None:
        pid, process = self.start(Player.consume if role == CONSUMER else Player.produce, role)
        life = self.chance.uniform(0, 0.01) if self.chance.random() < 0.99 else self.chance.uniform(0.01, 0.2)
        heapq.heappush(due, (time.monotonic() + life, pid, process, role))

    def open_files(self) -> None:
        for role in (PRODUCER, CONSUMER):
            for steady in (False, True):
                self.files[role, steady] = self.open_file(f"{role}.{int(steady)}.ledger")
        self.errors = self.open_file("errors")
        self.control = self.open_file("delays")

    def open_file(self, name: str) -> int:
        return os.open(self.folder / name, os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_WRONLY, 0o600)

    def close_files(self) -> None:
        for fd in (*self.files.values(), self.errors, self.control):
            os.close(fd)

    # -- rounds --------------------------------------------------------------------------------------------------------

    def round(self, kills: int) -> None:
        """So many kills, then rest, drain and judgement."""
        self.open_files()
        killed: dict[int, Kill] = {}
        self.shared.phase = WORKING
        for who in (PRODUCER, CONSUMER):
            self.shared.beat(who)
        control = os.fork()
        if control == 0:
            die_with_parent(1, signal.SIGKILL)
            with contextlib.suppress(BaseException):
                watch_the_machine(self.shared, self.control)
            os._exit(0)
        survivors = [self.start(Player.produce, PRODUCER, True)[0], self.start(Player.consume, CONSUMER, True)[0]]
        due: list[tuple[float, int, int, int]] = []
        dying: dict[int, int] = {}
        for _ in range(self.options.producers):
            self.victim(PRODUCER, due)
        for _ in range(self.options.consumers):
            self.victim(CONSUMER, due)
        while due:
            at, pid, process, role = heapq.heappop(due)
            time.sleep(max(at - time.monotonic(), 0))
            self.kill(pid, process, role, killed, dying)
            if len(killed) + len(due) < kills:
                self.victim(role, due)
            self.note_ends(killed, dying, wait=len(dying) > MOST_DYING)
            if len(killed) % self.options.verify_every == 0:
                self.verify("among the living")
            if self.hangs():
                break
        for _, pid, process, role in due:
            self.kill(pid, process, role, killed, dying)
        self.note_ends(killed, dying, wait=True)
        self.killed += len(killed)
        self.shared.phase = DRAINING
        self.drain()
        self.shared.phase = DONE
        for pid in (*survivors, control):
            self.join(pid)
        self.close_files()
        letters = self.take_letters()
        self.check_rest()
        self.judge(killed, letters)

    def kill(self, pid: int, process: int, role: int, killed: dict[int, Kill], dying: dict[int, int]) -> None:
        killed[process] = Kill(time.monotonic_ns(), 1 << 63, role == CONSUMER)
        os.kill(pid, signal.SIGKILL)
        dying[pid] = process

    def note_ends(self, killed: dict[int, Kill], dying: dict[int, int], wait: bool) -> None:
        """Note who is dead; dying takes until the kernel has run the process once more."""
        for pid, process in list(dying.items()):
            ended, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
            if not ended:
                continue
            killed[process].after = time.monotonic_ns()
            del dying[pid]
            if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
                self.violate(f"process {process} ended by itself, with status {status}")

    def hangs(self) -> bool:
        """A survivor has not gone on for so long that it never will. Its own records tell of shorter stalls."""
        hangs = False
        for who, name in ((PRODUCER, "producer"), (CONSUMER, "consumer")):
            age = time.monotonic_ns() - self.shared.last_beat(who)
            self.longest[who] = max(self.longest[who], age)
            if age > HANG * SECOND:
                self.violate(f"the surviving {name} has not gone on for {age * 1e-9:.1f} s: {self.q.stats()}; {self.q.leases()}")
                self.total.stalls += 1
                hangs = True
        return hangs

    def drain(self) -> None:
        """Until the surviving consumer has taken everything."""
        deadline = time.monotonic() + HANG
        while time.monotonic() < deadline:
            stats = self.q.stats()
            if stats.ready == stats.leased == stats.returned == 0 and stats.ports <= 2:
                return
            self.q._reap()
            time.sleep(0.01)
        self.violate(f"the queue is not drained after {HANG} s: {self.q.stats()}; {self.q.leases()}")

    def join(self, pid: int) -> None:
        deadline = time.monotonic() + HANG
        while time.monotonic() < deadline:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                if status:
                    self.violate(f"survivor {pid} ended with status {status}")
                return
            time.sleep(0.005)
        self.violate(f"survivor {pid} does not end")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    # -- judgement -----------------------------------------------------------------------------------------------------

    def verify(self, when: str) -> None:
        try:
            shmq.verify(self.q)
        except shmq.SegmentCorrupt as error:
            self.violate(f"verify, {when}: {error}")

    def check_rest(self) -> None:
        """Nobody is here but us: the queue is as it was made."""
        self.q._reap()
        self.verify("at rest")
        stats = self.q.stats()
        rest = (stats.ports, stats.ready, stats.leased, stats.loaned, stats.held, stats.returned)
        if rest != (1, 0, 0, 0, 0, 0):
            self.violate(f"at rest there is something left: {stats}")
        repaired = list(repair_segment(self.options.name))
        self.strays += len(repaired)
        left = [file for file in self.files_of_the_queue() if f"{self.q.segment.nonce:016x}." in file]
        left = [file for file in left if not file.startswith("sem.") and not file.endswith(".dead")]
        if left:
            self.violate(f"the doctor has left {left[:5]}")

    def files_of_the_queue(self) -> list[str]:
        return [file for file in os.listdir(SHM) if f"{prefix()}{self.options.name}" in file]

    def take_letters(self) -> dict[int, Letter]:
        letters = {}
        for letter in self.q.dead_letters:
            number = number_in(letter.data)
            if number is None:
                self.total.torn += 1
                self.violate(f"a torn dead letter: {letter}")
            else:
                letters[number] = Letter(letter.delivery_count)
        self.q.dead_letters.purge()
        return letters

    def judge(self, killed: dict[int, Kill], letters: dict[int, Letter]) -> None:
        errors = (self.folder / "errors").read_text()
        if errors:
            self.violate(errors)
        delays = np.fromfile(self.folder / "delays", dtype="<u8").reshape(-1, 2).tolist()
        self.delays += delays
        self.total.add(Judge(read(self.folder.glob("*.ledger")), killed, letters, delays).judge())
        if self.options.keep:
            shutil.copytree(self.folder, self.options.keep, dirs_exist_ok=True)
            with open(f"{self.options.keep}/kills", "wb") as file:
                pickle.dump(killed, file)

    def violate(self, text: str) -> None:
        self.total.other += 1
        self.total.violations.append(text)

    def run(self) -> bool:
        """All rounds; True where every promise was kept."""
        begun = time.monotonic()
        descriptors = len(os.listdir("/proc/self/fd"))
        try:
            while self.killed < self.options.kills and not self.total.violations:
                self.round(min(self.options.round, self.options.kills - self.killed))
                if len(os.listdir("/proc/self/fd")) != descriptors:
                    self.violate(f"{len(os.listdir('/proc/self/fd'))} descriptors are open, {descriptors} were")
                if self.options.progress:
                    print(self.report(time.monotonic() - begun), flush=True)
        finally:
            stats = self.q.stats()
            self.q.close()
            shmq.unlink(self.options.name)
            if self.files_of_the_queue():
                self.violate(f"left in {SHM}: {self.files_of_the_queue()}")
            shutil.rmtree(self.folder)
        print(self.report(time.monotonic() - begun))
        print(f"the queue counted {stats.deaths:,} deaths, {stats.expired:,} expired leases, {stats.redeliveries:,} redeliveries")
        for violation in self.total.violations[:20]:
            print(f"VIOLATED: {violation}")
        return self.total.sound

    def report(self, seconds: float) -> str:
        total = self.total
        explained = sum(total.duplicates.values()) - total.duplicates["unexplained"]
        why = ", ".join(f"{name} {count:,}" for name, count in sorted(total.duplicates.items()) if name != "unexplained")
        longest_delay = max((to - at for at, to in self.delays), default=0) * 1e-9
        return "\n".join(
            [
                f"{self.killed:,} kills in {seconds:.1f} s ({self.killed / seconds:.0f}/s), seed {self.options.seed}",
                f"{total.messages:,} messages intended, {total.returned:,} put, {total.interrupted:,} puts interrupted "
                f"({total.interrupted_there:,} of these messages are there)",
                f"{total.deliveries:,} deliveries, {total.acked:,} acked, {total.acked_unsaid:,} acked by one who was "
                f"killed before it could say so, {total.letters:,} dead letters",
                f"{explained:,} duplicates explained ({why}); {total.ack_undone:,} interrupted acks redelivered; "
                f"{total.silent:,} deliveries to one who was killed "
                f"before it could say so, {total.silent_expiries:,} expired so",
                f"lost {total.lost}, unexplained {total.unexplained}, torn {total.torn}, stalls {total.stalls}, "
                f"other {total.other}",
                f"longest silence of the surviving producer {self.longest[PRODUCER] * 1e-9:.2f} s, consumer "
                f"{self.longest[CONSUMER] * 1e-9:.2f} s; of the control {longest_delay:.2f} s; "
                f"{self.strays:,} findings of the doctor",
            ]
        )


# -- recovery ----------------------------------------------------------------------------------------------------------


def hold(q: shmq.Queue, told: int) -> None:
    lease = q.receive(timeout=10)
    os.write(told, b"h")
    signal.pause()
    lease.ack()


def wait_for_it(q: shmq.Queue, told: int) -> None:
    lease = q.receive(timeout=10)
    os.write(told, struct.pack("<QQ", time.monotonic_ns(), lease.delivery_count))
    lease.ack()
    q.close()


def recoveries(options: argparse.Namespace) -> Iterator[float]:
    """Seconds from the SIGKILL of a holder until a peer that waits has the message; each time with new processes."""
    chance = random.Random(options.seed)
    with shmq.Queue.create(options.name, slots=options.slots, slot_size=options.slot_size) as q:
        reader, writer = os.pipe()

        def start(play: Callable[[shmq.Queue, int], None]) -> int:
            pid = os.fork()
            if pid == 0:
                die_with_parent(1, signal.SIGKILL)
                with contextlib.suppress(BaseException):
                    play(q, writer)
                    os._exit(0)
                os._exit(3)
            return pid

        try:
            for _ in range(options.recovery):
                q.put(message_of(1, 64))
                holder = start(hold)
                assert os.read(reader, 16) == b"h"
                peer = start(wait_for_it)
                while q.stats().waiting_consumers == 0:
                    time.sleep(0.0005)
                time.sleep(chance.uniform(0, 0.25))
                began = time.monotonic_ns()
                os.kill(holder, signal.SIGKILL)
                arrived, count = struct.unpack("<QQ", os.read(reader, 16))
                os.waitpid(holder, 0)
                _, status = os.waitpid(peer, 0)
                assert (status, count) == (0, 2), f"status {status}, delivery {count}"
                yield (arrived - began) * 1e-9
            shmq.verify(q)
        finally:
            q.unlink()


def measure_recovery(options: argparse.Namespace) -> bool:
    times = np.array(list(recoveries(options))) * 1e3
    p50, p99 = np.percentile(times, [50, 99])
    print(
        f"{len(times)} holders killed: redelivered to a waiting peer after "
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {times.max():.1f} ms"
    )
    return bool(p99 <= options.within)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=2000)
    parser.add_argument("--producers", type=int, default=2, help="those that are killed; one more is not")
    parser.add_argument("--consumers", type=int, default=2, help="as --producers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--slot-size", type=int, default=256)
    parser.add_argument("--paged", action="store_true", help="slots of 16 KiB")
    parser.add_argument("--in-flight", type=int, default=24)
    parser.add_argument("--ports", type=int, default=16)
    parser.add_argument("--spill", action="store_true", help="some messages are larger than a slot")
    parser.add_argument("--lease-timeout", type=float, default=None, help="seconds, of half of the leases")
    parser.add_argument("--max-deliveries", type=int, default=0, help="then a message becomes a dead letter; 0: never")
    parser.add_argument("--round", type=int, default=2000, help="kills until the queue is drained and the ledger judged")
    parser.add_argument("--verify-every", type=int, default=200, help="kills between two looks at the live segment")
    parser.add_argument("--name", default=f"storm.{os.getpid()}")
    parser.add_argument("--progress", action="store_true", help="report after each round")
    parser.add_argument("--keep", help="a folder for the ledgers and kills of the last round")
    parser.add_argument("--recovery", type=int, default=0, metavar="N", help="kill N holders, and measure the time to redelivery")
    parser.add_argument("--within", type=float, default=150, metavar="MS", help="what 99 of 100 recoveries must take at most")
    options = parser.parse_args()
    if options.paged:
        options.slot_size = max(options.slot_size, 16384)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and what it has made is removed
    gc.collect()
    gc.freeze()
    sound = measure_recovery(options) if options.recovery else Storm(options).run()
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
