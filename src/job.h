/* job.h: one call, described in plain C, and what happens to one channel between its sums and its coefficients.

   The schedules (channels first, channels last) know nothing of formulas: they sum, call job_finish() once a channel,
   and apply the coefficients it returns. Everything here is float64, so it is the same on every ISA. */
#ifndef BNFAST_JOB_H
#define BNFAST_JOB_H

#include "rows.h"

#include <float.h>
#include <math.h>

typedef enum {
    JOB_MOMENTS,     /* x -> mean, m2                                             sums */
    JOB_TRAIN,       /* x -> mean, m2, then out = (x - mean) * a + beta           sums, then apply */
    JOB_INFER,       /* x, mean, var -> out                                       apply */
    JOB_GRAD,        /* dy, x, mean, m2 -> out = dx, dgamma, dbeta                sums, then apply */
    JOB_GRAD_FROZEN  /* dy, x, mean, var -> out = dx, dgamma, dbeta               sums, and apply without them */
} job_pass;

/* One value a channel: float32 or float64 (wide). data NULL: absent. */
typedef struct {
    void *data;
    int wide;
} job_vector;

typedef struct {
    job_pass pass;
    int wide;                            /* elements are float64, else float32 */
    int threads;                         /* at least 1 */
    int stream;                          /* write `out` past the cache */
    int64_t outer, channels, inner;      /* x, dy and out are C-contiguous (outer, channels, inner) */
    const rows_table *op;
    const char *x, *dy;
    char *out;
    double eps;
    double var_count;                    /* the variance is var / var_count */
    job_vector gamma, beta;              /* in: absent means 1 and 0 */
    job_vector mean, var;                /* in; JOB_MOMENTS and JOB_TRAIN write them (mean, m2; float64) */
    job_vector dgamma, dbeta;            /* out */
} job;

enum { JOB_COEFS = 5 };                  /* as many as the hungriest primitive takes */

static inline double job_get(job_vector v, int64_t c, double absent) {
    return !v.data ? absent : v.wide ? ((double *)v.data)[c] : (double)((float *)v.data)[c];
}

static inline void job_set(job_vector v, int64_t c, double value) {
    if (v.wide)
        ((double *)v.data)[c] = value;
    else
        ((float *)v.data)[c] = (float)value;
}

static inline int job_has_sums(const job *j) { return j->pass != JOB_INFER; }
static inline int job_has_output(const job *j) { return j->pass != JOB_MOMENTS; }
static inline int job_has_dy(const job *j) { return j->pass == JOB_GRAD || j->pass == JOB_GRAD_FROZEN; }
/* Do the coefficients need the sums? Then the inputs are read twice. */
static inline int job_two_sweeps(const job *j) { return j->pass == JOB_TRAIN || j->pass == JOB_GRAD; }
static inline int64_t job_item(const job *j) { return j->wide ? sizeof(double) : sizeof(float); }

/* What channel c's sums are taken about: its first element, so that a constant channel sums to exactly zero and a
   far mean cancels nothing, in either layout the same. Not a NaN or an Inf: they shall spoil the sums, not the rest. */
static inline double job_shift(const job *j, int64_t c) {
    const double shift = j->wide ? ((const double *)j->x)[c * j->inner] : (double)((const float *)j->x)[c * j->inner];
    return isfinite(shift) ? shift : 0;
}

/* The nearest value the element type has, kept finite: a tiny eps under a constant channel makes 1/sqrt(var + eps)
   larger than a float, and 0 * inf is not 0. */
static inline double job_round(const job *j, double value) {
    if (j->wide) return value;
    if (isfinite(value)) value = value > FLT_MAX ? FLT_MAX : value < -FLT_MAX ? -FLT_MAX : value;
    return (float)value;
}

/* Sums of channel c about `shift` -> its results, and its coefficients k for run_affine or run_grad.

     mean = shift + s0/n,  m2 = s1 - s0*s0/n
     y    = (x - hi)*a + (beta - lo*a)                    hi + lo = mean, hi an element, a = gamma/sqrt(var + eps)
     dx   = a*dy - a*mean(dy) - a*xhat*mean(dy*xhat)      Ioffe & Szegedy 2015 (arXiv:1502.03167), section 3 */
static inline void job_finish(const job *j, int64_t c, double shift, const double sums[2], double k[JOB_COEFS]) {
    const double n = (double)j->outer * (double)j->inner;
    double mean, low = 0, var; /* the mean is mean + low */
    if (j->pass == JOB_TRAIN || j->pass == JOB_MOMENTS) {
        const double delta = sums[0] / n, m2 = sums[1] - sums[0] * delta;
        mean = shift + delta;
        const double part = mean - shift; /* Knuth's two-sum: what the addition above rounded away */
        low = (shift - (mean - part)) + (delta - part);
        var = (m2 < 0 ? 0 : m2) / n;
        job_set(j->mean, c, mean);
        job_set(j->var, c, m2 < 0 ? 0 : m2);
    } else {
        mean = job_get(j->mean, c, 0);
        var = job_get(j->var, c, 1) / j->var_count;
    }
    const double inv = 1 / sqrt(var + j->eps), a = job_get(j->gamma, c, 1) * inv;
    const double hi = job_round(j, mean), lo = isfinite(hi) && isfinite(mean) ? (mean - hi) + low : 0;
    k[0] = hi;
    k[1] = job_round(j, a);
    if (!job_has_dy(j)) {
        k[2] = job_round(j, job_get(j->beta, c, 0) - lo * a);
        return;
    }
    const double sum_dy = sums[0], sum_dy_xhat = (sums[1] - (mean - shift) * sums[0]) * inv;
    job_set(j->dbeta, c, sum_dy);
    job_set(j->dgamma, c, sum_dy_xhat);
    if (j->pass == JOB_GRAD_FROZEN) { /* dx = a*dy: an affine of dy, and adding -0 keeps the sign of a zero */
        k[0] = 0;
        k[2] = -0.0;
        return;
    }
    const double b = -a * (sum_dy_xhat / n);
    k[2] = job_round(j, inv);
    k[3] = job_round(j, b);
    k[4] = job_round(j, -a * (sum_dy / n) - b * inv * lo);
}

#endif
