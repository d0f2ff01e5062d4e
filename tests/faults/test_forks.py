"""fork, exec and exit at bad moments: whoever was forked is somebody else, and whoever has gone has let go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import shmq
from shmq import _core
from support.forked import ended_well, forked
from support.processes import descriptors, reap_all, wait_until
from support.programs import LONG, PROMPT, run_program

Make = Callable[..., shmq.Queue]


class Waiting:
    """A thread that waits in get of the handle of this process."""

    def __init__(self, queue: shmq.Queue) -> None:
        self.got: list[Any] = []
        self.thread = threading.Thread(target=lambda: self.got.append(queue.get(timeout=LONG)), daemon=True)
        self.thread.start()
        wait_until(lambda: queue.stats().waiting_consumers >= 1)

    def result(self) -> Any:
        self.thread.join(LONG)
        assert not self.thread.is_alive()
        return self.got[0]


@pytest.mark.parametrize("overflow", ["block", "grow"])
@pytest.mark.parametrize("many", [False, True], ids=["put", "put_many"])
def test_a_child_forked_by_a_handler_leaves_large_messages_to_its_parent(make: Make, overflow: str, many: bool) -> None:
    queue = make(slots=3, slot_size=64, overflow=overflow)
    consumer = shmq.Queue.attach(queue.name)
    queue.put_many([b"0", b"1", b"2"])
    large = [bytes([number]) * 1000 for number in range(3)]
    statuses: list[int] = []
    parent = os.getpid()

    def fork(*_: object) -> None:
        child = os.fork()
        if child:
            statuses.append(os.waitpid(child, 0)[1])

    if overflow == "grow":  # where it would not wait: somebody is at the backlog
        assert _core.try_lock(queue.segment.nonce ^ 0x6C6F67)

    def strike_then_make_room() -> None:
        if overflow == "block":
            wait_until(lambda: consumer.stats().waiting_producers)
        else:
            time.sleep(0.1)  # nobody sees who waits for the backlog
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
        if overflow == "block":
            wait_until(lambda: statuses)
        else:
            time.sleep(0.2)  # who waits for the backlog comes to its signals afterwards
        _core.unlock(queue.segment.nonce ^ 0x6C6F67)
        for _ in range(3):
            consumer.get()

    before = signal.signal(signal.SIGALRM, fork)
    other = threading.Thread(target=strike_then_make_room)
    try:
        other.start()
        try:
            queue.put_many(large) if many else queue.put(large[0])
        except shmq.ShmqError as error:
            if os.getpid() == parent:
                raise
            os._exit(0 if "parent's" in str(error) else 1)
        if os.getpid() != parent:
            os._exit(1)
    finally:
        signal.signal(signal.SIGALRM, before)
    other.join(LONG)
    assert statuses == [0]
    got = []
    while len(got) < (3 if many else 1):
        got.append(consumer.get(timeout=LONG))
    assert got == large[: 3 if many else 1] and consumer.empty()
    consumer.close()


# -- fork ----------------------------------------------------------------------------------------------------------------


def use_everything(queue: shmq.Queue) -> None:
    queue.put("from the child", timeout=PROMPT)
    lease = queue.receive(timeout=PROMPT)
    assert lease.data == "from the child"
    lease.nack(delay=0)
    assert queue.get(timeout=PROMPT) == "from the child"
    with queue.loan(4) as view:
        view[:] = b"loan"
    assert queue.get(timeout=PROMPT) == b"loan"
    with pytest.raises(shmq.Empty):
        queue.get(timeout=0.01)


ENDS: dict[str, Callable[[shmq.Queue], None]] = {
    "ignores it": lambda queue: None,
    "uses it": use_everything,
    "uses and closes it": lambda queue: (use_everything(queue), queue.close())[1],
    "closes it": lambda queue: queue.close(),
    "drops it": lambda queue: queue.__del__(),
    "is killed": lambda queue: os.kill(os.getpid(), signal.SIGKILL),
    "uses it and is killed": lambda queue: (use_everything(queue), os.kill(os.getpid(), signal.SIGKILL))[1],
    "runs what runs at exit": lambda queue: __import__("atexit")._run_exitfuncs(),
}


@pytest.mark.parametrize("slot_size", [64, pytest.param(4096, marks=pytest.mark.stress)])
@pytest.mark.parametrize("end", ENDS)
def test_what_a_forked_child_does_leaves_the_parent_its_leases_loans_and_waits(make: Make, end: str, slot_size: int) -> None:
    queue = make(slots=8, slot_size=slot_size)
    queue.put_many(["for life", "for a time"])
    lease, timed = queue.receive(timeout=0), queue.receive(timeout=0, lease_timeout=60.0)
    loan = queue.loan(4)
    other = make(slots=2)
    waiting = Waiting(other)
    child = forked(lambda: ENDS[end](queue))
    _, status = os.waitpid(child, 0)
    assert status == (signal.SIGKILL if "killed" in end else 0)
    reap_all(queue)
    assert queue.stats().ports == 1
    with pytest.raises(shmq.Empty):
        queue.get(timeout=0.05)
    assert (lease.data, timed.data) == ("for life", "for a time")
    lease.ack()
    timed.extend()
    timed.ack()
    loan.view[:] = b"loan"
    loan.publish(timeout=0)
    assert queue.get(timeout=0) == b"loan"
    assert queue.empty()
    shmq.verify(queue)
    other.put("woken")
    assert waiting.result() == "woken"


def test_forks_in_the_middle_of_calls_of_other_threads_disturb_neither_side(make: Make) -> None:
    """Locks of the library and of the C library may be held by a thread that does not exist in the child."""
    queue, own = make(slots=4, slot_size=64), make(slots=64, slot_size=64)
    stop = False
    moved = [0, 0]

    def move(index: int) -> None:
        handle = shmq.Queue.attach(queue.name)
        while not stop:
            try:
                handle.put(index, timeout=0.001)
                handle.get(timeout=0.001)
                moved[index] += 1
                if moved[index] % 50 == 0:  # these take locks between processes
                    handle._reap()
                    shmq.Queue.attach(queue.name).close()
            except (shmq.Empty, shmq.Full):
                pass
        handle.close()

    threads = [threading.Thread(target=move, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(60):
            child = forked(lambda number=number: (own.put(number, timeout=PROMPT), use_after_fork(queue)))  # type: ignore[misc]
            assert ended_well(child)
            assert own.get(timeout=PROMPT) == number
    finally:
        stop = True
        for thread in threads:
            thread.join(LONG)
    assert min(moved) > 0
    reap_all(queue)
    queue.purge()
    shmq.verify(queue)


def use_after_fork(queue: shmq.Queue) -> None:
    shmq.Queue.attach(queue.name).close()
    try:
        queue.put("x", timeout=0.001)
        queue.get(timeout=0.001)
    except (shmq.Empty, shmq.Full):
        pass


def test_a_killed_parent_is_dead_although_its_child_lives(make: Make) -> None:
    """The child inherits every descriptor, the lock file's among them, and none of the locks on it."""
    queue = make(slots=4)
    queue.put("held")
    read, write = os.pipe()

    def parent() -> None:
        own = shmq.Queue.attach(queue.name)
        lease = own.receive(timeout=PROMPT)
        if os.fork() == 0:
            os.write(write, f"{os.getpid()} {own.name}\n".encode())
            time.sleep(LONG)
            os._exit(0)
        time.sleep(LONG)
        lease.ack()

    pid = forked(parent)
    os.close(write)
    grandchild = int(os.read(read, 100).split()[0])
    try:
        assert os.path.exists(f"/proc/{grandchild}")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        lease = queue.receive(timeout=PROMPT)
        assert (lease.data, lease.delivery_count) == ("held", 2)
        assert os.path.exists(f"/proc/{grandchild}"), "the child was to live"
        lease.ack()
    finally:
        os.kill(grandchild, signal.SIGKILL)
        os.close(read)


def close_descriptors() -> None:
    os.closerange(3, 256)


def test_a_childs_exit_does_not_let_go_of_the_parents_life(make: Make) -> None:
    """Closing any descriptor of the lock file would drop its locks, if they were inherited: a hundred children try."""
    queue = make(slots=4)
    queue.put("held")
    lease = queue.receive(timeout=0)
    for number in range(100):
        assert ended_well(forked(_core.identity if number % 2 else close_descriptors))
    judge = """
        import shmq, sys
        queue = shmq.Queue.attach(sys.argv[1])
        print(queue._reap(), [alive for _, _, _, alive, _ in queue._ports()])
    """
    assert run_program(judge, queue.name) == "0 [True, True]\n"
    lease.ack()


def test_a_fork_bomb_of_generations_leaves_nobody(make: Make) -> None:
    queue = make(slots=4, slot_size=64, ports=20)

    def generation(depth: int) -> None:
        queue.put(depth, timeout=PROMPT)
        assert queue.get(timeout=PROMPT) in range(4)
        if depth:
            children = [forked(lambda: generation(depth - 1)) for _ in range(2)]
            assert all(list(map(ended_well, children)))

    generation(3)
    reap_all(queue)
    assert queue.stats().ports == 1
    shmq.verify(queue)


# -- exec ----------------------------------------------------------------------------------------------------------------------


def test_a_program_that_is_executed_inherits_no_descriptor_of_ours(make: Make) -> None:
    """By fork and exec without closing anything, as os.posix_spawn and C programs do."""
    queue = make(slots=4, oversize="spill", slot_size=64)
    queue.put(bytes(5000))
    lease = queue.receive(timeout=0)
    lease.view  # noqa: B018
    assert any("/dev/shm/" in path for path in descriptors().values()), "there is nothing to inherit"
    read, write = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, write, 1)]
    child = os.posix_spawn("/bin/ls", ["ls", "-l", "/proc/self/fd"], dict(os.environ), file_actions=actions)
    assert ended_well(child)
    os.close(write)
    listing = os.read(read, 100_000).decode()
    os.close(read)
    assert "->" in listing and "/dev/shm" not in listing, listing
    lease.ack()


def test_a_program_that_executes_another_has_let_go(make: Make) -> None:
    """The kernel closes the lock file at exec: the process lives on under its pid, and what it held comes back."""
    queue = make(slots=4)
    queue.put("held")
    read, write = os.pipe()

    def executes() -> None:
        own = shmq.Queue.attach(queue.name)
        held = [own.receive(timeout=PROMPT)]
        os.write(write, b"held")
        os.execv("/bin/sleep", ["sleep", str(LONG + len(held))])

    pid = forked(executes)
    try:
        assert os.read(read, 10) == b"held"
        lease = queue.receive(timeout=PROMPT)
        assert (lease.data, lease.delivery_count) == ("held", 2)
        assert os.path.exists(f"/proc/{pid}")
        lease.ack()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)


def test_a_lock_between_processes_does_not_outlive_an_exec(name: str) -> None:
    read, write = os.pipe()

    def executes() -> None:
        assert _core.try_lock(4711)
        os.write(write, b"locked")
        os.execv("/bin/sleep", ["sleep", str(LONG)])

    pid = forked(executes)
    try:
        assert os.read(read, 10) == b"locked"
        wait_until(lambda: _core.try_lock(4711))
        _core.unlock(4711)
        assert os.path.exists(f"/proc/{pid}")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)


# -- exit ----------------------------------------------------------------------------------------------------------------------

EXITS = {
    "falls off its end": "",
    "sys.exit": "sys.exit(0)",
    "an exception": "raise SystemExit",
    "a daemon thread in get": "start(empty.get); wait(empty, 'waiting_consumers')",
    "a daemon thread in receive": "start(empty.receive); wait(empty, 'waiting_consumers')",
    "a daemon thread in put": "start(full.put, 1); wait(full, 'waiting_producers')",
    "daemon threads that put and get": "start(busy); start(busy); start(busy); time.sleep(0.1)",
    "an open loop": "leases = iter(queue.consume(prefetch=1)); next(leases)",
    "a renewal thread": "extra.append(queue.receive(lease_timeout=0.3, extend=True, timeout=1))",
    "a global cycle": "cycle = [queue, extra]; cycle.append(cycle); extra.append(cycle)",
}


@pytest.fixture
def watched() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", EXITS)
def test_a_program_that_ends_gives_back_at_once_what_it_held(make: Make, watched: list[subprocess.Popen[str]], how: str) -> None:
    queue, empty, full = make(slots=8, slot_size=64), make(slots=2), make(slots=1, slot_size=64)
    full.put(0)
    queue.put_many(["for life", "for a time", "taken by the loop"])
    script = f"""
import shmq, sys, threading, time
queue, empty, full = (shmq.Queue.attach(name) for name in sys.argv[1:])
def start(target, *arguments):
    threading.Thread(target=target, args=arguments, daemon=True).start()
def wait(queue, what):
    while not getattr(queue.stats(), what): time.sleep(0.001)
def busy():
    while True:
        try:
            full.get(timeout=0.001); full.put(1, timeout=0.001)
        except (shmq.Full, shmq.Empty): pass
extra = []
held = [queue.receive(timeout=1), queue.receive(timeout=1, lease_timeout=3600.0), queue.loan(4)]
view = held[0].view
{EXITS[how]}
"""
    command = [sys.executable, "-c", script, queue.name, empty.name, full.name]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    watched.append(process)
    _, words = process.communicate(timeout=LONG)
    assert process.returncode == 0, words
    assert words == "", words
    stats = queue.stats()  # nobody has reaped in between: it was given back, not taken
    assert (stats.leased, stats.held, stats.deaths) == (0, 0, 0), stats
    # What the frames of daemon threads could reach is never forgotten by the interpreter: they might write the loan to the end.
    assert (stats.loaned, stats.ports) == ((1, 2) if how == "daemon threads that put and get" else (0, 1)), stats
    found = [(lease.data, lease.delivery_count) for lease in queue.receive_many(3, timeout=PROMPT)]
    assert sorted(data for data, _ in found) == ["for a time", "for life", "taken by the loop"]
    for handle in (queue, empty, full):
        reap_all(handle)
        assert handle.stats().ports == 1
        shmq.verify(handle)


@pytest.mark.parametrize("how", ["os._exit(0)", "os.abort()", "os.kill(os.getpid(), 9)"])
def test_what_a_program_held_that_ends_without_a_word_goes_back_by_a_waiter(make: Make, how: str) -> None:
    queue = make(slots=8, slot_size=64)
    queue.put_many(["for life", "for a time"])
    script = f"""
import os, resource, shmq, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
queue = shmq.Queue.attach(sys.argv[1])
held = [queue.receive(timeout=1), queue.receive(timeout=1, lease_timeout=3600.0), queue.loan(4)]
{how}
"""
    subprocess.run([sys.executable, "-c", script, queue.name], timeout=LONG, capture_output=True)
    began = time.monotonic()
    leases = [queue.receive(timeout=PROMPT), queue.receive(timeout=PROMPT)]
    assert time.monotonic() - began < PROMPT
    assert sorted((lease.data, lease.delivery_count) for lease in leases) == [("for a time", 2), ("for life", 2)]
    reap_all(queue)
    assert queue.stats().loaned == 0


# -- a holder who gets no processor ----------------------------------------------------------------------------------------------


def pin_to_one() -> int:
    cpu = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    return cpu


@pytest.mark.parametrize("spin", [True, False])
def test_a_consumer_of_real_time_priority_lets_an_idle_producer_run(make: Make, spin: bool) -> None:
    """SCHED_FIFO 99 against SCHED_IDLE, on one processor: whoever spun without end would never see the message."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except (PermissionError, OSError) as error:
        pytest.skip(f"real-time priorities are not permitted here: {error}")
    there, back = make(slots=1, slot_size=64), make(slots=1, slot_size=64)
    count = 50

    def idle() -> None:
        pin_to_one()
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        own, out = shmq.Queue.attach(there.name, spin=spin), shmq.Queue.attach(back.name, spin=spin)
        for number in range(count):
            with own.receive(timeout=LONG) as lease:
                assert lease.data == number
                out.put(number, timeout=LONG)

    def urgent() -> None:
        pin_to_one()
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
        own, out = shmq.Queue.attach(there.name, spin=spin), shmq.Queue.attach(back.name, spin=spin)
        for number in range(count):
            own.put(number, timeout=LONG)
            assert out.get(timeout=LONG) == number

    children = [forked(idle), forked(urgent)]
    assert all(list(map(ended_well, children)))
    shmq.verify(there)
    shmq.verify(back)
