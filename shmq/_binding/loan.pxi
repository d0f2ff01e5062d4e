# Loan: an empty slot in the hands of a user, to write in.

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
    def array(self):
        """The slot as a writable array of the shape and dtype that was asked for; read-only once published."""
        with cython.critical_section(self.port):
            return self.array_of_it()

    cdef object array_of_it(self):
        cdef shmq_slot header = self.header
        need_numpy()
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
        cdef shmq_slot *header = shmq_slot_at(&self.port.port.queue, shmq_word_slot(self.word))
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
            publish_cell(self.port, self.cell, seconds)
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
            PyArray_CLEARFLAGS(<PyArrayObject *>array, NPY_ARRAY_WRITEABLE) # the slot is no longer ours to write
        self.return_cell(warm)

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
        """Make the message visible to consumers; the event loop goes on while the ring is full. Cancelled, the loan stays open."""
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
                self.return_cell(True)

    def __repr__(self):
        return f"<shmq.Loan of {self.header.nbytes:,} bytes in {self.port.name!r}{'' if self.state == HAND_OPEN else ', settled'}>"


cdef Loan lend_empty(QueuePort queue, object shape, object dtype):
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
    if shmq_unlikely(queue.forks != shmq_owner_forks):
        queue.enter()
    if header.nbytes > queue.port.queue.geometry.slot_size:
        raise MessageTooLarge(f"a loan of {header.nbytes:,} bytes does not fit into a slot of queue {queue.name!r} "
                              f"({queue.port.queue.geometry.slot_size:,} bytes): create the queue with a larger slot_size")
    if header.nbytes + header.described > queue.port.queue.geometry.payload_room:
        raise MessageTooLarge(f"a loan of {header.nbytes:,} bytes and {header.described:,} that describe its dtype and shape does not fit into "
                              f"a slot of queue {queue.name!r} ({queue.port.queue.geometry.slot_size:,} bytes): create the queue with "
                              f"slot_size={header.nbytes + header.described}, or larger")
    status = shmq_cell_take_for_long(&queue.port.queue, SHMQ_TO_WRITE, &cell)
    if shmq_unlikely(status != SHMQ_OK):
        shmq_reap(&queue.port.any)
        status = shmq_cell_take_for_long(&queue.port.queue, SHMQ_TO_WRITE, &cell)
    if shmq_unlikely(status != SHMQ_OK):
        take_patiently_for_loan(queue, &cell, status)
    shmq_cell_become(&queue.port.queue, cell, SHMQ_LOANED)
    loan.word = shmq_cell_load(&queue.port.queue, cell)
    queue.check_slot(shmq_word_slot(loan.word))
    loan.port = queue
    loan.cell = cell
    loan.data = <char *>shmq_payload_at(&queue.port.queue, shmq_word_slot(loan.word))
    memcpy(&loan.header, &header, sizeof(header))
    if description is not None:
        memcpy(loan.data + header.nbytes, PyBytes_AS_STRING(description), header.described)
    loan.forks = queue.attached_forks
    loan.writable = True
    loan.state = HAND_OPEN
    queue.users += 1
    return loan


cdef int take_patiently_for_loan(QueuePort queue, uint32_t *cell, shmq_status status) except -1:
    """Wait for the calls of others that hold cells. Pre: there was none to take, `status` says why."""
    cdef shmq_patience patience
    cdef uint64_t deadline = shmq_now_ns() + CELL_PATIENCE_NS
    memset(&patience, 0, sizeof(patience))
    while status != SHMQ_OK:
        if status == SHMQ_NO_CELLS and not shmq_cells_move(&queue.port.queue, True):
            raise InFlightLimit(queue._in_flight_report())
        if wait(queue, status, SHMQ_SPACE, deadline, &patience) == SHMQ_TIMED_OUT:
            raise InFlightLimit(queue._in_flight_report())
        queue.look_again()
        status = shmq_cell_take_for_long(&queue.port.queue, SHMQ_TO_WRITE, cell)
    return 0


cdef int publish_cell(QueuePort queue, uint32_t cell, double seconds) except -1:
    """Give a loaned cell's slot to the ring. On an exception the loan is as it was. Closing the handle does not end it."""
    cdef shmq_patience patience
    cdef shmq_status status
    cdef uint64_t deadline = deadline_of(seconds), forks = shmq_owner_forks
    cdef uint32_t slot = shmq_word_slot(shmq_cell_load(&queue.port.queue, cell)) # read once, checked, used: it is in shared memory
    queue.check_slot(slot)
    memset(&patience, 0, sizeof(patience))
    shmq_slot_stamp(&queue.port.queue, shmq_slot_at(&queue.port.queue, slot))
    if queue.unbounded:
        return publish_growing(queue, cell, slot)
    while True:
        status = shmq_offer(&queue.port.queue, cell, True)
        if shmq_likely(status == SHMQ_OK):
            return 0
        if wait(queue, status, SHMQ_SPACE, deadline, &patience) == SHMQ_TIMED_OUT:
            raise_full(queue, status, seconds)
        if forks != shmq_owner_forks:
            raise LeaseLost(f"this process was forked while a loan of queue {queue.name!r} was published: the loan is its parent's")
