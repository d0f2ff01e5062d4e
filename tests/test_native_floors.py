"""The floors of the engine: engine.c lists its parts from below upwards, and each includes headers of lower parts only."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmq

NATIVE = Path(shmq.__file__).parent / "_native"
CLIENT = {"client/client.c", "client/shmq.c", "client/shmq.h"}


def includes_of(folder: Path, file: str) -> list[str]:
    """The files of the engine that a file includes, as paths in its folder."""
    found = re.findall(r'^#include "([^"]+)"', (folder / file).read_text(), re.MULTILINE)
    return [((folder / file).parent / name).resolve().relative_to(folder.resolve()).as_posix() for name in found]


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.[ch]")}


def part_of(file: str) -> str:
    return file.rpartition(".")[0]


def circles_in(folder: Path) -> list[list[str]]:
    """Ways on which a part leads to itself; a part is a C file with its header."""
    graph: dict[str, set[str]] = {}
    for file in files_of(folder) - {"engine.c", "client/shmq.c"}:
        graph.setdefault(part_of(file), set()).update(part_of(name) for name in includes_of(folder, file))
    found: list[list[str]] = []

    def walk(part: str, way: list[str], done: set[str]) -> None:
        if part in way:
            found.append([*way[way.index(part) :], part])
        elif part not in done:
            for name in sorted(graph[part] - {part}):
                walk(name, [*way, part], done)
            done.add(part)

    done: set[str] = set()
    for part in sorted(graph):
        walk(part, [], done)
    return found


def lower_headers(folder: Path, file: str, seen: set[str] | None = None) -> set[str]:
    """Every header that a file comes to include."""
    seen = set() if seen is None else seen
    for name in includes_of(folder, file):
        if name not in seen:
            seen.add(name)
            lower_headers(folder, name, seen)
    return seen


def faults_in(folder: Path) -> Iterator[str]:
    """What is not as engine.c says."""
    files, parts = files_of(folder), includes_of(folder, "engine.c")
    sources = {name for name in files - CLIENT if name.endswith(".c")} - {"engine.c"}
    if set(parts) != sources:
        yield f"engine.c does not list {sorted(sources ^ set(parts))}"
    floor = {part_of(name): number for number, name in enumerate(parts)}
    for name in parts:
        for file in {name, f"{part_of(name)}.h"} & files:
            for header in sorted(lower_headers(folder, file)):
                if floor.get(part_of(header), -1) > floor[part_of(name)]:
                    yield f"{file} includes {header}, which stands above it"
    for file in sorted(files - CLIENT):
        if CLIENT & set(includes_of(folder, file)):
            yield f"{file} includes what is for C programs"
    for circle in circles_in(folder):
        yield f"circle: {' -> '.join(circle)}"


def test_each_part_of_the_engine_includes_lower_parts_only() -> None:
    assert list(faults_in(NATIVE)) == []


@pytest.mark.parametrize(
    ("file", "include", "said"),
    [
        ("bell.h", "wake.h", "circle: bell -> wake -> bell"),
        ("port.c", "queue/lease.h", "port.c includes queue/lease.h, which stands above it"),
        ("queue/slots.h", "cell.h", "circle: queue/cell -> queue/slots -> queue/cell"),
        ("wait.c", "client/shmq.h", "wait.c includes what is for C programs"),
    ],
)
def test_an_include_that_leads_upwards_is_found(tmp_path: Path, file: str, include: str, said: str) -> None:
    folder = shutil.copytree(NATIVE, tmp_path / "engine")
    (folder / file).write_text(f'#include "{include}"\n' + (folder / file).read_text())
    assert said in list(faults_in(folder))


def test_a_part_that_engine_c_does_not_list_is_found(tmp_path: Path) -> None:
    folder = shutil.copytree(NATIVE, tmp_path / "engine")
    (folder / "queue" / "forgotten.c").write_text("")
    assert "engine.c does not list ['queue/forgotten.c']" in list(faults_in(folder))


def test_includes_are_relative_to_the_file_that_they_stand_in() -> None:
    missing = {(file, name) for file in files_of(NATIVE) for name in includes_of(NATIVE, file) if not (NATIVE / name).exists()}
    assert missing == set()


@pytest.mark.engine
@pytest.mark.parametrize("file", sorted(files_of(NATIVE)))
def test_each_file_of_the_engine_includes_what_it_names(file: str) -> None:
    """Together, in the order of engine.c, a part may find by luck what it does not include."""
    command = ["cc", "-std=c11", "-D_GNU_SOURCE=", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-fsyntax-only", "-x", "c"]
    done = subprocess.run([*command, NATIVE / file], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
