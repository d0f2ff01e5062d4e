"""The command line: ``shmq ls``, ``shmq doctor``, ``shmq worker``, and others.

One file per command. ``unlink``, ``bench`` and ``demo`` use the public names of :mod:`shmq` only, as any other program would.
``ls``, ``dead`` and ``doctor`` look into segments without attaching, and ``worker`` runs the executors' workers: they call
modules of lower floors. What the demo and the bench do is in :mod:`shmq.demo`.

click and rich are an extra of the package (``pip install 'shmq[cli]'``) and are imported in :func:`main`, not before, so
that a process which a command has spawned pays for neither. Each command is imported when it is asked for.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper

__all__ = ["main"]


def main() -> None:
    """Run the command line, and leave through :class:`SystemExit` with its status."""
    try:
        import rich  # noqa: F401  # the package alone: whether it is there

        from shmq.cli._group import group
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package not in {"click", "rich"}:
            raise
        print(f"shmq: the command line needs {package}: pip install 'shmq[cli]'", file=sys.stderr)
        sys.exit(2)
    # A terminal without Unicode or a file name without an encoding may cost a character, never the command.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    group(prog_name="shmq")
