# From a slot back to an object. The header is a private copy: every length in it was written by somebody else, and is
# checked against the slot (or side segment) before it is used.

cdef int header_check(Mapped port, shmq_slot *header, uint64_t available) except -1:
    """Raise SegmentCorrupt unless payload and description lie inside the `available` bytes."""
    if header.kind >= SHMQ_KINDS or header.described > available or header.nbytes > available - header.described:
        raise SegmentCorrupt(
            f"a message in queue {port.name!r} claims {header.nbytes:,} bytes of kind {header.kind} in a slot of {available:,} bytes"
        )
    return 0


@cython.final
cdef class Glance:
    """What user code sees of memory that is not a Python object's: it keeps the owner, and counts the views of it.

    A bare memoryview would outlive its memory in a traceback's frames, or where a codec keeps it.
    """

    cdef object owner
    cdef Py_buffer memory       # of an exporter, where the memory is one's
    cdef const char *data
    cdef Py_ssize_t nbytes
    cdef Py_ssize_t exports

    def __cinit__(self):
        self.memory.buf = NULL
        self.exports = 0

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, <char *>self.data, self.nbytes, True, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1

    def __dealloc__(self):
        if self.memory.buf != NULL:
            PyBuffer_Release(&self.memory)


cdef Glance glance_of(object owner, const char *data, Py_ssize_t nbytes):
    cdef Glance glance = Glance.__new__(Glance)
    glance.owner = owner
    glance.data = data
    glance.nbytes = nbytes
    return glance


cdef object glance_at(object owner, const char *data, Py_ssize_t nbytes):
    """A read-only memoryview of the `nbytes` bytes at `data`, which live as long as the owner."""
    return PyMemoryView_FromObject(glance_of(owner, data, nbytes))


cdef object glance_at_object(object exporter):
    """A glance at all the bytes that the exporter exports."""
    cdef Glance glance = Glance.__new__(Glance)
    PyObject_GetBuffer(exporter, &glance.memory, PyBUF_SIMPLE)
    glance.data = <const char *>glance.memory.buf
    glance.nbytes = glance.memory.len
    return PyMemoryView_FromObject(glance)


cdef object decode_by_codec(Mapped port, Coding coding, const char *data, Py_ssize_t nbytes, object owner):
    """The queue's own codec sees the slot itself, during the call."""
    cdef Glance glance = glance_of(owner, data, nbytes)
    view = PyMemoryView_FromObject(glance)
    result = _codec.decode(view, coding.codec)
    try:
        view.release()
    except BufferError:
        pass
    if glance.exports:
        raise TypeError(f"the codec of queue {port.name!r} kept a view of a message that it decoded: what it is given lies in the slot, "
                        "which is used again. Copy it: bytes(data)")
    return result


cdef object build(Mapped port, Coding coding, shmq_slot *header, const char *data, object owner):
    """Decode a copy of the payload. Pre: header_check passed for the memory at `data`, which lives as long as its owner."""
    cdef uint64_t nbytes = header.nbytes
    if header.kind == SHMQ_BYTES:
        return build_bytes(data, nbytes)
    if header.kind == SHMQ_TEXT:
        return PyUnicode_DecodeUTF8(data, <Py_ssize_t>nbytes, NULL)
    if header.kind == SHMQ_ARRAY:
        need_numpy()
        if header.flags & SHMQ_DESCRIBED:
            return described_array(port, header, data, build_bytes(data, nbytes)).copy("K")
        array = array_over(port, header, NULL)
        copy_out(PyArray_DATA(<PyArrayObject *>array), data, nbytes)
        return array
    if header.kind == SHMQ_BYTEARRAY:
        return PyByteArray_FromStringAndSize(data, <Py_ssize_t>nbytes)
    if header.kind == SHMQ_PICKLE:
        if not coding.pickles:
            raise PickleRefused(f"queue {port.name!r} refuses pickle, and a message in it is pickled: some writer does not keep to the rules")
        if not header.described and nbytes <= KEPT_PICKLE_BYTES: # a copy is cheaper than a memoryview
            return pickle_loads(PyBytes_FromStringAndSize(data, <Py_ssize_t>nbytes))
        if not header.described:
            return pickle_loads(glance_at(owner, data, <Py_ssize_t>nbytes))
        parts = parts_of(glance_at(owner, data, <Py_ssize_t>nbytes), data + nbytes, header.described)
        return _codec.load_pickle(parts[0], parts[1:])
    return decode_by_codec(port, coding, data, <Py_ssize_t>nbytes, owner)


cdef list parts_of(payload, const char *sizes, uint32_t described):
    """A pickle's stream and its out-of-band buffers, each of which begins at a boundary: as draft_describe laid them down."""
    cdef uint64_t size, offset = 0, nbytes = len(payload)
    cdef uint32_t i
    parts = []
    for i in range(described // sizeof(size)):
        memcpy(&size, sizes + i * sizeof(size), sizeof(size))
        offset = align(offset)
        if size > nbytes or offset > nbytes - size:
            raise UnpicklingError(f"out-of-band buffers reach beyond a payload of {nbytes} bytes")
        parts.append(payload[offset : offset + size])
        offset += size
    if offset != nbytes or not parts or described % sizeof(size):
        raise UnpicklingError(f"out-of-band buffers of {offset} bytes in a payload of {nbytes}")
    return parts


cdef object build_bytes(const char *data, uint64_t nbytes):
    cdef object result = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>nbytes)
    copy_out(PyBytes_AS_STRING(result), data, nbytes)
    return result


cdef inline void copy_out(void *target, const char *data, uint64_t nbytes) noexcept:
    if nbytes >= RELEASE_BYTES:
        with nogil:
            memcpy(target, data, nbytes)
    else:
        memcpy(target, data, nbytes)


cdef void header_of_side(shmq_slot *header, Py_ssize_t side_bytes) noexcept:
    """Make a private header speak of the payload in the side segment instead of the key in the slot."""
    header.nbytes = <uint64_t>side_bytes - header.described if header.described <= <uint64_t>side_bytes else <uint64_t>-1


cdef bint read_image(const shmq_queue_port *queue, const char *image, uint64_t nbytes, shmq_slot *header) noexcept:
    """Split the image of a message into its header and the payload behind it. False: it contradicts itself, or the segment."""
    cdef uint64_t wanted
    memset(header, 0, sizeof(shmq_slot))
    if nbytes < sizeof(shmq_slot):
        return False
    memcpy(header, image, sizeof(shmq_slot))
    nbytes -= sizeof(shmq_slot)
    wanted = header.nbytes if header.flags & SHMQ_SPILLED else header.nbytes + header.described
    return header.kind < SHMQ_KINDS and header.nbytes <= wanted <= nbytes <= queue.geometry.payload_room and (
        not header.flags & SHMQ_SPILLED or header.nbytes == SPILL_KEY_BYTES)


cdef uint64_t image_header(Mapped port, bytes image, shmq_slot *header) except? 0:
    """Read the header of a dead letter's image; return the size of the payload behind it. Raises SegmentCorrupt."""
    cdef uint64_t nbytes = <uint64_t>PyBytes_GET_SIZE(image)
    if not read_image(&port.port.queue, PyBytes_AS_STRING(image), nbytes, header):
        raise SegmentCorrupt(f"a dead letter of queue {port.name!r} claims {header.nbytes:,} bytes of payload, and has {nbytes:,} in all")
    return nbytes - sizeof(shmq_slot)
