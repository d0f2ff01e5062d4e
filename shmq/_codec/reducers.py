"""Reducers: how objects are taken apart when they are pickled, by the queues, by shmq.mp and by the pools.

A pickler asks here for classes that it does not know itself, with every object again. So what `ForkingPickler.register` is told
while a program runs counts from then on, and so does a `torch` that is imported later. A connection or a socket comes out as one
that is open, and not as the number of a descriptor of another process. Tensors in the CPU's memory become out-of-band buffers;
whatever else they are (on a device, sparse, quantised) is left to their own reduction.
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Callable
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any

from shmq._codec.importing import arrays
from shmq._core import Reducers

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["reducers", "reducers_of_exporters", "state_beside"]

Reducer = Callable[[Any], Any]

PROTOCOL = 5
OWN_REDUCTIONS = ("__reduce_ex__", "__reduce__", "__getstate__")


def of_tensor(kind: type) -> Reducer | None:
    """The reducer of a tensor's class, before the one of torch.multiprocessing, which keeps a file open for each."""
    torch = sys.modules.get("torch")
    return reduce_tensor if torch is not None and (kind is torch.Tensor or kind is torch.nn.Parameter) else None


def of_exporter(kind: type) -> Reducer | None:
    """The reducer of a class that has `__dlpack__`; None where it is pickled like any other."""
    reducer = of_tensor(kind)
    if reducer is not None:
        return reducer
    known = is_registered(kind) or kind in copyreg.dispatch_table
    return None if known or reduces_itself(kind) else reduce_exporter


def is_registered(kind: type) -> bool:
    reduction = sys.modules.get("multiprocessing.reduction")
    return reduction is not None and kind in reduction.ForkingPickler._extra_reducers


def reduces_itself(kind: type) -> bool:
    """Does the class say how its instances are pickled?"""
    return any(getattr(kind, name, None) is not getattr(object, name, None) for name in OWN_REDUCTIONS)


def reduce_array(array: NDArray[Any]) -> Any:
    """Reduce an array as NumPy does, but so that what comes out may be written, also where this one may not."""
    reduced = array.__reduce_ex__(PROTOCOL)
    if array.flags.writeable or type(reduced[1][0]) is not PickleBuffer:
        return reduced
    return array_again, (reduced[0], *reduced[1])


def array_again(function: Callable[..., Any], memory: Any, *arguments: Any) -> Any:
    """Make an array again that could not be written.

    Pickle passes its memory as a read-only view of what it was given: a bytearray that is nobody else's, or shared memory, which
    stays read-only.
    """
    if type(memory) is bytes:
        memory = bytearray(memory)
    elif type(memory) is memoryview and type(memory.obj) is bytearray and len(memory.obj) == memory.nbytes:
        memory = memory.obj
    return function(memory, *arguments)


def reduce_exporter(exporter: Any) -> Any:
    """Reduce an object that has `__dlpack__`, and no reduction of its own, to an array."""
    array = arrays().of_tensor(exporter)
    return exporter.__reduce_ex__(PROTOCOL) if array is None else (arrays().np.asarray, (array,))  # which reduce_array pickles


def reduce_tensor(tensor: Any) -> Any:
    """Reduce a dense tensor in the CPU's memory to one buffer, with its dtype, shape, and order of strides."""
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


def of_registered(reducer: Reducer) -> Reducer:
    """The reducer for a class that multiprocessing has registered.

    multiprocessing registers each class of ctypes of which it makes a shared value. Other instances are still plain values.
    """
    shared = sys.modules.get("multiprocessing.sharedctypes")
    return reduce_ctype if shared is not None and reducer is shared.reduce_ctype else reducer


def reduce_ctype(value: Any) -> Any:
    if hasattr(value, "_wrapper"):  # it lies in shared memory, which is only inherited
        return sys.modules["multiprocessing.sharedctypes"].reduce_ctype(value)
    return value.__reduce_ex__(PROTOCOL)


def state_beside(obj: Any, names: set[str]) -> Any:
    """An object's attributes but for these, as pickle takes them: a dictionary, with `__slots__` a pair, None for none."""
    attributes = {name: value for name, value in vars(obj).items() if name not in names}
    # CPython has it, the stubs do not.
    slots = {name: getattr(obj, name) for name in copyreg._slotnames(type(obj)) if hasattr(obj, name)}  # type: ignore[attr-defined]
    return (attributes, slots) if slots else attributes or None


reducers = Reducers(reduce_array, of_tensor, of_registered)
reducers_of_exporters = Reducers(reduce_array, of_exporter, of_registered)
