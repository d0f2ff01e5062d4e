# Get: the oldest message is taken, decoded, and gone.

cdef object get_object(QueuePort queue, bint block, object timeout):
    cdef uint32_t cell
    cdef shmq_status status
    cdef double seconds = patience_of(timeout)
    if not block:
        seconds = 0
    queue.look_again()
    status = take(queue, &cell, False, 0)
    if shmq_unlikely(status != SHMQ_OK):
        take_patiently(queue, &cell, status, deadline_of(seconds), False, 0, False)
    return finish(queue, cell)


cdef inline shmq_status take(QueuePort queue, uint32_t *cell, bint for_long, uint64_t lease_ns) noexcept:
    """One try to lease the oldest message, what came back before what is new. EXHAUSTED: the LEASED one is to be dead-lettered.

    `for_long`: not in the port's kept cell. `lease_ns`: for so long, and the cell is TIMED; 0: for as long as we live.
    """
    if queue.port.queue.caught_up:
        shmq_linger(&queue.port.queue)
    return shmq_take(&queue.port.queue, for_long, lease_ns, cell)


cdef shmq_status take_or_dead_letter(QueuePort queue, uint32_t *cell, bint for_long, uint64_t lease_ns, uint64_t deadline) except *:
    """As take, past the messages that are to be dead-lettered, and with those of the backlog."""
    cdef shmq_status status = take(queue, cell, for_long, lease_ns)
    while status == SHMQ_EXHAUSTED or (status == SHMQ_WOULD_BLOCK and is_behind(queue) and refill(queue, deadline)):
        if status == SHMQ_EXHAUSTED:
            dead_letter_exhausted(queue, cell[0])
        queue.look_again()
        status = take(queue, cell, for_long, lease_ns)
    return status


cdef int take_patiently(QueuePort queue, uint32_t *cell, shmq_status status, uint64_t deadline, bint for_long, uint64_t lease_ns, bint stays) except -1:
    """Wait until take says OK. Pre: it has just said `status`. `stays`: after a shutdown, while others may give something back."""
    cdef shmq_patience patience
    cdef uint64_t cells_deadline = 0, until
    cdef bint timed_out
    memset(&patience, 0, sizeof(patience))
    patience.stays = stays
    if status == SHMQ_EXHAUSTED:
        dead_letter_exhausted(queue, cell[0])
        queue.look_again()
    if status == SHMQ_EXHAUSTED or is_behind(queue):
        status = take_or_dead_letter(queue, cell, for_long, lease_ns, deadline)
        if status == SHMQ_OK:
            return 0
    while True:
        until = deadline
        if status == SHMQ_NO_CELLS:
            if cells_deadline == 0:
                cells_deadline = shmq_now_ns() + CELL_PATIENCE_NS
            if queue.port.queue.due_ns == SHMQ_FOREVER: # otherwise one that rests will come, in its own cell
                until = min(deadline, cells_deadline)
            if until < cells_deadline and shmq_cells_move(&queue.port.queue, for_long): # however short the time-out: others' calls will be through
                until = cells_deadline
        timed_out = wait(queue, status, SHMQ_ITEMS, until, &patience) == SHMQ_TIMED_OUT
        queue.look_again()
        if not timed_out or deadline != 1: # a last look: it may have come with the last tick
            status = take_or_dead_letter(queue, cell, for_long, lease_ns, deadline)
            if status == SHMQ_OK:
                return 0
        if timed_out:
            if status == SHMQ_NO_CELLS and queue.port.queue.due_ns == SHMQ_FOREVER:
                raise InFlightLimit(queue._in_flight_report())
            if queue._readable is not None:
                queue._readable.found_nothing()
            if status == SHMQ_NO_CELLS:
                raise Empty(f"no message of queue {queue.name!r} can be taken now: those that rest after a failure occupy the in-flight cells "
                            f"that are left, and the first is due in {max(<int64_t>(queue.port.queue.due_ns - shmq_now_ns()), 0) * 1e-9:.3g} s")
            raise Empty(f"{shmq_backlog(&queue.port.queue):,} messages wait in the backlog of queue {queue.name!r}, and another process "
                        "is at it and moves none: is it stopped? Let it go on, or kill it" if status == SHMQ_WOULD_BLOCK and is_behind(queue) else f"queue {queue.name!r} is empty")


cdef object finish(QueuePort queue, uint32_t cell):
    """Decode the LEASED cell's message, then ack: the order in which a death loses nothing."""
    cdef uint64_t word = shmq_cell_load(&queue.port.queue, cell)
    cdef uint32_t slot = shmq_word_slot(word)
    cdef shmq_slot *there
    cdef shmq_slot header
    cdef object result
    queue.check_slot(slot)
    there = shmq_slot_at(&queue.port.queue, slot)
    if shmq_likely(there.kind == SHMQ_BYTES and there.flags == 0):
        header.nbytes = there.nbytes # read once, checked, used
        if shmq_likely(header.nbytes < RELEASE_BYTES and header.nbytes <= queue.port.queue.geometry.slot_size):
            result = PyBytes_FromStringAndSize(<const char *>shmq_payload_at(&queue.port.queue, slot), <Py_ssize_t>header.nbytes)
            shmq_count(&queue.port.any.record.counters[SHMQ_GETS], 1) # before the cell is free: join must not find it nowhere
            shmq_cell_return(&queue.port.queue, cell, True)
            return result
    return finish_any(queue, cell, word)


cdef object finish_any(QueuePort queue, uint32_t cell, uint64_t word):
    cdef bint spilled = False
    cdef uint64_t forks = queue.stay(cell)
    try:
        result = decode(queue, cell, word, &spilled)
        shmq_count(&queue.port.any.record.counters[SHMQ_GETS], 1)
        done_with(queue, cell, word, spilled)
    finally:
        queue.end_stay(cell, forks)
    return result


cdef int done_with(QueuePort queue, uint32_t cell, uint64_t word, bint spilled) except -1:
    """The LEASED cell's message is in the caller's hands: gone from the queue."""
    if spilled:
        key = queue.side_key(word)
        shmq_cell_return(&queue.port.queue, cell, True)
        queue.remove_side(PyBytes_AS_STRING(key)) # after the ack: a death between the two leaves a file, not a message without its payload
    else:
        shmq_cell_return(&queue.port.queue, cell, True)
    return 0


cdef object decode(QueuePort queue, uint32_t cell, uint64_t word, bint *spilled):
    """The LEASED cell's object. Where decoding raises, the message goes back as a failed attempt. Within `stay`."""
    cdef uint32_t slot = shmq_word_slot(word)
    cdef uint64_t forks = shmq_owner_forks
    cdef object result
    cdef shmq_slot header
    cdef Py_buffer memory
    cdef bint opening = False
    queue.check_slot(slot)
    memcpy(&header, shmq_slot_at(&queue.port.queue, slot), sizeof(header))
    spilled[0] = header.flags & SHMQ_SPILLED != 0
    if header.kind == SHMQ_ARRAY and shmq_unlikely(load_array_class() == NULL):
        import_numpy_for(queue, cell, word)
    try:
        if not spilled[0]:
            header_check(queue, &header, queue.port.queue.geometry.payload_room)
            result = build(queue, queue.coding, &header, <const char *>shmq_payload_at(&queue.port.queue, slot), queue)
        else:
            opening = True
            side = queue.open_side(word)
            opening = False
            header_of_side(&header, len(side))
            header_check(queue, &header, <uint64_t>len(side))
            PyObject_GetBuffer(side, &memory, PyBUF_SIMPLE)
            try:
                result = build(queue, queue.coding, &header, <const char *>memory.buf, side)
            finally:
                PyBuffer_Release(&memory)
        queue.refuse_forked(forks)
        return result
    except PayloadLost:
        if forks == shmq_owner_forks:
            shmq_cell_return(&queue.port.queue, cell, True) # nothing to deliver again
            shmq_wake_if_done_after_store(&queue.port.any)
        raise
    except BaseException as error:
        if forks != shmq_owner_forks:
            raise
        if opening and isinstance(error, (OSError, MemoryError)):
            shmq_lease_give_back(&queue.port.queue, cell, word, SHMQ_RELEASED, 0)
        elif queue.coding.keeps_types and isinstance(error, Exception) and not isinstance(error, MemoryError):
            shmq_delivery_ended(&queue.port.queue, cell, word, SHMQ_REJECTED, SHMQ_BY_POLICY)
            dead_letter_or_rest(queue, cell, "what was put could not be unpickled", error)
        else:
            fail(queue, cell, word, SHMQ_BY_POLICY, error)
        raise


cdef int import_numpy_for(QueuePort queue, uint32_t cell, uint64_t word) except -1:
    """Before the first array is decoded. Without NumPy the LEASED message goes back as if it had not been taken. Within `stay`."""
    cdef uint64_t forks = shmq_owner_forks
    try:
        need_numpy()
    except:
        if forks == shmq_owner_forks:
            shmq_lease_give_back(&queue.port.queue, cell, word, SHMQ_RELEASED, 0)
        raise
    return 0


cdef list get_objects(QueuePort queue, Py_ssize_t most, object timeout):
    cdef uint32_t few[BATCH]
    cdef uint32_t cell
    cdef uint32_t *cells = few
    cdef shmq_status status
    cdef uint32_t wanted, taken
    cdef double seconds = patience_of(timeout)
    queue.look_again()
    if queue.port.queue.caught_up:
        shmq_linger(&queue.port.queue)
    wanted = batch_size(queue, most)
    if wanted == 1:
        status = take(queue, &cell, False, 0)
        if status != SHMQ_OK:
            take_patiently(queue, &cell, status, deadline_of(seconds), False, 0, False)
        return [finish(queue, cell)]
    if wanted > BATCH:
        cells = <uint32_t *>PyMem_Malloc(wanted * sizeof(uint32_t))
        if cells == NULL:
            raise MemoryError
    cdef list result = [] # before a message is taken: making it may run the collector
    try:
        taken = shmq_take_many(&queue.port.queue, cells, wanted, &status)
        if taken == 0:
            cell = cells[0]
            take_patiently(queue, &cell, status, deadline_of(seconds), False, 0, False)
            return [finish(queue, cell)]
        return finish_batch(queue, cells, taken, result)
    finally:
        if cells != few:
            PyMem_Free(cells)


cdef uint32_t batch_size(QueuePort queue, Py_ssize_t max) except 0:
    """How many of `max` could be there, at least 1."""
    cdef uint32_t length = shmq_ring_estimate(&queue.port.queue)
    if max < 1:
        raise ValueError(f"max must be at least 1, not {max}")
    length = min(length, shmq_batch_limit(&queue.port.queue))
    if max < length:
        length = <uint32_t>max
    return length if length else 1


cdef list finish_batch(QueuePort queue, uint32_t *cells, uint32_t taken, list result):
    """Decode all, then ack all; where one fails, it counts as a failed attempt, and the others go back unbegun."""
    cdef uint64_t forks = shmq_owner_forks
    cdef bint staying = False # while nothing but bytes came, no Python code has run
    cdef uint32_t i
    try:
        return finish_all(queue, cells, taken, result, forks, &staying)
    finally:
        for i in range(taken if staying else 0):
            queue.end_stay(cells[i], forks)


cdef list finish_all(QueuePort queue, uint32_t *cells, uint32_t taken, list result, uint64_t forks, bint *staying):
    cdef uint32_t i, slot, decoded = 0, spills = 0
    cdef shmq_slot *there
    cdef uint64_t nbytes, word
    cdef bint spilled
    try:
        while decoded < taken:
            word = shmq_cell_load(&queue.port.queue, cells[decoded])
            slot = shmq_word_slot(word)
            queue.check_slot(slot)
            there = shmq_slot_at(&queue.port.queue, slot)
            nbytes = there.nbytes
            if shmq_likely(there.kind == SHMQ_BYTES and there.flags == 0 and nbytes < RELEASE_BYTES
                           and nbytes <= queue.port.queue.geometry.slot_size):
                result.append(PyBytes_FromStringAndSize(<const char *>shmq_payload_at(&queue.port.queue, slot), <Py_ssize_t>nbytes))
            else:
                for i in range(0 if staying[0] else taken):
                    queue.stay(cells[i])
                staying[0] = True
                result.append(decode(queue, cells[decoded], word, &spilled))
                spills += spilled
            decoded += 1
    except:
        for i in range(taken):
            if i != decoded and forks == shmq_owner_forks:
                shmq_lease_give_back(&queue.port.queue, cells[i], shmq_cell_load(&queue.port.queue, cells[i]), SHMQ_RELEASED, 0)
        raise
    shmq_count(&queue.port.any.record.counters[SHMQ_GETS], taken)
    for i in range(taken):
        word = shmq_cell_load(&queue.port.queue, cells[i])
        queue.check_slot(shmq_word_slot(word)) # it may be another than the one above
        done_with(queue, cells[i], word, spills != 0 and shmq_slot_at(&queue.port.queue, shmq_word_slot(word)).flags & SHMQ_SPILLED != 0)
    return result
