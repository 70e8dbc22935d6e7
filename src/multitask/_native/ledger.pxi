# The ledger of a pool and the parent's side of its lanes: submit, dispatch, collect, settle.
#
# "Critical" functions hold the collector token, which is the GIL itself: they run no bytecode, do not release the
# GIL, and drop references only where the books are right.

import sys
import threading
import weakref
from threading import Condition

from multitask._engine.core import Removed
from multitask._engine.sites import is_ours
from multitask.errors import CancelledError, PoolClosed

cdef tuple EMPTY = ()
cdef object Parcel = None      # set by the first core: wire is not imported before it is needed

cdef enum:
    BATCH = 32           # a submitter collects once in so many calls
    BUSY_BATCH = 8       # a collection that found so many is followed by a nap instead of a sleep
    NAP_MS = 1


cdef class NativeCore:
    """Ledger, lanes and doorbell of one pool; the interface is ``multitask._engine.core.Core``."""
    cdef public object encoder
    cdef readonly Py_ssize_t unfinished
    cdef readonly bint closed
    cdef readonly bint inherited
    cdef public list failures
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
    cdef int since_collect
    cdef int leader
    cdef uint64_t caller_spin_ns
    cdef mt_page *page
    cdef int page_fd, bell_fd, epoll_fd
    # what the manager has to look at
    cdef list sent, failed, slow, hooked, ready, farewells, posts
    cdef bint told_idle
    cdef object put_callbacks
    cdef object manager_thread

    def __cinit__(self):
        self.page_fd = self.bell_fd = self.epoll_fd = -1

    def __init__(self, encoder, task_class, policy_key=None, put_callbacks=None, uint64_t caller_spin_ns=0):
        global Parcel
        from multitask._engine.wire import Parcel as parcel_class
        cdef void *at
        cdef epoll_event event
        Parcel = parcel_class
        self.encoder = encoder
        self.task_class = task_class
        self.policy_key = policy_key
        self.put_callbacks = put_callbacks
        self.caller_spin_ns = caller_spin_ns
        self.failures = []
        self.line = Line()
        self.line.keyed = policy_key is not None
        self.lanes, self.by_wid, self.entries, self.definitions = [], {}, {}, {}
        self.sent, self.failed, self.slow, self.hooked = [], [], [], []
        self.ready, self.farewells, self.posts = [], [], []
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

    # ------------------------------------------------------------------ submitting: any thread

    def shared_fds(self):
        """Descriptors that every worker gets: the doorbell's page and the manager's eventfd."""
        return [self.page_fd, self.bell_fd]

    def submit(self, fn, args, kwargs, options=None, int mode=0, basket=None):
        """Queue one call; returns its task. Pickling happens here, in the caller's thread, outside the critical parts."""
        cdef TaskBase task
        cdef Writer w
        cdef int plain = 0
        if self.closed:
            self.refuse()
        task = <TaskBase> mt_new(<PyTypeObject *> self.task_class, EMPTY)
        task.core = self
        task._fn = fn
        task.mode = mode
        task.wid = NOWHERE
        note_site(task)
        if options is not None:
            task._options = options
            task.timed = options.timeout is not None
            task.retrying = options.retries > 0
        if self.policy_key is not None:
            task.key = self.policy_key(options)
        if basket is not None:
            task.basket = <Basket> basket
        writer_start(&w)
        try:
            task.entry = self.entry_of(fn)
            if task.entry is not None and not kwargs and type(args) is tuple:
                plain = encode_plain(&w, <PyObject *> args, 3)
            if plain and w.used <= MT_INLINE_MAX:
                task.form = P_PLAIN
            else:
                self.encode_slowly(task, fn, args, kwargs, &w, plain)
                plain = 0
        except (Exception, RecursionError) as error:
            writer_end(&w)
            return self.stillborn(task, error)
        except BaseException:
            writer_end(&w)
            raise
        if self.closed:
            writer_end(&w)
            self.refuse()
        self.admit(task, &w, plain)
        writer_end(&w)
        self.since_collect += 1
        if self.since_collect >= BATCH:
            self.collect_and_tell()
        elif PyList_GET_SIZE(self.sent):
            self.ring_manager()
        return task

    cdef int refuse(self) except -1:
        if self.inherited:
            raise PoolClosed("this pool belongs to the parent process", why="it was inherited through os.fork()",
                             fix="make a pool of its own in the child")
        raise PoolClosed("Pool not running", why="it was closed or terminated", fix="submit before close(), or make a new pool")

    cdef int encode_slowly(self, TaskBase task, fn, args, kwargs, Writer *w, int plain) except -1:
        task.form = P_PARCEL
        if plain:       # plain but large
            task.form = P_PLAIN
            task.payload = segment_of_bytes(w.data, w.used)
            return 0
        if task.entry is not None:
            parcel, needs = self.encoder.dump((tuple(args), kwargs or {}))
        else:
            parcel, needs = self.encoder.dump((fn, tuple(args), kwargs or {}))
        if needs:
            task.entry = self.with_needs(<FunctionEntry> task.entry, needs)
        task.payload = pack(parcel)
        return 0

    cdef FunctionEntry with_needs(self, FunctionEntry entry, needs):
        cdef FunctionEntry out = FunctionEntry.__new__(FunctionEntry)
        out.number = 0 if entry is None else entry.number
        own = () if entry is None else entry.needs
        out.needs = own + tuple([self.definition(need) for need in needs])
        return out

    cdef object entry_of(self, fn):
        cdef FunctionEntry entry = self.last_entry
        cdef PyObject *found
        if entry is not None and mt_weak_is(entry.weak, fn) and entry.valid(fn):
            return entry
        found = PyDict_GetItemWithError(self.entries, <size_t> <PyObject *> fn)
        if found != NULL:
            entry = <FunctionEntry> found
            if mt_weak_is(entry.weak, fn) and entry.valid(fn):
                self.last_entry = entry
                return entry
        return self.new_entry(fn)

    cdef object new_entry(self, fn):
        cdef FunctionEntry entry
        ref = self.encoder.function(fn)
        if ref is None:
            return None
        try:
            weak = weakref.ref(fn)
        except TypeError:
            return None
        entry = FunctionEntry.__new__(FunctionEntry)
        entry.number = ref.id
        entry.needs = tuple([self.definition(need) for need in ref.needs])
        entry.weak = weak
        entry.ref = ref
        entry.code = ref.code
        entry.defaults = ref.defaults
        entry.guards = tuple(ref.guards)
        entry.simple = not ref.guards and not ref.cells and ref.kwdefaults is None
        if len(self.entries) > 2000:
            self.entries = {key: e for key, e in self.entries.items() if (<FunctionEntry> e).weak() is not None}
        self.entries[<size_t> <PyObject *> fn] = entry
        self.last_entry = entry
        return entry

    cdef Definition definition(self, need):
        cdef Definition out
        number, name, parcel = need
        known = self.definitions.get((number, name))
        if known is not None:
            alive = known()
            if alive is not None:
                return alive
        out = Definition.__new__(Definition)
        out.id = int(number)
        out.number = number
        out.name = name
        text = b"" if name is None else name.encode("utf-8", "surrogatepass")
        out.prefix = len(text).to_bytes(4, "little") + text
        out.content = pack(parcel)
        if not isinstance(out.content, Segment) and len(out.prefix) + len(out.content) > MT_INLINE_MAX:
            out.content = segment_of_bytes(out.content, len(out.content))
        if len(self.definitions) > 2000:
            self.definitions = {key: ref for key, ref in self.definitions.items() if ref() is not None}
        self.definitions[(number, name)] = weakref.ref(out)
        return out

    cdef object stillborn(self, TaskBase task, error):
        # What cannot be sent fails where every other failure shows: in the task.
        error.__traceback__ = error.__traceback__
        self.unfinished += 1
        if task.basket is not None and task.basket.parent is not None:
            PyList_Append(task.basket.members, task)
        self.settle_now(task, S_FINISHED, V_ERROR, error)
        self.ring_manager()
        return task

    cdef int admit(self, TaskBase task, Writer *w, int plain) except -1:
        # critical
        cdef Lane lane
        self.unfinished += 1
        self.told_idle = False
        task.order = self.orders
        self.orders += 1
        if task.basket is not None and task.basket.parent is not None:
            PyList_Append(task.basket.members, task)
        if self.waiting == 0 and not self.collecting:
            lane = self.pick()
            if lane is not None:
                if plain:
                    if self.send(lane, task, w.data, <uint32_t> w.used, None):
                        return 0
                elif self.send_task(lane, task):
                    return 0
        if plain:
            task.payload = PyBytes_FromStringAndSize(<char *> w.data, w.used)
        task.wid = IN_LINE
        self.line.push(task)
        self.waiting += 1
        if self.line.keyed and not self.collecting:
            self.overtake(task)
            self.refill_now()
        return 0

    # ------------------------------------------------------------------ dispatch: critical

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
            lane.last_needs = entry.needs
        content = mt_reserve(ring, length, &slot)
        if content == NULL:
            return 0
        if segment is not None and mt_send_fd(lane.sock, segment.fd, MSG_DONTWAIT) != 0:
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
        raw_xdecref(lane.inflight[seq & (MT_SLOTS - 1)])
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
        if segment is not None and mt_send_fd(lane.sock, segment.fd, MSG_DONTWAIT) != 0:
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
                if task.status != S_PENDING or task.decided or task.wid != IN_LINE:
                    task = None      # withdrawn while it waited; the count was put right then
                    continue
                if self.send_task(lane, task):
                    self.waiting -= 1
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
            self.recover(lane, task)
            lane.inflight[seq & (MT_SLOTS - 1)] = NULL
            lane.count -= 1
            raw_decref(held)
            if task.status == S_PENDING and not task.decided:
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
            lane.want_stop = True
            return 0
        slot.kind = K_STOP
        slot.segment = 0
        slot.function = 0
        mt_store64(&slot.start_ns, 0)
        mt_commit(&lane.m.requests, slot)
        mt_wake_consumer(&lane.m.requests)
        lane.want_stop = False
        return 1

    # ------------------------------------------------------------------ collecting: critical

    cdef int collect(self) except -1:
        """Take what the workers have published, settle it, refill. Returns how many messages there were."""
        cdef Lane lane
        cdef int found = 0
        if self.collecting:
            return 0
        self.since_collect = 0
        while True:
            self.collecting = True
            try:
                for lane in self.lanes:
                    found += self.drain(lane)
                if found or self.waiting:
                    self.refill()
            finally:
                self.collecting = False
            # Whoever submitted meanwhile (a __del__ of something dropped above) found us collecting and queued.
            if not self.waiting or self.pick() is None:
                return found

    cdef int refill_now(self) except -1:
        """Refill outside of a collection; one under way refills by itself."""
        if self.collecting:
            return 0
        self.collecting = True
        try:
            self.refill()
        finally:
            self.collecting = False
        return 0

    cdef int drain(self, Lane lane) except -1:
        cdef mt_ring *ring = &lane.m.replies
        cdef mt_slot *slot
        cdef int found = 0
        while mt_peek(ring, lane.reply_seq):
            slot = mt_slot_of(ring, lane.reply_seq)
            self.take_reply(lane, slot)
            found += 1
        if found:
            mt_wake_producer(ring)
        return found

    cdef int take_reply(self, Lane lane, mt_slot *slot) except -1:
        cdef const unsigned char *at = mt_content(&lane.m.replies, slot)
        cdef int kind = slot.kind
        cdef int value_kind = V_OBJECT
        cdef uint64_t cookie = slot.cookie
        cdef uint64_t took = mt_load64(&slot.start_ns)
        cdef object value
        cdef TaskBase task
        cdef PyObject *held
        if slot.segment:
            value = self.receive(lane, slot.spare)
            value_kind = V_ERROR if isinstance(value, BaseException) else V_PARCEL
            if slot.form == F_PLAIN and value_kind == V_PARCEL:
                value = PyBytes_FromStringAndSize(<char *> (<Mapping> value).at, (<Mapping> value).size)
                value_kind = V_PLAIN
        elif slot.form == F_PLAIN:
            if is_scalar(at[0]):
                value = decode_plain(&at)
            else:
                value = PyBytes_FromStringAndSize(<const char *> at, slot.length)
                value_kind = V_PLAIN
        else:
            value = PyBytes_FromStringAndSize(<const char *> at, slot.length)
            value_kind = V_PARCEL
        if kind == K_ERROR and value_kind == V_PARCEL:
            value_kind = V_FAILURE
        mt_release(&lane.m.replies, lane.reply_seq)
        lane.reply_seq += 1
        if kind == K_OK or kind == K_ERROR:
            held = lane.inflight[cookie & (MT_SLOTS - 1)]
            if held == NULL or (<TaskBase> held).seq != cookie:
                return 0
            task = <TaskBase> held
            lane.inflight[cookie & (MT_SLOTS - 1)] = NULL
            lane.count -= 1
            self.pace(lane, took)
            raw_decref(held)
            task.wid = NOWHERE
            if task.retrying and (kind == K_ERROR) and task.status == S_PENDING and not task.decided:
                if task.payload is None:
                    self.keep_payload(lane, task)
                task.value = value
                task.kind = value_kind
                task.seq = lane.wid
                PyList_Append(self.failed, task)
            else:
                self.settle_now(task, S_FINISHED, value_kind, value)
            return 0
        return self.take_word(lane, kind, value)

    cdef int keep_payload(self, Lane lane, TaskBase task) except -1:
        # The slot is DONE, and only this side ever writes over it.
        return self.recover(lane, task)

    cdef int take_word(self, Lane lane, int kind, object value) except -1:
        if kind == K_HELLO:
            if lane.state == L_STARTING:
                lane.state = L_READY
            PyList_Append(self.ready, lane)
        elif kind == K_BYE:
            lane.state = L_LEAVING
            lane.farewell = value
            self.take_back(lane, MT_SLOTS)
            PyList_Append(self.farewells, lane)
        elif kind == K_BROKEN:
            lane.state = L_LEAVING
            lane.broken = value
            PyList_Append(self.farewells, lane)
        return 0

    cdef inline void pace(self, Lane lane, uint64_t took) noexcept:
        cdef double depth
        lane.mean_ns = took if lane.mean_ns == 0 else lane.mean_ns * 0.875 + took * 0.125
        depth = 2 if self.line.keyed else AHEAD_NS / (lane.mean_ns + 200.0)
        lane.depth = 2 if depth < 2 else MT_SLOTS - 16 if depth > MT_SLOTS - 16 else <int> depth

    cdef object receive(self, Lane lane, uint64_t size):
        """The segment that a reply names, mapped; or the error that kept it from being mapped."""
        cdef int fd = mt_recv_fd(lane.sock, MSG_DONTWAIT)
        if fd < 0:
            return OSError(-fd, "a large result could not be received (open files exhausted?)")
        try:
            return map_segment(fd, size)
        except OSError as error:
            return error

    cdef int settle_now(self, TaskBase task, int status, int kind, object value) except -1:
        """The one place where a task leaves PENDING."""
        cdef Basket basket
        if task.status != S_PENDING or task.decided:
            return 0
        task.value = value
        task.kind = kind
        task.wid = NOWHERE
        self.unfinished -= 1
        if task.condition is not None:
            task.decided = status
            PyList_Append(self.slow, task)
        else:
            task.status = status
            if task.hooks is not None:
                PyList_Append(self.hooked, task)
        basket = task.basket
        if basket is None:
            if kind == V_ERROR or kind == V_FAILURE:
                PyList_Append(self.failures, task)
        else:
            self.settle_member(basket, task, status == S_CANCELLED or kind == V_ERROR or kind == V_FAILURE)
        task.payload = None
        return 1

    cdef int settle_member(self, Basket basket, TaskBase task, bint failed) except -1:
        basket.settled += 1
        basket.failed = basket.failed or failed
        if basket.parent is None:
            PyList_Append(basket.arrived, task)
            if basket.condition is not None:
                PyList_Append(self.slow, basket)
        elif basket.settled >= basket.total:
            self.unfinished += 1        # settle_now takes it off again
            self.settle_now(basket.parent, S_FINISHED, V_GROUP, basket)
            if basket.failed:
                PyList_Append(self.failures, basket.parent)
        return 0

    cdef inline bint for_manager(self) noexcept:
        return (PyList_GET_SIZE(self.sent) or PyList_GET_SIZE(self.failed) or PyList_GET_SIZE(self.slow)
                or PyList_GET_SIZE(self.hooked) or PyList_GET_SIZE(self.ready) or PyList_GET_SIZE(self.farewells)
                or (self.closed and self.unfinished == 0 and not self.told_idle))

    cdef int collect_and_tell(self) except -1:
        cdef int found = self.collect()
        if self.for_manager():
            self.ring_manager()
        return found

    cdef void ring_manager(self) noexcept:
        cdef uint64_t one = 1
        c_write(self.bell_fd, &one, 8)

    cdef bint something(self) noexcept:
        """A published reply that nobody has collected?"""
        cdef Lane lane
        cdef Py_ssize_t i
        for i in range(PyList_GET_SIZE(self.lanes)):
            lane = <Lane> PyList_GET_ITEM(<PyObject *> self.lanes, i)
            if mt_peek(&lane.m.replies, lane.reply_seq):
                return True
        return False

    # ------------------------------------------------------------------ waiting: any thread

    def wait(self, target, timeout=None):
        """Block until *target* (a task or a basket) has something; False when *timeout* seconds have passed first."""
        cdef int64_t end = -1
        if reached(target):
            return True
        if timeout is not None:
            end = <int64_t> mt_now_ns() + <int64_t> (max(0.0, min(float(timeout), 9e9)) * 1e9)
        if self.leader or self.closed and self.inherited:
            return self.follow(target, end)
        self.leader = 1
        try:
            return self.lead(target, end)
        finally:
            self.leader = 0
            mt_store32(&self.page.word, MT_MANAGER)
            mt_fence()
            if self.something() or self.for_manager():
                if mt_cas32(&self.page.word, MT_MANAGER, MT_AWAKE):
                    pass
                self.ring_manager()

    cdef bint lead(self, target, int64_t end) except -1:
        cdef int64_t left = -1
        cdef int found
        cdef uint64_t spin_end
        mt_store32(&self.page.word, MT_AWAKE)
        while True:
            if self.collecting:
                with nogil:
                    sched_yield()
                PyErr_CheckSignals()
                continue
            found = self.collect_and_tell()
            if reached(target):
                return True
            PyErr_CheckSignals()
            if end >= 0:
                left = end - <int64_t> mt_now_ns()
                if left <= 0:
                    return False
            if found >= BUSY_BATCH:
                self.pause(30000)
                continue
            if self.spin():
                continue
            mt_store32(&self.page.word, MT_CALLER)
            mt_fence()
            if self.something() or reached(target):
                mt_store32(&self.page.word, MT_AWAKE)
                continue
            with nogil:
                mt_futex_wait(&self.page.word, MT_CALLER, left)
            mt_store32(&self.page.word, MT_AWAKE)
        return False

    cdef bint spin(self) except -1:
        """Look for replies for a short while without the GIL. Lanes are only dropped with the GIL held, so keep them."""
        cdef mt_slot *slots[16]
        cdef uint64_t wanted[16]
        cdef int n = 0, i
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
                for i in range(n):
                    if mt_load64(<a64 *> slots[i]) == wanted[i]:
                        got = True
                        break
                mt_relax()
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
            if (<Basket> target).condition is None:
                (<Basket> target).condition = Condition()
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
        if task.status != S_PENDING or task.decided:
            return 0
        if task.wid == NOWHERE and self.waits_to_retry(task):
            self.settle_now(task, S_CANCELLED, V_ERROR, gone)
        elif task.wid == IN_LINE:
            self.waiting -= 1
            self.settle_now(task, S_CANCELLED, V_ERROR, gone)
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
        return 1

    cdef bint waits_to_retry(self, TaskBase task):
        return task.retrying or task.kind == V_GROUP

    def running(self, TaskBase task):
        """Has a worker started it and not yet published its result?"""
        cdef int state
        if task.wid < 0:
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

    # ------------------------------------------------------------------ the manager thread

    def attend(self, timeout=None):
        """Collect, settle, refill; sleep until there is something to report or *timeout* seconds have passed."""
        cdef int64_t end = -1
        cdef int found, ms, n = 0
        cdef epoll_event got[64]
        cdef list events
        if timeout is not None:
            end = <int64_t> mt_now_ns() + <int64_t> (max(0.0, min(timeout, 9e9)) * 1e9)
        while True:
            found = self.collect()
            events = self.report(got, n)
            n = 0
            if self.leader:
                self.wake_leader()
            if events:
                return events
            ms = -1
            if end >= 0:
                ms = <int> min(max(0, (end - <int64_t> mt_now_ns() + 999999) // 1000000), 2000000000)
                if ms == 0:
                    return events
            if found >= BUSY_BATCH:
                ms = NAP_MS
            elif not self.leader:
                mt_store32(&self.page.word, MT_MANAGER)
                mt_fence()
                if self.something():
                    mt_store32(&self.page.word, MT_AWAKE)
                    continue
            with nogil:
                n = epoll_wait(self.epoll_fd, got, 64, ms)
            if not self.leader:
                mt_store32(&self.page.word, MT_AWAKE)

    cdef list report(self, epoll_event *got, int n):
        """What the manager must act on, as events; allocates freely: the books are closed."""
        cdef list events = []
        cdef uint64_t count
        cdef int i
        for i in range(n):
            if got[i].data.u64 == 0:
                c_read(self.bell_fd, &count, 8)
            else:
                events.append(("exit", <int> (got[i].data.u64 - 1)))
        if PyList_GET_SIZE(self.slow):
            slow, self.slow = self.slow, []
            for each in slow:
                if isinstance(each, Basket):
                    condition = (<Basket> each).condition
                    with condition:
                        condition.notify_all()
                else:
                    (<TaskBase> each)._publish()
                    if (<TaskBase> each).hooks is not None:
                        self.hooked.append(each)
        if PyList_GET_SIZE(self.hooked):
            hooked, self.hooked = self.hooked, []
            for task in hooked:
                hooks = (<TaskBase> task)._take_hooks()
                if hooks:
                    self.put_callbacks(task, hooks)
        if PyList_GET_SIZE(self.ready):
            lanes, self.ready = self.ready, []
            for lane in lanes:
                events.append(("ready", (<Lane> lane).wid))
            self.refill_now()
        if PyList_GET_SIZE(self.farewells):
            lanes, self.farewells = self.farewells, []
            for lane in lanes:
                if (<Lane> lane).broken is not None:
                    events.append(("broken", (<Lane> lane).wid, self.load_error((<Lane> lane).broken)))
                else:
                    events.append(("bye", (<Lane> lane).wid, (<Lane> lane).farewell))
        if PyList_GET_SIZE(self.sent):
            tasks, self.sent = self.sent, []
            for task in tasks:
                if (<TaskBase> task).wid >= 0:
                    events.append(("sent", task, (<TaskBase> task).wid))
        if PyList_GET_SIZE(self.failed):
            tasks, self.failed = self.failed, []
            for task in tasks:
                events.append(("failed", task, <int> (<TaskBase> task).seq, ((<TaskBase> task).kind, (<TaskBase> task).value)))
        if PyList_GET_SIZE(self.posts):
            posts, self.posts = self.posts, []
            events.extend([("post", obj) for obj in posts])
        if self.closed and self.unfinished == 0 and not self.told_idle:
            self.told_idle = True
            events.append(("idle",))
        return events

    cdef void wake_leader(self) noexcept:
        if mt_cas32(&self.page.word, MT_CALLER, MT_AWAKE):
            mt_futex_wake(&self.page.word)

    def watch(self, int fd, int wid):
        """Report ("exit", wid) once *fd* is readable."""
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = <uint64_t> wid + 1
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0:
            PyErr_SetFromErrno(OSError)

    def unwatch(self, int fd):
        cdef epoll_event event
        epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, fd, &event)

    def add_worker(self, int wid, Lane channel):
        """Open the books for a worker; it is fed once its HELLO has come."""
        channel.wid = wid
        if self.line.keyed:
            channel.depth = 2
        self.by_wid[wid] = channel
        self.lanes = self.lanes + [channel]

    def remove_worker(self, int wid):
        """The worker is dead: what it had started is lost, what it had not goes to the front of the line."""
        cdef Lane lane = <Lane> self.by_wid[wid]
        cdef TaskBase lost = None
        cdef mt_slot *slot
        cdef int returned
        cdef PyObject *held
        cdef int i
        cdef object started = None, item = None, crumb
        crumb = lane.note()
        while self.collecting:
            with nogil:
                sched_yield()
        self.drain(lane)
        lane.state = L_GONE
        returned = self.take_back(lane, MT_SLOTS)
        for i in range(MT_SLOTS):
            held = lane.inflight[i]
            if held == NULL:
                continue
            lane.inflight[i] = NULL
            lane.count -= 1
            lost = <TaskBase> held
            raw_decref(held)
            slot = mt_slot_of(&lane.m.requests, lost.seq)
            self.recover(lane, lost)
            lost.wid = NOWHERE
            started = mt_load64(&slot.start_ns) / 1e9 or None
            item = mt_load64(&slot.item) if lost.mode else None
            if lost.status != S_PENDING or lost.decided:
                lost = None
        del self.by_wid[wid]
        self.lanes = [each for each in self.lanes if each is not lane]
        lane.shut()
        self.refill_now()
        return Removed(lost, item, started, crumb, returned)

    def retire(self, int wid):
        """Feed this worker no more: what it has not started goes elsewhere, and it ends after what it runs."""
        cdef Lane lane = <Lane> self.by_wid[wid]
        while self.collecting:
            with nogil:
                sched_yield()
        if lane.state == L_LEAVING:
            return
        lane.state = L_LEAVING
        self.take_back(lane, MT_SLOTS)
        self.send_stop(lane)
        self.refill_now()

    def requeue(self, TaskBase task, front=False):
        """Put a task that was lost or failed back in line, with its call as it was."""
        if task.status != S_PENDING or task.decided:
            return
        task.value = None
        task.kind = V_NONE
        task.wid = IN_LINE
        if front:
            self.line.push_front(task)
        else:
            self.line.push(task)
        self.waiting += 1
        self.refill_now()

    def settle(self, TaskBase task, int status, ok, value):
        """Settle *task* with an outcome made here: a result, an exception, or what a "failed" event carried."""
        if task.wid == IN_LINE:
            self.waiting -= 1
        if type(value) is tuple and not ok and len(value) == 2:
            self.settle_now(task, status, value[0], value[1])
        else:
            self.settle_now(task, status, V_OBJECT if ok else V_ERROR, value)

    def started(self, TaskBase task):
        """time.monotonic() at which a worker started the call, or None."""
        cdef uint64_t at
        if task.wid < 0:
            return None
        lane = <Lane> self.by_wid[task.wid]
        at = mt_load64(&mt_slot_of(&(<Lane> lane).m.requests, task.seq).start_ns)
        return at / 1e9 if at else None

    def condemn(self, TaskBase task):
        """The worker that runs *task* starts nothing after it any more; its number, or None when nobody runs it."""
        if task.wid < 0:
            return None
        if mt_condemn(&(<Lane> self.by_wid[task.wid]).m.requests, task.seq):
            return task.wid
        return None

    def close(self):
        """Take no more calls; reports ("idle",) once all is settled."""
        self.closed = True
        self.ring_manager()

    def pending(self):
        """The tasks that are not settled; for terminate()."""
        cdef Lane lane
        cdef list out = []
        cdef size_t i
        cdef int k
        for lane in self.lanes:
            for k in range(MT_SLOTS):
                if lane.inflight[k] != NULL:
                    out.append(<object> lane.inflight[k])
        for i in range(self.line.used):
            task = <TaskBase> self.line.places[(self.line.first + i) & (self.line.room - 1)].task
            if (<TaskBase> task).status == S_PENDING and not (<TaskBase> task).decided:
                out.append(task)
        return out

    def disown(self):
        """In a child of os.fork(): this core is the parent's; nothing here may touch the lanes."""
        self.closed = self.inherited = True
        self.lanes, self.by_wid = [], {}


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


cdef inline bint reached(object target) noexcept:
    if isinstance(target, TaskBase):
        return (<TaskBase> target).status != S_PENDING
    return (<Basket> target).something()


cdef dict ours = {}      # file name -> is it part of this library?

cdef int note_site(TaskBase task) except -1:
    """Remember the line that submits: the nearest frame outside this library."""
    cdef PyFrameObject *frame = PyEval_GetFrame()
    cdef PyFrameObject *back
    cdef PyObject *code
    cdef PyObject *known
    cdef bint own = False
    while frame != NULL:
        code = PyFrame_GetCode(frame)
        name = (<object> code).co_filename
        known = PyDict_GetItemWithError(ours, name)
        if known == NULL:
            ours[name] = is_ours(name)
            known = PyDict_GetItemWithError(ours, name)
        if known == Py_False:
            task.site_code = <object> code
            task.site_at = PyFrame_GetLasti(frame)
            raw_decref(code)
            break
        raw_decref(code)
        back = PyFrame_GetBack(frame)
        if own:
            raw_decref(<PyObject *> frame)
        frame, own = back, True
    if own and frame != NULL:
        raw_decref(<PyObject *> frame)
    return 0
