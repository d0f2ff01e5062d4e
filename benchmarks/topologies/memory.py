"""What a queue of 1,024 × 1 KiB takes in memory at both ends, and whether that grows.

Proportional set size, from /proc: a page that two processes map counts half in each. The ends and their parent are
fresh interpreters that have imported their libraries before the first look. The parent is in the account, too: its
handle may have touched the queue.
"""

from __future__ import annotations

import os
from functools import partial

from cases import SHMQ_ONLY, Case
from flow import opened
from harness import Failed, Line, Work, label, run_roles
from peers.base import Channel, Peer, Shape

SHAPE = Shape(slots=1_024, slot_size=1_024, start_method="spawn")
_GROWTH_MESSAGES = 10_000_000
_MESSAGE = bytes(range(1, 251)) * 4 + bytes(24)


def _pss(pid: int) -> int:
    """Return a process's share of memory in bytes: what it shares with others to write in, and what it has alone.

    Libraries are left out: their pages become cheaper for each process whenever another one loads them.
    """
    total = 0
    field = b""
    with open(f"/proc/{pid}/smaps", "rb") as rows:
        for row in rows:
            words = row.split()
            if not words[0].endswith(b":"):
                field = b"Pss:" if words[1].endswith(b"s") else b"Anonymous:"
            elif words[0] == field:
                total += int(words[1]) * 1024
    return total


def _before(pid: int) -> int:
    """Return the same at the start; the first look pays for the memory that looking takes."""
    _pss(pid)
    return _pss(pid)


def _filling(channel: Channel, parent_before: int, counts: list[int], line: Line) -> list[int]:
    """Return what this process and its parent have taken since before the channel, after each of the counts."""
    own, parent = os.getpid(), os.getppid()
    before = _before(own) + parent_before
    line.wait()
    sender = channel.sender()
    grown = []
    with opened(line, sender):
        put = sender.put
        for count in counts:
            for _ in range(count):
                put(_MESSAGE)
            line.wait()
            grown.append(_pss(own) + _pss(parent) - before)
            line.wait()
    return grown


def _emptying(channel: Channel, counts: list[int], line: Line) -> list[int]:
    own = os.getpid()
    before = _before(own)
    line.wait()
    receiver = channel.receiver()
    grown = []
    with opened(line, receiver):
        for count in counts:
            if receiver.consume(count) != count * _MESSAGE[0]:
                raise Failed("content: the sum of the messages is wrong")
            line.wait()
            grown.append(_pss(own) - before)
            line.wait()
    return grown


def _nothing(line: Line) -> None:
    line.wait()


def _account(peer: Peer, counts: list[int], timeout: float, line: Line) -> list[int]:
    run_roles([_nothing], timeout, method="spawn")  # the parent has loaded what it starts children with
    before = _before(os.getpid())
    with peer.channel(label(), SHAPE) as channel:
        roles = [partial(_filling, channel, before, counts), partial(_emptying, channel, counts)]
        sides = run_roles(roles, timeout, method="spawn")
    return [sum(pair) for pair in zip(*sides, strict=True)]


def _both_ends(peer: Peer, counts: list[int], timeout: float) -> list[int]:
    """Return what all processes together have taken after each of the counts."""
    taken: list[int]
    (taken,) = run_roles([partial(_account, peer, counts, timeout)], 2 * timeout, method="spawn", parent=True)
    return taken


def _footprint(peer: Peer, work: Work) -> float:
    return float(_both_ends(peer, [3 * SHAPE.slots], work.timeout)[0])


def _growth(peer: Peer, work: Work) -> float:
    """What is taken after a tenth of the messages is the measure for what is taken after all of them."""
    tenth = _GROWTH_MESSAGES // 10
    after_tenth, after_all = _both_ends(peer, [tenth, _GROWTH_MESSAGES - tenth], 6 * work.timeout)
    return float(after_all - after_tenth)


CASES = [
    Case("memory", "1,024 × 1 KiB, both ends", _footprint, unit="bytes", needs=frozenset({"mapped"}), pilot=0),
    Case("memory", "growth over ten million messages", _growth, unit="bytes", only=SHMQ_ONLY, pilot=0),
]
