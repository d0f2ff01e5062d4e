# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True, binding=True
"""The binding: everything that happens once per message, in one native call.

A QueuePort is a handle on a segment. Its methods do the whole fast path (encode, exchange, wake) without a Python frame, and
leave for Python only to wait, to pickle, or to spill. They are serialised per handle: by the interpreter lock, or by a
critical section where there is none. The lock is released only while waiting and during large copies. At both times the in-flight
cell in use is not the port's kept one, so that another thread works with another cell.

What guards what. With the interpreter lock, that; without it, a critical section of the object named. A thread gives that up where it
would give up the interpreter lock: while it waits, copies much, or runs Python code that blocks. So both need the same care there:
`users` and `looks` keep port and cell, and `look_again` finds out what has happened meanwhile.

    Attachment and QueuePort: every field     the handle; port, coding, segment and the like are set once, by _open
    Lease, Loan, View: every field            their handle, in methods, buffers, views and deallocators
    Attachment.users, QueuePort.looks       the handle; `end_use` may detach the port, in whichever thread is the last
    Loan while it is published                HAND_PUBLISHING besides: the handle is given up while it waits for room
    Lease while it becomes a dead letter      its state, which changes before any Python code runs
    Dumper.idle                               the dumper: a thread takes the pickler away, and uses it alone
    Pickling                                  the thread that took it from Dumper.idle
    Log                                       the backlog's lock (_binding/backlog.pxi)
    Leases                                    nothing: an iterator is one thread's, as a generator is
    shmq_owner_* (identity, named locks)      a mutex of theirs, which a fork takes, too
    words in the segment                      as format/queue.h says, by atomic operations

What has Python code in it (an object's pickling, a codec, a buffer's exporter) runs before a cell is taken or after the message is
leased (_binding/draft.pxi, _binding/decode.pxi). NumPy's import, which the first array needs, is such code (_binding/arrays.pxi). An
Attachment is a port of a segment of any kind (_binding/attach.pxi; an Observer of _binding/observe.pxi only looks). A QueuePort is
one of a queue (_binding/queue.pxi): its methods are there, each a call of a function in the file of its noun. Another kind of port
stands beside it, not beneath. Each class of what a port hands out has its file: _binding/{slot,loan,lease,leases}.pxi.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_RawFree, PyMem_RawRealloc
from cpython.memoryview cimport PyMemoryView_FromMemory, PyMemoryView_FromObject
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from cpython.weakref cimport PyWeakref_NewRef
from libc.errno cimport EACCES, EEXIST, EIO, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC, EPERM, EROFS, errno
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strcmp

import os as _os
import sys as _sys
from collections import namedtuple
from copyreg import dispatch_table as copyreg_table
from operator import index as operator_index
from pickle import Pickler, UnpicklingError, loads as pickle_loads
from types import GenericAlias

from shmq._codec import codec as _codec, importing as _importing
from shmq._errors import (
    Closed, Empty, Full, InFlightLimit, LeaseLost, MessageTooLarge, NoSharedMemory, OutOfMemory, PayloadLost, PickleRefused, SegmentCorrupt,
    SegmentForeign, SegmentMismatch, ShmqError, ShutDown, TooManyPorts,
)

cdef extern from "Python.h":
    ctypedef void (*destructor)(PyObject *) noexcept
    ctypedef struct PyTypeObject:
        destructor tp_dealloc
        const char *tp_name
    PyTypeObject *Py_TYPE(object obj)
    PyObject *PyDict_GetItemWithError(dict table, object key) except? NULL
    bint PyObject_CheckBuffer(object obj)
    PyObject *_PyType_Lookup(PyTypeObject *kind, object name)
    PyObject *PyErr_Occurred()
    void PyErr_Fetch(PyObject **kind, PyObject **error, PyObject **trace)
    void PyErr_NormalizeException(PyObject **kind, PyObject **error, PyObject **trace)
    void PyErr_Restore(PyObject *kind, PyObject *error, PyObject *trace)
    int PyException_SetTraceback(PyObject *error, PyObject *trace)
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *length) except NULL

cdef extern from "fcntl.h":
    int FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE
    int fallocate(int descriptor, int mode, int64_t offset, int64_t nbytes)

cdef extern from "unistd.h":
    int usleep(unsigned int microseconds) nogil
    int close_descriptor "close"(int descriptor)
    Py_ssize_t read_descriptor "read"(int descriptor, void *into, size_t nbytes)

# From this size on a copy takes longer (about 2 us) than giving up the interpreter lock and taking it again.
cdef enum:
    RELEASE_BYTES = 65536
    SPILL_KEY_BYTES = 16
    SPILL_ATTEMPTS = 64
    BATCH = 256
    KEPT_PICKLE_BYTES = 1024
    INSIDE = 65536 # in QueuePort.looks
    NAMED_AT_MOST = 1000 # of what is wrong with a queue, where everything is
    PEEKS = 1000  # how often peek begins again while others take what it looks at
# How long put and get wait for an in-flight cell before they say who holds them all.
cdef uint64_t CELL_PATIENCE_NS = 1000000000
# How often a waiter looks whether the queue's name is another queue's.
cdef uint64_t NAME_NS = 1000000000
# A wait for room or for a cell that lasts longer is logged, once.
cdef uint64_t STALL_NS = 5000000000
# How long a process that attaches waits for another one that is freeing the ports of the dead, and may be stopped.
cdef uint64_t REAPER_PATIENCE_NS = 1000000000
# How long a message rests whose dead letter could not be written.
cdef uint64_t DEAD_LETTER_REST_NS = 1000000000
# How long puts wait for room before they go to the backlog: at first, and how much more with every put. So consumers that take
# 50,000 messages a second keep a producer at their pace, and no thousand puts take longer than 0.07 s.
cdef int64_t BACKLOG_PATIENCE_NS = 50000000
cdef int64_t BACKLOG_PATIENCE_PER_PUT_NS = 20000
# How long a consumer that finds the ring empty waits for a process that has the backlog's lock and moves nothing: it may be stopped. And
# how long while still nothing has moved since it last waited in vain, so that polls and event loops go on.
cdef uint64_t REFILL_PATIENCE_NS = 1000000000
cdef uint64_t REFILL_PATIENCE_AGAIN_NS = 10000000


cdef inline uint64_t align(uint64_t offset) noexcept nogil:
    return (offset + 63) & ~<uint64_t>63


cdef inline bint is_utf8(str text, const char **data, Py_ssize_t *length) except -1:
    """False for text with lone surrogates, which UTF-8 cannot carry: it travels by pickle."""
    try:
        data[0] = PyUnicode_AsUTF8AndSize(text, length)
    except UnicodeEncodeError:
        return False
    return True


cdef inline double patience_of(object timeout) except? -1:
    """Seconds of a time-out; None: without end. Asked for once, before anything is held: a number may be code of the user's."""
    return INFINITY if timeout is None else number_of_seconds(timeout)


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
    cdef double seconds
    try:
        seconds = timeout
    except OverflowError: # a whole number beyond all floats
        seconds = 1e300 if timeout > 0 else -1e300
    if seconds != seconds:
        raise ValueError("a timeout cannot be NaN")
    return seconds


cdef int refuse_bool(object seconds) except -1:
    """Refuse True as a number of seconds: a program that passes it meant another parameter."""
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


cdef uint64_t deadline_of(double seconds) noexcept:
    """Monotonic nanoseconds for so many seconds from now; zero and below: now."""
    if seconds <= 0:
        return 1
    if seconds > 9e9:
        return SHMQ_FOREVER
    return shmq_now_ns() + <uint64_t>(seconds * 1e9)


cdef str DLPACK = "__dlpack__"
AS_CREATED = object() # "not given", where None means something
LONGEST_SECONDS = 366 * 86400.0
CAUSES = ("released", "nacked", "expired", "died", "rejected", "?", "?", "?")


include "_binding/arrays.pxi"
include "_binding/dumper.pxi"
include "_binding/coding.pxi"
include "_binding/draft.pxi"
include "_binding/decode.pxi"
include "_binding/rows.pxi"
include "_binding/map.pxi"
include "_binding/observe.pxi"
include "_binding/backlog.pxi"
include "_binding/attach.pxi"
include "_binding/wait.pxi"
include "_binding/queue.pxi"
include "_binding/put.pxi"
include "_binding/growing.pxi"
include "_binding/get.pxi"
include "_binding/receive.pxi"
include "_binding/dead_letters.pxi"
include "_binding/peek.pxi"
include "_binding/end.pxi"
include "_binding/slot.pxi"
include "_binding/loan.pxi"
include "_binding/lease.pxi"
include "_binding/leases.pxi"
include "_binding/birth.pxi"
include "_binding/hold.pxi"
