# An attachment: how a process comes to a segment of any kind, waits at it, and leaves. What the segment holds is asked of it: see the protocol.

@cython.no_gc_clear # as Mapped
cdef class Attachment(Mapped):
    """A port of a segment in this process: attached, waiting, closed. A subclass is what its kind of segment holds."""

    cdef readonly bint closed
    cdef bint attached
    cdef uint64_t attached_forks    # by the process of so many forks: `forks`, but for a closed handle
    cdef bint abandoned             # closed by the interpreter's exit, not by the user
    cdef bint left                  # the interpreter's exit has given back what nobody looked at
    cdef readonly bint spin
    cdef Py_ssize_t users           # what is in the hands of users, and calls that run Python code or have given up the interpreter lock
    cdef uint64_t name_looked_ns    # when the name was last looked at: see watch_name
    cdef public object _after_sleep # called whenever a call that waits here has slept for a while; what it raises ends the call
    cdef bytes path_prefix          # where the bells are: see bell.h
    cdef int bell                   # the descriptor of this port's own bell, or -1
    cdef identity_t bell_identity   # the file to which the bell's descriptor leads, unless the program has closed it
    cdef object __weakref__

    def __cinit__(self, *args, **kwargs):
        self.closed = True
        self.bell = -1

    # -- the protocol: asked of a kind. As they stand here, they are a segment's that holds nothing but ports ------------------------

    cdef shmq_status claim(self, uint64_t owner) noexcept:
        """Take a free port, once `map_port` has found the segment: OK, NO_PORTS."""
        self.port.any.spins = shmq_wait_cpus() > 1
        return shmq_port_claim(&self.port.any, owner)

    cdef int prepare(self) except -1:
        """The port is claimed: prepare what calls need. What this raises ends the attachment."""
        return 0

    cdef void free_port(self) noexcept:
        """Give back the port, and whatever it holds."""
        shmq_port_free(&self.port.any)

    cdef void give_back_leases(self, bint crashed) noexcept:
        """The interpreter ends: give back what nobody of this process can still use. `crashed`: it failed."""

    cdef int refuse_hopeless(self, shmq_status status, shmq_side side, shmq_patience *patience) except -1:
        """Before a wait, after a look that said `status`: raise where waiting is in vain."""
        return 0

    cdef bint tend(self) noexcept:
        """Take back what the dead held, if nobody has looked for a while. True: something came back."""
        return shmq_claim_look(&self.port.any, shmq_now_coarse_ns()) and shmq_reap(&self.port.any) != 0

    cdef uint64_t tend_all(self) noexcept:
        """Take back what is due; return when something will be (monotonic nanoseconds; SHMQ_FOREVER)."""
        self.tend()
        return SHMQ_FOREVER

    cdef shmq_status sleep(self, shmq_status status, shmq_side side, uint64_t deadline, shmq_patience *patience) noexcept nogil:
        """Sleep until a look is worth it, or a slice is over. Pre: a look has just said `status`."""
        return shmq_wait_park(&self.port.any, side, deadline, SHMQ_FOREVER, patience)

    cdef bint is_idle(self) noexcept:
        """Is there nothing to do for who waits here? Then the name may be another segment's."""
        return True

    def _worth(self, int side) -> int:
        """For how many who wait it is worth a try."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return self.port.any.behaviour.promising(&self.port.any, <shmq_side>side, False)

    def _ready(self) -> bool:
        """Would a call that takes something return at once?"""
        return self._worth(SHMQ_ITEMS) > 0

    def _spin(self, int side) -> bool:
        """Wait as short as a wait can be, awake: True where it helped."""
        return False

    # -- up-calls, as they are answered where Python has no answer. shmq/_upcalls.py declares them ------------------------------------

    _noun = "segment"

    def _attached(self) -> None:
        """Do nothing."""

    def _detached(self) -> None:
        """Do nothing."""

    def _interpreter_exits(self) -> None:
        """Do nothing."""

    def _holders(self) -> str:
        """The attached processes by their pids."""
        return ", ".join([f"pid {port.pid}" for port in self._ports()]) or "processes that have just left"

    def _look_at_name(self) -> None:
        """Do nothing."""

    def _stalled(self, seconds, unannounced) -> None:
        """Do nothing."""

    # -- opening ------------------------------------------------------------------------------------------------------

    def _open(self, segment, bint spin=True) -> None:
        """Attach to a mapped segment. Raises TooManyPorts, SegmentCorrupt, SegmentForeign; TypeError where it is open already."""
        self.refuse_open()
        self.open(segment, spin)

    cdef int refuse_open(self) except -1:
        if not self.closed or (self.attached and self.users):
            raise TypeError(f"this handle of {self._noun} {self.name!r} is open already: make another one")
        return 0

    cdef int open(self, segment, bint spin) except -1:
        """Pre: refuse_open."""
        self.unmap()
        self.segment = segment
        self.path_prefix = segment.path_prefix.encode()
        PyObject_GetBuffer(segment.memory, &self.memory, PyBUF_WRITABLE)
        self.spin = spin
        self.attach()
        self.closed = False
        return 0

    cdef int attach(self) except -1:
        cdef shmq_status status
        cdef uint64_t owner = own_identity(), begun = shmq_now_ns()
        cdef sem_t *semaphores[2]
        cdef int side
        if (<shmq_header *>self.memory.buf).lock_inode != shmq_owner_lock_inode(): # a forked child that is another user's now, or has another root
            raise SegmentForeign(f"{self._noun} {self.segment.name!r} was opened before this process became user {_os.geteuid()} or changed its root, and its "
                                 "users could not tell it from the dead: refused. Open it in a new process")
        for side in range(2):
            semaphores[side] = self.port.any.semaphores[side] # a forked child goes on with its parent's
        self.attached = False # in a forked child: the port was the parent's, and so was the bell
        self.close_bell()
        self.map_port()
        status = self.claim(owner)
        while status == SHMQ_NO_PORTS:
            shmq_reap(&self.port.any)
            status = self.claim(owner)
            if status != SHMQ_NO_PORTS or shmq_now_ns() - begun > REAPER_PATIENCE_NS or all([port.alive for port in self._ports()]):
                break
            usleep(1000) # another one is taking back what the dead had
        for side in range(2):
            self.port.any.semaphores[side] = semaphores[side]
        if status == SHMQ_NO_PORTS:
            raise TooManyPorts(f"all {self.port.any.ports} ports of {self.segment.name!r} are attached by living processes: "
                               f"{self._holders()}. Close handles, or create the {self._noun} with a larger ports=")
        try:
            for side in range(2):
                self.open_semaphore(<shmq_side>side)
            self.prepare()
        except BaseException:
            self.free_port()
            raise
        self.port.any.path_prefix = PyBytes_AS_STRING(self.path_prefix)
        if not self.spin:
            self.port.any.spins = False
        self.attached = True
        self.left = False
        self.forks = self.attached_forks = shmq_owner_forks
        self.users = 0
        shmq_reap(&self.port.any)
        try:
            self._attached()
        except BaseException: # a backlog that cannot be opened, an interrupt: nobody will close what was never opened
            self.detach()
            self.forks = <uint64_t>-1 # and the next call of a forked child begins here again
            raise
        return 0

    cdef int open_semaphore(self, shmq_side side) except -1:
        if self.port.any.semaphores[<int>side] != NULL:
            return 0
        name = self.segment.semaphore_name(side).encode()
        self.port.any.semaphores[<int>side] = shmq_semaphore_open(name)
        cdef int failure = errno
        if self.port.any.semaphores[<int>side] != NULL:
            return 0
        if failure == EPERM or failure == EACCES:
            raise SegmentForeign(f"sem.{name.decode()[1:]} in /dev/shm is not what was made with {self._noun} {self.segment.name!r}: "
                                 "it is another user's, no semaphore, or open to others; refused. Remove it, or let its owner or root do so")
        if failure != ENOENT:
            raise OSError(failure, _os.strerror(failure), f"/dev/shm/sem.{name.decode()[1:]}")
        raise SegmentCorrupt(f"the semaphore {name.decode()} of {self._noun} {self.segment.name!r} is gone from /dev/shm "
                             f"(a logout with systemd's RemoveIPC does that): `shmq doctor {self.segment.name}` makes a new one")

    cdef int enter(self) except -1:
        """The slow entrance: a closed handle, or the first call in a forked child, which attaches again."""
        if self.closed:
            if self.abandoned:
                self._interpreter_exits()
            raise Closed(f"this handle of {self._noun} {self.name!r} is closed: open it again" if self.segment is not None else "this handle was never opened")
        self.attach()
        return 0

    cdef int look(self) except -1:
        """A forked child looks through its parent's mapping, and attaches only to take part. Raises Closed."""
        return self.enter() if self.closed else 0

    cdef inline int look_again(self) except -1:
        """After Python code has run, or the interpreter lock was given up: the port may have been given back meanwhile, or be the
        parent's. Raises Closed; attaches in a forked child."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return 0

    # -- leaving ------------------------------------------------------------------------------------------------------

    cdef void end_use(self) noexcept:
        self.users -= 1
        if self.closed and self.users == 0:
            self.detach_and_tell()

    cdef void detach_and_tell(self) noexcept:
        """Detach, and tell: the segment may go with its last handle."""
        cdef bint had = self.attached
        self.detach()
        if had:
            try:
                self._detached()
            except Exception: # no caller would hear it: the next process that opens the name finds that it has outlived its handles
                pass

    cdef void detach(self) noexcept:
        """Free the port, unless it was inherited: then it is the parent's."""
        if self.attached and self.port.any.owner == shmq_owner_self():
            self.free_port()
        self.attached = False

    @cython.critical_section
    def close(self) -> None:
        """Let go of the segment in this process. What is already in the hands of users can still be settled.

        A second call does nothing. Other calls raise Closed afterwards; one that is waiting does so within 0.1 s.
        """
        if self.closed:
            return
        self.closed = True
        cdef bint inherited = self.forks != shmq_owner_forks
        self.forks = <uint64_t>-1
        if inherited:
            self.attached = False # the port is the parent's
        elif self.users == 0:
            self.detach_and_tell()

    @cython.critical_section
    def _close_at_exit(self, bint crashed=False) -> bool:
        """At interpreter exit: close, and give back what is leased. True where the port stays this process's until it has ended.

        Daemon threads go on: with a loan that they write, a view that they read, a copy without the interpreter lock. So loans, slots
        that somebody is in, and then the port as well, are left to the kernel, which tells the reaper when nobody can write any
        more. `crashed`: the deliveries failed, as if the process had been killed; otherwise they do not count.
        """
        cdef bint ours = self.is_own()
        self.abandoned = self.abandoned or not self.closed
        self.closed = True
        self.forks = <uint64_t>-1
        if not ours:
            self.attached = False # it is the parent's
            return False
        if not self.left:
            self.left = True
            self.give_back_leases(crashed)
        if self.users == 0:
            self.detach_and_tell()
        return self.attached

    cdef void close_bell(self) noexcept:
        if is_descriptor_of(self.bell, &self.bell_identity):
            close_descriptor(self.bell)
        self.bell = -1

    def __dealloc__(self):
        self.unmap()

    cdef void unmap(self) noexcept:
        """Give back whatever this handle has of a segment."""
        cdef int side
        self.detach()
        self.close_bell() # not before: an event loop may have it registered as long as somebody holds the handle
        for side in range(2):
            if self.port.any.semaphores[side] != NULL:
                sem_close(self.port.any.semaphores[side])
                self.port.any.semaphores[side] = NULL
        if self.memory.buf != NULL:
            PyBuffer_Release(&self.memory)
            self.memory.buf = NULL

    # -- waiting for several things at once: shmq/_waiting/bell.py ----------------------------------------------------------------

    @cython.critical_section
    def _bell(self) -> int:
        """The descriptor of this handle's bell, which is readable when it was rung; made where there is none, or where somebody
        has removed it: the last descriptor is closed then."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        if not self._has_bell():
            self.close_bell()
            self.bell = shmq_bell_make(&self.port.any)
            if self.bell < 0 and (errno == EEXIST or errno == EPERM):
                raise SegmentForeign(f"{self.segment.beside}.{self.port.any.index}.bell in /dev/shm is another user's: it is in the place of what this handle "
                                     f"of the {self._noun} needs to be waited for by a descriptor (fileno, wait_any, asyncio; get and put wait without). "
                                     "Its owner or root must remove it")
            if self.bell < 0:
                raise OSError(errno, _os.strerror(errno), f"{self.segment.path_prefix}.{self.port.any.index}.bell")
            identify(self.bell, &self.bell_identity)
        return self.bell

    def _owns_bell(self) -> bool:
        """Is the bell's descriptor still its own? The program may have closed it, and opened a file that has its number."""
        return is_descriptor_of(self.bell, &self.bell_identity)

    def _has_bell(self) -> bool:
        return self.bell >= 0 and shmq_bell_is_there(&self.port.any, self.bell)

    @cython.critical_section
    def _arm(self, int side) -> bool:
        """The bell is to be rung for this side, once. Look again before you wait: `_worth`. False: it was not armed."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return shmq_bell_arm(&self.port.any, <shmq_side>side)

    @cython.critical_section
    def _disarm(self, int side) -> bool:
        """Have the bell rung no more for this side. False: it was rung; a waiter that takes nothing says so by `_pass_on`."""
        return not self.is_own() or shmq_bell_disarm(&self.port.any, <shmq_side>side)

    cdef bint is_own(self) noexcept:
        """Is the port still this process's? Also for a moment after `close`, while leases are out."""
        return self.attached and self.port.any.owner == shmq_owner_self()

    @cython.critical_section
    def _clear_bell(self) -> None:
        """Read what was rung."""
        cdef char rings[4096]
        if self._owns_bell():
            read_descriptor(self.bell, rings, sizeof(rings))

    @cython.critical_section
    def _pass_on(self, int side) -> None:
        """Wake another waiter of this side, if there is something for it. Never raises."""
        if self.is_own():
            shmq_pass_on(&self.port.any, <shmq_side>side)

    def _wake_all(self, int side) -> None:
        """Wake all who wait at this side, that they look about them. Never raises."""
        if self.is_own():
            shmq_wake_all(&self.port.any, <shmq_side>side)

    @cython.critical_section
    def _watch(self) -> float:
        """Take back what the dead held and what was held too long; return the seconds until something of that kind is due."""
        cdef uint64_t due, now
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        watch_name(self)
        due = self.tend_all()
        now = shmq_now_ns()
        return (due - now) * 1e-9 if due > now else 0.0

    @cython.critical_section
    def _reap(self) -> int:
        """Take back what dead processes held; return how many handles of the dead were freed."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return shmq_reap(&self.port.any)
