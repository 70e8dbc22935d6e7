# Contents: packed by the sender, inline or into a segment (shelf.pxi), which the reader maps copy-on-write.
#
# A packed parcel is: u32 number of buffers, u32 0, u64 length of the pickle stream, u64 length of each buffer, then
# the stream, then each buffer at a multiple of 64 bytes. The same layout serves inline and in a segment.

cdef enum:
    ALIGN = 64

cdef inline size_t aligned(size_t n) noexcept:
    return (n + ALIGN - 1) & ~<size_t> (ALIGN - 1)


cdef class Mapping:
    """A private, writable mapping of somebody's segment; unmapped with its last user."""
    cdef void *at
    cdef readonly size_t size

    def __dealloc__(self):
        if self.at != NULL:
            munmap(self.at, self.size)

    def __getbuffer__(self, Py_buffer *view, int flags):
        view.buf = self.at
        view.len = self.size
        view.readonly = 0
        view.itemsize = 1
        view.format = "B"
        view.ndim = 1
        view.shape = <Py_ssize_t *> &self.size
        view.strides = &view.itemsize
        view.suboffsets = NULL
        view.internal = NULL
        view.obj = self

    def __len__(self):
        return self.size


cdef Mapping map_segment(int fd, size_t size):
    """Map what *fd* holds and close it; the mapping keeps the memory, and the lock on it."""
    cdef Mapping out = Mapping.__new__(Mapping)
    cdef void *at
    with nogil:
        at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0)
        c_close(fd)
    if at == MAP_FAILED:
        PyErr_SetFromErrno(OSError)
    out.at = at
    out.size = size
    return out


cdef object pack(object parcel, Shelf shelf=None):
    """A parcel as bytes, or as a Segment when it is large; with *shelf* one that is written again later.

    Runs outside the critical parts.
    """
    cdef object data = parcel[0]
    cdef object buffers = parcel[1]
    cdef uint32_t n = len(buffers)
    cdef uint32_t i
    cdef size_t head = 16 + 8 * n
    cdef size_t size = head + <size_t> len(data)
    cdef uint64_t length
    cdef list views = []
    cdef const unsigned char[::1] view
    cdef unsigned char *p
    for buffer in buffers:
        flat = memoryview(buffer)
        if flat.ndim != 1 or flat.format != "B" or not flat.c_contiguous:
            flat = flat.cast("B") if flat.c_contiguous else memoryview(flat.tobytes())
        views.append(flat)
        size = aligned(size) + <size_t> len(flat)
    cdef bytes header = PyBytes_FromStringAndSize(NULL, head)
    p = <unsigned char *> PyBytes_AS_STRING(header)
    memset(p, 0, head)
    memcpy(p, &n, 4)
    length = len(data)
    memcpy(p + 8, &length, 8)
    for i in range(n):
        length = len(views[i])
        memcpy(p + 16 + 8 * i, &length, 8)
    if size <= MT_INLINE_MAX:
        return pack_inline(header, data, views, size)
    return pack_segment(header, data, views, size, shelf)


cdef object pack_inline(bytes header, object data, list views, size_t size):
    cdef bytes out = PyBytes_FromStringAndSize(NULL, size)
    cdef unsigned char *p = <unsigned char *> PyBytes_AS_STRING(out)
    cdef size_t at = len(header)
    cdef const unsigned char[::1] view
    memcpy(p, PyBytes_AS_STRING(header), at)
    for part in [data, *views]:
        if part is not data:
            memset(p + at, 0, aligned(at) - at)
            at = aligned(at)
        if len(part):
            view = part
            memcpy(p + at, &view[0], len(part))
            at += <size_t> len(part)
    return out


cdef object pack_segment(bytes header, object data, list views, size_t size, Shelf shelf):
    cdef Segment out = new_segment(size, shelf)
    cdef size_t at = 0, n
    cdef const unsigned char[::1] view
    for part in [header, data, *views]:
        n = len(part)
        if part is not header and part is not data:
            at = aligned(at)
        if n:
            view = part
            out.write(&view[0], n, at)
            at += n
    out.written(shelf)
    return out


cdef object unpack(object source):
    """(pickle stream, buffers) of a packed parcel in *source* (bytes-like). Buffers are writable."""
    cdef const unsigned char[::1] view = source
    cdef uint32_t n, i
    cdef uint64_t length
    cdef size_t at
    memcpy(&n, &view[0], 4)
    memcpy(&length, &view[8], 8)
    at = 16 + 8 * n
    if n == 0:
        return source[at:at + length] if type(source) is bytes else bytes(memoryview(source)[at:at + length]), ()
    if type(source) is bytes:
        source = bytearray(source)      # what arrives may be written to, as after a copy by pickle
    whole = memoryview(source)
    stream = whole[at:at + length]
    at += length
    buffers = []
    for i in range(n):
        memcpy(&length, &view[16 + 8 * i], 8)
        at = aligned(at)
        buffers.append(whole[at:at + length])
        at += length
    return stream, tuple(buffers)
