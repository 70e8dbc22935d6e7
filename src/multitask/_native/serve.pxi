# The worker's end of a lane: take a call, run it, publish what came of it.
#
# Owner: the worker's main thread. The order of the steps is the protocol: TAKEN before anything runs, the reply
# before DONE, DONE before the slot is given back. A worker that finds itself condemned starts nothing any more.

import sys

cdef enum:
    LOOK_NS = 100000000      # how old the published figure of resident memory may be


cdef class WorkerEnd:
    """What a worker holds of its lane and of the pool's doorbell."""
    cdef mt_lane *m
    cdef mt_page *page
    cdef int bell, sock, statm
    cdef uint64_t seq
    cdef uint64_t last_number
    cdef object last_function
    cdef bint noted
    cdef uint64_t looked_ns
    cdef int64_t resident        # after the last task, where max_memory is set
    cdef int64_t growth          # the most that one task has added to what this process occupies
    cdef bint starved            # a task ran out of memory
    cdef long page_size
    cdef bint forked             # a task forked, and this is its child: the lane is not ours
    cdef Shelf shelf

    def __cinit__(self):
        self.statm = -1

    def __init__(self, int memory, int sock, int page_fd, int bell, *, int senders=1):
        global Parcel
        from multitask._engine.wire import Parcel as parcel_class
        Parcel = parcel_class
        cdef void *at = mmap(NULL, sizeof(mt_lane), PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0)
        if at == MAP_FAILED:
            PyErr_SetFromErrno(OSError)
        self.m = <mt_lane *> at
        at = mmap(NULL, sizeof(mt_page), PROT_READ | PROT_WRITE, MAP_SHARED, page_fd, 0)
        if at == MAP_FAILED:
            PyErr_SetFromErrno(OSError)
        self.page = <mt_page *> at
        self.bell, self.sock = bell, sock
        self.shelf = Shelf(senders)
        self.page_size = sysconf(_SC_PAGESIZE)
        self.statm = c_open("/proc/self/statm", O_RDONLY | O_CLOEXEC)
        c_close(memory)
        c_close(page_fd)

    def note(self, bytes text):
        """Leave a breadcrumb that the parent can read after this process has died."""
        mt_write_note(self.m, PyBytes_AS_STRING(text), <uint32_t> len(text))
        self.noted = True

    def disown(self):
        """In a child of os.fork(): lane and shelf are the worker's."""
        self.forked = True
        self.shelf.close()

    def hello(self):
        """Report for work."""
        self.resident = self.look(mt_now_ns())
        self.publish(K_HELLO, F_PLAIN, <const unsigned char *> b"\x00", 1, None, 0, 0)

    def broken(self, parcel):
        """Report that the initializer failed."""
        self.publish_packed(K_BROKEN, pack(parcel), 0, 0)

    def serve(self, decoder, long max_tasks=0, long long max_memory=0):
        """Run calls until told to stop. Returns "stop", "maxtasksperchild" or "max_memory"."""
        cdef mt_ring *ring = &self.m.requests
        cdef mt_slot *slot
        cdef int got, kind
        cdef int64_t due
        cdef long tasks = 0
        cdef bint quiet = False
        cdef uint64_t one = 1
        cdef uint64_t now = 0
        while True:
            got = mt_take(ring, self.seq)
            if got == MT_NOTHING:
                now = 0
                if quiet:
                    # Slots were freed without a reply that would have said so, and the parent may wait for room. Ring
                    # whatever the word says: its owner looks for replies before it sleeps, and there is none.
                    quiet = False
                    c_write(self.bell, &one, 8)
                due = self.shelf.sweep(mt_now_ns()) if self.shelf.used else -1
                with nogil:
                    got = mt_consumer_sleep(ring, self.seq, self.m.spin_ns, due)
                if got == -EINTR:
                    PyErr_CheckSignals()
                continue
            slot = mt_slot_of(ring, self.seq)
            if got == MT_SKIP:
                quiet = True
                if slot.segment:
                    self.drop_segment()
                mt_release(ring, self.seq)
                self.seq += 1
                continue
            kind = slot.kind
            if kind == K_CALL:
                now = self.call(decoder, slot, now)
                tasks += 1
                if max_memory and self.is_fat(now, max_memory):
                    return self.leave("max_memory")
                if tasks == max_tasks:
                    return self.leave("maxtasksperchild")
                continue
            quiet = True
            if kind == K_DEFINE:
                self.define(decoder, slot)
            elif kind == K_FORGET:
                self.forget(decoder, slot)
            mt_finish(ring, self.seq)
            mt_release(ring, self.seq)
            self.seq += 1
            if kind == K_STOP:
                return "stop"

    cdef bint is_fat(self, uint64_t now, int64_t most):
        """Would another task like the greediest so far go beyond *most* bytes? Then this worker has to go first."""
        cdef int64_t resident = self.look(now)
        if self.resident and resident - self.resident > self.growth:
            self.growth = resident - self.resident
        self.resident = resident
        return self.starved or resident + self.growth > most

    cdef str leave(self, str reason):
        cdef bytes text = b"\x07" + len(reason).to_bytes(4, "little") + reason.encode()
        self.publish(K_BYE, F_PLAIN, <const unsigned char *> PyBytes_AS_STRING(text), <uint32_t> len(text), None, 0, 0)
        return reason

    cdef int64_t look(self, uint64_t now):
        """Resident bytes of this process now; published for the parent."""
        cdef char text[128]
        cdef ssize_t n = -1
        cdef int i = 0
        cdef int64_t pages = 0, occupied
        if self.statm >= 0:
            n = c_pread(self.statm, text, 127, 0)
        while i < n and text[i] != 32:
            i += 1
        i += 1
        while i < n and 48 <= text[i] <= 57:
            pages = pages * 10 + (text[i] - 48)
            i += 1
        # What is kept for the next result is not the tasks', and goes when they end.
        occupied = pages * self.page_size - <int64_t> self.shelf.mapped
        mt_store64(&self.m.resident_bytes, occupied)
        self.looked_ns = now
        return occupied

    cdef int drop_segment(self) except -1:
        cdef int fd = mt_recv_fd(self.sock, 0)
        if fd >= 0:
            c_close(fd)
        return 0

    cdef object content(self, mt_slot *slot, size_t skip):
        """The message's content past *skip* bytes: bytes, or a mapping of its segment."""
        cdef int fd
        if slot.segment:
            fd = mt_recv_fd(self.sock, 0)
            if fd < 0:
                raise OSError(-fd, "a large argument could not be received (open files exhausted?)")
            return map_segment(fd, slot.spare)
        return PyBytes_FromStringAndSize(<const char *> mt_content(&self.m.requests, slot) + skip, slot.length - skip)

    cdef int define(self, decoder, mt_slot *slot) except -1:
        cdef uint32_t n
        cdef unsigned char *at = mt_content(&self.m.requests, slot)
        memcpy(&n, at, 4)
        name = PyBytes_FromStringAndSize(<char *> at + 4, n).decode("utf-8", "surrogatepass") if slot.form == 2 else None
        stream, buffers = unpack(self.content(slot, 4 + n))
        self.last_function = None      # the decoder binds what has been defined when it is asked for a function
        decoder.define(slot.function, name, Parcel(stream, buffers))
        return 0

    cdef int forget(self, decoder, mt_slot *slot) except -1:
        cdef uint64_t *numbers = <uint64_t *> mt_content(&self.m.requests, slot)
        self.last_function = None
        decoder.forget([numbers[i] for i in range(slot.length // 8)])
        return 0

    # For tests that play the worker step by step.

    def take_by_hand(self, decoder):
        """Start the next message: (function number, arguments), "stop", or None when there is none."""
        cdef mt_ring *ring = &self.m.requests
        cdef mt_slot *slot
        cdef const unsigned char *at
        cdef int got
        while True:
            got = mt_take(ring, self.seq)
            if got == MT_NOTHING:
                return None
            slot = mt_slot_of(ring, self.seq)
            if got == MT_GOT and slot.kind == K_CALL:
                mt_store64(&slot.start_ns, mt_now_ns())
                at = mt_content(ring, slot)
                return slot.function, decode_plain(&at)
            if got == MT_GOT:
                if slot.kind == K_DEFINE:
                    self.define(decoder, slot)
                mt_finish(ring, self.seq)
            mt_release(ring, self.seq)
            self.seq += 1
            if got == MT_GOT and slot.kind == K_STOP:
                return "stop"

    def finish_by_hand(self, decoder, value, bint ok=True):
        """Publish the outcome of what ``take_by_hand`` started; False: condemned, there is to be no next one."""
        if ok:
            self.publish_result(decoder, value, self.seq, 1000)
        else:
            self.publish_error(decoder, value, self.seq, 1000)
        if not mt_finish(&self.m.requests, self.seq):
            return False
        mt_release(&self.m.requests, self.seq)
        self.seq += 1
        return True

    cdef uint64_t call(self, decoder, mt_slot *slot, uint64_t now) except? 0:
        cdef mt_ring *ring = &self.m.requests
        cdef uint64_t began = now if now else mt_now_ns()
        cdef int alive
        cdef object out = None
        mt_store64(&slot.start_ns, began)
        mt_store64(&self.m.tasks_started, mt_load64(&self.m.tasks_started) + 1)
        MT_STEP(13)
        try:
            out = self.run(decoder, slot)
            if self.forked:
                leave_forked()
        except BaseException as error:
            if self.forked:
                leave_forked()
            now = mt_now_ns()
            error.__traceback__ = users_part(error.__traceback__)
            self.starved = self.starved or isinstance(error, MemoryError)
            self.publish_error(decoder, error, self.seq, now - began)
        else:
            now = mt_now_ns()
            self.publish_result(decoder, out, self.seq, now - began)
        MT_STEP(14)
        if self.noted:
            mt_write_note(self.m, "", 0)
            self.noted = False
        alive = mt_finish(ring, self.seq)
        if alive:
            mt_release(ring, self.seq)
            self.seq += 1
        mt_ring_bell(self.page, self.bell)
        out = None      # after the ring: unmapping an array takes as long as hundreds of small calls
        if not alive:
            with nogil:
                while True:
                    c_pause()
        if self.shelf.used:
            self.shelf.sweep(now)
        if now - self.looked_ns > LOOK_NS:
            self.look(now)
        return now

    cdef object run(self, decoder, mt_slot *slot):
        cdef object fn, args, kwargs = None
        cdef const unsigned char *at
        cdef Mapping mapping
        if slot.form == F_PLAIN:
            if slot.segment:
                mapping = self.content(slot, 0)
                at = <const unsigned char *> mapping.at
            else:
                at = mt_content(&self.m.requests, slot)
            args = decode_plain(&at)
            fn = self.function(decoder, slot.function)
        else:
            stream, buffers = unpack(self.content(slot, 0))
            call = decoder.load(Parcel(stream, buffers))
            if slot.function:
                fn = self.function(decoder, slot.function)
                args, kwargs = call
            else:
                fn, args, kwargs = call
            call = None
        if slot.mode:
            return self.run_chunk(slot, fn, args[0])
        if kwargs:
            return PyObject_Call(fn, args, kwargs)
        return PyObject_Call(fn, args, <object> NULL)

    cdef object function(self, decoder, uint64_t number):
        if number != self.last_number or self.last_function is None:
            self.last_function = decoder.function(number)
            self.last_number = number
        return self.last_function

    cdef list run_chunk(self, mt_slot *slot, fn, items):
        cdef list out = []
        cdef Py_ssize_t i = 0
        if slot.mode == 1:
            for item in items:
                mt_store64(&slot.item, i)
                PyList_Append(out, PyObject_CallOneArg(fn, item))
                i += 1
        else:
            for item in items:
                mt_store64(&slot.item, i)
                PyList_Append(out, PyObject_Call(fn, tuple(item), <object> NULL))
                i += 1
        return out

    # ------------------------------------------------------------------ publishing

    cdef int publish_result(self, decoder, out, uint64_t cookie, uint64_t took) except -1:
        cdef Writer w
        cdef object packed
        writer_start(&w)
        try:
            if encode_plain(&w, <PyObject *> out, 3):
                if w.used <= MT_INLINE_MAX:
                    self.publish(K_OK, F_PLAIN, w.data, <uint32_t> w.used, None, cookie, took)
                    return 0
                packed = segment_of_bytes(w.data, w.used, self.shelf)
                self.publish(K_OK, F_PLAIN, NULL, 0, <Segment> packed, cookie, took)
                return 0
            packed = pack(decoder.dump(out), self.shelf)
        except BaseException as error:
            self.publish_error(decoder, error, cookie, took)
            return 0
        finally:
            writer_end(&w)
        self.publish_packed(K_OK, packed, cookie, took)
        return 0

    cdef int publish_error(self, decoder, error, uint64_t cookie, uint64_t took) except -1:
        self.publish_packed(K_ERROR, pack(decoder.dump_error(error)), cookie, took)
        return 0

    cdef int publish_packed(self, int kind, packed, uint64_t cookie, uint64_t took) except -1:
        if type(packed) is Segment:
            self.publish(kind, F_PARCEL, NULL, 0, <Segment> packed, cookie, took)
        else:
            self.publish(kind, F_PARCEL, <const unsigned char *> PyBytes_AS_STRING(packed),
                         <uint32_t> PyBytes_GET_SIZE(packed), None, cookie, took)
        if kind != K_OK and kind != K_ERROR:
            mt_ring_bell(self.page, self.bell)
        return 0

    cdef int publish(self, int kind, int form, const unsigned char *data, uint32_t length, Segment segment,
                     uint64_t cookie, uint64_t took) except -1:
        cdef mt_ring *ring = &self.m.replies
        cdef mt_slot *slot
        cdef unsigned char *content
        cdef uint64_t tail
        cdef int result
        while True:
            tail = mt_load64(&ring.tail)
            content = mt_reserve(ring, length, &slot)
            if content != NULL:
                break
            mt_ring_bell(self.page, self.bell)
            with nogil:
                result = mt_producer_sleep(ring, tail)
            if result < 0:
                PyErr_CheckSignals()
        if segment is not None:
            result = segment.send(self.sock, 0)
            if result < 0:
                raise OSError(-result, "a large result could not be sent")
        memcpy(content, data, length)
        slot.kind = kind
        slot.form = form
        slot.segment = segment is not None
        slot.spare = 0 if segment is None else segment.size
        slot.cookie = cookie
        mt_store64(&slot.start_ns, took)
        mt_commit(ring, slot)
        if kind == K_HELLO or kind == K_BYE:
            mt_ring_bell(self.page, self.bell)
        return 0


cdef object users_part(trace):
    """The traceback without the frames of this file, unless there are no others."""
    rest = trace
    while rest is not None and rest.tb_frame.f_code.co_filename.endswith("_native/serve.pxi"):
        rest = rest.tb_next
    return trace if rest is None else rest


cdef int leave_forked() except -1:
    """A child that a task forked has come back here: its parent is the worker, so it ends as a script would."""
    import os
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            pass
    os._exit(0)


def adopt_orphans():
    """Become the parent of descendants whose own parent ended (prctl(2), PR_SET_CHILD_SUBREAPER); True if it worked."""
    return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


cdef extern from "<sys/prctl.h>" nogil:
    int PR_SET_CHILD_SUBREAPER
    int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)


def set_kill_point(int step, long after):
    """For tests: SIGKILL this process when it reaches *step* of the protocol for the time after *after* others."""
    global mt_kill_step, mt_kill_after
    set_kill(step, after)


cdef extern from *:
    """
    static inline void set_kill(int step, long after) { mt_kill_step = step; mt_kill_after = after; }
    """
    void set_kill(int step, long after)

cdef extern from "<unistd.h>" nogil:
    long sysconf(int name)
    int _SC_PAGESIZE
    ssize_t c_pread "pread"(int fd, void *buf, size_t n, int64_t offset)

cdef extern from "<fcntl.h>" nogil:
    int c_open "open"(const char *path, int flags)
    int O_RDONLY, O_CLOEXEC
