# A queue's port: what an attachment asks of a queue.

@cython.no_gc_clear # as Mapped
cdef class QueuePort(Attachment):
    """An attachment to a queue: the fields that its calls share, and its answers to the protocol of Attachment."""

    cdef Coding coding              # of the objects that it carries
    cdef readonly bint spills
    cdef bint unbounded             # see Observer.grows
    cdef int64_t patience_ns        # how long this handle's puts may still wait before they go to the backlog, …
    cdef uint64_t patience_puts     # … when it had put so many messages
    cdef uint64_t stuck_at          # the count of the backlog at which this handle's gets last waited in vain for one who moves nothing
    cdef uint32_t *looks            # by cell: who of this process is in its slot, each view one, and more (INSIDE) who may write or settle
    cdef public object _readable    # shmq._waiting.fileno.Readable, once somebody asked for fileno()

    _noun = "queue"
    _reducers = None
    _keeps_types = False

    def __cinit__(self, *args, **kwargs):
        self.looks = NULL
        self.coding = UNKNOWN_CODING

    def __dealloc__(self):
        PyMem_Free(self.looks)

    def _open(self, segment, codec, bint spin=True) -> None:
        """Attach to a mapped queue. Raises TooManyPorts, SegmentCorrupt, SegmentForeign; TypeError where it is open already."""
        self.refuse_open()
        self.coding = Coding.__new__(Coding)
        self.coding.codec = codec
        self.coding.dumper = Dumper(self._reducers)
        self.coding.keeps_types = self._keeps_types
        self.open(segment, spin)

    @property
    def codec(self) -> object:
        """The codec of what is neither bytes, str nor an array; None where there is none."""
        return self.coding.codec

    def _decode_image(self, bytes image) -> object:
        """The object in the image of a dead letter."""
        return decode_image(self, self.coding, image)

    # -- the protocol of Attachment -------------------------------------------------------------------------------------

    cdef int map_port(self) except -1:
        return map_queue(self)

    cdef shmq_status claim(self, uint64_t owner) noexcept:
        cdef shmq_geometry geometry = self.port.geometry
        return shmq_port_attach(&self.port, self.memory.buf, &geometry, owner)

    cdef int prepare(self) except -1:
        PyMem_Free(self.looks)
        self.looks = <uint32_t *>PyMem_Calloc(self.port.geometry.cells, sizeof(uint32_t))
        if self.looks == NULL:
            raise MemoryError
        self.coding.pickles = self.port.header.flags & SHMQ_PICKLES != 0
        self.spills = self.port.header.flags & SHMQ_SPILLS != 0
        self.unbounded = self.port.header.flags & SHMQ_GROWS != 0
        self.port.writes_dead_letters = True
        self.patience_ns = BACKLOG_PATIENCE_NS
        self.patience_puts = 0
        return 0

    cdef void free_port(self) noexcept:
        shmq_port_detach(&self.port)

    cdef void give_back_at_exit(self, bint crashed) noexcept:
        cdef uint32_t i
        cdef uint64_t word
        cdef bint failed
        for i in range(self.port.geometry.cells):
            word = shmq_load_acquire(&self.port.cells[i].word) # [hand]
            if shmq_cell_owner(word) != self.port.index or not shmq_state_leased(shmq_cell_state(word)):
                continue
            failed = crashed and shmq_lease_begun(&self.port, i, word)
            if self.looks[i] >= INSIDE or (self.looks[i] and shmq_view_begin(&self.port, i, word) != SHMQ_OK):
                if not failed:
                    shmq_lease_mark(&self.port, i, word, False) # the reaper will find that it was not begun with
            elif shmq_lease_give_back(&self.port, i, word, SHMQ_DIED if failed else SHMQ_RELEASED, SHMQ_BY_POLICY) == SHMQ_OK:
                self.users -= not self.looks[i] # its Lease finds out: see Slot.is_mine. Views keep the port, which keeps the slot

    cdef int refuse_hopeless(self, shmq_status status, shmq_side side, shmq_patience *patience) except -1:
        if shmq_verdict(&self.port, side, status, patience.stays) == SHMQ_SHUT:
            self.raise_shut(side)
        if status != SHMQ_WOULD_BLOCK and status != SHMQ_NO_CELLS:
            raise SegmentCorrupt(f"queue {self.name!r} is corrupt: a cell of its ring names a slot or a lap that cannot be")
        return 0

    cdef int raise_shut(self, shmq_side side) except -1:
        if side == SHMQ_ITEMS:
            shmq_wake_all(&self.port, SHMQ_ITEMS) # nobody tells those who wait for what others might have given back
        raise ShutDown(f"queue {self.name!r} was shut down: {'it is empty, and ' if side == SHMQ_ITEMS else ''}no message goes in any more")

    cdef bint tend(self) noexcept:
        return shmq_tend(&self.port)

    cdef uint64_t tend_all(self) noexcept:
        shmq_tend(&self.port)
        shmq_lease_expire(&self.port)
        if shmq_orphan_due(&self.port): # it is there to be taken: no reason to look again soon
            return self.port.expiry_ns
        return min(self.port.expiry_ns, self.port.due_ns)

    cdef shmq_status sleep(self, shmq_status status, shmq_side side, uint64_t deadline, shmq_patience *patience) noexcept nogil:
        if status == SHMQ_NO_CELLS:
            return shmq_await_cell(&self.port, deadline, patience)
        return shmq_await(&self.port, side, deadline, patience)

    cdef bint is_idle(self) noexcept: # soon after a look, something has just come
        return shmq_nothing_comes(&self.port, True) or not shmq_ring_has_space(&self.port)

    def _worth(self, int side) -> int:
        """For how many who wait it is worth a try: messages (0), room (1), as many as you like when all is done (2) or it was shut.

        Of messages that came back it says one at a time.
        """
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return shmq_worth(&self.port, <shmq_side>side)

    def _ready(self) -> bool:
        """Would get return, or raise ShutDown, at once? More than `not empty()` by the latter."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return not queue_is_empty(self) or shmq_is_over(&self.port, False)

    @cython.critical_section
    def _spin(self, int side) -> bool:
        """Wait as short as a wait can be, awake: True where it helped."""
        cdef bint helped
        self.users += 1
        with nogil:
            helped = shmq_spin(&self.port, <shmq_side>side, SHMQ_FOREVER)
        self.end_use()
        return helped

    # -- for the calls of a queue -------------------------------------------------------------------------------------

    cdef inline uint64_t stay(self, uint32_t cell) noexcept:
        """A call works on the slot of this cell of ours while Python code runs: until `end_stay` neither `close` nor the interpreter's
        exit gives it back, nor the port."""
        self.users += 1
        self.looks[cell] += INSIDE
        return shmq_owner_forks

    cdef inline void end_stay(self, uint32_t cell, uint64_t forks) noexcept:
        """`forks`: what `stay` returned. A child that was forked in between has counted nothing."""
        if shmq_likely(forks == shmq_owner_forks):
            self.looks[cell] -= INSIDE
            self.end_use()

    cdef int refuse_forked(self, uint64_t forks) except -1:
        """Whoever was forked in the middle of a call leaves what that call holds to its parent."""
        if shmq_unlikely(forks != shmq_owner_forks):
            raise LeaseLost(f"this process was forked while a message of queue {self.name!r} was decoded: the message is its parent's")
        return 0

    cdef void remove_side(self, const char *key) noexcept:
        """Remove a side segment, if it is there. No Python code runs between an ack and its caller: an exception of a signal handler there
        would lose what get has taken. What cannot be removed is found by the doctor."""
        cdef const char *path_prefix = PyBytes_AS_STRING(self.path_prefix)
        with nogil: # freeing a large one takes a while
            shmq_file_remove_side(path_prefix, key)

    # -- operating ----------------------------------------------------------------------------------------------------

    def _deaths_to_reap_sides_of(self) -> int | None:
        """The count of deaths, where messages were ever spilled and nobody has looked since the last death for what the dead left."""
        cdef uint64_t deaths = shmq_load_acquire(&self.port.header.events[<int>SHMQ_DEATHS]) # [sides]
        if deaths == shmq_load_acquire(&self.port.header.sides_reaped) or not shmq_load_half(&self.port.header.spilled): # [sides] [spilled]
            return None
        return deaths

    def _reaped_sides_of(self, uint64_t deaths) -> None:
        """What the dead had left at that count is removed. Of two who say so the later one may be behind: then it is looked for again."""
        shmq_store_release(&self.port.header.sides_reaped, deaths) # [sides]

    def _all_wait(self) -> bool:
        return shmq_all_wait(&self.port)

    @cython.critical_section
    def _expire(self) -> int:
        """Give back what was held too long, whoever holds it; return how many messages."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return shmq_lease_expire(&self.port)
