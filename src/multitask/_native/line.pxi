# The waiting line: a circular buffer when tasks start in order of submission, a binary heap on (key, order) otherwise.

cdef struct Place:
    double key
    uint64_t order
    PyObject *task

cdef inline bint is_stale(PyObject *task) noexcept:
    return (<TaskBase> task).wid != IN_LINE


cdef class Line:
    """Tasks that wait for a worker. Holds a reference to each; runs no Python code, but where ``tidy`` drops some.

    A task that is settled while it waits keeps its place, as a stale one, until it is met or until half of the line is
    stale; with the last one that waits all have gone. The collector of garbage does not look in here: a task that was
    left would hold its core, and that the line, for ever.
    """
    cdef Place *places
    cdef size_t room, first, used
    cdef size_t stale          # places whose task is settled
    cdef bint keyed

    def __cinit__(self):
        self.room = 64
        self.places = <Place *> PyMem_RawMalloc(self.room * sizeof(Place))
        if self.places == NULL:
            raise MemoryError()

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.used):
            raw_decref(self.places[(self.first + i) & (self.room - 1)].task)
        PyMem_RawFree(self.places)

    cdef int grow(self) except -1:
        cdef Place *wider = <Place *> PyMem_RawMalloc(2 * self.room * sizeof(Place))
        cdef size_t i
        if wider == NULL:
            raise MemoryError()
        for i in range(self.used):
            wider[i] = self.places[(self.first + i) & (self.room - 1)]
        PyMem_RawFree(self.places)
        self.places = wider
        self.room *= 2
        self.first = 0
        return 0

    cdef int push(self, TaskBase task) except -1:
        cdef size_t at
        if self.used == self.room:
            self.grow()
        Py_INCREF(task)
        at = (self.first + self.used) & (self.room - 1)
        self.places[at].task = <PyObject *> task
        self.places[at].key = task.key
        self.places[at].order = task.order
        self.used += 1
        if self.keyed:
            self.rise(self.used - 1)
        return 0

    cdef int push_front(self, TaskBase task) except -1:
        if self.keyed:
            return self.push(task)
        if self.used == self.room:
            self.grow()
        Py_INCREF(task)
        self.first = (self.first - 1) & (self.room - 1)
        self.places[self.first].task = <PyObject *> task
        self.used += 1
        return 0

    cdef TaskBase pop(self):
        # the caller made sure that the line is not empty
        cdef PyObject *taken = self.places[self.first].task
        cdef TaskBase task = <TaskBase> taken
        self.used -= 1
        if self.keyed:
            self.places[0] = self.places[self.used]
            self.sink(0)
        else:
            self.first = (self.first + 1) & (self.room - 1)
        raw_decref(taken)
        return task

    cdef void tidy(self) noexcept:
        """Drop the stale ones if they are half of the line or more: that costs as much as it drops."""
        cdef Place *old = self.places
        cdef Place *kept
        cdef size_t first = self.first, used = self.used, mask = self.room - 1, room = 64, i
        if not self.stale or 2 * self.stale < used:
            return
        while room < used - self.stale:
            room *= 2
        kept = <Place *> PyMem_RawMalloc(room * sizeof(Place))
        if kept == NULL:
            return       # some other time
        self.places, self.room, self.first, self.used, self.stale = kept, room, 0, 0, 0
        for i in range(used):
            if is_stale(old[(first + i) & mask].task):
                continue
            kept[self.used] = old[(first + i) & mask]
            self.used += 1
            if self.keyed:
                self.rise(self.used - 1)
            old[(first + i) & mask].task = NULL
        # Last, with the line as it should be: this may run code of the user's, which may come back to the line.
        for i in range(used):
            raw_xdecref(old[(first + i) & mask].task)
        PyMem_RawFree(old)

    cdef inline bint before(self, size_t a, size_t b) noexcept:
        if self.places[a].key != self.places[b].key:
            return self.places[a].key < self.places[b].key
        return self.places[a].order < self.places[b].order

    cdef void rise(self, size_t at) noexcept:
        cdef size_t up
        while at:
            up = (at - 1) >> 1
            if not self.before(at, up):
                return
            self.places[at], self.places[up] = self.places[up], self.places[at]
            at = up

    cdef void sink(self, size_t at) noexcept:
        cdef size_t down
        while True:
            down = 2 * at + 1
            if down >= self.used:
                return
            if down + 1 < self.used and self.before(down + 1, down):
                down += 1
            if not self.before(down, at):
                return
            self.places[at], self.places[down] = self.places[down], self.places[at]
            at = down
