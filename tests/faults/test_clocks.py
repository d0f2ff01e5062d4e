"""Clocks that step, pids that are used again, namespaces in which they mean something else: none of them has a say.

The wall clock is stepped by a library that is loaded before the others and shifts CLOCK_REALTIME for one process, in every
call by which it can be read or waited on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shmq
from shmq import _core
from support.forked import succeeded
from support.processes import Children, reap_all, wait_until
from support.programs import LONG, PROMPT, require, run_program
from support.shared_memory import files_of
from support.words import Words

Make = Callable[..., shmq.Queue]

SHIFT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <stdlib.h>

/* Seconds by which the wall clock is wrong: a file that the test writes, so that it can step in the middle of a call. */
static long *shift(void) {
    static long *mapped;
    if (!mapped) mapped = mmap(NULL, sizeof *mapped, PROT_READ, MAP_SHARED, open(getenv("SHIFT_FILE"), O_RDONLY), 0);
    return mapped;
}
#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int result = real(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *shift();
    return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(gettimeofday);
    int result = real(now, zone);
    now->tv_sec += *shift();
    return result;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
/* The kernel measures these on its own clock: a deadline taken from ours is as far off. */
int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    REAL(sem_timedwait);
    struct timespec true_until = {until->tv_sec - *shift(), until->tv_nsec};
    return real(semaphore, &true_until);
}
"""


class Clock:
    """The wall clock of programs that are started with `environment`."""

    def __init__(self, folder: Path) -> None:
        source, library = folder / "shift.c", folder / "shift.so"
        source.write_text(SHIFT)
        command = ["cc", "-O1", "-Wall", "-shared", "-fPIC", source, "-o", library, "-ldl"]
        built = subprocess.run(command, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
        self.file = folder / "shift"
        self.step(0)
        self.environment = {**os.environ, "LD_PRELOAD": str(library), "SHIFT_FILE": str(self.file)}

    def step(self, seconds: int) -> None:
        """In place: programs have it mapped."""
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            file.write(seconds.to_bytes(8, "little", signed=True))


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


YEARS = [pytest.param(sign * 10 * 365 * 86400, marks=pytest.mark.stress) for sign in (1, -1)]
HOURS = [3600, -3600, *YEARS]


@pytest.mark.parametrize("seconds", HOURS)
def test_a_step_of_the_wall_clock_neither_ends_a_lease_nor_a_wait_nor_a_life(make: Make, clock: Clock, seconds: int) -> None:
    """The program steps its own clock in the middle of a lease, of a rest and of a wait."""
    queue = make(slots=8, slot_size=64)
    clock.step(0)
    run_program(
        f"""
        import os, sys, threading, time
        import shmq

        def step():
            with open({str(clock.file)!r}, "r+b") as file:
                file.write(({seconds}).to_bytes(8, "little", signed=True))

        before = time.time()
        queue, other = shmq.Queue.attach(sys.argv[1]), shmq.Queue.attach(sys.argv[1])
        queue.put_many(["leased", "rests", "expires"])
        leased = queue.receive(timeout=1, lease_timeout=30.0)
        rests = queue.receive(timeout=1)
        before_all = time.monotonic()
        rests.nack(delay=1.2)
        expires = queue.receive(timeout=1, lease_timeout=1.0)  # long after the wait that follows, on a busy machine, too
        began = time.monotonic()
        threading.Timer(0.1, step).start()
        try:
            other.get(timeout=0.2)
            raise AssertionError("got what is leased, or rests")
        except shmq.Empty:
            pass
        assert 0.2 <= time.monotonic() - began < 5, time.monotonic() - began
        assert abs(time.time() - before - ({seconds})) < 60, "the clock was not stepped"
        assert other._expire() == 0 or time.monotonic() - before_all >= 1.0
        taken = [(lease.data, lease.delivery_count) for lease in (other.receive(timeout=5), other.receive(timeout=5))]
        assert 1.2 <= time.monotonic() - before_all < 10
        assert sorted(taken) == [("expires", 2), ("rests", 2)], taken
        assert 0 <= leased.age < 30
        leased.ack()
        assert queue._reap() == 0 and other._reap() == 0
        """,
        queue.name,
        env=clock.environment,
    )
    clock.step(0)
    shmq.verify(queue)
    assert queue.stats().deaths == 0


@pytest.mark.parametrize("seconds", HOURS)
def test_processes_whose_wall_clocks_differ_agree_on_who_lives_and_what_is_over(make: Make, clock: Clock, seconds: int) -> None:
    queue = make(slots=8, slot_size=64)
    clock.step(seconds)
    script = """
import shmq, sys
queue = shmq.Queue.attach(sys.argv[1])
queue._reap(), queue._expire()
kept = [queue.receive(timeout=5, lease_timeout=60.0), queue.receive(timeout=5)]
print(*[lease.data for lease in kept], flush=True)
sys.stdin.readline()
"""
    queue.put_many(["ours", "theirs", "theirs too"])
    ours = queue.receive(timeout=0, lease_timeout=60.0)
    holder = subprocess.Popen(
        [sys.executable, "-c", script, queue.name],
        env=clock.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "theirs theirs too\n"
        assert queue._expire() == 0 and queue._reap() == 0
        with pytest.raises(shmq.Empty):
            queue.get(timeout=0.2)
        assert [0 <= holding.held_for < 30 for holding in queue.leases()] == [True] * 3
        holder.kill()
        holder.wait()
        leases = [queue.receive(timeout=PROMPT) for _ in range(2)]
        assert [lease.delivery_count for lease in leases] == [2, 2]
    finally:
        holder.kill()
        holder.communicate()
    ours.ack()
    clock.step(0)


def test_a_program_under_faketime_agrees(make: Make) -> None:
    """The same with a tool that others wrote."""
    tool = require("faketime", "-f", "+1h")
    queue = make(slots=4)
    queue.put("x")
    run_program(
        """
        import shmq, sys, time
        queue = shmq.Queue.attach(sys.argv[1])
        lease = queue.receive(timeout=1, lease_timeout=20.0)
        assert queue._expire() == 0
        began = time.monotonic()
        try:
            queue.get(timeout=0.2)
            raise AssertionError
        except shmq.Empty:
            assert 0.2 <= time.monotonic() - began < 5
        lease.ack()
        """,
        queue.name,
        before=tool,
        env={**os.environ, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"},
    )
    assert queue.stats().acks == 1


# -- pids ------------------------------------------------------------------------------------------------------------------


def hold(name: str, connection: Any) -> None:
    queue = shmq.Queue.attach(name)
    lease = queue.receive(timeout=LONG)
    connection.send(lease.data)
    connection.recv()
    lease.ack()
    queue.close()


def start_holder(queue: shmq.Queue, children: Children) -> tuple[Any, Any]:
    ours, theirs = children.context.Pipe()
    child = children.start(hold, queue.name, theirs)
    assert ours.poll(LONG) and ours.recv() == "held"
    return child, ours


def port_of(queue: shmq.Queue, pid: int) -> int:
    (index,) = [index for index, _, there, _, _ in queue._ports() if there == pid]
    return index


def dead_pid() -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


@pytest.mark.parametrize("reused_by", ["init", "this process", "a child"])
def test_a_dead_process_whose_pid_is_another_ones_is_taken_back(make: Make, children: Children, reused_by: str) -> None:
    queue = make(slots=4)
    queue.put("held")
    child, _ = start_holder(queue, children)
    pid = {"init": 1, "this process": os.getpid()}.get(reused_by)
    if pid is None:
        pid = children.start(time.sleep, LONG).pid
    words = Words(queue)
    words[words.port(port_of(queue, child.pid)) + 8] = pid
    child.kill()
    child.join()
    lease = queue.receive(timeout=PROMPT)
    assert (lease.data, lease.delivery_count) == ("held", 2)
    lease.ack()
    assert queue.stats().deaths == 1
    children.kill()


def test_a_living_process_whose_pid_reads_as_a_dead_ones_is_left_alone(make: Make, children: Children) -> None:
    queue = make(slots=4)
    queue.put("held")
    child, connection = start_holder(queue, children)
    words = Words(queue)
    words[words.port(port_of(queue, child.pid)) + 8] = dead_pid()
    assert queue._reap() == 0
    with pytest.raises(shmq.Empty):
        queue.get(timeout=0.3)
    connection.send("go on")
    children.join()
    assert (queue.stats().acks, queue.stats().deaths) == (1, 0)


def test_one_who_has_the_pid_of_the_creator_is_not_the_creator(name: str) -> None:
    """As in another pid namespace, where each first program has pid 1: its close must not remove the queue."""
    with shmq.Queue.create(name, slots=2, lifetime="creator") as queue:
        queue.put("x")
        words = Words(queue)

        def come_and_go() -> None:
            words[64] = os.getpid()
            shmq.Queue.attach(name).close()
            shmq.Queue.attach(name).close()

        assert succeeded(come_and_go)
        assert len(files_of(name)) == 4, "removed by one who is not the creator"
        words[64] = 1
    assert files_of(name) == [], "not removed by the creator, whatever pid is written there"


# -- other namespaces ----------------------------------------------------------------------------------------------------------

FAR = """
import os, shmq, sys
queue = shmq.Queue.attach(sys.argv[1])
lease = queue.receive(timeout=5)
print(os.getpid(), lease.data, flush=True)
for line in sys.stdin:
    if line == "ack\\n":
        lease.ack()
        print("acked", flush=True)
    elif line == "take\\n":
        again = queue.receive(timeout=5)
        print(again.data, again.delivery_count, flush=True)
        again.ack()
    elif line == "close\\n":
        for number in range(3, 1000):
            try:
                os.close(number)
            except OSError:
                pass
        print("closed", flush=True)
    elif line == "reap\\n":
        print(queue._reap(), flush=True)
"""


@pytest.fixture
def far(make: Make) -> Any:
    """Start a program in a pid namespace of its own, where it is pid 1, with the same /dev/shm; it holds a message."""
    namespace = require("unshare", "--pid", "--fork", "--kill-child")
    started: list[subprocess.Popen[str]] = []

    def start(queue: shmq.Queue) -> tuple[subprocess.Popen[str], Callable[[str], str]]:
        process = subprocess.Popen(
            [*namespace, sys.executable, "-c", FAR, queue.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None and process.stdin is not None
        pid, _, data = process.stdout.readline().strip().partition(" ")
        assert (pid, data) == ("1", "held")

        def tell(words: str) -> str:
            assert process.stdout is not None and process.stdin is not None
            process.stdin.write(words + "\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        return process, tell

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_processes_of_two_pid_namespaces_do_not_take_each_other_for_dead(make: Make, children: Children, far: Any) -> None:
    queue = make(slots=4)
    queue.put("held")
    _, tell = far(queue)
    queue.put("held")
    _, connection = start_holder(queue, children)
    assert queue._reap() == 0
    assert tell("reap") == "0"
    with pytest.raises(shmq.Empty):
        queue.get(timeout=0.3)
    assert tell("ack") == "acked"
    connection.send("go on")
    children.join()
    assert (queue.stats().acks, queue.stats().deaths) == (2, 0)


def test_one_in_another_pid_namespace_is_named_as_such_and_not_as_gone(make: Make, far: Any) -> None:
    queue = make(slots=4, in_flight=1)
    queue.put("held")
    process, _ = far(queue)
    (held,) = queue.leases()
    assert held.process == "pid 1 (in another namespace or container)"
    with pytest.raises(shmq.InFlightLimit, match="1 leased by pid 1 \\(in another namespace or container\\)"):
        queue.loan(1)
    process.kill()
    process.wait()
    wait_until(lambda: [holding.process for holding in queue.leases()] == ["pid 1 (gone)"])


def test_one_in_another_pid_namespace_that_closes_all_its_descriptors_lives(make: Make, far: Any) -> None:
    queue = make(slots=4)
    queue.put("held")
    _, tell = far(queue)
    assert tell("close") == "closed"
    assert queue._reap() == 0
    assert tell("ack") == "acked"
    assert (queue.stats().acks, queue.stats().deaths) == (1, 0)


def test_what_is_killed_in_another_pid_namespace_is_taken_back_here(make: Make, far: Any) -> None:
    queue = make(slots=4)
    queue.put("held")
    process, _ = far(queue)
    process.kill()  # --kill-child: its child dies with it
    process.wait()
    lease = queue.receive(timeout=PROMPT)
    assert (lease.data, lease.delivery_count) == ("held", 2)


def test_what_is_killed_here_is_taken_back_in_another_pid_namespace(make: Make, children: Children, far: Any) -> None:
    queue = make(slots=4)
    queue.put("held")
    _, tell = far(queue)
    queue.put("held")
    child, _ = start_holder(queue, children)
    child.kill()
    child.join()
    assert tell("take") == "held 2"
    assert tell("ack") == "acked"
    reap_all(queue)
    assert queue.stats().acks == 2


def test_one_in_another_time_namespace_agrees_on_who_lives(make: Make) -> None:
    """Boot time differs there, and so do start times of processes; the monotonic clock is shifted on purpose."""
    namespace = require("unshare", "--time", "--fork", "--boottime", "100000")
    queue = make(slots=4)
    queue.put_many(["ours", "theirs"])
    lease = queue.receive(timeout=0)
    out = run_program(
        """
        import shmq, sys
        queue = shmq.Queue.attach(sys.argv[1])
        print(queue._reap(), queue.get(timeout=5))
        """,
        queue.name,
        before=namespace,
    )
    assert out == "0 theirs\n"
    lease.ack()
    assert queue.stats().deaths == 0


def test_an_identity_is_never_used_again() -> None:
    seen = {_core.identity()}
    for _ in range(50):
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, str(_core.identity()).encode())
            os._exit(0)
        os.close(write)
        os.wait()
        identity = int(os.read(read, 100))
        os.close(read)
        assert identity not in seen and not _core.alive(identity)
        seen.add(identity)


def test_a_suspended_machine_is_a_clock_that_jumps_for_everybody(make: Make) -> None:
    """CLOCK_MONOTONIC stands still in a suspension: a lease goes on where it was. Here: everybody was stopped at once."""
    queue = make(slots=4, slot_size=64)
    queue.put("x")
    script = """
import shmq, sys, time
queue = shmq.Queue.attach(sys.argv[1])
lease = queue.receive(timeout=5, lease_timeout=60.0)
print("held", flush=True)
time.sleep(0.5)
lease.ack()
"""
    holder = subprocess.Popen([sys.executable, "-c", script, queue.name], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGSTOP)
    time.sleep(0.2)
    holder.send_signal(signal.SIGCONT)
    assert holder.wait(LONG) == 0
    holder.stdout.close()
    wait_until(queue.empty)
    assert (queue.stats().acks, queue.stats().expired) == (1, 0)
