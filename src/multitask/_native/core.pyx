# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: auto_pickle=False
"""The native core: ledger and lanes of a pool in one object, and the worker's loop at the other end.

Owner of the ledger and of both rings' parent sides: whoever holds the GIL inside this module. That is the
collector token: no function between "critical" comments runs Python bytecode, releases the GIL or allocates an
object that the garbage collector tracks, so no other thread and no ``__del__`` can come in between.
Rule: a task leaves PENDING once; a message is started once; nothing is dropped before the books are right.
"""

cimport cython

include "platform.pxi"
include "codec.pxi"
include "shelf.pxi"
include "segment.pxi"
include "task.pxi"
include "lane.pxi"
include "line.pxi"
include "dispatch.pxi"
include "collect.pxi"
include "submit.pxi"
include "await.pxi"
include "manage.pxi"
include "serve.pxi"
