from libc.stdint cimport int64_t

from ._job cimport job


cdef void sum_lanes(const job *j, int64_t start, int64_t rows, int64_t lanes, int64_t stride, const double *shift,
                    const char *coefs, int64_t step, double *first, double *second) noexcept nogil
cdef void write_lanes(const job *j, int64_t start, int64_t n, int64_t lane, int64_t lanes, const char *coefs,
                      int64_t ahead) noexcept nogil
cdef int64_t room(const job *j) noexcept nogil  # bytes of scratch that run() takes
cdef void run(const job *j) noexcept nogil
