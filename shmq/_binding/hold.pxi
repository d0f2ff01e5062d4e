# Hold: a lock of a `threading` kind, taken for a `with` statement.


@cython.no_gc # no lock refers to who holds it
@cython.freelist(8)
cdef class Hold:
    """``with Hold(lock):`` instead of ``with lock:``, which may never give the lock back: CPython 3.14 handles signals between the
    two calls of a `with` statement as well (gh-148874), and what a handler raises there skips the second one.

    No Python code runs between taking the lock and knowing of it, so that an exception of a signal handler finds it either known
    or not taken; and where it strikes before the `with` statement has begun, the object is dropped, and the lock with it.
    """

    cdef readonly object lock
    cdef bint taken

    def __cinit__(self, lock):
        self.lock = lock

    def __enter__(self):
        self.lock.acquire()
        self.taken = True

    def __exit__(self, kind, error, traceback):
        self.taken = False
        self.lock.release()

    def __dealloc__(self):
        if self.taken:
            self.lock.release()
