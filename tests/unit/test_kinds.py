"""Kinds of segments: one that is made for these tests is made, attached, waited for, reaped, listed and examined like a queue.

A board holds one number behind its ports. Whoever raises it wakes everybody who waits for it. It is made with a first number and
a unit, which it keeps behind the number, and with a file of notes beside it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import shmq
from shmq import _core
from shmq._core import Mapped
from shmq._observe import doctor
from shmq._observe.look import look
from shmq._repair import repair
from shmq._segment import anonymous, entries, files, lifecycle, listing
from shmq._segment.config import Config, Value, Word, one_of, whole
from shmq._segment.kinds import KINDS, Kind, register
from shmq._segment.queue import QUEUE
from shmq._segment.segment import SIDES, Segment, file_of
from shmq._segment.shared_memory import SEMAPHORE
from shmq._waiting.bell import ITEMS, wait_many
from shmq._waiting.handles import ListeningHandles
from shmq.cli._group import group
from support.processes import Children, wait_until

if TYPE_CHECKING:
    from shmq._segment.config import Header

NUMBER = 77
PORTS = 3
AT = 1024 + 128 * PORTS  # where the number is, and behind it what a board was made with
NBYTES = 4096
MOST = 1000


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

    def _detached(self) -> None:
        lifecycle.remove_if_over(self.segment)

    def raise_number(self) -> None:
        memoryview(self.segment.memory)[AT : AT + 8] = (self.number + 1).to_bytes(8, "little")
        self._wake_all(ITEMS)

    def _ready(self) -> bool:
        return self.number > self.seen


class BoardConfig(Config):
    """What a board was, or is to be, made with."""

    noun = "board"

    first = Value(whole(0), Word("first"), 0)
    unit = Value(one_of("apples", "pears"), Word("unit"), "apples")


class BoardKind(Kind[BoardConfig]):
    """Segments that hold a board."""

    number = NUMBER
    config = BoardConfig
    observer = BoardLook
    beside = ("notes",)

    def nbytes(self, config: BoardConfig) -> int:
        if config.first > MOST:
            raise ValueError(f"a board begins with {MOST} at most, not with {config.first}")
        return NBYTES

    def shape(self, config: BoardConfig) -> str:
        return f"a board of {config.unit}"

    def lay_out(self, memory: _core.Mapping, header: Header) -> None:
        super().lay_out(memory, header)
        for place, number in enumerate((header["first"], header["first"], header["unit"] == "pears")):
            memoryview(memory)[AT + 8 * place : AT + 8 * place + 8] = number.to_bytes(8, "little")

    def make_beside(self, beside: str, config: BoardConfig) -> None:
        files.write_file(f"{beside}.notes", [memoryview(b"none yet")])

    def config_of(self, memory: _core.Mapping, header: Header) -> BoardConfig:
        _, first, pears = (int.from_bytes(memoryview(memory)[AT + at : AT + at + 8], "little") for at in (0, 8, 16))
        return BoardConfig.found({**header, "first": first, "unit": "pears" if pears else "apples"})


BOARD = BoardKind()


def board_of(**values: Any) -> BoardConfig:
    return BoardConfig.asked({"ports": PORTS, **values})


@pytest.fixture
def kind() -> Iterator[BoardKind]:
    yield register(BOARD)
    KINDS.pop(NUMBER, None)


@pytest.fixture
def made(kind: BoardKind, name: str) -> Iterator[Segment]:
    """A segment that holds a board."""
    yield lifecycle.create(name, kind, board_of())
    lifecycle.remove(name)


@pytest.fixture
def board(made: Segment) -> Callable[[], Board]:
    """Opens it once more."""
    return lambda: Board(lifecycle.attach(made.name, BOARD))


def everything_of(name: str) -> list[str]:
    """The names of all files of this segment, the ends of those beside it without its nonce."""
    there = [file.partition("+") for file in entries.list_files(file_of(name), f"{SEMAPHORE}{file_of(name)}")]
    return sorted(end.rpartition(".")[2] or "segment" for of, _, end in there if of.removeprefix(SEMAPHORE) == file_of(name))


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


def test_the_port_of_a_kind_stands_on_an_attachment_and_nothing_stands_between() -> None:
    assert _core.QueuePort.__bases__ == (_core.Attachment,) == Board.__bases__
    assert _core.QueuePort.__subclasses__() == [_core.QueueHandle]


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
    entries.remove(f"{SEMAPHORE}{lifecycle.attach(name, BOARD).file('items')}")
    assert "items" in repair([name])[0].text
    board().close()


def test_a_queue_is_not_opened_where_another_kind_is(board: Callable[[], Board], name: str) -> None:
    for opener in (shmq.Queue, shmq.Queue.attach):
        with pytest.raises(shmq.SegmentMismatch, match=f"{name!r} is a board, and no queue"):
            opener(name)
    with pytest.raises(shmq.SegmentExists):
        shmq.Queue.create(name)


def test_another_kind_is_unlinked(board: Callable[[], Board], name: str) -> None:
    assert everything_of(name) == sorted(["segment", "notes", *SIDES])
    shmq.unlink(name)
    assert name not in shmq.list_segments()
    assert everything_of(name) == []


# -- its life ------------------------------------------------------------------------------------------------------------------


def test_another_kind_is_made_with_its_values(made: Segment, name: str) -> None:
    assert made.made and (made.config.first, made.config.unit, made.ports) == (0, "apples", PORTS)
    lifecycle.remove(name)
    other = lifecycle.create(name, BOARD, board_of(first=7, unit="pears"))
    assert Board(other).number == 7
    found = lifecycle.attach(name, BOARD)
    assert (found.kind, found.made, found.nonce) == (BOARD, False, other.nonce)
    assert (found.config.first, found.config.unit, found.lifetime) == (7, "pears", "persistent")


def test_a_kind_names_the_files_that_it_makes(made: Segment, name: str) -> None:
    assert everything_of(name) == sorted(["segment", *SIDES, *BOARD.beside])
    lifecycle.remove(name)
    shmq.Queue.create(name, overflow="grow").close()
    assert everything_of(name) == sorted(["segment", *SIDES, *QUEUE.beside])


def test_another_kind_is_made_once(made: Segment, name: str) -> None:
    with pytest.raises(shmq.SegmentExists, match=name):
        lifecycle.create(name, BOARD, board_of())


def test_another_kind_is_opened_where_it_is_and_made_where_it_is_not(kind: BoardKind, name: str) -> None:
    made = lifecycle.open_or_create(name, kind, board_of(first=7))
    for config in (board_of(first=7), board_of(), BoardConfig({})):
        found = lifecycle.open_or_create(name, kind, config)
        assert (made.made, found.made, found.nonce) == (True, False, made.nonce)
    lifecycle.remove(name)


def test_opening_another_kind_with_other_values_tells_each_of_them(made: Segment, name: str) -> None:
    with pytest.raises(shmq.SegmentMismatch) as refused:
        lifecycle.open_or_create(name, BOARD, BoardConfig.asked({"first": 7, "unit": "pears", "ports": 5}))
    assert str(refused.value) == (
        f"board {name!r} exists with other values: first is 0, asked for 7; unit is 'apples', asked for 'pears'; ports is 3, "
        f"asked for 5. Leave a parameter out to take what the board has, or open it with Board.attach({name!r}); to make it "
        f"again, without the messages that are in it, remove it first (`shmq unlink {name}`)"
    )


def test_what_another_kind_cannot_be_made_with_is_refused_in_its_words(kind: BoardKind, name: str) -> None:
    with pytest.raises(TypeError, match="a board has no parameter 'slots'; there are ports, lifetime, first, unit"):
        BoardConfig.asked({"slots": 3})
    with pytest.raises(ValueError, match='unit must be "apples" or "pears"'):
        BoardConfig.asked({"unit": "plums"})
    with pytest.raises(ValueError, match="a board begins with 1000 at most, not with 1001"):
        lifecycle.create(name, kind, board_of(first=MOST + 1))
    with pytest.raises(ValueError, match="'no name' cannot name a board"):
        lifecycle.create("no name", kind, board_of())
    assert everything_of(name) == []


def test_without_memory_for_another_kind_it_is_said_what_has_no_room(
    kind: BoardKind, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoardKind, "nbytes", lambda self, config: 1 << 50)
    with pytest.raises(shmq.OutOfMemory, match="a board of pears: shmq-"):
        lifecycle.create(name, kind, board_of(unit="pears"))
    assert everything_of(name) == []


def test_another_kind_is_not_opened_where_a_queue_is(kind: BoardKind, queue: shmq.Queue) -> None:
    for opening in (lambda: lifecycle.attach(queue.name, kind), lambda: lifecycle.open_or_create(queue.name, kind, board_of())):
        with pytest.raises(shmq.SegmentMismatch, match=f"{queue.name!r} is a queue, and no board"):
            opening()
    assert lifecycle.attach(queue.name, QUEUE).nonce == queue.segment.nonce


@pytest.mark.parametrize(("lifetime", "after"), [("persistent", 4), ("handles", 0)])
def test_another_kind_goes_with_its_last_handle_where_it_is_to(kind: BoardKind, name: str, lifetime: str, after: int) -> None:
    first = Board(lifecycle.create(name, kind, board_of(lifetime=lifetime)))
    second = Board(lifecycle.attach(name, kind))
    first.close()
    assert len(everything_of(name)) == 4
    second.close()
    assert len(everything_of(name)) == after
    lifecycle.remove(name)


def make_anonymous_and_die(told: Any) -> None:
    register(BOARD)
    told.send(Board(anonymous.create(BOARD, board_of())).name)
    os.kill(os.getpid(), signal.SIGKILL)


def test_another_kind_without_a_name_goes_with_its_creator(kind: BoardKind, children: Children) -> None:
    mine, theirs = (anonymous.create(kind, board_of()), children.context.Pipe())
    told, tell = theirs
    children.start(make_anonymous_and_die, tell).join()
    left = told.recv()
    assert mine.anonymous and mine.lifetime == "creator"
    anonymous.remove_if_left_over(left)  # unless another process of this run is at it now
    wait_until(lambda: everything_of(left) == [])
    assert not anonymous.remove_if_left_over(mine.name) and len(everything_of(mine.name)) == 4
    lifecycle.remove(mine.name)


MOMENTS = {"before it is laid out": "lay_out", "before its files are made": "make_beside", "before it is ready": "mark_ready"}


def die_making(name: str, moment: str) -> None:
    register(BOARD)
    setattr(_core if moment == "mark_ready" else BoardKind, moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    lifecycle.create(name, BOARD, board_of())


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_the_remains_of_another_kind_are_those_of_any(kind: BoardKind, name: str, children: Children, moment: str) -> None:
    children.start(die_making, name, moment).join()
    assert look(name).state == "half-made"
    assert [finding.level for finding in doctor.examine([name])] == ["repairable"] * len(doctor.examine([name]))
    made = lifecycle.open_or_create(name, kind, board_of(first=3))
    assert made.made and Board(made).number == 3
    lifecycle.remove(name)
    repair([name])
    assert everything_of(name) == []
    children.start(die_making, name, moment).join()
    with pytest.raises(shmq.SegmentNotFound, match="only the remains"):
        lifecycle.attach(name, kind)
    children.start(die_making, name, moment).join()
    assert any("that was never finished: removed" in finding.text for finding in repair([name]))
    assert everything_of(name) == []


@pytest.mark.parametrize("moment", ["lay_out", "make_beside", "mark_ready"])
def test_another_kind_that_cannot_be_made_leaves_nothing(
    kind: BoardKind, name: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_core if moment == "mark_ready" else BoardKind, moment, fail)
        with pytest.raises(OSError, match="No space left"):
            lifecycle.create(name, kind, board_of())
    assert everything_of(name) == []


def open_at_once(name: str, barrier: Any, told: Any) -> None:
    register(BOARD)
    barrier.wait(60)
    segment = lifecycle.open_or_create(name, BOARD, board_of(first=7))
    told.put((segment.made, segment.nonce, Board(segment).number))


def test_of_processes_that_open_another_kind_at_once_one_makes_it(kind: BoardKind, name: str, children: Children) -> None:
    barrier, told = children.context.Barrier(PORTS), children.context.Queue()
    for _ in range(PORTS):
        children.start(open_at_once, name, barrier, told)
    answers = [told.get(timeout=60) for _ in range(PORTS)]
    assert sorted(made for made, _, _ in answers) == [False, False, True]
    assert {(nonce, number) for _, nonce, number in answers} == {(lifecycle.attach(name, kind).nonce, 7)}
    children.join()
    lifecycle.remove(name)


def test_the_doctor_removes_what_another_kind_left_that_is_gone(kind: BoardKind, name: str) -> None:
    lifecycle.create(name, kind, board_of())
    os.unlink(f"/dev/shm/{file_of(name)}")
    assert len(everything_of(name)) == 3
    assert [finding.level for finding in repair([name])] == ["repaired"]
    assert everything_of(name) == []


# -- a kind that is not --------------------------------------------------------------------------------------------------------


@pytest.fixture
def unknown(name: str) -> Iterator[str]:
    """A board, which this process does not know."""
    lifecycle.create(name, register(BOARD), board_of())
    KINDS.pop(NUMBER)
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


def test_an_unknown_kind_is_unlinked_with_all_that_lies_beside_it(unknown: str) -> None:
    shmq.unlink(unknown)
    assert everything_of(unknown) == []
