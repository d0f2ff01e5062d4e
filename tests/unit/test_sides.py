"""Side segments of the dead: whoever opens the queue removes those to which nothing leads, and no other."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmq
from shmq import _core
from shmq._observe.look import look
from shmq._segment import entries
from shmq._store import sides
from shmq._store.dead_letters import DeadLetters
from support.processes import Children, wait_until
from support.shared_memory import side_files

Make = Callable[..., shmq.Queue]
LONG = 60.0
SHM = "/dev/shm"
LARGE = b"x" * 5000


def put_and_wait(queue: shmq.Queue, ready: Any, waits: bool) -> None:
    """Put a large message, and wait to be killed; `waits`: into a full queue, so that nothing leads to its file."""
    with shmq.Queue.attach(queue.name) as mine:
        if waits:
            threading.Thread(target=mine.put, args=(LARGE,), daemon=True).start()
            wait_until(lambda: mine.stats().waiting_producers)
        else:
            mine.put(LARGE)
        ready.send(True)
        ready.recv()


def start(children: Children, queue: shmq.Queue, waits: bool) -> Any:
    ours, theirs = children.context.Pipe()
    child = children.start(put_and_wait, queue, theirs, waits)
    child.connection = ours  # open as long as the child is there
    assert ours.poll(LONG) and ours.recv()
    return child


def killed_in_put(children: Children, queue: shmq.Queue) -> None:
    child = start(children, queue, waits=True)
    child.kill()
    child.join()


def killed_after_put(children: Children, queue: shmq.Queue) -> None:
    child = start(children, queue, waits=False)
    child.kill()
    child.join()


def reopened(queue: shmq.Queue) -> None:
    shmq.Queue.attach(queue.name).close()


# -- what is removed -----------------------------------------------------------------------------------------------------------

OPENS: dict[str, Callable[[str], shmq.Queue]] = {"Queue": shmq.Queue, "attach": shmq.Queue.attach}


@pytest.mark.parametrize("opens", OPENS.values(), ids=OPENS.keys())
def test_an_open_removes_what_one_killed_in_put_has_left(
    make: Make, children: Children, opens: Callable[[str], shmq.Queue]
) -> None:
    queue = make(slots=1, slot_size=64)
    queue.put("full")
    killed_in_put(children, queue)
    assert len(side_files(queue)) == 1
    opens(queue.name).close()
    assert side_files(queue) == []
    assert queue.drain() == ["full"]


def test_under_a_supervisor_at_most_the_last_one_killed_leaves_a_file(make: Make, children: Children) -> None:
    queue = make(slots=1, slot_size=64)
    queue.put("full")
    for _ in range(12):
        killed_in_put(children, queue)
        assert len(side_files(queue)) == 1
    reopened(queue)
    assert side_files(queue) == []


def put_and_get(name: str) -> None:
    queue = shmq.Queue(name)
    while True:
        queue.put(LARGE)
        queue.get(timeout=1)


def test_kills_at_any_moment_of_put_and_get_leave_nothing_that_leads_nowhere(make: Make, children: Children) -> None:
    queue = make(slots=64, slot_size=64)
    chance = random.Random(9)
    for _ in range(30):
        child = children.start(put_and_get, queue.name)
        time.sleep(chance.uniform(0.005, 0.03))
        child.kill()
        child.join()
    reopened(queue)
    assert {file.rpartition(".")[2].encode() for file in side_files(queue)} <= queue._side_keys()
    assert set(queue.drain()) <= {LARGE}
    assert side_files(queue) == []


def use(queue: shmq.Queue) -> None:
    queue.qsize()
    queue.put_nowait("more")


def test_a_forked_child_that_attaches_removes_it(make: Make, children: Children) -> None:
    queue = make(slots=2, slot_size=64)
    queue.put("one")
    queue.put("two")
    killed_in_put(children, queue)
    assert queue.get() == "one"
    child = children.start(use, queue)
    child.join(LONG)
    assert child.exitcode == 0
    assert side_files(queue) == []


def test_two_who_open_at_once_and_a_second_look_find_nothing_amiss(make: Make, children: Children) -> None:
    queue = make(slots=1, slot_size=64)
    queue.put("full")
    killed_in_put(children, queue)
    threads = [threading.Thread(target=reopened, args=(queue,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    reopened(queue)
    assert side_files(queue) == [] and queue._deaths_to_reap_sides_of() is None


# -- what is not ---------------------------------------------------------------------------------------------------------------

PLACES: dict[str, Callable[[shmq.Queue], Any]] = {
    "in the ring": lambda q: None,
    "leased": lambda q: q.receive(timeout=0),
    "leased, timed": lambda q: q.receive(timeout=0, lease_timeout=50),
    "came back": lambda q: q.receive(timeout=0).release(),
    "a dead letter": lambda q: q.receive(timeout=0).reject(),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_what_leads_somewhere_is_kept_beside_what_leads_nowhere(
    make: Make, children: Children, place: Callable[[shmq.Queue], Any]
) -> None:
    queue = make(slots=1, slot_size=64)
    killed_after_put(children, queue)
    (kept,) = side_files(queue)
    held = place(queue)
    if not queue.full():
        queue.put("full")
    killed_in_put(children, queue)
    assert len(side_files(queue)) == 2
    reopened(queue)
    assert side_files(queue) == [kept]
    if held is not None:
        held.release()
    taken = queue.drain()
    queue.redrive()
    taken += queue.drain()
    assert LARGE in taken and set(taken) <= {LARGE, "full"}
    assert side_files(queue) == []


def test_while_messages_wait_in_a_backlog_an_open_leaves_the_look_to_later(make: Make, children: Children) -> None:
    queue = make(slots=1, slot_size=64, overflow="grow")
    queue.put("full")
    killed_after_put(children, queue)  # into the backlog
    reopened(queue)
    assert len(side_files(queue)) == 1 and queue._deaths_to_reap_sides_of() == 1
    assert sides.reap_sides(queue) == 0  # the doctor, which reads the backlog
    assert queue.drain() == ["full", LARGE]
    reopened(queue)
    assert queue._deaths_to_reap_sides_of() is None


def test_what_a_living_process_is_putting_is_kept_when_another_one_dies(make: Make, children: Children) -> None:
    queue = make(slots=1, slot_size=64)
    queue.put("full")
    start(children, queue, waits=True)
    (kept,) = side_files(queue)
    killed_in_put(children, queue)
    reopened(queue)
    assert side_files(queue) == [kept]
    assert queue.get(timeout=LONG) == "full"
    assert queue.get(timeout=LONG) == LARGE


def test_a_letter_that_moves_during_the_look_ends_it(make: Make, children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = make(slots=1, slot_size=64)
    queue.put("full")
    killed_in_put(children, queue)
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(DeadLetters, "_files", lambda self: calls.append(1) or {f"{len(calls):016x}.new.1"})
        reopened(queue)
    assert len(calls) == 2 * sides.LOOKS
    assert len(side_files(queue)) == 1
    reopened(queue)
    assert side_files(queue) == []


def test_a_letter_that_is_put_back_between_two_looks_keeps_its_side_segment(
    make: Make, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make(slots=1, slot_size=64)
    killed_after_put(children, queue)
    (kept,) = side_files(queue)
    queue.receive(timeout=0).reject()
    queue.put("full")
    killed_in_put(children, queue)
    assert queue.get() == "full"
    files = DeadLetters._files
    put_back: list[int] = []

    def before_files(self: DeadLetters) -> set[str]:
        if not put_back:
            put_back.append(queue.redrive())
        return files(self)

    with monkeypatch.context() as patch:
        patch.setattr(DeadLetters, "_files", before_files)
        reopened(queue)
    assert put_back == [1] and side_files(queue) == [kept]
    assert queue.get(timeout=0) == LARGE


def test_a_message_on_its_way_from_the_ring_to_a_cell_leads_to_its_side_segment(make: Make) -> None:
    queue = make(slots=1, slot_size=64)
    queue.put(LARGE)
    key = queue._side_keys()
    assert len(key) == 1
    words = np.frombuffer(queue.segment.memory, "u8")
    ports = queue.segment.config.ports
    ring, cell, port = (1024 + 128 * ports + 64 * len(queue._cells())) // 8, (1024 + 128 * ports) // 8, 1024 // 8
    before, give = int(words[ring]), int(words[cell]) & 0xFFFFFF
    words[port + 9] = before  # as exchange() of ring.c leaves it between its two stores
    words[port + 8] = 2 << 62 | give
    words[ring] = ((before >> 26) + 1) << 26 | give
    assert queue._side_keys() == key
    words[ring] = before
    words[port + 8] = 0
    assert queue.get() == LARGE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file to another user")
def test_another_users_file_of_such_a_name_is_left_alone(make: Make, children: Children) -> None:
    queue = make(slots=1, slot_size=64)
    queue.put("full")
    killed_in_put(children, queue)
    (file,) = side_files(queue)
    os.chown(f"{SHM}/{file}", 65534, 65534)
    try:
        reopened(queue)
        assert side_files(queue) == [file]
    finally:
        os.unlink(f"{SHM}/{file}")


def test_a_process_that_only_looks_removes_nothing(make: Make, children: Children) -> None:
    queue = make(slots=1, slot_size=64)
    queue.put("full")
    killed_in_put(children, queue)
    assert look(queue.name).state == "usable"
    assert len(side_files(queue)) == 1
    reopened(queue)


# -- what it costs, and what fails ---------------------------------------------------------------------------------------------


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What was listed of /dev/shm."""
    made: list[tuple[str, ...]] = []
    list_files = entries.list_files

    def listed(*beginnings: str) -> list[str]:
        made.append(beginnings)
        return list_files(*beginnings)

    monkeypatch.setattr(entries, "list_files", listed)
    return made


def test_where_nobody_died_an_open_lists_nothing(make: Make, listings: list[Any]) -> None:
    queue = make(slots=4, slot_size=64)
    queue.put(LARGE)
    del listings[:]
    reopened(queue)
    shmq.Queue(queue.name).close()
    assert listings == []


def wait_to_be_killed(queue: shmq.Queue, ready: Any) -> None:
    queue.put("small")
    ready.send(True)
    ready.recv()


def test_where_nothing_was_spilled_a_death_has_nothing_listed(make: Make, children: Children, listings: list[Any]) -> None:
    queue = make(slots=4, slot_size=64)
    ours, theirs = children.context.Pipe()
    children.start(wait_to_be_killed, queue, theirs)
    assert ours.poll(LONG) and ours.recv()
    children.kill()
    del listings[:]
    reopened(queue)
    assert queue._events()[1] == 1
    assert listings == []


def test_after_a_death_one_open_lists_once_and_the_next_nothing(make: Make, children: Children, listings: list[Any]) -> None:
    queue = make(slots=1, slot_size=64)
    queue.put("full")
    killed_in_put(children, queue)
    del listings[:]
    reopened(queue)
    assert listings == [(f"{queue.segment.beside}.",)]
    reopened(queue)
    assert len(listings) == 1


def test_letters_are_read_only_where_something_is_left_over(
    make: Make, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make(slots=1, slot_size=64)
    killed_after_put(children, queue)
    looks: list[int] = []
    monkeypatch.setattr(DeadLetters, "_files", lambda self: looks.append(1) or set())
    reopened(queue)
    assert looks == [] and queue._deaths_to_reap_sides_of() is None
    assert queue.get(timeout=0) == LARGE


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.EMFILE, "no descriptors"), shmq.OutOfMemory("full"), MemoryError()],
    ids=["EMFILE", "ENOSPC", "memory"],
)
def test_a_look_that_fails_fails_no_open_and_the_next_one_looks(
    make: Make, children: Children, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    queue = make(slots=1, slot_size=64)
    queue.put("full")
    killed_in_put(children, queue)

    def fails(*beginnings: str) -> list[str]:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(entries, "list_files", fails)
        with shmq.Queue.attach(queue.name) as other:
            assert other.qsize() == 1
    assert len(side_files(queue)) == 1
    reopened(queue)
    assert side_files(queue) == []


def test_an_interrupted_look_ends_the_open_and_leaves_no_port(
    make: Make, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make(slots=1, slot_size=64)
    queue.put("full")
    killed_in_put(children, queue)

    def interrupted(*beginnings: str) -> list[str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(entries, "list_files", interrupted)
        shmq.Queue.attach(queue.name)
    assert [owner for _, owner, *_ in queue._ports()] == [_core.identity()]
    reopened(queue)
    assert side_files(queue) == []
