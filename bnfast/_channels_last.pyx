"""Channels last: rows of `channels` lanes, each lane a channel of its own.

First the sums. The rows are cut into chunks by shape alone, each chunk sums its lanes, and the chunks' sums are added
in a fixed order, so the result has the same bits whoever sums what. A thread takes an equal part of all chunks' blocks
of lanes, one after the other: mostly whole chunks, so it walks through memory, but wide rows of which there are few are
shared out too. Then the coefficients, and a sweep that applies them, in equal parts of memory and from the end, where
the sums have left the cache warm.

Few or crooked channels do not fill vectors, so sums take `fold` rows as one row of fold * channels lanes: C = 3 is
summed as 48 lanes. The lanes of one channel are added up after the chunks are.

Under a mask, rows that count are taken as far as they follow one another, and the others passed over.
"""
from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from ._job cimport (
    JOB_APART,
    JOB_COEFS,
    JOB_FLIP,
    JOB_INFER,
    JOB_KEPT,
    JOB_LIMIT,
    job,
    job_add_own,
    job_add_rest,
    job_counts,
    job_finish,
    job_from_both,
    job_given,
    job_has_dy,
    job_has_output,
    job_has_sums,
    job_is_given,
    job_kept,
    job_line_bytes,
    job_lines,
    job_part,
    job_part_lines,
    job_power,
    job_real,
    job_shifts,
    job_stretch,
    job_tree,
)
from ._machine cimport fence, llc_bytes, table
from ._rows cimport ROWS_F32, ROWS_FAR, ROWS_LINE, ROWS_PAGE, ROWS_TILE, ROWS_WRAP

cdef enum:
    WIDE = 2048       # lanes that folding may make
    CHUNK = 1 << 13   # elements in a chunk, at least
    TALL = 128        # rows in a chunk, at least: its sums are then small beside it
    MANY = 1 << 10    # blocks to share out; more chunks than make so many would only be more to add up,
    FEW = 8           # but no fewer chunks than these: sums of so many parts are more exact
    BLOCK = 16        # lanes that are shared out together
    ALONE = 1 << 11   # channels, at least, that are finished by all threads: until then to meet once more takes longer
    PIECE = 1 << 15   # elements that the second sweep writes at a time
    TILE = 1 << 12    # bytes of lanes whose coefficients L1 holds beside data


cdef struct plan:
    int64_t fold    # rows taken as one
    int64_t lanes   # fold * channels
    int64_t rows    # folded rows; those that are left belong to the last chunk
    int64_t chunks  # of folded rows
    int64_t blocks  # in a chunk
    job_tree tree   # of the chunks
    int64_t spread  # lanes that coefficients are spread over: at least `lanes`, and enough for a line
    int64_t step    # bytes from one coefficient's lanes to the next one's
    double *shift   # [lanes]
    double *sums    # [chunks][2][lanes]
    double *part    # [channels][2] sums, then [JOB_COEFS][channels], while a statistic is finished
    char *coefs     # [JOB_KEPT][spread, and ROWS_WRAP bytes more] of the type computed with


cdef plan cut_rows(const job *j) noexcept nogil:
    """The chunks of an array, by shape alone."""
    cdef plan p
    cdef int64_t power = ROWS_TILE, tall
    while j.channels % power:
        power //= 2
    p.fold = ROWS_TILE // power
    if p.fold * j.channels > WIDE or p.fold > j.outer:
        p.fold = 1
    p.lanes = p.fold * j.channels
    p.rows = j.outer // p.fold
    p.blocks = (p.lanes + BLOCK - 1) // BLOCK
    tall = max(max(CHUNK // p.lanes, TALL), p.rows // max(MANY // p.blocks, FEW))
    p.chunks = job_power(2 * ((p.rows + tall - 1) // tall) - 1)  # or more of them, and so lower
    p.tree = job_tree(NULL, 2 * p.lanes, p.chunks, p.blocks)
    p.spread = max(p.lanes, (ROWS_WRAP // 4 + j.channels - 1) // j.channels * j.channels)
    p.step = p.spread * job_real(j) + ROWS_WRAP
    p.shift = p.sums = p.part = NULL
    p.coefs = NULL
    return p


cdef void sum_lanes(const job *j, int64_t start, int64_t rows, int64_t lanes, int64_t stride, const double *shift,
                    const char *coefs, int64_t step, double *first, double *second) noexcept nogil:
    """Adds rows of lanes, from element `start` on. coefs: of these lanes, `step` bytes apart, for a gate."""
    cdef int64_t at = start * j.op.item, more = (j.outer * j.channels * j.inner - start) // stride - rows
    if job_has_dy(j):
        j.op.lane_grad_sums(j.dy + at, j.x + at, rows, lanes, stride, more, shift, coefs if j.relu else NULL,
                            step // job_real(j), first, second)
    else:
        j.op.lane_sums(j.x + at, rows, lanes, stride, more, shift, first, second)


cdef void write_lanes(const job *j, int64_t start, int64_t n, int64_t lane, int64_t lanes, const char *coefs,
                      int64_t ahead) noexcept nogil:
    """n elements of the output, from `start` on, the first of which is of that lane. ahead: as in rows.h."""
    cdef int64_t at = start * j.op.item
    if job_from_both(j):
        j.op.lane_grad(j.out + at, j.dy + at, j.x + at, n, lane, lanes, coefs, j.relu, j.stream, ahead)
    else:
        j.op.lane_affine(j.out + at, (j.dy if job_has_dy(j) else j.x) + at, j.res + at if j.res != NULL else NULL, n,
                         lane, lanes, coefs, j.relu, j.stream, ahead)


cdef void sum_rows(const job *j, const plan *p, int64_t row, int64_t rows, int64_t first, int64_t last,
                   double *sums) noexcept nogil:
    """Adds the lanes first to last - 1 of folded rows, from `row` on."""
    if rows == 0 or first >= last:
        return
    sum_lanes(j, row * j.channels + first, rows, last - first, p.lanes, p.shift + first,
              p.coefs + first * job_real(j), p.step, sums + first, sums + p.lanes + first)


cdef int64_t chunk_start(const job *j, const plan *p, int64_t chunk) noexcept nogil:
    """Its first row."""
    return p.rows * chunk // p.chunks * p.fold if chunk < p.chunks else j.outer


cdef void sum_block(const job *j, const plan *p, int64_t chunk, int64_t first, int64_t last) noexcept nogil:
    """The sums of lanes first to last - 1 of a chunk."""
    cdef int64_t row = chunk_start(j, p, chunk), end = chunk_start(j, p, chunk + 1), n
    cdef double *sums = p.sums + 2 * p.lanes * chunk
    memset(sums + first, 0, (last - first) * sizeof(double))
    memset(sums + p.lanes + first, 0, (last - first) * sizeof(double))
    while row < end:
        n = job_stretch(j, row, end - row)
        if job_counts(j, row):
            sum_rows(j, p, row, n // p.fold, first, last, sums)
            sum_rows(j, p, row + n // p.fold * p.fold, 1, first, min(last, n % p.fold * j.channels), sums)
        row += n


cdef void sum_part(const job *j, const plan *p, int64_t first, int64_t last) noexcept nogil:
    """Blocks first to last - 1, counted through all chunks."""
    cdef int64_t chunk, block, blocks
    while first < last:
        chunk, block = first // p.blocks, first % p.blocks
        blocks = min(p.blocks - block, last - first)
        sum_block(j, p, chunk, block * BLOCK, min((block + blocks) * BLOCK, p.lanes))
        first += blocks
        if block + blocks == p.blocks:
            job_add_own(j, &p.tree, chunk)


cdef void sum_all(const job *j, const plan *p) noexcept nogil:
    cdef int64_t blocks = p.chunks * p.blocks
    cdef int t
    if j.threads == 1:
        sum_part(j, p, 0, blocks)
    else:
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            sum_part(j, p, job_part(j, blocks, t), job_part(j, blocks, t + 1))


cdef void merge(const job *j, const plan *p, int64_t first, int64_t last) noexcept nogil:
    """Adds up the sums of lanes first to last - 1 into those of chunk 0."""
    job_add_rest(j, &p.tree, first, last)
    job_add_rest(j, &p.tree, p.lanes + first, p.lanes + last)


cdef void spread(const job *j, const plan *p, int64_t first, int64_t last, const double *k, int i,
                 int end) noexcept nogil:
    """Coefficients i to end - 1 of channels first to last - 1, to all of their lanes."""
    cdef int64_t n, c, size = job_real(j)
    cdef char *lanes
    for i in range(i, end):
        lanes = p.coefs + i * p.step
        if j.op.wide:
            for c in range(last - first):
                (<double *> lanes)[first + c] = k[i * j.channels + c]
        else:
            for c in range(last - first):
                (<float *> lanes)[first + c] = <float> k[i * j.channels + c]
        for n in range(1, p.spread // j.channels):
            memcpy(lanes + (n * j.channels + first) * size, lanes + first * size, (last - first) * size)


cdef void wrap(const job *j, const plan *p) noexcept nogil:
    cdef int i
    for i in range(job_kept(j)):
        memcpy(p.coefs + i * p.step + p.spread * job_real(j), p.coefs + i * p.step, ROWS_WRAP)


cdef void finish_channels(const job *j, const plan *p, int64_t first, int64_t last) noexcept nogil:
    """Channels first to last - 1: adds up their lanes, and spreads their coefficients over them."""
    cdef double *sums = p.part + 2 * first
    cdef double *k = p.part + 2 * j.channels + first
    cdef int64_t c, f
    if job_has_sums(j) and p.fold == 1:
        merge(j, p, first, last)
    for c in range(first, last if job_has_sums(j) else first):
        sums[0] = sums[1] = 0
        for f in range(p.fold):
            sums[0] += p.sums[f * j.channels + c]
            sums[1] += p.sums[p.lanes + f * j.channels + c]
        sums += 2
    if job_is_given(j) and not (j.relu and job_has_dy(j)):  # gates want theirs before: run()
        job_given(j, first, (last - first) // j.share, k, j.channels)
    if job_has_sums(j):
        job_finish(j, first, (last - first) // j.share, j.share, p.shift + first, p.part + 2 * first, k,
                   j.channels)
    spread(j, p, first, last, k, 0, job_kept(j))


cdef void finish(const job *j, const plan *p) noexcept nogil:
    cdef int64_t statistics = j.channels // j.share
    cdef int t
    if job_has_sums(j) and p.fold > 1:
        merge(j, p, 0, p.lanes)
    if j.threads == 1 or j.channels < ALONE:
        finish_channels(j, p, 0, j.channels)
    else:
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            finish_channels(j, p, job_part(j, statistics, t) * j.share, job_part(j, statistics, t + 1) * j.share)
    wrap(j, p)


cdef bint may_be_far(const job *j) noexcept nogil:
    """Are arrays larger than what is sure to stay in the last-level cache from one sweep to the next?"""
    return j.outer * j.channels * j.op.item > llc_bytes() // 4


cdef bint wants_tiles(const job *j) noexcept nogil:
    """Would coefficients drive the data that goes with them out of L1? Where there are two such arrays, or half types,
    or they come from memory, tiles are no better."""
    return (
        j.channels * j.op.item >= 2 * TILE and j.op.item == job_real(j) and not job_from_both(j) and not j.far
    )


cdef void apply_tiled(const job *j, const plan *p, int64_t first, int64_t rows) noexcept nogil:
    """Rows of the output, from element `first` on, tile by tile, so that L1 holds what goes with the lanes. The CPU
    fetches to the end of a row's part of a tile at best, so what comes from far is fetched a row ahead."""
    cdef int64_t tile = TILE // j.op.item, ahead = j.channels if may_be_far(j) else 0, at = 0, row
    while at < j.channels:
        tile = min(tile, j.channels - at)
        for row in range(rows):
            write_lanes(j, first + row * j.channels + at, tile, (first + at) % j.channels, p.spread, p.coefs, ahead)
        at += tile


cdef void apply_to(const job *j, const plan *p, int64_t first, int64_t n) noexcept nogil:
    """n elements of the output, from `first` on."""
    cdef int64_t ahead = ROWS_FAR // j.op.item if j.far else -1 if may_be_far(j) else 0, rows = n // j.channels
    if rows > 1 and wants_tiles(j):
        apply_tiled(j, p, first, rows)
        first += rows * j.channels
        n -= rows * j.channels
    write_lanes(j, first, n, first % p.spread, p.spread, p.coefs, ahead)


cdef void apply_part(const job *j, const plan *p, int64_t first, int64_t last) noexcept nogil:
    """Elements first to last - 1 of the output, piece by piece from the end; 0 in rows that do not count."""
    cdef int64_t at, end, stop, row
    while first < last:
        end = last
        last = at = max(last - PIECE, first)
        while at < end:
            row = at // j.channels
            stop = min((row + job_stretch(j, row, (end - 1) // j.channels - row + 1)) * j.channels, end)
            if job_counts(j, row):
                apply_to(j, p, at, stop - at)
            else:
                memset(j.out + at * j.op.item, 0, (stop - at) * j.op.item)
            at = stop
    if j.stream:
        fence()


cdef void apply_share(const job *j, const plan *p, int64_t t) noexcept nogil:
    """Thread t's part of the output."""
    cdef int64_t size = j.outer * j.channels
    apply_part(j, p, job_part_lines(j, size, t), job_part_lines(j, size, t + 1))


cdef void apply_all(const job *j, const plan *p) noexcept nogil:
    cdef int t
    if j.threads == 1:
        apply_share(j, p, 0)
    else:
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            apply_share(j, p, t)


def shares(tuple view, int threads):
    """How many elements each thread sums: the partition alone, for its test."""
    cdef job j
    cdef plan p
    cdef int64_t blocks, first, rows, i, t
    j.outer, j.channels, j.inner = view
    j.threads = threads
    j.op = table(ROWS_F32)
    p = cut_rows(&j)
    blocks = p.chunks * p.blocks
    found = []
    for t in range(threads):
        found.append(0)
        for i in range(job_part(&j, blocks, t), job_part(&j, blocks, t + 1)):
            rows = chunk_start(&j, &p, i // p.blocks + 1) - chunk_start(&j, &p, i // p.blocks)
            first = i % p.blocks * BLOCK
            found[t] += (min(first + BLOCK, p.lanes) - first) * (rows // p.fold)
            found[t] += max(min(first + BLOCK, rows % p.fold * j.channels) - first, 0)
    return found


cdef int64_t doubles(const job *j, const plan *p) noexcept nogil:
    """How many a plan takes, before its coefficients, in whole lines."""
    cdef int64_t sums = 2 * p.lanes * p.chunks if job_has_sums(j) else 0
    return job_lines(p.lanes + sums + (JOB_COEFS + 2) * j.channels)


cdef int64_t in_step(const job *j) noexcept nogil:
    """The power of 2 bytes, at most a page, modulo which all rows of the output begin at one address; 0 if that is
    little, or if their coefficients, which are of another size, do not keep step with them."""
    cdef int64_t row = j.channels * j.op.item, power = min(row & -row, ROWS_PAGE)
    return power if power >= ROWS_PAGE // 4 and j.op.item == job_real(j) else 0


cdef int64_t shifted(const job *j, const char *coefs) noexcept nogil:
    """Bytes by which to shift coefficients, from a line on. They are loaded in step with storing the output, which
    begins lines of it (rows.inc): those are to begin lines of theirs. And because of 4K aliasing (rows.h) they go where
    they are farthest from it."""
    cdef int64_t head = (-<int64_t> <size_t> j.out & (ROWS_LINE - 1)) // j.op.item * job_real(j), period = in_step(j)
    cdef int64_t lines = <int64_t> (<size_t> j.out - <size_t> coefs + period // 2) & (period - ROWS_LINE)
    return (lines if period else 0) + (-head & (ROWS_LINE - 1))


cdef int64_t plan_room(const job *j) noexcept nogil:
    """Bytes, in whole lines, and some between two threads."""
    cdef plan p = cut_rows(j)
    cdef int64_t bytes = doubles(j, &p) * <int64_t> sizeof(double) + max(in_step(j), ROWS_LINE) + JOB_KEPT * p.step
    return job_line_bytes(bytes) + JOB_APART * <int64_t> sizeof(double)


cdef plan new_plan(const job *j, char *room) noexcept nogil:
    cdef plan p = cut_rows(j)
    p.shift = <double *> room
    p.sums = p.tree.sums = p.shift + p.lanes
    p.coefs = <char *> (p.shift + doubles(j, &p))
    p.part = <double *> p.coefs - (JOB_COEFS + 2) * j.channels
    p.coefs += shifted(j, p.coefs)
    return p


cdef bint each_for_itself(const job *j) noexcept nogil:
    """Does each thread make all coefficients? If they need no sums, and are few: where another core's cache has them,
    to fetch and to overwrite them takes longer."""
    return j.op_pass == JOB_INFER and j.channels < ALONE


cdef void infer_share(const job *j, int64_t t, char *room) noexcept nogil:
    cdef plan p = new_plan(j, room)
    finish_channels(j, &p, 0, j.channels)
    wrap(j, &p)
    apply_share(j, &p, t)


cdef int64_t room(const job *j) noexcept nogil:
    return plan_room(j) * (j.threads if each_for_itself(j) else 1)


cdef void run(const job *j) noexcept nogil:
    cdef plan p
    cdef int64_t c, size
    cdef int t
    if j.threads > 1 and each_for_itself(j):
        size = plan_room(j)
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            infer_share(j, t, j.room + t * size)
        return
    p = new_plan(j, j.room)
    if job_has_sums(j):
        job_shifts(j, 0, j.channels // j.share, j.share, p.shift)
        for c in range(j.channels, p.lanes):
            p.shift[c] = p.shift[c - j.channels]
    if j.relu and job_has_dy(j):
        job_given(j, 0, j.channels // j.share, p.part + 2 * j.channels, j.channels)
        spread(j, &p, 0, j.channels, p.part + 2 * j.channels, JOB_FLIP, JOB_LIMIT + 1)
    if job_has_sums(j):
        sum_all(j, &p)
    finish(j, &p)
    if job_has_output(j):
        apply_all(j, &p)
