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
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import os as _os
from operator import index as operator_index
from pickle import loads as pickle_loads

from numpy import ascontiguousarray as np_ascontiguousarray

from shmq import _codec
from shmq._errors import (
    Closed, Empty, Full, InFlightLimit, LeaseLost, MessageTooLarge, PayloadLost, PickleRefused, SegmentCorrupt, SegmentForeign, SegmentMismatch,
    ShmqError, TooManyPorts,
)

cdef extern from "Python.h":
    ctypedef void (*destructor)(PyObject *) noexcept
    ctypedef struct PyTypeObject:
        destructor tp_dealloc
    PyObject *PyErr_Occurred()
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *length) except NULL

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
    PEEKS = 1000  # how often peek begins anew while others take what it looks at
# How long put and get wait for an in-flight cell before they say who holds them all.
cdef uint64_t CELL_PATIENCE_NS = 1000000000


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


cdef double number_of_seconds(object timeout) except? -1:
    if isinstance(timeout, (str, bytes)):
        raise TypeError(f"a timeout is a number of seconds or None, not {timeout!r}")
    cdef double seconds = timeout
    if seconds != seconds:
        raise ValueError("a timeout cannot be NaN")
    return seconds


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


include "_draft.pxi"
include "_decode.pxi"


@cython.no_gc_clear # the collector would take the mapping away before the last lease of a cycle is gone
cdef class Port:
    """A handle of this process on a segment; the base of Queue."""

    cdef shmq_port port
    cdef Py_buffer memory           # keeps the mapping while the port, or a view of one of its slots, lives
    cdef readonly object segment    # shmq._segment.Segment
    cdef readonly object codec
    cdef readonly bint pickles
    cdef readonly bint spills
    cdef readonly bint closed
    cdef bint attached
    cdef readonly bint spin
    cdef uint64_t forks             # of the process that attached; anything else sends a call through enter()
    cdef Py_ssize_t users           # leases, loans, and calls that have given up the interpreter lock
    cdef object __weakref__

    def __cinit__(self, *args, **kwargs):
        self.memory.buf = NULL
        self.closed = True
        self.forks = <uint64_t>-1

    def _open(self, segment, codec, bint spin=True):
        """Attach to a mapped segment. Raises TooManyPorts, SegmentCorrupt, SegmentForeign."""
        self.segment = segment
        self.codec = codec
        PyObject_GetBuffer(segment.memory, &self.memory, PyBUF_WRITABLE)
        cdef shmq_header *header = <shmq_header *>self.memory.buf
        self.spills = header.flags & SHMQ_SPILLS != 0
        self.pickles = header.flags & SHMQ_PICKLES != 0
        self.spin = spin
        self.attach()
        self.closed = False

    cdef int attach(self) except -1:
        cdef shmq_geometry geometry
        cdef shmq_status status = shmq_segment_check(self.memory.buf, <uint64_t>self.memory.len, &geometry)
        cdef uint64_t owner = own_identity()
        cdef sem_t *semaphores[2]
        cdef int side
        if status != SHMQ_OK:
            raise SegmentCorrupt(f"segment {self.segment.name!r} changed while it was attached")
        self.attached = False # in a forked child: the port was the parent's
        for side in range(2):
            semaphores[side] = self.port.semaphores[side] # a forked child goes on with its parent's
        status = shmq_port_attach(&self.port, self.memory.buf, &geometry, owner)
        if status == SHMQ_NO_PORTS:
            shmq_reap(&self.port)
            status = shmq_port_attach(&self.port, self.memory.buf, &geometry, owner)
        for side in range(2):
            self.port.semaphores[side] = semaphores[side]
        if status == SHMQ_NO_PORTS:
            raise TooManyPorts(f"all {geometry.ports} ports of {self.segment.name!r} are attached by living processes: "
                               f"{self._holders()}. Close handles, or create the queue with a larger ports=")
        for side in range(2):
            if semaphores[side] == NULL:
                name = self.segment.semaphore_name(side).encode()
                self.port.semaphores[side] = sem_open(name, 0)
                if self.port.semaphores[side] == SEM_FAILED:
                    self.port.semaphores[side] = NULL
                    shmq_port_detach(&self.port)
                    raise SegmentCorrupt(f"the semaphore {name.decode()} of queue {self.segment.name!r} is gone from /dev/shm "
                                         "(a logout with systemd's RemoveIPC does that): unlink the queue and create it anew")
        shmq_store_relaxed(&self.port.record.pid, <uint64_t>_os.getpid())
        if not self.spin:
            self.port.spins = False
        self.attached = True
        self.forks = shmq_owner_forks
        self.users = 0
        shmq_reap(&self.port)
        self._attached()
        return 0

    def _attached(self) -> None:
        """Called when this process got a port of its own: at opening, and in a forked child on first use."""

    cdef int enter(self) except -1:
        """The slow entrance: a closed handle, or the first call in a forked child, which attaches anew."""
        if self.closed:
            raise Closed(f"this handle of queue {self.name!r} is closed" if self.segment is not None else "this handle was never opened")
        self.attach()
        return 0

    cdef void leave(self) noexcept:
        self.users -= 1
        if self.closed and self.users == 0:
            self.detach()

    cdef void detach(self) noexcept:
        """Free the port, unless it was inherited: then it is the parent's."""
        if self.attached and self.port.owner == shmq_owner_self():
            shmq_port_detach(&self.port)
        self.attached = False

    def close(self) -> None:
        """Let go of the queue in this process; messages stay. Leases and loans already taken can still be settled.

        A second call does nothing. Other calls raise Closed afterwards; one that is waiting does so within 0.1 s.
        """
        if self.closed:
            return
        self.closed = True
        cdef bint inherited = self.forks != shmq_owner_forks
        self.forks = <uint64_t>-1
        if inherited:
            self.attached = False # the port is the parent's
        elif self.users == 0:
            self.detach()

    def _abandon(self) -> None:
        """At interpreter exit: detach although leases are held; they go back at once, uncounted."""
        self.detach()
        self.closed = True
        self.forks = <uint64_t>-1

    def __dealloc__(self):
        cdef int side
        self.detach()
        for side in range(2):
            if self.port.semaphores[side] != NULL:
                sem_close(self.port.semaphores[side])
        if self.memory.buf != NULL:
            PyBuffer_Release(&self.memory)

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
            self.offer_patiently(&draft, block, timeout)
            return
        draft_make(&draft, self, obj)
        try:
            status = self.offer(&draft)
            if status != SHMQ_OK:
                self.offer_patiently(&draft, block, timeout)
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
        status = shmq_ring_put(&self.port, cell)
        shmq_cell_return(&self.port, cell, status != SHMQ_OK)
        if shmq_likely(status == SHMQ_OK):
            shmq_count(&self.port.record.counters[SHMQ_PUTS], 1)
            shmq_wake_after(&self.port, SHMQ_ITEMS)
        if large and self.closed and self.users == 0:
            self.detach() # closed by another thread during the copy
        return status

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

    cdef shmq_status wait(self, shmq_status status, shmq_side side, uint64_t deadline, shmq_patience *patience) except *:
        """The waiting half of a blocking call: OK: look again; TIMED_OUT. Raises what a signal handler raises, Closed, SegmentCorrupt."""
        cdef bint cells = status == SHMQ_NO_CELLS
        if status != SHMQ_WOULD_BLOCK and not cells:
            raise SegmentCorrupt(f"queue {self.name!r} is corrupt: a cell of its ring names a slot or a lap that cannot be")
        if deadline == 1: # the caller does not wait, but may poll for ever
            return SHMQ_OK if shmq_reap_now_and_then(&self.port) else SHMQ_TIMED_OUT
        self.users += 1
        with nogil:
            if cells:
                status = shmq_wait_for_cell(&self.port, deadline, patience)
            else:
                status = shmq_wait(&self.port, side, deadline, patience)
        self.users -= 1
        if self.forks != shmq_owner_forks:
            if self.closed and self.users == 0:
                self.detach()
            self.enter() # raises Closed
        PyErr_CheckSignals() # also at the end of a slice: the signal may have met another thread
        if self.forks != shmq_owner_forks: # a handler closed this handle
            self.enter()
        return SHMQ_TIMED_OUT if status == SHMQ_TIMED_OUT else SHMQ_OK

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
            if published == batch.count or self.wait(status, SHMQ_SPACE, deadline, &patience) == SHMQ_TIMED_OUT:
                return 0

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
        status = self.take(&cell, False)
        if shmq_unlikely(status != SHMQ_OK):
            self.take_patiently(&cell, status, deadline_of(timeout) if block else 1, False)
        return self.finish(cell)

    def get_nowait(self):
        """get(block=False)"""
        return self.get(False)

    cdef inline shmq_status take(self, uint32_t *cell, bint for_long) noexcept:
        """One try to lease the oldest message, what came back before what is new. `for_long`: not in the port's kept cell."""
        cdef shmq_status status
        if self.port.caught_up:
            shmq_wait_linger(&self.port)
        status = shmq_orphan_adopt(&self.port, cell)
        if shmq_unlikely(status == SHMQ_OK):
            return status
        status = shmq_cell_take_for_long(&self.port, SHMQ_TO_GIVE, cell) if for_long else shmq_cell_take(&self.port, SHMQ_TO_GIVE, cell)
        if shmq_unlikely(status != SHMQ_OK):
            return status
        status = shmq_ring_get(&self.port, cell[0])
        if shmq_unlikely(status != SHMQ_OK):
            shmq_cell_return(&self.port, cell[0], False)
            return status
        shmq_wake_after(&self.port, SHMQ_SPACE)
        return SHMQ_OK

    cdef int take_patiently(self, uint32_t *cell, shmq_status status, uint64_t deadline, bint for_long) except -1:
        cdef shmq_patience patience
        cdef uint64_t cells_deadline = 0, until
        cdef bint timed_out
        memset(&patience, 0, sizeof(patience))
        while True:
            until = deadline
            if status == SHMQ_NO_CELLS and deadline != 1:
                if cells_deadline == 0:
                    cells_deadline = shmq_now_ns() + CELL_PATIENCE_NS
                until = min(deadline, cells_deadline)
            timed_out = self.wait(status, SHMQ_ITEMS, until, &patience) == SHMQ_TIMED_OUT
            if not timed_out or deadline != 1: # a last look: it may have come with the last tick
                status = self.take(cell, for_long)
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
                shmq_cell_return(&self.port, cell, True)
                shmq_count(&self.port.record.counters[SHMQ_GETS], 1)
                return result
        return self.finish_any(cell, word)

    cdef object finish_any(self, uint32_t cell, uint64_t word):
        cdef bint spilled = False
        result = self.decode(cell, word, &spilled)
        self.done_with(cell, word, spilled)
        shmq_count(&self.port.record.counters[SHMQ_GETS], 1)
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
            raise
        except:
            shmq_lease_give_back(&self.port, cell, word, True)
            raise
        finally:
            self.leave()

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
        status = SHMQ_OK if wanted == 1 else shmq_orphan_adopt(&self.port, &cell)
        if wanted == 1 or status == SHMQ_OK:
            if wanted == 1:
                status = self.take(&cell, False)
                if status != SHMQ_OK:
                    self.take_patiently(&cell, status, deadline_of(timeout), False)
            return [self.finish(cell)]
        if wanted > BATCH:
            cells = <uint32_t *>PyMem_Malloc(wanted * sizeof(uint32_t))
            if cells == NULL:
                raise MemoryError
        try:
            taken = self.take_batch(cells, wanted, &status)
            if taken == 0:
                self.take_patiently(&cell, status, deadline_of(timeout), False)
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
        taken = shmq_ring_get_many(&self.port, cells, claimed, status)
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
                    shmq_lease_give_back(&self.port, cells[i], shmq_cell_load(&self.port, cells[i]), False)
            raise
        for i in range(taken):
            word = shmq_cell_load(&self.port, cells[i])
            self.done_with(cells[i], word, spills != 0 and shmq_slot_at(&self.port, shmq_word_slot(word)).flags & SHMQ_SPILLED != 0)
        shmq_count(&self.port.record.counters[SHMQ_GETS], taken)
        return result

    # -- leases and loans ---------------------------------------------------------------------------------------------

    @cython.critical_section
    def receive(self, timeout=None) -> Lease:
        """Take the oldest message with responsibility: see Lease.

        **Waits** for one, up to `timeout` seconds (None: for ever; 0: tries once). **Raises** Empty, Closed, InFlightLimit where
        every in-flight cell is held by somebody. **If the process dies** before the ack, the message is redelivered.
        """
        cdef uint32_t cell
        cdef shmq_status status
        check_timeout(timeout)
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        status = self.take(&cell, True)
        if shmq_unlikely(status != SHMQ_OK):
            self.take_patiently(&cell, status, deadline_of(timeout), True)
        return self.lease_of(cell)

    @cython.critical_section
    def receive_many(self, Py_ssize_t max, timeout=None) -> list:
        """Take up to `max` messages with responsibility: as many as are there, at least one. Otherwise as `receive`."""
        cdef uint32_t cell
        if max < 1:
            raise ValueError(f"max must be at least 1, not {max}")
        cdef list result = [self.receive(timeout)]
        while <Py_ssize_t>len(result) < max and self.take(&cell, True) == SHMQ_OK:
            result.append(self.lease_of(cell))
        return result

    cdef Lease lease_of(self, uint32_t cell):
        """The lease object of a LEASED cell. Where it cannot be made, the message goes back, or is given up if its payload is gone."""
        cdef uint64_t word = shmq_cell_load(&self.port, cell)
        cdef Lease lease
        self.check_slot(shmq_word_slot(word))
        shmq_store_relaxed(&self.port.cells[cell].leased_ns, shmq_now_coarse_ns())
        try:
            lease = Lease.__new__(Lease)
            lease.port = self
            lease.cell = cell
            lease.word = word
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
            shmq_cell_return(&self.port, cell, True) # nothing to deliver again
            raise
        except:
            shmq_lease_give_back(&self.port, cell, word, True)
            raise
        lease.forks = self.forks
        lease.writable = False
        lease.state = HAND_OPEN
        self.users += 1
        shmq_count(&self.port.record.counters[SHMQ_RECEIVES], 1)
        return lease

    def __iter__(self) -> Leases:
        cdef Leases leases = Leases.__new__(Leases)
        leases.port = self
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
        memset(&patience, 0, sizeof(patience))
        shmq_slot_stamp(&self.port, shmq_slot_at(&self.port, shmq_word_slot(shmq_cell_load(&self.port, cell))))
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
            status = self.take(&cell, False)
            if status != SHMQ_OK:
                break
            word = shmq_cell_load(&self.port, cell)
            self.check_slot(shmq_word_slot(word))
            self.done_with(cell, word, self.spills and shmq_slot_at(&self.port, shmq_word_slot(word)).flags & SHMQ_SPILLED != 0)
            shmq_count(&self.port.record.counters[SHMQ_RECEIVES], 1)
            shmq_count(&self.port.record.counters[SHMQ_ACKS], 1)
            count += 1
        if status == SHMQ_CORRUPT:
            raise SegmentCorrupt(f"queue {self.name!r} is corrupt: a cell of its ring names a slot or a lap that cannot be")
        return count

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
        return result

    cdef bint still_there(self, uint32_t nth, uint64_t id) noexcept:
        cdef shmq_slot header
        cdef c_bool moved
        return shmq_ring_peek(&self.port, nth, &header, NULL, 0, &moved) and header.id == id

    def qsize(self) -> int:
        """Messages that wait in the ring: leased ones and those that came back are not counted. Exact at a quiet moment."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return shmq_ring_length(&self.port)

    def empty(self) -> bool:
        """No message waits: qsize() == 0 and nothing came back. True or False at that moment."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return shmq_ring_length(&self.port) == 0 and not self.orphan_count()

    def full(self) -> bool:
        """put would wait. True or False at that moment."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return not shmq_ring_has_space(&self.port)

    cdef uint32_t orphan_count(self) noexcept:
        cdef uint32_t i, count = 0
        for i in range(self.port.geometry.cells):
            count += shmq_cell_state(shmq_load_acquire(&self.port.cells[i].word)) == SHMQ_ORPHAN
        return count

    @property
    def name(self) -> str:
        """The queue's name; other processes attach by it."""
        return self.segment.name

    @property
    def maxsize(self) -> int:
        """Capacity of the ring in messages."""
        return self.port.geometry.slots

    @property
    def slot_size(self) -> int:
        """Payload bytes of a slot."""
        return self.port.geometry.slot_size

    def _reap(self) -> int:
        """Take back what dead processes held; return how many handles of the dead were freed."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return shmq_reap(&self.port)

    def _counters(self) -> tuple:
        """Sums over all ports, those of the past included, in the order of enum shmq_counter."""
        cdef uint32_t i, k, kinds = SHMQ_COUNTERS
        totals = [shmq_load_relaxed(&self.port.header.retired[k]) for k in range(kinds)]
        for i in range(self.port.geometry.ports):
            for k in range(kinds):
                totals[k] += shmq_load_relaxed(&self.port.records[i].counters[k])
        return tuple(totals)

    def _waiters(self) -> tuple:
        """Sleeping consumers and producers."""
        return shmq_load_half(&self.port.header.items_waiters), shmq_load_half(&self.port.header.space_waiters)

    def _ports(self) -> list:
        """(index, owner, pid, alive, intent is open) of each attached port."""
        cdef uint32_t i
        cdef uint64_t owner
        result = []
        for i in range(self.port.geometry.ports):
            owner = shmq_load_acquire(&self.port.records[i].owner)
            if owner:
                result.append((i, owner, shmq_load_relaxed(&self.port.records[i].pid), shmq_owner_alive(owner),
                               shmq_load_acquire(&self.port.records[i].intent) != 0))
        return result

    def _cells(self) -> list:
        """(state, owner port, slot, leased since) of each in-flight cell."""
        cdef uint32_t i
        cdef uint64_t word
        result = []
        for i in range(self.port.geometry.cells):
            word = shmq_load_acquire(&self.port.cells[i].word)
            result.append((CELL_STATES[shmq_cell_state(word)], shmq_cell_owner(word), shmq_word_slot(word),
                           shmq_load_relaxed(&self.port.cells[i].leased_ns) * 1e-9))
        return result

    def _ring(self) -> list:
        """(lap, ready, slot) of each ring cell."""
        cdef uint32_t i
        cdef uint64_t word
        result = []
        for i in range(self.port.geometry.slots):
            word = shmq_load_acquire(&self.port.ring[i])
            result.append((shmq_ring_lap(word), shmq_ring_state(word) == SHMQ_READY, shmq_word_slot(word)))
        return result

    def _holders(self) -> str:
        """Who is attached, in words; shmq.Queue knows more about processes."""
        return ", ".join(f"pid {pid}" for _, _, pid, _, _ in self._ports())

    def _in_flight_report(self) -> str:
        return f"every in-flight cell of queue {self.name!r} is loaned or leased"


CELL_STATES = ("spare", "warm", "idle", "loaned", "leased", "held", "orphan", "?")


include "_lease.pxi"


# -- the segment's birth and identity, for shmq._segment -----------------------------------------------------------------

cdef uint64_t own_identity() except 0:
    cdef uint64_t owner = shmq_owner_self()
    if owner == 0:
        raise SegmentForeign(f"cannot lock /dev/shm/.shmq-{_os.geteuid()}.lock: it must be a regular file of this user in a writable /dev/shm")
    return owner


def identity() -> int:
    """This process's identity: the byte that it holds locked in the user's lock file."""
    return own_identity()


def alive(uint64_t owner) -> bool:
    """Does the process of this identity live? By the kernel's lock, not by its pid."""
    return shmq_owner_alive(owner)


def try_lock(uint64_t key) -> bool:
    """Take the named lock between this user's processes (and threads); False where somebody has it."""
    own_identity()
    return shmq_owner_lock(key)


def unlock(uint64_t key) -> None:
    """Give it back."""
    shmq_owner_unlock(key)


def lock_inode() -> int:
    """The inode of the lock file."""
    own_identity()
    return shmq_owner_lock_inode()


def segment_bytes(slots, slot_size, cells, ports) -> int:
    """Size of a segment of this geometry; 0 where the numbers are out of the format's bounds."""
    cdef shmq_geometry geometry
    if not 0 < slots < 1 << 32 or not 0 < slot_size < 1 << 63 or not 0 < cells < 1 << 32 or not 0 < ports < 1 << 32:
        return 0
    if not compute_geometry(slots, slot_size, cells, ports, &geometry):
        return 0
    return geometry.segment_bytes


def reserved_cells(slot_size, ports) -> int:
    """In-flight cells that loans and leases leave to put and get; a segment has so many more than its in_flight."""
    return SHMQ_RESERVED_WHERE_PAGED if slot_size >= SHMQ_PAGE else ports


def format_segment(memory, uint64_t slots, uint64_t slot_size, uint64_t cells, uint64_t ports, uint64_t nonce, uint32_t flags,
                   bytes codec, bytes boot_id, uint64_t pid) -> None:
    """Write header and cells into zeroed memory. It can be attached only after mark_ready."""
    cdef Py_buffer buffer
    cdef shmq_geometry geometry
    if not compute_geometry(slots, slot_size, cells, ports, &geometry) or len(boot_id) != 16:
        raise ValueError("geometry out of bounds")
    cdef uint64_t owner = own_identity()
    PyObject_GetBuffer(memory, &buffer, PyBUF_WRITABLE)
    if <uint64_t>buffer.len >= geometry.segment_bytes:
        shmq_segment_format(buffer.buf, &geometry, nonce, flags, PyBytes_AS_STRING(codec), <const uint8_t *>PyBytes_AS_STRING(boot_id),
                            owner, shmq_owner_lock_inode())
        (<shmq_header *>buffer.buf).creator_pid = pid
    PyBuffer_Release(&buffer)


def mark_ready(memory) -> None:
    """Store the magic word: from now on others may attach."""
    cdef Py_buffer buffer
    PyObject_GetBuffer(memory, &buffer, PyBUF_WRITABLE)
    shmq_segment_ready(buffer.buf)
    PyBuffer_Release(&buffer)


def read_header(memory) -> dict | None:
    """What a segment says of itself, checked against its size; None: not ready. Raises SegmentMismatch, SegmentCorrupt."""
    cdef Py_buffer buffer
    cdef shmq_geometry geometry
    cdef shmq_header *header
    cdef shmq_status status
    PyObject_GetBuffer(memory, &buffer, PyBUF_SIMPLE)
    try:
        status = shmq_segment_check(buffer.buf, <uint64_t>buffer.len, &geometry)
        if status == SHMQ_WOULD_BLOCK:
            return None
        if status == SHMQ_MISMATCH:
            if <uint64_t>buffer.len < sizeof(shmq_header):
                raise SegmentMismatch(f"{buffer.len} bytes are too few for a segment of shmq")
            header = <shmq_header *>buffer.buf
            raise SegmentMismatch(
                f"its magic is {shmq_load_acquire(&header.magic):#018x}, format version {header.version}, byte-order mark {header.endian:#x}; "
                f"this shmq reads format version {SHMQ_VERSION} of this machine's byte order")
        if status != SHMQ_OK:
            raise SegmentCorrupt(f"its header's numbers contradict each other or its size of {buffer.len:,} bytes")
        header = <shmq_header *>buffer.buf
        return {
            "slots": geometry.slots, "slot_size": geometry.slot_size, "cells": geometry.cells, "ports": geometry.ports,
            "nonce": header.nonce, "flags": header.flags, "creator": header.creator, "creator_pid": header.creator_pid,
            "created_at": header.created_unix_ns * 1e-9, "lock_inode": header.lock_inode,
            "boot_id": PyBytes_FromStringAndSize(<const char *>header.boot_id, 16),
            "codec": PyBytes_FromStringAndSize(header.codec, 32).rstrip(b"\0").decode("ascii", "replace"),
        }
    finally:
        PyBuffer_Release(&buffer)


def monotonic_ns() -> int:
    """CLOCK_MONOTONIC, the clock of every time inside a segment."""
    return shmq_now_ns()


MAX_CELLS = SHMQ_MAX_CELLS
PAGE = SHMQ_PAGE
FLAG_SPILLS = SHMQ_SPILLS
FLAG_PICKLES = SHMQ_PICKLES
FLAG_ANONYMOUS = SHMQ_ANONYMOUS



