"""asyncio: a queue with the interface of asyncio.Queue, between processes; and waiting for the first of several queues.

The awaited forms of a shmq.Queue's own calls are its methods: `aget`, `aput`, `areceive`, `ajoin`, `async for`, `async with`.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable
from types import GenericAlias
from typing import Any, Generic

from shmq._errors import Empty, Full, ShutDown
from shmq._queue import Queue as SharedQueue
from shmq._queue import T
from shmq._waiting import awaiting
from shmq._waiting.bell import DONE, ITEMS, SPACE
from shmq._waiting.loop_waiters import LoopWaiters

__all__ = ["Queue", "wait_any"]

QueueShutDown: type[Exception] = getattr(asyncio, "QueueShutDown", ShutDown)  # from Python 3.13 on


class Queue(Generic[T]):
    """What asyncio.Queue is between tasks, between processes: the same calls, defaults and exceptions.

    ``Queue(maxsize)`` makes an anonymous one, to be passed to child processes; ``Queue(queue=…)`` is another face of a
    shmq.Queue. Objects arrive as copies. Tasks of one loop are served in the order in which they came.

    :param maxsize: messages after which `put` waits; 0 or less: as many as there is memory for.
    """

    def __init__(self, maxsize: float = 0, *, queue: SharedQueue[T] | None = None) -> None:
        if queue is None:
            bounded = maxsize > 0
            queue = SharedQueue(
                slots=math.ceil(maxsize) if bounded else None,
                slot_size=256,
                oversize="spill",
                overflow="block" if bounded else "grow",
            )
        else:
            maxsize = queue.maxsize
        self.queue = queue
        self._maxsize = maxsize

    __class_getitem__: Any = classmethod(GenericAlias)

    @property
    def maxsize(self) -> float:
        """Messages after which `put` waits."""
        return self._maxsize

    def qsize(self) -> int:
        """Messages that wait, over all processes."""
        return self.queue.qsize()

    def empty(self) -> bool:
        """No message can be taken now."""
        return self.queue.empty()

    def full(self) -> bool:
        """put would wait."""
        return self._maxsize > 0 and self.queue.full()

    async def put(self, item: T) -> None:
        """Put, when there is room. **Raises** what shmq.Queue.put raises; QueueShutDown. Cancelled, nothing was put."""
        try:
            await self.queue.aput(item)
        except ShutDown as error:
            raise QueueShutDown(str(error)) from None
        self._tell(ITEMS)

    def put_nowait(self, item: T) -> None:
        """**Raises** asyncio.QueueFull, QueueShutDown."""
        try:
            self.queue.put_nowait(item)
        except Full as error:
            raise asyncio.QueueFull(str(error)) from None
        except ShutDown as error:
            raise QueueShutDown(str(error)) from None
        self._tell(ITEMS)

    async def get(self) -> T:
        """Take the oldest message, when there is one. **Raises** QueueShutDown. Cancelled, nothing was taken."""
        try:
            item = await self.queue.aget()
        except ShutDown as error:
            raise QueueShutDown(str(error)) from None
        self._tell(SPACE)
        return item

    def get_nowait(self) -> T:
        """**Raises** asyncio.QueueEmpty, QueueShutDown."""
        try:
            item = self.queue.get_nowait()
        except Empty as error:
            raise asyncio.QueueEmpty(str(error)) from None
        except ShutDown as error:
            raise QueueShutDown(str(error)) from None
        self._tell(SPACE)
        return item

    def task_done(self) -> None:
        """The work on a message that was taken is done. **Raises** ValueError where it is called too often."""
        self.queue.task_done()
        self._tell(DONE)

    async def join(self) -> None:
        """Wait until every message is taken, and its work done."""
        await self.queue.ajoin()

    def shutdown(self, immediate: bool = False) -> None:
        """Let no message in any more: see shmq.Queue.shutdown."""
        self.queue.shutdown(immediate)
        self._tell(ITEMS, SPACE, DONE)

    def close(self) -> None:
        """Let go of the queue in this process."""
        self.queue.close()

    def _tell(self, *sides: int) -> None:
        """Wake the tasks of this loop at once: by the bell they would be woken an iteration of the loop later."""
        waiters = self._waiters_here()
        if waiters is not None:
            for side in sides:
                waiters.wake_if_worth(side)

    def _waiters_here(self) -> LoopWaiters | None:
        # Outside a loop the key is None, and finds nothing.
        return self.queue._loop_waiters.get(asyncio._get_running_loop()) if self.queue._loop_waiters else None  # type: ignore[arg-type]

    def _waiting(self, side: int) -> deque[asyncio.Future[bool]]:
        waiters = self._waiters_here()
        return deque() if waiters is None else waiters.waiting[side]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} {self._format()}>"

    def __str__(self) -> str:
        return f"<{type(self).__name__} {self._format()}>"

    def _format(self) -> str:
        words = [f"maxsize={self._maxsize!r}", f"name={self.queue.name!r}"]
        if self.queue.closed:
            return " ".join([*words, "closed"])
        words += [f"qsize={self.qsize()}"] if self.qsize() else []
        for side, name in ((ITEMS, "getters"), (SPACE, "putters")):
            words += [f"{name}[{len(self._waiting(side))}]"] if self._waiting(side) else []
        return " ".join(words)


async def wait_any(queues: Iterable[SharedQueue[T]], timeout: float | None = None) -> SharedQueue[T]:
    """Wait until one of several queues has a message, and return that queue: shmq.wait_any, awaited.

    Nothing is taken; between the return and the next `await` no other task of this loop takes it, but another process may.
    """
    several = list(queues)
    if not several:
        raise ValueError("wait_any() of no queue would wait for ever")
    ready = await awaiting.any_of(several, timeout)
    if ready is None:
        raise Empty(f"none of {len(several)} queues has a message{f' after {timeout} s' if timeout else ''}")
    return ready
