"""What plain `cc` compiles at run time: the bare C limit, and the reader and writer that all Python loops share."""

from __future__ import annotations

import importlib.util
import subprocess
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

_SOURCES = Path(__file__).parent
_FLAGS = ("-O3", "-std=c11", "-Wall", "-Wextra")


@cache
def _build_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="shmq-bench-")


def _compile(source: str, target: str, *flags: str) -> Path:
    built = Path(_build_folder().name, target)
    subprocess.run(["cc", *_FLAGS, str(_SOURCES / source), "-o", str(built), *flags], check=True)
    return built


@cache
def content() -> ModuleType:
    """Return the compiled `content` module: fill, mark, total, ends, tally."""
    headers = sysconfig.get_path("include")
    built = _compile("content.c", "content" + sysconfig.get_config_var("EXT_SUFFIX"), "-shared", "-fPIC", f"-I{headers}")
    spec = importlib.util.spec_from_file_location("content", built)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _limit() -> Path:
    return _compile("limit.c", "limit", "-pthread")


def limit(timeout: float, *arguments: object) -> float:
    """Run `limit` with these arguments and return its nanoseconds; it has checked its content itself."""
    command = [str(_limit()), *map(str, arguments)]
    return float(subprocess.run(command, check=True, timeout=timeout, capture_output=True, text=True).stdout)
