# Producing: put, and what becomes of messages that find a queue without a bound full.

@cython.no_gc_clear # as Mapped
cdef class Producer(QueuePort):
    """A handle that puts messages."""

    cdef public Log _backlog        # of a queue that grows

    # -- put ----------------------------------------------------------------------------------------------------------

    @cython.critical_section
    def put(self, obj, bint block=True, timeout=None) -> None:
        """Copy `obj` in and publish it; it is visible to every consumer when put returns.

        **Waits** for room, up to `timeout` seconds (None: for ever; not at all where `block` is false).
        **Raises** Full, MessageTooLarge, PickleRefused, whatever pickling raises, Closed; nothing was put then.
        **If the process dies here** the message is in the queue once, whole, or not at all.
        **Cost** one copy and one exchange; sleepers are woken one per message.
        """
        cdef draft_t draft
        cdef double seconds = patience_of(timeout)
        if not block:
            seconds = 0
        self.look_again()
        if type(obj) is bytes and <uint64_t>PyBytes_GET_SIZE(obj) <= self.port.geometry.slot_size:
            draft_plain(&draft, PyBytes_AS_STRING(obj), <uint64_t>PyBytes_GET_SIZE(obj), SHMQ_BYTES)
            if shmq_likely(self.offer(&draft) == SHMQ_OK):
                return
            self.offer_somehow(&draft, seconds)
            return
        draft_make(&draft, self, obj)
        try:
            self.look_again()
            if self.offer(&draft) != SHMQ_OK:
                self.offer_somehow(&draft, seconds)
        except:
            draft_withdraw(&draft, self)
            raise
        finally:
            draft_clear(&draft)

    def put_nowait(self, obj) -> None:
        """Put a message at once: put(obj, block=False). **Raises** Full where there is no room."""
        self.put(obj, False)

    cdef shmq_status offer(self, const draft_t *draft) noexcept:
        """One try to publish. Nothing is held afterwards, whatever happens; after a large one that failed, look again."""
        cdef uint32_t cell
        cdef shmq_status status
        cdef bint large = draft.nbytes >= RELEASE_BYTES
        if self.unbounded and shmq_unlikely(shmq_backlog(&self.port) != 0) and not draft.published_ns:
            return SHMQ_WOULD_BLOCK # behind those that wait there
        if large and not shmq_ring_has_space(&self.port):
            return SHMQ_WOULD_BLOCK # before the copy, not after it
        status = shmq_cell_take(&self.port, SHMQ_TO_WRITE, &cell)
        if shmq_unlikely(status != SHMQ_OK):
            return status
        cdef uint32_t slot = shmq_word_slot(shmq_cell_load(&self.port, cell))
        if shmq_unlikely(slot >= self.port.geometry.total_slots):
            return SHMQ_CORRUPT
        if large:
            self.users += 1
            with nogil:
                draft_write(draft, &self.port, slot)
            self.users -= 1
        else:
            draft_write(draft, &self.port, slot)
        shmq_slot_stamp(&self.port, shmq_slot_at(&self.port, slot))
        if shmq_unlikely(draft.published_ns != 0):
            shmq_slot_at(&self.port, slot).published_ns = draft.published_ns
        status = shmq_offer(&self.port, cell, draft.published_ns == 0)
        shmq_cell_return(&self.port, cell, status != SHMQ_OK)
        if large and self.closed and self.users == 0:
            self.detach_and_tell() # closed by another thread during the copy
        return status

    cdef int offer_somehow(self, const draft_t *draft, double seconds) except -1:
        """Publish what the first offer could not."""
        if self.unbounded:
            return self.offer_growing(draft, deadline_of(seconds))
        return self.offer_patiently(draft, seconds)

    cdef int offer_patiently(self, const draft_t *draft, double seconds) except -1:
        cdef uint64_t deadline = deadline_of(seconds)
        cdef shmq_patience patience
        cdef shmq_status status
        memset(&patience, 0, sizeof(patience))
        while True:
            status = self.offer(draft)
            if status == SHMQ_OK:
                return 0
            if self.wait(status, SHMQ_SPACE, deadline, &patience) == SHMQ_TIMED_OUT:
                self.raise_full(status, seconds)
            draft_refuse_forked(draft, self)

    cdef int raise_full(self, shmq_status status, double seconds) except -1:
        if status == SHMQ_NO_CELLS:
            raise Full(self._in_flight_report())
        raise Full(f"queue {self.name!r} is full: {shmq_ring_length(&self.port):,} of {self.port.geometry.slots:,} slots "
                   f"hold messages{f' after {seconds:g} s' if seconds > 0 else ''}")

    @cython.critical_section
    def put_many(self, objs, timeout=None) -> int:
        """Put the objects in their order; return how many.

        **Waits** until all are in, or up to `timeout` seconds, then returns how many were (0: tries once).
        **Raises** Full where not even the first went in; TypeError for one str, bytes or dict; before anything is put what `put` raises.
        **If the process dies here** a prefix of them is in the queue.
        """
        if isinstance(objs, (str, bytes, bytearray, memoryview, dict)):
            raise TypeError(f"put_many() puts each object of an iterable, which of a {type(objs).__name__} would be its parts: "
                            "put() it, or put_many([it])")
        cdef list items = list(objs) # ours: no code of the user's takes from it
        cdef double seconds = patience_of(timeout)
        cdef Py_ssize_t count = len(items), made = 0, i
        cdef batch_t batch
        cdef draft_t few[BATCH]
        self.look_again()
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
                if type(obj) is bytes and <uint64_t>PyBytes_GET_SIZE(obj) <= self.port.geometry.slot_size:
                    draft_plain(&batch.drafts[i], PyBytes_AS_STRING(obj), <uint64_t>PyBytes_GET_SIZE(obj), SHMQ_BYTES)
                else:
                    draft_make(&batch.drafts[i], self, obj)
                made += 1
            self.look_again()
            self.offer_batch(&batch, deadline_of(seconds))
            if batch.next == 0:
                self.raise_full(SHMQ_WOULD_BLOCK, seconds)
        except:
            batch.count = batch.next
            raise
        finally:
            for i in range(made):
                if i >= batch.next:
                    draft_withdraw(&batch.drafts[i], self)
                draft_clear(&batch.drafts[i])
            if count > BATCH:
                PyMem_Free(batch.drafts)
        return batch.next

    cdef int offer_batch(self, batch_t *batch, uint64_t deadline) except -1:
        """Publish from batch.next on. Post: batch.next is how many are published, also when it raises."""
        cdef shmq_patience patience
        cdef shmq_status status
        cdef uint32_t cell, put, i
        cdef Py_ssize_t published = 0
        cdef uint64_t forks = shmq_owner_forks
        memset(&patience, 0, sizeof(patience))
        while self.unbounded and batch.next < batch.count:
            if self.offer(&batch.drafts[batch.next]) != SHMQ_OK:
                try:
                    self.offer_growing(&batch.drafts[batch.next], deadline)
                except (Full, ShutDown): # whoever is at the backlog is stopped
                    if batch.next == 0:
                        raise
                    return 0
            batch.next += 1
            self.look_again()
        if self.unbounded:
            return 0
        while True:
            status = shmq_cell_take(&self.port, SHMQ_TO_WRITE, &cell)
            if status == SHMQ_OK:
                put = shmq_offer_many(&self.port, cell, batch_fill, batch, &status)
                shmq_cell_return(&self.port, cell, status != SHMQ_OK)
                published += put
                batch.next = published # one more was filled where the ring was full
                if put:
                    memset(&patience, 0, sizeof(patience))
            if published == batch.count or (status == SHMQ_SHUT and published) or self.wait(status, SHMQ_SPACE, deadline, &patience) == SHMQ_TIMED_OUT:
                return 0
            if shmq_unlikely(forks != shmq_owner_forks):
                batch_refuse_forked(batch, self)

    # -- the backlog of a queue without a bound: shmq/_binding/backlog.pxi has the log, and why no Python code runs under its lock ---------

    cdef inline bint is_behind(self) noexcept:
        """Do messages wait in the backlog?"""
        return self.unbounded and shmq_backlog(&self.port) != 0

    cdef int offer_growing(self, const draft_t *draft, uint64_t deadline) except -1:
        """Publish, after a moment's wait for consumers that are at work, or append to the backlog."""
        cdef uint64_t until, began = shmq_now_ns()
        cdef uint64_t puts = shmq_load_relaxed(&self.port.record.counters[SHMQ_PUTS])
        cdef shmq_patience patience
        cdef shmq_status status
        memset(&patience, 0, sizeof(patience))
        self.patience_ns = min(BACKLOG_PATIENCE_NS, self.patience_ns + <int64_t>(puts - self.patience_puts) * BACKLOG_PATIENCE_PER_PUT_NS)
        self.patience_puts = puts
        until = 1 if self.patience_ns <= 0 else min(deadline, began + <uint64_t>self.patience_ns)
        while True:
            self.look_again()
            draft_refuse_forked(draft, self)
            status = self.offer(draft)
            if status == SHMQ_OK:
                self.patience_ns -= <int64_t>(shmq_now_ns() - began)
                return 0
            if shmq_backlog(&self.port) != 0:
                break
            if self.wait(status, SHMQ_SPACE, until, &patience) == SHMQ_TIMED_OUT:
                self.patience_ns -= <int64_t>(shmq_now_ns() - began)
                break
        return self.append(draft, deadline)

    cdef int append(self, const draft_t *draft, uint64_t deadline) except -1:
        """To the end of the backlog, or into the ring where there is none any more and there is room."""
        cdef bytes record = record_of(draft)
        cdef Log log = self._backlog
        cdef shmq_status status = SHMQ_LOST
        while status == SHMQ_LOST:
            log.be_at_hand()
            self.lock_backlog(deadline)
            if draft.flags & SHMQ_SPILLED and draft.forks != shmq_owner_forks:
                self.unlock_backlog()
                draft_refuse_forked(draft, self)
            status = self.offer(draft)
            if status != SHMQ_OK and shmq_is_shut(&self.port):
                status = SHMQ_SHUT
            elif status != SHMQ_OK:
                status = log.append(&self.port, PyBytes_AS_STRING(record), <uint64_t>PyBytes_GET_SIZE(record))
                if status == SHMQ_OK:
                    shmq_count(&self.port.record.counters[SHMQ_PUTS], 1)
                    shmq_wake(&self.port, SHMQ_ITEMS) # the ring may have become empty meanwhile, and its consumers gone to sleep [park]
            self.unlock_backlog()
        if status == SHMQ_SHUT:
            self.raise_shut(SHMQ_SPACE)
        return self.raise_failed(status, <uint64_t>PyBytes_GET_SIZE(record))

    cdef int raise_failed(self, shmq_status status, uint64_t nbytes) except -1:
        """What was not done at the log, and why; OK: nothing."""
        if status == SHMQ_SYSTEM:
            raise self._backlog._failure(self._backlog.failure, nbytes)
        if status == SHMQ_CORRUPT:
            raise SegmentCorrupt(f"the backlog of queue {self.name!r} has a message that is longer than itself, or none at all")
        return 0

    cdef int publish_growing(self, uint32_t cell, uint32_t slot) except -1:
        """A loan's slot goes into the ring, or a copy of it to the backlog. The cell is the loan's as before."""
        cdef draft_t draft
        cdef shmq_status status = SHMQ_WOULD_BLOCK
        if not self.is_behind():
            status = shmq_offer(&self.port, cell, True)
        if status == SHMQ_OK:
            return 0
        draft_of_image(&draft, shmq_slot_at(&self.port, slot), <const char *>shmq_payload_at(&self.port, slot))
        return self.append(&draft, SHMQ_FOREVER)

    cdef uint64_t backlog_lock(self) noexcept:
        return self.port.nonce ^ 0x6c6f67 # one lock for each segment, beside those of names and of reapers

    cdef int lock_backlog(self, uint64_t deadline) except -1:
        """Wait for whoever is at the backlog; the kernel gives back the lock of the dead. Post: it is ours, and one user more."""
        cdef uint64_t began = 0
        cdef unsigned int pause = 20
        cdef bint told = False
        while not shmq_owner_lock(self.backlog_lock()):
            if began == 0:
                began = shmq_now_ns()
            if shmq_now_ns() >= max(deadline, began + CELL_PATIENCE_NS) and deadline != SHMQ_FOREVER:
                raise Full(f"queue {self.name!r} is full, and another process is at its backlog for a second: is it stopped?")
            if not told and shmq_now_ns() - began > STALL_NS:
                told = True
                self._stalled((shmq_now_ns() - began) * 1e-9, False)
            self.pause(pause)
            pause = min(pause * 2, 1000)
        self.users += 1
        return 0

    cdef void unlock_backlog(self) noexcept:
        shmq_owner_unlock(self.backlog_lock())
        self.end_use()

    cdef int let_appends_end(self) except -1:
        """Whoever has begun to append has appended when this returns, or is stopped."""
        try:
            self.lock_backlog(1)
        except Full:
            return 0
        self.unlock_backlog()
        return 0

    cdef int pause(self, unsigned int microseconds) except -1:
        """Sleep without the interpreter lock. Raises Closed, and what a signal handler raises."""
        self.users += 1
        with nogil:
            usleep(microseconds)
        self.end_use()
        PyErr_CheckSignals()
        if self.forks != shmq_owner_forks:
            self.enter()
        return 0

    cdef bint refill(self, uint64_t deadline) except -1:
        """Move messages from the backlog into the ring, which was found empty. True: look at the ring again.

        False: messages wait in the backlog, and whoever is at it has moved none for a second, or until the deadline. A call that does
        not wait otherwise (1) waits for that second.
        """
        cdef uint64_t seen = shmq_backlog(&self.port), count, latest = SHMQ_FOREVER if deadline == 1 else deadline
        cdef uint64_t until = shmq_now_ns() + (REFILL_PATIENCE_AGAIN_NS if seen == self.stuck_at else REFILL_PATIENCE_NS)
        cdef unsigned int pause = 20
        cdef shmq_status status
        cdef bint moved = False
        while True:
            if shmq_owner_lock(self.backlog_lock()):
                self.users += 1
                moved = self.move_in(&status)
                self.unlock_backlog()
                if status == SHMQ_LOST:
                    self._backlog.be_at_hand()
                    continue
                self.raise_failed(status, 0)
            # What another one has moved, or will have taken by the time that we look, is as good.
            count = shmq_backlog(&self.port)
            if moved or count == 0 or shmq_ring_has_item(&self.port):
                return True
            if count != seen:
                seen = count
                self.stuck_at = 0
                until = shmq_now_ns() + REFILL_PATIENCE_NS
            elif shmq_now_ns() > min(until, latest):
                self.stuck_at = seen
                return False
            self.pause(pause)
            pause = min(pause * 2, 1000)

    cdef bint move_in(self, shmq_status *status) noexcept:
        """Move messages from the backlog into the ring until it is full or none is left; False: not one. Under the backlog's lock.

        **If the process dies here** one message may be in both.
        """
        cdef Log log = self._backlog
        cdef shmq_slot header
        cdef draft_t draft
        cdef const char *image
        cdef uint64_t nbytes
        cdef bint moved = False
        status[0] = log.begin(&self.port)
        if status[0] != SHMQ_OK:
            return False
        log.rewind()
        while True:
            status[0] = log.next(&nbytes, True)
            if status[0] != SHMQ_OK:
                break
            image = log.image(nbytes)
            if not read_image(&self.port, image, nbytes, &header):
                status[0] = SHMQ_CORRUPT
                break
            draft_of_image(&draft, &header, image + sizeof(header))
            draft.published_ns = max(header.published_ns, <uint64_t>1)
            if self.offer(&draft) != SHMQ_OK:
                break
            log.moved(&self.port)
            shmq_wake_if_done(&self.port) # for a moment it was in both, and whoever has taken it may be done
            moved = True
        if status[0] == SHMQ_WOULD_BLOCK: # no more
            status[0] = SHMQ_OK
        if status[0] == SHMQ_OK:
            log.free_moved()
        log.end()
        return moved

    @cython.critical_section
    def _in_backlog(self, n) -> list:
        """Images of the first `n` messages of the backlog."""
        cdef list images = []
        cdef Py_ssize_t most = n
        cdef Log log = self._backlog
        cdef uint64_t nbytes
        cdef shmq_status status = SHMQ_LOST
        while status == SHMQ_LOST:
            log.be_at_hand()
            self.lock_backlog(SHMQ_FOREVER)
            try:
                status = log.begin(&self.port)
                if status == SHMQ_OK:
                    log.rewind()
                    while status == SHMQ_OK and len(images) < most:
                        status = log.next(&nbytes, True)
                        if status == SHMQ_OK:
                            images.append(PyBytes_FromStringAndSize(log.image(nbytes), <Py_ssize_t>nbytes))
                    log.end()
            finally:
                self.unlock_backlog()
        self.raise_failed(status, 0)
        return images
