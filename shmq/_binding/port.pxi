# A port of a queue: everything that a user does with messages.

@cython.no_gc_clear # as Mapped
cdef class Port(Consumer):
    """A handle that lends slots and leases messages, too; the base of Queue."""

    @classmethod
    def __class_getitem__(cls, item, /):
        return GenericAlias(cls, item)

    # -- leases and loans ---------------------------------------------------------------------------------------------

    @cython.critical_section
    def receive(self, timeout=None, lease_timeout=AS_CREATED, bint extend=False) -> Lease:
        """Take the oldest message with responsibility: see Lease.

        `lease_timeout`: seconds after which the message goes to somebody else; None: not while this process lives; if it is not
        given: what the queue was created with. `extend`: begin the time again, from a thread, until the lease is settled.
        **Waits** for a message, up to `timeout` seconds (None: for ever; 0: tries once). **Raises** Empty, Closed; InFlightLimit
        where leases and loans occupy every in-flight cell for a second (where messages that rest do, too, it waits for the first of
        them). **If the process dies** before the ack, the message is redelivered.
        """
        cdef uint64_t lease_ns = self.lease_ns_of(lease_timeout)
        cdef Lease lease = self.receive_for(patience_of(timeout), lease_ns, True, False)
        if extend:
            self.extend_by_itself(lease)
        return lease

    cdef Lease receive_for(self, double seconds, uint64_t lease_ns, bint begun, bint stays):
        cdef uint32_t cell
        cdef shmq_status status
        cdef Lease lease = Lease.__new__(Lease) # before a message is taken: making it may run the collector
        cdef bint taken = False
        while not taken:
            if shmq_unlikely(self.forks != shmq_owner_forks):
                self.enter()
            shmq_tend(&self.port) # a consumer that always finds a message never waits
            status = self.take(&cell, True, lease_ns)
            if shmq_unlikely(status != SHMQ_OK):
                self.take_patiently(&cell, status, deadline_of(seconds), True, lease_ns, stays)
            taken = self.lend(lease, cell, lease_ns, begun)
        return lease

    cdef uint64_t lease_ns_of(self, object lease_timeout) except? 1:
        cdef double seconds
        if lease_timeout is AS_CREATED:
            return self.port.policy.lease_timeout_ns
        if lease_timeout is None:
            return 0
        refuse_bool(lease_timeout)
        seconds = number_of_seconds(lease_timeout)
        if not 0 < seconds <= LONGEST_SECONDS:
            raise ValueError(f"lease_timeout must be above 0 seconds and at most a year, or None, not {lease_timeout!r}")
        return max(<uint64_t>(seconds * 1e9), <uint64_t>1000)

    cdef int extend_by_itself(self, Lease lease) except -1:
        if lease.lease_ns:
            self._keep(lease, lease.lease_ns / 1e9) # not * 1e-9: a year would come out longer
        return 0

    @cython.critical_section
    def receive_many(self, Py_ssize_t max, timeout=None, lease_timeout=AS_CREATED, bint extend=False) -> list:
        """Take up to `max` messages with responsibility: as many as are there, at least one. Waits and raises as `receive`.

        A message is begun with when something of it is read (data, array, view), or its context is entered. One that was not
        begun with comes back without having failed, if this process dies or its time is over.
        """
        cdef uint64_t lease_ns = self.lease_ns_of(lease_timeout)
        cdef Lease lease
        if max < 1:
            raise ValueError(f"max must be at least 1, not {max}")
        cdef list result = self.receive_ahead(max, patience_of(timeout), lease_ns, False)
        if extend:
            for lease in result:
                self.extend_by_itself(lease)
        return result

    cdef list receive_ahead(self, Py_ssize_t max, double seconds, uint64_t lease_ns, bint stays):
        """Leases of up to `max` messages that are not begun with: what is there, at least one."""
        cdef uint32_t cell
        cdef Lease lease
        cdef list result = [self.receive_for(seconds, lease_ns, False, stays)]
        while <Py_ssize_t>len(result) < max:
            lease = Lease.__new__(Lease)
            if self.forks != shmq_owner_forks or self.take_or_dead_letter(&cell, True, lease_ns, 1) != SHMQ_OK:
                break
            if self.lend(lease, cell, lease_ns, False):
                result.append(lease)
        return result

    cdef bint lend(self, Lease lease, uint32_t cell, uint64_t lease_ns, bint begun) except -1:
        """The lease is that of a cell that was just leased. False: its time was over before that could be said.

        Where that cannot be, the message goes back, or is given up if its payload is gone.
        """
        cdef uint64_t word = shmq_load_acquire(&self.port.cells[cell].word) # [hand]
        cdef bint ours = True
        if shmq_unlikely(lease_ns and (shmq_cell_state(word) != SHMQ_TIMED or shmq_cell_owner(word) != self.port.index)):
            return False # this process was stopped for so long
        self.check_slot(shmq_word_slot(word))
        if not begun:
            shmq_lease_mark(&self.port, cell, word, False)
        shmq_store_relaxed(&self.port.cells[cell].leased_ns, shmq_now_coarse_ns())
        self.users += 1 # the lease
        try:
            lease.port = self
            lease.forks = self.attached_forks
            lease.cell = cell
            lease.word = word
            lease.lease_ns = lease_ns
            lease.timed = lease_ns != 0
            lease.prefetched = not begun
            memcpy(&lease.header, shmq_slot_at(&self.port, shmq_word_slot(word)), sizeof(lease.header))
            if shmq_likely(not lease.header.flags & SHMQ_SPILLED):
                if shmq_unlikely(lease.header.kind >= SHMQ_KINDS or lease.header.nbytes + lease.header.described > self.port.geometry.payload_room
                                 or lease.header.nbytes > self.port.geometry.payload_room):
                    header_check(self, &lease.header, self.port.geometry.payload_room)
                lease.data = <char *>shmq_payload_at(&self.port, shmq_word_slot(word))
            else:
                self.lend_side(lease)
        except PayloadLost:
            if lease.forks != shmq_owner_forks:
                raise
            ours = shmq_lease_ack(&self.port, cell, word, False) == SHMQ_OK # nothing to deliver again
            if ours:
                shmq_cell_return(&self.port, cell, True)
                shmq_wake_if_done(&self.port)
            self.end_use()
            if not ours:
                return False # its time was over meanwhile, and whoever had it next is done with it
            raise
        except BaseException as error:
            if lease.forks != shmq_owner_forks:
                raise
            try:
                if isinstance(error, (OSError, MemoryError)): # from open_side
                    shmq_lease_give_back(&self.port, cell, word, SHMQ_RELEASED, 0)
                elif shmq_cell_state(word) != SHMQ_TIMED or shmq_lease_take_over(&self.port, cell, &word) == SHMQ_OK:
                    self.fail(cell, word, SHMQ_BY_POLICY, error)
                else:
                    ours = False # what was read may be half of another message
            finally:
                self.end_use()
            if not ours and isinstance(error, SegmentCorrupt):
                return False
            raise
        lease.writable = False
        lease.state = HAND_OPEN
        shmq_count(&self.port.record.counters[SHMQ_RECEIVES], 1)
        return True

    cdef int lend_side(self, Lease lease) except -1:
        """The payload of the leased message is in a side segment."""
        self.looks[lease.cell] += INSIDE
        try:
            lease.side = self.open_side(lease.word)
            header_of_side(&lease.header, len(lease.side))
            header_check(self, &lease.header, <uint64_t>len(lease.side))
            PyObject_GetBuffer(lease.side, &lease.side_memory, PyBUF_SIMPLE)
            lease.data = <char *>lease.side_memory.buf
        finally:
            if lease.forks == shmq_owner_forks:
                self.looks[lease.cell] -= INSIDE
        self.refuse_forked(lease.forks)
        return 0

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
        cdef Leases leases = Leases.__new__(Leases)
        patience_of(timeout)
        if prefetch < 1:
            raise ValueError(f"prefetch must be at least 1, not {prefetch}")
        leases.port = self
        leases.prefetch = prefetch
        leases.timeout = timeout
        leases.lease_ns = self.lease_ns_of(lease_timeout)
        leases.extend = extend
        leases.ahead = []
        return leases

    @cython.critical_section
    def loan(self, shape, dtype=None) -> Loan:
        """Lend an empty slot to write a message in place: `loan(nbytes)`, or `loan(shape, dtype)` for an array.

        **Raises** MessageTooLarge, TypeError for a dtype that only pickle carries, Closed; InFlightLimit where leases, loans and
        messages that came back occupy every in-flight cell. **Waits** only for a cell that a call of another process is about to
        free, for a second at most; publishing waits for room. **If the process dies** before that, nothing was sent.
        """
        cdef Loan loan = Loan.__new__(Loan) # before a cell is taken: making it may run the collector
        cdef shmq_slot header
        cdef uint32_t cell
        cdef shmq_status status
        memset(&header, 0, sizeof(header))
        description = None
        if dtype is None:
            if isinstance(shape, tuple) or isinstance(shape, list):
                raise TypeError("loan(shape, dtype) needs a dtype; loan(nbytes) takes one number")
            size = operator_index(shape)
            if size < 0:
                raise ValueError(f"a loan of {size} bytes: the size must not be negative")
            header.nbytes = <uint64_t>min(size, <uint64_t>-1)
            header.kind = SHMQ_BYTES
        else:
            need_numpy()
            dtype, shape = arrays.loan_layout(dtype, shape)
            description = shape_header(&header, shape, dtype)
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        if header.nbytes > self.port.geometry.slot_size:
            raise MessageTooLarge(f"a loan of {header.nbytes:,} bytes does not fit into a slot of queue {self.name!r} "
                                  f"({self.port.geometry.slot_size:,} bytes): create the queue with a larger slot_size")
        if header.nbytes + header.described > self.port.geometry.payload_room:
            raise MessageTooLarge(f"a loan of {header.nbytes:,} bytes and {header.described:,} that describe its dtype and shape does not fit into "
                                  f"a slot of queue {self.name!r} ({self.port.geometry.slot_size:,} bytes): create the queue with "
                                  f"slot_size={header.nbytes + header.described}, or larger")
        status = shmq_cell_take_for_long(&self.port, SHMQ_TO_WRITE, &cell)
        if shmq_unlikely(status != SHMQ_OK):
            shmq_reap(&self.port)
            status = shmq_cell_take_for_long(&self.port, SHMQ_TO_WRITE, &cell)
        if shmq_unlikely(status != SHMQ_OK):
            self.take_patiently_for_loan(&cell, status)
        shmq_cell_become(&self.port, cell, SHMQ_LOANED)
        loan.word = shmq_cell_load(&self.port, cell)
        self.check_slot(shmq_word_slot(loan.word))
        loan.port = self
        loan.cell = cell
        loan.data = <char *>shmq_payload_at(&self.port, shmq_word_slot(loan.word))
        memcpy(&loan.header, &header, sizeof(header))
        if description is not None:
            memcpy(loan.data + header.nbytes, PyBytes_AS_STRING(description), header.described)
        loan.forks = self.attached_forks
        loan.writable = True
        loan.state = HAND_OPEN
        self.users += 1
        return loan

    cdef int take_patiently_for_loan(self, uint32_t *cell, shmq_status status) except -1:
        """Wait for the calls of others that hold cells. Pre: there was none to take, `status` says why."""
        cdef shmq_patience patience
        cdef uint64_t deadline = shmq_now_ns() + CELL_PATIENCE_NS
        memset(&patience, 0, sizeof(patience))
        while status != SHMQ_OK:
            if status == SHMQ_NO_CELLS and not shmq_cells_move(&self.port, True):
                raise InFlightLimit(self._in_flight_report())
            if self.wait(status, SHMQ_SPACE, deadline, &patience) == SHMQ_TIMED_OUT:
                raise InFlightLimit(self._in_flight_report())
            self.look_again()
            status = shmq_cell_take_for_long(&self.port, SHMQ_TO_WRITE, cell)
        return 0

    cdef int publish_cell(self, uint32_t cell, double seconds) except -1:
        """Give a loaned cell's slot to the ring. On an exception the loan is as it was. Closing the handle does not end it."""
        cdef shmq_patience patience
        cdef shmq_status status
        cdef uint64_t deadline = deadline_of(seconds), forks = shmq_owner_forks
        cdef uint32_t slot = shmq_word_slot(shmq_cell_load(&self.port, cell)) # read once, checked, used: it is in shared memory
        self.check_slot(slot)
        memset(&patience, 0, sizeof(patience))
        shmq_slot_stamp(&self.port, shmq_slot_at(&self.port, slot))
        if self.unbounded:
            return self.publish_growing(cell, slot)
        while True:
            status = shmq_offer(&self.port, cell, True)
            if shmq_likely(status == SHMQ_OK):
                return 0
            if self.wait(status, SHMQ_SPACE, deadline, &patience) == SHMQ_TIMED_OUT:
                self.raise_full(status, seconds)
            if forks != shmq_owner_forks:
                raise LeaseLost(f"this process was forked while a loan of queue {self.name!r} was published: the loan is its parent's")

    @cython.critical_section
    def purge(self) -> int:
        """Throw away every message that waits, or came back, or rests; return how many. Leased ones stay leased.

        Nothing is decoded, and it needs no more than get does. **If the process dies here** the message in hand comes back.
        """
        cdef uint32_t cell
        cdef uint64_t word
        cdef shmq_status status
        cdef Py_ssize_t count = 0
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        while True:
            self.look_again()
            status = self.take(&cell, False, 0)
            if status == SHMQ_WOULD_BLOCK and self.is_behind() and self.refill(1):
                continue
            if status != SHMQ_OK and status != SHMQ_EXHAUSTED and (status == SHMQ_CORRUPT or not shmq_orphan_claim(&self.port, SHMQ_TO_DISCARD, &cell)):
                break
            word = shmq_cell_load(&self.port, cell)
            self.check_slot(shmq_word_slot(word))
            self.done_with(cell, word, shmq_slot_at(&self.port, shmq_word_slot(word)).flags & SHMQ_SPILLED != 0)
            shmq_count(&self.port.record.counters[SHMQ_RECEIVES], 1)
            shmq_count(&self.port.record.counters[SHMQ_ACKS], 1)
            count += 1
        if status == SHMQ_CORRUPT:
            raise SegmentCorrupt(f"queue {self.name!r} is corrupt: a cell of its ring names a slot or a lap that cannot be")
        shmq_wake_if_done_after_store(&self.port)
        return count

    # -- the end of the work ------------------------------------------------------------------------------------------

    @cython.critical_section
    def task_done(self) -> None:
        """The work on a message that `get` took is done: see join. A lease says the same by its ack, and needs no task_done.

        **Raises** ValueError where it was called more often than messages were taken. **If the process dies** between get and
        task_done, join waits for ever, as with multiprocessing: take with `receive` where that matters.
        """
        cdef uint64_t done
        cdef int looks = 0
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        done = shmq_load_relaxed(&self.port.header.done)
        while True:
            if not shmq_has_taken(&self.port, done + 1):
                looks += 1
                if looks > 3: # the counters of a handle that is being closed are on their way, seen in neither place
                    raise ValueError(f"task_done() of queue {self.name!r} was called more often than get() has taken a message")
                usleep(100)
                done = shmq_load_relaxed(&self.port.header.done)
            elif shmq_swap_seq(&self.port.header.done, &done, done + 1): # [park]
                break
        shmq_wake_if_done(&self.port)

    @cython.critical_section
    def shutdown(self, bint immediate=False) -> None:
        """Let no message in any more, for every process and for as long as the queue lives: put raises ShutDown from now on.

        What is in it can still be taken. get and receive raise ShutDown once nothing is left that waits, or rests after a
        failure; a loop ends once no other process holds a message either, since that may come back. What the loop's own process
        holds it does not wait for. `immediate`: throw away what waits and what rests, too. Those that wait are woken. A second
        call does nothing more. **If the process dies here** the queue is shut; some that wait find out within 0.1 s. A put that
        overlaps with this call may still put.
        """
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        shmq_store_half(&self.port.header.shut, SHMQ_SHUT_FOR_PUTS) # [park]
        shmq_wake_all(&self.port, SHMQ_SPACE)
        if self.unbounded:
            self.let_appends_end()
        if immediate:
            self.purge()
        shmq_wake_all(&self.port, SHMQ_ITEMS)

    # -- looking ------------------------------------------------------------------------------------------------------

    @cython.critical_section
    def peek(self, Py_ssize_t n=1) -> list:
        """Copies of the first `n` messages of the ring, oldest first, without taking them. Leased ones are not among them."""
        cdef shmq_slot header
        cdef c_bool moved = False
        cdef list result = []
        cdef uint32_t nth = 0, again = 0
        cdef uint64_t limit = self.port.geometry.payload_room
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        if n < 0:
            raise ValueError(f"n must not be negative, but is {n}")
        cdef bytes copy
        while <Py_ssize_t>len(result) < n:
            copy = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>limit)
            self.look_again()
            if not shmq_ring_peek(&self.port, nth, &header, PyBytes_AS_STRING(copy), limit, &moved):
                if moved and again < PEEKS: # taken while we looked: the front is elsewhere now
                    nth = 0
                    again += 1
                    result.clear()
                    continue
                break
            nth += 1
            if header.flags & SHMQ_SPILLED:
                try:
                    copy = bytes(self.segment.open_side(copy[:SPILL_KEY_BYTES]))
                except SegmentCorrupt:
                    if not self.still_there(nth - 1, header.id):
                        continue # taken meanwhile, its side segment with it
                    raise
                header_of_side(&header, len(copy))
            header_check(self, &header, <uint64_t>len(copy))
            result.append(build(self, self.coding, &header, PyBytes_AS_STRING(copy), copy))
        self.look_again()
        if self.is_behind() and <Py_ssize_t>len(result) < n:
            result += [self._decode_image(image) for image in self._in_backlog(n - len(result))]
        return result

    cdef bint still_there(self, uint32_t nth, uint64_t id) noexcept:
        cdef shmq_slot header
        cdef c_bool moved
        return shmq_ring_peek(&self.port, nth, &header, NULL, 0, &moved) and header.id == id


class QueueHandle(Port, Observer):
    """A port of a queue that can look at it as well; the base of Queue. No extension type: those have one base."""
