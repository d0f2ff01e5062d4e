"""A page of the guide as a program: its blocks are run in their order, in one process, and print what the page shows.

A block's first lines decide what becomes of it:

- ``# jobs.py`` in a block of Python, ``/* sensor.c */`` in one of C, ``# /etc/systemd/system/x.service`` in one of ini: a file,
  written before anything is run;
- any other block of Python: run, in the module that all of them on the page share;
- a block of console: what stands behind ``$`` is run; what follows it is what it prints. ``shmq …`` is run in this process, since
  each process costs a third of a second; what ends with ``&`` goes on until ``kill %1``, and must end well then;
- a block of text behind one of Python is what that prints. Any other is there to be read.

What is printed may differ in blanks, in order, in lines that the page leaves out, and by whatever an ellipsis stands for. The
page's queues get names of the caller's.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

PATIENCE = 60  # seconds for a page
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"(?:#|/\*) (?:/\S*/)?([\w.-]+\.(?:py|c|service|conf))(?: \*/)?\n")
NAME = re.compile(r"""(?:Queue(?:\.\w+)?\(\s*|\bname=|\battach\(\s*)"([a-z][\w.-]*)\"""")
ASSIGNMENT = re.compile(r"([A-Z]+)=\$\((.*)\)")
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


class Block(NamedTuple):
    language: str
    text: str
    line: int  # of its first line of text in the page
    file: str  # the name of the file that it is, or ""


def blocks_of(page: str) -> list[Block]:
    found = []
    for match in BLOCK.finditer(page):
        language, text = match.groups()
        file = FILE.match(text)
        found.append(Block(language, text, page[: match.start(2)].count("\n") + 1, file[1] if file else ""))
    return found


def names_in(page: str) -> set[str]:
    """The names of queues and pools that a page opens."""
    return {name for block in blocks_of(page) if block.language == "python" for name in NAME.findall(block.text)}


def renamed(page: str, prefix: str) -> str:
    """The page with names of queues that no other test has."""
    names = "|".join(sorted(map(re.escape, names_in(page)), key=len, reverse=True))
    if not names:
        return page
    quoted, bare = re.compile(rf"""(["'])({names})\1"""), re.compile(rf"(?<![\w./:-])({names})(?![\w./:-])")

    def rename(match: re.Match[str]) -> str:
        language, text = match.groups()
        text = quoted.sub(rf"\1{prefix}.\2\1", text) if language in ("python", "c") else bare.sub(rf"{prefix}.\1", text)
        return f"```{language}\n{text}```"

    return BLOCK.sub(rename, page)


def says(printed: str, shown: str) -> bool:
    """Is each line that the page shows one that was printed? There may be others, of other programs and their queues."""
    lines = printed.splitlines()
    return all(any(line_says(line, wanted) for line in lines) for wanted in shown.splitlines() if wanted.strip())


def line_says(line: str, shown: str) -> bool:
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in shown.split("…"))
    return re.fullmatch(pattern.replace(r"\ ", r"\s*"), " ".join(line.split())) is not None


class Page:
    """A page that is being run."""

    def __init__(self, path: Path, prefix: str) -> None:
        self.path = path
        self.blocks = blocks_of(renamed(path.read_text(), prefix))
        self.module = {"__name__": "__main__"}
        self.background: list[subprocess.Popen[bytes]] = []

    def run(self) -> None:
        for block in self.blocks:
            if block.file:
                Path(block.file).write_text(block.text)
        try:
            for block, following in zip(self.blocks, [*self.blocks[1:], None], strict=True):
                if block.language == "python" and not block.file:
                    shown = following.text if following is not None and following.language == "text" else None
                    self.check(block, self.python(block), shown)
                elif block.language == "console":
                    for command, shown in COMMAND.findall(block.text):
                        self.check(block, self.command(command), shown or None)
        finally:
            for process in self.background:
                process.kill()
        assert not self.background, "a program that the page starts with & is not ended by kill"

    def check(self, block: Block, printed: str, shown: str | None) -> None:
        assert shown is None or says(printed, shown), f"{self.path.name}:{block.line} shows\n{shown}\nand it prints\n{printed}"

    def python(self, block: Block) -> str:
        code = compile("\n" * (block.line - 1) + block.text, str(self.path), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, self.module)
        return printed.getvalue()

    def command(self, command: str) -> str:
        if command.endswith(" &"):
            self.background.append(subprocess.Popen(shlex.split(command[:-2])))
            return ""
        if command == "kill %1":
            process = self.background.pop(0)
            process.terminate()
            assert process.wait() == 0, f"it ended with status {process.returncode}"
            return ""
        if command.startswith("shmq ") and not set(command) & set("|<>$"):
            return self.shmq(shlex.split(command)[1:])
        if variable := ASSIGNMENT.fullmatch(command):
            os.environ[variable[1]] = self.bash(variable[2]).strip()
            return ""
        return self.bash(command.replace("cc -O2 ", "cc "))  # which takes a third of the time

    def bash(self, command: str) -> str:
        ran = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert ran.returncode == 0, f"{command}: status {ran.returncode}\n{ran.stdout}"
        return ran.stdout

    def shmq(self, arguments: list[str]) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(printed):
            sys.argv[1:] = arguments
            with contextlib.suppress(SystemExit):  # that a command finds something is what some pages show
                runpy.run_module("shmq", run_name="__main__")
        return printed.getvalue()


def run_one(path: str, prefix: str, folder: str) -> None:
    """The life of a process that was forked for a page: what it and its children say goes into a file of that folder."""
    os.setsid()  # so that who is left of it can be found
    signal.alarm(PATIENCE)
    os.chdir(folder)
    sys.path[0] = folder  # where the page's files are
    said = os.open("said", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    Page(Path(path), prefix).run()


def serve() -> None:
    """Run each page that is asked for on the standard input in a fork of this process; tell its pid, and how it ended."""
    os.environ["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    import numpy  # noqa: F401  # for the pages: each is run in a fork

    from shmq.cli._group import COMMANDS, load

    for command in COMMANDS:  # once for all pages
        load(command)

    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            run_one(*json.loads(line))
            return
        print(json.dumps([pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]), flush=True)


if __name__ == "__main__":
    serve()
