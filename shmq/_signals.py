"""Signals that ask a program to end, and where the handlers of signals must wait."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from types import FrameType
from typing import Any

__all__ = ["ALL", "HEARD", "put_off_signals"]

HEARD = {signal.SIGINT, signal.SIGTERM}
ALL = signal.valid_signals()


@contextlib.contextmanager
def put_off_signals(numbers: Iterable[int] = HEARD) -> Iterator[None]:
    """Call the handlers of signals that come in the `with` block after it: what they raise would tear what is done there.

    Blocking the signals would not do: another thread receives them, and the main thread runs their handlers. Outside the main
    thread there is nothing to do, since handlers run in the main thread alone.
    """
    struck: list[partial[object]] = []
    handlers: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                if callable(handler := signal.getsignal(number)):
                    handlers[number] = handler
                    signal.signal(number, partial(note, struck, handler))
        yield
    finally:
        set_handlers(handlers)
        call_all(struck)


def note(struck: list[partial[object]], handler: Any, number: int, frame: FrameType | None) -> None:
    """The handler of a signal while its own one is put off."""
    struck.append(partial(handler, number, frame))


def set_handlers(handlers: dict[int, Any]) -> None:
    """Set them all, also where one that is set already is called meanwhile, and raises."""
    try:
        for number in list(handlers):
            signal.signal(number, handlers[number])
            del handlers[number]
    finally:
        if handlers:
            set_handlers(handlers)


def call_all(struck: list[partial[object]]) -> None:
    """Call them all, also where one raises. The signal is not raised again: a wakeup descriptor has heard of it already."""
    try:
        while struck:
            struck.pop(0)()
    finally:
        if struck:
            call_all(struck)
