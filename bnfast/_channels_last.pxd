from ._job cimport job


# 0, or -1 if there is no memory for the partial sums; then nothing is written.
cdef int run(const job *j) noexcept nogil
