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
