"""Children that are forked from a test: each has all that the test has, and needs no start of an interpreter."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

from support.programs import LONG


def forked(act: Callable[[], object]) -> int:
    """The pid of a child that acts, and ends with status 0 if nothing was raised; it is killed where it hangs."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(LONG))
            act()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def ended_well(pid: int) -> bool:
    return os.waitpid(pid, 0)[1] == 0


def succeeded(act: Callable[[], object]) -> bool:
    """In a forked child."""
    return ended_well(forked(act))
