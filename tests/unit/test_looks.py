"""Looking does not change what is looked at: no port is taken, nobody is reaped, and no byte is written."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import shmq
from shmq import _core
from shmq._observe import doctor
from shmq._observe.holders import attached_report, holders_report
from shmq._observe.holdings import holdings_of
from shmq._observe.look import look
from shmq._observe.stats import stats_of
from shmq._store.dead_letters import DeadLetters
from shmq.cli._group import group
from support.processes import WATCHDOG, Children, is_stopped, wait_until
from support.shared_memory import PREFIX, SHM

Make = Callable[..., shmq.Queue]
VERSION_AT, KIND_AT = 8, 184  # format/segment.h
STRAY = b"%016x" % (1 << 40)  # the key of a side segment, of an id that nobody gives


def run(*arguments: str) -> Result:
    return CliRunner().invoke(group, arguments, env={"COLUMNS": "400"})


def picture(name: str) -> dict[str, Any]:
    """Every byte of a segment and of what stands beside it, and who may use it and since when."""
    found: dict[str, Any] = {}
    for file in (Path(SHM, file) for file in sorted(os.listdir(SHM)) if f"{PREFIX}{name}" in file):
        files = [file, *file.iterdir()] if file.is_dir() else [file]
        for one in files:
            about = one.stat()
            found[str(one)] = about.st_mode, about.st_ino, about.st_size, b"" if one.is_dir() else one.read_bytes()
    return found


def observer_of(queue: shmq.Queue) -> _core.Observer:
    observer = look(queue.name).observer
    assert observer is not None
    return observer


# What looks from outside: through a mapping that is read-only, in which a store would kill this process.
FROM_OUTSIDE: dict[str, Callable[[shmq.Queue], object]] = {
    "stats": lambda queue: stats_of(observer_of(queue)),
    "holdings": lambda queue: holdings_of(observer_of(queue)),
    "holders": lambda queue: (holders_report(observer_of(queue)), attached_report(observer_of(queue))),
    "verify": lambda queue: shmq.verify(observer_of(queue)),  # type: ignore[arg-type]
    "dead letters": lambda queue: [letter.data for letter in DeadLetters(observer_of(queue))],
    "examination": lambda queue: doctor.examine([queue.name]),
    "size": lambda queue: (observer_of(queue).qsize(), observer_of(queue).empty(), observer_of(queue).full()),
    "shmq ls": lambda queue: run("ls"),
    "shmq dead": lambda queue: run("dead", queue.name, "--errors"),
    "shmq dead --data": lambda queue: run("dead", queue.name, "--data"),
    "shmq doctor --look": lambda queue: run("doctor", "--look", queue.name),
}
# What looks through a handle that is attached already.
THROUGH_A_HANDLE: dict[str, Callable[[shmq.Queue], object]] = {
    "stats()": lambda queue: queue.stats(),
    "leases()": lambda queue: queue.leases(),
    "verify()": lambda queue: shmq.verify(queue),
    "dead_letters": lambda queue: [letter.data for letter in queue.dead_letters],
    "qsize()": lambda queue: (queue.qsize(), queue.empty(), queue.full(), repr(queue)),
}
ALL = {**FROM_OUTSIDE, **THROUGH_A_HANDLE}


def stay(queue: shmq.Queue, ready: Any) -> None:
    """Hold two messages, of which one was begun with, and an empty slot."""
    leases, loan = queue.receive_many(2, timeout=WATCHDOG), queue.loan(10)
    assert loan.nbytes == 10
    ready.send(leases[0].data)
    ready.recv()


def start(children: Children, queue: shmq.Queue) -> Any:
    ours, theirs = children.context.Pipe()
    child = children.start(stay, queue, theirs)
    assert ours.poll(WATCHDOG / 4)
    ours.recv()
    child.connection = ours
    return child


@pytest.fixture(params=[256, 8192], ids=["small slots", "large slots"])
def scene(request: pytest.FixtureRequest, make: Make, children: Children) -> Iterator[shmq.Queue]:
    """A queue in which there is something of everything that a process that attaches would change, and more."""
    queue = make(slots=16, slot_size=request.param, in_flight=16, max_deliveries=2, ports=8)
    queue.put_many([*range(10), b"x" * 20_000, np.arange(20)])
    queue.receive(timeout=0).reject("no use")
    queue.receive(timeout=0).nack(delay=3600)
    killed, stopped = start(children, queue), start(children, queue)
    late = queue.receive(timeout=0, lease_timeout=1e-6)  # after those who might give it back
    os.kill(stopped.pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(stopped.pid))
    killed.kill()
    killed.join()
    time.sleep(0.01)
    yield queue
    del late


@pytest.mark.parametrize("what", ALL.values(), ids=ALL.keys())
def test_a_look_changes_no_byte(scene: shmq.Queue, what: Callable[[shmq.Queue], object]) -> None:
    before = picture(scene.name)
    assert len(before) >= 5
    for _ in range(2):
        what(scene)
        assert picture(scene.name) == before


def test_what_attaches_would_have_changed_it(scene: shmq.Queue) -> None:
    """The pictures tell, and there was something to tell of."""
    before = picture(scene.name)
    shmq.Queue.attach(scene.name).close()
    assert picture(scene.name) != before


def test_a_look_sees_what_the_dead_and_the_stopped_hold(scene: shmq.Queue) -> None:
    stats = stats_of(observer_of(scene))
    assert stats == scene.stats()
    assert (stats.ports, stats.loaned, stats.deaths) == (3, 2, 0)
    assert {holding.process.rpartition(" ")[2] for holding in holdings_of(observer_of(scene))} >= {"(gone)"}
    assert sum(holding.state == "loaned" for holding in scene.leases()) == 2


def test_an_examination_says_what_repair_will_do(scene: shmq.Queue) -> None:
    found = {finding.level: finding.text for finding in reversed(doctor.examine([scene.name]))}
    assert found["repairable"].startswith("1 process (pid ") and found["warning"].startswith("1 dead letter")
    texts = [finding.text for finding in doctor.examine([scene.name]) if finding.level == "repairable"]
    assert any(text.startswith("1 lease over") for text in texts)
    result = run("doctor", "--look", scene.name)
    assert result.exit_code == 1 and "repairable" in result.output
    result = run("doctor", scene.name)
    assert result.exit_code == 0 and all(text in " ".join(result.output.split()) for text in texts)
    assert run("doctor", "--look", scene.name).exit_code == 0


def test_an_examination_tells_of_what_failed_too_often_and_leaves_it_there(make: Make) -> None:
    queue = make(slots=4, slot_size=64, max_deliveries=1)
    queue.put("x")
    queue.receive(timeout=0)  # dropped: it comes back as a failure, and nobody looks
    before = picture(queue.name)
    (finding,) = doctor.examine([queue.name])
    assert (finding.level, finding.text) == ("repairable", "1 message failed too often or rejected")
    assert picture(queue.name) == before and len(queue.dead_letters) == 0


def test_an_examination_removes_neither_side_segments_nor_remains(make: Make, name: str) -> None:
    queue = make(slots=4, slot_size=64)
    queue.segment.write_side(STRAY, [memoryview(b"x")])
    Path(f"{SHM}/{PREFIX}{name}").touch(0o600)
    left = f"{SHM}/{PREFIX}{name}+{1:016x}.{5:016x}"
    Path(left).touch(0o600)
    before = picture(queue.name), picture(name)
    try:
        assert [finding.text for finding in doctor.examine([queue.name])] == ["1 side segment to which no message leads"]
        assert {finding.level for finding in doctor.examine([name])} == {"repairable"}
        assert (picture(queue.name), picture(name)) == before
    finally:
        os.unlink(left)
        os.unlink(f"{SHM}/{PREFIX}{name}")
        queue.segment.remove_side(STRAY)


@pytest.mark.parametrize("what", ALL.values(), ids=ALL.keys())
def test_a_queue_whose_ports_are_all_taken_can_be_looked_at(make: Make, what: Callable[[shmq.Queue], object]) -> None:
    queue = make(slots=4, slot_size=64, ports=1)
    queue.put_many(["x", "y"])
    queue.receive(timeout=0).reject("no use")
    with pytest.raises(shmq.TooManyPorts):
        shmq.Queue.attach(queue.name)
    before = picture(queue.name)
    seen = what(queue)
    if isinstance(seen, Result):
        assert seen.exit_code == 0, seen.output
    assert picture(queue.name) == before


@contextlib.contextmanager
def header_word(queue: shmq.Queue, offset: int, word: int) -> Iterator[None]:
    """Another word in the header, for as long as it is looked at."""
    with open(f"{SHM}/{PREFIX}{queue.name}", "r+b") as file:
        before = os.pread(file.fileno(), 4, offset)
        os.pwrite(file.fileno(), struct.pack("<I", word), offset)
        try:
            yield
        finally:
            os.pwrite(file.fileno(), before, offset)


def tells(queue: shmq.Queue, what: str) -> str:
    """Every look says what is wrong, and changes nothing; return how it is said."""
    before = picture(queue.name)
    sight = look(queue.name)
    assert sight.state in ("mismatch", "unknown kind") and sight.observer is None
    row = next(line for line in run("ls").output.splitlines() if queue.name in line)
    (finding,) = doctor.examine([queue.name])
    assert finding.level == "error" and what in row and what in finding.text and what in sight.problem
    for command in (["dead", queue.name], ["dead", queue.name, "--data"], ["doctor", "--look", queue.name]):
        result = run(*command)
        assert result.exit_code == 1 and what in result.output
    assert picture(queue.name) == before
    return sight.problem


@pytest.mark.parametrize(("version", "age"), [(3, "an older"), (99, "a newer")])
def test_a_segment_of_another_version_is_told_with_its_version_and_what_to_do(queue: shmq.Queue, version: int, age: str) -> None:
    with header_word(queue, VERSION_AT, version):
        said = tells(queue, f"format version {version}")
    assert said.startswith(f"{age} shmq made it") and "; this one reads version " in said
    assert "stop those that have it open, and unlink it" in said


def test_a_segment_of_a_kind_that_is_not_known_is_told_with_its_kind(queue: shmq.Queue) -> None:
    with header_word(queue, KIND_AT, 77):
        tells(queue, "kind 77")


def look_in_a_child(queue: shmq.Queue, before: dict[str, Any]) -> None:
    for what in THROUGH_A_HANDLE.values():
        what(queue)
    assert picture(queue.name) == before
    queue.put("attached")
    assert queue.stats().ports == 2


def test_a_forked_child_that_only_looks_takes_no_port(queue: shmq.Queue, children: Children) -> None:
    queue.put_many([1, b"x" * 5000])
    queue.receive(timeout=0).reject("no use")
    children.start(look_in_a_child, queue, picture(queue.name))
    children.join()
    queue.drain()


def test_an_observer_that_was_never_opened_says_so() -> None:
    with pytest.raises(shmq.Closed, match="never opened"):
        _core.Observer().qsize()


def test_the_engine_alone_knows_what_a_cell_says() -> None:
    """Each look from Python is a row of shmq/_native/queue/snapshot.h or an answer of look.h."""
    binding = Path(_core.__file__).parent / "_binding"
    for file in binding.glob("*.pxi"):
        code = re.sub(r"#.*", "", file.read_text())
        assert not re.search(r"\.ring\[|shmq_(ring|intent|seq)_\w+\(\w*word", code), file.name
    looks = re.sub(r"#.*", "", (binding / "observe.pxi").read_text())
    assert not re.search(r"\.(cells|records|ring)\[|shmq_load_(acquire|seq|half)", looks)
