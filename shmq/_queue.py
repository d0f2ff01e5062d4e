"""Queue: competing consumers, each message to one of them.

What happens once per message is compiled (shmq/_core.pyx); this module adds birth, names, reports and death.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from shmq import _core, _exit
from shmq._codec.codec import Codec, json_codec
from shmq._codec.reducers import reducers, state_beside
from shmq._errors import Closed, Empty, Full, SegmentCorrupt, SegmentMismatch, SegmentNotFound
from shmq._observe import notices
from shmq._observe.holders import attached_report, holders_report
from shmq._segment import anonymous as _anonymous
from shmq._segment import lifecycle
from shmq._segment.config import check_mode
from shmq._segment.queue import QUEUE, QueueConfig
from shmq._segment.segment import Segment
from shmq._waiting.bell import ITEMS, SPACE, wait_done
from shmq._waiting.handles import ListeningHandles

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from typing_extensions import Self, TypeVar, Unpack

    from shmq._observe.holdings import Holding
    from shmq._observe.stats import QueueStats
    from shmq._segment.backoff import Backoff
    from shmq._segment.config import Lifetime
    from shmq._segment.queue import Overflow, Oversize, Values
    from shmq._store.dead_letters import DeadLetter, DeadLetters
    from shmq._upcalls import QueueUpcalls
    from shmq._waiting.awaiting import Receiving
    from shmq._waiting.fileno import Readable
    from shmq._waiting.loop_waiters import LoopWaiters

    T = TypeVar("T", default=Any)  # what it carries; for type checkers
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["Queue"]

OF_A_HANDLE = {
    "_listening_handles",
    "_loop_waiters",
    "_backlog",
    "_creator_pid",
    "_of_children",
}  # attributes that each process has of its own


class Queue(_core.QueueHandle[T]):
    """A queue between the processes of this machine, in shared memory.

    ``Queue("frames", …)`` opens it, or creates it where there is none; ``Queue()`` makes an anonymous one, which is passed
    to child processes and gone with its creator. Values that are given must be those of an existing queue. For type checkers,
    ``Queue[int]`` is one of integers.

    :param slots: capacity in messages, at least 1; all are reserved when the queue is made (default 1,024; of slots above 16 KiB
        as many as fit into 16 MiB, at least 4).
    :param slot_size: payload bytes of a slot (default 1,024).
    :param in_flight: how many messages may be leased or loaned at once, over all processes (default 64 to 256; of slots of a page
        or more at most as many as fit into 16 MiB, at least 4). As many slots are reserved beside the ring.
    :param ports: how many handles may be attached at once (default 64).
    :param oversize: payloads above `slot_size`: "spill" (the default) takes a side segment for each: a file in /dev/shm, of whole
        pages, that goes with the message. It takes some 16 times as long as a slot. "error" raises MessageTooLarge.
    :param overflow: a put that finds the queue full: "block" waits for room; "grow" waits a moment for consumers that are at
        work, and then leaves the message in a log beside the segment, from where it comes into the ring: no bound but /dev/shm's.
    :param allow_pickle: objects that are neither bytes, str nor arrays may travel by pickle (default True).
    :param codec: an object with `name`, `encode` and `decode` for everything but bytes, str and arrays; shmq.json_codec.
    :param lease_timeout: seconds after which a message that was received and not acked goes to another consumer; None (the
        default): when its holder dies. `receive(lease_timeout=)` may say otherwise for one message.
    :param max_deliveries: failed deliveries after which a message becomes a dead letter (default 20; 0: never).
    :param backoff: how long a message rests after a failed delivery: a shmq.Backoff (default: not at all).
    :param lifetime: "persistent" (the default: until it is unlinked), "creator" (the name goes when the creator closes it or
        ends; the default of anonymous queues), or "handles" (… when the last handle does).
    :param mode: permissions; only 0o600, since another user's processes could not be told alive from dead.
    :param spin: spin for some microseconds before sleeping (default: where there is more than one CPU).

    **Raises** SegmentMismatch, SegmentCorrupt, SegmentForeign, OutOfMemory, TooManyPorts, ValueError, TypeError.
    """

    _reducers = reducers

    _reaps_sides = True  # a handle that attaches removes the side segments that the dead left
    _told_of_name = False  # it was said that the name is another queue's

    def __init__(
        self,
        name: str | None = None,
        *,
        slots: int | None = None,
        slot_size: int | None = None,
        in_flight: int | None = None,
        ports: int | None = None,
        oversize: Oversize | None = None,
        overflow: Overflow | None = None,
        allow_pickle: bool | None = None,
        codec: Codec | None = None,
        lease_timeout: float | None = None,
        max_deliveries: int | None = None,
        backoff: Backoff | None = None,
        lifetime: Lifetime | None = None,
        mode: int = 0o600,
        spin: bool = True,
    ) -> None:
        arguments = locals()  # so far, the parameters: every row of the table is among them
        check_mode(mode)
        config = QueueConfig.asked({name: arguments[name] for name in QueueConfig.TABLE})
        if name is None:
            self._begin(_anonymous.create(QUEUE, config), codec, spin)
            return
        while not self._begin_unless_gone(lifecycle.open_or_create(name, QUEUE, config), codec, spin):
            pass  # the next look makes a new one

    @classmethod
    def create(
        cls, name: str, *, codec: Codec | None = None, mode: int = 0o600, spin: bool = True, **values: Unpack[Values]
    ) -> Self:
        """Create a queue; parameters as for Queue(). **Raises** SegmentExists where there is one, and what Queue() raises."""
        check_mode(mode)
        return cls._make(name, QueueConfig.asked({**values, "codec": codec}), codec, spin)

    @classmethod
    def _make(
        cls, name: str, config: QueueConfig, codec: Codec | None = None, spin: bool = True, anonymous: bool = False
    ) -> Self:
        """A new queue of this name, that is still there once it is open. **Raises** SegmentExists."""
        queue = cls.__new__(cls)
        while not queue._begin_unless_gone(lifecycle.create(name, QUEUE, config, anonymous), codec, spin):
            pass  # another process opened it, and was its last user
        return queue

    @classmethod
    def attach(cls, name: str, *, codec: Codec | None = None, spin: bool = True) -> Self:
        """Attach to an existing queue. **Raises** SegmentNotFound where there is none, and what Queue() raises."""
        QueueConfig.asked({"codec": codec})
        queue = cls.__new__(cls)
        if queue._begin_unless_gone(lifecycle.attach(name, QUEUE), codec, spin):
            return queue
        raise SegmentNotFound(f"there is no segment {name!r}: it was unlinked, or went with its last user, while it was opened")

    @classmethod
    def _inspect(cls, segment: Segment) -> Queue:
        """Attach whatever the codec: to operate, not to put or to take."""
        queue = cls.__new__(cls)
        queue._reaps_sides = False
        queue._open(segment, None)
        queue._creator_pid = None
        return queue

    def _begin_unless_gone(self, segment: Segment, codec: Codec | None, spin: bool) -> bool:
        """Open a segment that was just found or made; False where its name was removed before a port of it was attached."""
        try:
            self._begin(segment, codec, spin)
        except SegmentCorrupt:
            if segment.is_current():
                raise
            return False
        if lifecycle.has_stayed(segment):
            return True
        self.close()
        return False

    def _begin(self, segment: Segment, codec: Codec | None, spin: bool) -> None:
        self._open(segment, _codec_of(segment, codec), spin)
        mine = segment.lifetime == "creator" and segment.made
        self._creator_pid = os.getpid() if mine else None

    def _attached(self) -> None:
        self._listening_handles = ListeningHandles()  # of this process
        self._loop_waiters: dict[AbstractEventLoop, LoopWaiters] = {}
        _exit.close_at_exit(self)
        if self.grows and (self._backlog is None or self._backlog.segment is not self.segment):
            from shmq._store.backlog import Backlog

            self._backlog = Backlog(self.segment)
        if self._reaps_sides and (deaths := self._deaths_to_reap_sides_of()) is not None:
            from shmq._store.sides import reap_sides_after

            reap_sides_after(deaths, self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach_again, (type(self), self.name, self.segment.nonce, self.codec, self.spin), self.__getstate__()

    def __getstate__(self) -> Any:
        """What a subclass has given this handle beside the queue itself, which travels with it; None where that is nothing."""
        return state_beside(self, OF_A_HANDLE)

    def __setstate__(self, state: Any) -> None:
        attributes, slots = state if isinstance(state, tuple) else (state, {})
        vars(self).update(attributes or {})
        for name, value in slots.items():
            setattr(self, name, value)

    # -- asyncio: the same, awaited. Nothing waits but the event loop; cancelling loses nothing -----------------------------

    async def aget(self, timeout: float | None = None) -> T:
        """Take the oldest message without blocking the event loop; tasks of a loop are served in the order in which they came.

        **Waits** up to `timeout` seconds (None: for ever). **Raises** Empty, ShutDown, Closed. Cancelling it loses no message.
        """
        try:
            return self.get(False, timeout)
        except Empty:
            from shmq._waiting import awaiting

            return await awaiting.wait(self, ITEMS, self.get_nowait, timeout)

    async def aput(self, obj: T, timeout: float | None = None) -> None:
        """Put a message without blocking the event loop, which goes on while the queue is full.

        **Waits** up to `timeout` seconds (None: for ever). **Raises** Full, MessageTooLarge, PickleRefused, ShutDown, Closed, and
        what encoding raises. Where it is cancelled, nothing was put.
        """
        try:
            return self.put(obj, False, timeout)
        except Full:
            from shmq._waiting import awaiting

            return await awaiting.wait(self, SPACE, lambda: self.put(obj, False), timeout)

    def areceive(
        self, timeout: float | None = None, lease_timeout: float | None = _core.AS_CREATED, extend: bool = False
    ) -> Receiving[T]:
        """Take a message with responsibility: ``lease = await queue.areceive()``, or ``async with queue.areceive() as lease:``.

        It is a coroutine, which `asyncio.create_task` and the like take. `lease_timeout` and `extend` as in receive.
        **Raises** as receive.
        """
        from shmq._waiting.awaiting import Receiving

        return Receiving(self, lambda: self.receive(0, lease_timeout, extend), _core.seconds_of(timeout))

    async def ajoin(self, timeout: float | None = None) -> bool:
        """Wait until every message is done, without blocking the event loop; True, or False on time-out. **Raises** Closed."""
        from shmq._waiting import awaiting

        return await awaiting.done(self, _core.seconds_of(timeout))

    def __aiter__(self) -> AsyncIterator[_core.Lease[T]]:
        return self.consume()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    # -- operating -----------------------------------------------------------------------------------------------------

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every message is done; True, or False on time-out.

        Done is a message that was acked, became a dead letter or was purged, or that was taken by `get` and followed by a
        task_done. **Raises** Closed. What was shut down is waited for like anything else.
        """
        return wait_done(self, timeout)

    def drain(self) -> list[T]:
        """Take every message that waits, oldest first; an empty list where there is none."""
        taken: list[T] = []
        while True:
            try:
                taken += self.get_many(max(self.qsize(), 1), timeout=0)
            except Empty:
                return taken
            except Closed:  # by an object's own code: what was taken is in nobody else's hands
                if not taken:
                    raise
                return taken

    def stats(self) -> QueueStats:
        """Counts of this moment, over all processes. **Raises** Closed."""
        from shmq._observe.stats import stats_of  # on first use: dataclasses take longer than the rest of `import shmq`

        self.qsize()
        return stats_of(self)

    def leases(self) -> list[Holding]:
        """Which process holds what since when: messages that are leased, loaned, or acked and still looked at, longest first."""
        from shmq._observe.holdings import holdings_of

        self.qsize()
        return holdings_of(self)

    @property
    def dead_letters(self) -> DeadLetters:
        """The messages that were given up: see shmq.DeadLetters. **Raises** Closed."""
        from shmq._store.dead_letters import DeadLetters

        self.qsize()
        return DeadLetters(self)

    def redrive(
        self, filter: Callable[[DeadLetter], Any] | None = None, rate: float | None = None, timeout: float | None = None
    ) -> int:
        """Put dead letters back into the queue: see shmq.DeadLetters.redrive."""
        return self.dead_letters.redrive(filter, rate, timeout)

    def fileno(self) -> int:
        """A descriptor that is readable while a message may be there, for select and the event loops of others.

        ``select.select([queue], [], [])``, ``selectors``, ``QSocketNotifier(queue.fileno(), …)`` and ``GLib.io_add_watch`` tell
        when there is something; then take with `get_nowait` or `receive(0)`, one message or all, and be ready for Empty. The
        descriptor stays readable until a call finds the queue empty: it says so once too often for a burst, and another consumer
        may be quicker. A queue that was shut down is readable for good. Take from this handle, and never read the descriptor. It
        is the same one until the handle is closed: unregister it before. A forked child asks again, and gets one of its own.

        The first call attaches a port and starts a thread, one for all queues of the process. Every 0.08 s it looks for what
        nobody tells of: a message of a process that died, or whose lease is over. **Raises** Closed, TooManyPorts, OSError.
        """
        self.qsize()
        if self._readable is None or self._readable.foreign:
            from shmq._waiting import fileno as _fileno

            self._readable = _fileno.Readable(self)
        readable: Readable = self._readable
        return readable.descriptor

    # The core's fields cannot have docstrings.

    @property
    def closed(self) -> bool:
        """Was this handle closed: by `close`, or by the end of the interpreter?"""
        return super().closed

    @property
    def spills(self) -> bool:
        """Does a message that is too large for a slot go into a side segment, as `oversize="spill"` has it?"""
        return super().spills

    @property
    def spin(self) -> bool:
        """Does this handle spin for some microseconds before it sleeps?"""
        return super().spin

    @property
    def segment(self) -> Segment:
        """The mapped segment: an internal object, which may change from one version to the next."""
        segment: Segment = super().segment
        return segment

    def close(self) -> None:
        """Let go of the queue in this process; messages stay. Leases and loans already taken can still be settled.

        A second call does nothing. Other calls raise Closed afterwards; one that is waiting does so within 0.1 s.
        """
        if not self.closed:
            here = not self._listening_handles.foreign  # otherwise the loops are the parent's
            super().close()
            for loop, waiters in list(self._loop_waiters.items()) if here else ():
                with contextlib.suppress(RuntimeError):  # the loop was closed under tasks that waited
                    loop.call_soon_threadsafe(waiters.watch)  # the tasks that wait there learn of it
            self._listening_handles.close()
            if self._readable is not None:
                self._readable.close()
                self._readable = None
        if self._creator_pid == os.getpid():
            lifecycle.remove_if_over(self.segment)
            self._creator_pid = None  # after that: where it raises, for want of descriptors, a second close tries again

    def unlink(self) -> None:
        """Remove the queue's name: nobody new finds it, and its memory is freed when the last handle is closed.

        A second call does nothing. **Raises** SegmentNotFound where the name is another queue's.
        """
        try:
            there = lifecycle.attach(self.name, QUEUE)
        except SegmentNotFound:
            return
        if there.nonce != self.segment.nonce:
            raise SegmentNotFound(
                f"the name {self.name!r} is another queue's: nothing was unlinked; shmq.unlink({self.name!r}) removes that one"
            )
        lifecycle.unlink(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self.closed:
            self.close()

    def __repr__(self) -> str:
        if self.closed:
            return f"<shmq.Queue {self.name!r}, closed>" if self.segment else "<shmq.Queue, never opened>"
        return f"<shmq.Queue {self.name!r}: {self.qsize():,} of {self.segment.config.slots:,} slots of {self.slot_size:,} bytes>"

    # -- up-calls of the compiled half ---------------------------------------------------------------------------------------

    def _anext(self, leases: _core.Leases, timeout: float | None) -> Any:
        from shmq._waiting.awaiting import next_lease

        return next_lease(self, leases, timeout)

    def _apublish(self, loan: _core.Loan[Any], nbytes: int | None, timeout: float | None) -> Any:
        from shmq._waiting.awaiting import publish

        return publish(self, loan, nbytes, timeout)

    def _detached(self) -> None:
        if self.segment.lifetime != "creator" or not self.segment.is_current():
            lifecycle.remove_if_over(self.segment)

    def _interpreter_exits(self) -> None:
        _exit.stop_daemon_thread()

    def _write_dead_letter(self, image: bytes, **about: Any) -> None:
        from shmq._store.dead_letters import DeadLetters

        DeadLetters(self)._write(image, **about)

    def _keep(self, lease: _core.Lease, seconds: float) -> None:
        from shmq._waiting.renewal import keep

        keep(lease, seconds)

    _could_not_dead_letter = notices.could_not_dead_letter
    _late = notices.late
    _stalled = notices.stalled
    _look_at_name = notices.look_at_name

    def _in_flight_report(self) -> str:
        return holders_report(self)

    def _holders(self) -> str:
        return attached_report(self)


if TYPE_CHECKING:
    answers: type[QueueUpcalls] = Queue  # each, as it is declared


def _codec_of(segment: Segment, codec: Codec | None) -> Codec | None:
    """The codec of a handle: the one that was given, or JSON's where the queue has that. **Raises** SegmentMismatch."""
    there = segment.config.codec
    if codec is None and there == json_codec.name:
        return json_codec
    if (codec.name if codec else "") != there:
        wanted = f"with the codec {there!r}: open it with the same codec=" if there else "without a codec: leave codec= out"
        raise SegmentMismatch(f"queue {segment.name!r} was made {wanted}; {lifecycle.how_to_replace(segment.name)}")
    return codec


def _attach_again(cls: type[Queue], name: str, nonce: int, codec: Codec | None, spin: bool) -> Queue:
    """Unpickle a handle: attach to the queue that it named, not to another of that name."""
    queue = cls.attach(name, codec=codec, spin=spin)
    if queue.segment.nonce != nonce:
        queue.close()
        raise SegmentNotFound(
            f"queue {name!r} was unlinked and made again since this handle was pickled: attach to the new one by its name"
        )
    return queue
