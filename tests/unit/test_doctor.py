"""The doctor: what it finds, what it repairs, what it must leave alone, and how `shmq doctor` tells it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

import shmq
from shmq import _core
from shmq._observe import doctor
from shmq._repair import repair
from shmq.cli._group import group
from support.processes import Children, wait_until
from support.shared_memory import PREFIX, side_files

Make = Callable[..., shmq.Queue]
LONG = 60.0
SHM = "/dev/shm"


def found_about(subject: str) -> list[doctor.Finding]:
    """Other tests run at the same time, and want their leases to end by themselves: of our own queue alone."""
    return repair([subject])


def texts(subject: str) -> str:
    return "\n".join(f"{finding.level}: {finding.text}" for finding in found_about(subject))


def is_gone(name: str) -> bool:
    return texts(name).startswith("error: there is no queue of this name, and nothing left of one")


def files_of(name: str) -> list[str]:
    return sorted(entry for entry in os.listdir(SHM) if f"{PREFIX}{name}" in entry)


def run(*names: str) -> Result:
    return CliRunner().invoke(group, ["doctor", *names], env={"COLUMNS": "400"})


def work(queue: shmq.Queue, ready: Any, how: str) -> None:
    """Get into a state, say so, and wait to be killed."""
    if how == "lease":
        leases = queue.receive_many(3, timeout=LONG)
        assert leases[0].data == 0
    elif how == "loan":
        loan = queue.loan(10)
        assert loan.nbytes == 10
    elif how == "put":
        threading.Thread(target=queue.put, args=(b"x" * 5000,), daemon=True).start()
        wait_until(lambda: queue.stats().waiting_producers)
    elif how == "write and close":
        queue.put(b"x" * 5000)
        queue.close()
    ready.send(how)
    ready.recv()


def start(children: Children, queue: shmq.Queue, how: str) -> Any:
    ours, theirs = children.context.Pipe()
    child = children.start(work, queue, theirs, how)
    assert ours.poll(LONG) and ours.recv() == how
    child.connection = ours
    return child


# -- a healthy queue -----------------------------------------------------------------------------------------------------------


def test_of_a_healthy_queue_in_use_nothing_is_said_and_nothing_changes(make: Make, children: Children) -> None:
    queue = make(slots=8, slot_size=64, oversize="spill", lease_timeout=50)
    queue.put_many([*range(5), b"x" * 5000])
    start(children, queue, "lease")
    loan, lease = queue.loan(3), queue.receive(timeout=0)
    before = queue.stats(), queue.leases(), files_of(queue.name)
    assert found_about(queue.name) == []
    assert (queue.stats(), queue.leases(), files_of(queue.name)) == before
    lease.ack()
    loan.abandon()


# -- what the dead left --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["lease", "loan"])
def test_handles_of_the_dead_are_freed_and_what_they_held_comes_back(make: Make, children: Children, how: str) -> None:
    queue = make(slots=8, slot_size=64)
    queue.put_many(range(4))
    child = start(children, queue, how)
    pid = child.pid
    children.kill()
    assert re.search(rf"repaired: 1 process \(pid {pid}\) had died", texts(queue.name))
    stats = queue.stats()
    assert (stats.ports, stats.leased, stats.loaned, stats.deaths) == (1, 0, 0, 1)
    assert sorted(queue.drain()) == list(range(4))
    assert found_about(queue.name) == []


def test_a_stopped_process_is_not_dead(make: Make, children: Children) -> None:
    queue = make(slots=8, slot_size=64)
    queue.put_many(range(4))
    child = start(children, queue, "lease")
    os.kill(child.pid, signal.SIGSTOP)
    assert found_about(queue.name) == []
    assert queue.stats().leased == 3


def test_leases_whose_time_is_over_are_given_back(make: Make) -> None:
    queue = make(slots=8, slot_size=64)
    queue.put_many(list("abc"))
    late = [queue.receive(timeout=0, lease_timeout=0.001) for _ in range(2)]
    kept = queue.receive(timeout=0, lease_timeout=50)
    time.sleep(0.01)
    assert "repaired: 2 leases over" in texts(queue.name)
    assert sorted(queue.drain()) == ["a", "b"]
    for lease in late:
        with pytest.raises(shmq.LeaseLost):
            lease.ack()
    kept.ack()
    assert found_about(queue.name) == []


def test_what_failed_too_often_is_dead_lettered(make: Make) -> None:
    queue = make(slots=8, slot_size=64, max_deliveries=1)
    queue.put("x")
    queue.receive(timeout=0)  # dropped: it comes back as a failure, and nobody looks
    said = texts(queue.name)
    assert "repaired: 1 message failed too often" in said and "warning: 1 dead letter" in said
    assert [letter.data for letter in queue.dead_letters] == ["x"]
    assert texts(queue.name) == said.partition("\n")[2]  # the letter is still there, and still told


# -- segments that are none ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 100, 4096], ids=["no size", "cut short", "no magic"])
def test_the_remains_of_a_queue_that_was_never_finished_are_removed(name: str, size: int) -> None:
    path = f"{SHM}/{PREFIX}{name}"
    with open(path, "wb") as file:
        file.truncate(size)
    os.chmod(path, 0o600)
    said = texts(name)
    if size == 100:  # nothing says that this was ours
        assert said.startswith("error: mismatch: 100 bytes are too few")
        os.unlink(path)
    else:
        assert said.startswith("repaired: the remains")
        assert not os.path.exists(path) and is_gone(name)


def poke(name: str, offset: int, content: bytes) -> None:
    with open(f"{SHM}/{PREFIX}{name}", "r+b") as file:
        file.seek(offset)
        file.write(content)


def test_a_segment_of_another_boot_is_removed_with_all_that_is_its(name: str) -> None:
    queue = shmq.Queue.create(name, slots=4, slot_size=64, oversize="spill")
    queue.put(b"x" * 1000)
    queue.put(b"x" * 1000)
    queue.receive(timeout=0).reject()
    queue.close()
    poke(name, 88, os.urandom(16))
    assert texts(name).startswith("repaired: the remains")
    assert files_of(name) == []


@pytest.mark.parametrize("offset", [0, 8, 40, 24], ids=["magic", "version", "slots", "nonce"])
def test_a_damaged_header_is_an_error_and_left_alone(name: str, offset: int) -> None:
    shmq.Queue.create(name, slots=4, slot_size=64).close()
    with open(f"{SHM}/{PREFIX}{name}", "rb") as file:
        file.seek(offset)
        before = file.read(4)
    poke(name, offset, b"\x55\x66\x77\x08")
    result = run(name)
    row = next((line for line in result.output.splitlines() if name in line), "")
    if offset != 24:
        assert "error" in row and result.exit_code == 1
        assert os.path.exists(f"{SHM}/{PREFIX}{name}")
    poke(name, offset, before)


def test_a_damaged_queue_is_an_error_and_the_exit_status_says_so(make: Make) -> None:
    queue = make(slots=4, slot_size=64)
    ports, cells = queue.segment.config.ports, queue.segment.config.in_flight + queue.segment.config.ports
    poke(queue.name, 1024 + 128 * ports + 64 * cells, struct.pack("<Q", 3))  # two ring cells name slot 3
    result = run(queue.name)
    assert result.exit_code == 1
    assert "error" in result.output and queue.name in result.output and "damaged" in result.output


def test_something_else_of_that_name_is_an_error_and_left_alone(name: str) -> None:
    os.mkdir(f"{SHM}/{PREFIX}{name}", 0o700)
    with pytest.raises(shmq.SegmentMismatch, match="is a folder"):
        shmq.unlink(name)
    try:
        assert texts(name).startswith("error: mismatch: ")
    finally:
        os.rmdir(f"{SHM}/{PREFIX}{name}")


# -- semaphores ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [("items",), ("space",), ("items", "space")])
def test_semaphores_that_are_gone_are_made_again_and_work(make: Make, gone: tuple[str, ...], children: Children) -> None:
    queue = make(slots=2, slot_size=64)
    for side in gone:
        os.unlink(f"{SHM}/sem.{queue.segment.beside}.{side}")
    with pytest.raises(shmq.SegmentCorrupt, match=f"is gone .*: `shmq doctor {queue.name}` makes a new one"):
        shmq.Queue.attach(queue.name)
    said = texts(queue.name)
    assert said.startswith("repaired: its semaphores") and all(side in said for side in gone)
    assert found_about(queue.name) == []
    with shmq.Queue.attach(queue.name) as one, shmq.Queue.attach(queue.name) as other:
        taken: list[int] = []
        thread = threading.Thread(target=lambda: taken.extend(one.get(timeout=LONG) for _ in range(50)))
        thread.start()
        for number in range(50):
            other.put(number, timeout=LONG)
        thread.join(LONG)
        assert taken == list(range(50))


# -- side segments -------------------------------------------------------------------------------------------------------------


def test_the_side_segment_of_a_writer_that_was_killed_is_removed(make: Make, children: Children) -> None:
    queue = make(slots=1, slot_size=64, oversize="spill")
    queue.put("full")
    start(children, queue, "put")
    assert len(side_files(queue)) == 1
    assert found_about(queue.name) == []  # it lives, and waits in put
    assert len(side_files(queue)) == 1
    children.kill()
    assert "repaired: 1 side segment to which no message leads" in texts(queue.name)
    assert side_files(queue) == []
    assert queue.drain() == ["full"] and found_about(queue.name) == []


def spilled_by_the_dead(queue: shmq.Queue, children: Children) -> None:
    """Whoever wrote it is gone: nothing but the message leads to the side segment."""
    start(children, queue, "write and close")
    children.kill()


PLACES: dict[str, Callable[[shmq.Queue], Any]] = {
    "in the ring": lambda q: None,
    "leased": lambda q: q.receive(timeout=0),
    "leased, timed": lambda q: q.receive(timeout=0, lease_timeout=50),
    "came back": lambda q: q.receive(timeout=0).release(),
    "rests": lambda q: q.receive(timeout=0).release(0.05),
    "a dead letter": lambda q: q.receive(timeout=0).reject(),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_the_side_segment_of_a_message_is_kept(make: Make, children: Children, place: Callable[[shmq.Queue], Any]) -> None:
    queue = make(slots=2, slot_size=64, oversize="spill")
    spilled_by_the_dead(queue, children)
    held = place(queue)
    assert "side segment" not in texts(queue.name)
    if held is not None:
        held.release()
    queue.redrive()
    assert queue.get(timeout=LONG) == b"x" * 5000
    assert side_files(queue) == []
    assert "side segment" not in texts(queue.name)


def test_the_side_segment_of_a_letter_that_is_being_put_back_is_kept(make: Make, children: Children) -> None:
    queue = make(slots=1, slot_size=64, oversize="spill")
    spilled_by_the_dead(queue, children)
    queue.receive(timeout=0).reject()
    queue.put("full")
    thread = threading.Thread(target=queue.redrive)
    with shmq.Queue.attach(queue.name) as other:
        thread.start()
        wait_until(lambda: other.stats().waiting_producers)
        assert found_about(queue.name) == []
        assert other.get(timeout=LONG) == "full"
        assert other.get(timeout=LONG) == b"x" * 5000
    thread.join(LONG)


# -- what no queue leads to ----------------------------------------------------------------------------------------------------


def test_strays_of_a_queue_that_is_gone_are_removed(name: str) -> None:
    queue = shmq.Queue.create(name, slots=4, slot_size=64, oversize="spill")
    queue.put(b"x" * 1000)
    queue.put(b"y" * 1000)
    queue.receive(timeout=0).reject()
    queue.close()
    del queue  # with it the mapping: see below
    os.unlink(f"{SHM}/{PREFIX}{name}")  # as systemd does it
    assert len(files_of(name)) == 5
    assert "repaired: 5 files" in texts(name)
    assert files_of(name) == [] and is_gone(name)


def test_strays_of_a_queue_that_was_made_again_go_and_its_own_files_stay(make: Make) -> None:
    queue = make(slots=4, slot_size=64, oversize="spill")
    queue.put(b"x" * 1000)
    own = files_of(queue.name)
    old = f"{PREFIX}{queue.name}+{1:016x}."
    for stray in (f"{old}{5:016x}", f"sem.{old}items"):
        with open(f"{SHM}/{stray}", "wb"):
            pass
    os.mkdir(f"{SHM}/{old}dead")
    with open(f"{SHM}/{old}dead/{7:016x}", "wb"):
        pass
    assert "repaired: 3 files" in texts(queue.name)
    assert files_of(queue.name) == own
    assert queue.get_nowait() == b"x" * 1000


def test_a_queue_that_was_unlinked_and_is_still_mapped_is_left_alone(name: str) -> None:
    queue = shmq.Queue.create(name, slots=4, slot_size=64, oversize="spill")
    shmq.unlink(name)
    queue.put(b"x" * 1000)
    assert len(files_of(name)) == 1
    said = found_about(name)
    assert [finding.level for finding in said] == ["warning"] and "still open" in said[0].text
    assert queue.get_nowait() == b"x" * 1000
    queue.close()
    queue.segment.write_side(b"%016x" % 7, [memoryview(b"x")])  # as if the last one had been killed
    del queue
    assert "repaired: 1 file" in texts(name)
    assert files_of(name) == []


def test_strange_files_beside_a_queue_do_not_stop_the_doctor(make: Make) -> None:
    queue = make(slots=4, slot_size=64)
    prefix = f"{PREFIX}{queue.name}+{queue.segment.nonce:016x}."
    strange = [f"{prefix}no key at all", f"{prefix}dead/readme.txt", f"{prefix}dead/0001.new.zz"]
    for path in strange:
        with open(f"{SHM}/{path}", "wb"):
            pass
    try:
        repair([queue.name])
        assert all(os.path.exists(f"{SHM}/{path}") for path in strange)
    finally:
        for path in strange:
            os.unlink(f"{SHM}/{path}")


# -- where queues are ----------------------------------------------------------------------------------------------------------


def place(monkeypatch: pytest.MonkeyPatch, size: int, free: int) -> str:
    space = SimpleNamespace(f_blocks=size >> 12, f_frsize=4096, f_bavail=free >> 12)
    monkeypatch.setattr(doctor.os, "statvfs", lambda path: space)
    return "\n".join(f"{finding.level}: {finding.text}" for finding in doctor.examine_shared_memory())


def test_a_small_shared_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place(monkeypatch, 64 << 20, 60 << 20).startswith("warning: it has only 64 MiB; enlarge it")
    assert place(monkeypatch, 65 << 20, 60 << 20) == ""


def test_a_full_shared_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place(monkeypatch, 100 << 30, 4 << 30).startswith(f"warning: only {4 << 30:,} of {100 << 30:,} bytes are free")
    assert place(monkeypatch, 100 << 30, 6 << 30) == ""
    assert place(monkeypatch, 0, 0).startswith("warning: it has only 0 MiB")


def test_another_lock_file_than_the_one_in_use_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    inode = _core.lock_inode()
    monkeypatch.setattr(_core, "lock_inode", lambda: inode + 1)
    assert [finding.level for finding in doctor.examine_shared_memory() if finding.subject.endswith(".lock")] == ["error"]


def test_a_lock_file_that_cannot_be_had_is_an_error_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise shmq.SegmentForeign("cannot lock it")

    monkeypatch.setattr(_core, "lock_inode", refuse)
    found = [(finding.level, finding.text) for finding in doctor.examine_shared_memory() if finding.subject.endswith(".lock")]
    assert found == [("error", "cannot lock it")]


@pytest.fixture
def logind(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """A machine of systemd's, with nothing said."""
    for folder in ("run", "linger", "conf.d"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(doctor, "SYSTEMD", str(tmp_path / "run"))
    monkeypatch.setattr(doctor, "LINGER", str(tmp_path / "linger"))
    monkeypatch.setattr(doctor, "LOGIND", (str(tmp_path / "logind.conf"), str(tmp_path / "conf.d/*.conf")))
    monkeypatch.setattr(doctor, "FIRST_USER", 0)
    return tmp_path


@pytest.mark.parametrize(
    ("conf", "dropins", "told"),
    [
        (None, [], True),
        ("[Login]\n#RemoveIPC=no\n", [], True),
        ("[Login]\nRemoveIPC=no\n", [], False),
        ("[Login]\n  RemoveIPC = False \n", [], False),
        ("[Login]\nRemoveIPC=yes\n", [], True),
        ("RemoveIPC=yes\nRemoveIPC=0\n", [], False),
        ("RemoveIPC=no\n", ["RemoveIPC=yes\n"], True),
        (None, ["RemoveIPC=yes\n", "RemoveIPC=off\n"], False),
        ("\xff\xfe\n", [], True),
    ],
)
def test_a_systemd_that_removes_queues_at_logout_is_told(logind: Any, conf: str | None, dropins: list[str], told: bool) -> None:
    if conf is not None:
        (logind / "logind.conf").write_bytes(conf.encode("latin-1"))
    for number, text in enumerate(dropins):
        (logind / f"conf.d/{number}.conf").write_text(text)
    found = list(doctor.examine_logind())
    assert [finding.subject for finding in found] == (["RemoveIPC"] if told else [])
    assert all(finding.level == "warning" and "RemoveIPC=no" in finding.text for finding in found)


def test_users_that_linger_or_are_of_the_system_or_without_systemd_are_safe(logind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    assert list(doctor.examine_logind())
    (logind / "linger" / psutil.Process().username()).touch()
    assert not list(doctor.examine_logind())
    (logind / "linger" / psutil.Process().username()).unlink()
    monkeypatch.setattr(doctor, "FIRST_USER", os.geteuid() + 1)
    assert not list(doctor.examine_logind())
    monkeypatch.setattr(doctor, "FIRST_USER", 0)
    monkeypatch.setattr(doctor, "SYSTEMD", str(logind / "none"))
    assert not list(doctor.examine_logind())


# -- the command ---------------------------------------------------------------------------------------------------------------


def test_the_command_says_when_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmq.cli.doctor.repair", list)
    result = run()
    assert (result.output, result.exit_code) == ("nothing to repair\n", 0)


@pytest.mark.parametrize(("level", "status"), [("repaired", 0), ("warning", 0), ("error", 1)])
def test_only_what_cannot_be_repaired_is_the_exit_status(monkeypatch: pytest.MonkeyPatch, level: Any, status: int) -> None:
    found = [doctor.Finding("repaired", "one", "text"), doctor.Finding(level, "a\x1b[31mqueue", "[bold]what\nit is[/bold]")]
    monkeypatch.setattr("shmq.cli.doctor.repair", lambda names: found)
    result = run()
    assert result.exit_code == status
    assert level in result.output and "[bold]" in result.output and "\x1b" not in result.output


def test_a_name_that_is_nobodys_is_an_error_and_the_others_are_examined(make: Make) -> None:
    queue = make(slots=4, slot_size=64)
    queue.put("x")
    late = queue.receive(timeout=0, lease_timeout=0.001)
    time.sleep(0.01)
    result = run("no-such-queue", queue.name)
    assert result.exit_code == 1
    assert re.search(r"no-such-queue +error +there is no queue of this name, and nothing left of one", result.output)
    assert re.search(rf"{queue.name} +repaired +1 lease over", result.output)
    del late


def test_what_an_older_shmq_left_is_told_and_left_alone(name: str) -> None:
    left = [f"{SHM}/{entry}" for entry in (f"shmq.{name}", f"sem.shmq.{name}+{1:016x}.items", f"shmq.{name}+{1:016x}.dead")]
    for path in left[:2]:
        with open(path, "wb"):
            pass
    os.mkdir(left[2])
    try:
        (found,) = [finding for finding in doctor.examine_older() if finding.subject == left[0]]
        assert found.level == "warning" and "3 files of a queue that an older shmq made" in found.text
        assert all(map(os.path.exists, left))
        subprocess.run(found.text.partition("remove it: ")[2], shell=True, check=True)
        assert not any(map(os.path.exists, left))
    finally:
        for path in filter(os.path.exists, left):
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


def test_a_name_that_only_another_user_has_is_told_as_such(name: str) -> None:
    theirs = f"{SHM}/shmq-{os.geteuid() + 4711}.{name}"
    with open(theirs, "wb"):
        pass
    try:
        assert texts(name) == f"error: this user has no queue of this name; others have: user {os.geteuid() + 4711}"
    finally:
        os.unlink(theirs)


@pytest.mark.parametrize("name", ["../etc/passwd", "", "a/b", "."])
def test_what_can_be_no_name_is_said_so(name: str) -> None:
    result = run(name)
    assert result.exit_code == 1 and result.output.startswith(f"Error: {name!r} cannot name a queue")


def test_a_queue_whose_ports_are_all_taken_is_looked_at_and_its_holders_told(make: Make) -> None:
    queue = make(slots=4, slot_size=64, ports=3)
    others = [shmq.Queue.attach(queue.name) for _ in range(2)]
    queue.put_many(list("ab"))
    queue.receive(timeout=0).reject()
    memory = bytes(queue.segment.memory)
    said = texts(queue.name)
    assert bytes(queue.segment.memory) == memory
    assert re.search(rf"error: all 3 ports of .* 3 by pid {os.getpid()} \(.*\)\. .*it can only be looked at", said)
    assert "warning: 1 dead letter: `shmq dead" in said
    ports, cells = queue.segment.config.ports, queue.segment.config.in_flight + queue.segment.config.ports
    offset = 1024 + 128 * ports + 64 * cells
    poke(queue.name, offset, struct.pack("<Q", 3))  # two ring cells name slot 3
    assert "is damaged" in texts(queue.name)
    poke(queue.name, offset, memory[offset : offset + 8])
    for other in others:
        other.close()
    assert "ports" not in texts(queue.name)


@pytest.mark.parametrize(
    ("offset", "content", "says"),
    [
        (8, b"\2\0\0\0", "error: mismatch: an older shmq made it, in format version 2"),
        (40, b"\xff\xff\xff\x7f", "error: damaged: its header's numbers contradict"),
        (80, b"\1\1\1\1", "error: other lock file: it was made beside another lock file"),
    ],
)
def test_what_cannot_be_used_is_told_and_left_alone(make: Make, offset: int, content: bytes, says: str) -> None:
    queue = make(slots=4, slot_size=64)
    before = bytes(queue.segment.memory)
    poke(queue.name, offset, content)
    assert texts(queue.name).startswith(says)
    poke(queue.name, offset, before[offset : offset + len(content)])
    assert bytes(queue.segment.memory) == before


def test_the_command_repairs_and_tells_it_once(make: Make) -> None:
    queue = make(slots=4, slot_size=64)
    queue.put("x")
    lease = queue.receive(timeout=0, lease_timeout=0.001)
    time.sleep(0.01)
    said = [line for line in run(queue.name).output.splitlines() if queue.name in line]
    assert len(said) == 1 and "repaired" in said[0] and "1 lease over" in said[0]
    assert queue.name not in run(queue.name).output
    assert queue.get_nowait() == "x"
    del lease
