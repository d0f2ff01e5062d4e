"""Where C programs find their interface to the engine."""

from __future__ import annotations

import os


def get_include() -> str:
    """The folder with shmq.h, and with shmq.c, which a C program compiles in (link with -lrt -lpthread)."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "_native", "client")
