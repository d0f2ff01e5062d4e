# A mapped segment of any kind: its header, and the ports that stand behind it.

cdef union port_t:
    shmq_port any               # what every kind's begins with
    shmq_queue_port queue


@cython.no_gc_clear # the collector would take the mapping away before the last lease of a cycle is gone
cdef class Mapped:
    """A segment in this process's memory. An Observer looks at it; an Attachment has a port of it."""

    cdef port_t port                # an observer's has no record: it is no port of the segment's
    cdef Py_buffer memory           # keeps the mapping while the port, or a view of one of its slots, lives
    cdef readonly object segment    # shmq._segment.segment.Segment
    cdef uint64_t forks             # of the process that attached; anything else sends a call through enter(), and a look through look()

    def __cinit__(self, *args, **kwargs):
        self.memory.buf = NULL
        self.forks = <uint64_t>-1

    cdef int map_port(self) except -1:
        """Check the segment in `memory`, and note in `port` where its parts are. Every kind has its own. Raises SegmentCorrupt."""
        cdef shmq_header *header = <shmq_header *>self.memory.buf
        cdef uint64_t nbytes = <uint64_t>self.memory.len
        cdef uint32_t ports = header.ports # read once, checked, used
        if shmq_segment_look(header, nbytes, <shmq_segment_kind>header.kind) != SHMQ_OK or not ports_fit(ports, nbytes):
            self.raise_changed()
        shmq_port_point(&self.port.any, header, ports, &behaviour_of_ports)
        return 0

    def _observe(self, segment) -> None:
        """Look at a mapped segment from now on. Raises SegmentCorrupt."""
        self.segment = segment
        PyObject_GetBuffer(segment.memory, &self.memory, PyBUF_SIMPLE)
        self.map_port()
        self.forks = shmq_owner_forks

    cdef int raise_changed(self) except -1:
        raise SegmentCorrupt(f"segment {self.segment.name!r} changed while it was opened: open it again")

    cdef int look(self) except -1:
        """The slow entrance of a look: in a forked child, and where no segment was ever mapped. Looking attaches nobody. Raises Closed."""
        if self.memory.buf == NULL:
            raise Closed("this observer was never opened")
        self.forks = shmq_owner_forks
        return 0

    def __dealloc__(self):
        if self.memory.buf != NULL:
            PyBuffer_Release(&self.memory)

    @property
    def name(self) -> str:
        """The name of the segment; other processes attach by it."""
        return self.segment.name

    def _ports(self) -> list:
        """Each attached port, as an AttachedPort."""
        cdef uint32_t i
        cdef uint64_t owner
        result = []
        for i in range(self.port.any.ports):
            owner = shmq_load_acquire(&self.port.any.records[i].owner) # [port]
            if owner:
                result.append(AttachedPort(i, owner, shmq_load_relaxed(&self.port.any.records[i].pid), shmq_owner_alive(owner),
                                           shmq_load_acquire(&self.port.any.records[i].intent) != 0)) # [intent]
        return result

    def _processes(self) -> dict:
        """The Process of each attached port, by the port's index. Whether it lives is the kernel's answer.

        `here`: whether it lives in this process's pid namespace, so that its pid is its pid for us too; None where that is not known.
        """
        cdef uint32_t i
        cdef uint64_t owner, namespace, ours = shmq_owner_namespace()
        result = {}
        for i in range(self.port.any.ports):
            owner = shmq_load_acquire(&self.port.any.records[i].owner) # [port]
            if owner:
                pid, namespace = shmq_load_relaxed(&self.port.any.records[i].pid), shmq_load_relaxed(&self.port.any.records[i].namespace)
                alive = shmq_owner_alive(owner)
                result[i] = Process(pid, alive, (alive and namespace == ours) if namespace and ours else None)
        return result

    def _serials(self) -> set:
        """The serials of the attached ports whose processes live: what the ids that they give, or gave a moment ago, begin with."""
        cdef uint32_t i
        cdef uint64_t owner
        result = set()
        for i in range(self.port.any.ports):
            owner = shmq_load_acquire(&self.port.any.records[i].owner) # [port]
            if owner and shmq_owner_alive(owner):
                # [serial]
                for serial in (shmq_load_acquire(&self.port.any.records[i].serial), shmq_load_relaxed(&self.port.any.records[i].serial_before)):
                    result.add(serial_of(<uint64_t>serial << SHMQ_ID_BITS)) # what an id has room for
        return result


cdef bint ports_fit(uint64_t ports, uint64_t nbytes) noexcept:
    """Can a segment of this size have so many ports?"""
    return 0 < ports < SHMQ_MAX_PORTS and nbytes >= sizeof(shmq_header) + ports * sizeof(shmq_port_record)


# -- a segment that holds nothing but ports: what an attachment asks of it (struct shmq_behaviour) --------------------------------

cdef c_bool nothing_there(shmq_port *port, shmq_side side, c_bool stays) noexcept nogil:
    return False


cdef c_bool always_worth_it(const shmq_port *port, uint64_t now) noexcept nogil:
    return True


cdef c_bool nothing_held(shmq_port *port, uint32_t dead) noexcept nogil:
    return True


cdef shmq_behaviour behaviour_of_ports
behaviour_of_ports.promising = nothing_there
behaviour_of_ports.worth_waking = always_worth_it
behaviour_of_ports.recover = nothing_held
