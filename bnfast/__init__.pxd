"""`cimport bnfast`: the C face (include/bnfast.h) for Cython. Call import_bnfast() once in each module that calls."""
from libc.stdint cimport int32_t, int64_t, uint8_t


cdef extern from "Python.h":  # before bnfast.h, which offers bnfast_import() only then
    pass


cdef extern from "bnfast.h" nogil:
    enum:
        BNFAST_ABI_VERSION
        BNFAST_API_VERSION

    enum:
        BNFAST_FLOAT32
        BNFAST_FLOAT64
        BNFAST_FLOAT16
        BNFAST_BFLOAT16

    enum:
        BNFAST_BATCH
        BNFAST_GROUP
        BNFAST_LAYER
        BNFAST_RMS

    enum:
        BNFAST_MOMENTS
        BNFAST_FORWARD
        BNFAST_NORMALIZE
        BNFAST_BACKWARD
        BNFAST_NORMALIZE_BACKWARD

    enum:
        BNFAST_OK
        BNFAST_BAD_CALL
        BNFAST_BAD_DTYPE
        BNFAST_BAD_NORM
        BNFAST_BAD_SHAPE
        BNFAST_BAD_GROUPS
        BNFAST_BAD_COUNT
        BNFAST_BAD_EPS
        BNFAST_BAD_THREADS
        BNFAST_BAD_VARIANCE
        BNFAST_MISSING
        BNFAST_MISALIGNED
        BNFAST_OVERLAP
        BNFAST_SMALL_WORKSPACE
        BNFAST_STATUSES

    ctypedef struct bnfast_call:
        int64_t struct_size
        int32_t dtype
        int32_t param_dtype
        int32_t norm
        int32_t relu
        int32_t threads
        int32_t reserved
        int64_t samples
        int64_t outer
        int64_t channels
        int64_t inner
        int64_t groups
        double eps
        const void *x
        const void *dy
        const void *residual
        const void *y
        void *out
        void *dresidual
        const void *gamma
        const void *beta
        void *dgamma
        void *dbeta
        double *mean
        double *m2
        const double *var
        void *workspace
        int64_t workspace_size
        const uint8_t *mask

    ctypedef struct bnfast_api:
        int32_t abi_version
        int32_t api_version
        int64_t struct_size
        int (*run)(int, const bnfast_call *) noexcept nogil
        int64_t (*workspace)(int, const bnfast_call *) noexcept nogil
        const char *(*strerror)(int) noexcept nogil
        int (*merge)(int64_t, int64_t, double *, double *, int64_t, const double *, const double *) noexcept nogil
        int (*threads)(int64_t, int) noexcept nogil

    int bnfast_moments(const bnfast_call *)
    int bnfast_forward(const bnfast_call *)
    int bnfast_backward(const bnfast_call *)
    int bnfast_normalize(const bnfast_call *)
    int bnfast_normalize_backward(const bnfast_call *)
    int64_t bnfast_workspace(int, const bnfast_call *)
    const char *bnfast_strerror(int)
    int bnfast_merge(int64_t, int64_t, double *, double *, int64_t, const double *, const double *)
    int bnfast_threads(int64_t, int)


cdef extern from "bnfast.h":
    int import_bnfast "bnfast_import"() except -1
