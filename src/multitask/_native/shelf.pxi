# Memory for large contents: segments, and the shelf on which the sender keeps those that may be written again.
#
# Fresh pages cost more than the copy into them, so a sender writes into the memory of an earlier content again, once
# nobody reads it any more. There is no message for that: each descriptor that is sent is an open file description of
# its own, read-only, with a shared lock of flock(2) on it. It holds the lock in the socket, in the reader's table of
# descriptors, in the reader's mapping and in those of its forked children, and the kernel takes the lock off with the
# last of them, whatever they died of. The sender asks for the exclusive lock: granted means that nobody reads.

cdef enum:
    PLACES = 4                  # segments on a shelf
    KEEP_NS = 1000000000        # how long one lies there before its memory goes back
    WORTH_KEEPING = 1 << 20     # bytes; smaller ones are made as fast as they are found

cdef struct Kept:
    int fd
    void *at          # shared, writable mapping of all of it, or NULL
    size_t room
    uint64_t since_ns


cdef void give_back(Kept *old) noexcept nogil:
    if old.at != NULL:
        munmap(old.at, old.room)
    c_close(old.fd)


cdef class Shelf:
    """What one sender may write again, the latest last. Runs no Python code but for the first look at the memory."""
    cdef Kept kept[PLACES]
    cdef int used
    cdef size_t bytes          # of what lies here
    cdef size_t mapped         # of what lies here or is being written
    cdef size_t most           # 0: not looked yet; then 1 is none
    cdef int senders           # shelves that share the memory
    cdef int bell              # eventfd of who calls sweep(), when it has to be told that there is something; or -1
    cdef bint told
    cdef bint closed

    def __cinit__(self, int senders=1, int bell=-1):
        self.senders, self.bell = senders, bell

    def __dealloc__(self):
        self.close()

    cdef int look(self) except -1:
        """How much may lie here; asked when the first large content is packed."""
        from multitask._engine.headroom import spare_bytes
        self.most = max(1, spare_bytes(self.senders))
        return 0

    cdef Segment take(self, size_t size):
        """A segment for *size* bytes with memory that nobody reads any more, or None."""
        cdef Segment out
        cdef int i = self.used - 1
        while i >= 0:
            if self.kept[i].room // 2 <= size <= self.kept[i].room and mt_unread(self.kept[i].fd):
                out = Segment.__new__(Segment)
                out.fd, out.at, out.room = self.kept[i].fd, self.kept[i].at, self.kept[i].room
                self.remove(i)
                return out
            i -= 1
        return None

    cdef void put(self, int fd, void *at, size_t room) noexcept:
        """Keep a segment that nobody here will send again; readers may still be there."""
        cdef uint64_t one = 1
        cdef Kept new = Kept(fd, at, room, mt_now_ns())
        if self.closed or room > self.most:
            self.mapped -= room if at != NULL else 0
            give_back(&new)
            return
        while self.used == PLACES or self.bytes + room > self.most:
            self.drop_oldest()
        self.kept[self.used] = new
        self.used += 1
        self.bytes += room
        if self.bell >= 0 and not self.told:
            self.told = True
            c_write(self.bell, &one, 8)

    cdef int64_t sweep(self, uint64_t now) except -2:
        """Give back what has lain here too long; nanoseconds until the next is due, -1 when there is none."""
        cdef Kept old
        while self.used and self.kept[0].since_ns + KEEP_NS <= now:      # now may lie before it
            old = self.kept[0]
            self.remove(0)
            self.mapped -= old.room if old.at != NULL else 0
            with nogil:      # tens of milliseconds; nobody else knows of it any more
                give_back(&old)
        if self.used == 0:
            self.told = False
            return -1
        return <int64_t> (self.kept[0].since_ns + KEEP_NS - now)

    cdef void close(self) noexcept:
        """Give all of it back, and keep nothing any more."""
        self.closed = True
        self.bell = -1
        while self.used:
            self.drop_oldest()

    cdef void drop_oldest(self) noexcept:
        cdef Kept old = self.kept[0]
        self.remove(0)
        self.mapped -= old.room if old.at != NULL else 0
        give_back(&old)

    cdef void remove(self, int i) noexcept:
        self.bytes -= self.kept[i].room
        self.used -= 1
        memmove(&self.kept[i], &self.kept[i + 1], (self.used - i) * sizeof(Kept))


@cython.no_gc      # a shelf refers to nothing, so there is no cycle, and __dealloc__ finds it as it was
cdef class Segment:
    """A memfd that holds one content; the parent keeps it until the task is settled."""
    cdef readonly int fd
    cdef readonly size_t size
    cdef size_t room           # bytes it has memory for, when it may be written again
    cdef void *at              # shared, writable mapping of the room, or NULL
    cdef Shelf shelf           # where it goes when nobody here will send it again; None: written once, and sealed

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        if self.shelf is not None:
            self.shelf.put(self.fd, self.at, self.room)
        elif self.fd >= 0:
            c_close(self.fd)

    cdef int write(self, const unsigned char *data, size_t n, size_t offset) except -1:
        cdef int result = 0
        with nogil:
            if self.at != NULL:
                memcpy(<unsigned char *> self.at + offset, data, n)
            else:
                result = mt_pwrite_all(self.fd, data, n, offset)
        if result:
            self.seal()
            check_written(result, self.size)
        return 0

    cdef int written(self, Shelf shelf) noexcept:
        """All of the content is there: from now on it only changes when nobody reads it, or never."""
        if self.shelf is not None:
            return 0
        if shelf is None or shelf.closed or self.size < WORTH_KEEPING:
            mt_seal(self.fd)
        else:
            self.shelf = shelf
            self.room = self.size
        return 0

    cdef void map_room(self) noexcept:
        """Writing through a mapping takes a third of the time, but making it as long as a write: for what comes again."""
        cdef void *at
        with nogil:
            at = mmap(NULL, self.room, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, 0)
            if at != MAP_FAILED and mt_populate_write(at, self.room) != 0:
                munmap(at, self.room)
                at = MAP_FAILED
        if at != MAP_FAILED:
            self.at = at
            self.shelf.mapped += self.room

    cdef int seal(self) noexcept:
        """Leave the shelf for ever."""
        if self.at != NULL:
            munmap(self.at, self.room)
            self.shelf.mapped -= self.room
            self.at = NULL
        self.shelf = None
        mt_seal(self.fd)
        return 0

    cdef int send(self, int sock, int flags) noexcept:
        """Send a descriptor of it; 0 or a negative errno. Critical: runs no Python code."""
        cdef int fd, result
        if self.shelf is not None:
            fd = mt_reader(self.fd)
            if fd >= 0:
                result = mt_send_fd(sock, fd, flags)
                c_close(fd)
                return result
            # No /proc, no lock or no number left: nobody could say when it is read, so it is not written again.
            self.seal()
        return mt_send_fd(sock, self.fd, flags)


cdef Segment new_segment(size_t size, Shelf shelf):
    """Memory for a content of *size* bytes, on its way from *shelf* to there if that is given."""
    cdef Segment out = None
    if shelf is not None and size >= WORTH_KEEPING:
        if not shelf.most:
            shelf.look()
        out = shelf.take(size)
    if out is not None:
        out.shelf = shelf
        out.size = size
        if out.at == NULL:
            out.map_room()
        return out
    cdef int fd = mt_memfd("multitask", 0)
    if fd < 0:
        raise OSError(-fd, "cannot make a segment for a large message")
    out = Segment.__new__(Segment)
    out.fd = fd
    out.size = size
    return out


cdef int check_written(int result, size_t size) except -1:
    if result in (-28, -12):
        raise MemoryError(f"no memory for a content of {size} bytes")
    if result < 0:
        raise OSError(-result, f"cannot write a segment of {size} bytes")
    return 0


cdef Segment segment_of_bytes(const unsigned char *data, size_t size, Shelf shelf):
    cdef Segment out = new_segment(size, shelf)
    out.write(data, size, 0)
    out.written(shelf)
    return out
