# What every call on a queue needs: the C declarations, deadlines, the object with its memory, errors.

cdef extern from "ringwait.h" nogil:
    enum:
        MTQ_PLAIN
        MTQ_BYTES "MTQ_BYTES"
        MTQ_PICKLE
        MTQ_PARCEL
        MTQ_IMMEDIATE
        MTQ_DONE
        MTQ_FULL
        MTQ_NOTHING
        MTQ_ENDED
        MTQ_LATER
        MTQ_BUSY
        MTQ_SLICE
        MTQ_LATE
        MTQ_NO
        MTQ_YES
        MTQ_PUT
        MTQ_GET
    const uint64_t MTQ_NEVER
    ctypedef struct mtq_bell:
        a32 sleepers
    ctypedef struct mtq_control:
        uint64_t maxsize
        mtq_bell items
        mtq_bell room
        mtq_bell settled
    ctypedef struct mtq:
        mtq_control *c
        int fd
        uint64_t spin_ns
    ctypedef struct mtq_part:
        const void *data
        uint64_t size
    ctypedef struct mtq_get_state:
        uint64_t segment
        uint64_t capacity
        uint64_t base
        uint64_t position
        uint64_t long_end
    ctypedef struct mtq_put_state:
        uint64_t segment
        uint64_t capacity
        uint64_t base
        uint64_t position
        uint64_t reserved
        uint64_t file_end
    mtq_put_state *mtq_tail(mtq *q)
    mtq_get_state *mtq_head(mtq *q)
    ctypedef struct mtq_front:
        mtq_get_state state
        uint64_t waiting
        uint64_t length
        int kind
        int is_long
    ctypedef struct mtq_box:
        int kind
        uint64_t length
        unsigned char *data
        unsigned char *offer
        uint64_t offered
        unsigned char *small
    int mtq_make(mtq *q, uint64_t maxsize)
    int mtq_attach(mtq *q, int fd)
    void mtq_leave(mtq *q)
    uint64_t mtq_put_count(mtq *q)
    uint64_t mtq_got_count(mtq *q)
    uint32_t mtq_flags(mtq *q)
    uint64_t mtq_size(mtq *q)
    uint64_t MTQ_FRAME(uint64_t length)
    uint64_t MTQ_HEAD(int kind, uint64_t length)
    int MTQ_KIND(uint64_t head)
    int mtq_lock(mtq *q, int side, uint64_t until)
    void mtq_unlock(mtq *q, int side)
    int mtq_put_one(mtq *q, int kind, const mtq_part *parts, int n, uint64_t length, int may_grow)
    int mtq_put_run(mtq *q, const unsigned char *run, uint64_t size, uint64_t *taken, uint64_t *messages, int may_grow)
    int mtq_leaves_garbage(const mtq_front *f, uint64_t messages)
    int mtq_look(mtq *q, mtq_front *f, int may_map)
    const unsigned char *mtq_in_place(mtq *q, const mtq_front *f)
    int mtq_read(mtq *q, const mtq_front *f, void *to)
    void mtq_take(mtq *q, const mtq_front *f)
    void mtq_retire(mtq *q)
    void mtq_after_put(mtq *q, uint64_t messages)
    void mtq_after_get(mtq *q, uint64_t messages)
    int mtq_get_wait(mtq *q, mtq_box *box, uint64_t deadline, uint64_t slice)
    int mtq_put_wait(mtq *q, int kind, const mtq_part *parts, int n, uint64_t length, uint64_t deadline, uint64_t slice)
    int mtq_run_out(mtq *q, uint64_t most, unsigned char *to, uint64_t room, uint64_t *bytes, uint64_t *messages,
                    int may_map)
    int mtq_run_in_wait(mtq *q, const unsigned char *run, uint64_t size, uint64_t *taken, uint64_t *messages,
                        uint64_t deadline, uint64_t slice)
    uint64_t mtq_lock_by(uint64_t deadline, uint64_t slice)
    int mtq_time_is_up(uint64_t deadline, uint64_t slice)
    int mtq_wait(mtq *q, mtq_bell *bell, int (*ready)(mtq *) nogil, uint64_t deadline, uint64_t slice)
    void mtq_pass_on(mtq *q, mtq_bell *bell, int (*ready)(mtq *) nogil)
    int mtq_has_items(mtq *q) noexcept
    int mtq_has_room(mtq *q) noexcept
    int mtq_is_settled(mtq *q) noexcept
    int mtq_task_done(mtq *q, uint64_t count)
    int mtq_shutdown(mtq *q, int immediate, uint64_t until)
    int mtq_drain(mtq *q, uint64_t until)
    int mtq_must_drain(mtq *q)

cdef extern from *:
    """
    static inline uint32_t mtq_sleepers(mtq_bell *bell) { return atomic_load(&bell->sleepers); }
    /* What is done first: it never overtakes what was put. */
    static inline uint64_t mtq_unfinished(mtq *q) {
        uint64_t done = atomic_load(&q->c->discarded);
        done += atomic_load(&q->c->done);
        uint64_t put = mtq_put_count(q);
        return put > done ? put - done : 0;
    }
    /* Asked before every wait, so without a system call. After a fork the thread that forked is the main one. */
    static _Thread_local int mtq_main_thread = -1;
    static void mtq_forget_threads(void) { mtq_main_thread = -1; }
    static inline void mtq_watch_forks(void) { pthread_atfork(NULL, NULL, mtq_forget_threads); }
    static inline int mtq_in_main_thread(void) {
        if (mtq_main_thread < 0) mtq_main_thread = (pid_t)syscall(SYS_gettid) == getpid();
        return mtq_main_thread;
    }
    """
    uint32_t mtq_sleepers(mtq_bell *bell) nogil
    uint64_t mtq_unfinished(mtq *q) nogil
    int mtq_in_main_thread() nogil
    void mtq_watch_forks()

cdef enum:
    SLICE_NS = 1000000000       # sleepers look again so often: a waker may have been killed before its wake
    MAIN_SLICE_NS = 250000000   # and the main thread, for signals that came just before it slept
    WITH_GIL_MAX = 65536        # larger contents are copied without the GIL

mtq_watch_forks()

# How long to look before sleeping; -1: not decided yet.
cdef int64_t spin_ns = -1


cdef uint64_t spin_for_here() except? 12345:
    # Only where the other side can run meanwhile.
    global spin_ns
    if spin_ns < 0:
        spin_ns = 50000 if _cpu_count() > 1 else 0
    return <uint64_t> spin_ns


cdef inline uint64_t slice_end() noexcept nogil:
    return mt_now_ns() + <uint64_t> (MAIN_SLICE_NS if mtq_in_main_thread() else SLICE_NS)


cdef uint64_t deadline_of(block, timeout) except? 54321:
    """When a call has to give up, by mt_now_ns(): 0 at once, MTQ_NEVER never."""
    cdef double seconds
    if not block:
        return 0
    if timeout is None:
        return MTQ_NEVER
    seconds = timeout
    if not seconds > 0:
        return 0
    if seconds > 1e9:
        return MTQ_NEVER
    return mt_now_ns() + <uint64_t> (seconds * 1e9)


@cython.no_gc
cdef class Base:
    """The memory of a queue in this process, and what its calls have in common."""
    cdef mtq q
    cdef bint is_closed
    cdef object __weakref__
    # Goes after the memory was unmapped: see _engine/queueing/memory.py. Hence no_gc: of a cycle the collector
    # finalizes everything that it sees before it clears anything.
    cdef public object tie

    def __cinit__(self, *args, **kwargs):
        self.q.c = NULL
        self.q.fd = -1

    def __init__(self, maxsize=0):
        cdef int result
        cdef uint64_t most = 0 if maxsize is None or maxsize <= 0 else maxsize
        if self.q.c != NULL:
            raise RuntimeError("this queue is made already")
        result = mtq_make(&self.q, most)
        if result == -12 or result == -28:
            raise MemoryError("no memory for a queue")
        if result < 0:
            raise OSError(-result, "cannot make a queue")
        self.q.spin_ns = spin_for_here()

    @classmethod
    def _attach(cls, int fd):
        """The queue that *fd* belongs to; the descriptor is taken over, unless this raises."""
        cdef Base self = cls.__new__(cls)
        cdef int result = mtq_attach(&self.q, fd)
        if result == -22:
            raise ValueError(f"descriptor {fd} is no queue's")
        if result == -12:
            raise MemoryError("no memory to map a queue")
        if result < 0:
            raise OSError(-result, "cannot open a queue")
        self.q.spin_ns = spin_for_here()
        return self

    def __dealloc__(self):
        mtq_leave(&self.q)

    @property
    def fd(self):
        """Its one descriptor; stays its own."""
        self.opened()
        return self.q.fd

    cdef mtq *opened(self) except NULL:
        if self.q.c == NULL:
            raise ValueError("this queue was not made: __init__ was not called")
        return &self.q

    cdef int check_open(self) except -1:
        self.opened()
        if self.is_closed:
            raise ValueError(f"Queue {self!r} is closed")
        return 0

    cdef int wait_for(self, mtq_bell *bell, int (*ready)(mtq *) noexcept nogil, uint64_t deadline) except -1:
        cdef int result = MTQ_SLICE
        while result == MTQ_SLICE:
            with nogil:
                result = mtq_wait(&self.q, bell, ready, deadline, slice_end())
            if result == MTQ_SLICE:
                PyErr_CheckSignals()
        return result

    cdef object error(self, int result):
        """The exception for what a call ended with."""
        if result == MTQ_FULL or result == MTQ_LATE:
            return _stdlib.Full()
        if result == MTQ_NOTHING:
            return _stdlib.Empty()
        if result == MTQ_ENDED:
            return shut_down_class()()
        if result == -12 or result == -28:
            return MemoryError("no memory for this item of a queue")
        return OSError(-result, "the queue's memory cannot be read")


cdef object _ended_with = None


cdef object shut_down_class():
    """ShutDown, looked up when it is first needed: the package that has it needs this module."""
    global _ended_with
    if _ended_with is None:
        from multitask._engine.queueing.interface import ShutDown
        _ended_with = ShutDown
    return _ended_with
