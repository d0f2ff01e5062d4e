# Receive: the oldest message is taken, and becomes a lease.

cdef Lease receive_one(QueuePort queue, object timeout, object lease_timeout, bint extend):
    cdef uint64_t lease_ns = lease_ns_of(queue, lease_timeout)
    cdef Lease lease = receive_for(queue, patience_of(timeout), lease_ns, True, False)
    if extend:
        extend_by_itself(queue, lease)
    return lease


cdef Lease receive_for(QueuePort queue, double seconds, uint64_t lease_ns, bint begun, bint stays):
    cdef uint32_t cell
    cdef shmq_status status
    cdef Lease lease = Lease.__new__(Lease) # before a message is taken: making it may run the collector
    cdef bint taken = False
    while not taken:
        if shmq_unlikely(queue.forks != shmq_owner_forks):
            queue.enter()
        shmq_tend(&queue.port.queue) # a consumer that always finds a message never waits
        status = take(queue, &cell, True, lease_ns)
        if shmq_unlikely(status != SHMQ_OK):
            take_patiently(queue, &cell, status, deadline_of(seconds), True, lease_ns, stays)
        taken = lend(queue, lease, cell, lease_ns, begun)
    return lease


cdef uint64_t lease_ns_of(QueuePort queue, object lease_timeout) except? 1:
    cdef double seconds
    if lease_timeout is AS_CREATED:
        return queue.port.queue.policy.lease_timeout_ns
    if lease_timeout is None:
        return 0
    refuse_bool(lease_timeout)
    seconds = number_of_seconds(lease_timeout)
    if not 0 < seconds <= LONGEST_SECONDS:
        raise ValueError(f"lease_timeout must be above 0 seconds and at most a year, or None, not {lease_timeout!r}")
    return max(<uint64_t>(seconds * 1e9), <uint64_t>1000)


cdef int extend_by_itself(QueuePort queue, Lease lease) except -1:
    if lease.lease_ns:
        queue._keep(lease, lease.lease_ns / 1e9) # not * 1e-9: a year would come out longer
    return 0


cdef list receive_some(QueuePort queue, Py_ssize_t most, object timeout, object lease_timeout, bint extend):
    cdef uint64_t lease_ns = lease_ns_of(queue, lease_timeout)
    cdef Lease lease
    if most < 1:
        raise ValueError(f"max must be at least 1, not {most}")
    cdef list result = receive_ahead(queue, most, patience_of(timeout), lease_ns, False)
    if extend:
        for lease in result:
            extend_by_itself(queue, lease)
    return result


cdef list receive_ahead(QueuePort queue, Py_ssize_t max, double seconds, uint64_t lease_ns, bint stays):
    """Leases of up to `max` messages that are not begun with: what is there, at least one."""
    cdef uint32_t cell
    cdef Lease lease
    cdef list result = [receive_for(queue, seconds, lease_ns, False, stays)]
    while <Py_ssize_t>len(result) < max:
        lease = Lease.__new__(Lease)
        if queue.forks != shmq_owner_forks or take_or_dead_letter(queue, &cell, True, lease_ns, 1) != SHMQ_OK:
            break
        if lend(queue, lease, cell, lease_ns, False):
            result.append(lease)
    return result


cdef bint lend(QueuePort queue, Lease lease, uint32_t cell, uint64_t lease_ns, bint begun) except -1:
    """The lease is that of a cell that was just leased. False: its time was over before that could be said.

    Where that cannot be, the message goes back, or is given up if its payload is gone.
    """
    cdef uint64_t word = shmq_load_acquire(&queue.port.queue.cells[cell].word) # [hand]
    cdef bint ours = True
    if shmq_unlikely(lease_ns and (shmq_cell_state(word) != SHMQ_TIMED or shmq_cell_owner(word) != queue.port.any.index)):
        return False # this process was stopped for so long
    queue.check_slot(shmq_word_slot(word))
    if not begun:
        shmq_lease_mark(&queue.port.queue, cell, word, False)
    shmq_store_relaxed(&queue.port.queue.cells[cell].leased_ns, shmq_now_coarse_ns())
    queue.users += 1 # the lease
    try:
        lease.port = queue
        lease.forks = queue.attached_forks
        lease.cell = cell
        lease.word = word
        lease.lease_ns = lease_ns
        lease.timed = lease_ns != 0
        lease.prefetched = not begun
        memcpy(&lease.header, shmq_slot_at(&queue.port.queue, shmq_word_slot(word)), sizeof(lease.header))
        if shmq_likely(not lease.header.flags & SHMQ_SPILLED):
            if shmq_unlikely(lease.header.kind >= SHMQ_KINDS or lease.header.nbytes + lease.header.described > queue.port.queue.geometry.payload_room
                             or lease.header.nbytes > queue.port.queue.geometry.payload_room):
                header_check(queue, &lease.header, queue.port.queue.geometry.payload_room)
            lease.data = <char *>shmq_payload_at(&queue.port.queue, shmq_word_slot(word))
        else:
            lend_side(queue, lease)
    except PayloadLost:
        if lease.forks != shmq_owner_forks:
            raise
        ours = shmq_lease_ack(&queue.port.queue, cell, word, False) == SHMQ_OK # nothing to deliver again
        if ours:
            shmq_cell_return(&queue.port.queue, cell, True)
            shmq_wake_if_done(&queue.port.any)
        queue.end_use()
        if not ours:
            return False # its time was over meanwhile, and the next consumer is done with it
        raise
    except BaseException as error:
        if lease.forks != shmq_owner_forks:
            raise
        try:
            if isinstance(error, (OSError, MemoryError)): # from open_side
                shmq_lease_give_back(&queue.port.queue, cell, word, SHMQ_RELEASED, 0)
            elif shmq_cell_state(word) != SHMQ_TIMED or shmq_lease_take_over(&queue.port.queue, cell, &word) == SHMQ_OK:
                fail(queue, cell, word, SHMQ_BY_POLICY, error)
            else:
                ours = False # what was read may be half of another message
        finally:
            queue.end_use()
        if not ours and isinstance(error, SegmentCorrupt):
            return False
        raise
    lease.writable = False
    lease.state = HAND_OPEN
    shmq_count(&queue.port.any.record.counters[SHMQ_RECEIVES], 1)
    return True


cdef int lend_side(QueuePort queue, Lease lease) except -1:
    """The payload of the leased message is in a side segment."""
    queue.looks[lease.cell] += INSIDE
    try:
        lease.side = queue.open_side(lease.word)
        header_of_side(&lease.header, len(lease.side))
        header_check(queue, &lease.header, <uint64_t>len(lease.side))
        PyObject_GetBuffer(lease.side, &lease.side_memory, PyBUF_SIMPLE)
        lease.data = <char *>lease.side_memory.buf
    finally:
        if lease.forks == shmq_owner_forks:
            queue.looks[lease.cell] -= INSIDE
    queue.refuse_forked(lease.forks)
    return 0
