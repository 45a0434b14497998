"""What the schedule of point norms shares: how runs are cut, summed and written."""
from libc.stdint cimport int64_t

from ._job cimport job
from ._rows cimport rows_also, rows_coefs


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


cdef struct lot:         # channels whose statistics are worked out together
    int64_t first
    int64_t channels
    int64_t runs         # of `span` channels, which are summed as one
    int64_t parts        # runs to a statistic
    int64_t tasks        # chunks in all
    rows_coefs coefs     # [JOB_COEFS][channels]
    double *shift        # [runs]
    double *sums         # [tasks][2]


cdef cut cut_runs(const job *j, int64_t span) noexcept nogil
cdef const char *point(const job *j, const void *parameter, int64_t start) noexcept nogil
cdef rows_coefs coefs_from(rows_coefs k, int64_t row) noexcept nogil
cdef block chunk_of(const job *j, const cut *k, int64_t c, int64_t i) noexcept nogil
cdef int64_t lot_room(const cut *k, int64_t channels) noexcept nogil
cdef lot new_lot(const job *j, const cut *k, int64_t first, int64_t channels, double *room) noexcept nogil
cdef void finish_lot(const job *j, const cut *k, const lot *g) noexcept nogil
cdef void apply(const job *j, int64_t start, int64_t rows, int64_t inner, int64_t stride, rows_coefs coefs,
                int64_t ahead, const rows_also *also) noexcept nogil
cdef int64_t room(const job *j) noexcept nogil  # bytes of scratch that run() takes
cdef void run(const job *j) noexcept nogil
