# The parent's end of one worker's lane, and the functions it has been told of.

cdef enum:
    K_CALL = 1
    K_DEFINE = 2
    K_FORGET = 3
    K_STOP = 4
    K_HELLO = 5
    K_OK = 6
    K_ERROR = 7
    K_BYE = 8
    K_BROKEN = 9

cdef enum:
    F_PLAIN = 1
    F_PARCEL = 2

cdef enum:
    L_STARTING = 0
    L_READY = 1
    L_LEAVING = 2
    L_GONE = 3

cdef enum:
    DEPTH_FIRST = 4      # messages ahead of a worker whose tasks have not been timed yet
    AHEAD_NS = 1500000   # keep about this much work in a lane


cdef class Definition:
    """Something a worker must know before a call: a function, a class, or the binding of a global."""
    cdef object __weakref__
    cdef object id           # int, as a Python object for the tables
    cdef uint64_t number
    cdef object name         # str: a binding; None: a definition
    cdef bytes prefix        # u32 length of the name, the name
    cdef object content      # packed parcel: bytes or Segment
    cdef object token        # the encoder's: while it is held, the number is not given up, nor what was lent


cdef class FunctionEntry:
    """A function as the core knows it: what workers must know first, and how to see that it is still the same."""
    cdef uint64_t number     # 0: the function travels inside the payload
    cdef tuple needs         # of Definition
    cdef bint own            # made for one task: its needs are not met again
    cdef bint lent           # among them are descriptors, lent until the task is settled
    cdef object weak         # weak reference to the function, or the function itself where it has none
    cdef object ref          # the encoder's FunctionRef
    cdef object code         # None: by reference, always the same
    cdef object defaults
    cdef bint simple         # nothing but code and defaults to look at

    cdef bint valid(self, object fn):
        cdef PyObject *defaults
        if self.code is None:
            return True
        defaults = PyFunction_GET_DEFAULTS(fn)
        if defaults == NULL:
            defaults = Py_None
        if PyFunction_GET_CODE(fn) != <PyObject *> self.code or defaults != <PyObject *> self.defaults:
            return False
        return self.simple or <bint> self.ref.valid()


cdef class Lane:
    """One worker's two rings as the parent sees them, with what is under way in them."""
    cdef mt_lane *m
    cdef int memory          # memfd of the lane, until the worker has it
    cdef int sock            # control socket, parent's end
    cdef int far_sock
    cdef readonly int wid
    cdef int state
    cdef uint64_t reply_seq
    cdef uint64_t oldest     # lowest request that may still be under way
    cdef PyObject *inflight[MT_SLOTS]
    cdef int count           # tasks under way
    cdef int depth
    cdef double mean_ns
    cdef bint full
    cdef set known
    cdef dict bound
    cdef object last_needs
    cdef bint want_stop
    cdef object farewell     # reason of a BYE
    cdef object broken       # packed error of an initializer that failed

    def __cinit__(self):
        self.memory = self.sock = self.far_sock = -1
        memset(self.inflight, 0, sizeof(self.inflight))

    def __init__(self, uint64_t spin_ns=0):
        cdef int pair[2]
        cdef void *at
        self.memory = mt_memfd("multitask-lane", sizeof(mt_lane))
        if self.memory < 0:
            raise OSError(-self.memory, "cannot make the lane of a worker (open files or memory exhausted?)")
        if socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0:
            PyErr_SetFromErrno(OSError)
        self.sock, self.far_sock = pair[0], pair[1]
        at = mmap(NULL, sizeof(mt_lane), PROT_READ | PROT_WRITE, MAP_SHARED, self.memory, 0)
        if at == MAP_FAILED:
            PyErr_SetFromErrno(OSError)
        self.m = <mt_lane *> at
        self.m.spin_ns = spin_ns
        self.known = set()
        self.bound = {}
        self.depth = DEPTH_FIRST
        self.state = L_STARTING

    def child_fds(self):
        """Descriptors for the worker: the lane's memory and its end of the control socket."""
        return [self.memory, self.far_sock]

    def started(self):
        """The worker has the descriptors: close this side's copies."""
        if self.memory >= 0:
            c_close(self.memory)
        if self.far_sock >= 0:
            c_close(self.far_sock)
        self.memory = self.far_sock = -1

    def resident(self):
        """Resident bytes of the worker as it last saw them, or None."""
        n = mt_load64(&self.m.resident_bytes) if self.m != NULL else 0
        return n or None

    cdef void empty(self):
        """Let go of what is under way: nobody is going to answer it."""
        cdef int i
        cdef PyObject *held
        for i in range(MT_SLOTS):
            held = self.inflight[i]
            self.inflight[i] = NULL
            raw_xdecref(held)
        self.count = 0

    cdef void shut(self):
        self.started()
        if self.sock >= 0:
            c_close(self.sock)
            self.sock = -1

    def close(self):
        """Give the memory and the socket back; the lane is not used any more."""
        self.shut()
        if self.m != NULL:
            munmap(self.m, sizeof(mt_lane))
            self.m = NULL

    def __dealloc__(self):
        cdef int i
        for i in range(MT_SLOTS):
            raw_xdecref(self.inflight[i])
        if self.memory >= 0:
            c_close(self.memory)
        if self.far_sock >= 0:
            c_close(self.far_sock)
        if self.sock >= 0:
            c_close(self.sock)
        if self.m != NULL:
            munmap(self.m, sizeof(mt_lane))

    cdef object note(self):
        """(text, age in seconds) of the last note, or None. Reads under the note's sequence lock."""
        cdef uint64_t before, when
        cdef int i
        cdef bytes text
        for i in range(100):
            before = mt_load64(&self.m.note_seq)
            if before & 1:
                continue
            when = mt_load64(&self.m.note_ns)
            if not when:
                return None
            text = PyBytes_FromStringAndSize(self.m.note, min(self.m.note_length, <uint32_t> MT_NOTE_BYTES))
            mt_fence()
            if mt_load64(&self.m.note_seq) == before:
                return text.decode("utf-8", "replace"), (mt_now_ns() - when) / 1e9
        return None

cdef extern from "<sys/socket.h>" nogil:
    int AF_UNIX, SOCK_STREAM, SOCK_CLOEXEC, MSG_DONTWAIT
    int socketpair(int domain, int type, int protocol, int *pair)
