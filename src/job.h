/* job.h: one call, described in plain C, and what happens to one statistic between its sums and its coefficients.

   The schedules (channels first, channels last, points) know nothing of formulas: they sum, call job_finish() for each
   statistic, and apply the coefficients it returns. Everything here is float64, so it is the same on every ISA.

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

typedef struct {
    job_pass pass;
    int threads;                         /* at least 1 */
    int stream;                          /* write `out` past the cache */
    int relu;                            /* out = max(out, 0); backward, dy is gated by what forward had */
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
    double count;                        /* values to a statistic, at least 1 */
    double eps;
    double var_count;                    /* the variance is var / var_count */
    job_vector gamma, beta;              /* in: absent means 1 and 0 */
    job_vector mean, var;                /* in; JOB_MOMENTS and JOB_TRAIN write them (mean, m2; float64) */
    job_vector dgamma, dbeta;            /* out, one a channel (before repetition), or an element (points) */
    char *room;                          /* scratch, as much as the schedule's room() says, at a multiple of 8 */
} job;

enum { JOB_COEFS = 8 };                  /* rows.h says what they are */

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
static inline int job_has_output(const job *j) { return j->pass != JOB_MOMENTS; }
static inline int job_has_dy(const job *j) { return j->pass == JOB_GRAD || j->pass == JOB_GRAD_FROZEN; }
/* Do the coefficients need the sums? Then the inputs are read twice. */
static inline int job_two_sweeps(const job *j) { return j->pass == JOB_TRAIN || j->pass == JOB_GRAD; }
/* Is the output made from dy and x, or from one of them alone? */
static inline int job_from_both(const job *j) { return j->pass == JOB_GRAD || (j->pass == JOB_GRAD_FROZEN && j->relu); }

/* How many of n positions, from `at` on, are alike: all count, or none of them. */
static inline int64_t job_stretch(const job *j, int64_t at, int64_t n) {
    const uint8_t *mask = j->mask + at, *end;
    int64_t i = 0;
    if (!j->mask) return n;
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
    j->first = first / j->inner * j->channels * j->inner + first % j->inner;
}

/* What the sums of n statistics, from channel c on, are taken about: their first elements that count, so that a constant
   channel sums to exactly zero and a far mean cancels nothing, in either layout the same. Not a NaN or an Inf: they
   shall spoil the sums, not the rest. shift[n * parts]: one for each of a statistic's `parts` sums. */
static inline void job_shifts(const job *j, int64_t c, int64_t n, int64_t parts, double *shift) {
    for (; n > 0; n--, c += j->share) {
        double value = j->about_zero ? 0 : j->op->value(j->x + (j->first + c * j->inner) * j->op->item);
        if (!isfinite(value)) value = 0;
        for (int64_t i = 0; i < parts; i++) *shift++ = value;
    }
}

/* The nearest value the type computed with has, kept finite: a tiny eps under a constant channel makes 1/sqrt(var + eps)
   larger than a float, and 0 * inf is not 0. */
static inline double job_round(const job *j, double value) {
    if (j->op->wide) return value;
    const float near = (float)value;
    if (__builtin_expect(isinf(near), 0) && !isinf(value)) return copysign(FLT_MAX, value);
    return near;
}

static inline int64_t job_param(const job *j, int64_t c) { return c < j->period ? c : c % j->period; }

/* k[0..2] and k[5..7] of the channels of n statistics, from channel c on: what follows from mean + low and
   inv = 1/sqrt(var + eps) alone.

     y = (x - hi)*a + (beta - lo*a)                    hi + lo = mean, hi an element, a = gamma*inv */
static inline void job_scale(const job *j, int64_t c, int64_t n, const double *mean, const double *low,
                             const double *inv, double *k) {
    int64_t p = job_param(j, c);
    for (int64_t t = 0; t < n; t++) {
        const double hi = job_round(j, mean[t]), near_inv = job_round(j, inv[t]);
        const double lo = isfinite(mean[t]) ? (mean[t] - hi) + low[t] : 0;
        for (int64_t i = 0; i < j->share; i++, k += JOB_COEFS) {
            const double a = j->points ? inv[t] : job_get(j->gamma, p, 1) * inv[t];
            k[0] = hi;
            k[1] = job_round(j, a);
            k[5] = job_round(j, (j->points ? 0 : job_get(j->beta, p, 0)) - lo * a);
            k[2] = job_has_dy(j) ? near_inv : k[5];
            k[6] = mean[t];
            k[7] = inv[t];
            if (++p == j->period) p = 0;
        }
    }
}

/* Statistics are finished so many at a time, step by step: divisions and roots take long, but overlap, or share a
   vector. */
enum { JOB_FEW = 16 };

/* The coefficients of n statistics, from channel c on, before there are sums: mean and var are given. */
static inline void job_given(const job *j, int64_t c, int64_t n, double *k) {
    const double per = 1 / j->var_count;
    double mean[JOB_FEW], inv[JOB_FEW];
    static const double low[JOB_FEW];
    for (; n > 0; n -= JOB_FEW, c += JOB_FEW * j->share, k += JOB_FEW * j->share * JOB_COEFS) {
        const int64_t few = n < JOB_FEW ? n : JOB_FEW, s = j->share > 1 ? c / j->share : c;
        for (int64_t t = 0; t < few; t++) mean[t] = job_get(j->mean, s + t, 0), inv[t] = job_get(j->var, s + t, 1);
        for (int64_t t = 0; t < few; t++) inv[t] = 1 / sqrt(inv[t] * per + j->eps);
        job_scale(j, c, few, mean, low, inv, k);
    }
}

/* job_finish() of a pass over x alone, for at most JOB_FEW statistics:  mean = shift + s0/n,  m2 = s1 - s0*s0/n */
static inline void job_finish_moments(const job *j, int64_t c, int64_t few, int64_t parts, const double *shift,
                                      const double *sums, double *k) {
    const double n = j->count, per = 1 / n;
    const int64_t s = j->share > 1 ? c / j->share : c;
    double about[JOB_FEW], s0[JOB_FEW], s1[JOB_FEW], mean[JOB_FEW], low[JOB_FEW], inv[JOB_FEW];
    for (int64_t t = 0; t < few; t++, shift += parts) {
        about[t] = *shift;
        s0[t] = s1[t] = 0;
        for (int64_t i = 0; i < parts; i++, sums += 2) s0[t] += sums[0], s1[t] += sums[1];
    }
    if (j->about_zero)
        for (int64_t t = 0; t < few; t++) mean[t] = low[t] = 0;
    else
        for (int64_t t = 0; t < few; t++) {
            const double delta = s0[t] / n, m2 = s1[t] - s0[t] * delta;
            mean[t] = about[t] + delta;
            const double part = mean[t] - about[t]; /* Knuth's two-sum: what the addition above rounded away */
            low[t] = (about[t] - (mean[t] - part)) + (delta - part);
            s1[t] = m2 < 0 ? 0 : m2;
        }
    for (int64_t t = 0; t < few; t++) job_set(j->mean, s + t, mean[t]), job_set(j->var, s + t, s1[t]);
    for (int64_t t = 0; t < few; t++) inv[t] = 1 / sqrt(s1[t] * per + j->eps);
    job_scale(j, c, few, mean, low, inv, k);
}

/* job_finish() of a pass over dy and x, for one statistic, of 1 / per values, whose k[0..2] and k[5..7] are there:

     dx = 1/sqrt(var + eps) * (g - mean(g) - xhat*mean(g*xhat)),  g = dy*gamma

   Ioffe & Szegedy 2015 (arXiv:1502.03167), section 3 */
static inline void job_finish_grad(const job *j, int64_t c, double per, double shift, const double *sums, double *k) {
    const double mean = k[6], inv = k[7];
    int64_t p = job_param(j, c);
    double sum_g = 0, sum_g_xhat = 0;
    for (int64_t i = 0; i < j->share; i++) {
        const double gamma = j->points ? 1 : job_get(j->gamma, p, 1); /* points: in the sums */
        const double sum_dy = sums[2 * i], sum_dy_xhat = (sums[2 * i + 1] - (mean - shift) * sum_dy) * inv;
        sum_g += gamma * sum_dy;
        sum_g_xhat += gamma * sum_dy_xhat;
        if (!j->points) {
            job_set(j->dbeta, c + i, sum_dy);
            job_set(j->dgamma, c + i, sum_dy_xhat);
        }
        if (++p == j->period) p = 0;
    }
    if (j->about_zero) sum_g = 0;
    const double lo = mean - k[0], b = -inv * (sum_g_xhat * per);
    const double rest = -inv * (sum_g * per) - (isfinite(lo) ? b * inv * lo : 0);
    const double near_b = job_round(j, b), near_rest = job_round(j, rest);
    for (int64_t i = 0; i < j->share; i++, k += JOB_COEFS) {
        k[3] = near_b;
        k[4] = near_rest;
        if (j->pass == JOB_GRAD_FROZEN) { /* dx = a*dy: an affine of dy, and adding -0 keeps the sign of a zero */
            k[2] = j->relu ? 0 : -0.0;
            k[3] = 0;
            k[4] = -0.0;
            if (!j->relu) k[0] = 0;
        }
    }
}

/* n statistics, from channel c on, and their sums -> their results, and the coefficients k[n * share][JOB_COEFS] of
   their channels. sums[n * parts][2], each about a shift of its own: a statistic has `parts` of them, `share` or, where
   its channels were summed as one, 1; backward always `share`. */
static inline void job_finish(const job *j, int64_t c, int64_t n, int64_t parts, const double *shift,
                              const double *sums, double *k) {
    if (job_has_sums(j) && !job_has_dy(j)) {
        for (int64_t t = 0; t < n; t += JOB_FEW)
            job_finish_moments(j, c + t * j->share, n - t < JOB_FEW ? n - t : JOB_FEW, parts, shift + t * parts,
                               sums + 2 * t * parts, k + t * j->share * JOB_COEFS);
        return;
    }
    job_given(j, c, n, k);
    if (!job_has_dy(j)) return;
    const double per = 1 / j->count;
    for (int64_t t = 0; t < n; t++)
        job_finish_grad(j, c + t * j->share, per, shift[t * parts], sums + 2 * t * parts, k + t * j->share * JOB_COEFS);
}

#endif
