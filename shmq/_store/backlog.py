"""The backlog of a queue without a bound: a log beside the segment, of messages that found the ring full.

One file, ``shmq-UID.NAME+NONCE.backlog``, made with the segment and opened with it. It has a page with three words, then records.
A record is the length of a message's image as a word, and the image (its slot's header and payload), up to a multiple of 8 bytes:

    head     offset of the oldest record
    tail     offset behind the newest one
    at_work  1 while somebody changes something

The header of the segment has the number of records, and that word is all that a put or a get looks at while there are none.
Everything happens under the backlog's lock, which the kernel gives back when its holder dies. It happens in compiled code
(shmq/_binding/backlog.pxi), so that no Python code runs under the lock. This module opens the file, and says what failed.

- A record is complete before the tail moves over it. A death in between leaves a record that the next append overwrites.
- The number goes up before the tail moves, and down after the head did, so that no record is ever unknown.
- A message is in the ring before the head moves over it. A death in between delivers it twice.
- A process that finds `at_work` set knows that the last one died at work, and counts the records.

Messages are moved into the ring in their order, and only when it is empty. No process puts into the ring while records are
left. So the order of each producer holds. Rejected: a log in a ring of files, and a longer ring made when the first is full.
Either needs a second kind of cell. A lock that the kernel gives back needs none, and is never taken while the ring suffices.
"""

from __future__ import annotations

import os

from shmq import _core
from shmq._errors import SegmentCorrupt, SegmentNotFound
from shmq._segment import files
from shmq._segment.queue import BACKLOG
from shmq._segment.segment import Segment
from shmq._segment.shared_memory import SHM, failure

__all__ = ["Backlog"]


class Backlog(_core.Log):
    """The log of one queue, as one handle sees it. It stays the same file when the segment is unlinked."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.file = segment.file(BACKLOG)
        try:
            memory, identity = files.map_file(self.file)
            descriptor, found = files.open_file(self.file)
        except SegmentNotFound:
            raise SegmentCorrupt(
                f"the backlog of queue {segment.name!r} is gone from {SHM}: unlink the queue and create it again"
            ) from None
        self._use(memory, descriptor)
        if files.identity_of(found) != identity:
            raise SegmentCorrupt(
                f"the backlog of queue {segment.name!r} was made again while it was opened: open the queue again"
            )

    def _open_again(self) -> int:
        try:
            descriptor, _ = files.open_file(self.file)
        except SegmentNotFound:
            descriptor = -1
        if not self._is(descriptor):
            if descriptor >= 0:
                os.close(descriptor)
            raise SegmentCorrupt(
                f"this process has closed the descriptor of the backlog of queue {self.segment.name!r}, whose name leads to no "
                "such file any more: leave the descriptors above 2 alone, or open the queue again"
            )
        return descriptor

    def _failure(self, number: int, nbytes: int) -> BaseException:
        return failure(self.file, nbytes, OSError(number, os.strerror(number)))
