"""Death at every instruction of the engine as it is released (-O3, no crash points), by single-stepping with ptrace.

The work is done by ``every_instruction.c``, with the roles of ``roles.h`` in the world of ``world.h``. The crash
points and stores of ``test_crash_points.py`` are those that the source names; here are the ones that the compiler made.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

# The engine of this checkout, as the sources of the test are: an installed shmq may be another one.
ENGINE = Path(__file__).parents[2] / "shmq" / "_native"
SOURCE = Path(__file__).with_name("every_instruction.c")
WATCHDOG = 110
NOT_HERE = 77

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        platform.machine() not in ("x86_64", "AMD64"),
        reason="x86-64 only: elsewhere a single step between load-exclusive and store-exclusive makes the store fail for ever",
    ),
]

# Role → the least number of instructions, and of states of shared memory, that its walks must have: half of what gcc 12 makes
# of it. A role that came to nothing would pass unnoticed.
FLOORS = {
    "putter": (600, 60),
    "batch_putter": (1000, 150),
    "publisher": (600, 60),
    "abandoner": (400, 50),
    "getter": (500, 16),
    "receiver": (500, 16),
    "batch_receiver": (700, 32),
    "acker": (150, 8),
    "looking_acker": (300, 8),
    "nacker": (400, 12),
    "releaser": (200, 6),
    "adopter": (300, 6),
    "timed_receiver": (700, 20),
    "timed_acker": (150, 8),
    "timed_nacker": (500, 13),
    "timed_adopter": (500, 10),
    "extender": (300, 6),
    "extender_ahead": (300, 8),
    "expirer": (800, 14),
    "expirer_unbegun": (700, 10),
    "viewer": (200, 3),
    "finishing_viewer": (400, 10),
    "finisher": (200, 5),
    "detacher": (600, 10),
    "attacher": (1000, 10),
    "item_waiter": (600, 8),
    "space_waiter": (600, 8),
    "waking_putter": (700, 60),
    "waking_receiver": (700, 20),
    "waking_nacker": (500, 14),
    "bell_owner": (200, 6),
    "leaving_bell_owner": (300, 4),
    "ringing_putter": (700, 60),
    "dead_getter": (500, 16),
    "dead_putter": (600, 60),
    "reaper_after_get": (4000, 45),
    "reaper_before_get": (4000, 40),
    "reaper_after_put": (4000, 40),
    "reaper_before_put": (4000, 40),
    "reaper_of_bell": (800, 12),
}
REAPERS = [role for role in FLOORS if role.startswith("reaper")]
SHAPES = range(4)
EVERY = 20  # in the short form, every so manieth instruction is one at which a child is really killed


# -no-pie: addresses in messages are those that addr2line understands. -z now: not to step through the dynamic linker.
FIXED = ("-no-pie", "-Wl,-z,now")


def compiled(build, engine=ENGINE, optimize="-O3"):
    """The program with an engine, perhaps a mutant."""
    return build.program(SOURCE, optimize, "-fno-pie", link=FIXED, engine=engine)


@pytest.fixture(scope="session")
def program(build):
    return compiled(build)


@pytest.fixture(scope="session", params=["-O2", "-O3"])
def any_program(request, build):
    return compiled(build, optimize=request.param)


def tried(program, *arguments):
    # On one CPU, tracer and traced hand over to each other several times as quickly as on two.
    cpu = {max(os.sched_getaffinity(0))}
    command = [program, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=WATCHDOG, preexec_fn=lambda: os.sched_setaffinity(0, cpu)
    )


def lines_of(program, text):
    """Where in the source the instructions of a failure's message are."""
    found = re.findall(r"0x[0-9a-f]+", text)
    if not found or shutil.which("addr2line") is None:
        return ""
    return subprocess.run(["addr2line", "-apfie", program, *found], capture_output=True, text=True).stdout


def run(program, *arguments):
    done = tried(program, *arguments)
    if done.returncode == NOT_HERE:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}{lines_of(program, done.stderr)}"
    words = done.stdout.split()
    return {name: int(count) for count, name in zip(words[::2], words[1::2], strict=True)}


def check_scan(counts, role):
    instructions, states = FLOORS[role]
    assert counts["instructions"] >= instructions
    assert counts["states"] >= states
    assert counts["system_calls"] >= 4  # the last one, in each shape of queue, is the child's end
    assert counts["kills"] >= counts["states"]
    assert counts["astray"] * 100 <= counts["kills"]


def test_the_table_knows_every_role(program):
    assert set(tried(program, "roles").stdout.split()) == set(FLOORS)


@pytest.mark.parametrize("role", FLOORS)
def test_a_death_at_any_instruction_loses_nothing(program, role):
    check_scan(run(program, "scan", role, EVERY), role)


@pytest.mark.parametrize(("shape", "role"), list(enumerate(REAPERS)))
def test_a_reaper_of_a_reaper_may_die_in_any_state_that_either_makes(program, role, shape):
    assert run(program, "pairs", role, shape)["states"] > (50 if role == "reaper_of_bell" else 100)  # that dead one held little


@pytest.mark.stress
@pytest.mark.parametrize("role", FLOORS)
def test_a_process_that_is_killed_at_each_single_instruction_loses_nothing(any_program, role):
    counts = run(any_program, "scan", role, 1)
    check_scan(counts, role)
    assert counts["kills"] == counts["instructions"]


@pytest.mark.stress
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("role", FLOORS)
def test_whatever_a_role_left_its_reaper_may_die_in_any_state(program, role, shape):
    assert run(program, "pairs", role, shape)["states"] > 8


# What the scan must find: file, the text that is replaced, what it is replaced by, and a role that then loses something.
MUTANTS = {
    "the intent is cleared before the in-flight cell names what was taken": (
        "queue/ring.c",
        re.compile(
            r"( +if \(happened\) \{.*?\n    \}\n)( +shmq_store_release\(&queue->port\.record->intent, 0\);[^\n]*\n)", re.S
        ),
        r"\2\1",
        "receiver",
    ),
    "the exchange happens before its intent stands": (
        "queue/ring.c",
        re.compile(
            r"( +shmq_store_release\(&queue->port\.record->intent, shmq_intent_word.*?\n)(.*?bool happened = [^\n]*\n)", re.S
        ),
        r"\2\1",
        "putter",
    ),
    "a message is an orphan before its failed delivery is counted": (
        "queue/lease.c",
        re.compile(
            r"(    shmq_delivery_ended\(queue, cell, leased, cause, delay_ns\);\n)(.*?SHMQ_CRASH_POINT\(lease_orphaned\);\n)",
            re.S,
        ),
        r"\2\1",
        "nacker",
    ),
    "a reaper does not take LEASED cells for orphans": (
        "queue/recover.c",
        re.compile(r"shmq_cell_next\(word, SHMQ_ORPHAN, SHMQ_NO_PORT"),
        "shmq_cell_next(word, SHMQ_SPARE, SHMQ_NO_PORT",
        "receiver",
    ),
    "a reaper clears the intent before it brings the cell up to date": (
        "queue/recover.c",
        re.compile(r"(            if \(verdict == HAPPENED\)\n)"),
        r"            shmq_store_release(&record->intent, 0);\n\1",
        "reaper_after_get",
    ),
    "a failed delivery is counted as often as it is looked at": (
        "queue/lease.c",
        re.compile(r"if \(\(before & of_tag\) != tag && "),
        "if (((before & of_tag) != tag || failed) && ",
        "reaper_after_get",
    ),
    "a port is free before its cells are": (
        "queue/attach.c",
        re.compile(r"(void shmq_port_detach\(struct shmq_queue_port \*queue\) \{\n)"),
        r"\1    shmq_store_release(&queue->port.record->owner, 0);\n",
        "detacher",
    ),
    "a port has no bell any more before that is removed": (
        "bell.c",
        re.compile(
            r"( +if \(path_of\(port, index, path\)\) shmq_file_remove\(path\);\n)(.*?)"
            r"( +shmq_store_seq[^\n]*bell, 0\);[^\n]*\n)",
            re.S,
        ),
        r"\3\2\1",
        "reaper_of_bell",
    ),
    "a bell is there before its port says so": (
        "bell.c",
        re.compile(r"( +shmq_or_seq[^\n]*SHMQ_BELL_MADE[^\n]*\n)(.*?if \(mkfifo[^\n]*\n)", re.S),
        r"\2\1",
        "bell_owner",
    ),
    "nobody helps a sequence that its dead mover has left behind": (
        "queue/sight.h",
        re.compile(r"state == SHMQ_READY \? PASSED : NONSENSE"),
        "state == SHMQ_READY ? CANNOT : NONSENSE",
        "putter",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_an_engine_with_a_window_is_found_out(build, tmp_path, mutant):
    file, old, new, role = MUTANTS[mutant]
    engine = shutil.copytree(ENGINE, tmp_path / "engine")
    source = (engine / file).read_text()
    changed, count = old.subn(new, source)
    assert count == 1 and changed != source, f"{file} no longer has the text that is to be replaced"
    (engine / file).write_text(changed)
    done = tried(compiled(build, engine), "scan", role, 1000)
    if done.returncode == NOT_HERE:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"(world|call|segment)\.h:\d+: .* after \d+ of \d+ instructions", done.stderr), done.stderr
