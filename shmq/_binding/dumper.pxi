# Dumper: objects to pickles, for messages (_binding/draft.pxi) and for the tasks of a pool (executor/_tasks.py). Included by _core.pyx.

@cython.final
cdef class Pickling:
    """A pickler that is used again and again, and both ends of it: where it writes to, and what collects its buffers.

    To make one again costs a fifth of pickling a small dict.
    """

    cdef object pickler
    cdef bytes stream           # of the last object, as far as it is written
    cdef list more              # writes behind the first one
    cdef list buffers           # out of band

    def write(self, data):
        if self.stream is None:
            self.stream = data
        elif self.more is None:
            self.more = [data]
        else:
            self.more.append(data)

    def __call__(self, buffer):
        if self.buffers is None:
            self.buffers = []
        self.buffers.append(buffer)


cdef dict of_forking = None     # what multiprocessing.reduction and its users have registered, once that is loaded


cdef dict forking_reducers():
    """`import shmq` does not load it: until somebody has, there is nothing that it would be needed for."""
    global of_forking
    if of_forking is None:
        module = _sys.modules.get("multiprocessing.reduction")
        if module is not None: # by another thread, just now
            of_forking = getattr(getattr(module, "ForkingPickler", None), "_extra_reducers", None)
    return of_forking


@cython.final
cdef class Reducers:
    """A pickler's dispatch table: what `ForkingPickler.register` was told, and copyreg, as they are at that moment.

    `of_array`: the reducer of arrays; `of_exporter`: asked first for classes with `__dlpack__`, returns a reducer or None;
    `of_registered`: is given each reducer of ForkingPickler's that is about to be used, and returns the one to use.
    Compiled, since it is asked for every object of a class of the user's, and nearly always has nothing to say.
    """

    cdef object of_array, of_exporter, of_registered

    def __init__(self, of_array, of_exporter, of_registered):
        self.of_array = of_array
        self.of_exporter = of_exporter
        self.of_registered = of_registered

    def __getitem__(self, kind):
        cdef PyObject *found
        cdef dict registered = forking_reducers()
        cdef bint is_class = isinstance(kind, type)
        cdef bint is_array = is_class and is_array_class(<PyTypeObject *>kind)
        if is_class and not is_array and _PyType_Lookup(<PyTypeObject *>kind, DLPACK) != NULL:
            reducer = self.of_exporter(kind)
            if reducer is not None:
                return reducer
        if registered is not None:
            found = PyDict_GetItemWithError(registered, kind)
            if found != NULL:
                return self.of_registered(<object>found)
        if is_array:
            return self.of_array
        found = PyDict_GetItemWithError(<dict>copyreg_table, kind)
        if found != NULL:
            return <object>found
        raise KeyError(kind)


@cython.final
cdef class Dumper:
    """Pickles objects by protocol 5, with buffers out of band, and keeps its pickler for the next one.

    `reducers`: class -> reducer, a pickler's dispatch table; None: copyreg's.
    """

    cdef readonly object reducers
    cdef Pickling idle          # while nobody uses it

    def __init__(self, reducers=None):
        self.reducers = reducers

    cpdef tuple dump(self, object obj):
        """-> the stream, and a list of PickleBuffers or None. **Raises** what pickling raises."""
        # The pickling is this call's until it is given back: an object's reduction may dump, too.
        cdef Pickling pickling
        cdef bytes stream
        cdef list buffers
        with cython.critical_section(self): # one of two threads gets it
            pickling = self.idle
            self.idle = None
        if pickling is None:
            pickling = Pickling.__new__(Pickling)
            pickling.pickler = Pickler(pickling, 5, buffer_callback=pickling)
            if self.reducers is not None:
                pickling.pickler.dispatch_table = self.reducers
        try:
            pickling.pickler.dump(obj)
            pickling.pickler.clear_memo() # which holds the objects
        except:
            pickling.pickler = None # with what it has begun; they refer to each other
            raise
        stream, buffers = pickling.stream, pickling.buffers
        if pickling.more is not None:
            stream = b"".join([stream, *pickling.more])
        pickling.stream = pickling.more = pickling.buffers = None
        if PyBytes_GET_SIZE(stream) <= KEPT_PICKLE_BYTES: # the memo keeps its size, and clearing a large one takes long
            self.idle = pickling
        else:
            pickling.pickler = None
        return stream, buffers
