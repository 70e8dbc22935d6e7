# Submitting: a call is encoded in the caller's thread and then admitted to the books in one critical step.

cdef enum:
    BATCH = 32           # a submitter collects once in so many calls
    FORGET_AFTER = 256   # new functions, until workers are told which are gone


cdef class Submitter(Collector):
    """What a submitting thread runs."""

    def shared_fds(self):
        """Descriptors that every worker gets: the doorbell's page and the manager's eventfd."""
        return [self.page_fd, self.bell_fd]

    def submit(self, fn, args, kwargs, options=None, int mode=0, basket=None):
        """Queue one call; returns its task. Pickling happens here, in the caller's thread, outside the critical parts."""
        cdef TaskBase task
        cdef Writer w
        cdef int plain = 0
        if self.closed or self.foreign():
            self.refuse()
        task = <TaskBase> mt_new(<PyTypeObject *> self.task_class, EMPTY)
        # Until it is settled the books hold it, so it cannot be garbage, and the collector of garbage need not walk
        # over a million waiting tasks again and again.
        PyObject_GC_UnTrack(<PyObject *> task)
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
        if self.closed or self.foreign():
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
        if self.broken is not None:
            raise self.broken.with_traceback(None)
        if self.foreign():
            raise PoolClosed("this pool belongs to the parent process", why="it was inherited through os.fork()",
                             fix="make a pool of its own in the child")
        raise PoolClosed("Pool not running", why="it was closed or terminated", fix="submit before close(), or make a new pool")

    cdef int encode_slowly(self, TaskBase task, fn, args, kwargs, Writer *w, int plain) except -1:
        task.form = P_PARCEL
        if plain:       # plain but large
            task.form = P_PLAIN
            task.payload = segment_of_bytes(w.data, w.used, self.shelf)
            return 0
        if task.entry is not None:
            parcel, needs = self.encoder.dump((tuple(args), kwargs or {}))
        else:
            parcel, needs = self.encoder.dump((fn, tuple(args), kwargs or {}))
        if needs:
            task.entry = self.with_needs(<FunctionEntry> task.entry, needs)
        task.payload = pack(parcel, self.shelf)
        return 0

    cdef FunctionEntry with_needs(self, FunctionEntry entry, needs):
        cdef FunctionEntry out = FunctionEntry.__new__(FunctionEntry)
        out.number = 0 if entry is None else entry.number
        out.own = True
        out.lent = any([type(need[2]) is Fleeting for need in needs])
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
        entry.simple = not ref.guards and not ref.cells and ref.kwdefaults is None
        if len(self.entries) > 2000:
            self.entries = {key: e for key, e in self.entries.items() if (<FunctionEntry> e).weak() is not None}
        self.entries[<size_t> <PyObject *> fn] = entry
        self.last_entry = entry
        self.new_functions += 1
        if self.new_functions % FORGET_AFTER == 0:
            self.forget_due = True
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
        out.token = getattr(parcel, "token", None)
        if not isinstance(out.content, Segment) and len(out.prefix) + len(out.content) > MT_INLINE_MAX:
            out.content = segment_of_bytes(out.content, len(out.content), None)
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
        if plain and task.retrying:
            # Kept for the next try: the bytes in the lane may be written over as soon as the call is done.
            task.payload = PyBytes_FromStringAndSize(<char *> w.data, w.used)
            plain = 0
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


cdef dict ours = {}      # file name -> is it part of this library?

cdef int note_site(TaskBase task) except -1:
    """Remember the line that submits: the nearest frame outside this library."""
    cdef PyFrameObject *frame = PyEval_GetFrame()
    cdef PyFrameObject *back
    cdef PyObject *code
    cdef PyObject *known
    cdef bint own = False
    while frame != NULL:
        code = mt_frame_code(frame)
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
