"""Interpreter exit: who still reads and writes then, what goes back at once, and which deliveries count.

Daemon threads go on after the exit's handlers have run, until the process ends. Each program here has a handler that runs after
shmq's, says "left", and waits: so the test looks at what was given back while the program's threads still run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import shmq
from shmq import _exit
from support.forked import succeeded
from support.processes import Children, wait_until
from support.programs import LONG

Make = Callable[..., shmq.Queue]

LATE_EXIT = """
import atexit, sys, time
def wait_at_exit():
    print("left", flush=True)
    sys.stdin.readline()
atexit.register(wait_at_exit)
import threading
import numpy as np
import shmq
q = shmq.Queue.attach(sys.argv[1])
begun = threading.Event()
def daemon(target):
    threading.Thread(target=target, daemon=True).start()
"""


class Program:
    """A program that is told to end by `end`, and whose exit waits after shmq has left."""

    def __init__(self, script: str, *arguments: object, late: bool = True) -> None:
        command = [sys.executable, "-c", (LATE_EXIT if late else "") + textwrap.dedent(script), *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def says(self, word: str) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line == word, (line, self.process.stderr.read() if line == "" and self.process.stderr else "")

    def goes_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self, status: int = 0) -> None:
        self.goes_on()
        _, errors = self.process.communicate(timeout=LONG)
        assert self.process.returncode == status, errors


@pytest.fixture
def program() -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def start(script: str, *arguments: object, **how: Any) -> Program:
        started.append(Program(script, *arguments, **how))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


def use_every_slot(q: shmq.Queue, size: int) -> None:
    """Put and get whole messages through whatever slot comes round."""
    for number in range(100):
        message = bytes([number]) * size
        q.put(message)
        assert q.get() == message, "another process writes into it"


# -- who still reads or writes -----------------------------------------------------------------------------------------------


def test_a_loan_that_a_daemon_thread_still_writes_is_nobody_elses(make: Make, program: Callable[..., Program]) -> None:
    q = make(slots=2, slot_size=1 << 16, in_flight=2)
    p = program(
        """
        def camera():
            loan = q.loan((1 << 16,), "u1")
            frame = loan.array
            print("writing", flush=True)
            begun.set()
            while True:
                frame[:] = 0xAA
        daemon(camera)
        begun.wait()
        """,
        q.name,
    )
    p.says("writing")
    p.says("left")
    use_every_slot(q, 60_000)
    assert q.stats().loaned == 1
    p.end()
    q._reap()
    assert (q.stats().loaned, q.stats().ports) == (0, 1)
    shmq.verify(q)


def test_a_large_put_that_a_daemon_thread_has_begun_ends_in_its_own_slot(make: Make, program: Callable[..., Program]) -> None:
    q = make(slots=4, slot_size=32 << 20, in_flight=4)
    p = program(
        """
        payload = np.full(32 << 20, 0xAA, np.uint8)
        def produce():
            print("writing", flush=True)
            while True:
                q.put(payload)
        daemon(produce)
        while q.stats().puts < 8:
            time.sleep(0.001)
        """,
        q.name,
    )
    p.says("writing")
    taken = 0
    for _ in range(8):  # so that it is in the middle of a copy when it leaves
        with q.receive(timeout=LONG) as lease:
            assert lease.array[0] == lease.array[-1] == 0xAA
    p.says("left")
    wait_until(lambda: all(cell[0] != "idle" for cell in q._cells()))  # what it had begun ends, whole
    for lease in q.consume(timeout=0):
        assert lease.array[0] == lease.array[-1] == 0xAA
        taken += 1
    assert taken <= 4
    del lease
    loans = [q.loan(15) for _ in range(4)]
    for number, loan in enumerate(loans):
        loan.view[:] = b"message %d of us" % number
        loan.publish(timeout=0)
    assert q.drain() == [b"message %d of us" % number for number in range(4)]
    p.end()
    q._reap()
    assert q.stats().ports == 1
    shmq.verify(q)


def test_a_message_that_a_daemon_thread_looks_at_stays_as_it_is_until_the_end(
    make: Make, program: Callable[..., Program]
) -> None:
    q = make(slots=2, slot_size=4096, in_flight=3)
    q.put(b"seen" * 100)
    p = program(
        """
        def reader():
            lease = q.receive()
            view = lease.array
            print("reading", flush=True)
            begun.set()
            while bytes(view) == b"seen" * 100:
                time.sleep(0.001)
            print("torn", flush=True)
        daemon(reader)
        begun.wait()
        """,
        q.name,
    )
    p.says("reading")
    p.says("left")
    lease = q.receive(timeout=LONG)
    assert (lease.data, lease.delivery_count) == (b"seen" * 100, 1), "an orderly end does not count"
    lease.ack()
    use_every_slot(q, 4000)
    assert q.stats().held == 1
    p.end()
    q._reap()
    assert (q.stats().ports, q.stats().held) == (1, 0)
    shmq.verify(q)


def test_a_message_that_a_daemon_thread_may_write_comes_back_once_it_cannot(make: Make, program: Callable[..., Program]) -> None:
    q = make(slots=2, slot_size=4096, in_flight=3)
    q.put(b"begun")
    p = program(
        """
        def writer():
            array = q.receive().writable_array
            print("writing", flush=True)
            begun.set()
            while True:
                array[0] = 0xAA
        daemon(writer)
        begun.wait()
        """,
        q.name,
    )
    p.says("writing")
    p.says("left")
    use_every_slot(q, 4000)
    assert q.empty()
    p.end()
    q._reap()
    lease = q.receive(timeout=LONG)
    assert (lease.data, lease.delivery_count) == (b"\xaaegun", 1), "an orderly end does not count"
    lease.ack()
    assert q.stats().ports == 1
    shmq.verify(q)


def test_what_nobody_looks_at_goes_back_at_once_although_threads_sleep(make: Make, program: Callable[..., Program]) -> None:
    q, other = make(slots=4), make(slots=4)
    q.put_many(["work", "more"])
    p = program(
        """
        other = shmq.Queue.attach(sys.argv[2])
        leases = q.receive_many(2)
        leases[0].data
        daemon(other.get)
        while other._waiters()[0] == 0:
            time.sleep(0.001)
        """,
        q.name,
        other.name,
    )
    p.says("left")
    leases = [q.receive(timeout=0), q.receive(timeout=0)]
    assert sorted((lease.data, lease.delivery_count) for lease in leases) == [("more", 1), ("work", 1)]
    for lease in leases:
        lease.ack()
    p.end()
    other._reap()
    assert (other.stats().ports, other.stats().waiting_consumers) == (1, 0)
    other.put("x")
    assert other.get() == "x"
    shmq.verify(other)


def test_a_queue_that_goes_with_its_handles_goes_although_a_thread_sleeps(name: str, program: Callable[..., Program]) -> None:
    p = program(
        """
        h = shmq.Queue(sys.argv[2], lifetime="handles")
        daemon(h.get)
        while h._waiters()[0] == 0:
            time.sleep(0.001)
        """,
        (outside := shmq.Queue()).name,
        name,
    )
    p.says("left")
    assert name not in shmq.list_segments()
    p.end()
    outside.close()


def test_a_lease_is_lost_to_the_thread_that_goes_on_with_it_after_the_exit(make: Make, program: Callable[..., Program]) -> None:
    q = make(slots=4)
    q.put("work")
    p = program(
        """
        lease = q.receive()
        def late():
            while not q.closed:
                time.sleep(0.001)
            time.sleep(0.01)
            for how in (lease.ack, lease.nack, lease.release, lease.reject, lambda: lease.data, lambda: lease.view):
                try:
                    how()
                except shmq.LeaseLost:
                    print("lost", flush=True)
        daemon(late)
        """,
        q.name,
    )
    p.says("left")
    for _ in range(6):
        p.says("lost")
    assert [lease.data for lease in q.receive_many(4, timeout=0)] == ["work"]
    p.end()


# -- which ends count --------------------------------------------------------------------------------------------------------

ENDS = {
    "the last line": ("pass", 0, 1),
    "sys.exit()": ("sys.exit()", 0, 1),
    "sys.exit with a status": ("sys.exit(3)", 3, 1),
    "an exception that was handled": ("try: 1 / 0\nexcept ZeroDivisionError: pass", 0, 1),
    "an exception in a thread": ("t = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()", 0, 1),
    "an exception that a toolkit reported": (
        "def loop():\n    try: 1 / 0\n    except ZeroDivisionError as e: sys.last_exc = sys.last_value = e\nloop()",
        0,
        1,
    ),
    "an exception": ("1 / 0", 1, 2),
    "an exception in a function": ("def f(): return 1 / 0\nf()", 1, 2),
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)", -signal.SIGINT, 2),
    "a hook that shows exceptions elsewhere": ("sys.excepthook = lambda *error: None\n1 / 0", 1, 2),
    "os._exit": ("os._exit(0)", 0, 2),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)", -signal.SIGTERM, 2),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, 2),
}
HOLD = """import os, signal, sys, threading, time, shmq
q = shmq.Queue.attach(sys.argv[1])
leases = q.receive_many(2, timeout=0)
leases[0].data
"""


@pytest.mark.parametrize("how", ENDS)
def test_an_orderly_end_does_not_count_and_a_crash_does(make: Make, program: Callable[..., Program], how: str) -> None:
    script, status, count = ENDS[how]
    q = make(slots=4)
    q.put_many(["begun", "prefetched"])
    p = program(HOLD + script, q.name, late=False)
    _, errors = p.process.communicate(timeout=LONG)
    assert p.process.returncode == status, errors
    q._reap()
    leases = q.receive_many(2, timeout=0)
    assert {lease.data: lease.delivery_count for lease in leases} == {"begun": count, "prefetched": 1}
    for lease in leases:
        lease.ack()


def test_a_poison_message_under_a_supervisor_becomes_a_dead_letter(make: Make, program: Callable[..., Program]) -> None:
    q = make(slots=4, max_deliveries=3)
    q.put("poison")
    for _ in range(3):
        p = program(HOLD + "raise ValueError(leases[0].data)", q.name, late=False)
        assert "poison" in p.process.communicate(timeout=LONG)[1]
    with pytest.raises(shmq.Empty):
        q.get(timeout=0)
    assert [letter.data for letter in q.dead_letters] == ["poison"]
    q.dead_letters.purge()


def hold_and_fail(queue: shmq.Queue, error: BaseException | None) -> None:
    lease = queue.receive()
    lease.data  # noqa: B018
    sys._kept = lease  # type: ignore[attr-defined]
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if error is not None:
        raise error


def start_child(children: Children, queue: shmq.Queue, error: BaseException | None) -> Any:
    return children.start(hold_and_fail, queue, error)


def start_child_in_an_except_block(children: Children, queue: shmq.Queue, error: BaseException | None) -> Any:
    try:
        raise LookupError("a forked child inherits this, and does not end by it")
    except LookupError:
        return start_child(children, queue, error)


@pytest.mark.parametrize(
    ("error", "count"), [(None, 1), (SystemExit(0), 1), (SystemExit(2), 1), (ValueError(), 2), (KeyboardInterrupt(), 2)], ids=repr
)
@pytest.mark.parametrize("begin", [start_child, start_child_in_an_except_block])
def test_a_child_of_multiprocessing_that_fails_counts_too(
    make: Make, any_children: Children, begin: Callable[..., Any], error: BaseException | None, count: int
) -> None:
    q = make(slots=4)
    q.put("work")
    child = begin(any_children, q, error)
    child.join(LONG)
    any_children.started.clear()
    lease = q.receive(timeout=0)
    assert (lease.data, lease.delivery_count) == ("work", count)
    lease.ack()


FIRST_QUEUE_IN_THE_CHILD = """
import multiprocessing, sys

def work(name, fails):
    import shmq
    queue = shmq.Queue.attach(name)
    lease = queue.receive()
    sys.kept = lease, queue, lease.data
    if fails:
        raise ValueError

try:
    raise LookupError
except LookupError:
    child = multiprocessing.get_context("fork").Process(target=work, args=(sys.argv[1], "fails" in sys.argv))
    child.start()
    child.join()
"""


# From CPython 3.13 on the exception is forgotten when such a child leaves.
@pytest.mark.parametrize(("how", "count"), [("ends", 1), ("fails", 2 if sys.version_info < (3, 13) else 1)])
def test_a_child_that_opens_its_first_queue_counts_if_its_own_exception_ends_it(
    make: Make, program: Callable[..., Program], how: str, count: int
) -> None:
    q = make(slots=4)
    q.put("work")
    p = program(FIRST_QUEUE_IN_THE_CHILD, q.name, how, late=False)
    p.process.communicate(timeout=LONG)
    q._reap()
    lease = q.receive(timeout=0)
    assert (lease.data, lease.delivery_count) == ("work", count)
    lease.ack()


def test_a_child_that_inherited_handles_and_leases_ends_without_touching_them(make: Make) -> None:
    q = make(slots=4)
    q.put("work")
    lease = q.receive()
    assert succeeded(_exit.close_all)
    assert lease.data == "work"
    lease.ack()
    wait_until(lambda: q.stats().ports == 1)
    shmq.verify(q)
