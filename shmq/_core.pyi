from collections.abc import Awaitable, Callable, Iterable, Iterator
from pickle import PickleBuffer
from types import TracebackType
from typing import Any, Generic, NamedTuple, final, overload

from numpy.typing import DTypeLike, NDArray
from typing_extensions import Self, TypeVar

Handed = TypeVar("Handed")
T = TypeVar("T", default=Any)  # what a queue carries

MAX_CELLS: int
MAX_SLOTS: int
PAGE: int
KIND_QUEUE: int
ITEMS: int
SPACE: int
DONE: int
SLICE: float
AS_CREATED: Any

class Process(NamedTuple):
    pid: int
    alive: bool
    here: bool | None

class AttachedPort(NamedTuple):
    number: int
    owner: int
    pid: int
    alive: bool
    in_exchange: bool

class Cell(NamedTuple):
    state: str
    owner: int
    slot: int
    leased_at: float

class CellCounts(NamedTuple):
    spare: int
    warm: int
    idle: int
    loaned: int
    leased: int
    held: int
    orphan: int

class Occupied(NamedTuple):
    state: str
    owner: int
    message_id: int
    since: float
    ends: float | None
    begun: bool
    failed: int
    nbytes: int

class Exchange(NamedTuple):
    cell: int
    gives: int
    takes: int

class Placement(NamedTuple):
    total: int
    named: dict[int, int]
    out_of_step: dict[int, int]
    cells: list[Cell]
    exchanges: list[Exchange]

class Counters(NamedTuple):
    puts: int
    gets: int
    receives: int
    acks: int
    nacks: int
    redeliveries: int

class Events(NamedTuple):
    expired: int
    deaths: int
    dead_lettered: int

class Waiters(NamedTuple):
    consumers: int
    producers: int

class Mapped:
    @property
    def segment(self) -> Any: ...
    def _observe(self, segment: Any) -> None: ...
    @property
    def name(self) -> str:
        """The name of the segment; other processes attach by it."""
    def _ports(self) -> list[AttachedPort]: ...
    def _processes(self) -> dict[int, Process]: ...
    def _serials(self) -> set[int]: ...

class Observer(Mapped):
    @property
    def grows(self) -> bool:
        """Is this a queue without a bound?"""
    @property
    def maxsize(self) -> int:
        """How many messages may wait; 0 where there is no bound."""
    @property
    def slot_size(self) -> int:
        """Payload bytes of a slot."""
    def qsize(self) -> int:
        """Messages that wait: leased ones and those that came back are not counted. Exact at a quiet moment."""
    def empty(self) -> bool:
        """No message can be taken now: none waits, and none that came back is due. True or False at that moment."""
    def full(self) -> bool:
        """A put would wait: there is no room. True or False at that moment."""
    @property
    def _backlog_count(self) -> int: ...
    @property
    def _shut(self) -> bool: ...
    def _unfinished(self) -> int: ...
    def _hopeless(self) -> int: ...
    def _events(self) -> Events: ...
    def _occupied(self) -> list[Occupied]: ...
    def _placement(self) -> Placement: ...
    def _side_keys(self) -> set[bytes]: ...
    def _counters(self) -> Counters: ...
    def _waiters(self) -> Waiters: ...
    def _cells(self) -> list[Cell]: ...
    def _cell_counts(self) -> CellCounts: ...
    def _image_bytes(self, image: bytes) -> int: ...
    def _image_side_key(self, image: bytes) -> bytes | None: ...
    def _decode_image(self, image: bytes) -> Any: ...

class Attachment(Mapped):
    @property
    def closed(self) -> bool: ...
    @property
    def spin(self) -> bool: ...
    _after_sleep: Callable[[], object] | None
    _noun: str
    def close(self) -> None:
        """Let go of the segment in this process. What is already in the hands of users can still be settled.

        A second call does nothing. Other calls raise Closed afterwards; one that is waiting does so within 0.1 s.
        """
    def _open(self, segment: Any, spin: bool = True) -> None: ...
    def _close_at_exit(self, crashed: bool = False) -> bool: ...
    def _attached(self) -> None: ...
    def _detached(self) -> None: ...
    def _interpreter_exits(self) -> None: ...
    def _holders(self) -> str: ...
    def _look_at_name(self) -> None: ...
    def _stalled(self, seconds: float, unannounced: bool) -> None: ...
    def _bell(self) -> int: ...
    def _owns_bell(self) -> bool: ...
    def _has_bell(self) -> bool: ...
    def _clear_bell(self) -> None: ...
    def _arm(self, side: int) -> bool: ...
    def _disarm(self, side: int) -> bool: ...
    def _pass_on(self, side: int) -> None: ...
    def _wake_all(self, side: int) -> None: ...
    def _worth(self, side: int) -> int: ...
    def _ready(self) -> bool: ...
    def _spin(self, side: int) -> bool: ...
    def _watch(self) -> float: ...
    def _reap(self) -> int: ...

class QueuePort(Attachment, Generic[T]):
    @property
    def spills(self) -> bool: ...
    @property
    def codec(self) -> Any:
        """The codec of what is neither bytes, str nor an array; None where there is none."""
    def _open(self, segment: Any, codec: Any, spin: bool = True) -> None: ...  # type: ignore[override]
    _reducers: Any
    _keeps_types: bool
    _backlog: Any
    def put(self, obj: T, block: bool = True, timeout: float | None = None) -> None:
        """Copy `obj` in and publish it; it is visible to every consumer when put returns.

        **Waits** for room, up to `timeout` seconds (None: for ever; not at all where `block` is false).
        **Raises** Full, MessageTooLarge, PickleRefused, whatever pickling raises, Closed; nothing was put then.
        **If the process dies here** the message is in the queue once, whole, or not at all.
        **Cost** one copy and one exchange; sleepers are woken one per message.
        """
    def put_nowait(self, obj: T) -> None:
        """Put a message at once: put(obj, block=False). **Raises** Full where there is no room."""
    def put_many(self, objs: Iterable[T], timeout: float | None = None) -> int:
        """Put the objects in their order; return how many.

        **Waits** until all are in, or up to `timeout` seconds, then returns how many were (0: tries once).
        **Raises** Full where not even the first went in; TypeError for one str, bytes or dict; before anything is put what `put` raises.
        **If the process dies here** a prefix of them is in the queue.
        """
    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest message; it is gone once get has returned.

        **Waits** for one, up to `timeout` seconds (None: for ever; not at all where `block` is false).
        **Raises** Empty, Closed; what unpickling raises, after giving the message back as a failed attempt.
        **If the process dies here** the message is redelivered to somebody else.
        """
    def get_nowait(self) -> T:
        """Take the oldest message at once: get(block=False). **Raises** Empty where there is none."""
    def get_many(self, max: int, timeout: float | None = None) -> list[T]:
        """Take up to `max` messages in their order: as many as are there, at least one.

        **Waits**, **raises** and survives death as `get` does. The messages are gone only when the whole batch has been
        decoded. So no more are returned than in-flight cells are free, and at most half of `in_flight`: others need some, too.
        A message that came back is returned alone.
        """
    def receive(self, timeout: float | None = None, lease_timeout: float | None = ..., extend: bool = False) -> Lease[T]:
        """Take the oldest message with responsibility: see Lease.

        `lease_timeout`: seconds after which the message goes to somebody else; None: not while this process lives; if it is not
        given: what the queue was created with. `extend`: begin the time again, from a thread, until the lease is settled.
        **Waits** for a message, up to `timeout` seconds (None: for ever; 0: tries once). **Raises** Empty, Closed; InFlightLimit
        where leases and loans occupy every in-flight cell for a second (where messages that rest do, too, it waits for the first of
        them). **If the process dies** before the ack, the message is redelivered.
        """
    def receive_many(
        self, max: int, timeout: float | None = None, lease_timeout: float | None = ..., extend: bool = False
    ) -> list[Lease[T]]:
        """Take up to `max` messages with responsibility: as many as are there, at least one. Waits and raises as `receive`.

        A message is begun with when something of it is read (data, array, view), or its context is entered. One that was not
        begun with comes back without having failed, if this process dies or its time is over.
        """
    def consume(
        self, prefetch: int = 1, timeout: float | None = None, lease_timeout: float | None = ..., extend: bool = False
    ) -> Leases[T]:
        """Iterate over messages: ack when the loop's body has ended, nack when it raises. `for lease in queue` is this.

        A body that took longer than the lease is logged, and the loop goes on: the message is somebody else's by then.
        `prefetch`: how many to take at once; those that the loop has not come to go back untouched when it ends, and have not
        failed if this process dies. `timeout`: end the loop when nothing has come for so many seconds. The rest as `receive`;
        the time of a prefetched message begins again when the loop comes to it.
        After a `shutdown` the loop ends when no message can come any more: none waits or rests, and no other process holds one.
        """
    def __iter__(self) -> Iterator[Lease[T]]: ...
    @overload
    def loan(self, shape: int) -> Loan[memoryview]:
        """Lend an empty slot to write a message in place: `loan(nbytes)`, or `loan(shape, dtype)` for an array.

        **Raises** MessageTooLarge, TypeError for a dtype that only pickle carries, Closed; InFlightLimit where leases, loans and
        messages that came back occupy every in-flight cell. **Waits** only for a cell that a call of another process is about to
        free, for a second at most; publishing waits for room. **If the process dies** before that, nothing was sent.
        """
    @overload
    def loan(self, shape: int | tuple[int, ...] | list[int], dtype: DTypeLike) -> Loan[NDArray[Any]]:
        """Lend an empty slot to write a message in place: `loan(nbytes)`, or `loan(shape, dtype)` for an array.

        **Raises** MessageTooLarge, TypeError for a dtype that only pickle carries, Closed; InFlightLimit where leases, loans and
        messages that came back occupy every in-flight cell. **Waits** only for a cell that a call of another process is about to
        free, for a second at most; publishing waits for room. **If the process dies** before that, nothing was sent.
        """
    def peek(self, n: int = 1) -> list[T]:
        """Copies of the first `n` messages of the ring, oldest first, without taking them. Leased ones are not among them."""
    def purge(self) -> int:
        """Throw away every message that waits, or came back, or rests; return how many. Leased ones stay leased.

        Nothing is decoded, and it needs no more than get does. **If the process dies here** the message in hand comes back.
        """
    def task_done(self) -> None:
        """The work on a message that `get` took is done: see join. A lease says the same by its ack, and needs no task_done.

        **Raises** ValueError where it was called more often than messages were taken. **If the process dies** between get and
        task_done, join waits for ever, as with multiprocessing: take with `receive` where that matters.
        """
    def shutdown(self, immediate: bool = False) -> None:
        """Let no message in any more, for every process and for as long as the queue lives: put raises ShutDown from now on.

        What is in it can still be taken. get and receive raise ShutDown once nothing is left that waits, or rests after a
        failure; a loop ends once no other process holds a message either, since that may come back. What the loop's own process
        holds it does not wait for. `immediate`: throw away what waits and what rests, too. Those that wait are woken. A second
        call does nothing more. **If the process dies here** the queue is shut; some that wait find out within 0.1 s. A put that
        overlaps with this call may still put.
        """
    def _deaths_to_reap_sides_of(self) -> int | None: ...
    def _reaped_sides_of(self, deaths: int) -> None: ...
    def _expire(self) -> int: ...
    _readable: Any  # shmq._waiting.fileno.Readable | None
    def _all_wait(self) -> bool: ...
    def _dead_letter_all(self) -> int: ...
    def _revive(self, image: bytes, timeout: float | None = None) -> None: ...
    def _in_backlog(self, n: int) -> list[bytes]: ...

class QueueHandle(QueuePort[T], Observer): ...

@final
class Mapping:
    def __new__(cls, descriptor: int, nbytes: int, private: bool = False, readonly: bool = False) -> Self: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Log:
    def _use(self, memory: Any, descriptor: int) -> None: ...
    def _is(self, descriptor: int) -> bool: ...
    def _open_again(self) -> int: ...
    def _failure(self, failure: int, nbytes: int) -> BaseException: ...

@final
class Reducers:
    def __init__(self, of_array: Any, of_exporter: Any, of_registered: Any) -> None: ...
    def __getitem__(self, kind: type, /) -> Any: ...

class Slot:
    @property
    def view(self) -> memoryview:
        """The payload as a memoryview over the slot; no copy."""
    @property
    def nbytes(self) -> int:
        """Size of the payload in bytes."""

@final
class Loan(Slot, Generic[Handed]):
    """An empty slot to write a message in place.

    As a context manager it hands out the array (or memoryview), publishes on exit, and abandons on an exception.
    **If the process dies** before the publication, nothing was sent and the slot goes back.
    """
    @property
    def array(self) -> NDArray[Any]:
        """The slot as a writable array of the shape and dtype that was asked for; read-only once published."""
    def publish(self, nbytes: int | None = None, timeout: float | None = None) -> None:
        """Make the message visible to consumers.

        `nbytes`: publish only so many bytes of a loan that was taken by size. The array that was handed out becomes
        read-only; slices and memoryviews of it do not, and must not be written afterwards. **Waits** for room in the ring, up to
        `timeout` seconds (None: for ever). **Raises** Full (the loan stays open), ValueError, LeaseLost, Closed.
        """
    def apublish(self, nbytes: int | None = None, timeout: float | None = None) -> Awaitable[None]:
        """Make the message visible to consumers; the event loop goes on while the ring is full. Cancelled, the loan stays open."""
    def abandon(self) -> None:
        """Give the slot back unpublished. A second call does nothing. **Raises** LeaseLost while another thread publishes it."""
    async def __aenter__(self) -> Handed: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def __enter__(self) -> Handed: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

@final
class Lease(Slot, Generic[T]):
    """A message taken with responsibility.

    The message is gone once `ack` returns. It comes back to some consumer if this process dies, on `nack`, when its time is
    over, or when the lease is dropped unsettled. As a context manager: ack on exit, nack on an exception.

    Zero-copy views (`array`, `view`) show this message as long as they live, also after the ack or the loss of the lease. The
    slot is used again when the last of them is gone.
    """
    @property
    def data(self) -> T:
        """The object that was put: a copy, made on first use and kept."""
    @property
    def array(self) -> NDArray[Any]:
        """The message as a read-only array over the slot, without a copy; of anything but an array: its bytes."""
    @property
    def writable_array(self) -> NDArray[Any]:
        """As `array`, but writable: the slot is this process's own until the ack. A redelivery would show the change.

        Of a message that was spilled, a private copy of each page that is written.
        """
    @property
    def id(self) -> int:
        """Unique among the messages of this segment's life."""
    @property
    def delivery_count(self) -> int:
        """How often the message was delivered, this time included; the first time it is 1."""
    @property
    def published_at(self) -> float:
        """When it was published, in seconds of time.monotonic(), to the tick of the kernel (1 to 4 ms)."""
    @property
    def age(self) -> float:
        """Seconds since it was published, to the tick of the kernel."""
    @property
    def _lost(self) -> bool: ...
    @property
    def settled(self) -> bool:
        """True once it was acked, given back or lost."""
    def ack(self) -> None:
        """Done: the message is gone. **Raises** LeaseLost where the lease had ended before. **Cost** one exchange."""
    @property
    def expires_at(self) -> float | None:
        """When the lease ends, in seconds of time.monotonic(); None without a time-out. Meaningless once it has ended."""
    def nack(self, delay: float | None = None) -> None:
        """Failed: give the message back; the attempt counts. At the queue's max_deliveries it becomes a dead letter.

        `delay`: seconds until it is delivered again (0: at once); None: what the queue's back-off says. **Raises** LeaseLost.
        """
    def _fail(self, error: BaseException, delay: float | None) -> None: ...
    def release(self, delay: float = 0) -> None:
        """Not mine after all: give the message back, after `delay` seconds; the attempt does not count. **Raises** LeaseLost."""
    def extend(self, seconds: float | None = None) -> None:
        """Let the lease end so many seconds from now; None: the time-out with which it was received.

        **Raises** LeaseLost where it has ended: the message is somebody else's by then. **If the process dies here** it ends when
        it would have ended, or at the new time.
        """
    def reject(self, reason: str = "") -> None:
        """Hopeless: make the message a dead letter, with the reason given. It is never delivered again, unless it is redriven.

        **Raises** LeaseLost; OutOfMemory where the letter cannot be written: then a later call writes it.
        **If the process dies here** it is a dead letter, or the lease of a dead holder.
        """
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

@final
class Leases(Generic[T]):
    def __iter__(self) -> Self: ...
    def __next__(self) -> Lease[T]: ...
    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Awaitable[Lease[T]]: ...
    def _finish(self) -> None: ...
    def _take(self) -> Lease[T]: ...

class NameLock:
    name: str
    def __init__(self, name: str, key: int, patience: float) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

class Hold:
    lock: Any
    def __new__(cls, lock: Any) -> Self: ...
    def __enter__(self) -> None: ...
    def __exit__(self, kind: object, error: object, traceback: object) -> None: ...

def seconds_of(timeout: float | None) -> float | None: ...
def identity() -> int: ...
def alive(owner: int) -> bool: ...
def try_lock(key: int) -> bool: ...
def unlock(key: int) -> None: ...
def lock_inode() -> int: ...
def after_name_lock(function: Callable[[], object]) -> bool: ...
def segment_bytes(slots: int, slot_size: int, in_flight: int, ports: int) -> int: ...
def reserved_cells(slot_size: int, ports: int) -> int: ...
def format_segment(memory: Any, header: dict[str, Any]) -> None: ...
def _numpy_is_imported(module: Any) -> None: ...

@final
class Dumper:
    def __init__(self, reducers: Any = None) -> None: ...
    def dump(self, obj: Any) -> tuple[bytes, list[PickleBuffer] | None]:
        """-> the stream, and a list of PickleBuffers or None. **Raises** what pickling raises."""

def mark_ready(memory: Any) -> None: ...
def read_header(memory: Any) -> dict[str, Any] | None: ...
def read_queue(memory: Any) -> dict[str, Any]: ...
def begin_segment(memory: Any, kind: int, header: dict[str, Any]) -> None: ...
def attachments(memory: Any, apart_from: int = 0) -> tuple[int, list[int], int]: ...
def serial_of(message_id: int) -> int: ...
def monotonic_ns() -> int: ...
