"""Each access of engine and binding that acquires or releases carries the label of its pair, and each label has both sides.

The pairs are two tables in shmq/_native/sync.h. In the first, one side releases a word and the other acquires it. In the second,
both sides write, then look (Dekker), and every access is sequentially consistent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import shmq

PACKAGE = Path(shmq.__file__).parent
LABEL = re.compile(r"\[([a-z]+)\]")
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
OF_BINDING = re.compile(r'"""(?:.|\n)*?"""|"(?:\\.|[^"\\\n])*"|(#.*)')  # strings of Cython, and comments
WRAPPER = re.compile(r"shmq_(load|store|add|or|and|swap)_(acquire|release|seq|half)\(")
STANDARD = re.compile(r"\batomic_(load|store|exchange|compare|fetch|thread_fence|flag)\w*?(_explicit)?\(")
BASES = r"header|records?|cells?|mine|slot|there"


@dataclass(frozen=True)
class Access:
    where: str
    word: str | None  # None: a pointer leads to it
    releases: bool
    acquires: bool
    sequential: bool
    labels: frozenset[str]


@dataclass(frozen=True)
class Pair:
    words: frozenset[str]
    dekker: bool


def pairs_of(text: str) -> dict[str, Pair]:
    """The rows of both tables: each label, its words, and whether it is one of the second table."""
    first, _, second = text.partition("(Dekker)")
    rows = re.compile(r"^ \*   \[([a-z]+)\] *\| *([^|\n]+)", re.MULTILINE)
    return {
        label: Pair(frozenset(word.strip() for word in words.split(",")), part is second)
        for part in (first, second)
        for label, words in rows.findall(part)
    }


def is_of_binding(name: str) -> bool:
    return name.endswith((".pxi", ".pyx"))


def comments_in(name: str, text: str) -> Iterator[re.Match[str]]:
    if is_of_binding(name):
        return (found for found in OF_BINDING.finditer(text) if found[1])
    return COMMENT.finditer(text)


def blanked(name: str, text: str) -> str:
    """The code alone: comments, docstrings, lines of the preprocessor and strings are spaces. Strings of Cython may have code."""
    if is_of_binding(name):
        return OF_BINDING.sub(
            lambda found: re.sub(r"[^\n]", " ", found[0]) if found[1] or found[0].startswith('"""') else found[0], text
        )
    for left_out in (COMMENT, re.compile(r"^#(?:.*\\\n)*.*", re.MULTILINE), re.compile(r'"(?:\\.|[^"\\\n])*"')):
        text = left_out.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    return text


def labels_by_line(name: str, text: str) -> dict[int, frozenset[str]]:
    """The labels that hold for each line: those of comments on it, and of a comment alone that ends directly above it."""
    lines: dict[int, frozenset[str]] = {}
    for found in comments_in(name, text):
        start, end = text.count("\n", 0, found.start()), text.count("\n", 0, found.end())
        alone = not text[: found.start()].rpartition("\n")[2].strip() and not text[found.end() :].partition("\n")[0].strip()
        line = end + 1 if alone else start
        lines[line] = lines.get(line, frozenset()) | frozenset(LABEL.findall(found[0]))
    return lines


def first_argument(code: str) -> str:
    depth = 0
    for i, character in enumerate(code):
        depth += (character in "([") - (character in ")]")
        if depth < 0 or (depth == 0 and character == ","):
            return code[:i]
    return code


def word_of(argument: str) -> str | None:
    found = re.search(r"(?:^&|->|\.)(\w+)(?:\[[^\[\]]*\])*$", argument.strip())
    return found[1] if found else None


def words_shared(files: dict[str, str]) -> tuple[set[str], dict[str, str]]:
    """The atomic members of the format's structures; the atomic variables, each with its file where it is static."""
    members, variables = set(), {}
    for name, text in files.items():
        for line in blanked(name, text).splitlines():
            if name.startswith("format/") and (found := re.match(r" .*\bshmq_(?:word|half) (\w+)", line)):
                members.add(found[1])
            if found := re.match(r"(static |extern )?(?:_Atomic \w+|shmq_word|shmq_half) (\w[\w, ]*);", line):
                variables |= dict.fromkeys(found[2].split(", "), name if found[1] == "static " else "")
    return members, variables


def plain_accesses(name: str, code: str, members: set[str], variables: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Where an atomic word is used without a wrapper: C makes that seq_cst."""
    if members and is_of_binding(name):  # elsewhere the same names are those of rows
        base = r"port\.(?:any\.|queue\.)?(?:header|records?|cells)"
        chain = rf"(&?)\b(?:\w+(?:\[[^\[\]]*\])?\.)*{base}(?:\[[^\[\]]*\])?\.({'|'.join(members)})\b"
        yield from ((found.start(), found[2]) for found in re.finditer(chain, code) if not found[1])
    elif members:
        chain = rf"(&?)\b(?:\w+(?:\[[^\[\]]*\])?(?:->|\.))*(?:{BASES})(?:\[[^\[\]]*\])?(?:->|\.)({'|'.join(members)})\b"
        yield from ((found.start(), found[2]) for found in re.finditer(chain, code) if not found[1])
    for variable, file in variables.items():
        if file in ("", name):
            for found in re.finditer(rf"(?<![&\w>.]){variable}\b", code):
                if not re.match(
                    r"(static |extern )?(_Atomic|shmq_word|shmq_half)", code[code.rfind("\n", 0, found.start()) + 1 :]
                ):
                    yield found.start(), variable


def accesses_in(name: str, text: str, members: set[str], variables: dict[str, str]) -> list[Access]:
    code, labels = blanked(name, text), labels_by_line(name, text)
    found = []

    def note(at: int, word: str | None, operation: str, order: str) -> None:
        line = code.count("\n", 0, at)
        acquires = operation != "store" and order not in ("release",)
        releases = operation != "load" and order not in ("acquire",)
        sequential = order in ("seq", "half", "seq_cst")
        found.append(Access(f"{name}:{line + 1}", word, releases, acquires, sequential, labels.get(line, frozenset())))

    for match in WRAPPER.finditer(code):
        note(match.start(), word_of(first_argument(code[match.end() :])), match[1], match[2])
    for match in STANDARD.finditer(code):
        orders = (
            re.findall(r"memory_order_(\w+)", code[match.end() :].partition(";")[0])
            if match[2] or "fence" in match[1]
            else ["seq_cst"]
        )
        for order in (order for order in orders[:1] if order != "relaxed"):
            note(match.start(), word_of(first_argument(code[match.end() :])), match[1], order)
    for at, word in plain_accesses(name, code, members, variables):
        note(at, word, "plain", "seq")
    return found


def problems(files: dict[str, str]) -> list[str]:
    """What is wrong with the labels of an engine, and its binding, of these files; sync.h has the tables."""
    pairs = pairs_of(files["sync.h"])
    members, variables = words_shared(files)
    accesses = [access for name, text in files.items() for access in accesses_in(name, text, members, variables)]
    said = []
    for access in accesses:
        unknown = sorted(access.labels - pairs.keys())
        known = [pairs[label] for label in access.labels if label in pairs]
        if not access.labels:
            said.append(f"{access.where}: no label")
        elif unknown:
            said.append(f"{access.where}: [{unknown[0]}] is in no table")
        elif access.word and not any(access.word in pair.words for pair in known):
            said.append(f"{access.where}: its labels are not for {access.word}")
        elif not access.sequential and any(pair.dekker and access.word in {None, *pair.words} for pair in known):
            said.append(f"{access.where}: not seq_cst")
    for label in pairs:
        users = [access for access in accesses if label in access.labels]
        if not users:
            said.append(f"[{label}]: nobody uses it")
        elif not any(access.releases for access in users):
            said.append(f"[{label}]: nobody releases")
        elif not any(access.acquires for access in users):
            said.append(f"[{label}]: nobody acquires")
    return said


# ---- the engine -------------------------------------------------------------------------------------------------------------

FILES = {path.relative_to(PACKAGE / "_native").as_posix(): path.read_text() for path in sorted(PACKAGE.glob("_native/**/*.[ch]"))}
BINDING = {path.name: path.read_text() for path in sorted([*PACKAGE.glob("_binding/**/*.pxi"), *PACKAGE.glob("*.pyx")])}


def test_every_access_has_a_label_and_every_label_a_partner():
    assert problems(FILES | BINDING) == []


def test_the_tables_are_read():
    pairs = pairs_of(FILES["sync.h"])
    assert pairs["sequence"] == Pair(frozenset({"write_seq", "read_seq"}), dekker=False)
    assert pairs["view"] == Pair(frozenset({"viewers", "word"}), dekker=True)
    assert {"park", "bell", "end"} <= {label for label, pair in pairs.items() if pair.dekker}


def test_accesses_of_all_kinds_are_found():
    members, variables = words_shared(FILES)
    assert {"word", "owner", "orphan_changes", "shut", "write_seq", "deliveries"} <= members
    assert variables == {"self": "owner.c", "shmq_owner_begun": "", "shmq_owner_ended": ""}
    found = [access for name, text in FILES.items() for access in accesses_in(name, text, members, variables)]
    assert len(found) > 150
    found_in_binding = [access for name, text in BINDING.items() for access in accesses_in(name, text, members, variables)]
    assert {access.word for access in found_in_binding} >= {"words", "owner", "word", "done", "spilled", "backlog"}
    assert any(access.word is None and access.labels == {"return"} for access in found), "the fence of a peek"


# ---- what a waiter looks at ---------------------------------------------------------------------------------------------------

DEFINITION = re.compile(r"^(?![ #/}]|typedef|struct \w+ \{|enum)[^\n;={]*?\b(\w+)\([^;{}]*?\)\s*\{", re.MULTILINE)
LOOKS = {"shmq_promising", "shmq_worth"}  # what is asked once a waiter has announced itself


def functions_of(files: dict[str, str]) -> dict[str, str]:
    """The code of each function, by its name."""
    found = {}
    for text in files.values():
        code = blanked("", text)
        for match in DEFINITION.finditer(code):
            depth, end = 1, match.end()
            while depth:
                depth += (code[end] == "{") - (code[end] == "}")
                end += 1
            found[match[1]] = code[match.end() : end]
    return found


def weak_looks(files: dict[str, str]) -> list[str]:
    """Loads of a word that is changed for waiters, weaker than seq_cst, in whatever such a look comes to."""
    functions, words = functions_of(files), pairs_of(files["sync.h"])["park"].words
    reached, left = set(), list(LOOKS)
    while left:
        name = left.pop()
        if name not in reached:
            reached.add(name)
            left += functions.keys() & set(re.findall(r"\w+", functions[name]))
    loads = re.compile(r"shmq_load_(?:acquire|relaxed)\(")
    return [
        f"{name}: {word}"
        for name in sorted(reached)
        for match in loads.finditer(functions[name])
        if (word := word_of(first_argument(functions[name][match.end() :]))) in words
    ]


def test_a_waiter_that_has_announced_itself_looks_by_seq_cst_loads_alone():
    """An acquire may be served before the announcement is seen: as the mutant "looks before it arms" of tests/model/bells.py."""
    assert weak_looks(FILES) == []


def test_a_weak_look_is_found():
    weak = {
        **FILES,
        "queue/sight.h": FILES["queue/sight.h"].replace("shmq_load_seq(&queue->ring", "shmq_load_acquire(&queue->ring"),
    }
    assert weak_looks(weak) == ["past: ring"]
    weak = {**FILES, "queue/look.h": FILES["queue/look.h"].replace("shmq_load_seq(&at->word)", "shmq_load_relaxed(&at->word)")}
    assert weak_looks(weak) == ["shmq_find_cell: word"]


# ---- planted mistakes -------------------------------------------------------------------------------------------------------

SYNC = """/* One side releases:
 *
 *   label    | word  | who
 *   [ready]  | magic | creator
 *
 * (Dekker)
 *
 *   [park]   | count, ring
 */
"""
FORMAT = "struct shmq_header {\n    shmq_word magic;\n    shmq_half count; /* [park] */\n    shmq_word ring;\n};\n"
SOUND = """
void make(void) { shmq_store_release(&header->magic, 1); /* [ready] */ }
bool look(void) {
    /* [ready]: a comment directly above */
    return shmq_load_acquire(&header->magic);
}
void put(void) { shmq_swap_seq(&port->ring[at(1)], &before, 1); } /* [park] */
bool wait(shmq_half *count) { return shmq_load_seq(count); } /* [park] */
"""


def planted(code: str, binding: str = "") -> list[str]:
    return problems({"sync.h": SYNC, "format/segment.h": FORMAT, "x.c": code, "x.pxi": binding})


def test_a_sound_engine_has_no_problem():
    assert planted(SOUND) == []


@pytest.mark.parametrize(
    "line",
    [
        "x = shmq_load_acquire(&header->magic);",
        "x = shmq_load_acquire(&header->magic); /* ready */",
        "/* [ready] */\n\nx = shmq_load_acquire(&header->magic);",
        "y = 1; /* [ready] */\nx = shmq_load_acquire(&header->magic);",
        "x = atomic_load(&header->magic);",
        "atomic_thread_fence(memory_order_acquire);",
        "atomic_store_explicit(&header->magic, 1, memory_order_release);",
        "x = atomic_exchange_explicit(&header->magic, 1, memory_order_acq_rel);",
        "x = atomic_fetch_add_explicit(&header->magic, 1,\n    memory_order_seq_cst);",
        "x = port->header->magic;",
        "static _Atomic int mine;\nint f(void) { return mine; }",
    ],
)
def test_an_access_without_a_label_is_found(line):
    assert [problem.partition(": ")[2] for problem in planted(SOUND + line)] == ["no label"]


@pytest.mark.parametrize(
    "line",
    [
        "x = shmq_load_relaxed(&header->magic);",
        "atomic_load_explicit(a, memory_order_relaxed);",
        "x = &header->magic;",
        "#define A shmq_load_seq(a)",
    ],
)
def test_what_orders_nothing_needs_no_label(line):
    assert planted(SOUND + line) == []


@pytest.mark.parametrize(
    ("gone", "problem"), [("store_release", "[ready]: nobody releases"), ("load_acquire", "[ready]: nobody acquires")]
)
def test_a_label_without_a_partner_is_found(gone, problem):
    code = SOUND.replace(f"shmq_{gone}", f"shmq_{gone.partition('_')[0]}_relaxed")
    assert planted(code) == [problem]
    assert planted(code, f"shmq_{gone}(&self.port.header.magic) # [ready]") == [], "the partner is in the binding"


@pytest.mark.parametrize(
    "line",
    [
        "shmq_load_acquire(&self.port.header.magic)",
        "shmq_load_acquire(&self.port.header.magic) # ready",
        'f"# [ready] {shmq_load_acquire(&self.port.header.magic)}"',
        '"""[ready]"""\nshmq_load_acquire(&self.port.header.magic)',
        "if self.port.header.magic:",
    ],
)
def test_an_access_of_the_binding_without_a_label_is_found(line):
    assert planted(SOUND, line) == [f"x.pxi:{line.count(chr(10)) + 1}: no label"]


@pytest.mark.parametrize(
    "line",
    [
        "# [ready]\nshmq_load_acquire(&self.port.header.magic)",
        'f"#{shmq_load_acquire(&self.port.header.magic):#x}" # [ready]',
        "# shmq_load_acquire(&self.port.header.magic)",
        '"""shmq_load_acquire(&self.port.header.magic)"""',
        "&self.port.header.magic, row.cell.magic",
    ],
)
def test_a_labelled_access_of_the_binding_and_what_is_none_is_no_problem(line):
    assert planted(SOUND, line) == []


def test_a_label_that_nobody_uses_is_found():
    assert planted(SOUND.replace("[ready]", "[park]"))[-1] == "[ready]: nobody uses it"


def test_a_label_of_no_table_is_found():
    assert planted(SOUND.replace("[park] */\nbool", "[other] */\nbool"))[0].endswith("[other] is in no table")


def test_a_label_for_another_word_is_found():
    assert planted(SOUND + "x = shmq_load_seq(&header->magic); /* [park] */")[0].endswith("its labels are not for magic")


def test_a_weak_access_of_a_dekker_pair_is_found():
    assert planted(SOUND + "x = shmq_load_acquire(&header->count); /* [park] */")[0].endswith("not seq_cst")
