# A queue's port: what its users call, and what an attachment asks of a queue. Each behaviour has a file, of functions over QueuePort.

@cython.no_gc_clear # as Mapped
cdef class QueuePort(Attachment):
    """An attachment to a queue. Its calls are written in the files of their nouns: put, growing, get, receive, loan, peek, end, dead_letters."""

    cdef Coding coding              # of the objects that it carries
    cdef readonly bint spills
    cdef bint unbounded             # see Observer.grows
    cdef int64_t patience_ns        # how long this handle's puts may still wait before they go to the backlog
    cdef uint64_t patience_puts     # how many messages it had put when that was so
    cdef public Log _backlog        # of a queue that grows
    cdef uint64_t stuck_at          # the count of the backlog at which this handle's gets last waited in vain for one who moves nothing
    cdef uint32_t *looks            # by cell: uses of its slot in this process; a view counts one, a call that may write or settle INSIDE
    cdef public object _readable    # shmq._waiting.fileno.Readable, once somebody asked for fileno()

    _noun = "queue"
    _reducers = None
    _keeps_types = False

    @classmethod
    def __class_getitem__(cls, item, /):
        return GenericAlias(cls, item)

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
        cdef shmq_geometry geometry = self.port.queue.geometry
        return shmq_port_attach(&self.port.queue, self.memory.buf, &geometry, owner)

    cdef int prepare(self) except -1:
        PyMem_Free(self.looks)
        self.looks = <uint32_t *>PyMem_Calloc(self.port.queue.geometry.cells, sizeof(uint32_t))
        if self.looks == NULL:
            raise MemoryError
        self.coding.pickles = self.port.any.header.flags & SHMQ_PICKLES != 0
        self.spills = self.port.any.header.flags & SHMQ_SPILLS != 0
        self.unbounded = self.port.any.header.flags & SHMQ_GROWS != 0
        self.port.queue.writes_dead_letters = True
        self.patience_ns = BACKLOG_PATIENCE_NS
        self.patience_puts = 0
        return 0

    cdef void free_port(self) noexcept:
        shmq_port_detach(&self.port.queue)

    cdef void give_back_leases(self, bint crashed) noexcept:
        cdef uint32_t i
        cdef uint64_t word
        cdef bint failed
        for i in range(self.port.queue.geometry.cells):
            word = shmq_load_acquire(&self.port.queue.cells[i].word) # [hand]
            if shmq_cell_owner(word) != self.port.any.index or not shmq_state_leased(shmq_cell_state(word)):
                continue
            failed = crashed and shmq_lease_begun(&self.port.queue, i, word)
            if self.looks[i] >= INSIDE or (self.looks[i] and shmq_view_begin(&self.port.queue, i, word) != SHMQ_OK):
                if not failed:
                    shmq_lease_mark(&self.port.queue, i, word, False) # the reaper will find that it was not begun with
            elif shmq_lease_give_back(&self.port.queue, i, word, SHMQ_DIED if failed else SHMQ_RELEASED, SHMQ_BY_POLICY) == SHMQ_OK:
                self.users -= not self.looks[i] # its Lease finds out: see Slot.is_mine. Views keep the port, which keeps the slot

    cdef int refuse_hopeless(self, shmq_status status, shmq_side side, shmq_patience *patience) except -1:
        if shmq_verdict(&self.port.queue, side, status, patience.stays) == SHMQ_SHUT:
            self.raise_shut(side)
        if status != SHMQ_WOULD_BLOCK and status != SHMQ_NO_CELLS:
            raise SegmentCorrupt(f"queue {self.name!r} is corrupt: a cell of its ring names a slot or a lap that cannot be. Unlink it, and create it again")
        return 0

    @cython.final
    cdef int raise_shut(self, shmq_side side) except -1:
        if side == SHMQ_ITEMS:
            shmq_wake_all(&self.port.any, SHMQ_ITEMS) # nobody tells those who wait for what others might have given back
        raise ShutDown(f"queue {self.name!r} was shut down: {'it is empty, and ' if side == SHMQ_ITEMS else ''}no message goes in any more")

    cdef bint tend(self) noexcept:
        return shmq_tend(&self.port.queue)

    cdef uint64_t tend_all(self) noexcept:
        shmq_tend(&self.port.queue)
        shmq_lease_expire(&self.port.queue)
        if shmq_orphan_due(&self.port.queue): # it is there to be taken: no reason to look again soon
            return self.port.queue.expiry_ns
        return min(self.port.queue.expiry_ns, self.port.queue.due_ns)

    cdef shmq_status sleep(self, shmq_status status, shmq_side side, uint64_t deadline, shmq_patience *patience) noexcept nogil:
        if status == SHMQ_NO_CELLS:
            return shmq_await_cell(&self.port.queue, deadline, patience)
        return shmq_await(&self.port.queue, side, deadline, patience)

    cdef bint is_idle(self) noexcept: # soon after a look, something has just come
        return shmq_nothing_comes(&self.port.queue, True) or not shmq_ring_has_space(&self.port.queue)

    def _worth(self, int side) -> int:
        """For how many who wait it is worth a try: messages (0), room (1), as many as you like when all is done (2) or it was shut.

        Of messages that came back it says one at a time.
        """
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return shmq_worth(&self.port.queue, <shmq_side>side)

    def _ready(self) -> bool:
        """Would get return, or raise ShutDown, at once? More than `not empty()` by the latter."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return not queue_is_empty(self) or shmq_is_over(&self.port.queue, False)

    @cython.critical_section
    def _spin(self, int side) -> bool:
        """Wait as short as a wait can be, awake: True where it helped."""
        cdef bint helped
        self.users += 1
        with nogil:
            helped = shmq_spin(&self.port.queue, <shmq_side>side, SHMQ_FOREVER)
        self.end_use()
        return helped

    # -- put -------------------------------------------------------------------------------------------------------------

    @cython.critical_section
    def put(self, obj, bint block=True, timeout=None) -> None:
        """Copy `obj` in and publish it; it is visible to every consumer when put returns.

        **Waits** for room, up to `timeout` seconds (None: for ever; not at all where `block` is false).
        **Raises** Full, MessageTooLarge, PickleRefused, whatever pickling raises, Closed; nothing was put then.
        **If the process dies here** the message is in the queue once, whole, or not at all.
        **Cost** one copy and one exchange; sleepers are woken one per message.
        """
        put_object(self, obj, block, timeout)

    def put_nowait(self, obj) -> None:
        """Put a message at once: put(obj, block=False). **Raises** Full where there is no room."""
        self.put(obj, False)

    @cython.critical_section
    def put_many(self, objs, timeout=None) -> int:
        """Put the objects in their order; return how many.

        **Waits** until all are in, or up to `timeout` seconds, then returns how many were (0: tries once).
        **Raises** Full where not even the first went in; TypeError for one str, bytes or dict; before anything is put what `put` raises.
        **If the process dies here** a prefix of them is in the queue.
        """
        return put_objects(self, objs, timeout)

    # -- take ------------------------------------------------------------------------------------------------------------

    @cython.critical_section
    def get(self, bint block=True, timeout=None):
        """Take the oldest message; it is gone once get has returned.

        **Waits** for one, up to `timeout` seconds (None: for ever; not at all where `block` is false).
        **Raises** Empty, Closed; what unpickling raises, after giving the message back as a failed attempt.
        **If the process dies here** the message is redelivered to somebody else.
        """
        return get_object(self, block, timeout)

    def get_nowait(self):
        """Take the oldest message at once: get(block=False). **Raises** Empty where there is none."""
        return self.get(False)

    @cython.critical_section
    def get_many(self, Py_ssize_t max, timeout=None) -> list:
        """Take up to `max` messages in their order: as many as are there, at least one.

        **Waits**, **raises** and survives death as `get` does. The messages are gone only when the whole batch has been
        decoded. So no more are returned than in-flight cells are free, and at most half of `in_flight`: others need some, too.
        A message that came back is returned alone.
        """
        return get_objects(self, max, timeout)

    @cython.critical_section
    def receive(self, timeout=None, lease_timeout=AS_CREATED, bint extend=False) -> Lease:
        """Take the oldest message with responsibility: see Lease.

        `lease_timeout`: seconds after which the message goes to somebody else; None: not while this process lives; if it is not
        given: what the queue was created with. `extend`: begin the time again, from a thread, until the lease is settled.
        **Waits** for a message, up to `timeout` seconds (None: for ever; 0: tries once). **Raises** Empty, Closed; InFlightLimit
        where leases and loans occupy every in-flight cell for a second (where messages that rest do, too, it waits for the first of
        them). **If the process dies** before the ack, the message is redelivered.
        """
        return receive_one(self, timeout, lease_timeout, extend)

    @cython.critical_section
    def receive_many(self, Py_ssize_t max, timeout=None, lease_timeout=AS_CREATED, bint extend=False) -> list:
        """Take up to `max` messages with responsibility: as many as are there, at least one. Waits and raises as `receive`.

        A message is begun with when something of it is read (data, array, view), or its context is entered. One that was not
        begun with comes back without having failed, if this process dies or its time is over.
        """
        return receive_some(self, max, timeout, lease_timeout, extend)

    def __iter__(self) -> Leases:
        return self.consume()

    def consume(self, Py_ssize_t prefetch=1, timeout=None, lease_timeout=AS_CREATED, bint extend=False) -> Leases:
        """Iterate over messages: ack when the loop's body has ended, nack when it raises. `for lease in queue` is this.

        A body that took longer than the lease is logged, and the loop goes on: the message is somebody else's by then.
        `prefetch`: how many to take at once; those that the loop has not come to go back untouched when it ends, and have not
        failed if this process dies. `timeout`: end the loop when nothing has come for so many seconds. The rest as `receive`;
        the time of a prefetched message begins again when the loop comes to it.
        After a `shutdown` the loop ends when no message can come any more: none waits or rests, and no other process holds one.
        """
        return leases_of(self, prefetch, timeout, lease_timeout, extend)

    # -- write in place --------------------------------------------------------------------------------------------------

    @cython.critical_section
    def loan(self, shape, dtype=None) -> Loan:
        """Lend an empty slot to write a message in place: `loan(nbytes)`, or `loan(shape, dtype)` for an array.

        **Raises** MessageTooLarge, TypeError for a dtype that only pickle carries, Closed; InFlightLimit where leases, loans and
        messages that came back occupy every in-flight cell. **Waits** only for a cell that a call of another process is about to
        free, for a second at most; publishing waits for room. **If the process dies** before that, nothing was sent.
        """
        return lend_empty(self, shape, dtype)

    # -- look ------------------------------------------------------------------------------------------------------------

    @cython.critical_section
    def peek(self, Py_ssize_t n=1) -> list:
        """Copies of the first `n` messages of the ring, oldest first, without taking them. Leased ones are not among them."""
        return peek_at(self, n)

    # -- end -------------------------------------------------------------------------------------------------------------

    @cython.critical_section
    def purge(self) -> int:
        """Throw away every message that waits, or came back, or rests; return how many. Leased ones stay leased.

        Nothing is decoded, and it needs no more than get does. **If the process dies here** the message in hand comes back.
        """
        return purge_messages(self)

    @cython.critical_section
    def task_done(self) -> None:
        """The work on a message that `get` took is done: see join. A lease says the same by its ack, and needs no task_done.

        **Raises** ValueError where it was called more often than messages were taken. **If the process dies** between get and
        task_done, join waits for ever, as with multiprocessing: take with `receive` where that matters.
        """
        note_done(self)

    @cython.critical_section
    def shutdown(self, bint immediate=False) -> None:
        """Let no message in any more, for every process and for as long as the queue lives: put raises ShutDown from now on.

        What is in it can still be taken. get and receive raise ShutDown once nothing is left that waits, or rests after a
        failure; a loop ends once no other process holds a message either, since that may come back. What the loop's own process
        holds it does not wait for. `immediate`: throw away what waits and what rests, too. Those that wait are woken. A second
        call does nothing more. **If the process dies here** the queue is shut; some that wait find out within 0.1 s. A put that
        overlaps with this call may still put.
        """
        shut_down(self, immediate)

    # -- dead letters and backlog: for shmq/_store -----------------------------------------------------------------------

    def _dead_letter_all(self) -> int:
        """Dead-letter what is to be dead-lettered, without taking anything else; return how many messages."""
        return dead_letter_all(self)

    @cython.critical_section
    def _revive(self, bytes image, timeout=None) -> None:
        """Put the image of a dead letter as a new message: counted and stamped as such. Waits and raises as put."""
        revive(self, image, timeout)

    @cython.critical_section
    def _in_backlog(self, n) -> list:
        """Images of the first `n` messages of the backlog."""
        return images_in_backlog(self, n)

    # -- for the calls of a queue -------------------------------------------------------------------------------------

    @cython.final
    cdef inline uint64_t stay(self, uint32_t cell) noexcept:
        """A call works on the slot of this cell of ours while Python code runs: until `end_stay` neither `close` nor the interpreter's
        exit gives it back, nor the port."""
        self.users += 1
        self.looks[cell] += INSIDE
        return shmq_owner_forks

    @cython.final
    cdef inline void end_stay(self, uint32_t cell, uint64_t forks) noexcept:
        """`forks`: what `stay` returned. A child that was forked in between has counted nothing."""
        if shmq_likely(forks == shmq_owner_forks):
            self.looks[cell] -= INSIDE
            self.end_use()

    @cython.final
    cdef int refuse_forked(self, uint64_t forks) except -1:
        """Raise LeaseLost in a child that was forked in the middle of a call: what that call holds is its parent's."""
        if shmq_unlikely(forks != shmq_owner_forks):
            raise LeaseLost(f"this process was forked while a message of queue {self.name!r} was decoded: the message is its parent's")
        return 0

    @cython.final
    cdef void remove_side(self, const char *key) noexcept:
        """Remove a side segment, if it is there. No Python code runs between an ack and its caller: an exception of a signal handler there
        would lose what get has taken. What cannot be removed is found by the doctor."""
        cdef const char *path_prefix = PyBytes_AS_STRING(self.path_prefix)
        with nogil: # freeing a large one takes a while
            shmq_file_remove_side(path_prefix, key)

    @cython.final
    cdef inline int check_slot(self, uint32_t slot) except -1:
        """A cell's slot, read from shared memory a moment ago: never beyond the last one."""
        if shmq_unlikely(slot >= self.port.queue.geometry.total_slots):
            raise SegmentCorrupt(f"queue {self.name!r} is corrupt: an in-flight cell of this process names slot {slot}. Unlink it, and create it again")
        return 0

    @cython.final
    cdef object side_key(self, uint64_t word):
        return PyBytes_FromStringAndSize(<const char *>shmq_payload_at(&self.port.queue, shmq_word_slot(word)), SPILL_KEY_BYTES)

    @cython.final
    cdef object open_side(self, uint64_t word):
        """Raises PayloadLost, SegmentCorrupt; OSError or MemoryError where this process lacks something: the message has not failed then."""
        return self.segment.open_side(self.side_key(word))

    # -- operating ----------------------------------------------------------------------------------------------------

    def _deaths_to_reap_sides_of(self) -> int | None:
        """The count of deaths, where messages were ever spilled and nobody has looked since the last death for what the dead left."""
        cdef uint64_t deaths = shmq_load_acquire(&self.port.queue.header.events[<int>SHMQ_DEATHS]) # [sides]
        if deaths == shmq_load_acquire(&self.port.queue.header.sides_reaped) or not shmq_load_half(&self.port.queue.header.spilled): # [sides] [spilled]
            return None
        return deaths

    def _reaped_sides_of(self, uint64_t deaths) -> None:
        """What the dead had left at that count is removed. Of two who say so the later one may be behind: then it is looked for again."""
        shmq_store_release(&self.port.queue.header.sides_reaped, deaths) # [sides]

    def _all_wait(self) -> bool:
        return shmq_all_wait(&self.port.queue)

    @cython.critical_section
    def _expire(self) -> int:
        """Give back what any process has held for too long; return how many messages."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return shmq_lease_expire(&self.port.queue)


class QueueHandle(QueuePort, Observer):
    """A port of a queue that can look at it as well; the base of Queue. No extension type: those have one base."""
