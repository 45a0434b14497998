from libc.stdint cimport int64_t

from ._job cimport job


cdef int64_t room(const job *j) noexcept nogil  # bytes of scratch that run() takes
cdef void run(const job *j) noexcept nogil
