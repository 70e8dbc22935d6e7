# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: auto_pickle=False, binding=False, always_allow_keywords=False
"""Small objects in shared memory: arenas of cells, the re-entrant lock in a cell, the atomic counter in a cell.

The protocol is in shared.h, its description in SHARED.md. What a process keeps about an arena (how often each cell is
referred to here, which cells are free) is guarded by the GIL: none of it runs Python code or releases the GIL. On a
free-threaded Python the extension has the interpreter switch the GIL on.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from cpython.ref cimport Py_INCREF
from libc.errno cimport EAGAIN, EBUSY, ETIMEDOUT
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap

from operator import index

cdef extern from "shared.h" nogil:
    ctypedef int64_t counter_word "_Atomic int64_t"
    ctypedef struct ms_arena:
        uint64_t magic
        uint32_t cell_bytes
        uint32_t cells
        uint64_t size
        uint32_t high
        uint32_t joins
    ctypedef struct ms_lock:
        pass
    int EOWNERDEAD
    void ms_plan(ms_arena *a, uint32_t cell_bytes, uint32_t cells)
    uint64_t MS_MAGIC
    int ms_sound(ms_arena *a, uint64_t size)
    uint64_t *ms_word(ms_arena *a, uint32_t cell)
    void *ms_cell(ms_arena *a, uint32_t cell)
    uint32_t ms_claims(uint64_t word)
    uint32_t ms_generation(uint64_t word)
    int ms_join(ms_arena *a, int fd)
    int ms_bury(ms_arena *a, int fd, uint32_t me)
    int ms_double(ms_arena *a, uint32_t me, int fd)
    void ms_use(ms_arena *a, uint32_t me, uint32_t cell)
    void ms_leave(ms_arena *a, uint32_t me, uint32_t cell)
    void ms_claim(ms_arena *a, uint32_t cell)
    void ms_settle(ms_arena *a, uint32_t cell, uint32_t generation)
    int ms_arrive(ms_arena *a, uint32_t me, uint32_t cell, uint32_t generation)
    int ms_reclaim(ms_arena *a, uint32_t cell)
    uint32_t ms_begin(ms_arena *a, uint32_t me, uint32_t cell)
    int ms_lock_init(ms_lock *lock)
    int ms_lock_try(ms_lock *lock)
    int ms_lock_wait(ms_lock *lock, int64_t nanoseconds)
    int ms_lock_release(ms_lock *lock)
    int ms_add(counter_word *count, int64_t n, int64_t *sum)

cdef extern from *:
    """
    #include <sys/stat.h>
    static int64_t ms_file_size(int fd) {
        struct stat info;
        return fstat(fd, &info) < 0 ? -1 : (int64_t)info.st_size;
    }
    static int64_t ms_load(_Atomic int64_t *count) { return atomic_load(count); }
    static void ms_store(_Atomic int64_t *count, int64_t n) { atomic_store(count, n); }
    static int ms_swap_if(_Atomic int64_t *count, int64_t old, int64_t new_) {
        return atomic_compare_exchange_strong(count, &old, new_);
    }
    static int64_t ms_now_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    /* A description of its own for the file of *fd*; -1: none is to be had. */
    static int ms_reopen(const char *path) { return open(path, O_RDWR | O_CLOEXEC); }
    /* Forks that this process has come out of. CPython drops what only other threads held before it calls the hooks of
       os.register_at_fork; a handler of the C library comes before that. */
    static unsigned ms_forks = 0;
    static void ms_forked(void) { ms_forks++; }
    static void ms_watch_forks(void) { pthread_atfork(NULL, NULL, ms_forked); }
    static void ms_relax(void) {
    #if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
    #endif
    }
    """
    int64_t ms_file_size(int fd) nogil
    int64_t ms_load(counter_word *count) nogil
    void ms_store(counter_word *count, int64_t n) nogil
    int ms_swap_if(counter_word *count, int64_t old, int64_t new_) nogil
    int64_t ms_now_ns() nogil
    int ms_reopen(const char *path) nogil
    void ms_relax() nogil
    const unsigned ms_forks
    void ms_watch_forks()

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)
    int ftruncate(int fd, int64_t length)

cdef enum:
    SLICE_NS = 50000000      # how long a waiter does not look for signals
    SPINS = 200              # looks at a busy lock before sleeping


ms_watch_forks()


def arena_bytes(uint32_t cell_bytes, uint32_t cells):
    """How large the file of such an arena is; only what is touched takes memory."""
    cdef ms_arena plan
    ms_plan(&plan, cell_bytes, cells)
    return plan.size


@cython.no_gc
cdef class Arena:
    """One file of equal cells, and this process's membership in it. Takes over the descriptor.

    The descriptor must have an open file description of its own: the kernel tells by it that this process lives.
    """
    cdef ms_arena *at
    cdef ms_arena plan        # what it was made with
    cdef uint64_t size
    cdef uint32_t member
    cdef uint32_t *counts     # how many objects of this process refer to each cell
    cdef uint32_t *held       # how often threads of this process hold the lock in each cell
    cdef uint32_t *stack      # free cells, for the maker
    cdef uint32_t waiting     # of them
    cdef int doubled          # the descriptor of the child that is being forked, or -1
    cdef uint32_t heir        # and its member
    cdef unsigned forks       # of the process that is the member
    cdef bint early           # uses ended in the child before it was the heir
    cdef readonly bint lent   # a child shares this membership: no use ends any more
    cdef readonly int fd
    cdef readonly bint own    # made here: this process hands out its cells
    cdef readonly bytes key
    cdef public object tie    # dropped after the memory was unmapped and closed
    cdef object __weakref__

    def __cinit__(self):
        self.fd = self.doubled = -1
        self.forks = ms_forks

    def __init__(self, int fd, bytes key, uint32_t cell_bytes=0, uint32_t cells=0):
        cdef void *at
        cdef int64_t size
        cdef int member
        cdef uint32_t i
        self.fd = fd
        self.key = key
        if cells:
            ms_plan(&self.plan, cell_bytes, cells)
            if ftruncate(fd, self.plan.size) < 0:
                PyErr_SetFromErrno(OSError)
        size = ms_file_size(fd)
        at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) if size > 0 else MAP_FAILED
        if at == MAP_FAILED:
            PyErr_SetFromErrno(OSError)
        self.at = <ms_arena *> at
        self.size = size
        if cells:
            self.at[0] = self.plan
            self.at.magic = MS_MAGIC
        elif not ms_sound(self.at, size):
            raise ValueError("this is no arena of shared objects")
        self.plan = self.at[0]
        self.counts = <uint32_t *> PyMem_RawCalloc(self.at.cells, 4)
        self.held = <uint32_t *> PyMem_RawCalloc(self.at.cells, 4)
        self.stack = <uint32_t *> PyMem_RawCalloc(self.at.cells, 4)
        if self.counts == NULL or self.held == NULL or self.stack == NULL:
            raise MemoryError
        member = ms_join(self.at, fd)
        if member == -EAGAIN:
            raise OSError(EAGAIN, "2048 processes use this arena of shared objects; no more can")
        if member < 0:
            raise OSError(-member, "cannot join an arena of shared objects")
        self.member = member
        if cells:
            self.own = True
            for i in range(cells):
                self.stack[i] = cells - 1 - i
            self.waiting = cells

    def __dealloc__(self):
        if self.at != NULL:
            munmap(self.at, self.size)
        if self.fd >= 0:
            c_close(self.fd)
        if self.doubled >= 0:     # dropped in a child that is not the heir yet, or while another thread forks
            c_close(self.doubled)
        PyMem_RawFree(self.counts)
        PyMem_RawFree(self.held)
        PyMem_RawFree(self.stack)

    @property
    def cell_bytes(self):
        return self.plan.cell_bytes

    @property
    def cells(self):
        return self.plan.cells

    @property
    def free(self):
        """How many cells can be taken without a look at what other processes have given up."""
        return self.waiting

    @property
    def referred(self):
        """How many cells this process refers to."""
        return sum([self.counts[i] != 0 for i in range(self.at.cells)])

    def take(self, kind, Py_ssize_t nbytes):
        """A cell of zeros as a *kind* of Cell, or None when there is none."""
        cdef Cell cell
        if not self.own or not self.waiting or nbytes > self.at.cell_bytes:
            return None
        cell = kind.__new__(kind)
        self.waiting -= 1
        cell.index = self.stack[self.waiting]
        cell.data = ms_cell(self.at, cell.index)
        memset(cell.data, 0, self.at.cell_bytes)
        cell.nbytes = nbytes
        cell.generation = ms_begin(self.at, self.member, cell.index)
        self.bequeath(cell.index)
        self.counts[cell.index] = 1
        cell.arena = self
        cell.begin()
        return cell

    def open(self, kind, uint32_t index, uint32_t generation, Py_ssize_t nbytes, bint claimed):
        """The cell that a handle names; None when it was given up. A *claimed* handle is under way no more then."""
        cdef Cell cell
        if index >= self.at.cells or nbytes > self.at.cell_bytes:
            raise ValueError("the handle names a cell that this arena does not have")
        cell = kind.__new__(kind)
        if not ms_arrive(self.at, self.member, index, generation):
            self.leave(index)
            return None
        self.bequeath(index)
        if claimed:
            ms_settle(self.at, index, generation)
        self.counts[index] += 1
        cell.index = index
        cell.generation = generation
        cell.data = ms_cell(self.at, index)
        cell.nbytes = nbytes
        cell.arena = self
        return cell

    def unclaim(self, uint32_t index, uint32_t generation):
        """A handle that was written will not be read."""
        if index < self.at.cells:
            ms_settle(self.at, index, generation)

    def sweep(self):
        """Take back what nobody uses any more, the dead least of all; how many cells are free then."""
        cdef uint32_t i
        if self.own:
            ms_bury(self.at, self.fd, self.member)
            for i in range(self.at.cells):
                if not self.counts[i] and ms_reclaim(self.at, i):
                    self.stack[self.waiting] = i
                    self.waiting += 1
        return self.waiting

    cdef void drop(self, uint32_t index) noexcept:
        """An object that referred to a cell has gone."""
        self.counts[index] -= 1
        if self.counts[index]:
            return
        if self.forks != ms_forks:     # the record is the parent's still, and so is the lock
            self.early = True
            return
        if self.held[index] and not self.let_go(index):
            return
        self.leave(index)
        if self.own and self.at.joins == 1 and ms_reclaim(self.at, index):
            self.stack[self.waiting] = index
            self.waiting += 1

    cdef void leave(self, uint32_t index) noexcept:
        if not self.counts[index] and not self.lent:
            ms_leave(self.at, self.member, index)

    cdef void bequeath(self, uint32_t index) noexcept:
        """Another thread is about to fork, and the child will have this cell too."""
        if self.doubled >= 0:
            ms_use(self.at, self.heir, index)

    cdef bint let_go(self, uint32_t index) noexcept:
        """Release a lock that nobody is left to release. 0: it cannot be, and the cell stays for ever."""
        cdef ms_lock *lock = <ms_lock *> ms_cell(self.at, index)
        cdef int result = ms_lock_try(lock)      # its holder is this thread, or one that has ended, or another one
        if result == EBUSY:
            # That thread's list of robust mutexes leads into this memory: neither may the cell be used again nor
            # the arena be unmapped.
            self.counts[index] = 1
            Py_INCREF(self)
            return False
        while ms_lock_release(lock) == 0:
            pass
        self.held[index] = 0
        return True

    # --- fork: the child is a user of its own from before it exists ---------------------------------------------------

    def before_fork(self):
        """Make a new description of the file stand for the child that comes; without one the two will share ours."""
        cdef char path[40]
        cdef int heir
        self.in_parent()    # what a signal's handler may have kept an earlier fork from doing
        snprintf(path, sizeof(path), "/proc/self/fd/%d", self.fd)
        self.doubled = ms_reopen(path)
        if self.doubled >= 0:
            heir = ms_double(self.at, self.member, self.doubled)
            if heir >= 0:
                self.heir = heir
                return
            c_close(self.doubled)
            self.doubled = -1
        self.lent = True

    def in_parent(self):
        """After the fork: what stands for the child is the child's alone."""
        if self.doubled >= 0:
            c_close(self.doubled)
            self.doubled = -1

    def lend(self):
        """After the fork, whether membership is shared: that of an arena that came too late for ``before_fork`` is."""
        self.lent = self.lent or self.doubled < 0
        return self.lent

    def in_child(self):
        """After the fork: this process is the heir, holds no lock, and hands out no cell of its parent's."""
        cdef uint32_t i
        self.lent = self.doubled < 0
        if not self.lent:
            c_close(self.fd)
            self.fd = self.doubled
            self.doubled = -1
            self.member = self.heir
        self.own = False
        self.forks = ms_forks
        memset(self.held, 0, 4 * self.at.cells)
        if self.early:
            self.early = False
            for i in range(self.at.cells):
                self.leave(i)


cdef class Cell:
    """One object in an arena; its memory as a buffer. Freed with the last one in all processes."""
    cdef Arena arena
    cdef void *data
    cdef readonly Py_ssize_t nbytes
    cdef readonly uint32_t index
    cdef readonly uint32_t generation
    cdef object __weakref__

    def __init__(self, *args, **kwargs):
        if self.arena is None:
            raise TypeError("cells come from an arena")

    def __dealloc__(self):
        if self.arena is not None:
            self.arena.drop(self.index)

    cdef int begin(self) except -1:
        return 0

    @property
    def home(self):
        """The arena."""
        return self.arena

    @property
    def address(self):
        return <size_t> self.data

    @property
    def claims(self):
        """How many handles are under way."""
        return ms_claims(ms_word(self.arena.at, self.index)[0])

    def claim(self):
        """A handle goes out that keeps the cell until it has arrived."""
        ms_claim(self.arena.at, self.index)

    def __len__(self):
        return self.nbytes

    def __getbuffer__(self, Py_buffer *view, int flags):
        view.buf = self.data
        view.len = self.nbytes
        view.readonly = 0
        view.itemsize = 1
        view.format = "B"
        view.ndim = 1
        view.shape = &self.nbytes
        view.strides = &view.itemsize
        view.suboffsets = NULL
        view.internal = NULL
        view.obj = self


cdef class RobustLock(Cell):
    """A re-entrant lock over threads and processes. When its holder dies, the next one gets it."""

    cdef int begin(self) except -1:
        cdef int failed = ms_lock_init(<ms_lock *> self.data)
        if failed:
            raise OSError(failed, "cannot make a lock in shared memory")
        return 0

    def acquire(self, block=True, timeout=None):
        """Take it; False when it could not be had (at once, or within *timeout* seconds)."""
        cdef int result = ms_lock_try(<ms_lock *> self.data)
        if result == EBUSY:
            return self.wait(block, timeout)
        return self.took(result)

    cdef bint took(self, int result) except -1:
        if result == EOWNERDEAD:     # perhaps a thread of this process
            self.arena.held[self.index] = 0
        elif result:
            raise OSError(result, "cannot take a lock in shared memory")
        self.arena.held[self.index] += 1
        return True

    cdef bint wait(self, block, timeout) except -1:
        cdef int64_t until = -1, left = SLICE_NS
        cdef int i, result = EBUSY
        if not block:
            return False
        if timeout is not None:
            until = ms_now_ns() + <int64_t> (max(0.0, min(float(timeout), 3e8)) * 1e9)
        while result in (EBUSY, ETIMEDOUT):
            if until >= 0:
                left = until - ms_now_ns()
                if left <= 0:
                    return False
            with nogil:     # the GIL may be what the holder waits for
                for i in range(SPINS):
                    result = ms_lock_try(<ms_lock *> self.data)
                    if result != EBUSY:
                        break
                    ms_relax()
                if result == EBUSY:
                    result = ms_lock_wait(<ms_lock *> self.data, left if left < SLICE_NS else SLICE_NS)
            if result in (EBUSY, ETIMEDOUT):
                PyErr_CheckSignals()
        return self.took(result)

    def release(self):
        """Give it back. AssertionError, as the standard library's, when this thread does not hold it."""
        cdef int failed = ms_lock_release(<ms_lock *> self.data)
        if failed:
            raise AssertionError("attempt to release recursive lock not owned by thread")
        self.arena.held[self.index] -= 1

    def __enter__(self):
        return self.acquire()

    def __exit__(self, kind, error, trace):
        self.release()


cdef class AtomicCounter(Cell):
    """A whole number of 64 bits that is changed by atomic instructions."""

    def add(self, n=1):
        cdef int64_t total
        cdef int64_t more = whole(n)
        if not ms_add(<counter_word *> self.data, more, &total):
            raise overflow(self, n)
        return total

    def __iadd__(self, n):
        cdef int64_t total
        if not ms_add(<counter_word *> self.data, whole(n), &total):
            raise overflow(self, n)
        return self

    def __isub__(self, n):
        return self.__iadd__(-index(n))

    def get(self):
        return ms_load(<counter_word *> self.data)

    def set(self, n):
        ms_store(<counter_word *> self.data, whole(n))

    def compare_and_set(self, old, new):
        return bool(ms_swap_if(<counter_word *> self.data, whole(old), whole(new)))

    @property
    def value(self):
        return ms_load(<counter_word *> self.data)

    @value.setter
    def value(self, n):
        ms_store(<counter_word *> self.data, whole(n))


cdef object overflow(AtomicCounter counter, n):
    return OverflowError(f"adding {n} would leave the 64 bits of a Counter, which stays at {counter.get()}")


cdef inline int64_t whole(n) except? -1:
    """An int, or what can be used as one; a float is none."""
    return <int64_t> n if type(n) is int else <int64_t> index(n)


@cython.no_gc    # what is tied to it leads nowhere
cdef class Mapping:
    """A file mapped into this process, seen through its buffer; unmapped and closed with its last user."""
    cdef void *at
    cdef public bytes key
    cdef public object tie    # dropped after the memory was unmapped and closed
    cdef readonly Py_ssize_t nbytes
    cdef readonly bint writable
    cdef public int fd
    cdef object __weakref__

    def __cinit__(self):
        self.fd = -1

    def __init__(self, int fd, Py_ssize_t nbytes, bint writable):
        cdef void *at
        if self.at != NULL:
            raise TypeError("it is mapped already")
        at = mmap(NULL, max(nbytes, 1), PROT_READ | PROT_WRITE if writable else PROT_READ, MAP_SHARED, fd, 0)
        if at == MAP_FAILED:
            PyErr_SetFromErrno(OSError)
        self.fd = fd
        self.at = at
        self.nbytes = nbytes
        self.writable = writable

    def __dealloc__(self):
        if self.at != NULL:
            munmap(self.at, max(self.nbytes, 1))
        if self.fd >= 0:
            c_close(self.fd)

    @property
    def address(self):
        return <size_t> self.at

    def __len__(self):
        return self.nbytes

    def __getbuffer__(self, Py_buffer *view, int flags):
        if flags & 1 and not self.writable:     # PyBUF_WRITABLE
            raise BufferError("this shared memory is read-only")
        view.buf = self.at
        view.len = self.nbytes
        view.readonly = not self.writable
        view.itemsize = 1
        view.format = "B"
        view.ndim = 1
        view.shape = &self.nbytes
        view.strides = &view.itemsize
        view.suboffsets = NULL
        view.internal = NULL
        view.obj = self
