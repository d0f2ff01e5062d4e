"""User code that does the worst thing in the middle of a call: it clears, closes, settles, forks, puts again, raises.

What an object's pickling, a codec, a time-out's __float__, a logging handler or a second thread does while the binding is at work
must neither reach memory that is not this call's any more, nor a port that was given back.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import shmq
from support.processes import wait_until
from support.programs import run_program

Make = Callable[..., shmq.Queue]
LONG = 60.0
LARGE = 1 << 20  # copied without the interpreter lock


class Runs:
    """Pickles as the number 7, and runs a function while it does."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function

    def __reduce__(self) -> Any:
        self.function()
        return int, (7,)


class Seconds:
    """A time-out that runs a function when it is asked how long it is."""

    def __init__(self, seconds: float, function: Callable[[], object]) -> None:
        self.seconds = seconds
        self.function = function

    def __float__(self) -> float:
        self.function()
        return self.seconds


class Unpickled:
    """Runs whatever `at_load` is when it is unpickled in this process."""

    at_load: Callable[[], object] = staticmethod(lambda: None)

    def __reduce__(self) -> Any:
        return unpickle, ()


def unpickle() -> str:
    Unpickled.at_load()
    return "unpickled"


class Calls:
    """A codec for text that runs a function when it encodes, or decodes."""

    name = "calls"

    def __init__(self) -> None:
        self.at_encode: Callable[[], object] = lambda: None
        self.at_decode: Callable[[memoryview], object] = lambda data: None

    def encode(self, obj: Any) -> bytes:
        self.at_encode()
        return str(obj).encode()

    def decode(self, data: memoryview) -> Any:
        kept = self.at_decode(data)
        return bytes(data).decode() if kept is None else kept


@pytest.fixture
def codec() -> Calls:
    return Calls()


@pytest.fixture(autouse=True)
def nothing_at_load() -> Iterator[None]:
    yield
    Unpickled.at_load = staticmethod(lambda: None)


def all_is_sound(queue: shmq.Queue, ports: int = 1) -> None:
    """Nothing is held by anybody, seen by a handle of its own, and the segment is whole."""
    with shmq.Queue.attach(queue.name, codec=queue.codec) as look:
        assert len(look._ports()) == ports, look._ports()
        assert [cell for cell in look._cells() if cell[0] not in ("spare", "warm", "idle")] == []
        shmq.verify(look)


# -- lists and buffers that change under a put -------------------------------------------------------------------------------


def test_a_list_that_pickling_clears_was_taken_as_it_was(make: Make) -> None:
    q = make(slots=64)
    objs: list[Any] = []
    objs += [Runs(objs.clear), *(f"text {number}" for number in range(30))]
    assert q.put_many(objs) == 31
    assert q.drain() == [7, *(f"text {number}" for number in range(30))]


@pytest.mark.parametrize("kind", ["array", "str", "bytes", "bytearray"])
def test_a_list_that_is_emptied_while_put_many_waits_is_put_as_it_was(kind: str) -> None:
    """In a program of its own: what is read there may be freed memory."""
    out = run_program(
        """
        import sys, threading, time
        import numpy as np
        import shmq
        make = {
            "array": lambda n: np.full(1 << 20, 65 + n, np.uint8), "str": lambda n: chr(65 + n) * 500_000,
            "bytes": lambda n: bytes([65 + n]) * 500_000, "bytearray": lambda n: bytearray([65 + n]) * 500_000,
        }[sys.argv[1]]
        q = shmq.Queue(slots=2, slot_size=1 << 20)
        q.put_many([b"a", b"b"])
        objs = [make(n) for n in range(4)]
        def empty_and_take():
            while q._waiters()[1] == 0:
                time.sleep(0.01)
            objs.clear()
            rubbish = [bytes(500_000) for _ in range(8)]
            got.extend(q.get(timeout=30) for _ in range(6))
        got = []
        thread = threading.Thread(target=empty_and_take)
        thread.start()
        q.put_many(objs)
        thread.join()
        for thing in got[2:]:
            data = thing.encode() if isinstance(thing, str) else bytes(thing)
            assert set(data) == {data[0]} and len(data) in (500_000, 1 << 20), set(data)
        print(*(bytes(thing[:1] if not isinstance(thing, str) else thing[:1].encode()).decode() for thing in got[2:]))
        """,
        kind,
    )
    assert out.split() == ["A", "B", "C", "D"]


def test_an_array_that_waits_to_be_put_cannot_be_resized_by_another_thread(make: Make) -> None:
    q = make(slots=1, slot_size=1 << 16)
    q.put(b"full")
    holder = [np.full(1 << 12, 7, np.uint8)]
    thread = threading.Thread(target=lambda: q.put_many([holder[0]]))
    thread.start()
    wait_until(lambda: q._waiters()[1])
    with pytest.raises(ValueError, match="resize"):
        holder[0].resize(1 << 15)
    assert q.get() == b"full"
    assert q.get(timeout=LONG).tolist() == [7] * (1 << 12)
    thread.join()


# -- a queue that is closed in the middle ------------------------------------------------------------------------------------

PUTS: dict[str, Callable[[shmq.Queue, Any], object]] = {
    "put": lambda q, obj: q.put(obj),
    "put_many": lambda q, obj: q.put_many([b"first", obj, b"last"]),
    "put_nowait": lambda q, obj: q.put_nowait(obj),
}
TAKES: dict[str, Callable[[shmq.Queue], object]] = {
    "get": lambda q: q.get(),
    "get_many": lambda q: q.get_many(4),
    "drain": lambda q: q.drain(),
}


@pytest.mark.parametrize("parameters", [{}, {"slot_size": 16, "oversize": "spill"}, {"overflow": "grow", "slots": 2}])
@pytest.mark.parametrize("how", PUTS)
def test_a_put_whose_pickling_closes_the_queue_raises_closed(make: Make, how: str, parameters: dict[str, Any]) -> None:
    q = make(**parameters)
    other = shmq.Queue.attach(q.name)
    with pytest.raises(shmq.Closed):
        PUTS[how](q, [Runs(q.close), "x" * 100])
    assert other.empty()
    other.put(b"another's")
    assert other.get() == b"another's"
    assert other._side_keys() == set()
    other.close()
    all_is_sound(q)


def test_a_put_whose_codec_closes_the_queue_raises_closed(make: Make, codec: Calls) -> None:
    q = make(codec=codec)
    codec.at_encode = q.close
    with pytest.raises(shmq.Closed):
        q.put(["something"])
    all_is_sound(q)


@pytest.mark.parametrize("how", TAKES)
def test_a_get_whose_unpickling_closes_the_queue_returns_what_it_took(make: Make, how: str) -> None:
    q = make(slots=16)
    other = shmq.Queue.attach(q.name)
    q.put_many([Unpickled(), b"second", Unpickled(), b"last"])
    Unpickled.at_load = staticmethod(q.close)
    if how == "drain":
        assert TAKES[how](q) == ["unpickled", b"second", "unpickled", b"last"]
    elif how == "get":
        assert TAKES[how](q) == "unpickled"
        assert other.get_many(4)[0] == b"second"
        other.purge()
    else:
        assert TAKES[how](q) == ["unpickled", b"second", "unpickled", b"last"]
    assert other.empty() and not other.leases()
    other.close()
    all_is_sound(q)


def test_a_get_whose_unpickling_closes_the_queue_and_fails_gives_back(make: Make) -> None:
    q = make()
    other = shmq.Queue.attach(q.name)

    def close_and_fail() -> None:
        q.close()
        raise OSError("no")

    Unpickled.at_load = staticmethod(close_and_fail)
    q.put_many([b"first", Unpickled(), b"third"])
    with pytest.raises(OSError, match="no"):
        q.get_many(3)
    Unpickled.at_load = staticmethod(lambda: None)
    assert sorted(map(str, (other.get(), other.get(), other.get()))) == sorted(map(str, (b"first", "unpickled", b"third")))
    other.close()
    all_is_sound(q)


def test_the_data_of_a_lease_whose_codec_closes_the_queue_can_still_be_acked(make: Make, codec: Calls) -> None:
    q = make(codec=codec)
    q.put(["text"])
    lease = q.receive()
    codec.at_decode = lambda data: q.close()
    assert lease.data == "['text']"
    lease.ack()
    all_is_sound(q, ports=1)


def test_a_time_out_that_closes_the_queue_when_it_is_asked_for_is_survived(make: Make) -> None:
    q = make(slots=1)
    other = shmq.Queue.attach(q.name)
    other.put(b"full")
    with pytest.raises(shmq.Closed):
        q.put(b"x", timeout=Seconds(5.0, q.close))  # type: ignore[arg-type]
    assert other.get() == b"full"
    q = shmq.Queue.attach(q.name)
    with pytest.raises(shmq.Closed):
        q.get(timeout=Seconds(5.0, q.close))  # type: ignore[arg-type]
    q = shmq.Queue.attach(q.name)
    with pytest.raises(shmq.Closed):
        q.receive_many(3, timeout=Seconds(5.0, q.close))  # type: ignore[arg-type]
    other.close()
    all_is_sound(q)


def test_a_log_handler_that_closes_the_queue_of_a_stalled_put_ends_the_put(make: Make) -> None:
    q = make(slots=1)
    q.put(b"full")
    q._stalled = lambda seconds, cells: q.close()  # type: ignore[method-assign]
    q.put_patience = None
    with pytest.raises(shmq.Closed):
        q.put(b"x", timeout=7.0)
    all_is_sound(q)


@pytest.mark.parametrize("grows", [False, True])
def test_a_large_put_of_a_queue_that_is_closed_meanwhile_holds_nothing_then(make: Make, grows: bool) -> None:
    q = make(slots=8, slot_size=16 << 20, in_flight=4, **({"overflow": "grow"} if grows else {}))
    other = shmq.Queue.attach(q.name)
    payload = np.zeros(16 << 20, np.uint8)

    def close_in_the_copy() -> None:
        wait_until(lambda: any(cell[0] == "idle" for cell in other._cells()))
        q.close()

    thread = threading.Thread(target=close_in_the_copy)
    thread.start()
    with contextlib.suppress(shmq.Closed):
        for _ in range(7):
            q.put_many([payload]) if grows else q.put(payload)
    thread.join()
    other.purge()
    other.close()
    all_is_sound(q)


# -- leases and loans in the hands of several threads ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 5000], ids=["in a slot", "spilled"])
@pytest.mark.parametrize("settle", ["ack", "release", "nack", "reject"])
def test_the_data_of_a_lease_that_is_settled_meanwhile_is_whole(make: Make, codec: Calls, settle: str, size: int) -> None:
    q = make(slots=16, slot_size=1024, oversize="spill", codec=codec)
    q.put(["m" * size])
    leases = [q.receive()]

    def settle_and_use_the_slot(data: memoryview) -> None:
        getattr(leases[0], settle)()
        with contextlib.suppress(shmq.Empty):
            q.get(False)  # where it came back
        for number in range(200):  # more than there are cells and slots
            q.put(f"overwritten {number}" * 20)
            q.get()

    ran: list[int] = []

    def once(data: memoryview) -> None:
        if not ran:
            ran.append(1)
            settle_and_use_the_slot(data)

    codec.at_decode = once
    assert leases[0].data == str(["m" * size])
    assert leases[0].settled
    leases.clear()
    q.dead_letters.purge()
    q.purge()
    all_is_sound(q, ports=2)


@pytest.mark.parametrize("second", ["ack", "release"])
def test_a_lease_that_is_settled_while_it_is_rejected_is_settled_once(make: Make, second: str) -> None:
    q = make(slots=4, slot_size=64, oversize="spill")
    q.put(b"x" * 1000)
    leases = [q.receive()]
    write = q._write_dead_letter
    lost: list[BaseException] = []

    def settle_again() -> None:
        try:
            getattr(leases[0], second)()
        except shmq.LeaseLost as error:
            lost.append(error)

    q._write_dead_letter = lambda image, **about: (settle_again(), write(image, **about))  # type: ignore[method-assign]
    leases[0].reject()
    del q._write_dead_letter
    assert len(lost) == 1
    lost.clear()
    leases.clear()
    assert q._unfinished() == 0
    q.dead_letters.purge()
    q.close()
    all_is_sound(q)


def test_a_loan_that_waits_to_be_published_is_not_abandoned_or_published_again(make: Make) -> None:
    q = make(slots=1, slot_size=64)
    q.put(b"full")
    loan = q.loan(5)
    loan.view[:] = b"first"
    thread = threading.Thread(target=loan.publish)
    thread.start()
    wait_until(lambda: q._waiters()[1])
    with pytest.raises(shmq.LeaseLost, match="being published"):
        loan.abandon()
    with pytest.raises(shmq.LeaseLost, match="being published"):
        loan.publish()
    with pytest.raises(shmq.LeaseLost):
        loan.array  # noqa: B018
    assert [q.get(), q.get(timeout=LONG)] == [b"full", b"first"]
    thread.join()
    loan.abandon()
    q.close()
    del loan
    all_is_sound(q)


def test_a_loan_that_found_no_room_can_be_published_afterwards(make: Make) -> None:
    q = make(slots=1, slot_size=64)
    q.put(b"full")
    loan = q.loan(5)
    with pytest.raises(shmq.Full):
        loan.publish(timeout=0)
    loan.view[:] = b"later"
    q.get()
    loan.publish()
    assert q.get() == b"later"


class Grows:
    """An index that is larger each time that it is asked."""

    def __init__(self) -> None:
        self.value = -1

    def __index__(self) -> int:
        self.value += 1000
        return self.value - 990


def test_the_size_of_a_publication_is_asked_for_once(make: Make) -> None:
    q = make(slots=4, slot_size=64)
    loan = q.loan(32)
    size = Grows()
    loan.publish(size)  # type: ignore[arg-type]
    assert size.value == 999
    assert len(q.get()) == 9


# -- codecs that keep what they were lent ------------------------------------------------------------------------------------


def test_a_codec_that_returns_a_view_of_the_slot_is_told_so(make: Make, codec: Calls) -> None:
    q = make(codec=codec)
    kept: list[Any] = []

    def keep(data: memoryview) -> Any:
        kept.append(np.frombuffer(data, np.uint8))
        return kept[-1]

    q.put(["text"])
    codec.at_decode = keep
    with pytest.raises(TypeError, match="Copy it"):
        q.get()
    codec.at_decode = lambda data: None
    kept.clear()
    assert q.get() == "['text']"


def test_the_view_that_a_codec_was_given_is_over_after_the_call(make: Make, codec: Calls) -> None:
    q = make(codec=codec)
    kept: list[memoryview] = []
    q.put(["text"])
    codec.at_decode = kept.append
    assert q.get() == "['text']"
    with pytest.raises(ValueError, match="released"):
        bytes(kept[0])


# -- forks in the middle -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["get", "get_many", "data"])
def test_a_child_forked_while_a_message_is_decoded_leaves_it_to_its_parent(make: Make, how: str) -> None:
    q = make(slots=16)
    q.put_many([b"first", Unpickled(), b"third"] if how == "get_many" else [Unpickled()])
    children: list[int] = []
    Unpickled.at_load = staticmethod(lambda: children.append(os.fork()))
    status = 1
    try:
        if how == "data":
            lease = q.receive()
            got: Any = lease.data
            lease.ack()
        else:
            got = q.get() if how == "get" else q.get_many(3)
        status = 2
    except shmq.LeaseLost:
        status = 0
    finally:
        if children == [0]:
            os._exit(status)
    assert os.waitpid(children[0], 0)[1] == 0, "the child took what is its parent's"
    assert got == ([b"first", "unpickled", b"third"] if how == "get_many" else "unpickled")
    assert q._unfinished() == (0 if how == "data" else len(got) if how == "get_many" else 1)
    q.close()
    if how == "data":
        del lease
    all_is_sound(q)


# -- finalizers and second threads at random ---------------------------------------------------------------------------------


def test_collectors_that_settle_close_and_put_at_any_moment_are_survived(make: Make) -> None:
    """Cycles whose finalizers use the queue, collected as often as can be."""
    q = make(slots=32, slot_size=256, oversize="spill")
    before = gc.get_threshold()
    count = 0

    class Cycle:
        def __init__(self, lease: Any) -> None:
            self.me = self
            self.lease = lease

        def __del__(self) -> None:
            nonlocal count
            count += 1
            with contextlib.suppress(shmq.ShmqError):
                q.put((count, "x" * (300 if count % 7 == 0 else 3)), block=False)
            if self.lease is not None:
                with contextlib.suppress(shmq.ShmqError):
                    self.lease.data  # noqa: B018
                    self.lease.ack()

    gc.set_threshold(3)
    try:
        for number in range(2_000):
            with contextlib.suppress(shmq.ShmqError):
                q.put([number], block=False)
            lease = None
            with contextlib.suppress(shmq.ShmqError):
                lease = q.receive(0)
            Cycle(lease)
            with contextlib.suppress(shmq.ShmqError):
                q.get_many(3, timeout=0)
            with contextlib.suppress(shmq.ShmqError), q.loan(16) as view:
                view[:] = bytes(16)
        del lease
    finally:
        gc.set_threshold(*before)
    gc.collect()
    q.purge()
    assert not q.leases()
    q.close()
    all_is_sound(q)
