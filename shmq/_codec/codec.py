"""From objects to bytes and back, where it takes Python: pickle, dtype descriptions, foreign buffers, a queue's own codec.

The binding handles bytes, bytearray, str, plain arrays and the calls of pickle itself and comes here for the rest. Nothing
else in shmq touches pickle.
"""

from __future__ import annotations

import pickle
import struct
import sys
from types import FunctionType
from typing import TYPE_CHECKING, Any, Protocol

from shmq._codec.importing import arrays
from shmq._errors import PickleRefused

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


def encode(obj: Any, codec: Codec | None, pickles: bool, raw: bool) -> NDArray[Any] | Encoded | None:
    """Return an array that carries `obj`, or (kind, parts); None where it is to be pickled. `raw`: it could be carried as memory.

    Raises PickleRefused where only pickle would do and the segment refuses it, and whatever the codec raises.
    """
    carried = _raw(obj) if raw and not (pickles and codec is None and _has_more(obj)) else None
    if carried is not None:
        return carried
    if codec is not None:
        return KIND_ENCODED, [codec.encode(obj)]
    if not pickles:
        kind = type(obj)
        array = (kind.__module__, kind.__qualname__) == ("numpy", "ndarray")
        what = f"an ndarray of dtype {obj.dtype}" if array else f"a {kind.__name__}"
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


def _raw(obj: Any) -> NDArray[Any] | Encoded | None:
    """Raw memory for what exports it: memoryview and the like as bytes, other buffers and CPU tensors as arrays."""
    try:
        view = memoryview(obj)
    except TypeError:
        return arrays().of_tensor(obj) if hasattr(type(obj), "__dlpack__") else None
    if view.format in ("B", "b", "c") and view.ndim == 1:
        return KIND_BYTES, [view if view.c_contiguous else bytes(view)]
    array: NDArray[Any] | None = arrays().of_buffer(view)
    return array


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
