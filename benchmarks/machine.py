"""Where the numbers come from: the machine, the interpreter, the packages, the commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def use_the_tree() -> None:
    """Measure the shmq of this checkout if it is built for this interpreter, and the installed one if not."""
    if any((ROOT / "shmq" / f"_core{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
        sys.path.insert(1, str(ROOT))


def describe(distributions: Iterable[str]) -> dict[str, object]:
    """Return what a reader must know to judge the numbers."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": _output("cc", "--version").partition("\n")[0],
        "commit": _output("git", "rev-parse", "HEAD") or "unknown",
        "changed": bool(_output("git", "status", "--porcelain")),
        "load": os.getloadavg()[0],
        "packages": {name: _version(name) for name in sorted({"numpy", *distributions})},
    }


def _cpu_model() -> str:
    for row in Path("/proc/cpuinfo").read_text().splitlines():
        if row.startswith("model name"):
            return row.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "from the checkout"
