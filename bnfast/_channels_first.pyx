"""Channels first: each channel is `outer` runs of `inner` elements, `channels * inner` elements apart.

A channel is summed in chunks that its shape alone decides, and the chunks' sums are added in order, so the result has
the same bits whoever sums them. That leaves two ways to share the work, and both are used:

- whole channels, an equal number for each thread: a channel's slab is normalized while it is still in the cache from
  being summed, so that x comes from memory once;
- the chunks of the channels that are left over (all of them, if there are fewer than threads): sum, meet, apply.

Inference needs no sums, so it takes the memory as it lies, in equal parts.
"""
from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

from ._job cimport (
    JOB_COEFS,
    JOB_INFER,
    job,
    job_finish,
    job_from_both,
    job_given,
    job_has_dy,
    job_has_output,
    job_shift,
    job_two_sweeps,
)
from ._machine cimport fence, l2_bytes

cdef enum:
    CHUNK = 1 << 14  # elements in a chunk, at most; 64 KB of float32: some microseconds of work
    LEAST = 1 << 10  # and at least, unless the channel is smaller
    MANY = 1 << 10   # chunks in an array, at least, if they are not smaller than that
    WALK = 1 << 13   # bytes that lie together, which normalizing wants at least
    GROUP = 64       # channels, at most, that are normalized together, if they are not one statistic
    ROOM = 1 << 12   # doubles on the stack, for sums and coefficients


cdef struct cut:
    int64_t rows    # rows in a chunk
    int64_t pieces  # chunks that a row is cut into: more than 1 only if rows is 1
    int64_t width   # elements of a row in a chunk
    int64_t count   # chunks in a channel


cdef cut cut_channel(const job *j) noexcept nogil:
    """The chunks of one channel, by shape alone: no larger than CHUNK, and enough of them for many threads."""
    cdef cut k
    cdef int64_t n = j.outer * j.inner, pieces = max((n + CHUNK - 1) // CHUNK, MANY // j.channels)
    pieces = max(min(pieces, n // LEAST), 1)
    k.rows, k.pieces, k.width = (j.outer + pieces - 1) // pieces, 1, j.inner
    if pieces > j.outer:
        k.rows, k.pieces = 1, (pieces + j.outer - 1) // j.outer
        k.width = ((j.inner + k.pieces - 1) // k.pieces + 63) // 64 * 64
        k.pieces = (j.inner + k.width - 1) // k.width
    k.count = (j.outer + k.rows - 1) // k.rows * k.pieces
    return k


cdef struct block:
    int64_t start  # elements into x
    int64_t rows
    int64_t inner


cdef block chunk_of(const job *j, const cut *k, int64_t c, int64_t i) noexcept nogil:
    """Where chunk i of channel c lies."""
    cdef block b
    cdef int64_t row = i // k.pieces * k.rows, column = i % k.pieces * k.width
    b.start = (row * j.channels + c) * j.inner + column
    b.rows = min(k.rows, j.outer - row)
    b.inner = min(k.width, j.inner - column)
    return b


cdef inline const char *point(const job *j, const void *parameter, int64_t start) noexcept nogil:
    """The gamma or beta of the element at `start`, of a point norm."""
    return <const char *> parameter + start % j.inner * (sizeof(double) if j.op.wide else sizeof(float))


cdef void sum_chunk(const job *j, block b, double shift, const double *gate, double *sums) noexcept nogil:
    cdef int64_t at = b.start * j.op.item, stride = j.channels * j.inner
    if not job_has_dy(j):
        j.op.run_sums(j.x + at, b.rows, b.inner, stride, shift, sums)
    elif j.points:
        j.op.point_grad_sums(j.dy + at, j.x + at, b.rows, b.inner, stride, point(j, j.gamma.data, b.start), shift, sums)
    else:
        j.op.run_grad_sums(j.dy + at, j.x + at, b.rows, b.inner, stride, shift, gate if j.relu else NULL, sums)


cdef void apply(const job *j, int64_t start, int64_t rows, int64_t inner, int64_t stride, const double *coefs,
                int64_t step, int64_t ahead) noexcept nogil:
    """out, from element `start` on: rows of `inner` elements, the coefficients of each `step` after those before."""
    cdef int64_t at = start * j.op.item
    cdef const char *x = j.dy if job_has_dy(j) else j.x
    if j.points and job_has_dy(j):
        j.op.point_grad(j.out + at, j.dy + at, j.x + at, rows, inner, stride, coefs, step,
                        point(j, j.gamma.data, start), j.stream, ahead)
    elif j.points:
        j.op.point_affine(j.out + at, x + at, rows, inner, stride, coefs, step, point(j, j.gamma.data, start),
                          point(j, j.beta.data, start), j.stream, ahead)
    elif job_from_both(j):
        j.op.run_grad(j.out + at, j.dy + at, j.x + at, rows, inner, stride, coefs, step, j.relu, j.stream, ahead)
    else:
        j.op.run_affine(j.out + at, x + at, j.res + at if j.res != NULL else NULL, rows, inner, stride, coefs, step,
                        j.relu, j.stream, ahead)


cdef void work_statistic(const job *j, const cut *k, int64_t c, double *coefs, double *sums) noexcept nogil:
    """The statistic of the channels from c on, up to their coefficients. sums: room for 2 a channel."""
    cdef double[2] part
    cdef double shift = job_shift(j, c)
    cdef int64_t s, i
    if j.relu and job_has_dy(j):
        job_given(j, c, coefs)
    for s in range(j.share):
        sums[2 * s] = sums[2 * s + 1] = 0
        for i in range(k.count):
            sum_chunk(j, chunk_of(j, k, c + s, i), shift, coefs + s * JOB_COEFS, part)
            sums[2 * s] += part[0]
            sums[2 * s + 1] += part[1]
    job_finish(j, c, shift, sums, coefs)


cdef int64_t group_size(const job *j) noexcept nogil:
    """Channels that are normalized together: enough for a long walk through memory, few enough to stay in the cache,
    and whole statistics."""
    cdef int64_t row = j.inner * j.op.item, arrays = 2 if job_has_dy(j) else 1, size
    size = max(1, min(min(WALK // row, GROUP), l2_bytes() // 2 // (j.outer * row * arrays)))
    return max(size // j.share, 1) * j.share


cdef void whole_channels(const job *j, const cut *k, int64_t first, int64_t last, double *room) noexcept nogil:
    """Channels first to last - 1, group by group: sum each statistic, then normalize all of the group.
    room: for 2 sums a channel of a statistic, and the coefficients of a group."""
    cdef int64_t group = group_size(j), stride = j.channels * j.inner, c, g, n, size, ahead
    cdef double *coefs = room + 2 * j.share
    # Storing one group leaves the loads idle: fetch the next one meanwhile, if it finds room in the cache.
    cdef bint fetch = job_two_sweeps(j) and j.outer * j.inner * j.op.item * (2 if job_has_dy(j) else 1) <= l2_bytes()
    g = first
    while g < last:
        size = min(group, last - g)
        for n in range(size // j.share):
            c = n * j.share
            work_statistic(j, k, g + c, coefs + c * JOB_COEFS, room)
        if job_has_output(j):
            ahead = size * j.inner if fetch and g + size < last else 0
            for n in range(j.outer - 1, -1, -1):  # backwards, for what the sums have left in the cache
                apply(j, n * stride + g * j.inner, size, j.inner, j.inner, coefs, JOB_COEFS, ahead)
        g += size
    if j.stream:
        fence()


cdef int shared_channels(const job *j, const cut *k, int64_t first, int64_t last) noexcept nogil:
    """The same, but all threads work on the chunks of all these channels at once."""
    cdef int64_t channels = last - first, tasks = channels * k.count, stride = j.channels * j.inner, c, i
    cdef int t
    cdef double *sums = <double *> malloc((2 * tasks + (JOB_COEFS + 3) * channels) * sizeof(double))
    if sums == NULL:
        return -1
    cdef double *coefs = sums + 2 * tasks
    cdef double *shift = coefs + JOB_COEFS * channels
    cdef double *total = shift + channels
    cdef block b
    for c in range(channels):
        shift[c] = job_shift(j, first + c)
    if j.relu and job_has_dy(j):
        for i in range(channels // j.share):
            job_given(j, first + i * j.share, coefs + JOB_COEFS * i * j.share)
    for t in prange(j.threads, num_threads=j.threads, schedule="static"):
        for i in range(tasks * t // j.threads, tasks * (t + 1) // j.threads):
            sum_chunk(j, chunk_of(j, k, first + i // k.count, i % k.count), shift[i // k.count],
                      coefs + JOB_COEFS * (i // k.count), sums + 2 * i)
    for c in range(channels):
        total[2 * c] = total[2 * c + 1] = 0
        for i in range(c * k.count, (c + 1) * k.count):
            total[2 * c] += sums[2 * i]
            total[2 * c + 1] += sums[2 * i + 1]
    for i in range(channels // j.share):
        c = i * j.share
        job_finish(j, first + c, shift[c], total + 2 * c, coefs + JOB_COEFS * c)
    if job_has_output(j):
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            for i in range(tasks * t // j.threads, tasks * (t + 1) // j.threads):
                b = chunk_of(j, k, first + i // k.count, i % k.count)
                apply(j, b.start, b.rows, b.inner, stride, coefs + JOB_COEFS * (i // k.count), 0, 0)
            if j.stream:
                fence()
    free(sums)
    return 0


cdef void apply_span(const job *j, const double *coefs, int64_t first, int64_t last) noexcept nogil:
    """out = x normalized, elements first to last - 1 of the whole array, in the order of memory."""
    cdef int64_t row, column, rows, width
    while first < last:
        row, column = first // j.inner, first % j.inner
        rows, width = 1, min(j.inner - column, last - first)
        if width == j.inner:  # whole rows, as far as the last channel
            rows = min(j.channels - row % j.channels, (last - first) // j.inner)
        apply(j, first, rows, width, j.inner, coefs + row % j.channels * JOB_COEFS, JOB_COEFS, 0)
        first += rows * width
    if j.stream:
        fence()


cdef int infer(const job *j) noexcept nogil:
    cdef int64_t c, step, size = j.outer * j.channels * j.inner
    cdef double *coefs = <double *> malloc(JOB_COEFS * j.channels * sizeof(double))
    cdef double[2] none
    cdef int t
    if coefs == NULL:
        return -1
    none[0] = none[1] = 0
    for c in range(j.channels):
        job_finish(j, c, 0, none, coefs + JOB_COEFS * c)
    if j.threads == 1:
        apply_span(j, coefs, 0, size)
    else:
        step = (size + j.threads - 1) // j.threads
        step = (step + 63) // 64 * 64
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            apply_span(j, coefs, min(t * step, size), min((t + 1) * step, size))
    free(coefs)
    return 0


def shares(tuple view, int threads):
    """How many elements each thread sums: the partition alone, for its test."""
    cdef job j
    cdef cut k
    cdef block b
    cdef int64_t whole, tasks, i, t
    j.outer, j.channels, j.inner = view
    j.share = 1
    k = cut_channel(&j)
    whole = j.channels - j.channels % threads
    tasks = (j.channels - whole) * k.count
    found = []
    for t in range(threads):
        found.append(whole // threads * j.outer * j.inner)
        for i in range(tasks * t // threads, tasks * (t + 1) // threads):
            b = chunk_of(&j, &k, whole + i // k.count, i % k.count)
            found[t] += b.rows * b.inner
    return found


cdef int run(const job *j) noexcept nogil:
    if j.op_pass == JOB_INFER:
        return infer(j)
    cdef cut k = cut_channel(j)
    cdef int64_t part = j.channels // j.share // j.threads * j.share, whole = part * j.threads
    cdef int64_t size = 2 * j.share + JOB_COEFS * (GROUP + j.share)
    cdef double[ROOM] small
    cdef double *room = small
    cdef int t, status = 0
    if size * j.threads > ROOM:
        room = <double *> malloc(size * j.threads * sizeof(double))
        if room == NULL:
            return -1
    if j.threads == 1:  # not a prange of one: that still costs 0.7 us
        whole_channels(j, &k, 0, j.channels, room)
    else:
        if whole:
            for t in prange(j.threads, num_threads=j.threads, schedule="static"):
                whole_channels(j, &k, part * t, part * (t + 1), room + size * t)
        if whole < j.channels:
            status = shared_channels(j, &k, whole, j.channels)
    if room != small:
        free(room)
    return status
