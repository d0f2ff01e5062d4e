# Lease: a message in the hands of a user, to read and to settle.

@cython.final
@cython.no_gc_clear
cdef class Lease(Slot):
    """A message taken with responsibility.

    The message is gone once `ack` returns. It comes back to some consumer if this process dies, on `nack`, when its time is
    over, or when the lease is dropped unsettled. As a context manager: ack on exit, nack on an exception.

    Zero-copy views (`array`, `view`) show this message as long as they live, also after the ack or the loss of the lease. The
    slot is used again when the last of them is gone.
    """

    @classmethod
    def __class_getitem__(cls, item, /):
        return GenericAlias(cls, item)

    cdef object decoded
    cdef readonly bint _lost    # ended without our doing, and we know
    cdef uint64_t lease_ns      # what one extension adds; 0: no time-out
    cdef object __weakref__

    @property
    def data(self):
        """The object that was put: a copy, made on first use and kept."""
        with cython.critical_section(self.port):
            return self.read()

    cdef object read(self):
        cdef shmq_slot header
        if self.decoded is None:
            self.check_open("read")
            self.begin()
            header = self.header # build may run Python code
            decoded = (self.copied(&header),)
            if self.decoded is None: # otherwise another thread, or the object's own code, has read it meanwhile
                self.decoded = decoded
        return self.decoded[0]

    @property
    def array(self):
        """The message as a read-only array over the slot, without a copy; of anything but an array: its bytes."""
        with cython.critical_section(self.port):
            return self.array_of_it()

    cdef object array_of_it(self):
        cdef shmq_slot header
        need_numpy()
        self.check_open("viewed")
        self.begin()
        header = self.header
        if header.kind != SHMQ_ARRAY:
            as_bytes(&header)
        return self.array_view(&header)

    @property
    def writable_array(self):
        """As `array`, but writable: the slot is this process's own until the ack. A redelivery would show the change.

        Of a message that was spilled, a private copy of each page that is written.
        """
        array = self.array
        with cython.critical_section(self.port):
            if not self.inside and self.is_here():
                self.inside = True
                self.port.looks[self.cell] += INSIDE
        PyArray_ENABLEFLAGS(<PyArrayObject *>array, NPY_ARRAY_WRITEABLE)
        return array

    @property
    def id(self) -> int:
        """Unique among the messages of this segment's life."""
        return self.header.id

    @property
    def delivery_count(self) -> int:
        """How often the message was delivered, this time included; the first time it is 1."""
        return shmq_deliveries_failed(shmq_load_relaxed(&self.header.deliveries)) + 1

    @property
    def published_at(self) -> float:
        """When it was published, in seconds of time.monotonic(), to the tick of the kernel (1 to 4 ms)."""
        return self.header.published_ns * 1e-9

    @property
    def age(self) -> float:
        """Seconds since it was published, to the tick of the kernel."""
        cdef uint64_t now = shmq_now_coarse_ns()
        return (now - self.header.published_ns) * 1e-9 if now > self.header.published_ns else 0.0

    @property
    def settled(self) -> bool:
        """True once it was acked, given back or lost."""
        return self.state != HAND_OPEN

    @property
    def expires_at(self) -> float | None:
        """When the lease ends, in seconds of time.monotonic(); None without a time-out. Meaningless once it has ended."""
        if not self.lease_ns:
            return None
        return shmq_expires_ns(shmq_load_relaxed(&self.port.port.queue.cells[self.cell].expires)) * 1e-9

    def ack(self) -> None:
        """Done: the message is gone. **Raises** LeaseLost where the lease had ended before. **Cost** one exchange."""
        with cython.critical_section(self.port):
            self.ack_it()

    cdef int ack_it(self) except -1:
        cdef shmq_status status
        cdef QueuePort port = self.port
        cdef bint spilled = self.header.flags & SHMQ_SPILLED != 0
        self.check_unsettled()
        key = self.port.side_key(self.word) if spilled else None # while the slot is ours
        status = shmq_lease_ack(&self.port.port.queue, self.cell, self.word, self.views > 0)
        if shmq_unlikely(status != SHMQ_OK):
            self.gone(status)
        if self.views > 0:
            self.state = HAND_HELD
        else:
            self.state = HAND_SETTLED
            self.return_cell(True)
        shmq_wake_if_done(&port.port.any)
        if spilled: # after the ack, as get does
            port.remove_side(PyBytes_AS_STRING(key))

    def nack(self, delay=None) -> None:
        """Failed: give the message back; the attempt counts. At the queue's max_deliveries it becomes a dead letter.

        `delay`: seconds until it is delivered again (0: at once); None: what the queue's back-off says. **Raises** LeaseLost.
        """
        cdef uint64_t delay_ns = delay_ns_of(delay)
        with cython.critical_section(self.port):
            self.settle_failed(delay_ns, None)

    def _fail(self, error, delay) -> None:
        """nack after this exception, which the dead letter tells if it comes to that."""
        self.settle_failed(delay_ns_of(delay), error)

    def release(self, delay=0) -> None:
        """Not mine after all: give the message back, after `delay` seconds; the attempt does not count. **Raises** LeaseLost."""
        with cython.critical_section(self.port):
            self.release_it(delay)

    cdef int release_it(self, delay) except -1:
        cdef uint64_t delay_ns = delay_ns_of(delay)
        self.check_unsettled()
        self.watch_on()
        self.gone(shmq_lease_give_back(&self.port.port.queue, self.cell, self.word, SHMQ_RELEASED, delay_ns))

    def extend(self, seconds=None) -> None:
        """Let the lease end so many seconds from now; None: the time-out with which it was received.

        **Raises** LeaseLost where it has ended: the message is somebody else's by then. **If the process dies here** it ends when
        it would have ended, or at the new time.
        """
        with cython.critical_section(self.port):
            self.extend_it(seconds)

    cdef int extend_it(self, seconds) except -1:
        cdef uint64_t extension = self.lease_ns if seconds is None else lease_ns_of(self.port, seconds)
        self.check_unsettled()
        if extension == 0:
            raise ValueError("this lease has no time-out that extend() could begin again: say for how many seconds")
        self.watch_on()
        self.timed = True
        cdef shmq_status status = shmq_lease_extend(&self.port.port.queue, self.cell, &self.word, shmq_now_ns() + extension)
        if status != SHMQ_OK:
            self.gone(status)
        if not self.lease_ns:
            self.lease_ns = extension

    def reject(self, reason="") -> None:
        """Hopeless: make the message a dead letter, with the reason given. It is never delivered again, unless it is redriven.

        **Raises** LeaseLost; OutOfMemory where the letter cannot be written: then a later call writes it.
        **If the process dies here** it is a dead letter, or the lease of a dead holder.
        """
        with cython.critical_section(self.port):
            self.reject_it(reason)

    cdef int reject_it(self, reason) except -1:
        cdef uint64_t word
        cdef bint last
        if not isinstance(reason, str):
            raise TypeError(f"a reason is a str, not {type(reason).__name__}")
        word = self.taken_over()
        shmq_delivery_ended(&self.port.port.queue, self.cell, word, SHMQ_REJECTED, 0)
        last = self.settled_otherwise()
        try:
            dead_letter(self.port, self.cell, reason, None)
        finally:
            if last and self.is_here():
                self.port.end_use()

    cdef int check_unsettled(self) except -1:
        if shmq_unlikely(self.state != HAND_OPEN or not self.is_mine()):
            raise LeaseLost(f"the lease of message {self.header.id} in queue {self.port.name!r} "
                            + ("was settled before" if self.state != HAND_OPEN else "belongs to the parent of this process"
                               if self.forks != shmq_owner_forks else "was given back when this process was about to end"))
        return 0

    cdef uint64_t taken_over(self) except 0:
        """The word of our cell, LEASED: from now on nobody else can end the lease. Raises LeaseLost where somebody has."""
        cdef uint64_t word = self.word
        self.check_unsettled()
        self.watch_on()
        if shmq_cell_state(word) == SHMQ_TIMED and shmq_lease_take_over(&self.port.port.queue, self.cell, &word) != SHMQ_OK:
            self.gone(SHMQ_LOST)
        self.word = word
        return word

    cdef void watch_on(self) noexcept:
        """Before the lease is given back: if views are alive, the slot is to stay as it is for them."""
        if self.views and not self.watching:
            self.watching = shmq_view_begin(&self.port.port.queue, self.cell, self.word) == SHMQ_OK

    cdef int settle_failed(self, uint64_t delay_ns, error) except -1:
        cdef uint64_t word = self.taken_over()
        cdef bint last = self.settled_otherwise()
        try:
            fail(self.port, self.cell, word, delay_ns, error)
        finally:
            if last and self.is_here():
                self.port.end_use()
        return 0

    cdef bint settled_otherwise(self) noexcept:
        """Not by an ack: the cell goes another way from here on, before any Python code runs that could settle it a second time. True: the
        port's user that this lease is leaves with it; otherwise with the last view."""
        self.state = HAND_LOST if self.watching else HAND_SETTLED
        return not self.watching

    cdef int gone(self, shmq_status status) except -1:
        """The cell is ours no longer; raise LeaseLost unless the status says that this was our doing."""
        if self.settled_otherwise():
            self.port.end_use()
        if status != SHMQ_OK:
            self._lost = True
            raise LeaseLost(f"the lease of message {self.header.id} in queue {self.port.name!r} has ended before: "
                            "the message was, or will be, delivered again")
        return 0

    def __enter__(self):
        with cython.critical_section(self.port):
            self.check_open("entered")
            self.begin()
        return self

    def __exit__(self, kind, value, traceback):
        if self.state == HAND_OPEN:
            if kind is None:
                self.ack()
            else:
                try:
                    with cython.critical_section(self.port):
                        self.settle_failed(SHMQ_BY_POLICY, value)
                except LeaseLost:
                    pass # it is being redelivered, which is all that a nack could do; the exception says more

    async def __aenter__(self):
        return self.__enter__()

    async def __aexit__(self, kind, value, traceback):
        self.__exit__(kind, value, traceback)

    def __dealloc__(self):
        if self.state == HAND_OPEN and self.is_mine():
            with cython.critical_section(self.port):
                shmq_lease_give_back(&self.port.port.queue, self.cell, self.word, SHMQ_RELEASED if self.prefetched else SHMQ_NACKED, SHMQ_BY_POLICY)
                self.port.end_use()
        if self.side_memory.buf != NULL:
            PyBuffer_Release(&self.side_memory)

    def __repr__(self):
        return (f"<shmq.Lease {self.header.id} of {self.header.nbytes:,} bytes in {self.port.name!r}, delivery {self.delivery_count}"
                f"{'' if self.state == HAND_OPEN else ', settled'}>")
