# Waiting for tasks: one caller at a time leads, that is, collects for all while it waits; the others follow.

cdef enum:
    BUSY_BATCH = 8       # a collection that found so many is followed by a nap instead of a sleep
    NAP_MS = 1
    # A signal that arrives between the last look for signals and the system call does not interrupt the sleep, and a
    # futex has no way to close that gap. So a caller that waits looks again after this time; nothing else depends on it.
    SIGNAL_NS = 250000000


cdef class Waiter(Submitter):
    """What a thread runs that waits for a task, takes one back or asks about one."""

    def wait(self, target, timeout=None):
        """Block until *target* (a task or a basket) has something; False when *timeout* seconds have passed first."""
        cdef int64_t end = -1
        cdef unsigned long me
        if reached(target):
            return True
        if timeout is not None:
            end = <int64_t> mt_now_ns() + <int64_t> (max(0.0, min(float(timeout), 9e9)) * 1e9)
        me = PyThread_get_thread_ident()
        if self.leader == me:
            # A signal handler or a __del__ that waits, inside of a wait: the outer one goes on leading afterwards.
            return self.lead(target, end)
        if self.foreign():
            self.refuse()
        if self.leader:
            return self.follow(target, end)
        self.leader = me
        try:
            return self.lead(target, end)
        finally:
            self.leader = 0
            mt_store32(&self.page.word, MT_MANAGER)
            mt_fence()
            if self.something() or self.for_manager():
                self.ring_manager()

    cdef bint lead(self, target, int64_t end) except -1:
        cdef int64_t left = -1
        cdef int found
        cdef uint64_t spin_end
        mt_store32(&self.page.word, MT_AWAKE)
        while True:
            if self.collecting:
                if self.collector == PyThread_get_thread_ident():
                    raise RuntimeError("cannot wait for a task inside of a __del__ that the pool itself set off")
                with nogil:
                    sched_yield()
                PyErr_CheckSignals()
                continue
            found = self.collect_and_tell()
            if reached(target):
                return True
            PyErr_CheckSignals()
            left = -1
            if end >= 0:
                left = end - <int64_t> mt_now_ns()
                if left <= 0:
                    return False
            if found >= BUSY_BATCH:
                self.pause(30000)
                continue
            # Not while nobody is at work: workers that are being started need the processors themselves.
            if 0 < self.busy() < self.cpus and self.spin():
                continue
            mt_store32(&self.page.word, MT_CALLER)
            mt_fence()
            if self.something() or reached(target):
                mt_store32(&self.page.word, MT_AWAKE)
                continue
            PyErr_CheckSignals()      # one may have come during the spin
            if left < 0 or left > SIGNAL_NS:
                left = SIGNAL_NS
            with nogil:
                mt_futex_wait(&self.page.word, MT_CALLER, left)
                mt_awake(self.page, MT_CALLER)
        return False

    cdef int busy(self) noexcept:
        """Workers that have something to do."""
        cdef Py_ssize_t i
        cdef int n = 0
        for i in range(PyList_GET_SIZE(self.lanes)):
            n += (<Lane> PyList_GET_ITEM(<PyObject *> self.lanes, i)).count > 0
        return n

    cdef bint spin(self) except -1:
        """Look for replies for a short while without the GIL. Lanes are only dropped with the GIL held, so keep them."""
        cdef mt_slot *slots[16]
        cdef uint64_t wanted[16]
        cdef int n = 0, i, k
        cdef bint got = False
        cdef uint64_t end
        cdef Lane lane
        if self.caller_spin_ns == 0:
            return False
        keep = list(self.lanes)
        for lane in keep:
            if n < 16:
                slots[n] = mt_slot_of(&lane.m.replies, lane.reply_seq)
                wanted[n] = (lane.reply_seq << 3) | MT_READY
                n += 1
        with nogil:
            end = mt_now_ns() + self.caller_spin_ns
            while not got and mt_now_ns() < end:
                for k in range(64):
                    for i in range(n):
                        if mt_load64(<a64 *> slots[i]) == wanted[i]:
                            got = True
                    if got:
                        break
                    mt_relax()
                if not got:
                    sched_yield()      # the worker may be waiting for this very processor
        return got

    cdef int pause(self, int64_t ns) except -1:
        # Results stream in: let some gather instead of waking for each.
        with nogil:
            nap(ns)
        return 0

    cdef bint follow(self, target, int64_t end) except -1:
        """Somebody else collects: sleep on the target itself."""
        if isinstance(target, TaskBase):
            condition = (<TaskBase> target)._condition
        else:
            made = Condition()      # runs bytecode, so another follower may come in between
            if (<Basket> target).condition is None:
                (<Basket> target).condition = made
            condition = (<Basket> target).condition
        with condition:
            while not reached(target):
                if end < 0:
                    condition.wait()
                elif end <= <int64_t> mt_now_ns() or not condition.wait((end - <int64_t> mt_now_ns()) / 1e9):
                    return bool(reached(target))
        return True

    def withdraw(self, TaskBase task):
        """0: already settled; 1: it had not started and is cancelled now; 2: it runs."""
        cdef Lane lane
        gone = CancelledError()      # made first: from here on nothing allocates
        if task.status != S_PENDING or task.decided or self.foreign():
            return 0
        if task.wid == NOWHERE and self.waits_to_retry(task):
            self.settle_now(task, S_CANCELLED, V_ERROR, gone)
        elif task.wid == IN_LINE:
            self.settle_now(task, S_CANCELLED, V_ERROR, gone)
            self.leave_line()
        elif task.wid >= 0:
            lane = <Lane> self.by_wid[task.wid]
            if not mt_revoke(&lane.m.requests, task.seq):
                self.collect_and_tell()
                return 0 if task.status != S_PENDING or task.decided else 2
            lane.inflight[task.seq & (MT_SLOTS - 1)] = NULL
            lane.count -= 1
            self.settle_now(task, S_CANCELLED, V_ERROR, gone)
            raw_decref(<PyObject *> task)
            self.collect()
        else:
            return 2
        if self.for_manager():
            self.ring_manager()
        self.tell_leader()
        if PyList_GET_SIZE(self.worn):
            self.shed()
        return 1

    cdef bint waits_to_retry(self, TaskBase task):
        return task.retrying or task.kind == V_GROUP

    def running(self, TaskBase task):
        """Has a worker started it and not yet published its result?"""
        cdef int state
        if task.wid < 0 or self.foreign():
            return False
        state = mt_state(&(<Lane> self.by_wid[task.wid]).m.requests, task.seq)
        return state in (MT_TAKEN, MT_CONDEMNED)

    def counts(self):
        """(waiting in line, handed to workers, busy workers)"""
        cdef Lane lane
        cdef int handed = 0, busy = 0
        for lane in self.lanes:
            handed += lane.count
            busy += lane.count > 0
        return self.waiting, handed, busy

    def group(self, total):
        """A task that is settled once *total* members of the basket are: ``(task, basket)``."""
        cdef TaskBase task = <TaskBase> mt_new(<PyTypeObject *> self.task_class, EMPTY)
        task.core = self
        task.wid = NOWHERE
        note_site(task)
        basket = Basket(self, total, task)
        if total == 0:
            self.unfinished += 1
            self.settle_now(task, S_FINISHED, V_OBJECT, [])
        return task, basket

    def post(self, obj):
        """Hand *obj* to the manager thread."""
        self.posts.append(obj)
        self.ring_manager()

    def load(self, packed):
        """The object in a packed parcel."""
        stream, buffers = unpack(packed)
        return self.encoder.load(Parcel(stream, buffers))

    def load_error(self, packed):
        """The exception in a packed parcel; never raises."""
        stream, buffers = unpack(packed)
        return self.encoder.load_error(Parcel(stream, buffers))


cdef inline bint reached(object target) noexcept:
    if isinstance(target, TaskBase):
        return (<TaskBase> target).status != S_PENDING
    return (<Basket> target).something()


cdef extern from *:
    """
    #include <sched.h>
    static inline void nap(int64_t ns) {
        struct timespec t = {ns / 1000000000, ns % 1000000000};
        nanosleep(&t, NULL);
    }
    """
    int sched_yield() nogil
    void nap(int64_t ns) nogil
