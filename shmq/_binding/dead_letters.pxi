# Dead letters: what becomes of a message that fails, and the images of those that were given up.

cdef int fail(QueuePort queue, uint32_t cell, uint64_t word, uint64_t delay_ns, error) except -1:
    """The delivery of the LEASED cell's message has failed: it comes back, or becomes a dead letter. The cell is ours no longer."""
    # In one of the few cells that put and get count on it cannot stay, and there is no other.
    cdef bint homeless = queue.port.queue.geometry.paged and cell < queue.port.queue.geometry.reserved
    shmq_delivery_ended(&queue.port.queue, cell, word, SHMQ_REJECTED if homeless else SHMQ_NACKED, delay_ns)
    if homeless:
        shmq_count(&queue.port.any.record.counters[SHMQ_NACKS], 1)
        dead_letter_or_rest(queue, cell, "every in-flight cell was in use", error)
    elif shmq_message_exhausted(&queue.port.queue, shmq_load_relaxed(&shmq_slot_at(&queue.port.queue, shmq_word_slot(word)).deliveries)):
        shmq_count(&queue.port.any.record.counters[SHMQ_NACKS], 1)
        dead_letter_exhausted(queue, cell, error)
    else:
        shmq_lease_give_back(&queue.port.queue, cell, word, SHMQ_NACKED, delay_ns)
    return 0


cdef int dead_letter_exhausted(QueuePort queue, uint32_t cell, error=None) except -1:
    """The LEASED cell's message has failed too often, or was rejected by a process that died before it was a dead letter."""
    cdef uint64_t deliveries
    cdef uint32_t slot = shmq_word_slot(shmq_cell_load(&queue.port.queue, cell)) # read once, checked, used
    queue.check_slot(slot)
    deliveries = shmq_load_relaxed(&shmq_slot_at(&queue.port.queue, slot).deliveries)
    dead_letter_or_rest(queue, cell, "" if shmq_deliveries_cause(deliveries) == SHMQ_REJECTED else f"max_deliveries={queue.port.queue.policy.max_deliveries}", error)
    return 0


cdef int dead_letter_or_rest(QueuePort queue, uint32_t cell, str reason, error) except -1:
    """Make it a dead letter now, or let it rest and be tried again: the caller wanted another message."""
    try:
        dead_letter(queue, cell, reason, error)
    except OSError as failure:
        queue._could_not_dead_letter(failure)
    except OutOfMemory as failure:
        queue._could_not_dead_letter(failure)
    return 0


cdef Py_ssize_t dead_letter_all(QueuePort queue) except -1:
    cdef uint32_t cell, count = 0
    cdef uint64_t before = shmq_load_relaxed(&queue.port.queue.header.events[SHMQ_DEAD_LETTERED])
    if shmq_unlikely(queue.forks != shmq_owner_forks):
        queue.enter()
    while count < queue.port.queue.geometry.cells and shmq_orphan_claim(&queue.port.queue, SHMQ_TO_DEAD_LETTER, &cell):
        dead_letter_exhausted(queue, cell)
        count += 1
        queue.look_again()
    return <Py_ssize_t>(shmq_load_relaxed(&queue.port.queue.header.events[SHMQ_DEAD_LETTERED]) - before)


cdef int dead_letter(QueuePort queue, uint32_t cell, str reason, error) except -1:
    """Make the LEASED cell's message a dead letter; the cell is free afterwards. Where that raises, the message rests and comes back.

    **If the process dies here** after the letter is written, the message is still in its cell. The next call that
    takes it writes the same letter again under the same name.
    """
    cdef uint64_t word = shmq_cell_load(&queue.port.queue, cell), nbytes, deliveries, now
    cdef shmq_slot header
    cdef bint done = False
    cdef uint64_t forks
    queue.check_slot(shmq_word_slot(word))
    memcpy(&header, shmq_slot_at(&queue.port.queue, shmq_word_slot(word)), sizeof(header))
    deliveries = shmq_load_relaxed(&header.deliveries)
    nbytes = header.nbytes if header.flags & SHMQ_SPILLED else header.nbytes + header.described
    nbytes = min(max(nbytes, header.nbytes), queue.port.queue.geometry.payload_room) # whatever it claims
    image = PyBytes_FromStringAndSize(<const char *>&header, sizeof(header)) + PyBytes_FromStringAndSize(
        <const char *>shmq_payload_at(&queue.port.queue, shmq_word_slot(word)), <Py_ssize_t>nbytes)
    now = shmq_now_ns()
    forks = queue.stay(cell)
    try:
        queue._write_dead_letter(
            image, id=header.id, cause=CAUSES[shmq_deliveries_cause(deliveries)], reason=reason, error=error,
            delivery_count=shmq_deliveries_failed(deliveries), published=(<int64_t>now - <int64_t>header.published_ns) * 1e-9,
            first_failed=(<int64_t>now - <int64_t>header.published_ns) * 1e-9 - header.first_failed_ms * 1e-3)
        done = True
    finally:
        if forks != shmq_owner_forks:
            pass # it is the parent's
        elif done:
            shmq_add_relaxed(&queue.port.queue.header.events[SHMQ_DEAD_LETTERED], 1)
            shmq_cell_return(&queue.port.queue, cell, True)
            shmq_wake_if_done_after_store(&queue.port.any)
        else:
            shmq_lease_give_back(&queue.port.queue, cell, word, SHMQ_RELEASED, DEAD_LETTER_REST_NS)
        queue.end_stay(cell, forks)
    return 0


cdef int revive(QueuePort queue, bytes image, object timeout) except -1:
    cdef shmq_slot header
    cdef draft_t draft
    cdef double seconds = patience_of(timeout)
    if shmq_unlikely(queue.forks != shmq_owner_forks):
        queue.enter()
    image_header(queue, image, &header)
    draft_of_image(&draft, &header, PyBytes_AS_STRING(image) + sizeof(header))
    offer_somehow(queue, &draft, seconds)
