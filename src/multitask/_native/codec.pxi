# A private codec for what most calls carry: plain scalars, and flat lists and tuples of them.
#
# Written straight into the lane and read straight from it. Everything else is pickled. At most one list may be
# in a message besides the items of a chunk: two references to one list must stay one list, and only pickle knows.

cdef enum:
    T_NONE, T_TRUE, T_FALSE, T_INT8, T_INT32, T_INT64, T_FLOAT, T_ASCII, T_UTF8, T_BYTES, T_LIST, T_TUPLE

cdef enum:
    SCRATCH = 1024
    TEXT_MAX = 4096      # longer texts repeated in a list are worth pickle's memo

cdef struct Writer:
    unsigned char *data
    size_t used
    size_t room
    int lists
    unsigned char scratch[SCRATCH]

cdef inline void writer_start(Writer *w) noexcept:
    w.data = w.scratch
    w.used = 0
    w.room = SCRATCH
    w.lists = 0

cdef inline void writer_end(Writer *w) noexcept:
    if w.data != w.scratch:
        PyMem_RawFree(w.data)
        w.data = w.scratch

cdef int writer_grow(Writer *w, size_t more) noexcept:
    cdef size_t room = w.room * 2
    cdef unsigned char *data
    while room < w.used + more:
        room *= 2
    if w.data == w.scratch:
        data = <unsigned char *> PyMem_RawMalloc(room)
        if data != NULL:
            memcpy(data, w.scratch, w.used)
    else:
        data = <unsigned char *> PyMem_RawRealloc(w.data, room)
    if data == NULL:
        return 0
    w.data = data
    w.room = room
    return 1

cdef inline int writer_need(Writer *w, size_t more) noexcept:
    if w.used + more <= w.room:
        return 1
    return writer_grow(w, more)

cdef inline void put_tag_u32(Writer *w, unsigned char tag, uint32_t v) noexcept:
    w.data[w.used] = tag
    memcpy(w.data + w.used + 1, &v, 4)
    w.used += 5

# 1: written; 0: not plain (nothing is raised; what was written so far is to be thrown away)
cdef int encode_plain(Writer *w, PyObject *o, int depth) noexcept:
    cdef long long integer
    cdef int overflow = 0
    cdef int32_t narrow
    cdef double number
    cdef Py_ssize_t n, i
    if not writer_need(w, 16):
        return 0
    if PyLong_CheckExact(o):
        integer = PyLong_AsLongLongAndOverflow(o, &overflow)
        if overflow:
            return 0
        if -128 <= integer <= 127:
            w.data[w.used] = T_INT8
            w.data[w.used + 1] = <unsigned char> <int8_t> integer
            w.used += 2
        elif -2147483648 <= integer <= 2147483647:
            narrow = <int32_t> integer
            w.data[w.used] = T_INT32
            memcpy(w.data + w.used + 1, &narrow, 4)
            w.used += 5
        else:
            w.data[w.used] = T_INT64
            memcpy(w.data + w.used + 1, &integer, 8)
            w.used += 9
        return 1
    if PyUnicode_CheckExact(o):
        if not PyUnicode_IS_COMPACT_ASCII(o):
            return encode_utf8(w, o)
        n = PyUnicode_GET_LENGTH(o)
        if n > TEXT_MAX or not writer_need(w, n + 5):
            return 0
        put_tag_u32(w, T_ASCII, <uint32_t> n)
        memcpy(w.data + w.used, PyUnicode_DATA(o), n)
        w.used += n
        return 1
    if PyFloat_CheckExact(o):
        number = PyFloat_AS_DOUBLE(o)
        w.data[w.used] = T_FLOAT
        memcpy(w.data + w.used + 1, &number, 8)
        w.used += 9
        return 1
    if o == Py_None or o == Py_True or o == Py_False:
        w.data[w.used] = T_NONE if o == Py_None else T_TRUE if o == Py_True else T_FALSE
        w.used += 1
        return 1
    if PyBytes_CheckExact(o):
        n = size_of_bytes(o)
        if n > TEXT_MAX or not writer_need(w, n + 5):
            return 0
        put_tag_u32(w, T_BYTES, <uint32_t> n)
        memcpy(w.data + w.used, data_of_bytes(o), n)
        w.used += n
        return 1
    if depth <= 0:
        return 0
    if PyTuple_CheckExact(o):
        n = size_of_tuple(o)
        put_tag_u32(w, T_TUPLE, <uint32_t> n)
        for i in range(n):
            if not encode_plain(w, PyTuple_GET_ITEM(o, i), depth - 1):
                return 0
        return 1
    if PyList_CheckExact(o):
        w.lists += 1
        if w.lists > 1:
            return 0
        n = size_of_list(o)
        put_tag_u32(w, T_LIST, <uint32_t> n)
        for i in range(n):
            # no Python code runs here, so the list cannot change under the loop
            if not encode_plain(w, PyList_GET_ITEM(o, i), depth - 1):
                return 0
        return 1
    return 0

cdef int encode_utf8(Writer *w, PyObject *o) noexcept:
    cdef Py_ssize_t n = PyUnicode_GET_LENGTH(o)
    cdef const char *text
    if n > TEXT_MAX:
        return 0
    try:
        text = PyUnicode_AsUTF8AndSize(o, &n)
    except UnicodeEncodeError:      # lone surrogates: pickle carries them
        return 0
    if not writer_need(w, n + 5):
        return 0
    put_tag_u32(w, T_UTF8, <uint32_t> n)
    memcpy(w.data + w.used, text, n)
    w.used += n
    return 1

cdef object decode_plain(const unsigned char **at):
    cdef unsigned char tag = at[0][0]
    cdef int32_t narrow
    cdef int64_t wide
    cdef double number
    cdef uint32_t n, i
    cdef object out, item
    at[0] += 1
    if tag == T_INT8:
        narrow = <int8_t> at[0][0]
        at[0] += 1
        return PyLong_FromLongLong(narrow)
    if tag == T_INT32:
        memcpy(&narrow, at[0], 4)
        at[0] += 4
        return PyLong_FromLongLong(narrow)
    if tag == T_INT64:
        memcpy(&wide, at[0], 8)
        at[0] += 8
        return PyLong_FromLongLong(wide)
    if tag == T_FLOAT:
        memcpy(&number, at[0], 8)
        at[0] += 8
        return PyFloat_FromDouble(number)
    if tag == T_NONE:
        return None
    if tag == T_TRUE:
        return True
    if tag == T_FALSE:
        return False
    memcpy(&n, at[0], 4)
    at[0] += 4
    if tag == T_ASCII:
        out = PyUnicode_New(n, 127)
        memcpy(PyUnicode_DATA(<PyObject *> out), at[0], n)
        at[0] += n
        return out
    if tag == T_UTF8:
        out = PyUnicode_DecodeUTF8(<const char *> at[0], n, NULL)
        at[0] += n
        return out
    if tag == T_BYTES:
        out = PyBytes_FromStringAndSize(<const char *> at[0], n)
        at[0] += n
        return out
    if tag == T_LIST:
        out = PyList_New(n)
        for i in range(n):
            item = decode_plain(at)
            Py_INCREF(item)
            PyList_SET_ITEM(out, i, <PyObject *> item)
        return out
    out = PyTuple_New(n)
    for i in range(n):
        item = decode_plain(at)
        Py_INCREF(item)
        PyTuple_SET_ITEM(out, i, <PyObject *> item)
    return out

# Scalars make no object that the collector of garbage tracks, so they may be decoded while the books are open.
cdef inline bint is_scalar(unsigned char tag) noexcept:
    return tag < T_LIST


def _plain_round_trip(value):
    """For tests: *value* through the codec, or NotImplemented where it would be pickled."""
    cdef Writer w
    cdef const unsigned char *at
    writer_start(&w)
    try:
        if not encode_plain(&w, <PyObject *> value, 4):
            return NotImplemented
        at = w.data
        return decode_plain(&at)
    finally:
        writer_end(&w)
