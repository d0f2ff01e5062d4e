"""The floors of ARCHITECTURE.md: which module may import which, and which alone may touch what."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
from pathlib import Path

import pytest

import shmq

PACKAGE = Path(shmq.__file__).parent
FLOORS = {  # folders, and the modules beside them
    "_errors": 0,
    "_core": 1,
    "_signals": 1,
    "_worker_lost": 1,
    "_segment": 2,
    "_codec": 2,
    "_upcalls": 2,
    "_store": 3,
    "_observe": 4,
    "_waiting": 4,
    "_exit": 4,
    "_queue": 5,
    "aio": 6,
    "executor": 6,
    "mp": 6,
    "_repair": 6,
    "_screen": 6,
    "demo": 7,
    "cli": 8,
    "__main__": 9,
}
FREE = {"_version", "_include", "_unbuilt"}  # import nothing of shmq, may be imported by all
MODULES = sorted(PACKAGE.rglob("*.py"))
CYTHON = sorted(PACKAGE.glob("*.pyx")) + sorted((PACKAGE / "_binding").glob("*.pxi"))
NATIVE = sorted((PACKAGE / "_native").rglob("*.c"))
PUBLIC = [
    "Backoff",
    "Closed",
    "Codec",
    "DeadLetter",
    "DeadLetters",
    "Empty",
    "Executor",
    "ExecutorStats",
    "Full",
    "Holding",
    "InFlightLimit",
    "JSONCodec",
    "Lease",
    "LeaseLost",
    "Loan",
    "MessageTooLarge",
    "NoSharedMemory",
    "OutOfMemory",
    "PayloadLost",
    "PickleRefused",
    "Queue",
    "QueueStats",
    "SegmentCorrupt",
    "SegmentExists",
    "SegmentForeign",
    "SegmentMismatch",
    "SegmentNotFound",
    "ShmqError",
    "ShutDown",
    "TooManyPorts",
    "WorkerLost",
    "WorkerStats",
    "__version__",
    "get_include",
    "json_codec",
    "list_segments",
    "unlink",
    "verify",
    "wait_any",
]


def path_id(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def module_of(path: Path) -> str:
    """The dotted name of a file, without "shmq.": "_segment.files"; "executor" for its __init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def floor_entry(module: str) -> str:
    """The name under which FLOORS knows a module: its own, or that of its folder."""
    return module if module in FLOORS or module in FREE else module.partition(".")[0]


def imports_of(path: Path) -> set[str]:
    """Dotted names of everything that a module imports, also inside functions, and for type checkers alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path_id(path)} imports relatively"
            found.add(str(node.module))
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def cython_imports_of(path: Path) -> set[str]:
    """Dotted names of everything that a Cython file imports, without what it cimports."""
    text = path.read_text()
    found = set(re.findall(r"^\s*import\s+([\w.]+)", text, re.MULTILINE))
    for module, names in re.findall(r"^\s*from\s+([\w.]+)\s+import\s+(\([^)]*\)|[^\n(]+)", text, re.MULTILINE):
        found.add(module)
        found.update(f"{module}.{name.split()[0]}" for name in names.strip("()").split(",") if name.strip())
    return found


NAMES = {module_of(path) for path in MODULES} | {"_core"}


def modules_imported(imports: set[str]) -> set[str]:
    """Which modules of shmq these imports name; "" is the package itself."""
    found = set()
    for name in imports:
        package, _, rest = name.partition(".")
        if package == "shmq":
            while rest not in NAMES:  # the last part names something in a module
                rest = rest.rpartition(".")[0]
            found.add(rest)
    deeper = {name for name in found if not any(other.startswith(f"{name}." if name else "_") for other in found - {name})}
    return deeper or found


def test_every_module_has_its_floor() -> None:
    entries = {floor_entry(module_of(path)) for path in MODULES + sorted(PACKAGE.glob("*.pyx"))} - {""}
    assert entries == set(FLOORS) | FREE


@pytest.mark.parametrize("path", [path for path in MODULES if path != PACKAGE / "__init__.py"], ids=path_id)
def test_a_module_imports_from_lower_floors_and_its_own_folder(path: Path) -> None:
    entry = floor_entry(module_of(path))
    for module in modules_imported(imports_of(path)):
        other = floor_entry(module)
        if module == "":
            assert FLOORS[entry] >= 7, f"{path_id(path)} imports the package that is made of it"
        else:
            assert other == entry or FLOORS.get(other, -1) < FLOORS.get(entry, 0), f"{path_id(path)} imports {module}"


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the next, and the last the first; [] where there are none."""
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str]:
        if module in way:
            return way[way.index(module) :]
        if module not in done:
            for other in sorted(graph.get(module, ())):
                if circle := visit(other, [*way, module]):
                    return circle
            done.add(module)
        return []

    return next(filter(None, (visit(module, []) for module in sorted(graph))), [])


def test_no_module_imports_itself_on_any_way() -> None:
    """Inside functions, and for type checkers, too. The package itself imports everybody, and counts for nobody."""
    graph = {module_of(path): modules_imported(imports_of(path)) for path in MODULES if path != PACKAGE / "__init__.py"}
    folders = {module_of(path) for path in MODULES if path.name == "__init__.py"}
    assert find_circle({module: {name for name in graph[module] if name not in folders} for module in graph}) == []


def test_a_circle_is_found() -> None:
    assert find_circle({"a": {"b", "d"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]
    assert find_circle({"a": {"b"}, "b": {"c"}}) == []


@pytest.mark.parametrize("noun", sorted(FREE))
def test_free_modules_import_nothing_of_shmq(noun: str) -> None:
    assert modules_imported(imports_of(PACKAGE / f"{noun}.py")) == set()


def test_the_binding_calls_up_into_the_codec_alone() -> None:
    found = set().union(*(modules_imported(cython_imports_of(path)) for path in CYTHON))
    assert found == {"_codec.codec", "_codec.importing", "_errors"}


def importers_of(*names: str) -> set[str]:
    """Files below the command line that import any of these top-level modules."""
    found = {path.stem for path in MODULES if {name.partition(".")[0] for name in imports_of(path)} & set(names)}
    return found | {path.stem for path in CYTHON if {name.partition(".")[0] for name in cython_imports_of(path)} & set(names)}


def test_only_codec_reducers_binding_and_the_tasks_of_executors_touch_pickle() -> None:
    found = importers_of("pickle", "_pickle", "marshal", "shelve", "copyreg", "dill", "cloudpickle")
    assert found == {"codec", "_core", "reducers", "_pickles", "_tasks"}


def test_only_the_modules_of_files_make_and_map_what_lies_in_shared_memory() -> None:
    assert importers_of("posix_ipc", "_posixshmem") == {"files", "semaphores"}
    assert importers_of("mmap") == set()  # a mapping is the binding's, which keeps no descriptor
    assert {path.stem for path in MODULES if "_core.Mapping(" in path.read_text()} == {"files"}


def test_locks_are_taken_by_a_hold_that_gives_them_back_when_it_is_dropped() -> None:
    bare = {
        f"{path_id(path)}: {ast.unparse(item.context_expr)}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.With)
        for item in node.items
        if isinstance(item.context_expr, ast.Name | ast.Attribute)
    }
    assert {name for name in bare if not name.startswith(("cli/", "demo/"))} == {
        "_repair.py: queue",
        "executor/_client.py: future._condition",
        "executor/_future.py: self._condition",
    }


def test_a_name_of_a_class_means_one_thing() -> None:
    defined = [
        node.name
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        if "Protocol" not in map(ast.unparse, node.bases)  # which describes the class of that name
    ]
    defined += [name for path in CYTHON for name in re.findall(r"^(?:cdef )?class (\w+)", path.read_text(), re.MULTILINE)]
    # The queue has three faces; the lock of a name in Python is the one of the binding that waits.
    assert {name for name in defined if defined.count(name) > 1} == {"Queue", "NameLock"}


def is_exception(name: str) -> bool:
    thing = getattr(shmq, name, None) or getattr(builtins, name, None)
    return isinstance(thing, type) and issubclass(thing, BaseException)


def test_only_the_errors_modules_define_exceptions() -> None:
    classes = {
        f"{path_id(path)}: {node.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and path.stem not in ("_errors", "_worker_lost")
        if any(is_exception(ast.unparse(base).rpartition(".")[2]) for base in node.bases)
    }
    for path in CYTHON:
        declared = re.findall(r"class (\w+)\((\w+)", path.read_text())
        classes |= {f"{path_id(path)}: {name}" for name, base in declared if is_exception(base)}
    assert classes == {"executor/_worker.py: Leave"}  # how a signal leaves a worker that is idle; nobody outside sees it


def test_every_exception_of_the_errors_module_is_public_and_has_our_base() -> None:
    tree = ast.parse((PACKAGE / "_errors.py").read_text())
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    assert all(issubclass(getattr(shmq, name), shmq.ShmqError) for name in names)
    assert set(names) <= set(shmq.__all__)


def test_the_public_names_are_these() -> None:
    assert shmq.__all__ == PUBLIC
    assert sorted(PUBLIC) == PUBLIC
    assert all(hasattr(shmq, name) for name in PUBLIC)


def test_nothing_public_hides_behind_the_package() -> None:
    modules = {"cli", "demo", "aio", "mp", "executor"}  # where they were imported
    assert {name for name in dir(shmq) if not name.startswith("_")} - modules == set(PUBLIC) - {"__version__"}


def loaded_after(statements: str) -> set[str]:
    """Modules that a fresh interpreter has after these statements."""
    script = f"{statements}; import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True, cwd=PACKAGE.parent
    )
    return set(done.stdout.split())


def test_importing_shmq_loads_nothing_heavy() -> None:
    heavy = {
        "numpy",
        "dataclasses",
        "inspect",
        "psutil",
        "multiprocessing",
        "asyncio",
        "click",
        "rich",
        "json",
        "secrets",
        "pathlib",
        "subprocess",
        "tempfile",
    }
    assert {name for name in loaded_after("import shmq") - loaded_after("pass") if name.partition(".")[0] in heavy} == set()


def test_importing_shmq_does_not_load_the_command_line() -> None:
    assert not {name for name in loaded_after("import shmq") if name.startswith("shmq.cli")}


AS_ANY_PROGRAM = ("cli/bench.py", "cli/demo.py", "cli/unlink.py")


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.parent.name == "demo" or path_id(path) in AS_ANY_PROGRAM], ids=path_id
)
def test_demo_bench_and_unlink_use_public_names_only(path: Path) -> None:
    ours = {name for name in imports_of(path) if name.partition(".")[0] == "shmq"}
    assert {name for name in ours if not re.match(r"shmq$|shmq\.demo\.|shmq\._screen", name)} == set()
    private = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not ast.unparse(node.value).startswith("self")
    }
    assert private <= {"os._exit", "shmq.__version__"}


def test_nothing_imports_the_command_line_but_its_own_modules_and_main() -> None:
    importers = {path_id(path) for path in MODULES if any(name.startswith("shmq.cli") for name in imports_of(path))}
    assert {name for name in importers if not name.startswith("cli/")} == {"__main__.py"}


BLOCKING = (
    r"sem_clockwait|sem_timedwait|sem_wait|nanosleep|usleep|\bsleep\s*\(|\bpoll\s*\(|\bselect\s*\(|futex|F_SETLKW|pthread_cond"
)


@pytest.mark.parametrize("path", [path for path in NATIVE if path.name != "wait.c"], ids=path_id)
def test_only_wait_c_blocks(path: Path) -> None:
    assert re.findall(BLOCKING, path.read_text()) == []


def test_wait_c_sleeps_on_the_monotonic_clock() -> None:
    text = (PACKAGE / "_native" / "wait.c").read_text()
    assert "sem_clockwait(semaphore, CLOCK_MONOTONIC" in text and "clock_nanosleep(CLOCK_MONOTONIC" in text


@pytest.mark.parametrize("path", NATIVE, ids=path_id)
def test_the_engine_neither_allocates_nor_logs_nor_knows_python(path: Path) -> None:
    allowed = "malloc|calloc|free" if path.name == "client.c" else ""
    calls = set(re.findall(r"\b(malloc|calloc|realloc|free|printf|fprintf|puts|perror|syslog)\s*\(", path.read_text()))
    assert calls - set(allowed.split("|")) == set()
    assert "Python.h" not in path.read_text()
