# The outcome of one call, and groups of them.

cdef enum:
    V_NONE = 0        # pending
    V_OBJECT = 1      # value is the result
    V_ERROR = 2       # value is the exception
    V_PLAIN = 3       # value is bytes in the plain codec, decoded by whoever asks
    V_PARCEL = 4      # value is a packed parcel (bytes or Mapping) with the result
    V_FAILURE = 5     # the same with an error
    V_GROUP = 6       # value is the basket with the members

cdef enum:
    S_PENDING = 0
    S_FINISHED = 1
    S_CANCELLED = 2

cdef enum:
    P_NONE = 0
    P_PLAIN = 1       # payload: bytes in the plain codec: the tuple of arguments
    P_PARCEL = 2      # payload: packed parcel: (args, kwargs), or (fn, args, kwargs) when function is 0

cdef enum:
    NOWHERE = -1      # settled, or held by nobody
    IN_LINE = -2


cdef class TaskBase:
    """State and outcome of one call; ``multitask.Task`` adds the public names."""
    cdef uint8_t status
    cdef uint8_t decided       # settled but for the condition's owner being told
    cdef uint8_t kind          # V_*
    cdef uint8_t form          # P_*
    cdef uint8_t mode
    cdef public bint _asked
    cdef bint timed
    cdef bint retrying
    cdef int wid               # worker that holds it, or NOWHERE, IN_LINE
    cdef int site_at
    cdef uint64_t seq          # number of its message on that worker's lane
    cdef uint64_t order
    cdef double key
    cdef object value
    cdef object payload
    cdef object entry          # FunctionEntry or None
    cdef object site_code
    cdef NativeCore core
    cdef Basket basket
    cdef object condition
    cdef list waiters
    cdef list hooks
    cdef readonly object _options
    cdef readonly object _fn

    @property
    def _status(self):
        return self.status

    @property
    def _settled(self):
        return self.status != S_PENDING

    @property
    def _basket(self):
        return self.basket

    @property
    def _core(self):
        return self.core

    @property
    def _site(self):
        return None if self.site_code is None else (self.site_code, self.site_at)

    def result(self, timeout=None):
        """The call's return value; waits for it. Raises its exception, or multitask.TimeoutError after *timeout* seconds."""
        if self.status == S_FINISHED and self.kind == V_OBJECT:
            self._asked = True
            return self.value
        if self.status == S_FINISHED and self.kind == V_PLAIN:
            return self._outcome()[1]
        return slow_result(self, timeout)

    def done(self):
        """True once the call has returned, failed or been cancelled."""
        return self.status != S_PENDING

    def _outcome(self):
        """(ok, value); decodes on first use, in the caller's thread."""
        cdef const unsigned char *at
        self._asked = True
        if self.kind == V_OBJECT:
            return True, self.value
        if self.kind == V_ERROR:
            return False, self.value
        if self.status == S_PENDING and not self.decided:
            raise RuntimeError("the task is not settled")
        kind, value = self.kind, self.value
        if kind == V_PLAIN:
            at = <const unsigned char *> PyBytes_AS_STRING(value)
            return self._keep(True, decode_plain(&at))
        if kind == V_PARCEL:
            try:
                return self._keep(True, self.core.load(value))
            except KeyboardInterrupt:
                raise      # that is the asker's, who may ask again
            except BaseException as error:
                return self._keep(False, error)
        if kind == V_FAILURE:
            return self._keep(False, self.core.load_error(value))
        if kind == V_GROUP:
            return self._keep(*flatten((<Basket> value).members))
        return False, self.value       # cancelled: an instance of CancelledError

    def _keep(self, ok, value):
        # Two threads may decode at once; the first one's object is everybody's.
        if self.kind == V_OBJECT:
            return True, self.value
        if self.kind == V_ERROR:
            return False, self.value
        self.value = value
        self.kind = V_OBJECT if ok else V_ERROR
        return ok, value

    def _add_hook(self, fn):
        """Have ``fn(task)`` called on the callback thread once this is settled; False if it is settled already."""
        if self.status != S_PENDING:
            return False
        added = [fn] if self.hooks is None else self.hooks
        # from here to the end nothing else runs: the look and the append are one step
        if self.status != S_PENDING:
            return False
        if self.hooks is None:
            self.hooks = added
        else:
            self.hooks.append(fn)
        return True

    def _take_hooks(self):
        hooks, self.hooks = self.hooks, None
        return hooks or ()

    # What concurrent.futures.wait and as_completed look at.
    @property
    def _condition(self):
        if self.condition is None:
            made = Condition()
            if self.condition is None:
                self.condition = made
        return self.condition

    @property
    def _waiters(self):
        if self.waiters is None:
            self.waiters = []
        return self.waiters

    @property
    def _state(self):
        if self.status == S_FINISHED:
            return "FINISHED"
        if self.status == S_CANCELLED:
            return "CANCELLED_AND_NOTIFIED"
        return "RUNNING" if self.core is not None and self.core.running(self) else "PENDING"

    @property
    def _exception(self):
        if self.status == S_PENDING:
            return None
        ok, value = self._outcome()
        return None if ok else value

    @property
    def _result(self):
        if self.status == S_PENDING:
            return None
        ok, value = self._outcome()
        return value if ok else None

    @property
    def _done_callbacks(self):
        return []

    def _publish(self):
        """Tell those who look through the condition. Manager thread only, outside the critical parts."""
        with self.condition:
            self.status = self.decided
            waiters = self.waiters or ()
            self.condition.notify_all()
            for waiter in waiters:
                if self.status == S_CANCELLED:
                    waiter.add_cancelled(self)
                elif self.kind in (V_ERROR, V_FAILURE):
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)


cdef class Basket:
    """Tasks whose completion somebody follows as one: a stream's window, or the chunks of one map."""
    cdef readonly object ready       # deque of settled members, when there is no parent
    cdef readonly list members       # in order of submission, when there is a parent
    cdef TaskBase parent
    cdef Py_ssize_t expected   # -1: not known yet
    cdef readonly Py_ssize_t settled
    cdef bint failed
    cdef NativeCore core
    cdef list arrived
    cdef object condition

    def __init__(self, core, total=None, parent=None):
        self.core = core
        self.expected = -1 if total is None else total
        self.parent = parent
        self.members = []
        self.arrived = []
        self.ready = Ready(self)

    @property
    def total(self):
        """How many members there will be; None while that is not known."""
        return None if self.expected < 0 else self.expected

    @total.setter
    def total(self, total):
        self.expected = -1 if total is None else total

    cdef bint something(self) noexcept:
        if self.parent is not None:
            return self.parent.status != S_PENDING
        return PyList_GET_SIZE(self.arrived) > 0 or (self.expected >= 0 and self.settled >= self.expected)


cdef class Ready:
    """The settled members of a basket in order of completion; ``popleft`` as on a deque."""
    cdef Basket basket
    cdef list turned

    def __init__(self, basket):
        self.basket = basket
        self.turned = []

    def __len__(self):
        return len(self.turned) + len(self.basket.arrived)

    def __iter__(self):
        return iter([*reversed(self.turned), *self.basket.arrived])

    def popleft(self):
        if not self.turned:
            self.turned, self.basket.arrived = self.basket.arrived, self.turned
            self.turned.reverse()
        return self.turned.pop()


cdef object task_result = None

cdef object slow_result(task, timeout):
    global task_result
    if task_result is None:
        from multitask.task import Task
        task_result = Task.result
    return task_result(task, timeout)


cdef tuple flatten(list members):
    cdef list out = []
    for member in members:
        ok, value = member._outcome()
        if not ok:
            for other in members:
                other._asked = True
            return False, value
        out.extend(value)
    return True, out
