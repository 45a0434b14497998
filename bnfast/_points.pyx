"""Backward where each element of a row has a gamma and a beta.

Of point norms (layer, RMS): `channels` rows, each with a statistic.

dx needs the sums of its own row, which are those of channels first. dgamma and dbeta are sums over rows, element by
element. Rows are cut into chunks by shape alone; each chunk adds its rows in order, and the chunks are added in a fixed
order, so the result has the same bits whoever does what. A few rows at a time, while they are in the cache: their sums,
what they add to dgamma and dbeta, then dx, which may overwrite dy or x.

Many chunks are shared out whole. Of few, if their rows are long, all threads do each step together, in pieces of rows.

Of group norms with small maps, each of which would cost more than its elements do: the maps of a group follow one
another, one row for each sample, whose elements have the gamma of their channel. A chunk is some samples of one group,
and what it adds to each element is added up to what it adds to each channel.
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
from ._job cimport (
    JOB_APART,
    JOB_GRAD,
    job,
    job_add_own,
    job_add_rest,
    job_get,
    job_has_dy,
    job_lines,
    job_part,
    job_part_in,
    job_power,
    job_set,
    job_tree,
)
from ._machine cimport fence, l2_bytes
from ._rows cimport ROWS_SOON, ROWS_WRAP

cdef enum:
    TALL = 32        # rows in a chunk, at least: what it adds up is then small beside it
    SHORT = 8        # or so many, if there would be few chunks
    SOME = 16        # that is, fewer than these
    MANY = 1 << 8    # chunks, at most: more would only be more to add up
    GROUP = 64       # rows worked together, at most
    SPREAD = 4       # chunks for each thread that are enough to share them out whole
    RANGE = 1 << 10  # elements of dgamma that are shared out together
    MAP = 112        # maps of fewer elements are summed a group at a time,
    WIDE = 1 << 6    # if a group has so many, at least, as it is a row then
    FLAT = 4         # samples in a chunk of maps, at least
    STEEP = 16       # and at most
    UNITS = 64       # such chunks, at least, if there are enough samples


cdef int64_t held(const job *j) noexcept nogil:
    """Rows of dy and x that L2 holds."""
    return l2_bytes() // 2 // (2 * j.inner * j.op.item)


cdef void sum_pieces(const job *j, const cut *k, const lot *g, int64_t stride, int64_t first, int64_t last,
                     double *part) noexcept nogil:
    """Pieces first to last - 1 of the rows of a lot, `stride` apart: their sums, and what they add to dbeta, dgamma."""
    cdef int64_t i, at
    cdef block b
    for i in range(first, last):
        b = chunk_of(j, k, 0, i)
        at = (g.first * stride + b.start) * j.op.item
        j.op.point_sums(j.dy + at, j.x + at, g.channels, b.inner, stride, &g.coefs, point(j, j.gamma.data, b.start),
                        part + b.start, part + j.inner + b.start, g.sums + 2 * i, 2 * k.count,
                        max(stride, ROWS_SOON // j.op.item))


cdef void whole_rows(const job *j, const cut *k, int64_t group, int64_t row, int64_t end, int64_t stride, double *part,
                     double *room) noexcept nogil:
    """Rows `row` to end - 1, `stride` apart, `group` of them together. part[2][inner]: what they add to dbeta and
    dgamma. room: for a lot."""
    cdef int64_t rows, next
    cdef lot g
    memset(part, 0, 2 * j.inner * sizeof(double))
    while row < end:
        rows = min(group, end - row)
        next = rows * j.inner if stride == j.inner else j.inner  # from these to those that are summed after them
        g = new_lot(j, k, row, rows, room)
        sum_pieces(j, k, &g, stride, 0, k.count, part)
        finish_lot(j, k, &g)
        apply(j, row * stride, rows, j.inner, stride, g.coefs, next if j.far else 0, NULL)
        row += rows


# ---- rows of point norms ----

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
    p.group = min(max(held(j), least), min(tall, GROUP))
    p.size = lot_room(&p.sums, p.group) + JOB_APART
    p.part = p.lots = NULL
    p.tree = job_tree(NULL, 2 * j.inner, p.chunks, 1 if p.whole else 0)
    return p


cdef int64_t chunk_start(const job *j, const plan *p, int64_t chunk) noexcept nogil:
    """Its first row."""
    return j.channels * chunk // p.chunks


cdef void whole_chunk(const job *j, const plan *p, int64_t chunk, double *room) noexcept nogil:
    whole_rows(j, &p.sums, p.group, chunk_start(j, p, chunk), chunk_start(j, p, chunk + 1), j.inner,
               p.part + 2 * j.inner * chunk, room)
    job_add_own(j, &p.tree, chunk)


cdef void share_of_chunks(const job *j, const plan *p, int64_t t) noexcept nogil:
    """Those of thread t."""
    cdef int64_t chunk
    for chunk in range(job_part(j, p.chunks, t), job_part(j, p.chunks, t + 1)):
        whole_chunk(j, p, chunk, p.lots + t * p.size)
    if j.stream:
        fence()


cdef void shared_rows(const job *j, const plan *p, int64_t row, int64_t rows, double *part) noexcept nogil:
    """Rows of one chunk, all threads at once."""
    cdef lot g = new_lot(j, &p.sums, row, rows, p.lots)
    cdef int64_t i
    cdef int t
    cdef block b
    for t in prange(j.threads, num_threads=j.threads, schedule="static"):
        sum_pieces(j, &p.sums, &g, j.inner, job_part(j, p.sums.count, t), job_part(j, p.sums.count, t + 1), part)
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


cdef void run_points(const job *j) noexcept nogil:
    cdef plan p = cut_points(j)
    cdef int64_t chunk, row, rows, end
    cdef int t
    p.part = p.tree.sums = <double *> j.room
    p.lots = p.part + 2 * p.chunks * j.inner
    if j.threads == 1:
        share_of_chunks(j, &p, 0)
        finish_range(j, &p, 0, j.inner)
        return
    if p.whole:
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            share_of_chunks(j, &p, t)
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


# ---- groups of small maps ----

cdef struct maps:
    job row           # of one group of each sample: what all of them share
    cut sums          # of a row
    int64_t groups
    int64_t samples
    int64_t chunks    # of samples
    int64_t together  # rows worked together
    double *part      # [chunks][period][2]: what a chunk adds to dbeta and dgamma
    int64_t size      # doubles for a unit, a chunk of one group:
    double *units     # [threads][size], as whole_unit() takes them


cdef bint are_small(const job *j) noexcept nogil:
    """Is it a group norm of small maps, and enough samples? By shape alone. A ReLU is taken back channel by channel."""
    return (
        j.op_pass == JOB_GRAD and j.outer == 1 and j.share > 1 and not j.relu
        and 1 < j.inner < MAP and j.share * j.inner >= WIDE and j.channels >= FLAT * j.period
    )


cdef int64_t spread_room(const maps *m) noexcept nogil:
    """Doubles for the gamma of each element of a row, as lane_spread() makes it."""
    return job_lines(m.row.inner + ROWS_WRAP // <int64_t> sizeof(double))


cdef int64_t tallest(const maps *m) noexcept nogil:
    """Samples in a chunk, at most."""
    return (m.samples + m.chunks - 1) // m.chunks


cdef maps cut_maps(const job *j) noexcept nogil:
    cdef maps m
    cdef int64_t tall
    m.groups, m.samples = j.period // j.share, j.channels // j.period
    m.row = j[0]
    m.row.points, m.row.share = 1, 1
    m.row.channels, m.row.inner = m.groups * m.samples, j.share * j.inner
    m.row.gamma.wide, m.row.mean.wide, m.row.var.wide = j.op.wide, 1, 1
    m.sums = cut_runs(&m.row, 1)
    tall = max(min(m.samples * m.groups // UNITS, STEEP), FLAT)
    m.chunks = (m.samples + tall - 1) // tall
    m.together = min(max(held(&m.row), 1), tallest(&m))
    m.size = job_lines(2 * m.row.inner) + spread_room(&m) + lot_room(&m.sums, m.together)
    m.size += job_lines(2 * tallest(&m) + j.share) + JOB_APART
    m.part = m.units = NULL
    return m


cdef void whole_unit(const job *j, const maps *m, int64_t unit, double *part) noexcept nogil:
    """A chunk of one group, the groups of a chunk one after the other. part: and room for what else it takes."""
    cdef int64_t chunk = unit // m.groups, group = unit % m.groups, inner = m.row.inner, i
    cdef int64_t first = m.samples * chunk // m.chunks, rows = m.samples * (chunk + 1) // m.chunks - first
    cdef int64_t start = first * m.groups + group, at = start * inner * j.op.item
    cdef double *gamma = part + job_lines(2 * inner)  # of each element, of the type computed with
    cdef double *room = gamma + spread_room(m)
    cdef double *mean = room + lot_room(&m.sums, m.together)
    cdef double *var = mean + rows
    cdef double *own = var + rows
    cdef job row = m.row
    for i in range(rows):
        mean[i], var[i] = job_get(j.mean, start + i * m.groups, 0), job_get(j.var, start + i * m.groups, 1)
    for i in range(j.share):
        own[i] = job_get(j.gamma, group * j.share + i, 1)
    j.op.lane_spread(gamma, own, j.share, j.inner)
    row.channels = rows
    row.mean.data, row.var.data, row.gamma.data = mean, var, gamma
    row.x, row.dy, row.out = j.x + at, j.dy + at, j.out + at
    whole_rows(&row, &m.sums, m.together, 0, rows, m.groups * inner, part, room)
    j.op.lane_fold(part, part + inner, j.share, j.inner, m.part + 2 * (chunk * j.period + group * j.share), 2)


cdef void share_of_units(const job *j, const maps *m, int64_t t) noexcept nogil:
    """Those of thread t."""
    cdef int64_t units = m.chunks * m.groups, unit
    for unit in range(job_part(j, units, t), job_part(j, units, t + 1)):
        whole_unit(j, m, unit, m.units + t * m.size)
    if j.stream:
        fence()


cdef void run_maps(const job *j) noexcept nogil:
    cdef maps m = cut_maps(j)
    cdef int64_t c, i
    cdef double *part
    cdef int t
    m.part = <double *> j.room
    m.units = m.part + job_lines(2 * m.chunks * j.period)
    if j.threads == 1:
        share_of_units(j, &m, 0)
    else:
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            share_of_units(j, &m, t)
    for c in range(j.period):
        part = m.part + 2 * c
        for i in range(1, m.chunks):
            part[0] += part[2 * i * j.period]
            part[1] += part[2 * i * j.period + 1]
        job_set(j.dbeta, c, part[0])
        job_set(j.dgamma, c, part[1])


# ---- either ----

cdef bint takes(const job *j) noexcept nogil:
    return job_has_dy(j) and (j.points or are_small(j))


cdef int64_t room(const job *j) noexcept nogil:
    cdef plan p
    cdef maps m
    if j.points:
        p = cut_points(j)
        return (2 * p.chunks * j.inner + p.size * (j.threads if p.whole else 1)) * <int64_t> sizeof(double)
    m = cut_maps(j)
    return (job_lines(2 * m.chunks * j.period) + m.size * j.threads) * <int64_t> sizeof(double)


cdef void run(const job *j) noexcept nogil:
    if j.points:
        run_points(j)
    else:
        run_maps(j)
