"""What users, other programs and vandals can get wrong: each raises exactly its error, at once, with nothing taken or lost."""

from __future__ import annotations

import fcntl
import mmap
import os
import pickle
import queue as stdlib_queue
import re
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import shmq
from shmq import _core
from support.processes import WATCHDOG, Children
from support.shared_memory import PREFIX, left_behind_by

SHM = Path("/dev/shm")
Make = Callable[..., shmq.Queue]
NAN = float("nan")
FORMS = pytest.mark.parametrize("form", [shmq.Queue, shmq.Queue.create, shmq.Queue.attach], ids=["open", "create", "attach"])


def file_of(name: str) -> Path:
    return SHM / f"{PREFIX}{name}"


def files() -> set[str]:
    """What this process's tests have in shared memory."""
    return set(left_behind_by(os.getpid()))


# -- the list of errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "standard"),
    [
        (shmq.Empty, stdlib_queue.Empty),
        (shmq.Full, stdlib_queue.Full),
        (shmq.Closed, ValueError),
        (shmq.MessageTooLarge, ValueError),
        (shmq.PickleRefused, TypeError),
        (shmq.LeaseLost, Exception),
        (shmq.InFlightLimit, Exception),
        (shmq.TooManyPorts, Exception),
        (shmq.SegmentExists, FileExistsError),
        (shmq.SegmentNotFound, FileNotFoundError),
        (shmq.SegmentMismatch, ValueError),
        (shmq.SegmentForeign, PermissionError),
        (shmq.SegmentCorrupt, Exception),
        (shmq.OutOfMemory, MemoryError),
    ],
)
def test_each_error_has_our_base_and_the_standard_one(error: type[Exception], standard: type[Exception]) -> None:
    assert issubclass(error, shmq.ShmqError) and issubclass(error, standard)


def test_empty_is_raised_with_the_name(queue: shmq.Queue) -> None:
    for take in (queue.get_nowait, lambda: queue.get(timeout=0), lambda: queue.get(False)):
        with pytest.raises(shmq.Empty, match=queue.name):
            take()
    for take in (lambda: queue.receive(timeout=0), lambda: queue.get_many(3, 0), lambda: queue.receive_many(3, 0)):
        with pytest.raises(shmq.Empty, match=queue.name):
            take()


def test_full_is_raised_with_the_name_and_the_fill(make: Make) -> None:
    queue = make(slots=2, slot_size=64)
    queue.put_many([b"1", b"2"])
    for put in (queue.put_nowait, lambda obj: queue.put(obj, timeout=0), lambda obj: queue.put_many([obj], 0)):
        with pytest.raises(shmq.Full, match=rf"{queue.name}.*2 of 2"):
            put(b"3")
    assert queue.drain() == [b"1", b"2"]


def test_a_settled_lease_is_lost(queue: shmq.Queue) -> None:
    queue.put(b"x")
    lease = queue.receive(timeout=0)
    lease.ack()
    for late in (lease.ack, lease.nack, lease.release, lambda: lease.view, lambda: lease.array, lambda: lease.data):
        with pytest.raises(shmq.LeaseLost, match=queue.name):
            late()
    assert queue.stats().acks == 1 and queue.empty()


def test_a_settled_loan_is_lost(queue: shmq.Queue) -> None:
    loan = queue.loan(3)
    loan.publish()
    for late in (loan.publish, lambda: loan.view, lambda: loan.array):
        with pytest.raises(shmq.LeaseLost, match=queue.name):
            late()
    assert queue.qsize() == 1


def test_the_in_flight_limit_names_the_holder(make: Make) -> None:
    queue = make(slots=4, slot_size=64, in_flight=2, ports=1)
    queue.put_many([b"1", b"2", b"3"])
    leases = [queue.receive(timeout=0), queue.receive(timeout=0)]
    for take in (lambda: queue.receive(timeout=0), lambda: queue.loan(1)):
        with pytest.raises(shmq.InFlightLimit, match=rf"{queue.name}.*in_flight=2.*pid {os.getpid()}"):
            take()
    assert queue.qsize() == 1
    for lease in leases:
        lease.release()
    assert sorted(queue.drain()) == [b"1", b"2", b"3"]


# -- names ---------------------------------------------------------------------------------------------------------------------

BAD_NAMES = ["", "a/b", "../x", "/x", "-x", ".x", "_x", "a b", "a+b", "a\0b", "a\n", "x" * 201, "ü", "\udcff", "*"]


@FORMS
@pytest.mark.parametrize("bad", BAD_NAMES, ids=ascii)
def test_an_impossible_name_is_refused(form: Callable[[str], shmq.Queue], bad: str) -> None:
    before = set(os.listdir(SHM))
    with pytest.raises(ValueError, match="cannot name a queue") as caught:
        form(bad)
    assert repr(bad) in str(caught.value)
    assert {name for name in set(os.listdir(SHM)) - before if bad and name.endswith(bad)} == set()


@pytest.mark.parametrize("bad", BAD_NAMES, ids=ascii)
def test_unlink_refuses_an_impossible_name(bad: str) -> None:
    with pytest.raises(ValueError, match="cannot name a queue"):
        shmq.unlink(bad)


@pytest.mark.parametrize("bad", [3, b"bytes", ["x"], Path("x")], ids=repr)
@pytest.mark.parametrize(
    "form", [shmq.Queue, shmq.Queue.create, shmq.Queue.attach, shmq.unlink], ids=["open", "create", "attach", "unlink"]
)
def test_a_name_that_is_no_str_is_refused(form: Callable[[Any], object], bad: Any) -> None:
    with pytest.raises(TypeError, match=f"str, not {type(bad).__name__}"):
        form(bad)


@pytest.mark.parametrize("form", [shmq.Queue.create, shmq.Queue.attach, shmq.unlink], ids=["create", "attach", "unlink"])
def test_only_opening_takes_none_for_a_name(form: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError, match="str, not NoneType"):
        form(None)
    with shmq.Queue(None, slots=1, slot_size=64) as queue:
        assert queue.name.startswith("anon.")


# -- parameters ----------------------------------------------------------------------------------------------------------------

BUILDERS = pytest.mark.parametrize("build", [shmq.Queue, shmq.Queue.create], ids=["open", "create"])
COUNTS = pytest.mark.parametrize("parameter", ["slots", "slot_size", "in_flight", "ports"])


@BUILDERS
@COUNTS
@pytest.mark.parametrize("value", [0, -1, -(2**70)])
def test_counts_below_one_are_refused(name: str, build: Make, parameter: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{parameter} must be at least 1, not {value}"):
        build(name, **{parameter: value})
    assert not file_of(name).exists()


@BUILDERS
@COUNTS
@pytest.mark.parametrize("value", [1.5, 2.0, "3", b"3", [3]], ids=repr)
def test_counts_that_are_no_whole_numbers_are_refused(name: str, build: Make, parameter: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"{parameter} must be a whole number, not {type(value).__name__}"):
        build(name, **{parameter: value})
    assert not file_of(name).exists()


@BUILDERS
@COUNTS
@pytest.mark.parametrize("value", [2**40, 2**70])
def test_counts_beyond_the_format_are_refused(name: str, build: Make, parameter: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{value:,}"):
        build(name, **{"slots": 1, "slot_size": 1, parameter: value})
    assert not file_of(name).exists()


@pytest.mark.parametrize(
    "parameters", [{"ports": 1023}, {"in_flight": 16384}, {"in_flight": 16383}, {"slots": 16_760_833}], ids=str
)
def test_counts_just_beyond_the_format_are_refused(name: str, parameters: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"cannot be: .* slots at most 16,760,832, .* ports at most 1,022,"):
        shmq.Queue.create(name, **parameters)
    assert not file_of(name).exists()


def test_the_most_slots_are_these() -> None:
    assert [_core.segment_bytes(slots, 1, 1, 1) > 0 for slots in (_core.MAX_SLOTS, _core.MAX_SLOTS + 1)] == [True, False]


def test_whole_numbers_of_numpy_are_taken(make: Make) -> None:
    assert make(slots=np.int64(3), slot_size=np.uint8(64)).maxsize == 3


@pytest.mark.parametrize("build", [shmq.Queue, shmq.Queue.create, shmq.Queue.attach], ids=["open", "create", "attach"])
def test_an_unknown_parameter_is_refused(name: str, build: Make) -> None:
    with pytest.raises(TypeError, match="depth"):
        build(name, depth=3)
    assert not file_of(name).exists()


@BUILDERS
@pytest.mark.parametrize("value", ["x", "", "Spill", True, 1, ["spill"]], ids=repr)
def test_an_unknown_oversize_is_refused(name: str, build: Make, value: Any) -> None:
    with pytest.raises(ValueError, match=r"oversize must be .*error.* or .*spill"):
        build(name, oversize=value)
    assert not file_of(name).exists()


@BUILDERS
@pytest.mark.parametrize("value", ["no", 2, [], b""], ids=repr)
def test_an_allow_pickle_that_is_no_bool_is_refused(name: str, build: Make, value: Any) -> None:
    with pytest.raises(TypeError, match="allow_pickle must be True or False"):
        build(name, allow_pickle=value)
    assert not file_of(name).exists()


@BUILDERS
@pytest.mark.parametrize("value", [0o666, 0o660, 0o400, 0, -1, "0600", None, 384.5], ids=repr)
def test_any_mode_but_0600_is_refused(name: str, build: Make, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="mode must be 0o600"):
        build(name, mode=value)
    assert not file_of(name).exists()


def half_a_codec(**methods: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"name": "half", "encode": bytes, "decode": bytes, **methods})


@FORMS
@pytest.mark.parametrize("missing", ["name", "encode", "decode"])
def test_a_codec_without_its_methods_is_refused(make: Make, name: str, form: Make, missing: str) -> None:
    queue = make(slots=4, slot_size=64, codec=half_a_codec())
    codec = half_a_codec()
    delattr(codec, missing)
    with pytest.raises(TypeError, match=f"codec.* has no {missing}"):
        form(queue.name if form == shmq.Queue.attach else name, codec=codec)
    assert queue.stats().ports == 1 and not file_of(name).exists()


@pytest.mark.parametrize("bad", ["", "x" * 32, "ü", None, 3], ids=repr)
def test_a_codec_with_an_impossible_name_is_refused(name: str, bad: Any) -> None:
    with pytest.raises(ValueError, match="codec's name"):
        shmq.Queue.create(name, codec=half_a_codec(name=bad))
    assert not file_of(name).exists()


# -- values that differ --------------------------------------------------------------------------------------------------------

DIFFERENT = {"slots": 17, "slot_size": 512, "in_flight": 9, "ports": 3, "oversize": "spill", "allow_pickle": False}


def test_a_mismatch_names_each_value_that_differs(make: Make) -> None:
    there = {"slots": 16, "slot_size": 256, "in_flight": 8, "ports": 2, "oversize": "error", "allow_pickle": True}
    queue = make(**there)
    queue.put(b"kept")
    with pytest.raises(shmq.SegmentMismatch, match=queue.name) as caught:
        shmq.Queue(queue.name, **DIFFERENT)
    for parameter, asked in DIFFERENT.items():
        assert f"{parameter} is {there[parameter]!r}, asked for {asked!r}" in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert queue.stats().ports == 1 and queue.get_nowait() == b"kept"


@pytest.mark.parametrize("parameter", DIFFERENT)
def test_a_mismatch_names_nothing_that_agrees(make: Make, parameter: str) -> None:
    queue = make(slots=16, slot_size=256, in_flight=8, ports=2, oversize="error")
    with pytest.raises(shmq.SegmentMismatch) as caught:
        shmq.Queue(queue.name, **{"slots": 16, "slot_size": 256, "in_flight": 8, "ports": 2, parameter: DIFFERENT[parameter]})
    assert [other for other in DIFFERENT if f"{other} is" in str(caught.value)] == [parameter]


def test_another_codec_is_a_mismatch_that_names_both(make: Make) -> None:
    queue = make(slots=4, slot_size=64, codec=shmq.json_codec)
    with pytest.raises(shmq.SegmentMismatch, match="json"):
        shmq.Queue.attach(queue.name, codec=half_a_codec())
    with pytest.raises(shmq.SegmentMismatch, match=r"json.*half"):
        shmq.Queue(queue.name, codec=half_a_codec())
    assert queue.stats().ports == 1


def test_a_codec_where_there_is_none_is_a_mismatch(queue: shmq.Queue) -> None:
    with pytest.raises(shmq.SegmentMismatch, match="without a codec"):
        shmq.Queue.attach(queue.name, codec=shmq.json_codec)
    assert queue.stats().ports == 1


def test_no_codec_where_there_is_one_is_a_mismatch_that_names_it(make: Make) -> None:
    queue = make(slots=4, slot_size=64, codec=half_a_codec())
    with pytest.raises(shmq.SegmentMismatch, match="half"):
        shmq.Queue.attach(queue.name)
    assert queue.stats().ports == 1


# -- objects -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "large", [bytes(257), bytearray(257), "x" * 257, np.zeros(65, "f4"), memoryview(bytes(300)), list(range(300))], ids=type
)
def test_a_message_too_large_is_refused_with_both_sizes(make: Make, large: Any) -> None:
    queue = make(slots=16, slot_size=256, oversize="error")
    for put in (queue.put, queue.put_nowait, lambda obj: queue.put_many([b"first", obj])):
        with pytest.raises(shmq.MessageTooLarge, match=rf"{type(large).__name__} of [\d,]+ bytes.*{queue.name}.*256 bytes"):
            put(large)
    assert queue.empty() and queue.stats().puts == 0


def test_a_message_too_large_is_refused_at_once_also_where_the_queue_is_full(make: Make) -> None:
    queue = make(slots=1, slot_size=8, oversize="error")
    queue.put(b"full")
    for put in (queue.put, lambda obj: queue.put(obj, timeout=None), lambda obj: queue.put_many([obj])):
        with pytest.raises(shmq.MessageTooLarge):
            put(bytes(9))
    assert queue.drain() == [b"full"]


@pytest.mark.parametrize("size", [257, 2**40, 2**64 - 1, 2**64, 2**70])
def test_a_loan_too_large_is_refused(queue: shmq.Queue, size: int) -> None:
    with pytest.raises(shmq.MessageTooLarge, match=queue.name):
        queue.loan(size)
    assert queue.stats().loaned == 0


@pytest.mark.parametrize("shape", [(257,), (2**16, 2**16), (2**31, 2**31, 2**31, 2**31), 2**31], ids=str)
def test_a_loaned_array_too_large_is_refused(queue: shmq.Queue, shape: Any) -> None:
    with pytest.raises(shmq.MessageTooLarge):
        queue.loan(shape, "u1")
    assert queue.stats().loaned == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((-1,), ValueError),
        (("3",), TypeError),
        ((1.5,), TypeError),
        ((None,), TypeError),
        (((3, 4),), TypeError),
        (((3,), object), TypeError),
        (((3,), [("a", object)]), TypeError),
        (((3,), "no dtype"), TypeError),
        (((-3,), "u1"), ValueError),
        (((2**32,), "u1"), ValueError),
        ((("3",), "u1"), TypeError),
        (((1.5,), "u1"), TypeError),
    ],
    ids=str,
)
def test_a_loan_of_nonsense_is_refused(queue: shmq.Queue, arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        queue.loan(*arguments)
    assert queue.stats().loaned == 0


@pytest.mark.parametrize("nbytes", [-1, 5, 2**70])
def test_a_loan_cannot_be_published_larger_than_it_is(queue: shmq.Queue, nbytes: int) -> None:
    loan = queue.loan(4)
    with pytest.raises(ValueError, match="4 bytes"):
        loan.publish(nbytes)
    loan.publish(2)
    assert queue.get_nowait() == bytes(2)


@pytest.mark.parametrize("obj", [object(), {"a": 1}, 3, np.array([None, "x"]), None], ids=type)
def test_what_only_pickle_could_carry_is_refused_where_pickle_is_off(make: Make, obj: Any) -> None:
    queue = make(slots=4, slot_size=1024, allow_pickle=False)
    for put in (queue.put, lambda obj: queue.put_many([b"first", obj])):
        with pytest.raises(shmq.PickleRefused, match=rf"{type(obj).__name__}.*allow_pickle=True"):
            put(obj)
    assert queue.empty()


def test_a_pickled_message_is_not_loaded_where_pickle_is_off(make: Make, queue: shmq.Queue) -> None:
    careful = make(slots=4, slot_size=256, allow_pickle=False)
    careful.put(b"x" * 40)
    with poking(careful) as poke:
        poke.write(poke.front_slot() + 32, b"\x04")  # kind: pickle
    for take in (careful.get_nowait, lambda: careful.receive(timeout=0).data):
        with pytest.raises(shmq.PickleRefused, match=careful.name):
            take()
    assert careful.stats().gets == 0


def test_what_cannot_be_pickled_raises_its_own_error_and_puts_nothing(queue: shmq.Queue) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):  # the latter since 3.14
        queue.put(lambda: None)
    with pytest.raises(TypeError, match="pickle"):
        queue.put_many([b"first", signal.default_int_handler, stdlib_queue.SimpleQueue()])
    assert queue.empty()


@pytest.mark.parametrize("objs", [None, 3, object()], ids=type)
def test_put_many_of_what_cannot_be_iterated_is_refused(queue: shmq.Queue, objs: Any) -> None:
    with pytest.raises(TypeError):
        queue.put_many(objs)
    assert queue.empty()


@pytest.mark.parametrize(
    "objs", ["text", b"bytes", bytearray(b"b"), memoryview(b"b"), {"a": 1}, type("Text", (str,), {})("t")], ids=type
)
def test_put_many_of_one_message_is_refused_and_says_what_to_do(queue: shmq.Queue, objs: Any) -> None:
    with pytest.raises(TypeError, match=rf"{type(objs).__name__} would be its parts.*put_many\(\[it\]\)"):
        queue.put_many(objs)
    assert queue.empty()


@pytest.mark.parametrize(
    "objs", [(1, 2), {1: "x", 2: "y"}.keys(), iter([1, 2]), (n for n in (1, 2)), range(1, 3), map(int, "12"), {1, 2}], ids=type
)
def test_put_many_takes_whatever_gives_objects(queue: shmq.Queue, objs: Any) -> None:
    assert queue.put_many(objs) == 2
    assert queue.drain() == [1, 2]


def test_a_generator_that_raises_puts_nothing(queue: shmq.Queue) -> None:
    def two() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        queue.put_many(two())
    assert queue.empty()


@pytest.mark.parametrize("value", [np.float32(2), np.int64(2), Fraction(2), Decimal(2)], ids=type)
def test_numbers_of_seconds_of_any_kind_are_taken(make: Make, value: Any) -> None:
    queue = make(slots=4, slot_size=64, lease_timeout=value)
    assert queue.segment.config.lease_timeout == 2
    queue.put(b"x", timeout=value)
    with queue.receive(value, lease_timeout=value) as lease:
        lease.extend(value)
    queue.put(b"y")
    queue.receive(0).nack(delay=value)
    assert queue.join(0) is False


@pytest.mark.parametrize("value", ["2", b"2", [2], 2.5, 1j], ids=repr)
@pytest.mark.parametrize("parameter", ["max_workers", "slot_size", "max_tasks_per_child"])
def test_an_executor_refuses_what_is_no_whole_number(parameter: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"{parameter} must be a whole number"):
        shmq.Executor(**{parameter: value})


def test_an_executor_takes_whole_numbers_of_numpy() -> None:
    with shmq.Executor(np.int64(1), slot_size=np.uint32(1 << 16)) as pool:
        assert list(pool.map(abs, [-1, -2, -3], chunksize=np.int8(2), buffersize=np.int16(1))) == [1, 2, 3]
        for wrong in ({"chunksize": "2"}, {"chunksize": None}):
            with pytest.raises(TypeError, match="whole number"):
                pool.map(abs, [1], **wrong)


@pytest.mark.parametrize(
    ("buffersize", "error", "words"),
    [
        ("2", TypeError, "must be an integer or None, not '2'"),
        (2.0, TypeError, "must be an integer or None, not 2.0"),
        (0, ValueError, "must be None or > 0, not 0"),
        (-1, ValueError, "must be None or > 0, not -1"),
    ],
)
def test_a_buffersize_that_cannot_be_is_refused_in_cpythons_words(buffersize: Any, error: type[Exception], words: str) -> None:
    with shmq.Executor(1) as pool, pytest.raises(error, match=f"^buffersize {words}$"):
        pool.map(abs, [1], buffersize=buffersize)


@pytest.mark.parametrize("bad", ["a/b", "x" * 301, "x" * 189, "\udcff", "-x"], ids=ascii)
def test_a_pool_of_an_impossible_name_is_refused(bad: str) -> None:
    """Its queues have longer names, which nobody typed: the refusal speaks of the pool's, before any of them is made."""
    with pytest.raises(ValueError, match=f"^{re.escape(repr(bad))} cannot name a pool: a name has 1 to 188 letters"):
        shmq.Executor(1, name=bad)


def test_a_pool_whose_name_is_as_long_as_can_be_works(name: str) -> None:
    with shmq.Executor(1, name=name + "x" * (188 - len(name))) as pool:
        assert pool.submit(len, b"x" * (1 << 19)).result(WATCHDOG) == 1 << 19
        assert any(segment.endswith(".tasks.large") and segment.startswith(name) for segment in shmq.list_segments())


# -- waiting -------------------------------------------------------------------------------------------------------------------

TIMEOUTS = pytest.mark.parametrize(
    ("timeout", "error"),
    [("1", TypeError), ([], TypeError), (1j, TypeError), (object(), TypeError), (NAN, ValueError)],
    ids=["text", "list", "complex", "object", "nan"],
)


@TIMEOUTS
@pytest.mark.parametrize("fill", [0, 1], ids=["empty", "filled"])
def test_taking_refuses_a_timeout_that_is_no_number(make: Make, timeout: Any, error: type[Exception], fill: int) -> None:
    queue = make(slots=4, slot_size=64)
    queue.put_many([b"x"] * fill)
    for take in (
        lambda: queue.get(timeout=timeout),
        lambda: queue.receive(timeout=timeout),
        lambda: queue.get_many(2, timeout=timeout),
        lambda: queue.receive_many(2, timeout=timeout),
    ):
        with pytest.raises(error):
            take()
    assert queue.qsize() == fill and queue.stats().receives == 0


@TIMEOUTS
@pytest.mark.parametrize("fill", [0, 1], ids=["empty", "full"])
def test_putting_refuses_a_timeout_that_is_no_number(make: Make, timeout: Any, error: type[Exception], fill: int) -> None:
    queue = make(slots=1, slot_size=64)
    queue.put_many([b"x"] * fill)
    loan = queue.loan(1)
    for put in (
        lambda: queue.put(b"y", timeout=timeout),
        lambda: queue.put_many([b"y"], timeout=timeout),
        lambda: loan.publish(timeout=timeout),
    ):
        with pytest.raises(error):
            put()
    assert queue.qsize() == fill and queue.stats().loaned == 1
    loan.abandon()


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.0, float("-inf"), np.float32(0), False], ids=repr)
def test_a_timeout_of_nothing_or_less_tries_once(make: Make, timeout: Any) -> None:
    queue = make(slots=1, slot_size=64)
    with pytest.raises(shmq.Empty):
        queue.get(timeout=timeout)
    queue.put(b"x", timeout=timeout)
    with pytest.raises(shmq.Full):
        queue.put(b"y", timeout=timeout)
    assert queue.get(timeout=timeout) == b"x"


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 2**62, 10**30, 10**400])
def test_a_timeout_beyond_all_clocks_takes_what_is_there(queue: shmq.Queue, timeout: Any) -> None:
    queue.put(b"x", timeout=timeout)
    assert queue.get(timeout=timeout) == b"x"


@pytest.mark.parametrize("count", [0, -1])
@pytest.mark.parametrize("call", ["get_many", "receive_many"])
def test_taking_less_than_one_is_refused(queue: shmq.Queue, call: str, count: int) -> None:
    queue.put(b"x")
    with pytest.raises(ValueError, match=f"at least 1, not {count}"):
        getattr(queue, call)(count)
    assert queue.stats().receives == 0
    assert queue.get_nowait() == b"x"


@pytest.mark.parametrize("call", ["get_many", "receive_many", "peek"])
@pytest.mark.parametrize("count", ["3", 1.5, None], ids=repr)
def test_taking_what_is_no_number_of_messages_is_refused(queue: shmq.Queue, call: str, count: Any) -> None:
    queue.put(b"x")
    with pytest.raises(TypeError):
        getattr(queue, call)(count)
    assert queue.qsize() == 1


def test_peeking_at_less_than_nothing_is_refused(queue: shmq.Queue) -> None:
    with pytest.raises(ValueError, match="-1"):
        queue.peek(-1)


# -- closed handles ------------------------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[shmq.Queue], object]] = {
    "put": lambda queue: queue.put(b"x"),
    "put without waiting": lambda queue: queue.put(b"x", False),
    "put of an object": lambda queue: queue.put({"a": 1}),
    "put of what is too large": lambda queue: queue.put(bytes(1000)),
    "put_nowait": lambda queue: queue.put_nowait(b"x"),
    "put_many": lambda queue: queue.put_many([b"x"]),
    "put_many of nothing": lambda queue: queue.put_many([]),
    "get": lambda queue: queue.get(),
    "get_nowait": lambda queue: queue.get_nowait(),
    "get_many": lambda queue: queue.get_many(3),
    "receive": lambda queue: queue.receive(),
    "receive_many": lambda queue: queue.receive_many(3),
    "loan": lambda queue: queue.loan(3),
    "loan of an array": lambda queue: queue.loan((3,), "u1"),
    "peek": lambda queue: queue.peek(),
    "purge": lambda queue: queue.purge(),
    "drain": lambda queue: queue.drain(),
    "stats": lambda queue: queue.stats(),
    "verify": lambda queue: shmq.verify(queue),
    "qsize": lambda queue: queue.qsize(),
    "empty": lambda queue: queue.empty(),
    "full": lambda queue: queue.full(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_closed_handle_says_so(queue: shmq.Queue, call: Callable[[shmq.Queue], object]) -> None:
    with shmq.Queue.attach(queue.name) as other:
        other.put(b"kept")
        queue.close()
        with pytest.raises(shmq.Closed, match=queue.name):
            call(queue)
        assert other.drain() == [b"kept"]


def refuse_unopened(call: str) -> None:
    with pytest.raises(shmq.Closed, match="never opened"):
        CALLS[call](shmq.Queue.__new__(shmq.Queue))


@pytest.mark.parametrize("call", CALLS)
def test_a_handle_that_was_never_opened_says_so(children: Children, call: str) -> None:
    children.start(refuse_unopened, call)
    children.join()


def test_a_loop_over_a_closed_handle_ends(queue: shmq.Queue) -> None:
    queue.put(b"x")
    queue.close()
    assert [lease.data for lease in queue] == []


def test_leases_and_loans_are_not_made_by_hand() -> None:
    for kind in (shmq.Lease, shmq.Loan):
        with pytest.raises(TypeError, match="come from a queue"):
            kind()


# -- too many, too much --------------------------------------------------------------------------------------------------------


def test_too_many_ports_names_the_processes_that_have_them(make: Make) -> None:
    queue = make(slots=4, slot_size=64, ports=2)
    with shmq.Queue.attach(queue.name) as other:
        for form in (shmq.Queue, shmq.Queue.attach):
            with pytest.raises(shmq.TooManyPorts, match=rf"all 2 ports.*{queue.name}.*pid {os.getpid()} .*larger ports="):
                form(queue.name)
        other.put(b"works")
        assert queue.get_nowait() == b"works"
    shmq.Queue.attach(queue.name).close()


def hold_a_port(name: str, connection: Any) -> None:
    with shmq.Queue.attach(name):
        connection.send(os.getpid())
        connection.recv()


def test_too_many_ports_names_other_processes_too(make: Make, children: Children) -> None:
    queue = make(slots=4, slot_size=64, ports=2)
    ours, theirs = children.context.Pipe()
    children.start(hold_a_port, queue.name, theirs)
    assert ours.poll(60)
    pid = ours.recv()
    with pytest.raises(shmq.TooManyPorts, match=f"pid {pid} .*pid {os.getpid()} |pid {os.getpid()} .*pid {pid} "):
        shmq.Queue.attach(queue.name)
    ours.send(None)
    children.join()
    shmq.Queue.attach(queue.name).close()


def hold_the_reapers_lock(nonce: int, connection: Any) -> None:
    """As a process does that is taking back what the dead had, and is slow."""
    fd = os.open(f"/dev/shm/.shmq-{os.geteuid()}.lock", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, nonce & (1 << 62) - 1 | 1 << 62)
    connection.send("locked")
    connection.recv()
    time.sleep(0.1)
    os.close(fd)


def test_the_ports_of_the_dead_are_waited_for_while_another_frees_them(make: Make, children: Children) -> None:
    queue = make(slots=4, slot_size=64, ports=2)
    ours, theirs = children.context.Pipe()
    dead = children.start(hold_a_port, queue.name, theirs)
    assert ours.recv() == dead.pid
    children.start(hold_the_reapers_lock, queue.segment.nonce, theirs)
    assert ours.recv() == "locked"
    dead.kill()
    dead.join()
    children.started.remove(dead)
    assert queue._reap() == 0
    ours.send(None)
    shmq.Queue.attach(queue.name).close()
    children.join()


@BUILDERS
def test_a_segment_larger_than_shared_memory_is_refused_with_both_numbers(name: str, build: Make) -> None:
    total = shutil.disk_usage(SHM).total
    before = files()
    with pytest.raises(shmq.OutOfMemory, match=name) as caught:
        build(name, slots=1000, slot_size=total // 1000 + 4096)
    assert isinstance(caught.value, MemoryError)
    said = re.search(r"needs ([\d,]+) bytes, and \S+ has ([\d,]+) free of ([\d,]+):", str(caught.value))
    assert said
    wanted, free, size = (int(number.replace(",", "")) for number in said.groups())
    assert wanted > total and 0 <= free <= total and size == total
    assert files() == before


@pytest.mark.parametrize("slots", [2**20, 2**23])
def test_a_segment_larger_than_any_machine_is_refused(name: str, slots: int) -> None:
    before = files()
    with pytest.raises(shmq.OutOfMemory, match=r"needs [\d,]{20,} bytes"):
        shmq.Queue.create(name, slots=slots, slot_size=2**38)
    assert files() == before


# -- files that are no segments ------------------------------------------------------------------------------------------------


@pytest.fixture
def place(name: str) -> Iterator[Path]:
    """Where the test's segment would be; whatever the test puts there is removed."""
    path = file_of(name)
    yield path
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def segment_bytes(queue: shmq.Queue) -> bytes:
    return file_of(queue.name).read_bytes()


def write_file(path: Path, data: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(data)


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


@FORMS
@pytest.mark.parametrize(
    ("size", "error"),
    [(1, shmq.SegmentMismatch), (100, shmq.SegmentMismatch), (1023, shmq.SegmentMismatch)]
    + [(1024, shmq.SegmentCorrupt), (0.5, shmq.SegmentCorrupt), (-1, shmq.SegmentCorrupt)],
)
def test_a_truncated_file_is_refused(
    queue: shmq.Queue, name: str, place: Path, form: Make, size: float, error: type[Exception]
) -> None:
    data = segment_bytes(queue)
    kept = data[: int(len(data) * size) if size == 0.5 else int(size)]
    write_file(place, kept)
    with pytest.raises(error, match=name):
        form(name)
    assert place.read_bytes() == kept


@FORMS
@pytest.mark.parametrize("version", [0, 1, 2**32 - 1])
def test_another_format_version_is_refused_with_both(queue: shmq.Queue, name: str, place: Path, form: Make, version: int) -> None:
    write_file(place, patched(segment_bytes(queue), 8, struct.pack("<I", version)))
    with pytest.raises(shmq.SegmentMismatch, match=rf"{name}.*format version {version}; this one reads version \d+"):
        form(name)


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [(0, b"somebody", "magic"), (12, b"\1\2\3\4", r"another byte order \(mark 0x4030201\)")],
    ids=["magic", "endian"],
)
def test_another_format_is_refused(queue: shmq.Queue, name: str, place: Path, offset: int, value: bytes, words: str) -> None:
    write_file(place, patched(segment_bytes(queue), offset, value))
    with pytest.raises(shmq.SegmentMismatch, match=words):
        shmq.Queue.attach(name)


@FORMS
@pytest.mark.parametrize("kind", [0, 2, 2**32 - 1])
def test_a_kind_of_segment_that_is_not_known_is_refused(queue: shmq.Queue, name: str, place: Path, form: Make, kind: int) -> None:
    write_file(place, patched(segment_bytes(queue), 184, struct.pack("<I", kind)))
    with pytest.raises(shmq.SegmentMismatch, match=rf"{name}.* of kind {kind}, which this version of shmq does not know"):
        form(name)


def test_a_segment_of_another_lock_file_is_refused(queue: shmq.Queue, name: str, place: Path) -> None:
    write_file(place, patched(segment_bytes(queue), 80, struct.pack("<Q", 1)))
    with pytest.raises(shmq.SegmentMismatch, match="lock file"):
        shmq.Queue.attach(name)


@FORMS
@pytest.mark.parametrize("dangling", [False, True], ids=["link", "dangling link"])
def test_a_symbolic_link_is_not_followed(queue: shmq.Queue, name: str, place: Path, form: Make, dangling: bool) -> None:
    place.symlink_to(SHM / "nothing" if dangling else file_of(queue.name))
    with pytest.raises(shmq.SegmentMismatch, match=name):
        form(name)
    assert place.is_symlink() and queue.stats().ports == 1


@FORMS
def test_a_directory_is_refused(name: str, place: Path, form: Make) -> None:
    place.mkdir(0o700)
    with pytest.raises(shmq.SegmentMismatch, match=name):
        form(name)
    assert place.is_dir()


@FORMS
def test_a_fifo_is_refused_without_waiting_for_its_writer(name: str, place: Path, form: Make) -> None:
    os.mkfifo(place, 0o600)
    with pytest.raises(shmq.SegmentMismatch, match=name):
        form(name)


@FORMS
@pytest.mark.parametrize("mode", [0o666, 0o660, 0o620, 0o604, 0o601], ids=oct)
def test_a_segment_that_others_may_open_is_refused(queue: shmq.Queue, name: str, place: Path, form: Make, mode: int) -> None:
    write_file(place, segment_bytes(queue))
    place.chmod(mode)
    with pytest.raises(shmq.SegmentForeign, match=f"{name}.*{mode:#o}") as caught:
        form(name)
    assert isinstance(caught.value, PermissionError)
    assert place.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@FORMS
@pytest.mark.parametrize("empty", [False, True], ids=["whole", "half-made"])
def test_another_users_segment_is_refused(queue: shmq.Queue, name: str, place: Path, form: Make, empty: bool) -> None:
    write_file(place, b"" if empty else segment_bytes(queue))
    os.chown(place, 12345, -1)
    with pytest.raises(shmq.SegmentForeign, match=rf"{name}.*12345.*{os.geteuid()}"):
        form(name)
    assert place.stat().st_uid == 12345


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_segment_is_not_listed(name: str, place: Path) -> None:
    write_file(place, b"")
    assert name in shmq.list_segments()
    os.chown(place, 12345, -1)
    assert name not in shmq.list_segments()


# -- headers that lie ----------------------------------------------------------------------------------------------------------


def attach_to_each_flipped_header(name: str, data: bytes, nonce: int, flip: int, connection: Any) -> None:
    """Attach to 128 copies, each with one byte of its header changed; send what became of each."""
    from shmq._segment import lifecycle, semaphores

    for offset in range(128):
        write_file(file_of(name), patched(data, offset, bytes([data[offset] ^ flip])))
        for side in ("items", "space"):
            semaphores.make_semaphore(f"/{PREFIX}{name}+{nonce:016x}.{side}")
        try:
            with shmq.Queue.attach(name) as queue:
                queue.put(b"x")
                outcome = "works" if queue.get_nowait() == b"x" else "loses"
        except (shmq.SegmentCorrupt, shmq.SegmentMismatch, shmq.SegmentNotFound) as error:
            outcome = type(error).__name__
        except BaseException as error:
            outcome = repr(error)
        connection.send((offset, outcome))
        lifecycle.remove(name)


@pytest.mark.parametrize("flip", [0xFF, 0x01, 0x80, 0x10], ids=hex)
def test_a_header_with_any_one_byte_changed_is_refused_or_harmless(make: Make, name: str, children: Children, flip: int) -> None:
    queue = make(slots=3, slot_size=200, in_flight=2, ports=2, allow_pickle=False)
    data, nonce = segment_bytes(queue), queue.segment.nonce
    data = patched(data, 1024, bytes(256))  # nobody is attached to the copies
    cells_at = 1024 + 128 * 2
    for cell in range(4):
        word = struct.unpack_from("<Q", data, cells_at + 64 * cell)[0]
        spare = word & ~(7 << 34 | 0x3FF << 24) | 0x3FF << 24
        data = patched(data, cells_at + 64 * cell, struct.pack("<Q", spare))
    ours, theirs = children.context.Pipe(duplex=False)
    child = children.start(attach_to_each_flipped_header, f"{name}.flipped", data, nonce, flip, theirs)
    theirs.close()
    outcomes: dict[int, str] = {}
    while len(outcomes) < 128:
        assert ours.poll(60), f"stuck at byte {len(outcomes)}"
        try:
            outcomes.update([ours.recv()])
        except EOFError:
            child.join()
            pytest.fail(f"died with {child.exitcode} of a flipped byte {len(outcomes)}")
    children.join()
    allowed = {"works", "SegmentCorrupt", "SegmentMismatch", "SegmentNotFound"}
    assert {offset: outcome for offset, outcome in outcomes.items() if outcome not in allowed} == {}
    assert all(outcomes[offset] == "SegmentMismatch" for offset in (*range(16), *range(80, 88)))
    assert all(outcomes[offset] == "SegmentCorrupt" for offset in (*range(16, 32), *range(40, 52)))
    assert all(outcomes[offset] == "SegmentNotFound" for offset in range(88, 104))
    assert all(outcomes[offset] == "works" for offset in range(56, 80))


class Poke:
    """A second mapping of a small-slot queue's file, and where things are in it (format/queue.h)."""

    def __init__(self, queue: shmq.Queue) -> None:
        with file_of(queue.name).open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)
        (self.slot_size,) = struct.unpack_from("<Q", self.memory, 32)
        self.slots, self.cells, self.ports = struct.unpack_from("<III", self.memory, 40)
        assert self.slot_size < 4096
        self.cells_at = 1024 + 128 * self.ports
        self.ring_at = self.cells_at + 64 * self.cells
        self.slots_at = (self.ring_at + 8 * self.slots + 127) & ~127
        self.stride = 64 + ((self.slot_size + 63) & ~63)
        assert self.slots_at + (self.slots + self.cells) * self.stride == len(self.memory)

    def word(self, offset: int) -> int:
        word: int = struct.unpack_from("<Q", self.memory, offset)[0]
        return word

    def front_slot(self) -> int:
        """Offset of the header of the oldest message's slot."""
        index = self.word(320) & 0xFFFFFF
        return self.slots_at + self.stride * (self.word(self.ring_at + 8 * index) & 0xFFFFFF)

    def write(self, offset: int, value: bytes | int) -> None:
        value = value.to_bytes(8, "little") if isinstance(value, int) else value
        self.memory[offset : offset + len(value)] = value

    def __enter__(self) -> Poke:
        return self

    def __exit__(self, *exc: object) -> None:
        self.memory.close()


def poking(queue: shmq.Queue) -> Poke:
    return Poke(queue)


# Offsets in struct shmq_slot, as in format/queue.h, and how they are stored.
FIELDS = {"nbytes": (16, "<Q"), "kind": (32, "B"), "flags": (33, "B"), "ndim": (34, "B"), "dtype": (35, "B")}
FIELDS |= {"itemsize": (36, "<I"), "shape": (40, "<I"), "shape1": (44, "<I"), "described": (56, "<I")}

# Lies about an array of eight int32 in a slot of 256 bytes.
LIES: list[dict[str, int]] = [
    {"kind": 6},
    {"kind": 255},
    {"nbytes": 257},
    {"nbytes": 2**32},
    {"nbytes": 2**63},
    {"nbytes": 2**64 - 1},
    {"nbytes": 31},
    {"kind": 0, "nbytes": 257},
    {"kind": 0, "nbytes": 2**64 - 1},
    {"kind": 2, "nbytes": 2**63},
    {"kind": 3, "nbytes": 2**40},
    {"described": 256},
    {"described": 2**32 - 1},
    {"nbytes": 2**64 - 1, "described": 1},
    {"ndim": 0},
    {"ndim": 5},
    {"ndim": 255},
    {"shape": 0},
    {"shape": 7},
    {"shape": 9},
    {"shape": 2**32 - 1},
    {"ndim": 2, "shape": 2**31, "shape1": 2**31},
    {"itemsize": 0},
    {"itemsize": 3},
    {"itemsize": 2**32 - 1},
    {"dtype": ord("O"), "itemsize": 8, "shape": 4},  # pointers into whoever reads them
    {"dtype": ord("S"), "itemsize": 0, "shape": 2**31, "nbytes": 0},  # NumPy makes one byte of an empty item
    {"dtype": ord("U"), "itemsize": 0, "shape": 2**31, "nbytes": 0},
    {"dtype": ord("U"), "itemsize": 2, "shape": 16},
    {"dtype": ord("i"), "itemsize": 16, "shape": 2},
    {"dtype": ord("b"), "itemsize": 2, "shape": 16},
    {"dtype": ord("T"), "itemsize": 16, "shape": 2},
    {"dtype": ord("("), "shape": 8},
    {"dtype": 0},
    {"dtype": 255},
    {"flags": 4},  # described, by nothing
    {"flags": 4, "described": 20},  # … by zeros
]
TAKERS: dict[str, Callable[[shmq.Queue], object]] = {
    "peek": lambda queue: queue.peek(),
    "get": lambda queue: queue.get_nowait(),
    "get_many": lambda queue: queue.get_many(4, timeout=0),
    "receive": lambda queue: queue.receive(timeout=0).data,
    "array": lambda queue: repr(queue.receive(timeout=0).array),
}


def take_a_lie(name: str, fields: dict[str, int], takers: list[str]) -> None:
    """Tell the lie about the oldest message, then look at it in each way."""
    with shmq.Queue.attach(name) as queue, poking(queue) as poke:
        slot = poke.front_slot()
        for field, value in fields.items():
            offset, form = FIELDS[field]
            poke.write(slot + offset, struct.pack(form, value))
        outcomes = {}
        for taker in takers:
            try:
                outcomes[taker] = f"returned {TAKERS[taker](queue)!r:.60}"  # and looked at what it returned
            except shmq.SegmentCorrupt as error:
                outcomes[taker] = "refused" if name in str(error) else f"does not name the queue: {error}"
            except Exception as error:
                outcomes[taker] = repr(error)
        assert outcomes == dict.fromkeys(takers, "refused")


@pytest.mark.parametrize("fields", LIES, ids=lambda fields: ", ".join(f"{field}={value}" for field, value in fields.items()))
def test_a_slot_header_that_lies_is_corrupt(make: Make, children: Children, fields: dict[str, int]) -> None:
    queue = make(slots=4, slot_size=256, allow_pickle=False)
    queue.put(np.arange(8, dtype="i4"))
    children.start(take_a_lie, queue.name, fields, list(TAKERS))
    children.join()
    assert queue.stats().gets == 0


@pytest.mark.parametrize(
    "described", [b"", b"('O', (4,), 'C')", b"('|O8', (4,), 'C')", b"(" * 100, b"('i4', (-8,), 'C')", b"('i4', (9,), 'C')"]
)
def test_a_description_that_lies_is_corrupt(make: Make, children: Children, described: bytes) -> None:
    queue = make(slots=4, slot_size=256, allow_pickle=False)
    queue.put(np.arange(8, dtype="i4"))
    with poking(queue) as poke:
        poke.write(poke.front_slot() + 64 + 32, described)
    children.start(take_a_lie, queue.name, {"flags": 4, "described": len(described)}, list(TAKERS))
    children.join()


@pytest.mark.parametrize("key", [b"../../etc/passwd", bytes(16), b"0" * 16], ids=ascii)
def test_a_spilled_message_without_its_side_segment_is_corrupt(make: Make, children: Children, key: bytes) -> None:
    for taker in TAKERS:  # a queue each: the first to meet a lost payload gives the message up
        queue = make(slots=4, slot_size=64, oversize="spill", allow_pickle=False)
        queue.put(key)
        children.start(take_a_lie, queue.name, {"flags": 8}, [taker])
        children.join()


def take_random_headers(name: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    with shmq.Queue.attach(name) as queue, poking(queue) as poke:
        for _ in range(300):
            queue.put(np.arange(8, dtype="i4"))
            slot = poke.front_slot()
            for _ in range(random.integers(1, 4)):
                place = int(random.integers(16, 60))
                if not 24 <= place < 32:  # how often it was delivered, which nobody trusts
                    poke.write(slot + place, random.bytes(1))
            for taker in TAKERS:
                try:
                    repr(TAKERS[taker](queue))
                except (shmq.SegmentCorrupt, shmq.PickleRefused, shmq.Empty, UnicodeDecodeError):
                    pass
                except TypeError as error:  # "encoded", and no codec was given
                    if "codec" not in str(error):
                        raise
            drop_all(queue, poke)


def drop_all(queue: shmq.Queue, poke: Poke) -> None:
    """Make every slot harmless, then throw everything away."""
    for slot in range(poke.slots + poke.cells):
        poke.write(poke.slots_at + slot * poke.stride + 16, bytes(8))
        poke.write(poke.slots_at + slot * poke.stride + 32, bytes(32))
    queue.purge()


@pytest.mark.parametrize("seed", range(4))
def test_random_slot_headers_never_kill_the_reader(make: Make, children: Children, seed: int) -> None:
    queue = make(slots=4, slot_size=256, in_flight=4, ports=2, allow_pickle=False)
    children.start(take_random_headers, queue.name, seed)
    children.join()


# -- words that lie ------------------------------------------------------------------------------------------------------------

WORDS = {
    "all ones": 2**64 - 1,
    "slot beyond the end, ready": 1 << 24 | 0xFFFFFF,
    "slot beyond the end, empty": 0xFFFFFF,
    "impossible state 2": 2 << 24,
    "impossible state 3": 3 << 24,
    "half the laps ahead": 1 << 63 | 1 << 24,
    "a lap behind": (2**38 - 1) << 26 | 1 << 24,
    "a few laps ahead": 5 << 26 | 1 << 24,
    "a few laps ahead, empty": 5 << 26,
}
OPERATIONS: dict[str, Callable[[shmq.Queue], object]] = {
    "put": lambda queue: queue.put(b"x", timeout=0.001),
    "put_many": lambda queue: queue.put_many([b"x", b"y"], timeout=0.001),
    "get": lambda queue: queue.get(timeout=0.001),
    "get_many": lambda queue: queue.get_many(3, timeout=0.001),
    "receive": lambda queue: queue.receive(timeout=0.001),
    "receive_many": lambda queue: queue.receive_many(3, timeout=0.001),
    "loan": lambda queue: queue.loan(1).publish(timeout=0.001),
    "peek": lambda queue: queue.peek(3),
    "drain": lambda queue: queue.drain(),
    "purge": lambda queue: queue.purge(),
    "looks": lambda queue: (queue.qsize(), queue.empty(), queue.full(), repr(queue), queue.stats()),
}


def operate_on(name: str, writes: dict[int, int]) -> None:
    """Do everything to a queue, while before each call somebody writes these words into its file."""
    signal.alarm(20)  # kills, also where the interpreter never comes to look at signals
    with shmq.Queue.attach(name) as queue, poking(queue) as poke:
        for operation in OPERATIONS.values():
            for offset, word in writes.items():
                poke.write(offset, word)
            try:
                operation(queue)
            except (shmq.SegmentCorrupt, shmq.Empty, shmq.Full):
                pass


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
@pytest.mark.parametrize("fill", [0, 2, 4], ids=["empty", "half", "full"])
def test_a_ring_cell_that_lies_stops_nobody(make: Make, children: Children, word: int, fill: int) -> None:
    queue = make(slots=4, slot_size=64)
    queue.put_many([b"x"] * fill)
    with poking(queue) as poke:
        writes = {poke.ring_at + 8 * index: word for index in range(4)}
    children.start(operate_on, queue.name, writes)
    children.join()


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
@pytest.mark.parametrize("offset", [256, 320], ids=["write_seq", "read_seq"])
def test_a_sequence_that_lies_stops_nobody(make: Make, children: Children, word: int, offset: int) -> None:
    queue = make(slots=4, slot_size=64)
    queue.put_many([b"x"] * 2)
    children.start(operate_on, queue.name, {offset: word})
    children.join()


def look_with_lagging(name: str, offset: int) -> None:
    """As after a process died between its exchange and the step of the sequence."""
    signal.alarm(10)
    with shmq.Queue.attach(name) as queue, poking(queue) as poke:
        front = queue.peek(5)
        assert poke.word(offset) == 2
        poke.write(offset, 1)
        assert (queue.qsize(), queue.peek(5)) == (len(front), front)
        assert (queue.empty(), queue.full()) == (not front, False)
        assert queue.drain() == front


@pytest.mark.parametrize("left", [0, 1])
def test_a_read_sequence_that_lags_is_seen_through(make: Make, children: Children, left: int) -> None:
    queue = make(slots=8, slot_size=64)
    queue.put_many([b"1", b"2", b"3"][: 2 + left])
    queue.get(), queue.get()
    children.start(look_with_lagging, queue.name, 320)
    children.join()
    queue.put(b"on")
    assert queue.get_nowait() == b"on"


def test_a_write_sequence_that_lags_is_seen_through(make: Make, children: Children) -> None:
    queue = make(slots=8, slot_size=64)
    queue.put_many([b"1", b"2"])
    children.start(look_with_lagging, queue.name, 256)
    children.join()
    queue.put(b"on")
    assert queue.get_nowait() == b"on"


@pytest.mark.parametrize("word", [2**64 - 1, 6 << 34 | 0xFFFFFF, 0xFFFFFF, 7 << 34, 4 << 34 | 1000 << 24 | 0xFFFFFF], ids=hex)
def test_an_in_flight_cell_that_lies_stops_nobody(make: Make, children: Children, word: int) -> None:
    queue = make(slots=4, slot_size=64, in_flight=8, ports=4)
    queue.put_many([b"x"] * 2)
    with poking(queue) as poke:
        nobodys = [poke.cells_at + 64 * cell for cell in range(6, 12)]  # far from those that the two handles keep
        assert all(poke.word(offset) >> 34 & 7 == 0 for offset in nobodys)
    children.start(operate_on, queue.name, {**dict.fromkeys(nobodys, word), 392: word})  # and tell that something came back
    children.join()


def publish_what_was_scribbled_over(name: str) -> None:
    """While the slot is lent, somebody makes its cell name one far behind the segment."""
    signal.alarm(20)
    with shmq.Queue.attach(name) as queue, poking(queue) as poke:
        loan = queue.loan(1)
        (cell,) = [at for at in range(poke.cells_at, poke.ring_at, 64) if poke.word(at) >> 34 & 7 == 3]
        honest = poke.word(cell)
        poke.write(cell, honest | 0xFFFFFF)
        with pytest.raises(shmq.SegmentCorrupt, match="16777215"):
            loan.publish(timeout=0)
        poke.write(cell, honest)
        loan.publish(timeout=0)
        assert len(queue.get_nowait()) == 1


def test_a_loan_whose_cell_lies_is_not_published(make: Make, children: Children) -> None:
    children.start(publish_what_was_scribbled_over, make(slots=4, slot_size=64).name)
    children.join()


@pytest.mark.parametrize("intent", [2**64 - 1, 1 << 62, 2 << 62 | 3 << 48 | 2 << 24 | 1, 1 << 62 | 0xFFFFFF], ids=hex)
def test_a_dead_port_that_lies_stops_nobody(make: Make, children: Children, intent: int) -> None:
    queue = make(slots=4, slot_size=64, in_flight=8, ports=4)
    queue.put_many([b"x"] * 2)
    port = 1024 + 128 * 3
    children.start(operate_on, queue.name, {port: 12345, port + 64: intent, port + 72: 2**64 - 1})
    children.join()


def detach_from_corrupt(name: str, word: int) -> None:
    signal.alarm(20)
    queue = shmq.Queue.attach(name)
    with poking(queue) as poke:
        for index in range(poke.slots):
            poke.write(poke.ring_at + 8 * index, word)
    queue.close()
    shmq.Queue.attach(name).close()


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
def test_a_corrupt_ring_can_be_closed_and_attached(make: Make, children: Children, word: int) -> None:
    queue = make(slots=4, slot_size=64)
    children.start(detach_from_corrupt, queue.name, word)
    children.join()
