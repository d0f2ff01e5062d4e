/* content.h for Python: whatever exports a buffer is filled and read by the code that the bare C pipelines use. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "content.h"

/* A memoryview already holds its buffer: asking it for another one would cost more than the loop over 64 bytes. */
static int acquire(PyObject *object, Py_buffer *buffer, int flags) {
    if (PyMemoryView_Check(object)) {
        *buffer = *PyMemoryView_GET_BUFFER(object);
        buffer->obj = NULL;
        return 0;
    }
    return PyObject_GetBuffer(object, buffer, flags);
}

static void release(Py_buffer *buffer) {
    if (buffer->obj != NULL)
        PyBuffer_Release(buffer);
}

typedef void writer(void *, size_t, uint64_t);
typedef uint64_t reader(const void *, size_t);

static PyObject *write_with(writer *write, PyObject *const *arguments, Py_ssize_t count) {
    Py_buffer buffer;
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "expected a buffer and a sequence number");
    unsigned long long sequence = PyLong_AsUnsignedLongLong(arguments[1]);
    if (sequence == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    if (acquire(arguments[0], &buffer, PyBUF_WRITABLE) < 0)
        return NULL;
    write(buffer.buf, (size_t)buffer.len, sequence);
    release(&buffer);
    Py_RETURN_NONE;
}

static PyObject *read_with(reader *read, PyObject *object) {
    Py_buffer buffer;
    if (acquire(object, &buffer, PyBUF_SIMPLE) < 0)
        return NULL;
    uint64_t total = read(buffer.buf, (size_t)buffer.len);
    release(&buffer);
    return PyLong_FromUnsignedLongLong(total);
}

static PyObject *py_fill(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    (void)self;
    return write_with(content_fill, arguments, count);
}

static PyObject *py_mark(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    (void)self;
    return write_with(content_mark, arguments, count);
}

static PyObject *py_total(PyObject *self, PyObject *object) {
    (void)self;
    return read_with(content_sum, object);
}

static PyObject *py_ends(PyObject *self, PyObject *object) {
    (void)self;
    return read_with(content_ends, object);
}

static PyObject *py_tally(PyObject *self, PyObject *batch) {
    (void)self;
    if (!PyList_Check(batch))
        return PyErr_Format(PyExc_TypeError, "expected a list of messages");
    unsigned long long total = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(batch); i++) {
        Py_buffer buffer;
        if (acquire(PyList_GET_ITEM(batch, i), &buffer, PyBUF_SIMPLE) < 0)
            return NULL;
        total += buffer.len > 0 ? *(const unsigned char *)buffer.buf : 0;
        release(&buffer);
    }
    return PyLong_FromUnsignedLongLong(total);
}

static PyMethodDef methods[] = {
    {"fill", (PyCFunction)(void (*)(void))py_fill, METH_FASTCALL, "fill(buffer, sequence): write every byte."},
    {"mark", (PyCFunction)(void (*)(void))py_mark, METH_FASTCALL, "mark(buffer, sequence): write the two ends."},
    {"total", py_total, METH_O, "total(buffer): the sum of all its words."},
    {"ends", py_ends, METH_O, "ends(buffer): the sum of its first and last word."},
    {"tally", py_tally, METH_O, "tally(list): the sum of the messages' first bytes."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "content", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_content(void) {
    return PyModule_Create(&module);
}
