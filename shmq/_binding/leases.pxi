# Leases: the loop over a queue.

@cython.final
@cython.no_gc_clear
cdef class Leases:
    """Iterates over a queue for ever: receives, acks when the loop's body has ended, nacks when it raised.

    What the body raised is in the dead letter that may become of the message. A `break` counts as an end of the body. Loop over
    the queue itself: an iterator that is kept under a name outlives the loop, and acks when it dies or goes on. The difference is
    seen in the moment when the abandoned iterator dies: the interpreter unwinds a raising loop with the exception set, and
    leases_dealloc looks before anything hides it.
    """

    cdef QueuePort port
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
                self.ahead = receive_ahead(self.port, self.prefetch, seconds, self.lease_ns, True)
                self.ahead.reverse()
                continue
            self.current = receive_for(self.port, seconds, self.lease_ns, True, True)
            if self.extend:
                extend_by_itself(self.port, self.current)
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
            extend_by_itself(self.port, lease)
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


cdef Leases leases_of(QueuePort queue, Py_ssize_t prefetch, object timeout, object lease_timeout, bint extend):
    cdef Leases leases = Leases.__new__(Leases)
    patience_of(timeout)
    if prefetch < 1:
        raise ValueError(f"prefetch must be at least 1, not {prefetch}")
    leases.port = queue
    leases.prefetch = prefetch
    leases.timeout = timeout
    leases.lease_ns = lease_ns_of(queue, lease_timeout)
    leases.extend = extend
    leases.ahead = []
    return leases
