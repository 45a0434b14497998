"""The C description of one call (src/job.h), and how its work is shared out (src/share.h)."""
from libc.stdint cimport int64_t, uint8_t

from ._rows cimport rows_table


cdef extern from "job.h" nogil:
    ctypedef enum job_pass:
        JOB_MOMENTS
        JOB_TRAIN
        JOB_INFER
        JOB_GRAD
        JOB_GRAD_FROZEN

    ctypedef struct job_vector:
        void *data
        int wide

    ctypedef struct job:
        job_pass op_pass "pass"
        int threads
        int far
        int stream
        int relu
        int points
        int about_zero
        int64_t samples
        int64_t outer
        int64_t channels
        int64_t inner
        int64_t share
        int64_t period
        const rows_table *op
        const char *x
        const char *dy
        const char *res
        char *out
        const uint8_t *mask
        int64_t first
        double count
        double eps
        double var_count
        job_vector gamma
        job_vector beta
        job_vector mean
        job_vector var
        job_vector dgamma
        job_vector dbeta
        char *room

    enum:
        JOB_COEFS
        JOB_KEPT
        JOB_FLIP
        JOB_LIMIT
        JOB_APART

    int64_t job_line_bytes(int64_t)
    int64_t job_lines(int64_t)

    int64_t job_real(const job *)
    int job_kept(const job *)
    bint job_has_sums(const job *)
    bint job_is_given(const job *)
    bint job_has_output(const job *)
    bint job_has_dy(const job *)
    bint job_two_sweeps(const job *)
    bint job_from_both(const job *)
    job_vector job_from(job_vector, int64_t)
    double job_get(job_vector, int64_t, double)
    void job_set(job_vector, int64_t, double)
    int64_t job_stretch(const job *, int64_t, int64_t)
    bint job_counts(const job *, int64_t)
    void job_look_at_mask(job *)
    void job_shifts(const job *, int64_t, int64_t, int64_t, double *)
    void job_given(const job *, int64_t, int64_t, double *, int64_t)
    void job_finish(const job *, int64_t, int64_t, int64_t, const double *, const double *, double *, int64_t)


cdef extern from "share.h" nogil:
    ctypedef struct job_tree:
        double *sums
        int64_t size
        int64_t parts
        int64_t units

    int64_t job_part(const job *, int64_t, int64_t)
    int64_t job_part_in(const job *, int64_t, int64_t, int64_t)
    int64_t job_part_lines(const job *, int64_t, int64_t)
    int64_t job_power(int64_t)
    void job_add_own(const job *, const job_tree *, int64_t)
    void job_add_rest(const job *, const job_tree *, int64_t, int64_t)
