# A segment's birth and identity, for shmq._segment.

cdef uint64_t own_identity() except 0:
    cdef uint64_t owner = shmq_owner_self()
    cdef int failure = errno
    if owner == 0:
        path = f"/dev/shm/.shmq-{_os.geteuid()}.lock"
        if failure in (EMFILE, ENFILE):
            raise OSError(failure, _os.strerror(failure), path)
        if failure == ENOMEM:
            raise OutOfMemory(f"{path} needs 4,096 bytes of address space, and this process may not have so many more: "
                              "raise its limit (`ulimit -v`, RLIMIT_AS)")
        if failure == ENOSPC:
            raise OutOfMemory(f"/dev/shm has no room for another file, not even for {path}: unlink what is no longer used (`shmq ls`), or enlarge it")
        if failure in (ENOENT, EROFS) or not _os.access("/dev/shm", _os.W_OK | _os.X_OK, effective_ids=True):
            raise NoSharedMemory("queues are in /dev/shm, and " + (
                "there is none: mount a tmpfs there" if not _os.path.isdir("/dev/shm") else
                "it is read-only, or this user may not write to it: remount it (`mount -o remount,rw /dev/shm`), or give it mode 1777"))
        raise SegmentForeign(f"cannot lock {path}: it must be a regular file of this user, of mode 0600, and with one name. "
                             "Whose it is says `ls -l`; where it is not yours, its owner or root must remove it")
    return owner


def identity() -> int:
    """This process's identity: the byte that it holds locked in the user's lock file."""
    return own_identity()


def alive(uint64_t owner) -> bool:
    """Does the process of this identity live? By the kernel's lock, not by its pid."""
    return shmq_owner_alive(owner)


def try_lock(uint64_t key) -> bool:
    """Take the named lock between this user's processes (and threads); False where somebody has it. Raises as lock_inode."""
    lock_inode()
    return shmq_owner_lock(key)


def unlock(uint64_t key) -> None:
    """Give it back."""
    shmq_owner_unlock(key)


# By thread: the keys of the name locks that it holds or waits for, and what is to be done once it has none.
cdef dict name_locks = {}


cdef tuple this_thread():
    """A thread of this process: after a fork the entries of the parent's threads are nobody's."""
    return shmq_owner_forks, PyThread_get_thread_ident()


@cython.no_gc_clear # it gives the lock back when it is deallocated
cdef class NameLock:
    """One opener of a name at a time, over all processes of this user and all threads of this one: ``with NameLock(…):``, once.

    No Python code runs between taking the lock and knowing of it, so that an exception of a signal handler finds it either known
    or not taken; and where it strikes before the `with` statement has begun, the object is dropped, and the lock with it.

    What runs inside (a signal handler, a finalizer) never waits for its own thread: it is refused the same name at once, and
    what handles have to do when they are closed is done afterwards (`after_name_lock`).

    **Waits** up to `patience` seconds, then **raises** ShmqError that says who has it; also SegmentForeign, NoSharedMemory.
    """

    cdef readonly str name
    cdef uint64_t key, forks
    cdef double patience
    cdef bint taken
    cdef tuple thread, under

    def __init__(self, str name, uint64_t key, double patience):
        self.name = name
        self.key = key
        self.patience = patience

    def __enter__(self):
        cdef uint64_t deadline = shmq_now_ns() + <uint64_t>(self.patience * 1e9)
        lock_inode()
        thread = this_thread()
        under = name_locks.get(thread)
        if under is None:
            under = [], []
            name_locks[thread] = under
        elif self.key in under[0]:
            raise ShmqError(f"{self.name!r} is being opened or removed by this thread: what runs in the middle of that, such "
                            "as a signal handler, must use another name, or wait until it is done")
        under[0].append(self.key)
        self.thread, self.under, self.forks = thread, under, shmq_owner_forks
        try:
            while not shmq_owner_lock(self.key):
                if shmq_now_ns() > deadline:
                    pid = shmq_owner_holder(self.key)
                    raise ShmqError(f"{f'pid {pid}' if pid else 'another process'} has been opening or removing {self.name!r} for "
                                    f"{self.patience:.0f} s: is it stopped? Let it go on, or kill it")
                with nogil:
                    usleep(500)
                PyErr_CheckSignals()
            self.taken = True # nothing between this and the lock
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        self.unlock()
        self.run_put_off()
        return None

    cdef void unlock(self) noexcept:
        if self.taken and self.forks == shmq_owner_forks: # in a forked child the lock was the parent's
            shmq_owner_unlock(self.key)
        self.taken = False

    cdef int run_put_off(self) except -1:
        """This thread has one lock less; with the last one comes the time for what was put off."""
        if self.under is None:
            return 0
        keys, afterwards = self.under
        self.under = None
        keys.remove(self.key)
        if keys:
            return 0
        name_locks.pop(self.thread, None)
        while afterwards:
            try:
                afterwards.pop()()
            except Exception: # no caller would hear it: the next process that opens that name finds what was left
                pass
        return 0

    def __dealloc__(self):
        self.unlock()
        if self.under is not None:
            self.under[0].remove(self.key)
            if not self.under[0]:
                name_locks.pop(self.thread, None)


def after_name_lock(function) -> bool:
    """Call the function once this thread has given back its name locks; False, and nothing, where it has none."""
    under = name_locks.get(this_thread())
    if under is None:
        return False
    under[1].append(function)
    return True


def lock_inode() -> int:
    """The inode of the lock file of the user that this process runs as. Raises SegmentForeign where it is known by another's."""
    if not shmq_owner_is_this_user():
        raise SegmentForeign(f"this process opened queues before it became user {_os.geteuid()}, and is known to others by the lock "
                             "file of the user that it was: open this user's queues in a new process")
    own_identity()
    return shmq_owner_lock_inode()


def segment_bytes(slots, slot_size, in_flight, ports) -> int:
    """Size of a segment of this geometry; 0 where the numbers are out of the format's bounds."""
    cdef shmq_geometry geometry
    return geometry.segment_bytes if lay_out(&geometry, slots, slot_size, in_flight, ports) else 0


cdef bint lay_out(shmq_geometry *geometry, slots, slot_size, in_flight, ports) except -1:
    """False where the numbers are out of the format's bounds."""
    if not 0 < slots < 1 << 32 or not 0 < slot_size < 1 << 63 or not 0 < in_flight < 1 << 31 or not 0 < ports < 1 << 31:
        return False
    return compute_geometry(slots, slot_size, in_flight + reserved_cells(slot_size, ports), ports, geometry)


def reserved_cells(slot_size, ports) -> int:
    """In-flight cells that loans and leases leave to put and get; a segment has so many more than its in_flight."""
    return SHMQ_RESERVED_WHERE_PAGED if slot_size >= SHMQ_PAGE else ports


cdef uint32_t flags_of(dict header) except? 0:
    """The flags of a header that is to be written: each by the name under which `read_header` tells it, True or left out."""
    cdef uint32_t flags = 0
    if header.get("spills"):
        flags |= SHMQ_SPILLS
    if header.get("pickles"):
        flags |= SHMQ_PICKLES
    if header.get("grows"):
        flags |= SHMQ_GROWS
    if header.get("with_creator"):
        flags |= SHMQ_WITH_CREATOR
    if header.get("with_handles"):
        flags |= SHMQ_WITH_HANDLES
    if header.get("anonymous"):
        flags |= SHMQ_ANONYMOUS
    return flags


def format_segment(memory, dict header) -> None:
    """Write header and cells into zeroed memory. It can be attached only after mark_ready.

    `header`: the fields that the creator chooses, by the names under which `read_header` tells them. **Raises** KeyError, ValueError.
    """
    cdef Py_buffer buffer
    cdef shmq_geometry geometry
    cdef shmq_policy policy = header # those of its fields that a policy has
    cdef uint64_t nonce = header["nonce"], pid = header["creator_pid"]
    cdef uint32_t flags = flags_of(header)
    cdef bytes codec = header["codec"].encode("ascii"), boot_id = header["boot_id"]
    if len(boot_id) != 16 or not lay_out(&geometry, header["slots"], header["slot_size"], header["in_flight"], header["ports"]):
        raise ValueError("geometry out of bounds")
    cdef uint64_t inode = lock_inode(), owner = own_identity()
    PyObject_GetBuffer(memory, &buffer, PyBUF_WRITABLE)
    if <uint64_t>buffer.len >= geometry.segment_bytes:
        shmq_segment_format(buffer.buf, &geometry, nonce, flags, PyBytes_AS_STRING(codec), <const uint8_t *>PyBytes_AS_STRING(boot_id),
                            owner, inode, &policy)
        (<shmq_header *>buffer.buf).creator_pid = pid
    PyBuffer_Release(&buffer)


def mark_ready(memory) -> None:
    """Store the magic word: from now on others may attach."""
    cdef Py_buffer buffer
    PyObject_GetBuffer(memory, &buffer, PyBUF_WRITABLE)
    shmq_segment_ready(buffer.buf)
    PyBuffer_Release(&buffer)


cdef object mismatch_of(const shmq_header *header):
    """What is in the way of reading a segment, in words."""
    cdef uint64_t magic = shmq_load_acquire(&header.magic) # [ready]
    if magic != SHMQ_MAGIC:
        return f"it is no segment of shmq's: its magic is {magic:#018x}. Remove it by hand"
    if header.endian != SHMQ_ENDIAN:
        return f"it was made on a machine of another byte order (mark {header.endian:#x}). Unlink it"
    age = "an older" if header.version < SHMQ_VERSION else "a newer"
    return (f"{age} shmq made it, in format version {header.version}; this one reads version {SHMQ_VERSION}. "
            "Use one shmq in all programs, or stop those that have it open, and unlink it")


def read_header(memory) -> dict | None:
    """What the header of a segment of any kind says, checked against its size; None: not ready. Raises SegmentMismatch, SegmentCorrupt."""
    cdef Py_buffer buffer
    cdef shmq_header *header
    cdef shmq_status status
    PyObject_GetBuffer(memory, &buffer, PyBUF_SIMPLE)
    try:
        status = look_at_header(&buffer)
        if status == SHMQ_WOULD_BLOCK:
            return None
        if status == SHMQ_MISMATCH:
            if <uint64_t>buffer.len < sizeof(shmq_header):
                raise SegmentMismatch(f"{buffer.len} bytes are too few for a segment of shmq. Remove it by hand")
            raise SegmentMismatch(mismatch_of(<shmq_header *>buffer.buf))
        if status != SHMQ_OK:
            raise contradiction(buffer.len)
        header = <shmq_header *>buffer.buf
        return {
            "kind": header.kind, "ports": header.ports, "nonce": header.nonce, "creator": header.creator,
            "creator_pid": header.creator_pid, "created_at": header.created_unix_ns * 1e-9, "lock_inode": header.lock_inode,
            "boot_id": PyBytes_FromStringAndSize(<const char *>header.boot_id, 16),
            "spills": header.flags & SHMQ_SPILLS != 0, "pickles": header.flags & SHMQ_PICKLES != 0, "grows": header.flags & SHMQ_GROWS != 0,
            "with_creator": header.flags & SHMQ_WITH_CREATOR != 0, "with_handles": header.flags & SHMQ_WITH_HANDLES != 0,
            "anonymous": header.flags & SHMQ_ANONYMOUS != 0,
        }
    finally:
        PyBuffer_Release(&buffer)


cdef shmq_status look_at_header(const Py_buffer *buffer) noexcept:
    """OK: the header is one, and the ports that it speaks of are there, whatever the segment holds."""
    cdef shmq_header *header = <shmq_header *>buffer.buf
    cdef uint64_t nbytes = <uint64_t>buffer.len
    cdef shmq_segment_kind kind = SHMQ_KIND_QUEUE
    if nbytes >= sizeof(shmq_header):
        kind = <shmq_segment_kind>header.kind
    cdef shmq_status status = shmq_segment_look(header, nbytes, kind)
    if status == SHMQ_OK and (header.segment_bytes > nbytes or not ports_fit(header.ports, nbytes)):
        return SHMQ_CORRUPT
    return status


cdef object contradiction(Py_ssize_t nbytes):
    return SegmentCorrupt(f"its header's numbers contradict each other or its size of {nbytes:,} bytes. Unlink it, and create it again")


def read_queue(memory) -> dict:
    """What the header of a queue says besides, by the names of the format. Raises SegmentCorrupt."""
    cdef Py_buffer buffer
    cdef shmq_geometry geometry
    cdef shmq_queue_header *header
    PyObject_GetBuffer(memory, &buffer, PyBUF_SIMPLE)
    try:
        if shmq_segment_check(buffer.buf, <uint64_t>buffer.len, &geometry) != SHMQ_OK:
            raise contradiction(buffer.len)
        header = <shmq_queue_header *>buffer.buf
        return {
            "slots": geometry.slots, "slot_size": geometry.slot_size, "ports": geometry.ports,
            "in_flight": geometry.cells - reserved_cells(geometry.slot_size, geometry.ports),
            "codec": PyBytes_FromStringAndSize(header.codec, 32).rstrip(b"\0").decode("ascii", "replace"),
            **header.policy, # each field by its name in the format
        }
    finally:
        PyBuffer_Release(&buffer)


def begin_segment(memory, uint32_t kind, dict header) -> None:
    """Write what the header of a segment of any kind says into zeroed memory; the kind lays out the rest. Ready after mark_ready."""
    cdef Py_buffer buffer
    cdef uint64_t nonce = header["nonce"], pid = header["creator_pid"]
    cdef uint32_t ports = header["ports"], flags = flags_of(header)
    cdef bytes boot_id = header["boot_id"]
    cdef uint64_t inode = lock_inode(), owner = own_identity()
    PyObject_GetBuffer(memory, &buffer, PyBUF_WRITABLE)
    if len(boot_id) == 16 and ports_fit(ports, <uint64_t>buffer.len):
        shmq_segment_begin(buffer.buf, <shmq_segment_kind>kind, <uint64_t>buffer.len, ports, nonce, <const uint8_t *>PyBytes_AS_STRING(boot_id), owner, inode)
        (<shmq_header *>buffer.buf).flags = flags
        (<shmq_header *>buffer.buf).creator_pid = pid
    PyBuffer_Release(&buffer)


def attachments(memory, uint64_t apart_from=0) -> tuple:
    """How many ports of a segment living processes (apart from the one of this identity) have attached, the pids of the dead ones, how
    many were ever attached."""
    cdef Py_buffer buffer
    cdef shmq_port_record *records
    cdef uint32_t i, ports, living = 0
    cdef uint64_t owner, ever = 0
    dead = []
    PyObject_GetBuffer(memory, &buffer, PyBUF_SIMPLE)
    if look_at_header(&buffer) == SHMQ_OK:
        ever = shmq_load_relaxed(&(<shmq_header *>buffer.buf).attachments)
        ports = (<shmq_header *>buffer.buf).ports # read once, checked, used
        records = <shmq_port_record *>(<char *>buffer.buf + sizeof(shmq_header))
        for i in range(ports if ports_fit(ports, <uint64_t>buffer.len) else 0):
            owner = shmq_load_acquire(&records[i].owner) # [port]
            if owner and (owner == apart_from or shmq_owner_alive(owner)):
                living += owner != apart_from
            elif owner:
                dead.append(shmq_load_relaxed(&records[i].pid))
    PyBuffer_Release(&buffer)
    return living, dead, ever


cdef extern from "<sys/mman.h>" nogil:
    enum: PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE
    void *MAP_FAILED
    void *map_pages "mmap"(void *address, size_t nbytes, int protection, int flags, int descriptor, int64_t offset)
    int unmap_pages "munmap"(void *address, size_t nbytes)


@cython.final
cdef class Mapping:
    """A mapped file, until nobody has a buffer of it any more. `private`: what is written stays in this process.

    Keeps no descriptor, as mmap.mmap does before Python 3.13: where the program has closed that one, its number may be a file of the
    program's by the time that the mapping goes, and would be closed with it.
    """

    cdef void *address
    cdef size_t size
    cdef bint readonly

    def __cinit__(self, int descriptor, uint64_t nbytes, bint private=False, bint readonly=False):
        self.size = nbytes
        self.readonly = readonly
        self.address = map_pages(NULL, nbytes, PROT_READ if readonly else PROT_READ | PROT_WRITE, MAP_PRIVATE if private else MAP_SHARED, descriptor, 0)
        if self.address == MAP_FAILED:
            self.address = NULL
            raise OSError(errno, _os.strerror(errno))

    def __len__(self):
        return self.size

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.address, <Py_ssize_t>self.size, self.readonly, flags)

    def __dealloc__(self):
        if self.address != NULL:
            unmap_pages(self.address, self.size)


def serial_of(uint64_t message_id) -> int:
    """The serial of the port that gave a message its id; side segments are named by such ids, too."""
    return message_id >> SHMQ_ID_BITS


def monotonic_ns() -> int:
    """CLOCK_MONOTONIC, the clock of every time inside a segment."""
    return shmq_now_ns()


MAX_CELLS = SHMQ_MAX_CELLS
MAX_SLOTS = SHMQ_MAX_SLOTS - SHMQ_MAX_CELLS  # so that a word has room for the most cells beside them
PAGE = SHMQ_PAGE
KIND_QUEUE = SHMQ_KIND_QUEUE
ITEMS, SPACE, DONE = SHMQ_ITEMS, SHMQ_SPACE, SHMQ_DONE # the sides at which one waits
SLICE = SHMQ_SLICE_MS * 1e-3
