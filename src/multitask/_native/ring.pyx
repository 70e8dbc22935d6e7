# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: auto_pickle=False
"""The queue in shared memory, for threads and processes at once; the protocol is in QUEUE.md, its code in ring.h.

Rule: a lock of the queue is held either with the GIL all along and without running Python code, or without the GIL
all along. So no thread waits for the GIL while others, maybe in other processes, wait for its lock.
"""

cimport cython

include "platform.pxi"
include "codec.pxi"
include "ringbase.pxi"
include "ringitem.pxi"
include "ringmany.pxi"

import queue as _stdlib

from multitask._engine.cpus import cpu_count as _cpu_count


cdef extern from "<signal.h>" nogil:
    int SIGKILL, SIGSTOP

cdef extern from "base.h" nogil:
    int mt_kill_signal


cdef class RingQueue(Many):
    """A queue in one memfd: ``RingQueue(maxsize)`` makes one, ``RingQueue._attach(fd)`` opens another's.

    What the methods mean stands in ``multitask._engine.queueing.interface.Queue``, which the public class adds.
    """

    # --- how it stands ---

    @property
    def maxsize(self):
        return self.opened().c.maxsize

    @property
    def put_count(self):
        return mtq_put_count(self.opened())

    @property
    def got_count(self):
        return mtq_got_count(self.opened())

    @property
    def closed(self):
        return self.is_closed

    @property
    def is_shutdown(self):
        return mtq_flags(self.opened()) != 0

    def qsize(self):
        return mtq_size(self.opened())

    def empty(self):
        return mtq_size(self.opened()) == 0

    def full(self):
        cdef uint64_t maxsize = self.opened().c.maxsize
        return maxsize != 0 and mtq_size(&self.q) >= maxsize

    def _waiting(self):
        """How many sleep in get and in put; killed sleepers may be counted for a while."""
        self.opened()
        return mtq_sleepers(&self.q.c.items), mtq_sleepers(&self.q.c.room)

    def wait_readable(self, timeout=None):
        cdef int result = self.wait_for(&self.opened().c.items, mtq_has_items, deadline_of(True, timeout))
        # It may leave what it was woken for to somebody else.
        mtq_pass_on(&self.q, &self.q.c.items, mtq_has_items)
        return result == MTQ_DONE

    def wait_writable(self, timeout=None):
        cdef int result = self.wait_for(&self.opened().c.room, mtq_has_room, deadline_of(True, timeout))
        mtq_pass_on(&self.q, &self.q.c.room, mtq_has_room)
        return result == MTQ_DONE

    def _where(self):
        """For tests, while nobody else is at it: (tail, head) as they are."""
        self.opened()
        return mtq_tail(&self.q)[0], mtq_head(&self.q)[0]

    # --- work that is done ---

    @property
    def unfinished_tasks(self):
        """How many items were put and are not yet said to be done."""
        return mtq_unfinished(self.opened())

    def task_done(self, count=1):
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count!r}")
        if mtq_task_done(self.opened(), count) != MTQ_DONE:
            raise ValueError("task_done() called too many times")

    def join(self, timeout=None):
        self.opened()
        self.drop_what_is_left()
        if self.wait_for(&self.q.c.settled, mtq_is_settled, deadline_of(True, timeout)) != MTQ_DONE:
            from multitask.errors import TimeoutError as Late

            raise Late(f"not all that was put is done after {timeout} s")

    # --- the end ---

    def shutdown(self, immediate=False):
        cdef int result = MTQ_SLICE
        cdef int at_once = bool(immediate)
        self.opened()
        while result == MTQ_SLICE:
            with nogil:
                result = mtq_shutdown(&self.q, at_once, slice_end())
            PyErr_CheckSignals()

    def close(self):
        self.is_closed = True

    def join_thread(self):
        pass

    def cancel_join_thread(self):
        pass

    cdef int drop_what_is_left(self) except -1:
        """Finish a shutdown(immediate=True) that was killed half way."""
        cdef int result = MTQ_BUSY
        while result == MTQ_BUSY and mtq_must_drain(&self.q):
            with nogil:
                result = mtq_drain(&self.q, slice_end())
            PyErr_CheckSignals()
        return 0


def _kill_at(int step, long after=0):
    """For tests: this process kills itself when it comes to *step* (see MT_STEP) for the time *after* + 1.

    With -*step* it stops there.
    """
    global mt_kill_step, mt_kill_after, mt_kill_signal
    mt_kill_signal = SIGSTOP if step < 0 else SIGKILL
    mt_kill_after = after
    mt_kill_step = abs(step)


def _shut_down():
    """The class that get and put raise after shutdown."""
    return shut_down_class()


def _spin(ns=None):
    """For tests and benchmarks: how long a queue made from now on looks before it sleeps; the value before."""
    global spin_ns
    before = spin_ns
    if ns is not None:
        spin_ns = ns
    return before
