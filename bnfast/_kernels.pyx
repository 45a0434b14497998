"""From checked arrays to a job, and the job to the schedule of its layout. The arrays are trusted: _geometry checks."""
cimport numpy as cnp
from cython.parallel cimport prange
from libc.math cimport INFINITY
from libc.stdint cimport int64_t

from . cimport _channels_first, _channels_last
from ._job cimport (
    JOB_GRAD,
    JOB_GRAD_FROZEN,
    JOB_INFER,
    JOB_MOMENTS,
    JOB_TRAIN,
    job,
    job_has_dy,
    job_has_sums,
    job_pass,
    job_two_sweeps,
    job_vector,
)
from ._machine cimport ROWS_F32, ROWS_F64, llc_bytes, rows_table, table, threads_for

cnp.import_array()

MOMENTS, TRAIN, INFER, GRAD, GRAD_FROZEN = JOB_MOMENTS, JOB_TRAIN, JOB_INFER, JOB_GRAD, JOB_GRAD_FROZEN


cdef extern from "numpy/arrayobject.h" nogil:
    bint PyArray_CheckExact(object)
    bint PyArray_ISCARRAY_RO(cnp.ndarray)
    bint PyArray_ISNOTSWAPPED(cnp.ndarray)
    bint PyArray_ISWRITEABLE(cnp.ndarray)


def plain(array):
    """Is this an exact ndarray, C-contiguous, aligned, of native float32 or float64?"""
    return is_plain(array)


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
    cdef job_vector v = vector_of(vector)
    cdef int64_t i
    for i in range(cnp.PyArray_SIZE(vector)):
        if (<double *> v.data)[i] < 0 if v.wide else (<float *> v.data)[i] < 0:
            return True
    return False


cdef bint is_plain(x):
    """Is x what plain() says?"""
    return (
        PyArray_CheckExact(x)
        and PyArray_ISCARRAY_RO(x)
        and (cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32 or cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT64)
        and PyArray_ISNOTSWAPPED(x)
    )


cdef bint is_twin(a, cnp.ndarray x):
    """Is `a` a plain array of the shape and dtype of x?"""
    cdef int i
    if not is_plain(a) or cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(x) or cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(x):
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
        is_plain(v)
        and cnp.PyArray_NDIM(v) == 1
        and cnp.PyArray_DIM(v, 0) == channels
        and (out is None or not overlap(v, out))
    )


def ready(x, axis, dy, out, gamma, beta, mean, var, eps, num_threads):
    """(outer, channels, inner) if every argument can be used just as it is, else None: a quick look, so that the
    common call does not pay for the checks, conversions and messages of _geometry, which then decides."""
    cdef cnp.npy_intp outer = 1, channels, inner = 1
    cdef int i, at, ndim
    if not (is_plain(x) and type(axis) is int and type(eps) is float and 0 < <double> eps < INFINITY):
        return None
    if num_threads is not None and not (type(num_threads) is int and 0 < num_threads <= 1 << 15):
        return None
    ndim = cnp.PyArray_NDIM(x)
    if ndim < 2 or not -ndim <= axis < ndim:
        return None
    at = axis
    if at < 0:
        at += ndim
    for i in range(at):
        outer *= cnp.PyArray_DIM(x, i)
    for i in range(at + 1, ndim):
        inner *= cnp.PyArray_DIM(x, i)
    channels = cnp.PyArray_DIM(x, at)
    if channels < 2 or outer * inner < 2:  # one channel has a view of its own; empty and single need words
        return None
    if out is not None and not (
        is_twin(out, x) and PyArray_ISWRITEABLE(out) and (same_start(out, x) or not overlap(out, x))
    ):
        return None
    if dy is not None and not (
        is_twin(dy, x) and (out is None or same_start(out, dy) or not overlap(out, dy))
    ):
        return None
    if not (
        is_vector(gamma, channels, out)
        and is_vector(beta, channels, out)
        and is_vector(mean, channels, out)
        and is_vector(var, channels, out)
    ):
        return None
    if var is not None and any_negative(var):
        return None
    return outer, channels, inner


cdef inline job_vector vector_of(cnp.ndarray array):
    cdef job_vector v
    v.data, v.wide = NULL, 0
    if array is not None:
        v.data, v.wide = cnp.PyArray_DATA(array), cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64
    return v


cdef inline cnp.ndarray new_vector(cnp.npy_intp size, bint wide):
    return cnp.PyArray_EMPTY(1, &size, cnp.NPY_FLOAT64 if wide else cnp.NPY_FLOAT32, 0)


def blend(cnp.ndarray old_mean, cnp.ndarray old_var, cnp.ndarray mean, cnp.ndarray m2, double divisor, double keep):
    """New running (mean, var): keep * old + (1 - keep) * (mean, m2 / divisor). All float64, of one length."""
    cdef cnp.npy_intp c, channels = cnp.PyArray_SIZE(mean)
    cdef cnp.ndarray new_mean = new_vector(channels, True), new_var = new_vector(channels, True)
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
    return new_mean, new_var


cdef bint streams(const job *j, int64_t size) noexcept nogil:
    """Is the output, of `size` bytes, written past the cache? Then no line is read only to be overwritten, which pays
    for what would not stay in the cache anyway; a second sweep also wants the room for its inputs."""
    return size * (4 if job_two_sweeps(j) else 2) > llc_bytes()


def run(int op, tuple view, cnp.ndarray x not None, cnp.ndarray dy, cnp.ndarray out, cnp.ndarray gamma,
        cnp.ndarray beta, cnp.ndarray mean, cnp.ndarray var, double var_count, double eps, int threads,
        cnp.npy_intp samples=1, cnp.npy_intp share=1, cnp.npy_intp period=0, bint relu=False,
        cnp.ndarray residual=None):
    """One pass. view: (outer, channels, inner), none of them 0; threads: 0 for the default; the rest as in job.h.

    Returns the vectors it made: (mean, m2) in float64, (dgamma, dbeta) in the parameters' type, or None. Where samples
    have statistics of their own, dgamma and dbeta are those of each sample, in float64.
    """
    cdef job j
    cdef int status
    cdef cnp.npy_intp size
    cdef bint own = samples > 1 or period > 0
    cdef cnp.ndarray first = None, second = None
    j.outer, j.channels, j.inner = view
    j.samples, j.share, j.period = samples, share, period if period else j.channels
    j.points = j.about_zero = 0
    j.relu = relu
    j.op_pass = <job_pass> op
    j.op = table(ROWS_F64 if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT64 else ROWS_F32)
    j.x = cnp.PyArray_BYTES(x)
    j.dy = cnp.PyArray_BYTES(dy) if dy is not None else NULL
    j.res = cnp.PyArray_BYTES(residual) if residual is not None else NULL
    j.out = cnp.PyArray_BYTES(out) if out is not None else NULL
    j.eps = eps
    j.var_count = var_count
    j.gamma, j.beta = vector_of(gamma), vector_of(beta)
    if job_has_sums(&j):
        size = samples * j.channels // (1 if job_has_dy(&j) else share)
        first = new_vector(size, own or j.op.wide or not job_has_dy(&j))
        second = new_vector(size, own or j.op.wide or not job_has_dy(&j))
    if op == JOB_TRAIN or op == JOB_MOMENTS:
        j.mean, j.var = vector_of(first), vector_of(second)
    else:
        j.mean, j.var = vector_of(mean), vector_of(var)
        j.dgamma, j.dbeta = vector_of(first), vector_of(second)
    j.threads = threads_for(samples * j.outer * j.channels * j.inner, threads)
    j.stream = streams(&j, cnp.PyArray_NBYTES(x))
    with nogil:
        status = _channels_last.run(&j) if j.inner == 1 else _channels_first.run(&j)
    if status:
        raise MemoryError("bnfast: no memory for partial sums")
    return (first, second) if first is not None else None


def gate(cnp.ndarray dy not None, cnp.ndarray y not None, cnp.ndarray out not None, int threads):
    """out = dy where y is above 0, else 0: back through a ReLU. All plain, of one shape and dtype."""
    cdef const rows_table *op = table(ROWS_F64 if cnp.PyArray_TYPE(dy) == cnp.NPY_FLOAT64 else ROWS_F32)
    cdef const char *a = cnp.PyArray_BYTES(dy)
    cdef const char *b = cnp.PyArray_BYTES(y)
    cdef char *c = cnp.PyArray_BYTES(out)
    cdef int64_t size = cnp.PyArray_SIZE(dy), item = op.item, lines = (size + 63) // 64, first, last
    cdef int t, count = threads_for(size, threads)
    for t in prange(count, num_threads=count, nogil=True, schedule="static"):
        first, last = lines * t // count * 64, min(lines * (t + 1) // count * 64, size)
        op.gate(c + first * item, a + first * item, b + first * item, last - first)
