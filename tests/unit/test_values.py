"""What goes in comes out: any dtype in any layout, any class, whatever way it takes."""

from __future__ import annotations

import array
import collections
import ctypes
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shmq

try:
    import ml_dtypes
except ImportError:
    ml_dtypes = None

Make = Callable[..., shmq.Queue]
MOST_DIMENSIONS = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32


class Reading(np.void):
    """A record with a method of its own."""


PLAIN = [np.dtype(code) for code in ("?", "u1", "i2", ">i4", "u8", "f2", ">f4", "f8", "g", "c8", ">c16", "S3", "U2", ">U2", "V5")]
DESCRIBED = {
    "times": np.dtype("M8[ns]"),
    "times of seven seconds": np.dtype(">M8[7s]"),
    "spans": np.dtype("m8[us]"),
    "spans without a unit": np.dtype("m8"),
    "records": np.dtype([("id", "<u4"), ("value", ">f8")]),
    "aligned": np.dtype([("flag", "u1"), ("value", "f8")], align=True),
    "nested": np.dtype([("point", [("x", "f4"), ("y", "f4")]), ("name", "U3"), ("matrix", "i2", (2, 3))]),
    "titles": np.dtype([(("a long title", "short"), "i4"), ("time", "M8[ms]")]),
    "offsets": np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [8, 0], "itemsize": 24}),
    "overlapping": np.dtype({"names": ["word", "low"], "formats": ["u4", "u2"], "offsets": [0, 0]}),
    "empty strings": np.dtype("S0"),
    "no fields": np.dtype([]),
}
PICKLED = {
    "metadata": np.dtype("i4", metadata={"unit": "mm"}),
    "metadata of a field": np.dtype([("x", np.dtype("f4", metadata={"unit": "mm"}))]),
    "np.record": np.dtype((np.record, [("a", "i4"), ("b", "f8")])),
    "a record of one's own": np.dtype((Reading, [("a", "i4"), ("b", "f8")])),
    "one's own within a record": np.dtype([("reading", (Reading, [("a", "i4")])), ("n", "u2")]),
    "numbers with fields": np.dtype((np.int32, {"low": (np.uint16, 0), "high": (np.uint16, 2)})),
    "objects": np.dtype(object),
    "objects within a record": np.dtype([("n", "i4"), ("what", object)]),
    "a title that is no text": np.dtype([((("x", 1), "a"), "i4")]),
}
if hasattr(np, "dtypes") and hasattr(np.dtypes, "StringDType"):
    PICKLED["strings of any length"] = np.dtypes.StringDType()
if ml_dtypes is not None:
    for name in ("bfloat16", "float8_e5m2", "float8_e4m3fn", "int4", "uint4"):
        PICKLED[name] = np.dtype(getattr(ml_dtypes, name))
    PICKLED["bfloat16 within a record"] = np.dtype([("weight", ml_dtypes.bfloat16), ("n", "i4")])
    PICKLED["a matrix of bfloat16 within a record"] = np.dtype([("weights", ml_dtypes.bfloat16, (2, 2))])
EVERY = {**{dtype.str: dtype for dtype in PLAIN}, **DESCRIBED, **PICKLED}


def fill(into: np.ndarray, start: int = 1) -> None:
    """Give neighbours different values."""
    if into.dtype.names is not None:
        for number, field in enumerate(into.dtype.names):
            fill(into[field], start + number)
        return
    numbers = (start + np.arange(into.size)).reshape(into.shape)
    kind = into.dtype.kind
    if into.size == 0 or into.dtype.itemsize == 0:
        return
    if kind == "b":
        into[...] = numbers % 2
    elif kind == "V" and into.dtype.num == np.dtype("V").num:
        for index in np.ndindex(into.shape):
            into[index] = (b"%d" % numbers[index]).ljust(into.dtype.itemsize, b".")[: into.dtype.itemsize]
    elif kind in "SUOT":
        for index in np.ndindex(into.shape):
            into[index] = str(numbers[index])
    elif kind in "Mm":
        into[...] = numbers.astype("i8").astype(into.dtype)
    else:
        into[...] = (numbers % 8).astype(into.dtype)


def contents(of: np.ndarray) -> Any:
    """What can be compared: the values of each field, without the padding."""
    if of.dtype.names is not None:
        return {field: contents(of[field]) for field in of.dtype.names}
    if of.dtype.kind in "OT":
        return of.tolist()
    return np.ascontiguousarray(of).tobytes()


def facts(dtype: np.dtype) -> Any:
    """All that there is to know about a dtype; `==` overlooks some of it."""
    if dtype.subdtype is not None:
        return facts(dtype.subdtype[0]), dtype.subdtype[1]
    metadata = dict(dtype.metadata or {})
    fields = {name: (facts(field[0]), *field[1:]) for name, field in (dtype.fields or {}).items()}
    return dtype.type, dtype.itemsize, dtype.byteorder, dtype.alignment, dtype.isalignedstruct, metadata, dtype.names, fields


def assert_alike(got: Any, sent: np.ndarray, way: str) -> None:
    assert type(got) is np.ndarray, way
    if (
        "inside" in way and sent.dtype.byteorder == ">" and got.dtype == sent.dtype.newbyteorder("=")
    ):  # NumPy's own pickling brings some to this machine's order
        sent = sent.astype(got.dtype, order="K")
    assert got.dtype == sent.dtype and facts(got.dtype) == facts(sent.dtype), (way, got.dtype, sent.dtype)
    assert got.shape == sent.shape, way
    assert contents(got) == contents(sent), way
    if sent.dtype.itemsize and (sent.flags.c_contiguous or sent.flags.f_contiguous):
        assert got.flags.c_contiguous == sent.flags.c_contiguous, way
        assert got.flags.f_contiguous == sent.flags.f_contiguous, way


def ways_out(queue: shmq.Queue, thing: Any) -> dict[str, Any]:
    """Put a thing again and again; what each way of taking it makes of it."""
    queue.put(thing)
    found = {"peek": queue.peek()[0], "get": queue.get_nowait()}
    queue.put_many([thing, thing])
    found["get_many"], found["second of get_many"] = queue.get_many(2)
    queue.put(thing)
    with queue.receive(timeout=0) as lease:
        found["receive"] = lease.data
    queue.put({"inside": [thing]})
    found["inside"] = queue.get_nowait()["inside"][0]
    queue.put(thing)
    queue.receive(timeout=0).reject()
    found["dead letter"] = queue.dead_letters[0].data
    assert queue.dead_letters.purge() == 1 and queue.empty()
    return found


def laid_out(dtype: np.dtype, shape: tuple[int, ...], layout: str) -> np.ndarray:
    """An array of this dtype and shape, whose memory lies in that way."""
    if layout == "strided":
        made = np.zeros(tuple(2 * extent + 1 for extent in shape), dtype)[(..., *(slice(1, 2 * extent, 2) for extent in shape))]
    elif layout == "backwards":
        made = np.zeros(shape, dtype)[(..., *(slice(None, None, -1),) * len(shape))]
    elif layout == "turned":
        made = np.zeros(shape[1:] + shape[:1], dtype).transpose(-1, *range(len(shape) - 1)) if shape else np.zeros(shape, dtype)
    elif layout == "repeated":
        one = np.zeros((1,) * len(shape), dtype)
        fill(one)
        return np.broadcast_to(one, shape)
    else:
        made = np.zeros(shape, dtype, order="F" if layout == "fortran" else "C")
    assert made.shape == shape
    fill(made)
    if layout == "read-only":
        made.flags.writeable = False
    return made


LAYOUTS = ["plain", "fortran", "strided", "backwards", "turned", "repeated", "read-only"]
shapes = st.lists(st.integers(0, 3), max_size=6).map(tuple)
every_dtype = st.sampled_from(sorted(EVERY))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=every_dtype, shape=shapes, layout=st.sampled_from(LAYOUTS))
def test_any_array_comes_out_as_it_went_in(property_queue: shmq.Queue, which: str, shape: tuple[int, ...], layout: str) -> None:
    sent = laid_out(EVERY[which], shape, layout)
    for way, got in ways_out(property_queue, sent).items():
        assert_alike(got, sent, way)
        assert got.flags.writeable, way


@pytest.fixture(params=[1 << 16, 4096, 64, 1], ids=lambda slot_size: f"slots of {slot_size}")
def property_queue(request: pytest.FixtureRequest, make: Make) -> shmq.Queue:
    return make(slots=4, slot_size=request.param, oversize="spill")


@pytest.mark.parametrize("which", EVERY)
def test_an_array_of_each_dtype_comes_out_as_it_went_in(make: Make, which: str) -> None:
    queue = make(slots=4, slot_size=4096)
    for layout in LAYOUTS:
        sent = laid_out(EVERY[which], (2, 3), layout)
        for way, got in ways_out(queue, sent).items():
            assert_alike(got, sent, f"{layout}, {way}")
            assert got.flags.writeable, (layout, way)
    shmq.verify(queue)


@pytest.mark.parametrize("which", PICKLED)
def test_where_pickle_is_off_a_dtype_that_needs_it_is_refused(make: Make, which: str) -> None:
    queue = make(slots=4, slot_size=4096, allow_pickle=False)
    with pytest.raises(shmq.PickleRefused, match=r"ndarray of dtype.*allow_pickle=True"):
        queue.put(np.zeros(3, PICKLED[which]))
    assert queue.empty()


@pytest.mark.skipif(ml_dtypes is None, reason="ml_dtypes is not installed")
def test_arrays_of_bfloat16_are_no_raw_bytes(queue: shmq.Queue) -> None:
    sent = np.array([1, 2.5, -3], ml_dtypes.bfloat16)
    queue.put(sent)
    got = queue.get_nowait()
    assert got.dtype == ml_dtypes.bfloat16 and got.tolist() == [1, 2.5, -3]


@pytest.mark.parametrize("scalar", [np.float32(1.5), np.int8(-3), np.datetime64("2026-01-01"), np.str_("ü"), np.bytes_(b"x")])
def test_scalars_of_numpy_keep_their_type(queue: shmq.Queue, scalar: Any) -> None:
    for way, got in ways_out(queue, scalar).items():
        assert type(got) is type(scalar) and got == scalar, way


# -- subclasses ----------------------------------------------------------------------------------------------------------------


class Named(np.ndarray):
    name = "nobody"

    def __reduce__(self) -> Any:
        reconstruct, arguments, state = super().__reduce__()
        return reconstruct, arguments, (state, self.name)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state[0])
        self.name = state[1]


def named() -> Named:
    made = np.arange(6.0).reshape(2, 3).view(Named)
    made.name = "somebody"
    return made


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.filterwarnings("ignore:The chararray class is deprecated:DeprecationWarning")  # from NumPy 2.5 on
def test_subclasses_of_arrays_stay_what_they_are(make: Make) -> None:
    queue = make(slots=4, slot_size=4096)
    masked = np.ma.masked_array([1, 2, 3], mask=[False, True, False], fill_value=9)
    records = np.rec.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")])
    for sent in (np.matrix([[1, 2], [3, 4]]), masked, records, named(), np.char.array(["a", "bc"])):
        for way, got in ways_out(queue, sent).items():
            assert type(got) is type(sent) and got.dtype == sent.dtype, way
            assert (got == sent).all() and got.shape == sent.shape, way
    for way, got in ways_out(queue, masked).items():
        assert got.mask.tolist() == [False, True, False] and got.fill_value == 9, way
    for way, got in ways_out(queue, records).items():
        assert got.b.tolist() == [2.0, 4.0], way
    for way, got in ways_out(queue, named()).items():
        assert got.name == "somebody", way


class Label(bytes):
    """Bytes that say more than bytes."""


class Buffer(bytearray):
    pass


class Numbers(array.array):
    pass


class Text(str):
    pass


class Count(int):
    pass


class Real(float):
    pass


class Table(dict):
    pass


class Row(list):
    pass


class Pair(tuple):
    pass


Point = collections.namedtuple("Point", "x y")


class Framed(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int32), ("y", ctypes.c_int32)]

    def __reduce__(self) -> Any:
        return Framed, (self.x, self.y)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Framed) and (self.x, self.y) == (other.x, other.y)


def with_note(thing: Any) -> Any:
    thing.note = "a note"
    return thing


SUBCLASSES = [
    with_note(Label(b"hello")),
    with_note(Buffer(b"hello")),
    with_note(Numbers("d", [1.5, 2.5])),
    with_note(Text("hello")),
    with_note(Count(3)),
    with_note(Real(1.5)),
    with_note(Table(a=1)),
    with_note(Row([1, 2])),
    with_note(Pair((1, 2))),
    Point(1, 2),
    Framed(1, 2),
    True,
    3 + 4j,
    frozenset([1]),
    collections.OrderedDict(a=1),
    collections.defaultdict(list, a=[1]),
    collections.deque([1, 2], 5),
    range(3),
    ...,
    NotImplemented,
]


@pytest.mark.parametrize("thing", SUBCLASSES, ids=lambda thing: type(thing).__name__)
def test_an_object_keeps_its_class_and_its_attributes(make: Make, thing: Any) -> None:
    queue = make(slots=4, slot_size=1024)
    for way, got in ways_out(queue, thing).items():
        assert type(got) is type(thing) and got == thing, way
        assert getattr(got, "note", None) == getattr(thing, "note", None), way


class Exporting:
    """Exports its memory (from Python 3.12 on), and says how it is pickled."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(self.text.encode())

    def __getstate__(self) -> dict[str, str]:
        return {"text": self.text.upper()}


class Bare:
    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(b"raw")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="classes of Python export memory from 3.12 on")
def test_an_exporter_that_says_how_it_is_pickled_is_pickled(queue: shmq.Queue) -> None:
    queue.put(Exporting("text"))
    queue.put(Bare())
    got = queue.get_nowait()
    assert type(got) is Exporting and got.text == "TEXT"
    assert queue.get_nowait() == b"raw"


@pytest.mark.parametrize("thing", SUBCLASSES[:3], ids=lambda thing: type(thing).__name__)
def test_where_pickle_is_off_the_memory_of_a_subclass_travels(make: Make, thing: Any) -> None:
    queue = make(slots=4, slot_size=1024, allow_pickle=False)
    queue.put(thing)
    assert bytes(queue.get_nowait()) == bytes(thing)


# -- room ----------------------------------------------------------------------------------------------------------------------

MANY_FIELDS = np.dtype([(f"field number {number}", "u1") for number in range(200)])
EXACT = {**EVERY, "many fields": MANY_FIELDS}
UNBOUNDED = [which for which, dtype in EVERY.items() if dtype.hasobject or which in PICKLED]


@pytest.mark.parametrize("which", [which for which in EXACT if which not in UNBOUNDED])
@pytest.mark.parametrize("oversize", ["error", "spill"])
def test_a_slot_of_the_size_of_an_array_holds_it(make: Make, which: str, oversize: str) -> None:
    for shape in ((1,), (64,), (2,) * 6, (1,) * (MOST_DIMENSIONS - 2), (4096,), ()):
        sent = laid_out(EXACT[which], shape, "plain")
        queue = make(slots=3, slot_size=max(sent.nbytes, 1), oversize=oversize)
        queue.put(sent)
        queue.put_many([sent])
        for got in queue.drain():
            assert_alike(got, sent, f"{shape}")
        queue.put(sent)
        with queue.receive(timeout=0) as lease:
            assert lease.nbytes == sent.nbytes
            assert_alike(lease.array, sent, f"{shape} in place")
        shmq.verify(queue)
        queue.unlink()
        queue.close()


def test_an_array_above_the_slot_size_is_refused_with_its_size(make: Make) -> None:
    queue = make(slots=3, slot_size=4096, oversize="error")
    for dtype in ("u1", DESCRIBED["times"], DESCRIBED["no fields"], MANY_FIELDS):
        sent = np.zeros(4097, dtype)
        if sent.nbytes <= 4096:
            continue
        with pytest.raises(shmq.MessageTooLarge, match=rf"{sent.nbytes:,} bytes.*4,096 bytes.*slot_size"):
            queue.put(sent)
    assert queue.empty()


def test_more_arrays_than_two_bytes_count_travel_in_one_message(make: Make) -> None:
    queue = make(slots=2, slot_size=1024, oversize="spill")
    sent = [np.full(1, number, "u4") for number in range(70_000)]
    queue.put(sent)
    got = queue.get_nowait()
    assert len(got) == 70_000 and all(piece[0] == number for number, piece in enumerate(got))


# -- loans ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [which for which in EXACT if which not in UNBOUNDED])
@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 3), (2, 1, 2, 1, 2), (1,) * (MOST_DIMENSIONS - 2)], ids=len)
def test_a_loan_of_any_dtype_and_shape_is_written_in_place(make: Make, which: str, shape: tuple[int, ...]) -> None:
    queue = make(slots=3, slot_size=16384)
    sent = laid_out(EXACT[which], shape, "plain")
    with queue.loan(shape, sent.dtype) as lent:
        assert lent.shape == shape and lent.dtype == sent.dtype and lent.flags.writeable
        lent[...] = sent
    assert not lent.flags.writeable
    with queue.receive(timeout=0) as lease:
        assert_alike(lease.array, sent, "in place")
    queue.loan(shape, sent.dtype).abandon()
    assert queue.empty()


@pytest.mark.parametrize("which", UNBOUNDED)
def test_a_loan_of_what_only_pickle_carries_says_what_to_do(queue: shmq.Queue, which: str) -> None:
    with pytest.raises(TypeError, match=r"put\(\)|no place in shared memory"):
        queue.loan((3,), EVERY[which])
    assert queue.stats().loaned == 0


def test_a_loan_without_room_for_its_description_says_what_is_needed(make: Make) -> None:
    queue = make(slots=3, slot_size=200 * 32)
    with pytest.raises(shmq.MessageTooLarge, match=r"6,400 bytes and .* that describe.*slot_size") as refused:
        queue.loan((32,), MANY_FIELDS)
    needed = int(str(refused.value).rpartition("slot_size=")[2].partition(",")[0].replace("_", ""))
    with make(slots=3, slot_size=needed).loan((32,), MANY_FIELDS) as lent:
        assert lent.nbytes == 6400


def test_a_loan_of_more_dimensions_than_numpy_has_is_refused(queue: shmq.Queue) -> None:
    with pytest.raises(ValueError, match="dimension"):
        queue.loan((1,) * 65, "u1")
    assert queue.stats().loaned == 0
