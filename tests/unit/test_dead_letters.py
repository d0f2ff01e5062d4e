"""Dead letters: which messages are given up, what is kept of them, how they come back, and that none is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import logging
import os
import pickle
import resource
import signal
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmq
from shmq import _core
from shmq._repair import repair
from shmq._store import dead_letters
from support.processes import Children, wait_until
from support.shared_memory import PREFIX, side_files

Make = Callable[..., shmq.Queue]
LONG = 60.0
SHM = "/dev/shm"


@pytest.fixture
def q(make: Make) -> shmq.Queue:
    """Messages of this queue die at their first failure."""
    return make(slots=8, slot_size=1024, max_deliveries=1)


def files_of(queue: shmq.Queue, what: str = "") -> list[str]:
    return sorted(entry for entry in os.listdir(SHM) if entry.startswith(f"{PREFIX}{queue.name}+") and entry.endswith(what))


def folder_of(queue: shmq.Queue) -> str:
    return f"{SHM}/{queue.segment.file('dead')}"


def letter_files(queue: shmq.Queue) -> list[str]:
    try:
        return sorted(os.listdir(folder_of(queue)))
    except FileNotFoundError:
        return []


def kill(queue: shmq.Queue, thing: Any, reason: str = "") -> Any:
    """Make a dead letter of it."""
    queue.put(thing)
    queue.receive(timeout=LONG).reject(reason)
    return queue.dead_letters[-1]


def in_use(queue: shmq.Queue) -> tuple[int, int, int]:
    stats = queue.stats()
    return stats.ready, stats.leased, stats.returned


# -- how often -----------------------------------------------------------------------------------------------------------------


def fail_until_dead(queue: shmq.Queue, most: int = 100) -> int:
    for failures in itertools.count():
        try:
            queue.receive(timeout=0).nack(delay=0)
        except shmq.Empty:
            return failures
        if failures == most:
            return -1
    raise AssertionError


@pytest.mark.parametrize(("given", "deaths"), [({}, 20), ({"max_deliveries": 1}, 1), ({"max_deliveries": 3}, 3)])
def test_a_message_dies_after_so_many_failures(make: Make, given: dict[str, int], deaths: int) -> None:
    queue = make(slots=4, slot_size=64, **given)
    queue.put("x")
    assert fail_until_dead(queue) == deaths
    (letter,) = queue.dead_letters
    assert (letter.delivery_count, letter.reason, letter.cause) == (deaths, f"max_deliveries={deaths}", "nacked")
    assert in_use(queue) == (0, 0, 0) and queue.empty()


def test_with_zero_it_never_dies(make: Make) -> None:
    queue = make(slots=4, slot_size=64, max_deliveries=0)
    queue.put("x")
    assert fail_until_dead(queue) == -1
    assert len(queue.dead_letters) == 0 and in_use(queue) == (0, 0, 1)
    queue.receive(timeout=0).reject("although")  # but it can be rejected
    assert queue.dead_letters[0].reason == "although"


@pytest.mark.parametrize("bad", [-1, 0x10000, 1.5, "3", 10**30])
def test_a_number_of_deliveries_that_cannot_be_is_refused(name: str, bad: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="max_deliveries"):
        shmq.Queue(name, slots=4, slot_size=64, max_deliveries=bad)
    assert name not in shmq.list_segments()


def test_a_release_is_no_failure(q: shmq.Queue) -> None:
    q.put("x")
    for _ in range(5):
        q.receive(timeout=0).release()
    assert not len(q.dead_letters) and q.get_nowait() == "x"


def test_a_file_that_is_no_letter_keeps_nobody_from_the_others(q: shmq.Queue, caplog: pytest.LogCaptureFixture) -> None:
    click_testing = pytest.importorskip("click.testing", reason="needs shmq[cli]")
    pytest.importorskip("rich", reason="needs shmq[cli]")
    from shmq.cli._group import group

    for number in range(2):
        kill(q, number, "why")
    with open(f"{folder_of(q)}/{'0' * 16}", "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write("no letter")
    with caplog.at_level(logging.WARNING, "shmq"):
        assert [letter.data for letter in q.dead_letters] == [0, 1]
    assert "cannot be read" in caplog.text
    said = click_testing.CliRunner().invoke(group, ["dead", q.name])
    assert said.exit_code == 0 and said.output.count("rejected: why") == 2 and "cannot be read" in said.output.replace("\n", " ")
    assert q.redrive() == 2 and [q.get_nowait(), q.get_nowait()] == [0, 1]


def test_an_exception_in_the_block_is_kept_in_words(q: shmq.Queue) -> None:
    q.put("x")
    with pytest.raises(KeyError), q.receive(timeout=0) as lease:
        assert lease.data == "x"
        raise KeyError("of the user's own \udc80 words")
    (letter,) = q.dead_letters
    assert "KeyError" in letter.error and "user's own" in letter.error and "test_an_exception_in_the_block" in letter.error
    assert letter.cause == "nacked" and letter.data == "x"


class Particular(Exception):
    """Takes what a normalised exception must have been given."""

    def __init__(self, what: str, *, where: str) -> None:
        super().__init__(f"{what} in {where}")


def look_closely(what: object) -> None:
    raise Particular(str(what), where="the lens")


def loop(q: shmq.Queue, **how: Any) -> None:
    for lease in q.consume(**how):
        look_closely(lease.data)


def divide(q: shmq.Queue, **how: Any) -> None:
    for lease in q.consume(**how):
        print(len(lease.data) / 0)


def loop_awaiting(q: shmq.Queue, **how: Any) -> None:
    async def main() -> None:
        async for lease in q.consume(**how):
            await asyncio.sleep(0)
            look_closely(lease.data)

    asyncio.run(main())


@pytest.mark.parametrize("prefetch", [1, 3])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (loop, ["Particular: dust in the lens", "in look_closely", "in loop"]),
        (loop_awaiting, ["Particular: dust in the lens", "in look_closely", "in main"]),
        (divide, ["ZeroDivisionError: division by zero", "in divide"]),  # raised by the interpreter itself
    ],
    ids=["for", "async for", "of the interpreter"],
)
def test_an_exception_in_the_body_of_a_loop_is_kept_in_words(
    q: shmq.Queue, body: Callable[..., None], words: list[str], prefetch: int
) -> None:
    q.put_many(["dust", "next"])
    with pytest.raises((Particular, ZeroDivisionError)) as caught:
        body(q, prefetch=prefetch, timeout=0)
    assert caught.traceback[-1].name in ("look_closely", "divide")  # nothing was taken from it
    (letter,) = q.dead_letters
    assert letter.data == "dust" and letter.cause == "nacked"
    assert [word for word in words if word not in letter.error] == []
    assert q.get_nowait() == "next"


def test_an_exception_in_the_body_of_a_loop_is_let_go_of(q: shmq.Queue) -> None:
    class Fails(Exception):
        pass

    q.put("x")
    error: Fails | None = Fails()
    seen = weakref.ref(error)
    with contextlib.suppress(Fails):
        for _ in q:
            raise error
    error = None
    gc.collect()
    assert seen() is None and len(q.dead_letters) == 1


def test_of_a_long_exception_the_end_is_kept(q: shmq.Queue) -> None:
    q.put("x")
    with pytest.raises(ValueError), q.receive(timeout=0):
        raise ValueError("a" * 100_000 + " the end")
    assert q.dead_letters[0].error.rstrip().endswith("the end")
    assert len(q.dead_letters[0].error) <= dead_letters.LONGEST_ERROR


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_exception_without_words_loses_nothing(q: shmq.Queue) -> None:
    q.put("x")
    with pytest.raises(Mute), q.receive(timeout=0):
        raise Mute
    assert "Mute" in q.dead_letters[0].error


def test_a_dropped_lease_and_a_loop_that_raises_count_too(q: shmq.Queue) -> None:
    q.put_many(["dropped", "loop"])
    q.receive(timeout=0)
    gc.collect()
    with pytest.raises(LookupError):
        for lease in q.consume(timeout=0):
            assert lease.data == "loop"
            raise LookupError
    with pytest.raises(shmq.Empty):  # the next consumer makes it a dead letter
        q.get_nowait()
    assert sorted(letter.data for letter in q.dead_letters) == ["dropped", "loop"]


def test_what_is_to_be_dead_lettered_is_no_message_that_can_be_taken(q: shmq.Queue) -> None:
    q.put("x")
    q.receive(timeout=0)
    gc.collect()
    assert q.empty()
    assert q._dead_letter_all() == 1


def die_with_it(q: shmq.Queue, answers: shmq.Queue) -> None:
    lease = q.receive(timeout=LONG)
    answers.put((lease.delivery_count, lease.data))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_message_that_kills_its_holders_is_given_up(make: Make, children: Children) -> None:
    queue, answers = make(slots=4, slot_size=256, max_deliveries=3), make(slots=8, slot_size=256)
    queue.put({"poison": 1})
    for number in (1, 2, 3):
        children.start(die_with_it, queue, answers)
        assert answers.get(timeout=LONG) == (number, {"poison": 1})
        children.started[-1].join()
    with pytest.raises(shmq.Empty):
        queue.get(timeout=0.3)
    (letter,) = queue.dead_letters
    assert (letter.cause, letter.delivery_count, letter.error, letter.data) == ("died", 3, "", {"poison": 1})
    assert letter.reason == "max_deliveries=3"
    assert queue.stats().deaths == 3


def test_a_message_that_takes_too_long_is_given_up(make: Make) -> None:
    queue = make(slots=4, slot_size=256, max_deliveries=2, lease_timeout=0.01)
    queue.put("slow")
    held = [queue.receive(timeout=LONG), queue.receive(timeout=LONG)]
    wait_until(lambda: time.monotonic() > (held[-1].expires_at or 0))
    with pytest.raises(shmq.Empty):
        queue.get(timeout=0.3)
    (letter,) = queue.dead_letters
    assert (letter.cause, letter.delivery_count, letter.data) == ("expired", 2, "slow")


class Poison:
    def __reduce__(self) -> Any:
        return int, ("no number",)


@pytest.mark.parametrize(
    "take",
    [lambda q: q.get(timeout=0), lambda q: q.get_many(3, timeout=0), lambda q: q.receive(timeout=0).data],
    ids=["get", "get_many", "data"],
)
@pytest.mark.parametrize("slot_size", [256, 4096])
def test_poison_is_given_up(make: Make, slot_size: int, take: Callable[..., Any]) -> None:
    queue = make(slots=8, slot_size=slot_size, max_deliveries=2)
    queue.put_many([Poison(), "good"])
    for _ in range(2):
        with pytest.raises(ValueError, match="no number"):
            take(queue)
        gc.collect()
    assert queue.drain() == ["good"]
    (letter,) = queue.dead_letters
    assert letter.delivery_count == 2 and letter.cause == "nacked"
    with pytest.raises(ValueError, match="no number"):
        _ = letter.data
    assert in_use(queue) == (0, 0, 0)


def test_what_get_could_not_decode_is_kept_with_the_exception(q: shmq.Queue) -> None:
    q.put(Poison())
    with pytest.raises(ValueError):
        q.get(timeout=0)
    assert "no number" in q.dead_letters[0].error


@pytest.mark.parametrize("reason", ["", "no such user", "two\nlines", "\udc80 \0 ☃" * 100])
def test_a_rejected_message_is_dead_at_once_with_its_reason(make: Make, reason: str) -> None:
    queue = make(slots=4, slot_size=64)
    letter = kill(queue, b"x", reason)
    assert (letter.reason, letter.cause, letter.delivery_count, letter.error) == (reason, "rejected", 1, "")
    assert in_use(queue) == (0, 0, 0)


@pytest.mark.parametrize("bad", [None, 1, b"bytes", ["list"]])
def test_a_reason_that_is_no_text_is_refused_and_the_lease_kept(q: shmq.Queue, bad: Any) -> None:
    q.put("x")
    lease = q.receive(timeout=0)
    with pytest.raises(TypeError, match="reason"):
        lease.reject(bad)
    assert not lease.settled and in_use(q) == (0, 1, 0)
    lease.ack()


# -- what is kept --------------------------------------------------------------------------------------------------------------


def test_a_letter_tells_when_by_whom_and_how_large(make: Make) -> None:
    queue = make(slots=4, slot_size=256, max_deliveries=2)
    before = time.time()
    queue.put(b"12345")
    time.sleep(0.05)
    queue.receive(timeout=0).nack(delay=0)
    time.sleep(0.05)
    lease = queue.receive(timeout=0)
    lease.nack(delay=0)
    after = time.time()
    (letter,) = queue.dead_letters
    tick = 0.02  # of the coarse clock
    assert before - tick <= letter.published_at <= letter.first_failed_at <= letter.dead_lettered_at <= after + tick
    assert letter.first_failed_at - letter.published_at >= 0.03
    assert letter.dead_lettered_at - letter.first_failed_at >= 0.03
    assert (letter.id, letter.nbytes, letter.dead_lettered_by) == (lease.id, 5, os.getpid())


STRUCTURED = np.array([(1, 2.5, "a"), (3, 4.5, "b")], dtype=[("n", "<i4"), ("x", "<f8"), ("s", "U3")])
THINGS: dict[str, Any] = {
    "bytes": b"\0\n\xff",
    "no bytes": b"",
    "bytearray": bytearray(b"abc\n"),
    "text": "snow ☃\n",
    "number": 5,
    "none": None,
    "array": np.arange(12, dtype="<i2").reshape(3, 4),
    "empty array": np.zeros((0, 3)),
    "scalar array": np.array(2.5),
    "Fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big-endian": np.arange(5, dtype=">i4"),
    "structured": STRUCTURED,
    "six dimensions": np.arange(64).reshape(2, 2, 2, 2, 2, 2),
    "dates": np.array(["2020-01-01"], "M8[D]"),
    "out of band": {"a": np.arange(20), "b": [np.ones(3)]},
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return bool(
            one.dtype == other.dtype
            and one.shape == other.shape
            and one.flags.f_contiguous == other.flags.f_contiguous
            and (one == other).all()
        )
    return type(one) is type(other) and pickle.dumps(one) == pickle.dumps(other)


@pytest.mark.parametrize("thing", THINGS.values(), ids=THINGS.keys())
@pytest.mark.parametrize("slot_size", [1024, 4096, 16], ids=["small", "large", "spilled"])
def test_a_letter_keeps_what_was_put_and_gives_it_back(make: Make, thing: Any, slot_size: int) -> None:
    queue = make(slots=4, slot_size=slot_size, max_deliveries=1, oversize="spill")
    queue.put(thing)
    with queue.receive(timeout=0) as lease:
        nbytes = lease.nbytes
        lease.nack()
    del lease
    (letter,) = queue.dead_letters
    assert same(letter.data, thing) and same(letter.data, thing)
    assert letter.nbytes == nbytes
    assert repr(thing)[:5] not in repr(letter) or not isinstance(thing, bytes)
    if thing is not None:
        assert letter.data is not letter.data or isinstance(thing, bytes | int | str)
    assert queue.redrive() == 1
    assert len(queue.dead_letters) == 0 and letter_files(queue) == []
    lease = queue.receive(timeout=0)
    assert same(lease.data, thing) and lease.delivery_count == 1 and lease.id != letter.id
    lease.ack()
    del lease
    assert side_files(queue) == []
    shmq.verify(queue)


def test_messages_of_a_codec_are_kept(make: Make) -> None:
    queue = make(slots=4, slot_size=256, codec=shmq.json_codec, allow_pickle=False)
    assert kill(queue, {"a": [1, None, "☃"]}).data == {"a": [1, None, "☃"]}
    assert queue.redrive() == 1 and queue.get_nowait() == {"a": [1, None, "☃"]}


@pytest.mark.parametrize("slot_size", [256, 8192])
def test_loaned_messages_are_kept(make: Make, slot_size: int) -> None:
    queue = make(slots=4, slot_size=slot_size, max_deliveries=1)
    with queue.loan((2, 3), "<u2") as array:
        array[:] = 7
    with queue.loan(5) as view:
        view[:] = b"abcde"
    for _ in range(2):
        queue.receive(timeout=0).nack()
    one, other = queue.dead_letters
    assert one.data.tolist() == [[7] * 3] * 2 and bytes(other.data) == b"abcde"
    assert (one.nbytes, other.nbytes) == (12, 5)


def test_letters_can_be_counted_indexed_and_iterated_oldest_first(make: Make) -> None:
    queue = make(slots=8, slot_size=64)
    assert len(queue.dead_letters) == 0 and list(queue.dead_letters) == [] and not queue.dead_letters
    assert queue.redrive() == 0 and queue.dead_letters.purge() == 0
    for number in range(5):
        kill(queue, number)
    letters = queue.dead_letters
    assert len(letters) == 5 == queue.stats().dead_letters == queue.stats().dead_lettered
    assert [letter.data for letter in letters] == list(range(5))
    assert letters[0].data == 0 and letters[-1].data == 4
    with pytest.raises(IndexError):
        letters[5]
    assert repr(letters) == f"<5 dead letters of {queue.name!r}>"


def test_a_closed_handle_has_no_letters(q: shmq.Queue) -> None:
    letter = kill(q, "x")
    q.close()
    with pytest.raises(shmq.Closed):
        _ = q.dead_letters
    with pytest.raises(shmq.Closed):
        q.redrive()
    assert letter.data == "x"


# -- back into the queue -------------------------------------------------------------------------------------------------------


def test_only_those_that_pass_the_filter_come_back(make: Make) -> None:
    queue = make(slots=8, slot_size=64)
    for number in range(6):
        kill(queue, number, f"reason {number % 2}")
    assert queue.redrive(lambda letter: letter.reason == "reason 1") == 3
    assert queue.drain() == [1, 3, 5]
    assert [letter.data for letter in queue.dead_letters] == [0, 2, 4]


def test_a_filter_that_raises_loses_nothing(make: Make) -> None:
    queue = make(slots=8, slot_size=64)
    for number in range(3):
        kill(queue, number)
    with pytest.raises(ZeroDivisionError):
        queue.redrive(lambda letter: 1 / (1 - letter.data))
    assert queue.drain() == [0]
    assert [letter.data for letter in queue.dead_letters] == [1, 2]


def test_no_more_than_the_rate_come_back(make: Make) -> None:
    queue = make(slots=8, slot_size=64)
    for number in range(5):
        kill(queue, number)
    began = time.monotonic()
    assert queue.redrive(rate=40) == 5
    assert time.monotonic() - began >= 4 / 40


@pytest.mark.parametrize("bad", [0, -1, float("nan"), "fast"])
def test_a_rate_that_cannot_be_is_refused(q: shmq.Queue, bad: Any) -> None:
    kill(q, "x")
    with pytest.raises((ValueError, TypeError)):
        q.redrive(rate=bad)
    assert len(q.dead_letters) == 1


@pytest.mark.parametrize("bad", [float("nan"), "soon", [1]])
def test_a_timeout_that_cannot_be_leaves_the_letters_dead(q: shmq.Queue, bad: Any) -> None:
    kill(q, "x")
    with pytest.raises((ValueError, TypeError)):
        q.redrive(timeout=bad)
    assert [letter.data for letter in q.dead_letters] == ["x"]


@pytest.mark.parametrize("slot_size", [64, 16], ids=["in the slot", "spilled"])
def test_into_a_full_queue_nothing_is_lost(make: Make, slot_size: int) -> None:
    queue = make(slots=2, slot_size=slot_size, oversize="spill")
    for number in range(4):
        kill(queue, [number] * 20)
    with pytest.raises(shmq.Full):
        queue.redrive(timeout=0.05)
    assert queue.qsize() == 2 and len(queue.dead_letters) == 2
    assert [data[0] for data in queue.drain()] == [0, 1]
    assert queue.redrive(timeout=0) == 2
    assert [data[0] for data in queue.drain()] == [2, 3]
    assert letter_files(queue) == []
    assert side_files(queue) == []


def test_closing_the_handle_during_a_redrive_leaves_the_letter_dead(make: Make) -> None:
    queue = make(slots=1, slot_size=64)
    kill(queue, "dead")
    queue.put("full")
    other = shmq.Queue.attach(queue.name)
    errors: list[BaseException] = []

    def redrive() -> None:
        try:
            other.redrive()
        except shmq.ShmqError as error:
            errors.append(error)

    thread = threading.Thread(target=redrive)
    thread.start()
    wait_until(lambda: queue.stats().waiting_producers)
    other.close()
    thread.join(LONG)
    assert [type(error) for error in errors] == [shmq.Closed]
    assert [letter.data for letter in queue.dead_letters] == ["dead"]


def redrive_all(q: shmq.Queue, barrier: Any) -> None:
    barrier.wait(LONG)
    q.redrive(timeout=LONG)


def test_processes_that_redrive_at_once_put_each_letter_back_once(make: Make, children: Children) -> None:
    queue = make(slots=128, slot_size=64)
    for number in range(100):
        kill(queue, number)
    barrier = children.context.Barrier(4)
    for _ in range(4):
        children.start(redrive_all, queue, barrier)
    children.join()
    assert sorted(queue.drain()) == list(range(100))
    assert letter_files(queue) == []


def test_a_letter_whose_message_is_still_in_its_cell_is_not_put_back(q: shmq.Queue, children: Children) -> None:
    q.put("x")
    children.start(write_dead_letter_and_die, q)
    children.started[-1].join()
    assert len(q.dead_letters) == 1  # written, and its message is in the cell of the dead
    assert q.redrive() == 0
    with pytest.raises(shmq.Empty):
        q.get(timeout=0.3)
    assert q.redrive() == 1 and q.drain() == ["x"] and len(q.dead_letters) == 0


def test_an_open_loan_in_the_slot_of_the_dead_stops_no_redrive(make: Make) -> None:
    queue = make(slots=4, slot_size=4096, in_flight=4)
    for number in range(8):  # in whatever slot the loan will be
        kill(queue, number)
    loans = [queue.loan(10) for _ in range(4)]
    assert queue.redrive(lambda letter: letter.data < 4) == 4
    assert queue.redrive(lambda letter: False) == 0
    assert queue.drain() == [0, 1, 2, 3]
    assert queue.redrive(timeout=0) == 4
    for loan in loans:
        loan.abandon()


def redrive_and_die(q: shmq.Queue, moment: str) -> None:
    if moment == "before the put":
        os.rename = dies_after(os.rename)  # type: ignore[assignment]
    else:
        os.unlink = dies_before  # type: ignore[assignment]
    q.redrive()


def dies_after(function: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any, **named: Any) -> None:
        function(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    return called


def dies_before(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("moment", ["before the put", "after the put"])
def test_a_redrive_that_is_killed_loses_nothing(q: shmq.Queue, children: Children, moment: str) -> None:
    kill(q, "x")
    children.start(redrive_and_die, q, moment)
    children.started[-1].join()
    assert len(letter_files(q)) == 1 and len(q.dead_letters) == 0
    found = repair([q.name])
    assert any("put back" in finding.text for finding in found)
    assert [letter.data for letter in q.dead_letters] == ["x"]
    assert q.drain() == ([] if moment == "before the put" else ["x"])


# -- thrown away ---------------------------------------------------------------------------------------------------------------


def test_letters_can_be_thrown_away_with_their_side_files(make: Make) -> None:
    queue = make(slots=8, slot_size=16, oversize="spill")
    for number in range(4):
        kill(queue, [number] * 50)
    assert len(side_files(queue)) == 4
    assert queue.dead_letters.purge(lambda letter: letter.data[0] % 2) == 2
    assert [letter.data[0] for letter in queue.dead_letters] == [0, 2]
    assert len(side_files(queue)) == 2
    assert queue.dead_letters.purge() == 2
    assert len(queue.dead_letters) == 0 and side_files(queue) == []


def test_a_purge_does_not_take_the_payload_of_what_was_put_back_meanwhile(make: Make) -> None:
    queue = make(slots=8, slot_size=16, oversize="spill")
    kill(queue, "x" * 100)
    assert queue.dead_letters.purge(lambda letter: queue.redrive()) == 0
    assert queue.drain() == ["x" * 100]


# -- life and death ------------------------------------------------------------------------------------------------------------


def kill_and_leave(name: str) -> None:
    queue = shmq.Queue.attach(name)
    for number in range(3):
        kill(queue, [number] * 30)
    os.kill(os.getpid(), signal.SIGKILL)


def test_letters_outlive_everybody(name: str, children: Children) -> None:
    shmq.Queue.create(name, slots=4, slot_size=16, oversize="spill").close()
    children.start(kill_and_leave, name).join()
    with shmq.Queue(name) as queue:
        assert [letter.data[0] for letter in queue.dead_letters] == [0, 1, 2]
        assert queue.redrive() == 3
        assert len(queue.drain()) == 3


def test_unlinking_a_queue_removes_its_letters(name: str) -> None:
    queue = shmq.Queue.create(name, slots=4, slot_size=16, oversize="spill")
    letter = kill(queue, "x" * 100)
    assert len(side_files(queue)) == len(letter_files(queue)) == 1
    queue.unlink()
    assert letter_files(queue) == [] and len(queue.dead_letters) == 0
    queue.close()
    assert files_of(queue) == []
    with pytest.raises(shmq.PayloadLost):
        _ = letter.data


def test_letters_of_a_queue_that_is_made_again_do_not_come_back(name: str) -> None:
    queue = shmq.Queue.create(name, slots=4, slot_size=64)
    kill(queue, "old")
    shmq.unlink(name)
    with shmq.Queue.create(name, slots=4, slot_size=64) as new:
        assert len(new.dead_letters) == 0
    queue.close()


def test_letters_are_for_their_user_alone(q: shmq.Queue) -> None:
    kill(q, "x")
    assert os.stat(folder_of(q)).st_mode & 0o777 == 0o700
    (file,) = letter_files(q)
    assert os.stat(f"{folder_of(q)}/{file}").st_mode & 0o777 == 0o600


def test_a_planted_link_is_not_followed(q: shmq.Queue, tmp_path: Any) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    q.put("x")
    lease = q.receive(timeout=0)
    scratch = f"{folder_of(q)}/{lease.id:016x}.new.{_core.identity():x}"
    os.symlink(victim, scratch)
    lease.reject("it is a letter")
    assert victim.read_text() == "precious"
    assert [letter.reason for letter in q.dead_letters] == ["it is a letter"]
    assert not os.path.islink(f"{folder_of(q)}/{lease.id:016x}")


# -- that cannot be written ----------------------------------------------------------------------------------------------------


def no_space(function: Callable[..., Any]) -> Callable[..., Any]:
    """What makes nothing new, as on a full file system."""
    opens = function is os.open

    def called(path: Any, *arguments: Any, **named: Any) -> Any:
        if opens and not arguments[0] & os.O_CREAT:
            return function(path, *arguments, **named)
        raise OSError(errno.ENOSPC, "No space left on device")

    return called


@pytest.mark.parametrize("function", ["open", "rename", "write", "mkdir"])
def test_a_message_whose_letter_cannot_be_written_stays_and_is_tried_again(
    q: shmq.Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, function: str
) -> None:
    q.put_many(["x", "next"])
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "shmq"):
        patch.setattr(os, function, no_space(getattr(os, function)))
        q.receive(timeout=0).nack()  # does not raise: whoever calls wanted something else
        assert len(caplog.records) == 1 and caplog.records[0].levelname == "ERROR" and q.name in caplog.text
        assert q.get(timeout=0) == "next"  # it holds up nobody
        assert in_use(q) == (0, 0, 1) and letter_files(q) == []
        with pytest.raises(shmq.Empty):
            q.get(timeout=0)
    if function == "rename":
        with pytest.raises(shmq.Empty):
            q.get(timeout=1.3)  # it rests for a second
    else:
        end_rests(q)
        with pytest.raises(shmq.Empty):
            q.get_nowait()
    (letter,) = q.dead_letters
    assert (letter.data, letter.delivery_count, letter.reason) == ("x", 1, "max_deliveries=1")
    assert letter_files(q) == [f"{letter.id:016x}"] and in_use(q) == (0, 0, 0)


@pytest.mark.parametrize("function", ["open", "rename", "mkdir"])
def test_a_rejection_that_cannot_be_written_says_so_and_stays_a_rejection(
    q: shmq.Queue, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    q.put("x")
    lease = q.receive(timeout=0)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, no_space(getattr(os, function)))
        with pytest.raises(shmq.OutOfMemory):
            lease.reject("hopeless")
    assert lease.settled and in_use(q) == (0, 0, 1)
    with pytest.raises(shmq.LeaseLost):
        lease.ack()
    end_rests(q)
    assert q._dead_letter_all() == 1
    assert q.dead_letters[0].cause == "rejected" and q.dead_letters[0].data == "x"


def dead_letter_without_room(q: shmq.Queue, answers: shmq.Queue) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    lease = q.receive(timeout=LONG)
    try:
        lease.reject()
        answers.put("written")
    except shmq.OutOfMemory as error:
        answers.put(str(error))


def test_a_limit_of_the_process_loses_no_message(q: shmq.Queue, make: Make, children: Children) -> None:
    answers = make(slots=4, slot_size=1024)
    q.put(b"x" * 500)
    children.start(dead_letter_without_room, q, answers)
    assert "needs" in answers.get(timeout=LONG)
    children.join()
    assert letter_files(q) == []
    end_rests(q)
    assert q._dead_letter_all() == 1
    assert q.dead_letters[0].data == b"x" * 500


def write_dead_letter_and_die(q: shmq.Queue) -> None:
    os.rename = dies_after(os.rename)  # type: ignore[assignment]
    q.receive(timeout=LONG).reject("hopeless")


def test_death_between_the_letter_and_its_cell_gives_one_letter(q: shmq.Queue, children: Children) -> None:
    q.put("x")
    children.start(write_dead_letter_and_die, q).join()
    (first,) = q.dead_letters
    with pytest.raises(shmq.Empty):
        q.get(timeout=0.3)
    (letter,) = q.dead_letters
    assert (letter.id, letter.data, letter.cause) == (first.id, "x", "rejected")
    assert letter.dead_lettered_by == first.dead_lettered_by
    assert in_use(q) == (0, 0, 0)


def test_death_between_the_letter_and_its_cell_keeps_the_reason(q: shmq.Queue, children: Children) -> None:
    q.put("x")
    children.start(write_dead_letter_and_die, q).join()
    with pytest.raises(shmq.Empty):
        q.get(timeout=0.3)
    assert q.dead_letters[0].reason == "hopeless"


def write_half_a_dead_letter(q: shmq.Queue) -> None:
    os.rename = dies_before  # type: ignore[assignment]
    q.receive(timeout=LONG).nack()


def test_the_doctor_removes_a_letter_that_was_half_written(q: shmq.Queue, children: Children) -> None:
    q.put("x")
    children.start(write_half_a_dead_letter, q).join()
    (half,) = letter_files(q)
    assert ".new." in half and len(q.dead_letters) == 0
    found = repair([q.name])
    assert any("half-written" in finding.text for finding in found)
    assert [letter.data for letter in q.dead_letters] == ["x"]
    assert letter_files(q) == [f"{q.dead_letters[0].id:016x}"]


# -- rests ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        *({"initial": value} for value in (-1, float("nan"), float("inf"), "1", True, None, 400 * 86400)),
        *({"factor": value} for value in (0.5, float("nan"), 1001, "2")),
        *({"maximum": value} for value in (-1, float("nan"), "1", 400 * 86400)),
        *({"jitter": value} for value in (-0.1, 1.1, float("nan"), True)),
    ],
    ids=repr,
)
def test_a_backoff_that_cannot_be_is_refused_by_name(name: str, bad: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
        shmq.Queue(name, slots=2, slot_size=64, backoff=shmq.Backoff(**bad))
    assert name not in shmq.list_segments()


@pytest.mark.parametrize("bad", [1, (1, 2, 3, 0.1), "1", {"initial": 1}], ids=repr)
def test_a_backoff_is_a_backoff(name: str, bad: Any) -> None:
    with pytest.raises(TypeError, match="backoff"):
        shmq.Queue(name, slots=2, slot_size=64, backoff=bad)


@pytest.mark.parametrize("backoff", [shmq.Backoff(1 / 3, 4 / 3, 100 / 3, 1 / 3), shmq.Backoff(1e-7), shmq.Backoff(1, 3, 9, 0)])
def test_a_queue_can_be_opened_again_with_the_backoff_it_was_made_with(name: str, backoff: shmq.Backoff) -> None:
    for _ in range(2):
        shmq.Queue(name, slots=2, slot_size=64, backoff=backoff).close()


def rests(queue: shmq.Queue, failures: int) -> list[float]:
    """For how long a message rests after each failure, as the segment says."""
    queue.put("x")
    found = []
    for _ in range(failures):
        lease = queue.receive(timeout=LONG)
        earliest = time.monotonic()
        lease.nack()
        latest = time.monotonic()
        ((due),) = [ends for state, _, _, _, ends, *_ in queue._occupied() if state == "orphan"]
        found.append(due - (earliest + latest) / 2)
        end_rests(queue)
    queue.receive(timeout=LONG).ack()
    return found


def end_rests(queue: shmq.Queue) -> None:
    """Behind everybody's back: whatever rests is due, so that no test waits for it."""
    cells_at = 1024 + 128 * queue.segment.config.ports
    with memoryview(queue.segment.memory) as memory:
        for cell, (state, *_) in enumerate(queue._cells()):
            if state == "orphan":
                due_at = cells_at + 64 * cell + 24
                memory[due_at : due_at + 8] = bytes(8)
        changes = int.from_bytes(memory[392:400], "little") + 1
        memory[392:400] = changes.to_bytes(8, "little")


def test_a_rest_grows_with_each_failure_up_to_the_maximum(make: Make) -> None:
    queue = make(slots=4, slot_size=64, backoff=shmq.Backoff(10, 3, 200, 0))
    assert rests(queue, 6) == [pytest.approx(seconds, abs=0.5) for seconds in (10, 30, 90, 200, 200, 200)]


def test_a_maximum_below_the_first_rest_holds(make: Make) -> None:
    queue = make(slots=4, slot_size=64, backoff=shmq.Backoff(100, 2, 10, 0))
    assert rests(queue, 2) == [pytest.approx(10, abs=0.5)] * 2


def test_chance_stays_within_its_share_and_is_there(make: Make) -> None:
    queue = make(slots=64, slot_size=64, in_flight=64, backoff=shmq.Backoff(100, 1, 100, 0.5))
    queue.put_many(range(50))
    leases = [queue.receive(timeout=0) for _ in range(50)]
    now = time.monotonic()
    for lease in leases:
        lease.nack()
    dues = [ends - now for state, _, _, _, ends, *_ in queue._occupied() if state == "orphan"]
    assert len(dues) == 50 and all(49.9 <= due <= 151 for due in dues)
    assert min(dues) < 85 and max(dues) > 115 and len({round(due, 3) for due in dues}) > 40


def test_without_a_backoff_it_comes_back_at_once(make: Make) -> None:
    queue = make(slots=4, slot_size=64)
    queue.put("x")
    queue.receive(timeout=0).nack()
    assert queue.get_nowait() == "x"


def test_a_delay_of_ones_own_goes_before_the_backoff(make: Make) -> None:
    queue = make(slots=4, slot_size=64, backoff=shmq.Backoff(100))
    queue.put("x")
    queue.receive(timeout=0).nack(delay=0)
    with pytest.raises(LookupError), queue.receive(timeout=0):
        raise LookupError
    assert queue.empty() and queue.stats().returned == 1


def test_a_released_message_does_not_rest(make: Make) -> None:
    queue = make(slots=4, slot_size=64, backoff=shmq.Backoff(100))
    queue.put("x")
    queue.receive(timeout=0).release()
    assert queue.get_nowait() == "x"


def test_the_last_failure_does_not_rest_before_it_is_dead_lettered(make: Make) -> None:
    queue = make(slots=4, slot_size=64, backoff=shmq.Backoff(100), max_deliveries=1)
    queue.put("x")
    queue.receive(timeout=0).nack(delay=50)
    assert len(queue.dead_letters) == 1
