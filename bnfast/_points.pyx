"""Backward of point norms (layer, RMS): `channels` rows, each with a statistic; each element has a gamma and a beta.

dx needs the sums of its own row, which are those of channels first. dgamma and dbeta are sums over rows, element by
element. Rows are cut into chunks by shape alone; each chunk adds its rows in order, and the chunks are added in order,
so the result has the same bits whoever does what. A few rows at a time, while they are in the cache: their sums, what
they add to dgamma and dbeta, then dx, which may overwrite dy or x.

Many chunks are shared out whole. Of few (few rows, maybe long ones) all threads do each step together: pieces of rows
for the sums and for dx, ranges of elements for dgamma and dbeta.
"""
from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.string cimport memset

from ._channels_first cimport apply, block, chunk_of, cut, cut_runs, sum_chunk, work_statistics
from ._job cimport JOB_COEFS, job, job_finish, job_set, job_shifts
from ._machine cimport fence, l2_bytes

cdef enum:
    TALL = 32        # rows in a chunk, at least: what it adds up is then small beside it
    MANY = 1 << 8    # chunks, at most: more would only be more to add up
    GROUP = 64       # rows worked together, at most
    SPREAD = 4       # chunks for each thread that are enough to share them out whole
    RANGE = 1 << 10  # elements of dgamma that are shared out together


cdef struct plan:
    cut sums         # of one row
    int64_t tall     # rows in a chunk
    int64_t chunks
    int64_t group    # rows worked together
    double *part     # [chunks][2][inner]: what a chunk adds to dbeta and dgamma
    double *coefs    # [threads][group][JOB_COEFS + 3], and sums; if the threads work together, [1][group][JOB_COEFS]
    double *row      # and then the sums of the group: [group * sums.count][2]
    bint whole       # chunks are shared out whole


cdef plan cut_points(const job *j) noexcept nogil:
    cdef plan p
    cdef int64_t least
    p.sums = cut_runs(j, 1)
    p.tall = max((j.channels + MANY - 1) // MANY, TALL)
    p.chunks = (j.channels + p.tall - 1) // p.tall
    p.whole = j.threads == 1 or p.chunks >= SPREAD * j.threads
    least = 1 if p.whole else TALL
    p.group = min(max(l2_bytes() // 2 // (2 * j.inner * j.op.item), least), min(p.tall, GROUP))
    p.part = p.coefs = p.row = NULL
    return p


cdef int64_t room(const job *j) noexcept nogil:
    cdef plan p = cut_points(j)
    cdef int64_t group = (JOB_COEFS + 3) * j.threads if p.whole else JOB_COEFS + 2 * p.sums.count
    return (2 * p.chunks * j.inner + p.group * group) * <int64_t> sizeof(double)


cdef inline void add_rows(const job *j, int64_t row, int64_t rows, int64_t first, int64_t last, const double *coefs,
                          double *part) noexcept nogil:
    """What rows add to elements first to last - 1 of dbeta and dgamma."""
    cdef int64_t at = (row * j.inner + first) * j.op.item
    j.op.point_lane_sums(j.dy + at, j.x + at, rows, last - first, j.inner, coefs, JOB_COEFS, part + first,
                         part + j.inner + first)


cdef void whole_chunk(const job *j, const plan *p, int64_t chunk, double *coefs) noexcept nogil:
    cdef int64_t row = chunk * p.tall, end = min(row + p.tall, j.channels), rows
    cdef double *part = p.part + 2 * j.inner * chunk
    memset(part, 0, 2 * j.inner * sizeof(double))
    while row < end:
        rows = min(p.group, end - row)
        work_statistics(j, &p.sums, row, rows, coefs, coefs + p.group * JOB_COEFS)
        add_rows(j, row, rows, 0, j.inner, coefs, part)
        apply(j, row * j.inner, rows, j.inner, j.inner, coefs, JOB_COEFS, rows * j.inner)
        row += rows


cdef void shared_rows(const job *j, const plan *p, int64_t row, int64_t rows, double *part) noexcept nogil:
    """Rows of one chunk, all threads at once."""
    cdef int64_t tasks = rows * p.sums.count, ranges = (j.inner + RANGE - 1) // RANGE, i, n
    cdef int t
    cdef double[2] sums
    cdef double[GROUP] shift
    cdef block b
    job_shifts(j, row, rows, 1, shift)
    for t in prange(j.threads, num_threads=j.threads, schedule="static"):
        for i in range(tasks * t // j.threads, tasks * (t + 1) // j.threads):
            n = i // p.sums.count
            sum_chunk(j, chunk_of(j, &p.sums, row + n, i % p.sums.count), 1, shift + n, NULL, p.row + 2 * i)
    for n in range(rows):
        sums[0] = sums[1] = 0
        for i in range(n * p.sums.count, (n + 1) * p.sums.count):
            sums[0] += p.row[2 * i]
            sums[1] += p.row[2 * i + 1]
        job_finish(j, row + n, 1, 1, shift + n, sums, p.coefs + n * JOB_COEFS)
    for t in prange(j.threads, num_threads=j.threads, schedule="static"):
        add_rows(j, row, rows, min(ranges * t // j.threads * RANGE, j.inner),
                 min(ranges * (t + 1) // j.threads * RANGE, j.inner), p.coefs, part)
    for t in prange(j.threads, num_threads=j.threads, schedule="static"):
        for i in range(tasks * t // j.threads, tasks * (t + 1) // j.threads):
            b = chunk_of(j, &p.sums, row + i // p.sums.count, i % p.sums.count)
            apply(j, b.start, b.rows, b.inner, j.inner, p.coefs + i // p.sums.count * JOB_COEFS, 0, 0)
        if j.stream:
            fence()


cdef void finish_range(const job *j, const plan *p, int64_t first, int64_t last) noexcept nogil:
    """Adds up the chunks, and tells dbeta and dgamma."""
    cdef int64_t chunk, i
    cdef double *part
    for chunk in range(1, p.chunks):
        part = p.part + 2 * j.inner * chunk
        for i in range(first, last):
            p.part[i] += part[i]
        for i in range(j.inner + first, j.inner + last):
            p.part[i] += part[i]
    for i in range(first, last):
        job_set(j.dbeta, i, p.part[i])
        job_set(j.dgamma, i, p.part[j.inner + i])


cdef void run(const job *j) noexcept nogil:
    cdef plan p = cut_points(j)
    cdef int64_t chunk, row, rows, end, ranges = (j.inner + RANGE - 1) // RANGE
    cdef int t
    p.part = <double *> j.room
    p.coefs = p.part + 2 * p.chunks * j.inner
    p.row = p.coefs + p.group * JOB_COEFS
    if j.threads == 1:
        for chunk in range(p.chunks):
            whole_chunk(j, &p, chunk, p.coefs)
        if j.stream:
            fence()
        finish_range(j, &p, 0, j.inner)
        return
    if p.whole:
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            for chunk in range(p.chunks * t // j.threads, p.chunks * (t + 1) // j.threads):
                whole_chunk(j, &p, chunk, p.coefs + t * p.group * (JOB_COEFS + 3))
            if j.stream:
                fence()
    else:
        for chunk in range(p.chunks):
            memset(p.part + 2 * j.inner * chunk, 0, 2 * j.inner * sizeof(double))
            row, end = chunk * p.tall, min((chunk + 1) * p.tall, j.channels)
            while row < end:
                rows = min(p.group, end - row)
                shared_rows(j, &p, row, rows, p.part + 2 * j.inner * chunk)
                row = row + rows
    for t in prange(j.threads, num_threads=j.threads, schedule="static"):
        finish_range(j, &p, min(ranges * t // j.threads * RANGE, j.inner),
                     min(ranges * (t + 1) // j.threads * RANGE, j.inner))
