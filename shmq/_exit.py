"""The end of a process: what its handles hold goes back at once, and whether it ended by an exception.

A process that is killed comes to none of this: its ports and leases are the reaper's.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
import weakref
from typing import TYPE_CHECKING, Any

from shmq._segment import lifecycle

if TYPE_CHECKING:
    from typing import Protocol

    from shmq._segment.segment import Segment

    class Handle(Protocol):
        """A handle that is attached to a segment."""

        _creator_pid: int | None  # of the process that the segment goes with, where it made this handle

        @property
        def segment(self) -> Segment: ...
        def _close_at_exit(self, crashed: bool = False, /) -> bool: ...


__all__ = ["close_all", "close_at_exit", "stop_daemon_thread"]

open_handles: weakref.WeakSet[Handle] = weakref.WeakSet()
registered: set[int] = set()  # this process, where it is told when multiprocessing ends it
failed: set[int] = set()  # this process, if it is a child of multiprocessing whose work has raised


def close_at_exit(handle: Handle) -> None:
    """Let the end of this process settle what the handle holds, however often it is attached until then."""
    open_handles.add(handle)
    if "multiprocessing.util" in sys.modules and os.getpid() not in registered:
        registered.add(os.getpid())
        end_with_multiprocessing()


def close_all() -> None:
    """At interpreter exit: what is leased goes back at once, and a segment that goes with this process is removed."""
    crashed = ends_by_an_exception()
    for handle in list(open_handles):
        stays = handle._close_at_exit(crashed)
        if handle._creator_pid == os.getpid() or (stays and handle.segment.lifetime != "creator"):
            lifecycle.remove_if_over(handle.segment, ending=True)


def stop_daemon_thread() -> None:
    """Called by a thread that uses a handle while the interpreter exits: a daemon thread stops here for good.

    It would do so a moment later anyway. Meanwhile its call would raise Closed, which would be printed, and is no fault of the
    program.
    """
    threading = sys.modules.get("threading")
    if threading is None or threading.current_thread() is threading.main_thread():
        return
    while threading.current_thread().daemon:
        time.sleep(3600)


def ends_by_an_exception() -> bool:
    """Has an exception that nobody handled, KeyboardInterrupt among them, ended this program?

    SystemExit is an orderly end, whatever its status: a program that raises it had the time to settle what it holds. A child of
    multiprocessing leaves while the exception passes, or notes that there was one (note_failure). Of a main program's exception
    nothing is left but what the interpreter remembers for a debugger. Shells and GUI toolkits store theirs there too, but those
    have not passed the outermost frame.
    """
    passing = sys.exc_info()[1]
    if passing is not None and has_passed_the_work(passing):
        return not isinstance(passing, SystemExit)
    if os.getpid() in failed:
        return True
    trace = getattr(getattr(sys, "last_exc", None) or getattr(sys, "last_value", None), "__traceback__", None)
    return trace is not None and trace.tb_frame.f_back is None and not hasattr(sys, "ps1")


def has_passed_the_work(error: BaseException) -> bool:
    """Has this exception left the work of a child of multiprocessing, up to what runs the work?

    A child that is forked in an `except` block is in that block for its whole life, and the exception there is its parent's.
    """
    process = sys.modules.get("multiprocessing.process")
    trace = error.__traceback__
    return process is not None and trace is not None and trace.tb_frame.f_code is process.BaseProcess._bootstrap.__code__


atexit.register(close_all)


def end_with_multiprocessing() -> None:
    """Let multiprocessing close the handles of its children, which end by os._exit after its own finalizers, without atexit.

    A child forgets the finalizers that were there before its work began (a handle among its arguments is attached then), and
    runs the after-fork functions. So register as both. A spawned child runs atexit's functions, too, but only when the exception
    that ended its work is forgotten.
    """
    util = sys.modules["multiprocessing.util"]
    util.register_after_fork(open_handles, begin_child)
    util.Finalize(None, close_all, exitpriority=-10)
    process = sys.modules["multiprocessing.process"]
    if sys.version_info >= (3, 13) and getattr(process.current_process(), "_inheriting", False):
        bootstrap = process.BaseProcess._bootstrap  # of a spawned child, whose process object is yet to be unpickled

        def begin(child: Any, *arguments: Any, **named: Any) -> Any:
            note_failure(child)
            return bootstrap(child, *arguments, **named)

        process.BaseProcess._bootstrap = begin


def begin_child(handles: object) -> None:
    """Called by a forked child of multiprocessing before its work begins."""
    sys.modules["multiprocessing.util"].Finalize(None, close_all, exitpriority=-10)
    if sys.version_info >= (3, 13):
        note_failure(sys.modules["multiprocessing.process"].current_process())


def note_failure(process: Any) -> None:
    """Note where the work of this child of multiprocessing raises.

    From CPython 3.13 on its finalizers run when the exception is forgotten. A child that attaches its first handle in the middle
    of its work is not noticed there.
    """
    work = process.run

    def run() -> None:
        try:
            work()
        except SystemExit:
            raise
        except BaseException:
            failed.add(os.getpid())
            raise

    process.run = run
