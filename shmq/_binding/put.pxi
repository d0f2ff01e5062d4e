# Put: a message into the ring, now, after a wait, or in a batch.

cdef int put_object(QueuePort queue, object obj, bint block, object timeout) except -1:
    cdef draft_t draft
    cdef double seconds = patience_of(timeout)
    if not block:
        seconds = 0
    queue.look_again()
    if type(obj) is bytes and <uint64_t>PyBytes_GET_SIZE(obj) <= queue.port.queue.geometry.slot_size:
        draft_plain(&draft, PyBytes_AS_STRING(obj), <uint64_t>PyBytes_GET_SIZE(obj), SHMQ_BYTES)
        if shmq_likely(offer(queue, &draft) == SHMQ_OK):
            return 0
        return offer_somehow(queue, &draft, seconds)
    draft_make(&draft, queue, obj)
    try:
        queue.look_again()
        if offer(queue, &draft) != SHMQ_OK:
            offer_somehow(queue, &draft, seconds)
    except:
        draft_withdraw(&draft, queue)
        raise
    finally:
        draft_clear(&draft)
    return 0


cdef shmq_status offer(QueuePort queue, const draft_t *draft) noexcept:
    """One try to publish. Nothing is held afterwards, whatever happens; after a large one that failed, look again."""
    cdef uint32_t cell
    cdef shmq_status status
    cdef bint large = draft.nbytes >= RELEASE_BYTES
    if queue.unbounded and shmq_unlikely(shmq_backlog(&queue.port.queue) != 0) and not draft.published_ns:
        return SHMQ_WOULD_BLOCK # behind those that wait there
    if large and not shmq_ring_has_space(&queue.port.queue):
        return SHMQ_WOULD_BLOCK # before the copy, not after it
    status = shmq_cell_take(&queue.port.queue, SHMQ_TO_WRITE, &cell)
    if shmq_unlikely(status != SHMQ_OK):
        return status
    cdef uint32_t slot = shmq_word_slot(shmq_cell_load(&queue.port.queue, cell))
    if shmq_unlikely(slot >= queue.port.queue.geometry.total_slots):
        return SHMQ_CORRUPT
    if large:
        queue.users += 1
        with nogil:
            draft_write(draft, &queue.port.queue, slot)
        queue.users -= 1
    else:
        draft_write(draft, &queue.port.queue, slot)
    shmq_slot_stamp(&queue.port.queue, shmq_slot_at(&queue.port.queue, slot))
    if shmq_unlikely(draft.published_ns != 0):
        shmq_slot_at(&queue.port.queue, slot).published_ns = draft.published_ns
    status = shmq_offer(&queue.port.queue, cell, draft.published_ns == 0)
    shmq_cell_return(&queue.port.queue, cell, status != SHMQ_OK)
    if large and queue.closed and queue.users == 0:
        queue.detach_and_tell() # closed by another thread during the copy
    return status


cdef int offer_somehow(QueuePort queue, const draft_t *draft, double seconds) except -1:
    """Publish what the first offer could not."""
    if queue.unbounded:
        return offer_growing(queue, draft, deadline_of(seconds))
    return offer_patiently(queue, draft, seconds)


cdef int offer_patiently(QueuePort queue, const draft_t *draft, double seconds) except -1:
    cdef uint64_t deadline = deadline_of(seconds)
    cdef shmq_patience patience
    cdef shmq_status status
    memset(&patience, 0, sizeof(patience))
    while True:
        status = offer(queue, draft)
        if status == SHMQ_OK:
            return 0
        if wait(queue, status, SHMQ_SPACE, deadline, &patience) == SHMQ_TIMED_OUT:
            raise_full(queue, status, seconds)
        draft_refuse_forked(draft, queue)


cdef int raise_full(QueuePort queue, shmq_status status, double seconds) except -1:
    if status == SHMQ_NO_CELLS:
        raise Full(queue._in_flight_report())
    raise Full(f"queue {queue.name!r} is full: {shmq_ring_length(&queue.port.queue):,} of {queue.port.queue.geometry.slots:,} slots "
               f"hold messages{f' after {seconds:g} s' if seconds > 0 else ''}")


cdef Py_ssize_t put_objects(QueuePort queue, object objs, object timeout) except -1:
    if isinstance(objs, (str, bytes, bytearray, memoryview, dict)):
        raise TypeError(f"put_many() puts each object of an iterable, which of a {type(objs).__name__} would be its parts: "
                        "put() it, or put_many([it])")
    cdef list items = list(objs) # ours: no code of the user's takes from it
    cdef double seconds = patience_of(timeout)
    cdef Py_ssize_t count = len(items), made = 0, i
    cdef batch_t batch
    cdef draft_t few[BATCH]
    queue.look_again()
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
            if type(obj) is bytes and <uint64_t>PyBytes_GET_SIZE(obj) <= queue.port.queue.geometry.slot_size:
                draft_plain(&batch.drafts[i], PyBytes_AS_STRING(obj), <uint64_t>PyBytes_GET_SIZE(obj), SHMQ_BYTES)
            else:
                draft_make(&batch.drafts[i], queue, obj)
            made += 1
        queue.look_again()
        offer_batch(queue, &batch, deadline_of(seconds))
        if batch.next == 0:
            raise_full(queue, SHMQ_WOULD_BLOCK, seconds)
    except:
        batch.count = batch.next
        raise
    finally:
        for i in range(made):
            if i >= batch.next:
                draft_withdraw(&batch.drafts[i], queue)
            draft_clear(&batch.drafts[i])
        if count > BATCH:
            PyMem_Free(batch.drafts)
    return batch.next


cdef int offer_batch(QueuePort queue, batch_t *batch, uint64_t deadline) except -1:
    """Publish from batch.next on. Post: batch.next is how many are published, also when it raises."""
    cdef shmq_patience patience
    cdef shmq_status status
    cdef uint32_t cell, put, i
    cdef Py_ssize_t published = 0
    cdef uint64_t forks = shmq_owner_forks
    memset(&patience, 0, sizeof(patience))
    while queue.unbounded and batch.next < batch.count:
        if offer(queue, &batch.drafts[batch.next]) != SHMQ_OK:
            try:
                offer_growing(queue, &batch.drafts[batch.next], deadline)
            except (Full, ShutDown): # the process that has the backlog's lock is stopped
                if batch.next == 0:
                    raise
                return 0
        batch.next += 1
        queue.look_again()
    if queue.unbounded:
        return 0
    while True:
        status = shmq_cell_take(&queue.port.queue, SHMQ_TO_WRITE, &cell)
        if status == SHMQ_OK:
            put = shmq_offer_many(&queue.port.queue, cell, batch_fill, batch, &status)
            shmq_cell_return(&queue.port.queue, cell, status != SHMQ_OK)
            published += put
            batch.next = published # one more was filled where the ring was full
            if put:
                memset(&patience, 0, sizeof(patience))
        if published == batch.count or (status == SHMQ_SHUT and published) or wait(queue, status, SHMQ_SPACE, deadline, &patience) == SHMQ_TIMED_OUT:
            return 0
        if shmq_unlikely(forks != shmq_owner_forks):
            batch_refuse_forked(batch, queue)
