"""What the documents show is executed, what they count is counted, and what they point at exists."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import operator
import re
import subprocess
import sys
from pathlib import Path

import pytest

import shmq
from test_floors import FLOORS

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path
    for place in (
        ROOT.glob("*.md"),
        *((ROOT / folder).rglob("*.md") for folder in ("docs", "benchmarks", "examples", "shmq", "tests")),
    )
    for path in place
)
EXECUTED = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCKS = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in EXECUTED
    for number, block in enumerate(PYTHON.findall(path.read_text()))
]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_documents_show_code():
    assert len(PYTHON.findall((ROOT / "README.md").read_text())) >= 6
    assert len(BLOCKS) >= 7


@pytest.mark.parametrize("block", BLOCKS)
def test_a_python_block_of_a_document_runs_as_it_stands(block):
    subprocess.run([sys.executable, "-c", block], check=True, timeout=60)


def anchors_of(document: Path) -> set[str]:
    """The anchors that its headings have, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.*?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_into_the_tree_leads_somewhere(document):
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        leads_to = document if not path else document.parent / path
        assert leads_to.exists(), f"{name_of(document)} points at {target}"
        if anchor and leads_to.suffix == ".md":
            assert anchor in anchors_of(leads_to), f"{name_of(document)} points at {target}"


FILES = {
    path.relative_to(ROOT).as_posix()
    for folder in ("shmq", "tests", "docs", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*")
}


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.parent in (ROOT, ROOT / "docs")], ids=name_of)
def test_every_file_that_a_document_names_exists(document):
    spans = re.findall(r"`([^`\n]+)`", document.read_text())
    named = {
        name for span in spans for name in re.findall(r"(?<![\w./-])((?:shmq|tests|docs|benchmarks|examples)/[\w./]*\w)", span)
    }
    named |= {span for span in spans if re.fullmatch(r"[\w./]+\.(?:pyx|pxi|py|c|h)", span)}
    assert {name for name in named if not any(f"/{there}".endswith(f"/{name}") for there in FILES)} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_command_and_public_name_that_a_document_names_exists(document):
    pytest.importorskip("click")
    from shmq.cli._group import load

    for span in re.findall(r"`(shmq[^`\n]*)`", document.read_text()):
        if dotted := re.match(r"shmq((?:\.\w+)+)(?!\.|/)", span):
            if dotted[1] not in (".c", ".h"):
                operator.attrgetter(dotted[1][1:])(shmq)
        elif command := re.match(r"shmq ([a-z]\S*)", span):
            options = {option for parameter in load(command[1]).params for option in parameter.opts}
            assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", span)) <= options | {"--help"}, span


OF_PYTHON = {"as_completed", "run_in_executor"}


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "docs/decisions.md"])
def test_every_name_of_the_source_that_the_reasons_mention_is_there(document):
    text = re.sub(r"^```.*?^```", "", (ROOT / document).read_text(), flags=re.DOTALL | re.MULTILINE)
    kinds = {".py", ".pyx", ".pxi", ".pxd", ".pyi", ".c", ".h"}
    sources = [
        path
        for folder in ("shmq", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kinds and path.name != "_core.c"
    ]
    words = {word for path in sources for word in re.findall(r"\w+", path.read_text())}
    assert set(re.findall(r"`(\w+)(?:\(\))?`", text)) - words - OF_PYTHON == set()


def test_the_methods_that_the_readme_lists_exist_with_these_parameters():
    table = (ROOT / "README.md").read_text().partition("### Work queues")[2].partition("\n### ")[0].partition("| | |")[2]
    calls = [re.fullmatch(r"(?:q\.|lease\.|\.)?(\w+)(?:\((.*)\))?", span) for span in re.findall(r"`([^`]+)`", table)]
    named = {call[1]: call[2] or "" for call in calls if call and hasattr(shmq.Queue, call[1]) | hasattr(shmq.Lease, call[1])}
    unknown = {call[1] for call in calls if call} - set(named) - {"Full", "Empty", "LeaseLost"}
    assert unknown == set()
    assert len(named) >= 30
    for name, parameters in named.items():
        method = getattr(shmq.Queue, name, None) or getattr(shmq.Lease, name)
        for parameter, default in re.findall(r"(\w+)=([\w.]+)", parameters):
            assert str(inspect.signature(method).parameters[parameter].default) == default, name


def test_every_document_is_reached_from_the_readme():
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        document = waiting.pop()
        if document in seen:
            continue
        seen.add(document)
        targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
        waiting += [(document.parent / target).resolve() for target in targets if target.endswith(".md") and "://" not in target]
    assert {name_of(path) for path in DOCUMENTS} - {name_of(path) for path in seen} == set()


MOST_WORDS = 30


def sentences_of(document: Path) -> list[str]:
    """The sentences of a document, without its code, its measured tables and the targets of its links."""
    text = re.sub(
        r"^```.*?^```|^<!-- benchmark table: begin.*?table: end -->", "\n\n", document.read_text(), flags=re.DOTALL | re.MULTILINE
    )
    text = re.sub(r"`[^`]*`", "code", re.sub(r"\]\([^)]*\)", "]", text))
    paragraphs = re.split(r"\n\s*\n|\n(?=- |#)|\|", text)
    return [sentence for paragraph in paragraphs for sentence in re.split(r"(?<=[.!?])[*)]*\s+", " ".join(paragraph.split()))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_no_sentence_of_a_document_has_more_than_thirty_words(document):
    long = [sentence for sentence in sentences_of(document) if len(re.findall(r"[\w'’]+(?:[.,-]\w+)*", sentence)) > MOST_WORDS]
    assert long == []


def test_the_readme_has_exactly_the_two_commands_that_set_everything_up():
    commands = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(commands) == 2
    assert "shmq demo" in commands[0]
    assert re.search(r"&& pytest -n \d+$", commands[1].strip())


def benchmark_table() -> object:
    """The module benchmarks/table.py."""
    sys.path.insert(0, str(ROOT / "benchmarks"))  # where its own imports are
    try:
        spec = importlib.util.spec_from_file_location("benchmark_table", ROOT / "benchmarks" / "table.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
        sys.modules.pop("targets", None)
    return module


def test_the_benchmark_tables_are_what_the_results_say():
    table = benchmark_table()
    documents = [json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))]
    assert table.insert((ROOT / "README.md").read_text(), table.summary(documents)) == (ROOT / "README.md").read_text()
    whole = (ROOT / "benchmarks" / "README.md").read_text()
    assert table.insert(whole, "\n\n".join(map(table.markdown, documents))) == whole


def test_the_benchmark_table_of_the_readme_is_short():
    table = (ROOT / "README.md").read_text().partition("benchmark table: begin")[2].partition("benchmark table: end")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) - 1 <= 8
    assert {row.count("|") - 1 for row in rows} == {4}


EVIDENCE = (ROOT / "docs" / "evidence.md").read_text()


def sizes_of(path: str) -> dict[str, int]:
    """How many items each tuple, list or dict has that a module assigns to a name."""
    sizes = {}
    for node in ast.parse((ROOT / "tests" / path).read_text()).body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(node.value, ast.Dict | ast.Tuple | ast.List):
                sizes[target.id] = len(getattr(node.value, "elts", None) or getattr(node.value, "keys", []))
    return sizes


@pytest.mark.parametrize("model", sorted(set(re.findall(r"\.\./tests/model/(\w+)\.py", EVIDENCE))))
def test_the_evidence_counts_the_rules_of_each_model(model):
    [stated] = re.findall(rf"^\| \[[^|]*/{model}\.py\)[^|]*\|[^|]*\| (\d+) \|$", EVIDENCE, re.MULTILINE)
    assert int(stated) == sizes_of(f"model/{model}.py")["MUTANTS"]


def test_the_evidence_names_all_models():
    models = {path.stem for path in (ROOT / "tests" / "model").glob("*.py") if "MUTANTS" in sizes_of(f"model/{path.name}")}
    assert models == set(re.findall(r"\.\./tests/model/(\w+)\.py", EVIDENCE))


def test_the_evidence_counts_roles_crash_points_and_planted_errors():
    every_instruction = sizes_of("crash/test_every_instruction.py")
    assert f"- {every_instruction['FLOORS']} roles, in queues of" in EVIDENCE
    assert f"- {every_instruction['MUTANTS']} changes of the engine that plant an error" in EVIDENCE
    engine = "\n".join(path.read_text() for path in (ROOT / "shmq" / "_native").rglob("*.[ch]"))
    points = set(re.findall(r"SHMQ_CRASH_POINT\((\w+)\);", engine))
    roles = sizes_of("crash/test_crash_points.py")["PASSED"]
    assert f"- {len(points)} crash points in {roles} roles" in EVIDENCE
    assert f"- {sizes_of('native/test_fuzz.py')['PLANTED']} planted bugs" in EVIDENCE


ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()


def test_the_table_of_floors_is_the_one_that_the_imports_are_held_to():
    rows = re.findall(r"^\| (\d) \| (`[^|]+`) \|", ARCHITECTURE, re.MULTILINE)
    assert {name: int(floor) for floor, names in rows for name in re.findall(r"`([\w.]+)`", names)} == FLOORS


def test_the_table_of_the_engine_names_all_its_parts():
    table = ARCHITECTURE.partition("The engine, `shmq/_native`")[2].partition("The binding is one extension")[0]
    engine = ROOT / "shmq" / "_native"
    parts = {path.stem for path in engine.rglob("*.c") if path.parent.name != "client"}
    assert parts - {name.partition(".")[0] for name in re.findall(r"`([\w.]+)`", table)} == set()


def test_the_table_of_the_binding_names_all_its_files():
    table = ARCHITECTURE.partition("The binding is one extension")[2].partition("\n\nWho may")[0]
    assert set(re.findall(r"`(\w+\.pxi)`", table)) == {path.name for path in (ROOT / "shmq" / "_binding").glob("*.pxi")}


LOCKS = ARCHITECTURE.partition("## Locks")[2].partition("\n## ")[0]
TAKES_A_LOCK = re.compile(r"\b(?:R?Lock|Condition|NameLock)\(|pthread_mutex_lock\(|\bshmq_owner_lock\(|critical_section\(self\)")


def test_every_test_in_the_list_of_locks_exists():
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    named = set(re.findall(r"`(test_\w+)`", LOCKS))
    assert len(named) >= 20
    assert named <= set(re.findall(r"^def (test_\w+)", tests, re.MULTILINE))


def test_every_file_that_takes_a_lock_is_in_the_list_of_locks():
    sources = [path for kind in (".py", ".pxi", ".pyx", ".c") for path in (ROOT / "shmq").rglob("*" + kind)]
    taking = set()
    for path in sources:
        lines = path.read_text().splitlines()
        if path.name != "_core.c" and any(TAKES_A_LOCK.search(line) for line in lines if "class " not in line):
            taking.add(path.relative_to(ROOT / "shmq").as_posix().removeprefix("_native/").removeprefix("executor/"))
    assert {"owner.c", "_crew.py"} <= taking
    assert {name for name in taking if f"`{name}`" not in LOCKS} == {"_binding/birth.pxi"}  # where NameLock itself is
