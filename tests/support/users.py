"""Two users: what a test does as somebody else, in a child process that has dropped to another user's number."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.processes import WATCHDOG
from support.shared_memory import SHM

STRANGER = 65534  # "nobody" where there is one; the kernel asks for no entry in /etc/passwd

# Forked, not started: a process that has dropped its rights may not be able to read the installation.
needs_two_users = pytest.mark.skipif(os.geteuid() != 0, reason="two users: only root may become another user")


def as_user(uid: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, or raises, in a forked child that runs as this user."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(int(WATCHDOG))
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            outcome: Any = True, function(*arguments)
        except BaseException as error:
            error.add_note(traceback.format_exc()) if hasattr(error, "add_note") else None
            outcome = False, error
        try:
            data = pickle.dumps(outcome)
        except BaseException:
            data = pickle.dumps((False, AssertionError(f"does not pickle: {outcome!r}")))
        with open(writing, "wb") as pipe:
            pipe.write(data)
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    assert data, f"the child that ran as user {uid} ended with status {status}"
    good, value = pickle.loads(data)
    if not good:
        raise value
    return value


def remove_files_of(uid: int, part: str) -> None:
    """Remove what this user left in shared memory under a name with this part in it."""
    for entry in os.scandir(SHM):
        if part in entry.name and entry.stat(follow_symlinks=False).st_uid == uid:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


@pytest.fixture
def stranger(name: str) -> Iterator[Callable[..., Any]]:
    """Call a function as another user; what it leaves under this test's name is removed afterwards."""

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        return as_user(STRANGER, function, *arguments)

    yield call
    remove_files_of(STRANGER, name)
