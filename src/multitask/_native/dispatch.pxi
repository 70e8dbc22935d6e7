# The books of a pool, and how waiting calls get into the lanes of its workers.
#
# "Critical" functions hold the collector token, which is the GIL itself: they run no bytecode, do not release the
# GIL, and drop references only where the books are right. All of this file is critical, but for __init__.

import threading
import weakref
from threading import Condition

from multitask._engine.core import Removed
from multitask._engine.sites import is_ours

cdef tuple EMPTY = ()
# Set by the first core: a worker has no use for the errors, and wire is not imported before it is needed.
cdef object Parcel = None
cdef object CancelledError = None
cdef object PoolClosed = None
cdef object Fleeting = None    # a need that is to be let go with its task

mt_watch_forks()


cdef class Books:
    """Ledger, lanes and doorbell of one pool, and dispatch: which worker gets which call, and when."""
    cdef public object encoder
    cdef readonly Py_ssize_t unfinished
    cdef readonly bint closed
    cdef readonly bint inherited
    cdef unsigned forks           # of the process that made it: in any other the lanes are not ours
    cdef public object failures   # a list, or unread.Failures
    cdef object task_class
    cdef object policy_key
    cdef Line line
    cdef Py_ssize_t waiting
    cdef uint64_t orders
    cdef list lanes
    cdef dict by_wid
    cdef dict entries
    cdef FunctionEntry last_entry
    cdef dict definitions
    cdef bint collecting
    cdef unsigned long collector  # thread that collects, while it does
    cdef int since_collect
    cdef unsigned long leader     # thread that leads, 0: none
    cdef uint64_t settled         # tasks settled so far
    cdef int stops                # workers that are to be told to stop as soon as there is room
    cdef uint64_t caller_spin_ns
    cdef readonly int cpus
    cdef public int fixed_depth   # 0: learned from how long calls take
    cdef uint64_t new_functions
    cdef bint forget_due          # enough functions were new that some may be gone
    cdef mt_page *page
    cdef int page_fd, bell_fd, epoll_fd
    # what the manager has to look at
    cdef list sent, failed, slow, hooked, ready, farewells, posts
    cdef list spent               # what settled tasks had borrowed: letting go of it runs Python code, of the manager's
    cdef list worn                # what else settled tasks needed: the same, but in whatever thread comes by
    cdef bint told_idle
    cdef public object broken     # the PoolBroken that ended this pool, if one did
    cdef object put_callbacks
    cdef object manager_thread
    cdef Shelf shelf

    def __cinit__(self):
        self.page_fd = self.bell_fd = self.epoll_fd = -1
        self.forks = mt_forks

    cdef inline bint foreign(self) noexcept:
        """A forked child, whose lanes are the parent's; true before any hook: finalizers may run in it before that."""
        return self.inherited or self.forks != mt_forks

    def __init__(self, encoder, task_class, policy_key=None, put_callbacks=None, uint64_t caller_spin_ns=0, int cpus=1,
                 int senders=1):
        global Fleeting, Parcel, CancelledError, PoolClosed
        from multitask._engine.wire import Fleeting as fleeting_class
        from multitask._engine.wire import Parcel as parcel_class
        from multitask.errors import CancelledError as cancelled_error, PoolClosed as closed_error
        cdef void *at
        cdef epoll_event event
        Parcel, CancelledError, PoolClosed = parcel_class, cancelled_error, closed_error
        Fleeting = fleeting_class
        self.encoder = encoder
        self.task_class = task_class
        self.policy_key = policy_key
        self.put_callbacks = put_callbacks
        self.caller_spin_ns = caller_spin_ns
        self.cpus = cpus
        self.failures = []
        self.line = Line()
        self.line.keyed = policy_key is not None
        self.lanes, self.by_wid, self.entries, self.definitions = [], {}, {}, {}
        self.sent, self.failed, self.slow, self.hooked = [], [], [], []
        self.ready, self.farewells, self.posts = [], [], []
        self.spent, self.worn = [], []
        self.page_fd = mt_memfd("multitask-page", sizeof(mt_page))
        if self.page_fd < 0:
            raise OSError(-self.page_fd, "cannot make a pool's doorbell")
        at = mmap(NULL, sizeof(mt_page), PROT_READ | PROT_WRITE, MAP_SHARED, self.page_fd, 0)
        if at == MAP_FAILED:
            PyErr_SetFromErrno(OSError)
        self.page = <mt_page *> at
        self.bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.bell_fd < 0 or self.epoll_fd < 0:
            PyErr_SetFromErrno(OSError)
        self.shelf = Shelf(senders, self.bell_fd)
        event.events = EPOLLIN
        event.data.u64 = 0
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, self.bell_fd, &event) != 0:
            PyErr_SetFromErrno(OSError)

    def __dealloc__(self):
        if self.page != NULL:
            munmap(self.page, sizeof(mt_page))
        for fd in (self.page_fd, self.bell_fd, self.epoll_fd):
            if fd >= 0:
                c_close(fd)

    cdef Lane pick(self):
        """The least loaded ready worker with room, the lowest number first; None when all have enough."""
        cdef Lane lane, best = None
        for lane in self.lanes:
            if lane.state == L_READY and not lane.full and lane.count < lane.depth:
                if best is None or lane.count < best.count:
                    best = lane
                    if best.count == 0:
                        break
        return best

    cdef int send_task(self, Lane lane, TaskBase task) except -1:
        cdef object payload = task.payload
        if type(payload) is Segment:
            return self.send(lane, task, NULL, 0, <Segment> payload)
        return self.send(lane, task, <unsigned char *> PyBytes_AS_STRING(payload), <uint32_t> PyBytes_GET_SIZE(payload), None)

    cdef int send(self, Lane lane, TaskBase task, const unsigned char *data, uint32_t length, Segment segment) except -1:
        """Put the call in the worker's lane; 0: no room now."""
        cdef mt_ring *ring = &lane.m.requests
        cdef mt_slot *slot
        cdef unsigned char *content
        cdef FunctionEntry entry = <FunctionEntry> task.entry
        cdef uint64_t seq
        if entry is not None and entry.needs is not lane.last_needs:
            if not self.tell(lane, entry.needs):
                return 0
            # What came with the arguments is let go with the task: a socket among it must not stay open here.
            lane.last_needs = None if entry.own else entry.needs
        # The worker may have given a slot back whose reply nobody has collected: its place in the books is still taken.
        if lane.inflight[mt_load64(&ring.head) & (MT_SLOTS - 1)] != NULL:
            return 0
        content = mt_reserve(ring, length, &slot)
        if content == NULL:
            return 0
        if segment is not None and segment.send(lane.sock, MSG_DONTWAIT) != 0:
            return 0
        memcpy(content, data, length)
        slot.kind = K_CALL
        slot.form = task.form
        slot.mode = task.mode
        slot.segment = segment is not None
        slot.spare = 0 if segment is None else segment.size
        slot.function = 0 if entry is None else entry.number
        mt_store64(&slot.start_ns, 0)
        mt_store64(&slot.item, 0)
        seq = mt_commit(ring, slot)
        Py_INCREF(task)
        lane.inflight[seq & (MT_SLOTS - 1)] = <PyObject *> task
        lane.count += 1
        task.wid = lane.wid
        task.seq = seq
        mt_wake_consumer(ring)
        if task.timed:
            PyList_Append(self.sent, task)
        return 1

    cdef int tell(self, Lane lane, tuple needs) except -1:
        """Send the definitions that the worker lacks, in front of the call that needs them; 0: no room now."""
        cdef Definition d
        cdef PyObject *found
        for d in needs:
            if d.name is None:
                if PySet_Contains(lane.known, d.id):
                    continue
            else:
                found = PyDict_GetItemWithError(lane.bound, d.name)
                if found == <PyObject *> d.id:
                    continue
            if not self.send_definition(lane, d):
                # What did fit must be taken before there is room for the rest.
                mt_wake_consumer(&lane.m.requests)
                return 0
            if d.name is None:
                PySet_Add(lane.known, d.id)
            else:
                lane.bound[d.name] = d.id
        return 1

    cdef int send_definition(self, Lane lane, Definition d) except -1:
        cdef Segment segment = <Segment> d.content if type(d.content) is Segment else None
        cdef size_t first = <size_t> PyBytes_GET_SIZE(d.prefix)
        cdef size_t rest = 0 if segment is not None else <size_t> PyBytes_GET_SIZE(d.content)
        cdef mt_slot *slot
        cdef unsigned char *content = mt_reserve(&lane.m.requests, <uint32_t> (first + rest), &slot)
        if content == NULL:
            return 0
        if segment is not None and segment.send(lane.sock, MSG_DONTWAIT) != 0:
            return 0
        memcpy(content, PyBytes_AS_STRING(d.prefix), first)
        if rest:
            memcpy(content + first, PyBytes_AS_STRING(d.content), rest)
        slot.kind = K_DEFINE
        slot.form = 1 if d.name is None else 2
        slot.segment = segment is not None
        slot.spare = 0 if segment is None else segment.size
        slot.function = d.number
        mt_store64(&slot.start_ns, 0)
        mt_commit(&lane.m.requests, slot)
        return 1

    cdef int send_forget(self, Lane lane, bytes numbers) except -1:
        """Let the worker drop definitions; without room now it keeps them, which costs memory and nothing else."""
        cdef mt_slot *slot
        cdef uint32_t n = <uint32_t> PyBytes_GET_SIZE(numbers)
        cdef unsigned char *content = mt_reserve(&lane.m.requests, n, &slot)
        if content == NULL:
            return 0
        memcpy(content, PyBytes_AS_STRING(numbers), n)
        slot.kind = K_FORGET
        slot.segment = 0
        mt_store64(&slot.start_ns, 0)
        mt_commit(&lane.m.requests, slot)
        mt_wake_consumer(&lane.m.requests)
        return 1

    cdef int refill(self) except -1:
        """Hand out what waits, as far as there is room; idle workers get what stands behind a slow task elsewhere."""
        cdef Lane lane
        cdef TaskBase task
        for lane in self.lanes:
            lane.full = False
            if lane.want_stop:
                self.send_stop(lane)
        while True:
            while self.waiting:
                lane = self.pick()
                if lane is None:
                    return 0
                task = self.line.pop()
                if task.wid != IN_LINE:
                    self.line.stale -= 1
                    task = None      # settled while it waited; the count was put right then
                    continue
                if self.send_task(lane, task):
                    self.waiting -= 1
                    if self.line.stale:
                        self.line.tidy()
                else:
                    lane.full = True
                    self.line.push_front(task)
            if not self.share_out():
                return 0

    cdef int share_out(self) except -1:
        """Take back half of what has not started from the most loaded worker when another one is idle."""
        cdef Lane lane, idle = None, victim = None
        for lane in self.lanes:
            if lane.state == L_READY and not lane.full:
                if lane.count == 0:
                    idle = lane
                elif lane.count > 1 and (victim is None or lane.count > victim.count):
                    victim = lane
        if idle is None or victim is None:
            return 0
        return self.take_back(victim, victim.count // 2)

    cdef int take_back(self, Lane lane, int most) except -1:
        """Revoke up to *most* messages that have not started, newest first; they go to the front of the line."""
        cdef mt_ring *ring = &lane.m.requests
        cdef uint64_t seq = mt_load64(&ring.head)
        cdef uint64_t low = seq - MT_SLOTS if seq > MT_SLOTS else 0
        cdef TaskBase task
        cdef PyObject *held
        cdef int taken = 0
        while seq > low and taken < most:
            seq -= 1
            held = lane.inflight[seq & (MT_SLOTS - 1)]
            if held == NULL or (<TaskBase> held).seq != seq:
                continue
            if not mt_revoke(ring, seq):
                break
            task = <TaskBase> held
            lane.inflight[seq & (MT_SLOTS - 1)] = NULL
            lane.count -= 1
            raw_decref(held)
            if task.status == S_PENDING and not task.decided:
                self.recover(lane, task)
                task.wid = IN_LINE
                self.line.push_front(task)
                self.waiting += 1
            taken += 1
        return taken

    cdef int recover(self, Lane lane, TaskBase task) except -1:
        """Read the message back out of the lane, unless the task kept it."""
        cdef mt_slot *slot
        if task.payload is None:
            slot = mt_slot_of(&lane.m.requests, task.seq)
            task.payload = PyBytes_FromStringAndSize(<char *> mt_content(&lane.m.requests, slot), slot.length)
        return 0

    cdef int overtake(self, TaskBase task) except -1:
        """A more urgent task came: take back what is prefetched and less urgent, so that it starts first."""
        cdef Lane lane
        cdef PyObject *held
        cdef uint64_t seq
        for lane in self.lanes:
            if lane.state == L_READY and lane.count > 1:
                seq = mt_load64(&lane.m.requests.head) - 1
                held = lane.inflight[seq & (MT_SLOTS - 1)]
                if held != NULL and (<TaskBase> held).seq == seq and (<TaskBase> held).key > task.key:
                    self.take_back(lane, 1)
        return 0

    cdef int send_stop(self, Lane lane) except -1:
        cdef mt_slot *slot
        if mt_reserve(&lane.m.requests, 0, &slot) == NULL:
            if not lane.want_stop:
                lane.want_stop = True
                self.stops += 1
            return 0
        slot.kind = K_STOP
        slot.segment = 0
        slot.function = 0
        mt_store64(&slot.start_ns, 0)
        mt_commit(&lane.m.requests, slot)
        mt_wake_consumer(&lane.m.requests)
        if lane.want_stop:
            lane.want_stop = False
            self.stops -= 1
        return 1
