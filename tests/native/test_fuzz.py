"""Coverage-guided fuzzing of whatever reads a segment that somebody else wrote: see fuzz_segment.c and fuzz_client.c.

The long form: ``pytest -m stress tests/native/test_fuzz.py``, ten minutes on one CPU and some millions of inputs. An input that
broke something is shown, and is run again by ``PROGRAM FILE``; once what it found is mended, it goes to tests/native/corpus.
"""

from __future__ import annotations

import faulthandler
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.native import ACCESSES, ADDRESS, ENGINE, Builder

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
FLAGS = ("-O1", "-fsanitize=fuzzer", *ADDRESS)
TARGETS: dict[str, tuple[str, ...]] = {"segment": ACCESSES, "client": ()}  # the latter is not called between two accesses
SHORT, LONG, CONTROL = 20, 600, 60  # seconds
ROUNDS = 5
ENOUGH = 500_000  # inputs, among which the fuzzer finds whatever was planted

# What each of these takes out of the engine, the fuzzer must find.
PLANTED = {
    "a get that believes the slot in a ring cell": (
        "queue/ring.c",
        "if (shmq_unlikely(shmq_word_slot(word) >= queue->geometry.total_slots)) { *status = SHMQ_CORRUPT; break; }",
        "",
    ),
    "a claim that believes the slot in a spare cell": (
        "queue/cell.c",
        "|| shmq_word_slot(word) >= queue->geometry.total_slots) return false;",
        ") return false;",
    ),
    "a put that believes the sequence": ("queue/ring.c", "if (shmq_unlikely(index >= slots)) return SHMQ_CORRUPT;", ""),
    "a reaper that believes an intent": (
        "queue/recover.c",
        "if (cell < queue->geometry.cells && index < queue->geometry.slots) {",
        "{",
    ),
    "an attach that believes in the length of the file": ("queue/attach.c", " || out->segment_bytes > file_bytes", ""),
    "a sequence that is helped for ever": ("queue/ring.c", "tries < HELPS", "true"),
    "a waiter that is taken off for ever": ("wake.c", " && tries < TAKES", ""),
    "a wait that looks again for ever": ("queue/await.c", "    if (patience->late) return false;\n", ""),
    "a receive that loses for ever": ("client/client.c", "if (lost++ < LOSSES) continue;", "lost++; continue;"),
}


def compiled(build: Builder, target: str, engine: Path = ENGINE) -> Path:
    if shutil.which("clang") is None:
        pytest.skip("libFuzzer comes with clang, which is not installed")
    return build.program(HERE / f"fuzz_{target}.c", *FLAGS, *TARGETS[target], engine=engine, compiler="clang", standard="gnu11")


# Bytes of a script, as fuzz_segment.c reads them.
SCRIPTED = re.search(r"enum operation \{(.*?)OPERATIONS", (HERE / "fuzz_segment.c").read_text(), re.DOTALL)
OPERATIONS = re.findall(r"\w+", SCRIPTED[1]) if SCRIPTED else []
WITH_OPERAND = ("PUT_BY_CLIENT", "PUT_MANY", "RECEIVE", "ADOPT", "EXTEND", "SETTLE", "SETTLE_ANY", "LOAN", "LOOK", "WAIT")
OPERAND = {name: [7] for name in WITH_OPERAND}
OPERAND |= {"PUT_ARRAY": [1, 1, 4], "GET_MANY": [3, 2], "PEEK": [9, 0]}
PATCH, AMBUSH = 31, 22
HOT = [[1, n] for n in range(5)]  # sequences, changes of orphans, waiters
RECORDS = [[word << 4 | 2, 0] for word in (0, 1, 8, 9)]  # owner, pid, intent, expected
CELLS = [[3, 0], [3, 1], *([word << 5 | 6, 2] for word in range(1, 5))]
RING = [[4, 0], [4, 1]]
SLOTS = [[word << 5 | 5, slot] for word in range(8) for slot in (0, 4)]
VALUES = [[0, *[255] * 8], [0, *[0] * 8], [1, 1], [1, 255], [8, 255], [9, 1], [5, 0, 255, 0], [5, 1, 0, 0]]
VALUES += [[3, lap, state, slot] for lap in (0, 1, 255) for state in range(3) for slot in (0, 255)]
VALUES += [[4, state, 0, slot] for state in range(8) for slot in (0, 255)]
VALUES += [[6, 1, 255, 0, 0], [6, 2, 0, 255, 0], [6, 1, 0, 0, 255], [6, 2, 0, 0, 0]]


def calls(program: int, *operations: str) -> list[int]:
    return [byte for name in operations for byte in [program << 7 | OPERATIONS.index(name), *OPERAND.get(name, [])]]


def scripts() -> list[list[int]]:
    """Each hostile word in each place that matters, then each call: between calls, over a dead port, and during one."""
    begun = [*calls(0, "PUT"), 0, *calls(1, "PUT"), 1]  # with the byte that an attachment reads
    result = [[5, 1, 8, 2, 1], [5 | 4 << 4, 2, 0, 8, 3, 1, 200], [5 | 2 << 4], [5 | 8 << 4, 2, 0, 8, 3, 1, 1], [5 | 1 << 4, 16]]
    for place in [*HOT, *RECORDS, *CELLS, *RING, *SLOTS]:
        for value in VALUES:
            patch = [PATCH, *place, *value]
            result.append(
                [
                    *begun,
                    *patch,
                    *calls(0, "GET", "PUT", "RECEIVE", "PUT_MANY"),
                    *patch,
                    *calls(1, "GET_MANY", "ADOPT", "LOOK", "REAP"),
                ]
            )
            result.append([*begun, *calls(0, "RECEIVE", "DIE"), *patch, *calls(1, "REAP", "GET", "RECEIVE_BY_CLIENT")])
    for place in [*HOT, *RECORDS, *CELLS[:2]]:
        for value in [[1, 1], [1, 255], [9, 1], [4, 7, 0, 0]]:
            for again in (224, 225, 226, 227):
                ambush = [AMBUSH, 0, 0, again, *place, *value]
                result += [[*begun, *ambush, *calls(0, name)] for name in OPERATIONS]
    return [[number % 5, *script] if number >= 5 else script for number, script in enumerate(result)]


def seeds(folder: Path) -> Path:
    """What was found once, and the scripts above: the rest is for the fuzzer to invent."""
    folder.mkdir(exist_ok=True)
    for found in CORPUS.iterdir():
        shutil.copy(found, folder)
    for number, script in enumerate(scripts()):
        (folder / str(number)).write_bytes(bytes(script))
    return folder


def fuzz(program: Path, tmp_path: Path, seconds: int, *options: str) -> tuple[int, int, str]:
    """Run for so long; return the exit status, how many inputs were executed, and all that was said."""
    corpus = seeds(tmp_path / "corpus")
    faulthandler.dump_traceback_later(seconds * 2 + 120, exit=True)  # later than the watchdog of other tests
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=16", "SHMQ_FUZZ_NAME": str(os.getpid())}
    limits = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096", "-max_len=1024", "-reload=0"]
    command = [program, *limits, "-print_final_stats=1", f"-artifact_prefix={tmp_path}/", *options, corpus]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment)
    executed = re.search(r"stat::number_of_executed_units: (\d+)", done.stdout)
    return done.returncode, int(executed[1]) if executed else 0, done.stdout


def check(program: Path, tmp_path: Path, seconds: int, least: int) -> None:
    """Run for so long, and again where a busy machine had not the time for the least number of inputs."""
    total = 0
    for _ in range(ROUNDS):
        status, executed, said = fuzz(program, tmp_path, seconds)
        if status != 0:
            found = [f"{path.name}: {path.read_bytes().hex()}" for path in tmp_path.glob("*-*") if path.is_file()]
            pytest.fail(f"{program.name} after {executed} inputs: status {status}\n{said[-6000:]}\n" + "\n".join(found))
        total += executed
        if total >= least:
            return
    pytest.fail(f"only {total} inputs were executed in {ROUNDS} rounds\n{said[-2000:]}")


@pytest.mark.sanitizer
@pytest.mark.parametrize(("target", "least"), [("segment", 20_000), ("client", 2_000)])
def test_no_input_leads_a_reader_astray(build, tmp_path, target, least):
    check(compiled(build, target), tmp_path, SHORT, least)


@pytest.mark.stress
@pytest.mark.parametrize(("target", "seconds", "least"), [("segment", LONG, 1_000_000), ("client", LONG // 5, 20_000)])
def test_no_input_of_a_long_run_leads_a_reader_astray(build, tmp_path, target, seconds, least):
    check(compiled(build, target), tmp_path, seconds, least)


@pytest.mark.sanitizer
@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_bug_is_found(build, tmp_path, planted):
    file, taken, left = PLANTED[planted]
    engine = tmp_path / "engine"
    shutil.copytree(ENGINE, engine)
    source = (engine / file).read_text()
    assert taken in source, f"{file} no longer says {taken!r}: plant the bug again"
    (engine / file).write_text(source.replace(taken, left))
    program, total = compiled(build, "segment", engine), 0
    for _ in range(ROUNDS):  # again where a busy machine had not the time for what a quiet one executes in one round
        status, executed, said = fuzz(program, tmp_path, CONTROL)
        total += executed
        if status != 0 or total >= ENOUGH:
            break
    assert status != 0, f"{planted} was not found by {total} inputs"
    assert re.search("ERROR: AddressSanitizer|does not return|not so:|runtime error", said), said[-6000:]
