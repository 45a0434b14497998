"""Channels first: each channel is `outer` runs of `inner` elements, `channels * inner` elements apart.

A channel is summed in chunks that its shape alone decides, and the chunks' sums are added in order, so the result has
the same bits whoever sums them. That leaves two ways to share the work, and both are used:

- whole channels, an equal number for each thread, some of them (a lot) at a time: a lot is normalized while it is
  still in the cache from being summed, so that x comes from memory once. Where it does come from there, the next lot is
  summed in the same loop, so that adding and waiting for memory overlap;
- the chunks of the channels that are left over (all of them, if there are fewer than threads): sum, meet, apply.

Rows shorter than a few vectors are summed as lanes instead, as those of channels last, a strip of many channels at a
time: what belongs to a row would cost more than its elements do. The shortest ones are written as lanes, too.

Inference needs no sums, so it takes the memory as it lies, in equal parts.

Under a mask, blocks that count as a whole are treated like any other, and such as count nowhere are passed over. The
others are cut into small pieces, of which the same is true; what is left is summed from a copy in which what does not
count is the shift, and so adds exactly 0, and after it is written, what does not count is set to 0.
"""
from cython.parallel cimport prange
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memchr, memcmp, memset

from ._channels_last cimport sum_lanes, write_lanes
from ._job cimport (
    JOB_APART,
    JOB_COEFS,
    JOB_FLIP,
    JOB_INFER,
    JOB_KEPT,
    JOB_LIMIT,
    job,
    job_finish,
    job_from_both,
    job_given,
    job_has_dy,
    job_has_output,
    job_has_sums,
    job_is_given,
    job_kept,
    job_lines,
    job_part,
    job_part_lines,
    job_real,
    job_shifts,
    job_two_sweeps,
)
from ._machine cimport fence, l2_bytes
from ._rows cimport ROWS_FAR, ROWS_LANES, ROWS_PAGE, ROWS_SOON, ROWS_WRAP, rows_also, rows_coefs

cdef enum:
    CHUNK = 1 << 12  # elements in a chunk, at most, unless they are too MANY: it fits the first-level cache
    LEAST = 1 << 10  # and at least, unless the channel is smaller
    LONG = 1 << 9    # elements of a row, at least, that is fetched as from memory
    FEW = 1 << 10    # chunks in an array, at least, if they are not smaller than that
    MANY = 1 << 13   # and in a channel, at most
    WALK = 1 << 15   # bytes that lie together, which normalizing wants at least
    FINISHED = 8     # statistics that are finished together, at most, on any ISA
    GROUP = 64       # channels, at most, that are normalized together, if they are not one statistic
    SHORT = 64       # elements of a row that is summed as a row: shorter ones are lanes,
    STRIPS = 40      # and up to so many are written as lanes,
    FLAT = 3         # unless a channel has fewer of them than their elements / FLAT,
    STRIP = 1 << 11  # so many lanes together, half as many backward: L1 holds their coefficients
    KNOWN = 1 << 11  # channels whose coefficients inference makes at a time: L2 holds them beside data
    PIECE = 1 << 10  # elements, at most, that are masked at a time: their copy stays on the stack, and in L1

ctypedef enum counts:
    NONE
    SOME
    ALL


cdef struct strip:   # a lot whose rows are lanes, each of its channel
    int64_t channels
    int64_t lanes
    int64_t step     # bytes from one coefficient's lanes to the next one's
    double *shift    # [lanes]
    double *sums     # [2][lanes]
    char *coefs      # [JOB_KEPT][lanes, and ROWS_WRAP bytes more] of the type computed with


cdef cut cut_runs(const job *j, int64_t span) noexcept nogil:
    """The chunks of each `span` channels, which lie together if that is more than 1; by shape alone: no larger than
    CHUNK, and enough of them for many threads."""
    cdef cut k
    cdef int64_t inner = span * j.inner, channels = j.channels // span
    cdef int64_t n = j.outer * inner, pieces = max(min((n + CHUNK - 1) // CHUNK, MANY), FEW // channels)
    pieces = max(min(pieces, n // LEAST), 1)
    k.span, k.rows, k.pieces, k.width = span, (j.outer + pieces - 1) // pieces, 1, inner
    if pieces > j.outer:
        k.rows, k.pieces = 1, (pieces + j.outer - 1) // j.outer
        k.width = ((inner + k.pieces - 1) // k.pieces + 63) // 64 * 64
        k.pieces = (inner + k.width - 1) // k.width
    k.count = (j.outer + k.rows - 1) // k.rows * k.pieces
    return k


cdef cut cut_sums(const job *j) noexcept nogil:
    """The chunks to sum. The channels of a statistic are summed as one if they lie together and are short: long ones
    can go along, and backward wants the sums of each."""
    return cut_runs(j, j.share if j.outer == 1 and j.inner < LEAST and not job_has_dy(j) else 1)


cdef block chunk_of(const job *j, const cut *k, int64_t c, int64_t i) noexcept nogil:
    """Where chunk i of the channels from c on lies."""
    cdef block b
    cdef int64_t row = i * k.rows, column = 0
    if k.pieces > 1:  # of rows 1
        row, column = i // k.pieces, i % k.pieces * k.width
    b.start = (row * j.channels + c) * j.inner + column
    b.rows = min(k.rows, j.outer - row)
    b.inner = min(k.width, j.inner * k.span - column)
    return b


cdef const char *point(const job *j, const void *parameter, int64_t start) noexcept nogil:
    """The gamma or beta of the element at `start`, of a point norm."""
    return <const char *> parameter + start % j.inner * job_real(j)


cdef block nth_piece(block b, int64_t stride, int64_t i) noexcept nogil:
    """Piece i of a block whose rows are `stride` apart: of one row, or of whole rows; without rows past the last."""
    cdef int64_t columns = (b.inner + PIECE - 1) // PIECE, tall = max(PIECE // b.inner, 1)
    cdef int64_t row = i // columns * tall, column = i % columns * PIECE
    return block(b.start + row * stride + column, max(min(tall, b.rows - row), 0), min(PIECE, b.inner - column))


cdef inline const uint8_t *mask_at(const job *j, int64_t start) noexcept nogil:
    """The mask of the element at `start`."""
    return j.mask + start // (j.channels * j.inner) * j.inner + start % j.inner


cdef inline int64_t mask_stride(const job *j, int64_t stride) noexcept nogil:
    """From a row's mask to the next one's: the rows are samples, or channels of one sample."""
    return j.inner if stride == j.channels * j.inner else 0


cdef inline counts which_count(const job *j, block b, int64_t stride) noexcept nogil:
    """Of the elements of a block, which has either one row or whole ones, so that their masks lie together."""
    if j.mask == NULL:
        return ALL
    cdef const uint8_t *mask = mask_at(j, b.start)
    cdef int64_t n = b.inner + (b.rows - 1) * mask_stride(j, stride)
    if mask[0]:
        return ALL if memchr(mask, 0, n) == NULL else SOME
    return NONE if memcmp(mask, mask + 1, n - 1) == 0 else SOME


cdef rows_coefs coefs_from(rows_coefs k, int64_t row) noexcept nogil:
    """Those of the rows from `row` on."""
    k.at += row * k.step
    return k


cdef void sum_some(const job *j, block b, const double *shift, rows_coefs gate, double *sums) noexcept nogil:
    """sum_chunk() of a block in which some elements count."""
    cdef double[PIECE] x
    cdef double[PIECE] dy
    cdef double[2] part
    cdef const uint8_t *mask = mask_at(j, b.start)
    cdef int64_t stride = j.channels * j.inner, i = 0, at = b.start * j.op.item
    cdef block p = nth_piece(b, stride, 0)
    cdef job own
    if p.rows == b.rows and p.inner == b.inner:
        own = j[0]  # with the copy as its array
        own.mask, own.outer, own.channels, own.inner = NULL, 1, 1, b.inner
        own.x, own.dy = <char *> x, <char *> dy
        j.op.run_keep(x, b.inner, j.x + at, stride, mask, j.inner, b.rows, b.inner, shift[0])
        if job_has_dy(j):
            j.op.run_keep(dy, b.inner, j.dy + at, stride, mask, j.inner, b.rows, b.inner, 0)
        sum_chunk(&own, block(0, b.rows, b.inner), 1, shift, gate, sums, 0)
        return
    sums[0] = sums[1] = 0
    while p.rows:
        sum_chunk(j, p, 1, shift, gate, part, 0)
        sums[0] += part[0]
        sums[1] += part[1]
        i += 1
        p = nth_piece(b, stride, i)


cdef bint are_short(const job *j) noexcept nogil:
    """Do rows leave vectors half empty, and cost more than their elements? By shape alone, as the order of adding
    follows."""
    return 1 < j.inner < SHORT and j.outer >= max(j.inner // FLAT, 2) and not j.points


cdef bint as_lanes(const job *j) noexcept nogil:
    """Then each of their elements is a lane of the sums. A mask, though, is of one channel."""
    return are_short(j) and j.mask == NULL


cdef bint as_strips(const job *j) noexcept nogil:
    """Are they written as lanes too? Of longer ones, coefficients that change in the middle of a vector take less than
    those that are loaded for each element; sooner where L1 does not hold these, as of an inference, and never if
    elements are narrow, of which a row has few vectors."""
    if j.op_pass == JOB_INFER:
        return j.inner <= SHORT // 2
    return j.inner <= STRIPS or j.op.item < job_real(j)


cdef int64_t strip_room(const job *j, int64_t channels) noexcept nogil:
    """Doubles for the strip of so many channels, in whole lines."""
    cdef int64_t lanes = channels * j.inner, coefs = JOB_KEPT * (lanes * job_real(j) + ROWS_WRAP)
    return job_lines((3 * lanes if job_has_sums(j) else 0) + coefs // <int64_t> sizeof(double))


cdef void spread(const job *j, const strip *s, rows_coefs k, int first, int last) noexcept nogil:
    """Coefficients first to last - 1 of the channels, to all of their lanes."""
    cdef int i
    for i in range(first, last):
        j.op.lane_spread(s.coefs + i * s.step, k.at + i * k.gap, s.channels, j.inner)


cdef strip new_strip(const job *j, int64_t channels, const double *shift, rows_coefs gate,
                     double *room) noexcept nogil:
    """So many channels as lanes, ready to be summed, if they are."""
    cdef strip s
    cdef int64_t c, i
    s.channels, s.lanes = channels, channels * j.inner
    s.step = s.lanes * job_real(j) + ROWS_WRAP
    s.shift, s.sums, s.coefs = room, room + s.lanes, <char *> (room + (3 * s.lanes if job_has_sums(j) else 0))
    for c in range(channels if job_has_sums(j) else 0):
        for i in range(j.inner):
            s.shift[c * j.inner + i] = shift[c]
    if j.relu and job_has_dy(j):
        spread(j, &s, gate, JOB_FLIP, JOB_LIMIT + 1)
    return s


cdef void sum_strip(const job *j, const strip *s, int64_t start, int64_t rows, double *sums,
                    int64_t step) noexcept nogil:
    """The sums of each channel, at sums + i * step, over rows of lanes from element `start` on."""
    memset(s.sums, 0, 2 * s.lanes * sizeof(double))
    sum_lanes(j, start, rows, s.lanes, j.channels * j.inner, s.shift, s.coefs, s.step, s.sums, s.sums + s.lanes)
    j.op.lane_fold(s.sums, s.sums + s.lanes, s.channels, j.inner, sums, step)


cdef void sum_chunk(const job *j, block b, int64_t runs, const double *shift, rows_coefs gate, double *sums,
                    int64_t ahead) noexcept nogil:
    """sums[runs][2] of a block and of those that follow it at once, each about its own shift, and with its own gate.
    Under a mask, of one. ahead: as in rows.h."""
    cdef counts which = which_count(j, b, j.channels * j.inner)
    if which == NONE:
        sums[0] = sums[1] = 0
        return
    if which == SOME:
        sum_some(j, b, shift, gate, sums)
        return
    cdef int64_t at = b.start * j.op.item, stride = j.channels * j.inner
    cdef bint far = j.far and b.inner >= LONG  # others are fetched so late that L1 wants them at once
    if not job_has_dy(j):
        j.op.run_sums(j.x + at, runs, b.inner, b.rows, b.inner, stride, shift, sums, ahead, far)
    else:
        j.op.run_grad_sums(j.dy + at, j.x + at, runs, b.inner, b.rows, b.inner, stride, shift,
                           &gate if j.relu else NULL, sums, ahead, far)


cdef void apply_some(const job *j, block b, int64_t stride, rows_coefs coefs, int64_t ahead) noexcept nogil:
    """apply() to a block in which some elements count: 0 for the others."""
    cdef char *out = j.out + b.start * j.op.item
    cdef int64_t i = 0
    cdef block p = nth_piece(b, stride, 0)
    cdef job own
    if p.rows == b.rows and p.inner == b.inner:
        own = j[0]
        own.mask, own.stream = NULL, 0  # it is written twice
        apply(&own, b.start, b.rows, b.inner, stride, coefs, ahead, NULL)
        j.op.run_keep(out, stride, out, stride, mask_at(j, b.start), mask_stride(j, stride), b.rows, b.inner, 0)
        return
    while p.rows:
        apply(j, p.start, p.rows, p.inner, stride, coefs_from(coefs, (p.start - b.start) // stride), ahead, NULL)
        i += 1
        p = nth_piece(b, stride, i)


cdef void apply(const job *j, int64_t start, int64_t rows, int64_t inner, int64_t stride, rows_coefs coefs,
                int64_t ahead, const rows_also *also) noexcept nogil:
    """out, from element `start` on: rows of `inner` elements. also: for batch norms without a mask that read twice."""
    cdef block b = block(start, rows, inner)
    cdef counts which = which_count(j, b, stride)
    cdef int64_t at = start * j.op.item, r
    if which == NONE:
        for r in range(rows):
            memset(j.out + at + r * stride * j.op.item, 0, inner * j.op.item)
        return
    if which == SOME:
        apply_some(j, b, stride, coefs, ahead)
        return
    cdef const char *x = j.dy if job_has_dy(j) else j.x
    if j.points and job_has_dy(j):
        j.op.point_grad(j.out + at, j.dy + at, j.x + at, rows, inner, stride, &coefs,
                        point(j, j.gamma.data, start), j.stream, ahead)
    elif j.points:
        j.op.point_affine(j.out + at, x + at, rows, inner, stride, &coefs, point(j, j.gamma.data, start),
                          point(j, j.beta.data, start), j.stream, ahead)
    elif job_from_both(j):
        j.op.run_grad(j.out + at, j.dy + at, j.x + at, rows, inner, stride, &coefs, j.relu, j.stream, ahead, also)
    else:
        j.op.run_affine(j.out + at, x + at, j.res + at if j.res != NULL else NULL, rows, inner, stride, &coefs,
                        j.relu, j.stream, ahead, also)


cdef int64_t lot_room(const cut *k, int64_t channels) noexcept nogil:
    """Doubles for a lot of so many channels, in whole lines."""
    return job_lines(JOB_COEFS * channels + channels // k.span * (1 + 2 * k.count))


cdef lot new_lot(const job *j, const cut *k, int64_t first, int64_t channels, double *room) noexcept nogil:
    """So many channels, of which nothing is summed yet, in room for them."""
    cdef lot g
    cdef int64_t statistics = channels // j.share
    g.first, g.channels = first, channels
    g.parts, g.runs = j.share // k.span, channels // k.span
    g.tasks = g.runs * k.count
    g.coefs = rows_coefs(room, 1, channels)
    g.shift = room + JOB_COEFS * channels
    g.sums = g.shift + g.runs
    if not (j.points and job_has_dy(j)):  # whose sums are about the mean
        job_shifts(j, first, statistics, g.parts, g.shift)
    if job_is_given(j):
        job_given(j, first, statistics, room, channels)
    return g


cdef void sum_short(const job *j, const cut *k, const lot *g, int64_t first, int64_t last) noexcept nogil:
    """sum_tasks() of rows that are lanes, for threads that share the chunks of a channel."""
    cdef double[3 * SHORT + JOB_KEPT * (SHORT + 16)] room  # strip_room() of a row
    cdef int64_t task, n
    cdef block b
    cdef strip s
    for task in range(first, last):
        n = task // k.count
        b = chunk_of(j, k, g.first + n, task % k.count)
        s = new_strip(j, 1, g.shift + n, coefs_from(g.coefs, n), room)
        sum_strip(j, &s, b.start, b.rows, g.sums + 2 * task, 2)


cdef void sum_tasks(const job *j, const cut *k, const lot *g, int64_t first, int64_t last) noexcept nogil:
    """Sums chunks first to last - 1, counted through the channels, and fetches what follows each of them."""
    cdef int64_t stride = j.channels * j.inner, n, i
    cdef block b, after
    if first >= last:
        return
    if as_lanes(j):
        sum_short(j, k, g, first, last)
        return
    n, i = first // k.count, first % k.count
    b = chunk_of(j, k, g.first + n * k.span, i)
    if k.count == 1 and j.mask == NULL:  # they lie at equal distances
        sum_chunk(j, b, last - first, g.shift + n, coefs_from(g.coefs, n), g.sums + 2 * n,
                  b.inner - (b.rows - 1) * stride if b.rows > 1 else max(b.inner, ROWS_SOON // j.op.item))
        return
    for first in range(first, last):
        i += 1
        after = chunk_of(j, k, g.first + (n + i // k.count) * k.span, i % k.count)
        sum_chunk(j, b, 1, g.shift + n, coefs_from(g.coefs, n), g.sums + 2 * first,
                  after.start - b.start - (b.rows - 1) * stride)
        if i == k.count:
            n += 1
            i = 0
        b = after


cdef void finish_lot(const job *j, const cut *k, const lot *g) noexcept nogil:
    """The chunks' sums, in their order, become the statistics, and those the coefficients."""
    cdef int64_t n, i
    cdef double first, second
    if k.count > 1:
        for n in range(g.runs):
            first = second = 0
            for i in range(n * k.count, (n + 1) * k.count):
                first += g.sums[2 * i]
                second += g.sums[2 * i + 1]
            g.sums[2 * n], g.sums[2 * n + 1] = first, second
    job_finish(j, g.first, g.channels // j.share, g.parts, g.shift, g.sums, <double *> g.coefs.at, g.channels)


cdef inline int64_t inputs(const job *j) noexcept nogil:
    """Arrays that sums read, and writing again."""
    return 2 if job_has_dy(j) else 1


cdef bint is_held(const job *j) noexcept nogil:
    """Does L2 hold the rows of a channel? Those whose distance is a high power of 2 share few of its sets, in each of
    which 16 lines fit."""
    cdef int64_t distance = j.channels * j.inner * j.op.item
    return inputs(j) * j.outer <= l2_bytes() // min(distance & -distance, l2_bytes() // 16)


cdef int64_t group_size(const job *j, bint lanes) noexcept nogil:
    """Channels that are normalized together: enough for a long walk through memory, few enough to stay in the cache,
    and whole statistics. Where L2 does not hold them, and they come from further out twice, one row's walk matters
    more, until it is a page long."""
    cdef int64_t row = j.inner * j.op.item, size
    size = STRIP // inputs(j) // j.inner if lanes else min(WALK // row, GROUP)
    if row >= ROWS_PAGE or is_held(j):
        size = min(size, l2_bytes() * 3 // 4 // (j.outer * row * (2 * inputs(j) + 1)))
    if size > FINISHED:
        size -= size % FINISHED
    return min(max(size // j.share, 1) * j.share, j.channels)


cdef bint goes_along(const job *j, const cut *k) noexcept nogil:
    """Is each lot summed while the one before it is written? If they come from memory, for which writing waits. But not
    of short rows, whose sums would be loaded and stored more than added to, nor of short chunks, nor where the last
    piece of a row is shorter than the primitive takes, and not if the one would drive the other out of the cache. Half
    types, of which a line has more elements, and whose conversions leave less of that wait, want longer rows."""
    return (
        job_two_sweeps(j) and j.far and j.mask == NULL and not j.points and k.span == 1
        and j.inner >= (32 if j.op.item < job_real(j) else 4) * ROWS_LANES and k.rows * k.width >= 32 * ROWS_LANES
        and j.inner - (k.pieces - 1) * k.width >= ROWS_LANES
        and is_held(j) and 2 * inputs(j) * j.outer * group_size(j, False) * j.inner * j.op.item <= l2_bytes()
    )


cdef void write_lot(const job *j, const lot *g, const strip *s, bint last) noexcept nogil:
    """Normalizes a lot, as lanes if it has a strip of them (else NULL). Waiting for memory leaves the loads idle:
    fetches the next lot, unless this is the last, as much as fits the cache."""
    cdef int64_t stride = j.channels * j.inner, walk = g.channels * j.inner, fetch = 0, start, ahead, n
    if job_two_sweeps(j) and j.far and not last:
        fetch = l2_bytes() * 3 // 4 // (walk * j.op.item * inputs(j))
    for n in range(j.outer - 1, -1, -1):  # backwards, for what the sums have left in the cache
        start = n * stride + g.first * j.inner
        ahead = walk if n < fetch else 0
        if s != NULL:
            write_lanes(j, start, walk, 0, walk, s.coefs, ahead)
        else:
            apply(j, start, g.channels, j.inner, j.inner, g.coefs, ahead, NULL)


cdef void write_and_sum(const job *j, const cut *k, const lot *g, const lot *after, double *lanes) noexcept nogil:
    """Normalizes a lot, backwards, and sums the next one, which has no more channels, forwards: adds up while what is
    written waits for memory."""
    cdef int64_t stride = j.channels * j.inner, size = 2 * ROWS_LANES * after.channels, n, i, c, at, to, width, task
    cdef rows_also also
    also.shift, also.gate, also.lanes = after.shift, &after.coefs, lanes
    memset(lanes, 0, size * sizeof(double))
    for n in range(j.outer):
        for i in range(k.pieces):
            at = n * stride + after.first * j.inner + i * k.width
            to = (j.outer - 1 - n) * stride + g.first * j.inner + i * k.width
            width = min(k.width, j.inner - i * k.width)
            if i + 1 < k.pieces:  # the next piece, the next row, or the first row of the next lot
                also.ahead = k.width
            else:
                also.ahead = (n + 1) % j.outer * stride + after.first * j.inner - at
                if n + 1 == j.outer:
                    also.ahead += after.channels * j.inner
            also.x, also.dy = j.x + at * j.op.item, j.dy + at * j.op.item if job_has_dy(j) else NULL
            apply(j, to, after.channels, width, j.inner, g.coefs, 0, &also)
            if after.channels < g.channels:
                apply(j, to + after.channels * j.inner, g.channels - after.channels, width, j.inner,
                      coefs_from(g.coefs, after.channels), 0, NULL)
            if (n + 1) % k.rows == 0 or n + 1 == j.outer:  # the end of a chunk
                task = n // k.rows * k.pieces + i
                for c in range(after.channels):
                    j.op.run_fold(lanes + 2 * ROWS_LANES * c, after.sums + 2 * (c * k.count + task))
                memset(lanes, 0, size * sizeof(double))


cdef void whole_strips(const job *j, const cut *k, int64_t first, int64_t last, double *room) noexcept nogil:
    """whole_channels() of rows that are summed as lanes."""
    cdef int64_t group = group_size(j, True), i
    cdef lot g
    cdef block b
    cdef strip s
    cdef bint strips = as_strips(j)
    while first < last:
        g = new_lot(j, k, first, min(group, last - first), room)
        s = new_strip(j, g.channels, g.shift, g.coefs, room + lot_room(k, group))
        for i in range(k.count):
            b = chunk_of(j, k, first, i)
            sum_strip(j, &s, b.start, b.rows, g.sums + 2 * i, 2 * k.count)
        finish_lot(j, k, &g)
        if job_has_output(j):
            if strips:
                spread(j, &s, g.coefs, 0, job_kept(j))
            write_lot(j, &g, &s if strips else NULL, first + g.channels == last)
        first += g.channels
    if j.stream:
        fence()


cdef void whole_channels(const job *j, const cut *k, int64_t first, int64_t last, double *room) noexcept nogil:
    """Channels first to last - 1, lot by lot: sum each statistic, then normalize. room: as thread_room() says."""
    if as_lanes(j):
        whole_strips(j, k, first, last, room)
        return
    cdef int64_t group = group_size(j, False)
    cdef double *other = room + lot_room(k, group)
    cdef double *lanes = other + lot_room(k, group)
    cdef bint along = goes_along(j, k), together
    cdef int64_t channels = min(group, last - first)
    cdef lot g = new_lot(j, k, first, channels, room), after
    sum_tasks(j, k, &g, 0, g.tasks)
    while channels:
        finish_lot(j, k, &g)
        first += channels
        channels = min(group, last - first)
        together = along and channels > 0
        if not together and job_has_output(j):
            write_lot(j, &g, NULL, channels == 0)
        after = new_lot(j, k, first, channels, other if g.coefs.at == room else room)
        if together:
            write_and_sum(j, k, &g, &after, lanes)
        else:
            sum_tasks(j, k, &after, 0, after.tasks)
        g = after
    if j.stream:
        fence()


cdef void shared_channels(const job *j, const cut *k, int64_t first, int64_t last) noexcept nogil:
    """The same, but all threads work on the chunks of all these channels at once."""
    cdef lot g = new_lot(j, k, first, last - first, <double *> j.room)
    cdef cut each = cut_runs(j, 1)
    cdef int64_t stride = j.channels * j.inner, tasks = g.channels * each.count, i
    cdef int t
    cdef block b
    cdef rows_coefs coefs
    for t in prange(j.threads, num_threads=j.threads, schedule="static"):
        sum_tasks(j, k, &g, job_part(j, g.tasks, t), job_part(j, g.tasks, t + 1))
    finish_lot(j, k, &g)
    if not job_has_output(j):
        return
    for t in prange(j.threads, num_threads=j.threads, schedule="static"):
        for i in range(job_part(j, tasks, t), job_part(j, tasks, t + 1)):
            b = chunk_of(j, &each, first + i // each.count, i % each.count)
            coefs = coefs_from(g.coefs, i // each.count)
            coefs.step = 0  # the rows are of one channel
            apply(j, b.start, b.rows, b.inner, stride, coefs, 0, NULL)
        if j.stream:
            fence()


cdef bint one_strip(const job *j) noexcept nogil:
    """Does inference take its rows as lanes, all of a sample's, unless there is a mask? If L2 holds their
    coefficients."""
    return are_short(j) and as_strips(j) and job_kept(j) * j.channels * j.inner * job_real(j) <= l2_bytes() // 2


cdef int64_t known_at_once(const job *j, bint strips) noexcept nogil:
    """Channels whose coefficients a thread of an inference makes at a time: all for a strip, else so many that they
    stay in L2."""
    return j.channels if strips else min(j.channels, KNOWN)


cdef int64_t infer_room(const job *j) noexcept nogil:
    """Doubles that a thread of an inference takes, with a mask and without, and some lines between two threads."""
    cdef bint strips = one_strip(j)
    cdef int64_t lanes = strip_room(j, j.channels) if strips else 0
    return JOB_COEFS * known_at_once(j, strips) + lanes + JOB_APART


cdef void infer_span(const job *j, int64_t first, int64_t last, double *room) noexcept nogil:
    """Elements first to last - 1 of an inference, in the order of memory. room: as infer_room() says. A thread makes
    its coefficients itself: where another core's cache has them, to fetch and to overwrite them takes longer."""
    cdef bint strips = one_strip(j) and j.mask == NULL
    cdef int64_t most = known_at_once(j, strips), known = 0, start = 0, row, column, rows, width, channel
    cdef rows_coefs coefs = rows_coefs(room, 1, most)
    cdef strip s
    if strips and first < last:
        job_given(j, 0, j.channels, room, most)
        s = new_strip(j, j.channels, NULL, coefs, room + JOB_COEFS * most)
        spread(j, &s, coefs, 0, job_kept(j))
        write_lanes(j, first, last - first, first % s.lanes, s.lanes, s.coefs, ROWS_FAR // j.op.item if j.far else 0)
        first = last
    while first < last:
        row, column = first // j.inner, first % j.inner
        channel = row % j.channels
        if not start <= channel < start + known:
            start = channel
            rows = (column + last - first + j.inner - 1) // j.inner
            known = min(min(most, j.channels - start), rows)
            job_given(j, start, known, room, most)
        rows, width = 1, min(j.inner - column, last - first)
        if width == j.inner:  # whole rows, as far as the last channel
            rows = min(start + known - channel, (last - first) // j.inner)
        apply(j, first, rows, width, j.inner, coefs_from(coefs, channel - start), 0, NULL)
        first += rows * width
    if j.stream:
        fence()


cdef void infer(const job *j) noexcept nogil:
    cdef int64_t size = j.outer * j.channels * j.inner, room = infer_room(j)
    cdef int t
    if j.threads == 1:
        infer_span(j, 0, size, <double *> j.room)
    else:
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            infer_span(j, job_part_lines(j, size, t), job_part_lines(j, size, t + 1),
                       <double *> j.room + t * room)


cdef int64_t whole_part(const job *j) noexcept nogil:
    """Channels that each thread does whole."""
    return j.channels // j.share // j.threads * j.share


cdef int64_t thread_room(const job *j, const cut *k) noexcept nogil:
    """Doubles that whole_channels() takes, with a mask and without: for two lots, and what is summed of one; or for a
    lot and a strip. And some lines between two threads."""
    cdef int64_t group = group_size(j, False), strips = group_size(j, True)
    return max(
        2 * lot_room(k, group) + (2 * ROWS_LANES * group if goes_along(j, k) else 0),
        lot_room(k, strips) + strip_room(j, strips) if are_short(j) else 0,
    ) + JOB_APART


cdef int64_t room(const job *j) noexcept nogil:
    if j.op_pass == JOB_INFER:
        return infer_room(j) * j.threads * <int64_t> sizeof(double)
    cdef cut k = cut_sums(j)
    cdef int64_t left = j.channels - whole_part(j) * j.threads
    return max(thread_room(j, &k) * j.threads, lot_room(&k, left)) * <int64_t> sizeof(double)


cdef void run(const job *j) noexcept nogil:
    if j.op_pass == JOB_INFER:
        infer(j)
        return
    cdef cut k = cut_sums(j)
    cdef int64_t part = whole_part(j), whole = part * j.threads, size = thread_room(j, &k)
    cdef double *room = <double *> j.room
    cdef int t
    if j.threads == 1:  # not a prange of one: that still costs 0.7 us
        whole_channels(j, &k, 0, j.channels, room)
        return
    if whole:
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            whole_channels(j, &k, part * t, part * (t + 1), room + size * t)
    if whole < j.channels:
        shared_channels(j, &k, whole, j.channels)


def shares(tuple view, int threads):
    """How many elements each thread sums: the partition alone, for its test."""
    cdef job j
    cdef cut k
    cdef block b
    cdef int64_t whole, tasks, i, t
    j.outer, j.channels, j.inner = view
    j.share, j.threads = 1, threads
    k = cut_runs(&j, 1)
    whole = whole_part(&j) * threads
    tasks = (j.channels - whole) * k.count
    found = []
    for t in range(threads):
        found.append(whole // threads * j.outer * j.inner)
        for i in range(job_part(&j, tasks, t), job_part(&j, tasks, t + 1)):
            b = chunk_of(&j, &k, whole + i // k.count, i % k.count)
            found[t] += b.rows * b.inner
    return found
