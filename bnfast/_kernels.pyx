"""From arrays to a call of the C face (_call.pyx), and back.

Two ways: run() trusts what _geometry has checked; run_if_ready() is the common call, whose quick look says whether
there is anything for _geometry to convert or refuse. And what goes with either: Moments' fields, the step of the
running averages.
"""
import numpy

cimport numpy as cnp
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from . cimport (
    BNFAST_BACKWARD,
    BNFAST_BATCH,
    BNFAST_BFLOAT16,
    BNFAST_FLOAT16,
    BNFAST_FLOAT32,
    BNFAST_FLOAT64,
    BNFAST_FORWARD,
    BNFAST_GROUP,
    BNFAST_LAYER,
    BNFAST_MOMENTS,
    BNFAST_NORMALIZE,
    BNFAST_NORMALIZE_BACKWARD,
    BNFAST_RMS,
    BNFAST_SMALL_WORKSPACE,
    bnfast_call,
)
from ._call cimport the_table
from ._memory cimport output

cnp.import_array()

MOMENTS, FORWARD, NORMALIZE = BNFAST_MOMENTS, BNFAST_FORWARD, BNFAST_NORMALIZE
BACKWARD, NORMALIZE_BACKWARD = BNFAST_BACKWARD, BNFAST_NORMALIZE_BACKWARD
BATCH, GROUP, LAYER, RMS = BNFAST_BATCH, BNFAST_GROUP, BNFAST_LAYER, BNFAST_RMS


cdef extern from "numpy/arrayobject.h" nogil:
    int NPY_USERDEF
    bint PyArray_CheckExact(object)
    bint PyArray_ISCARRAY_RO(cnp.ndarray)
    bint PyArray_ISWRITEABLE(cnp.ndarray)


cdef enum:
    BRIEF = 1 << 14  # elements: below, a call is over before letting go of the GIL, and taking it again, would pay
    THREADS = 1 << 15

MOST_THREADS = THREADS

cdef int bfloat16 = NPY_USERDEF - 1  # the number that NumPy gave to ml_dtypes' type, once one has been seen


cdef int dtype_of(cnp.ndarray array) noexcept:
    """The BNFAST_ number of an array's dtype, -1 if it has none."""
    global bfloat16
    cdef int number = cnp.PyArray_TYPE(array)
    if number == cnp.NPY_FLOAT32:
        return BNFAST_FLOAT32
    if number == cnp.NPY_FLOAT64:
        return BNFAST_FLOAT64
    if number == cnp.NPY_FLOAT16:
        return BNFAST_FLOAT16
    if number >= NPY_USERDEF and number != bfloat16 and array.dtype.name == "bfloat16":
        bfloat16 = number
    return BNFAST_BFLOAT16 if number == bfloat16 else -1


cpdef bint overlap(cnp.ndarray a, cnp.ndarray b):
    """Do two C-contiguous arrays share memory?"""
    cdef char *pa = cnp.PyArray_BYTES(a)
    cdef char *pb = cnp.PyArray_BYTES(b)
    return pa < pb + cnp.PyArray_NBYTES(b) and pb < pa + cnp.PyArray_NBYTES(a)


cpdef bint same_start(cnp.ndarray a, cnp.ndarray b):
    """Do two arrays begin at the same address?"""
    return cnp.PyArray_DATA(a) == cnp.PyArray_DATA(b)


cpdef bint any_negative(cnp.ndarray vector):
    """Is any value of a plain vector below zero?"""
    cdef bint wide = is_wide(vector)
    cdef void *data = cnp.PyArray_DATA(vector)
    cdef int64_t i
    for i in range(cnp.PyArray_SIZE(vector)):
        if (<double *> data)[i] < 0 if wide else (<float *> data)[i] < 0:
            return True
    return False


cpdef bint plain(x):
    """Is this an exact ndarray, C-contiguous, aligned, of a native float type that the kernels take?"""
    return PyArray_CheckExact(x) and PyArray_ISCARRAY_RO(x) and dtype_of(x) >= 0


def shared(a, b):
    """Do two arrays share memory? Yes, too, where it would take long to find out."""
    if plain(a) and plain(b):
        return overlap(a, b)
    try:
        return numpy.shares_memory(a, b, max_work=10_000)
    except numpy.exceptions.TooHardError:
        return True


cdef bint is_twin(a, cnp.ndarray x):
    """Is `a` a plain array of the shape and dtype of x?"""
    cdef int i
    if not plain(a) or cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(x) or cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(x):
        return False
    for i in range(cnp.PyArray_NDIM(x)):
        if cnp.PyArray_DIM(a, i) != cnp.PyArray_DIM(x, i):
            return False
    return True


cdef bint is_vector(v, cnp.npy_intp channels, out):
    """Is v absent, or a plain vector that shares no memory with out?"""
    if v is None:
        return True
    return (
        plain(v)
        and dtype_of(v) <= BNFAST_FLOAT64
        and cnp.PyArray_NDIM(v) == 1
        and cnp.PyArray_DIM(v, 0) == channels
        and (out is None or not overlap(v, out))
    )


cdef inline bint in_step(a, out):
    """May out, of the size of `a` or not there, be written while `a` is read?"""
    return out is None or same_start(a, out) or not overlap(a, out)


cdef bint is_ready(bnfast_call *c, x, axis, dy, out, gamma, beta, mean, var, eps, num_threads, int64_t least=2):
    """Can every argument be used just as it is? A quick look, so that the common call does not pay for the checks,
    conversions and messages of _geometry, which decides where this says no. If yes, c has a batch norm's numbers.
    least: values that each index along the axis has."""
    cdef cnp.npy_intp outer = 1, inner = 1
    cdef int i, at, ndim
    if not (plain(x) and type(axis) is int and type(eps) is float and 0 < <double> eps < INFINITY):
        return False
    if num_threads is not None and not (type(num_threads) is int and 0 < num_threads <= THREADS):
        return False
    ndim = cnp.PyArray_NDIM(x)
    if ndim < 2 or not -ndim <= axis < ndim:
        return False
    at = axis
    if at < 0:
        at += ndim
    for i in range(at):
        outer *= cnp.PyArray_DIM(x, i)
    for i in range(at + 1, ndim):
        inner *= cnp.PyArray_DIM(x, i)
    new_call(c, BNFAST_BATCH, 1, outer, cnp.PyArray_DIM(x, at), inner, 1)
    c.eps, c.threads = eps, 0 if num_threads is None else num_threads
    if c.channels < 1 or outer * inner < least:  # empty and single need words
        return False
    if c.channels == 1:  # all of it is one run, as _geometry has it
        c.outer, c.inner = 1, outer * inner
    if out is not None and not (is_twin(out, x) and PyArray_ISWRITEABLE(out) and in_step(x, out)):
        return False
    if dy is not None and not (is_twin(dy, x) and in_step(dy, out)):
        return False
    return (
        is_vector(gamma, c.channels, out)
        and is_vector(beta, c.channels, out)
        and is_vector(mean, c.channels, out)
        and is_vector(var, c.channels, out)
        and (var is None or not any_negative(var))
    )


cdef bint is_fused(bnfast_call *c, activation, residual, x, out):
    """The same of what is fused into the sweep."""
    if activation is not None:
        if type(activation) is not str or activation != "relu":
            return False
        c.relu = True
    return residual is None or (is_twin(residual, x) and in_step(residual, out))


cdef inline int64_t values_of(const bnfast_call *c) noexcept:
    """Values to a statistic."""
    return c.outer * c.inner * (c.channels // c.groups if c.norm == BNFAST_GROUP else 1)


cdef bint is_norm(bnfast_call *c, int norm, cnp.ndarray x, axis, groups):
    """The same of another norm: c, which has a batch norm's numbers, gets those of that one, if they are in order."""
    cdef int64_t last = cnp.PyArray_NDIM(x) - 1, at = axis
    if at < 0:
        at += last + 1
    c.norm = norm
    if norm != BNFAST_BATCH and c.channels < 2:  # is_ready() has made a batch norm's run of it
        return False
    if norm == BNFAST_GROUP:
        if at == 0 or not (groups is None or type(groups) is int and 0 < groups <= c.channels):
            return False
        c.groups = c.channels if groups is None else groups
        c.samples = cnp.PyArray_DIM(x, 0)
        c.outer //= c.samples
        return c.channels % c.groups == 0 and values_of(c) > 1
    if norm != BNFAST_BATCH:  # of rows, whose elements are what the last axis has for channels
        c.inner, c.channels, c.outer = c.channels, c.outer, 1
        return at == last
    return True


cdef bint are_statistics(const bnfast_call *c, cnp.ndarray x, s, out):
    """Have these the shape and dtype that the forward of another norm gives for x, and no memory in common with out?"""
    cdef int i, ndim = 2 if c.norm == BNFAST_GROUP else cnp.PyArray_NDIM(x) - 1
    if not plain(s) or dtype_of(s) != BNFAST_FLOAT64 or cnp.PyArray_NDIM(s) != ndim:
        return False
    if c.norm == BNFAST_GROUP:
        if cnp.PyArray_DIM(s, 0) != c.samples or cnp.PyArray_DIM(s, 1) != c.groups:
            return False
    else:
        for i in range(ndim):
            if cnp.PyArray_DIM(s, i) != cnp.PyArray_DIM(x, i):
                return False
    return out is None or not overlap(s, out)


def ready(x, axis, dy, out, gamma, beta, mean, var, eps, num_threads):
    """(outer, channels, inner) if every argument can be used just as it is, else None."""
    cdef bnfast_call c
    if is_ready(&c, x, axis, dy, out, gamma, beta, mean, var, eps, num_threads):
        return c.outer, c.channels, c.inner
    return None


cdef inline bint is_wide(cnp.ndarray vector):
    """Is it there, and of float64?"""
    return vector is not None and cnp.PyArray_TYPE(vector) == cnp.NPY_FLOAT64


cdef inline void *data_of(cnp.ndarray array):
    return cnp.PyArray_DATA(array) if array is not None else NULL


cdef inline cnp.ndarray as_wide(cnp.ndarray vector, bint wide):
    """A vector of float64, or as it is if that is not wanted."""
    if vector is None or not wide or cnp.PyArray_TYPE(vector) == cnp.NPY_FLOAT64:
        return vector
    cdef cnp.npy_intp i, size = cnp.PyArray_SIZE(vector)
    cdef cnp.ndarray made = new_array(1, &size, True)  # by hand, as PyArray_Cast takes four times as long
    for i in range(size):
        (<double *> cnp.PyArray_DATA(made))[i] = (<float *> cnp.PyArray_DATA(vector))[i]
    return made


cdef inline cnp.ndarray new_array(int ndim, cnp.npy_intp *shape, bint wide):
    return cnp.PyArray_SimpleNew(ndim, shape, cnp.NPY_FLOAT64 if wide else cnp.NPY_FLOAT32)


cdef class Fields:
    """What Moments (_moments.py) are made of: here, so that to make them is no call into Python, and so that nobody
    replaces them, as the kernels trust their sizes."""
    cdef readonly object count, mean, m2

    def _set(self, count, cnp.ndarray mean not None, cnp.ndarray m2 not None):
        self.count, self.mean, self.m2 = count, mean, m2


cdef void put_narrow(cnp.ndarray wide, cnp.ndarray narrow) noexcept:
    """narrow = wide: float64 to float32. (NumPy's own cast may want memory, and warns where a value overflows.)"""
    cdef double *a = <double *> cnp.PyArray_DATA(wide)
    cdef float *b = <float *> cnp.PyArray_DATA(narrow)
    cdef cnp.npy_intp i
    for i in range(cnp.PyArray_SIZE(wide)):
        b[i] = <float> a[i]


cpdef tuple pair(cnp.npy_intp size, bint wide):
    """Two new vectors of float64, or of float32."""
    return new_array(1, &size, wide), new_array(1, &size, wide)


def blend(tuple into, tuple running, Fields moments, momentum, bint unbiased):
    """The (mean, var, batches) that follow `running` after one more batch, in a pair(). All float64, of one length.

    new = keep * old + (1 - keep) * batch; keep is the momentum, or, if that is None, what makes the plain average.
    """
    cdef cnp.ndarray old_mean, old_var
    cdef cnp.ndarray mean = moments.mean, m2 = moments.m2
    old_mean, old_var, batches = running
    batches += 1
    cdef double keep = 1 - 1 / <double> batches if momentum is None else momentum
    cdef double divisor = moments.count - unbiased
    cdef cnp.npy_intp c, channels = cnp.PyArray_SIZE(old_mean)
    cdef cnp.ndarray new_mean = into[0], new_var = into[1]
    if not cnp.PyArray_SIZE(mean) == cnp.PyArray_SIZE(new_mean) == channels:
        raise ValueError(f"x: got {cnp.PyArray_SIZE(mean)} channels, the running averages have {channels}")
    cdef double *a = <double *> cnp.PyArray_DATA(new_mean)
    cdef double *b = <double *> cnp.PyArray_DATA(new_var)
    cdef double *p = <double *> cnp.PyArray_DATA(old_mean)
    cdef double *q = <double *> cnp.PyArray_DATA(old_var)
    cdef double *r = <double *> cnp.PyArray_DATA(mean)
    cdef double *s = <double *> cnp.PyArray_DATA(m2)
    cdef double new = 1 - keep
    for c in range(channels):  # 0 * NaN is NaN: a weight of nothing takes nothing
        a[c] = (keep * p[c] if keep else 0) + (new * r[c] if new else 0)
        b[c] = (keep * q[c] if keep else 0) + (new * (s[c] / divisor) if new else 0)
    return new_mean, new_var, batches


cdef inline void new_call(bnfast_call *c, int norm, int64_t samples, int64_t outer, int64_t channels, int64_t inner,
                          int64_t groups) noexcept:
    memset(c, 0, sizeof(c[0]))
    c.struct_size = sizeof(c[0])
    c.norm, c.samples, c.outer, c.channels, c.inner, c.groups = norm, samples, outer, channels, inner, groups


cdef inline bint is_back(int op) noexcept:
    return op == BNFAST_BACKWARD or op == BNFAST_NORMALIZE_BACKWARD


cdef inline bint narrows(int op, const bnfast_call *c, x):
    """Are the gradients of the parameters, made in float64, given in float32?"""
    return is_back(op) and c.param_dtype == BNFAST_FLOAT64 and not is_wide(x)


cdef tuple results(int op, bnfast_call *c, cnp.ndarray x, gamma, beta, int axes=0):
    """What a pass fills: (mean, m2) in float64; (dgamma, dbeta) of the parameters' type; or nothing. One-dimensional,
    but the statistics of groups, (samples, groups), and those of x's first `axes`, if there are any such."""
    cdef bint wide = is_wide(x) or is_wide(gamma) or is_wide(beta)
    cdef cnp.npy_intp[2] sizes
    cdef cnp.npy_intp *shape = sizes
    cdef int ndim = 1
    c.dtype, c.param_dtype = dtype_of(x), BNFAST_FLOAT64 if wide else BNFAST_FLOAT32
    if op == BNFAST_NORMALIZE:
        return ()
    if is_back(op):
        return pair(c.inner if c.norm == BNFAST_LAYER or c.norm == BNFAST_RMS else c.channels, wide)
    sizes[0] = c.channels
    if axes:
        ndim, shape = axes, cnp.PyArray_DIMS(x)
    elif c.norm == BNFAST_GROUP:
        ndim, sizes[0], sizes[1] = 2, c.samples, c.groups
    return new_array(ndim, shape, True), new_array(ndim, shape, True)


cdef int launch(int op, bnfast_call *c, tuple made, cnp.ndarray x, cnp.ndarray dy, cnp.ndarray out, cnp.ndarray gamma,
                cnp.ndarray beta, cnp.ndarray mean, cnp.ndarray var, cnp.ndarray residual, cnp.ndarray y,
                cnp.ndarray dresidual, cnp.ndarray mask) except -1:
    """The pass: c has its numbers, `made` is what results() gave for it."""
    cdef bint wide = c.param_dtype == BNFAST_FLOAT64
    cdef int status = BNFAST_SMALL_WORKSPACE
    cdef int64_t need
    cdef void *room = NULL
    gamma, beta, mean, var = as_wide(gamma, wide), as_wide(beta, wide), as_wide(mean, True), as_wide(var, True)
    c.x, c.dy, c.residual, c.y = data_of(x), data_of(dy), data_of(residual), data_of(y)
    c.out, c.dresidual = data_of(out), data_of(dresidual)
    c.gamma, c.beta, c.mask = data_of(gamma), data_of(beta), <uint8_t *> data_of(mask)
    c.mean, c.m2, c.var = <double *> data_of(mean), <double *> data_of(var), <double *> data_of(var)
    if is_back(op):
        c.dgamma, c.dbeta = data_of(made[0]), data_of(made[1])
    elif made:
        c.mean, c.m2 = <double *> data_of(made[0]), <double *> data_of(made[1])
    if cnp.PyArray_SIZE(x) < BRIEF:
        status = the_table.run(op, c)
    if status == BNFAST_SMALL_WORKSPACE:
        with nogil:
            need = the_table.workspace(op, c)
            if need > 0:
                room = malloc(need)
                c.workspace, c.workspace_size = room, need
            if need <= 0 or room != NULL:
                status = the_table.run(op, c)
            free(room)
        if need > 0 and room == NULL:
            raise MemoryError("bnfast: no memory for partial sums")
    if status:
        raise ValueError(the_table.strerror(status).decode())
    return 0


def run(int op, tuple view, cnp.ndarray x not None, cnp.ndarray out, result, double eps, int threads, *,
        int norm=BNFAST_BATCH, cnp.npy_intp samples=1, cnp.npy_intp groups=1, cnp.ndarray dy=None,
        cnp.ndarray gamma=None, cnp.ndarray beta=None, cnp.ndarray mean=None, cnp.ndarray var=None, bint relu=False,
        cnp.ndarray residual=None, cnp.ndarray y=None, cnp.ndarray dresidual=None, cnp.ndarray mask=None,
        tuple shape=None):
    """One pass of the C face. view: (outer, channels, inner); threads: 0 for the default. var is m2 in a BACKWARD.
    result: `out`, or the array that gets what is there then.

    Returns the vectors it made: (mean, m2) in float64; (dgamma, dbeta) in float32, or float64 if x is; or (). They are
    of that shape, and all there before anything is written: when memory runs out nothing has changed.
    """
    cdef bnfast_call c
    cdef bint narrow
    outer, channels, inner = view
    new_call(&c, norm, samples, outer, channels, inner, groups)
    c.eps, c.threads, c.relu = eps, threads, relu
    filled = made = results(op, &c, x, gamma, beta)
    narrow = narrows(op, &c, x)
    if narrow:
        made = pair(cnp.PyArray_SIZE(filled[0]), False)
    if shape is not None:
        made = made[0].reshape(shape), made[1].reshape(shape)
    if samples == 0:  # which the C face would take for 1
        for vector in made:
            vector[...] = 0
        return made
    launch(op, &c, filled, x, dy, out, gamma, beta, mean, var, residual, y, dresidual, mask)
    if narrow:
        put_narrow(filled[0], made[0])
        put_narrow(filled[1], made[1])
    if result is not out:
        result[...] = out
    return made


def run_if_ready(int op, moments, x, axis, dy, out, gamma, beta, mean, var, eps, num_threads, activation=None,
                 residual=None, y=None, mask=None, int norm=BNFAST_BATCH, groups=None):
    """A whole pass, if every argument can be used just as it is, else None: the way of the common call, which has no y
    and no mask. By ready() and run(), with the Python between them, a small one took 0.8 us more.

    moments: in a FORWARD, the class of those to return; in a BACKWARD, those that mean and var, its m2, are of. Layer
    and RMS norm only over the last axis. groups: None for each channel.
    Returns (y, moments), y alone, or (dx, dgamma, dbeta), all of which is there before anything is written.
    """
    cdef bnfast_call c
    cdef Fields fields
    cdef type made_as
    cdef bint points = norm == BNFAST_LAYER or norm == BNFAST_RMS, batch = norm == BNFAST_BATCH
    if y is not None or mask is not None or op != BNFAST_FORWARD and (mean is None or var is None):
        return None
    if not (
        is_ready(&c, x, axis, dy, out, gamma, beta, mean if batch else None, var if batch else None, eps, num_threads,
                 1 if points else 2)
        and is_norm(&c, norm, x, axis, groups)
        and is_fused(&c, activation, residual, x, out)
        and (op != BNFAST_BACKWARD or moments.count == values_of(&c))
        and (op != BNFAST_BACKWARD or batch or are_statistics(&c, x, mean, out) and are_statistics(&c, x, var, out))
    ):
        return None
    made = results(op, &c, x, gamma, beta, cnp.PyArray_NDIM(x) - 1 if points else 0)
    if narrows(op, &c, x):
        return None
    if out is None:
        out = output(x)
    result = out
    if op == BNFAST_FORWARD:
        made_as = moments  # typed, it is called in C
        fields = made_as.__new__(made_as)
        fields.count = values_of(&c)
        fields.mean, fields.m2 = made
        result = out, fields
    elif is_back(op):
        result = out, made[0], made[1]
    launch(op, &c, made, x, dy, out, gamma, beta, mean, var, residual, None, None, None)
    return result


def merge(int64_t count, cnp.ndarray mean not None, cnp.ndarray m2 not None, int64_t other_count,
          cnp.ndarray other_mean not None, cnp.ndarray other_m2 not None):
    """Merges the second moments into the first, in place. All plain float64, of one shape."""
    the_table.merge(cnp.PyArray_SIZE(mean), count, <double *> cnp.PyArray_DATA(mean), <double *> cnp.PyArray_DATA(m2),
                    other_count, <double *> cnp.PyArray_DATA(other_mean), <double *> cnp.PyArray_DATA(other_m2))
