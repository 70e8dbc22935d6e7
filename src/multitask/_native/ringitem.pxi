# One item in, one item out.

cdef object _envelope = None    # (seal, open_sealed)


cdef object envelope():
    global _envelope
    if _envelope is None:
        from multitask._engine.envelope import open_sealed, seal

        _envelope = seal, open_sealed
    return _envelope


cdef _seal(obj):
    """(stream, buffers) of *obj*, for a reader that nobody knows yet. Runs user code."""
    return (<tuple> envelope())[0](obj, "item")


cdef _open(data, buffers):
    return (<tuple> envelope())[1](data, buffers)


cdef class Block:
    """Memory that a message was copied to; freed with the last array that lies in it."""
    cdef unsigned char *at
    cdef Py_ssize_t size

    def __dealloc__(self):
        mt_free(self.at)

    def __getbuffer__(self, Py_buffer *view, int flags):
        view.buf = self.at
        view.len = self.size
        view.readonly = 0
        view.itemsize = 1
        view.format = "B"
        view.ndim = 1
        view.shape = &self.size
        view.strides = &view.itemsize
        view.suboffsets = NULL
        view.internal = NULL
        view.obj = self


cdef extern from *:
    """
    static inline void mt_free(unsigned char *at) { free(at); }
    static inline unsigned char *mt_aligned(size_t size) { return aligned_alloc(64, (size + 63) & ~(size_t)63); }
    """
    void mt_free(unsigned char *at) nogil
    unsigned char *mt_aligned(size_t size) nogil


cdef Block block_of(mtq_box *box):
    """What is in the box; from a large one without copying."""
    cdef Block out = Block.__new__(Block)
    if box.data == box.small:
        out.at = mt_aligned(box.length)
        if out.at == NULL:
            raise MemoryError()
        memcpy(out.at, box.data, box.length)
    else:
        out.at = box.data
        box.data = box.small
    out.size = box.length
    return out


# A parcel is: u32 number of buffers, u32 0, u64 length of the pickle stream, u64 length of each buffer, the stream,
# and each buffer at a multiple of 64 bytes.

cdef inline uint64_t aligned_64(uint64_t n) noexcept nogil:
    return (n + 63) & ~<uint64_t> 63


cdef object open_parcel(Block whole):
    cdef uint32_t n, i
    cdef uint64_t length, at
    memcpy(&n, whole.at, 4)
    memcpy(&length, whole.at + 8, 8)
    at = 16 + 8 * <uint64_t> n
    view = memoryview(whole)
    stream = view[at:at + length]
    at += length
    buffers = []
    for i in range(n):
        memcpy(&length, whole.at + 16 + 8 * i, 8)
        at = aligned_64(at)
        buffers.append(view[at:at + length])
        at += length
    return _open(stream, tuple(buffers))


cdef class Parcel:
    """A pickle stream and its buffers, in pieces that can be copied without the GIL."""
    cdef bytes head
    cdef list views
    cdef mtq_part *parts
    cdef int n
    cdef uint64_t length

    def __dealloc__(self):
        PyMem_RawFree(self.parts)

    cdef int add(self, const void *data, uint64_t size) except -1:
        self.parts[self.n].data = data
        self.parts[self.n].size = size
        self.n += 1
        self.length += size
        return 0

    cdef int fill(self, stream, buffers) except -1:
        cdef uint32_t count = len(buffers)
        cdef uint32_t i
        cdef uint64_t length = len(stream)
        cdef const unsigned char[::1] view
        cdef unsigned char *p
        self.head = PyBytes_FromStringAndSize(NULL, 16 + 8 * count)
        self.parts = <mtq_part *> PyMem_RawMalloc((2 * count + 2) * sizeof(mtq_part))
        if self.parts == NULL:
            raise MemoryError()
        p = <unsigned char *> PyBytes_AS_STRING(self.head)
        memset(p, 0, 16 + 8 * count)
        memcpy(p, &count, 4)
        memcpy(p + 8, &length, 8)
        self.add(p, 16 + 8 * count)
        self.views = [memoryview(stream), *map(flat_view, buffers)]
        for i in range(count + 1):
            if i:
                self.add(ZEROS, aligned_64(self.length) - self.length)
                length = len(self.views[i])
                memcpy(p + 8 + 8 * i, &length, 8)
            if len(self.views[i]):
                view = self.views[i]
                self.add(&view[0], view.shape[0])
        return 0


cdef const unsigned char ZEROS[64]


cdef object flat_view(buffer):
    flat = memoryview(buffer)
    if flat.ndim == 1 and flat.format == "B" and flat.c_contiguous:
        return flat
    if flat.c_contiguous:
        return flat.cast("B")
    raw = getattr(buffer, "raw", None)      # a PickleBuffer of an array in Fortran's order
    return raw() if raw is not None else memoryview(flat.tobytes())


cdef class Item(Base):
    """put and get of one item."""

    def put(self, obj, block=True, timeout=None):
        cdef Writer w
        cdef mtq_part part
        cdef uint64_t deadline = MTQ_NEVER
        self.check_open()
        if not block or timeout is not None:
            deadline = deadline_of(block, timeout)
        if PyBytes_CheckExact(<PyObject *> obj):
            part.data = data_of_bytes(<PyObject *> obj)
            part.size = size_of_bytes(<PyObject *> obj)
            self.put_parts(MTQ_BYTES, &part, 1, part.size, deadline)
            return
        writer_start(&w)
        try:
            if encode_plain(&w, <PyObject *> obj, 4):
                part.data = w.data
                part.size = w.used
                self.put_parts(MTQ_PLAIN, &part, 1, part.size, deadline)
                return
        finally:
            writer_end(&w)
        stream, buffers = _seal(obj)
        self.put_stream(stream, buffers, deadline)

    def put_nowait(self, obj):
        self.put(obj, False)

    cdef int put_stream(self, stream, buffers, uint64_t deadline) except -1:
        cdef mtq_part part
        cdef Parcel parcel
        if buffers:
            parcel = Parcel.__new__(Parcel)
            parcel.fill(stream, buffers)
            return self.put_parts(MTQ_PARCEL, parcel.parts, parcel.n, parcel.length, deadline)
        part.data = PyBytes_AS_STRING(stream)
        part.size = PyBytes_GET_SIZE(stream)
        return self.put_parts(MTQ_PICKLE, &part, 1, part.size, deadline)

    cdef int put_parts(self, int kind, mtq_part *parts, int n, uint64_t length, uint64_t deadline) except -1:
        cdef int result
        if length <= WITH_GIL_MAX and mtq_lock(&self.q, MTQ_PUT, 0) == MTQ_DONE:
            result = mtq_put_one(&self.q, kind, parts, n, length, MTQ_NO)
            mtq_unlock(&self.q, MTQ_PUT)
            if result == MTQ_DONE:
                mtq_after_put(&self.q, 1)
                return 0
            if result == MTQ_ENDED:
                raise self.error(result)
        result = MTQ_SLICE
        while result == MTQ_SLICE:
            with nogil:
                result = mtq_put_wait(&self.q, kind, parts, n, length, deadline, slice_end())
            if result == MTQ_SLICE:
                PyErr_CheckSignals()
        if result != MTQ_DONE:
            raise self.error(result)
        return 0

    def get(self, block=True, timeout=None):
        cdef mtq_front f
        cdef mtq_box box
        cdef int result
        cdef object offered = None
        cdef uint64_t deadline = MTQ_NEVER
        self.check_open()
        if not block or timeout is not None:
            deadline = deadline_of(block, timeout)
        if mtq_lock(&self.q, MTQ_GET, 0) == MTQ_DONE:
            f.is_long = 0
            result = mtq_look(&self.q, &f, MTQ_NO)
            if result == MTQ_DONE:
                return self.take_with_gil(&f)
            mtq_unlock(&self.q, MTQ_GET)
            if result == MTQ_LATER and f.is_long and f.kind == MTQ_BYTES:
                # What comes may be this one: then it is copied once only.
                offered = PyBytes_FromStringAndSize(NULL, f.length)
        self.fill_box(&box, offered, deadline)
        return offered if box.data == box.offer else self.decode(&box)

    def get_nowait(self):
        return self.get(False)

    cdef object take_with_gil(self, mtq_front *f):
        """Take the message that was found under the get lock, and give the lock back."""
        cdef mtq_box box
        cdef object out = None
        cdef const unsigned char *at
        cdef bint whole = f.kind == MTQ_BYTES or f.kind == MTQ_PICKLE and f.length <= WITH_GIL_MAX
        box.data = box.small
        box.offer = NULL
        box.kind = f.kind
        box.length = f.length
        try:
            # Nothing here runs Python code: scalars, and memory that the collector of garbage does not know.
            if whole:
                out = PyBytes_FromStringAndSize(NULL, f.length)
                box.data = <unsigned char *> PyBytes_AS_STRING(out)
            elif f.kind == MTQ_PLAIN:
                at = mtq_in_place(&self.q, f)
                if at != NULL and is_scalar(at[0]):
                    out = decode_plain(&at)
                    box.data = NULL
            if box.data == box.small and f.length > sizeof(box.small):
                box.data = mt_aligned(f.length)
                if box.data == NULL:
                    raise MemoryError()
        except BaseException:
            mtq_unlock(&self.q, MTQ_GET)
            raise
        if f.length > WITH_GIL_MAX:
            with nogil:
                self.finish_taking(f, box.data)
        else:
            self.finish_taking(f, box.data)
        if whole and f.kind == MTQ_PICKLE:
            return _open(out, ())
        return out if whole or box.data == NULL else self.decode(&box)

    cdef void finish_taking(self, mtq_front *f, unsigned char *to) noexcept nogil:
        cdef int retire = mtq_leaves_garbage(f, 1)
        if to != NULL:
            mtq_read(&self.q, f, to)     # from the ring: cannot fail
        mtq_take(&self.q, f)
        mtq_unlock(&self.q, MTQ_GET)
        if retire:
            mtq_retire(&self.q)
        mtq_after_get(&self.q, 1)

    cdef int fill_box(self, mtq_box *box, offered, uint64_t deadline) except -1:
        """Wait for a message and take it. Everything that can go wrong with the queue goes wrong here."""
        cdef int result = MTQ_SLICE
        box.data = box.small
        box.offer = NULL
        if offered is not None:
            box.offer = <unsigned char *> PyBytes_AS_STRING(offered)
            box.offered = PyBytes_GET_SIZE(offered)
        while result == MTQ_SLICE:
            with nogil:
                result = mtq_get_wait(&self.q, box, deadline, slice_end())
            if result == MTQ_SLICE:
                PyErr_CheckSignals()
        if result != MTQ_DONE:
            raise self.error(MTQ_NOTHING if result == MTQ_LATE else result)
        return 0

    cdef object decode(self, mtq_box *box):
        """The object in the box, which is empty afterwards. Runs user code."""
        cdef const unsigned char *at = box.data
        try:
            if box.kind == MTQ_PLAIN:
                return decode_plain(&at)
            if box.kind == MTQ_BYTES:
                return PyBytes_FromStringAndSize(<const char *> box.data, box.length)
            if box.kind == MTQ_PARCEL:
                return open_parcel(block_of(box))
            if box.length <= WITH_GIL_MAX:
                return _open(PyBytes_FromStringAndSize(<const char *> box.data, box.length), ())
            return _open(memoryview(block_of(box)), ())
        finally:
            if box.data != box.small:
                mt_free(box.data)
                box.data = box.small
