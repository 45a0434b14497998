/* rows.h: the one internal contract between the Cython loops and the arithmetic.

   Every array is seen as (outer, channels, inner), so there are two shapes of data and no more:

     run    `inner` contiguous elements that share one statistic; `rows` of them, `stride` elements apart
     lanes  `lanes` neighbouring elements that each have their own statistic; `rows` of them, `stride` apart

   A table of primitives exists for each element type and ISA. The rules that all of them keep:

   - Sums are float64, taken about a shift (an element of the channel), so that nothing cancels.
   - Sums are laid out over ROWS_LANES logical lanes and folded in one fixed order: every ISA that fuses multiplication
     and addition gives the same bits, wide or narrow. (The generic one rounds the products of its sums.)
   - Outputs may be an input itself (same pointer); any other overlap is the caller's to resolve.
   - stream != 0 writes whole cache lines past the cache; the caller ends its sweep with rows_fence().
   - ahead: how many elements further on to prefetch what is read, also backwards. It need not exist, but is better not far
     from what does: to find that nothing is mapped may take longer than to fetch it (60 ns, Zen 1 in a virtual machine).
     Sums of runs that have ROWS_LANES elements always do, from the last row of a run, and fetch the next row from
     others; those of lanes fetch the rows after these, of which there are `more`; runs that are written do unless it is
     0; lanes that are written do if it is above 0, and unless they are streamed their output as well; below 0 it says
     that they come from memory, or soon might. Rows that are written together fetch the next ones.
   - No allocation, no error, no state: any thread may call anything.

   Half types are widened to float as they are read, and narrowed once as they are written.

   Words used here and in the schedules, and what the literature calls them: "past the cache" is a non-temporal, or
   streaming, store; "to fetch" a software prefetch. 4K aliasing: a CPU takes a load for one of what it has just stored,
   and waits until it knows better, if the last 12 bits of their addresses agree; so what is loaded in step with an output
   is placed away from it (recycle.c, shifted() of channels last). Lines between two threads' memory are against false
   sharing, also by the prefetch of neighbouring lines (JOB_APART).

   Coefficients k of a statistic, float64 holding values that the type computed with can represent:

     k[0]  hi, the mean, rounded to the type computed with    k[3], k[4]  backward: what goes with x, and with 1;
                                                              and before, of a ReLU, flip and limit
     k[1]  a = gamma / sqrt(var + eps)                        k[5]  backward: low = -b, of the b of forward
     k[2]  forward: b = beta - lo*a; backward: 1/sqrt(..)     k[6], k[7]  the mean and 1/sqrt(..) in full */
#ifndef BNFAST_ROWS_H
#define BNFAST_ROWS_H

#include <stdint.h>

enum { ROWS_LANES = 32 };     /* logical lanes of a sum, whatever the vector */
enum { ROWS_LINE = 64 };      /* bytes in a cache line */
enum { ROWS_PAGE = 1 << 12 }; /* bytes in a page, where the CPU's own prefetch ends; the sets of the first-level cache
                                 repeat after so many, and addresses alias */
enum { ROWS_WRAP = 128 };     /* bytes that coefficients of lanes go on for after the last lane */
enum { ROWS_TILE = 16 };      /* lanes that fill vectors in every ISA: rows of a multiple of them are best */
enum { ROWS_FAR = 1 << 14 };  /* bytes that a sweep through memory fetches ahead of what it reads */
enum { ROWS_SOON = 1 << 13 }; /* and that sums do */
enum { ROWS_FROZEN = 2 };     /* a relu of run_grad and lane_grad: x decides what goes back, and is not part of it */

typedef enum { ROWS_F32, ROWS_F64, ROWS_F16, ROWS_BF16, ROWS_TYPES } rows_type;

/* Where rows have their coefficients: k[i] of row r is at[i * gap + r * step]. */
typedef struct {
    const double *at;
    int64_t step, gap;
} rows_coefs;

/* Other rows, of the same size and stride, that are summed in the loop which writes rows: additions fill the wait for
   memory. */
typedef struct {
    const void *x, *dy;                   /* dy: of a backward */
    const double *shift;                  /* of each row */
    const rows_coefs *gate;               /* of a backward with relu */
    double *lanes;                        /* [rows][2][ROWS_LANES], to which the sums are added before they are folded */
    int64_t ahead;
} rows_also;

struct job; /* job.h */

typedef struct {
    int64_t item;                         /* bytes in an element */
    int64_t wide;                         /* computes in double, else in float */
    void (*values)(const void *x, int64_t n, int64_t step, double *out); /* n elements, `step` apart */
    /* out = dy where y > 0 (or NaN), else 0; n elements */
    void (*gate)(void *out, const void *dy, const void *y, int64_t n);
    /* k[3] and k[4], flip and limit, of n rows with step 1: flip * x <= limit for the same x as
       (x - k[0]) * k[1] <= k[5], roundings and all */
    void (*limits)(int64_t n, double *k, int64_t gap);
    /* out = x where the mask is not 0, else `fill`; each of the three has rows of its own, so many elements apart */
    void (*run_keep)(void *out, int64_t ostride, const void *x, int64_t stride, const uint8_t *mask, int64_t mstride,
                     int64_t rows, int64_t inner, double fill);

    /* sums[t] = {sum(x - shift[t]), sum((x - shift[t])^2)} over rows * inner elements, the first of them at x + t * step,
       for t in [0, runs). far: what is fetched comes from memory */
    void (*run_sums)(const void *x, int64_t runs, int64_t step, int64_t rows, int64_t inner, int64_t stride,
                     const double *shift, double *sums, int64_t ahead, int far);
    /* y = (x - k[0]) * k[1] + k[2], and + res if that is given, and at least 0 if relu. also: NULL, or what is summed
       beside this, of rows not shorter than ROWS_LANES */
    void (*run_affine)(void *y, const void *x, const void *res, int64_t rows, int64_t inner, int64_t stride,
                       const rows_coefs *k, int relu, int stream, int64_t ahead, const rows_also *also);
    /* sums[t] = {sum(dy), sum(dy * (x - shift[t]))} likewise; gate: NULL, or where run t has the k with which dy
       counts unless k[3] * x <= k[4]: the same as run_grad's relu */
    void (*run_grad_sums)(const void *dy, const void *x, int64_t runs, int64_t step, int64_t rows, int64_t inner,
                          int64_t stride, const double *shift, const rows_coefs *gate, double *sums, int64_t ahead,
                          int far);
    /* dx = dy * k[1] + ((x - k[0]) * k[2] * k[3] + k[4]); relu: with dy that counts unless (x - k[0]) * k[1] <= k[5];
       ROWS_FROZEN: that dy * k[1] alone */
    void (*run_grad)(void *dx, const void *dy, const void *x, int64_t rows, int64_t inner, int64_t stride,
                     const rows_coefs *k, int relu, int stream, int64_t ahead, const rows_also *also);
    /* sums[2] of lanes[2][ROWS_LANES], as those that are summed alone are folded */
    void (*run_fold)(const double *lanes, double *sums);

    /* The sums for lanes, one shift a lane, added to first[lanes] and second[lanes]. gate: NULL, or arrays of k as
       lane_grad takes them, gstep elements apart, that have flip and limit in their k[3] and k[4]. */
    void (*lane_sums)(const void *x, int64_t rows, int64_t lanes, int64_t stride, int64_t more, const double *shift,
                      double *first, double *second);
    void (*lane_grad_sums)(const void *dy, const void *x, int64_t rows, int64_t lanes, int64_t stride, int64_t more,
                           const double *shift, const void *gate, int64_t gstep, double *first, double *second);

    /* The other two for n elements of rows that lie together, from lane `first` on. k: an array of `lanes` values of
       the type computed with for each coefficient, which goes on from its first value for ROWS_WRAP bytes more, for
       vectors that begin in one row and end in the next. */
    void (*lane_affine)(void *y, const void *x, const void *res, int64_t n, int64_t first, int64_t lanes, const void *k,
                        int relu, int stream, int64_t ahead);
    void (*lane_grad)(void *dx, const void *dy, const void *x, int64_t n, int64_t first, int64_t lanes, const void *k,
                      int relu, int stream, int64_t ahead);
    /* Each of n values goes to `inner` lanes; one such array of k. */
    void (*lane_spread)(void *out, const double *k, int64_t n, int64_t inner);
    /* At sums + i * step, i in [0, n): {sum(first), sum(second)} of the lanes from i * inner on, `inner` of them. */
    void (*lane_fold)(const double *first, const double *second, int64_t n, int64_t inner, double *sums, int64_t step);

    /* Runs whose elements have a gamma and a beta each, of the type computed with (point norms: layer, RMS).
       y = ((x - k[0]) * k[1] + k[2]) * gamma + beta */
    void (*point_affine)(void *y, const void *x, int64_t rows, int64_t inner, int64_t stride, const rows_coefs *k,
                         const void *gamma, const void *beta, int stream, int64_t ahead);
    /* For row r, at sums + r * step: {sum(dy * gamma), sum(dy * gamma * (x - k[6]))}; and for each element over the rows:
       first += dy, second += dy * (x - k[6]) * k[7] */
    void (*point_sums)(const void *dy, const void *x, int64_t rows, int64_t inner, int64_t stride, const rows_coefs *k,
                       const void *gamma, double *first, double *second, double *sums, int64_t step, int64_t ahead);
    /* dx = dy * gamma * k[1] + ((x - k[0]) * k[2] * k[3] + k[4]) */
    void (*point_grad)(void *dx, const void *dy, const void *x, int64_t rows, int64_t inner, int64_t stride,
                       const rows_coefs *k, const void *gamma, int stream, int64_t ahead);

    /* From sums to coefficients: job_given() and job_finish() of job.h. */
    void (*given)(const struct job *j, int64_t c, int64_t n, double *k, int64_t gap);
    void (*finish)(const struct job *j, int64_t c, int64_t n, int64_t parts, const double *shift, const double *sums,
                   double *k, int64_t gap);
} rows_table;

typedef struct {
    const char *name;
    const rows_table *type[ROWS_TYPES];
} rows_isa;

/* The ISA called `name`, or the fastest one if name is NULL. NULL: unknown, or not on this CPU. */
const rows_isa *rows_select(const char *name);

/* The i-th ISA that this CPU can run, the fastest first; NULL past the last. */
const rows_isa *rows_available(int i);

/* Does a core write faster past the last-level cache than into it? So it is where all cores of a chip share that by way
   of a mesh, as in Intel's servers (measured on Emerald Rapids: two threads copy 6 MB in 0.17 ms or 0.22). */
int rows_beyond_a_mesh(void);

/* Orders streaming stores before whatever this thread does next. */
void rows_fence(void);

#endif
