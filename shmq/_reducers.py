"""Reducers: how the queues of shmq.mp take objects apart, so that what comes out is of the type that went in.

A pickler asks here for classes that it does not know itself, with every object anew: what is registered while a program runs,
or a `torch` that is imported later, counts from then on. Tensors and other exporters of `__dlpack__` in the CPU's memory
become out-of-band buffers; whatever else they are (on a device, sparse, quantised) is left to their own reduction.
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from shmq._core import Reducers

__all__ = ["reducers"]

Reducer = Callable[[Any], Any]

PROTOCOL = 5
# Connections, sockets, and what users register.
OF_MULTIPROCESSING: dict[type, Reducer] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
OWN_REDUCTIONS = ("__reduce_ex__", "__reduce__", "__getstate__")


def of_exporter(kind: type) -> Reducer | None:
    """The reducer of a class that has `__dlpack__`; None where it is pickled like any other."""
    torch = sys.modules.get("torch")
    if torch is not None and (kind is torch.Tensor or kind is torch.nn.Parameter):
        return reduce_tensor  # before torch.multiprocessing's own, which keeps a file open for each
    if kind is np.ndarray:
        return reduce_array
    known = kind in OF_MULTIPROCESSING or kind in copyreg.dispatch_table or issubclass(kind, np.ndarray)
    return None if known or reduces_itself(kind) else reduce_exporter


def reduces_itself(kind: type) -> bool:
    """Does the class say how its instances are pickled?"""
    return any(getattr(kind, name, None) is not getattr(object, name, None) for name in OWN_REDUCTIONS)


def reduce_array(array: np.ndarray[Any, Any]) -> Any:
    """A copy of what may not be written: out of band it would stay so, and what comes out is the receiver's own."""
    return (array if array.flags.writeable else array.copy("K")).__reduce_ex__(PROTOCOL)


def reduce_exporter(exporter: Any) -> Any:
    """What has `__dlpack__` and nothing else to say becomes an array."""
    try:
        array = np.from_dlpack(exporter)
    except (BufferError, RuntimeError, TypeError, ValueError):  # on another device, or of a type that NumPy lacks
        return exporter.__reduce_ex__(PROTOCOL)
    return np.asarray, (array,)  # which is pickled by reduce_array


def reduce_tensor(tensor: Any) -> Any:
    """A dense tensor in the CPU's memory as one buffer, with its dtype, shape, and order of strides."""
    import torch

    if tensor.requires_grad and not tensor.is_leaf:
        raise RuntimeError(
            "a tensor that requires grad and is no leaf cannot be put: its graph stays in this process. Put tensor.detach()"
        )
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized:
        return tensor.__reduce_ex__(PROTOCOL)
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    # A copy only of what is not dense, or is yet to be conjugated or negated.
    flat = tensor.detach().resolve_conj().resolve_neg().permute(order).contiguous().reshape(-1)
    memory = flat.view(torch.uint8).numpy()
    return tensor_again, (memory, tensor.dtype, tuple(tensor.shape), order, tensor.requires_grad, type(tensor))


def tensor_again(memory: Any, dtype: Any, shape: tuple[int, ...], order: list[int], requires_grad: bool, kind: type) -> Any:
    """The tensor over the memory that reduce_tensor sent."""
    import torch

    flat = torch.from_numpy(memory).view(dtype) if memory.size else torch.empty(0, dtype=dtype)
    back = sorted(range(len(order)), key=order.__getitem__)
    tensor = flat.view([shape[dimension] for dimension in order]).permute(back)
    if kind is torch.nn.Parameter:
        return torch.nn.Parameter(tensor, requires_grad)
    return tensor.requires_grad_(requires_grad)


reducers = Reducers(of_exporter, OF_MULTIPROCESSING, copyreg.dispatch_table)
