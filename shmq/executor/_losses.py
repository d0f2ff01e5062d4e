"""Losses: the tasks of one client that were given up, which it finds among the dead letters of its pool.

A client reads each letter once, and knows it by its name from then on. So the price of a lost task does not grow with the number
of letters that wait for other clients. The letters of clients that are gone are discarded by any client that sees them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from shmq._queue import Queue
from shmq._worker_lost import WorkerLost
from shmq.executor import _tasks
from shmq.executor._crew import Death, describe_exit
from shmq.executor._reply import is_gone

__all__ = ["Losses"]

NEWS_PATIENCE = 1.0  # seconds after a letter was written, in which the crew may still learn how the workers ended


class Losses:
    """`client`: whose tasks these are. `pending`: its tasks by number. `private`: no other program has workers in this pool."""

    def __init__(self, client: int, pending: Mapping[int, object], private: bool) -> None:
        self.client = client
        self.pending = pending
        self.private = private
        self.expected = False  # there was a death, or a letter is there of which not all is known
        self._suspects: dict[int, list[tuple[int, int | None]]] = {}  # by task: pid and exit code of the workers that died in it
        self._dead_letters = 0  # how many there were at the last look
        self._clients: dict[str, int] = {}  # by the name of a letter: the client, if it lives

    @property
    def awaited(self) -> bool:
        """Is a look worth while, although nothing announces a letter?"""
        return self.expected or any(number in self.pending for number in self._suspects)

    def note(self, death: Death) -> None:
        """A worker of this program has ended: a letter may come."""
        self.expected = True
        self._suspects = {number: known for number, known in self._suspects.items() if number in self.pending}
        if death.task and death.client == self.client:
            self._suspects.setdefault(death.task, []).append((death.pid, death.exit_code))

    def search(self, queues: list[Queue]) -> list[tuple[int, WorkerLost]]:
        """Find the pending tasks that were given up since the last look, and discard their letters."""
        dead_letters = 0
        for queue in queues:
            queue._reap()
            queue._dead_letter_all()
            dead_letters += queue._events().dead_lettered
        if dead_letters == self._dead_letters and not self.expected:
            return []
        self.expected, self._dead_letters = False, dead_letters
        return [loss for queue in queues for loss in self._search_letters(queue)]

    def _search_letters(self, queue: Queue) -> Iterator[tuple[int, WorkerLost]]:
        letters = queue.dead_letters
        names = letters._names()
        gone = {client for client in set(self._clients.values()) if is_gone(client)}
        for name in names:
            client = self._clients.get(name)
            if client is not None and client not in gone:
                continue
            letter = letters._read(name)
            if letter is None:
                continue
            number, client, length, _, _ = _tasks.task_of(letter.data)
            if client == self.client:
                if number in self.pending:
                    if self._unexplained(number, letter.delivery_count) and time.time() - letter.dead_lettered_at < NEWS_PATIENCE:
                        self.expected = True  # the queue knows of a death before the process has ended
                        continue
                    yield number, self._loss(number, _tasks.name_of(letter.data, length), letter.delivery_count)
            elif client not in gone and not is_gone(client):
                self._clients[name] = client
                continue
            letters._remove(letter)
        for name in self._clients.keys() - set(names):
            del self._clients[name]

    def _unexplained(self, number: int, deliveries: int) -> bool:
        """Have more workers of this program died in the task than its crew has collected?"""
        return self.private and len(self._suspects.get(number, ())) < deliveries

    def _loss(self, number: int, name: str, deliveries: int) -> WorkerLost:
        known = self._suspects.get(number, [])
        how = [f"pid {pid} {describe_exit(code)}" for pid, code in known]
        if unknown := deliveries - len(known):
            how.append(f"of {unknown} only the program that started them knows how they ended")
        often = f"{deliveries} deliver{'ies' if deliveries > 1 else 'y'}"
        return WorkerLost(
            f"task {number}, {name}, was given up after {often}: each time its worker died in the middle ({'; '.join(how)}). "
            "The other tasks go on; give the pool a larger max_deliveries= if it was not the task's fault",
            (None,) * unknown + tuple(code for _, code in known),
        )
