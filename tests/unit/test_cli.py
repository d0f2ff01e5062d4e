"""The command line, as its users meet it: words, exit statuses, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest

import shmq
from support.commands import Commands
from support.processes import session_of, survivors_of, wait_until
from support.programs import WithoutNumpy, require
from support.shared_memory import PREFIX, left_behind_by

click_testing = pytest.importorskip("click.testing")
pytest.importorskip("rich")

from rich.console import Console  # noqa: E402

from shmq import _screen  # noqa: E402
from shmq.cli import _listing  # noqa: E402
from shmq.cli._group import group  # noqa: E402
from shmq.demo.files import Report, files_below, inspect, pack  # noqa: E402
from shmq.demo.job import Job  # noqa: E402
from shmq.demo.processes import Children  # noqa: E402
from shmq.demo.transports import SLOT_SIZE, put_when_there_is_room, shmq_transport  # noqa: E402

WATCHDOG = 120


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    yield
    assert left_behind_by(os.getpid()) == []


@pytest.fixture(autouse=True)
def only_our_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tests that run beside these make and remove is none of our business."""
    everybodys = shmq.list_segments
    monkeypatch.setattr(shmq, "list_segments", lambda: [name for name in everybodys() if str(os.getpid()) in name])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of every awkward kind: empty, larger than a slot, with odd names, beside links and pipes."""
    root = tmp_path / "files"
    (root / "below" / "site-packages").mkdir(parents=True)
    (root / "empty").touch()
    (root / "larger than a slot").write_bytes(os.urandom(SLOT_SIZE * 2 + 1))
    (root / "below" / "naïve [bold]résumé.txt").write_text("tëxt" * 1000)
    Path(os.fsdecode(os.fsencode(root) + b"/not utf-8 \xff")).write_bytes(b"x")
    (root / "below" / "site-packages" / "skipped").write_text("not part of it")
    (root / "link").symlink_to(root / "empty")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe")
    for number in range(200):
        (root / f"{number}.bin").write_bytes(bytes(range(256)) * number)
    return root


def files_of(seconds: float, folder: Path) -> Path:
    """Make a folder that keeps one worker busy for about so many seconds: noise is slow to compress."""
    folder.mkdir()
    for number in range(int(seconds * 30)):
        (folder / str(number)).write_bytes(os.urandom(1 << 20))
    return folder


def shmq_command(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "shmq.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(shmq.__file__).parents[1]), **environment},
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a command; return its status and outputs once no process of its session is left."""
    try:
        output, errors = process.communicate(timeout=WATCHDOG)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if not (children := survivors_of(process.pid)):
        assert left_behind_by(process.pid) == []
        return process.returncode, output, errors
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError(f"children outlive the command: {children}")


def invoke(*arguments: str, **options: str) -> tuple[int, str]:
    result = click_testing.CliRunner().invoke(group, arguments, **options)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_segments_are_known_by_the_pid_of_their_creator() -> None:
    with shmq.Queue():
        assert len(left_behind_by(os.getpid())) == 4  # the segment, two semaphores, a folder for dead letters


# ---- the command itself ----------------------------------------------------------------------------------------------


def test_version_is_the_one_of_the_package() -> None:
    assert invoke("--version") == (0, f"shmq {shmq.__version__}\n")


def test_help_names_every_command() -> None:
    status, output = invoke("--help")
    assert status == 0
    commands = re.findall(r"^  (\w+) ", output[output.index("Commands:") :], re.M)
    assert commands == ["bench", "dead", "demo", "doctor", "ls", "redrive", "unlink", "worker"]
    assert "..." not in output[output.index("Commands:") :]


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_missing_extra_is_one_clear_line_and_status_2(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from shmq.cli import main; main()"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WATCHDOG)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr == f"shmq: the command line needs {missing}: pip install 'shmq[cli]'\n"


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_python_m_shmq_is_the_command_and_says_what_it_misses(missing: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shmq", "--version"]
    environment = {**os.environ, "PYTHONPATH": str(Path(shmq.__file__).parents[1])}
    whole = subprocess.run(command, capture_output=True, text=True, timeout=WATCHDOG, env=environment, cwd=tmp_path)
    assert (whole.returncode, whole.stdout, whole.stderr) == (0, f"shmq {shmq.__version__}\n", "")
    (tmp_path / missing).mkdir()
    (tmp_path / missing / "__init__.py").write_text(f"raise ModuleNotFoundError('none', name={missing!r})")
    without = subprocess.run(command, capture_output=True, text=True, timeout=WATCHDOG, env=environment, cwd=tmp_path)
    assert (without.returncode, without.stdout) == (2, "")
    assert without.stderr == f"shmq: the command line needs {missing}: pip install 'shmq[cli]'\n"


def test_workers_import_neither_click_nor_rich() -> None:
    program = "import sys, shmq.demo.job, shmq.demo.costs, shmq.demo.measure; print({'click', 'rich'} & set(sys.modules))"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WATCHDOG)
    assert process.stdout == "set()\n"


# ---- demo ------------------------------------------------------------------------------------------------------------


def test_demo_checks_every_file_and_compares(folder: Path) -> None:
    status, output, errors = finished(shmq_command("demo", folder, "--workers", "2"))
    assert (status, errors) == (0, "")
    assert "204 files" in output
    for name in ("shmq", "multiprocessing.Queue"):
        assert re.search(rf"✓ {name}: 204 of 204 files", output)
    assert "own cost per message" in output
    assert "\x1b" not in output


def test_demo_does_without_the_comparison_and_without_numpy(folder: Path, without_numpy: WithoutNumpy) -> None:
    command = shmq_command("demo", folder, "--no-compare", "--workers", "3", **without_numpy.environment)
    status, output, errors = finished(command)
    assert (status, errors) == (0, "")
    assert not without_numpy.was_tried()
    assert "✓ shmq: 204 of 204 files" in output
    assert "multiprocessing" not in output


def test_demo_loses_no_file_when_a_worker_is_killed(tmp_path: Path) -> None:
    folder = files_of(1.0, tmp_path / "files")
    status, output, errors = finished(shmq_command("demo", folder, "--no-compare", "--kill", "--workers", "2"))
    assert (status, errors) == (0, "")
    assert "1 worker killed" in output
    assert "✓ shmq: 30 of 30 files" in output


def test_files_of_killed_workers_come_back_to_the_others(tmp_path: Path) -> None:
    files = files_below(str(files_of(1.0, tmp_path / "files")))
    with shmq_transport(2) as transport, Children() as children:
        job = Job(transport, 2, children)
        reports = []
        for report in job.run([file.path for file in files]):
            reports.append(report)
            if len(reports) in (5, 15):
                while not transport.files.stats().leased:
                    time.sleep(0.001)
                job.kill_one()
        came_back = transport.files.stats().redeliveries
        job.end()
    assert job.deaths == 2
    assert came_back >= 1
    assert sorted(report.path for report in reports) == sorted(file.path for file in files)
    assert all(report == inspect(memoryview(pack(report.path))) for report in reports)


@pytest.mark.parametrize("after", [0.4, *(pytest.param(after, marks=pytest.mark.stress) for after in (0.1, 1.0, 1.6))])
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.stress)],
    ids=["ctrl-c", "terminate", "terminal closed"],
)
def test_demo_interrupted_leaves_no_child_and_no_segment(tmp_path: Path, after: float, number: signal.Signals) -> None:
    process = shmq_command("demo", files_of(4.0, tmp_path / "files"), "--workers", "2")
    assert process.stdout is not None
    process.stdout.readline()  # the folder is listed: it is about to start
    time.sleep(after)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    status, _, errors = finished(process)
    assert (status, errors) == (128 + number, "interrupted\n" if number == signal.SIGINT else "")


FORGETFUL = """
import os, signal, time
from shmq.demo.processes import leaving_cleanly

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.{number})
        for _ in range(1000):
            pass

with leaving_cleanly():
    Finalized()
    time.sleep({limit})
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "terminate", "terminal closed"])
def test_a_command_ends_although_its_signal_struck_in_a_finalizer(number: signal.Signals) -> None:
    """Python prints and forgets what is raised there; the demo went on to its end, as if nobody had asked it to leave."""
    program = FORGETFUL.format(number=number.name, limit=WATCHDOG)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WATCHDOG)
    assert (done.returncode, done.stderr) == (128 + number, "interrupted\n" if number == signal.SIGINT else "")


def test_demo_killed_takes_its_children_along_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    process = shmq_command("demo", files_of(4.0, tmp_path / "files"), "--workers", "2")
    assert process.stdout is not None
    process.stdout.readline()
    while len(session_of(process.pid)) < 5:  # itself, multiprocessing's tracker, a producer, two workers
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=WATCHDOG)
    deadline = time.monotonic() + WATCHDOG
    while session_of(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # Another process of this run may be in the middle of removing one of its queues, which the next one leaves to it then.
    subprocess.run([sys.executable, "-c", "import shmq; shmq.Queue().close()"], check=True, timeout=WATCHDOG)
    wait_until(lambda: left_behind_by(process.pid) == [])


def test_demo_fails_when_a_digest_differs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = str(folder / "7.bin")
    true_inspect = inspect

    def inspect_badly(message: memoryview) -> Report:
        report = true_inspect(message)
        return report._replace(digest="0" * 64) if report.path == wrong else report

    monkeypatch.setattr("shmq.demo.comparison.inspect", inspect_badly)  # of the sequential pass; the workers stay right
    status, output = invoke("demo", str(folder), "--no-compare", "--workers", "1")
    assert status == 1
    assert f"shmq: differs from the sequential pass: {wrong}" in output
    assert "✗ shmq: 203 of 204 files" in output


def test_demo_says_which_files_changed_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changing = folder / "7.bin"
    true_pack = pack

    def pack_late(path: str) -> bytes:
        if path == str(changing):
            changing.write_text("somebody saved it")
        return true_pack(path)

    monkeypatch.setattr("shmq.demo.comparison.pack", pack_late)
    status, output = invoke("demo", str(folder), "--no-compare", "--workers", "1")
    assert status == 0
    assert f"changed meanwhile, not compared: {changing}" in output
    assert "✓ shmq: 203 of 204 files" in output


def test_file_that_vanishes_is_left_out_and_named(folder: Path) -> None:
    paths = [file.path for file in files_below(str(folder))]
    os.unlink(paths[3])
    with shmq_transport(2) as transport, Children() as children:
        job = Job(transport, 1, children)
        reports = list(job.run(paths))
        job.end()
    assert [report for report in reports if report.problem] == [Report(paths[3], problem="No such file or directory")]
    assert len(reports) == len(paths)


class Crowded:
    """A queue whose memory is full until the workers have acknowledged `leased` messages; or for good, with `for_good`."""

    def __init__(self, leased: int, for_good: bool) -> None:
        self.leased, self.for_good, self.taken = leased, for_good, False

    def put(self, message: bytes) -> None:
        if self.leased or self.for_good:
            raise shmq.OutOfMemory("full")
        self.taken = True

    def stats(self) -> SimpleNamespace:
        self.leased = max(self.leased - 1, 0)
        return SimpleNamespace(ready=0, returned=0, leased=self.leased)


def test_producer_waits_for_memory_that_workers_are_about_to_free() -> None:
    files = Crowded(leased=3, for_good=False)
    put_when_there_is_room(files, b"large")
    assert files.taken


def test_producer_gives_up_on_a_file_that_no_worker_can_make_room_for() -> None:
    with pytest.raises(shmq.OutOfMemory):
        put_when_there_is_room(Crowded(leased=3, for_good=True), b"too large")


def test_demo_of_an_empty_folder_says_so(tmp_path: Path) -> None:
    assert invoke("demo", str(tmp_path)) == (1, f"Error: there is no regular file below {tmp_path}\n")


@pytest.mark.parametrize("arguments", [("/no/such/folder",), ("--workers", "0"), (__file__,)])
def test_demo_refuses_bad_arguments_with_status_2(arguments: tuple[str, ...]) -> None:
    assert invoke("demo", *arguments)[0] == 2


def test_demo_survives_a_terminal_without_unicode(folder: Path) -> None:
    status, output, errors = finished(shmq_command("demo", folder, "--no-compare", PYTHONIOENCODING="ascii"))
    assert (status, errors) == (0, "")
    assert "204 of 204 files" in output


# ---- bench -----------------------------------------------------------------------------------------------------------


def test_bench_shows_verified_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from shmq.demo import measure

    rows = [
        measure.Comparison(row.name, (*row.ours[:2], row.ours[2] // 50), (*row.theirs[:2], row.theirs[2] // 20), row.nbytes)
        for row in measure.ROWS
    ]
    monkeypatch.setattr(measure, "ROWS", rows)
    monkeypatch.setattr("shmq.cli.bench.ROWS", rows)
    status, output = invoke("bench")
    assert status == 0
    for row in rows:
        assert row.name in output
        assert f"{measure.ROUNDS * (row.ours[2] + row.theirs[2]):,}" in output
    assert "×" in output


# ---- ls and unlink ---------------------------------------------------------------------------------------------------


@pytest.fixture
def queue() -> Iterator[shmq.Queue]:
    with shmq.Queue.create(f"test-cli-{os.getpid()}", slots=10) as made:
        yield made
        if made.name in shmq.list_segments():
            made.unlink()


def test_ls_shows_what_is_in_a_segment(queue: shmq.Queue) -> None:
    queue.put_many([b"one", b"two", b"three"])
    lease = queue.receive()
    status, output = invoke("ls")
    lease.ack()
    assert status == 0
    (line,) = [line for line in output.splitlines() if line.split()[:1] == [queue.name]]
    assert line.split()[1:7] == ["10", "2", "1", "0", "0", "1/64"]


def test_ls_names_the_processes_that_hold_a_segment(queue: shmq.Queue) -> None:
    program = "import shmq, sys; q = shmq.Queue.attach(sys.argv[1]); q.put(b''); sys.stdin.read()"
    arguments = [sys.executable, "-c", program, queue.name]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE) as holder:
        queue.get(timeout=30)
        _, output = invoke("ls")
        assert holder.stdin is not None
        holder.stdin.close()
    (line,) = [line for line in output.splitlines() if line.split()[:1] == [queue.name]]
    assert f"{holder.pid} " in line


def test_ls_goes_on_after_a_segment_that_it_cannot_read(queue: shmq.Queue) -> None:
    broken = Path(f"/dev/shm/{PREFIX}{queue.name}-broken")
    broken.touch(mode=0o600)
    broken.write_bytes(b"\0x" * 5000)
    try:
        status, output = invoke("ls")
    finally:
        broken.unlink()
    assert status == 0
    lines = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line}
    assert "mismatch: it is no segment of shmq's" in " ".join(lines[f"{queue.name}-broken"])
    assert lines[queue.name][0] == "10"


@pytest.mark.parametrize("ports", [1, 3])
def test_ls_works_where_every_port_is_taken_and_changes_nothing(ports: int) -> None:
    with shmq.Queue.create(f"test-cli-{os.getpid()}", slots=10, ports=ports) as queue:
        handles = [shmq.Queue.attach(queue.name) for _ in range(ports - 1)]
        queue.put_many(list("abc"))
        late = queue.receive(lease_timeout=0.001)
        queue.receive().nack()
        time.sleep(0.01)
        memory = bytes(queue.segment.memory)
        status, output = invoke("ls")
        assert bytes(queue.segment.memory) == memory
        (line,) = [line for line in output.splitlines() if line.split()[:1] == [queue.name]]
        assert line.split()[1:7] == ["10", "1", "1", "1", "0", f"{ports}/{ports}"]
        assert status == 0 and f"pid {os.getpid()} " in line
        assert (f", {ports} handles" in line) == (ports > 1)
        late.release() if not late.settled else None
        for handle in handles:
            handle.close()
        queue.unlink()


@pytest.mark.parametrize(
    ("offset", "content", "says"),
    [
        (0, bytes(8), "half-made: it is being made"),
        (8, b"\2\0\0\0", "mismatch: an older shmq made it, in format version 2; this one reads version "),
        (8, b"\x63\0\0\0", "mismatch: a newer shmq made it, in format version 99"),
        (12, b"\1\2\3\4", "mismatch: it was made on a machine of another byte order"),
        (40, b"\xff\xff\xff\x7f", "damaged: its header's numbers contradict"),
        (80, b"\1\1\1\1", "other lock file: it was made beside another lock file"),
        (88, b"\1\1\1\1", "other boot: it was made before the machine was last booted"),
    ],
)
def test_ls_says_what_a_segment_is_that_cannot_be_used(queue: shmq.Queue, offset: int, content: bytes, says: str) -> None:
    with open(f"/dev/shm/{PREFIX}{queue.name}", "r+b") as file:
        file.seek(offset)
        before = file.read(len(content))
        file.seek(offset)
        file.write(content)
        file.flush()
        status, output = invoke("ls")
        file.seek(offset)
        file.write(before)
    (line,) = [line for line in output.splitlines() if line.split()[:1] == [queue.name]]
    assert status == 0 and f"  {says}" in line


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, width: int, *arguments: str) -> list[str]:
    """The lines that a command shows on a terminal of that width."""
    screen = Console(force_terminal=True, width=width, color_system=None, file=StringIO())
    monkeypatch.setattr(_listing, "console", lambda: screen)
    assert invoke(*arguments)[0] in (0, 1)
    assert isinstance(screen.file, StringIO)
    return screen.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 26, 33, 40, 47, 54, 60, 70, 80, 100, 120, 200])
def test_ls_cuts_no_figure_and_exceeds_no_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    with shmq.Queue.create(f"test-cli-{os.getpid()}", slots=123_456) as queue:
        queue.put_many(range(98_765))
        leases = queue.receive_many(100)
        lines = on_a_terminal(monkeypatch, width, "ls")
        queue.unlink()
        del leases
    shown = " ".join(lines).split()
    assert max(map(len, lines)) <= width
    assert "98,665" in shown and "100" in shown
    assert not [figure for figure in shown if figure[0].isdigit() and "," in figure and figure not in ("98,665", "123,456")]
    if width >= 80:
        assert "1/64" in shown and "0" in shown
    if width >= 100 or width < 30:
        assert "123,456" in shown


def test_what_is_piped_is_one_whole_line_a_segment_whatever_columns_says(queue: shmq.Queue) -> None:
    process = shmq_command("ls", COLUMNS="20")
    output, _ = process.communicate(timeout=WATCHDOG)
    (line,) = [line for line in output.splitlines() if line.split()[:1] == [queue.name]]
    assert f"pid {os.getpid()} (" in line and line == line.rstrip()


# ---- dead letters ------------------------------------------------------------------------------------------------------


@pytest.fixture
def letters(queue: shmq.Queue) -> list[shmq.DeadLetter]:
    """Those of two messages: one that was rejected, one at which somebody raised."""
    queue.put_many(["hopeless", b"poison"])
    queue.receive().reject("not today")
    for _ in range(20):
        with contextlib.suppress(ZeroDivisionError), queue.receive():
            _ = 1 / 0
    return list(queue.dead_letters)


def test_dead_lists_the_letters_with_their_reasons_and_changes_nothing(queue: shmq.Queue, letters: list[shmq.DeadLetter]) -> None:
    memory = bytes(queue.segment.memory)
    status, output = invoke("dead", queue.name)
    assert (status, bytes(queue.segment.memory)) == (0, memory)
    (rejected,) = [line for line in output.splitlines() if line.startswith(str(letters[0].id))]
    assert rejected.split()[1:4] == ["1", "8", "B"] and rejected.endswith("rejected: not today")
    (failed,) = [line for line in output.splitlines() if line.startswith(str(letters[1].id))]
    assert failed.split()[1] == "20" and "nacked: max_deliveries=20, ZeroDivisionError: division by zero" in failed
    assert "Traceback" not in output and "hopeless" not in output
    assert "Traceback" in invoke("dead", "--errors", queue.name)[1]
    data = invoke("dead", "--data", queue.name)[1]
    assert "'hopeless'" in data and "b'poison'" in data


def test_dead_works_where_every_port_is_taken() -> None:
    with shmq.Queue.create(f"test-cli-{os.getpid()}", ports=1) as queue:
        queue.put("x")
        queue.receive().reject("why not")
        assert "why not" in invoke("dead", queue.name)[1]
        assert invoke("redrive", queue.name)[1].startswith(f"Error: all 1 ports of {queue.name!r}")
        queue.unlink()


def test_redrive_puts_back_all_letters_or_those_that_are_named(queue: shmq.Queue, letters: list[shmq.DeadLetter]) -> None:
    status, output = invoke("redrive", queue.name, str(letters[1].id), "12345")
    assert status == 1 and "has no dead letter 12345" in output and len(queue.dead_letters) == 2
    assert invoke("redrive", queue.name, str(letters[1].id)) == (0, f"1 of 2 dead letters are back in queue {queue.name!r}\n")
    assert queue.get_nowait() == b"poison"
    assert invoke("redrive", queue.name)[1] == f"1 of 1 dead letters are back in queue {queue.name!r}\n"
    assert queue.get_nowait() == "hopeless"
    assert invoke("dead", queue.name) == (0, "there are no dead letters\n")


# ---- what a user can bring about is one line ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["dead", "redrive", "doctor"])
def test_a_queue_that_is_not_there_is_one_line(command: str) -> None:
    status, output = invoke(command, "test-cli-no-such-queue")
    assert status == 1 and re.search("there is no (segment 'test-cli-no-such-queue'|queue of this name)", output)


@pytest.fixture(scope="module")
def commands() -> Iterator[Callable[..., Commands]]:
    """A process for each way to start it, which forks for each command."""
    started: dict[tuple[object, ...], Commands] = {}

    def commands(*before: str, **environment: str) -> Commands:
        way = (*before, *environment.items())
        if way not in started:
            started[way] = Commands(*(require(*before) if before else ()), **environment)
        return started[way]

    yield commands
    for process in started.values():
        process.close()


@pytest.mark.parametrize(
    "prepare",
    [
        "mount -t tmpfs none /dev",
        "mount -t tmpfs -o ro none /dev/shm",
        "mount -t tmpfs -o size=4k none /dev/shm && head -c 4096 /dev/zero > /dev/shm/full",
    ],
    ids=["no /dev/shm", "read-only", "full"],
)
@pytest.mark.parametrize(
    "command",
    [("ls",), ("doctor",), ("doctor", "jobs"), ("dead", "jobs"), ("redrive", "jobs"), ("unlink", "-y", "jobs"), ("bench",),
     ("demo", os.path.dirname(__file__)), ("worker", "jobs", "os:nice")],
    ids=" ".join,
)  # fmt: skip
def test_a_shared_memory_that_is_none_costs_no_traceback(
    commands: Callable[..., Commands], prepare: str, command: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    started = commands("unshare", "-m", "sh", "-c", f'{prepare} && exec "$@"', "sh")
    pid = started.start(*command, stdin=os.open(os.devnull, os.O_RDONLY), stdout=writing, stderr=writing)
    patience = threading.Timer(
        3 if command[0] == "worker" else WATCHDOG, os.kill, (pid, signal.SIGTERM)
    )  # it waits for its queue
    patience.start()
    with open(reading) as pipe:
        output = pipe.read()
    patience.cancel()
    status = started.wait()
    assert "Traceback" not in output and output.strip()
    assert status in (0, 1) or command[0] == "worker"


def complaints(errors: str) -> list[str]:
    """What a command says on the standard error; not of another test's remains of an older shmq."""
    return [line for line in errors.splitlines() if not line.startswith("not listed: ")]


def test_a_reader_that_has_had_enough_costs_no_traceback(queue: shmq.Queue) -> None:
    ends, write = os.pipe()
    os.close(ends)
    with os.fdopen(write, "w") as nobody:
        environment = {**os.environ, "PYTHONPATH": str(Path(shmq.__file__).parents[1])}
        command = [sys.executable, "-m", "shmq", "ls"]
        process = subprocess.run(command, stdout=nobody, stderr=subprocess.PIPE, text=True, timeout=WATCHDOG, env=environment)
    assert complaints(process.stderr) == [] and process.returncode in (0, 1)


@pytest.mark.parametrize(
    "environment",
    [{"TERM": "dumb"}, {"COLUMNS": "20"}, {"COLUMNS": "1"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}],
    ids=str,
)
@pytest.mark.parametrize("command", ["ls", "doctor", "--help"])
def test_no_terminal_costs_a_traceback(
    commands: Callable[..., Commands], queue: shmq.Queue, environment: dict[str, str], command: str
) -> None:
    queue.put("x")
    queue.receive().reject("schön")
    main, terminal = pty.openpty()
    names = [queue.name] if command == "doctor" else []
    reading, writing = os.pipe()
    started = commands(**environment)
    started.start(command, *names, stdin=os.dup(terminal), stdout=terminal, stderr=writing)
    output = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while more := os.read(main, 65536):
            output += more
    os.close(main)
    with open(reading) as errors:
        assert (complaints(errors.read()), started.wait()) == ([], 0) and output
    assert command != "ls" or queue.name.encode() in output.replace(b"\r\n", b"")


def test_unlink_asks_first(queue: shmq.Queue) -> None:
    assert invoke("unlink", queue.name, input="n\n")[0] == 1
    assert queue.name in shmq.list_segments()
    assert invoke("unlink", queue.name, input="y\n")[0] == 0
    assert queue.name not in shmq.list_segments()


@pytest.mark.parametrize("name", ["test-cli-no-such-queue", "no/name"])
def test_unlink_does_not_ask_about_a_queue_that_is_not_there(name: str) -> None:
    status, output = invoke("unlink", name)
    assert status == 1 and output.startswith("Error: ") and name in output and "Remove" not in output


def test_unlink_goes_on_after_a_name_that_is_not_there(queue: shmq.Queue) -> None:
    status, output = invoke("unlink", "--yes", "test-cli-no-such-queue", queue.name)
    assert status == 1
    assert "test-cli-no-such-queue" in output
    assert queue.name not in shmq.list_segments()


@pytest.mark.parametrize("name", ["../etc/passwd", "", "a/b", "."])
def test_unlink_refuses_what_is_no_name(name: str) -> None:
    status, output = invoke("unlink", "--yes", name)
    assert status == 1
    assert output.startswith("Error: ")


# ---- what figures look like ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.00 ns"), (1.234e-8, "12.3 ns"), (9.9e-7, "990 ns"), (1.5e-6, "1.50 µs"), (0.02, "20.0 ms"), (75, "75.0 s")],
)
def test_durations_take_the_unit_that_fits(seconds: float, shown: str) -> None:
    assert _screen.duration(seconds) == shown


@pytest.mark.parametrize(
    ("nbytes", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (123_456_789, "123 MB"), (5e12, "5000.0 GB")]
)
def test_sizes_are_decimal(nbytes: float, shown: str) -> None:
    assert _screen.size(nbytes) == shown


def test_ratio_of_nothing_is_a_dash() -> None:
    assert _screen.ratio(0, 1) == "–"
