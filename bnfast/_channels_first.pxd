"""What the schedule of point norms shares: how runs are cut, summed and written."""
from libc.stdint cimport int64_t

from ._job cimport job


cdef struct cut:
    int64_t span    # channels summed as one
    int64_t rows    # rows in a chunk
    int64_t pieces  # chunks that a row is cut into: more than 1 only if rows is 1
    int64_t width   # elements of a row in a chunk
    int64_t count   # chunks in so many channels


cdef struct block:
    int64_t start   # elements into x
    int64_t rows
    int64_t inner


cdef cut cut_runs(const job *j, int64_t span) noexcept nogil
cdef block chunk_of(const job *j, const cut *k, int64_t c, int64_t i) noexcept nogil
cdef void sum_chunk(const job *j, block b, int64_t runs, const double *shift, const double *gate,
                    double *sums) noexcept nogil
cdef void apply(const job *j, int64_t start, int64_t rows, int64_t inner, int64_t stride, const double *coefs,
                int64_t step, int64_t ahead) noexcept nogil
cdef void work_statistics(const job *j, const cut *k, int64_t first, int64_t channels, double *coefs,
                          double *room) noexcept nogil
cdef int64_t room(const job *j) noexcept nogil  # bytes of scratch that run() takes
cdef void run(const job *j) noexcept nogil
