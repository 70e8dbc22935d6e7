# C declarations: the lane header, Python's C API, and the few system calls that are made directly.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.list cimport PyList_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int32_t, int64_t, int8_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

cdef extern from "lane.h" nogil:
    ctypedef uint64_t a64 "_Atomic uint64_t"
    ctypedef uint32_t a32 "_Atomic uint32_t"
    enum:
        MT_SLOTS
        MT_BYTES
        MT_INLINE_MAX
        MT_NOTE_BYTES
        MT_EMPTY
        MT_READY
        MT_TAKEN
        MT_DONE
        MT_REVOKED
        MT_CONDEMNED
        MT_AWAKE
        MT_MANAGER
        MT_CALLER
        MT_NOTHING
        MT_GOT
        MT_SKIP
    ctypedef struct mt_slot:
        uint32_t length
        uint8_t kind
        uint8_t form
        uint8_t mode
        uint8_t segment
        uint64_t position
        a64 start_ns
        a64 item
        uint64_t function
        uint64_t cookie
        uint64_t spare
    ctypedef struct mt_ring:
        a64 head
        a64 tail
    ctypedef struct mt_lane:
        uint64_t spin_ns
        a64 note_seq
        a64 note_ns
        a64 resident_bytes
        a64 tasks_started
        uint32_t note_length
        char *note
        mt_ring requests
        mt_ring replies
    ctypedef struct mt_page:
        a32 word
    int mt_kill_step
    long mt_kill_after
    uint64_t mt_now_ns()
    int mt_futex_wait(a32 *word, uint32_t value, int64_t timeout_ns)
    void mt_futex_wake(a32 *word)
    int mt_memfd(const char *name, size_t size)
    uint32_t mt_room(mt_ring *ring)
    mt_slot *mt_slot_of(mt_ring *ring, uint64_t seq)
    unsigned char *mt_reserve(mt_ring *ring, uint32_t length, mt_slot **slot)
    uint64_t mt_commit(mt_ring *ring, mt_slot *slot)
    int mt_wake_consumer(mt_ring *ring)
    int mt_revoke(mt_ring *ring, uint64_t seq)
    int mt_condemn(mt_ring *ring, uint64_t seq)
    int mt_state(mt_ring *ring, uint64_t seq)
    int mt_peek(mt_ring *ring, uint64_t seq)
    int mt_take(mt_ring *ring, uint64_t seq)
    int mt_finish(mt_ring *ring, uint64_t seq)
    void mt_release(mt_ring *ring, uint64_t seq)
    void mt_wake_producer(mt_ring *ring)
    unsigned char *mt_content(mt_ring *ring, mt_slot *slot)
    int mt_something(mt_ring *ring, uint64_t seq)
    int mt_consumer_sleep(mt_ring *ring, uint64_t seq, uint64_t spin_ns, int64_t timeout_ns)
    int mt_producer_sleep(mt_ring *ring, uint64_t seen_tail)
    void mt_awake(mt_page *page, uint32_t slept_as)
    void mt_ring_bell(mt_page *page, int eventfd)
    int mt_send_fd(int sock, int fd, int flags)
    int mt_recv_fd(int sock, int flags)
    int mt_pwrite_all(int fd, const void *data, size_t size, int64_t offset)
    int mt_populate_write(void *at, size_t size)
    void mt_seal(int fd)
    int mt_reader(int fd)
    int mt_unread(int fd)
    uint32_t mt_load32(a32 *p)
    void mt_store32(a32 *p, uint32_t v)
    uint64_t mt_load64(a64 *p)
    void mt_store64(a64 *p, uint64_t v)
    int mt_cas32(a32 *p, uint32_t expected, uint32_t wanted)
    void mt_fence()
    void mt_relax()
    void mt_write_note(mt_lane *lane, const char *text, uint32_t length)
    void MT_STEP(int n)

cdef extern from *:
    """
    #include <Python.h>
    #include <frameobject.h>
    #include <pthread.h>
    #include <sys/epoll.h>
    #include <sys/eventfd.h>
    #include <sys/mman.h>
    /* Forks that this process has come out of, counted before CPython finalizes what only other threads held. */
    static unsigned mt_forks = 0;
    static void mt_forked(void) { mt_forks++; }
    static inline void mt_watch_forks(void) { pthread_atfork(NULL, NULL, mt_forked); }
    static inline PyObject *mt_new(PyTypeObject *type, PyObject *empty) { return type->tp_new(type, empty, NULL); }
    static inline PyObject *mt_frame_code(PyFrameObject *frame) { return (PyObject *) PyFrame_GetCode(frame); }
    /* Is the weak reference `ref` one to `object`, still alive? */
    static inline int mt_weak_is(PyObject *ref, PyObject *object) {
    #if PY_VERSION_HEX >= 0x030D0000
        PyObject *found = NULL;
        if (PyWeakref_GetRef(ref, &found) < 0) { PyErr_Clear(); return 0; }
        int same = found == object;
        Py_XDECREF(found);
        return same;
    #else
        return PyWeakref_GetObject(ref) == object;
    #endif
    }
    """
    object mt_new(PyTypeObject *type, object empty)
    const unsigned mt_forks
    void mt_watch_forks()
    int mt_weak_is(object ref, object wanted)
    ctypedef struct PyTypeObject
    ctypedef struct PyFrameObject
    PyFrameObject *PyEval_GetFrame()
    PyFrameObject *PyFrame_GetBack(PyFrameObject *frame)
    PyObject *mt_frame_code(PyFrameObject *frame)
    int PyFrame_GetLasti(PyFrameObject *frame)
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int EPOLLIN, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CLOEXEC, EFD_CLOEXEC, EFD_NONBLOCK
    int epoll_create1(int flags) nogil
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event) nogil
    int epoll_wait(int epfd, epoll_event *events, int n, int timeout) nogil
    int eventfd(unsigned int value, int flags) nogil
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_SHARED
    void *MAP_FAILED
    void *mmap(void *at, size_t size, int prot, int flags, int fd, int64_t offset) nogil
    int munmap(void *at, size_t size) nogil

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)
    ssize_t c_read "read"(int fd, void *buf, size_t n)
    ssize_t c_write "write"(int fd, const void *buf, size_t n)
    int c_pause "pause"()
    int getpid()

cdef extern from "Python.h":
    int PyLong_CheckExact(PyObject *o)
    int PyFloat_CheckExact(PyObject *o)
    int PyUnicode_CheckExact(PyObject *o)
    int PyUnicode_IS_COMPACT_ASCII(PyObject *o)
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject *o)
    void *PyUnicode_DATA(PyObject *o)
    const char *PyUnicode_AsUTF8AndSize(PyObject *o, Py_ssize_t *size) except? NULL
    object PyUnicode_DecodeUTF8(const char *s, Py_ssize_t size, const char *errors)
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    int PyBytes_CheckExact(PyObject *o)
    int PyList_CheckExact(PyObject *o)
    int PyTuple_CheckExact(PyObject *o)
    PyObject *PyList_GET_ITEM(PyObject *o, Py_ssize_t i)
    PyObject *PyTuple_GET_ITEM(PyObject *o, Py_ssize_t i)
    void PyList_SET_ITEM(object o, Py_ssize_t i, PyObject *v)
    void PyTuple_SET_ITEM(object o, Py_ssize_t i, PyObject *v)
    object PyList_New(Py_ssize_t n)
    object PyTuple_New(Py_ssize_t n)
    int PyList_Append(object l, object v) except -1
    long long PyLong_AsLongLongAndOverflow(PyObject *o, int *overflow)
    double PyFloat_AS_DOUBLE(PyObject *o)
    object PyLong_FromLongLong(long long v)
    object PyFloat_FromDouble(double v)
    PyObject *Py_None
    PyObject *Py_True
    PyObject *Py_False
    Py_ssize_t size_of_list "PyList_GET_SIZE"(PyObject *o)
    Py_ssize_t size_of_tuple "PyTuple_GET_SIZE"(PyObject *o)
    Py_ssize_t size_of_bytes "PyBytes_GET_SIZE"(PyObject *o)
    char *data_of_bytes "PyBytes_AS_STRING"(PyObject *o)
    object PyObject_Call(object f, object args, object kwargs)
    object PyObject_CallOneArg(object f, object arg)
    PyObject *PyDict_GetItemWithError(object d, object k) except? NULL
    PyObject *dict_get_borrowed "PyDict_GetItemWithError"(PyObject *d, PyObject *k) except? NULL
    int PySet_Contains(object s, object v) except -1
    int PySet_Add(object s, object v) except -1
    int PyFunction_Check(object o)
    PyObject *PyFunction_GET_CODE(object f)
    PyObject *PyFunction_GET_DEFAULTS(object f)
    PyObject *PyFunction_GET_KW_DEFAULTS(object f)
    PyObject *PyCell_GET(PyObject *cell)
    unsigned long PyThread_get_thread_ident() nogil
    void PyObject_GC_UnTrack(PyObject *o)
    void PyObject_GC_Track(PyObject *o)
    int PyObject_GC_IsTracked(PyObject *o)
    void raw_incref "Py_INCREF"(PyObject *o)
    void raw_decref "Py_DECREF"(PyObject *o)
    void raw_xdecref "Py_XDECREF"(PyObject *o)
    Py_ssize_t references "Py_REFCNT"(PyObject *o)
