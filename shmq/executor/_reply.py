"""Reply: a worker's way to one client, by which it puts the outcomes of that client's tasks.

The ring of a client's outcomes has a slot for each task that the client hands over, and an outcome is spilled where the large
slots are full. So no worker waits for a client that takes nothing because it is stopped or busy. The price is memory: outcomes
leave a quarter of /dev/shm free. Where there is no more, a worker waits for a client that goes on taking. For a client that takes
nothing it waits some seconds, and then puts an exception that says so instead of the outcome.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from shmq import _core
from shmq._errors import Full, OutOfMemory, SegmentNotFound
from shmq._segment import anonymous, lifecycle
from shmq._segment.queue import QUEUE
from shmq._segment.shared_memory import SHM
from shmq.executor._channel import Channel
from shmq.executor._tasks import Message

__all__ = ["ROOM_PATIENCE", "Reply", "client_name", "is_gone"]

ROOM_PATIENCE = 0.5  # seconds to wait for memory where no other outcome waits whose memory will be free
STALL_PATIENCE = 5.0  # seconds to wait for memory while the client has outcomes to take, and takes none
PAUSE = 0.005  # seconds between two tries
LEFT_FREE = 4  # one part in so many of /dev/shm is left free by outcomes that wait


def client_name(client: int) -> str:
    """The name of the queue of a client's outcomes: the pid of the client, and a random number."""
    return f"{anonymous.ANONYMOUS_PREFIX}{client >> 32}.{client & 0xFFFFFFFF:08x}.results"


def is_gone(client: int) -> bool:
    """Has the process of this client ended, so that it takes no outcome any more?"""
    try:
        return not _core.alive(lifecycle.attach(client_name(client), QUEUE).creator)
    except SegmentNotFound:
        return True


class Reply:
    """The way to one client. **Raises** SegmentNotFound where the client is gone, and what attaching to a queue raises."""

    def __init__(self, client: int, channel: dict[str, Any]) -> None:
        self.channel = Channel(client_name(client), attach=True, **(channel | {"max_deliveries": None, "private": True}))
        self.waiting = 0  # outcomes, at the last look
        self.stalled = False  # the client was waited for in vain, and has taken nothing since

    @property
    def alive(self) -> bool:
        """Does the process of the client live?"""
        return _core.alive(self.channel.small.segment.creator)

    def put(self, message: Message) -> None:
        """Put an outcome, unless the client is gone. **Raises** OutOfMemory, Full, OSError."""
        if type(message) is bytes:
            with contextlib.suppress(Full):
                self.channel.small.put(message, False)
                return
        hopeful = time.monotonic()
        while True:
            try:
                self.put_once(message)
                break
            except (Full, OutOfMemory):
                if not self.alive:
                    return
                if self.has_taken():
                    hopeful, self.stalled = time.monotonic(), False
                patience = (0 if self.stalled else STALL_PATIENCE) if self.waiting else ROOM_PATIENCE
                if time.monotonic() - hopeful >= patience:
                    self.stalled = self.waiting > 0
                    raise
            time.sleep(PAUSE)
        while self.channel.owed and self.alive:
            time.sleep(PAUSE)
            self.channel.put_owed()

    def put_once(self, message: Message) -> None:
        """Put an outcome without waiting. **Raises** OutOfMemory also where less than a quarter of /dev/shm would be left."""
        if isinstance(message, bytes):
            self.channel.put(message)
            return
        large = self.channel.attached_large()
        nbytes = sum(map(len, message))
        if large is None or nbytes > large.slot_size or large.full():
            small = self.channel.small
            if small.qsize() and not leaves_some(nbytes):
                raise OutOfMemory(
                    f"{small.qsize():,} outcomes wait in {small.name!r}, and process {small.segment.creator_pid} takes none: "
                    f"with {nbytes:,} bytes more, less than a quarter of /dev/shm would be free"
                )
        self.channel.put(message, "spills")

    def has_taken(self) -> bool:
        """Has the client taken outcomes since the last look?"""
        before, self.waiting = self.waiting, self.channel.small.qsize()
        return self.waiting < before

    def close(self) -> None:
        self.channel.close()


def leaves_some(nbytes: int) -> bool:
    """Does an outcome of so many bytes leave a quarter of /dev/shm free?"""
    space = os.statvfs(SHM)
    return space.f_bavail * space.f_frsize - nbytes > space.f_blocks * space.f_frsize // LEFT_FREE
