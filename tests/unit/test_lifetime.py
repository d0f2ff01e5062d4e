"""Lifetimes: when a queue's name goes: never by itself, with its creator, or with its last handle."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmq
from shmq._repair import repair
from shmq._segment import lifecycle
from shmq._segment import segment as _segment
from shmq._segment.queue import QUEUE
from shmq.executor import _channel
from support.processes import Children, is_stopped, wait_until
from support.shared_memory import PREFIX

Make = Callable[..., shmq.Queue]
LONG = 60.0
SHM = "/dev/shm"
GOES = ["creator", "handles"]


def files_of(name: str) -> list[str]:
    return sorted(entry for entry in os.listdir(SHM) if f"{PREFIX}{name}" in entry)


def there(name: str) -> bool:
    return name in shmq.list_segments()


def opened(name: str, lifetime: Any, **values: Any) -> shmq.Queue:
    return shmq.Queue(name, slots=8, slot_size=256, lifetime=lifetime, **values)


@pytest.mark.parametrize("bad", ["", "Creator", "process", 1, None.__class__, b"creator", True])
def test_a_lifetime_that_cannot_be_is_refused(name: str, bad: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="lifetime"):
        opened(name, bad)
    assert files_of(name) == []


# -- the end of a handle -------------------------------------------------------------------------------------------------------

ENDS: dict[str, Callable[[list[shmq.Queue]], None]] = {
    "close": lambda held: held[0].close(),
    "with": lambda held: held[0].__exit__(None, None, None),
    "del": lambda held: (held.clear(), gc.collect())[0],
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize(("lifetime", "left"), [("persistent", True), ("creator", False), ("handles", False), (None, True)])
def test_a_name_goes_or_stays_with_its_only_handle(
    name: str, lifetime: Any, left: bool, end: Callable[[list[shmq.Queue]], None]
) -> None:
    held = [opened(name, lifetime)]
    held[0].put("x")
    end(held)
    assert there(name) == left
    assert left or files_of(name) == []


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_with_the_creator_it_goes_although_others_have_it(name: str, end: Callable[[list[shmq.Queue]], None]) -> None:
    held = [opened(name, "creator")]
    with shmq.Queue.attach(name) as other:
        end(held)
        assert not there(name)
        other.put("goes on")
        assert other.get_nowait() == "goes on"
    assert files_of(name) == []


def test_the_creators_other_handles_do_not_take_the_name_with_them(name: str) -> None:
    with opened(name, "creator") as queue:
        shmq.Queue.attach(name).close()
        opened(name, None).close()
        assert there(name)
        queue.put("x")
        with shmq.Queue.attach(name) as other:
            assert other.get_nowait() == "x"
    assert not there(name)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_with_the_last_handle_it_goes_whoever_has_that(name: str, order: tuple[int, ...]) -> None:
    held = [opened(name, "handles"), shmq.Queue.attach(name), opened(name, "handles")]
    for number in order[:-1]:
        held[number].close()
        assert there(name)
    held[order[-1]].put("x")
    held[order[-1]].close()
    assert files_of(name) == []


OPENINGS: dict[str, Callable[[str], Any]] = {
    "Queue": lambda name: opened(name, "handles"),
    "Queue.create": lambda name: shmq.Queue.create(name, lifetime="handles"),
    "Channel": lambda name: _channel.Channel(name, **_channel.SHARED).small,
}


@pytest.mark.parametrize("begins", OPENINGS.values(), ids=OPENINGS.keys())
def test_a_visitor_between_making_a_queue_and_opening_it_takes_nothing_away(
    name: str, begins: Callable[[str], shmq.Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who attaches to a segment that its maker has not yet opened is its only user, and its last one when it leaves."""
    really_make = lifecycle.make
    visits = []

    def make(*arguments: Any, **named: Any) -> _segment.Segment:
        segment = really_make(*arguments, **named)
        if not visits:  # under the name's lock: it leaves as soon as it is free
            visits.append(shmq.Queue._inspect(lifecycle.attach(name, QUEUE)))
        return segment

    begin = shmq.Queue._begin

    def slow(queue: shmq.Queue, *arguments: Any) -> None:
        visits[0].close()
        begin(queue, *arguments)

    monkeypatch.setattr(lifecycle, "make", make)
    monkeypatch.setattr(shmq.Queue, "_begin", slow)
    queue = begins(name)
    assert queue.segment.is_current()
    with shmq.Queue.attach(name) as other:
        queue.put("x")
        assert other.get_nowait() == "x"
    queue.close()
    assert not there(name)


@pytest.mark.parametrize("lifetime", GOES)
def test_a_queue_opened_again_is_empty(name: str, lifetime: Any) -> None:
    for _ in range(3):
        with opened(name, lifetime) as queue:
            assert queue.empty() and queue.stats().puts == 0
            queue.put("x")
            queue.receive(timeout=0).reject()
            queue.put("y")
            assert len(queue.dead_letters) == 1
    assert files_of(name) == []


@pytest.mark.parametrize("lifetime", GOES)
def test_side_segments_and_letters_go_too(name: str, lifetime: Any) -> None:
    with opened(name, lifetime, oversize="spill") as queue:
        queue.put_many([b"x" * 5000] * 3)
        queue.receive(timeout=0).reject()
        assert len(files_of(name)) == 7
    assert files_of(name) == []


@pytest.mark.parametrize("lifetime", GOES)
@pytest.mark.parametrize("holding", ["lease", "array", "loan"])
def test_what_is_held_outlives_the_name(name: str, lifetime: Any, holding: str) -> None:
    queue = opened(name, lifetime)
    queue.put(np.arange(5))
    held = queue.loan(8) if holding == "loan" else queue.receive(timeout=0)
    if holding == "array":
        lease, held = held, held.array
        lease.ack()
        del lease
    queue.close()
    if holding == "array":
        assert held.tolist() == [0, 1, 2, 3, 4]
    else:
        (held.abandon if holding == "loan" else held.ack)()
    del held
    gc.collect()
    assert files_of(name) == []


def test_the_last_view_takes_the_name_with_it_while_an_exception_is_on_its_way(name: str) -> None:
    queue = opened(name, "handles")
    queue.put(np.arange(5))
    queue.put(np.arange(5))

    def look(lease: Any) -> None:
        shown = memoryview(lease)
        lease.ack()
        queue.close()
        assert len(shown)
        raise LookupError("on its way")

    for _ in range(2):
        queue = shmq.Queue.attach(name) if queue.closed else queue
        with pytest.raises(LookupError, match="on its way"):
            look(queue.receive(timeout=0))
        gc.collect()
        if not there(name):
            break
    assert files_of(name) == []


@pytest.mark.parametrize("lifetime", GOES)
def test_unlinking_and_making_again_before_the_old_handle_closes_harms_nobody(name: str, lifetime: Any) -> None:
    old = opened(name, lifetime)
    shmq.unlink(name)
    new = opened(name, lifetime)
    new.put("x")
    old.close()
    assert there(name) and new.get_nowait() == "x"
    new.close()
    assert files_of(name) == []


def test_an_anonymous_queue_may_live_with_its_handles(children: Children) -> None:
    queue = shmq.Queue(slots=4, slot_size=64, lifetime="handles")
    name = queue.name
    other = shmq.Queue.attach(name)
    queue.close()
    assert there(name)
    other.close()
    assert not there(name)


# -- the end of a process ------------------------------------------------------------------------------------------------------

HOLDS = {
    "nothing": "",
    "messages": "q.put_many(range(5))",
    "leases": "q.put_many(range(5)); a = q.receive(); b = q.receive_many(2, lease_timeout=5, extend=True)",
    "views": "import numpy; q.put(numpy.arange(5)); l = q.receive(); v = l.array; m = l.view; l.ack()",
    "a loan": "l = q.loan(10); v = l.array",
    "letters": "q.put(b'x' * 5000); q.receive().reject()",
    "a loop": "q.put_many(range(5)); it = iter(q.consume(prefetch=3)); next(it)",
    "a thread in get": "import threading; threading.Thread(target=q.get, daemon=True).start()\n"
    "while not q.stats().waiting_consumers: pass",
    "a thread in put": "import threading; q.put_many(range(8)); threading.Thread(target=q.put, args=(1,), daemon=True).start()\n"
    "while not q.stats().waiting_producers: pass",
    "a cycle": "c = [q]; c.append(c); q.put(1); c.append(q.receive()); del q",
}


def run(script: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=LONG)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("holds", HOLDS.values(), ids=HOLDS.keys())
@pytest.mark.parametrize("lifetime", GOES)
def test_a_script_ends_in_silence_and_leaves_nothing(name: str, lifetime: str, holds: str) -> None:
    script = f"import shmq\nq = shmq.Queue({name!r}, slots=8, slot_size=256, oversize='spill', lifetime={lifetime!r})\n{holds}\n"
    assert run(script) == (0, "", "")
    assert files_of(name) == []


def test_a_script_that_fails_leaves_nothing_either(name: str) -> None:
    code, _, words = run(f"import shmq\nq = shmq.Queue({name!r}, lifetime='handles')\nq.put(1); l = q.receive()\n1 / 0\n")
    assert code == 1 and words.count("Traceback") == 1 and "ZeroDivisionError" in words
    assert files_of(name) == []


SCRIPT = """
import multiprocessing, os, shmq, sys

def child(q, how):
    q.put(1)
    lease = q.receive()
    if how == "array":
        view = lease.array
        lease.ack()
    q.put(bytes(5000))

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    q = shmq.Queue({name!r}, slots=8, slot_size=256, oversize="spill", lifetime={lifetime!r})
    for how in ("lease", "array"):
        process = context.Process(target=child, args=(q, how))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert {name!r} in shmq.list_segments()
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("lifetime", GOES)
def test_a_script_with_children_ends_in_silence_and_leaves_nothing(name: str, lifetime: str, method: str, tmp_path: Any) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(name=name, lifetime=lifetime, method=method))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=LONG, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert files_of(name) == []


def hold_and_wait(name: str, lifetime: str, ready: Any) -> None:
    queue = opened(name, lifetime)
    queue.put_many(["lost", "held"])
    lease = queue.receive(timeout=0)
    ready.send(lease.data)
    ready.recv()


@pytest.mark.parametrize("lifetime", GOES)
@pytest.mark.parametrize("how", ["open", "attach", "create", "doctor"])
def test_what_a_killed_creator_left_is_reaped(name: str, children: Children, lifetime: str, how: str) -> None:
    ours, theirs = children.context.Pipe()
    children.start(hold_and_wait, name, lifetime, theirs)
    assert ours.poll(LONG) and ours.recv() == "lost"
    children.kill()
    assert there(name)
    if how == "doctor":
        found = repair([name])
        assert [finding.level for finding in found] == ["repaired"]
    elif how == "attach":
        with pytest.raises(shmq.SegmentNotFound, match="outlived"):
            shmq.Queue.attach(name)
    else:
        with opened(name, lifetime) if how == "open" else shmq.Queue.create(name, slots=8, slot_size=256) as queue:
            assert queue.empty() and queue.stats().puts == 0
        shmq.unlink(name) if how == "create" else None
    assert files_of(name) == []


def test_with_handles_it_outlives_its_killed_creator(name: str, children: Children) -> None:
    ours, theirs = children.context.Pipe()
    children.start(hold_and_wait, name, "handles", theirs)
    assert ours.poll(LONG) and ours.recv()
    with opened(name, "handles") as queue:
        children.kill()
        with opened(name, "handles") as again:
            assert sorted([queue.get(timeout=LONG), again.get(timeout=LONG)]) == ["held", "lost"]
        assert there(name)
    assert files_of(name) == []


def test_with_the_killed_creator_it_goes_although_others_have_it(name: str, children: Children) -> None:
    ours, theirs = children.context.Pipe()
    children.start(hold_and_wait, name, "creator", theirs)
    assert ours.poll(LONG) and ours.recv()
    with shmq.Queue.attach(name) as old:
        children.kill()
        with opened(name, "creator") as new:
            assert new.empty()
            assert old.get(timeout=LONG) in ("lost", "held")
    assert files_of(name) == []


def fork_and_close(queue: shmq.Queue) -> None:
    queue.put("from the child")
    queue.close()


@pytest.mark.parametrize("lifetime", GOES)
def test_a_child_that_closes_what_it_inherited_takes_nothing_away(name: str, lifetime: Any, any_children: Children) -> None:
    with opened(name, lifetime) as queue:
        any_children.start(fork_and_close, queue)
        any_children.join()
        assert there(name) and queue.get(timeout=LONG) == "from the child"
    assert files_of(name) == []


# -- at once -------------------------------------------------------------------------------------------------------------------


def open_and_close(name: str, rounds: int, barrier: Any) -> None:
    barrier.wait(LONG)
    for number in range(rounds):
        if number % 3 == 2:
            try:
                queue = shmq.Queue.attach(name)
            except shmq.SegmentNotFound:
                continue
        elif number % 7 == 3:
            try:
                queue = shmq.Queue.create(name, slots=8, slot_size=256, lifetime="handles")
            except shmq.SegmentExists:
                continue
        else:
            queue = opened(name, "handles")
        with queue:
            # While we have it, whoever opens it finds this one and no other.
            with shmq.Queue.attach(name) as other:
                assert other.segment.nonce == queue.segment.nonce
            queue.put(number)
            assert queue.get(timeout=LONG) >= 0


def test_many_that_open_and_close_at_once_never_see_a_broken_queue(name: str, children: Children) -> None:
    barrier = children.context.Barrier(4)
    for _ in range(4):
        children.start(open_and_close, name, 150, barrier)
    children.join()
    assert files_of(name) == []


def test_threads_that_open_and_close_at_once_never_see_a_broken_queue(name: str) -> None:
    errors: list[BaseException] = []

    def work(barrier: threading.Barrier) -> None:
        try:
            open_and_close(name, 60, barrier)
        except BaseException as error:
            errors.append(error)

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=work, args=(barrier,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert not errors
    assert files_of(name) == []


def open_and_die(name: str) -> None:
    queue = opened(name, "handles")
    queue.put(os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_last_process_takes_its_messages_along_when_it_is_killed(name: str, children: Children) -> None:
    for _ in range(5):
        children.start(open_and_die, name).join()
    with opened(name, "handles") as queue:
        assert queue.empty()
    assert files_of(name) == []


# -- other values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "others"),
    [
        ("lifetime", ("handles", "persistent")),
        ("lease_timeout", (5, 6.5)),
        ("max_deliveries", (3, 0)),
        ("backoff", (shmq.Backoff(1), shmq.Backoff(1, 3))),
    ],
)
def test_a_mismatch_names_the_value_and_both_sides(name: str, value: str, others: tuple[Any, Any]) -> None:
    made, asked = others
    with shmq.Queue(name, slots=4, slot_size=64, **{value: made}):
        with pytest.raises(shmq.SegmentMismatch, match=value) as caught:
            shmq.Queue(name, **{value: asked})
        said = asked._checked() if isinstance(asked, shmq.Backoff) else asked
        assert repr(said) in str(caught.value)
        shmq.Queue(name, **{value: made}).close()
        shmq.Queue(name).close()


def test_a_mismatch_of_a_passing_queue_leaves_it_there(name: str) -> None:
    with opened(name, "handles") as queue:
        with pytest.raises(shmq.SegmentMismatch):
            shmq.Queue(name, slots=9)
        assert there(name) and queue.stats().ports == 1


def test_exit_waits_for_nobody_who_is_stopped(name: str, children: Children) -> None:
    """A stopped process with a handle is a living one: the name stays."""
    ours, theirs = children.context.Pipe()
    child = children.start(hold_and_wait, name, "handles", theirs)
    assert ours.poll(LONG) and ours.recv()
    os.kill(child.pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(child.pid))
    opened(name, "handles").close()
    assert there(name)
    children.kill()
    time.sleep(0)
    opened(name, "handles").close()
    assert files_of(name) == []


# -- large messages, which are files beside the segment -----------------------------------------------------------------------


def files_beside(nonce: int) -> list[str]:
    return [file for file in os.listdir("/dev/shm") if f"+{nonce:016x}" in file]


def test_large_messages_of_an_unlinked_queue_stay_for_those_who_have_it_open(name: str) -> None:
    ours = shmq.Queue(name)
    theirs = shmq.Queue.attach(name)
    ours.put(b"before" * 1000)
    ours.unlink()
    ours.put(b"after" * 1000)
    with shmq.Queue(name) as new:  # and who makes, uses and removes another one of this name leaves them alone
        new.put(b"new" * 1000)
        new.unlink()
    ours.close()
    assert theirs.get(timeout=1) == b"before" * 1000
    with theirs.receive(timeout=1) as lease:
        assert lease.data == b"after" * 1000
    theirs.put(b"left" * 1000)
    theirs.close()
    assert files_beside(ours.segment.nonce) == files_beside(new.segment.nonce) == []


def test_a_view_that_outlives_its_unlinked_queue_takes_what_is_left_along(name: str) -> None:
    queue = shmq.Queue(name)
    queue.put(b"x" * 5000)
    queue.put(b"y" * 5000)
    view = queue.receive(timeout=1).view
    queue.unlink()
    queue.close()
    assert bytes(view) == b"x" * 5000
    del view
    assert files_beside(queue.segment.nonce) == []


CREATOR = """
import os, sys, time
import shmq

queue = shmq.Queue()
read, write = os.pipe()
parent = os.getpid()
if os.fork() == 0:
    queue.purge()  # attached
    os.write(write, b".")
    while os.getppid() == parent:
        time.sleep(0.01)
    assert queue.get(timeout=30) == b"large" * 1000
    assert queue.get(timeout=30) == {"a": "b" * 3000}
    queue.put(b"left" * 1000)
    queue.close()
    print([file for file in os.listdir("/dev/shm") if f"+{queue.segment.nonce:016x}" in file])
    sys.stdout.flush()
    os._exit(0)
os.read(read, 1)
queue.put(b"large" * 1000)
queue.put({"a": "b" * 3000})
"""


@pytest.mark.parametrize("end", ["queue.close(); os._exit(0)", "sys.exit()", "assert not queue.full()"])
def test_the_creators_end_leaves_large_messages_to_those_who_go_on(end: str) -> None:
    done = subprocess.run([sys.executable, "-c", CREATOR + end], capture_output=True, text=True, timeout=LONG)
    assert (done.stdout, done.stderr) == ("[]\n", "")
