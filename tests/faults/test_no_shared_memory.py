"""A /dev/shm that is missing, read-only or closed to the user: every way in says so, and none leaves a half behind."""

from __future__ import annotations

import pytest

from support.programs import require, run_program

MISSING = "mount -t tmpfs tmpfs /dev && exec"  # a /dev in which there is no shm
READ_ONLY = "mount -t tmpfs -o ro tmpfs /dev/shm && exec"
WAYS = """
    import sys
    import shmq
    from click.testing import CliRunner
    from shmq import aio, mp
    from shmq._repair import repair
    from shmq.cli._group import group

    word = sys.argv[1]

    def is_told(what, call, *arguments, **named):
        try:
            call(*arguments, **named)
        except shmq.NoSharedMemory as error:
            assert word in str(error) and "/dev/shm" in str(error), (what, str(error))
            assert isinstance(error, OSError)
        else:
            raise AssertionError(f"{what} says nothing")

    is_told("open", shmq.Queue, "jobs")
    is_told("create", shmq.Queue.create, "jobs")
    is_told("attach", shmq.Queue.attach, "jobs")
    is_told("anonymous", shmq.Queue)
    is_told("unlink", shmq.unlink, "jobs")
    is_told("list_segments", shmq.list_segments)
    is_told("mp", mp.Queue)
    is_told("executor", shmq.Executor, 1)
    is_told("shared executor", shmq.Executor, 1, name="pool")
    (finding,) = repair()
    assert finding.level == "error" and word in finding.text
    for command in (["ls"], ["doctor"], ["doctor", "jobs"], ["unlink", "-y", "jobs"]):
        done = CliRunner().invoke(group, command, env={"COLUMNS": "400"})
        assert done.exit_code != 0 and word in done.output + str(done.exception or ""), (command, done.output, done.exception)
    print("told")
"""


def in_a_namespace(mounting: str) -> tuple[str, ...]:
    """What starts a program where this was mounted, if that is permitted; otherwise the test is skipped."""
    return require("unshare", "--mount", "sh", "-c", f'{mounting} "$@"', "sh")


@pytest.mark.parametrize(
    ("mounting", "word"), [(MISSING, "there is none"), (READ_ONLY, "read-only")], ids=["missing", "read-only"]
)
def test_every_way_in_says_what_is_wrong_with_shared_memory(mounting: str, word: str) -> None:
    assert run_program(WAYS, word, before=in_a_namespace(mounting)) == "told\n"


REMOUNTED = """
    import os, subprocess
    import shmq
    from shmq._repair import repair

    queue = shmq.Queue("jobs", slots=4, slot_size=64, oversize="spill", overflow="grow", max_deliveries=1, ports=4)
    for word in ("a", "b", "c"):
        queue.put(word)
    queue.receive(timeout=0).nack()
    assert [letter.data for letter in queue.dead_letters] == ["a"]

    def is_told(call, *arguments):
        try:
            call(*arguments)
        except shmq.NoSharedMemory as error:
            assert "read-only" in str(error), error
        else:
            raise AssertionError(f"{call} says nothing")

    before = sorted(os.listdir("/dev/shm"))
    def mount(command):
        subprocess.run(["sh", "-ec", command], check=True)

    mount("mount --bind /dev/shm /dev/shm; mount -o remount,bind,ro /dev/shm")  # whose files others have open cannot be remounted
    is_told(queue.redrive)
    is_told(queue.dead_letters.purge)
    is_told(queue.put, b"x" * 1000)
    is_told(shmq.Queue, "other")
    is_told(shmq.unlink, "jobs")
    assert [letter.data for letter in queue.dead_letters] == ["a"]
    lease = queue.receive(timeout=0)
    is_told(lease.reject)
    queue.put("goes on")
    assert queue.stats().ready == 2
    assert sorted(os.listdir("/dev/shm")) == before
    mount("umount /dev/shm")
    assert queue.redrive() == 1
    assert sorted(queue.drain()) == ["a", "c", "goes on"], queue.stats()
    queue.close()
    shmq.unlink("jobs")
    print("went on")
"""


def test_an_open_queue_says_that_shared_memory_became_read_only_and_goes_on() -> None:
    before = require("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh")
    assert run_program(REMOUNTED, before=before) == "went on\n"
