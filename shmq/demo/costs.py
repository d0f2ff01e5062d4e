"""What the queues of the demo cost by themselves: messages are moved, and nothing is done with them."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import shmq
from shmq.demo.files import pack
from shmq.demo.processes import SPAWN, Children
from shmq.demo.transports import STOP, Transport, put_when_there_is_room

__all__ = ["ROUNDS", "Cost", "queue_costs"]

ROUNDS = 3
ANSWER_PATIENCE = 60.0


@dataclass(frozen=True)
class Cost:
    """What moving one message takes when nothing is done with it."""

    seconds: float
    messages: int
    nbytes: int


def queue_costs(groups: list[list[str]], workers: int, rounds: int, transports: Iterable[Transport]) -> list[list[Cost]]:
    """Move each group of files over each transport in turn; return the median cost, a list of transports per group.

    The producer has loaded the messages beforehand, and the workers only call ``get``, which gives ``bytes`` on either
    side. Raises ShmqError when what arrived is not what was sent.
    """
    costs = []
    with Children() as children:
        carriers = [_Carrier(transport, groups, workers, children) for transport in transports]
        for number, group in enumerate(groups):
            trials = [[carrier.round(number) for carrier in carriers] for _ in range(rounds)]
            medians = [statistics.median(seconds) for seconds in zip(*trials, strict=True)]
            nbytes = carriers[0].sent[number][1]
            costs.append([Cost(seconds / len(group), len(group), nbytes) for seconds in medians])
        for carrier in carriers:
            carrier.end()
    return costs


class _Carrier:
    def __init__(self, transport: Transport, groups: list[list[str]], workers: int, children: Children) -> None:
        self.giver = self._begin(children, give, transport.files, groups, workers)
        self.takers = [self._begin(children, take_only, transport.files) for _ in range(workers)]
        self.sent: list[tuple[int, int]] = _answer(self.giver)

    @staticmethod
    def _begin(children: Children, body: Callable[..., None], *arguments: Any) -> Connection:
        ours, theirs = SPAWN.Pipe()
        children.start(body, theirs, *arguments)
        theirs.close()
        return ours

    def round(self, group: int) -> float:
        """Move one group's messages and return how long it took from the first put to the last get."""
        for child in (*self.takers, self.giver):
            child.send(group)
        started = _answer(self.giver)
        tallies = [_answer(taker) for taker in self.takers]
        arrived = (sum(tally[0] for tally in tallies), sum(tally[1] for tally in tallies))
        if arrived != self.sent[group]:
            raise shmq.ShmqError("{} messages of {} bytes arrived, sent were {} of {}".format(*arrived, *self.sent[group]))
        return float(max(tally[2] for tally in tallies) - started)

    def end(self) -> None:
        for pipe in (self.giver, *self.takers):
            pipe.send(None)


def _answer(child: Connection) -> Any:
    with contextlib.suppress(EOFError, ConnectionResetError):
        if child.poll(ANSWER_PATIENCE):
            return child.recv()
    raise shmq.ShmqError("a process ended early while the queue's own cost was measured")


def give(parent: Connection, files: Any, groups: list[list[str]], workers: int) -> None:
    """Load the messages, then put a group of them in each round."""
    loaded = [[pack(path) for path in group] for group in groups]
    parent.send([(len(messages), sum(map(len, messages))) for messages in loaded])
    while (group := parent.recv()) is not None:
        started = time.monotonic()
        for message in loaded[group]:
            put_when_there_is_room(files, message)
        for _ in range(workers):
            files.put(STOP)
        parent.send(started)


def take_only(parent: Connection, files: Any) -> None:
    """Take messages and do nothing with them, in each round until its end."""
    while parent.recv() is not None:
        count = nbytes = 0
        last = time.monotonic()
        while message := files.get():
            count += 1
            nbytes += len(message)
            last = time.monotonic()
        parent.send((count, nbytes, last))
