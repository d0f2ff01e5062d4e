"""The lock under which a name is opened, made and removed: what may interrupt whoever has it, and that none waits for itself."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import zlib
from types import FrameType
from typing import Any

import pytest

import shmq
from shmq import _core, _repair
from shmq._repair import repair
from shmq._segment import lifecycle
from support.forked import ended_well, forked
from support.processes import Children
from support.shared_memory import PREFIX, SHM

NEVER = 3600.0  # whoever waits for this long waits for itself


@pytest.fixture(autouse=True)
def one_who_waits_for_itself_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "LOCK_PATIENCE", NEVER)


def is_free(name: str) -> bool:
    """Can another thread of this process take the lock?"""
    taken: list[bool] = []

    def take() -> None:
        try:
            with lifecycle.NameLock(name, 0):
                taken.append(True)
        except shmq.ShmqError:
            taken.append(False)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return taken == [True]


def in_a_cycle(name: str) -> None:
    """A handle that only the collector closes."""
    queue = shmq.Queue(name, slots=2, slot_size=64, lifetime="handles")
    queue.itself = queue  # type: ignore[attr-defined]


@pytest.mark.parametrize("inside", ["its own name", "another name"])
def test_a_handle_that_the_collector_closes_in_a_name_lock_is_removed_after_it(name: str, inside: str) -> None:
    gc.disable()
    try:
        in_a_cycle(name)
        with lifecycle.NameLock(name if inside == "its own name" else f"{name}.other"):
            gc.collect()
            assert os.path.exists(f"{SHM}/{PREFIX}{name}"), "removed by one who may not have the lock"
    finally:
        gc.enable()
    assert name not in shmq.list_segments()
    assert is_free(name)


def test_a_program_whose_every_handle_is_in_a_cycle_opens_on(name: str) -> None:
    keep = shmq.Queue(name, slots=2, slot_size=64, lifetime="handles", ports=200)
    threshold = gc.get_threshold()
    gc.set_threshold(20)  # so that the collector runs at every step of opening
    try:
        for _ in range(300):
            in_a_cycle(name)
    finally:
        gc.set_threshold(*threshold)
        gc.collect()
    assert keep.stats().ports == 1
    keep.close()


def test_a_handler_that_opens_the_name_its_thread_is_opening_is_refused_at_once(name: str) -> None:
    said: list[str] = []

    def handler(number: int, frame: FrameType | None) -> None:
        try:
            shmq.Queue(name)
        except shmq.ShmqError as error:
            said.append(str(error))

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with lifecycle.NameLock(name):
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(said) == 1 and "this thread" in said[0]
    shmq.Queue(name).close()  # and now it may
    shmq.unlink(name)


def test_a_signal_handler_that_opens_another_name_goes_ahead(name: str) -> None:
    opened: list[shmq.Queue] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: opened.append(shmq.Queue(f"{name}.other", slots=2, slot_size=64)))
    try:
        with lifecycle.NameLock(name):
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    opened[0].close()
    shmq.unlink(opened[0].name)


class Struck(Exception):
    pass


def test_an_exception_of_a_signal_handler_leaves_no_name_lock_taken(name: str) -> None:
    def handler(number: int, frame: FrameType | None) -> None:
        raise Struck

    before = signal.signal(signal.SIGALRM, handler)
    chance = random.Random(7)
    struck = 0
    try:
        while struck < 2000:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 30e-6))
                for _ in range(100):  # an exception that strikes a finalizer is lost, so not for ever
                    with lifecycle.NameLock(name):
                        pass
            except Struck:
                struck += 1
            key = lock_key(name)
            assert _core.try_lock(key), f"taken, and nobody knows of it, after strike {struck}"
            _core.unlock(key)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with lifecycle.NameLock(name, 0):
        pass


def lock_key(name: str) -> int:
    return zlib.crc32(name.encode()) | zlib.crc32(name.encode()[::-1]) << 32


def test_a_taken_lock_whose_block_was_never_entered_goes_with_its_object(name: str) -> None:
    lock = lifecycle.NameLock(name)
    lock.__enter__()
    assert not is_free(name)
    del lock
    assert is_free(name)
    with lifecycle.NameLock(name):
        pass


def test_names_of_one_checksum_do_not_wait_for_each_other() -> None:
    assert zlib.crc32(b"plumless") == zlib.crc32(b"buckeroo")
    with lifecycle.NameLock("plumless"), lifecycle.NameLock("buckeroo"):
        pass


@pytest.mark.parametrize("threads", [17, 200])
def test_as_many_threads_as_there_are_have_a_name_lock_each_at_once(name: str, threads: int) -> None:
    together = threading.Barrier(threads)

    def hold(number: int) -> None:
        with lifecycle.NameLock(f"{name}.{number}", 60):
            together.wait(60)

    everybody = [threading.Thread(target=hold, args=(number,)) for number in range(threads)]
    for thread in everybody:
        thread.start()
    for thread in everybody:
        thread.join()
    assert not together.broken


def hold_name(name: str, connection: Any) -> None:
    with lifecycle.NameLock(name):
        connection.send(os.getpid())
        connection.recv()


def test_a_process_that_waits_in_vain_is_told_the_pid_that_has_the_name(name: str, children: Children) -> None:
    here, there = children.context.Pipe()
    child = children.start(hold_name, name, there)
    assert here.recv() == child.pid
    with (
        pytest.raises(shmq.ShmqError, match=f"pid {child.pid} has been opening or removing '{name}'"),
        lifecycle.NameLock(name, 0.05),
    ):
        pass
    here.send("done")
    children.join()


def test_a_child_forked_inside_a_name_lock_waits_for_its_parent_and_no_longer(name: str) -> None:
    def lock_it() -> None:
        with lifecycle.NameLock(name, 60):
            pass

    with lifecycle.NameLock(name):
        child = forked(lock_it)
    assert ended_well(child)
    assert is_free(name)


def test_the_doctor_keeps_its_findings_where_a_name_is_locked_and_says_by_whom(
    name: str, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_repair, "PATIENCE", 0.05)
    queues = [shmq.Queue.create(f"{name}.{letter}", slots=4, slot_size=64, max_deliveries=1) for letter in "abc"]
    for queue in queues:
        queue.put("x")
        queue.receive(timeout=0).reject()
    os.unlink(f"{SHM}/{PREFIX}{queues[2].name}")  # what is beside it has no queue any more
    here, there = children.context.Pipe()
    children.start(hold_name, queues[1].name, there)
    blocker = here.recv()
    found = {finding.subject: finding for finding in repair([queue.name for queue in queues])}
    assert "dead letter" in found[queues[0].name].text
    assert found[queues[1].name].level == "error" and f"pid {blocker}" in found[queues[1].name].text
    assert queues[2].name in found
    here.send("done")
    children.join()
    for queue in queues:
        queue.close()
        lifecycle.remove(queue.name)
