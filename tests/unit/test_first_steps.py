"""What somebody meets who has just got shmq: sources that were not built, a first message, other values, a small /dev/shm."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmq
from shmq._segment.queue import QueueConfig

PACKAGE = Path(shmq.__file__).parent


# -- sources ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder with shmq's sources, as they are cloned: without the compiled core."""
    shutil.copytree(PACKAGE, tmp_path / "shmq", ignore=shutil.ignore_patterns("*.so", "_core.c", "__pycache__"))
    return tmp_path


def import_fails_in(folder: Path, statement: str = "import shmq") -> str:
    """The last line of what Python says when it executes this in that folder. Where shmq is installed with -e, the hook of that
    would find the core of the other folder: -S."""
    done = subprocess.run([sys.executable, "-S", "-c", statement], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("statement", ["import shmq", "import shmq.mp", "from shmq.executor import Executor"])
def test_sources_without_their_core_say_so_and_what_to_type(sources: Path, statement: str) -> None:
    error = import_fails_in(sources, statement)
    assert error.startswith(f"ImportError: {sources}/shmq has no compiled core") and "it was not built" in error
    assert f"`{sys.executable} -m pip install -e {sources}`" in error and "another folder" in error


def test_sources_with_a_core_for_another_python_name_it(sources: Path) -> None:
    (sources / "shmq" / "_core.cpython-27-pdp11-unix.so").touch()
    assert "there is _core.cpython-27-pdp11-unix.so" in import_fails_in(sources)


def test_another_module_that_is_missing_is_not_mistaken_for_the_core(sources: Path) -> None:
    (sources / "shmq" / "_core.py").write_text("import no_such_module\n")
    assert import_fails_in(sources) == "ModuleNotFoundError: No module named 'no_such_module'"


# -- a first message -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "thing",
    [{"text": "x" * 3_000}, "ü" * 200_000, bytes(1 << 20), np.arange(200_000.0), [np.zeros(9), {"more": bytes(9_000)}]],
    ids=["a dict of 3 kB", "text", "a megabyte", "an array", "arrays within"],
)
def test_a_queue_made_without_any_word_takes_what_people_send(name: str, thing: Any) -> None:
    with shmq.Queue(name) as queue:
        queue.put(thing)
        with queue.receive(timeout=5) as lease:
            assert repr(lease.data) == repr(thing)
        queue.put_many([thing, b"small"])
        assert repr(queue.get_many(2)) == repr([thing, b"small"])
        assert [file.name for file in Path("/dev/shm").iterdir() if re.search(rf"{name}\+\w+\.[0-9a-f]{{16}}$", file.name)] == []


# -- a name that is there ------------------------------------------------------------------------------------------------------


def test_a_program_that_asks_for_other_values_is_told_the_ways_out(name: str) -> None:
    with shmq.Queue(name, slots=16) as queue:
        with pytest.raises(shmq.SegmentMismatch) as caught:
            shmq.Queue(name, slots=17)
        error = str(caught.value)
        assert "slots is 16, asked for 17" in error and "Leave a parameter out" in error
        assert f"Queue.attach({name!r})" in error and f"`shmq unlink {name}`" in error and "messages" in error
        with shmq.Queue(name) as same, shmq.Queue.attach(name) as again:  # these are true
            assert same.maxsize == again.maxsize == queue.maxsize


@pytest.mark.parametrize("codec", [None, shmq.json_codec], ids=["without a codec", "with a codec"])
def test_a_program_that_opens_with_another_codec_is_told_the_ways_out(make: Callable[..., shmq.Queue], codec: Any) -> None:
    class Other:
        name, encode, decode = "other", None, None

    queue = make(codec=codec)
    with pytest.raises(shmq.SegmentMismatch) as caught:
        shmq.Queue.attach(queue.name, codec=Other())  # type: ignore[arg-type]
    assert ("with the same codec=" if codec else "leave codec= out") in str(caught.value)
    assert f"`shmq unlink {queue.name}`" in str(caught.value)


# -- a small /dev/shm ----------------------------------------------------------------------------------------------------------

CONTAINER = """
import subprocess
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", "/dev/shm"], check=True)
"""
FIRST_EXAMPLE = re.findall(r"^```python\n(.*?)^```", (PACKAGE.parent / "README.md").read_text(), re.DOTALL | re.MULTILINE)[0]


def in_a_container(script: str) -> str:
    """What this prints where /dev/shm has 64 MiB, as in a container that was not told otherwise."""
    command = ["unshare", "--mount", sys.executable, "-c", CONTAINER + textwrap.dedent(script)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if done.stderr.startswith("unshare: ") or "unshare failed" in done.stderr or "mount: " in done.stderr:
        pytest.skip(f"a /dev/shm of its own is not permitted here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_example_of_the_readme_runs_in_a_container() -> None:
    assert in_a_container(FIRST_EXAMPLE) == "127.0\n"


@pytest.mark.parametrize("slot_size", [1, 1024, 4095, 4096, 100_000, 1 << 20, 1920 * 1080 * 3])
def test_a_queue_of_slots_of_any_size_fits_into_a_container_by_default(slot_size: int) -> None:
    config = QueueConfig.asked({"slot_size": slot_size})
    assert config.slots >= 4 and config.in_flight >= 4
    in_a_container(f"import shmq; shmq.Queue(slot_size={slot_size}).put(b'x')")


def test_a_container_that_is_too_small_is_told_how_large_it_should_be() -> None:
    out = in_a_container("""
        import shmq
        try:
            shmq.Queue("frames", slots=64, slot_size=1920 * 1080 * 3)
        except shmq.OutOfMemory as error:
            print(error)
    """)
    assert "64 slots, and 6 for what is in flight, of 6,220,800 bytes each" in out
    assert "needs 435,5" in out and "has 67,10" in out and "of 67,108,864" in out  # wanted, free, all of it
    assert "--shm-size=512m" in out and "fewer or smaller slots" in out


def test_a_message_for_which_a_container_has_no_room_is_told_the_ways_out() -> None:
    out = in_a_container("""
        import shmq
        with shmq.Queue() as queue:
            try:
                queue.put(bytes(100_000_000))
            except shmq.OutOfMemory as error:
                print(error)
            assert queue.empty() and queue.put(b"goes on") is None and queue.get() == b"goes on"
    """)
    assert "needs 100,000,000 bytes" in out and "has 65,7" in out and "--shm-size=128m" in out and "take what waits" in out
