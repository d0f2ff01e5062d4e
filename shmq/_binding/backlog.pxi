# The log of a queue without a bound, under the backlog's lock: append, move into the ring, look. What is in it: shmq/_store/backlog.py.
#
# A thread that has the lock runs no Python code. Otherwise a signal handler, a finalizer or another thread could come in between and
# want the lock, too, for which its own thread would wait for ever. So nothing here raises, and no object is made that the collector
# knows. A status says what failed, which is raised when the lock is free again. A fork finds the lock free: it is another process's.

cdef extern from "<sys/stat.h>" nogil:
    struct file_status "stat":
        uint64_t st_dev
        uint64_t st_ino
    int fstat(int descriptor, file_status *found)

cdef extern from "<unistd.h>" nogil:
    Py_ssize_t pread(int descriptor, void *into, size_t nbytes, int64_t offset)
    Py_ssize_t pwrite(int descriptor, const void *data, size_t nbytes, int64_t offset)
    int ftruncate(int descriptor, int64_t nbytes)

cdef enum:
    LOG_HEAD = 0 # words of the log's first page
    LOG_TAIL = 1
    LOG_AT_WORK = 2
    LOG_WORD = 8
    LOG_START = 4096 # where the records begin
    LOG_CHUNK = 1 << 18 # bytes that are read at once


cdef inline uint64_t log_word(const shmq_word *words, int which) noexcept:
    return shmq_load_acquire(&words[which]) # [log]


cdef inline void set_log_word(shmq_word *words, int which, uint64_t value) noexcept:
    shmq_store_release(&words[which], value) # [log]


cdef inline void set_backlog(shmq_queue_port *queue, uint64_t count) noexcept:
    shmq_store_seq(&queue.header.backlog, count) # [park]


cdef struct identity_t:
    uint64_t device, inode


cdef bint identify(int descriptor, identity_t *identity) noexcept:
    cdef file_status found
    if descriptor < 0 or fstat(descriptor, &found) != 0:
        return False
    identity.device = found.st_dev
    identity.inode = found.st_ino
    return True


cdef bint is_descriptor_of(int descriptor, const identity_t *identity) noexcept:
    """Does the descriptor lead to this file? Its number says nothing: a program may close it, and open a file of its own by it."""
    cdef identity_t found
    return identify(descriptor, &found) and found.device == identity.device and found.inode == identity.inode


cdef class Log:
    """The file of a backlog: its first page, which is mapped, and a descriptor. Base of shmq._store.backlog.Backlog, which opens it."""

    cdef Py_buffer memory
    cdef shmq_word *words
    cdef int descriptor
    cdef identity_t identity
    cdef char *buffer           # of what was read
    cdef int failure            # errno of what said SYSTEM
    cdef uint64_t room, at, filled, offset  # its size; from where to where it is full; where in the file `at` is

    def __cinit__(self, *arguments):
        self.memory.buf = NULL
        self.buffer = NULL
        self.room = 0
        self.descriptor = -1

    def _use(self, memory, int descriptor) -> None:
        """The first page, and a descriptor of the same file, which this log closes in the end."""
        self.descriptor = descriptor
        identify(descriptor, &self.identity)
        PyObject_GetBuffer(memory, &self.memory, PyBUF_WRITABLE)
        self.words = <shmq_word *>self.memory.buf

    def _open_again(self) -> int:
        """A descriptor of the file, by its name. Raises SegmentCorrupt where the name leads elsewhere."""
        raise NotImplementedError

    def _failure(self, int failure, uint64_t nbytes) -> BaseException:
        """What to raise where so many bytes could not be written, or read, for that errno."""
        raise NotImplementedError

    def _is(self, int descriptor) -> bool:
        return is_descriptor_of(descriptor, &self.identity)

    cdef bint is_at_hand(self) noexcept:
        return is_descriptor_of(self.descriptor, &self.identity)

    cdef int be_at_hand(self) except -1:
        """Where the program closed the descriptor, and perhaps opened another file that has its number: have one of our own again."""
        if not self.is_at_hand():
            self.descriptor = -1 # it is not ours to close
            self.descriptor = self._open_again()
        return 0

    def __dealloc__(self):
        if self.is_at_hand():
            close_descriptor(self.descriptor)
        if self.memory.buf != NULL:
            PyBuffer_Release(&self.memory)
        PyMem_RawFree(self.buffer)

    cdef shmq_status begin(self, shmq_queue_port *queue) noexcept:
        """Repair what a dead one left, and say that we are at work. LOST: the descriptor is not ours; CORRUPT."""
        cdef uint64_t tail = max(log_word(self.words, LOG_TAIL), <uint64_t>LOG_START), count
        cdef shmq_status status
        if not self.is_at_hand():
            return SHMQ_LOST
        if log_word(self.words, LOG_TAIL) < LOG_START or log_word(self.words, LOG_HEAD) > tail:
            set_log_word(self.words, LOG_TAIL, tail) # new, or killed while it was emptied
            set_log_word(self.words, LOG_HEAD, tail)
        if log_word(self.words, LOG_AT_WORK):
            status = self.count(&count)
            if status != SHMQ_OK:
                return status
            set_backlog(queue, count)
        set_log_word(self.words, LOG_AT_WORK, 1)
        return SHMQ_OK

    cdef void end(self) noexcept:
        set_log_word(self.words, LOG_AT_WORK, 0)

    cdef shmq_status count(self, uint64_t *count) noexcept:
        """How many records there are."""
        cdef shmq_status status
        cdef uint64_t nbytes
        count[0] = 0
        self.rewind()
        while True:
            status = self.next(&nbytes, False)
            if status != SHMQ_OK:
                return SHMQ_OK if status == SHMQ_WOULD_BLOCK else status
            count[0] += 1

    cdef void rewind(self) noexcept:
        self.offset = log_word(self.words, LOG_HEAD)
        self.at = self.filled = 0

    cdef shmq_status next(self, uint64_t *nbytes, bint whole) noexcept:
        """Go behind the next record, whose image has *nbytes bytes; WOULD_BLOCK: there is none. CORRUPT; SYSTEM. `whole`: read it."""
        cdef uint64_t left, size
        left = log_word(self.words, LOG_TAIL) - self.offset
        if self.offset >= log_word(self.words, LOG_TAIL):
            return SHMQ_WOULD_BLOCK
        if not self.fill(LOG_WORD, left):
            return SHMQ_SYSTEM
        memcpy(nbytes, self.buffer + self.at, LOG_WORD)
        if left < LOG_WORD or nbytes[0] > left - LOG_WORD:
            return SHMQ_CORRUPT
        size = record_bytes(nbytes[0])
        if whole and not self.fill(size, left):
            return SHMQ_SYSTEM
        self.offset += size
        self.at = min(self.at + size, self.filled)
        return SHMQ_OK

    cdef const char *image(self, uint64_t nbytes) noexcept:
        """The image in the record that was just read as a whole."""
        return self.buffer + self.at - record_bytes(nbytes) + LOG_WORD

    cdef bint fill(self, uint64_t wanted, uint64_t left) noexcept:
        """Have so many bytes from `offset` on in the buffer, of `left` that there are."""
        cdef uint64_t nbytes
        cdef Py_ssize_t got
        cdef char *larger
        if self.filled - self.at >= wanted:
            return True
        nbytes = min(max(wanted, <uint64_t>LOG_CHUNK), max(left, wanted))
        if nbytes > self.room:
            larger = <char *>PyMem_RawRealloc(self.buffer, nbytes)
            if larger == NULL:
                self.failure = ENOMEM
                return False
            self.buffer = larger
            self.room = nbytes
        self.at = self.filled = 0
        while self.filled < wanted:
            got = pread(self.descriptor, self.buffer + self.filled, nbytes - self.filled, <int64_t>(self.offset + self.filled))
            if got <= 0:
                self.failure = EIO if got == 0 else errno
                return False
            self.filled += <uint64_t>got
        return True

    cdef shmq_status append(self, shmq_queue_port *queue, const char *record, uint64_t nbytes) noexcept:
        """One record more. SYSTEM: nothing has changed."""
        cdef uint64_t tail, done = 0
        cdef Py_ssize_t written
        cdef shmq_status status = self.begin(queue)
        if status != SHMQ_OK:
            return status
        tail = log_word(self.words, LOG_TAIL)
        while done < nbytes:
            written = pwrite(self.descriptor, record + done, nbytes - done, <int64_t>(tail + done))
            if written < 0:
                self.failure = errno
                status = SHMQ_SYSTEM
                break
            done += <uint64_t>written
        if status != SHMQ_OK:
            ftruncate(self.descriptor, <int64_t>tail)
            self.end()
            return status
        set_backlog(queue, shmq_backlog(queue) + 1)
        set_log_word(self.words, LOG_TAIL, tail + nbytes)
        self.end()
        return SHMQ_OK

    cdef void moved(self, shmq_queue_port *queue) noexcept:
        """The record that was read last is in the ring."""
        set_log_word(self.words, LOG_HEAD, self.offset)
        set_backlog(queue, shmq_backlog(queue) - 1)

    cdef void free_moved(self) noexcept:
        """The memory of what was moved."""
        cdef uint64_t head = log_word(self.words, LOG_HEAD), whole = head // LOG_START * LOG_START
        if head == log_word(self.words, LOG_TAIL):
            set_log_word(self.words, LOG_TAIL, <uint64_t>LOG_START) # first: an empty log is one whose head is not below its tail
            set_log_word(self.words, LOG_HEAD, <uint64_t>LOG_START)
            ftruncate(self.descriptor, LOG_START)
        elif whole > LOG_START:
            fallocate(self.descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, LOG_START, <int64_t>(whole - LOG_START))
        if self.room > 4 * LOG_CHUNK:
            PyMem_RawFree(self.buffer)
            self.buffer = NULL
            self.room = 0


cdef inline uint64_t record_bytes(uint64_t nbytes) noexcept:
    return LOG_WORD + ((nbytes + LOG_WORD - 1) & ~<uint64_t>(LOG_WORD - 1))


cdef bytes record_of(const draft_t *draft):
    """The message as it lies in a log: the length of its image, the image, zeros up to the next boundary."""
    cdef uint64_t nbytes = image_bytes(draft), size = record_bytes(nbytes)
    cdef bytes record = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    cdef char *start = PyBytes_AS_STRING(record)
    memset(start + size - LOG_WORD, 0, LOG_WORD)
    memcpy(start, &nbytes, LOG_WORD)
    draft_image(draft, start + LOG_WORD)
    return record
