/* rows_check.c: the row primitives by themselves, held against the formulas in long double. Needs no Python, so that it
   also runs under an emulator of another CPU. Prints one line an ISA, and "wide" is rows.inc with 64-byte vectors in
   plain C: what AVX-512 computes, for machines without it. Exits with the number of ISAs that fail, and 1 for conversions. */
#include "rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH 64
#define SUMS 64
#define AT_ONCE 4
#define STREAM(p, v) (*(U *)(p) = (v))
#define STREAM_HALF(p, h) (*(halves *)(p) = (h))
#define MINUS(a, b) ((D)(a) - (D)(b))
#define MULADD(a, b, c) fused((D8)(a), (D8)(b), (D8)(c))
#define MULADD1(a, b, c) fma(a, b, c)
typedef double D8 __attribute__((vector_size(64), may_alias));
static D8 fused(D8 a, D8 b, D8 c) {
    for (int i = 0; i < 8; i++) c[i] = fma(a[i], b[i], c[i]);
    return c;
}
#include "types.inc"
static const rows_isa rows_wide = {"wide", ROWS_TABLES};

enum { ROWS = 11, RUNS = 3, SIZE = 1 << 14, GUARD = 7 };
static const int64_t SIZES[] = {1, 2, 3, 7, 15, 16, 17, 25, 31, 32, 33, 49, 63, 64, 65, 100, 196, 200, 1000};

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

/* What the checks need of an element type, beside its table. */
typedef struct {
    const char *name;
    void (*set)(void *p, double value);
    double eps; /* what one result may be off, beside terms of size 1 */
} kind;
static void set_f32(void *p, double value) { *(float *)p = (float)value; }
static void set_f64(void *p, double value) { *(double *)p = value; }
static void set_f16(void *p, double value) { f16_set(p, (float)value); }
static void set_bf16(void *p, double value) { bf16_set(p, (float)value); }
static const kind KINDS[ROWS_TYPES] = {
    {"f32", set_f32, 4 * 0x1p-23}, {"f64", set_f64, 4 * 0x1p-52}, {"f16", set_f16, 0x1p-11}, {"bf16", set_bf16, 0x1p-8}};

static const rows_table *t;
static const kind *type;
static _Alignas(ROWS_PAGE) char x[8 * SIZE], dy[8 * SIZE], space[8 * SIZE + ROWS_PAGE];
static char params[8 * 1200 * 6], *y;
static uint8_t mask[ROWS * 1100];
static int64_t extent; /* how much of y a check looks at, some elements past the last that it writes */
static long double want[SIZE], other[SIZE]; /* what y shall be; either of two where a gate is too close to call */

static double at(const char *array, int64_t i) {
    double value;
    t->values(array + i * t->item, 1, 1, &value);
    return value;
}
static double param(int64_t i) { return t->wide ? ((double *)(void *)params)[i] : (double)((float *)(void *)params)[i]; }
static double round_param(double v) { return t->wide ? v : (double)(float)v; }
static void set_param(int64_t i, double v) {
    if (t->wide)
        ((double *)(void *)params)[i] = v;
    else
        ((float *)(void *)params)[i] = (float)v;
}

static void clear(void) {
    for (int64_t i = 0; i < extent; i++) {
        type->set(y + i * t->item, -77);
        want[i] = other[i] = -77;
    }
}

/* y against want: the number of elements that are wrong, untouched ones included. */
static int compare(void) {
    int wrong = 0;
    rows_fence();
    see(y, (size_t)(extent * t->item));
    for (int64_t i = 0; i < extent; i++) {
        const double scale = want[i] == -77 ? 0 : 8;
        wrong += !near(at(y, i), want[i], scale, type->eps) && !near(at(y, i), other[i], scale, type->eps);
    }
    return wrong;
}

static int sums_differ(const double *sums, long double first, long double second, double scale) {
    see(sums, 2 * sizeof *sums);
    return !near(sums[0], first, scale, 1e-14) + !near(sums[1], second, scale, 1e-14);
}

static void expect(int64_t i, long double value, long double or) { want[i] = value, other[i] = or; }

/* dy where forward's result before its ReLU, pre, was above 0. Close to 0 either is right. */
static long double gate(long double g, long double pre) { return pre <= 0 ? 0 : g; }
static int close_call(long double pre) { return fabsl(pre) < 1e-5L; }
static long double other_gate(long double g, long double pre) { return gate(g, close_call(pre) ? -pre : pre); }

/* The sums of points, of each row and over the rows. */
static int check_points(int64_t n, int64_t stride, const char *px, const char *pdy, const void *gamma,
                        const rows_coefs *k) {
    static double first[1000], second[1000];
    double sums[3 * ROWS];
    int wrong = 0;
    for (int64_t i = 0; i < n; i++) first[i] = (double)i, second[i] = -(double)i;
    t->point_sums(pdy, px, ROWS, n, stride, k, gamma, first, second, sums, 3, stride);
    for (int64_t i = 0; i < n; i++) {
        long double f = i, s = -i;
        for (int64_t r = 0; r < ROWS; r++) {
            const double *c = k->at + 8 * r;
            const long double g = at(pdy, r * stride + i), d = at(px, r * stride + i) - (long double)c[6];
            f += g, s += g * d * c[7];
        }
        wrong += !near(first[i], f, ROWS + i, 1e-14) + !near(second[i], s, 4 * ROWS + i, 1e-14);
    }
    for (int64_t r = 0; r < ROWS; r++) {
        long double f = 0, s = 0;
        for (int64_t i = 0; i < n; i++) {
            const long double g = at(pdy, r * stride + i) * param(i);
            f += g, s += g * (at(px, r * stride + i) - (long double)k->at[8 * r + 6]);
        }
        wrong += sums_differ(sums + 3 * r, f, s, 4 * (double)n);
    }
    see(first, (size_t)n * sizeof *first);
    see(second, (size_t)n * sizeof *second);
    return wrong;
}

static int check_runs(int64_t n, int64_t stride, int64_t from, int stream) {
    int wrong = 0;
    static double lanes[ROWS][2 * ROWS_LANES];
    double sums[3][2 * RUNS], k[8 * ROWS], open[8 * ROWS], about[ROWS], shift[RUNS], gates[6 * RUNS];
    const rows_coefs ks = {k, 8, 1}, opens = {open, 8, 1}, gate_ks = {gates, 6, 1};
    for (int i = 0; i < 8 * ROWS; i++) k[i] = round_param(next());
    for (int i = 0; i < 8 * ROWS; i++) open[i] = round_param(i % 8 == 0 ? 3 : next()); /* k's of a gate */
    for (int i = 0; i < ROWS; i++) about[i] = 2.5 + i;
    for (int64_t i = 0; i < 2 * n; i++) set_param(i, next()); /* gamma, beta */
    const void *gamma = params, *beta = params + n * (t->wide ? 8 : 4);
    const char *px = x + from * t->item, *pdy = dy + from * t->item;
    const int64_t rows = ROWS - RUNS + 1; /* run i: so many rows, from row i on */
    for (int i = 0; i < RUNS; i++) {
        shift[i] = 2.5 + i;
        gates[6 * i + 3] = i % 2 ? -1 : 1, gates[6 * i + 4] = gates[6 * i + 3] * round_param(3.01 - 0.1 * i);
    }
    t->run_sums(px, RUNS, stride, rows, n, stride, shift, sums[0], n, 1);
    t->run_grad_sums(pdy, px, RUNS, stride, rows, n, stride, shift, NULL, sums[1], n, 1);
    t->run_grad_sums(pdy, px, RUNS, stride, rows, n, stride, shift, &gate_ks, sums[2], 0, 0);
    for (int run = 0; run < RUNS; run++) {
        long double s[3][2] = {{0}};
        for (int64_t r = run; r < run + rows; r++)
            for (int64_t i = 0; i < n; i++) {
                const long double v = at(px, r * stride + i), g = at(pdy, r * stride + i), d = v - shift[run];
                const long double terms[3] = {d, g, gate(g, gates[6 * run + 3] * v - gates[6 * run + 4])};
                for (int f = 0; f < 3; f++) s[f][0] += terms[f], s[f][1] += terms[f] * d;
            }
        for (int f = 0; f < 3; f++) wrong += sums_differ(sums[f] + 2 * run, s[f][0], s[f][1], 4 * (double)(rows * n));
    }
    wrong += check_points(n, stride, px, pdy, gamma, &ks);
    for (int turn = 0; turn < 18; turn++) { /* with sums beside it, and then alone: */
        const int pass = turn % 9; /* affine: plain, relu, residual, both; grad: plain, relu, frozen; points: both */
        clear();
        const int relu = pass == 6 ? ROWS_FROZEN : pass & 1, res = pass == 2 || pass == 3;
        char *py = y + GUARD * t->item;
        for (int64_t r = 0; r < ROWS; r++)
            for (int64_t i = 0; i < n; i++) {
                const double *c = k + 8 * r;
                const long double g = at(pdy, r * stride + i), d = (long double)at(px, r * stride + i) - c[0];
                const long double affine = d * c[1] + c[2] + (res ? g : 0), pre = d * c[1] - c[5];
                const long double back = pass == 6 ? 0 : d * c[2] * c[3] + c[4];
                const int64_t e = GUARD + r * stride + i;
                if (pass < 4)
                    expect(e, relu && affine < 0 ? 0 : affine, affine < 0 && relu ? 0 : affine);
                else if (pass < 7)
                    expect(e, (relu ? gate(g, pre) : g) * c[1] + back, (relu ? other_gate(g, pre) : g) * c[1] + back);
                else if (pass == 7)
                    expect(e, affine * param(i) + param(n + i), affine * param(i) + param(n + i));
                else
                    expect(e, g * param(i) * c[1] + back, g * param(i) * c[1] + back);
            }
        const rows_also also = {px, pdy, about, relu ? &opens : NULL, lanes[0], stride};
        const rows_also *beside = n < ROWS_LANES || turn >= 9 ? NULL : &also;
        memset(lanes, 0, sizeof lanes);
        if (pass < 4)
            t->run_affine(py, px, res ? pdy : NULL, ROWS, n, stride, &ks, relu, stream, stride, beside);
        else if (pass < 7)
            t->run_grad(py, pdy, px, ROWS, n, stride, &ks, relu, stream, stride, beside);
        else if (pass == 7)
            t->point_affine(py, px, ROWS, n, stride, &ks, gamma, beta, stream, stride);
        else
            t->point_grad(py, pdy, px, ROWS, n, stride, &ks, gamma, stream, stride);
        wrong += compare();
        if (pass < 6 && beside) { /* the very sums that are made alone */
            double folded[2 * ROWS], alone[2 * ROWS];
            for (int r = 0; r < ROWS; r++) t->run_fold(lanes[r], folded + 2 * r);
            if (pass < 4)
                t->run_sums(px, ROWS, stride, 1, n, stride, about, alone, 0, 0);
            else
                t->run_grad_sums(pdy, px, ROWS, stride, 1, n, stride, about, relu ? &opens : NULL, alone, 0, 0);
            for (int i = 0; i < 2 * ROWS; i++) wrong += folded[i] != alone[i];
        }
    }
    for (int pass = 0; pass < 3; pass++) { /* a mask: for each row, for all of them, and in place, over NaN */
        const int64_t mstride = pass == 1 ? 0 : n;
        char *py = y + GUARD * t->item;
        clear();
        for (int64_t r = 0; r < ROWS; r++)
            for (int64_t i = 0; i < n; i++) {
                const int64_t e = GUARD + r * stride + i;
                const int on = mask[r * mstride + i] != 0;
                const double value = on ? at(px, r * stride + i) : 0.5;
                expect(e, value, value);
                if (pass == 2) type->set(y + e * t->item, on ? value : (double)NAN);
            }
        if (pass == 2)
            t->run_keep(py, stride, py, stride, mask, mstride, ROWS, n, 0.5);
        else
            t->run_keep(py, stride, px, stride, mask, mstride, ROWS, n, 0.5);
        wrong += compare();
    }
    clear();
    for (int64_t i = 0; i < n; i++) expect(i, gate(at(pdy, i), at(px, i) - 0), gate(at(pdy, i), at(px, i)));
    t->gate(y, pdy, px, n);
    return wrong + compare();
}

static int check_lanes(int64_t n, int64_t stride, int64_t from, int stream) {
    static double shift[1100], sums[2200];
    const int64_t wrap = ROWS_WRAP / (t->wide ? 8 : 4), step = n + wrap;
    const char *px = x + from * t->item, *pdy = dy + from * t->item;
    int wrong = 0;
    for (int64_t c = 0; c < n; c++) shift[c] = 2 + next();
    for (int64_t c = 0; c < 6; c++) {
        for (int64_t i = 0; i < n; i++) { /* 3 and 4: flip, 1 or -1 or 0, and limit */
            const double flip = (double)(i % 3 - 1);
            set_param(c * step + i, c == 3 ? flip : c == 4 && flip ? flip * (3 + next()) : next());
        }
        for (int64_t i = 0; i < wrap; i++) set_param(c * step + n + i, param(c * step + i));
    }
    for (int pass = 0; pass < 3; pass++) { /* sums, grad sums, gated */
        memset(sums, 0, sizeof sums);
        if (pass == 0)
            t->lane_sums(px, ROWS, n, stride, 0, shift, sums, sums + n);
        else
            t->lane_grad_sums(pdy, px, ROWS, n, stride, 2, shift, pass == 2 ? params : NULL, step, sums, sums + n);
        see(sums, sizeof sums);
        for (int64_t c = 0; c < n; c++) {
            long double first = 0, second = 0;
            for (int64_t r = 0; r < ROWS; r++) {
                const long double v = at(px, r * stride + c), d = v - shift[c];
                long double g = pass ? (long double)at(pdy, r * stride + c) : d;
                if (pass == 2) g = gate(g, param(3 * step + c) * v - param(4 * step + c));
                first += g, second += g * d;
            }
            wrong += !near(sums[c], first, ROWS, 1e-14) + !near(sums[n + c], second, ROWS, 1e-13);
        }
    }
    for (int pass = 0; pass < 7; pass++) { /* affine: plain, relu, residual, both; grad: plain, relu, frozen */
        const int relu = pass == 6 ? ROWS_FROZEN : pass & 1, res = pass == 2 || pass == 3;
        const int64_t count = 5 * n + 3, first = n * from / 3;
        clear();
        for (int64_t i = 0; i < count; i++) {
            const int64_t c = (first + i) % n;
            const long double g = at(pdy, i), d = (long double)at(px, i) - param(c), a = param(step + c);
            const long double affine = d * a + param(2 * step + c) + (res ? g : 0), pre = d * a - param(5 * step + c);
            const long double back = pass == 6 ? 0 : d * param(2 * step + c) * param(3 * step + c) + param(4 * step + c);
            if (pass < 4)
                expect(GUARD + i, relu && affine < 0 ? 0 : affine, relu && affine < 0 ? 0 : affine);
            else
                expect(GUARD + i, (relu ? gate(g, pre) : g) * a + back, (relu ? other_gate(g, pre) : g) * a + back);
        }
        char *py = y + GUARD * t->item;
        if (pass < 4)
            t->lane_affine(py, px, res ? pdy : NULL, count, first, n, params, relu, stream, stride);
        else
            t->lane_grad(py, pdy, px, count, first, n, params, relu, stream, stride);
        wrong += compare();
    }
    return wrong;
}

/* One element type of one ISA: the number of results that are wrong. */
static int check(void) {
    int wrong = 0;
    for (int64_t i = 0; i < SIZE; i++) type->set(x + i * t->item, 3 + next()), type->set(dy + i * t->item, next());
    for (size_t i = 0; i < sizeof mask; i++) mask[i] = (uint8_t)(next() > 0.3 ? 1 : next() > 0.9 ? 2 : 0);
    for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++)
        for (int stream = 0; stream < 2; stream++)
            for (int64_t skew = 0; skew < 3; skew++) {
                extent = ROWS * (SIZES[s] + 5 * skew) + 4 * GUARD;
                y = space + (skew == 1 ? ROWS_PAGE / 2 : 0); /* else a few elements beyond the inputs, modulo a page */
                wrong += check_runs(SIZES[s], SIZES[s] + 5 * skew, skew, stream);
                wrong += check_lanes(SIZES[s], SIZES[s] + 5 * skew, skew, stream);
            }
    return wrong;
}

/* Every value of a half type there is, widened, narrowed again, and rounded from between: what is wrong. */
static int check_halves(void) {
    int wrong = 0;
    for (uint32_t h = 0; h < 0x10000; h++) {
        uint16_t in = (uint16_t)h, out;
        f16_set(&out, f16_one(&in));
        wrong += isnan(f16_one(&in)) ? !isnan(f16_one(&out)) : in != out;
        bf16_set(&out, bf16_one(&in));
        wrong += isnan(bf16_one(&in)) ? !isnan(bf16_one(&out)) : in != out;
        if ((h & 0x7fff) >= 0x7bff) continue; /* the next is Inf */
        const uint16_t next_one = (uint16_t)(h + 1);
        const float low = f16_one(&in), high = f16_one(&next_one), half = (low + high) / 2;
        f16_set(&out, half); /* to even */
        wrong += out != (h & 1 ? next_one : in);
        f16_set(&out, nextafterf(half, low));
        wrong += out != in;
    }
    return wrong;
}

int main(void) {
    int failed = check_halves() != 0;
    const rows_isa *isa = &rows_wide;
    for (int i = 0; isa; isa = rows_available(i++)) {
        int wrong = 0;
        seed = 1;
        digest = 14695981039346656037u;
        for (int e = 0; e < ROWS_TYPES; e++) {
            t = isa->type[e], type = &KINDS[e];
            const int here = check();
            if (here) printf("%s %s: %d wrong\n", isa->name, type->name, here);
            wrong += here;
        }
        printf("%-8s %d wrong, digest %016llx\n", isa->name, wrong, (unsigned long long)digest);
        failed += wrong != 0;
    }
    return failed;
}
