"""What another user puts under the names of a queue's files is never read, followed or removed, and no reason to fail.

Each kind of file that stands beside a segment, and each thing that may lie there in its place. Where a file is needed under
that name, its user is told; everything else goes on.
"""

from __future__ import annotations

import os
import pickle
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shmq
from shmq._repair import repair
from shmq._segment import listing, semaphores
from shmq._waiting import bell
from shmq.executor import _board
from support.shared_memory import PREFIX, SHM, side_files
from support.users import STRANGER, as_user, needs_two_users, stranger

__all__ = ["stranger"]

pytestmark = needs_two_users
Stranger = Callable[..., Any]

TRAPS = ["link", "fifo", "folder", "another user's", "open to others", "second name"]
KINDS = ["dead", "side", "backlog", "bell", "workers", "items", "space"]
REFUSED = (shmq.ShmqError, OSError)


class Reached(Exception):
    """What a letter of the stranger's would do to whoever unpickles it."""


def attack() -> None:
    raise Reached


class Poison:
    def __reduce__(self) -> Any:
        return attack, ()


def set_trap(trap: str, path: str, precious: str) -> None:
    """As another user, or, for what only the owner can do, as that one: put something under this path."""
    if trap == "link":
        os.symlink(precious, path)
    elif trap == "fifo":
        os.mkfifo(path, 0o666)
    elif trap == "folder":
        os.mkdir(path, 0o700)
        Path(path, "0000000000000001").write_bytes(pickle.dumps(Poison()))
    elif trap == "second name":
        os.link(precious, path)
    else:
        Path(path).write_bytes(bytes(1 << 16))
        os.chmod(path, 0o666 if trap == "open to others" else 0o600)  # which does not keep root from opening it


def lies_at(path: str) -> tuple[int, int, int, int]:
    found = os.lstat(path)
    return found.st_ino, found.st_mode, found.st_uid, found.st_size


@pytest.fixture
def precious(tmp_path: Path, name: str) -> Iterator[Path]:
    """A file of this user's that a link leads to, on the file system where it can have a second name."""
    path = Path(SHM, f"precious.{name}")
    path.write_bytes(b"precious" * 512)
    path.chmod(0o600)
    yield path
    assert path.read_bytes() == b"precious" * 512
    path.unlink()


def trapped(trap: str, path: str, precious: Path, stranger: Stranger) -> tuple[int, int, int, int]:
    """Set it, and say what is there: a second name of a file of ours, or an open mode, are ours; all else is the stranger's."""
    if trap == "open to others" and path.endswith(".dead"):
        set_trap("folder", path, str(precious))
        os.chmod(path, 0o777)
    elif trap in ("second name", "open to others"):
        set_trap(trap, path, str(precious))
    else:
        stranger(set_trap, trap, path, str(precious))
    return lies_at(path)


def path_of(queue: shmq.Queue, kind: str) -> str:
    beside = queue.segment.beside
    if kind in ("items", "space"):
        return f"{SHM}/sem.{beside}.{kind}"
    return f"{SHM}/{beside}.{ {'side': '0' * 16, 'bell': '0.bell'}.get(kind, kind) }"


def clear(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            os.unlink(f"{path}/{name}")
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("kind", KINDS)
def test_unlink_and_doctor_go_on_over_it_and_leave_it(
    name: str, precious: Path, stranger: Stranger, kind: str, trap: str
) -> None:
    queue = shmq.Queue.create(name, slots=4, slot_size=64, oversize="spill", overflow="grow", ports=4)
    path = path_of(queue, kind)
    clear(path)
    there = trapped(trap, path, precious, stranger)
    theirs = there[2] == STRANGER
    try:
        repair([name])
        if theirs:
            assert lies_at(path) == there
        queue.close()
        shmq.unlink(name)  # does not raise half way …
        left = {entry for entry in os.listdir(SHM) if name in entry and not entry.startswith("precious")}
        assert left == ({os.path.basename(path)} if theirs else set())  # … nor leave anything but what is not ours
        if theirs:
            assert lies_at(path) == there
    finally:
        clear(path)


@pytest.mark.parametrize("trap", TRAPS)
def test_a_file_with_any_name_beside_a_segment_is_no_reason_to_fail(
    name: str, precious: Path, stranger: Stranger, trap: str
) -> None:
    queue = shmq.Queue.create(name, slots=4, slot_size=64)
    paths = [f"{SHM}/{PREFIX}{name}+zzz", f"{SHM}/sem.{PREFIX}{name}+zzz", f"{SHM}/{PREFIX}{name}+zzz.dead"]
    for path in paths:
        trapped(trap, path, precious, stranger)
    try:
        assert name in shmq.list_segments()
        listing.memory_of_all()
        repair([name])
        queue.close()
        shmq.unlink(name)
        assert not os.path.exists(f"{SHM}/{PREFIX}{name}")
    finally:
        for path in paths:
            clear(path)


@pytest.mark.parametrize("trap", TRAPS)
def test_letters_that_others_may_have_written_are_not_read_and_that_is_said(
    name: str, precious: Path, stranger: Stranger, trap: str, caplog: pytest.LogCaptureFixture
) -> None:
    with shmq.Queue.create(name, slots=4, slot_size=64, max_deliveries=1) as queue:
        path = path_of(queue, "dead")
        clear(path)
        there = trapped(trap, path, precious, stranger)
        try:
            assert list(queue.dead_letters) == [] and len(queue.dead_letters) == 0 and queue.stats().dead_letters == 0
            assert queue.redrive() == 0 and queue.dead_letters.purge() == 0
            queue.put("mine")
            queue.receive(timeout=0).nack()
            assert "cannot be written" in caplog.text and os.path.basename(path) in caplog.text
            assert queue.stats().returned == 1  # kept, and tried again
            assert lies_at(path) == there
        finally:
            clear(path)
        assert queue._dead_letter_all() in (0, 1)
        queue.purge()
    shmq.unlink(name)


@pytest.mark.parametrize("trap", ["link", "fifo", "folder", "open to others", "second name"])
def test_a_letter_that_is_not_as_it_was_written_is_not_read(name: str, precious: Path, stranger: Stranger, trap: str) -> None:
    with shmq.Queue.create(name, slots=4, slot_size=64, max_deliveries=1) as queue:
        queue.put("mine")
        queue.receive(timeout=0).nack()
        (letter,) = queue.dead_letters
        path = f"{path_of(queue, 'dead')}/{letter.id + 1:016x}"
        set_trap(trap, path, str(precious))
        assert [found.data for found in queue.dead_letters] == ["mine"]
        assert queue.redrive() == 1 and queue.get(timeout=0) == "mine"
        clear(path)
    shmq.unlink(name)


@pytest.mark.parametrize("trap", TRAPS)
def test_a_side_segment_that_is_not_ours_is_a_lost_payload(name: str, precious: Path, stranger: Stranger, trap: str) -> None:
    with shmq.Queue.create(name, slots=4, slot_size=64, oversize="spill") as queue:
        queue.put(b"x" * 1000)
        (side,) = side_files(queue)
        os.unlink(f"{SHM}/{side}")
        trapped(trap, f"{SHM}/{side}", precious, stranger)
        with pytest.raises(shmq.PayloadLost):
            queue.get(timeout=0)
        clear(f"{SHM}/{side}")
        queue.put(b"y" * 1000)
        assert queue.get(timeout=0) == b"y" * 1000
    shmq.unlink(name)


@pytest.mark.parametrize("trap", TRAPS)
def test_a_put_takes_another_name_where_that_of_its_side_segment_is_taken(
    name: str, precious: Path, stranger: Stranger, trap: str
) -> None:
    with shmq.Queue.create(name, slots=4, slot_size=64, oversize="spill") as queue:
        queue.put(b"x" * 1000)
        (first,) = side_files(queue)
        beside, _, key = first.rpartition(".")
        taken = [f"{SHM}/{beside}.{int(key, 16) + step:016x}" for step in (1, 2)]
        for path in taken:
            trapped(trap, path, precious, stranger)
        queue.put(b"y" * 1000)
        assert queue.drain() == [b"x" * 1000, b"y" * 1000]
        for path in taken:
            clear(path)
    shmq.unlink(name)


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("kind", ["backlog", "items", "space"])
def test_a_process_that_attaches_is_told_what_is_in_the_way(
    name: str, precious: Path, stranger: Stranger, kind: str, trap: str
) -> None:
    queue = shmq.Queue.create(name, slots=4, slot_size=64, overflow="grow", ports=4)
    path = path_of(queue, kind)
    clear(path)
    trapped(trap, path, precious, stranger)
    try:
        with pytest.raises(REFUSED) as refused:
            shmq.Queue.attach(name)
        assert os.path.basename(path) in str(refused.value)
        assert queue.stats().ports == 1
        queue.put("goes on")
        assert queue.get(timeout=0) == "goes on"
    finally:
        clear(path)
        queue.close()
        shmq.unlink(name)


@pytest.mark.parametrize("trap", TRAPS)
def test_a_listener_is_told_what_is_in_the_place_of_its_bell(name: str, precious: Path, stranger: Stranger, trap: str) -> None:
    with shmq.Queue.create(name, slots=4, slot_size=64, ports=4) as queue:
        path = path_of(queue, "bell")
        there = trapped(trap, path, precious, stranger)
        try:
            if there[2] == STRANGER:
                with pytest.raises(shmq.SegmentForeign, match=r"0\.bell in /dev/shm is another user's"):
                    bell.Listener(queue)
                assert lies_at(path) == there
            else:  # what is ours is taken away
                bell.Listener(queue).close()
                assert stat.S_ISFIFO(os.lstat(path).st_mode)
            queue.put("goes on")
            assert queue.get(timeout=0) == "goes on"
        finally:
            if there[2] == STRANGER:
                clear(path)
    shmq.unlink(name)


@pytest.mark.parametrize("trap", TRAPS)
def test_a_producer_does_not_ring_what_is_no_bell_of_ours(name: str, precious: Path, stranger: Stranger, trap: str) -> None:
    with shmq.Queue.create(name, slots=4, slot_size=64, ports=4) as queue, shmq.Queue.attach(name) as other:
        listener = bell.Listener(queue)
        path = path_of(queue, "bell")
        clear(path)
        there = trapped(trap, path, precious, stranger)
        try:
            listener.arm(bell.ITEMS)
            other.put("x")  # would ring
            assert lies_at(path) == there
            assert queue.get(timeout=0) == "x"
        finally:
            clear(path)
            listener.close()
    shmq.unlink(name)


@pytest.mark.parametrize("trap", TRAPS)
def test_a_board_that_is_not_ours_is_refused(name: str, precious: Path, stranger: Stranger, trap: str) -> None:
    with shmq.Queue.create(name, slots=4, slot_size=64) as queue:
        path = path_of(queue, "workers")
        there = trapped(trap, path, precious, stranger)
        with pytest.raises(REFUSED) as refused:
            _board.Board(queue)
        assert os.path.basename(path) in str(refused.value)
        assert lies_at(path) == there
        clear(path)
    shmq.unlink(name)


@pytest.mark.parametrize("trap", TRAPS)
def test_a_segment_that_is_not_ours_is_refused_and_left(name: str, precious: Path, stranger: Stranger, trap: str) -> None:
    path = f"{SHM}/{PREFIX}{name}"
    there = trapped(trap, path, precious, stranger)
    try:
        for form in (shmq.Queue, shmq.Queue.create, shmq.Queue.attach):
            with pytest.raises(REFUSED) as refused:
                form(name)
            assert name in str(refused.value)
        if there[2] == STRANGER:
            assert name not in shmq.list_segments()
            with pytest.raises(shmq.SegmentForeign):
                shmq.unlink(name)
        assert lies_at(path) == there
    finally:
        clear(path)


def open_a_queue() -> str:
    """What is said where something else lies in the place of the lock file."""
    try:
        shmq.Queue(slots=1, slot_size=16)
    except REFUSED as error:
        return str(error)
    return "opened"


@pytest.mark.parametrize("trap", TRAPS)
def test_a_lock_file_that_is_not_ours_is_refused_and_named(name: str, stranger: Stranger, precious: Path, trap: str) -> None:
    uid = 4_000_000 + os.getpid()  # a user without a lock file
    path = f"{SHM}/.shmq-{uid}.lock"
    if trap in ("second name", "open to others"):
        theirs = f"{SHM}/lock.{name}"
        as_user(uid, Path(theirs).write_bytes, b"")
        as_user(uid, os.chmod, theirs, 0o600)
        as_user(uid, set_trap, trap, path, theirs)
        clear_later = [path, theirs]
    else:
        stranger(set_trap, trap, path, str(precious))
        clear_later = [path]
    there = lies_at(path)
    try:
        said = as_user(uid, open_a_queue)
        assert path in said
        assert lies_at(path) == there
    finally:
        for left in clear_later:
            clear(left)


def test_a_semaphore_of_another_user_is_not_opened_even_with_an_open_mode(name: str, stranger: Stranger) -> None:
    queue = shmq.Queue.create(name, slots=4, slot_size=64, ports=4)
    path = path_of(queue, "items")
    os.unlink(path)
    stranger(semaphores.make_semaphore, f"/{queue.segment.beside}.items")
    os.chmod(path, 0o666)
    try:
        with pytest.raises(shmq.SegmentForeign, match="items"):
            shmq.Queue.attach(name)
        found = repair([name])
        assert any(finding.level == "error" and "items" in finding.text for finding in found)
        assert os.lstat(path).st_uid == STRANGER
    finally:
        queue.close()
        shmq.unlink(name)
        clear(path)


def test_nothing_of_another_user_blocks_whoever_looks(name: str, stranger: Stranger) -> None:
    """A FIFO that nobody writes to would block a plain open for ever."""
    queue = shmq.Queue.create(name, slots=4, slot_size=64, oversize="spill")
    for kind in ("dead", "workers"):
        clear(path_of(queue, kind))
        stranger(os.mkfifo, path_of(queue, kind), 0o666)
    looked = threading.Thread(target=lambda: (repair([name]), queue.stats(), list(queue.dead_letters)))
    looked.start()
    looked.join(30)
    assert not looked.is_alive()
    queue.close()
    shmq.unlink(name)
    for kind in ("dead", "workers"):
        clear(path_of(queue, kind))


def test_another_user_does_not_see_what_is_in_the_files(name: str, stranger: Stranger) -> None:
    with shmq.Queue.create(name, slots=4, slot_size=64, oversize="spill", overflow="grow", max_deliveries=1) as queue:
        queue.put(b"x" * 1000)
        queue.put("y")
        queue.receive(timeout=0).nack()
        entries = [entry for entry in os.listdir(SHM) if name in entry]
        assert len(entries) == 6  # segment, two semaphores, backlog, side segment, and the folder of dead letters
        for entry in entries:
            look = os.listdir if entry.endswith(".dead") else Path.read_bytes
            with pytest.raises(PermissionError):
                stranger(look, Path(SHM, entry))
        queue.purge()
    shmq.unlink(name)
