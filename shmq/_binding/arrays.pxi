# Arrays: NumPy's C interface, and arrays over the memory of messages.
#
# `import shmq` does not import NumPy. The first array does that is put, taken, lent or asked for. The import runs Python code, and takes
# some 65 ms. So a call that needs it imports it before a cell is taken, or where an object is decoded. shmq/_codec/importing.py says
# what other threads, forks and finalizers may do meanwhile.

cdef extern from "numpy/arrayobject.h":
    """
    #include <stdatomic.h>

    /* NumPy's ndarray; NULL until its C interface is at hand. A thread that sees it sees the interface, too. */
    static _Atomic(PyTypeObject *) array_class;
    #define load_array_class() atomic_load_explicit(&array_class, memory_order_acquire)
    #define store_array_class(kind) atomic_store_explicit(&array_class, (kind), memory_order_release)
    """
    PyTypeObject *load_array_class()
    void store_array_class(PyTypeObject *kind)

    ctypedef Py_ssize_t npy_intp
    ctypedef struct PyArrayObject:
        pass
    ctypedef struct PyArray_Descr:
        PyTypeObject *typeobj
        char kind
        char byteorder
        int type_num
    ctypedef enum NPY_ORDER:
        NPY_CORDER
    enum: NPY_BOOL, NPY_INT8, NPY_INT16, NPY_INT32, NPY_INT64, NPY_UINT8, NPY_UINT16, NPY_UINT32, NPY_UINT64
    enum: NPY_FLOAT16, NPY_FLOAT32, NPY_FLOAT64, NPY_COMPLEX64, NPY_COMPLEX128, NPY_VOID
    enum: NPY_ARRAY_F_CONTIGUOUS, NPY_ARRAY_WRITEABLE, NPY_ARRAY_CARRAY_RO, NPY_ARRAY_FARRAY_RO
    PyTypeObject PyArray_Type, PyVoidArrType_Type

    int _import_array() except -1
    PyArray_Descr *PyArray_DESCR(PyArrayObject *array)
    int PyArray_NDIM(PyArrayObject *array)
    npy_intp PyArray_DIM(PyArrayObject *array, int dimension)
    npy_intp PyArray_ITEMSIZE(PyArrayObject *array)
    npy_intp PyArray_NBYTES(PyArrayObject *array)
    void *PyArray_DATA(PyArrayObject *array)
    bint PyArray_IS_C_CONTIGUOUS(PyArrayObject *array)
    bint PyArray_IS_F_CONTIGUOUS(PyArrayObject *array)
    void PyArray_CLEARFLAGS(PyArrayObject *array, int flags)
    void PyArray_ENABLEFLAGS(PyArrayObject *array, int flags)
    object PyArray_NewCopy(PyArrayObject *array, NPY_ORDER order)
    object PyArray_NewFromDescr(PyTypeObject *subtype, PyArray_Descr *descr, int nd, const npy_intp *dims,
                                const npy_intp *strides, void *data, int flags, PyObject *obj)
    int PyArray_SetBaseObject(PyArrayObject *array, object base) except -1
    PyArray_Descr *PyArray_DescrFromType(int number)
    npy_intp PyDataType_ELSIZE(PyArray_Descr *descr)
    bint PyDataType_REFCHK(PyArray_Descr *descr)
    bint PyDataType_HASFIELDS(PyArray_Descr *descr)
    bint PyDataType_HASSUBARRAY(PyArray_Descr *descr)
    PyObject *PyDataType_METADATA(PyArray_Descr *descr)


cdef object arrays = None       # shmq._codec.arrays, from then on


def _numpy_is_imported(module) -> None:
    """Called by shmq/_codec/arrays.py at the end of its import: one thread at a time, each time that it is tried."""
    global arrays
    _import_array()
    arrays = module
    store_array_class(&PyArray_Type)


cdef inline int need_numpy() except -1:
    """NumPy is at hand afterwards. **Raises** what its import raises, and can be tried again."""
    if shmq_unlikely(load_array_class() == NULL):
        _importing.arrays()
    return 0


cdef inline bint is_array_class(PyTypeObject *kind) except -1:
    """Exactly ndarray? Such a class can be there before its interface is: another library has imported NumPy."""
    cdef PyTypeObject *known = load_array_class()
    if known != NULL:
        return kind == known
    return kind.tp_name[0] == c'n' and strcmp(kind.tp_name, "numpy.ndarray") == 0 and is_array_class_of_numpy(kind)


cdef bint is_array_class_of_numpy(PyTypeObject *kind) except -1:
    """Is this class, which is called numpy.ndarray, NumPy's own?"""
    need_numpy()
    return kind == load_array_class()


cdef bint is_of_numpy(object kind) except -1:
    """Is this the class of an array or a scalar of NumPy's, or derived from one? Asked for names: NumPy need not be there."""
    for base in kind.__mro__:
        if strcmp((<PyTypeObject *>base).tp_name, "numpy.ndarray") == 0 or strcmp((<PyTypeObject *>base).tp_name, "numpy.generic") == 0:
            return True
    return False


cdef inline bint is_swapped(const PyArray_Descr *descr) noexcept:
    return descr.byteorder == c'>'


cdef inline bint is_plain(PyArray_Descr *descr) noexcept:
    """Kind, size and byte order say everything about this dtype. Other libraries' dtypes have kinds like NumPy's, and numbers of their own."""
    return (PyDataType_ELSIZE(descr) > 0 and 0 <= descr.type_num <= NPY_FLOAT16 and descr.kind in (c'u', c'i', c'f', c'c', c'b', c'S', c'U', c'V')
            and not PyDataType_HASFIELDS(descr) and not PyDataType_HASSUBARRAY(descr) and PyDataType_METADATA(descr) == NULL
            and (descr.type_num != NPY_VOID or descr.typeobj == &PyVoidArrType_Type))


cdef object array_over(Mapped port, shmq_slot *header, char *data):
    """An array over `data`, or a new one of the same shape where `data` is NULL. The payload must have exactly its size."""
    cdef npy_intp shape[SHMQ_INLINE_DIMS]
    cdef int i, flags, ndim = header.ndim
    cdef uint64_t total = header.itemsize
    cdef PyArray_Descr *descr
    cdef int typenum
    if ndim > SHMQ_INLINE_DIMS:
        raise SegmentCorrupt(f"a message in queue {port.name!r} claims an array of {ndim} dimensions")
    for i in range(ndim):
        shape[i] = header.shape[i]
        if header.shape[i] != 0 and total > <uint64_t>0x3fffffffffffffff // header.shape[i]:
            raise SegmentCorrupt(f"a message in queue {port.name!r} claims an array larger than memory")
        total *= header.shape[i]
    if total != header.nbytes:
        raise SegmentCorrupt(f"a message in queue {port.name!r} claims an array of {total:,} bytes in a payload of {header.nbytes:,}")
    typenum = -1 if header.flags & SHMQ_SWAPPED else typenum_of(header.dtype, header.itemsize)
    if typenum >= 0:
        descr = PyArray_DescrFromType(typenum)
    else:
        dtype = arrays.plain_dtype(chr(header.dtype), header.itemsize, bool(header.flags & SHMQ_SWAPPED))
        if dtype is None:
            raise SegmentCorrupt(f"a message in queue {port.name!r} claims an array of impossible items")
        Py_INCREF(dtype)
        descr = <PyArray_Descr *>dtype
    flags = NPY_ARRAY_F_CONTIGUOUS if header.flags & SHMQ_FORTRAN else 0
    if data != NULL:
        flags = NPY_ARRAY_FARRAY_RO if header.flags & SHMQ_FORTRAN else NPY_ARRAY_CARRAY_RO
    return PyArray_NewFromDescr(&PyArray_Type, descr, ndim, shape, NULL, data, flags, NULL) # which takes over the reference to descr


cdef object described_array(Mapped port, shmq_slot *header, const char *data, object memory):
    """The array over `memory` that the description behind the payload tells."""
    try:
        return arrays.described_array(PyBytes_FromStringAndSize(data + header.nbytes, header.described), memory)
    except Exception as error: # text of somebody else's: whatever is wrong with it
        raise SegmentCorrupt(f"a message in queue {port.name!r} describes an impossible array: {error}") from None


cdef inline int typenum_of(uint8_t kind, uint32_t itemsize) noexcept:
    """NumPy's type number for the dtypes that need no more than kind and size; -1 for the others."""
    if kind == c'u':
        return (NPY_UINT8 if itemsize == 1 else NPY_UINT16 if itemsize == 2 else NPY_UINT32 if itemsize == 4
                else NPY_UINT64 if itemsize == 8 else -1)
    if kind == c'i':
        return (NPY_INT8 if itemsize == 1 else NPY_INT16 if itemsize == 2 else NPY_INT32 if itemsize == 4
                else NPY_INT64 if itemsize == 8 else -1)
    if kind == c'f':
        return NPY_FLOAT32 if itemsize == 4 else NPY_FLOAT64 if itemsize == 8 else NPY_FLOAT16 if itemsize == 2 else -1
    if kind == c'c':
        return NPY_COMPLEX64 if itemsize == 8 else NPY_COMPLEX128 if itemsize == 16 else -1
    if kind == c'b':
        return NPY_BOOL if itemsize == 1 else -1
    return -1


cdef int as_bytes(shmq_slot *header) except -1:
    """Turn a private header into that of a one-dimensional array of its bytes."""
    if header.nbytes > 0xffffffff:
        raise ValueError("more than 4 GiB of bytes have no array view: use .view")
    header.kind = SHMQ_ARRAY
    header.flags = 0
    header.dtype = c'u'
    header.itemsize = 1
    header.ndim = 1
    header.shape[0] = <uint32_t>header.nbytes
    return 0


cdef object shape_header(shmq_slot *header, object shape, object dtype):
    """Header of an array that is yet to be written. -> its description, where the header cannot say all; else None."""
    cdef PyArray_Descr *descr = <PyArray_Descr *>dtype
    cdef uint64_t total = <uint64_t>PyDataType_ELSIZE(descr)
    cdef object extent
    cdef bint simple
    shape = tuple(map(operator_index, shape)) if isinstance(shape, (tuple, list)) else (operator_index(shape),)
    simple = len(shape) <= SHMQ_INLINE_DIMS and is_plain(descr)
    for extent in shape:
        if extent < 0:
            raise ValueError(f"a loan of shape {shape}: no extent may be negative")
        if extent and (extent > 1 << 62 or total > <uint64_t>0x3fffffffffffffff // <uint64_t>extent):
            raise MessageTooLarge(f"a loan of shape {shape} is larger than memory")
        simple = simple and extent <= 0xffffffff
        total *= <uint64_t>extent
    header.kind = SHMQ_ARRAY
    header.nbytes = total
    if not simple:
        header.flags = SHMQ_DESCRIBED
        description = arrays.describe_loan(dtype, shape)
        header.described = <uint32_t>len(description)
        return description
    header.flags = SHMQ_SWAPPED if is_swapped(descr) else 0
    header.dtype = <uint8_t>descr.kind
    header.itemsize = <uint32_t>PyDataType_ELSIZE(descr)
    for extent in shape:
        header.shape[header.ndim] = <uint32_t>extent
        header.ndim += 1
    return None
