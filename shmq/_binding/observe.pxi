# An observer: a segment that is mapped and looked at. Looking takes no port and changes nothing in the segment.

cdef tuple CELL_STATES = ("spare", "warm", "idle", "loaned", "leased", "held", "orphan", "leased") # the last one: leased for a time


@cython.no_gc_clear # the collector would take the mapping away before the last lease of a cycle is gone
cdef class Observer:
    """A checked segment whose numbers are read where they lie, from a mapping that may be read-only. A Handle attaches as well."""

    cdef shmq_port port             # an observer's has no record: it is no port of the segment's
    cdef Py_buffer memory           # keeps the mapping while the port, or a view of one of its slots, lives
    cdef readonly object segment    # shmq._segment.segment.Segment
    cdef readonly object codec      # an observer has none: it decodes what is no codec's
    cdef readonly bint pickles
    cdef readonly bint grows
    cdef uint64_t forks             # of the process that attached; anything else sends a call through enter(), and a look through look()

    def __cinit__(self, *args, **kwargs):
        self.memory.buf = NULL
        self.forks = <uint64_t>-1

    def _observe(self, segment) -> None:
        """Look at a mapped segment from now on. Raises SegmentCorrupt."""
        cdef shmq_geometry geometry
        self.segment = segment
        PyObject_GetBuffer(segment.memory, &self.memory, PyBUF_SIMPLE)
        self.check(&geometry)
        shmq_port_map(&self.port, self.memory.buf, &geometry)
        self.grows = self.port.header.flags & SHMQ_GROWS != 0
        self.pickles = self.port.header.flags & SHMQ_PICKLES != 0
        self.forks = shmq_owner_forks

    cdef int check(self, shmq_geometry *geometry) except -1:
        if shmq_segment_check(self.memory.buf, <uint64_t>self.memory.len, geometry) != SHMQ_OK:
            raise SegmentCorrupt(f"segment {self.segment.name!r} changed while it was opened")
        return 0

    cdef int look(self) except -1:
        """The slow entrance of a look: in a forked child, and where no segment was ever mapped. Looking attaches nobody. Raises Closed."""
        if self.memory.buf == NULL:
            raise Closed("this observer was never opened")
        self.forks = shmq_owner_forks
        return 0

    def __dealloc__(self):
        if self.memory.buf != NULL:
            PyBuffer_Release(&self.memory)

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
        return shmq_load_seq(&self.port.header.backlog) + shmq_ring_length(&self.port)

    def empty(self) -> bool:
        """No message can be taken now: none waits, and none that came back is due. True or False at that moment."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.look()
        return shmq_load_seq(&self.port.header.backlog) == 0 and shmq_ring_length(&self.port) == 0 and not self.due_count()

    def full(self) -> bool:
        """put would wait. True or False at that moment."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.look()
        return not self.grows and not shmq_ring_has_space(&self.port)

    cdef uint32_t due_count(self) noexcept:
        cdef uint32_t i, count = 0
        cdef uint64_t word, now = 0, due
        for i in range(self.port.geometry.cells):
            word = shmq_load_acquire(&self.port.cells[i].word)
            if shmq_cell_state(word) == SHMQ_ORPHAN:
                due = shmq_load_relaxed(&self.port.cells[i].due_ns)
                if due and now == 0:
                    now = shmq_now_ns()
                count += due <= now and not self.to_be_dead_lettered(shmq_word_slot(word))
        return count

    def _hopeless(self) -> int:
        """Messages that failed too often or were rejected, and are not dead letters yet: no process has come by since."""
        cdef uint32_t i, count = 0
        cdef uint64_t word
        for i in range(self.port.geometry.cells):
            word = shmq_load_acquire(&self.port.cells[i].word)
            count += shmq_cell_state(word) == SHMQ_ORPHAN and self.to_be_dead_lettered(shmq_word_slot(word))
        return count

    cdef bint to_be_dead_lettered(self, uint32_t slot) noexcept:
        return slot < self.port.geometry.total_slots and shmq_message_exhausted(
            &self.port, shmq_load_relaxed(&shmq_slot_at(&self.port, slot).deliveries))

    @property
    def name(self) -> str:
        """The queue's name; other processes attach by it."""
        return self.segment.name

    @property
    def maxsize(self) -> int:
        """How many messages may wait; 0 where there is no bound."""
        return 0 if self.grows else self.port.geometry.slots

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

    def _ports(self) -> list:
        """Each attached port, as an AttachedPort."""
        cdef uint32_t i
        cdef uint64_t owner
        result = []
        for i in range(self.port.geometry.ports):
            owner = shmq_load_acquire(&self.port.records[i].owner)
            if owner:
                result.append(AttachedPort(i, owner, shmq_load_relaxed(&self.port.records[i].pid), shmq_owner_alive(owner),
                                           shmq_load_acquire(&self.port.records[i].intent) != 0))
        return result

    def _processes(self) -> dict:
        """The Process of each attached port, by the port's index. Whether it lives is the kernel's answer.

        `here`: whether it lives in this process's pid namespace, so that its pid is its pid for us too; None where that is not known.
        """
        cdef uint32_t i
        cdef uint64_t owner, namespace, ours = shmq_owner_namespace()
        result = {}
        for i in range(self.port.geometry.ports):
            owner = shmq_load_acquire(&self.port.records[i].owner)
            if owner:
                pid, namespace = shmq_load_relaxed(&self.port.records[i].pid), shmq_load_relaxed(&self.port.records[i].namespace)
                alive = shmq_owner_alive(owner)
                result[i] = Process(pid, alive, (alive and namespace == ours) if namespace and ours else None)
        return result

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

    cdef object side_key_in(self, uint32_t slot):
        """The key of the side segment in which the slot's message is, if it is in one."""
        if not shmq_slot_at(&self.port, slot).flags & SHMQ_SPILLED:
            return None
        return PyBytes_FromStringAndSize(<const char *>shmq_payload_at(&self.port, slot), SPILL_KEY_BYTES)

    def _placement(self) -> Placement:
        """Which cell names which slot, in one look: first the ring, then the in-flight cells, then what exchanges are open.

        `half_laps`: how far each ring cell is ahead of the first one.
        """
        cdef uint32_t i, slots = self.port.geometry.slots
        cdef uint64_t word, first, intent
        cdef bytes ring_slots = PyBytes_FromStringAndSize(NULL, slots * sizeof(uint32_t))
        cdef bytes half_laps = PyBytes_FromStringAndSize(NULL, slots * sizeof(int64_t))
        cdef uint32_t *slot_of = <uint32_t *>PyBytes_AS_STRING(ring_slots)
        cdef int64_t *ahead = <int64_t *>PyBytes_AS_STRING(half_laps)
        first = shmq_load_acquire(&self.port.ring[0])
        for i in range(slots):
            word = shmq_load_acquire(&self.port.ring[i]) if i else first
            slot_of[i] = shmq_word_slot(word)
            ahead[i] = shmq_ring_ahead(word, first)
        cells = self._cells()
        exchanges = []
        for i in range(self.port.geometry.ports):
            intent = shmq_load_acquire(&self.port.records[i].intent)
            if shmq_intent_operation(intent):
                exchanges.append(Exchange(shmq_intent_cell(intent), shmq_word_slot(intent),
                                          shmq_word_slot(shmq_load_relaxed(&self.port.records[i].expected))))
        return Placement(memoryview(ring_slots).cast("I"), memoryview(half_laps).cast("q"), cells, exchanges)

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

    cdef int note_side(self, uint64_t word, set keys) except -1:
        cdef uint32_t slot = shmq_word_slot(word)
        if slot < self.port.geometry.total_slots:
            key = self.side_key_in(slot)
            if key is not None:
                keys.add(key)
        return 0

    def _serials(self) -> set:
        """The serials of the attached ports whose processes live: what the ids that they give, or gave a moment ago, begin with."""
        cdef uint32_t i
        cdef uint64_t owner
        result = set()
        for i in range(self.port.geometry.ports):
            owner = shmq_load_acquire(&self.port.records[i].owner)
            if owner and shmq_owner_alive(owner):
                for serial in (shmq_load_acquire(&self.port.records[i].serial), shmq_load_relaxed(&self.port.records[i].serial_before)):
                    result.add(serial_of(<uint64_t>serial << SHMQ_ID_BITS)) # what an id has room for
        return result

    def _ring(self) -> list:
        """Each cell of the ring, as a RingCell."""
        cdef uint32_t i
        cdef uint64_t word
        result = []
        for i in range(self.port.geometry.slots):
            word = shmq_load_acquire(&self.port.ring[i])
            result.append(RingCell(shmq_ring_lap(word), shmq_ring_state(word) == SHMQ_READY, shmq_word_slot(word)))
        return result

    def _holders(self) -> str:
        """The attached processes by their pids; shmq.Queue overrides it, and knows their command lines."""
        return ", ".join(f"pid {port.pid}" for port in self._ports())

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
        cdef shmq_slot header
        cdef Py_buffer memory
        cdef uint64_t available = image_header(self, image, &header)
        cdef const char *data = PyBytes_AS_STRING(image) + sizeof(header)
        if not header.flags & SHMQ_SPILLED:
            header_check(self, &header, available)
            return build(self, &header, data, image)
        side = self.segment.open_side(PyBytes_FromStringAndSize(data, SPILL_KEY_BYTES))
        header_of_side(&header, len(side))
        header_check(self, &header, <uint64_t>len(side))
        PyObject_GetBuffer(side, &memory, PyBUF_SIMPLE)
        try:
            return build(self, &header, <const char *>memory.buf, side)
        finally:
            PyBuffer_Release(&memory)
