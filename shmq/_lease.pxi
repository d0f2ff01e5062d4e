# A slot in the user's hands: Loan (to write) and Lease (to read).

cdef enum hand_state:
    HAND_OPEN       # loaned, or leased
    HAND_HELD       # acked, but views of the slot are still alive
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
    cdef Py_ssize_t views       # alive, over `data`
    cdef object side            # the mapped side segment of a spilled message
    cdef Py_buffer side_memory

    def __cinit__(self):
        self.state = HAND_SETTLED
        self.side_memory.buf = NULL

    def __init__(self):
        raise TypeError("loans and leases come from a queue: use loan() or receive()")

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self.check_open("viewed")
        if not self.writable and flags & PyBUF_WRITABLE == PyBUF_WRITABLE:
            raise BufferError("a leased message is read-only")
        PyBuffer_FillInfo(buffer, self, self.data, <Py_ssize_t>self.header.nbytes, not self.writable, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.view_gone()

    @property
    def view(self) -> memoryview:
        """The payload as a memoryview over the slot; no copy."""
        return PyMemoryView_FromObject(self)

    @property
    def nbytes(self) -> int:
        """Size of the payload in bytes."""
        return self.header.nbytes

    cdef int check_open(self, str what) except -1:
        if self.state == HAND_SETTLED or self.forks != shmq_owner_forks:
            raise LeaseLost(f"this {type(self).__name__.lower()} of queue {self.port.name!r} is settled or lost: it cannot be {what} any more")
        return 0

    cdef object array_view(self, shmq_slot *header):
        """A zero-copy array whose life keeps the slot and the mapping."""
        cdef cnp.ndarray array
        cdef View view
        view = View.__new__(View)
        view.slot = self
        self.views += 1
        if header.kind == SHMQ_ARRAY and header.flags & SHMQ_DESCRIBED:
            # Not over a memoryview: NumPy would keep what is behind that, and let the memoryview itself go.
            return described_array(self.port, header, self.data, view)
        array = array_over(self.port, header, self.data)
        if self.writable:
            PyArray_ENABLEFLAGS(array, cnp.NPY_ARRAY_WRITEABLE)
        cnp.set_array_base(array, view)
        return array

    cdef void view_gone(self) noexcept:
        self.views -= 1
        if self.views == 0 and self.state == HAND_HELD:
            self.state = HAND_SETTLED
            self.give_up_cell(True)

    cdef void give_up_cell(self, bint warm) noexcept:
        """The cell is IDLE or HELD, ours: return it, and let the port go if it only waited for us."""
        if self.side is not None:
            PyBuffer_Release(&self.side_memory)
            self.side_memory.buf = NULL
            self.side = None
        if self.forks == shmq_owner_forks:
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
            self.slot.view_gone()


@cython.final
@cython.no_gc_clear
cdef class Loan(Slot):
    """An empty slot to write a message in place.

    As a context manager it hands out the array (or memoryview), publishes on exit, and abandons on an exception.
    **If the process dies** before the publication, nothing was sent and the slot goes back.
    """

    cdef object handed          # weak reference to the array that was given out: the array keeps the loan, not both each other

    @property
    def array(self) -> cnp.ndarray:
        """The slot as a writable array of the shape and dtype that was asked for; read-only once published."""
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
        self.check_open("published")
        if nbytes is not None:
            if self.header.kind != SHMQ_BYTES or not 0 <= operator_index(nbytes) <= self.header.nbytes:
                raise ValueError(f"publish(nbytes={nbytes}) of a loan of {self.header.nbytes:,} bytes: only a loan taken by size shrinks")
        cdef shmq_slot *header = shmq_slot_at(&self.port.port, shmq_word_slot(self.word))
        header.nbytes = self.header.nbytes if nbytes is None else <uint64_t>nbytes
        header.kind = self.header.kind
        header.flags = self.header.flags
        header.ndim = self.header.ndim
        header.dtype = self.header.dtype
        header.itemsize = self.header.itemsize
        header.described = 0
        memcpy(header.shape, self.header.shape, sizeof(header.shape))
        self.port.publish_cell(self.cell, timeout)
        self.settle(False)

    def abandon(self) -> None:
        """Give the slot back unpublished. A second call does nothing."""
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

    def __dealloc__(self):
        if self.state == HAND_OPEN:
            self.state = HAND_SETTLED
            self.give_up_cell(True)

    def __repr__(self):
        return f"<shmq.Loan of {self.header.nbytes:,} bytes in {self.port.name!r}{'' if self.state == HAND_OPEN else ', settled'}>"


@cython.final
@cython.no_gc_clear
cdef class Lease(Slot):
    """A message taken with responsibility.

    It is gone from the queue once `ack` returns, and comes back to some consumer if this process dies, on `nack`, or when
    the lease is dropped unsettled. As a context manager: ack on exit, nack on an exception. Zero-copy views (`array`,
    `view`) stay valid as long as they live, also after the ack: the slot is returned when the last of them is gone.
    """

    cdef object decoded

    @property
    def data(self):
        """The object that was put: a copy, made on first use and kept."""
        cdef shmq_slot header
        if self.decoded is None:
            self.check_open("read")
            header = self.header # build may run Python code
            self.decoded = (build(self.port, &header, self.data),)
        return self.decoded[0]

    @property
    def array(self) -> cnp.ndarray:
        """The message as a read-only array over the slot, without a copy; of anything but an array: its bytes."""
        cdef shmq_slot header
        self.check_open("viewed")
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

    def ack(self) -> None:
        """Done: the message is gone. **Raises** LeaseLost where the lease had ended before. **Cost** one exchange."""
        self.settle(True, False)

    def nack(self) -> None:
        """Failed: give the message back at once; the attempt counts. **Raises** LeaseLost."""
        self.settle(False, True)

    def release(self) -> None:
        """Not mine after all: give the message back at once; the attempt does not count. **Raises** LeaseLost."""
        self.settle(False, False)

    cdef int settle(self, bint done, bint failed) except -1:
        cdef shmq_status status
        cdef bint spilled = self.header.flags & SHMQ_SPILLED != 0
        if self.state != HAND_OPEN or self.forks != shmq_owner_forks:
            raise LeaseLost(f"the lease of message {self.header.id} in queue {self.port.name!r} "
                            + ("belongs to the parent of this process" if self.state == HAND_OPEN else "was settled before"))
        if done:
            status = shmq_lease_ack(&self.port.port, self.cell, self.word, self.views > 0)
            if status == SHMQ_OK:
                if spilled:
                    self.port.segment.unlink_side(self.port.side_key(self.word))
                if self.views > 0:
                    self.state = HAND_HELD
                else:
                    self.state = HAND_SETTLED
                    self.give_up_cell(True)
                return 0
        else:
            status = shmq_lease_give_back(&self.port.port, self.cell, self.word, failed)
        self.state = HAND_SETTLED
        self.port.leave()
        if status != SHMQ_OK:
            raise LeaseLost(f"the lease of message {self.header.id} in queue {self.port.name!r} ended before: "
                            "the message was, or will be, delivered again")
        return 0

    def __enter__(self):
        self.check_open("entered")
        return self

    def __exit__(self, kind, value, traceback):
        if self.state == HAND_OPEN:
            self.settle(kind is None, True)

    def __dealloc__(self):
        if self.state == HAND_OPEN and self.forks == shmq_owner_forks:
            shmq_lease_give_back(&self.port.port, self.cell, self.word, True)
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

    A `break` counts as an end of the body. Loop over the queue itself: an iterator that is kept under a name outlives the
    loop, and acks when it dies or goes on. The difference is seen in the moment when the abandoned iterator dies: the
    interpreter unwinds a raising loop with the exception set, and leases_dealloc looks before anything hides it.
    """

    cdef Port port
    cdef Lease current
    cdef bint raised

    def __iter__(self):
        return self

    def __next__(self):
        self.finish(True)
        if self.port.closed:
            raise StopIteration
        try:
            self.current = <Lease>self.port.receive()
        except Closed: # closed in this process while it waited
            raise StopIteration from None
        return self.current

    cdef int finish(self, bint done) except -1:
        cdef Lease lease = self.current
        self.current = None
        if lease is not None and lease.state == HAND_OPEN:
            lease.settle(done, True)
        return 0

    def __dealloc__(self):
        try:
            self.finish(not self.raised)
        except ShmqError:
            pass # lost in the meantime: it is being redelivered, which is all that a nack could do


# Cython's own deallocator sets the current exception aside before it calls __dealloc__.
cdef destructor leases_dealloc_by_cython = (<PyTypeObject *>Leases).tp_dealloc


cdef void leases_dealloc(PyObject *leases) noexcept:
    (<Leases>leases).raised = PyErr_Occurred() != NULL
    leases_dealloc_by_cython(leases)


(<PyTypeObject *>Leases).tp_dealloc = leases_dealloc
