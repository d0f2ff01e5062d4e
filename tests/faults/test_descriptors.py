"""A descriptor's number is no identity: a program closes what it did not open, and files of its own get the numbers.

No file of the program's is written, read, watched or closed by shmq, and a queue goes on where its own files can still be had.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import shmq
from support.programs import run_program

Make = Callable[..., shmq.Queue]

TAKES_THE_NUMBERS = """
import os, sys, shmq
q = shmq.Queue.attach(sys.argv[1])
q.put_many(list(range(10)))
os.closerange(3, 256)
files = [open(f"{sys.argv[2]}/mine{n}", "w+b", buffering=0) for n in range(40)]
for file in files:
    file.write(b"mine" * 5000)
if sys.argv[3] == "unlinked":
    shmq.unlink(q.name)
try:
    q.put_many(list(range(10, 20)))
    got = q.drain() + q.drain()
    print(got == list(range(20)))
except shmq.SegmentCorrupt as error:
    print("closed the descriptor" in str(error))
q.close()
del q
import gc
gc.collect()
for file in files:
    file.seek(0)
    assert file.read() == b"mine" * 5000, "another's file was written or closed"
print("done")
"""


@pytest.mark.parametrize("name_is", ["there", "unlinked"])
def test_a_log_whose_descriptor_was_closed_leaves_the_users_file_alone(make: Make, tmp_path: Path, name_is: str) -> None:
    q = make(slots=2, slot_size=64, overflow="grow")
    assert run_program(TAKES_THE_NUMBERS, q.name, tmp_path, name_is).split() == ["True", "done"]


LISTENS = """
import os, sys, threading, time, shmq
a, b = shmq.Queue(), shmq.Queue.attach(sys.argv[1])
for _ in range(2):
    try:
        shmq.wait_any([a, b], timeout=0.05)
    except shmq.Empty:
        pass
os.closerange(3, 256)
files = [open(f"{sys.argv[2]}/mine{n}", "w+b", buffering=0) for n in range(40)]
for file in files:
    file.write(b"mine" * 100)
r, w = os.pipe()
os.write(w, b"hello")
try:
    shmq.wait_any([a, b], timeout=0.05)
except shmq.Empty:
    print("empty")
threading.Timer(0.1, a.put, ["x"]).start()
print(shmq.wait_any([b, a], timeout=30) is a, a.get())
print(b.join(0.05))
a.close()
b.close()
del a, b
import gc
gc.collect()
for file in files:
    file.seek(0)
    assert file.read() == b"mine" * 100, "another's file was written or closed"
print(os.read(r, 10).decode())
"""


def test_a_bell_whose_descriptor_was_closed_leaves_the_users_files_alone(make: Make, tmp_path: Path) -> None:
    q = make()
    assert run_program(LISTENS, q.name, tmp_path).split() == ["empty", "True", "x", "True", "hello"]


def test_a_task_goes_on_waiting_when_the_program_closes_the_bells_descriptor(make: Make) -> None:
    q = make()

    async def main() -> None:
        waiting = asyncio.ensure_future(q.aget())
        await asyncio.sleep(0.05)
        waiters = q._loop_waiters[asyncio.get_running_loop()]
        number = waiters.listener.descriptor
        os.close(number)
        r, w = os.pipe()
        os.dup2(r, number)
        os.write(w, b"the program's")
        await asyncio.sleep(0.3)  # longer than the loop's look by the clock
        assert waiters.listener.descriptor != number
        q.put("x")
        assert await waiting == "x"
        await asyncio.sleep(0.05)
        assert os.read(number, 100) == b"the program's"
        for descriptor in {r, w, number}:
            os.close(descriptor)

    asyncio.run(main())


def test_a_mapping_keeps_no_descriptor(make: Make) -> None:
    before = len(os.listdir("/proc/self/fd"))
    queues = [make() for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the lock file, if it is the first queue
    for q in queues:
        q.put(b"x")
        assert q.get() == b"x"
