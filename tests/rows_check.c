/* rows_check.c: the row primitives by themselves, held against the formulas in long double. Needs no Python, so that it
   also runs under an emulator of another CPU. Prints one line a table, and "wide" is rows.inc with 64-byte vectors in
   plain C: what AVX-512 computes, for machines without it. Exits with the number of tables that fail. */
#include "rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH 64
#define STREAM(p, v) (*(U *)(p) = (v))
#define MINUS(a, b) ((D)(a) - (D)(b))
#define MULADD(a, b, c) fused((D8)(a), (D8)(b), (D8)(c))
#define MULADD1(a, b, c) fma(a, b, c)
typedef double D8 __attribute__((vector_size(64), may_alias));
static D8 fused(D8 a, D8 b, D8 c) {
    for (int i = 0; i < 8; i++) c[i] = fma(a[i], b[i], c[i]);
    return c;
}
#define REAL float
#define NAME(op) op##_f32
#define LOAD(p) ((D){(p)[0], (p)[1], (p)[2], (p)[3], (p)[4], (p)[5], (p)[6], (p)[7]})
#include "rows.inc"
#define REAL double
#define NAME(op) op##_f64
#define LOAD(p) (*(const E *)(p))
#include "rows.inc"
static const rows_isa rows_wide = {"wide", &table_f32, &table_f64};

enum { ROWS = 11, SIZE = 1 << 14, GUARD = 7 };
static const int64_t SIZES[] = {1, 2, 3, 7, 15, 16, 17, 31, 33, 49, 63, 64, 65, 196, 200, 1000};

static uint64_t seed = 1;
static double next(void) { /* in [-1, 1) */
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)seed * 0x1p-63;
}

static uint64_t digest;
static void see(const void *p, size_t size) { /* FNV-1a */
    for (size_t i = 0; i < size; i++) digest = (digest ^ ((const unsigned char *)p)[i]) * 1099511628211u;
}

static int near(double got, long double exact, long double scale, double eps) {
    return fabsl(got - exact) <= eps * scale && isfinite(got);
}

/* One element type of one ISA: the number of results that are wrong. */
#define CHECK(REAL, NAME, EPS)                                                                                         \
    static int NAME(const rows_table *t) {                                                                             \
        static REAL x[SIZE], dy[SIZE], y[SIZE], want[SIZE], k5[5 * 1100];                                              \
        static double shift[1100], sums[2200];                                                                         \
        int wrong = 0;                                                                                                 \
        for (int i = 0; i < SIZE; i++) x[i] = (REAL)(3 + next()), dy[i] = (REAL)next();                                \
        for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++)                                                      \
            for (int stream = 0; stream < 2; stream++)                                                                 \
                for (int64_t skew = 0; skew < 3; skew++) {                                                             \
                    const int64_t n = SIZES[s], stride = n + 5 * skew, at = skew;                                      \
                    /* runs */                                                                                         \
                    long double first = 0, second = 0, third = 0, fourth = 0;                                          \
                    for (int64_t r = 0; r < ROWS; r++)                                                                 \
                        for (int64_t i = 0; i < n; i++) {                                                              \
                            const long double d = (long double)x[at + r * stride + i] - 2.5L;                          \
                            first += d, second += d * d;                                                               \
                            third += dy[at + r * stride + i], fourth += dy[at + r * stride + i] * d;                   \
                        }                                                                                              \
                    t->run_sums(x + at, ROWS, n, stride, 2.5, sums);                                                   \
                    see(sums, 2 * sizeof *sums);                                                                       \
                    wrong += !near(sums[0], first, ROWS * n, 1e-14) + !near(sums[1], second, ROWS * n, 1e-14);         \
                    t->run_grad_sums(dy + at, x + at, ROWS, n, stride, 2.5, sums);                                     \
                    see(sums, 2 * sizeof *sums);                                                                       \
                    wrong += !near(sums[0], third, ROWS * n, 1e-14) + !near(sums[1], fourth, ROWS * n, 1e-14);         \
                    double k[5 * ROWS];                                                                                \
                    for (int i = 0; i < 5 * ROWS; i++) k[i] = (REAL)next();                                            \
                    for (int pass = 0; pass < 2; pass++) {                                                             \
                        for (int i = 0; i < SIZE; i++) y[i] = want[i] = (REAL)-77;                                     \
                        for (int64_t r = 0; r < ROWS; r++)                                                             \
                            for (int64_t i = 0; i < n; i++) {                                                          \
                                const int64_t e = GUARD + r * stride + i;                                              \
                                const double *c = k + 5 * r;                                                           \
                                const long double d = (long double)x[e - GUARD + at] - c[0];                           \
                                want[e] = pass ? (REAL)(dy[e - GUARD + at] * c[1] + (d * c[2] * c[3] + c[4]))          \
                                               : (REAL)(d * c[1] + c[2]);                                              \
                            }                                                                                          \
                        if (pass)                                                                                      \
                            t->run_grad(y + GUARD, dy + at, x + at, ROWS, n, stride, k, 5, stream, stride);            \
                        else                                                                                           \
                            t->run_affine(y + GUARD, x + at, ROWS, n, stride, k, 5, stream, stride);                   \
                        rows_fence();                                                                                  \
                        see(y, sizeof y);                                                                              \
                        for (int i = 0; i < SIZE; i++) wrong += !near(y[i], want[i], want[i] == -77 ? 0 : 8, EPS);     \
                    }                                                                                                  \
                    /* lanes */                                                                                        \
                    for (int64_t c = 0; c < n; c++) shift[c] = 2 + next();                                             \
                    for (int pass = 0; pass < 2; pass++) {                                                             \
                        memset(sums, 0, sizeof sums);                                                                  \
                        if (pass)                                                                                      \
                            t->lane_grad_sums(dy + at, x + at, ROWS, n, stride, shift, sums, sums + n);                \
                        else                                                                                           \
                            t->lane_sums(x + at, ROWS, n, stride, shift, sums, sums + n);                              \
                        see(sums, sizeof sums);                                                                        \
                        for (int64_t c = 0; c < n; c++) {                                                              \
                            first = second = 0;                                                                        \
                            for (int64_t r = 0; r < ROWS; r++) {                                                       \
                                const long double d = (long double)x[at + r * stride + c] - shift[c];                  \
                                const long double g = pass ? (long double)dy[at + r * stride + c] : d;                 \
                                first += g, second += g * d;                                                           \
                            }                                                                                          \
                            wrong += !near(sums[c], first, ROWS, 1e-14) + !near(sums[n + c], second, ROWS, 1e-13);     \
                        }                                                                                              \
                    }                                                                                                  \
                    if (n < ROWS_LANES) continue;                                                                      \
                    const int64_t line = ROWS_LINE / (int64_t)sizeof(REAL), from = n * skew / 3;                       \
                    for (int64_t c = 0; c < 5; c++) {                                                                  \
                        REAL *kc = k5 + c * (n + line);                                                                \
                        for (int64_t i = 0; i < n; i++) kc[i] = (REAL)next();                                          \
                        memcpy(kc + n, kc, ROWS_LINE);                                                                 \
                    }                                                                                                  \
                    for (int pass = 0; pass < 2; pass++) {                                                             \
                        const int64_t count = 5 * n + 3;                                                               \
                        for (int i = 0; i < SIZE; i++) y[i] = want[i] = (REAL)-77;                                     \
                        for (int64_t i = 0; i < count; i++) {                                                          \
                            const REAL *c = k5 + (from + i) % n;                                                       \
                            const int64_t w = n + line;                                                                \
                            const long double d = (long double)x[at + i] - c[0];                                       \
                            want[GUARD + i] = pass ? (REAL)(dy[at + i] * (long double)c[w] +                           \
                                                            (d * c[2 * w] * c[3 * w] + c[4 * w]))                      \
                                                   : (REAL)(d * c[w] + c[2 * w]);                                      \
                        }                                                                                              \
                        if (pass)                                                                                      \
                            t->lane_grad(y + GUARD, dy + at, x + at, count, from, n, k5, stream);                      \
                        else                                                                                           \
                            t->lane_affine(y + GUARD, x + at, count, from, n, k5, stream);                             \
                        rows_fence();                                                                                  \
                        see(y, sizeof y);                                                                              \
                        for (int i = 0; i < SIZE; i++) wrong += !near(y[i], want[i], want[i] == -77 ? 0 : 8, EPS);     \
                    }                                                                                                  \
                }                                                                                                      \
        return wrong;                                                                                                  \
    }

CHECK(float, check_f32, 4 * 0x1p-23)
CHECK(double, check_f64, 4 * 0x1p-52)

int main(void) {
    int failed = 0;
    const rows_isa *isa = &rows_wide;
    for (int i = 0; isa; isa = rows_available(i++)) {
        seed = 1;
        digest = 14695981039346656037u;
        const int wrong = check_f32(isa->f32) + check_f64(isa->f64);
        printf("%-8s %d wrong, digest %016llx\n", isa->name, wrong, (unsigned long long)digest);
        failed += wrong != 0;
    }
    return failed;
}
