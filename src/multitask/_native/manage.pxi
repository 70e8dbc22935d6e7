# What the manager thread asks of the core: attend, workers that come and go, outcomes that are made here.


cdef class NativeCore(Waiter):
    """Ledger, lanes and doorbell of one pool; the interface is ``multitask._engine.core.Core``."""

    def attend(self, timeout=None):
        """Collect, settle, refill; sleep until there is something to report or *timeout* seconds have passed."""
        cdef int64_t end = -1, due
        cdef int found, ms, i, n = 0
        cdef uint64_t count
        cdef uint64_t settled
        cdef epoll_event got[64]
        cdef list events
        if timeout is not None:
            end = <int64_t> mt_now_ns() + <int64_t> (max(0.0, min(timeout, 9e9)) * 1e9)
        while True:
            if self.collecting:
                # Another thread is in the middle of it, stopped by a __del__ that let go of the GIL.
                with nogil:
                    sched_yield()
                continue
            settled = self.settled
            found = self.collect()
            events = self.report(got, n)
            if n or settled != self.settled:
                self.tell_leader()
            n = 0
            if events:
                return events
            ms = -1
            if end >= 0:
                ms = <int> min(max(0, (end - <int64_t> mt_now_ns() + 999999) // 1000000), 2000000000)
                if ms == 0:
                    return events
            due = self.shelf.sweep(mt_now_ns())
            if due >= 0 and (ms < 0 or due < ms * <int64_t> 1000000):
                ms = <int> (due // 1000000) + 1
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
                mt_awake(self.page, MT_MANAGER)
                # Emptied before collecting, not after: a ring in between announces room that is still to be used.
                for i in range(n):
                    if got[i].data.u64 == 0:
                        c_read(self.bell_fd, &count, 8)

    cdef list report(self, epoll_event *got, int n):
        """What the manager must act on, as events; allocates freely: the books are closed."""
        cdef list events = []
        cdef int i
        for i in range(n):
            if got[i].data.u64 != 0:
                events.append(("exit", <int> (got[i].data.u64 - 1)))
        if PyList_GET_SIZE(self.spent):
            # A socket that a task had must not stay open here for as long as somebody keeps the task.
            spent, self.spent = self.spent, []
            spent = None
        if PyList_GET_SIZE(self.worn):
            self.shed()
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
        if type(self.failures) is not list and PyList_GET_SIZE(self.failures) >= self.failures.limit:
            self.failures.trim()
        if self.forget_due:
            self.forget_due = False
            self.forget_dead()
        if PyList_GET_SIZE(self.posts):
            posts, self.posts = self.posts, []
            events.extend([("post", obj) for obj in posts])
        if self.closed and self.unfinished == 0 and not self.told_idle:
            self.told_idle = True
            events.append(("idle",))
        return events

    cdef int forget_dead(self) except -1:
        """Tell the workers which definitions nothing can ask for any more."""
        cdef Lane lane
        dead = self.encoder.take_dead()
        for lane in self.lanes:
            known = [number for number in dead if number in lane.known]
            for start in range(0, len(known), 1000):
                numbers = b"".join([number.to_bytes(8, "little") for number in known[start:start + 1000]])
                if not self.send_forget(lane, numbers):
                    break
                lane.known.difference_update(known[start:start + 1000])
        return 0

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
        if self.fixed_depth:
            channel.depth = self.fixed_depth
        elif self.line.keyed:
            channel.depth = 2
        self.by_wid[wid] = channel
        self.lanes = self.lanes + [channel]

    def remove_worker(self, int wid):
        """The worker is dead: what it had started is lost, what it had not goes to the front of the line."""
        cdef Lane lane = <Lane> self.by_wid[wid]
        cdef TaskBase lost = None, task
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
            task = <TaskBase> held
            raw_decref(held)
            slot = mt_slot_of(&lane.m.requests, task.seq)
            task.wid = NOWHERE
            if task.status != S_PENDING or task.decided:
                continue
            self.recover(lane, task)
            if not mt_load64(&slot.start_ns):
                # Taken, but the worker died before the call itself began.
                task.wid = IN_LINE
                self.line.push_front(task)
                self.waiting += 1
                continue
            lost = task
            started = mt_load64(&slot.start_ns) / 1e9
            item = mt_load64(&slot.item) if task.mode else None
        del self.by_wid[wid]
        self.lanes = [each for each in self.lanes if each is not lane]
        if lane.want_stop:
            lane.want_stop = False
            self.stops -= 1
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
        cdef bint waited = task.wid == IN_LINE
        if type(value) is tuple and not ok and len(value) == 2:
            self.settle_now(task, status, value[0], value[1])
        else:
            self.settle_now(task, status, V_OBJECT if ok else V_ERROR, value)
        if waited:
            self.leave_line()
        self.tell_leader()
        if PyList_GET_SIZE(self.worn):
            self.shed()

    def started(self, TaskBase task):
        """time.monotonic() at which a worker started the call, or None."""
        cdef uint64_t at
        if task.wid < 0 or self.foreign():
            return None
        lane = <Lane> self.by_wid[task.wid]
        at = mt_load64(&mt_slot_of(&(<Lane> lane).m.requests, task.seq).start_ns)
        return at / 1e9 if at else None

    def condemn(self, TaskBase task):
        """The worker that runs *task* starts nothing after it any more; its number, or None when nobody runs it."""
        cdef Lane lane
        if task.wid < 0 or self.foreign():
            return None
        lane = <Lane> self.by_wid[task.wid]
        if not mt_condemn(&lane.m.requests, task.seq):
            return None
        lane.state = L_LEAVING
        self.take_back(lane, MT_SLOTS)
        self.refill_now()
        return lane.wid

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

    def dispose(self):
        """The manager thread is leaving: whatever is still pending is cancelled; no lane is left to look at."""
        self.closed = True
        for task in self.pending():
            self.settle(task, S_CANCELLED, False, CancelledError("the pool has ended"))
        for lane in self.lanes:
            # Left here by a manager that gave up. A lane's tasks hold the core, and the core the lane.
            (<Lane> lane).empty()
        self.report(NULL, 0)
        self.tell_leader()
        self.shelf.close()
        fds = (self.page_fd, self.bell_fd, self.epoll_fd)
        self.page_fd = self.bell_fd = self.epoll_fd = -1      # first: nobody may ring a number that is somebody else's
        for fd in fds:
            if fd >= 0:
                c_close(fd)

    def disown(self):
        """In a child of os.fork(): this core is the parent's; nothing here may touch the lanes."""
        self.closed = self.inherited = True
        self.lanes, self.by_wid = [], {}
        self.shelf.close()
