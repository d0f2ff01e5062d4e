"""What to say where Python finds shmq's sources without the compiled core."""

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

__all__ = ["unbuilt"]


def unbuilt(package: str) -> ImportError:
    """The error for a package folder that has no core for this Python."""
    folder = Path(package).parent
    python = f"Python {sys.version_info.major}.{sys.version_info.minor} ({EXTENSION_SUFFIXES[0]})"
    built = sorted(file.name for file in Path(package).glob("_core.*.so"))
    found = f"there is {', '.join(built)}" if built else "it was not built"
    return ImportError(
        f"{package} has no compiled core for {python}: {found}. "
        f"Build it there (`{sys.executable} -m pip install -e {folder}`), or, to use a shmq that is installed elsewhere, "
        "start Python in another folder: it finds this one first",
        name="shmq._core",
        path=package,
    )
