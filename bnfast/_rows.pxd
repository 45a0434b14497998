"""The arithmetic: the tables of primitives that src/rows.h describes."""
from libc.stdint cimport int64_t, uint8_t


cdef extern from "rows.h" nogil:
    enum:
        ROWS_LANES
        ROWS_TILE
        ROWS_LINE
        ROWS_PAGE
        ROWS_FAR
        ROWS_SOON
        ROWS_WRAP
        ROWS_FROZEN

    ctypedef enum rows_type:
        ROWS_F32
        ROWS_F64
        ROWS_F16
        ROWS_BF16

    ctypedef struct rows_coefs:
        const double *at
        int64_t step
        int64_t gap

    ctypedef struct rows_also:
        const void *x
        const void *dy
        const double *shift
        const rows_coefs *gate
        double *lanes
        int64_t ahead

    ctypedef struct rows_table:
        int64_t item
        int64_t wide
        void (*gate)(void *, const void *, const void *, int64_t) noexcept nogil
        void (*run_keep)(
            void *, int64_t, const void *, int64_t, const uint8_t *, int64_t, int64_t, int64_t, double) noexcept nogil
        void (*run_sums)(
            const void *, int64_t, int64_t, int64_t, int64_t, int64_t, const double *, double *,
            int64_t, int) noexcept nogil
        void (*run_affine)(
            void *, const void *, const void *, int64_t, int64_t, int64_t, const rows_coefs *, int, int, int64_t,
            const rows_also *) noexcept nogil
        void (*run_grad_sums)(
            const void *, const void *, int64_t, int64_t, int64_t, int64_t, int64_t, const double *, const rows_coefs *,
            double *, int64_t, int) noexcept nogil
        void (*run_grad)(
            void *, const void *, const void *, int64_t, int64_t, int64_t, const rows_coefs *, int, int, int64_t,
            const rows_also *) noexcept nogil
        void (*run_fold)(const double *, double *) noexcept nogil
        void (*lane_sums)(
            const void *, int64_t, int64_t, int64_t, int64_t, const double *, double *, double *) noexcept nogil
        void (*lane_grad_sums)(
            const void *, const void *, int64_t, int64_t, int64_t, int64_t, const double *, const void *, int64_t,
            double *, double *) noexcept nogil
        void (*lane_affine)(
            void *, const void *, const void *, int64_t, int64_t, int64_t, const void *, int, int,
            int64_t) noexcept nogil
        void (*lane_grad)(
            void *, const void *, const void *, int64_t, int64_t, int64_t, const void *, int, int,
            int64_t) noexcept nogil
        void (*lane_spread)(void *, const double *, int64_t, int64_t) noexcept nogil
        void (*lane_fold)(const double *, const double *, int64_t, int64_t, double *, int64_t) noexcept nogil
        void (*point_affine)(
            void *, const void *, int64_t, int64_t, int64_t, const rows_coefs *, const void *, const void *, int,
            int64_t) noexcept nogil
        void (*point_sums)(
            const void *, const void *, int64_t, int64_t, int64_t, const rows_coefs *, const void *, double *,
            double *, double *, int64_t, int64_t) noexcept nogil
        void (*point_grad)(
            void *, const void *, const void *, int64_t, int64_t, int64_t, const rows_coefs *, const void *, int,
            int64_t) noexcept nogil

    ctypedef struct rows_isa:
        const char *name
        const rows_table *type[4]

    const rows_isa *rows_select(const char *name)
    const rows_isa *rows_available(int i)
    int rows_beyond_a_mesh()
    void rows_fence()
