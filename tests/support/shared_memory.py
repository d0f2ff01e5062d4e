"""What queues leave to see in /dev/shm."""

from __future__ import annotations

import os
import re

import shmq

SHM = "/dev/shm"
PREFIX = f"shmq-{os.geteuid()}."  # what the names of all files of this user's queues begin with; those of semaphores after "sem."


def left_behind_by(pid: int) -> list[str]:
    """Files in shared memory of a queue that this process has named, as anonymous queues and those of these tests are: by the
    first number in the name. Another number there may be the pid of some other process that runs tests."""
    of_pid = re.compile(rf"(?:sem\.)?shmq-\d+\.[a-z-]+[.-]{pid}(?!\d)")
    return sorted(name for name in os.listdir(SHM) if of_pid.match(name))


def side_files(queue: shmq.Queue) -> list[str]:
    """The side segments that messages of a queue have in shared memory."""
    side = re.compile(rf"{re.escape(PREFIX + queue.name)}\+[0-9a-f]{{16}}\.[0-9a-f]{{16}}")
    return sorted(filter(side.fullmatch, os.listdir(SHM)))


def files_of(name: str) -> list[str]:
    return sorted(file for file in os.listdir("/dev/shm") if name in file)
