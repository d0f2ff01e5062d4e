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
    """… of all the bytes that the exporter exports."""
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
    if header.kind == SHMQ_ARRAY and header.flags & SHMQ_DESCRIBED:
        return described_array(port, header, data, build_bytes(data, nbytes)).copy("K")
    if header.kind == SHMQ_ARRAY:
        array = array_over(port, header, NULL)
        if <uint64_t>cnp.PyArray_NBYTES(array) >= RELEASE_BYTES:
            with nogil:
                memcpy(cnp.PyArray_DATA(array), data, nbytes)
        else:
            memcpy(cnp.PyArray_DATA(array), data, nbytes)
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
    cdef char *target = PyBytes_AS_STRING(result)
    if nbytes >= RELEASE_BYTES:
        with nogil:
            memcpy(target, data, nbytes)
    else:
        memcpy(target, data, nbytes)
    return result


cdef cnp.ndarray array_over(Mapped port, shmq_slot *header, char *data):
    """An array over `data`, or a new one of the same shape where `data` is NULL. The payload must have exactly its size."""
    cdef cnp.npy_intp shape[64]
    cdef int i, flags, ndim = header.ndim
    cdef uint64_t total = header.itemsize
    cdef cnp.dtype descr
    cdef int typenum
    if ndim > SHMQ_INLINE_DIMS:
        raise SegmentCorrupt(f"a message in queue {port.name!r} claims an array of {ndim} dimensions")
    for i in range(ndim):
        shape[i] = header.shape[i]
        if header.shape[i] != 0 and total > <uint64_t>0x3fffffffffffffff // header.shape[i]:
            raise SegmentCorrupt(f"a message in queue {port.name!r} claims an array larger than memory")
        total *= header.shape[i]
    if total != header.nbytes:
        raise SegmentCorrupt(f"a message in queue {port.name!r} claims an array of {total:,} bytes in a payload of {header.nbytes:,}")
    typenum = -1 if header.flags & SHMQ_SWAPPED else typenum_of(header.dtype, header.itemsize)
    if typenum >= 0:
        descr = cnp.PyArray_DescrFromType(typenum)
    else:
        descr = _codec.plain_dtype(chr(header.dtype), header.itemsize, bool(header.flags & SHMQ_SWAPPED))
        if descr is None:
            raise SegmentCorrupt(f"a message in queue {port.name!r} claims an array of impossible items")
    flags = cnp.NPY_ARRAY_F_CONTIGUOUS if header.flags & SHMQ_FORTRAN else 0
    if data != NULL:
        flags = cnp.NPY_ARRAY_FARRAY_RO if header.flags & SHMQ_FORTRAN else cnp.NPY_ARRAY_CARRAY_RO
    Py_INCREF(descr)  # PyArray_NewFromDescr steals one
    return PyArray_NewFromDescr(<PyTypeObject *>cnp.ndarray, <PyArray_Descr *>descr, ndim, shape, NULL, data, flags, NULL)


cdef cnp.ndarray described_array(Mapped port, shmq_slot *header, const char *data, object memory):
    """The array over `memory` that the description behind the payload tells."""
    try:
        return _codec.described_array(PyBytes_FromStringAndSize(data + header.nbytes, header.described), memory)
    except Exception as error: # text of somebody else's: whatever is wrong with it
        raise SegmentCorrupt(f"a message in queue {port.name!r} describes an impossible array: {error}") from None


cdef inline int typenum_of(uint8_t kind, uint32_t itemsize) noexcept:
    """NumPy's type number for the dtypes that need no more than kind and size; -1 for the others."""
    if kind == c'u':
        return (cnp.NPY_UINT8 if itemsize == 1 else cnp.NPY_UINT16 if itemsize == 2 else cnp.NPY_UINT32 if itemsize == 4
                else cnp.NPY_UINT64 if itemsize == 8 else -1)
    if kind == c'i':
        return (cnp.NPY_INT8 if itemsize == 1 else cnp.NPY_INT16 if itemsize == 2 else cnp.NPY_INT32 if itemsize == 4
                else cnp.NPY_INT64 if itemsize == 8 else -1)
    if kind == c'f':
        return cnp.NPY_FLOAT32 if itemsize == 4 else cnp.NPY_FLOAT64 if itemsize == 8 else cnp.NPY_FLOAT16 if itemsize == 2 else -1
    if kind == c'c':
        return cnp.NPY_COMPLEX64 if itemsize == 8 else cnp.NPY_COMPLEX128 if itemsize == 16 else -1
    if kind == c'b':
        return cnp.NPY_BOOL if itemsize == 1 else -1
    return -1


cdef int as_bytes(shmq_slot *header) except -1:
    """Turn a private header into that of a one-dimensional array of its bytes."""
    if header.nbytes > 0xffffffff:
        raise ValueError("more than 4 GiB of bytes have no array view: use .view")
    header.kind = SHMQ_ARRAY
    header.flags = 0
    header.dtype = c'u'
    header.itemsize = 1
    header.ndim = 1
    header.shape[0] = <uint32_t>header.nbytes
    return 0


cdef void header_of_side(shmq_slot *header, Py_ssize_t side_bytes) noexcept:
    """Make a private header speak of the payload in the side segment instead of the key in the slot."""
    header.nbytes = <uint64_t>side_bytes - header.described if header.described <= <uint64_t>side_bytes else <uint64_t>-1


cdef object shape_header(shmq_slot *header, object shape, cnp.dtype descr):
    """Header of an array that is yet to be written. -> its description, where the header cannot say all; else None."""
    cdef uint64_t total = <uint64_t>PyDataType_ELSIZE(descr)
    cdef object extent
    cdef bint simple
    shape = tuple(map(operator_index, shape)) if isinstance(shape, (tuple, list)) else (operator_index(shape),)
    simple = len(shape) <= SHMQ_INLINE_DIMS and is_plain(descr)
    for extent in shape:
        if extent < 0:
            raise ValueError(f"a loan of shape {shape}: no extent may be negative")
        if extent and (extent > 1 << 62 or total > <uint64_t>0x3fffffffffffffff // <uint64_t>extent):
            raise MessageTooLarge(f"a loan of shape {shape} is larger than memory")
        simple = simple and extent <= 0xffffffff
        total *= <uint64_t>extent
    header.kind = SHMQ_ARRAY
    header.nbytes = total
    if not simple:
        header.flags = SHMQ_DESCRIBED
        description = _codec.describe_loan(descr, shape)
        header.described = <uint32_t>len(description)
        return description
    header.flags = SHMQ_SWAPPED if is_swapped(descr) else 0
    header.dtype = <uint8_t>descr.kind
    header.itemsize = <uint32_t>PyDataType_ELSIZE(descr)
    for extent in shape:
        header.shape[header.ndim] = <uint32_t>extent
        header.ndim += 1
    return None


cdef bint read_image(const shmq_port *port, const char *image, uint64_t nbytes, shmq_slot *header) noexcept:
    """Split the image of a message into its header and the payload behind it. False: it contradicts itself, or the segment."""
    cdef uint64_t wanted
    memset(header, 0, sizeof(shmq_slot))
    if nbytes < sizeof(shmq_slot):
        return False
    memcpy(header, image, sizeof(shmq_slot))
    nbytes -= sizeof(shmq_slot)
    wanted = header.nbytes if header.flags & SHMQ_SPILLED else header.nbytes + header.described
    return header.kind < SHMQ_KINDS and header.nbytes <= wanted <= nbytes <= port.geometry.payload_room and (
        not header.flags & SHMQ_SPILLED or header.nbytes == SPILL_KEY_BYTES)


cdef uint64_t image_header(Mapped port, bytes image, shmq_slot *header) except? 0:
    """Read the header of a dead letter's image; return the size of the payload behind it. Raises SegmentCorrupt."""
    cdef uint64_t nbytes = <uint64_t>PyBytes_GET_SIZE(image)
    if not read_image(&port.port, PyBytes_AS_STRING(image), nbytes, header):
        raise SegmentCorrupt(f"a dead letter of queue {port.name!r} claims {header.nbytes:,} bytes of payload, and has {nbytes:,} in all")
    return nbytes - sizeof(shmq_slot)
