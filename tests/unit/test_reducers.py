"""What multiprocessing knows how to take apart travels in queues and tasks as it does between multiprocessing's processes."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import shared_memory
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest

import shmq
from support.processes import Children

Make = Callable[..., shmq.Queue]


def say(end: Any, text: str) -> bool:
    """Write to what was sent here: it is another end of the same thing."""
    if isinstance(end, socket.socket):
        end.sendall(text.encode())
    else:
        end.send(text)
    end.close()
    return True


def heard(end: Any) -> str:
    if isinstance(end, socket.socket):
        return end.recv(100).decode()
    assert end.poll(30)
    return end.recv()


def pair(kind: str) -> tuple[Any, Any]:
    return socket.socketpair() if kind == "socket" else multiprocessing.Pipe()


def take_and_say(name: str, text: str) -> None:
    with shmq.Queue.attach(name) as queue:
        assert say(queue.get(timeout=30), text)


@pytest.mark.parametrize("kind", ["connection", "socket"])
def test_the_end_of_a_pipe_is_open_where_it_comes_out(make: Make, any_children: Children, kind: str) -> None:
    queue = make(slots=4, slot_size=4096)
    here, there = pair(kind)
    any_children.start(take_and_say, queue.name, "hello")
    queue.put(there)
    assert heard(here) == "hello"
    any_children.join()
    here.close()
    there.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("kind", ["connection", "socket"])
def test_a_task_writes_to_the_end_of_a_pipe_that_it_was_given(kind: str, method: str) -> None:
    here, there = pair(kind)
    with shmq.Executor(1, method) as pool:
        assert pool.submit(say, there, "hello").result(60)
        assert heard(here) == "hello"
        assert pool.submit(abs, -3).result(60) == 3  # and nothing else was written over
        shmq.verify(pool._client.tasks.small)
    here.close()
    there.close()


def end_of_a_pipe() -> Any:
    here, there = multiprocessing.Pipe()
    here.send("from the worker")
    return there


def test_a_task_may_return_the_end_of_a_pipe() -> None:
    with shmq.Executor(1) as pool:
        end = pool.submit(end_of_a_pipe).result(60)
        assert heard(end) == "from the worker"
        end.close()


class Registered:
    def __init__(self, text: str) -> None:
        self.text = text


def reduce_registered(thing: Registered) -> Any:
    return Registered, (f"{thing.text}, reduced",)


def text_of(thing: Registered) -> Registered:
    return Registered(thing.text + ", returned")


def test_what_is_registered_with_forking_pickler_counts_everywhere(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = make(slots=4, slot_size=4096)
    with shmq.Executor(1, "fork") as pool:
        monkeypatch.setitem(ForkingPickler._extra_reducers, Registered, reduce_registered)  # what ForkingPickler.register does
        queue.put([Registered("put")])
        assert queue.get().pop().text == "put, reduced"
        assert pool.submit(text_of, Registered("task")).result(60).text == "task, reduced, returned, reduced"
        monkeypatch.delitem(ForkingPickler._extra_reducers, Registered)
        queue.put(Registered("put"))
        assert queue.get().text == "put"


@pytest.mark.parametrize("what", ["Lock", "Event", "Semaphore", "Condition", "Queue", "Value", "Array"])
def test_what_is_only_inherited_is_refused_at_the_put_and_in_the_future(make: Make, what: str) -> None:
    queue = make(slots=4, slot_size=4096)
    thing = getattr(multiprocessing, what)(*{"Value": ("i",), "Array": ("i", 3)}.get(what, ()))
    with pytest.raises(RuntimeError, match="inheritance"):
        queue.put([thing])
    assert queue.empty()
    with shmq.Executor(1) as pool:
        with pytest.raises(RuntimeError, match="inheritance"):
            pool.submit(repr, thing).result(60)
        assert pool.submit(abs, -1).result(60) == 1


def test_plain_values_of_ctypes_travel_also_beside_shared_ones(make: Make) -> None:
    queue = make(slots=4, slot_size=4096)
    shared = multiprocessing.RawValue("i", 3)  # from now on multiprocessing.Queue takes no c_int any more
    queue.put([ctypes.c_int(4)])
    assert queue.get()[0].value == 4
    with shmq.Executor(1) as pool:
        assert pool.submit(ctypes.c_int, 5).result(60).value == 5
    with pytest.raises(RuntimeError, match="inheritance"):
        queue.put([shared])


def first_byte(memory: shared_memory.SharedMemory) -> int:
    byte = memory.buf[0]
    memory.buf[0] = 8
    memory.close()
    return byte


def test_shared_memory_and_proxies_of_managers_are_the_same_at_the_other_end(make: Make) -> None:
    queue = make(slots=4, slot_size=4096)
    memory = shared_memory.SharedMemory(create=True, size=16)
    memory.buf[0] = 7
    try:
        queue.put(memory)
        got = queue.get()
        assert got.buf[0] == 7
        got.close()
        with shmq.Executor(1, "fork") as pool:
            assert pool.submit(first_byte, memory).result(60) == 7
        assert memory.buf[0] == 8
    finally:
        memory.close()
        memory.unlink()
    with multiprocessing.Manager() as manager, shmq.Executor(1) as pool:
        shared = manager.list()
        pool.submit(shared.append, 1).result(60)
        queue.put(shared)
        queue.get().append(2)
        assert list(shared) == [1, 2]


def halved(array: np.ndarray) -> np.ndarray:
    array //= 2
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("size", [3, 100_000])
def test_arrays_that_may_not_be_written_come_out_as_the_receivers_own(make: Make, size: int) -> None:
    queue = make(slots=4, slot_size=1 << 20)
    sent = np.full(size, 8)
    sent.flags.writeable = False
    queue.put({"inside": sent})
    got = queue.get()["inside"]
    got += 1
    with shmq.Executor(1) as pool:
        result = pool.submit(halved, sent).result(60)
        result += 1
    assert (sent == 8).all() and (got == 9).all() and (result == 5).all()


def test_importing_shmq_loads_neither_multiprocessing_nor_asyncio() -> None:
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import shmq, sys; q = shmq.Queue(slots=2); q.put({1: [2]}); q.get(); q.close(); print(*sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(shmq.__file__))},
    ).stdout.split()
    assert not {"multiprocessing.reduction", "multiprocessing.context", "asyncio", "concurrent.futures"} & set(loaded)
