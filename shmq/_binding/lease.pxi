# A slot in the user's hands: Loan (to write) and Lease (to read).

cdef enum hand_state:
    HAND_OPEN       # loaned, or leased
    HAND_HELD       # acked, but views of the slot are still alive
    HAND_LOST       # given back, or lost, but views of the slot are still alive
    HAND_PUBLISHING # a call is about to publish it, and may wait for room
    HAND_SETTLED    # published, abandoned, acked, given back, or lost


@cython.no_gc_clear # __dealloc__ needs the port
cdef class Slot:
    """A slot that this process holds, and the views of it. Base of Loan and Lease; not made by users."""

    cdef Port port
    cdef uint32_t cell
    cdef uint64_t word          # of the in-flight cell, as it was when the slot came into our hands
    cdef uint64_t forks
    cdef char *data
    cdef shmq_slot header       # private copy
    cdef hand_state state
    cdef bint writable
    cdef bint timed             # somebody else may end the lease
    cdef bint prefetched        # taken ahead, and not begun with
    cdef bint inside            # its slot may be written, though it is leased
    cdef bint watching          # the cell says that we look at it: the slot stays ours to look at when the lease ends
    cdef Py_ssize_t views       # alive, over `data`
    cdef object side            # the mapped side segment of a spilled message
    cdef Py_buffer side_memory

    def __cinit__(self):
        self.state = HAND_SETTLED
        self.side_memory.buf = NULL

    def __init__(self):
        raise TypeError("loans and leases come from a queue: use loan() or receive()")

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        with cython.critical_section(self.port):
            self.lend_buffer(buffer, flags)

    cdef int lend_buffer(self, Py_buffer *buffer, int flags) except -1:
        self.check_open("viewed")
        self.begin()
        if not self.watch_timed():
            raise BufferError("four others, whose leases have expired, still look at this message: take a copy, .data")
        if not self.writable and flags & PyBUF_WRITABLE == PyBUF_WRITABLE:
            raise BufferError("a leased message is read-only")
        PyBuffer_FillInfo(buffer, self, self.data, <Py_ssize_t>self.header.nbytes, not self.writable, flags)
        self.look()
        return 0

    def __releasebuffer__(self, Py_buffer *buffer):
        with cython.critical_section(self.port):
            self.view_gone()

    @property
    def view(self) -> memoryview:
        """The payload as a memoryview over the slot; no copy."""
        return PyMemoryView_FromObject(self)

    @property
    def nbytes(self) -> int:
        """Size of the payload in bytes."""
        return self.header.nbytes

    cdef inline bint is_mine(self) noexcept:
        """This process took it, and has not given it back at its exit."""
        return self.is_here() and (not self.port.left or self.state != HAND_OPEN
                                   or shmq_load_acquire(&self.port.port.cells[self.cell].word) == self.word)

    cdef inline bint is_here(self) noexcept:
        """This process took it, and its port is still attached."""
        return self.forks == shmq_owner_forks and self.port.attached

    cdef inline void look(self) noexcept:
        """One view more of the slot. Until the last one is gone, the slot is not given back, and keeps the message."""
        self.views += 1
        if self.views == 1 and self.is_here():
            self.port.looks[self.cell] += 1

    cdef void begin(self) noexcept:
        """The user looks at the message: from now on it fails with us."""
        if shmq_unlikely(self.prefetched):
            self.prefetched = False
            shmq_lease_mark(&self.port.port, self.cell, self.word, True)

    cdef bint watch_timed(self) except -1:
        """Before a view of a lease that may expire: say so. False: there is no room to say it. Raises LeaseLost."""
        cdef shmq_status status
        if shmq_likely(not self.timed or self.watching):
            return True
        status = shmq_view_begin(&self.port.port, self.cell, self.word)
        if status == SHMQ_LOST:
            raise LeaseLost(f"the lease of a message in queue {self.port.name!r} has ended: it is somebody else's by now")
        self.watching = status == SHMQ_OK
        return self.watching

    cdef int check_open(self, str what) except -1:
        if self.state == HAND_PUBLISHING:
            raise LeaseLost(f"this loan of queue {self.port.name!r} is being published: it cannot be {what} any more")
        if self.state >= HAND_LOST or not self.is_mine():
            raise LeaseLost(f"this {type(self).__name__.lower()} of queue {self.port.name!r} is settled or lost: it cannot be {what} any more")
        return 0

    cdef object array_view(self, shmq_slot *header):
        """A zero-copy array whose life keeps the slot and the mapping."""
        cdef cnp.ndarray array
        cdef View view
        if not self.watch_timed():
            array = <cnp.ndarray>self.copied(header)
            PyArray_CLEARFLAGS(array, cnp.NPY_ARRAY_WRITEABLE)
            return array
        view = View.__new__(View)
        view.slot = self
        self.look()
        if header.kind == SHMQ_ARRAY and header.flags & SHMQ_DESCRIBED:
            # Not over a memoryview: NumPy would keep what is behind that, and let the memoryview itself go.
            return described_array(self.port, header, self.data, view)
        array = array_over(self.port, header, self.data)
        if self.writable:
            PyArray_ENABLEFLAGS(array, cnp.NPY_ARRAY_WRITEABLE)
        cnp.set_array_base(array, view)
        return array

    cdef object copied(self, shmq_slot *header):
        """The object in the slot, which keeps the message meanwhile. Raises LeaseLost where it was another's before the copy was whole."""
        self.look()
        try:
            try:
                result = build(self.port, header, self.data, self.port if self.side is None else self.side)
            except Exception:
                self.check_ours() # a torn copy is no news
                raise
            self.check_ours()
        finally:
            self.view_gone()
        return result

    cdef int check_ours(self) except -1:
        """After a copy: the slot was ours all the time."""
        cdef bint lost = self.state == HAND_SETTLED and self.side is None
        if self.state == HAND_OPEN and self.timed and self.is_here():
            lost = shmq_load_acquire(&self.port.port.cells[self.cell].word) != self.word
        if lost:
            raise LeaseLost(f"the time of the lease of message {self.header.id} in queue {self.port.name!r} was over while it was read: "
                            "it is somebody else's. Use a longer lease_timeout=, extend(), or receive(extend=True)")
        return 0

    cdef void view_gone(self) noexcept:
        self.views -= 1
        if self.views:
            return
        if self.is_here():
            self.port.looks[self.cell] -= 1 + (INSIDE if self.inside else 0)
        self.inside = False
        if self.watching:
            self.watching = False
            if self.is_here():
                shmq_view_end(&self.port.port, self.cell)
        if self.state == HAND_HELD:
            self.state = HAND_SETTLED
            self.give_up_cell(True)
        elif self.state == HAND_LOST:
            self.state = HAND_SETTLED
            if self.is_here():
                self.port.leave()

    cdef void give_up_cell(self, bint warm) noexcept:
        """The cell is IDLE or HELD, ours: return it, and let the port go if it only waited for us."""
        if self.side is not None:
            PyBuffer_Release(&self.side_memory)
            self.side_memory.buf = NULL
            self.side = None
        if self.is_here():
            shmq_cell_return(&self.port.port, self.cell, warm)
            self.port.leave()


@cython.final
@cython.no_gc # arrays are not collected either: there is no cycle to find
@cython.freelist(16)
cdef class View:
    """The base object of a zero-copy array: tells the slot when the array is gone."""

    cdef Slot slot

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.slot.data, <Py_ssize_t>self.slot.header.nbytes, not self.slot.writable, flags)

    def __len__(self):
        return self.slot.header.nbytes

    def __dealloc__(self):
        if self.slot is not None:
            with cython.critical_section(self.slot.port):
                self.slot.view_gone()


@cython.final
@cython.no_gc_clear
cdef class Loan(Slot):
    """An empty slot to write a message in place.

    As a context manager it hands out the array (or memoryview), publishes on exit, and abandons on an exception.
    **If the process dies** before the publication, nothing was sent and the slot goes back.
    """

    @classmethod
    def __class_getitem__(cls, item, /):
        return GenericAlias(cls, item)

    cdef object handed          # weak reference to the array that was given out: the array keeps the loan, not both each other

    @property
    def array(self) -> cnp.ndarray:
        """The slot as a writable array of the shape and dtype that was asked for; read-only once published."""
        with cython.critical_section(self.port):
            return self.array_of_it()

    cdef object array_of_it(self):
        cdef shmq_slot header = self.header
        array = None if self.handed is None else self.handed()
        if array is None:
            self.check_open("written")
            if header.kind != SHMQ_ARRAY:
                as_bytes(&header)
            array = self.array_view(&header)
            self.handed = PyWeakref_NewRef(array, None)
        return array

    def publish(self, nbytes=None, timeout=None) -> None:
        """Make the message visible to consumers.

        `nbytes`: publish only so many bytes of a loan that was taken by size. The array that was handed out becomes
        read-only; slices and memoryviews of it do not, and must not be written afterwards. **Waits** for room in the ring, up to
        `timeout` seconds (None: for ever). **Raises** Full (the loan stays open), ValueError, LeaseLost, Closed.
        """
        with cython.critical_section(self.port):
            self.publish_it(nbytes, timeout)

    cdef int publish_it(self, nbytes, timeout) except -1:
        cdef double seconds = patience_of(timeout)
        cdef uint64_t size = self.header.nbytes
        self.check_open("published")
        if nbytes is not None:
            nbytes = operator_index(nbytes) # once: it may be code of the user's
            if self.header.kind != SHMQ_BYTES or not 0 <= nbytes <= self.header.nbytes:
                raise ValueError(f"publish(nbytes={nbytes}) of a loan of {self.header.nbytes:,} bytes: only a loan taken by size shrinks")
            size = nbytes
            self.check_open("published")
        cdef shmq_slot *header = shmq_slot_at(&self.port.port, shmq_word_slot(self.word))
        header.nbytes = size
        header.kind = self.header.kind
        header.flags = self.header.flags
        header.ndim = self.header.ndim
        header.dtype = self.header.dtype
        header.itemsize = self.header.itemsize
        header.described = self.header.described # what it says stands behind the payload since the loan
        memcpy(header.shape, self.header.shape, sizeof(header.shape))
        self.state = HAND_PUBLISHING # no other thread, signal handler or finalizer settles it while this one waits for room
        try:
            self.port.publish_cell(self.cell, seconds)
        except:
            self.state = HAND_OPEN
            raise
        self.settle(False)

    def abandon(self) -> None:
        """Give the slot back unpublished. A second call does nothing. **Raises** LeaseLost while another thread publishes it."""
        with cython.critical_section(self.port):
            self.abandon_it()

    cdef int abandon_it(self) except -1:
        if self.state == HAND_PUBLISHING:
            self.check_open("abandoned")
        if self.state == HAND_OPEN:
            self.settle(True)

    cdef void settle(self, bint warm) noexcept:
        self.state = HAND_SETTLED
        array = None if self.handed is None else self.handed()
        if array is not None:
            PyArray_CLEARFLAGS(<cnp.ndarray>array, cnp.NPY_ARRAY_WRITEABLE) # the slot is no longer ours to write
        self.give_up_cell(warm)

    def __enter__(self):
        self.check_open("entered")
        return self.array if self.header.kind == SHMQ_ARRAY else self.view

    def __exit__(self, kind, value, traceback):
        if self.state == HAND_OPEN:
            if kind is None:
                self.publish()
            else:
                self.abandon()

    def apublish(self, nbytes=None, timeout=None):
        """publish, awaited: the event loop goes on while the ring is full. Cancelled, the loan stays open."""
        return self.port._apublish(self, nbytes, timeout)

    async def __aenter__(self):
        return self.__enter__()

    async def __aexit__(self, kind, value, traceback):
        if self.state == HAND_OPEN and kind is None:
            try:
                await self.apublish()
            finally:
                self.abandon() # cancelled: as an exception in the block would
        elif self.state == HAND_OPEN:
            self.abandon()

    def __dealloc__(self):
        if self.state == HAND_OPEN:
            with cython.critical_section(self.port):
                self.state = HAND_SETTLED
                self.give_up_cell(True)

    def __repr__(self):
        return f"<shmq.Loan of {self.header.nbytes:,} bytes in {self.port.name!r}{'' if self.state == HAND_OPEN else ', settled'}>"


@cython.final
@cython.no_gc_clear
cdef class Lease(Slot):
    """A message taken with responsibility.

    It is gone from the queue once `ack` returns, and comes back to some consumer if this process dies, on `nack`, when its
    time is over, or when the lease is dropped unsettled. As a context manager: ack on exit, nack on an exception. Zero-copy
    views (`array`, `view`) show this message as long as they live, also after the ack, and also when the lease was lost: the slot
    is used again when the last of them is gone.
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
    def array(self) -> cnp.ndarray:
        """The message as a read-only array over the slot, without a copy; of anything but an array: its bytes."""
        with cython.critical_section(self.port):
            return self.array_of_it()

    cdef object array_of_it(self):
        cdef shmq_slot header
        self.check_open("viewed")
        self.begin()
        header = self.header
        if header.kind != SHMQ_ARRAY:
            as_bytes(&header)
        return self.array_view(&header)

    @property
    def writable_array(self) -> cnp.ndarray:
        """As `array`, but writable: the slot is this process's own until the ack. A redelivery would show the change.

        Of a message that was spilled, a private copy of each page that is written.
        """
        array = self.array
        with cython.critical_section(self.port):
            if not self.inside and self.is_here():
                self.inside = True
                self.port.looks[self.cell] += INSIDE
        PyArray_ENABLEFLAGS(<cnp.ndarray>array, cnp.NPY_ARRAY_WRITEABLE)
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
        return shmq_expires_ns(shmq_load_relaxed(&self.port.port.cells[self.cell].expires)) * 1e-9

    def ack(self) -> None:
        """Done: the message is gone. **Raises** LeaseLost where the lease had ended before. **Cost** one exchange."""
        with cython.critical_section(self.port):
            self.ack_it()

    cdef int ack_it(self) except -1:
        cdef shmq_status status
        cdef Port port = self.port
        cdef bint spilled = self.header.flags & SHMQ_SPILLED != 0
        self.check_unsettled()
        key = self.port.side_key(self.word) if spilled else None # while the slot is ours
        status = shmq_lease_ack(&self.port.port, self.cell, self.word, self.views > 0)
        if shmq_unlikely(status != SHMQ_OK):
            self.gone(status)
        if self.views > 0:
            self.state = HAND_HELD
        else:
            self.state = HAND_SETTLED
            self.give_up_cell(True)
        shmq_wake_if_done(&port.port)
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
        self.gone(shmq_lease_give_back(&self.port.port, self.cell, self.word, SHMQ_RELEASED, delay_ns))

    def extend(self, seconds=None) -> None:
        """Let the lease end so many seconds from now; None: the time-out with which it was received.

        **Raises** LeaseLost where it has ended: the message is somebody else's by then. **If the process dies here** it ends when
        it would have ended, or at the new time.
        """
        with cython.critical_section(self.port):
            self.extend_it(seconds)

    cdef int extend_it(self, seconds) except -1:
        cdef uint64_t extension = self.lease_ns if seconds is None else self.port.lease_ns_of(seconds)
        self.check_unsettled()
        if extension == 0:
            raise ValueError("this lease has no time-out that extend() could begin anew: say for how many seconds")
        self.watch_on()
        self.timed = True
        cdef shmq_status status = shmq_lease_extend(&self.port.port, self.cell, &self.word, shmq_now_ns() + extension)
        if status != SHMQ_OK:
            self.gone(status)
        if not self.lease_ns:
            self.lease_ns = extension

    def reject(self, reason="") -> None:
        """Hopeless: make the message a dead letter, with the reason given. It is never delivered again, unless it is redriven.

        **Raises** LeaseLost; OutOfMemory where the letter cannot be written: then it is written later, by whoever comes by.
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
        shmq_delivery_ended(&self.port.port, self.cell, word, SHMQ_REJECTED, 0)
        last = self.settled_otherwise()
        try:
            self.port.dead_letter(self.cell, reason, None)
        finally:
            if last and self.is_here():
                self.port.leave()

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
        if shmq_cell_state(word) == SHMQ_TIMED and shmq_lease_take_over(&self.port.port, self.cell, &word) != SHMQ_OK:
            self.gone(SHMQ_LOST)
        self.word = word
        return word

    cdef void watch_on(self) noexcept:
        """Before the lease is given back: if views are alive, the slot is to stay as it is for them."""
        if self.views and not self.watching:
            self.watching = shmq_view_begin(&self.port.port, self.cell, self.word) == SHMQ_OK

    cdef int settle_failed(self, uint64_t delay_ns, error) except -1:
        cdef uint64_t word = self.taken_over()
        cdef bint last = self.settled_otherwise()
        try:
            self.port.fail(self.cell, word, delay_ns, error)
        finally:
            if last and self.is_here():
                self.port.leave()
        return 0

    cdef bint settled_otherwise(self) noexcept:
        """Not by an ack: the cell goes another way from here on, before any Python code runs that could settle it a second time. True: the
        port's user that this lease is leaves with it; otherwise with the last view."""
        self.state = HAND_LOST if self.watching else HAND_SETTLED
        return not self.watching

    cdef int gone(self, shmq_status status) except -1:
        """The cell is ours no longer; raise LeaseLost unless the status says that this was our doing."""
        if self.settled_otherwise():
            self.port.leave()
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
                shmq_lease_give_back(&self.port.port, self.cell, self.word, SHMQ_RELEASED if self.prefetched else SHMQ_NACKED, SHMQ_BY_POLICY)
                self.port.leave()
        if self.side_memory.buf != NULL:
            PyBuffer_Release(&self.side_memory)

    def __repr__(self):
        return (f"<shmq.Lease {self.header.id} of {self.header.nbytes:,} bytes in {self.port.name!r}, delivery {self.delivery_count}"
                f"{'' if self.state == HAND_OPEN else ', settled'}>")


@cython.final
@cython.no_gc_clear
cdef class Leases:
    """Iterates over a queue for ever: receives, acks when the loop's body has ended, nacks when it raised.

    What the body raised is in the dead letter that may become of the message. A `break` counts as an end of the body. Loop over
    the queue itself: an iterator that is kept under a name outlives the loop, and acks when it dies or goes on. The difference is
    seen in the moment when the abandoned iterator dies: the interpreter unwinds a raising loop with the exception set, and
    leases_dealloc looks before anything hides it.
    """

    cdef Port port
    cdef Lease current
    cdef object raised          # what the loop's body raised, when the iterator dies of it
    cdef Py_ssize_t prefetch
    cdef object timeout
    cdef uint64_t lease_ns
    cdef bint extend
    cdef list ahead             # leases that the loop has not come to, the next one last

    def __iter__(self):
        return self

    def __next__(self):
        self._finish()
        if not self.port.closed:
            try:
                return self.take(self.timeout)
            except (Closed, ShutDown): # closed in this process while it waited; or shut, and empty
                pass
            except Empty:
                pass
        raise StopIteration

    def __aiter__(self):
        return self

    def __anext__(self):
        return self.port._anext(self, self.timeout)

    def _finish(self) -> None:
        """The loop's body has ended."""
        try:
            self.finish(None)
        except LeaseLost as error: # it is done, and cannot be told otherwise
            self.port._late(error)

    def _take(self) -> Lease:
        """The next lease, if there is one now. Raises Empty and what receive raises."""
        return self.take(0)

    cdef Lease take(self, object timeout):
        cdef double seconds = patience_of(timeout)
        while True:
            if self.ahead:
                if self.come_to(<Lease>self.ahead.pop()):
                    return self.current
                continue
            if self.prefetch > 1:
                self.ahead = self.port.receive_ahead(self.prefetch, seconds, self.lease_ns, True)
                self.ahead.reverse()
                continue
            self.current = self.port.receive_for(seconds, self.lease_ns, True, True)
            if self.extend:
                self.port.extend_by_itself(self.current)
            return self.current

    cdef bint come_to(self, Lease lease) except -1:
        """The loop is where this prefetched lease is next: begin its time. False: it was over."""
        try:
            if lease.lease_ns:
                lease.extend()
        except LeaseLost:
            return False
        lease.begin()
        self.current = lease
        if self.extend:
            self.port.extend_by_itself(lease)
        return True

    cdef int finish(self, object error) except -1:
        """The body of the loop has ended, or has raised this."""
        cdef Lease lease = self.current
        self.current = None
        if lease is not None and lease.state == HAND_OPEN:
            if error is None:
                lease.ack()
            else:
                lease.settle_failed(SHMQ_BY_POLICY, error)
        return 0

    def __dealloc__(self):
        cdef Lease lease
        try:
            self.finish(self.raised)
        except ShmqError:
            pass # lost in the meantime: it is being redelivered, which is all that a nack could do
        for lease in reversed(self.ahead or ()): # the oldest first: they come back in their order
            if lease.state == HAND_OPEN:
                try:
                    lease.release()
                except ShmqError:
                    pass


# Cython's own deallocator sets the current exception aside before it calls __dealloc__.
cdef destructor leases_dealloc_by_cython = (<PyTypeObject *>Leases).tp_dealloc


cdef void leases_dealloc(PyObject *leases) noexcept:
    cdef PyObject *kind = NULL
    cdef PyObject *error = NULL
    cdef PyObject *trace = NULL
    if PyErr_Occurred() != NULL:
        PyErr_Fetch(&kind, &error, &trace)
        PyErr_NormalizeException(&kind, &error, &trace)
        if trace != NULL and error != NULL:
            PyException_SetTraceback(error, trace) # as the interpreter does where somebody catches it
        (<Leases>leases).raised = <object>(error if error != NULL else kind)
        PyErr_Restore(kind, error, trace)
    leases_dealloc_by_cython(leases)


(<PyTypeObject *>Leases).tp_dealloc = leases_dealloc
