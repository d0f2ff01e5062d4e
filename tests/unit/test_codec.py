"""The corners of the codec: rare dtypes, other libraries' memory, what fails half-way, payloads beside the segment."""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmq
from support.shared_memory import side_files

Make = Callable[..., shmq.Queue]


@pytest.fixture(params=[4096, 2048], ids=["large slots", "small slots"])
def q(request: pytest.FixtureRequest, make: Make) -> shmq.Queue:
    """Four slots, with payloads on pages of their own (4,096 bytes) or behind their headers (below)."""
    return make(slots=4, slot_size=request.param)


def ways_out(queue: shmq.Queue, thing: Any) -> dict[str, Any]:
    """Put a thing five times; what get, get_many, receive, peek and drain make of it."""
    queue.put(thing)
    found = {"peek": queue.peek()[0], "get": queue.get()}
    queue.put_many([thing, thing])
    found["get_many"], found["second of get_many"] = queue.get_many(2)
    queue.put(thing)
    with queue.receive(timeout=0) as lease:
        found["receive"] = lease.data
    queue.put(thing)
    (found["drain"],) = queue.drain()
    shmq.verify(queue)
    return found


def assert_same_array(got: Any, put: np.ndarray, way: str) -> None:
    assert type(got) is np.ndarray, way
    assert got.dtype == put.dtype, way
    assert got.shape == put.shape, way
    if put.dtype.names is None:
        assert got.tobytes() == put.tobytes(), way
    for field in put.dtype.names or ():  # the padding between them is nobody's
        assert_same_array(got[field], put[field], f"{way} of {field!r}")


XML = '<?xml version="1.0"?><order id="7"><item sku="ä-1" n="2"/><note>1 &lt; 2</note></order>'


def test_xml_can_be_parsed_from_the_slot_itself(q: shmq.Queue) -> None:
    q.put(XML.encode())
    with q.receive(timeout=0) as lease:
        assert ElementTree.fromstring(lease.view).find("item").get("sku") == "ä-1"


def test_text_with_lone_surrogates_is_refused_where_pickle_is(make: Make) -> None:
    queue = make(slots=2, slot_size=64, allow_pickle=False)
    with pytest.raises(shmq.PickleRefused, match="str"):
        queue.put("\ud800")
    assert queue.empty()


def test_an_anonymous_mapping_comes_out_as_bytes(q: shmq.Queue) -> None:
    with mmap.mmap(-1, 100) as memory:
        memory[:5] = b"hello"
        q.put(memory)
    assert q.get() == b"hello" + bytes(95)


def test_a_view_that_was_released_is_refused(q: shmq.Queue) -> None:
    view = memoryview(b"gone")
    view.release()
    with pytest.raises(ValueError, match="released"):
        q.put(view)
    assert q.empty()


STRUCTURES = {
    "two fields": np.dtype([("id", "<u4"), ("value", ">f8")]),
    "padded": np.dtype([("flag", "u1"), ("value", "f8")], align=True),
    "nested": np.dtype([("point", [("x", "f4"), ("y", "f4")]), ("name", "U3"), ("matrix", "i2", (2, 3))]),
    "odd names": np.dtype([("it's", "i1"), ("ü\n", "i2"), ("", "i4")]),
    "titles": np.dtype([(("long title", "short"), "i4"), ("b", "M8[ns]")]),
    "out of order": np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [4, 0]}),
    "overlapping": np.dtype({"names": ["word", "low"], "formats": ["u4", "u2"], "offsets": [0, 0]}),
    "no fields": np.dtype([]),
}


def filled(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array whose bytes are all different from their neighbours."""
    made = np.zeros(shape, dtype)
    kind = made.dtype.kind
    count = made.size
    if kind in "SU":
        made.reshape(-1)[:] = [f"{number:x}"[: max(made.dtype.itemsize, 1)] for number in range(count)]
    elif made.nbytes and kind == "b":
        made.reshape(-1)[::2] = True
    elif made.nbytes and kind in "Mm":
        made.reshape(-1)[:] = np.arange(count).astype(made.dtype)
    elif made.nbytes and kind == "V":
        made = np.frombuffer(bytes(n % 120 + 1 for n in range(made.nbytes)), made.dtype).reshape(shape).copy()
        if made.dtype.names and any("U" in made.dtype[field].str for field in made.dtype.names):
            made = np.zeros(shape, dtype)
            made.reshape(-1).view("u1")[:: made.dtype.itemsize] = 7
    elif made.nbytes:
        made.reshape(-1)[:] = np.arange(count)
    return made


@pytest.mark.parametrize("dtype", STRUCTURES.values(), ids=STRUCTURES)
def test_arrays_of_records_come_out_alike(q: shmq.Queue, dtype: np.dtype) -> None:
    sent = filled((3, 4), dtype)
    for way, got in ways_out(q, sent).items():
        assert_same_array(got, sent, way)
        assert got.flags.writeable, way


def test_arrays_of_as_many_dimensions_as_numpy_has_come_out_alike(q: shmq.Queue) -> None:
    limit = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
    sent = filled((1,) * (limit - 1) + (2,), "u2")
    for way, got in ways_out(q, sent).items():
        assert_same_array(got, sent, way)


@pytest.mark.parametrize("dtype", ["f8", ">c8", "M8[s]", STRUCTURES["two fields"]], ids=str)
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2), (2, 1, 2, 3, 2)], ids=str)
def test_fortran_order_is_kept(q: shmq.Queue, shape: tuple[int, ...], dtype: Any) -> None:
    sent = np.asfortranarray(filled(shape, dtype))
    for way, got in ways_out(q, sent).items():
        assert_same_array(got, sent, way)
        assert got.flags.f_contiguous and not got.flags.c_contiguous, way


@pytest.mark.parametrize("dtype", ["S0", "U0"])
def test_arrays_of_empty_strings_hold_nothing_of_other_memory(q: shmq.Queue, dtype: str) -> None:
    sent = np.ndarray((3,), dtype)
    for way, got in ways_out(q, sent).items():
        assert got.shape == (3,) and got.dtype.kind == sent.dtype.kind, way
        assert got.tolist() == sent.tolist(), way


@pytest.mark.skipif(not hasattr(np, "dtypes") or not hasattr(np.dtypes, "StringDType"), reason="NumPy 2 has StringDType")
def test_arrays_of_strings_of_any_length_travel(q: shmq.Queue) -> None:
    sent = np.array(["a", "b" * 300, ""], np.dtypes.StringDType())
    for way, got in ways_out(q, sent).items():
        assert got.tolist() == sent.tolist(), way


VIEWED = {
    "numbers": filled((3, 4), "f4"),
    "big-endian": filled((3, 4), ">i8"),
    "fortran": np.asfortranarray(filled((3, 4), "u2")),
    "0-d": np.array(2.5),
    "empty": np.zeros((0, 5), "i2"),
    "times": filled((5,), "M8[us]"),
    "records": filled((2, 3), STRUCTURES["nested"]),
    "fortran records": np.asfortranarray(filled((2, 3), STRUCTURES["two fields"])),
    "six dimensions": filled((1, 2, 1, 2, 1, 2), "c8"),
    "text": filled((4,), "U3"),
}


@pytest.mark.parametrize("sent", VIEWED.values(), ids=VIEWED)
def test_a_lease_shows_the_array_in_place(q: shmq.Queue, sent: np.ndarray) -> None:
    q.put(sent)
    with q.receive(timeout=0) as lease:
        shown = lease.array
        assert_same_array(shown, sent, "array")
        assert shown.flags.f_contiguous == sent.flags.f_contiguous
        assert not shown.flags.writeable and not shown.flags.owndata
        assert lease.nbytes == sent.nbytes == lease.view.nbytes
        assert sent.nbytes == 0 or np.shares_memory(shown, np.frombuffer(lease.view, "u1"))


def test_payloads_lie_on_cache_lines_and_large_ones_on_pages(make: Make) -> None:
    for slot_size, boundary in ((1000, 64), (4096, 4096)):
        queue = make(slots=4, slot_size=slot_size)
        for _ in range(8):
            queue.put(np.zeros(slot_size, "u1"))
            with queue.receive(timeout=0) as lease:
                assert lease.array.ctypes.data % boundary == 0


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int32), ("y", ctypes.c_int32)]


BUFFERS = {
    "array of doubles": (array.array("d", [1, 2.5]), np.array([1, 2.5])),
    "array of shorts": (array.array("h", [1, -2]), np.array([1, -2], "i2")),
    "empty array": (array.array("i"), np.zeros(0, "i4")),
    "ctypes array": ((ctypes.c_int32 * 3)(1, 2, 3), np.array([1, 2, 3], "i4")),
    "ctypes matrix": (((ctypes.c_double * 2) * 2)((1, 2), (3, 4)), np.array([[1.0, 2], [3, 4]])),
    "ctypes structure": (Point(1, 2), np.array((1, 2), [("x", "i4"), ("y", "i4")])),
    "view of shorts": (memoryview(b"abcdef").cast("H"), np.frombuffer(b"abcdef", "u2")),
    "view of truths": (memoryview(b"\1\0").cast("?"), np.array([True, False])),
    "view of a matrix": (memoryview(bytes(range(6))).cast("B", (2, 3)), np.arange(6, dtype="u1").reshape(2, 3)),
    "view of nothing in particular": (memoryview(b"\7").cast("B", ()), np.array(7, "u1")),
    "view of a scattered array": (memoryview(np.arange(12).reshape(3, 4)[:, ::2]), np.arange(12).reshape(3, 4)[:, ::2]),
}


@pytest.mark.parametrize(("thing", "expected"), BUFFERS.values(), ids=BUFFERS)
def test_whatever_exports_its_memory_comes_out_as_an_array(q: shmq.Queue, thing: Any, expected: np.ndarray) -> None:
    for way, got in ways_out(q, thing).items():
        assert_same_array(got, expected, way)


class Tensor:
    """A tensor of another library: no buffer, but DLPack."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __dlpack__(self, **wishes: Any) -> Any:
        return self.values.__dlpack__(**wishes)

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()


class TensorElsewhere:
    """A tensor in the memory of a device: it can only be pickled."""

    def __init__(self, values: list[int]) -> None:
        self.values = values

    def __dlpack__(self, **wishes: Any) -> Any:
        raise BufferError("in the memory of a device")

    def __dlpack_device__(self) -> Any:
        return 2, 0


@pytest.mark.parametrize(
    "values", [np.arange(6.0).reshape(2, 3), np.arange(6)[::2], np.array(1.0)], ids=["matrix", "scattered", "0-d"]
)
def test_tensors_that_speak_dlpack_come_out_as_arrays(q: shmq.Queue, values: np.ndarray) -> None:
    for way, got in ways_out(q, Tensor(values)).items():
        assert_same_array(got, values, way)


def test_tensors_that_speak_dlpack_need_no_pickle(make: Make) -> None:
    queue = make(slots=2, slot_size=1024, allow_pickle=False)
    queue.put(Tensor(np.arange(3)))
    assert queue.get().tolist() == [0, 1, 2]
    with pytest.raises(shmq.PickleRefused, match="TensorElsewhere"):
        queue.put(TensorElsewhere([1]))


def test_tensors_of_other_devices_travel_by_pickle(q: shmq.Queue) -> None:
    q.put(TensorElsewhere([1, 2]))
    assert q.get().values == [1, 2]


RECURSIVE: list[Any] = [1]


RECURSIVE.append(RECURSIVE)


def test_objects_that_contain_themselves_come_out_alike(q: shmq.Queue) -> None:
    q.put(RECURSIVE)
    got = q.get()
    assert got[0] == 1 and got[1] is got


class Refuses:
    """Pickles in one process, and does not unpickle in another."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


@pytest.mark.parametrize(
    "take", [shmq.Queue.get, shmq.Queue.get_nowait, lambda queue: queue.get_many(1), lambda queue: queue.get_many(5)]
)
def test_what_does_not_unpickle_raises_and_goes_back_as_a_failed_attempt(
    q: shmq.Queue, take: Callable[[shmq.Queue], Any]
) -> None:
    q.put(Refuses())
    q.put("after it")
    with pytest.raises(ValueError, match="no number"):
        take(q)
    with q.receive(timeout=0) as lease:
        assert lease.delivery_count == 2
        with pytest.raises(ValueError, match="no number"):
            _ = lease.data
    assert q.get_nowait() == "after it"
    assert q.stats().leased == 0
    shmq.verify(q)


def test_a_batch_with_one_that_does_not_unpickle_loses_none(q: shmq.Queue) -> None:
    q.put_many(["first", Refuses(), "third"])
    with pytest.raises(ValueError, match="no number"):
        q.get_many(3)
    counts = {}
    for lease in q.receive_many(3, timeout=0):
        raw = bytes(lease.view)
        counts[raw if raw in (b"first", b"third") else "the one"] = lease.delivery_count
        lease.ack()
    assert counts == {b"first": 1, "the one": 2, b"third": 1}
    shmq.verify(q)


@pytest.mark.parametrize(
    "result", [b"bytes", bytearray(b"bytes"), memoryview(b"bytes"), np.frombuffer(b"bytes", "u1")], ids=lambda r: type(r).__name__
)
def test_a_codec_may_return_anything_bytes_like(make: Make, result: Any) -> None:
    class Fixed:
        name = "fixed"

        def encode(self, obj: Any) -> Any:
            return result

        def decode(self, data: memoryview) -> Any:
            return bytes(data)

    queue = make(slots=2, slot_size=64, codec=Fixed())
    queue.put(object())
    assert queue.get() == b"bytes"


@pytest.mark.parametrize("result", ["text", None, 5])
def test_a_codec_that_returns_no_bytes_is_refused(make: Make, result: Any) -> None:
    class Wrong:
        name = "wrong"

        def encode(self, obj: Any) -> Any:
            return result

        def decode(self, data: memoryview) -> Any:
            return None

    queue = make(slots=2, slot_size=64, codec=Wrong())
    with pytest.raises(TypeError):
        queue.put(object())
    assert queue.empty()
    shmq.verify(queue)


def test_the_memory_that_a_codec_decodes_cannot_be_written(make: Make) -> None:
    class Scribbling:
        name = "scribbling"

        def encode(self, obj: Any) -> bytes:
            return b"clean"

        def decode(self, data: memoryview) -> Any:
            data[0] = 0

    queue = make(slots=2, slot_size=64, codec=Scribbling())
    queue.put(object())
    with pytest.raises(TypeError, match="read-only"):
        queue.get()
    assert bytes(queue.receive(timeout=0).view) == b"clean"


@pytest.fixture
def spilling(make: Make) -> shmq.Queue:
    return make(slots=4, slot_size=64, oversize="spill")


LARGE_ARRAYS = {
    "numbers": filled((50, 40), "i4"),
    "fortran": np.asfortranarray(filled((50, 40), "f8")),
    "big-endian": filled((100,), ">u8"),
    "records": filled((30,), STRUCTURES["two fields"]),
    "six dimensions": filled((2, 3, 2, 3, 2, 3), "c16"),
    "small, but with a long description": filled((2,), [(f"field {n}", "u1") for n in range(20)]),
    "a megabyte": filled((1 << 18,), "f4"),
}


@pytest.mark.parametrize("sent", LARGE_ARRAYS.values(), ids=LARGE_ARRAYS)
def test_arrays_larger_than_a_slot_spill_and_leave_no_file(spilling: shmq.Queue, sent: np.ndarray) -> None:
    for way, got in ways_out(spilling, sent).items():
        assert_same_array(got, sent, way)
    assert side_files(spilling) == []


@pytest.mark.parametrize("sent", LARGE_ARRAYS.values(), ids=LARGE_ARRAYS)
def test_a_lease_shows_a_spilled_array_in_place_beyond_its_ack(spilling: shmq.Queue, sent: np.ndarray) -> None:
    spilling.put(sent)
    with spilling.receive(timeout=0) as lease:
        shown = lease.array
    assert side_files(spilling) == []
    assert_same_array(shown, sent, "array")
    assert not shown.flags.writeable


@pytest.mark.parametrize(
    "take",
    [shmq.Queue.get, lambda queue: queue.get_many(3), shmq.Queue.receive, shmq.Queue.drain],
    ids=["get", "get_many", "receive", "drain"],
)
def test_a_message_whose_payload_is_gone_is_told_once_and_stops_nobody(
    spilling: shmq.Queue, take: Callable[[shmq.Queue], Any]
) -> None:
    spilling.put(bytes(100))
    (path,) = side_files(spilling)
    os.unlink(f"/dev/shm/{path}")
    with pytest.raises(shmq.SegmentCorrupt, match="side segment"):
        take(spilling)
    spilling.put(b"next")
    assert spilling.get_nowait() == b"next"
    shmq.verify(spilling)


def test_purge_throws_away_what_has_lost_its_payload(spilling: shmq.Queue) -> None:
    spilling.put_many([bytes(100), b"x"])
    (path,) = side_files(spilling)
    os.unlink(f"/dev/shm/{path}")
    assert spilling.purge() == 2
    assert spilling.empty()


@pytest.mark.parametrize("slot_size", [1, 15])
def test_slots_smaller_than_the_name_of_a_file_spill_as_others_do(make: Make, slot_size: int) -> None:
    queue = make(slots=2, slot_size=slot_size, oversize="spill")
    for way, got in ways_out(queue, bytes(100)).items():
        assert got == bytes(100), way
    assert side_files(queue) == []
