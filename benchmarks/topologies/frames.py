"""Arrays of 64 KiB to 6 MiB: copied in and out, or written and read in place; all bytes, or only the two ends."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from os import sched_yield
from time import perf_counter_ns
from typing import Any

from cases import SHMQ_ONLY, Case
from counter import Counter
from flow import stream
from harness import Line, Span, Work, elapsed, label, run_roles
from peers.base import Channel, Peer, Receiver, Sender, Shape

from native import content, limit

KIB, MIB = 1 << 10, 1 << 20

# Frame bytes → slots: rings of 8 to 24 MiB. The bare C pipelines use the same.
_RINGS = {64 * KIB: 128, MIB: 8, 6 * MIB: 4}
_ENDS_SLOTS = 16  # where the size must not matter, the number of slots is the same
_IN_FLIGHT = 2


def _size(nbytes: int) -> str:
    return f"{nbytes // MIB} MiB" if nbytes >= MIB else f"{nbytes // KIB} KiB"


def _word(number: int) -> int:
    return number % 251 + 1


def _copying(nbytes: int, peer: Peer, work: Work) -> float:
    """The producer puts one private array, changed in its first word; the consumer sums what it gets."""

    def produce(sender: Sender, numbers: range) -> None:
        source = bytearray(nbytes)
        content().fill(source, 0)
        first = memoryview(source).cast("Q")
        frame = sender.frame(source)
        put = sender.frame_put()
        for number in numbers:
            first[0] = number % 251 + 1
            put(frame)

    def consume(receiver: Receiver, count: int) -> int:
        read = content().total
        get = receiver.frame_get()
        total = 0
        for _ in range(count):
            total += read(get())
        return total

    def expected(numbers: range) -> int:
        return sum(_word(number) + nbytes // 8 - 1 for number in numbers)

    return stream(peer, work, _shape(nbytes), produce, consume, expected)


def _in_place(
    nbytes: int,
    words: int,
    write: Callable[[Any, int], None],
    read: Callable[[Any], int],
    shape: Shape,
    peer: Peer,
    work: Work,
) -> float:
    """The producer writes `words` words into the channel's memory and the consumer sums them there."""
    return stream(
        peer,
        work,
        shape,
        lambda sender, numbers: sender.produce_frames(numbers, nbytes, write),
        lambda receiver, count: receiver.consume_frames(count, read),
        lambda numbers: sum(_word(number) * words for number in numbers),
    )


def _all_bytes(nbytes: int, peer: Peer, work: Work) -> float:
    return _in_place(nbytes, nbytes // 8, content().fill, content().total, _shape(nbytes), peer, work)


def _ends(nbytes: int, peer: Peer, work: Work) -> float:
    return _in_place(nbytes, 2, content().mark, content().ends, _ends_shape(nbytes), peer, work)


def _both_sides(channel: Channel, nbytes: int, rounds: int, line: Line) -> Span:
    sender, receiver = channel.sender(), channel.receiver()
    sender.settle()
    receiver.settle()
    write, read = content().mark, content().ends
    half = _ENDS_SLOTS // 2
    began = perf_counter_ns()
    for _ in range(rounds):
        sender.produce_frames(range(half), nbytes, write)
        receiver.consume_frames(half, read)
    ended = perf_counter_ns()
    sender.close()
    receiver.close()
    return Span(began, ended)


def _ends_in_one_process(nbytes: int, peer: Peer, work: Work) -> float:
    """Producer and consumer take turns in one process: the work of both sides, and no waiting."""
    half = _ENDS_SLOTS // 2
    rounds = -(-work.count // half)
    with peer.channel(label(), _ends_shape(nbytes)) as channel:
        spans = run_roles([partial(_both_sides, channel, nbytes, rounds)], work.timeout)
    return elapsed(spans) / (rounds * half)


def _two_in_flight(slots: int, peer: Peer, work: Work) -> float:
    """The producer waits until at most one other frame is in flight, whatever the ring could hold."""
    read_count = Counter()
    fill, total = content().fill, content().total
    seen = read_count.word()

    def write(buffer: Any, number: int) -> None:
        while number - seen[0] >= _IN_FLIGHT:
            sched_yield()
        fill(buffer, number)

    def read(buffer: Any) -> int:
        result: int = total(buffer)
        seen[0] += 1
        return result

    shape = Shape(slots=slots, slot_size=MIB)
    return _in_place(MIB, MIB // 8, write, read, shape, peer, work)


def _shape(nbytes: int) -> Shape:
    return Shape(slots=_RINGS[nbytes], slot_size=nbytes)


def _ends_shape(nbytes: int) -> Shape:
    return Shape(slots=_ENDS_SLOTS, slot_size=nbytes)


def _bare(mode: str, nbytes: int, work: Work) -> float:
    return limit(work.timeout, mode, work.count, _RINGS[nbytes], nbytes)


def _cases() -> list[Case]:
    case = partial(Case, "frames", pilot=20, most=2_000_000)
    loan = frozenset({"loan"})
    cases = []
    for nbytes in _RINGS:
        size = _size(nbytes)
        cases += [
            case(
                f"{size}, put + get, all bytes read",
                partial(_copying, nbytes),
                needs=frozenset({"frames"}),
                baselines={"bare C": partial(_bare, "copy", nbytes)},
                nbytes=nbytes,
            ),
            case(
                f"{size}, loan + view, all bytes read",
                partial(_all_bytes, nbytes),
                needs=loan,
                baselines={"bare C": partial(_bare, "inplace", nbytes)},
                nbytes=nbytes,
            ),
        ]
    for nbytes in _RINGS:
        size = _size(nbytes)
        cases += [
            case(f"{size}, loan + view, only the ends", partial(_ends, nbytes), needs=loan),
            case(
                f"{size}, only the ends, both sides in one process",
                partial(_ends_in_one_process, nbytes),
                needs=loan,
                only=SHMQ_ONLY,
            ),
        ]
    for slots in (4, 64):
        name = f"1 MiB, ring of {slots}, two in flight"
        cases.append(case(name, partial(_two_in_flight, slots), needs=loan, only=SHMQ_ONLY, nbytes=MIB))
    return cases


CASES = _cases()
