from libc.stdint cimport int64_t

from ._job cimport job


cdef bint takes(const job *j) noexcept nogil  # is it a job for this schedule?
cdef int64_t room(const job *j) noexcept nogil  # bytes of scratch that run() takes
cdef void run(const job *j) noexcept nogil
