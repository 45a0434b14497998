/* share.h: which thread does what of a job, and in which order partial sums are added up. */
#ifndef BNFAST_SHARE_H
#define BNFAST_SHARE_H

#include "job.h"

/* Where the part of thread t begins, of n things that all threads share: where the one before it ends. */
static inline int64_t job_part(const job *j, int64_t n, int64_t t) { return n * t / j->threads; }

/* The same in whole pieces of `size` things, but for the last one. */
static inline int64_t job_part_in(const job *j, int64_t size, int64_t n, int64_t t) {
    const int64_t start = job_part(j, (n + size - 1) / size, t) * size;
    return start < n ? start : n;
}

/* The same of elements: in pieces of so many that they are whole cache lines, of any type. */
static inline int64_t job_part_lines(const job *j, int64_t n, int64_t t) { return job_part_in(j, ROWS_LINE, n, t); }

/* The largest power of 2 that is not above n, which is at least 1. */
static inline int64_t job_power(int64_t n) {
    int64_t power = 1;
    while (power <= n / 2) power *= 2;
    return power;
}

/* Partial sums of `parts` parts, a power of 2, `size` of them each, added up in an order that depends on nothing else:
   part i takes in part i + s for s = 1, 2, 4, ..., i a multiple of 2s, until part 0 has the sum of all. Threads share out
   `units` of every part. What a thread has summed alone it adds up alone, while it is in its cache: to fetch sums from
   another core's can take longer than to make them. units 0: no thread has a part alone. */
typedef struct {
    double *sums;
    int64_t size, parts, units;
} job_tree;

/* Do parts `first` to last - 1 belong to one thread? */
static inline int job_is_own(const job *j, const job_tree *tree, int64_t first, int64_t last) {
    const int64_t all = tree->parts * tree->units;
    if (!all) return 0;
    const int64_t thread = ((first * tree->units + 1) * j->threads - 1) / all; /* that of their first unit */
    return last * tree->units <= job_part(j, all, thread + 1);
}

/* Sums first to last - 1 of part i take in those of part i + s. */
static inline void job_take_in(const job_tree *tree, int64_t i, int64_t s, int64_t first, int64_t last) {
    double *sums = tree->sums + i * tree->size;
    const double *more = sums + s * tree->size;
    for (int64_t k = first; k < last; k++) sums[k] += more[k];
}

/* After a thread has done the last unit of part i: what is complete now, and its own. */
static inline void job_add_own(const job *j, const job_tree *tree, int64_t i) {
    for (int64_t s = 1; (i + 1) % (2 * s) == 0 && job_is_own(j, tree, i + 1 - 2 * s, i + 1); s *= 2)
        job_take_in(tree, i + 1 - 2 * s, s, 0, tree->size);
}

/* After all parts: what is left to add, of sums first to last - 1. */
static inline void job_add_rest(const job *j, const job_tree *tree, int64_t first, int64_t last) {
    for (int64_t s = 1; s < tree->parts; s *= 2)
        for (int64_t i = 0; i < tree->parts; i += 2 * s)
            if (!job_is_own(j, tree, i, i + 2 * s)) job_take_in(tree, i, s, first, last);
}

#endif
