# Collecting what workers have published, and settling tasks. All of this file is critical (see dispatch.pxi).


cdef class Collector(Books):
    """Takes replies off the lanes and settles the tasks they answer."""

    cdef int collect(self) except -1:
        """Take what the workers have published, settle it, refill. Returns how many messages there were."""
        cdef Lane lane
        cdef int found = 0
        if self.collecting:
            return 0
        self.since_collect = 0
        while True:
            self.collecting = True
            self.collector = PyThread_get_thread_ident()
            try:
                for lane in self.lanes:
                    found += self.drain(lane)
                if found or self.waiting or self.stops:
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
        self.collector = PyThread_get_thread_ident()
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
                task.value = value
                task.kind = value_kind
                task.seq = lane.wid
                PyList_Append(self.failed, task)
            else:
                self.settle_now(task, S_FINISHED, value_kind, value)
            return 0
        return self.take_word(lane, kind, value)

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
        if self.fixed_depth:
            return
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
        if not PyObject_GC_IsTracked(<PyObject *> task):
            PyObject_GC_Track(<PyObject *> task)
        self.unfinished -= 1
        self.settled += 1
        if task.condition is not None:
            task.decided = status
            PyList_Append(self.slow, task)
        else:
            task.status = status
            if task.hooks is not None:
                PyList_Append(self.hooked, task)
        basket = task.basket
        if basket is None:
            if status == S_FINISHED and (kind == V_ERROR or kind == V_FAILURE):
                PyList_Append(self.failures, task)
        else:
            self.settle_member(basket, task, status == S_CANCELLED or kind == V_ERROR or kind == V_FAILURE)
        task.payload = None
        if task.entry is not None:
            # The last reference to it is dropped elsewhere, for that runs Python code.
            if (<FunctionEntry> task.entry).lent:
                PyList_Append(self.spent, task.entry)
            elif references(<PyObject *> task.entry) == 1:
                PyList_Append(self.worn, task.entry)
            task.entry = None
        return 1

    cdef int leave_line(self) except -1:
        """A task was settled while it stood in the line."""
        self.waiting -= 1
        self.line.stale += 1
        self.line.tidy()
        return 0

    cdef int settle_member(self, Basket basket, TaskBase task, bint failed) except -1:
        basket.settled += 1
        basket.failed = basket.failed or failed
        if basket.parent is None:
            PyList_Append(basket.arrived, task)
            if basket.condition is not None:
                PyList_Append(self.slow, basket)
        elif basket.settled >= basket.expected:
            self.unfinished += 1        # settle_now takes it off again
            self.settle_now(basket.parent, S_FINISHED, V_GROUP, basket)
            if basket.failed:
                PyList_Append(self.failures, basket.parent)
        return 0

    cdef inline bint for_manager(self) noexcept:
        return (PyList_GET_SIZE(self.sent) or PyList_GET_SIZE(self.failed) or PyList_GET_SIZE(self.slow)
                or PyList_GET_SIZE(self.hooked) or PyList_GET_SIZE(self.ready) or PyList_GET_SIZE(self.farewells)
                or PyList_GET_SIZE(self.spent) or self.forget_due or (self.closed and self.unfinished == 0 and not self.told_idle))

    cdef int collect_and_tell(self) except -1:
        cdef int found = self.collect()
        if self.for_manager():
            self.ring_manager()
        self.tell_leader()
        if PyList_GET_SIZE(self.worn):
            self.shed()
        return found

    cdef int shed(self) except -1:
        """Let go of what settled tasks needed; outside of the critical parts."""
        worn, self.worn = self.worn, []
        worn = None
        return 0

    cdef void tell_leader(self) noexcept:
        """What a waiting caller sleeps for may just have been settled by this thread: have it look."""
        if self.leader and self.leader != PyThread_get_thread_ident():
            # Always wake: a worker that was killed between its swap and its wake has left the word changed.
            mt_cas32(&self.page.word, MT_CALLER, MT_AWAKE)
            mt_futex_wake(&self.page.word)

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
