"""/dev/shm full, no descriptor left, no address space left: said clearly, nothing left behind, and a retry works."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import shmq
import shmq.mp
from support.programs import require, run_program
from support.shared_memory import files_of

Make = Callable[..., shmq.Queue]
ENOUGH = 16  # descriptors with which everything works

# -- /dev/shm ------------------------------------------------------------------------------------------------------------

PRIVATE = """
    import os, subprocess, sys, time
    import shmq
    from shmq import _core

    def mount(options):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", "/dev/shm"], check=True)

    def left():
        return sorted(file for file in os.listdir("/dev/shm") if file.startswith(("shmq", "sem")))

    def fill(pages_left=0):
        if os.path.exists("/dev/shm/filler"):
            os.unlink("/dev/shm/filler")
        space = os.statvfs("/dev/shm")
        with open("/dev/shm/filler", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, (space.f_bavail - pages_left) * space.f_frsize)

    def refused(call):
        try:
            call()
        except shmq.OutOfMemory as error:
            return str(error)
        raise AssertionError("was not refused")

"""


def in_private_shm(script: str) -> None:
    """Run a program with a small /dev/shm of its own, in a mount namespace of its own."""
    namespace = require("unshare", "-m", to=("mount", "-t", "tmpfs", "tmpfs", "/dev/shm"))
    run_program(PRIVATE + script, before=namespace)


def test_a_queue_that_does_not_fit_is_refused_at_every_size_and_leaves_nothing() -> None:
    """One page short, and full between the segment and either of its semaphores."""
    in_private_shm("""
    mount("size=1m")
    words = refused(lambda: shmq.Queue.create("a", slots=100, slot_size=1 << 20))
    assert "123,752,448" in words and "1,048,576" in words and "unlink" in words, words
    pages = -(-_core.segment_bytes(2, 64, 64 + 2, 2) // 4096)
    for more in (-1, 0, 1):
        fill(pages + more)
        for form in (shmq.Queue, shmq.Queue.create):
            assert "/dev/shm has" in refused(lambda: form("a", slots=2, slot_size=64, ports=2))
            assert left() == [], (more, left())
    fill(pages + 2)
    with shmq.Queue("a", slots=2, slot_size=64, ports=2) as queue:
        queue.put(b"x")
        assert queue.get(timeout=0) == b"x"
    """)


@pytest.mark.parametrize("inodes", [1, 2, 3, 4])
def test_no_room_for_another_file_is_told_and_works_once_there_is_room(inodes: int) -> None:
    """Not even for the lock file; for the segment; for its semaphores."""
    in_private_shm(f"""
    mount("size=1m,nr_inodes={inodes}")
    refused(lambda: shmq.Queue.create("a", slots=2, slot_size=64))
    assert left() == [], left()
    subprocess.run(["mount", "-o", "remount,nr_inodes=100", "/dev/shm"], check=True)
    with shmq.Queue("a", slots=2, slot_size=64) as queue:
        queue.put(b"x")
        assert queue.get(timeout=0) == b"x"
    """)


def test_a_spilled_put_without_memory_is_refused_and_the_queue_goes_on() -> None:
    in_private_shm("""
    mount("size=1m")
    queue = shmq.Queue.create("a", slots=8, slot_size=64, oversize="spill")
    queue.put(bytes(200_000))
    before = left()
    fill(3)
    for put in (queue.put, lambda data: queue.put_many([b"with it", data, b"and this"])):
        assert "500,000" in refused(lambda: put(bytes(500_000)))
        assert left() == before, left()
    assert queue.qsize() == 1
    shmq.verify(queue)
    queue.put(b"small")
    assert len(queue.get(timeout=0)) == 200_000 and queue.get(timeout=0) == b"small"
    os.unlink("/dev/shm/filler")
    queue.put(bytes(500_000))
    assert len(queue.get(timeout=0)) == 500_000
    shmq.verify(queue)
    """)


def test_a_dead_letter_without_memory_is_kept_as_a_message_and_written_later() -> None:
    in_private_shm("""
    mount("size=1m")
    queue = shmq.Queue.create("a", slots=8, slot_size=64, max_deliveries=1)
    queue.put(b"rejected")
    queue.put(b"failed")
    rejected, failed = queue.receive(timeout=0), queue.receive(timeout=0)
    fill()
    refused(lambda: rejected.reject("no good"))
    failed.nack()  # nobody asked for a letter here: logged, and tried again
    assert queue.stats().returned == 2 and queue.stats().dead_letters == 0
    try:
        queue.get(timeout=0)
        raise AssertionError("a message that failed too often was delivered")
    except shmq.Empty:
        pass
    queue.put(b"other")
    assert queue.get(timeout=1) == b"other"  # the queue goes on
    shmq.verify(queue)
    os.unlink("/dev/shm/filler")
    deadline = time.monotonic() + 20
    while len(queue.dead_letters) < 2:
        assert time.monotonic() < deadline
        try:
            queue.get(timeout=0.1)
            raise AssertionError("a message that failed too often was delivered")
        except shmq.Empty:
            pass
    assert sorted(letter.data for letter in queue.dead_letters) == [b"failed", b"rejected"]
    # The reason that reject() was told is not kept in the cell: only how it ended.
    told = {letter.data: (letter.cause, letter.reason) for letter in queue.dead_letters}
    assert told == {b"rejected": ("rejected", ""), b"failed": ("nacked", "max_deliveries=1")}, told
    assert queue.stats().returned == 0
    shmq.verify(queue)
    """)


# -- descriptors ----------------------------------------------------------------------------------------------------------


@contextmanager
def free_descriptors(free: int) -> Iterator[None]:
    """All descriptors but so many are taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    gc.collect()  # what earlier tests left must not free a descriptor in the middle
    gc.disable()
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        while True:
            try:
                taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        for _ in range(free):
            os.close(taken.pop())
        yield
    finally:
        gc.enable()
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def with_ever_more_descriptors(call: Callable[[], Any], after_a_failure: Callable[[], None]) -> Any:
    """Call with no descriptor left, with one, … until it works; each failure says which file, and that there were too many."""
    for free in range(ENOUGH):
        before = len(os.listdir("/proc/self/fd"))
        try:
            with free_descriptors(free):
                result = call()
        except OSError as error:
            failure = error
            after_a_failure()
            assert free == 0 or len(os.listdir("/proc/self/fd")) <= before + 1, "the failure kept descriptors"
            continue
        assert free, "no descriptor was needed"
        assert (failure.errno, bool(failure.filename)) == (errno.EMFILE, True), repr(failure)
        return result
    pytest.fail(f"does not work with {ENOUGH} descriptors")


@pytest.mark.parametrize("form", [shmq.Queue, shmq.Queue.create], ids=["open", "create"])
def test_a_queue_that_cannot_be_made_for_want_of_descriptors_leaves_nothing(name: str, form: Make) -> None:
    def nothing_left() -> None:
        assert files_of(name) == []

    with with_ever_more_descriptors(lambda: form(name, slots=2, slot_size=64), nothing_left) as queue:
        queue.put(b"x")
        assert queue.get(timeout=0) == b"x"


@pytest.mark.parametrize("form", [shmq.Queue, shmq.Queue.attach], ids=["open", "attach"])
def test_a_queue_that_no_descriptor_is_left_to_attach_to_stays_as_it_was(make: Make, form: Make) -> None:
    queue = make(slots=2, slot_size=64)

    def as_it_was() -> None:
        assert queue.stats().ports == 1 and len(files_of(queue.name)) == 4

    with with_ever_more_descriptors(lambda: form(queue.name), as_it_was) as handle:
        handle.put(b"x")
        assert queue.get(timeout=0) == b"x"


def test_a_first_use_without_descriptors_can_be_repeated(name: str) -> None:
    """Then there is no lock file yet by which the living are told from the dead."""
    run_program(
        """
        import os, resource, sys
        import shmq

        taken, (soft, hard) = [], resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        for call in (shmq.Queue, shmq.Queue.create, shmq.Queue.attach):
            try:
                call(sys.argv[1])
                raise AssertionError("worked")
            except OSError as error:
                assert error.errno == 24, repr(error)
        for descriptor in taken:
            os.close(descriptor)
        with shmq.Queue(sys.argv[1], slots=2) as queue:
            queue.put("x")
            assert queue.get(timeout=0) == "x"
        """,
        name,
    )


@pytest.mark.parametrize("slot_size", [64, 4096])
@pytest.mark.parametrize("kind", [shmq.Queue, shmq.mp.Queue], ids=["Queue", "drop-in"])
def test_a_consumer_without_a_descriptor_for_a_large_message_does_not_fail_it(kind: Any, slot_size: int) -> None:
    with kind(slots=4, slot_size=slot_size, max_deliveries=2) if kind is shmq.Queue else contextlib.closing(kind()) as queue:
        queue.put({"a": bytes(5000)})
        for take in (lambda: queue.get(timeout=1), lambda: queue.get(timeout=1), lambda: queue.get(timeout=1)):
            with free_descriptors(0), pytest.raises(OSError, match="Too many open files"):
                take()
        if kind is shmq.Queue:
            for take in (
                lambda: queue.receive(timeout=1),
                lambda: queue.receive_many(2, timeout=1),
                lambda: queue.get_many(2, timeout=1),
            ):
                with free_descriptors(0), pytest.raises(OSError, match="Too many open files"):
                    take()
            with queue.receive(timeout=1) as lease:
                assert (lease.delivery_count, lease.data) == (1, {"a": bytes(5000)})
            assert len(queue.dead_letters) == 0
        else:
            assert queue.get(timeout=1) == {"a": bytes(5000)}


def test_a_first_use_without_address_space_says_so() -> None:
    """The lock by which the living are told from the dead hangs on a mapping."""
    run_program(
        """
        import resource
        import shmq

        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        room = [bytes(30_000) for _ in range(3)]  # in the heap, where it stays: Python itself opens folders and makes objects
        del room
        with open("/proc/self/statm") as file:
            resource.setrlimit(resource.RLIMIT_AS, (int(file.read().split()[0]) * resource.getpagesize(), hard))
        try:
            shmq.Queue()
            raise AssertionError("worked")
        except MemoryError as error:
            assert "address space" in str(error), repr(error)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        with shmq.Queue() as queue:
            queue.put("x")
            assert queue.get(timeout=0) == "x"
        """
    )


def test_spilling_for_want_of_descriptors_loses_nothing(make: Make) -> None:
    queue = make(slots=4, slot_size=64, oversize="spill", max_deliveries=0)

    def nothing_put() -> None:
        assert queue.qsize() == 0 and len(files_of(queue.name)) == 4

    def still_there() -> None:
        assert queue.stats().returned == 1
        shmq.verify(queue)

    with_ever_more_descriptors(lambda: queue.put(bytes(5000)), nothing_put)
    lease = with_ever_more_descriptors(lambda: queue.receive(timeout=0), still_there)
    assert lease.data == bytes(5000)
    lease.release()
    assert with_ever_more_descriptors(lambda: queue.get(timeout=0), still_there) == bytes(5000)
    assert len(files_of(queue.name)) == 4


def test_what_needs_no_descriptor_works_without(make: Make) -> None:
    queue = make(slots=4, slot_size=64, lease_timeout=10.0)
    with free_descriptors(0):
        for _ in range(10):
            queue.put_many([b"a", "b", {"c": 1}])
            with queue.receive(timeout=0) as lease:
                lease.extend()
            assert queue.get_many(3, timeout=0) == ["b", {"c": 1}]
            with queue.loan(8) as view:
                view[:] = bytes(8)
            queue.receive(timeout=0).nack(delay=0)
            assert queue.get(timeout=1) == bytes(8)
            with pytest.raises(shmq.Empty):
                queue.get(timeout=0.001)
        queue._reap()
        shmq.verify(queue)


def test_errors_that_name_processes_are_raised_without_descriptors_too(make: Make) -> None:
    queue = make(slots=2, slot_size=64, in_flight=2, ports=1)
    queue.put_many([b"one", b"two"])
    leases = queue.receive_many(2)
    with free_descriptors(0), pytest.raises(shmq.InFlightLimit, match=f"2 leased by pid {os.getpid()}"):
        queue.receive(timeout=2)
    with free_descriptors(4), pytest.raises(shmq.TooManyPorts, match=f"pid {os.getpid()}"):
        shmq.Queue.attach(queue.name)
    assert len(leases) == 2


@pytest.mark.parametrize("lifetime", ["creator", "handles"])
def test_a_queue_that_no_descriptor_is_left_to_remove_is_removed_later(name: str, lifetime: Any) -> None:
    queue = shmq.Queue.create(name, slots=2, slot_size=64, lifetime=lifetime)
    with free_descriptors(0):
        if lifetime == "creator":
            with pytest.raises(OSError, match="Too many open files"):
                queue.close()
        else:
            queue.close()  # its last act, of which nobody hears
    assert len(files_of(name)) == 4, "half of it was removed"
    queue.close()
    if lifetime == "creator":
        assert files_of(name) == []
    with pytest.raises(shmq.SegmentNotFound):
        shmq.Queue.attach(name)
    assert files_of(name) == []


def test_an_unlink_without_descriptors_is_all_or_nothing(name: str) -> None:
    shmq.Queue.create(name, slots=2, slot_size=64).close()
    with free_descriptors(0), pytest.raises(OSError, match="Too many open files"):
        shmq.unlink(name)
    assert len(files_of(name)) == 4
    shmq.unlink(name)
    assert files_of(name) == []


# -- address space ----------------------------------------------------------------------------------------------------------


def test_a_process_without_address_space_is_told_so_and_leaves_nothing(name: str) -> None:
    run_program(
        """
        import os, resource, sys
        import numpy as np
        import shmq

        name = sys.argv[1]
        large = dict(slots=8, slot_size=8 << 20, in_flight=4)
        with shmq.Queue(f"{name}.small", slots=4, slot_size=64, oversize="spill") as queue:
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            limits = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), limits[1]))
            for form in (shmq.Queue, shmq.Queue.create):
                try:
                    form(name, **large)
                    raise AssertionError("was made")
                except shmq.OutOfMemory as error:
                    assert "address space" in str(error), error
            assert [file for file in os.listdir("/dev/shm") if name in file and "small" not in file] == []
            for number in range(100):
                queue.put(number)
                assert queue.get(timeout=0) == number
            resource.setrlimit(resource.RLIMIT_AS, limits)
            shmq.Queue(name, **large).close()
            queue.put(bytes(60 << 20))
            resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), limits[1]))
            try:
                shmq.Queue.attach(name)
                raise AssertionError("was attached")
            except shmq.OutOfMemory as error:
                assert "address space" in str(error), error
            for call in (queue.get, queue.receive):
                try:
                    call(timeout=0)
                    raise AssertionError("was taken")
                except (shmq.OutOfMemory, MemoryError):
                    pass
            assert queue.stats().returned == 1
            resource.setrlimit(resource.RLIMIT_AS, limits)
            assert len(queue.get(timeout=0)) == 60 << 20
            shmq.verify(queue)
        shmq.unlink(name)
        shmq.unlink(f"{name}.small")
        """,
        name,
    )


# -- one member's cgroup ------------------------------------------------------------------------------------------------------


@pytest.fixture
def limited_group() -> Iterator[Path]:
    """A cgroup of 48 MiB, version 1 or 2; without swap where the kernel counts that."""
    for root, limit, with_swap in (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        ("/sys/fs/cgroup", "memory.max", "memory.swap.max"),
    ):
        group = Path(root) / f"shmq-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if not (group / limit).exists():
                continue
            (group / limit).write_text(str(48 << 20))
            if (group / with_swap).exists():
                (group / with_swap).write_text("0" if with_swap == "memory.swap.max" else str(48 << 20))
            yield group
            return
        except OSError:
            continue
        finally:
            group.rmdir()
    pytest.skip("no cgroup with a memory limit can be made here")


def test_a_member_whose_memory_is_limited_by_a_cgroup_dies_alone(make: Make, limited_group: Path) -> None:
    """The kernel kills it when it touches more than it may: a death like any other."""
    queue = make(slots=2, slot_size=64)
    queue.put("held")
    child = os.fork()
    if child == 0:
        try:
            (limited_group / "cgroup.procs").write_text(str(os.getpid()))
            queue.receive(timeout=10)
            bytearray(256 << 20)
        finally:
            os._exit(3)
    watchdog = threading.Timer(20, os.kill, (child, signal.SIGKILL))
    watchdog.start()
    _, status = os.waitpid(child, 0)
    watchdog.cancel()
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert queue.receive(timeout=5).delivery_count == 2


# -- in-flight cells ----------------------------------------------------------------------------------------------------------


def test_where_messages_that_rest_occupy_the_cells_there_is_none_to_take_yet(make: Make) -> None:
    queue = make(slots=4, slot_size=64, in_flight=2)
    for _ in range(2):
        queue.put("rests")
        queue.receive(timeout=0).nack(delay=60)
    queue.put("waits")
    with pytest.raises(shmq.Empty, match="rest after a failure occupy the in-flight cells"):
        queue.receive(timeout=0)
    assert queue.get(timeout=0) == "waits"
