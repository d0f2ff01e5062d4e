"""Signals that ask a program to end, and where their handlers must wait."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

__all__ = ["HEARD", "put_off_signals"]

HEARD = {signal.SIGINT, signal.SIGTERM}


@contextlib.contextmanager
def put_off_signals() -> Iterator[None]:
    """Run the handlers of signals that come in the `with` block after it, so that they interrupt no start of a thread or process.

    Blocking the signals would not do: another thread receives them, and the main thread runs their handlers. Outside the main
    thread there is nothing to do, since handlers run in the main thread alone.
    """
    heard: list[Callable[[], object]] = []
    with contextlib.ExitStack() as after:  # in reverse, so that the handlers run when all are back in their places
        after.callback(lambda: [handle() for handle in heard])
        if threading.current_thread() is threading.main_thread():
            for number in HEARD:
                handler = signal.getsignal(number)
                if callable(handler):
                    after.callback(signal.signal, number, handler)
                    signal.signal(number, lambda *event, handler=handler: heard.append(lambda: handler(*event)))
        yield
