# A queue without a bound: messages that find the ring full go to the backlog, and come back into the ring in their order.
#
# shmq/_binding/backlog.pxi has the log itself, and says why no Python code runs under its lock.

cdef inline bint is_behind(QueuePort queue) noexcept:
    """Do messages wait in the backlog?"""
    return queue.unbounded and shmq_backlog(&queue.port.queue) != 0


cdef int offer_growing(QueuePort queue, const draft_t *draft, uint64_t deadline) except -1:
    """Publish, after a moment's wait for consumers that are at work, or append to the backlog."""
    cdef uint64_t until, began = shmq_now_ns()
    cdef uint64_t puts = shmq_load_relaxed(&queue.port.any.record.counters[SHMQ_PUTS])
    cdef shmq_patience patience
    cdef shmq_status status
    memset(&patience, 0, sizeof(patience))
    queue.patience_ns = min(BACKLOG_PATIENCE_NS, queue.patience_ns + <int64_t>(puts - queue.patience_puts) * BACKLOG_PATIENCE_PER_PUT_NS)
    queue.patience_puts = puts
    until = 1 if queue.patience_ns <= 0 else min(deadline, began + <uint64_t>queue.patience_ns)
    while True:
        queue.look_again()
        draft_refuse_forked(draft, queue)
        status = offer(queue, draft)
        if status == SHMQ_OK:
            queue.patience_ns -= <int64_t>(shmq_now_ns() - began)
            return 0
        if shmq_backlog(&queue.port.queue) != 0:
            break
        if wait(queue, status, SHMQ_SPACE, until, &patience) == SHMQ_TIMED_OUT:
            queue.patience_ns -= <int64_t>(shmq_now_ns() - began)
            break
    return append(queue, draft, deadline)


cdef int append(QueuePort queue, const draft_t *draft, uint64_t deadline) except -1:
    """To the end of the backlog, or into the ring where there is none any more and there is room."""
    cdef bytes record = record_of(draft)
    cdef Log log = queue._backlog
    cdef shmq_status status = SHMQ_LOST
    while status == SHMQ_LOST:
        log.be_at_hand()
        lock_backlog(queue, deadline)
        if draft.flags & SHMQ_SPILLED and draft.forks != shmq_owner_forks:
            unlock_backlog(queue)
            draft_refuse_forked(draft, queue)
        status = offer(queue, draft)
        if status != SHMQ_OK and shmq_is_shut(&queue.port.queue):
            status = SHMQ_SHUT
        elif status != SHMQ_OK:
            status = log.append(&queue.port.queue, PyBytes_AS_STRING(record), <uint64_t>PyBytes_GET_SIZE(record))
            if status == SHMQ_OK:
                shmq_count(&queue.port.any.record.counters[SHMQ_PUTS], 1)
                shmq_wake(&queue.port.any, SHMQ_ITEMS) # the ring may have become empty meanwhile, and its consumers gone to sleep [park]
        unlock_backlog(queue)
    if status == SHMQ_SHUT:
        queue.raise_shut(SHMQ_SPACE)
    return raise_failed(queue, status, <uint64_t>PyBytes_GET_SIZE(record))


cdef int raise_failed(QueuePort queue, shmq_status status, uint64_t nbytes) except -1:
    """What was not done at the log, and why; OK: nothing."""
    if status == SHMQ_SYSTEM:
        raise queue._backlog._failure(queue._backlog.failure, nbytes)
    if status == SHMQ_CORRUPT:
        raise SegmentCorrupt(f"the backlog of queue {queue.name!r} has a message that is longer than itself, or none at all")
    return 0


cdef int publish_growing(QueuePort queue, uint32_t cell, uint32_t slot) except -1:
    """A loan's slot goes into the ring, or a copy of it to the backlog. The cell is the loan's as before."""
    cdef draft_t draft
    cdef shmq_status status = SHMQ_WOULD_BLOCK
    if not is_behind(queue):
        status = shmq_offer(&queue.port.queue, cell, True)
    if status == SHMQ_OK:
        return 0
    draft_of_image(&draft, shmq_slot_at(&queue.port.queue, slot), <const char *>shmq_payload_at(&queue.port.queue, slot))
    return append(queue, &draft, SHMQ_FOREVER)


cdef uint64_t backlog_lock(QueuePort queue) noexcept:
    return queue.port.any.nonce ^ 0x6c6f67 # one lock for each segment, beside those of names and of reapers


cdef int lock_backlog(QueuePort queue, uint64_t deadline) except -1:
    """Take the backlog's lock, and count one user more. Waits while another process has it; the kernel unlocks for the dead."""
    cdef uint64_t began = 0
    cdef unsigned int pause = 20
    cdef bint told = False
    while not shmq_owner_lock(backlog_lock(queue)):
        if began == 0:
            began = shmq_now_ns()
        if shmq_now_ns() >= max(deadline, began + CELL_PATIENCE_NS) and deadline != SHMQ_FOREVER:
            raise Full(f"queue {queue.name!r} is full, and another process is at its backlog for a second: is it stopped? Let it go on, or kill it")
        if not told and shmq_now_ns() - began > STALL_NS:
            told = True
            queue._stalled((shmq_now_ns() - began) * 1e-9, False)
        nap(queue, pause)
        pause = min(pause * 2, 1000)
    queue.users += 1
    return 0


cdef void unlock_backlog(QueuePort queue) noexcept:
    shmq_owner_unlock(backlog_lock(queue))
    queue.end_use()


cdef int let_appends_end(QueuePort queue) except -1:
    """Wait until a process that is in the middle of an append has ended it, unless it is stopped."""
    try:
        lock_backlog(queue, 1)
    except Full:
        return 0
    unlock_backlog(queue)
    return 0


cdef bint refill(QueuePort queue, uint64_t deadline) except -1:
    """Move messages from the backlog into the ring, which was found empty. True: look at the ring again.

    False: messages wait in the backlog, and the process that has its lock has moved none for a second, or until the deadline. A
    call that does not wait otherwise (1) waits for that second.
    """
    cdef uint64_t seen = shmq_backlog(&queue.port.queue), count, latest = SHMQ_FOREVER if deadline == 1 else deadline
    cdef uint64_t until = shmq_now_ns() + (REFILL_PATIENCE_AGAIN_NS if seen == queue.stuck_at else REFILL_PATIENCE_NS)
    cdef unsigned int pause = 20
    cdef shmq_status status
    cdef bint moved = False
    while True:
        if shmq_owner_lock(backlog_lock(queue)):
            queue.users += 1
            moved = move_in(queue, &status)
            unlock_backlog(queue)
            if status == SHMQ_LOST:
                queue._backlog.be_at_hand()
                continue
            raise_failed(queue, status, 0)
        # What another one has moved, or will have taken by the time that we look, is as good.
        count = shmq_backlog(&queue.port.queue)
        if moved or count == 0 or shmq_ring_has_item(&queue.port.queue):
            return True
        if count != seen:
            seen = count
            queue.stuck_at = 0
            until = shmq_now_ns() + REFILL_PATIENCE_NS
        elif shmq_now_ns() > min(until, latest):
            queue.stuck_at = seen
            return False
        nap(queue, pause)
        pause = min(pause * 2, 1000)


cdef bint move_in(QueuePort queue, shmq_status *status) noexcept:
    """Move messages from the backlog into the ring until it is full or none is left; False: not one. Under the backlog's lock.

    **If the process dies here** one message may be in both.
    """
    cdef Log log = queue._backlog
    cdef shmq_slot header
    cdef draft_t draft
    cdef const char *image
    cdef uint64_t nbytes
    cdef bint moved = False
    status[0] = log.begin(&queue.port.queue)
    if status[0] != SHMQ_OK:
        return False
    log.rewind()
    while True:
        status[0] = log.next(&nbytes, True)
        if status[0] != SHMQ_OK:
            break
        image = log.image(nbytes)
        if not read_image(&queue.port.queue, image, nbytes, &header):
            status[0] = SHMQ_CORRUPT
            break
        draft_of_image(&draft, &header, image + sizeof(header))
        draft.published_ns = max(header.published_ns, <uint64_t>1)
        if offer(queue, &draft) != SHMQ_OK:
            break
        log.moved(&queue.port.queue)
        shmq_wake_if_done(&queue.port.any) # for a moment it was in both, and its consumer may be done already
        moved = True
    if status[0] == SHMQ_WOULD_BLOCK: # no more
        status[0] = SHMQ_OK
    if status[0] == SHMQ_OK:
        log.free_moved()
    log.end()
    return moved


cdef list images_in_backlog(QueuePort queue, Py_ssize_t most):
    cdef list images = []
    cdef Log log = queue._backlog
    cdef uint64_t nbytes
    cdef shmq_status status = SHMQ_LOST
    while status == SHMQ_LOST:
        log.be_at_hand()
        lock_backlog(queue, SHMQ_FOREVER)
        try:
            status = log.begin(&queue.port.queue)
            if status == SHMQ_OK:
                log.rewind()
                while status == SHMQ_OK and len(images) < most:
                    status = log.next(&nbytes, True)
                    if status == SHMQ_OK:
                        images.append(PyBytes_FromStringAndSize(log.image(nbytes), <Py_ssize_t>nbytes))
                log.end()
        finally:
            unlock_backlog(queue)
    raise_failed(queue, status, 0)
    return images
