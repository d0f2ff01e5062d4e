"""Kinds of segments: one that is made for these tests is attached, waited for, reaped, listed and examined like a queue.

A board holds one number behind its ports. Whoever raises it wakes everybody who waits for it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import shmq
from shmq import _core
from shmq._core import Mapped
from shmq._observe import doctor
from shmq._observe.look import look
from shmq._repair import repair
from shmq._segment import entries, files, lifecycle, listing, semaphores
from shmq._segment.config import Config
from shmq._segment.kinds import KINDS, Kind, register
from shmq._segment.segment import SIDES, Segment, boot_id, file_of
from shmq._segment.shared_memory import SEMAPHORE, SEPARATOR
from shmq._waiting.bell import ITEMS, wait_many
from shmq._waiting.handles import ListeningHandles
from shmq.cli._group import group
from support.processes import Children

if TYPE_CHECKING:
    from shmq._segment.config import Header

NUMBER = 77
PORTS = 3
AT = 1024 + 128 * PORTS  # where the number is


class BoardLook(Mapped):
    """Looks at a board."""


class Board(_core.Attachment):
    """A port of a board."""

    _noun = "board"

    def __init__(self, segment: Segment) -> None:
        self.seen = 0
        self._open(segment)

    def _attached(self) -> None:
        self._listening_handles = ListeningHandles()

    def _inspect(self, segment: Segment) -> Board:
        return Board(segment)

    def _unfinished(self) -> int:
        return 0

    @property
    def number(self) -> int:
        return int.from_bytes(memoryview(self.segment.memory)[AT : AT + 8], "little")

    def raise_number(self) -> None:
        memoryview(self.segment.memory)[AT : AT + 8] = (self.number + 1).to_bytes(8, "little")
        self._wake_all(ITEMS)

    def _ready(self) -> bool:
        return self.number > self.seen


def describe(memory: _core.Mapping, header: Header) -> Config:
    return Config({})


BOARD = Kind(NUMBER, "board", describe, BoardLook)


@pytest.fixture
def kind() -> Iterator[Kind]:
    yield register(BOARD)
    KINDS.pop(NUMBER, None)


def lay_out(name: str) -> None:
    """What lifecycle.make does for a queue."""
    header: Header = {"creator_pid": os.getpid(), "boot_id": boot_id(), "flags": 0, "nonce": 0xB0A4D, "ports": PORTS}
    memory = files.make_file(file_of(name), 4096)
    _core.begin_segment(memory, NUMBER, header)
    for side in SIDES:
        semaphores.make_semaphore(f"/{file_of(name)}{SEPARATOR}{header['nonce']:016x}.{side}")
    _core.mark_ready(memory)


@pytest.fixture
def board(kind: Kind, name: str) -> Iterator[Callable[[], Board]]:
    lay_out(name)
    yield lambda: Board(lifecycle.attach(name, kind))
    lifecycle.remove(name)


def raise_once(name: str) -> None:
    register(BOARD)
    Board(lifecycle.attach(name, BOARD)).raise_number()


def attach_and_die(name: str) -> None:
    register(BOARD)
    keep = Board(lifecycle.attach(name, BOARD))
    assert not keep.closed
    os.kill(os.getpid(), signal.SIGKILL)


def run(*arguments: str) -> str:
    return CliRunner().invoke(group, arguments).output


# -- a kind that is known ------------------------------------------------------------------------------------------------------


def test_another_kind_is_attached_and_left(board: Callable[[], Board]) -> None:
    first, second = board(), board()
    assert [port.pid for port in first._ports()] == [os.getpid()] * 2
    second.close()
    assert len(first._ports()) == 1
    with pytest.raises(shmq.Closed, match="this handle of board"):
        second._watch()
    first.close()


def test_another_kind_says_who_has_its_ports(board: Callable[[], Board]) -> None:
    handles = [board() for _ in range(PORTS)]
    with pytest.raises(shmq.TooManyPorts, match=f"pid {os.getpid()}.*create the board with a larger ports="):
        board()
    for handle in handles:
        handle.close()


def test_another_kind_wakes_who_waits_for_it(board: Callable[[], Board], name: str, children: Children) -> None:
    waiter = board()
    assert wait_many([waiter], timeout=0.01) == ([], [])
    children.start(raise_once, name)
    assert wait_many([waiter], timeout=60) == ([waiter], [])
    assert waiter.number == 1
    waiter.close()


def test_one_waits_for_another_kind_and_a_queue_at_once(board: Callable[[], Board], queue: shmq.Queue) -> None:
    waiter = board()
    queue.put("x")
    assert wait_many([waiter, queue], timeout=60)[0] == [queue]
    waiter.close()


def test_ports_of_the_dead_of_another_kind_are_reaped(board: Callable[[], Board], name: str, children: Children) -> None:
    waiter = board()
    children.start(attach_and_die, name).join()
    assert len(waiter._ports()) == 2
    assert waiter._reap() == 1
    assert len(waiter._ports()) == 1
    waiter.close()


def test_another_kind_is_listed_with_its_ports(board: Callable[[], Board], name: str) -> None:
    handle = board()
    assert name in shmq.list_segments()
    assert listing.memory_of_all()[name] >= 4096
    sight = look(name)
    assert (sight.state, type(sight.observer)) == ("usable", BoardLook)
    assert f"1/{PORTS}" in run("ls") and f"pid {os.getpid()}" in run("ls")
    handle.close()


def test_the_doctor_looks_at_another_kind(board: Callable[[], Board], name: str, children: Children) -> None:
    assert doctor.examine([name]) == []
    dead = children.start(attach_and_die, name)
    dead.join()
    assert [finding.text for finding in doctor.examine([name])] == [f"1 process (pid {dead.pid}) had died"]
    assert [finding.level for finding in repair([name])] == ["repairable"]
    assert [finding.level for finding in repair([name])] == ["repairable"]


def test_the_doctor_restores_the_semaphores_of_another_kind(board: Callable[[], Board], name: str) -> None:
    entries.remove(f"{SEMAPHORE}{file_of(name)}{SEPARATOR}{0xB0A4D:016x}.items")
    assert "items" in repair([name])[0].text
    board().close()


def test_a_queue_is_not_opened_where_another_kind_is(board: Callable[[], Board], name: str) -> None:
    for opener in (shmq.Queue, shmq.Queue.attach):
        with pytest.raises(shmq.SegmentMismatch, match=f"{name!r} is a board, and no queue"):
            opener(name)
    with pytest.raises(shmq.SegmentExists):
        shmq.Queue.create(name)


def test_another_kind_is_unlinked(board: Callable[[], Board], name: str) -> None:
    shmq.unlink(name)
    assert name not in shmq.list_segments()
    assert entries.list_files(file_of(name), f"{SEMAPHORE}{file_of(name)}") == []


# -- a kind that is not --------------------------------------------------------------------------------------------------------


@pytest.fixture
def unknown(name: str) -> Iterator[str]:
    lay_out(name)
    yield name
    lifecycle.remove(name)


@pytest.mark.parametrize("opener", [shmq.Queue, shmq.Queue.attach, shmq.Queue.create])
def test_an_unknown_kind_is_refused_with_what_is_known_and_what_to_do(unknown: str, opener: Callable[[str], shmq.Queue]) -> None:
    with pytest.raises(shmq.SegmentMismatch) as refused:
        opener(unknown)
    assert str(refused.value) == (
        f"segment {unknown!r} cannot be used: it holds something of kind {NUMBER}, which this version of shmq does not know: "
        "it knows queue (1). Use the version that made it; or, when no program uses it any more, remove it with `shmq unlink`"
    )


def test_an_unknown_kind_is_listed_as_such(unknown: str, queue: shmq.Queue) -> None:
    assert {unknown, queue.name} <= set(shmq.list_segments())
    assert look(unknown).state == "unknown kind"
    shown = run("ls")
    assert f"unknown kind: it holds something of kind {NUMBER}" in shown and queue.name in shown


def test_the_doctor_says_that_a_kind_is_unknown_and_goes_on(unknown: str, queue: shmq.Queue) -> None:
    for examine in (doctor.examine, repair):
        findings = [finding for finding in examine([unknown, queue.name]) if finding.subject in (unknown, queue.name)]
        assert [(finding.level, finding.subject) for finding in findings] == [("error", unknown)]
        assert findings[0].text.startswith(f"unknown kind: it holds something of kind {NUMBER}")


def test_an_unknown_kind_is_unlinked_with_its_semaphores(unknown: str) -> None:
    shmq.unlink(unknown)
    assert entries.list_files(file_of(unknown), f"{SEMAPHORE}{file_of(unknown)}") == []
