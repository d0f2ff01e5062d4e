# A slot in the hands of a user, and the views of it: what Loan and Lease have in common.

cdef enum hand_state:
    HAND_OPEN       # loaned, or leased
    HAND_HELD       # acked, but views of the slot are still alive
    HAND_LOST       # given back, or lost, but views of the slot are still alive
    HAND_PUBLISHING # a call is about to publish it, and may wait for room
    HAND_SETTLED    # published, abandoned, acked, given back, or lost


@cython.no_gc_clear # __dealloc__ needs the port
cdef class Slot:
    """A slot that this process holds, and the views of it. Base of Loan and Lease; not made by users."""

    cdef QueuePort port
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
            self.view_released()

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
                                   or shmq_load_acquire(&self.port.port.queue.cells[self.cell].word) == self.word) # [hand]

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
            shmq_lease_mark(&self.port.port.queue, self.cell, self.word, True)

    cdef bint watch_timed(self) except -1:
        """Before a view of a lease that may expire: say so. False: there is no room to say it. Raises LeaseLost."""
        cdef shmq_status status
        if shmq_likely(not self.timed or self.watching):
            return True
        status = shmq_view_begin(&self.port.port.queue, self.cell, self.word)
        if status == SHMQ_LOST:
            raise LeaseLost(f"the lease of a message in queue {self.port.name!r} has ended: it is another consumer's")
        self.watching = status == SHMQ_OK
        return self.watching

    cdef int check_open(self, str what) except -1:
        if self.state == HAND_PUBLISHING:
            raise LeaseLost(f"this loan of queue {self.port.name!r} is being published: it cannot be {what} any more")
        if self.state >= HAND_LOST or not self.is_mine():
            raise LeaseLost(f"this {type(self).__name__.lower()} of queue {self.port.name!r} is settled or lost: it cannot be {what} any more")
        return 0

    cdef object array_view(self, shmq_slot *header):
        """A zero-copy array whose life keeps the slot and the mapping. Pre: need_numpy, and check_open after it."""
        cdef View view
        if not self.watch_timed():
            array = self.copied(header)
            PyArray_CLEARFLAGS(<PyArrayObject *>array, NPY_ARRAY_WRITEABLE)
            return array
        view = View.__new__(View)
        view.slot = self
        self.look()
        if header.kind == SHMQ_ARRAY and header.flags & SHMQ_DESCRIBED:
            # Not over a memoryview: NumPy would keep what is behind that, and let the memoryview itself go.
            return described_array(self.port, header, self.data, view)
        array = array_over(self.port, header, self.data)
        if self.writable:
            PyArray_ENABLEFLAGS(<PyArrayObject *>array, NPY_ARRAY_WRITEABLE)
        Py_INCREF(view) # which the array takes over
        PyArray_SetBaseObject(<PyArrayObject *>array, view)
        return array

    cdef object copied(self, shmq_slot *header):
        """The object in the slot, which keeps the message meanwhile. Raises LeaseLost where it was another's before the copy was whole."""
        self.look()
        try:
            try:
                result = build(self.port, self.port.coding, header, self.data, self.port if self.side is None else self.side)
            except Exception:
                self.check_ours() # a torn copy is no news
                raise
            self.check_ours()
        finally:
            self.view_released()
        return result

    cdef int check_ours(self) except -1:
        """After a copy: the slot was ours all the time."""
        cdef bint lost = self.state == HAND_SETTLED and self.side is None
        if self.state == HAND_OPEN and self.timed and self.is_here():
            lost = shmq_load_acquire(&self.port.port.queue.cells[self.cell].word) != self.word # [hand]
        if lost:
            raise LeaseLost(f"the time of the lease of message {self.header.id} in queue {self.port.name!r} was over while it was read: "
                            "it is somebody else's. Use a longer lease_timeout=, extend(), or receive(extend=True)")
        return 0

    cdef void view_released(self) noexcept:
        self.views -= 1
        if self.views:
            return
        if self.is_here():
            self.port.looks[self.cell] -= 1 + (INSIDE if self.inside else 0)
        self.inside = False
        if self.watching:
            self.watching = False
            if self.is_here():
                shmq_view_release(&self.port.port.queue, self.cell)
        if self.state == HAND_HELD:
            self.state = HAND_SETTLED
            self.return_cell(True)
        elif self.state == HAND_LOST:
            self.state = HAND_SETTLED
            if self.is_here():
                self.port.end_use()

    cdef void return_cell(self, bint warm) noexcept:
        """The cell is IDLE or HELD, ours: return it, and let the port go if it only waited for us."""
        if self.side is not None:
            PyBuffer_Release(&self.side_memory)
            self.side_memory.buf = NULL
            self.side = None
        if self.is_here():
            shmq_cell_return(&self.port.port.queue, self.cell, warm)
            self.port.end_use()


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
                self.slot.view_released()
