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
        return shmq_is_shut(&self.port.queue)

    def _unfinished(self) -> int:
        """Messages that are not done: see join."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.look()
        return shmq_unfinished(&self.port.queue)

    def qsize(self) -> int:
        """Messages that wait: leased ones and those that came back are not counted. Exact at a quiet moment."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.look()
        return shmq_ready(&self.port.queue)

    def empty(self) -> bool:
        """No message can be taken now: none waits, and none that came back is due. True or False at that moment."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.look()
        return queue_is_empty(self)

    def full(self) -> bool:
        """A put would wait: there is no room. True or False at that moment."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.look()
        return not is_without_bound(self) and not shmq_ring_has_space(&self.port.queue)

    def _hopeless(self) -> int:
        """Messages that failed too often or were rejected, and are not dead letters yet: no process has come by since."""
        return look_for_what_came_back(&self.port.queue).exhausted

    @property
    def maxsize(self) -> int:
        """How many messages may wait; 0 where there is no bound."""
        return 0 if is_without_bound(self) else self.port.queue.geometry.slots

    @property
    def slot_size(self) -> int:
        """Payload bytes of a slot."""
        return self.port.queue.geometry.slot_size

    def _counters(self) -> Counters:
        """Sums over all ports, over all who ever had them, in the order of enum shmq_counter."""
        cdef uint64_t[SHMQ_COUNTERS] totals
        shmq_counted(&self.port.queue, totals)
        return Counters(*totals)

    def _events(self) -> Events:
        """Leases that expired, handles whose process died, dead letters, since the segment was made."""
        return Events(*[shmq_load_relaxed(&self.port.queue.header.events[k]) for k in range(SHMQ_EVENTS)])

    def _waiters(self) -> Waiters:
        """Consumers and producers that wait, asleep or for their bell to be rung."""
        return Waiters(shmq_waiting(&self.port.queue, SHMQ_ITEMS), shmq_waiting(&self.port.queue, SHMQ_SPACE))

    def _cells(self) -> list:
        """Each in-flight cell, as a Cell."""
        cdef uint32_t i
        cdef shmq_cell_row row
        result = []
        for i in range(self.port.queue.geometry.cells):
            row = shmq_cell_row_of(&self.port.queue, i)
            result.append(Cell(CELL_STATES[<int>row.state], row.owner, row.slot, row.leased_ns * 1e-9))
        return result

    def _cell_counts(self) -> CellCounts:
        """How many in-flight cells are in each state."""
        cdef uint32_t i
        cdef uint32_t[8] counts = [0, 0, 0, 0, 0, 0, 0, 0]
        for i in range(self.port.queue.geometry.cells):
            counts[<int>shmq_cell_row_of(&self.port.queue, i).state] += 1
        return CellCounts(counts[<int>SHMQ_SPARE], counts[<int>SHMQ_WARM], counts[<int>SHMQ_IDLE], counts[<int>SHMQ_LOANED],
                          counts[<int>SHMQ_LEASED] + counts[<int>SHMQ_TIMED], counts[<int>SHMQ_HELD], counts[<int>SHMQ_ORPHAN])

    def _occupied(self) -> list:
        """Each cell that is loaned, leased, held, or has a message that came back, as an Occupied.

        `ends`: when the lease ends, None without a time-out; of what came back: when it is due. What was changed while it was read is
        left out.
        """
        cdef uint32_t i = 0
        cdef shmq_occupied_row row
        result = []
        while shmq_find_occupied(&self.port.queue, &i, &row):
            i += 1
            nbytes = row.nbytes
            if row.spilled:
                nbytes = max(self.segment.side_bytes(PyBytes_FromStringAndSize(row.key, SPILL_KEY_BYTES)) - row.described, 0)
            result.append(Occupied(CELL_STATES[<int>row.cell.state], row.cell.owner, row.id, row.cell.leased_ns * 1e-9,
                                   row.ends_ns * 1e-9 if row.ends_ns else None, row.begun, row.failed, nbytes))
        return result

    def _placement(self) -> Placement:
        """Which cell names which slot, in one look: first the ring, then the in-flight cells, then what exchanges are open."""
        cdef uint32_t i = 0, slots = self.port.queue.geometry.slots
        cdef shmq_exchange_row row
        cdef bytes ring_slots = PyBytes_FromStringAndSize(NULL, slots * sizeof(uint32_t))
        cdef bytes half_laps = PyBytes_FromStringAndSize(NULL, slots * sizeof(int64_t))
        cdef uint32_t *slot_of = <uint32_t *>PyBytes_AS_STRING(ring_slots)
        cdef int64_t *ahead = <int64_t *>PyBytes_AS_STRING(half_laps)
        shmq_ring_rows(&self.port.queue, slot_of, ahead)
        cells = self._cells()
        exchanges = []
        while shmq_find_exchange(&self.port.queue, &i, &row):
            i += 1
            exchanges.append(Exchange(row.cell, row.gives, row.takes))
        named = times_named(slot_of, slots, self.port.queue.geometry.total_slots, cells, exchanges)
        return Placement(self.port.queue.geometry.total_slots, named, out_of_step(ahead, slots), cells, exchanges)

    def _side_keys(self) -> set:
        """Keys of the side segments to which messages lead."""
        cdef uint64_t at = 0
        cdef char key[SPILL_KEY_BYTES]
        result = set()
        while shmq_find_side(&self.port.queue, &at, key):
            result.add(PyBytes_FromStringAndSize(key, SPILL_KEY_BYTES))
        return result

    @property
    def _backlog_count(self) -> int:
        """The header's word: how many messages wait in the backlog."""
        return shmq_backlog(&self.port.queue)

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
        return decode_image(self, coding_of_look(self.port.any.header.flags & SHMQ_PICKLES != 0), image)


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


cdef dict times_named(const uint32_t *ring_slots, uint32_t slots, uint32_t total, list cells, list exchanges):
    """By slot, how many cells name it: where that is not one, and of each slot in an open exchange. A slot may be one that there is not."""
    cdef bytearray counted = bytearray(total * sizeof(uint32_t))
    cdef uint32_t *times = <uint32_t *>PyByteArray_AS_STRING(counted)
    cdef dict named = {}
    cdef uint32_t i, slot
    for i in range(slots + <uint32_t>len(cells)):
        slot = ring_slots[i] if i < slots else <uint32_t>cells[i - slots].slot
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


cdef dict out_of_step(const int64_t *half_laps, uint32_t slots):
    """By ring cell, how many half laps it is ahead of the first one, where that cannot be.

    The laps go down by one where write_seq or read_seq is, and nowhere else; READY cells lie between the two.
    """
    cdef int64_t before = 0
    cdef dict wrong = {}
    cdef uint32_t i
    for i in range(slots):
        if (half_laps[i] > before or half_laps[i] > 0 or half_laps[i] < -2) and len(wrong) < NAMED_AT_MOST:
            wrong[i] = half_laps[i]
        before = half_laps[i]
    return wrong


cdef int map_queue(Mapped port) except -1:
    """Check a queue's segment, and note where its parts are. Raises SegmentCorrupt."""
    cdef shmq_geometry geometry
    if shmq_segment_check(port.memory.buf, <uint64_t>port.memory.len, &geometry) != SHMQ_OK:
        port.raise_changed()
    shmq_port_map(&port.port.queue, port.memory.buf, &geometry)
    return 0


cdef inline bint is_without_bound(Mapped queue) noexcept:
    """What Observer.grows says, at no cost: a property is looked up as an attribute."""
    return queue.memory.buf != NULL and queue.port.any.header.flags & SHMQ_GROWS != 0


cdef bint queue_is_empty(Mapped port) noexcept:
    """Can no message be taken now?"""
    return shmq_ready(&port.port.queue) == 0 and look_for_what_came_back(&port.port.queue).due == 0
