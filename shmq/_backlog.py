"""The backlog of a queue without a bound: a log beside the segment, of messages that found the ring full.

One file, ``shmq-UID.NAME+NONCE.backlog``, made with the segment and opened with it. A page with three words, then records, each a
word with the length of a message's image, and the image (its slot's header and payload) up to the next boundary of eight bytes:

    head     offset of the oldest record
    tail     offset behind the newest one
    at_work  1 while somebody changes something

The header of the segment has the number of records, and that word is all that a put or a get looks at while there are none.
Everything here happens under the backlog's lock (Port.append, Port.refill), which the kernel gives back when its holder dies:

- A record is complete before the tail moves over it: who is killed in between leaves a tail that the next one overwrites.
- The number goes up before the tail moves, and down after the head did, so that no record is ever unknown.
- A message is in the ring before the head moves over it: who is killed in between delivers it twice.
- Who finds `at_work` set follows a dead one, and counts the records.

Messages are moved into the ring in their order and only when it is empty, and nobody puts into the ring while records are left:
so the order of each producer holds. A log of messages in a ring of files, or a longer ring made when the first is full, would
need a second kind of cell; a lock that the kernel gives back needs none, and is never taken while the ring suffices.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from shmq._errors import SegmentCorrupt
from shmq._segment import LOG_START as START
from shmq._segment import Log, Segment

if TYPE_CHECKING:
    from shmq._core import Port

__all__ = ["Backlog"]

HEAD, TAIL, AT_WORK = range(3)
WORD = 8
CHUNK = 1 << 18  # bytes that are read at once


class Backlog:
    """The log of one queue, as one handle sees it, which is told with each call: it keeps the log, and not both each other.

    Each call under the backlog's lock.
    """

    def __init__(self, segment: Segment) -> None:
        self._log = Log(segment)
        self._words = self._log.words

    def write(self, port: Port, image: bytes) -> tuple[memoryview, int]:
        """Write a message behind the tail; return the words, and where the tail is to be. **Raises** OutOfMemory.

        The caller moves it: nothing may come between that and the end of the put, no signal handler either.
        """
        self._begin(port)
        tail = self._words[TAIL]
        record = len(image).to_bytes(WORD, "little") + image + bytes(-len(image) % WORD)
        try:
            self._log.write(tail, record)
        except BaseException:
            self._log.shrink(tail)
            self._words[AT_WORK] = 0
            raise
        return self._words, tail + len(record)

    def refill(self, port: Port) -> int:
        """Move messages into the ring until it is full or none is left; return how many."""
        self._begin(port)
        moved = 0
        for image, end in self._records(port):
            if not port._move_in(image, self._words, end):
                break
            moved += 1
        self._give_back()
        self._words[AT_WORK] = 0
        return moved

    def look(self, port: Port, most: int) -> list[bytes]:
        """Images of the first messages."""
        self._begin(port)
        images = [image for image, _ in islice(self._records(port), most)]
        self._words[AT_WORK] = 0
        return images

    def _begin(self, port: Port) -> None:
        """Repair what a dead one left, and say that we are at work."""
        words = self._words
        if words[TAIL] < START or words[HEAD] > words[TAIL]:
            words[HEAD] = words[TAIL] = max(words[TAIL], START)  # new, or killed while it was emptied
        if words[AT_WORK]:
            port._set_backlog_count(sum(1 for _ in self._records(port)))
        words[AT_WORK] = 1

    def _records(self, port: Port) -> Iterator[tuple[bytes, int]]:
        """(image, offset behind it) of each record."""
        offset, tail = self._words[HEAD], self._words[TAIL]
        chunk, at = b"", 0
        while offset < tail:
            if len(chunk) - at < WORD:
                chunk, at = self._log.read(offset, min(CHUNK, tail - offset)), 0
            length = int.from_bytes(chunk[at : at + WORD], "little")
            size = WORD + length + -length % WORD
            if size > tail - offset:
                raise SegmentCorrupt(
                    f"the backlog of queue {port.name!r} has a message of {length:,} bytes where it has {tail - offset:,}"
                )
            if len(chunk) - at < size:
                chunk, at = self._log.read(offset, max(size, min(CHUNK, tail - offset))), 0
            offset += size
            yield chunk[at + WORD : at + WORD + length], offset
            at += size

    def _give_back(self) -> None:
        """The memory of what was moved."""
        words = self._words
        if words[HEAD] == words[TAIL]:
            words[TAIL] = START  # first: an empty log is one whose head is not below its tail
            words[HEAD] = START
            self._log.shrink(START)
        else:
            self._log.punch(words[HEAD])
