# The end of the work: of what waits, of what was taken, of the queue itself.

cdef Py_ssize_t purge_messages(QueuePort queue) except -1:
    cdef uint32_t cell
    cdef uint64_t word
    cdef shmq_status status
    cdef Py_ssize_t count = 0
    if shmq_unlikely(queue.forks != shmq_owner_forks):
        queue.enter()
    while True:
        queue.look_again()
        status = take(queue, &cell, False, 0)
        if status == SHMQ_WOULD_BLOCK and is_behind(queue) and refill(queue, 1):
            continue
        if status != SHMQ_OK and status != SHMQ_EXHAUSTED and (status == SHMQ_CORRUPT or not shmq_orphan_claim(&queue.port.queue, SHMQ_TO_DISCARD, &cell)):
            break
        word = shmq_cell_load(&queue.port.queue, cell)
        queue.check_slot(shmq_word_slot(word))
        done_with(queue, cell, word, shmq_slot_at(&queue.port.queue, shmq_word_slot(word)).flags & SHMQ_SPILLED != 0)
        shmq_count(&queue.port.any.record.counters[SHMQ_RECEIVES], 1)
        shmq_count(&queue.port.any.record.counters[SHMQ_ACKS], 1)
        count += 1
    if status == SHMQ_CORRUPT:
        raise SegmentCorrupt(f"queue {queue.name!r} is corrupt: a cell of its ring names a slot or a lap that cannot be. Unlink it, and create it again")
    shmq_wake_if_done_after_store(&queue.port.any)
    return count


cdef int note_done(QueuePort queue) except -1:
    cdef uint64_t done
    cdef int looks = 0
    if shmq_unlikely(queue.forks != shmq_owner_forks):
        queue.enter()
    done = shmq_load_relaxed(&queue.port.queue.header.done)
    while True:
        if not shmq_has_taken(&queue.port.queue, done + 1):
            looks += 1
            if looks > 3: # the counters of a handle that is being closed are on their way, seen in neither place
                raise ValueError(f"task_done() of queue {queue.name!r} was called more often than get() has taken a message")
            usleep(100)
            done = shmq_load_relaxed(&queue.port.queue.header.done)
        elif shmq_swap_seq(&queue.port.queue.header.done, &done, done + 1): # [park]
            break
    shmq_wake_if_done(&queue.port.any)


cdef int shut_down(QueuePort queue, bint immediate) except -1:
    if shmq_unlikely(queue.forks != shmq_owner_forks):
        queue.enter()
    shmq_store_half(&queue.port.queue.header.shut, SHMQ_SHUT_FOR_PUTS) # [park]
    shmq_wake_all(&queue.port.any, SHMQ_SPACE)
    if queue.unbounded:
        let_appends_end(queue)
    if immediate:
        purge_messages(queue)
    shmq_wake_all(&queue.port.any, SHMQ_ITEMS)
