"""Channels last: rows of `channels` lanes, each lane a channel of its own.

The rows are cut into chunks by shape alone; each chunk sums its lanes, the chunks' sums are added in order, and a
second sweep applies the coefficients, from the end, where the first sweep has left the cache warm.

Few or crooked channels do not fill vectors, so `fold` rows are taken as one row of fold * channels lanes: C = 3 is
swept as 48 lanes. The lanes of one channel are added up when the chunks are.
"""
from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from ._job cimport (
    JOB_COEFS,
    job,
    job_finish,
    job_has_dy,
    job_has_output,
    job_has_sums,
    job_item,
    job_shift,
    job_two_sweeps,
)
from ._machine cimport fence

cdef enum:
    LANES = 16        # as ROWS_LANES
    WIDE = 2048       # lanes that folding may make
    CHUNK = 1 << 15   # elements, about
    TALL = 64         # rows in a chunk, at least: its sums are then small beside it


cdef struct plan:
    int64_t fold    # rows taken as one
    int64_t lanes   # fold * channels
    int64_t rows    # folded rows
    int64_t rest    # rows that are left after folding
    int64_t tall    # folded rows in a chunk
    int64_t chunks
    double *shift   # [lanes]
    double *sums    # [chunks + 1][2][lanes]; the last is for the rest, in the first `channels` lanes of each half
    char *coefs     # [JOB_COEFS][lanes] of the element type
    char *rest_coefs  # [JOB_COEFS][channels]: the same without folding


cdef plan cut_rows(const job *j) noexcept nogil:
    """The chunks of an array, by shape alone."""
    cdef plan p
    cdef int64_t power = LANES
    while j.channels % power:
        power //= 2
    p.fold = LANES // power
    if p.fold * j.channels > WIDE or p.fold > j.outer:
        p.fold = 1
    p.lanes = p.fold * j.channels
    p.rows = j.outer // p.fold
    p.rest = j.outer - p.rows * p.fold
    p.tall = max(CHUNK // p.lanes, TALL)
    p.chunks = (p.rows + p.tall - 1) // p.tall
    p.shift = p.sums = NULL
    p.coefs = p.rest_coefs = NULL
    return p


cdef void sum_rows(const job *j, const plan *p, int64_t row, int64_t rows, int64_t lanes, double *sums) noexcept nogil:
    """Adds to sums; row counts rows of p.lanes, lanes is p.lanes or, for the rest, j.channels."""
    cdef int64_t at = row * p.lanes * job_item(j)
    memset(sums, 0, 2 * lanes * sizeof(double))
    if job_has_dy(j):
        j.op.lane_grad_sums(j.dy + at, j.x + at, rows, lanes, lanes, p.shift, sums)
    else:
        j.op.lane_sums(j.x + at, rows, lanes, lanes, p.shift, sums)


cdef void apply_rows(const job *j, const plan *p, int64_t row, int64_t rows, int64_t lanes,
                     const char *coefs) noexcept nogil:
    cdef int64_t at = row * p.lanes * job_item(j)
    if job_has_dy(j) and job_two_sweeps(j):
        j.op.lane_grad(j.out + at, j.dy + at, j.x + at, rows, lanes, lanes, coefs, j.stream)
    else:
        j.op.lane_affine(j.out + at, (j.dy if job_has_dy(j) else j.x) + at, rows, lanes, lanes, coefs, j.stream)


cdef void finish_channel(const job *j, const plan *p, int64_t c) noexcept nogil:
    """Channel c: adds up its sums, and spreads its coefficients over its lanes."""
    cdef double[JOB_COEFS] k
    cdef double[2] total
    cdef int64_t i, f, lane
    cdef double *sums
    memset(k, 0, sizeof(k))
    total[0] = total[1] = 0
    if job_has_sums(j):
        for i in range(p.chunks):
            sums = p.sums + 2 * p.lanes * i
            for f in range(p.fold):
                lane = f * j.channels + c
                total[0] += sums[lane]
                total[1] += sums[p.lanes + lane]
        if p.rest:
            sums = p.sums + 2 * p.lanes * p.chunks
            total[0] += sums[c]
            total[1] += sums[j.channels + c]
    job_finish(j, c, p.shift[c], total, k)
    for i in range(JOB_COEFS):
        if j.wide:
            (<double *> p.rest_coefs)[i * j.channels + c] = k[i]
        else:
            (<float *> p.rest_coefs)[i * j.channels + c] = <float> k[i]
        for f in range(p.fold):
            if j.wide:
                (<double *> p.coefs)[i * p.lanes + f * j.channels + c] = k[i]
            else:
                (<float *> p.coefs)[i * p.lanes + f * j.channels + c] = <float> k[i]


cdef void finish(const job *j, const plan *p) noexcept nogil:
    cdef int64_t c
    for c in range(j.channels):
        finish_channel(j, p, c)


cdef void sweep(const job *j, const plan *p, int64_t first, int64_t last, bint sum, bint apply) noexcept nogil:
    """Chunks first to last - 1; chunk p.chunks is the rest. Applying alone goes backwards."""
    cdef int64_t n, i, row, rows, lanes
    cdef char *coefs
    for n in range(first, last):
        i = n if sum else first + last - 1 - n
        row, rows, lanes, coefs = i * p.tall, p.tall, p.lanes, p.coefs
        if i == p.chunks:
            row, rows, lanes, coefs = p.rows, p.rest, j.channels, p.rest_coefs
        elif row + rows > p.rows:
            rows = p.rows - row
        if sum:
            sum_rows(j, p, row, rows, lanes, p.sums + 2 * p.lanes * i)
        if apply:
            apply_rows(j, p, row, rows, lanes, coefs)
    if j.stream and apply:
        fence()


cdef void sweep_all(const job *j, const plan *p, bint sum, bint apply) noexcept nogil:
    cdef int64_t chunks = p.chunks + (1 if p.rest else 0)
    cdef int t
    if j.threads == 1:
        sweep(j, p, 0, chunks, sum, apply)
    else:
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            sweep(j, p, chunks * t // j.threads, chunks * (t + 1) // j.threads, sum, apply)


cdef int run(const job *j) noexcept nogil:
    cdef plan p = cut_rows(j)
    cdef int64_t lane, sums = 2 * p.lanes * (p.chunks + 1) if job_has_sums(j) else 0
    cdef int64_t coefs = JOB_COEFS * (p.lanes + j.channels) * job_item(j)
    p.shift = <double *> malloc((p.lanes + sums) * sizeof(double) + coefs)
    if p.shift == NULL:
        return -1
    p.sums = p.shift + p.lanes
    p.coefs = <char *> (p.sums + sums)
    p.rest_coefs = p.coefs + JOB_COEFS * p.lanes * job_item(j)
    for lane in range(p.lanes):
        p.shift[lane] = job_shift(j, lane % j.channels) if job_has_sums(j) else 0
    if job_two_sweeps(j):
        sweep_all(j, &p, True, False)
        finish(j, &p)
        sweep_all(j, &p, False, True)
    elif not job_has_output(j):
        sweep_all(j, &p, True, False)
        finish(j, &p)
    else:  # the coefficients do not need the sums
        memset(p.sums, 0, sums * sizeof(double))
        finish(j, &p)
        sweep_all(j, &p, job_has_sums(j), True)
        if job_has_sums(j):
            finish(j, &p)
    free(p.shift)
    return 0
