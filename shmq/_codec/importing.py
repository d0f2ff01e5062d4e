"""NumPy's import, on first use: what other threads, forks and finalizers may do meanwhile.

The import takes longer than everything else that `import shmq` does, and most messages need none of it.

- Threads that need it at the same time wait for the one that is at it, as with every import.
- What it runs (finalizers) may need it again, in the same thread: that is refused, since NumPy is there by half.
- Handlers of signals are called when it has ended. NumPy cannot be imported again in a process after an exception of theirs.
- A fork waits until another thread has ended it. Else the child would have NumPy by half, behind locks that no thread gives back.
- Where it fails, it is tried again next time.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from types import FrameType, ModuleType

from shmq._signals import ALL, put_off_signals

__all__ = ["arrays"]

NAMES = ("numpy", "shmq._codec.arrays")
PATIENCE = 10.0  # seconds that a fork waits: then there is something wrong with the import
importers: set[int] = set()  # threads that are in the middle of it for shmq
forked_inside = False  # another thread of the parent was, when this process was forked


def arrays() -> ModuleType:
    """Return shmq._codec.arrays, which has NumPy. Raises what its import raises, and ImportError where NumPy is there by half."""
    module = sys.modules.get(NAMES[-1])
    if module is not None and not is_half_imported():
        return module
    if forked_inside:
        raise ImportError(
            "this process was forked while another thread of its parent imported NumPy, which is of no use here: "
            "import numpy before you fork"
        )
    thread = threading.get_ident()
    first = thread not in importers  # else this is something that the import runs
    try:
        importers.add(thread)
        with put_off_signals(ALL):
            return import_arrays()
    finally:
        if first:
            importers.discard(thread)


def import_arrays() -> ModuleType:
    for name in NAMES:
        module = importlib.import_module(name)
        if is_initializing(name):
            raise ImportError("NumPy is needed in the middle of its own import, by a finalizer or a signal handler that it runs")
    return module


def is_initializing(name: str) -> bool:
    """Has the import of this module begun, and not ended? As the import system itself notes it."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return getattr(spec, "_initializing", False) is True


def is_half_imported() -> bool:
    return any(map(is_initializing, NAMES))


def runs_here(name: str) -> bool:
    """Is it this thread that imports the module? Its code is on the stack then."""
    names = getattr(sys.modules.get(name), "__dict__", None)
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals is not names:
        frame = frame.f_back
    return frame is not None


def is_imported_elsewhere() -> bool:
    """Is another thread in the middle of it?"""
    return bool(importers - {threading.get_ident()}) or any(is_initializing(name) and not runs_here(name) for name in NAMES)


def wait_for_import() -> None:
    """Before a fork."""
    until = None
    while is_imported_elsewhere():
        until = until or time.monotonic() + PATIENCE
        if time.monotonic() > until:
            return
        time.sleep(0.001)


def note_fork() -> None:
    """In the child."""
    global forked_inside
    forked_inside = is_imported_elsewhere()
    importers.intersection_update({threading.get_ident()})


os.register_at_fork(before=wait_for_import, after_in_child=note_fork)
