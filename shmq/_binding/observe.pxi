# An observer: a segment that is mapped and looked at. Looking takes no port and changes nothing in the segment.

cdef tuple CELL_STATES = ("spare", "warm", "idle", "loaned", "leased", "held", "orphan", "leased") # the last one: leased for a time


@cython.no_gc_clear # as Mapped
cdef class Observer(Mapped):
    """A queue whose numbers are read where they lie, from a mapping that may be read-only. Adds no field: a queue's port can be one, too."""

    cdef int map_port(self) except -1:
        return map_queue(self)

    @property
    def grows(self) -> bool:
        """Is this a queue without a bound?"""
        return is_without_bound(self)

    @property
    def _shut(self) -> bool:
        """Was the queue shut down?"""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.look()
        return shmq_load_half(&self.port.header.shut) != 0

    def _unfinished(self) -> int:
        """Messages that are not done: see join."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.look()
        return shmq_unfinished(&self.port)

    def qsize(self) -> int:
        """Messages that wait: leased ones and those that came back are not counted. Exact at a quiet moment."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.look()
        return shmq_ready(&self.port)

    def empty(self) -> bool:
        """No message can be taken now: none waits, and none that came back is due. True or False at that moment."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.look()
        return queue_is_empty(self)

    def full(self) -> bool:
        """A put would wait: there is no room. True or False at that moment."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.look()
        return not is_without_bound(self) and not shmq_ring_has_space(&self.port)

    def _hopeless(self) -> int:
        """Messages that failed too often or were rejected, and are not dead letters yet: no process has come by since."""
        return look_for_what_came_back(&self.port).exhausted

    @property
    def maxsize(self) -> int:
        """How many messages may wait; 0 where there is no bound."""
        return 0 if is_without_bound(self) else self.port.geometry.slots

    @property
    def slot_size(self) -> int:
        """Payload bytes of a slot."""
        return self.port.geometry.slot_size

    def _counters(self) -> Counters:
        """Sums over all ports, over all who ever had them, in the order of enum shmq_counter."""
        cdef uint32_t i, k, kinds = SHMQ_COUNTERS
        totals = [0] * kinds
        for i in range(self.port.geometry.ports):
            for k in range(kinds):
                totals[k] += shmq_load_relaxed(&self.port.records[i].counters[k])
        return Counters(*totals)

    def _events(self) -> Events:
        """Leases that expired, handles whose process died, dead letters, since the segment was made."""
        return Events(*[shmq_load_relaxed(&self.port.header.events[k]) for k in range(SHMQ_EVENTS)])

    def _waiters(self) -> Waiters:
        """Consumers and producers that wait, asleep or for their bell to be rung."""
        cdef uint32_t i
        cdef uint64_t bell, items = shmq_load_half(&self.port.header.items_waiters), space = shmq_load_half(&self.port.header.space_waiters)
        items, space = items & ~<uint64_t>SHMQ_BELLS, space & ~<uint64_t>SHMQ_BELLS
        for i in range(self.port.geometry.ports):
            bell = shmq_load_relaxed(&self.port.records[i].bell)
            items += bell >> <int>SHMQ_ITEMS & 1
            space += bell >> <int>SHMQ_SPACE & 1
        return Waiters(items, space)

    def _cells(self) -> list:
        """Each in-flight cell, as a Cell."""
        cdef uint32_t i
        cdef uint64_t word
        result = []
        for i in range(self.port.geometry.cells):
            word = shmq_load_acquire(&self.port.cells[i].word)
            result.append(Cell(CELL_STATES[shmq_cell_state(word)], shmq_cell_owner(word), shmq_word_slot(word),
                               shmq_load_relaxed(&self.port.cells[i].leased_ns) * 1e-9))
        return result

    def _cell_counts(self) -> CellCounts:
        """How many in-flight cells are in each state."""
        cdef uint32_t i
        cdef uint32_t[8] counts = [0, 0, 0, 0, 0, 0, 0, 0]
        for i in range(self.port.geometry.cells):
            counts[shmq_cell_state(shmq_load_acquire(&self.port.cells[i].word))] += 1
        return CellCounts(counts[<int>SHMQ_SPARE], counts[<int>SHMQ_WARM], counts[<int>SHMQ_IDLE], counts[<int>SHMQ_LOANED],
                          counts[<int>SHMQ_LEASED] + counts[<int>SHMQ_TIMED], counts[<int>SHMQ_HELD], counts[<int>SHMQ_ORPHAN])

    def _occupied(self) -> list:
        """Each cell that is loaned, leased, held, or has a message that came back, as an Occupied.

        `ends`: when the lease ends, None without a time-out; of what came back: when it is due. What was changed while it was read is
        left out.
        """
        cdef uint32_t i, slot
        cdef uint64_t word, ends
        cdef unsigned state
        cdef shmq_cell *cell
        cdef shmq_slot *there
        result = []
        for i in range(self.port.geometry.cells):
            cell = &self.port.cells[i]
            word = shmq_load_acquire(&cell.word)
            state = shmq_cell_state(word)
            slot = shmq_word_slot(word)
            if state < SHMQ_LOANED or slot >= self.port.geometry.total_slots:
                continue
            there = shmq_slot_at(&self.port, slot)
            ends = shmq_load_acquire(&cell.due_ns) if state == SHMQ_ORPHAN else 0
            if state == SHMQ_TIMED and shmq_expires_ahead(shmq_load_acquire(&cell.expires), word) <= 1:
                ends = shmq_expires_ns(shmq_load_acquire(&cell.expires))
            row = (CELL_STATES[state], shmq_cell_owner(word), there.id,
                   shmq_load_relaxed(&cell.leased_ns) * 1e-9, ends * 1e-9 if ends else None, shmq_lease_begun(&self.port, i, word),
                   shmq_deliveries_failed(shmq_load_relaxed(&there.deliveries)))
            nbytes, described = there.nbytes, there.described
            key = None if state == SHMQ_LOANED else self.side_key_in(slot)
            if shmq_load_acquire(&cell.word) == word:
                result.append(Occupied(*row, nbytes if key is None else max(self.segment.side_bytes(key) - described, 0)))
        return result

    @cython.final
    cdef object side_key_in(self, uint32_t slot):
        """The key of the side segment in which the slot's message is, if it is in one."""
        if not shmq_slot_at(&self.port, slot).flags & SHMQ_SPILLED:
            return None
        return PyBytes_FromStringAndSize(<const char *>shmq_payload_at(&self.port, slot), SPILL_KEY_BYTES)

    def _placement(self) -> Placement:
        """Which cell names which slot, in one look: first the ring, then the in-flight cells, then what exchanges are open."""
        cdef uint32_t i, slots = self.port.geometry.slots
        cdef uint64_t intent
        cdef bytes words = PyBytes_FromStringAndSize(NULL, slots * sizeof(uint64_t))
        cdef uint64_t *ring = <uint64_t *>PyBytes_AS_STRING(words)
        for i in range(slots):
            ring[i] = shmq_load_acquire(&self.port.ring[i])
        cells = self._cells()
        exchanges = []
        for i in range(self.port.geometry.ports):
            intent = shmq_load_acquire(&self.port.records[i].intent)
            if shmq_intent_operation(intent):
                exchanges.append(Exchange(shmq_intent_cell(intent), shmq_word_slot(intent),
                                          shmq_word_slot(shmq_load_relaxed(&self.port.records[i].expected))))
        named = times_named(ring, slots, self.port.geometry.total_slots, cells, exchanges)
        return Placement(self.port.geometry.total_slots, named, out_of_step(ring, slots), cells, exchanges)

    def _side_keys(self) -> set:
        """Keys of the side segments to which messages lead: those in the ring first, since from there they only move to a cell.

        On the way between the two a message is in neither, however long its consumer is stopped there: its open intent tells of it.
        """
        cdef uint32_t i
        result = set()
        for i in range(self.port.geometry.slots):
            if shmq_ring_state(shmq_load_acquire(&self.port.ring[i])) == SHMQ_READY:
                self.note_side(shmq_load_acquire(&self.port.ring[i]), result)
        for i in range(self.port.geometry.ports):
            if shmq_intent_operation(shmq_load_acquire(&self.port.records[i].intent)) == SHMQ_GETTING:
                self.note_side(shmq_load_acquire(&self.port.records[i].expected), result)
        for i in range(self.port.geometry.cells):
            state = shmq_cell_state(shmq_load_acquire(&self.port.cells[i].word))
            if shmq_state_leased(state) or state == SHMQ_ORPHAN:
                self.note_side(shmq_load_acquire(&self.port.cells[i].word), result)
        return result

    @cython.final
    cdef int note_side(self, uint64_t word, set keys) except -1:
        cdef uint32_t slot = shmq_word_slot(word)
        if slot < self.port.geometry.total_slots:
            key = self.side_key_in(slot)
            if key is not None:
                keys.add(key)
        return 0

    def _ring(self) -> list:
        """Each cell of the ring, as a RingCell."""
        cdef uint32_t i
        cdef uint64_t word
        result = []
        for i in range(self.port.geometry.slots):
            word = shmq_load_acquire(&self.port.ring[i])
            result.append(RingCell(shmq_ring_lap(word), shmq_ring_state(word) == SHMQ_READY, shmq_word_slot(word)))
        return result

    @property
    def _backlog_count(self) -> int:
        """The header's word: how many messages wait in the backlog."""
        return shmq_load_seq(&self.port.header.backlog)

    # -- images of dead letters: shmq/_store/dead_letters.py ---------------------------------------------------------------------

    def _image_bytes(self, bytes image) -> int:
        """Payload bytes of a dead letter; 0 of one whose side segment is gone."""
        cdef shmq_slot header
        image_header(self, image, &header)
        if header.flags & SHMQ_SPILLED:
            try:
                header_of_side(&header, len(self.segment.open_side(image[sizeof(header):])))
            except PayloadLost:
                return 0
        return header.nbytes

    def _image_side_key(self, bytes image) -> bytes | None:
        """The key of the side segment that holds the payload of a dead letter; None where the letter holds it itself."""
        cdef shmq_slot header
        image_header(self, image, &header)
        return image[sizeof(header):] if header.flags & SHMQ_SPILLED else None

    def _decode_image(self, bytes image) -> object:
        """The object in the image of a dead letter."""
        return decode_image(self, coding_of_look(self.port.header.flags & SHMQ_PICKLES != 0), image)


cdef object decode_image(Mapped port, Coding coding, bytes image):
    cdef shmq_slot header
    cdef Py_buffer memory
    cdef uint64_t available = image_header(port, image, &header)
    cdef const char *data = PyBytes_AS_STRING(image) + sizeof(header)
    if not header.flags & SHMQ_SPILLED:
        header_check(port, &header, available)
        return build(port, coding, &header, data, image)
    side = port.segment.open_side(PyBytes_FromStringAndSize(data, SPILL_KEY_BYTES))
    header_of_side(&header, len(side))
    header_check(port, &header, <uint64_t>len(side))
    PyObject_GetBuffer(side, &memory, PyBUF_SIMPLE)
    try:
        return build(port, coding, &header, <const char *>memory.buf, side)
    finally:
        PyBuffer_Release(&memory)


cdef dict times_named(const uint64_t *ring, uint32_t slots, uint32_t total, list cells, list exchanges):
    """By slot, how many cells name it: where that is not one, and of each slot in an open exchange. A slot may be one that there is not."""
    cdef bytearray counted = bytearray(total * sizeof(uint32_t))
    cdef uint32_t *times = <uint32_t *>PyByteArray_AS_STRING(counted)
    cdef dict named = {}
    cdef uint32_t i, slot
    for i in range(slots + <uint32_t>len(cells)):
        slot = shmq_word_slot(ring[i]) if i < slots else <uint32_t>cells[i - slots].slot
        if slot < total:
            times[slot] += 1
        elif len(named) < NAMED_AT_MOST:
            named[slot] = named.get(slot, 0) + 1
    for exchange in exchanges:
        named.update({slot: times[slot] for slot in (exchange.gives, exchange.takes) if slot < total})
    for slot in range(total):
        if times[slot] != 1 and len(named) < NAMED_AT_MOST:
            named[slot] = times[slot]
    return named


cdef dict out_of_step(const uint64_t *ring, uint32_t slots):
    """By ring cell, how many half laps it is ahead of the first one, where that cannot be.

    The laps go down by one where write_seq or read_seq is, and nowhere else; READY cells lie between the two.
    """
    cdef int64_t ahead, before = 0
    cdef dict wrong = {}
    cdef uint32_t i
    for i in range(slots):
        ahead = shmq_ring_ahead(ring[i], ring[0])
        if (ahead > before or ahead > 0 or ahead < -2) and len(wrong) < NAMED_AT_MOST:
            wrong[i] = ahead
        before = ahead
    return wrong


cdef int map_queue(Mapped port) except -1:
    """Check a queue's segment, and note where its parts are. Raises SegmentCorrupt."""
    cdef shmq_geometry geometry
    if shmq_segment_check(port.memory.buf, <uint64_t>port.memory.len, &geometry) != SHMQ_OK:
        port.raise_changed()
    shmq_port_map(&port.port, port.memory.buf, &geometry)
    return 0


cdef inline bint is_without_bound(Mapped queue) noexcept:
    """What Observer.grows says, at no cost: a property is looked up as an attribute."""
    return queue.memory.buf != NULL and queue.port.header.flags & SHMQ_GROWS != 0


cdef bint queue_is_empty(Mapped port) noexcept:
    """Can no message be taken now?"""
    return shmq_ready(&port.port) == 0 and look_for_what_came_back(&port.port).due == 0
