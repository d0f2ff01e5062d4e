"""The sources of the engine, for the tests that compile it."""

from __future__ import annotations

from pathlib import Path


def engine_sources(folder: Path) -> list[Path]:
    """What to compile of the engine, without the interface for C programs."""
    return [folder / "engine.c"]
