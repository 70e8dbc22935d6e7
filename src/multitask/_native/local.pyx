# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: auto_pickle=False
"""The queue between the threads of one process: references in a circle, and who waits in lines.

Owner of everything in a ThreadQueue: whoever holds the GIL. What stands between "critical" comments runs no
bytecode, does not release the GIL and drops no reference to a user's object, so that no other thread, signal
handler or ``__del__`` sees it half done, and all of these may call every method. (A free-threaded interpreter
switches its GIL on when it loads this, as it does for the core.)
Rule: somebody waits to get only while the queue is empty, and to put only while it is full. An item goes straight
into the hand of who has waited longest, so nobody is overtaken, and no wake-up is for nothing.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.stdint cimport int64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

import operator
import os
import threading

from multitask.errors import TimeoutError as _TimeoutError

cdef extern from "Python.h":
    ctypedef void *PyThread_type_lock
    ctypedef enum PyLockStatus:
        PY_LOCK_FAILURE
        PY_LOCK_ACQUIRED
        PY_LOCK_INTR
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock lock)
    unsigned long PyThread_get_thread_ident()
    int PyThread_acquire_lock(PyThread_type_lock lock, int wait)
    void PyThread_release_lock(PyThread_type_lock lock)
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int intr) nogil
    PyObject *PyList_GET_ITEM(PyObject *list, Py_ssize_t i)
    void PyList_SET_ITEM(PyObject *list, Py_ssize_t i, PyObject *item)
    Py_ssize_t PyList_GET_SIZE(PyObject *list)
    int PyList_SetSlice(object list, Py_ssize_t low, Py_ssize_t high, PyObject *items) except -1
    PyObject *Py_None
    Py_ssize_t PY_SSIZE_T_MAX

cdef enum:
    FIRST_ROOM = 16        # a power of two, as every room
    KEPT_ROOM = 1024       # what a queue goes back to when it has been emptied …
    LARGE_ROOM = 16384     # … after it was larger than this

    CALLED = 1             # how sleeping ended
    LATE = 2
    FORKED = 3

    MAIN_SLICE_US = 250000

cdef double LONGEST_SECONDS = 1e9

# How often this process came out of a fork: who waited in the parent does not exist here.
cdef unsigned int forks = 0
cdef unsigned long main_thread = threading.main_thread().ident

def _forked():
    global forks, main_thread
    forks += 1
    main_thread = PyThread_get_thread_ident()

os.register_at_fork(after_in_child=_forked)

# One thread that waits. Not on that thread's stack: a daemon thread may go with its stack while it stands in line.
cdef struct Waiter:
    Waiter *previous
    Waiter *next
    Line *line                # where it stands; NULL once it was called
    PyThread_type_lock lock   # held while it is to sleep
    PyObject *item            # brought by who puts, given to who gets; a reference of its own
    bint served               # the item has changed hands

cdef struct Line:
    Waiter *first
    Waiter *last
    Py_ssize_t length

cdef inline void join_line(Line *line, Waiter *me) noexcept:
    me.line = line
    me.next = NULL
    me.previous = line.last
    if line.last != NULL:
        line.last.next = me
    else:
        line.first = me
    line.last = me
    line.length += 1

cdef inline void leave_line(Waiter *me) noexcept:
    cdef Line *line = me.line
    if me.previous != NULL:
        me.previous.next = me.next
    else:
        line.first = me.next
    if me.next != NULL:
        me.next.previous = me.previous
    else:
        line.last = me.previous
    line.length -= 1
    me.line = NULL

cdef inline Waiter *call_first(Line *line) noexcept:
    # The caller has the GIL and keeps it until it is done with the waiter, which goes when its thread has the GIL.
    cdef Waiter *waiter = line.first
    leave_line(waiter)
    PyThread_release_lock(waiter.lock)
    return waiter

cdef inline void call_all(Line *line) noexcept:
    while line.first != NULL:
        call_first(line)

# Waiters to use again: a lock costs more than the rest of going to sleep.
cdef enum:
    SPARE = 64

cdef Waiter *spare = NULL
cdef int spares = 0

cdef Waiter *new_waiter() except NULL:
    global spare, spares
    cdef Waiter *me = spare
    if me != NULL:
        spare = me.next
        spares -= 1
    else:
        me = <Waiter *> PyMem_RawMalloc(sizeof(Waiter))
        if me == NULL:
            raise MemoryError
        me.lock = PyThread_allocate_lock()
        if me.lock == NULL:
            PyMem_RawFree(me)
            raise MemoryError
    PyThread_acquire_lock(me.lock, 0)   # a call that nobody slept for any more may have left it open
    me.line = NULL
    me.item = NULL
    me.served = False
    return me

cdef void drop_waiter(Waiter *me) noexcept:
    global spare, spares
    if spares < SPARE:
        me.next = spare
        spare = me
        spares += 1
    else:
        PyThread_free_lock(me.lock)
        PyMem_RawFree(me)

cdef inline int64_t now_us() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t> now.tv_sec * 1000000 + now.tv_nsec // 1000

# What ``block`` and ``timeout`` come to: NEVER, FOREVER, or the microsecond at which waiting ends.
cdef enum:
    NEVER = -2
    FOREVER = -1

cdef inline int64_t deadline(object block, object timeout) except -3:
    if not block:
        return NEVER
    return FOREVER if timeout is None else moment(timeout)

cdef int64_t moment(object timeout) except -3:
    cdef double seconds = timeout
    if not seconds >= 0:
        raise ValueError("'timeout' must be a non-negative number")
    if seconds > LONGEST_SECONDS:
        return FOREVER
    return now_us() + <int64_t> (seconds * 1e6)


@cython.no_gc_clear
cdef class ThreadQueue:
    """All of LocalQueue that is not the same in every flavour. The errors are attributes of the class below it."""

    cdef object __weakref__
    # The circle. A list, for the garbage collector looks into it; only None beside the `count` items from `head` on.
    cdef list items
    cdef Py_ssize_t room, head, count
    cdef Py_ssize_t bound                # items at most; 0: no bound
    cdef int64_t puts, gets, settled     # ever put, ever taken, ever dealt with
    cdef bint shut, ended                # shutdown(), close()
    cdef bint refuses                    # either of the two: one look for put
    cdef unsigned int born               # the value of `forks` that its lines belong to
    cdef Line getters, putters, readers, writers, joiners

    def __cinit__(self):
        self.items = []
        self.born = forks

    def __init__(self, maxsize=0, *, shared=False):
        cdef Py_ssize_t bound = 0 if maxsize is None else operator.index(maxsize)
        if shared:
            raise ValueError("a queue between threads is not shared: Queue(maxsize) makes one that is")
        self.bound = max(bound, 0)

    # --- critical: the circle ----------------------------------------------------------------------------

    cdef inline bint intact(self) noexcept:
        # The collector empties the list of a queue that is garbage; a __del__ may still come and look into it.
        return PyList_GET_SIZE(<PyObject *> self.items) >= self.room

    cdef int grow(self) except -1:
        # In place, so that no container is made: in 3.11 that may start a collection, which runs user code.
        cdef Py_ssize_t old = self.room, room = old * 2 if old else FIRST_ROOM, i
        for i in range(PyList_GET_SIZE(<PyObject *> self.items), room):
            self.items.append(None)
        for i in range(self.head + self.count - old):    # what had wrapped round goes behind the old end
            swap(<PyObject *> self.items, i, old + i)
        self.room = room
        return 0

    cdef void shrink(self) noexcept:
        self.head = 0
        try:
            PyList_SetSlice(self.items, KEPT_ROOM, self.room, NULL)
            self.room = KEPT_ROOM
        except MemoryError:
            pass   # it stays as large as it is

    cdef inline void store(self, PyObject *item) noexcept:
        # Takes over the reference; there is room.
        cdef PyObject *items = <PyObject *> self.items
        cdef Py_ssize_t i = (self.head + self.count) & (self.room - 1)
        Py_DECREF(<object> PyList_GET_ITEM(items, i))
        PyList_SET_ITEM(items, i, item)
        self.count += 1

    cdef inline PyObject *oldest(self) noexcept:
        return PyList_GET_ITEM(<PyObject *> self.items, self.head)

    cdef inline PyObject *take(self) noexcept:
        # Hands over the reference; there is an item. The place it leaves goes to who waits to put.
        cdef PyObject *items = <PyObject *> self.items
        cdef PyObject *item = PyList_GET_ITEM(items, self.head)
        cdef Waiter *putter
        Py_INCREF(None)
        PyList_SET_ITEM(items, self.head, Py_None)
        self.head = (self.head + 1) & (self.room - 1)
        self.count -= 1
        self.gets += 1
        if self.putters.first != NULL:
            putter = call_first(&self.putters)
            putter.served = True
            self.store(putter.item)
            putter.item = NULL
            self.puts += 1
        elif self.writers.first != NULL:
            call_all(&self.writers)
        if self.count == 0 and self.room > LARGE_ROOM:
            self.shrink()
        return item

    cdef inline void hand_over(self, PyObject *item) noexcept:
        # Takes over the reference; somebody waits for it.
        cdef Waiter *getter = call_first(&self.getters)
        getter.served = True
        getter.item = item

    cdef int put_back(self, PyObject *item) except -1:
        # What was handed to somebody who cannot return it is the oldest again.
        cdef PyObject *items
        self.gets -= 1
        if self.getters.first != NULL:
            self.gets += 1
            self.hand_over(item)
            return 0
        while self.count == self.room:
            self.grow()
        items = <PyObject *> self.items
        self.head = (self.head - 1) & (self.room - 1)
        Py_DECREF(<object> PyList_GET_ITEM(items, self.head))
        PyList_SET_ITEM(items, self.head, item)
        self.count += 1
        if self.readers.first != NULL:
            call_all(&self.readers)
        return 0

    cdef inline bint full_now(self) noexcept:
        return self.bound and self.count >= self.bound

    cdef inline void add(self, object obj) except *:
        # There is room under the bound.
        if self.born != forks or not self.intact():
            self.recover()
        if self.getters.first == NULL and self.count == self.room:
            self.grow()
        Py_INCREF(obj)
        self.puts += 1
        if self.getters.first != NULL:
            self.gets += 1
            self.hand_over(<PyObject *> obj)
            return
        self.store(<PyObject *> obj)
        if self.readers.first != NULL:
            call_all(&self.readers)

    cdef void recover(self) noexcept:
        # After a fork, or when the collector has been here.
        cdef Line nobody = Line(NULL, NULL, 0)
        if self.born != forks:
            self.born = forks
            self.getters = self.putters = self.readers = self.writers = self.joiners = nobody
        if not self.intact():
            self.gets += self.count
            self.head = self.count = self.room = 0

    # --- waiting ----------------------------------------------------------------------------------------

    cdef int sleep(self, Line *line, Waiter *me, int64_t end) except -1:
        # CALLED, LATE, or FORKED: all is to be looked at again. An error of a signal's handler leaves nobody in line,
        # and in the queue what was given meanwhile.
        cdef PyLockStatus status
        cdef int64_t rest
        cdef bint cut, slices = PyThread_get_thread_ident() == main_thread
        cdef unsigned int born
        if self.born != forks:
            self.recover()
        born = forks
        join_line(line, me)
        try:
            while True:
                rest = -1 if end == FOREVER else max(end - now_us(), 0)
                # A signal that comes just before this sleep does not end it, and the main thread's handlers wait.
                cut = slices and not 0 <= rest <= MAIN_SLICE_US
                if cut:
                    rest = MAIN_SLICE_US
                with nogil:
                    status = PyThread_acquire_lock_timed(me.lock, rest, 1)
                if me.line == NULL:
                    return CALLED
                if status == PY_LOCK_FAILURE and not cut:
                    return LATE
                if status != PY_LOCK_ACQUIRED:
                    PyErr_CheckSignals()
                    if me.line == NULL:
                        return CALLED
                    if born != forks:
                        return FORKED
        except BaseException:
            if me.served and line == &self.getters:
                self.put_back(me.item)
                me.item = NULL
            raise
        finally:
            if me.line != NULL and born == forks:
                leave_line(me)

    cdef int sleep_in(self, Line *line, int64_t end) except -1:
        cdef Waiter *me = new_waiter()
        try:
            return self.sleep(line, me, end)
        finally:
            drop_waiter(me)

    cdef int refuse(self) except -1:
        if self.ended:
            raise ValueError(f"Queue {self!r} is closed")
        raise self.ShutDown

    cdef int put_slowly(self, object obj, int64_t end) except -1:
        cdef Waiter *me
        cdef int how
        cdef bint served
        if end == NEVER:
            raise self.Full
        me = new_waiter()
        Py_INCREF(obj)
        me.item = <PyObject *> obj
        try:
            how = self.sleep(&self.putters, me, end)
        finally:
            served = me.served
            Py_XDECREF(me.item)
            drop_waiter(me)
        if served:
            return 0
        if how == FORKED:
            return self.put_one(obj, end)
        raise self.ShutDown if how == CALLED else self.Full

    cdef PyObject *get_slowly(self, int64_t end) except NULL:
        # A new reference to what comes.
        cdef Waiter *me
        cdef PyObject *item = NULL
        cdef int how
        if self.shut:
            raise self.ShutDown
        if end == NEVER:
            raise self.Empty
        me = new_waiter()
        try:
            how = self.sleep(&self.getters, me, end)
        finally:
            item = me.item
            drop_waiter(me)
        if item != NULL:
            return item
        if how == FORKED:
            return self.take() if self.count else self.get_slowly(end)
        raise self.ShutDown if how == CALLED else self.Empty

    cdef inline int put_one(self, object obj, int64_t end) except -1:
        if self.refuses:
            self.refuse()
        if self.full_now():
            return self.put_slowly(obj, end)
        self.add(obj)
        return 0

    cdef inline object get_one(self, int64_t end):
        cdef PyObject *item
        if self.ended:
            self.refuse()
        if self.born != forks or not self.intact():
            self.recover()
        item = self.take() if self.count else self.get_slowly(end)
        taken = <object> item
        Py_DECREF(taken)
        return taken

    # --- one item ---------------------------------------------------------------------------------------

    def put(self, obj, block=True, timeout=None):
        self.put_one(obj, deadline(block, timeout))

    def put_nowait(self, obj):
        self.put_one(obj, NEVER)

    def get(self, block=True, timeout=None):
        return self.get_one(deadline(block, timeout))

    def get_nowait(self):
        return self.get_one(NEVER)

    # --- many -------------------------------------------------------------------------------------------

    def put_many(self, iterable, block=True, timeout=None):
        cdef Py_ssize_t done = 0
        cdef int64_t end
        try:
            end = deadline(block, timeout)
            for obj in iterable:
                self.put_one(obj, end)
                done += 1
        except BaseException as error:
            error.done = done
            raise
        return done

    def get_many(self, most=None, block=True, timeout=None):
        cdef Py_ssize_t limit = PY_SSIZE_T_MAX if most is None else operator.index(most)
        cdef int64_t end = deadline(block, timeout)
        cdef Py_ssize_t i
        cdef list got
        if limit < 1:
            raise ValueError("'most' must be at least 1")
        got = []
        got.append(self.get_one(end))
        while self.count and len(got) < limit:
            got.append(<object> self.oldest())   # first there, then gone from here: a MemoryError loses nothing
            Py_DECREF(<object> self.take())
        return got

    # --- how it stands ----------------------------------------------------------------------------------

    @property
    def maxsize(self):
        return self.bound

    @property
    def put_count(self):
        return self.puts

    @property
    def got_count(self):
        return self.gets

    @property
    def unfinished_tasks(self):
        return self.puts - self.settled

    @property
    def closed(self):
        return self.ended

    @property
    def is_shutdown(self):
        return self.shut

    def qsize(self):
        return self.count

    def empty(self):
        return self.count == 0

    def full(self):
        return self.full_now()

    def _waiting(self):
        if self.born != forks:
            self.recover()
        return self.getters.length + self.readers.length, self.putters.length + self.writers.length

    def wait_readable(self, timeout=None):
        cdef int64_t end = deadline(True, timeout)
        while not (self.count or self.shut):
            if self.sleep_in(&self.readers, end) == LATE:
                return False
        return True

    def wait_writable(self, timeout=None):
        cdef int64_t end = deadline(True, timeout)
        while self.full_now() and not self.shut:
            if self.sleep_in(&self.writers, end) == LATE:
                return False
        return True

    # --- work that is done ------------------------------------------------------------------------------

    def task_done(self, count=1):
        cdef int64_t done = operator.index(count)
        if self.born != forks:
            self.recover()
        if done < 1:
            raise ValueError("task_done() of less than one")
        if done > self.puts - self.settled:
            raise ValueError("task_done() called too many times")
        self.settled += done
        if self.settled == self.puts:
            call_all(&self.joiners)

    def join(self, timeout=None):
        cdef int64_t end = deadline(True, timeout)
        while self.settled < self.puts:
            if self.sleep_in(&self.joiners, end) == LATE:
                raise _TimeoutError(f"{self.puts - self.settled} items were not dealt with in {timeout} s")

    # --- the end ----------------------------------------------------------------------------------------

    def shutdown(self, immediate=False):
        cdef bint drop = immediate
        cdef list fresh = [], dropped = None
        if self.born != forks or not self.intact():
            self.recover()
        self.shut = self.refuses = True
        # First everybody out of the lines: nobody who waits to put moves up into what is dropped.
        call_all(&self.getters)
        call_all(&self.putters)
        if drop:
            dropped, self.items = self.items, fresh
            self.gets += self.count
            self.settled = min(self.settled + self.count, self.puts)
            self.count = self.room = self.head = 0
            if self.settled == self.puts:
                call_all(&self.joiners)
        call_all(&self.readers)
        call_all(&self.writers)
        del dropped   # what was in it may run code of its own when it goes

    def close(self):
        self.ended = self.refuses = True


cdef inline void swap(PyObject *items, Py_ssize_t i, Py_ssize_t j) noexcept:
    cdef PyObject *item = PyList_GET_ITEM(items, i)
    PyList_SET_ITEM(items, i, PyList_GET_ITEM(items, j))
    PyList_SET_ITEM(items, j, item)
