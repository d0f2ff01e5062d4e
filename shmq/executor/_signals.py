"""Signals by which a program is asked to end, and where their handlers must wait."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

__all__ = ["HEARD", "put_off_signals"]

HEARD = {signal.SIGINT, signal.SIGTERM}


@contextlib.contextmanager
def put_off_signals() -> Iterator[None]:
    """Handle what comes meanwhile afterwards: for what must be whole, such as the start of a thread or a process.

    To block the signals does not prevent that they are handled: another thread hears them, and the main thread handles what that
    has heard. In other threads there is nothing to do: handlers run in the main thread alone.
    """
    heard: list[Callable[[], object]] = []
    with contextlib.ExitStack() as after:  # in reverse: nothing interrupts it before the last handler is back
        after.callback(lambda: [handle() for handle in heard])
        if threading.current_thread() is threading.main_thread():
            for number in HEARD:
                handler = signal.getsignal(number)
                if callable(handler):
                    after.callback(signal.signal, number, handler)
                    signal.signal(number, lambda *event, handler=handler: heard.append(lambda: handler(*event)))
        yield
