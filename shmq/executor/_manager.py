"""Manager: the one thread of a client. It is started by the first task, woken through a pipe, and joined at the end."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable

from shmq._core import Hold
from shmq._errors import ShmqError
from shmq._queue import Queue
from shmq._signals import put_off_signals
from shmq._waiting.bell import wait_many
from shmq.executor._future import lock
from shmq.executor._reserve import is_limit

__all__ = ["Manager"]

PAUSE = 0.05  # seconds before what met a limit is tried again


class Manager:
    """The manager thread. `pool`: the name of its pool, for the log."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.thread: threading.Thread | None = None
        self.begun = False
        self.closed = False
        self._needy = False  # something is lacking, and the log says so
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    # -- called by any thread ----------------------------------------------------------------------------------------------

    def begin(self, run: Callable[[], None]) -> None:
        """Start the thread, unless it runs. Where Ctrl-C comes here, a thread may have been started or not: so it calls `enter`.

        Handlers of signals wait until it has started. A thread in the middle of its start would not be joined, and would go on
        while the interpreter ends.
        """
        with Hold(lock):
            if not (self.begun or self.closed) and (self.thread is None or not self.thread.is_alive()):
                thread = threading.Thread(target=run, name="shmq-executor")
                with put_off_signals():
                    self.thread = thread
                    thread.start()

    def wake(self) -> None:
        """Let the thread look at once at what is to be done."""
        with Hold(lock):
            if not self.closed:  # from then on the number may be another file's
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_write, b"\0")

    def join(self) -> None:
        """Wait until the thread has ended."""
        thread = self.thread
        if (
            thread is not None and thread.is_alive() and thread is not threading.current_thread()
        ):  # a callback that joins would wait for itself
            thread.join()

    # -- called by the thread itself ---------------------------------------------------------------------------------------

    def enter(self) -> bool:
        """Make the calling thread the manager. False where there is another one, or the client is closed."""
        with Hold(lock):
            if self.begun or self.closed:
                return False
            self.thread = threading.current_thread()
            self.begun = True
            return True

    def look_patiently(self, look: Callable[[], bool]) -> bool:
        """Return what `look()` returns. Where it meets a limit, say so once, and return False after a pause."""
        try:
            finished = look()
            self._needy = False
            return finished
        except (OSError, MemoryError, ShmqError) as error:
            if not is_limit(error):
                raise
            if not self._needy:
                logging.getLogger("shmq").warning("the executor of %r waits, since something is lacking: %r", self.pool, error)
            self._needy = True
            error.__traceback__ = None
        time.sleep(PAUSE)
        return False

    def sleep(self, queue: Queue, timeout: float | None, descriptor: int) -> None:
        """Wait until another thread wakes this one, the queue has a message, or the descriptor is readable."""
        try:
            _, woken = wait_many([queue], timeout, [self._wake_read, descriptor])
        except OSError as error:
            if error.errno == errno.EINVAL:  # from poll(2)
                raise OSError(errno.EMFILE, "RLIMIT_NOFILE is below the number of descriptors that are waited for") from None
            raise
        if self._wake_read in woken:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)

    # -- the end -----------------------------------------------------------------------------------------------------------

    def close(self) -> bool:
        """Close the pipe; no thread is started or woken any more. False where it was closed before."""
        with Hold(lock):
            if self.closed:
                return False
            self.closed = True
            for descriptor in (self._wake_read, self._wake_write):
                with contextlib.suppress(OSError):  # the program has closed it
                    os.close(descriptor)
            return True

    def after_fork(self) -> None:
        """In a forked child: start and wake no thread, since the client is the parent's."""
        self.closed = True
        self.thread = None
