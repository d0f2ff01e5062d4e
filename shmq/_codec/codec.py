"""From objects to bytes and back, where it takes Python: pickle, dtype descriptions, foreign buffers, a queue's own codec.

The binding handles bytes, bytearray, str, plain arrays and the calls of pickle itself and comes here for the rest. Nothing
else in shmq touches pickle.
"""

from __future__ import annotations

import pickle
import struct
import sys
from types import FunctionType
from typing import Any, Protocol

import numpy as np

from shmq._errors import PickleRefused

__all__ = ["Codec", "JSONCodec", "json_codec"]

# enum shmq_kind of format/queue.h
KIND_BYTES = 0
KIND_ENCODED = 5


class Codec(Protocol):
    """What ``codec=`` takes: how a queue's objects become bytes. Both ends must give the same one; its name is compared."""

    name: str

    def encode(self, obj: Any) -> bytes | bytearray | memoryview:
        """Return the object's bytes. What it raises, put raises; nothing is put then."""

    def decode(self, data: memoryview) -> Any:
        """Return the object. `data` lies in the slot and is valid during this call only."""


class JSONCodec:
    """JSON, compact, in ASCII: text of any kind survives, lone surrogates of file names included."""

    name = "json"

    def encode(self, obj: Any) -> bytes:
        """Return the object as JSON. **Raises** TypeError or ValueError where JSON has no form for it."""
        import json  # on first use: `import shmq` stays light

        return json.dumps(obj, separators=(",", ":")).encode()

    def decode(self, data: memoryview) -> Any:
        """Return the object that the JSON text in `data` stands for. **Raises** ValueError where it is no JSON."""
        import json

        return json.loads(bytes(data))


json_codec = JSONCodec()

Encoded = tuple[int, list[Any]]


def encode(obj: Any, codec: Codec | None, pickles: bool) -> np.ndarray[Any, Any] | Encoded | None:
    """Return an array that carries `obj`, or (kind, parts); None where it is to be pickled.

    Raises PickleRefused where only pickle would do and the segment refuses it, and whatever the codec raises.
    """
    carried = None if isinstance(obj, (np.ndarray, np.generic)) or (pickles and codec is None and _has_more(obj)) else _raw(obj)
    if carried is not None:
        return carried
    if codec is not None:
        return KIND_ENCODED, [codec.encode(obj)]
    if not pickles:
        what = f"an ndarray of dtype {obj.dtype}" if type(obj) is np.ndarray else f"a {type(obj).__name__}"
        raise PickleRefused(
            f"{what} can only travel by pickle, which this segment refuses: "
            "put bytes, str or an array of numbers, give the queue a codec=, or create it with allow_pickle=True"
        )
    return None


OWN_REDUCTIONS = ("__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs_ex__", "__getnewargs__")


def _has_more(obj: Any) -> bool:
    """Is there more to an object than its memory, which pickle would keep?

    There is to an instance of a subclass of bytes and the like, and of a class of buffers that says how it is pickled.
    """
    array = sys.modules.get("array")
    known = (bytes, bytearray) if array is None else (bytes, bytearray, array.array)
    if isinstance(obj, known):
        return type(obj) not in known
    return not hasattr(type(obj), "__dlpack__") and any(
        isinstance(vars(kind).get(name), FunctionType) for kind in type(obj).__mro__ for name in OWN_REDUCTIONS
    )


def _raw(obj: Any) -> np.ndarray[Any, Any] | Encoded | None:
    """Raw memory for what exports it: memoryview and the like as bytes, other buffers and CPU tensors as arrays."""
    try:
        view = memoryview(obj)
    except TypeError:
        if not hasattr(type(obj), "__dlpack__"):
            return None
        try:
            return np.from_dlpack(obj)
        except (BufferError, RuntimeError, TypeError, ValueError):  # on another device, or of a type NumPy lacks
            return None
    if view.format in ("B", "b", "c") and view.ndim == 1:
        return KIND_BYTES, [view if view.c_contiguous else bytes(view)]
    array = np.asarray(view)
    return None if array.dtype.hasobject else array


def describe_parts(parts: list[Any]) -> bytes:
    """The sizes of a pickle's stream and of its out-of-band buffers, which lie behind one another in the payload."""
    return struct.pack(f"<{len(parts)}Q", *(len(part) for part in parts))


def load_pickle(stream: memoryview, buffers: list[memoryview]) -> Any:
    """Unpickle a stream with out-of-band buffers; each buffer is copied out of the slot and is writable."""
    return pickle.loads(stream, buffers=[bytearray(part) for part in buffers])


def decode(data: memoryview, codec: Codec | None) -> Any:
    """Decode with the queue's codec."""
    if codec is None:
        raise TypeError("the message was encoded by the queue's codec: attach with the same codec=")
    return codec.decode(data)


def describe_array(array: np.ndarray[Any, Any]) -> bytes | None:
    """Dtype, shape and order as a Python literal, for arrays whose header cannot say it; None where a literal cannot either."""
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    return describe(array.dtype, array.shape, "F" if fortran else "C")


def describe(dtype: np.dtype[Any], shape: tuple[int, ...], order: str = "C") -> bytes | None:
    literal = _dtype_literal(dtype)
    return None if literal is None else repr((literal, shape, order)).encode()


OF_NUMPY = 24  # type numbers below this are NumPy's own, and mean the same everywhere


def _dtype_literal(dtype: np.dtype[Any]) -> Any:
    """What np.dtype() takes to make this dtype again: fields with their offsets, in any order, nested as they are.

    None of what `dtype.str` does not tell: dtypes of other libraries, metadata, a scalar type other than NumPy's, objects.
    """
    if dtype.metadata or dtype.hasobject or not 0 <= dtype.num < OF_NUMPY:
        return None
    if dtype.subdtype is not None:
        base = _dtype_literal(dtype.subdtype[0])
        return None if base is None else (base, dtype.subdtype[1])
    if dtype.names is None:
        return dtype.str if dtype.type is np.dtype(dtype.str).type else None
    names = dtype.names
    fields: Any = dtype.fields or {}
    formats = [_dtype_literal(fields[name][0]) for name in names]
    titles = [fields[name][2:] for name in names]  # a field is (dtype, offset), or (dtype, offset, title)
    texts = [*names, *(title[0] for title in titles if title)]
    if dtype.type is not np.void or None in formats or any(type(text) is not str for text in texts):
        return None
    return {
        "names": list(names),
        "formats": formats,
        "offsets": [fields[name][1] for name in names],
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
    } | ({"titles": [title[0] if title else None for title in titles]} if any(titles) else {})


def described_array(description: bytes, data: Any) -> np.ndarray[Any, Any]:
    """An array over `data`. Raises what it pleases where the description is nonsense or does not agree with the size."""
    import ast

    descr, shape, order = ast.literal_eval(description.decode())
    dtype: np.dtype[Any] = np.dtype(descr)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, buffer=data, order="F" if order == "F" else "C")
    if array.nbytes != len(data):
        raise ValueError(f"it has {array.nbytes} bytes in a payload of {len(data)}")
    return array


def plain_dtype(kind: str, itemsize: int, swapped: bool) -> np.dtype[Any] | None:
    """The dtype that a header names by kind, size and byte order; None where there is no such plain one."""
    if kind not in "biufcSUV" or itemsize < 1:
        return None
    try:
        dtype = np.dtype(f"{'>' if swapped else '='}{kind}{itemsize // 4 if kind == 'U' else itemsize}")
    except TypeError:
        return None
    return dtype if dtype.itemsize == itemsize else None


def loan_layout(dtype: Any, shape: Any) -> tuple[np.dtype[Any], Any]:
    """Dtype and shape of a loan. Raises TypeError for objects: a pointer means nothing in another process."""
    result: np.dtype[Any] = np.dtype(dtype)
    if result.hasobject:
        raise TypeError(f"dtype {result} holds Python objects, which have no place in shared memory")
    if result.subdtype is not None:  # as NumPy does it: an array of arrays is one array
        result, inner = result.subdtype
        shape = (*(shape if isinstance(shape, (tuple, list)) else (shape,)), *inner)
    return result, shape


def describe_loan(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The description of an array that is yet to be written. Raises TypeError, ValueError."""
    description = describe(dtype, shape)
    if description is None:
        raise TypeError(f"a loan of dtype {dtype}: only pickle can tell another process what that is; put() the array")
    np.broadcast_to(np.empty((), dtype), shape)  # refuses more dimensions than NumPy has
    return description
