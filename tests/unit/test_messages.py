"""Messages: every kind comes out as it went in, by every way; what cannot travel is refused and leaves nothing behind."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import fractions
import json
import mmap
import os
import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import shmq
from support.shared_memory import side_files

Make = Callable[..., shmq.Queue]
Way = Callable[[shmq.Queue, Any], list[Any]]

SIZES = {"small slots": 2048, "large slots": 8192}  # payloads behind their headers, and on pages of their own


@pytest.fixture(params=SIZES.values(), ids=SIZES.keys())
def q(request: pytest.FixtureRequest, make: Make) -> Iterator[shmq.Queue]:
    queue = make(slots=4, slot_size=request.param, oversize="error")
    yield queue
    shmq.verify(queue)


@pytest.fixture(params=SIZES.values(), ids=SIZES.keys())
def wary(request: pytest.FixtureRequest, make: Make) -> Iterator[shmq.Queue]:
    """A queue that refuses pickle."""
    queue = make(slots=4, slot_size=request.param, allow_pickle=False)
    yield queue
    shmq.verify(queue)


@pytest.fixture(params=[64, 4096], ids=["small slots", "large slots"])
def spilling(request: pytest.FixtureRequest, make: Make) -> Iterator[shmq.Queue]:
    queue = make(slots=4, slot_size=request.param, oversize="spill")
    yield queue
    shmq.verify(queue)


# -- ways through a queue --------------------------------------------------------------------------------------------------


def by_get(queue: shmq.Queue, thing: Any) -> list[Any]:
    queue.put(thing)
    return [queue.get(timeout=0)]


def by_get_many(queue: shmq.Queue, thing: Any) -> list[Any]:
    assert queue.put_many([thing, thing, thing], timeout=0) == 3
    return queue.get_many(2, timeout=0) + queue.get_many(2, timeout=0)


def by_receive(queue: shmq.Queue, thing: Any) -> list[Any]:
    queue.put(thing)
    with queue.receive(timeout=0) as lease:
        return [lease.data]


def by_peek(queue: shmq.Queue, thing: Any) -> list[Any]:
    queue.put_many([thing, thing], timeout=0)
    seen = queue.peek(3)
    assert len(seen) == queue.qsize() == queue.purge() == 2
    return seen


def by_another_handle(queue: shmq.Queue, thing: Any) -> list[Any]:
    queue.put(thing)
    with shmq.Queue.attach(queue.name, codec=queue.codec) as other:
        return [other.get(timeout=0)]


@pytest.fixture(params=[by_get, by_get_many, by_receive, by_peek, by_another_handle], ids=lambda way: way.__name__)
def way(request: pytest.FixtureRequest) -> Way:
    return request.param


def assert_same(got: Any, sent: Any) -> None:
    assert type(got) is type(sent)
    if isinstance(sent, np.ndarray):
        assert got.dtype == sent.dtype
        assert got.shape == sent.shape
        for part in sent.dtype.names or [...]:  # field by field: the padding between them is nobody's
            assert got[part].dtype.hasobject or got[part].tobytes() == sent[part].tobytes()
            assert not got[part].dtype.hasobject or got[part].tolist() == sent[part].tolist()
    else:
        assert got == sent


def assert_travels(queue: shmq.Queue, way: Way, thing: Any, expected: Any) -> None:
    found = way(queue, thing)
    assert found
    for got in found:
        assert_same(got, expected)
    assert queue.empty()


# -- bytes and text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thing", [b"", b"\0", b"some bytes", bytes(range(256)) * 4], ids=len)
def test_bytes_come_out_as_they_went_in(q: shmq.Queue, way: Way, thing: bytes) -> None:
    assert_travels(q, way, thing, thing)


def test_bytes_of_exactly_the_size_of_a_slot_fit(q: shmq.Queue, way: Way) -> None:
    thing = os.urandom(q.slot_size)
    assert_travels(q, way, thing, thing)


TEXTS = {
    "empty": "",
    "ASCII": "plain",
    "with NUL": "a\0b",
    "Latin 1": "žluťoučký kůň",
    "Chinese": "共享内存",
    "astral": "🐎" * 100,
    "lone surrogates": "caf\udce9 \ud800",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_text_comes_out_as_it_went_in(q: shmq.Queue, way: Way, text: str) -> None:
    assert_travels(q, way, text, text)


def test_text_of_exactly_the_size_of_a_slot_fits_by_its_bytes(q: shmq.Queue, way: Way) -> None:
    text = "é" * (q.slot_size // 2)
    assert_travels(q, way, text, text)


def test_text_is_measured_in_bytes_not_in_letters(q: shmq.Queue) -> None:
    with pytest.raises(shmq.MessageTooLarge, match=f"{q.slot_size + 2:,} bytes"):
        q.put("é" * (q.slot_size // 2 + 1))
    assert q.empty()


def test_xml_comes_out_as_a_document_that_parses(q: shmq.Queue, way: Way) -> None:
    root = ElementTree.Element("order", id="7")
    ElementTree.SubElement(root, "item", price="1.5").text = "káva & <mléko>"
    for got in way(q, ElementTree.tostring(root, encoding="unicode")):
        parsed = ElementTree.fromstring(got)
        assert parsed.get("id") == "7"
        assert [(item.get("price"), item.text) for item in parsed] == [("1.5", "káva & <mléko>")]


def test_xml_with_an_encoding_of_its_own_travels_as_bytes(q: shmq.Queue, way: Way) -> None:
    document = '<?xml version="1.0" encoding="iso-8859-2"?><město>Plzeň</město>'.encode("iso-8859-2")
    for got in way(q, document):
        assert got == document
        assert ElementTree.fromstring(got).text == "Plzeň"


# -- whatever exports its memory ---------------------------------------------------------------------------------------------


class Tensor:
    """Speaks DLPack, and nothing else."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()


def mapping() -> mmap.mmap:
    memory = mmap.mmap(-1, 100)
    memory[:5] = b"hello"
    return memory


BUFFERS = {
    "bytearray": (bytearray(b"changeable"), bytearray(b"changeable")),
    "empty bytearray": (bytearray(), bytearray()),
    "memoryview": (memoryview(b"hello"), b"hello"),
    "empty memoryview": (memoryview(b""), b""),
    "slice of a memoryview": (memoryview(b"hello world")[6:], b"world"),
    "strided memoryview": (memoryview(b"h.e.l.l.o")[::2], b"hello"),
    "reversed memoryview": (memoryview(b"olleh")[::-1], b"hello"),
    "memoryview of doubles": (memoryview(array.array("d", [1.5, -2.0])), np.array([1.5, -2.0])),
    "array.array of bytes": (array.array("B", b"hello"), b"hello"),
    "array.array of ints": (array.array("q", [1, -2, 3]), np.array([1, -2, 3], "i8")),
    "array.array of floats": (array.array("f", [0.5]), np.array([0.5], "f4")),
    "mmap": (mapping(), b"hello" + bytes(95)),
    "DLPack": (Tensor(np.arange(12, dtype="f4").reshape(3, 4)), np.arange(12, dtype="f4").reshape(3, 4)),
    "strided DLPack": (Tensor(np.arange(12, dtype="i2").reshape(3, 4)[:, ::2]), np.arange(12, dtype="i2").reshape(3, 4)[:, ::2]),
}


@pytest.mark.parametrize(("thing", "expected"), BUFFERS.values(), ids=BUFFERS.keys())
def test_what_exports_its_memory_comes_out_as_bytes_or_an_array(q: shmq.Queue, way: Way, thing: Any, expected: Any) -> None:
    assert_travels(q, way, thing, expected)


@pytest.mark.parametrize(("thing", "expected"), BUFFERS.values(), ids=BUFFERS.keys())
def test_what_exports_its_memory_needs_no_pickle(wary: shmq.Queue, thing: Any, expected: Any) -> None:
    wary.put(thing)
    assert_same(wary.get(timeout=0), expected)


@pytest.mark.parametrize("thing", [bytearray(b"hello"), memoryview(bytearray(b"hello"))], ids=["bytearray", "memoryview"])
def test_a_message_is_a_copy_of_what_was_put(q: shmq.Queue, thing: Any) -> None:
    q.put(thing)
    thing[:] = b"HELLO"
    assert bytes(q.get(timeout=0)) == b"hello"
    thing[:] = b"hello"


def test_put_lets_go_of_the_memory_that_it_read(q: shmq.Queue) -> None:
    source = bytearray(b"hello")
    q.put(source)
    q.put_many([source, memoryview(source)])
    source.clear()  # BufferError while anybody holds a view
    assert q.drain() == [b"hello"] * 3


# -- arrays ----------------------------------------------------------------------------------------------------------------


def counting(dtype: Any, *shape: int) -> np.ndarray:
    numbers = np.arange(int(np.prod(shape, dtype=int)), dtype="i8").reshape(shape)
    return numbers.view(dtype) if np.dtype(dtype) == "V8" else numbers.astype(dtype)


PLAIN = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "g", "c8", "c16", "S5", "U3", "V8"]
OTHERS = ["M8[ns]", "M8[D]", "m8[s]", ">i2", ">u4", ">i8", ">f4", ">f8", ">c16", ">U3", ">M8[ns]"]


@pytest.mark.parametrize("dtype", PLAIN + OTHERS)
def test_arrays_of_every_dtype_come_out_alike(q: shmq.Queue, way: Way, dtype: str) -> None:
    sent = counting(dtype, 3, 4)
    assert_travels(q, way, sent, sent)


def records(dtype: Any) -> np.ndarray:
    dtype = np.dtype(dtype)
    array = np.zeros(5, dtype)
    for name in dtype.names:
        array[name] = np.arange(5).reshape(-1, *[1] * (array[name].ndim - 1))
    return array


RECORDS = {
    "two fields": records([("time", "f8"), ("count", "i4")]),
    "aligned": records(np.dtype([("flag", "?"), ("value", "f8")], align=True)),
    "big-endian": records([("a", ">i4"), ("b", ">f8")]),
    "array in a field": records([("where", "f4", (3,)), ("when", "M8[ns]")]),
    "text in a field": records([("name", "U8"), ("code", "S3")]),
    "with offsets": records({"names": ["a", "b"], "formats": ["i2", "u1"], "offsets": [4, 0], "itemsize": 8}),
    "nested": np.array([((1, 2), 3.0)] * 3, dtype=[("pair", [("x", "i2"), ("y", "i2")]), ("z", "f8")]),
}


@pytest.mark.parametrize("sent", RECORDS.values(), ids=RECORDS.keys())
def test_arrays_of_records_come_out_alike(q: shmq.Queue, way: Way, sent: np.ndarray) -> None:
    assert_travels(q, way, sent, sent)


SHAPES = [(), (0,), (3, 0, 2), (1,), (7,), (2, 3), (2, 3, 4), (2, 3, 2, 2), (1, 2, 3, 1, 2), (2, 1, 2, 1, 2, 2)]


@pytest.mark.parametrize("dtype", ["i4", "M8[ns]"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_arrays_of_every_shape_come_out_alike(q: shmq.Queue, way: Way, shape: tuple[int, ...], dtype: str) -> None:
    sent = counting(dtype, *shape)
    assert_travels(q, way, sent, sent)


CUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Fortran order": np.asfortranarray,
    "transposed": lambda cube: cube.T,
    "axes exchanged": lambda cube: cube.transpose(1, 2, 0),
    "strided": lambda cube: cube[:, ::2, 1:],
    "negative strides": lambda cube: cube[::-1, ::-1, ::-1],
    "negative and strided": lambda cube: cube[::-2, :, ::-1],
    "broadcast": lambda cube: np.broadcast_to(cube[0, 0], (4, 5)),
    "diagonal": lambda cube: cube[0].diagonal(),
    "read-only": lambda cube: np.frombuffer(cube.tobytes(), cube.dtype),
}


@pytest.mark.parametrize("dtype", ["i4", "M8[ns]"])
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_arrays_come_out_alike_however_they_lie(q: shmq.Queue, way: Way, cut: Callable[..., np.ndarray], dtype: str) -> None:
    sent = cut(counting(dtype, 4, 3, 5))
    assert_travels(q, way, sent, sent)


@pytest.mark.parametrize("dims", [2, 3, 4, 5, 6])
def test_fortran_order_is_kept(q: shmq.Queue, way: Way, dims: int) -> None:
    sent = np.asfortranarray(counting("i4", *[2] * dims))
    for got in way(q, sent):
        assert got.flags.f_contiguous and not got.flags.c_contiguous
        assert_same(got, sent)


def test_nan_and_infinity_keep_their_bits(q: shmq.Queue, way: Way) -> None:
    sent = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 5e-324])
    for got in way(q, sent):
        assert got.tobytes() == sent.tobytes()


@pytest.mark.parametrize("sent", [counting("f8", 6), records([("a", "i4"), ("b", "f8")])], ids=["plain", "records"])
def test_arrays_that_come_out_are_writable_and_their_own(q: shmq.Queue, way: Way, sent: np.ndarray) -> None:
    found = way(q, sent)
    before = sent.tolist()
    for got in found:
        got[:] = np.zeros((), got.dtype)  # ValueError where it is read-only
    assert sent.tolist() == before
    q.put(sent)
    assert q.get(timeout=0).tolist() == before


def test_an_array_of_exactly_the_size_of_a_slot_fits(q: shmq.Queue, way: Way) -> None:
    sent = counting("f8", q.slot_size // 8)
    assert_travels(q, way, sent, sent)


SCALARS = [
    np.float32(1.5),
    np.float64(-0.25),
    np.int8(-3),
    np.uint64(2**63),
    np.bool_(True),
    np.complex64(1 + 2j),
    np.str_("žluť"),
    np.bytes_(b"raw"),
    np.datetime64("2026-01-02T03:04:05", "ns"),
    np.timedelta64(7, "s"),
]


@pytest.mark.parametrize("thing", SCALARS, ids=lambda thing: type(thing).__name__)
def test_numpy_scalars_keep_their_type(q: shmq.Queue, way: Way, thing: Any) -> None:
    assert_travels(q, way, thing, thing)


class Samples(np.ndarray):
    """An array with a method more."""

    def peak(self) -> Any:
        return self.max()


def test_subclasses_of_arrays_keep_their_type(q: shmq.Queue, way: Way) -> None:
    for got in way(q, np.arange(5).view(Samples)):
        assert type(got) is Samples
        assert got.peak() == 4


def test_masked_arrays_keep_their_mask(q: shmq.Queue, way: Way) -> None:
    for got in way(q, np.ma.masked_greater(np.arange(5), 2)):
        assert type(got) is np.ma.MaskedArray
        assert got.tolist() == [0, 1, 2, None, None]


def test_record_arrays_keep_their_attributes(q: shmq.Queue, way: Way) -> None:
    for got in way(q, np.rec.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")])):
        assert type(got) is np.recarray
        assert got.a.tolist() == [1, 3]


OBJECT_ARRAYS = {
    "objects": np.array([1, "two", None, [4]], dtype=object),
    "empty": np.array([], dtype=object),
    "objects in a field": np.array([(1, "x")], dtype=[("n", "i4"), ("thing", "O")]),
}


@pytest.mark.parametrize("thing", OBJECT_ARRAYS.values(), ids=OBJECT_ARRAYS.keys())
def test_arrays_of_objects_travel_by_pickle(q: shmq.Queue, way: Way, thing: np.ndarray) -> None:
    assert_travels(q, way, thing, thing)


# -- where pickle is refused ---------------------------------------------------------------------------------------------------

UNPICKLED = {"None": None, "int": 7, "dict": {"a": 1}, "list": [b"x"], "scalar": np.float32(1), "text": "\ud800", **OBJECT_ARRAYS}


@pytest.mark.parametrize("thing", UNPICKLED.values(), ids=UNPICKLED.keys())
def test_what_needs_pickle_is_refused_where_pickle_is(wary: shmq.Queue, thing: Any) -> None:
    with pytest.raises(shmq.PickleRefused, match="allow_pickle"):
        wary.put(thing)
    with pytest.raises(shmq.PickleRefused):
        wary.put_many([b"first", thing])
    assert wary.empty()


@pytest.mark.parametrize("thing", [b"bytes", "text", bytearray(b"x"), counting("f8", 3), RECORDS["nested"]], ids=type)
def test_raw_memory_travels_where_pickle_is_refused(wary: shmq.Queue, way: Way, thing: Any) -> None:
    assert_travels(wary, way, thing, thing)


# -- objects ---------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Order:
    number: int
    items: list[str]
    placed: datetime.datetime | None = None


Point = collections.namedtuple("Point", "x y")

OBJECTS = {
    "None": None,
    "True": True,
    "int": -1,
    "big int": -(1 << 4000),
    "float": 0.1,
    "complex": 1 + 2j,
    "list": [1, [2, [3, []]]],
    "tuple": (1, "two", b"3"),
    "set": {1, 2, 3},
    "frozenset": frozenset("abc"),
    "dict": {1: "one", "two": 2, (3,): None},
    "nested": {"list": [{"deep": ({"er": [None, True, 1 << 70]},)}] * 3},
    "dataclass": Order(7, ["coffee"], datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)),
    "namedtuple": Point(1, 2),
    "Decimal": decimal.Decimal("1.10"),
    "Fraction": fractions.Fraction(1, 3),
    "range": range(3, 9, 2),
    "class": Order,
    "function": counting,
    "Ellipsis": ...,
}


@pytest.mark.parametrize("thing", OBJECTS.values(), ids=OBJECTS.keys())
def test_objects_come_out_alike(q: shmq.Queue, way: Way, thing: Any) -> None:
    assert_travels(q, way, thing, thing)


def frames() -> dict[str, Any]:
    return {"id": 7, "left": np.arange(60, dtype="u2").reshape(6, 10), "right": np.full(33, 0.5), "none": np.empty((0, 3))}


def assert_frames(got: dict[str, Any]) -> None:
    assert list(got) == list(frames())
    assert got["id"] == 7
    for key in ("left", "right", "none"):
        assert_same(got[key], frames()[key])


def test_arrays_inside_of_objects_come_out_alike_and_writable(q: shmq.Queue, way: Way) -> None:
    for got in way(q, frames()):
        assert_frames(got)
        got["left"][:] = 0
        got["right"] += 1


def test_arrays_inside_of_objects_lie_beside_the_pickle_on_cache_lines(q: shmq.Queue) -> None:
    q.put(frames())
    with q.receive(timeout=0) as lease:
        payload = bytes(lease.view)
        for key in ("left", "right"):
            assert payload.index(frames()[key].tobytes()) % 64 == 0


def test_what_one_consumer_does_to_an_object_the_next_does_not_see(q: shmq.Queue) -> None:
    q.put(frames())
    lease = q.receive(timeout=0)
    lease.data["left"][:] = 0
    lease.nack()
    assert_frames(q.get(timeout=0))


def test_a_batch_may_be_of_mixed_kinds(q: shmq.Queue) -> None:
    sent = [b"bytes", "text", counting(">f8", 2, 3), {"pickled": [None]}]
    assert q.put_many(sent) == 4
    received = q.get_many(4)
    received += q.get_many(4 - len(received)) if len(received) < 4 else []  # of few in-flight cells a batch leaves half to others
    for got, thing in zip(received, sent, strict=True):
        assert_same(got, thing)


# -- codecs ----------------------------------------------------------------------------------------------------------------

JSONS = [None, True, 7, 2.5, [], {}, "text", {"name": "žluť", "list": [1, 2.5, None, {"deep": "\n"}]}]


@pytest.fixture(params=SIZES.values(), ids=SIZES.keys())
def jsons(request: pytest.FixtureRequest, make: Make) -> Iterator[shmq.Queue]:
    queue = make(slots=4, slot_size=request.param, codec=shmq.json_codec)
    yield queue
    shmq.verify(queue)


@pytest.mark.parametrize("thing", JSONS, ids=repr)
def test_json_comes_out_alike(jsons: shmq.Queue, way: Way, thing: Any) -> None:
    assert_travels(jsons, way, thing, thing)


@pytest.mark.parametrize("thing", [b"bytes", bytearray(b"x"), counting("f4", 2, 2), RECORDS["nested"]], ids=type)
def test_raw_memory_passes_a_codec_by(jsons: shmq.Queue, way: Way, thing: Any) -> None:
    assert_travels(jsons, way, thing, thing)


def test_json_lies_in_the_slot_as_other_programs_read_it(jsons: shmq.Queue) -> None:
    jsons.put({"a": ["ž"]})
    with jsons.receive(timeout=0) as lease:
        assert json.loads(bytes(lease.view)) == {"a": ["ž"]}


@pytest.mark.parametrize("thing", [{1, 2}, {"x": b"bytes"}, object()], ids=["set", "bytes inside", "object"])
def test_what_json_cannot_carry_raises_and_puts_nothing(jsons: shmq.Queue, thing: Any) -> None:
    with pytest.raises(TypeError):
        jsons.put(thing)
    with pytest.raises(TypeError):
        jsons.put_many([1, thing])
    assert jsons.empty()


@pytest.mark.parametrize("codec", [None, shmq.json_codec, shmq.JSONCodec()], ids=["none", "the one", "a new one"])
def test_a_json_queue_is_attached_with_json_or_without_a_word(jsons: shmq.Queue, codec: Any) -> None:
    jsons.put({"a": 1})
    with shmq.Queue.attach(jsons.name, codec=codec) as other:
        assert other.get(timeout=0) == {"a": 1}
        other.put([2])
    with shmq.Queue(jsons.name, codec=codec) as other:
        assert other.get(timeout=0) == [2]


class Shouting:
    """Carries text in upper case, refuses "refused", and fails to decode as often as it is told."""

    name = "shouting"

    def __init__(self) -> None:
        self.failures = 0

    def encode(self, obj: Any) -> bytes:
        if obj == ["refused"]:
            raise LookupError("refused")
        return repr(obj).upper().encode()

    def decode(self, data: memoryview) -> Any:
        if self.failures:
            self.failures -= 1
            raise LookupError("not now")
        return bytes(data).decode()


@pytest.mark.parametrize("open_queue", [shmq.Queue, shmq.Queue.attach], ids=["Queue", "attach"])
@pytest.mark.parametrize(
    ("made_with", "opened_with"),
    [
        (shmq.json_codec, Shouting()),
        (None, shmq.json_codec),
        (None, Shouting()),
        (Shouting(), None),
        (Shouting(), shmq.json_codec),
    ],
    ids=lambda codec: codec.name if codec else "none",
)
def test_another_codec_is_a_mismatch(make: Make, open_queue: Callable[..., Any], made_with: Any, opened_with: Any) -> None:
    queue = make(codec=made_with)
    with pytest.raises(shmq.SegmentMismatch, match="codec"):
        open_queue(queue.name, codec=opened_with)


@pytest.fixture
def shouting(make: Make) -> Iterator[shmq.Queue]:
    queue = make(slots=4, slot_size=256, codec=Shouting())
    yield queue
    shmq.verify(queue)


def test_a_codec_of_ones_own_encodes_and_decodes(shouting: shmq.Queue, way: Way) -> None:
    assert_travels(shouting, way, ["hello"], "['HELLO']")


def test_what_encoding_raises_put_raises_and_puts_nothing(shouting: shmq.Queue) -> None:
    with pytest.raises(LookupError, match="refused"):
        shouting.put(["refused"])
    with pytest.raises(LookupError, match="refused"):
        shouting.put_many([1, 2, ["refused"]])
    assert shouting.empty()


def test_what_decoding_raises_get_raises_and_the_message_comes_back(shouting: shmq.Queue) -> None:
    shouting.put([1])
    shouting.put([2])
    shouting.codec.failures = 1
    with pytest.raises(LookupError, match="not now"):
        shouting.get(timeout=0)
    with shouting.receive(timeout=0) as lease:
        assert (lease.data, lease.delivery_count) == ("[1]", 2)
    assert shouting.get(timeout=0) == "[2]"


def test_where_one_of_a_batch_does_not_decode_all_come_back_and_it_alone_counts(shouting: shmq.Queue) -> None:
    shouting.put_many([[1], [2], [3]])
    shouting.codec.failures = 1
    with pytest.raises(LookupError):
        shouting.get_many(3, timeout=0)
    counts = {}
    while not shouting.empty():
        with shouting.receive(timeout=0) as lease:
            counts[lease.data] = lease.delivery_count
    assert counts == {"[1]": 2, "[2]": 1, "[3]": 1}


def test_a_lease_whose_data_does_not_decode_stays_open(shouting: shmq.Queue) -> None:
    shouting.put([1])
    shouting.codec.failures = 1
    lease = shouting.receive(timeout=0)
    with pytest.raises(LookupError):
        _ = lease.data
    assert not lease.settled
    assert lease.data == "[1]"
    lease.ack()
    assert shouting.empty()


def test_a_peek_that_does_not_decode_takes_nothing(shouting: shmq.Queue) -> None:
    shouting.put([1])
    shouting.codec.failures = 1
    with pytest.raises(LookupError):
        shouting.peek()
    with shouting.receive(timeout=0) as lease:
        assert lease.delivery_count == 1


# -- pickling that fails, or comes back to the queue --------------------------------------------------------------------------


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("never")


def explode() -> None:
    raise ZeroDivisionError("at the other end")


class Mine:
    """Pickles, and cannot be unpickled."""

    def __reduce__(self) -> Any:
        return explode, ()


@pytest.mark.parametrize("thing", [Unpicklable(), [1, {"deep": Unpicklable()}]], ids=["itself", "inside"])
def test_what_pickling_raises_put_raises_and_puts_nothing(q: shmq.Queue, thing: Any) -> None:
    with pytest.raises(ZeroDivisionError, match="never"):
        q.put(thing)
    assert q.empty()
    q.put("next")
    assert q.get(timeout=0) == "next"


def test_what_unpickling_raises_get_raises_and_the_message_comes_back(q: shmq.Queue) -> None:
    q.put(Mine())
    for _ in range(3):
        with pytest.raises(ZeroDivisionError, match="other end"):
            q.get(timeout=0)
    with q.receive(timeout=0) as lease:
        assert lease.delivery_count == 4
    assert q.empty()


_here: list[shmq.Queue] = []  # the queue that pickling and unpickling come back to


@pytest.fixture
def here(q: shmq.Queue) -> Iterator[shmq.Queue]:
    _here.append(q)
    yield q
    _here.clear()


def take_next() -> Any:
    return "took", _here[0].get(timeout=0)


class Meddling:
    """Puts into the queue while it is pickled."""

    def __reduce__(self) -> Any:
        _here[0].put("meanwhile")
        return str, ("itself",)


class Greedy:
    """Takes the next message while it is unpickled."""

    def __reduce__(self) -> Any:
        return take_next, ()


class Curious:
    """Does everything else to the queue while it is pickled."""

    def __reduce__(self) -> Any:
        queue = _here[0]
        with queue.loan(3) as memory:
            memory[:] = b"abc"
        with queue.receive(timeout=0) as lease:
            return tuple, ([lease.data, queue.qsize()],)


def test_pickling_may_put_into_the_same_queue(here: shmq.Queue) -> None:
    here.put(Meddling())
    assert here.drain() == ["meanwhile", "itself"]


def test_pickling_within_a_batch_may_put_into_the_same_queue(here: shmq.Queue) -> None:
    assert here.put_many([1, Meddling(), 3]) == 3
    assert here.drain() == ["meanwhile", 1, "itself", 3]


def test_pickling_may_loan_and_receive_in_the_same_queue(here: shmq.Queue) -> None:
    here.put(Curious())
    assert here.get(timeout=0) == (b"abc", 0)


def test_unpickling_may_take_from_the_same_queue(here: shmq.Queue) -> None:
    here.put_many([Greedy(), "next", "last"])
    assert here.get(timeout=0) == ("took", "next")
    assert here.drain() == ["last"]


def test_unpickling_within_a_batch_may_take_from_the_same_queue(here: shmq.Queue) -> None:
    here.put_many([1, Greedy(), "next"])
    assert here.get_many(2, timeout=0) == [1, ("took", "next")]
    assert here.empty()


# -- too large ---------------------------------------------------------------------------------------------------------------

LARGE = {
    "bytes": b"x" * 10_000,
    "text": "é" * 5_000,
    "bytearray": bytearray(10_000),
    "array": counting("i4", 50, 50),
    "Fortran order": np.asfortranarray(counting("i4", 50, 50)),
    "scattered": counting("i4", 100, 50)[::2],
    "big-endian": counting(">f8", 2_000),
    "dates": counting("M8[ns]", 2_000),
    "records": np.tile(RECORDS["nested"], 1_000),
    "six dimensions": counting("i2", 5, 5, 5, 5, 4, 4),
    "object": list(range(5_000)),
    "array of objects": np.array([str(i) for i in range(2_000)], dtype=object),
}


@pytest.mark.parametrize("thing", LARGE.values(), ids=LARGE.keys())
def test_what_is_too_large_raises_and_takes_nothing(make: Make, thing: Any) -> None:
    q = make(slots=1, slot_size=4096, in_flight=1, oversize="error")
    for _ in range(3):  # a slot that went astray would be missed by then
        with pytest.raises(shmq.MessageTooLarge, match=r"4,096 bytes.*spill"):
            q.put(thing)
        with pytest.raises(shmq.MessageTooLarge):
            q.put_many([b"x", thing])
    assert q.empty()
    assert q.stats().puts == 0
    q.put_nowait(b"fits")
    assert q.get_nowait() == b"fits"
    shmq.verify(q)


def test_too_large_is_told_at_once_also_where_the_queue_is_full(q: shmq.Queue) -> None:
    q.put_many([b"x"] * 4)
    with pytest.raises(shmq.MessageTooLarge):
        q.put(bytes(q.slot_size + 1))
    assert q.drain() == [b"x"] * 4


@pytest.mark.parametrize("thing", LARGE.values(), ids=LARGE.keys())
def test_what_is_too_large_spills(spilling: shmq.Queue, way: Way, thing: Any) -> None:
    assert_travels(spilling, way, thing, thing)
    assert side_files(spilling) == []


def large_frames() -> dict[str, Any]:
    return {"id": 7, "a": counting("f8", 77, 99), "b": counting("u1", 5_001), "c": np.empty(0)}


def test_arrays_inside_of_objects_spill_with_them_and_come_out_writable(spilling: shmq.Queue, way: Way) -> None:
    for got in way(spilling, large_frames()):
        for key in "abc":
            assert_same(got[key], large_frames()[key])
            got[key][:] = 0
    assert side_files(spilling) == []


def test_what_a_codec_makes_too_large_spills(make: Make, way: Way) -> None:
    q = make(slots=4, slot_size=64, oversize="spill", codec=shmq.json_codec)
    thing = {"numbers": list(range(1_000))}
    assert_travels(q, way, thing, thing)
    assert side_files(q) == []


def test_what_fits_does_not_spill(spilling: shmq.Queue) -> None:
    spilling.put(bytes(spilling.slot_size))
    assert side_files(spilling) == []


TAKE: dict[str, Callable[[shmq.Queue], object]] = {
    "get": lambda q: q.get(timeout=0),
    "get_many": lambda q: q.get_many(9, timeout=0),
    "ack": lambda q: q.receive(timeout=0).ack(),
    "ack of many": lambda q: [lease.ack() for lease in q.receive_many(9, timeout=0)],
    "purge": lambda q: q.purge(),
    "drain": lambda q: q.drain(),
}


@pytest.mark.parametrize("take", TAKE.values(), ids=TAKE.keys())
def test_a_side_segment_is_there_until_its_message_is_taken(spilling: shmq.Queue, take: Callable[[shmq.Queue], object]) -> None:
    spilling.put(LARGE["bytes"])
    assert len(side_files(spilling)) == 1
    spilling.peek()
    assert len(side_files(spilling)) == 1
    take(spilling)
    assert side_files(spilling) == []


def test_each_spilled_message_has_its_own_side_segment(spilling: shmq.Queue) -> None:
    assert spilling.put_many([LARGE["bytes"], b"small", LARGE["text"], LARGE["array"]]) == 4
    for left in (2, 2, 1, 0):
        spilling.get(timeout=0)
        assert len(side_files(spilling)) == left


GIVE_BACK: dict[str, Callable[[shmq.Lease], object]] = {
    "nack": lambda lease: lease.nack(),
    "release": lambda lease: lease.release(),
    "drop": lambda lease: None,
}


@pytest.mark.parametrize("give_back", GIVE_BACK.values(), ids=GIVE_BACK.keys())
def test_a_side_segment_stays_with_a_message_that_is_given_back(spilling: shmq.Queue, give_back: Callable[..., object]) -> None:
    spilling.put(LARGE["bytes"])
    for _ in range(3):
        give_back(spilling.receive(timeout=0))
        assert len(side_files(spilling)) == 1
    assert spilling.get(timeout=0) == LARGE["bytes"]
    assert side_files(spilling) == []


@pytest.mark.parametrize(
    "put", [lambda q, x: q.put(x, timeout=0), lambda q, x: q.put_many([x, x], timeout=0)], ids=["put", "many"]
)
def test_what_a_full_queue_refused_leaves_no_side_segment(spilling: shmq.Queue, put: Callable[[shmq.Queue, Any], object]) -> None:
    spilling.put_many([b"x"] * 4)
    for thing in (LARGE["bytes"], LARGE["records"], large_frames()):
        with pytest.raises(shmq.Full):
            put(spilling, thing)
    assert side_files(spilling) == []


def test_a_batch_that_went_in_partly_has_side_segments_for_that_part(spilling: shmq.Queue) -> None:
    spilling.put_many([b"x", b"y"])
    assert spilling.put_many([LARGE["text"]] * 5, timeout=0) == 2
    assert len(side_files(spilling)) == 2
    assert spilling.drain() == [b"x", b"y"] + [LARGE["text"]] * 2
    assert side_files(spilling) == []


def test_a_batch_with_one_that_cannot_travel_leaves_no_side_segment(spilling: shmq.Queue) -> None:
    with pytest.raises(ZeroDivisionError):
        spilling.put_many([LARGE["bytes"], LARGE["array"], Unpicklable()])
    assert side_files(spilling) == []
    assert spilling.empty()


def test_a_spilled_object_that_does_not_unpickle_keeps_its_side_segment(spilling: shmq.Queue) -> None:
    spilling.put([Mine(), LARGE["object"]])
    with pytest.raises(ZeroDivisionError):
        spilling.get(timeout=0)
    assert len(side_files(spilling)) == 1
    assert spilling.purge() == 1
    assert side_files(spilling) == []


def test_the_last_handle_of_an_unlinked_queue_takes_the_side_segments_along(make: Make) -> None:
    q = make(slots=4, slot_size=64, oversize="spill")
    q.put_many([LARGE["bytes"], LARGE["records"]])
    lease = q.receive(timeout=0)
    assert len(side_files(q)) == 2
    q.unlink()
    q.close()
    assert len(side_files(q)) == 2  # the lease is still out
    assert lease.data == LARGE["bytes"]
    lease.ack()
    assert side_files(q) == []


# -- order, capacity, batches --------------------------------------------------------------------------------------------------


def test_order_is_kept_whatever_the_kinds(q: shmq.Queue) -> None:
    chance = random.Random(7)
    kinds: list[Callable[[int], Any]] = [lambda i: b"%d" % i, str, lambda i: np.array([i]), lambda i: i, lambda i: {"i": [i]}]
    sent, got = [], []
    for i in range(300):
        sent.append(chance.choice(kinds)(i))
        q.put_nowait(sent[-1])
        while q.full() or (chance.random() < 0.4 and not q.empty()):
            got.append(q.get_nowait())
    got += q.drain()
    for there, thing in zip(got, sent, strict=True):
        assert_same(there, thing)


def test_a_queue_of_one_slot_takes_turns(make: Make) -> None:
    q = make(slots=1, slot_size=256)
    for thing in [b"bytes", "text", None, {"a": 1}, counting("f8", 3)] * 5:
        q.put_nowait(thing)
        assert q.full()
        with pytest.raises(shmq.Full):
            q.put_nowait(b"more")
        assert_same(q.get_nowait(), thing)
    shmq.verify(q)


@pytest.mark.parametrize(
    "thing", [b"", b"x", "", "x", bytearray(b"x"), counting("u1", 1), counting("?", 1, 1), np.empty((0, 9))], ids=repr
)
def test_slots_of_one_byte_carry_what_has_one_byte(make: Make, way: Way, thing: Any) -> None:
    q = make(slots=3, slot_size=1)
    assert_travels(q, way, thing, thing)
    shmq.verify(q)


@pytest.mark.parametrize("thing", [b"xx", "é", None, counting("u2", 1)], ids=repr)
def test_slots_of_one_byte_refuse_two(make: Make, thing: Any) -> None:
    q = make(slots=3, slot_size=1, oversize="error")
    with pytest.raises(shmq.MessageTooLarge):
        q.put(thing)
    assert q.empty()
    assert side_files(q) == []
    shmq.verify(q)


def test_a_batch_goes_in_as_far_as_it_fits(q: shmq.Queue) -> None:
    q.put(b"first")
    assert q.put_many([1, "two", b"3", [4], 5], timeout=0) == 3
    assert q.drain() == [b"first", 1, "two", b"3"]


def test_a_batch_of_which_nothing_fits_raises_full(q: shmq.Queue) -> None:
    q.put_many([b"x"] * 4)
    with pytest.raises(shmq.Full, match="4 of 4"):
        q.put_many([1, "two", b"3"], timeout=0)
    assert q.drain() == [b"x"] * 4


def test_an_empty_batch_puts_nothing_also_where_the_queue_is_full(q: shmq.Queue) -> None:
    assert q.put_many([], timeout=0) == 0
    q.put_many([b"x"] * 4)
    assert q.put_many((), timeout=0) == 0


@pytest.mark.parametrize("batch", [tuple, iter, lambda items: (x for x in items), lambda items: dict.fromkeys(items).keys()])
def test_a_batch_may_be_any_iterable(q: shmq.Queue, batch: Callable[[list[Any]], Any]) -> None:
    assert q.put_many(batch([b"1", "2", 3])) == 3
    assert q.drain() == [b"1", "2", 3]


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize(
    ("bad", "error"),
    [(Unpicklable(), ZeroDivisionError), (b"x" * 8193, shmq.MessageTooLarge), (lambda: None, Exception)],
    ids=["fails to pickle", "too large", "local function"],
)
def test_a_batch_with_one_bad_object_puts_nothing(q: shmq.Queue, at: int, bad: Any, error: type[Exception]) -> None:
    batch: list[Any] = [b"1", "two"]
    batch.insert(at, bad)
    with pytest.raises(error):
        q.put_many(batch)
    assert q.empty()
    assert q.stats().puts == 0


def test_an_iterable_that_raises_puts_nothing(q: shmq.Queue) -> None:
    with pytest.raises(ZeroDivisionError):
        q.put_many(1 // (2 - i) for i in range(3))
    assert q.empty()


def test_batches_of_hundreds_keep_order_and_kind(make: Make) -> None:
    q = make(slots=1000, slot_size=64)
    sent = [b"%d" % i if i % 3 else str(i) if i % 2 else i for i in range(700)]
    assert q.put_many(sent) == 700
    got: list[Any] = []
    while len(got) < 700:
        got += q.get_many(1000, timeout=0)
    assert got == sent
    shmq.verify(q)


def echo(questions: str, answers: str, count: int) -> None:
    incoming, outgoing = shmq.Queue.attach(questions), shmq.Queue.attach(answers)
    for _ in range(count):
        with incoming.receive(timeout=60) as lease:
            outgoing.put(lease.data, timeout=60)


def test_every_kind_goes_to_another_process_and_back(make: Make, children: Any) -> None:
    questions, answers = (make(slots=4, slot_size=4096, oversize="spill") for _ in range(2))
    things = [*TEXTS.values(), *RECORDS.values(), *OBJECTS.values(), *SCALARS, *OBJECT_ARRAYS.values(), *LARGE.values()]
    children.start(echo, questions.name, answers.name, len(things))
    for thing in things:
        questions.put(thing, timeout=60)
        assert_same(answers.get(timeout=60), thing)
    children.join()
    assert side_files(questions) == side_files(answers) == []
