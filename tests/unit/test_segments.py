"""The life of a segment: how it is made, found, shared, removed, and what becomes of it when its users die."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmq
from shmq import _core
from shmq._segment import anonymous, entries, files, lifecycle
from support.processes import Children, descriptors, wait_until
from support.shared_memory import PREFIX

SHM = Path("/dev/shm")
BOOT_ID_AT = 88  # format/queue.h
Make = Callable[..., shmq.Queue]


def file_of(name: str) -> Path:
    return SHM / f"{PREFIX}{name}"


def files_of(name: str) -> list[Path]:
    """The segment, its semaphores and its side segments."""
    return [path for path in SHM.iterdir() if path.name == f"{PREFIX}{name}" or f"{PREFIX}{name}+" in path.name]


def write_file(name: str, data: bytes) -> Path:
    """A file under a queue's name, as somebody who was killed could have left it."""
    path = file_of(name)
    path.touch(0o600)
    path.write_bytes(data)
    return path


# -- create, attach, open -----------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(name: str) -> Iterator[Callable[..., shmq.Queue]]:
    """Open the test's name; the handles are closed afterwards."""
    handles: list[shmq.Queue] = []

    def opened(**parameters: Any) -> shmq.Queue:
        handles.append(shmq.Queue(name, **parameters))
        return handles[-1]

    yield opened
    for handle in handles:
        handle.close()


def test_open_creates_a_queue_where_there_is_none(opened: Make, name: str) -> None:
    assert opened(slots=7, slot_size=100).name == name
    assert name in shmq.list_segments()


def test_open_finds_a_queue_that_exists(opened: Make) -> None:
    opened(slots=7, slot_size=100).put(b"here")
    assert opened().get_nowait() == b"here"


def test_open_accepts_the_values_that_the_queue_has(opened: Make) -> None:
    values = {"slots": 7, "slot_size": 100, "in_flight": 5, "ports": 3, "oversize": "spill", "allow_pickle": False}
    opened(**values)
    assert opened(**values).maxsize == 7


def test_a_queue_has_documented_defaults(opened: Make) -> None:
    queue = opened()
    assert (queue.maxsize, queue.slot_size, queue.stats().ports) == (1024, 1024, 1)
    assert queue.segment.config.ports == 64
    assert queue.segment.config.oversize == "spill"
    assert queue.segment.config.allow_pickle is True


def test_create_makes_a_queue_that_attach_finds(queue: shmq.Queue) -> None:
    queue.put(b"one")
    with shmq.Queue.attach(queue.name) as other:
        assert (other.maxsize, other.slot_size, other.get_nowait()) == (16, 256, b"one")


def test_create_refuses_a_name_that_exists(queue: shmq.Queue) -> None:
    queue.put(b"kept")
    with pytest.raises(shmq.SegmentExists, match=queue.name) as caught:
        shmq.Queue.create(queue.name)
    assert isinstance(caught.value, FileExistsError) and isinstance(caught.value, shmq.ShmqError)
    assert queue.get_nowait() == b"kept"


def opened_during(work: Callable[[], Any]) -> list[str]:
    """The paths of the files that Python opens meanwhile."""
    paths: list[str] = []
    listening = [True]  # the hook stays for good
    sys.addaudithook(lambda event, values: paths.append(values[0]) if listening and event == "open" else None)
    work()
    listening.clear()
    return paths


def test_attach_opens_one_file_in_python(queue: shmq.Queue) -> None:
    """What is the same for all segments of a process's life, such as the id of the boot, was asked for at the first."""
    shmq.Queue.attach(queue.name).close()
    assert opened_during(lambda: shmq.Queue.attach(queue.name).close()) == [str(file_of(queue.name))]


def test_attach_refuses_a_name_that_does_not_exist(name: str) -> None:
    with pytest.raises(shmq.SegmentNotFound, match=name) as caught:
        shmq.Queue.attach(name)
    assert isinstance(caught.value, FileNotFoundError) and isinstance(caught.value, shmq.ShmqError)
    assert files_of(name) == []


def test_a_name_of_200_characters_works(name: str) -> None:
    longest = name.ljust(200, "x")
    try:
        with shmq.Queue.create(longest, slots=1, slot_size=1) as queue:
            queue.put(b"x")
            assert queue.get_nowait() == b"x"
    finally:
        shmq.unlink(longest)


def test_handles_of_one_process_share_the_queue(queue: shmq.Queue) -> None:
    with shmq.Queue.attach(queue.name) as other:
        queue.put(b"there")
        other.put(b"and back")
        assert other.get_nowait() == b"there"
        assert queue.get_nowait() == b"and back"
        assert queue.stats().ports == 2


def test_closing_one_handle_leaves_the_other_open(queue: shmq.Queue) -> None:
    with shmq.Queue.attach(queue.name) as other:
        other.put(b"x")
    assert other.closed and not queue.closed
    assert queue.get_nowait() == b"x"


def test_messages_outlive_all_handles(name: str) -> None:
    with shmq.Queue.create(name, slots=4, slot_size=64) as queue:
        queue.put(b"still here")
    with shmq.Queue.attach(name) as queue:
        assert queue.get_nowait() == b"still here"


def test_close_may_be_called_twice(queue: shmq.Queue) -> None:
    queue.close()
    queue.close()
    assert queue.closed


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777], ids=oct)
def test_all_files_have_mode_0600_whatever_the_umask(name: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        queue = shmq.Queue.create(name, slots=2, slot_size=64, oversize="spill")
        queue.put(bytes(1000))
    finally:
        os.umask(before)
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in files_of(name)}
    queue.close()
    assert len(modes) == 5  # the segment, two semaphores, a side segment, and the folder of dead letters
    folder = next(file for file in modes if file.endswith(".dead"))
    assert modes.pop(folder) == "0o700"
    assert set(modes.values()) == {"0o600"}, modes


def test_the_file_is_as_large_as_its_header_says_and_reserved(queue: shmq.Queue) -> None:
    found = file_of(queue.name).stat()
    assert found.st_size >= 16 * 256
    assert found.st_blocks * 512 >= found.st_size


def test_repr_tells_name_fill_and_size(queue: shmq.Queue) -> None:
    queue.put(b"x")
    assert repr(queue) == f"<shmq.Queue {queue.name!r}: 1 of 16 slots of 256 bytes>"


def test_repr_of_a_closed_handle_tells_so(queue: shmq.Queue) -> None:
    queue.close()
    assert repr(queue) == f"<shmq.Queue {queue.name!r}, closed>"


def test_repr_of_a_handle_that_was_never_opened_tells_so() -> None:
    assert repr(shmq.Queue.__new__(shmq.Queue)) == "<shmq.Queue, never opened>"


def test_get_include_has_the_header_and_the_sources() -> None:
    assert set(os.listdir(shmq.get_include())) == {"client.c", "shmq.c", "shmq.h"}


# -- list and unlink -----------------------------------------------------------------------------------------------------------


def test_list_segments_is_sorted_and_names_queues_only(make: Make) -> None:
    first, second = make(slots=1, slot_size=64, oversize="spill"), make(slots=1, slot_size=64)
    first.put(bytes(1000))  # its side segment is no queue
    mine = [name for name in shmq.list_segments() if name.startswith(first.name[:-1])]
    assert mine == [first.name, second.name]
    everybodys = shmq.list_segments()  # other tests make and unlink theirs meanwhile
    assert everybodys == sorted(everybodys)


def test_unlink_by_name_leaves_no_file(name: str) -> None:
    with shmq.Queue.create(name, slots=2, slot_size=64, oversize="spill") as queue:
        queue.put(bytes(1000))
        shmq.unlink(name)
        assert len(files_of(name)) == 1  # the message's, which can still be taken
        assert name not in shmq.list_segments()
    assert files_of(name) == []


def test_unlink_of_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(shmq.SegmentNotFound, match=name):
        shmq.unlink(name)


def test_unlink_of_one_queue_leaves_those_whose_names_begin_alike(make: Make, name: str) -> None:
    longer = make(slots=1, slot_size=64)  # name.0
    with shmq.Queue.create(name, slots=1, slot_size=64) as queue:
        queue.unlink()
    assert len(files_of(longer.name)) == 4


def test_handles_go_on_after_unlink(queue: shmq.Queue) -> None:
    with shmq.Queue.attach(queue.name) as other:
        queue.unlink()
        queue.put(b"x")
        assert other.get(timeout=10) == b"x"


def test_a_queue_made_after_unlink_is_another(queue: shmq.Queue) -> None:
    queue.put(b"old")
    queue.unlink()
    with shmq.Queue.create(queue.name, slots=16, slot_size=256) as other:
        other.put(b"new")
        assert (queue.qsize(), queue.get_nowait()) == (1, b"old")
        assert (other.qsize(), other.get_nowait()) == (1, b"new")


def test_unlink_twice_does_nothing(queue: shmq.Queue) -> None:
    queue.unlink()
    queue.unlink()
    assert files_of(queue.name) == []


def test_unlink_works_on_a_closed_handle(queue: shmq.Queue) -> None:
    queue.close()
    queue.unlink()
    assert files_of(queue.name) == []


def test_unlink_spares_another_queue_of_the_same_name(queue: shmq.Queue) -> None:
    queue.unlink()
    with shmq.Queue.create(queue.name, slots=1, slot_size=64) as other:
        with pytest.raises(shmq.SegmentNotFound, match=queue.name):
            queue.unlink()
        other.put(b"unharmed")
        with shmq.Queue.attach(queue.name) as again:
            assert again.get_nowait() == b"unharmed"


def test_unlink_leaves_a_later_handles_peers_alone(queue: shmq.Queue) -> None:
    """Looking whether the name is still ours takes no port from the queue."""
    ports = queue.stats().ports
    queue.unlink()
    assert queue.stats().ports == ports


# -- handles that travel -------------------------------------------------------------------------------------------------------


def test_a_pickled_handle_attaches_to_the_same_queue(queue: shmq.Queue) -> None:
    with pickle.loads(pickle.dumps(queue)) as other:
        queue.put(b"x")
        assert type(other) is shmq.Queue
        assert (other.name, other.get_nowait()) == (queue.name, b"x")


def test_a_pickled_handle_keeps_its_codec(make: Make) -> None:
    queue = make(slots=4, slot_size=64, codec=shmq.json_codec, allow_pickle=False)
    with pickle.loads(pickle.dumps(queue)) as other:
        other.put({"a": 1})
        assert queue.get_nowait() == {"a": 1}


def test_a_pickled_handle_of_a_queue_that_is_gone_is_refused(queue: shmq.Queue) -> None:
    stale = pickle.dumps(queue)
    queue.unlink()
    with pytest.raises(shmq.SegmentNotFound, match=queue.name):
        pickle.loads(stale)


def test_a_pickled_handle_does_not_attach_to_a_later_queue_of_the_name(queue: shmq.Queue) -> None:
    stale = pickle.dumps(queue)
    queue.unlink()
    with shmq.Queue.create(queue.name, slots=16, slot_size=256) as other:
        with pytest.raises(shmq.SegmentNotFound, match="made again"):
            pickle.loads(stale)
        assert other.stats().ports == 1


def put_from_child(queue: shmq.Queue) -> None:
    queue.put(os.getpid())


def test_a_handle_passes_to_children_of_every_start_method(make: Make, any_children: Children) -> None:
    queue = make(slots=4, slot_size=64)
    child = any_children.start(put_from_child, queue)
    assert queue.get(timeout=60) == child.pid
    any_children.join()


def test_an_anonymous_handle_passes_to_children_of_every_start_method(any_children: Children) -> None:
    with shmq.Queue(slots=4, slot_size=64) as queue:
        child = any_children.start(put_from_child, queue)
        assert queue.get(timeout=60) == child.pid
        any_children.join()


# -- at the same moment --------------------------------------------------------------------------------------------------------


def open_and_put(name: str, barrier: Any, count: int) -> None:
    barrier.wait(60)
    with shmq.Queue(name, slots=1000, slot_size=64) as queue:
        queue.put_many([b"%d.%d" % (os.getpid(), number) for number in range(count)])


@pytest.mark.parametrize("attempt", range(3))
def test_eight_processes_that_open_at_once_share_one_segment(name: str, children: Children, attempt: int) -> None:
    barrier = children.context.Barrier(8)
    started = [children.start(open_and_put, name, barrier, 100) for _ in range(8)]
    pids = [child.pid for child in started]
    children.join()
    with shmq.Queue.attach(name) as queue:
        assert sorted(queue.drain()) == sorted(b"%d.%d" % (pid, number) for pid in pids for number in range(100))
        assert queue.stats().puts == 800
    assert len(files_of(name)) == 4


def create_once(name: str, barrier: Any, wins: Any) -> None:
    barrier.wait(60)
    try:
        shmq.Queue.create(name, slots=4, slot_size=64).close()
    except shmq.SegmentExists:
        return
    with wins.get_lock():
        wins.value += 1


def test_of_eight_processes_that_create_at_once_one_wins(name: str, children: Children) -> None:
    barrier, wins = children.context.Barrier(8), children.context.Value("i", 0)
    for _ in range(8):
        children.start(create_once, name, barrier, wins)
    children.join()
    assert wins.value == 1


# -- remains -------------------------------------------------------------------------------------------------------------------

REMAINS = pytest.mark.parametrize("remains", [b"", bytes(8192)], ids=["empty", "zeroed"])


@REMAINS
def test_open_replaces_a_half_made_segment(name: str, remains: bytes) -> None:
    write_file(name, remains)
    with shmq.Queue(name, slots=3, slot_size=64) as queue:
        queue.put(b"x")
        assert (queue.maxsize, queue.get_nowait()) == (3, b"x")


@REMAINS
def test_create_replaces_a_half_made_segment(name: str, remains: bytes) -> None:
    write_file(name, remains)
    with shmq.Queue.create(name, slots=3, slot_size=64) as queue:
        assert queue.maxsize == 3


@REMAINS
def test_attach_does_not_find_a_half_made_segment(name: str, remains: bytes) -> None:
    write_file(name, remains)
    with pytest.raises(shmq.SegmentNotFound, match=name):
        shmq.Queue.attach(name)


@REMAINS
def test_unlink_removes_a_half_made_segment(name: str, remains: bytes) -> None:
    path = write_file(name, remains)
    shmq.unlink(name)
    assert not path.exists()


def of_another_boot(queue: shmq.Queue) -> None:
    """What the file would be after the machine was started again, were /dev/shm kept."""
    with file_of(queue.name).open("r+b") as file:
        file.seek(BOOT_ID_AT)
        boot_id = file.read(16)
        assert boot_id.hex() == Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
        file.seek(BOOT_ID_AT)
        file.write(bytes(byte ^ 0xFF for byte in boot_id))


def test_open_replaces_a_segment_of_another_boot(queue: shmq.Queue) -> None:
    queue.put(b"stale")
    of_another_boot(queue)
    with shmq.Queue(queue.name, slots=3, slot_size=64) as fresh:
        assert (fresh.maxsize, fresh.qsize()) == (3, 0)
    assert len(files_of(queue.name)) == 4  # the stale semaphores went too


def test_create_replaces_a_segment_of_another_boot(queue: shmq.Queue) -> None:
    of_another_boot(queue)
    with shmq.Queue.create(queue.name, slots=3, slot_size=64) as fresh:
        assert fresh.maxsize == 3


def test_attach_does_not_find_a_segment_of_another_boot(queue: shmq.Queue) -> None:
    of_another_boot(queue)
    with pytest.raises(shmq.SegmentNotFound, match="another boot"):
        shmq.Queue.attach(queue.name)


def test_a_semaphore_that_is_gone_is_told_by_name(queue: shmq.Queue) -> None:
    for path in files_of(queue.name):
        if path.name.endswith(".items"):
            path.unlink()
    with pytest.raises(shmq.SegmentCorrupt, match=r"semaphore.*items"):
        shmq.Queue.attach(queue.name)
    assert queue.stats().ports == 1


# -- anonymous queues ----------------------------------------------------------------------------------------------------------


def test_an_anonymous_queue_has_a_name_of_its_own() -> None:
    with shmq.Queue(slots=2, slot_size=64) as one, shmq.Queue(slots=2, slot_size=64) as other:
        assert one.name != other.name
        one.put(b"x")
        assert other.empty()


def test_an_anonymous_queue_is_gone_when_its_creator_closes_it() -> None:
    queue = shmq.Queue(slots=2, slot_size=64)
    assert len(files_of(queue.name)) == 4
    queue.close()
    assert files_of(queue.name) == []


def test_an_anonymous_queue_is_gone_when_its_creator_drops_it() -> None:
    queue = shmq.Queue(slots=2, slot_size=64)
    name = queue.name
    del queue
    gc.collect()
    assert files_of(name) == []


def test_another_handle_does_not_remove_an_anonymous_queue_before_its_creator() -> None:
    with shmq.Queue(slots=2, slot_size=64) as queue:
        script = f"import shmq; shmq.Queue.attach({queue.name!r}).close()"
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
        assert len(files_of(queue.name)) == 4


@pytest.mark.parametrize("ending", ["", "; sys.exit(3)", "; raise RuntimeError"], ids=["end", "exit", "raise"])
def test_an_anonymous_queue_is_gone_when_its_creator_exits(ending: str) -> None:
    script = f"import shmq, sys; q = shmq.Queue(slots=2, slot_size=64); print(q.name, flush=True){ending}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    name = done.stdout.strip()
    assert name.startswith("anon."), done.stderr
    assert files_of(name) == []


def make_anonymous_and_wait(connection: Any) -> None:
    queue = shmq.Queue(slots=2, slot_size=64)
    connection.send(queue.name)
    signal.pause()


def test_an_anonymous_queue_whose_creator_was_killed_is_reaped_by_the_next(children: Children) -> None:
    ours, theirs = children.context.Pipe()
    child = children.start(make_anonymous_and_wait, theirs)
    name = ours.recv()
    with shmq.Queue(slots=2, slot_size=64):
        assert len(files_of(name)) == 4  # its creator lives
    with lifecycle.NameLock(name):  # or another process of this run might be the next
        os.kill(child.pid, signal.SIGKILL)
        child.join(60)
        assert len(files_of(name)) == 4

    def reaped_by_the_next() -> bool:
        shmq.Queue(slots=2, slot_size=64).close()
        return files_of(name) == []

    wait_until(reaped_by_the_next)


def test_making_an_anonymous_queue_looks_at_as_many_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    listed: list[int] = []
    really_map, really_list = files.map_file, entries.list_files

    def map_file(file: str, **how: bool) -> Any:
        looks.append(file)
        return really_map(file, **how)

    def list_files(*beginnings: str) -> list[str]:
        listed.append(len(found := really_list(*beginnings)))
        return found

    monkeypatch.setattr(files, "map_file", map_file)
    monkeypatch.setattr(entries, "list_files", list_files)
    queues: list[shmq.Queue] = []
    steps: list[float] = []
    for number in (100, 400):
        looks.clear(), listed.clear()
        made = [shmq.Queue(slots=1, slot_size=16, ports=1) for _ in range(number)]
        queues += made
        steps.append((len(looks) + sum(listed)) / number)
    for queue in queues:
        queue.close()
    most = 2 + anonymous.AnonymousReaper.LOOKS  # each is looked for before it is made; 16 are looked at
    most += 5 * anonymous.AnonymousReaper.LOOKS
    assert max(steps) <= most, steps
    assert steps[1] < 2 * steps[0], steps


def test_a_leftover_that_somebody_is_opening_is_not_reaped(children: Children) -> None:
    ours, theirs = children.context.Pipe()
    child = children.start(make_anonymous_and_wait, theirs)
    name = ours.recv()
    with lifecycle.NameLock(name):  # before its creator dies: another process of this run might reap it otherwise
        os.kill(child.pid, signal.SIGKILL)
        child.join(60)
        opening = children.start(anonymous.remove_if_left_over, name)
        opening.join(60)
        assert len(files_of(name)) == 4, "removed under the hands of who has its name locked"
    anonymous.remove_if_left_over(name)  # unless another process of this run is at it now
    wait_until(lambda: files_of(name) == [])


def test_an_anonymous_queue_made_beside_another_lock_file_is_not_reaped(
    make: Callable[..., shmq.Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    with shmq.Queue(slots=1, slot_size=16) as queue:
        monkeypatch.setattr(
            lifecycle, "outlived", lambda header, memory: True
        )  # its creator's lock is on a file that was removed
        inode = _core.lock_inode()
        monkeypatch.setattr(_core, "lock_inode", lambda: inode + 1)
        assert not anonymous.remove_if_left_over(queue.name)
        assert len(files_of(queue.name)) == 4
        monkeypatch.undo()


def test_a_leftover_that_came_back_to_life_before_the_lock_is_not_reaped(
    make: Callable[..., shmq.Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make(slots=1, slot_size=16)
    answers = iter([True, False])  # left over at the first look; opened by somebody at the second
    monkeypatch.setattr(anonymous, "is_left_over", lambda name: next(answers))
    assert not anonymous.remove_if_left_over(queue.name)
    assert next(answers, None) is None
    assert len(files_of(queue.name)) == 4


def close_inherited(queue: shmq.Queue) -> None:
    queue.close()


def test_a_child_that_closes_its_inherited_handle_removes_nothing(children: Children) -> None:
    with shmq.Queue(slots=2, slot_size=64) as queue:
        children.start(close_inherited, queue)
        children.join()
        assert len(files_of(queue.name)) == 4
        queue.put(b"still ours")
        assert queue.get_nowait() == b"still ours"


def test_a_child_that_uses_and_closes_its_inherited_handle_removes_nothing(children: Children) -> None:
    with shmq.Queue(slots=2, slot_size=64) as queue:
        children.start(put_from_child, queue)
        children.join()
        assert len(files_of(queue.name)) == 4
        assert isinstance(queue.get_nowait(), int)


def test_a_forked_child_that_exits_by_itself_removes_nothing() -> None:
    """os.fork and sys.exit run the exit handlers in the child too."""
    script = (
        "import os, shmq, sys\n"
        "q = shmq.Queue(slots=2, slot_size=64)\n"
        "child = os.fork()\n"
        "if child == 0: sys.exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "shmq.Queue.attach(q.name).put(b'x')\n"
        "assert q.get_nowait() == b'x'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# -- nothing leaks -------------------------------------------------------------------------------------------------------------


def test_descriptors_stay_constant_over_many_handles(name: str) -> None:
    def once() -> None:
        with shmq.Queue(name, slots=2, slot_size=64) as queue:
            queue.unlink()

    once()
    before = len(descriptors())
    for _ in range(300):
        once()
    assert len(descriptors()) == before


def test_mappings_stay_constant_over_many_handles(queue: shmq.Queue) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(f"{PREFIX}{queue.name}")

    before = mapped()
    for _ in range(100):
        shmq.Queue.attach(queue.name).close()
    gc.collect()
    assert mapped() == before


def test_attaching_and_closing_keeps_the_ports_free(make: Make) -> None:
    queue = make(slots=2, slot_size=64, ports=2, in_flight=1)
    for _ in range(300):
        with shmq.Queue.attach(queue.name) as other:
            other.put(b"x")
            assert queue.get_nowait() == b"x"
    assert queue.stats().ports == 1
    shmq.verify(queue)


def test_dropping_handles_unclosed_keeps_the_ports_free(make: Make) -> None:
    queue = make(slots=2, slot_size=64, ports=2)
    for _ in range(20):
        shmq.Queue.attach(queue.name).put(b"x")
        queue.get_nowait()
    assert queue.stats().ports == 1


def attach_and_wait(name: str, connection: Any) -> None:
    queue = shmq.Queue.attach(name)
    queue.put(b"x")
    connection.send(None)
    signal.pause()


def test_ports_of_killed_processes_are_used_again(make: Make, children: Children) -> None:
    queue = make(slots=16, slot_size=64, ports=3)
    for _ in range(8):
        ours, theirs = children.context.Pipe()
        child = children.start(attach_and_wait, queue.name, theirs)
        assert ours.poll(60)
        ours.recv()
        os.kill(child.pid, signal.SIGKILL)
        child.join(60)
    children.kill()
    assert queue.drain() == [b"x"] * 8
    assert queue.stats().puts == 8
    with shmq.Queue.attach(queue.name):
        assert queue.stats().ports == 2
    shmq.verify(queue)


# -- views that outlive the queue ----------------------------------------------------------------------------------------------


def is_mapped(name: str) -> bool:
    return f"{PREFIX}{name}" in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("slot_size", [4096, 256])
def test_the_memory_lives_on_for_a_view_after_close_and_unlink(name: str, slot_size: int) -> None:
    queue = shmq.Queue.create(name, slots=2, slot_size=slot_size)
    queue.put(np.arange(60, dtype="i4"))
    lease = queue.receive(timeout=0)
    array = lease.array
    lease.ack()
    queue.close()
    queue.unlink()
    del lease, queue
    gc.collect()
    assert files_of(name) == []
    assert array.tolist() == list(range(60))
    assert is_mapped(name)
    del array
    gc.collect()
    wait_until(lambda: not is_mapped(name))


def test_the_memory_lives_on_for_a_memoryview_after_close_and_unlink(name: str) -> None:
    queue = shmq.Queue.create(name, slots=2, slot_size=64)
    queue.put(b"kept by its view")
    with queue.receive(timeout=0) as lease:
        view = lease.view
    queue.close()
    queue.unlink()
    del lease, queue
    gc.collect()
    assert bytes(view) == b"kept by its view"
    view.release()
    del view
    gc.collect()
    wait_until(lambda: not is_mapped(name))
