"""From checked arrays to a job, and the job to the schedule of its layout. The arrays are trusted: _geometry checks."""
cimport numpy as cnp
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
from ._machine cimport llc_bytes, table, threads_for

cnp.import_array()

MOMENTS, TRAIN, INFER, GRAD, GRAD_FROZEN = JOB_MOMENTS, JOB_TRAIN, JOB_INFER, JOB_GRAD, JOB_GRAD_FROZEN


cdef extern from "numpy/arrayobject.h" nogil:
    bint PyArray_CheckExact(object)
    bint PyArray_ISCARRAY_RO(cnp.ndarray)
    bint PyArray_ISNOTSWAPPED(cnp.ndarray)


def plain(array):
    """Is this an exact ndarray, C-contiguous, aligned, of native float32 or float64?"""
    return (
        PyArray_CheckExact(array)
        and PyArray_ISCARRAY_RO(array)
        and (cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32 or cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64)
        and PyArray_ISNOTSWAPPED(array)
    )


def overlap(cnp.ndarray a, cnp.ndarray b):
    """Do two C-contiguous arrays share memory?"""
    cdef char *pa = cnp.PyArray_BYTES(a)
    cdef char *pb = cnp.PyArray_BYTES(b)
    return pa < pb + cnp.PyArray_NBYTES(b) and pb < pa + cnp.PyArray_NBYTES(a)


def same_start(cnp.ndarray a, cnp.ndarray b):
    """Do two arrays begin at the same address?"""
    return cnp.PyArray_DATA(a) == cnp.PyArray_DATA(b)


def any_negative(cnp.ndarray vector):
    """Is any value of a plain vector below zero?"""
    cdef job_vector v = vector_of(vector)
    cdef int64_t i
    for i in range(cnp.PyArray_SIZE(vector)):
        if (<double *> v.data)[i] < 0 if v.wide else (<float *> v.data)[i] < 0:
            return True
    return False


cdef inline job_vector vector_of(cnp.ndarray array):
    cdef job_vector v
    v.data, v.wide = NULL, 0
    if array is not None:
        v.data, v.wide = cnp.PyArray_DATA(array), cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64
    return v


cdef inline cnp.ndarray new_vector(cnp.npy_intp size, bint wide):
    return cnp.PyArray_EMPTY(1, &size, cnp.NPY_FLOAT64 if wide else cnp.NPY_FLOAT32, 0)


cdef bint streams(const job *j, int64_t size) noexcept nogil:
    """Is the output, of `size` bytes, written past the cache? Then no line is read only to be overwritten, which pays
    for what would not stay in the cache anyway; a second sweep also wants the room for its inputs."""
    return size * (4 if job_two_sweeps(j) else 2) > llc_bytes()


def run(int op, tuple view, cnp.ndarray x not None, cnp.ndarray dy, cnp.ndarray out, cnp.ndarray gamma,
        cnp.ndarray beta, cnp.ndarray mean, cnp.ndarray var, double var_count, double eps, int threads):
    """One pass. view: (outer, channels, inner), none of them 0; threads: 0 for the default.

    Returns the vectors it made: (mean, m2) in float64, (dgamma, dbeta) in the parameters' type, or None.
    """
    cdef job j
    cdef int status
    cdef cnp.ndarray first = None, second = None
    j.outer, j.channels, j.inner = view
    j.op_pass = <job_pass> op
    j.wide = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT64
    j.op = table(j.wide)
    j.x = cnp.PyArray_BYTES(x)
    j.dy = cnp.PyArray_BYTES(dy) if dy is not None else NULL
    j.out = cnp.PyArray_BYTES(out) if out is not None else NULL
    j.eps = eps
    j.var_count = var_count
    j.gamma, j.beta = vector_of(gamma), vector_of(beta)
    if job_has_sums(&j):
        first = new_vector(j.channels, j.wide or not job_has_dy(&j))
        second = new_vector(j.channels, j.wide or not job_has_dy(&j))
    if op == JOB_TRAIN or op == JOB_MOMENTS:
        j.mean, j.var = vector_of(first), vector_of(second)
    else:
        j.mean, j.var = vector_of(mean), vector_of(var)
        j.dgamma, j.dbeta = vector_of(first), vector_of(second)
    j.threads = threads_for(j.outer * j.channels * j.inner, threads)
    j.stream = streams(&j, cnp.PyArray_NBYTES(x))
    with nogil:
        status = _channels_last.run(&j) if j.inner == 1 else _channels_first.run(&j)
    if status:
        raise MemoryError("bnfast: no memory for partial sums")
    return (first, second) if first is not None else None
