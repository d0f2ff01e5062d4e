"""Where C programs find the engine."""

from __future__ import annotations

from pathlib import Path


def get_include() -> str:
    """The folder with shmq.h and the C files that a C program compiles in (link with -lrt -lpthread)."""
    return str(Path(__file__).parent / "_native")
