"""One call: looked through, laid out in memory, and given to its schedule. The table that include/bnfast.h describes is
the one way to the kernels, for Python (_kernels.pyx) and other extensions alike."""
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from . cimport (
    BNFAST_ABI_VERSION,
    BNFAST_API_VERSION,
    BNFAST_BACKWARD,
    BNFAST_BAD_CALL,
    BNFAST_BAD_COUNT,
    BNFAST_BAD_DTYPE,
    BNFAST_BAD_EPS,
    BNFAST_BAD_GROUPS,
    BNFAST_BAD_NORM,
    BNFAST_BAD_SHAPE,
    BNFAST_BAD_THREADS,
    BNFAST_BAD_VARIANCE,
    BNFAST_BATCH,
    BNFAST_BFLOAT16,
    BNFAST_FLOAT32,
    BNFAST_FLOAT64,
    BNFAST_FORWARD,
    BNFAST_GROUP,
    BNFAST_LAYER,
    BNFAST_MISALIGNED,
    BNFAST_MISSING,
    BNFAST_MOMENTS,
    BNFAST_NORMALIZE,
    BNFAST_NORMALIZE_BACKWARD,
    BNFAST_OK,
    BNFAST_OVERLAP,
    BNFAST_RMS,
    BNFAST_SMALL_WORKSPACE,
    BNFAST_STATUSES,
    _channels_first,
    _channels_last,
    _points,
    bnfast_api,
    bnfast_call,
)
from ._job cimport (
    JOB_GRAD,
    JOB_GRAD_FROZEN,
    JOB_INFER,
    JOB_MOMENTS,
    JOB_TRAIN,
    job,
    job_from,
    job_from_both,
    job_get,
    job_has_dy,
    job_has_output,
    job_has_sums,
    job_line_bytes,
    job_look_at_mask,
    job_part,
    job_part_lines,
    job_pass,
    job_real,
    job_set,
    job_vector,
)
from ._machine cimport cache_bytes, granted, has_mesh, table, threads_for
from ._rows cimport ROWS_FROZEN, ROWS_LINE, rows_type

cdef extern from *:
    """
    #include <bnfast.h>
    #include "rows.h"
    _Static_assert((int)ROWS_F32 == BNFAST_FLOAT32 && (int)ROWS_F64 == BNFAST_FLOAT64 &&
                       (int)ROWS_F16 == BNFAST_FLOAT16 && (int)ROWS_BF16 == BNFAST_BFLOAT16,
                   "rows.h and bnfast.h count the types in one order");
    _Static_assert(BNFAST_MOMENTS == 0 && BNFAST_FORWARD == 1 && BNFAST_NORMALIZE == 2 && BNFAST_BACKWARD == 3 &&
                       BNFAST_NORMALIZE_BACKWARD == 4,
                   "passes[] is in this order");
    /* What a bnfast_call had in the first version: a caller that was compiled against that gives no more. */
    enum { FIRST_CALL = offsetof(bnfast_call, workspace_size) + sizeof(int64_t) };
    """
    enum:
        FIRST_CALL

cdef enum:
    STACK = 1 << 11   # doubles of scratch that fit the stack
    ARRAYS = 16       # that a call has

cdef job_pass[5] passes
passes[:] = [JOB_MOMENTS, JOB_TRAIN, JOB_INFER, JOB_GRAD, JOB_GRAD_FROZEN]

cdef const char *messages[BNFAST_STATUSES + 1]
messages[:] = [
    "no error",
    "no call or pass, a struct_size that this library does not know, reserved not 0, or y without relu",
    "dtype or param_dtype: no such type",
    "norm: no such norm, or it has not got this pass, a ReLU, a residual or a mask",
    "samples, outer, channels, inner: negative, too large, or not the shape of this norm",
    "groups: do not divide channels",
    "x: one value a statistic, wants at least 2",
    "eps: wants a finite number above 0",
    "threads: below 0",
    "var: got a negative variance, wants 0 or more",
    "an array that this pass needs is missing",
    "an array does not lie at a multiple of its elements' size, or a workspace of 8",
    "an output shares memory with another array",
    "workspace: smaller than what bnfast_workspace() says",
    "no such status",
]


# ---- what is asked for ----

cdef int64_t MOST = <int64_t> ((<unsigned long long> 1 << 63) - 1)


cdef inline int64_t times(int64_t a, int64_t b) noexcept nogil:
    """a * b of two numbers from 0 to MOST, at most that."""
    return MOST if b and a > MOST // b else a * b


cdef inline bint is_frozen(int op) noexcept nogil:
    """Are the statistics given?"""
    return op == BNFAST_NORMALIZE or op == BNFAST_NORMALIZE_BACKWARD


cdef inline int64_t elements_of(const bnfast_call *c) noexcept nogil:
    return c.samples * c.outer * c.channels * c.inner


cdef inline int64_t statistics_of(const bnfast_call *c) noexcept nogil:
    return c.samples * (c.groups if c.norm == BNFAST_GROUP else c.channels)


cdef inline bint is_in_place(const job *j) noexcept nogil:
    """Is the output one of the arrays that it is made from?"""
    return j.out != NULL and (j.out == j.x or j.out == j.dy or j.out == j.res)


cdef bint exceed_cache(const job *j, int64_t bytes) noexcept nogil:
    """Are the output, of so many bytes, and what it is made from too large to stay in the cache? In a last-level cache,
    which others use too, backward, which reads two arrays twice, wants room for one more; and channels of several rows
    gain sooner, as one is summed while another one waits to be written. What is walked through once, or twice as a
    whole, still finds much of itself where it takes half as much again as there is."""
    cdef bint both = job_from_both(j)
    cdef int64_t arrays = (2 if both else 1) + (not is_in_place(j)), cache = cache_bytes(j.threads)
    if has_mesh():
        return arrays * bytes > cache
    if both or (j.op_pass == JOB_TRAIN and j.outer > 1 and j.inner > 1):
        return (arrays + 1) * bytes > cache
    return arrays * bytes > cache + cache // 2


cdef void choose_stores(job *j, int64_t bytes) noexcept nogil:
    """An output that comes from memory goes past the cache: then no line is read only to be overwritten. In place none
    is, so what is written past the cache would only be driven out of it."""
    j.far = exceed_cache(j, bytes)
    j.stream = j.far and not is_in_place(j)


cdef int describe(int op, const bnfast_call *given, bnfast_call *c, job *j) noexcept nogil:
    """All of a call but its pointers and stores: c is the call as this library knows it, j the job it makes."""
    cdef int64_t size
    cdef bint points
    if given == NULL or not FIRST_CALL <= given.struct_size <= <int64_t> sizeof(bnfast_call):
        return BNFAST_BAD_CALL
    memset(c, 0, sizeof(bnfast_call))
    memcpy(c, given, given.struct_size)
    if not BNFAST_MOMENTS <= op <= BNFAST_NORMALIZE_BACKWARD or c.reserved:
        return BNFAST_BAD_CALL
    if not (BNFAST_FLOAT32 <= c.dtype <= BNFAST_BFLOAT16 and BNFAST_FLOAT32 <= c.param_dtype <= BNFAST_FLOAT64):
        return BNFAST_BAD_DTYPE
    points = c.norm == BNFAST_LAYER or c.norm == BNFAST_RMS
    if not BNFAST_BATCH <= c.norm <= BNFAST_RMS or (points and (c.relu or c.residual != NULL)):
        return BNFAST_BAD_NORM
    if c.norm != BNFAST_BATCH and is_frozen(op):
        return BNFAST_BAD_NORM
    if c.norm != BNFAST_BATCH and c.mask != NULL:
        return BNFAST_BAD_NORM
    if c.samples == 0:
        c.samples = 1
    if c.samples < 0 or c.outer < 0 or c.channels < 0 or c.inner < 0:
        return BNFAST_BAD_SHAPE
    if (c.samples > 1 and c.norm != BNFAST_GROUP) or (points and c.outer != 1):
        return BNFAST_BAD_SHAPE
    # Sizes of 0 count as 1 here, so that what does not fit is refused whatever the order; 128: the widest temporary.
    size = times(times(c.samples, max(c.outer, 1)), times(max(c.channels, 1), max(c.inner, 1)))
    if times(size, 128) == MOST:
        return BNFAST_BAD_SHAPE
    if c.norm == BNFAST_GROUP and (c.groups < 0 or (c.channels % c.groups if c.groups else c.channels)):
        return BNFAST_BAD_GROUPS
    if c.norm == BNFAST_GROUP and times(times(c.samples, 128), c.groups) == MOST:  # of no channels
        return BNFAST_BAD_GROUPS
    if c.threads < 0:
        return BNFAST_BAD_THREADS
    if op != BNFAST_MOMENTS and not 0 < c.eps < INFINITY:
        return BNFAST_BAD_EPS
    j.op_pass = passes[op]
    j.samples, j.outer, j.channels, j.inner = c.samples, c.outer, c.channels, c.inner
    j.share = max(j.channels // c.groups, 1) if c.norm == BNFAST_GROUP and c.groups else 1
    j.period = j.channels
    j.points, j.about_zero = points, c.norm == BNFAST_RMS
    j.relu = 0 if not c.relu else ROWS_FROZEN if op == BNFAST_NORMALIZE_BACKWARD else 1
    j.op = table(<rows_type> c.dtype)
    j.eps = c.eps
    j.count = max(<double> j.outer * <double> j.inner * <double> j.share, 1)
    j.var_count = 1
    j.mask, j.first = NULL, 0  # run() knows better
    if j.outer == 1 and j.samples > 1 and j.inner > 1:
        j.channels *= j.samples
        j.samples = 1
    size = elements_of(c)
    # One and a half times the work where there is more than one sweep, and so a second thread sooner.
    j.threads = threads_for(size * 3 // 2 if job_has_sums(j) and job_has_output(j) else size, c.threads)
    return BNFAST_OK


cdef struct span:
    const char *first
    int64_t size
    int64_t item
    bint written
    bint beside    # an output may be this very array
    bint needed


cdef struct spans:
    span[ARRAYS] at
    int count


cdef inline void note(spans *s, const void *first, int64_t count, int64_t item, bint written, bint beside,
                      bint needed) noexcept nogil:
    cdef span *new = &s.at[s.count]
    if count == 0 or (first == NULL and not needed):
        return
    new.first, new.size, new.item = <const char *> first, count * item, item
    new.written, new.beside, new.needed = written, beside, needed
    s.count += 1


cdef int look_through(int op, const bnfast_call *c, const job *j) noexcept nogil:
    """Are the arrays there, aligned and apart?"""
    cdef spans s
    cdef int64_t size = elements_of(c), item = j.op.item
    cdef int64_t param = sizeof(double) if c.param_dtype == BNFAST_FLOAT64 else sizeof(float)
    cdef int64_t params = c.inner if j.points else c.channels
    cdef int64_t statistics = statistics_of(c)
    cdef bint back = job_has_dy(j), frozen = is_frozen(op)
    cdef bint writes = not (back or frozen)
    cdef const double *squares = c.var if frozen else c.m2
    cdef int64_t i
    cdef int a, b
    s.count = 0
    if job_has_output(j):
        note(&s, c.out, size, item, True, True, True)
    if back:
        if c.y != NULL:
            if not c.relu:
                return BNFAST_BAD_CALL
            note(&s, c.y, size, item, False, True, True)
            note(&s, c.dresidual, size, item, True, False, True)
        note(&s, c.dgamma, params, param, True, False, False)
        note(&s, c.dbeta, params, param, True, False, False)
    note(&s, c.mean, statistics, sizeof(double), writes, False, True)
    note(&s, squares, statistics, sizeof(double), writes, False, True)
    note(&s, c.workspace, c.workspace_size if c.workspace_size > 0 else 0, 1, True, False, False)
    note(&s, c.x, size, item, False, True, True)
    if back:
        note(&s, c.dy, size, item, False, True, True)
    elif op != BNFAST_MOMENTS:
        note(&s, c.residual, size, item, False, True, False)
    if op != BNFAST_MOMENTS:
        note(&s, c.gamma, params, param, False, False, False)
        note(&s, c.beta, params, param, False, False, False)
    note(&s, c.mask, c.outer * c.inner, 1, False, False, False)
    for a in range(s.count):
        if s.at[a].first == NULL:
            return BNFAST_MISSING
        if <size_t> s.at[a].first % s.at[a].item:
            return BNFAST_MISALIGNED
    if <size_t> c.workspace % sizeof(double):
        return BNFAST_MISALIGNED
    for a in range(s.count):
        if not s.at[a].written:
            continue
        for b in range(s.count):
            if (
                a != b
                and s.at[a].first < s.at[b].first + s.at[b].size
                and s.at[b].first < s.at[a].first + s.at[a].size
                and not may_share(c, s.at[a].first, &s.at[b])
            ):
                return BNFAST_OVERLAP
    if not writes:
        for i in range(statistics):
            if squares[i] < 0:
                return BNFAST_BAD_VARIANCE
    return BNFAST_OK


cdef bint may_share(const bnfast_call *c, const void *output, const span *other) noexcept nogil:
    """May this output be that array? out: an input, from its start. dresidual: dy or y."""
    if output == c.out:
        return other.beside and not other.written and other.first == output
    if output != c.dresidual or output == c.x or output == c.out:
        return False
    return other.beside and other.first == output and (output == c.dy or output == c.y)


# ---- where it is put, and who does it ----

cdef int64_t schedule_room(const job *j) noexcept nogil:
    if _points.takes(j):
        return job_line_bytes(_points.room(j))
    return job_line_bytes(_channels_last.room(j) if j.inner == 1 and not j.points else _channels_first.room(j))


cdef void schedule(const job *j) noexcept nogil:
    if _points.takes(j):
        _points.run(j)
    elif j.inner == 1 and not j.points:
        _channels_last.run(j)
    else:
        _channels_first.run(j)


cdef job nth_sample(const job *j, int64_t sample, char *room) noexcept nogil:
    """The job of one sample."""
    cdef job own = j[0]
    cdef int64_t at = sample * j.outer * j.channels * j.inner * j.op.item, statistic = sample * (j.channels // j.share)
    own.samples = 1
    own.room = room
    own.x = j.x + at
    if j.dy != NULL:
        own.dy = j.dy + at
    if j.res != NULL:
        own.res = j.res + at
    if j.out != NULL:
        own.out = j.out + at
    own.mean, own.var = job_from(j.mean, statistic), job_from(j.var, statistic)
    own.dgamma, own.dbeta = job_from(j.dgamma, sample * j.channels), job_from(j.dbeta, sample * j.channels)
    return own


cdef int64_t samples_apart(const job *j) noexcept nogil:
    """How many samples the threads take whole, each its own. All threads work on each of the others: those that are
    left over, unless they are so small that this would take longer, and all if there are fewer than threads."""
    if j.threads == 1 or j.samples < j.threads:
        return 0
    if threads_for(j.outer * j.channels * j.inner // 2, j.threads) == 1:
        return j.samples
    return j.samples // j.threads * j.threads


cdef int64_t room_apart(const job *j) noexcept nogil:
    """For a thread with a sample of its own."""
    cdef job own = j[0]
    own.threads = 1
    return schedule_room(&own)


cdef int64_t job_room(const job *j) noexcept nogil:
    """For either way; fewer threads than there are samples never want more."""
    cdef int64_t room = schedule_room(j)
    return max(room, room_apart(j) * min(j.threads, j.samples)) if j.samples > 1 and j.threads > 1 else room


cdef void do_samples(const job *j, int64_t first, int64_t last, int threads, char *room) noexcept nogil:
    cdef int64_t sample
    cdef job own
    for sample in range(first, last):
        own = nth_sample(j, sample, room)
        own.threads = threads
        schedule(&own)


cdef void do_job(const job *j) noexcept nogil:
    cdef int t
    cdef int64_t apart, size
    if j.samples == 1:
        schedule(j)
        return
    apart = samples_apart(j)
    if apart:
        size = room_apart(j)
        for t in prange(j.threads, num_threads=j.threads, schedule="static"):
            do_samples(j, job_part(j, apart, t), job_part(j, apart, t + 1), 1, j.room + t * size)
    do_samples(j, apart, j.samples, j.threads, j.room)


def samples_alone(samples, tuple view, threads):
    """How many of the samples each thread has for itself, and how many all share: the partition alone, for its test."""
    cdef job j
    cdef int t
    j.samples, j.threads = samples, threads
    j.outer, j.channels, j.inner = view
    apart = samples_apart(&j)
    return [job_part(&j, apart, t + 1) - job_part(&j, apart, t) for t in range(threads)], samples - apart


cdef int64_t own_sums(const bnfast_call *c, const job *j) noexcept nogil:
    """Bytes for the dgamma, or dbeta, of each sample, which are then added up; 0 if there is nothing to add."""
    if not job_has_dy(j) or c.norm != BNFAST_GROUP or _points.takes(j):
        return 0
    return job_line_bytes(c.samples * c.channels * sizeof(double))


cdef int64_t own_params(const job *j) noexcept nogil:
    """Bytes for gamma, or beta, of the type computed with, which point norms want."""
    return job_line_bytes(j.inner * job_real(j)) if j.points else 0


cdef int64_t bytes_for(const bnfast_call *c, const job *j) noexcept nogil:
    cdef int64_t bytes = 2 * own_sums(c, j) + 2 * own_params(j) + job_room(j)
    return bytes + ROWS_LINE if bytes > STACK * <int64_t> sizeof(double) else 0  # from a whole line on


cdef job_vector vector(const void *data, bint wide) noexcept nogil:
    cdef job_vector v
    v.data, v.wide = <void *> data, wide
    return v


cdef void put_params(job_vector *v, const job *j, double absent, char *room) noexcept nogil:
    """A vector as point norms want it: itself, or in `room`."""
    cdef job_vector new = vector(room, j.op.wide)
    cdef int64_t i
    if v.data == NULL or v.wide != new.wide:
        for i in range(j.inner):
            job_set(new, i, job_get(v[0], i, absent))
        v[0] = new


cdef void add_up(const job *j, int64_t samples, int64_t channels, job_vector each, job_vector total) noexcept nogil:
    """total = the sum over samples of `each`, float64."""
    cdef double *sums = <double *> each.data
    cdef int64_t n, c
    for n in range(1, samples):
        for c in range(channels):
            sums[c] += sums[n * channels + c]
    for c in range(channels):
        job_set(total, c, sums[c])


cdef void gate(const bnfast_call *c, const job *j, int64_t size) noexcept nogil:
    """dresidual = dy where y is above 0, else 0: back through a ReLU."""
    cdef int64_t item = j.op.item, first, last
    cdef int t
    if j.threads == 1:
        j.op.gate(c.dresidual, c.dy, c.y, size)
        return
    for t in prange(j.threads, num_threads=j.threads, schedule="static"):
        first, last = job_part_lines(j, size, t), job_part_lines(j, size, t + 1)
        j.op.gate(<char *> c.dresidual + first * item, <const char *> c.dy + first * item,
                  <const char *> c.y + first * item, last - first)


cdef void nothing(const bnfast_call *c, const job *j) noexcept nogil:
    """What an array gives in which nothing counts: zeros."""
    cdef int64_t i, bytes = elements_of(c) * j.op.item
    if bytes and job_has_output(j):
        memset(c.out, 0, bytes)
    if bytes and job_has_dy(j) and c.y != NULL:
        memset(c.dresidual, 0, bytes)
    if job_has_dy(j):
        for i in range((c.inner if j.points else c.channels) if j.dgamma.data != NULL or j.dbeta.data != NULL else 0):
            job_set(j.dgamma, i, 0)
            job_set(j.dbeta, i, 0)
    elif j.op_pass != JOB_INFER:
        for i in range(statistics_of(c)):
            c.mean[i] = c.m2[i] = 0


cdef void point_to_arrays(int op, const bnfast_call *c, job *j) noexcept nogil:
    """The arrays of a call, to its job."""
    cdef bint wide = c.param_dtype == BNFAST_FLOAT64, frozen = is_frozen(op)
    j.x, j.dy, j.res, j.out = <char *> c.x, <char *> c.dy, <char *> c.residual, <char *> c.out
    if job_has_dy(j):
        j.res = NULL
    else:
        j.dy = NULL
    j.gamma, j.beta = vector(c.gamma, wide), vector(c.beta, wide)
    if c.norm == BNFAST_RMS:
        j.beta.data = NULL
    j.mean, j.var = vector(c.mean, True), vector(c.var if frozen else c.m2, True)
    j.dgamma, j.dbeta = vector(c.dgamma, wide), vector(c.dbeta, wide)
    j.mask = c.mask


cdef int get_room(const bnfast_call *c, job *j, char *stack) noexcept nogil:
    """j.room, from a whole line on: the call's workspace, or stack[STACK + 8] if that is enough."""
    cdef int64_t need, size = max(c.workspace_size, 0)
    j.threads = granted(j.threads)
    need = bytes_for(c, j)
    while need > size and j.threads > 1:  # the default has grown since the workspace was made
        j.threads -= 1
        need = bytes_for(c, j)
    if need > size:
        return BNFAST_SMALL_WORKSPACE
    if need and c.workspace == NULL:
        return BNFAST_MISSING
    j.room = <char *> c.workspace if need else stack
    j.room += -<size_t> j.room % ROWS_LINE
    return BNFAST_OK


cdef int run(int op, const bnfast_call *given) noexcept nogil:
    cdef bnfast_call c
    cdef job j
    cdef double[STACK + 8] stack  # and a line to begin with a whole one
    cdef int status = describe(op, given, &c, &j)
    cdef int64_t size, own
    cdef bint gated
    cdef job_vector dgamma, dbeta
    if status == BNFAST_OK:
        status = look_through(op, &c, &j)
    if status != BNFAST_OK:
        return status
    point_to_arrays(op, &c, &j)
    gated = job_has_dy(&j) and c.y != NULL
    if gated:  # by y, before the rest, for which there is no ReLU then
        j.relu, j.dy = 0, <char *> c.dresidual
    size = elements_of(&c)
    if size == 0:
        nothing(&c, &j)
        return BNFAST_OK
    if j.mask != NULL:
        job_look_at_mask(&j)
    if j.count == 1 and op == BNFAST_FORWARD and not j.points:
        return BNFAST_BAD_COUNT
    if j.count == 0:
        nothing(&c, &j)
        return BNFAST_OK
    if op == BNFAST_BACKWARD:
        j.var_count = j.count
    choose_stores(&j, size * j.op.item)
    status = get_room(&c, &j, <char *> stack)
    if status != BNFAST_OK:
        return status
    if j.points:
        put_params(&j.gamma, &j, 1, j.room)
        put_params(&j.beta, &j, 0, j.room + own_params(&j))
        j.room += 2 * own_params(&j)
    dgamma, dbeta = j.dgamma, j.dbeta
    own = own_sums(&c, &j)
    if own:
        j.dgamma, j.dbeta = vector(j.room, True), vector(j.room + own, True)
        j.room += 2 * own
    if gated:
        gate(&c, &j, size)
    do_job(&j)
    if own:
        add_up(&j, c.samples, c.channels, j.dgamma, dgamma)
        add_up(&j, c.samples, c.channels, j.dbeta, dbeta)
    return BNFAST_OK


cdef int64_t workspace(int op, const bnfast_call *given) noexcept nogil:
    cdef bnfast_call c
    cdef job j
    cdef int64_t need
    cdef int status = describe(op, given, &c, &j)
    if status != BNFAST_OK:
        return -status
    if elements_of(&c) == 0:
        return 0
    j.out = NULL  # in place, which takes no more room, or not: that may be decided later
    choose_stores(&j, elements_of(&c) * j.op.item)
    need = bytes_for(&c, &j)
    if j.relu and job_has_dy(&j):  # y may be given later
        j.relu = 0
        need = max(need, bytes_for(&c, &j))
    return need


cdef const char *strerror(int status) noexcept nogil:
    return messages[status if 0 <= status < BNFAST_STATUSES else BNFAST_STATUSES]


cdef int merge(int64_t n, int64_t count, double *mean, double *m2, int64_t other_count, const double *other_mean,
               const double *other_m2) noexcept nogil:
    """Chan, Golub & LeVeque (1979), for two samples; a count of 0 leaves the other."""
    cdef int64_t i
    cdef double total = <double> count + <double> other_count, delta
    if n < 0 or count < 0 or other_count < 0:
        return BNFAST_BAD_SHAPE
    if n and (mean == NULL or m2 == NULL or other_mean == NULL or other_m2 == NULL):
        return BNFAST_MISSING
    if other_count == 0:
        return BNFAST_OK
    for i in range(n):
        if count == 0:
            mean[i], m2[i] = other_mean[i], other_m2[i]
        else:
            delta = other_mean[i] - mean[i]
            mean[i] += delta * (<double> other_count / total)
            m2[i] += other_m2[i] + delta * delta * (<double> count * (<double> other_count / total))
    return BNFAST_OK


cdef bnfast_api the_table
the_table.abi_version = BNFAST_ABI_VERSION
the_table.api_version = BNFAST_API_VERSION
the_table.struct_size = sizeof(bnfast_api)
the_table.run = run
the_table.workspace = workspace
the_table.strerror = strerror
the_table.merge = merge
the_table.threads = threads_for
api = PyCapsule_New(&the_table, "bnfast._call.api", NULL)
