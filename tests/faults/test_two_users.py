"""Two users on one machine: each has its own queues, and none can do anything to the other's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

import shmq
from shmq._repair import repair
from support.forked import succeeded
from support.shared_memory import SHM
from support.users import STRANGER, needs_two_users, stranger

__all__ = ["stranger"]

pytestmark = needs_two_users
Stranger = Callable[..., Any]


def names_of(name: str) -> list[str]:
    return [entry for entry in os.listdir(SHM) if name in entry]


def put_and_get(name: str) -> tuple[list[str], Any]:
    """As another user: a queue of that name, which is there afterwards."""
    with shmq.Queue(name, slots=8, slot_size=64) as queue:
        queue.put("the stranger's")
        listed = [there for there in shmq.list_segments() if there == name]
        return listed, queue.get(timeout=0)


def test_two_users_have_a_queue_each_of_the_same_name(name: str, stranger: Stranger) -> None:
    with shmq.Queue(name, slots=4, slot_size=128) as queue:
        queue.put("mine")
        assert stranger(put_and_get, name) == ([name], "the stranger's")
        assert queue.get(timeout=0) == "mine"
        assert queue.empty()
    assert any(entry.startswith(f"shmq-{STRANGER}.") for entry in names_of(name))


def test_unlink_and_doctor_leave_the_same_name_of_another_user_alone(name: str, stranger: Stranger) -> None:
    stranger(put_and_get, name)
    theirs = names_of(name)
    assert theirs
    assert name not in shmq.list_segments()
    with pytest.raises(shmq.SegmentNotFound):
        shmq.unlink(name)
    (finding,) = repair([name])
    assert finding.level == "error" and f"user {STRANGER}" in finding.text  # that there is no queue of ours, and whose there is
    shmq.Queue(name).close()
    shmq.unlink(name)
    assert names_of(name) == theirs
    stranger(shmq.unlink, name)
    assert names_of(name) == []


def test_a_forked_child_that_changes_its_user_has_an_identity_of_that_user(name: str, stranger: Stranger) -> None:
    shmq.Queue(name).close()  # this process has opened root's lock file, and the child inherits it
    stranger(put_and_get, name)
    assert stranger(put_and_get, name) == ([name], "the stranger's"), "the second child finds what the first one has made"


def put_after_becoming_another(name: str) -> str:
    """As another user: open a queue, and become a third user with it."""
    os.setresuid(STRANGER, STRANGER, STRANGER)
    try:
        shmq.Queue(f"{name}.other")
    except shmq.ShmqError as error:
        return str(error)
    return "opened"


def test_a_process_that_changes_its_user_with_queues_open_is_told_so(name: str) -> None:
    def become_another() -> None:
        with shmq.Queue(name):
            assert f"before it became user {STRANGER}" in put_after_becoming_another(name)

    assert succeeded(become_another)
