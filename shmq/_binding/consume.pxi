# Consuming: get, alone and in batches.

@cython.no_gc_clear # as Mapped
cdef class Consumer(DeadLetterWriter):
    """A handle that takes messages for good."""

    # -- get ----------------------------------------------------------------------------------------------------------

    @cython.critical_section
    def get(self, bint block=True, timeout=None):
        """Take the oldest message; it is gone once get has returned.

        **Waits** for one, up to `timeout` seconds (None: for ever; not at all where `block` is false).
        **Raises** Empty, Closed; what unpickling raises, after giving the message back as a failed attempt.
        **If the process dies here** the message is redelivered to somebody else.
        """
        cdef uint32_t cell
        cdef shmq_status status
        cdef double seconds = patience_of(timeout)
        if not block:
            seconds = 0
        self.look_again()
        status = self.take(&cell, False, 0)
        if shmq_unlikely(status != SHMQ_OK):
            self.take_patiently(&cell, status, deadline_of(seconds), False, 0, False)
        return self.finish(cell)

    def get_nowait(self):
        """Take the oldest message at once: get(block=False). **Raises** Empty where there is none."""
        return self.get(False)

    cdef inline shmq_status take(self, uint32_t *cell, bint for_long, uint64_t lease_ns) noexcept:
        """One try to lease the oldest message, what came back before what is new. EXHAUSTED: the LEASED one is to be dead-lettered.

        `for_long`: not in the port's kept cell. `lease_ns`: for so long, and the cell is TIMED; 0: for as long as we live.
        """
        if self.port.caught_up:
            shmq_linger(&self.port)
        return shmq_take(&self.port, for_long, lease_ns, cell)

    cdef shmq_status take_or_dead_letter(self, uint32_t *cell, bint for_long, uint64_t lease_ns, uint64_t deadline) except *:
        """As take, past the messages that are to be dead-lettered, and with those of the backlog."""
        cdef shmq_status status = self.take(cell, for_long, lease_ns)
        while status == SHMQ_EXHAUSTED or (status == SHMQ_WOULD_BLOCK and self.is_behind() and self.refill(deadline)):
            if status == SHMQ_EXHAUSTED:
                self.dead_letter_exhausted(cell[0])
            self.look_again()
            status = self.take(cell, for_long, lease_ns)
        return status

    cdef int take_patiently(self, uint32_t *cell, shmq_status status, uint64_t deadline, bint for_long, uint64_t lease_ns, bint stays) except -1:
        """Wait until take says OK. Pre: it has just said `status`. `stays`: after a shutdown, while others may give something back."""
        cdef shmq_patience patience
        cdef uint64_t cells_deadline = 0, until
        cdef bint timed_out
        memset(&patience, 0, sizeof(patience))
        patience.stays = stays
        if status == SHMQ_EXHAUSTED:
            self.dead_letter_exhausted(cell[0])
            self.look_again()
        if status == SHMQ_EXHAUSTED or self.is_behind():
            status = self.take_or_dead_letter(cell, for_long, lease_ns, deadline)
            if status == SHMQ_OK:
                return 0
        while True:
            until = deadline
            if status == SHMQ_NO_CELLS:
                if cells_deadline == 0:
                    cells_deadline = shmq_now_ns() + CELL_PATIENCE_NS
                if self.port.due_ns == SHMQ_FOREVER: # otherwise one that rests will come, in its own cell
                    until = min(deadline, cells_deadline)
                if until < cells_deadline and shmq_cells_move(&self.port, for_long): # however short the time-out: others' calls will be through
                    until = cells_deadline
            timed_out = self.wait(status, SHMQ_ITEMS, until, &patience) == SHMQ_TIMED_OUT
            self.look_again()
            if not timed_out or deadline != 1: # a last look: it may have come with the last tick
                status = self.take_or_dead_letter(cell, for_long, lease_ns, deadline)
                if status == SHMQ_OK:
                    return 0
            if timed_out:
                if status == SHMQ_NO_CELLS and self.port.due_ns == SHMQ_FOREVER:
                    raise InFlightLimit(self._in_flight_report())
                if self._readable is not None:
                    self._readable.found_nothing()
                if status == SHMQ_NO_CELLS:
                    raise Empty(f"no message of queue {self.name!r} can be taken now: those that rest after a failure occupy the in-flight cells "
                                f"that are left, and the first is due in {max(<int64_t>(self.port.due_ns - shmq_now_ns()), 0) * 1e-9:.3g} s")
                raise Empty(f"{shmq_backlog(&self.port):,} messages wait in the backlog of queue {self.name!r}, and another process "
                            "is at it and moves none: is it stopped?" if status == SHMQ_WOULD_BLOCK and self.is_behind() else f"queue {self.name!r} is empty")

    cdef object finish(self, uint32_t cell):
        """Decode the LEASED cell's message, then ack: the order in which a death loses nothing."""
        cdef uint64_t word = shmq_cell_load(&self.port, cell)
        cdef uint32_t slot = shmq_word_slot(word)
        cdef shmq_slot *there
        cdef shmq_slot header
        cdef object result
        self.check_slot(slot)
        there = shmq_slot_at(&self.port, slot)
        if shmq_likely(there.kind == SHMQ_BYTES and there.flags == 0):
            header.nbytes = there.nbytes # read once, checked, used
            if shmq_likely(header.nbytes < RELEASE_BYTES and header.nbytes <= self.port.geometry.slot_size):
                result = PyBytes_FromStringAndSize(<const char *>shmq_payload_at(&self.port, slot), <Py_ssize_t>header.nbytes)
                shmq_count(&self.port.record.counters[SHMQ_GETS], 1) # before the cell is free: join must not find it nowhere
                shmq_cell_return(&self.port, cell, True)
                return result
        return self.finish_any(cell, word)

    cdef object finish_any(self, uint32_t cell, uint64_t word):
        cdef bint spilled = False
        cdef uint64_t forks = self.stay(cell)
        try:
            result = self.decode(cell, word, &spilled)
            shmq_count(&self.port.record.counters[SHMQ_GETS], 1)
            self.done_with(cell, word, spilled)
        finally:
            self.end_stay(cell, forks)
        return result

    cdef int done_with(self, uint32_t cell, uint64_t word, bint spilled) except -1:
        """The LEASED cell's message is in the caller's hands: gone from the queue."""
        if spilled:
            key = self.side_key(word)
            shmq_cell_return(&self.port, cell, True)
            self.remove_side(PyBytes_AS_STRING(key)) # after the ack: a death between the two leaves a file, not a message without its payload
        else:
            shmq_cell_return(&self.port, cell, True)
        return 0

    cdef object decode(self, uint32_t cell, uint64_t word, bint *spilled):
        """The LEASED cell's object. Where decoding raises, the message goes back as a failed attempt. Within `stay`."""
        cdef uint32_t slot = shmq_word_slot(word)
        cdef uint64_t forks = shmq_owner_forks
        cdef object result
        cdef shmq_slot header
        cdef Py_buffer memory
        cdef bint opening = False
        self.check_slot(slot)
        memcpy(&header, shmq_slot_at(&self.port, slot), sizeof(header))
        spilled[0] = header.flags & SHMQ_SPILLED != 0
        if header.kind == SHMQ_ARRAY:
            self.need_numpy_for(cell, word)
        try:
            if not spilled[0]:
                header_check(self, &header, self.port.geometry.payload_room)
                result = build(self, self.coding, &header, <const char *>shmq_payload_at(&self.port, slot), self)
            else:
                opening = True
                side = self.open_side(word)
                opening = False
                header_of_side(&header, len(side))
                header_check(self, &header, <uint64_t>len(side))
                PyObject_GetBuffer(side, &memory, PyBUF_SIMPLE)
                try:
                    result = build(self, self.coding, &header, <const char *>memory.buf, side)
                finally:
                    PyBuffer_Release(&memory)
            self.refuse_forked(forks)
            return result
        except PayloadLost:
            if forks == shmq_owner_forks:
                shmq_cell_return(&self.port, cell, True) # nothing to deliver again
                shmq_wake_if_done_after_store(&self.port)
            raise
        except BaseException as error:
            if forks != shmq_owner_forks:
                raise
            if opening and isinstance(error, (OSError, MemoryError)):
                shmq_lease_give_back(&self.port, cell, word, SHMQ_RELEASED, 0)
            elif self.coding.keeps_types and isinstance(error, Exception) and not isinstance(error, MemoryError):
                shmq_delivery_ended(&self.port, cell, word, SHMQ_REJECTED, SHMQ_BY_POLICY)
                self.dead_letter_or_rest(cell, "what was put could not be unpickled", error)
            else:
                self.fail(cell, word, SHMQ_BY_POLICY, error)
            raise

    cdef inline int need_numpy_for(self, uint32_t cell, uint64_t word) except -1:
        """Before an array is decoded. Without NumPy the LEASED message goes back as if it had not been taken. Within `stay`."""
        cdef uint64_t forks = shmq_owner_forks
        try:
            need_numpy()
        except:
            if forks == shmq_owner_forks:
                shmq_lease_give_back(&self.port, cell, word, SHMQ_RELEASED, 0)
            raise
        return 0

    # -- more than one ------------------------------------------------------------------------------------------------

    @cython.critical_section
    def get_many(self, Py_ssize_t max, timeout=None) -> list:
        """Take up to `max` messages in their order: as many as are there, at least one.

        **Waits**, **raises** and survives death as `get` does. The messages are gone only when the whole batch has been
        decoded. So no more are returned than in-flight cells are free, and at most half of `in_flight`: others need some, too.
        A message that came back is returned alone.
        """
        cdef uint32_t few[BATCH]
        cdef uint32_t cell
        cdef uint32_t *cells = few
        cdef shmq_status status
        cdef uint32_t wanted, taken
        cdef double seconds = patience_of(timeout)
        self.look_again()
        if self.port.caught_up:
            shmq_linger(&self.port)
        wanted = self.batch_size(max)
        if wanted == 1:
            status = self.take(&cell, False, 0)
            if status != SHMQ_OK:
                self.take_patiently(&cell, status, deadline_of(seconds), False, 0, False)
            return [self.finish(cell)]
        if wanted > BATCH:
            cells = <uint32_t *>PyMem_Malloc(wanted * sizeof(uint32_t))
            if cells == NULL:
                raise MemoryError
        cdef list result = [] # before a message is taken: making it may run the collector
        try:
            taken = shmq_take_many(&self.port, cells, wanted, &status)
            if taken == 0:
                cell = cells[0]
                self.take_patiently(&cell, status, deadline_of(seconds), False, 0, False)
                return [self.finish(cell)]
            return self.finish_batch(cells, taken, result)
        finally:
            if cells != few:
                PyMem_Free(cells)

    cdef uint32_t batch_size(self, Py_ssize_t max) except 0:
        """How many of `max` could be there, at least 1."""
        cdef uint32_t length = shmq_ring_estimate(&self.port)
        if max < 1:
            raise ValueError(f"max must be at least 1, not {max}")
        length = min(length, shmq_batch_limit(&self.port))
        if max < length:
            length = <uint32_t>max
        return length if length else 1

    cdef list finish_batch(self, uint32_t *cells, uint32_t taken, list result):
        """Decode all, then ack all; where one fails, it counts as a failed attempt, and the others go back unbegun."""
        cdef uint64_t forks = shmq_owner_forks
        cdef bint staying = False # while nothing but bytes came, no Python code has run
        cdef uint32_t i
        try:
            return self.finish_all(cells, taken, result, forks, &staying)
        finally:
            for i in range(taken if staying else 0):
                self.end_stay(cells[i], forks)

    cdef list finish_all(self, uint32_t *cells, uint32_t taken, list result, uint64_t forks, bint *staying):
        cdef uint32_t i, slot, decoded = 0, spills = 0
        cdef shmq_slot *there
        cdef uint64_t nbytes, word
        cdef bint spilled
        try:
            while decoded < taken:
                word = shmq_cell_load(&self.port, cells[decoded])
                slot = shmq_word_slot(word)
                self.check_slot(slot)
                there = shmq_slot_at(&self.port, slot)
                nbytes = there.nbytes
                if shmq_likely(there.kind == SHMQ_BYTES and there.flags == 0 and nbytes < RELEASE_BYTES
                               and nbytes <= self.port.geometry.slot_size):
                    result.append(PyBytes_FromStringAndSize(<const char *>shmq_payload_at(&self.port, slot), <Py_ssize_t>nbytes))
                else:
                    for i in range(0 if staying[0] else taken):
                        self.stay(cells[i])
                    staying[0] = True
                    result.append(self.decode(cells[decoded], word, &spilled))
                    spills += spilled
                decoded += 1
        except:
            for i in range(taken):
                if i != decoded and forks == shmq_owner_forks:
                    shmq_lease_give_back(&self.port, cells[i], shmq_cell_load(&self.port, cells[i]), SHMQ_RELEASED, 0)
            raise
        shmq_count(&self.port.record.counters[SHMQ_GETS], taken)
        for i in range(taken):
            word = shmq_cell_load(&self.port, cells[i])
            self.check_slot(shmq_word_slot(word)) # it may be another than the one above
            self.done_with(cells[i], word, spills != 0 and shmq_slot_at(&self.port, shmq_word_slot(word)).flags & SHMQ_SPILLED != 0)
        return result
