/* job.h: one call, described in plain C.

   The schedules (channels first, channels last, points) know nothing of formulas: they sum, call job_finish() for
   statistics, and apply the coefficients it returns (finish.inc).

   A statistic is shared by `share` neighbouring channels: 1 of them in a batch norm, where the samples of the batch are
   part of `outer`. In an instance or group norm each sample has statistics of its own. Where `outer` is 1 its channels
   simply follow those of the sample before, and gamma and beta repeat after `period` of them; else the job is done once
   for each of `samples`. In a layer or RMS norm (`points`) each run has a statistic, and each element of a run a gamma
   and a beta. */
#ifndef BNFAST_JOB_H
#define BNFAST_JOB_H

#include "rows.h"

#include <float.h>
#include <math.h>
#include <string.h>

typedef enum {
    JOB_MOMENTS,     /* x -> mean, m2                                             sums */
    JOB_TRAIN,       /* x -> mean, m2, then out = (x - mean) * a + beta           sums, then apply */
    JOB_INFER,       /* x, mean, var -> out                                       apply */
    JOB_GRAD,        /* dy, x, mean, m2 -> out = dx, dgamma, dbeta                sums, then apply */
    JOB_GRAD_FROZEN  /* dy, x, mean, var -> out = dx, dgamma, dbeta               sums, and apply without them */
} job_pass;

/* One value a channel (or a statistic): float32 or float64 (wide). data NULL: absent. */
typedef struct {
    void *data;
    int wide;
} job_vector;

typedef struct job {
    job_pass pass;
    int threads;                         /* at least 1 */
    int far;                             /* the arrays do not stay in the cache: they come from memory, */
    int stream;                          /* and `out` is written past it */
    int relu;                            /* out = max(out, 0); backward, dy is gated, as rows.h says */
    int points;                          /* gamma and beta have `inner` values, of the type computed with, both present */
    int about_zero;                      /* the mean counts as 0 (RMS) */
    int64_t samples;                     /* so many arrays, one after the other: */
    int64_t outer, channels, inner;      /* x, dy, res and out are C-contiguous (outer, channels, inner) */
    int64_t share, period;               /* channels to a statistic, channels until gamma repeats */
    const rows_table *op;
    const char *x, *dy, *res;            /* res, if there is one, is added before the ReLU */
    char *out;
    const uint8_t *mask;                 /* of (outer, inner): 0 where a position does not count. NULL: all do */
    int64_t first;                       /* the element of channel 0 at the first position that counts */
    double count;                        /* values to a statistic, at least 1; under a mask 0 if nothing counts */
    double eps;
    double var_count;                    /* the variance is var / var_count */
    job_vector gamma, beta;              /* in: absent means 1 and 0 */
    job_vector mean, var;                /* in; JOB_MOMENTS and JOB_TRAIN write them (mean, m2; float64) */
    job_vector dgamma, dbeta;            /* out, one a channel (before repetition), or an element (points) */
    char *room;                          /* scratch: the bytes of the schedule's room(), from a cache line on */
} job;

enum { JOB_COEFS = 8, JOB_KEPT = 6 };    /* k[0] to k[7] of rows.h, of which the sweeps read k[0] to k[5] at most, */
enum { JOB_FLIP = 3, JOB_LIMIT = 4 };    /* and the sums of a ReLU's backward these two */
/* Doubles between the scratch of two threads: neighbouring lines, which a CPU fetches together, make one wait. */
enum { JOB_APART = 4 * ROWS_LINE / sizeof(double) };

/* Bytes, and n doubles, in whole lines. */
static inline int64_t job_line_bytes(int64_t bytes) { return (bytes + ROWS_LINE - 1) / ROWS_LINE * ROWS_LINE; }
static inline int64_t job_lines(int64_t n) {
    const int64_t size = sizeof(double);
    return job_line_bytes(n * size) / size;
}

static inline double job_get(job_vector v, int64_t c, double absent) {
    return !v.data ? absent : v.wide ? ((double *)v.data)[c] : (double)((float *)v.data)[c];
}

static inline void job_set(job_vector v, int64_t c, double value) {
    if (!v.data) return;
    if (v.wide)
        ((double *)v.data)[c] = value;
    else
        ((float *)v.data)[c] = (float)value;
}

static inline job_vector job_from(job_vector v, int64_t c) {
    if (v.data) v.data = (char *)v.data + c * (int64_t)(v.wide ? sizeof(double) : sizeof(float));
    return v;
}

static inline int job_has_sums(const job *j) { return j->pass != JOB_INFER; }
/* Are the mean and var arguments? */
static inline int job_is_given(const job *j) { return j->pass != JOB_MOMENTS && j->pass != JOB_TRAIN; }
static inline int job_has_output(const job *j) { return j->pass != JOB_MOMENTS; }
static inline int job_has_dy(const job *j) { return j->pass == JOB_GRAD || j->pass == JOB_GRAD_FROZEN; }
/* Do the coefficients need the sums? Then the inputs are read twice. */
static inline int job_two_sweeps(const job *j) { return j->pass == JOB_TRAIN || j->pass == JOB_GRAD; }
/* Is the output made from dy and x, or from one of them alone? */
static inline int job_from_both(const job *j) { return j->pass == JOB_GRAD || (j->pass == JOB_GRAD_FROZEN && j->relu); }

static inline int64_t job_param(const job *j, int64_t c) { return c < j->period ? c : c % j->period; }

/* Bytes of the type computed with, and how many of JOB_COEFS the sweeps read, at most JOB_KEPT. */
static inline int64_t job_real(const job *j) { return j->op->wide ? sizeof(double) : sizeof(float); }
static inline int job_kept(const job *j) { return !job_from_both(j) ? 3 : j->relu ? JOB_KEPT : JOB_KEPT - 1; }

/* How many of n positions, from `at` on, are alike: all count, or none of them. */
static inline int64_t job_stretch(const job *j, int64_t at, int64_t n) {
    if (!j->mask) return n;
    const uint8_t *mask = j->mask + at, *end;
    int64_t i = 0;
    if (*mask) return (end = memchr(mask, 0, (size_t)n)) ? end - mask : n;
    while (i < n && !mask[i]) i++;
    return i;
}

static inline int job_counts(const job *j, int64_t at) { return !j->mask || j->mask[at]; }

/* Counts the positions that count, and finds the first of them. */
static inline void job_look_at_mask(job *j) {
    const int64_t n = j->outer * j->inner;
    int64_t count = 0, first = job_counts(j, 0) ? 0 : job_stretch(j, 0, n);
    for (int64_t i = 0; i < n; i++) count += j->mask[i] != 0;
    j->count = (double)count;
    if (count == n) j->mask = NULL; /* a mask of all is none */
    j->first = first / j->inner * j->channels * j->inner + first % j->inner;
}

/* What the sums of n statistics, from channel c on, are taken about: their first elements that count, so that a constant
   channel sums to exactly zero and a far mean cancels nothing, in either layout the same. Not a NaN or an Inf: they
   shall spoil the sums, not the rest. shift[n * parts]: one for each of a statistic's `parts` sums. */
static inline void job_shifts(const job *j, int64_t c, int64_t n, int64_t parts, double *shift) {
    if (j->about_zero)
        memset(shift, 0, (size_t)n * sizeof *shift);
    else
        j->op->values(j->x + (j->first + c * j->inner) * j->op->item, n, j->share * j->inner, shift);
    for (int64_t t = 0; t < n; t++)
        if (!isfinite(shift[t])) shift[t] = 0;
    for (int64_t t = n - 1; t >= 0 && parts > 1; t--)
        for (int64_t i = parts - 1; i >= 0; i--) shift[t * parts + i] = shift[t];
}

/* The coefficients k[JOB_COEFS][gap] of the channels of n statistics, from channel c on, as far as they follow from a
   mean and var that are given. */
static inline void job_given(const job *j, int64_t c, int64_t n, double *k, int64_t gap) {
    j->op->given(j, c, n, k, gap);
}

/* n statistics, from channel c on, and their sums -> their results, and the coefficients k[JOB_COEFS][gap] of their
   n * share channels. sums[n * parts][2], each about a shift of its own: a statistic has `parts` of them, `share` or,
   where its channels were summed as one, 1; backward always `share`, and job_given() before. */
static inline void job_finish(const job *j, int64_t c, int64_t n, int64_t parts, const double *shift,
                              const double *sums, double *k, int64_t gap) {
    j->op->finish(j, c, n, parts, shift, sums, k, gap);
}

#endif
