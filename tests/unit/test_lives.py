"""Lives of processes: handles that are sent and pooled, daemons, stops, interrupts, exits, and makers that die half-way."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest

import shmq
from shmq import _core
from shmq._segment import files, semaphores
from support.forked import ended_well, forked, succeeded
from support.processes import Children
from support.shared_memory import PREFIX

Make = Callable[..., shmq.Queue]
LONG = 60.0


@pytest.fixture
def q(make: Make) -> shmq.Queue:
    return make(slots=8, slot_size=1024, in_flight=8)


@pytest.fixture
def answers(make: Make) -> shmq.Queue:
    return make(slots=64, slot_size=4096)


# -- every call of a child -----------------------------------------------------------------------------------------------------


def use_everything(q: shmq.Queue, answers: shmq.Queue) -> None:
    """Each call once, as the only user of the queue; whatever fails is the exit status."""
    q.put([1])
    q.put_nowait(b"2")
    assert q.put_many(["3", np.arange(4)]) == 4 - 2
    with q.loan((2,), "u1") as array:
        array[:] = 5
    assert q.qsize() == 5 and not q.empty() and not q.full()
    assert q.peek(3) == [[1], b"2", "3"]
    assert q.get() == [1] and q.get_nowait() == b"2"
    assert q.get_many(1) == ["3"]
    with q.receive(timeout=0) as lease:
        assert lease.array.tolist() == [0, 1, 2, 3]
    q.receive(timeout=0).nack()
    assert q.receive_many(1, timeout=0)[0].delivery_count == 2
    assert q.purge() == 1 and q.drain() == []
    shmq.verify(q)
    stats = q.stats()
    assert (stats.puts, stats.leased, stats.returned) == (5, 0, 0)
    answers.put(os.getpid())
    q.close()


def test_a_child_of_every_start_method_can_make_every_call(q: shmq.Queue, answers: shmq.Queue, any_children: Children) -> None:
    child = any_children.start(use_everything, q, answers)
    pid = child.pid
    any_children.join()
    assert answers.get_nowait() == pid
    assert q.stats().ports == 1
    shmq.verify(q)


def test_a_forked_child_that_closes_all_descriptors_attaches_again(q: shmq.Queue, answers: shmq.Queue) -> None:
    def live_as_a_daemon() -> None:
        os.closerange(3, 1024)  # as daemons do
        answers.put("from the daemon")
        assert q.get(timeout=LONG) == "for the daemon"

    pid = forked(live_as_a_daemon)
    try:
        assert answers.get(timeout=LONG / 2) == "from the daemon"
        with shmq.Queue.attach(answers.name) as other:  # whoever attaches reaps: nobody here is dead
            assert other.stats().ports == 3
            assert other._reap() == 0
        q.put("for the daemon")
    finally:
        good = ended_well(pid)
    assert good
    shmq.verify(q)


def test_a_program_that_is_executed_inherits_no_descriptor(q: shmq.Queue) -> None:
    q.put("x")
    script = (
        "import os; print([p for f in os.listdir('/proc/self/fd') if 'shmq' in (p := os.path.realpath(f'/proc/self/fd/{f}'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=LONG, close_fds=False, check=True
    )
    assert done.stdout.strip() == "[]"


# -- handles that are sent -----------------------------------------------------------------------------------------------------


LOSES_ITS_LOCK = """
import os, sys, time
import shmq
queue = shmq.Queue.attach(sys.argv[1])
lease = queue.receive(timeout=10)
os.closerange(3, 1000)
queue.put("without a descriptor")
print("closed", flush=True)
sys.stdin.readline()
lease.ack()
"""


def test_a_process_that_closed_all_its_descriptors_is_not_taken_for_dead(q: shmq.Queue) -> None:
    """No descriptor holds its lock."""
    q.put("held")
    program = [sys.executable, "-c", LOSES_ITS_LOCK, q.name]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "closed\n"
        assert [alive for _, _, pid, alive, _ in q._ports() if pid == process.pid] == [True]
        assert q._reap() == 0
        assert (q.stats().leased, q.get(timeout=LONG)) == (1, "without a descriptor")
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(LONG) == 0
    assert (q.stats().acks, q.empty(), q.stats().ports) == (1, True, 1)
    shmq.verify(q)


def test_a_process_that_closed_all_its_descriptors_is_reaped_when_it_dies(q: shmq.Queue) -> None:
    q.put("held")
    program = [sys.executable, "-c", LOSES_ITS_LOCK, q.name]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "closed\n"
        process.kill()
    assert sorted(q.get(timeout=LONG) for _ in range(2)) == ["held", "without a descriptor"]


OPENS_ANOTHER = """
import os, sys
import shmq
queue = shmq.Queue.attach(sys.argv[1])
os.closerange(3, 1000)
with shmq.Queue() as another:  # whose name is locked meanwhile
    another.put("there")
    print(another.get(), flush=True)
sys.stdin.readline()
"""


def test_a_process_that_closed_all_its_descriptors_can_lock_a_name(q: shmq.Queue) -> None:
    program = [sys.executable, "-c", OPENS_ANOTHER, q.name]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "there\n"
        assert [alive for _, _, pid, alive, _ in q._ports() if pid == process.pid] == [True]
        process.stdin.close()
        assert process.wait(LONG) == 0


def test_a_reaper_without_descriptors_takes_nobody_for_dead(q: shmq.Queue) -> None:
    q.put("held")
    program = [sys.executable, "-c", LOSES_ITS_LOCK, q.name]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "closed\n"
        assert succeeded(lambda: reap_without_descriptors(q))
        process.stdin.close()
        assert process.wait(LONG) == 0
    assert (q.stats().acks, q.stats().deaths) == (1, 0)


def reap_without_descriptors(q: shmq.Queue) -> None:
    assert q._reap() == 0  # attaches
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, most))
    assert q._reap() == 0
    os.closerange(3, 1000)  # and now it can ask nobody
    assert q._reap() == 0 and _core.alive(q.segment.creator)


def test_a_process_without_its_descriptors_still_tells_the_living_from_the_dead(q: shmq.Queue, children: Children) -> None:
    """The number of its lock file's descriptor may be another file's by then, on which nobody holds a lock."""
    q.put("held")
    child, _ = start_holder(q, children, 1)

    def look() -> None:
        assert q.empty()
        identities = {pid: owner for _, owner, pid, _, _ in q._ports()}
        os.closerange(3, 1000)
        others = [os.open("/dev/zero", os.O_RDWR) for _ in range(40)]
        assert _core.alive(identities[child.pid]) and _core.alive(q.segment.creator)
        assert q._reap() == 0
        has_looked.set()
        assert child_gone.wait(LONG)
        assert q.receive(timeout=LONG).data == "held"
        assert [os.fstat(number).st_rdev for number in others] == [os.stat("/dev/zero").st_rdev] * 40

    has_looked, child_gone = children.context.Event(), children.context.Event()
    pid = forked(look)
    assert has_looked.wait(LONG)
    child.kill()
    child.join(LONG)
    child_gone.set()
    assert ended_well(pid)


EXECUTES_ANOTHER = """
import os, sys
import shmq
queue = shmq.Queue.attach(sys.argv[1])
lease = queue.receive(timeout=10)
os.execv(sys.executable, [sys.executable, "-c", "import sys; print('another', flush=True); sys.stdin.readline()"])
"""


def test_a_program_that_is_executed_in_its_place_has_not_its_leases(q: shmq.Queue) -> None:
    """The same process to pid and clock, and yet nobody is left who could ack."""
    q.put("held")
    program = [sys.executable, "-c", EXECUTES_ANOTHER, q.name]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "another\n"
        assert q.receive(timeout=LONG).delivery_count == 2
        process.kill()


def answer_where_told(directory: shmq.Queue) -> None:
    while (reply := directory.get(timeout=LONG)) is not None:
        reply.put(f"to {reply.name}")


def test_a_handle_may_be_put_into_another_queue(q: shmq.Queue, make: Make, children: Children) -> None:
    children.start(answer_where_told, q)
    for _ in range(3):
        reply = make(slots=2, slot_size=256)
        q.put(reply)
        assert reply.get(timeout=LONG) == f"to {reply.name}"
    q.put(None)
    children.join()


def take_from(connection: Any) -> None:
    queue = connection.recv()
    queue.put(queue.get(timeout=LONG) + 1)
    queue.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_handle_may_be_sent_to_a_running_process(q: shmq.Queue, method: str) -> None:
    group = Children(method)
    ours, theirs = group.context.Pipe()
    group.start(take_from, theirs)
    q.put(1)
    ours.send(q)
    group.join()
    assert q.get(timeout=0) == 2


worker_queue: shmq.Queue


def keep_handle(queue: shmq.Queue) -> None:
    global worker_queue
    worker_queue = queue


def put_kept(number: int) -> None:
    worker_queue.put(number)


def test_a_pool_of_futures_takes_a_handle_for_its_initializer(make: Make) -> None:
    queue = make(slots=32, slot_size=64)
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(2, mp_context=context, initializer=keep_handle, initargs=(queue,)) as pool:
        list(pool.map(put_kept, range(10)))
    assert sorted(queue.drain()) == list(range(10))


def test_a_handle_that_was_closed_still_pickles_as_the_queue_it_names(q: shmq.Queue) -> None:
    q.put("x")
    other = shmq.Queue.attach(q.name)
    other.close()
    with pickle.loads(pickle.dumps(other)) as again:
        assert not again.closed and again.get(timeout=0) == "x"


# -- endings -------------------------------------------------------------------------------------------------------------------


def hold(name: str, count: int, connection: Any) -> None:
    queue = shmq.Queue.attach(name)
    leases = queue.receive_many(count, timeout=LONG)
    connection.send(len(leases))
    connection.recv()
    for lease in leases:
        lease.ack()
    connection.send("acked")


def start_holder(q: shmq.Queue, children: Children, count: int) -> tuple[Any, Any]:
    ours, theirs = children.context.Pipe()
    child = children.start(hold, q.name, count, theirs)
    assert ours.poll(LONG) and ours.recv() == count
    return child, ours


def test_a_stopped_process_keeps_what_it_holds_and_stops_nobody(q: shmq.Queue, children: Children) -> None:
    q.put_many(["held", "free"])
    child, connection = start_holder(q, children, 1)
    os.kill(child.pid, signal.SIGSTOP)
    try:
        assert q.get(timeout=LONG) == "free"
        for number in range(40):
            q.put(number)
            assert q.get(timeout=LONG) == number
        with pytest.raises(shmq.Empty):
            q.get(timeout=0.4)
        assert q._reap() == 0
    finally:
        os.kill(child.pid, signal.SIGCONT)
    connection.send("go on")
    assert connection.poll(LONG) and connection.recv() == "acked"
    children.join()
    assert q.empty() and q.stats().acks == 1
    shmq.verify(q)


@pytest.mark.parametrize("call", ["get()", "put(bytes(100))"])
def test_a_process_exits_with_a_daemon_thread_that_waits(make: Make, call: str) -> None:
    queue = make(slots=1, slot_size=1024)
    if "put" in call:
        queue.put("full")
    waiting = "waiting_consumers" if "get" in call else "waiting_producers"
    script = (
        "import shmq, threading, time\n"
        f"q = shmq.Queue.attach({queue.name!r})\n"
        f"threading.Thread(target=lambda: q.{call}, daemon=True).start()\n"
        f"while not q.stats().{waiting}: time.sleep(0.001)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=LONG)
    queue.drain()
    queue.put("goes on")
    assert queue.get(timeout=LONG) == "goes on"


def test_a_process_that_was_killed_by_ctrl_c_in_its_loop_gives_the_message_back(q: shmq.Queue) -> None:
    q.put("x")
    script = (
        "import shmq, time\n"
        f"for lease in shmq.Queue.attach({q.name!r}):\n"
        "    print(lease.data, flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "x\n"
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=LONG)
    finally:
        process.kill()
        process.wait()
    assert "KeyboardInterrupt" in words
    assert q.receive(timeout=0).delivery_count == 2


# -- makers that die half-way --------------------------------------------------------------------------------------------------

MOMENTS: dict[str, tuple[Any, str]] = {
    "before the size is set": (files.os, "posix_fallocate"),
    "before the layout is written": (_core, "format_segment"),
    "before the semaphores are made": (semaphores.posix_ipc, "Semaphore"),
    "before it is ready": (_core, "mark_ready"),
}


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_making(name: str, moment: str) -> None:
    module, function = MOMENTS[moment]
    setattr(module, function, die)
    shmq.Queue(name, slots=2, slot_size=64)


def open_at_once(name: str, barrier: Any) -> None:
    barrier.wait(LONG)
    with shmq.Queue(name, slots=32, slot_size=64) as queue:
        queue.put(os.getpid())


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_a_killed_maker_left_does_not_stop_the_next_eight(name: str, children: Children, moment: str) -> None:
    victim = children.start(die_making, name, moment)
    victim.join(LONG)
    assert victim.exitcode == -signal.SIGKILL
    children.kill()
    assert os.path.exists(f"/dev/shm/{PREFIX}{name}")
    barrier = children.context.Barrier(8)
    for _ in range(8):
        children.start(open_at_once, name, barrier)
    pids = {child.pid for child in children.started}
    children.join()
    with shmq.Queue.attach(name) as queue:
        assert set(queue.drain()) == pids and queue.maxsize == 32


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("form", [shmq.Queue, shmq.Queue.create], ids=["open", "create"])
def test_a_maker_that_fails_leaves_nothing_and_can_try_again(
    name: str, monkeypatch: pytest.MonkeyPatch, form: Callable[..., shmq.Queue], moment: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*MOMENTS[moment], fail)
        with pytest.raises((OSError, shmq.OutOfMemory)):
            form(name, slots=2, slot_size=64)
    assert [file for file in os.listdir("/dev/shm") if name in file] == []
    with form(name, slots=2, slot_size=64) as queue:
        queue.put(b"x")
        assert queue.get(timeout=0) == b"x"


def test_a_time_zone_or_clock_of_the_wall_has_no_say(q: shmq.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    began = time.monotonic()
    with pytest.raises(shmq.Empty):
        q.get(timeout=0.05)
    assert time.monotonic() - began >= 0.05
