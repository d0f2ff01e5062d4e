# A handle: how a process comes to a segment, waits at it, and leaves.

@cython.no_gc_clear # as Observer
cdef class Handle(Observer):
    """A port of a segment in this process: attached, waiting, closed. Port adds what happens to messages."""

    cdef Dumper dumper              # of objects
    cdef bint keeps_types           # what exports a buffer is pickled, too, so that its type comes out
    cdef readonly bint spills
    cdef int64_t patience_ns        # how long this handle's puts may still wait before they go to the backlog, …
    cdef uint64_t patience_puts     # … when it had put so many messages
    cdef uint64_t name_looked_ns    # when the name was last looked at: see watch_name
    cdef uint64_t stuck_at          # the count of the backlog at which this handle's gets last waited in vain for one who moves nothing
    cdef readonly bint closed
    cdef bint attached
    cdef uint64_t attached_forks    # … by the process of so many forks: `forks`, but for a closed handle
    cdef bint abandoned             # closed by the interpreter's exit, not by the user
    cdef bint left                  # the interpreter's exit has given back the leases that nobody looked at
    cdef uint32_t *looks            # by cell: who of this process is in its slot, each view one, and more (INSIDE) who may write or settle
    cdef readonly bint spin
    cdef Py_ssize_t users           # leases, loans, and calls that run Python code or have given up the interpreter lock
    cdef public object _after_sleep    # called whenever a call that waits here has slept for a while; what it raises ends the call
    cdef bytes path_prefix          # where the bells are: see bell.h
    cdef int bell                   # the descriptor of this port's own bell, or -1
    cdef identity_t bell_identity   # … which is the bell's only as long as it leads to this file
    cdef public object _readable    # shmq._waiting.fileno.Readable, once somebody asked for fileno()
    cdef object __weakref__

    _reducers = None                # what a subclass's handles pickle with: a mapping from classes to reducers
    _keeps_types = False

    def __cinit__(self, *args, **kwargs):
        self.looks = NULL
        self.closed = True
        self.bell = -1

    def _open(self, segment, codec, bint spin=True):
        """Attach to a mapped segment. Raises TooManyPorts, SegmentCorrupt, SegmentForeign; TypeError where it is open already."""
        if not self.closed or (self.attached and self.users):
            raise TypeError(f"this handle of queue {self.name!r} is open already: make another one")
        self.forget()
        self.segment = segment
        self.codec = codec
        self.dumper = Dumper(self._reducers)
        self.keeps_types = self._keeps_types
        self.path_prefix = segment.path_prefix.encode()
        PyObject_GetBuffer(segment.memory, &self.memory, PyBUF_WRITABLE)
        cdef shmq_header *header = <shmq_header *>self.memory.buf
        self.spills = header.flags & SHMQ_SPILLS != 0
        self.pickles = header.flags & SHMQ_PICKLES != 0
        self.grows = header.flags & SHMQ_GROWS != 0
        self.spin = spin
        self.attach()
        self.closed = False

    cdef int attach(self) except -1:
        cdef shmq_geometry geometry
        cdef shmq_status status
        cdef uint64_t owner = own_identity(), begun = shmq_now_ns()
        cdef sem_t *semaphores[2]
        cdef int side
        self.check(&geometry)
        if (<shmq_header *>self.memory.buf).lock_inode != shmq_owner_lock_inode(): # a forked child that is another user's now, or has another root
            raise SegmentForeign(f"queue {self.segment.name!r} was opened before this process became user {_os.geteuid()} or changed its root, and its "
                                 "users could not tell it from the dead: refused")
        self.attached = False # in a forked child: the port was the parent's, and so was the bell
        self.close_bell()
        for side in range(2):
            semaphores[side] = self.port.semaphores[side] # a forked child goes on with its parent's
        status = shmq_port_attach(&self.port, self.memory.buf, &geometry, owner)
        while status == SHMQ_NO_PORTS:
            shmq_reap(&self.port)
            status = shmq_port_attach(&self.port, self.memory.buf, &geometry, owner)
            if status != SHMQ_NO_PORTS or shmq_now_ns() - begun > REAPER_PATIENCE_NS or all([port.alive for port in self._ports()]):
                break
            usleep(1000) # another one is taking back what the dead had
        for side in range(2):
            self.port.semaphores[side] = semaphores[side]
        PyMem_Free(self.looks)
        self.looks = <uint32_t *>PyMem_Calloc(geometry.cells, sizeof(uint32_t))
        if self.looks == NULL and status == SHMQ_OK:
            shmq_port_detach(&self.port)
            raise MemoryError
        if status == SHMQ_NO_PORTS:
            raise TooManyPorts(f"all {geometry.ports} ports of {self.segment.name!r} are attached by living processes: "
                               f"{self._holders()}. Close handles, or create the queue with a larger ports=")
        for side in range(2):
            if semaphores[side] == NULL:
                name = self.segment.semaphore_name(side).encode()
                self.port.semaphores[side] = shmq_semaphore_open(name)
                if self.port.semaphores[side] == NULL:
                    failure = errno
                    shmq_port_detach(&self.port)
                    if failure == EPERM or failure == EACCES:
                        raise SegmentForeign(f"sem.{name.decode()[1:]} in /dev/shm is not what was made with queue {self.segment.name!r}: "
                                             "it is another user's, no semaphore, or open to others; refused")
                    if failure != ENOENT:
                        raise OSError(failure, _os.strerror(failure), f"/dev/shm/sem.{name.decode()[1:]}")
                    raise SegmentCorrupt(f"the semaphore {name.decode()} of queue {self.segment.name!r} is gone from /dev/shm "
                                         "(a logout with systemd's RemoveIPC does that): unlink the queue and create it again")
        self.port.writes_dead_letters = True
        self.port.path_prefix = PyBytes_AS_STRING(self.path_prefix)
        if not self.spin:
            self.port.spins = False
        self.attached = True
        self.left = False
        self.forks = self.attached_forks = shmq_owner_forks
        self.users = 0
        self.patience_ns = BACKLOG_PATIENCE_NS
        self.patience_puts = 0
        shmq_reap(&self.port)
        try:
            self._attached()
        except BaseException: # a backlog that cannot be opened, an interrupt: nobody will close what was never opened
            self.detach()
            self.forks = <uint64_t>-1 # and the next call of a forked child begins here again
            raise
        return 0

    def _attached(self) -> None:
        """Called when this process got a port of its own: at opening, and in a forked child on first use."""

    cdef int enter(self) except -1:
        """The slow entrance: a closed handle, or the first call in a forked child, which attaches again."""
        if self.closed:
            if self.abandoned:
                self._interpreter_exits()
            raise Closed(f"this handle of queue {self.name!r} is closed" if self.segment is not None else "this handle was never opened")
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

    cdef inline uint64_t stay(self, uint32_t cell) noexcept:
        """A call works on the slot of this cell of ours while Python code runs: until `leave_cell` neither `close` nor the interpreter's
        exit gives it back, nor the port."""
        self.users += 1
        self.looks[cell] += INSIDE
        return shmq_owner_forks

    cdef inline void leave_cell(self, uint32_t cell, uint64_t forks) noexcept:
        """`forks`: what `stay` returned. A child that was forked in between has counted nothing."""
        if shmq_likely(forks == shmq_owner_forks):
            self.looks[cell] -= INSIDE
            self.leave()

    cdef int refuse_forked(self, uint64_t forks) except -1:
        """Whoever was forked in the middle of a call leaves what that call holds to its parent."""
        if shmq_unlikely(forks != shmq_owner_forks):
            raise LeaseLost(f"this process was forked while a message of queue {self.name!r} was decoded: the message is its parent's")
        return 0

    cdef void leave(self) noexcept:
        self.users -= 1
        if self.closed and self.users == 0:
            self.let_go()

    cdef void let_go(self) noexcept:
        """Detach, and tell: the segment may go with its last handle."""
        cdef bint had = self.attached
        self.detach()
        if had:
            try:
                self._left()
            except Exception: # nobody is there to hear it: whoever opens the name next finds that it has outlived its handles
                pass

    def _left(self) -> None:
        """Called when this process gave its port back."""

    cdef void detach(self) noexcept:
        """Free the port, unless it was inherited: then it is the parent's."""
        if self.attached and self.port.owner == shmq_owner_self():
            shmq_port_detach(&self.port)
        self.attached = False

    @cython.critical_section
    def close(self) -> None:
        """Let go of the queue in this process; messages stay. Leases and loans already taken can still be settled.

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
            self.let_go()

    @cython.critical_section
    def _abandon(self, bint crashed=False) -> bool:
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
            self.let_go()
        return self.attached

    cdef void give_back_leases(self, bint crashed) noexcept:
        cdef uint32_t i
        cdef uint64_t word
        cdef bint failed
        for i in range(self.port.geometry.cells):
            word = shmq_load_acquire(&self.port.cells[i].word)
            if shmq_cell_owner(word) != self.port.index or not shmq_state_leased(shmq_cell_state(word)):
                continue
            failed = crashed and shmq_lease_begun(&self.port, i, word)
            if self.looks[i] >= INSIDE or (self.looks[i] and shmq_view_begin(&self.port, i, word) != SHMQ_OK):
                if not failed:
                    shmq_lease_mark(&self.port, i, word, False) # the reaper will find that it was not begun with
            elif shmq_lease_give_back(&self.port, i, word, SHMQ_DIED if failed else SHMQ_RELEASED, SHMQ_BY_POLICY) == SHMQ_OK:
                self.users -= not self.looks[i] # its Lease finds out: see Slot.is_mine. Views keep the port, which keeps the slot

    def _interpreter_exits(self) -> None:
        """Called where a handle is used that the interpreter's exit has closed."""

    cdef void close_bell(self) noexcept:
        if is_descriptor_of(self.bell, &self.bell_identity):
            close_descriptor(self.bell)
        self.bell = -1

    def _deaths_to_reap_sides_of(self) -> int | None:
        """The count of deaths, where messages were ever spilled and nobody has looked since the last death for what the dead left."""
        cdef uint64_t deaths = shmq_load_acquire(&self.port.header.events[<int>SHMQ_DEATHS])
        if deaths == shmq_load_acquire(&self.port.header.sides_reaped) or not shmq_load_half(&self.port.header.spilled):
            return None
        return deaths

    def _reaped_sides_of(self, uint64_t deaths) -> None:
        """What the dead had left at that count is removed. Of two who say so the later one may be behind: then it is looked for again."""
        shmq_store_release(&self.port.header.sides_reaped, deaths)

    cdef void remove_side(self, const char *key) noexcept:
        """Remove a side segment, if it is there. No Python code runs between an ack and its caller: an exception of a signal handler there
        would lose what get has taken. What cannot be removed is found by the doctor."""
        cdef const char *path_prefix = PyBytes_AS_STRING(self.path_prefix)
        with nogil: # freeing a large one takes a while
            shmq_file_remove_side(path_prefix, key)

    def __dealloc__(self):
        self.forget()

    cdef void forget(self) noexcept:
        """Give back whatever this handle has of a segment."""
        cdef int side
        self.detach()
        self.close_bell() # not before: an event loop may have it registered as long as somebody holds the handle
        for side in range(2):
            if self.port.semaphores[side] != NULL:
                sem_close(self.port.semaphores[side])
                self.port.semaphores[side] = NULL
        if self.memory.buf != NULL:
            PyBuffer_Release(&self.memory)
            self.memory.buf = NULL
        PyMem_Free(self.looks)
        self.looks = NULL

    # -- waiting ------------------------------------------------------------------------------------------------------

    cdef int raise_shut(self, shmq_side side) except -1:
        if side == SHMQ_ITEMS:
            shmq_wake_all(&self.port, SHMQ_ITEMS) # nobody tells those who wait for what others might have given back
        raise ShutDown(f"queue {self.name!r} was shut down: {'it is empty, and ' if side == SHMQ_ITEMS else ''}no message goes in any more")

    cdef shmq_status wait(self, shmq_status status, shmq_side side, uint64_t deadline, shmq_patience *patience) except *:
        """The waiting half of a blocking call: OK: look again; TIMED_OUT. Raises what a signal handler raises, Closed, SegmentCorrupt."""
        cdef bint cells = status == SHMQ_NO_CELLS
        if deadline != 1 or not self.is_own(): # a loan outlives its closed handle: its publication may try once, and find no room
            self.look_again()
        if status == SHMQ_SHUT or (status == SHMQ_WOULD_BLOCK and (
                shmq_is_over(&self.port, patience.stays) if side == SHMQ_ITEMS else shmq_load_half(&self.port.header.shut))):
            self.raise_shut(side)
        if status != SHMQ_WOULD_BLOCK and not cells:
            raise SegmentCorrupt(f"queue {self.name!r} is corrupt: a cell of its ring names a slot or a lap that cannot be")
        if deadline == 1: # the caller does not wait, but may poll for ever
            if patience.late or not shmq_tend(&self.port): # one look more: a scribbler can let leases expire for ever
                return SHMQ_TIMED_OUT
            patience.late = True
            return SHMQ_OK
        if patience.begun_ns == 0:
            patience.begun_ns = shmq_now_ns()
        self.users += 1
        with nogil:
            if cells:
                status = shmq_await_cell(&self.port, deadline, patience)
            else:
                status = shmq_await(&self.port, side, deadline, patience)
        self.users -= 1
        if self.forks != shmq_owner_forks:
            if status == SHMQ_OK and not cells:
                self._pass_on(side) # we may have been woken, and go
            if self.closed and self.users == 0:
                self.let_go()
            self.enter() # raises Closed
        try:
            PyErr_CheckSignals() # also at the end of a slice: the signal may have met another thread
            if self._after_sleep is not None:
                self._after_sleep()
            self.watch_name()
        except:
            if status == SHMQ_OK and not cells:
                self._pass_on(side)
            raise
        if self.forks != shmq_owner_forks: # a handler closed this handle
            self.enter()
        if (cells or side == SHMQ_SPACE) and not patience.told and shmq_now_ns() - patience.begun_ns > STALL_NS:
            patience.told = True
            self._stalled((shmq_now_ns() - patience.begun_ns) * 1e-9, cells)
            self.look_again()
        return SHMQ_TIMED_OUT if status == SHMQ_TIMED_OUT else SHMQ_OK

    cdef int watch_name(self) except -1:
        """For waiters: is the name another queue's, so that nobody new comes to this one? Raises SegmentNotFound."""
        cdef uint64_t now = shmq_now_coarse_ns()
        if now - self.name_looked_ns >= NAME_NS:
            if self.name_looked_ns and (shmq_nothing_comes(&self.port, True) or not shmq_ring_has_space(&self.port)): # soon after, it has just come
                self._look_at_name()
            self.name_looked_ns = now
        return 0

    def _look_at_name(self) -> None:
        """Called about once a second while somebody waits."""

    def _all_wait(self) -> bool:
        return shmq_all_wait(&self.port)

    # -- waiting for several things at once: shmq/_waiting/bell.py ----------------------------------------------------------------

    @cython.critical_section
    def _bell(self) -> int:
        """The descriptor of this handle's bell, which is readable when it was rung; made where there is none, or where somebody
        has removed it: the last descriptor is closed then."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        if not self._has_bell():
            self.close_bell()
            self.bell = shmq_bell_make(&self.port)
            if self.bell < 0 and (errno == EEXIST or errno == EPERM):
                raise SegmentForeign(f"{self.segment.beside}.{self.port.index}.bell in /dev/shm is another user's: it is in the place of what this handle "
                                     "of the queue needs to be waited for by a descriptor (fileno, wait_any, asyncio; get and put wait without). "
                                     "Its owner or root must remove it")
            if self.bell < 0:
                raise OSError(errno, _os.strerror(errno), f"{self.segment.path_prefix}.{self.port.index}.bell")
            identify(self.bell, &self.bell_identity)
        return self.bell

    def _owns_bell(self) -> bool:
        """Is the bell's descriptor still its own? The program may have closed it, and opened a file that has its number."""
        return is_descriptor_of(self.bell, &self.bell_identity)

    def _has_bell(self) -> bool:
        return self.bell >= 0 and shmq_bell_is_there(&self.port, self.bell)

    @cython.critical_section
    def _arm(self, int side) -> bool:
        """The bell is to be rung for this side, once. Look again before you wait: `_worth`. False: it was not armed."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return shmq_bell_arm(&self.port, <shmq_side>side)

    @cython.critical_section
    def _disarm(self, int side) -> bool:
        """… is not to be rung any more. False: it has been; who has no use for that says so by `_pass_on`."""
        return not self.is_own() or shmq_bell_disarm(&self.port, <shmq_side>side)

    cdef bint is_own(self) noexcept:
        """Is the port still this process's? Also for a moment after `close`, while leases are out."""
        return self.attached and self.port.owner == shmq_owner_self()

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
            shmq_pass_on(&self.port, <shmq_side>side)

    def _wake_all(self, int side) -> None:
        """Wake all who wait at this side, that they look about them. Never raises."""
        if self.is_own():
            shmq_wake_all(&self.port, <shmq_side>side)

    def _worth(self, int side) -> int:
        """For how many who wait it is worth a try: messages (0), room (1), as many as you like when all is done (2) or it was shut.

        Of messages that came back it says one at a time.
        """
        cdef uint32_t length
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        if side == SHMQ_DONE:
            return SHMQ_MAX_SLOTS if shmq_all_done(&self.port) else 0
        if shmq_is_over(&self.port, False) if side == SHMQ_ITEMS else shmq_load_half(&self.port.header.shut):
            return SHMQ_MAX_SLOTS
        length = shmq_ring_length(&self.port)
        if side == SHMQ_ITEMS:
            return length + shmq_load_seq(&self.port.header.backlog) + shmq_orphan_due(&self.port)
        return max(self.port.geometry.slots - length, <uint32_t>1) if shmq_ring_has_space(&self.port) else 0

    def _ready(self) -> bool:
        """Would get return, or raise ShutDown, at once? More than `not empty()` by the latter."""
        return not self.empty() or shmq_is_over(&self.port, False)

    @cython.critical_section
    def _spin(self, int side) -> bool:
        """Wait as short as a wait can be, awake: True where it helped."""
        cdef bint helped
        self.users += 1
        with nogil:
            helped = shmq_spin(&self.port, <shmq_side>side, SHMQ_FOREVER)
        self.leave()
        return helped

    @cython.critical_section
    def _watch(self) -> float:
        """Take back what the dead held and what was held too long; return the seconds until something of that kind is due."""
        cdef uint64_t due, now
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        self.watch_name()
        shmq_tend(&self.port)
        shmq_lease_expire(&self.port)
        due = self.port.expiry_ns
        if not shmq_orphan_due(&self.port): # what is due already is there to be taken: no reason to look again soon
            due = min(due, self.port.due_ns)
        now = shmq_now_ns()
        return (due - now) * 1e-9 if due > now else 0.0

    # -- operating ----------------------------------------------------------------------------------------------------

    @cython.critical_section
    def _reap(self) -> int:
        """Take back what dead processes held; return how many handles of the dead were freed."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return shmq_reap(&self.port)

    @cython.critical_section
    def _expire(self) -> int:
        """Give back what was held too long, whoever holds it; return how many messages."""
        if shmq_unlikely(self.forks != shmq_owner_forks):
            self.enter()
        return shmq_lease_expire(&self.port)

    def _in_flight_report(self) -> str:
        return f"every in-flight cell of queue {self.name!r} is loaned or leased"
