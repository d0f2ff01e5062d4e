"""A descriptor's number is no identity: a program closes what it did not open, and files of its own get the numbers.

No file of the program's is written, read, watched or closed by shmq, and a queue goes on where its own files can still be had.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from faults import run_program

import shmq

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
