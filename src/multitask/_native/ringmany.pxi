# Many items with one commit.

cdef enum:
    RUN_BYTES = 16384       # so much is collected before it is put
    RUN_ITEM_MAX = 8192     # larger items go by themselves
    BATCH_BYTES = 65536     # so much is taken at a time

# Whose items are there without anybody's code being run: nothing can hold them up.
cdef tuple AT_HAND = (list, tuple, range, set, frozenset, dict, str, bytes)


cdef class Run:
    """Frames that are to be put together."""
    cdef Writer w
    cdef uint64_t messages

    def __cinit__(self):
        writer_start(&self.w)

    def __dealloc__(self):
        writer_end(&self.w)

    cdef int add(self, int kind, const void *data, uint64_t size) except -1:
        cdef size_t at = self.w.used
        if not writer_need(&self.w, MTQ_FRAME(size)):
            raise MemoryError()
        memcpy(self.w.data + at + 8, data, size)
        self.w.used = at + 8 + size
        return self.close(at, kind, size)

    cdef int close(self, size_t at, int kind, uint64_t size) except -1:
        """Write the head of the frame at *at*, whose content stands there."""
        cdef uint64_t head = MTQ_HEAD(kind, size)
        memcpy(self.w.data + at, &head, 8)
        self.w.used = at + MTQ_FRAME(size)
        self.messages += 1
        return 0

    cdef bint add_plain(self, PyObject *o) except -1:
        """Whether *o* is plain data and has been added."""
        cdef size_t at = self.w.used
        if not writer_need(&self.w, 32):
            raise MemoryError()
        self.w.used = at + 8
        self.w.lists = 0
        if not encode_plain(&self.w, o, 4) or not writer_need(&self.w, 8):
            self.w.used = at
            return False
        self.close(at, MTQ_PLAIN, self.w.used - at - 8)
        return True

    cdef void clear(self) noexcept:
        self.w.used = 0
        self.messages = 0


cdef class Many(Item):
    """put_many and get_many."""

    def put_many(self, iterable, block=True, timeout=None):
        cdef uint64_t deadline
        cdef uint64_t done = 0
        cdef Run run = Run.__new__(Run)
        cdef bint at_hand = type(iterable) in AT_HAND
        self.check_open()
        deadline = deadline_of(block, timeout)
        try:
            try:
                for obj in iterable:
                    self.add_to(run, obj, deadline, &done)
                    # An iterator may block: what it has given does not wait for what comes.
                    if run.w.used >= RUN_BYTES or not at_hand:
                        self.put_run(run, deadline, &done)
            finally:
                self.put_run(run, deadline, &done)
        except BaseException as error:
            say(error, "done", done)
            raise
        return done

    cdef int add_to(self, Run run, obj, uint64_t deadline, uint64_t *done) except -1:
        cdef PyObject *o = <PyObject *> obj
        cdef mtq_part part
        if PyBytes_CheckExact(o):
            if size_of_bytes(o) <= RUN_ITEM_MAX:
                return run.add(MTQ_BYTES, data_of_bytes(o), size_of_bytes(o))
            self.put_run(run, deadline, done)
            part.data = data_of_bytes(o)
            part.size = size_of_bytes(o)
            self.put_parts(MTQ_BYTES, &part, 1, part.size, deadline)
        elif run.add_plain(o):
            return 0
        else:
            stream, buffers = _seal(obj)
            if not buffers and len(stream) <= RUN_ITEM_MAX:
                return run.add(MTQ_PICKLE, PyBytes_AS_STRING(stream), PyBytes_GET_SIZE(stream))
            self.put_run(run, deadline, done)
            self.put_stream(stream, buffers, deadline)
        done[0] += 1
        return 0

    cdef int put_run(self, Run run, uint64_t deadline, uint64_t *done) except -1:
        """Put what is collected; afterwards nothing is, also after an error."""
        cdef uint64_t taken = 0
        cdef uint64_t bytes, messages
        cdef int result = MTQ_DONE
        if run.messages == 0:
            return 0
        while result == MTQ_DONE and taken < run.w.used and mtq_lock(&self.q, MTQ_PUT, 0) == MTQ_DONE:
            result = mtq_put_run(&self.q, run.w.data + taken, run.w.used - taken, &bytes, &messages, MTQ_NO)
            mtq_unlock(&self.q, MTQ_PUT)
            taken += bytes
            done[0] += messages
            if messages:
                mtq_after_put(&self.q, messages)
        result = MTQ_DONE if taken == run.w.used else MTQ_SLICE
        try:
            while result == MTQ_SLICE:
                with nogil:
                    result = mtq_run_in_wait(&self.q, run.w.data, run.w.used, &taken, done, deadline, slice_end())
                if result == MTQ_SLICE:
                    PyErr_CheckSignals()
        finally:
            run.clear()
        if result != MTQ_DONE:
            raise self.error(result)
        return 0

    def get_many(self, most=None, block=True, timeout=None):
        cdef uint64_t limit = MTQ_NEVER if most is None else check_most(most)
        cdef uint64_t deadline
        cdef uint64_t bytes = 0
        cdef uint64_t messages = 0
        cdef unsigned char *to
        cdef int result
        cdef list out = []
        cdef list wrong = []
        self.check_open()
        deadline = deadline_of(block, timeout)
        to = mt_aligned(BATCH_BYTES)
        if to == NULL:
            raise MemoryError()
        try:
            while <uint64_t> len(out) + <uint64_t> len(wrong) < limit:
                result = self.take_run(limit - len(out) - len(wrong), to, &bytes, &messages)
                if result == MTQ_DONE:
                    self.decode_run(to, bytes, out, wrong)
                elif result == MTQ_NOTHING and (out or wrong):
                    break
                else:
                    # The first one has to be waited for, or goes by itself; errors come from here too.
                    self.get_single(0 if out or wrong else deadline, out, wrong)
                if limit == MTQ_NEVER:
                    # What comes meanwhile is for the next call.
                    limit = len(out) + len(wrong) + mtq_size(&self.q)
        except (_stdlib.Empty, shut_down_class()):
            if not out and not wrong:
                raise
        finally:
            mt_free(to)
        if wrong:
            self.raise_first(out, wrong)
        return out

    cdef int take_run(self, uint64_t most, unsigned char *to, uint64_t *bytes, uint64_t *messages) except -100:
        cdef int result
        messages[0] = 0
        if mtq_lock(&self.q, MTQ_GET, 0) != MTQ_DONE:
            with nogil:
                result = mtq_lock(&self.q, MTQ_GET, mtq_lock_by(0, slice_end()))
                if result == MTQ_DONE:
                    result = mtq_run_out(&self.q, most, to, BATCH_BYTES, bytes, messages, MTQ_YES)
            return result
        # Only what can be mapped needs the GIL to go; then the message is got by itself.
        return mtq_run_out(&self.q, most, to, BATCH_BYTES, bytes, messages, MTQ_NO)

    cdef int get_single(self, uint64_t deadline, list out, list wrong) except -1:
        cdef mtq_box box
        self.fill_box(&box, None, deadline)
        try:
            out.append(self.decode(&box))
        except Exception as error:
            wrong.append(error)
        return 0

    cdef int decode_run(self, unsigned char *run, uint64_t size, list out, list wrong) except -1:
        cdef uint64_t at = 0
        cdef uint64_t head
        while at < size:
            memcpy(&head, run + at, 8)
            try:
                out.append(self.decode_frame(MTQ_KIND(head), run + at + 8, head >> 8))
            except Exception as error:
                wrong.append(error)
            at += MTQ_FRAME(head >> 8)
        return 0

    cdef object decode_frame(self, int kind, unsigned char *content, uint64_t length):
        cdef const unsigned char *at = content
        cdef Block block
        if kind == MTQ_PLAIN:
            return decode_plain(&at)
        if kind == MTQ_BYTES:
            return PyBytes_FromStringAndSize(<const char *> content, length)
        if kind == MTQ_PICKLE:
            return _open(PyBytes_FromStringAndSize(<const char *> content, length), ())
        block = Block.__new__(Block)
        block.at = mt_aligned(length)
        if block.at == NULL:
            raise MemoryError()
        memcpy(block.at, content, length)
        block.size = length
        return open_parcel(block)

    cdef int raise_first(self, list out, list wrong) except -1:
        """Some could not be unpickled: the first says so, and has the others with it."""
        first = wrong[0]
        for error in wrong[1:]:
            first.add_note(f"another item that came with it could not be unpickled either: {error!r}")
        say(first, "items", out)
        raise first


cdef int say(error, str name, value) except -1:
    try:
        setattr(error, name, value)
    except Exception:       # a class of errors that takes no attributes
        pass
    return 0


cdef uint64_t check_most(most) except? 12321:
    if most < 1:
        raise ValueError(f"most must be at least 1, not {most!r}")
    return most
