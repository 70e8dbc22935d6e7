cdef int x = 0
