# Waiting at a segment of any kind: the slow half of a call that blocks.

cdef shmq_status wait(Attachment handle, shmq_status status, shmq_side side, uint64_t deadline, shmq_patience *patience) except *:
    """The waiting half of a blocking call: OK: look again; TIMED_OUT. Raises what a signal handler raises, Closed, SegmentCorrupt."""
    cdef bint unannounced = status == SHMQ_NO_CELLS
    if deadline != 1 or not handle.is_own(): # a loan outlives its closed handle: its publication may try once, and find no room
        handle.look_again()
    handle.refuse_hopeless(status, side, patience)
    if deadline == 1: # the caller does not wait, but may poll for ever
        if patience.late or not handle.tend(): # one look more: a scribbler can let leases expire for ever
            return SHMQ_TIMED_OUT
        patience.late = True
        return SHMQ_OK
    if patience.begun_ns == 0:
        patience.begun_ns = shmq_now_ns()
    handle.users += 1
    with nogil:
        status = handle.sleep(status, side, deadline, patience)
    handle.users -= 1
    if handle.forks != shmq_owner_forks:
        if status == SHMQ_OK and not unannounced:
            handle._pass_on(side) # we may have been woken, and go
        if handle.closed and handle.users == 0:
            handle.detach_and_tell()
        handle.enter() # raises Closed
    try:
        PyErr_CheckSignals() # also at the end of a slice: the signal may have met another thread
        if handle._after_sleep is not None:
            handle._after_sleep()
        watch_name(handle)
    except:
        if status == SHMQ_OK and not unannounced:
            handle._pass_on(side)
        raise
    if handle.forks != shmq_owner_forks: # a handler closed this handle
        handle.enter()
    if (unannounced or side == SHMQ_SPACE) and not patience.told and shmq_now_ns() - patience.begun_ns > STALL_NS:
        patience.told = True
        handle._stalled((shmq_now_ns() - patience.begun_ns) * 1e-9, unannounced)
        handle.look_again()
    return SHMQ_TIMED_OUT if status == SHMQ_TIMED_OUT else SHMQ_OK


cdef int watch_name(Attachment handle) except -1:
    """For waiters: is the name another queue's, so that nobody new comes to this one? Raises SegmentNotFound."""
    cdef uint64_t now = shmq_now_coarse_ns()
    if now - handle.name_looked_ns >= NAME_NS:
        if handle.name_looked_ns and handle.is_idle(): # soon after, it has just come
            handle._look_at_name()
        handle.name_looked_ns = now
    return 0


cdef int nap(Attachment handle, unsigned int microseconds) except -1:
    """Sleep without the interpreter lock. Raises Closed, and what a signal handler raises."""
    handle.users += 1
    with nogil:
        usleep(microseconds)
    handle.end_use()
    PyErr_CheckSignals()
    if handle.forks != shmq_owner_forks:
        handle.enter()
    return 0
