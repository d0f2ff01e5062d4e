# Dead letters: what becomes of a message that fails, and the images of those that were given up.

@cython.no_gc_clear # as Mapped
cdef class DeadLetterWriter(Producer):
    """A handle that gives failed messages back, or makes dead letters of them."""

    cdef inline int check_slot(self, uint32_t slot) except -1:
        """A cell's slot, read from shared memory a moment ago: never beyond the last one."""
        if shmq_unlikely(slot >= self.port.geometry.total_slots):
            raise SegmentCorrupt(f"queue {self.name!r} is corrupt: an in-flight cell of this process names slot {slot}")
        return 0

    cdef object side_key(self, uint64_t word):
        return PyBytes_FromStringAndSize(<const char *>shmq_payload_at(&self.port, shmq_word_slot(word)), SPILL_KEY_BYTES)

    cdef object open_side(self, uint64_t word):
        """Raises PayloadLost, SegmentCorrupt; OSError or MemoryError where this process lacks something: the message has not failed then."""
        return self.segment.open_side(self.side_key(word))

    # -- what fails ---------------------------------------------------------------------------------------------------

    cdef int fail(self, uint32_t cell, uint64_t word, uint64_t delay_ns, error) except -1:
        """The delivery of the LEASED cell's message has failed: it comes back, or becomes a dead letter. The cell is ours no longer."""
        # In one of the few cells that put and get count on it cannot stay, and there is no other.
        cdef bint homeless = self.port.geometry.paged and cell < self.port.geometry.reserved
        shmq_delivery_ended(&self.port, cell, word, SHMQ_REJECTED if homeless else SHMQ_NACKED, delay_ns)
        if homeless:
            shmq_count(&self.port.record.counters[SHMQ_NACKS], 1)
            self.dead_letter_or_rest(cell, "every in-flight cell was in use", error)
        elif shmq_message_exhausted(&self.port, shmq_load_relaxed(&shmq_slot_at(&self.port, shmq_word_slot(word)).deliveries)):
            shmq_count(&self.port.record.counters[SHMQ_NACKS], 1)
            self.dead_letter_exhausted(cell, error)
        else:
            shmq_lease_give_back(&self.port, cell, word, SHMQ_NACKED, delay_ns)
        return 0

    cdef int dead_letter_exhausted(self, uint32_t cell, error=None) except -1:
        """The LEASED cell's message has failed too often, or was rejected by a process that died before it was a dead letter."""
        cdef uint64_t deliveries
        cdef uint32_t slot = shmq_word_slot(shmq_cell_load(&self.port, cell)) # read once, checked, used
        self.check_slot(slot)
        deliveries = shmq_load_relaxed(&shmq_slot_at(&self.port, slot).deliveries)
        self.dead_letter_or_rest(cell, "" if shmq_deliveries_cause(deliveries) == SHMQ_REJECTED else f"max_deliveries={self.port.policy.max_deliveries}", error)
        return 0

    cdef int dead_letter_or_rest(self, uint32_t cell, str reason, error) except -1:
        """Make it a dead letter now, or let it rest and be tried again: the caller wanted another message."""
        try:
            self.dead_letter(cell, reason, error)
        except OSError as failure:
            self._could_not_dead_letter(failure)
        except OutOfMemory as failure:
            self._could_not_dead_letter(failure)
        return 0

    def _dead_letter_all(self) -> int:
        """Dead-letter what is to be dead-lettered, without taking anything else; return how many messages."""
        cdef uint32_t cell, count = 0
        cdef uint64_t before = shmq_load_relaxed(&self.port.header.events[SHMQ_DEAD_LETTERED])
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        while count < self.port.geometry.cells and shmq_orphan_claim(&self.port, SHMQ_TO_DEAD_LETTER, &cell):
            self.dead_letter_exhausted(cell)
            count += 1
            self.look_again()
        return shmq_load_relaxed(&self.port.header.events[SHMQ_DEAD_LETTERED]) - before

    cdef int dead_letter(self, uint32_t cell, str reason, error) except -1:
        """Make the LEASED cell's message a dead letter; the cell is free afterwards. Where that raises, the message rests and comes back.

        **If the process dies here** after the letter is written, the message is still in its cell, and whoever takes it writes
        the same letter again under the same name.
        """
        cdef uint64_t word = shmq_cell_load(&self.port, cell), nbytes, deliveries, now
        cdef shmq_slot header
        cdef bint done = False
        cdef uint64_t forks
        self.check_slot(shmq_word_slot(word))
        memcpy(&header, shmq_slot_at(&self.port, shmq_word_slot(word)), sizeof(header))
        deliveries = shmq_load_relaxed(&header.deliveries)
        nbytes = header.nbytes if header.flags & SHMQ_SPILLED else header.nbytes + header.described
        nbytes = min(max(nbytes, header.nbytes), self.port.geometry.payload_room) # whatever it claims
        image = PyBytes_FromStringAndSize(<const char *>&header, sizeof(header)) + PyBytes_FromStringAndSize(
            <const char *>shmq_payload_at(&self.port, shmq_word_slot(word)), <Py_ssize_t>nbytes)
        now = shmq_now_ns()
        forks = self.stay(cell)
        try:
            self._write_dead_letter(
                image, id=header.id, cause=CAUSES[shmq_deliveries_cause(deliveries)], reason=reason, error=error,
                delivery_count=shmq_deliveries_failed(deliveries), published=(<int64_t>now - <int64_t>header.published_ns) * 1e-9,
                first_failed=(<int64_t>now - <int64_t>header.published_ns) * 1e-9 - header.first_failed_ms * 1e-3)
            done = True
        finally:
            if forks != shmq_owner_forks:
                pass # it is the parent's
            elif done:
                shmq_add_relaxed(&self.port.header.events[SHMQ_DEAD_LETTERED], 1)
                shmq_cell_return(&self.port, cell, True)
                shmq_wake_if_done_after_store(&self.port)
            else:
                shmq_lease_give_back(&self.port, cell, word, SHMQ_RELEASED, DEAD_LETTER_REST_NS)
            self.end_stay(cell, forks)
        return 0

    @cython.critical_section
    def _revive(self, bytes image, timeout=None) -> None:
        """Put the image of a dead letter as a new message: counted and stamped as such. Waits and raises as put."""
        cdef shmq_slot header
        cdef draft_t draft
        cdef double seconds = patience_of(timeout)
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        image_header(self, image, &header)
        draft_of_image(&draft, &header, PyBytes_AS_STRING(image) + sizeof(header))
        self.offer_somehow(&draft, seconds)
