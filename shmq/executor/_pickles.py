"""Pickles of tasks and outcomes. cloudpickle makes those that pickle cannot, and those whose names no worker would find.

A function or a class of the main module travels as its name. Where that module is a shell or a notebook, only a worker that is
forked afterwards finds it there. So an object that mentions it is sent by value, where cloudpickle is installed.
"""

from __future__ import annotations

import functools
import io
import pickle
import pickletools
import sys
from collections import ChainMap
from typing import Any

from shmq import _core
from shmq._codec.reducers import reducers

__all__ = [
    "MAIN",
    "MOST_BUFFERS",
    "WAY_OUT",
    "by_value_instead",
    "by_value_rather",
    "dump",
    "dump_in_band",
    "loads",
    "main_module",
]

Pickled = tuple[bytes, "list[pickle.PickleBuffer] | None"]  # the stream, and the buffers that are not in it

# What the workers know of this process's main module
FOUND = 0  # it is a file, which they have, too
INHERITED = 1  # it is a shell or a notebook, and they are forked from it: they have what was defined before the fork
HIDDEN = 2  # they have another main module

MAIN = b"__main__"
MOST_BUFFERS = 0xFFFF  # of one message, whose count has 16 bits
WAY_OUT = (
    "Move it to a module that the workers can import, or install cloudpickle (pip install 'shmq[cloudpickle]'), "
    "which sends by value what was defined in a shell or a notebook"
)

dump = _core.Dumper(reducers).dump
loads = pickle.loads


def main_module(forks: bool) -> int:
    """What the workers know of the main module of this process, as it is now: FOUND, INHERITED or HIDDEN."""
    if hasattr(sys.modules["__main__"], "__file__") and not hasattr(sys, "ps1"):  # `python -i` has a file and ps1
        return FOUND
    return INHERITED if forks else HIDDEN


def dump_in_band(obj: Any) -> Pickled:
    """Pickle an object into one stream, its buffers included. **Raises** what pickling raises."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, 5)
    pickler.dispatch_table = reducers  # type: ignore[assignment]  # a pickler asks it by [kind] alone
    pickler.dump(obj)
    return stream.getvalue(), None


def by_value_instead(obj: Any, error: Exception, in_band: bool = False) -> Pickled:
    """Pickle by cloudpickle what pickle has refused with `error`. **Raises** that error where cloudpickle cannot help, either."""
    try:
        return dump_by_value(obj, in_band)
    except ImportError:
        pass
    except Exception:
        raise error from None
    if isinstance(error, (pickle.PicklingError, AttributeError)):
        raise type(error)(f"{error}. {WAY_OUT}") from None
    raise error from None


def by_value_rather(obj: Any, plain: Pickled, main: int, in_band: bool = False) -> Pickled:
    """Pickle by cloudpickle an object that mentions the main module, which is a shell; `plain`: what pickle has made of it.

    Where cloudpickle is not installed, return `plain` if the workers may find what it names.
    """
    try:
        return dump_by_value(obj, in_band)
    except ImportError:
        if main == INHERITED or not names_main(plain[0]):
            return plain
    except Exception:
        if main == INHERITED:
            return plain
        raise
    raise pickle.PicklingError(
        f"{obj!r:.200} is, or contains, something that was defined in a shell or a notebook, where no worker finds it. {WAY_OUT}"
    )


def dump_by_value(obj: Any, in_band: bool) -> Pickled:
    """Pickle by cloudpickle. **Raises** what that raises; ImportError where it is not installed."""
    stream = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    by_value_pickler()(stream, 5, buffer_callback=None if in_band else buffers.append).dump(obj)
    if len(buffers) > MOST_BUFFERS:
        return dump_by_value(obj, True)
    return stream.getvalue(), buffers or None


def by_value_pickler() -> Any:
    import cloudpickle

    return with_our_reducers(cloudpickle.Pickler)


@functools.cache
def with_our_reducers(kind: Any) -> Any:
    # Nothing writes to the second table of a ChainMap, which is asked by [kind] alone.
    return type("Pickler", (kind,), {"dispatch_table": ChainMap(kind.dispatch_table, reducers)})  # type: ignore[arg-type]


def names_main(data: bytes) -> bool:
    """Does a pickle take a function or a class from the main module, rather than contain a text that mentions it?"""
    texts: list[str] = []
    for operation, argument, _ in pickletools.genops(data):
        if operation.name == "STACK_GLOBAL" and texts[-2:-1] == ["__main__"]:
            return True
        if isinstance(argument, str):
            texts.append(argument)
    return False
