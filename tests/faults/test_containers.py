"""Containers: the command lines of docs/guide/containers.md are run, by podman, in containers that have this machine's files.

`docker` and `podman` take the same options. The containers see the files of this machine beneath a layer of their own, so that no
image is needed, and each has a /dev/shm, a pid namespace and a process 1 of its own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.pages import blocks_of
from support.processes import WATCHDOG

pytestmark = pytest.mark.stress

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "containers.md"
LINES = [line for block in blocks_of(PAGE.read_text()) for line in block.text.splitlines() if line.startswith("docker run ")]
LARGE, CAMERA, JOINED = LINES
LIMITS = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"]  # podman would raise them, which not every machine permits
READS_ALL = ["--cap-add=DAC_READ_SEARCH"]  # user 1000 runs an interpreter that may lie in root's home
ROOTS = ["--network=none", "--rootfs", "/:O"]

# 200 MiB: more than the 64 MiB that a container has unless it is told otherwise, less than the page's 256m.
MAKES_VIDEO = 'import shmq; q = shmq.Queue("video", slots=16, in_flight=4, ports=4, slot_size=10 << 20)'
HOLDS_ONE = (
    f'{MAKES_VIDEO}; q.put(b"frame"); lease = q.receive(); print("holds", flush=True); import time; time.sleep({WATCHDOG})'
)
TAKES_WHAT_COMES_BACK = """
import os, time, shmq
q = shmq.Queue.attach("video")
print("joined", os.getpid(), os.getuid(), flush=True)
with q.receive(timeout=60) as lease:
    print(bytes(lease.view), lease.delivery_count, flush=True)
"""
WORKER = """
{python} -c 'import shmq; shmq.Queue("jobs").put("a message")'
export PYTHONUNBUFFERED=1
exec {python} -m shmq worker jobs builtins:print --concurrency 1
"""


class Engine:
    """podman, with its files in a folder of the test, and the containers that were started."""

    def __init__(self, folder: Path) -> None:
        places = ["--root", folder / "root", "--runroot", folder / "run"]
        self.command = [str(part) for part in ("podman", *places, "--cgroup-manager=cgroupfs", "--runtime=runc")]
        self.prefix = f"shmq-test-{os.getpid()}-"
        self.folder = folder
        self.names: list[str] = []  # of all its containers
        self.started: list[subprocess.Popen[str]] = []

    def line(self, shown: str, program: list[str]) -> list[str]:
        """A line of the page as a command: the program stands for its ellipsis, its containers get names of the test's."""
        words = [word.replace("container:", f"container:{self.prefix}") for word in shlex.split(shown)[2:-1]]
        if "--name" not in words:
            words += ["--name", str(len(self.names))]
        at = words.index("--name") + 1
        words[at] = self.prefix + words[at]
        self.names.append(words[at])
        return [*self.command, "run", *words, *LIMITS, *READS_ALL, *ROOTS, *program]

    def run(self, shown: str, program: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.line(shown, program), capture_output=True, text=True, timeout=WATCHDOG)

    def start(self, shown: str, program: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(self.line(shown, program), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def tell(self, *words: str) -> None:
        done = subprocess.run([*self.command, *words], capture_output=True, text=True, timeout=WATCHDOG)
        assert done.returncode == 0, done.stderr

    def clear(self) -> None:
        """No container is left, and nothing that was mounted for one."""
        for name in reversed(self.names):  # one that joined another goes before that one
            self.tell("rm", "--force", "--time", "0", name)
        for process in self.started:
            process.communicate(timeout=WATCHDOG)
        overlay = self.folder / "root" / "overlay"
        if overlay.is_mount():
            subprocess.run(["umount", overlay], check=True)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.fixture
def engine() -> Iterator[Engine]:
    if shutil.which("podman") is None or shutil.which("runc") is None:
        pytest.skip("no podman, or no runc")
    with tempfile.TemporaryDirectory(prefix="shmq-") as folder:  # not pytest's: podman's own names may have 50 letters
        engine = Engine(Path(folder))
        tried = engine.run("docker run …", ["true"])
        if tried.returncode != 0:
            pytest.skip(f"no container can be run here: {tried.stderr}")
        try:
            yield engine
        finally:
            engine.clear()


def test_the_page_shows_how_to_enlarge_and_how_to_share() -> None:
    assert ["--shm-size" in LARGE, "--ipc=shareable" in CAMERA, "--ipc=container:camera" in JOINED] == [True] * 3
    assert all(line.endswith(" …") for line in LINES)


def test_a_queue_that_is_too_large_for_a_container_fits_with_the_pages_option(engine: Engine) -> None:
    refused = engine.run("docker run …", python(MAKES_VIDEO))
    assert refused.returncode == 1
    last = refused.stderr.splitlines()[-1]
    assert last.startswith(("shmq._errors.OutOfMemory: ", "shmq.OutOfMemory: ")), refused.stderr
    assert "--shm-size=" in last
    made = engine.run(LARGE, python(MAKES_VIDEO))
    assert (made.returncode, made.stderr) == (0, "")


def test_what_a_killed_container_held_comes_to_the_one_that_joined_it(engine: Engine) -> None:
    """Both programs are process 1, each in a pid namespace of its own: a number could not tell the dead from the living."""
    camera = engine.start(CAMERA, python(HOLDS_ONE))
    assert camera.stdout is not None
    assert camera.stdout.readline() == "holds\n"
    joined = engine.start(JOINED, python(TAKES_WHAT_COMES_BACK))
    assert joined.stdout is not None
    assert joined.stdout.readline() == "joined 1 1000\n"
    time.sleep(0.5)  # the holder lives: nothing comes back
    assert joined.poll() is None
    engine.tell("kill", "--signal", "KILL", f"{engine.prefix}camera")
    begun = time.monotonic()
    assert joined.stdout.readline() == "b'frame' 2\n"
    assert time.monotonic() - begun < 5
    assert joined.wait(WATCHDOG) == 0


def test_containers_that_share_nothing_see_no_queue_of_each_other(engine: Engine) -> None:
    camera = engine.start(CAMERA, python(HOLDS_ONE))
    assert camera.stdout is not None
    assert camera.stdout.readline() == "holds\n"
    alone = engine.run("docker run --user 1000 …", python('import shmq; shmq.Queue.attach("video")'))
    assert "SegmentNotFound" in alone.stderr


def test_a_worker_that_is_process_1_leaves_in_order_when_it_is_stopped(engine: Engine) -> None:
    """The kernel gives process 1 no signal that it has no handler for; `docker stop` would wait 10 s and kill it."""
    worker = engine.start(CAMERA, ["sh", "-c", WORKER.format(python=shlex.quote(sys.executable))])
    assert worker.stdout is not None
    assert worker.stdout.readline() == "a message\n"
    begun = time.monotonic()
    engine.tell("stop", "--time", "60", f"{engine.prefix}camera")
    assert time.monotonic() - begun < 30
    assert worker.wait(WATCHDOG) == 0
