"""Channels last: rows of `channels` lanes, each lane a channel of its own.

The rows are cut into chunks by shape alone; each chunk sums its lanes, the chunks' sums are added in order, and a
second sweep applies the coefficients, from the end, where the first sweep has left the cache warm.

Few or crooked channels do not fill vectors, so sums take `fold` rows as one row of fold * channels lanes: C = 3 is
summed as 48 lanes. The lanes of one channel are added up after the chunks are.
"""
from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

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
from ._machine cimport ROWS_LANES, ROWS_LINE, fence

cdef enum:
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
    int64_t spread  # lanes that coefficients are spread over: a multiple of channels that fills a vector
    char *coefs     # [JOB_COEFS][spread, and a line more] of the element type


cdef plan cut_rows(const job *j) noexcept nogil:
    """The chunks of an array, by shape alone."""
    cdef plan p
    cdef int64_t power = ROWS_LANES
    while j.channels % power:
        power //= 2
    p.fold = ROWS_LANES // power
    if p.fold * j.channels > WIDE or p.fold > j.outer:
        p.fold = 1
    p.lanes = p.fold * j.channels
    p.rows = j.outer // p.fold
    p.rest = j.outer - p.rows * p.fold
    p.tall = max(CHUNK // p.lanes, TALL)
    p.chunks = (p.rows + p.tall - 1) // p.tall
    p.spread = (ROWS_LANES + j.channels - 1) // j.channels * j.channels
    p.shift = p.sums = NULL
    p.coefs = NULL
    return p


cdef void sum_rows(const job *j, const plan *p, int64_t row, int64_t rows, int64_t lanes, double *sums) noexcept nogil:
    """row counts rows of p.lanes, lanes is p.lanes or, for the rest, j.channels."""
    cdef int64_t at = row * p.lanes * job_item(j)
    memset(sums, 0, 2 * lanes * sizeof(double))
    if job_has_dy(j):
        j.op.lane_grad_sums(j.dy + at, j.x + at, rows, lanes, lanes, p.shift, sums)
    else:
        j.op.lane_sums(j.x + at, rows, lanes, lanes, p.shift, sums)


cdef void apply_rows(const job *j, const plan *p, int64_t row, int64_t rows, int64_t lanes) noexcept nogil:
    cdef int64_t at = row * p.lanes * job_item(j), n = rows * lanes
    if job_has_dy(j) and job_two_sweeps(j):
        j.op.lane_grad(j.out + at, j.dy + at, j.x + at, n, 0, p.spread, p.coefs, j.stream)
    else:
        j.op.lane_affine(j.out + at, (j.dy if job_has_dy(j) else j.x) + at, n, 0, p.spread, p.coefs, j.stream)


cdef void merge(const job *j, const plan *p, int64_t first, int64_t last) noexcept nogil:
    """Adds up the sums of lanes first to last - 1, in the order of chunks, into those of chunk 0."""
    cdef int64_t i, lane
    cdef double *total = p.sums
    cdef double *sums
    for i in range(1, p.chunks):
        sums = p.sums + 2 * p.lanes * i
        for lane in range(first, last):
            total[lane] += sums[lane]
        for lane in range(p.lanes + first, p.lanes + last):
            total[lane] += sums[lane]


cdef inline void spread(const job *j, const plan *p, int64_t i, int64_t c, double value) noexcept nogil:
    """Coefficient i of channel c, to all of its lanes."""
    cdef char *coefs = p.coefs + i * (p.spread * job_item(j) + ROWS_LINE)
    while c < p.spread:
        if j.wide:
            (<double *> coefs)[c] = value
        else:
            (<float *> coefs)[c] = <float> value
        c += j.channels


cdef void finish_channels(const job *j, const plan *p, int64_t first, int64_t last) noexcept nogil:
    """Channels first to last - 1: adds up their lanes, and spreads their coefficients over them."""
    cdef double[JOB_COEFS] k
    cdef double[2] sums
    cdef double *rest = p.sums + 2 * p.lanes * p.chunks
    cdef int64_t c, i, f
    memset(k, 0, sizeof(k))
    if job_has_sums(j) and p.fold == 1:
        merge(j, p, first, last)
    for c in range(first, last):
        sums[0] = sums[1] = 0
        if job_has_sums(j):
            for f in range(p.fold if p.chunks else 0):
                sums[0] += p.sums[f * j.channels + c]
                sums[1] += p.sums[p.lanes + f * j.channels + c]
            if p.rest:
                sums[0] += rest[c]
                sums[1] += rest[j.channels + c]
        job_finish(j, c, p.shift[c], sums, k)
        for i in range(JOB_COEFS):
            spread(j, p, i, c, k[i])


cdef void finish(const job *j, const plan *p) noexcept nogil:
    cdef int64_t size = p.spread * job_item(j), i
    cdef char *coefs
    cdef int t
    if job_has_sums(j) and p.fold > 1:
        merge(j, p, 0, p.lanes)
    if j.threads == 1 or j.channels < 64 * j.threads:
        finish_channels(j, p, 0, j.channels)
    else:
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            finish_channels(j, p, j.channels * t // j.threads, j.channels * (t + 1) // j.threads)
    for i in range(JOB_COEFS):
        coefs = p.coefs + i * (size + ROWS_LINE)
        memcpy(coefs + size, coefs, ROWS_LINE)


cdef void sweep(const job *j, const plan *p, int64_t first, int64_t last, bint sum, bint apply) noexcept nogil:
    """Chunks first to last - 1; chunk p.chunks is the rest. Applying alone goes backwards."""
    cdef int64_t n, i, row, rows, lanes
    for n in range(first, last):
        i = n if sum else first + last - 1 - n
        row, rows, lanes = i * p.tall, p.tall, p.lanes
        if i == p.chunks:
            row, rows, lanes = p.rows, p.rest, j.channels
        elif row + rows > p.rows:
            rows = p.rows - row
        if sum:
            sum_rows(j, p, row, rows, lanes, p.sums + 2 * p.lanes * i)
        if apply:
            apply_rows(j, p, row, rows, lanes)
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
    cdef int64_t coefs = JOB_COEFS * (p.spread * job_item(j) + ROWS_LINE)
    p.shift = <double *> malloc((p.lanes + sums) * sizeof(double) + coefs)
    if p.shift == NULL:
        return -1
    p.sums = p.shift + p.lanes
    p.coefs = <char *> (p.sums + sums)
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
