# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True, binding=True
"""The binding: everything that happens once per message, in one native call.

A Port is a handle on a segment. Its methods do the whole fast path (encode, exchange, wake) without a Python frame, and
leave for Python only to wait, to pickle, or to spill. They are serialised per handle: by the interpreter lock, or by a
critical section where there is none. The lock is released only while waiting and during large copies, and at both times
the in-flight cell in use is not the port's kept one, so that another thread works with another cell.

Everything with Python code in it (an object's pickling, a codec, a buffer's exporter) runs before a cell is taken or
after the message is leased: see _draft.pxi and _decode.pxi. Loan and Lease are in _lease.pxi.
"""

cimport cython
cimport numpy as cnp
from cpython.bytearray cimport PyByteArray_FromStringAndSize
from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.memoryview cimport PyMemoryView_FromMemory, PyMemoryView_FromObject
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from cpython.weakref cimport PyWeakref_NewRef
from libc.errno cimport EMFILE, ENFILE, ENOENT, ENOSPC, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import os as _os
from operator import index as operator_index
from pickle import Pickler, loads as pickle_loads

from numpy import ascontiguousarray as np_ascontiguousarray

from shmq import _codec
from shmq._errors import (
    Closed, Empty, Full, InFlightLimit, LeaseLost, MessageTooLarge, OutOfMemory, PayloadLost, PickleRefused, SegmentCorrupt, SegmentForeign, SegmentMismatch,
    ShmqError, ShutDown, TooManyPorts,
)

cdef extern from "Python.h":
    ctypedef void (*destructor)(PyObject *) noexcept
    ctypedef struct PyTypeObject:
        destructor tp_dealloc
    PyTypeObject *Py_TYPE(object obj)
    PyObject *PyDict_GetItemWithError(dict table, object key) except? NULL
    bint PyObject_CheckBuffer(object obj)
    PyObject *_PyType_Lookup(PyTypeObject *kind, object name)
    PyObject *PyErr_Occurred()
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *length) except NULL

cdef extern from "fcntl.h":
    int FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE
    int fallocate(int descriptor, int mode, int64_t offset, int64_t nbytes)

cdef extern from "unistd.h":
    int usleep(unsigned int microseconds) nogil
    int close_descriptor "close"(int descriptor)
    Py_ssize_t read_descriptor "read"(int descriptor, void *into, size_t nbytes)

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyArray_Descr:
        pass
    cnp.ndarray PyArray_NewFromDescr(PyTypeObject *subtype, PyArray_Descr *descr, int nd, const cnp.npy_intp *dims,
                                     const cnp.npy_intp *strides, void *data, int flags, PyObject *obj)
    PyArray_Descr *PyArray_DESCR(cnp.ndarray array)
    bint PyDataType_REFCHK(cnp.dtype descr)
    cnp.npy_intp PyDataType_ELSIZE(cnp.dtype descr)
    void PyArray_CLEARFLAGS(cnp.ndarray array, int flags)
    void PyArray_ENABLEFLAGS(cnp.ndarray array, int flags)

cnp.import_array()

# From this size on a copy takes longer (about 2 us) than giving up the interpreter lock and taking it again.
cdef enum:
    RELEASE_BYTES = 65536
    SPILL_KEY_BYTES = 16
    BATCH = 256
    KEPT_PICKLE_BYTES = 1024
    LOG_HEAD = 0 # words of a backlog's first page: shmq/_backlog.py
    LOG_TAIL = 1
    LOG_AT_WORK = 2
    PEEKS = 1000  # how often peek begins anew while others take what it looks at
# How long put and get wait for an in-flight cell before they say who holds them all.
cdef uint64_t CELL_PATIENCE_NS = 1000000000
# A wait for room or for a cell that lasts longer is logged, once.
cdef uint64_t STALL_NS = 5000000000
# How long a process that attaches waits for another one that is freeing the ports of the dead, and may be stopped.
cdef uint64_t REAPER_PATIENCE_NS = 1000000000
# How long a message rests that could not be buried.
cdef uint64_t BURIAL_REST_NS = 1000000000
# How long puts wait for room before they go to the backlog: at first, and how much more with every put. So consumers that take
# 50,000 messages a second keep a producer at their pace, and no thousand puts take longer than 0.07 s, whoever takes them.
cdef int64_t BACKLOG_PATIENCE_NS = 50000000
cdef int64_t BACKLOG_PATIENCE_PER_PUT_NS = 20000
# How long a consumer that finds the ring empty waits for whoever is at the backlog, before it looks at the ring again.
cdef uint64_t REFILL_PATIENCE_NS = 10000000


cdef inline uint64_t align(uint64_t offset) noexcept nogil:
    return (offset + 63) & ~<uint64_t>63


cdef inline bint is_utf8(str text, const char **data, Py_ssize_t *length) except -1:
    """False for text with lone surrogates, which UTF-8 cannot carry: it travels by pickle."""
    try:
        data[0] = PyUnicode_AsUTF8AndSize(text, length)
    except UnicodeEncodeError:
        return False
    return True


cdef inline bint is_swapped(cnp.dtype descr) noexcept:
    return descr.byteorder == c'>'


cdef inline bint is_plain(cnp.dtype descr) noexcept:
    """Kind, size and byte order say everything about this dtype."""
    return PyDataType_ELSIZE(descr) > 0 and (descr.kind in (c'u', c'i', c'f', c'c', c'b', c'S', c'U') or (descr.kind == c'V' and descr.type_num == cnp.NPY_VOID
            and not cnp.PyDataType_HASFIELDS(descr) and not cnp.PyDataType_HASSUBARRAY(descr)))


cdef inline int check_timeout(object timeout) except -1:
    """Refuse what is no number, also where nobody will have to wait. Cheap: the clock is not read."""
    if timeout is not None:
        number_of_seconds(timeout)
    return 0


def seconds_of(timeout) -> float | None:
    """A time-out as asyncio and poll take it: None for what is longer than they can count. Refuses what is no number."""
    cdef double seconds
    if timeout is None:
        return None
    seconds = number_of_seconds(timeout)
    return None if seconds > 9e9 else seconds


cdef double number_of_seconds(object timeout) except? -1:
    if isinstance(timeout, (str, bytes)):
        raise TypeError(f"a timeout is a number of seconds or None, not {timeout!r}")
    cdef double seconds = timeout
    if seconds != seconds:
        raise ValueError("a timeout cannot be NaN")
    return seconds


cdef int refuse_bool(object seconds) except -1:
    """True is no second: whoever passes it meant another parameter."""
    if isinstance(seconds, bool):
        raise TypeError(f"a number of seconds or None is asked for, not {seconds!r}")
    return 0


cdef uint64_t delay_ns_of(object delay) except? 1:
    """Nanoseconds for a delay in seconds; None: by the queue's policy."""
    cdef double seconds
    if delay is None:
        return SHMQ_BY_POLICY
    refuse_bool(delay)
    seconds = number_of_seconds(delay)
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise ValueError(f"a delay lies between 0 seconds and a year, or is None, but is {delay!r}")
    return <uint64_t>(seconds * 1e9)


cdef uint64_t deadline_of(object timeout) except? 0:
    """Monotonic nanoseconds for a time-out in seconds; None: for ever; below zero: now."""
    cdef double seconds
    if timeout is None:
        return SHMQ_FOREVER
    seconds = number_of_seconds(timeout)
    if seconds <= 0:
        return 1
    if seconds > 9e9:
        return SHMQ_FOREVER
    return shmq_now_ns() + <uint64_t>(seconds * 1e9)


cdef str DLPACK = "__dlpack__"
AS_CREATED = object() # "not given", where None means something
LONGEST_SECONDS = 366 * 86400.0
CAUSES = ("released", "nacked", "expired", "died", "rejected", "?", "?", "?")


include "_draft.pxi"
include "_decode.pxi"
include "_handle.pxi"


@cython.no_gc_clear # as Handle
cdef class Port(Handle):
    """A handle that puts and takes messages; the base of Queue."""

    # -- put ----------------------------------------------------------------------------------------------------------

    @cython.critical_section
    def put(self, obj, bint block=True, timeout=None) -> None:
        """Copy `obj` in and publish it; it is visible to every consumer when put returns.

        **Waits** for room, up to `timeout` seconds (None: for ever; not at all where `block` is false).
        **Raises** Full, MessageTooLarge, PickleRefused, whatever pickling raises, Closed; nothing was put then.
        **If the process dies here** the message is in the queue once, whole, or not at all.
        **Cost** one copy and one exchange; sleepers are woken one per message.
        """
        cdef draft_t draft
        cdef shmq_status status
        check_timeout(timeout)
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        if type(obj) is bytes and <uint64_t>PyBytes_GET_SIZE(obj) <= self.port.geometry.slot_size:
            draft_plain(&draft, PyBytes_AS_STRING(obj), <uint64_t>PyBytes_GET_SIZE(obj), SHMQ_BYTES)
            if shmq_likely(self.offer(&draft) == SHMQ_OK):
                return
            self.offer_somehow(&draft, block, timeout)
            return
        draft_make(&draft, self, obj)
        try:
            status = self.offer(&draft)
            if status != SHMQ_OK:
                self.offer_somehow(&draft, block, timeout)
        except:
            draft_withdraw(&draft, self)
            raise
        finally:
            draft_clear(&draft)

    def put_nowait(self, obj) -> None:
        """put(obj, block=False)"""
        self.put(obj, False)

    cdef shmq_status offer(self, const draft_t *draft) noexcept:
        """One try to publish. Nothing is held afterwards, whatever happens."""
        cdef uint32_t cell
        cdef shmq_status status
        cdef bint large = draft.nbytes >= RELEASE_BYTES
        if self.grows and shmq_unlikely(shmq_load_seq(&self.port.header.backlog) != 0) and not draft.published_ns:
            return SHMQ_WOULD_BLOCK # behind those that wait there
        if large and not shmq_ring_has_space(&self.port):
            return SHMQ_WOULD_BLOCK # before the copy, not after it
        status = shmq_cell_take(&self.port, SHMQ_TO_WRITE, &cell)
        if shmq_unlikely(status != SHMQ_OK):
            return status
        cdef uint32_t slot = shmq_word_slot(shmq_cell_load(&self.port, cell))
        if shmq_unlikely(slot >= self.port.geometry.total_slots):
            return SHMQ_CORRUPT
        if large:
            self.users += 1
            with nogil:
                draft_write(draft, &self.port, slot)
            self.users -= 1
        else:
            draft_write(draft, &self.port, slot)
        shmq_slot_stamp(&self.port, shmq_slot_at(&self.port, slot))
        if shmq_unlikely(draft.published_ns != 0):
            shmq_slot_at(&self.port, slot).published_ns = draft.published_ns
            status = shmq_ring_move_in(&self.port, cell)
        else:
            status = shmq_ring_put(&self.port, cell)
        shmq_cell_return(&self.port, cell, status != SHMQ_OK)
        if shmq_likely(status == SHMQ_OK):
            shmq_count(&self.port.record.counters[SHMQ_PUTS], draft.published_ns == 0) # when it was put, else
            shmq_wake_after(&self.port, SHMQ_ITEMS)
        if large and self.closed and self.users == 0:
            self.let_go() # closed by another thread during the copy
        return status

    cdef int offer_somehow(self, const draft_t *draft, bint block, object timeout) except -1:
        """Publish what the first offer could not."""
        if self.grows:
            return self.offer_growing(draft, block, timeout)
        return self.offer_patiently(draft, block, timeout)

    cdef int offer_patiently(self, const draft_t *draft, bint block, object timeout) except -1:
        cdef uint64_t deadline = deadline_of(timeout) if block else 1
        cdef shmq_patience patience
        cdef shmq_status status
        memset(&patience, 0, sizeof(patience))
        while True:
            status = self.offer(draft)
            if status == SHMQ_OK:
                return 0
            if self.wait(status, SHMQ_SPACE, deadline, &patience) == SHMQ_TIMED_OUT:
                self.raise_full(status, timeout if block else 0)

    cdef int raise_full(self, shmq_status status, object timeout) except -1:
        if status == SHMQ_NO_CELLS:
            raise Full(self._in_flight_report())
        raise Full(f"queue {self.name!r} is full: {shmq_ring_length(&self.port):,} of {self.port.geometry.slots:,} slots "
                   f"hold messages{f' after {timeout} s' if timeout else ''}")

    @cython.critical_section
    def put_many(self, objs, timeout=None) -> int:
        """Put the objects in their order; return how many.

        **Waits** until all are in, or up to `timeout` seconds, then returns how many were (0: tries once).
        **Raises** Full where not even the first went in; MessageTooLarge, PickleRefused and pickling's errors before anything is put.
        **If the process dies here** a prefix of them is in the queue.
        """
        cdef list items = objs if type(objs) is list else list(objs)
        cdef Py_ssize_t count = len(items), made = 0, i
        cdef batch_t batch
        cdef uint64_t deadline = deadline_of(timeout)
        cdef draft_t few[BATCH]
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        if count == 0:
            return 0
        batch.drafts = few
        batch.next = 0
        batch.count = count
        if count > BATCH:
            batch.drafts = <draft_t *>PyMem_Malloc(count * sizeof(draft_t))
            if batch.drafts == NULL:
                raise MemoryError
        try:
            for i in range(count):
                obj = items[i]
                if type(obj) is bytes and <uint64_t>PyBytes_GET_SIZE(obj) <= self.port.geometry.slot_size:
                    draft_plain(&batch.drafts[i], PyBytes_AS_STRING(obj), <uint64_t>PyBytes_GET_SIZE(obj), SHMQ_BYTES)
                    if type(objs) is list: # which another thread may shorten while this one waits
                        draft_keep(&batch.drafts[i], obj)
                else:
                    draft_make(&batch.drafts[i], self, obj)
                made += 1
            self.offer_batch(&batch, deadline)
            if batch.next == 0:
                self.raise_full(SHMQ_WOULD_BLOCK, timeout)
        except:
            batch.count = batch.next
            raise
        finally:
            for i in range(made):
                if i >= batch.next:
                    draft_withdraw(&batch.drafts[i], self)
                draft_clear(&batch.drafts[i])
            if count > BATCH:
                PyMem_Free(batch.drafts)
        return batch.next

    cdef int offer_batch(self, batch_t *batch, uint64_t deadline) except -1:
        """Publish from batch.next on. Post: batch.next is how many are published, also when it raises."""
        cdef shmq_patience patience
        cdef shmq_status status
        cdef uint32_t cell, put, i
        cdef Py_ssize_t published = 0
        memset(&patience, 0, sizeof(patience))
        while self.grows and batch.next < batch.count:
            if self.offer(&batch.drafts[batch.next]) != SHMQ_OK:
                self.offer_growing(&batch.drafts[batch.next], True, None)
            batch.next += 1
        if self.grows:
            return 0
        while True:
            status = shmq_cell_take(&self.port, SHMQ_TO_WRITE, &cell)
            if status == SHMQ_OK:
                put = shmq_ring_put_many(&self.port, cell, batch_fill, batch, &status)
                shmq_cell_return(&self.port, cell, status != SHMQ_OK)
                published += put
                batch.next = published # one more was filled where the ring was full
                if put:
                    shmq_count(&self.port.record.counters[SHMQ_PUTS], put)
                    for i in range(put):
                        if not shmq_load_half(&self.port.header.items_waiters):
                            break
                        shmq_wake(&self.port, SHMQ_ITEMS)
                    memset(&patience, 0, sizeof(patience))
            if published == batch.count or (status == SHMQ_SHUT and published) or self.wait(status, SHMQ_SPACE, deadline, &patience) == SHMQ_TIMED_OUT:
                return 0

    # -- the backlog of a queue without a bound: shmq/_backlog.py has the log ---------------------------------------------
    #
    # Its lock is taken and given back here, so that no signal handler can run between the lock and the `try` that gives it back.

    cdef inline bint is_behind(self) noexcept:
        """Do messages wait in the backlog?"""
        return self.grows and shmq_load_seq(&self.port.header.backlog) != 0

    cdef int offer_growing(self, const draft_t *draft, bint block, object timeout) except -1:
        """Publish, after a moment's wait for consumers that are at work, or append to the backlog."""
        cdef uint64_t deadline = deadline_of(timeout) if block else 1, until, began = shmq_now_ns()
        cdef uint64_t puts = shmq_load_relaxed(&self.port.record.counters[SHMQ_PUTS])
        cdef shmq_patience patience
        cdef shmq_status status
        memset(&patience, 0, sizeof(patience))
        self.patience_ns = min(BACKLOG_PATIENCE_NS, self.patience_ns + <int64_t>(puts - self.patience_puts) * BACKLOG_PATIENCE_PER_PUT_NS)
        self.patience_puts = puts
        until = 1 if self.patience_ns <= 0 else min(deadline, began + <uint64_t>self.patience_ns)
        while True:
            status = self.offer(draft)
            if status == SHMQ_OK:
                self.patience_ns -= <int64_t>(shmq_now_ns() - began)
                return 0
            if shmq_load_seq(&self.port.header.backlog) != 0:
                break
            if self.wait(status, SHMQ_SPACE, until, &patience) == SHMQ_TIMED_OUT:
                self.patience_ns -= <int64_t>(shmq_now_ns() - began)
                break
        return self.append(draft, deadline)

    cdef int append(self, const draft_t *draft, uint64_t deadline) except -1:
        """To the end of the backlog, or into the ring where there is none by now and there is room."""
        cdef bytes image = draft_image(draft)
        cdef shmq_status status
        self.lock_backlog(deadline)
        try:
            status = self.offer(draft)
            if status == SHMQ_SHUT or (status != SHMQ_OK and shmq_load_half(&self.port.header.shut)):
                self.raise_shut(SHMQ_SPACE)
            if status != SHMQ_OK:
                self.commit(self._write_to_backlog(image))
                shmq_count(&self.port.record.counters[SHMQ_PUTS], 1)
        finally:
            shmq_owner_unlock(self.backlog_lock())
            self.leave()
        if status != SHMQ_OK:
            shmq_wake(&self.port, SHMQ_ITEMS) # the ring may have become empty meanwhile, and its consumers gone to sleep [park]
        return 0

    cdef int commit(self, tuple written) except -1:
        """The record is in the log: count it and move the tail. Here, so that no signal handler runs once that has begun."""
        cdef Py_buffer words
        cdef uint64_t tail = written[1]
        PyObject_GetBuffer(written[0], &words, PyBUF_WRITABLE)
        shmq_store_seq(&self.port.header.backlog, shmq_load_seq(&self.port.header.backlog) + 1) # [park]
        shmq_store_release(<shmq_word *>words.buf + LOG_TAIL, tail)
        shmq_store_release(<shmq_word *>words.buf + LOG_AT_WORK, 0)
        PyBuffer_Release(&words)
        return 0

    cdef int publish_growing(self, uint32_t cell, uint32_t slot) except -1:
        """A loan's slot goes into the ring, or a copy of it to the backlog. The cell is the loan's as before."""
        cdef draft_t draft
        cdef shmq_status status = SHMQ_WOULD_BLOCK
        if not self.is_behind():
            status = shmq_ring_put(&self.port, cell)
        if status == SHMQ_OK:
            shmq_count(&self.port.record.counters[SHMQ_PUTS], 1)
            shmq_wake_after(&self.port, SHMQ_ITEMS)
            return 0
        draft_of_image(&draft, shmq_slot_at(&self.port, slot), <const char *>shmq_payload_at(&self.port, slot))
        return self.append(&draft, SHMQ_FOREVER)

    cdef uint64_t backlog_lock(self) noexcept:
        return self.port.nonce ^ 0x6c6f67 # one lock for each segment, beside those of names and of reapers

    cdef int lock_backlog(self, uint64_t deadline) except -1:
        """Wait for whoever is at the backlog; the kernel gives back the lock of the dead. Post: it is ours, and one user more."""
        cdef uint64_t began = 0
        cdef unsigned int pause = 20
        cdef bint told = False
        while not shmq_owner_lock(self.backlog_lock()):
            if began == 0:
                began = shmq_now_ns()
            if shmq_now_ns() >= max(deadline, began + CELL_PATIENCE_NS) and deadline != SHMQ_FOREVER:
                raise Full(f"queue {self.name!r} is full, and another process is at its backlog for a second: is it stopped?")
            if not told and shmq_now_ns() - began > STALL_NS:
                told = True
                self._stalled((shmq_now_ns() - began) * 1e-9, False)
            self.pause(pause)
            pause = min(pause * 2, 1000)
        self.users += 1
        return 0

    cdef int let_appends_end(self) except -1:
        """Whoever has begun to append has appended when this returns, or is stopped."""
        try:
            self.lock_backlog(1)
        except Full:
            return 0
        shmq_owner_unlock(self.backlog_lock())
        self.leave()
        return 0

    cdef int pause(self, unsigned int microseconds) except -1:
        """Sleep without the interpreter lock. Raises Closed, and what a signal handler raises."""
        self.users += 1
        with nogil:
            usleep(microseconds)
        self.leave()
        PyErr_CheckSignals()
        if self.forks != shmq_owner_forks:
            self.enter()
        return 0

    cdef bint refill(self) except -1:
        """Move messages from the backlog into the ring, which was found empty. False: it is no use to look again at once."""
        cdef uint64_t until = shmq_now_ns() + REFILL_PATIENCE_NS
        cdef unsigned int pause = 20
        cdef bint moved
        while not shmq_owner_lock(self.backlog_lock()):
            if shmq_now_ns() > until:
                return False
            self.pause(pause)
            pause = min(pause * 2, 1000)
            if shmq_ring_has_item(&self.port) or not self.is_behind():
                return True
        self.users += 1
        try:
            moved = self._refill_from_backlog()
        finally:
            shmq_owner_unlock(self.backlog_lock())
            self.leave()
        return moved

    def _move_in(self, bytes image, words, uint64_t head) -> bool:
        """Put the oldest message of the backlog into the ring, and move the log's head behind it; False where the ring is full.

        Under the backlog's lock. **If the process dies here** the message may be in both.
        """
        cdef shmq_slot header
        cdef draft_t draft
        cdef Py_buffer memory
        cdef bint moved
        image_header(self, image, &header)
        draft_of_image(&draft, &header, PyBytes_AS_STRING(image) + sizeof(header))
        draft.published_ns = max(header.published_ns, <uint64_t>1)
        PyObject_GetBuffer(words, &memory, PyBUF_WRITABLE)
        moved = self.offer(&draft) == SHMQ_OK
        if moved:
            shmq_store_release(<shmq_word *>memory.buf + LOG_HEAD, head)
            shmq_store_seq(&self.port.header.backlog, shmq_load_seq(&self.port.header.backlog) - 1)
        PyBuffer_Release(&memory)
        return moved

    def _in_backlog(self, n) -> list:
        """Images of the first `n` messages of the backlog."""
        self.lock_backlog(SHMQ_FOREVER)
        try:
            return self._look_at_backlog(n)
        finally:
            shmq_owner_unlock(self.backlog_lock())
            self.leave()

    @property
    def _backlog_count(self) -> int:
        """The header's word: how many messages wait in the backlog. Written under the backlog's lock."""
        return shmq_load_seq(&self.port.header.backlog)

    @_backlog_count.setter
    def _backlog_count(self, uint64_t count) -> None:
        shmq_store_seq(&self.port.header.backlog, count) # [park]

    # -- get ----------------------------------------------------------------------------------------------------------

    @cython.critical_section
    def get(self, bint block=True, timeout=None):
        """Take the oldest message; it is gone once get has returned.

        **Waits** for one, up to `timeout` seconds (None: for ever; not at all where `block` is false).
        **Raises** Empty, Closed; what unpickling raises, after giving the message back as a failed attempt.
        **If the process dies here** the message is redelivered to somebody else.
        """
        cdef uint32_t cell
        cdef shmq_status status
        check_timeout(timeout)
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        status = self.take(&cell, False, 0)
        if shmq_unlikely(status != SHMQ_OK):
            self.take_patiently(&cell, status, deadline_of(timeout) if block else 1, False, 0)
        return self.finish(cell)

    def get_nowait(self):
        """get(block=False)"""
        return self.get(False)

    cdef inline shmq_status take(self, uint32_t *cell, bint for_long, uint64_t lease_ns) noexcept:
        """One try to lease the oldest message, what came back before what is new. EXHAUSTED: the LEASED one is to be buried.

        `for_long`: not in the port's kept cell. `lease_ns`: for so long, and the cell is TIMED; 0: for as long as we live.
        """
        cdef shmq_status status
        cdef uint64_t until = 0
        if self.port.caught_up:
            shmq_wait_linger(&self.port)
        if lease_ns:
            until = shmq_now_ns() + lease_ns
        status = shmq_orphan_adopt(&self.port, until, cell)
        if shmq_unlikely(status != SHMQ_WOULD_BLOCK):
            return status
        status = shmq_cell_take_for_long(&self.port, SHMQ_TO_GIVE, cell) if for_long else shmq_cell_take(&self.port, SHMQ_TO_GIVE, cell)
        if shmq_unlikely(status != SHMQ_OK):
            return status
        if until:
            shmq_lease_time(&self.port, cell[0], until)
        status = shmq_ring_get(&self.port, cell[0], SHMQ_TIMED if until else SHMQ_LEASED)
        if shmq_unlikely(status != SHMQ_OK):
            shmq_cell_return(&self.port, cell[0], False)
            return status
        shmq_wake_after(&self.port, SHMQ_SPACE)
        return SHMQ_OK

    cdef shmq_status take_or_bury(self, uint32_t *cell, bint for_long, uint64_t lease_ns) except *:
        """As take, and past the messages that are to be buried."""
        cdef shmq_status status = self.take(cell, for_long, lease_ns)
        while status == SHMQ_EXHAUSTED or (status == SHMQ_WOULD_BLOCK and self.is_behind() and self.refill()):
            if status == SHMQ_EXHAUSTED:
                self.bury_exhausted(cell[0])
            status = self.take(cell, for_long, lease_ns)
        return status

    cdef int take_patiently(self, uint32_t *cell, shmq_status status, uint64_t deadline, bint for_long, uint64_t lease_ns) except -1:
        """Wait until take says OK. Pre: it has just said `status`."""
        cdef shmq_patience patience
        cdef uint64_t cells_deadline = 0, until
        cdef bint timed_out
        memset(&patience, 0, sizeof(patience))
        if status == SHMQ_EXHAUSTED:
            self.bury_exhausted(cell[0])
        if status == SHMQ_EXHAUSTED or self.is_behind():
            status = self.take_or_bury(cell, for_long, lease_ns)
            if status == SHMQ_OK:
                return 0
        while True:
            until = deadline
            if status == SHMQ_NO_CELLS and deadline != 1:
                if cells_deadline == 0:
                    cells_deadline = shmq_now_ns() + CELL_PATIENCE_NS
                until = min(deadline, cells_deadline)
            timed_out = self.wait(status, SHMQ_ITEMS, until, &patience) == SHMQ_TIMED_OUT
            if not timed_out or deadline != 1: # a last look: it may have come with the last tick
                status = self.take_or_bury(cell, for_long, lease_ns)
                if status == SHMQ_OK:
                    return 0
            if timed_out:
                if status == SHMQ_NO_CELLS:
                    raise InFlightLimit(self._in_flight_report())
                raise Empty(f"queue {self.name!r} is empty")

    cdef inline int check_slot(self, uint32_t slot) except -1:
        """A cell's slot, read from shared memory a moment ago: never beyond the last one."""
        if shmq_unlikely(slot >= self.port.geometry.total_slots):
            raise SegmentCorrupt(f"queue {self.name!r} is corrupt: an in-flight cell of this process names slot {slot}")
        return 0

    cdef object finish(self, uint32_t cell):
        """Decode the LEASED cell's message, then ack: the order in which a death loses nothing."""
        cdef uint64_t word = shmq_cell_load(&self.port, cell)
        cdef uint32_t slot = shmq_word_slot(word)
        cdef shmq_slot *there
        cdef shmq_slot header
        cdef object result
        self.check_slot(slot)
        there = shmq_slot_at(&self.port, slot)
        if shmq_likely(there.kind == SHMQ_BYTES and there.flags == 0):
            header.nbytes = there.nbytes # read once, checked, used
            if shmq_likely(header.nbytes < RELEASE_BYTES and header.nbytes <= self.port.geometry.slot_size):
                result = PyBytes_FromStringAndSize(<const char *>shmq_payload_at(&self.port, slot), <Py_ssize_t>header.nbytes)
                shmq_count(&self.port.record.counters[SHMQ_GETS], 1) # before the cell is free: join must not find it nowhere
                shmq_cell_return(&self.port, cell, True)
                return result
        return self.finish_any(cell, word)

    cdef object finish_any(self, uint32_t cell, uint64_t word):
        cdef bint spilled = False
        result = self.decode(cell, word, &spilled)
        shmq_count(&self.port.record.counters[SHMQ_GETS], 1)
        self.done_with(cell, word, spilled)
        return result

    cdef int done_with(self, uint32_t cell, uint64_t word, bint spilled) except -1:
        """The LEASED cell's message is in the caller's hands: gone from the queue."""
        if spilled:
            key = self.side_key(word)
            shmq_cell_return(&self.port, cell, True)
            self.segment.unlink_side(key) # after the ack: a death between the two leaves a file, not a message without its payload
        else:
            shmq_cell_return(&self.port, cell, True)
        return 0

    cdef object decode(self, uint32_t cell, uint64_t word, bint *spilled):
        """The LEASED cell's object. Where decoding raises, the message goes back as a failed attempt."""
        cdef uint32_t slot = shmq_word_slot(word)
        cdef shmq_slot header
        cdef Py_buffer memory
        self.check_slot(slot)
        memcpy(&header, shmq_slot_at(&self.port, slot), sizeof(header))
        spilled[0] = header.flags & SHMQ_SPILLED != 0
        self.users += 1 # it may run Python code, and a large copy releases the interpreter lock
        try:
            if not spilled[0]:
                header_check(self, &header, self.port.geometry.slot_size)
                return build(self, &header, <const char *>shmq_payload_at(&self.port, slot))
            side = self.open_side(word)
            header_of_side(&header, len(side))
            header_check(self, &header, <uint64_t>len(side))
            PyObject_GetBuffer(side, &memory, PyBUF_SIMPLE)
            try:
                return build(self, &header, <const char *>memory.buf)
            finally:
                PyBuffer_Release(&memory)
        except PayloadLost:
            shmq_cell_return(&self.port, cell, True) # nothing to deliver again
            shmq_wake_if_done(&self.port)
            raise
        except BaseException as error:
            if self.reducers is not None and isinstance(error, Exception) and not isinstance(error, MemoryError):
                shmq_delivery_ended(&self.port, cell, word, SHMQ_REJECTED, SHMQ_BY_POLICY)
                self.bury_somehow(cell, "what was put could not be unpickled", error)
            else:
                self.fail(cell, word, SHMQ_BY_POLICY, error)
            raise
        finally:
            self.leave()

    # -- what fails ---------------------------------------------------------------------------------------------------

    cdef int fail(self, uint32_t cell, uint64_t word, uint64_t delay_ns, error) except -1:
        """The delivery of the LEASED cell's message has failed: it comes back, or becomes a dead letter. The cell is ours no longer."""
        # In one of the few cells that put and get count on it cannot stay, and there is no other.
        cdef bint homeless = self.port.geometry.paged and cell < self.port.geometry.reserved
        shmq_delivery_ended(&self.port, cell, word, SHMQ_REJECTED if homeless else SHMQ_NACKED, delay_ns)
        if homeless:
            shmq_count(&self.port.record.counters[SHMQ_NACKS], 1)
            self.bury_somehow(cell, "every in-flight cell was in use", error)
        elif shmq_message_exhausted(&self.port, shmq_load_relaxed(&shmq_slot_at(&self.port, shmq_word_slot(word)).deliveries)):
            shmq_count(&self.port.record.counters[SHMQ_NACKS], 1)
            self.bury_exhausted(cell, error)
        else:
            shmq_lease_give_back(&self.port, cell, word, SHMQ_NACKED, delay_ns)
        return 0

    cdef int bury_exhausted(self, uint32_t cell, error=None) except -1:
        """The LEASED cell's message has failed too often, or was rejected by one who died before it was buried."""
        cdef uint64_t deliveries
        cdef uint32_t slot = shmq_word_slot(shmq_cell_load(&self.port, cell)) # read once, checked, used
        self.check_slot(slot)
        deliveries = shmq_load_relaxed(&shmq_slot_at(&self.port, slot).deliveries)
        self.bury_somehow(cell, "" if shmq_deliveries_cause(deliveries) == SHMQ_REJECTED else f"max_deliveries={self.port.policy.max_deliveries}", error)
        return 0

    cdef int bury_somehow(self, uint32_t cell, str reason, error) except -1:
        """Bury it now, or let it rest and be tried again: whoever called wanted another message."""
        try:
            self.bury(cell, reason, error)
        except OSError as failure:
            self._could_not_bury(failure)
        except OutOfMemory as failure:
            self._could_not_bury(failure)
        return 0

    def _bury_all(self) -> int:
        """Bury what is to be buried, without taking anything else; return how many messages."""
        cdef uint32_t cell, count = 0
        cdef uint64_t before = shmq_load_relaxed(&self.port.header.events[SHMQ_BURIALS])
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        while count < self.port.geometry.cells and shmq_orphan_exhausted(&self.port, &cell):
            self.bury_exhausted(cell)
            count += 1
        return shmq_load_relaxed(&self.port.header.events[SHMQ_BURIALS]) - before

    cdef int bury(self, uint32_t cell, str reason, error) except -1:
        """Make the LEASED cell's message a dead letter; the cell is free afterwards. Where that raises, the message rests and comes back.

        **If the process dies here** after the letter is written, the message is still in its cell, and whoever takes it writes
        the same letter again under the same name.
        """
        cdef uint64_t word = shmq_cell_load(&self.port, cell), nbytes, deliveries, now
        cdef shmq_slot header
        cdef bint done = False
        self.check_slot(shmq_word_slot(word))
        memcpy(&header, shmq_slot_at(&self.port, shmq_word_slot(word)), sizeof(header))
        deliveries = shmq_load_relaxed(&header.deliveries)
        nbytes = header.nbytes if header.flags & SHMQ_SPILLED else header.nbytes + header.described
        nbytes = min(max(nbytes, header.nbytes), self.port.geometry.slot_size) # whatever it claims
        image = PyBytes_FromStringAndSize(<const char *>&header, sizeof(header)) + PyBytes_FromStringAndSize(
            <const char *>shmq_payload_at(&self.port, shmq_word_slot(word)), <Py_ssize_t>nbytes)
        now = shmq_now_ns()
        self.users += 1
        try:
            self._bury(
                image, id=header.id, cause=CAUSES[shmq_deliveries_cause(deliveries)], reason=reason, error=error,
                delivery_count=shmq_deliveries_failed(deliveries), published=(<int64_t>now - <int64_t>header.published_ns) * 1e-9,
                first_failed=(<int64_t>now - <int64_t>header.published_ns) * 1e-9 - header.first_failed_ms * 1e-3)
            done = True
        finally:
            if done:
                shmq_add_relaxed(&self.port.header.events[SHMQ_BURIALS], 1)
                shmq_cell_return(&self.port, cell, True)
                shmq_wake_if_done(&self.port)
            else:
                shmq_lease_give_back(&self.port, cell, word, SHMQ_RELEASED, BURIAL_REST_NS)
            self.leave()
        return 0

    @cython.critical_section
    def _revive(self, bytes image, timeout=None) -> None:
        """Put a message anew whose image was buried. As put; the message is counted and stamped as a new one."""
        cdef shmq_slot header
        cdef draft_t draft
        cdef uint64_t available
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        available = image_header(self, image, &header)
        draft_of_image(&draft, &header, PyBytes_AS_STRING(image) + sizeof(header))
        self.offer_somehow(&draft, True, timeout)

    def _image_bytes(self, bytes image) -> int:
        """The payload bytes of a buried message; 0 of one whose side segment is gone."""
        cdef shmq_slot header
        image_header(self, image, &header)
        if header.flags & SHMQ_SPILLED:
            try:
                header_of_side(&header, len(self.segment.open_side(image[sizeof(header):])))
            except PayloadLost:
                return 0
        return header.nbytes

    def _image_side_key(self, bytes image) -> bytes | None:
        """The key of the side segment in which a buried message's payload is, if it is."""
        cdef shmq_slot header
        image_header(self, image, &header)
        return image[sizeof(header):] if header.flags & SHMQ_SPILLED else None

    def _decode_image(self, bytes image) -> object:
        """The object in the image of a buried message."""
        cdef shmq_slot header
        cdef Py_buffer memory
        cdef uint64_t available = image_header(self, image, &header)
        cdef const char *data = PyBytes_AS_STRING(image) + sizeof(header)
        if not header.flags & SHMQ_SPILLED:
            header_check(self, &header, available)
            return build(self, &header, data)
        side = self.segment.open_side(PyBytes_FromStringAndSize(data, SPILL_KEY_BYTES))
        header_of_side(&header, len(side))
        header_check(self, &header, <uint64_t>len(side))
        PyObject_GetBuffer(side, &memory, PyBUF_SIMPLE)
        try:
            return build(self, &header, <const char *>memory.buf)
        finally:
            PyBuffer_Release(&memory)

    # -- more than one ------------------------------------------------------------------------------------------------

    cdef object side_key(self, uint64_t word):
        return PyBytes_FromStringAndSize(<const char *>shmq_payload_at(&self.port, shmq_word_slot(word)), SPILL_KEY_BYTES)

    cdef object open_side(self, uint64_t word):
        if self.port.geometry.slot_size < SPILL_KEY_BYTES:
            raise SegmentCorrupt(f"a message in queue {self.name!r} claims a side segment in a slot that has no room for its key")
        return self.segment.open_side(self.side_key(word))

    @cython.critical_section
    def get_many(self, Py_ssize_t max, timeout=None) -> list:
        """Take up to `max` messages in their order: as many as are there, at least one.

        **Waits**, **raises** and survives death as `get` does. The messages are gone only when the whole batch has been
        decoded, so that no more are returned than in-flight cells are free. One that came back earlier is returned alone.
        """
        cdef uint32_t few[BATCH]
        cdef uint32_t cell
        cdef uint32_t *cells = few
        cdef shmq_status status
        cdef uint32_t wanted, taken
        check_timeout(timeout)
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        if self.port.caught_up:
            shmq_wait_linger(&self.port)
        wanted = self.batch_size(max)
        status = SHMQ_WOULD_BLOCK if wanted == 1 else shmq_orphan_adopt(&self.port, 0, &cell)
        if wanted == 1 or status != SHMQ_WOULD_BLOCK:
            if wanted == 1:
                status = self.take(&cell, False, 0)
            if status != SHMQ_OK:
                self.take_patiently(&cell, status, deadline_of(timeout), False, 0)
            return [self.finish(cell)]
        if wanted > BATCH:
            cells = <uint32_t *>PyMem_Malloc(wanted * sizeof(uint32_t))
            if cells == NULL:
                raise MemoryError
        try:
            taken = self.take_batch(cells, wanted, &status)
            if taken == 0:
                self.take_patiently(&cell, status, deadline_of(timeout), False, 0)
                return [self.finish(cell)]
            return self.finish_batch(cells, taken)
        finally:
            if cells != few:
                PyMem_Free(cells)

    cdef uint32_t batch_size(self, Py_ssize_t max) except 0:
        """How many of `max` could be there, at least 1."""
        cdef uint32_t length = shmq_ring_estimate(&self.port)
        if max < 1:
            raise ValueError(f"max must be at least 1, not {max}")
        if length > self.port.geometry.cells:
            length = self.port.geometry.cells
        if max < length:
            length = <uint32_t>max
        return length if length else 1

    cdef uint32_t take_batch(self, uint32_t *cells, uint32_t wanted, shmq_status *status) noexcept:
        """Lease up to `wanted` messages from the ring; as many cells are LEASED afterwards, no other is held."""
        cdef uint32_t claimed = 0, taken, i
        while claimed < wanted:
            status[0] = shmq_cell_take(&self.port, SHMQ_TO_GIVE, &cells[claimed])
            if status[0] != SHMQ_OK:
                break
            claimed += 1
        if claimed == 0:
            return 0
        taken = shmq_ring_get_many(&self.port, cells, claimed, SHMQ_LEASED, status)
        for i in range(taken, claimed):
            shmq_cell_return(&self.port, cells[i], False)
        if taken:
            shmq_wake_after(&self.port, SHMQ_SPACE)
        return taken

    cdef list finish_batch(self, uint32_t *cells, uint32_t taken):
        """Decode all, then ack all; where one fails, it counts as a failed attempt, and the others go back unbegun."""
        cdef list result = []
        cdef uint32_t i, slot, decoded = 0, spills = 0
        cdef shmq_slot *there
        cdef uint64_t nbytes, word
        cdef bint spilled
        try:
            while decoded < taken:
                word = shmq_cell_load(&self.port, cells[decoded])
                slot = shmq_word_slot(word)
                self.check_slot(slot)
                there = shmq_slot_at(&self.port, slot)
                nbytes = there.nbytes
                if shmq_likely(there.kind == SHMQ_BYTES and there.flags == 0 and nbytes < RELEASE_BYTES
                               and nbytes <= self.port.geometry.slot_size):
                    result.append(PyBytes_FromStringAndSize(<const char *>shmq_payload_at(&self.port, slot), <Py_ssize_t>nbytes))
                else:
                    result.append(self.decode(cells[decoded], word, &spilled))
                    spills += spilled
                decoded += 1
        except:
            for i in range(taken):
                if i != decoded:
                    shmq_lease_give_back(&self.port, cells[i], shmq_cell_load(&self.port, cells[i]), SHMQ_RELEASED, 0)
            raise
        shmq_count(&self.port.record.counters[SHMQ_GETS], taken)
        for i in range(taken):
            word = shmq_cell_load(&self.port, cells[i])
            self.check_slot(shmq_word_slot(word)) # it may be another than the one above
            self.done_with(cells[i], word, spills != 0 and shmq_slot_at(&self.port, shmq_word_slot(word)).flags & SHMQ_SPILLED != 0)
        return result

    # -- leases and loans ---------------------------------------------------------------------------------------------

    @cython.critical_section
    def receive(self, timeout=None, lease_timeout=AS_CREATED, bint extend=False) -> Lease:
        """Take the oldest message with responsibility: see Lease.

        `lease_timeout`: seconds after which the message goes to somebody else; None: not while this process lives; if it is not
        given: what the queue was created with. `extend`: begin the time anew, from a thread, until the lease is settled.
        **Waits** for a message, up to `timeout` seconds (None: for ever; 0: tries once). **Raises** Empty, Closed, InFlightLimit
        where every in-flight cell is held by somebody. **If the process dies** before the ack, the message is redelivered.
        """
        cdef uint64_t lease_ns = self.lease_ns_of(lease_timeout)
        cdef Lease lease
        check_timeout(timeout)
        lease = self.receive_for(timeout, lease_ns, True)
        if extend:
            self.extend_by_itself(lease)
        return lease

    cdef Lease receive_for(self, object timeout, uint64_t lease_ns, bint begun):
        cdef uint32_t cell
        cdef shmq_status status
        cdef Lease lease = None
        while lease is None:
            if shmq_unlikely(self.forks != shmq_owner_forks):
                self.enter()
            shmq_reap_now_and_then(&self.port) # a consumer that always finds a message never waits
            status = self.take(&cell, True, lease_ns)
            if shmq_unlikely(status != SHMQ_OK):
                self.take_patiently(&cell, status, deadline_of(timeout), True, lease_ns)
            lease = self.lease_of(cell, lease_ns, begun)
        return lease

    cdef uint64_t lease_ns_of(self, object lease_timeout) except? 1:
        cdef double seconds
        if lease_timeout is AS_CREATED:
            return self.port.policy.lease_timeout_ns
        if lease_timeout is None:
            return 0
        refuse_bool(lease_timeout)
        seconds = number_of_seconds(lease_timeout)
        if not 0 < seconds <= LONGEST_SECONDS:
            raise ValueError(f"lease_timeout must be above 0 seconds and at most a year, or None, not {lease_timeout!r}")
        return max(<uint64_t>(seconds * 1e9), <uint64_t>1000)

    cdef int extend_by_itself(self, Lease lease) except -1:
        if lease.lease_ns:
            self._keep(lease, lease.lease_ns / 1e9) # not * 1e-9: a year would come out longer
        return 0

    @cython.critical_section
    def receive_many(self, Py_ssize_t max, timeout=None, lease_timeout=AS_CREATED, bint extend=False) -> list:
        """Take up to `max` messages with responsibility: as many as are there, at least one. Otherwise as `receive`.

        A message of which nothing was read yet (data, array, view, or the context entered) is not begun with: if this process dies
        or the time is over, it comes back without having failed.
        """
        cdef uint32_t cell
        cdef uint64_t lease_ns = self.lease_ns_of(lease_timeout)
        cdef Lease lease
        if max < 1:
            raise ValueError(f"max must be at least 1, not {max}")
        check_timeout(timeout)
        cdef list result = [self.receive_for(timeout, lease_ns, False)]
        while <Py_ssize_t>len(result) < max and self.take_or_bury(&cell, True, lease_ns) == SHMQ_OK:
            lease = self.lease_of(cell, lease_ns, False)
            if lease is not None:
                result.append(lease)
        if extend:
            for lease in result:
                self.extend_by_itself(lease)
        return result

    cdef Lease lease_of(self, uint32_t cell, uint64_t lease_ns, bint begun):
        """The lease object of a cell that was just leased; None where its time was over before that could be said.

        Where it cannot be made, the message goes back, or is given up if its payload is gone.
        """
        cdef uint64_t word = shmq_load_acquire(&self.port.cells[cell].word)
        cdef Lease lease
        if shmq_unlikely(lease_ns and (shmq_cell_state(word) != SHMQ_TIMED or shmq_cell_owner(word) != self.port.index)):
            return None # this process was stopped for so long
        self.check_slot(shmq_word_slot(word))
        if not begun:
            shmq_lease_mark(&self.port, cell, word, False)
        shmq_store_relaxed(&self.port.cells[cell].leased_ns, shmq_now_coarse_ns())
        try:
            lease = Lease.__new__(Lease)
            lease.port = self
            lease.cell = cell
            lease.word = word
            lease.lease_ns = lease_ns
            lease.timed = lease_ns != 0
            lease.prefetched = not begun
            memcpy(&lease.header, shmq_slot_at(&self.port, shmq_word_slot(word)), sizeof(lease.header))
            if shmq_likely(not lease.header.flags & SHMQ_SPILLED):
                if shmq_unlikely(lease.header.kind >= SHMQ_KINDS or lease.header.nbytes + lease.header.described > self.port.geometry.slot_size
                                 or lease.header.nbytes > self.port.geometry.slot_size):
                    header_check(self, &lease.header, self.port.geometry.slot_size)
                lease.data = <char *>shmq_payload_at(&self.port, shmq_word_slot(word))
            else:
                lease.side = self.open_side(word)
                header_of_side(&lease.header, len(lease.side))
                header_check(self, &lease.header, <uint64_t>len(lease.side))
                PyObject_GetBuffer(lease.side, &lease.side_memory, PyBUF_SIMPLE)
                lease.data = <char *>lease.side_memory.buf
        except PayloadLost:
            if shmq_lease_ack(&self.port, cell, word, False) == SHMQ_OK: # nothing to deliver again
                shmq_cell_return(&self.port, cell, True)
                shmq_wake_if_done(&self.port)
            raise
        except BaseException as error:
            if shmq_cell_state(word) != SHMQ_TIMED or shmq_lease_take_over(&self.port, cell, &word) == SHMQ_OK:
                self.fail(cell, word, SHMQ_BY_POLICY, error)
            raise
        lease.forks = self.forks
        lease.writable = False
        lease.state = HAND_OPEN
        self.users += 1
        shmq_count(&self.port.record.counters[SHMQ_RECEIVES], 1)
        return lease

    def __iter__(self) -> Leases:
        return self.consume()

    def consume(self, Py_ssize_t prefetch=1, timeout=None, lease_timeout=AS_CREATED, bint extend=False) -> Leases:
        """Iterate over messages: ack when the loop's body has ended, nack when it raises. `for lease in queue` is this.

        A body that took longer than the lease is logged, and the loop goes on: the message is somebody else's by then.
        `prefetch`: how many to take at once; those that the loop has not come to go back untouched when it ends, and have not
        failed if this process dies. `timeout`: end the loop when nothing has come for so many seconds. The rest as `receive`;
        the time of a prefetched message begins anew when the loop comes to it.
        """
        cdef Leases leases = Leases.__new__(Leases)
        check_timeout(timeout)
        if prefetch < 1:
            raise ValueError(f"prefetch must be at least 1, not {prefetch}")
        leases.port = self
        leases.prefetch = prefetch
        leases.timeout = timeout
        leases.lease_ns = self.lease_ns_of(lease_timeout)
        leases.extend = extend
        leases.ahead = []
        return leases

    @cython.critical_section
    def loan(self, shape, dtype=None) -> Loan:
        """Lend an empty slot to write a message in place: `loan(nbytes)`, or `loan(shape, dtype)` for an array.

        **Raises** MessageTooLarge, TypeError for a dtype with objects, InFlightLimit, Closed. Does not wait; publishing does.
        **If the process dies** before that, nothing was sent.
        """
        cdef Loan loan
        cdef shmq_slot header
        cdef uint32_t cell
        cdef shmq_status status
        memset(&header, 0, sizeof(header))
        if dtype is None:
            if isinstance(shape, tuple) or isinstance(shape, list):
                raise TypeError("loan(shape, dtype) needs a dtype; loan(nbytes) takes one number")
            size = operator_index(shape)
            if size < 0:
                raise ValueError(f"a loan of {size} bytes: the size must not be negative")
            header.nbytes = <uint64_t>min(size, <uint64_t>-1)
            header.kind = SHMQ_BYTES
        else:
            shape_header(&header, shape, _codec.loan_dtype(dtype))
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        if header.nbytes > self.port.geometry.slot_size:
            raise MessageTooLarge(f"a loan of {header.nbytes:,} bytes does not fit into a slot of queue {self.name!r} "
                                  f"({self.port.geometry.slot_size:,} bytes): create the queue with a larger slot_size")
        status = shmq_cell_take_for_long(&self.port, SHMQ_TO_WRITE, &cell)
        if shmq_unlikely(status != SHMQ_OK):
            shmq_reap(&self.port)
            status = shmq_cell_take_for_long(&self.port, SHMQ_TO_WRITE, &cell)
        if status != SHMQ_OK:
            raise InFlightLimit(self._in_flight_report())
        loan = Loan.__new__(Loan)
        shmq_cell_become(&self.port, cell, SHMQ_LOANED)
        loan.word = shmq_cell_load(&self.port, cell)
        self.check_slot(shmq_word_slot(loan.word))
        loan.port = self
        loan.cell = cell
        loan.data = <char *>shmq_payload_at(&self.port, shmq_word_slot(loan.word))
        memcpy(&loan.header, &header, sizeof(header))
        loan.forks = self.forks
        loan.writable = True
        loan.state = HAND_OPEN
        self.users += 1
        return loan

    cdef int publish_cell(self, uint32_t cell, object timeout) except -1:
        """Give a loaned cell's slot to the ring. On an exception the loan is as it was. Closing the handle does not end it."""
        cdef shmq_patience patience
        cdef shmq_status status
        cdef uint64_t deadline = deadline_of(timeout)
        cdef uint32_t slot = shmq_word_slot(shmq_cell_load(&self.port, cell)) # read once, checked, used: it is in shared memory
        self.check_slot(slot)
        memset(&patience, 0, sizeof(patience))
        shmq_slot_stamp(&self.port, shmq_slot_at(&self.port, slot))
        if self.grows:
            return self.publish_growing(cell, slot)
        while True:
            status = shmq_ring_put(&self.port, cell)
            if shmq_likely(status == SHMQ_OK):
                shmq_count(&self.port.record.counters[SHMQ_PUTS], 1)
                shmq_wake_after(&self.port, SHMQ_ITEMS)
                return 0
            if self.wait(status, SHMQ_SPACE, deadline, &patience) == SHMQ_TIMED_OUT:
                self.raise_full(status, timeout)

    @cython.critical_section
    def purge(self) -> int:
        """Throw away every message that waits, those that came back included; return how many. Leased ones stay leased.

        Nothing is decoded, and it needs no more than get does. **If the process dies here** the message in hand comes back.
        """
        cdef uint32_t cell
        cdef uint64_t word
        cdef shmq_status status
        cdef Py_ssize_t count = 0
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        while True:
            status = self.take(&cell, False, 0)
            if status == SHMQ_WOULD_BLOCK and self.is_behind() and self.refill():
                continue
            if status != SHMQ_OK and status != SHMQ_EXHAUSTED:
                break
            word = shmq_cell_load(&self.port, cell)
            self.check_slot(shmq_word_slot(word))
            self.done_with(cell, word, self.spills and shmq_slot_at(&self.port, shmq_word_slot(word)).flags & SHMQ_SPILLED != 0)
            shmq_count(&self.port.record.counters[SHMQ_RECEIVES], 1)
            shmq_count(&self.port.record.counters[SHMQ_ACKS], 1)
            count += 1
        if status == SHMQ_CORRUPT:
            raise SegmentCorrupt(f"queue {self.name!r} is corrupt: a cell of its ring names a slot or a lap that cannot be")
        shmq_wake_if_done(&self.port)
        return count

    # -- the end of the work ------------------------------------------------------------------------------------------

    def task_done(self) -> None:
        """The work on a message that `get` took is done: see join. A lease says the same by its ack, and needs no task_done.

        **Raises** ValueError where it was called more often than messages were taken. **If the process dies** between get and
        task_done, join waits for ever, as with multiprocessing: take with `receive` where that matters.
        """
        cdef uint64_t done
        cdef int looks = 0
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        done = shmq_load_relaxed(&self.port.header.done)
        while True:
            if done >= shmq_taken(&self.port):
                looks += 1
                if looks > 3: # the counters of a handle that is being closed are on their way, seen in neither place
                    raise ValueError(f"task_done() of queue {self.name!r} was called more often than get() has taken a message")
                usleep(100)
                done = shmq_load_relaxed(&self.port.header.done)
            elif shmq_swap_seq(&self.port.header.done, &done, done + 1):
                break
        shmq_wake_if_done(&self.port)

    def shutdown(self, bint immediate=False) -> None:
        """Let no message in any more, for every process and for as long as the queue lives: put raises ShutDown from now on.

        What is in it can still be taken; get and receive raise ShutDown once it is empty. `immediate`: throw away what waits,
        too. Those that wait are woken. A second call does nothing more. **If the process dies here** the queue is shut; some
        that wait find out within 0.1 s. A put that overlaps with this call may still put.
        """
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        shmq_store_half(&self.port.header.shut, SHMQ_SHUT_FOR_PUTS) # [park]
        shmq_wake_all(&self.port, SHMQ_SPACE)
        if self.grows:
            self.let_appends_end()
        if immediate:
            self.purge()
        shmq_wake_all(&self.port, SHMQ_ITEMS)

    # -- looking ------------------------------------------------------------------------------------------------------

    @cython.critical_section
    def peek(self, Py_ssize_t n=1) -> list:
        """Copies of the first `n` messages of the ring, oldest first, without taking them. Leased ones are not among them."""
        cdef shmq_slot header
        cdef c_bool moved = False
        cdef list result = []
        cdef uint32_t nth = 0, again = 0
        cdef uint64_t limit = self.port.geometry.slot_size
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        if n < 0:
            raise ValueError(f"n must not be negative, but is {n}")
        cdef bytes copy
        while <Py_ssize_t>len(result) < n:
            copy = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>limit)
            if not shmq_ring_peek(&self.port, nth, &header, PyBytes_AS_STRING(copy), limit, &moved):
                if moved and again < PEEKS: # taken while we looked: the front is elsewhere by now
                    nth = 0
                    again += 1
                    result.clear()
                    continue
                break
            nth += 1
            if header.flags & SHMQ_SPILLED:
                try:
                    copy = bytes(self.segment.open_side(copy[:SPILL_KEY_BYTES]))
                except SegmentCorrupt:
                    if not self.still_there(nth - 1, header.id):
                        continue # taken meanwhile, its side segment with it
                    raise
                header_of_side(&header, len(copy))
            header_check(self, &header, <uint64_t>len(copy))
            result.append(build(self, &header, PyBytes_AS_STRING(copy)))
        if self.is_behind() and <Py_ssize_t>len(result) < n:
            result += [self._decode_image(image) for image in self._in_backlog(n - len(result))]
        return result

    cdef bint still_there(self, uint32_t nth, uint64_t id) noexcept:
        cdef shmq_slot header
        cdef c_bool moved
        return shmq_ring_peek(&self.port, nth, &header, NULL, 0, &moved) and header.id == id


include "_lease.pxi"
include "_birth.pxi"
