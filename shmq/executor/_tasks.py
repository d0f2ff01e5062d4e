"""Tasks and outcomes, to bytes and back.

::

    a task      task u64 | client u64 | length of the callable's pickle u32 | flags u16 | buffers u16 | callable | body
    an outcome  task u64 | seconds f32 | kind u16 | buffers u16 | body

The body is a pickle. Where there are buffers (the memory of arrays, by pickle protocol 5), the body is a table of sizes, the
pickle, and the buffers. Each buffer begins at a multiple of 64 bytes of the message, so that it can be used where it lies.

What all tasks of one callable begin with, the callable's pickle included, is their *prefix*. It is made once.
"""

from __future__ import annotations

import contextlib
import struct
import sys
import traceback
from collections.abc import Callable
from concurrent.futures.process import _RemoteTraceback
from pickle import PickleBuffer, UnpicklingError
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from shmq.executor._pickles import MAIN, MOST_BUFFERS, WAY_OUT, by_value_instead, by_value_rather, dump, dump_in_band, loads

__all__ = [
    "FAILED",
    "SMALL",
    "VALUE",
    "Message",
    "frozen",
    "load_outcome",
    "load_task",
    "make_failure",
    "make_prefix",
    "make_task",
    "make_value",
    "name_of",
    "outcome_of",
    "task_of",
]

TASK = struct.Struct("<QQIHH")
COMMON = struct.Struct("<QIHH")  # the head of a task without its number
OUTCOME = struct.Struct("<QfHH")
BUFFERS_AT = 22  # bytes before the number of buffers in a task

SMALL = 2048  # bytes: up to this size a message is one piece, and fits into a small slot
ALIGNMENT = 64
RECYCLED_LEAST = 64 << 10  # bytes: memory of that size and above is the kernel's, sooner or later
RECYCLED_MOST = 4 << 20
RECYCLED_COUNT = 8
MOST_CALLABLES = 1000  # that a worker keeps

# Flags of a task
NAMED = 1  # the callable's pickle is its name: it may be looked up once
CHUNK = 2  # the body is a list of argument tuples, the outcome the list of their values
AS_VIEWS = 4  # arrays may be read-only views of shared memory

# Kinds of an outcome
VALUE = 0
FAILED = 1

Message = bytes | list[Any]  # one piece, or the pieces of a large one

task_of = TASK.unpack_from
outcome_of = OUTCOME.unpack_from


# -- tasks -----------------------------------------------------------------------------------------------------------------


def make_prefix(client: int, function: Callable[..., Any], flags: int, main: int) -> tuple[bytes, bool]:
    """The prefix of tasks that call `function`, and whether it may be used for later calls, too.

    It may be where the function travels as a name. A callable that has a state is pickled each time. **Raises** what pickling
    raises.
    """
    named = has_name(function)
    try:
        plain = dump_in_band(function)
    except Exception as error:
        data, _ = by_value_instead(function, error, True)
        named = False
    else:
        data, _ = by_value_rather(function, plain, main, True) if main and MAIN in plain[0] else plain
        named = named and data is plain[0]
    return COMMON.pack(client, len(data), flags | NAMED if named else flags, 0) + data, named


def has_name(function: Callable[..., Any]) -> bool:
    """Is the callable of a kind of which pickle sends nothing but the name?"""
    kind = type(function)
    if kind is BuiltinFunctionType:
        return isinstance(function.__self__, ModuleType)  # type: ignore[attr-defined]  # its kind was looked at above
    return kind is FunctionType or kind is type


def make_task(number: int, prefix: bytes, body: Any, main: int) -> Message:
    """A task as a message. `body`: the tuple of arguments; [arguments, keyword arguments]; or for a chunk, a list of tuples.

    **Raises** what pickling raises.
    """
    try:
        data, buffers = dump(body)
    except Exception as error:
        data, buffers = by_value_instead(body, error)
    else:
        if main and MAIN in data:
            data, buffers = by_value_rather(body, (data, buffers), main)
    if not buffers and len(prefix) + len(data) <= SMALL - 8:
        return b"".join((number.to_bytes(8, "little"), prefix, data))
    head = number.to_bytes(8, "little") + prefix
    if buffers:
        if len(buffers) > MOST_BUFFERS:
            data, buffers = dump_in_band(body)
            return laid(head, data, None)
        head = head[:BUFFERS_AT] + len(buffers).to_bytes(2, "little") + head[BUFFERS_AT + 2 :]
    return laid(head, data, buffers)


def frozen(message: Message) -> Message:
    """A message with copies of its arrays: while it waits, it stays what it was when the task was submitted."""
    return message if type(message) is bytes else [bytes(piece) for piece in message]


def load_task(data: Any, length: int, flags: int, count: int, callables: dict[bytes, Any]) -> tuple[Callable[..., Any], Any]:
    """The callable and the body of a task, whose head `task_of` has read. **Raises** what unpickling raises."""
    try:
        at = TASK.size + length
        named = bytes(data[TASK.size : at])
        function = callables.get(named)
        if function is None:
            function = loads(named)
            if flags & NAMED:
                if len(callables) > MOST_CALLABLES:
                    callables.clear()
                callables[named] = function
        if count:
            return function, load_body(data, at, count, flags & AS_VIEWS)
        return function, loads(data[at:])
    except AttributeError as error:
        if "__main__" not in str(error):
            raise
        raise AttributeError(
            f"{error}: this worker has another main module, or was forked before it was defined. {WAY_OUT}"
        ) from None


def name_of(data: bytes, length: int) -> str:
    """The name of what a task calls, for error texts. Nothing is unpickled, since that may be what kills the workers."""
    import pickletools

    words = []
    with contextlib.suppress(ValueError):
        words = [
            argument for _, argument, _ in pickletools.genops(data[TASK.size : TASK.size + length]) if isinstance(argument, str)
        ]
    return ".".join(words[:2]) or "a callable without a name"


# -- outcomes ----------------------------------------------------------------------------------------------------------------


def make_value(number: int, seconds: float, value: Any) -> Message:
    """The outcome of a task that returned a value. **Raises** what pickling raises."""
    try:
        data, buffers = dump(value)
    except Exception as error:
        data, buffers = by_value_instead(value, error)
    if not buffers and len(data) <= SMALL - OUTCOME.size:
        return OUTCOME.pack(number, seconds, VALUE, 0) + data
    if buffers and len(buffers) > MOST_BUFFERS:
        data, buffers = dump_in_band(value)
    return laid(OUTCOME.pack(number, seconds, VALUE, len(buffers) if buffers else 0), data, buffers)


def make_failure(number: int, seconds: float, error: BaseException) -> Message:
    """The outcome of a task that raised an exception, whose traceback travels as text."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        try:
            pickled, _ = dump_in_band(error)
        except Exception as failure:
            pickled, _ = by_value_instead(error, failure, True)
    except BaseException as failure:  # whatever it is: the client waits for this outcome
        pickled, _ = dump_in_band(RuntimeError(f"{type(error).__name__}, which cannot be pickled: {failure!r}"))
    data, _ = dump_in_band((pickled, text))
    head = OUTCOME.pack(number, seconds, FAILED, 0)
    return head + data if len(data) <= SMALL - OUTCOME.size else [head, data]


def load_outcome(data: Any, kind: int, count: int, as_views: bool) -> Any:
    """The value or the exception of an outcome, whose head `outcome_of` has read. **Raises** what unpickling raises."""
    body = load_body(data, OUTCOME.size, count, as_views) if count else loads(data[OUTCOME.size :])
    if not kind:
        return body
    pickled, text = body
    try:
        error = loads(pickled)
        if not isinstance(error, BaseException):
            error = TypeError(
                f"the task's exception was pickled as {error!r:.200}, which is no exception: see its class's __reduce__"
            )
    except BaseException as failure:  # its class does not accept its own pickle; the traceback still says what happened
        error = failure
    # CPython's class takes a text; the stubs ask for a traceback.
    error.__cause__ = _RemoteTraceback(f'\n"""\n{text}"""')  # type: ignore[arg-type]
    return error


# -- buffers -----------------------------------------------------------------------------------------------------------------


def laid(head: bytes, data: bytes, buffers: list[PickleBuffer] | None) -> list[Any]:
    """The pieces of a message in their order, with zeros between them so that each buffer is aligned."""
    if not buffers:
        return [head, data]
    raw = [buffer.raw() for buffer in buffers]
    pieces: list[Any] = [head, struct.pack(f"<{len(raw) + 1}Q", len(data), *map(len, raw)), data]
    at = sum(map(len, pieces))
    for piece in raw:
        gap = -at % ALIGNMENT
        if gap:
            pieces.append(bytes(gap))
        pieces.append(piece)
        at += gap + len(piece)
    return pieces


def load_body(data: Any, at: int, count: int, as_views: bool | int) -> Any:
    """Unpickle a body with buffers. Arrays are views of `data` if `as_views`, private copies otherwise."""
    view = memoryview(data)
    sizes = struct.unpack_from(f"<{count + 1}Q", view, at)
    at += 8 * (count + 1)
    stream = view[at : at + sizes[0]]
    at += sizes[0]
    buffers: list[Any] = []
    for size in sizes[1:]:
        at += -at % ALIGNMENT
        piece = view[at : at + size]
        buffers.append(piece if as_views else private_copy(piece))
        at += size
    if at > len(view):
        raise UnpicklingError(f"buffers of {at} bytes in a message of {len(view)}")
    return loads(stream, buffers=buffers)


# -- memory ------------------------------------------------------------------------------------------------------------------

_used: list[bytearray] = []  # memory that was given to arrays, oldest first


def references(buffers: list[bytearray]) -> int:
    """How many references the interpreter counts, in a loop over the list, to a buffer to which nothing but the list refers."""
    for buffer in buffers:
        return sys.getrefcount(buffer)
    return 0


FREE = references([bytearray(1)])


def private_copy(piece: memoryview) -> bytearray:
    """A copy of the buffer that may be written to; where there is some, in memory that an earlier array does not need any more.

    Fresh memory of this size comes from the kernel page by page, and goes back when it is freed. To zero and map it takes longer
    than the copy.
    """
    size = len(piece)
    if size < RECYCLED_LEAST or size > RECYCLED_MOST:
        return bytearray(piece)
    for buffer in _used:
        if len(buffer) == size and sys.getrefcount(buffer) <= FREE:
            memoryview(buffer)[:] = piece
            return buffer
    buffer = bytearray(piece)
    if len(_used) >= RECYCLED_COUNT:
        del _used[0]
    _used.append(buffer)
    return buffer
