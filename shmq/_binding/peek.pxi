# Peek: copies of the messages in front, which stay there.

cdef list peek_at(QueuePort queue, Py_ssize_t n):
    cdef shmq_slot header
    cdef c_bool moved = False
    cdef list result = []
    cdef uint32_t nth = 0, again = 0
    cdef uint64_t limit = queue.port.queue.geometry.payload_room
    if shmq_unlikely(queue.forks != shmq_owner_forks):
        queue.enter()
    if n < 0:
        raise ValueError(f"n must not be negative, but is {n}")
    cdef bytes copy
    while <Py_ssize_t>len(result) < n:
        copy = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>limit)
        queue.look_again()
        if not shmq_ring_peek(&queue.port.queue, nth, &header, PyBytes_AS_STRING(copy), limit, &moved):
            if moved and again < PEEKS: # taken while we looked: the front is elsewhere now
                nth = 0
                again += 1
                result.clear()
                continue
            break
        nth += 1
        if header.flags & SHMQ_SPILLED:
            try:
                copy = bytes(queue.segment.open_side(copy[:SPILL_KEY_BYTES]))
            except SegmentCorrupt:
                if not still_there(queue, nth - 1, header.id):
                    continue # taken meanwhile, its side segment with it
                raise
            header_of_side(&header, len(copy))
        header_check(queue, &header, <uint64_t>len(copy))
        result.append(build(queue, queue.coding, &header, PyBytes_AS_STRING(copy), copy))
    queue.look_again()
    if is_behind(queue) and <Py_ssize_t>len(result) < n:
        result += [queue._decode_image(image) for image in images_in_backlog(queue, n - len(result))]
    return result


cdef bint still_there(QueuePort queue, uint32_t nth, uint64_t id) noexcept:
    cdef shmq_slot header
    cdef c_bool moved
    return shmq_ring_peek(&queue.port.queue, nth, &header, NULL, 0, &moved) and header.id == id
