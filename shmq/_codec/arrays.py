"""Arrays: what a description says of them, and what else becomes one.

This module imports NumPy, and gives the binding its C interface. The first array imports it: see shmq/_codec/importing.py.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from shmq import _core

if TYPE_CHECKING:
    from numpy.typing import NDArray


def of_buffer(view: memoryview) -> NDArray[Any] | None:
    """An array over the memory; None where it holds objects."""
    array = np.asarray(view)
    return None if array.dtype.hasobject else array


def of_tensor(exporter: Any) -> NDArray[Any] | None:
    """An array over what has `__dlpack__`; None of what is on another device, or of a type that NumPy lacks."""
    try:
        return np.from_dlpack(exporter)
    except (BufferError, RuntimeError, TypeError, ValueError):
        return None


def describe_array(array: NDArray[Any]) -> bytes | None:
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


def described_array(description: bytes, data: Any) -> NDArray[Any]:
    """An array over `data`. Raises what it pleases where the description is nonsense or does not agree with the size."""
    import ast

    descr, shape, order = ast.literal_eval(description.decode())
    dtype: np.dtype[Any] = np.dtype(descr)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    array: NDArray[Any] = np.ndarray(shape, dtype, buffer=data, order="F" if order == "F" else "C")
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


_core._numpy_is_imported(sys.modules[__name__])
