"""Child processes under a watchdog, and what can be seen of a process."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

import shmq

WATCHDOG = 120.0  # seconds: no test waits longer, for anything; one that does is ended by faulthandler_timeout


class Children:
    """Child processes of one start method, joined or killed within the watchdog."""

    def __init__(self, method: str) -> None:
        self.context = multiprocessing.get_context(method)
        self.started: list[Any] = []

    def start(self, target: Callable[..., object], *arguments: object) -> Any:
        if self.context.get_start_method() != "fork":
            target, arguments = call_pickled, (pickled_whole(target), *arguments)
        process = self.context.Process(target=target, args=arguments)
        process.start()
        self.started.append(process)
        return process

    def join(self) -> None:
        """Wait for all; each must end with status 0."""
        deadline = time.monotonic() + WATCHDOG / 2
        for process in self.started:
            process.join(max(deadline - time.monotonic(), 0))
        codes = [process.exitcode for process in self.started]
        self.kill()
        assert all(code == 0 for code in codes), f"exit codes {codes}"

    def kill(self) -> None:
        for process in self.started:
            if process.is_alive():
                process.kill()
            process.join()
        self.started.clear()


def pickled_whole(function: Callable[..., object]) -> bytes:
    """A function of a test module with all that it uses of that module: a child need not import it, and with it pytest."""
    module = sys.modules[function.__module__]
    cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(function)
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def call_pickled(function: bytes, *arguments: object) -> None:
    pickle.loads(function)(*arguments)


def wait_until(condition: Callable[[], object], seconds: float = WATCHDOG / 4) -> None:
    """Look again and again until the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def is_stopped(pid: int) -> bool:
    """Has SIGSTOP had its effect?"""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def session_of(leader: int) -> list[int]:
    """The processes of a session that are there, its leader among them."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            state, _, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state != "Z":
            found.append(int(pid))
    return found


def survivors_of(leader: int, seconds: float = 5.0) -> list[int]:
    """Those that are still there so many seconds after their leader has ended."""
    deadline = time.monotonic() + seconds
    while (found := session_of(leader)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def receive_and_stay(queue: shmq.Queue, ready: shmq.Queue) -> None:
    """The body of a child: take a message, say so, and keep it."""
    lease = queue.receive()
    ready.put(os.getpid())
    time.sleep(WATCHDOG)
    lease.ack()


def reap_all(queue: shmq.Queue) -> None:
    """Until nobody dead is left: by us, or by another process of this user (a doctor looks at all queues)."""

    def nobody_dead() -> bool:
        queue._reap()
        return all(alive for _, _, _, alive, _ in queue._ports())

    wait_until(nobody_dead)


def descriptors(pid: int | str = "self") -> dict[int, str]:
    """What each descriptor of a process leads to.

    In this process garbage is collected first: what an earlier test left may still have some, and gives them back at any moment.
    """
    if pid == "self":
        gc.collect()
    found = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(number)] = os.readlink(f"/proc/{pid}/fd/{number}")
        except FileNotFoundError:
            pass  # the one that lists
    return found
