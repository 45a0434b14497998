"""Channels last: rows of `channels` lanes, each lane a channel of its own.

First the sums. The rows are cut into chunks by shape alone, each chunk sums its lanes, and the chunks' sums are added
in order, so the result has the same bits whoever sums what. A thread takes an equal part of all chunks' blocks of
lanes, one after the other: mostly whole chunks, so it walks through memory, but wide rows of which there are few are
shared out too. Then the coefficients, and a sweep that applies them, in equal parts of memory and from the end, where
the sums have left the cache warm.

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
    CHUNK = 1 << 13   # elements in a chunk, at least
    TALL = 64         # rows in a chunk, at least: its sums are then small beside it
    MANY = 1 << 10    # blocks to share out; more chunks than make so many would only be more to add up
    BLOCK = 16        # lanes that are shared out together
    PIECE = 1 << 15   # elements that the second sweep writes at a time


cdef struct plan:
    int64_t fold    # rows taken as one
    int64_t lanes   # fold * channels
    int64_t rows    # folded rows
    int64_t rest    # rows that are left after folding
    int64_t tall    # folded rows in a chunk
    int64_t chunks  # of folded rows; one more for the rest
    int64_t blocks  # in a chunk
    int64_t spread  # lanes that coefficients are spread over: a multiple of channels that fills a vector
    double *shift   # [lanes]
    double *sums    # [chunks + 1][2][lanes]; the last is for the rest, in the first `channels` lanes of each half
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
    p.blocks = (p.lanes + BLOCK - 1) // BLOCK
    p.tall = max(max(CHUNK // p.lanes, TALL), p.rows // max(MANY // p.blocks, TALL))
    p.chunks = (p.rows + p.tall - 1) // p.tall
    p.tall = (p.rows + p.chunks - 1) // max(p.chunks, 1)  # all alike, but for the last
    p.chunks = (p.rows + p.tall - 1) // max(p.tall, 1)
    p.spread = (ROWS_LANES + j.channels - 1) // j.channels * j.channels
    p.shift = p.sums = NULL
    p.coefs = NULL
    return p


cdef void sum_block(const job *j, const plan *p, int64_t chunk, int64_t first, int64_t last) noexcept nogil:
    """The sums of lanes first to last - 1 of a chunk."""
    cdef int64_t row = chunk * p.tall, rows = min(p.tall, p.rows - row), stride = p.lanes, at
    cdef double *sums = p.sums + 2 * p.lanes * chunk
    if chunk == p.chunks:
        row, rows, stride = p.rows, p.rest, j.channels
        last = min(last, stride)
    if first >= last:
        return
    at = (row * p.lanes + first) * job_item(j)
    memset(sums + first, 0, (last - first) * sizeof(double))
    memset(sums + p.lanes + first, 0, (last - first) * sizeof(double))
    if job_has_dy(j):
        j.op.lane_grad_sums(j.dy + at, j.x + at, rows, last - first, stride, p.shift + first, sums + first,
                            sums + p.lanes + first)
    else:
        j.op.lane_sums(j.x + at, rows, last - first, stride, p.shift + first, sums + first, sums + p.lanes + first)


cdef void sum_part(const job *j, const plan *p, int64_t first, int64_t last) noexcept nogil:
    """Blocks first to last - 1, counted through all chunks."""
    cdef int64_t chunk, block, blocks
    while first < last:
        chunk, block = first // p.blocks, first % p.blocks
        blocks = min(p.blocks - block, last - first)
        sum_block(j, p, chunk, block * BLOCK, min((block + blocks) * BLOCK, p.lanes))
        first += blocks


cdef void sum_all(const job *j, const plan *p) noexcept nogil:
    cdef int64_t blocks = (p.chunks + (1 if p.rest else 0)) * p.blocks
    cdef int t
    if j.threads == 1:
        sum_part(j, p, 0, blocks)
    else:
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            sum_part(j, p, blocks * t // j.threads, blocks * (t + 1) // j.threads)


cdef void merge(const plan *p, int64_t first, int64_t last) noexcept nogil:
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
        merge(p, first, last)
    for c in range(first, last):
        sums[0] = sums[1] = 0
        if job_has_sums(j):
            for f in range(p.fold if p.chunks else 0):
                sums[0] += p.sums[f * j.channels + c]
                sums[1] += p.sums[p.lanes + f * j.channels + c]
            if p.rest:
                sums[0] += rest[c]
                sums[1] += rest[p.lanes + c]
        job_finish(j, c, p.shift[c], sums, k)
        for i in range(JOB_COEFS):
            spread(j, p, i, c, k[i])


cdef void finish(const job *j, const plan *p) noexcept nogil:
    cdef int64_t size = p.spread * job_item(j), i
    cdef char *coefs
    cdef int t
    if job_has_sums(j) and p.fold > 1:
        merge(p, 0, p.lanes)
    if j.threads == 1 or j.channels < 64 * j.threads:
        finish_channels(j, p, 0, j.channels)
    else:
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            finish_channels(j, p, j.channels * t // j.threads, j.channels * (t + 1) // j.threads)
    for i in range(JOB_COEFS):
        coefs = p.coefs + i * (size + ROWS_LINE)
        memcpy(coefs + size, coefs, ROWS_LINE)


cdef void apply_part(const job *j, const plan *p, int64_t first, int64_t last) noexcept nogil:
    """Elements first to last - 1 of the output, from the end."""
    cdef int64_t at, n
    while first < last:
        n = min(PIECE, last - first)
        last -= n
        at = last * job_item(j)
        if job_has_dy(j) and job_two_sweeps(j):
            j.op.lane_grad(j.out + at, j.dy + at, j.x + at, n, last % p.spread, p.spread, p.coefs, j.stream)
        else:
            j.op.lane_affine(j.out + at, (j.dy if job_has_dy(j) else j.x) + at, n, last % p.spread, p.spread, p.coefs,
                             j.stream)
    if j.stream:
        fence()


cdef void apply_all(const job *j, const plan *p) noexcept nogil:
    cdef int64_t size = j.outer * j.channels, lines = (size + ROWS_LINE - 1) // ROWS_LINE
    cdef int t
    if j.threads == 1:
        apply_part(j, p, 0, size)
    else:
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            apply_part(j, p, lines * t // j.threads * ROWS_LINE, min(lines * (t + 1) // j.threads * ROWS_LINE, size))


def shares(tuple view, int threads):
    """How many elements each thread sums: the partition alone, for its test."""
    cdef job j
    cdef plan p
    cdef int64_t blocks, i, t
    j.outer, j.channels, j.inner = view
    p = cut_rows(&j)
    blocks = (p.chunks + (1 if p.rest else 0)) * p.blocks
    found = []
    for t in range(threads):
        found.append(0)
        for i in range(blocks * t // threads, blocks * (t + 1) // threads):
            lanes = min(BLOCK, p.lanes - i % p.blocks * BLOCK)
            if i // p.blocks < p.chunks:
                found[t] += lanes * min(p.tall, p.rows - i // p.blocks * p.tall)
            else:
                found[t] += max(min(lanes, j.channels - i % p.blocks * BLOCK), 0) * p.rest
    return found


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
    if job_has_sums(j):
        sum_all(j, &p)
    finish(j, &p)
    if job_has_output(j):
        apply_all(j, &p)
    free(p.shift)
    return 0
