# A draft: what a message will look like in its slot, before any slot is taken.
#
# All Python code that an object can trigger (pickling, __buffer__, __dlpack__, a codec) runs while the draft is made. So nothing
# between taking a cell and publishing it can raise, be interrupted, or call back into the queue. A draft owns what it points into,
# whatever the user's code does with its own references meanwhile; but for the bytes of a put, which its caller holds.

cdef struct draft_t:
    const char *data            # of the only part
    uint64_t nbytes             # of payload, all parts
    Py_buffer *buffers          # several parts, each on a 64-byte boundary; or one that must be released
    int buffer_count
    PyObject *keep              # owned: what `data` and `description` point into
    const char *description
    uint32_t described
    uint8_t kind
    uint8_t flags
    uint8_t ndim
    uint8_t dtype
    uint32_t itemsize
    uint32_t shape[4]
    uint64_t published_ns       # of a message that was put before, and comes from the backlog; else 0
    uint64_t forks              # of the process that wrote its side segment


cdef inline void draft_plain(draft_t *draft, const char *data, uint64_t nbytes, uint8_t kind) noexcept:
    draft.data = data
    draft.nbytes = nbytes
    draft.buffers = NULL
    draft.keep = NULL
    draft.described = 0
    draft.kind = kind
    draft.flags = 0
    draft.ndim = 0
    draft.published_ns = 0


cdef void draft_clear(draft_t *draft) noexcept:
    cdef int i
    if draft.buffers != NULL:
        for i in range(draft.buffer_count):
            PyBuffer_Release(&draft.buffers[i])
        PyMem_Free(draft.buffers)
        draft.buffers = NULL
    if draft.keep != NULL:
        Py_DECREF(<object>draft.keep)
        draft.keep = NULL


cdef int draft_keep(draft_t *draft, object thing) except -1:
    """Own `thing` beside whatever the draft owns already."""
    if draft.keep != NULL:
        thing = (<object>draft.keep, thing)
        Py_DECREF(<object>draft.keep)
    Py_INCREF(thing)
    draft.keep = <PyObject *>thing
    return 0


cdef int draft_buffers(draft_t *draft, list parts) except -1:
    """Hold the parts' memory; the payload is all of them, each on a 64-byte boundary."""
    cdef object part
    draft.buffers = <Py_buffer *>PyMem_Malloc(len(parts) * sizeof(Py_buffer))
    if draft.buffers == NULL:
        raise MemoryError
    draft.buffer_count = 0
    draft.nbytes = 0
    for part in parts:
        PyObject_GetBuffer(part, &draft.buffers[draft.buffer_count], PyBUF_SIMPLE)
        draft.nbytes = align(draft.nbytes) + <uint64_t>draft.buffers[draft.buffer_count].len
        draft.buffer_count += 1
    draft.data = <const char *>draft.buffers[0].buf
    return 0


cdef int draft_describe(draft_t *draft, bytes description) except -1:
    draft_keep(draft, description)
    draft.description = PyBytes_AS_STRING(description)
    draft.described = <uint32_t>PyBytes_GET_SIZE(description)
    return 0


cdef bint draft_array(draft_t *draft, object obj) except -1:
    """Draft the raw memory of an array, in C or Fortran order as it lies; anything else is laid out in C order first.

    The draft owns the array: other code that has it cannot resize it, as long as NumPy looks at its reference count. False: only
    pickle can tell others of its dtype, and nothing was done.
    """
    cdef PyArrayObject *array = <PyArrayObject *>obj
    cdef object dtype = <object><PyObject *>PyArray_DESCR(array)
    cdef PyArray_Descr *descr = <PyArray_Descr *>dtype
    cdef int i, ndim = PyArray_NDIM(array)
    cdef bint simple = ndim <= SHMQ_INLINE_DIMS and is_plain(descr)
    cdef bint fortran = False
    if simple:
        for i in range(ndim):
            if <uint64_t>PyArray_DIM(array, i) > 0xffffffff:
                simple = False
                break
            draft.shape[i] = <uint32_t>PyArray_DIM(array, i)
    if simple:
        draft.ndim = <uint8_t>ndim
    else:
        description = arrays.describe_array(obj)
        if description is None:
            return False
        draft.flags = SHMQ_DESCRIBED
        draft_describe(draft, description)
    if not PyArray_IS_C_CONTIGUOUS(array):
        if PyArray_IS_F_CONTIGUOUS(array):
            fortran = True
        else:
            obj = PyArray_NewCopy(array, NPY_CORDER)
            array = <PyArrayObject *>obj
    draft_keep(draft, obj)
    draft.data = <const char *>PyArray_DATA(array)
    draft.nbytes = <uint64_t>PyArray_NBYTES(array)
    draft.kind = SHMQ_ARRAY
    draft.flags |= (SHMQ_FORTRAN if fortran else 0) | (SHMQ_SWAPPED if is_swapped(descr) else 0)
    draft.dtype = <uint8_t>descr.kind
    draft.itemsize = <uint32_t>PyArray_ITEMSIZE(array)
    return True


cdef inline bint may_export(object obj) noexcept:
    """Could its memory be raw? Asked of the class alone: most objects end up in pickle, and trying costs more than it does."""
    return PyObject_CheckBuffer(obj) or _PyType_Lookup(Py_TYPE(obj), DLPACK) != NULL


cdef int draft_object(draft_t *draft, Coding coding, object obj) except -1:
    """Everything that is not bytes, str or exactly an ndarray."""
    cdef object kind, parts, encoded = None
    cdef bint coded = coding.codec is not None or not coding.pickles
    cdef bint raw
    if type(obj) is bytearray:
        draft_buffers(draft, [obj])
        draft.kind = SHMQ_BYTEARRAY
        return 0
    raw = (coded or not coding.keeps_types) and may_export(obj) and not is_of_numpy(type(obj))
    if coded or raw:
        encoded = _codec.encode(obj, coding.codec, coding.pickles, raw)
    if encoded is None:
        draft_pickle(draft, coding, obj)
    elif type(encoded) is tuple:
        kind, parts = encoded
        draft_buffers(draft, parts)
        draft.kind = kind
    elif not draft_array(draft, encoded):
        draft_pickle(draft, coding, obj)
    return 0


cdef int draft_pickle(draft_t *draft, Coding coding, object obj) except -1:
    """Protocol 5 in one stream, or with buffers out of band, each a part of its own."""
    cdef bytes stream
    cdef list buffers, parts
    stream, buffers = coding.dumper.dump(obj)
    if buffers is None:
        draft_keep(draft, stream)
        draft.data = PyBytes_AS_STRING(stream)
        draft.nbytes = <uint64_t>PyBytes_GET_SIZE(stream)
    else:
        parts = [stream, *[buffer.raw() for buffer in buffers]]
        draft_buffers(draft, parts)
        draft.flags |= SHMQ_DESCRIBED
        draft_describe(draft, _codec.describe_parts(parts))
    draft.kind = SHMQ_PICKLE
    return 0


cdef int draft_make(draft_t *draft, QueuePort port, object obj) except -1:
    """Pre: nothing. Post: a complete draft, to be given to draft_clear; or an exception and nothing held.

    Raises MessageTooLarge where the payload does not fit and the queue does not spill.
    """
    cdef const char *text
    cdef Py_ssize_t length
    draft_plain(draft, NULL, 0, SHMQ_BYTES)
    try:
        if type(obj) is bytes:
            draft_keep(draft, obj)
            draft.data = PyBytes_AS_STRING(obj)
            draft.nbytes = <uint64_t>PyBytes_GET_SIZE(obj)
        elif type(obj) is str and is_utf8(<str>obj, &text, &length):
            draft_keep(draft, obj)
            draft.data = text
            draft.nbytes = <uint64_t>length
            draft.kind = SHMQ_TEXT
        elif not (is_array_class(Py_TYPE(obj)) and not PyDataType_REFCHK(PyArray_DESCR(<PyArrayObject *>obj)) and draft_array(draft, obj)):
            draft_object(draft, port.coding, obj)
        if draft.nbytes > port.port.queue.geometry.slot_size or draft.nbytes + draft.described > port.port.queue.geometry.payload_room:
            draft_spill(draft, port, obj)
    except:
        draft_clear(draft)
        raise
    return 0


cdef int draft_spill(draft_t *draft, QueuePort port, object obj) except -1:
    """Write the payload to a side segment; the slot will hold its key.

    In any queue, where it is only the description that has no room behind the payload: that is no matter of the user's.
    """
    cdef list parts = []
    cdef int i
    cdef uint64_t forks
    cdef bytes key
    port.look_again() # the object's code may have closed the queue
    if not port.spills and draft.nbytes > port.port.queue.geometry.slot_size:
        raise MessageTooLarge(
            f"a {type(obj).__name__} of {draft.nbytes:,} bytes does not fit into a slot of queue {port.name!r} "
            f"({port.port.queue.geometry.slot_size:,} bytes): create the queue with a larger slot_size, or with oversize=\"spill\""
        )
    if draft.buffers == NULL:
        parts.append(glance_at(<object>draft.keep, draft.data, <Py_ssize_t>draft.nbytes))
    else:
        for i in range(draft.buffer_count):
            parts.append(glance_at_object(<object>draft.buffers[i].obj))
            if i + 1 < draft.buffer_count: # each part begins on a 64-byte boundary
                parts.append(memoryview(bytes((64 - draft.buffers[i].len % 64) % 64)))
    if draft.described:
        parts.append(glance_at(<object>draft.keep, draft.description, draft.described))
    forks = shmq_owner_forks
    if not shmq_load_half(&port.port.queue.header.spilled): # [spilled]
        shmq_store_half(&port.port.queue.header.spilled, 1) # [spilled]: before the file: a reaper looks after a process that is killed behind the next line
    for attempt in range(SPILL_ATTEMPTS):
        key = b"%016x" % shmq_next_id(&port.port.any) # the key tells which port wrote the file, and so whether its process lives
        try:
            port.segment.write_side(key, parts)
            break
        except FileExistsError: # another user can read how these names go on, and make some of them first
            if attempt == SPILL_ATTEMPTS - 1:
                raise
        except BaseException: # an exception of a signal handler strikes when it has been written, too
            if forks == shmq_owner_forks:
                port.remove_side(PyBytes_AS_STRING(key))
            raise
    draft_clear(draft)
    draft_keep(draft, key)
    draft.data = PyBytes_AS_STRING(key)
    draft.nbytes = <uint64_t>PyBytes_GET_SIZE(key)
    draft.flags |= SHMQ_SPILLED
    draft.forks = shmq_owner_forks
    return 0


cdef void draft_withdraw(draft_t *draft, QueuePort port) noexcept:
    """The draft will not be published: leave no side segment behind."""
    if draft.flags & SHMQ_SPILLED and draft.forks == shmq_owner_forks: # otherwise it is the parent's
        port.remove_side(draft.data)


cdef int draft_refuse_forked(const draft_t *draft, QueuePort port) except -1:
    """After a wait: a child that was forked meanwhile leaves the draft, and its side segment, to its parent."""
    if draft.flags & SHMQ_SPILLED and draft.forks != shmq_owner_forks:
        raise ShmqError(f"this process was forked while a message for queue {port.name!r} waited for room: it is its parent's")
    return 0


cdef void draft_write_to(const draft_t *draft, char *target) noexcept nogil:
    """Payload, then description. Without the interpreter lock, or with it: touches no Python object."""
    cdef uint64_t offset = 0
    cdef int i
    if draft.buffers == NULL:
        memcpy(target, draft.data, draft.nbytes)
    else:
        for i in range(draft.buffer_count):
            offset = align(offset)
            memcpy(target + offset, draft.buffers[i].buf, <size_t>draft.buffers[i].len)
            offset += <uint64_t>draft.buffers[i].len
    if draft.described and not draft.flags & SHMQ_SPILLED: # else it is in the side segment
        memcpy(target + draft.nbytes, draft.description, draft.described)


cdef inline void draft_head(const draft_t *draft, shmq_slot *header) noexcept nogil:
    header.nbytes = draft.nbytes
    header.kind = draft.kind
    header.flags = draft.flags
    header.ndim = draft.ndim
    header.described = draft.described
    if draft.kind == SHMQ_ARRAY:
        header.dtype = draft.dtype
        header.itemsize = draft.itemsize
        memcpy(header.shape, draft.shape, sizeof(draft.shape))


cdef inline void draft_write(const draft_t *draft, shmq_queue_port *queue, uint32_t slot) noexcept nogil:
    """Fill the slot: header, then payload."""
    draft_head(draft, shmq_slot_at(queue, slot))
    draft_write_to(draft, <char *>shmq_payload_at(queue, slot))


cdef inline uint64_t image_bytes(const draft_t *draft) noexcept:
    return sizeof(shmq_slot) + draft.nbytes + (0 if draft.flags & SHMQ_SPILLED else draft.described)


cdef void draft_image(const draft_t *draft, char *image) noexcept:
    """The message as it would lie in its slot, header and payload, stamped with this moment."""
    cdef shmq_slot header
    memset(&header, 0, sizeof(header))
    header.published_ns = shmq_now_coarse_ns()
    draft_head(draft, &header)
    memcpy(image, &header, sizeof(header))
    draft_write_to(draft, image + sizeof(header))


cdef void draft_of_image(draft_t *draft, const shmq_slot *header, const char *payload) noexcept:
    """A draft of the message whose header, already checked, and payload are these."""
    draft_plain(draft, payload, header.nbytes, header.kind)
    draft.forks = shmq_owner_forks
    draft.flags = header.flags
    draft.ndim = header.ndim
    draft.dtype = header.dtype
    draft.itemsize = header.itemsize
    memcpy(draft.shape, header.shape, sizeof(header.shape))
    draft.described = header.described
    draft.description = payload + header.nbytes


cdef struct batch_t:
    draft_t *drafts
    Py_ssize_t next, count


cdef int batch_refuse_forked(const batch_t *batch, QueuePort port) except -1:
    cdef Py_ssize_t i
    for i in range(batch.next, batch.count):
        draft_refuse_forked(&batch.drafts[i], port)
    return 0


cdef c_bool batch_fill(void *context, shmq_queue_port *queue, uint32_t slot) noexcept nogil:
    """shmq_ring_put_many's source: the next draft of a batch_t."""
    cdef batch_t *batch = <batch_t *>context
    if batch.next >= batch.count:
        return False
    draft_write(&batch.drafts[batch.next], queue, slot)
    shmq_slot_stamp(queue, shmq_slot_at(queue, slot))
    batch.next += 1
    return True
