"""Programs in C: each is compiled once in a run, whichever tests and workers ask for it.

What they share stands in the folder `native`: checks, segments between fences, messages that prove themselves, calls, children.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
from pathlib import Path

import shmq

ENGINE = Path(shmq.get_include()).parent
HARNESS = Path(__file__).with_name("native")
ACCESSES = ("-include", str(HARNESS / "accesses.h"))  # a program so compiled is called at each access to shared memory
CRASH_POINTS = ("-DSHMQ_CRASH_POINTS",)
POINTS = sorted({name for file in ENGINE.rglob("*.c") for name in re.findall(r"\bSHMQ_CRASH_POINT\((\w+)\)", file.read_text())})
ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
# Without -fno-builtin, ThreadSanitizer does not see payloads that are copied by an inlined memcpy.
THREAD = ("-fsanitize=thread", "-fno-builtin")
WATCHDOG = 90.0  # seconds


class Builder:
    """Compiles into a folder that the workers of a run share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def program(
        self,
        source: Path,
        *flags: str,
        link: tuple[str, ...] = (),
        engine: Path = ENGINE,
        compiler: str = "cc",
        standard: str = "c11",
    ) -> Path:
        """A program of the source and the engine, both compiled with the flags."""
        command = [compiler, f"-std={standard}", "-g", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE=", *flags]
        command += [f"-I{engine}", f"-I{HARNESS}"]
        objects = [self.made([*command, "-c", str(part)], f"{part.stem}.o") for part in (source, engine / "engine.c")]
        return self.made([compiler, *flags, *link, *map(str, objects), "-lrt", "-lpthread"], source.stem)

    def library(self, source: Path) -> Path:
        """What a test loads into its own process; without the engine."""
        return self.made(
            ["cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", str(source)], f"{source.stem}.so"
        )

    def made(self, command: list[str], name: str) -> Path:
        """What the command makes; another worker may be making the same."""
        made = self.folder / f"{hashlib.sha256(' '.join(command).encode()).hexdigest()[:12]}.{name}"
        with open(f"{made}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                done = subprocess.run([*command, "-o", f"{made}.new"], capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
                os.rename(f"{made}.new", made)
        return made


def titles(source: Path) -> list[str]:
    """The tests in a program of single.h."""
    return re.findall(r"^TEST\((\w+)\)", source.read_text(), re.MULTILINE)


def run_native(program: Path, *arguments: object, seconds: float = WATCHDOG, **environment: str) -> str:
    """What a program prints; it must end with status 0, and have nothing to say on its standard error."""
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env={**os.environ, **environment})
    assert (done.returncode, done.stderr) == (0, ""), f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
