"""Backward of point norms (layer, RMS): `channels` rows, each with a statistic; each element has a gamma and a beta.

dx needs the sums of its own row, which are those of channels first. dgamma and dbeta are sums over rows, element by
element. Rows are cut into chunks by shape alone; each chunk adds its rows in order, and the chunks are added in a fixed
order, so the result has the same bits whoever does what. A few rows at a time, while they are in the cache: their sums,
what they add to dgamma and dbeta, then dx, which may overwrite dy or x.

Many chunks are shared out whole. Of few, if their rows are long, all threads do each step together, in pieces of rows.
"""
from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.string cimport memset

from ._channels_first cimport (
    apply,
    block,
    chunk_of,
    coefs_from,
    cut,
    cut_runs,
    finish_lot,
    lot,
    lot_room,
    new_lot,
    point,
)
from ._job cimport job, job_add_own, job_add_rest, job_part, job_part_in, job_power, job_set, job_tree
from ._machine cimport ROWS_SOON, fence, l2_bytes

cdef enum:
    TALL = 32        # rows in a chunk, at least: what it adds up is then small beside it
    SHORT = 8        # or so many, if there would be few chunks
    SOME = 16        # that is, fewer than these
    MANY = 1 << 8    # chunks, at most: more would only be more to add up
    GROUP = 64       # rows worked together, at most
    SPREAD = 4       # chunks for each thread that are enough to share them out whole
    RANGE = 1 << 10  # elements of dgamma that are shared out together


cdef struct plan:
    cut sums         # of one row
    int64_t chunks
    int64_t group    # rows worked together
    double *part     # [chunks][2][inner]: what a chunk adds to dbeta and dgamma
    job_tree tree    # of these
    int64_t size     # doubles for a group's statistics
    double *lots     # [threads][size]; if the threads work together, [1][size]
    bint whole       # chunks are shared out whole


cdef plan cut_points(const job *j) noexcept nogil:
    cdef plan p
    cdef int64_t least, tall = max((j.channels + MANY - 1) // MANY, min(max(j.channels // SOME, SHORT), TALL))
    p.sums = cut_runs(j, 1)
    p.chunks = job_power((j.channels + tall - 1) // tall)
    tall = (j.channels + p.chunks - 1) // p.chunks  # or a row less
    p.whole = j.threads == 1 or p.chunks >= min(SPREAD * j.threads, p.sums.count)
    least = 1 if p.whole else TALL
    p.group = min(max(l2_bytes() // 2 // (2 * j.inner * j.op.item), least), min(tall, GROUP))
    p.size = lot_room(&p.sums, p.group)
    p.part = p.lots = NULL
    p.tree = job_tree(NULL, 2 * j.inner, p.chunks, 1 if p.whole else 0)
    return p


cdef int64_t room(const job *j) noexcept nogil:
    cdef plan p = cut_points(j)
    return (2 * p.chunks * j.inner + p.size * (j.threads if p.whole else 1)) * <int64_t> sizeof(double)


cdef void sum_pieces(const job *j, const plan *p, const lot *g, int64_t first, int64_t last,
                     double *part) noexcept nogil:
    """Pieces first to last - 1 of the rows of a lot: their sums, and what they add to dbeta and dgamma."""
    cdef int64_t i, at
    cdef block b
    for i in range(first, last):
        b = chunk_of(j, &p.sums, g.first, i)
        at = b.start % j.inner
        j.op.point_sums(j.dy + b.start * j.op.item, j.x + b.start * j.op.item, g.channels, b.inner, j.inner, &g.coefs,
                        point(j, j.gamma.data, at), part + at, part + j.inner + at, g.sums + 2 * i, 2 * p.sums.count,
                        max(j.inner, ROWS_SOON // j.op.item))


cdef int64_t chunk_start(const job *j, const plan *p, int64_t chunk) noexcept nogil:
    """Its first row."""
    return j.channels * chunk // p.chunks


cdef void whole_chunk(const job *j, const plan *p, int64_t chunk, double *room) noexcept nogil:
    cdef int64_t row = chunk_start(j, p, chunk), end = chunk_start(j, p, chunk + 1), rows
    cdef double *part = p.part + 2 * j.inner * chunk
    cdef lot g
    memset(part, 0, 2 * j.inner * sizeof(double))
    while row < end:
        rows = min(p.group, end - row)
        g = new_lot(j, &p.sums, row, rows, room)
        sum_pieces(j, p, &g, 0, p.sums.count, part)
        finish_lot(j, &p.sums, &g)
        apply(j, row * j.inner, rows, j.inner, j.inner, g.coefs, rows * j.inner if j.stream else 0, NULL)
        row += rows
    job_add_own(j, &p.tree, chunk)


cdef void shared_rows(const job *j, const plan *p, int64_t row, int64_t rows, double *part) noexcept nogil:
    """Rows of one chunk, all threads at once."""
    cdef lot g = new_lot(j, &p.sums, row, rows, p.lots)
    cdef int64_t i
    cdef int t
    cdef block b
    for t in prange(j.threads, num_threads=j.threads, schedule="static"):
        sum_pieces(j, p, &g, job_part(j, p.sums.count, t), job_part(j, p.sums.count, t + 1), part)
    finish_lot(j, &p.sums, &g)
    for t in prange(j.threads, num_threads=j.threads, schedule="static"):
        for i in range(job_part(j, g.tasks, t), job_part(j, g.tasks, t + 1)):
            b = chunk_of(j, &p.sums, row + i // p.sums.count, i % p.sums.count)
            apply(j, b.start, b.rows, b.inner, j.inner, coefs_from(g.coefs, i // p.sums.count), 0, NULL)
        if j.stream:
            fence()


cdef void finish_range(const job *j, const plan *p, int64_t first, int64_t last) noexcept nogil:
    """Adds up the chunks, and tells dbeta and dgamma."""
    cdef int64_t i
    job_add_rest(j, &p.tree, first, last)
    job_add_rest(j, &p.tree, j.inner + first, j.inner + last)
    for i in range(first, last):
        job_set(j.dbeta, i, p.part[i])
        job_set(j.dgamma, i, p.part[j.inner + i])


cdef void run(const job *j) noexcept nogil:
    cdef plan p = cut_points(j)
    cdef int64_t chunk, row, rows, end
    cdef int t
    p.part = p.tree.sums = <double *> j.room
    p.lots = p.part + 2 * p.chunks * j.inner
    if j.threads == 1:
        for chunk in range(p.chunks):
            whole_chunk(j, &p, chunk, p.lots)
        if j.stream:
            fence()
        finish_range(j, &p, 0, j.inner)
        return
    if p.whole:
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            for chunk in range(job_part(j, p.chunks, t), job_part(j, p.chunks, t + 1)):
                whole_chunk(j, &p, chunk, p.lots + t * p.size)
            if j.stream:
                fence()
    else:
        for chunk in range(p.chunks):
            memset(p.part + 2 * j.inner * chunk, 0, 2 * j.inner * sizeof(double))
            row, end = chunk_start(j, &p, chunk), chunk_start(j, &p, chunk + 1)
            while row < end:
                rows = min(p.group, end - row)
                shared_rows(j, &p, row, rows, p.part + 2 * j.inner * chunk)
                row = row + rows
    for t in prange(j.threads, num_threads=j.threads, schedule="static"):
        finish_range(j, &p, job_part_in(j, RANGE, j.inner, t), job_part_in(j, RANGE, j.inner, t + 1))
