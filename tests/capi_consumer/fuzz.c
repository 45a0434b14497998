/* fuzz.c: calls of the C face made from bytes, in memory with a page that must not be touched before and after it.

   Each case is one of
     - a valid call, made twice: by one thread with its arrays just behind a guard page, and by three with them just
       before one. Inputs stay as they were, and the results have the same bits, though what a mask leaves out differs;
     - that call with one thing wrong: its status is the one the header promises, and nothing is written;
     - any values at all, with pointers into large arrays: nothing crashes, and nothing is written unless the status is
       BNFAST_OK.

   fuzz.py builds it as a library and calls fuzz_run(), whose bytes a generator of random numbers makes. Compiled with
   `clang -fsanitize=fuzzer -DFUZZ_LIBFUZZER`, and Python to embed, libFuzzer makes the bytes (fuzz.py --libfuzzer). */
#ifdef FUZZ_LIBFUZZER
#include <Python.h>
#endif
#include <bnfast.h>

#include <math.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* ---- a case is read from bytes; where they end, zeros follow ---- */

typedef struct {
    const uint8_t *at;
    size_t left;
} bytes;

static uint64_t raw(bytes *b, int size) {
    uint64_t value = 0;
    while (size-- && b->left) value = value << 8 | *b->at++, b->left--;
    return value;
}

/* 0, ..., n - 1 */
static int below(bytes *b, int n) { return (int)(raw(b, n > 256 ? 2 : 1) % (unsigned)n); }

static uint64_t next_random(uint64_t *state) { /* splitmix64: Steele, Lea & Flood (2014) */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* ---- the arrays of a call, each between guard pages ---- */

enum { X, DY, RESIDUAL, Y, OUT, DRESIDUAL, GAMMA, BETA, DGAMMA, DBETA, MEAN, M2, VAR, MASK, WORKSPACE, ARRAYS };
typedef enum { DATA, PARAMS, STATISTICS, BYTES } kind;

static const struct {
    size_t field;
    kind kind;
} array[ARRAYS] = {
    [X] = {offsetof(bnfast_call, x), DATA},
    [DY] = {offsetof(bnfast_call, dy), DATA},
    [RESIDUAL] = {offsetof(bnfast_call, residual), DATA},
    [Y] = {offsetof(bnfast_call, y), DATA},
    [OUT] = {offsetof(bnfast_call, out), DATA},
    [DRESIDUAL] = {offsetof(bnfast_call, dresidual), DATA},
    [GAMMA] = {offsetof(bnfast_call, gamma), PARAMS},
    [BETA] = {offsetof(bnfast_call, beta), PARAMS},
    [DGAMMA] = {offsetof(bnfast_call, dgamma), PARAMS},
    [DBETA] = {offsetof(bnfast_call, dbeta), PARAMS},
    [MEAN] = {offsetof(bnfast_call, mean), STATISTICS},
    [M2] = {offsetof(bnfast_call, m2), STATISTICS},
    [VAR] = {offsetof(bnfast_call, var), STATISTICS},
    [MASK] = {offsetof(bnfast_call, mask), BYTES},
    [WORKSPACE] = {offsetof(bnfast_call, workspace), BYTES},
};

enum { ROOM = 1 << 21, PAGE = 1 << 16, NEAR = 512, UNTOUCHED = 0xa5 };

static char *room[ARRAYS];     /* space(a) bytes that may be used, between pages that may not */
static char *original[ARRAYS]; /* what was put there */

static int64_t space(int a) { return a == WORKSPACE ? 16 * ROOM : ROOM; }

typedef struct {
    int pass;
    bnfast_call call;
    int64_t size[ARRAYS];     /* in bytes */
    int item[ARRAYS];
    int present[ARRAYS], written[ARRAYS], same_as[ARRAYS];
    char *at[ARRAYS];
    int expected;
    int fault;                /* which thing is wrong; 0: none */
    int64_t counted;          /* positions that the mask lets count; -1: no mask */
} a_case;

static const bnfast_api *table;
static char failure[1024];
static uint64_t seed_now, case_now;

static void *map(size_t size, int protection) {
    void *found = mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) abort();
    return found;
}

static void at_crash(int number) {
    char text[160];
    int length = snprintf(text, sizeof text, "fuzz: signal %d in seed %llu, case %llu\n", number,
                          (unsigned long long)seed_now, (unsigned long long)case_now);
    if (write(2, text, (size_t)length) < 0) _exit(3);
    _exit(2);
}

static void prepare(void) {
    if (room[0]) return;
    for (int a = 0; a < ARRAYS; a++) {
        char *all = map((size_t)space(a) + 2 * PAGE, PROT_NONE);
        room[a] = all + PAGE;
        if (mprotect(room[a], (size_t)space(a), PROT_READ | PROT_WRITE)) abort();
        original[a] = map((size_t)space(a), PROT_READ | PROT_WRITE);
    }
#ifndef FUZZ_LIBFUZZER
    signal(SIGSEGV, at_crash);
    signal(SIGBUS, at_crash);
    signal(SIGFPE, at_crash);
    signal(SIGABRT, at_crash);
#else
    (void)at_crash;
#endif
}

static void set_pointer(bnfast_call *call, int a, const void *to) {
    memcpy((char *)call + array[a].field, &to, sizeof to);
}

/* Values of a type: mostly ordinary; hard: also the ones that float formulas fail at. Never negative where asked. */
static void fill(char *to, int64_t size, int dtype, int item, int hard, int positive, uint64_t *state) {
    static const double odd[] = {INFINITY, -INFINITY, NAN, 1e30, -1e30, 1e-40, 0, -0.0, 65504, 1e5};
    for (int64_t i = 0; i < size / item; i++) {
        const uint64_t bits = next_random(state);
        double value = (double)(int64_t)bits * 0x1p-61;
        if (hard && bits % 16 == 0) value = odd[bits / 16 % 10];
        if (positive) value = fabs(value);
        const float narrow = (float)value;
        uint32_t word;
        memcpy(&word, &narrow, 4);
        uint16_t half = (uint16_t)(word >> 16);
        if (dtype == BNFAST_FLOAT16) half = (uint16_t)(hard ? bits : (bits & 0x83ff) | (10 + (bits >> 20) % 8) << 10);
        memcpy(to + i * item, item == 8 ? (void *)&value : item == 4 ? (void *)&narrow : (void *)&half, (size_t)item);
    }
}

/* A mask: nothing counts, all does, one position, or stretches of some length. Returns how many count. */
static int64_t fill_mask(char *mask, int64_t n, int how, uint64_t *state) {
    static const unsigned lengths[] = {2, 2, 5, 64, 500}; /* 2: each by chance */
    const int64_t one = n ? (int64_t)(next_random(state) % (uint64_t)n) : 0;
    int64_t count = 0;
    int on = how % 2;
    for (int64_t i = 0; i < n; i++) {
        const uint64_t bits = next_random(state);
        if (how == 2) on = i == one;
        if (how > 2) on ^= bits % lengths[how - 3] == 0;
        mask[i] = (char)(on ? 1 + (bits >> 32) % 255 : 0);
        count += on;
    }
    return count;
}

/* ---- a valid call ---- */

static int64_t one_of(bytes *b, const int64_t *values, int count) { return values[below(b, count)]; }

static void measure(a_case *c) {
    const bnfast_call *call = &c->call;
    const int points = call->norm == BNFAST_LAYER || call->norm == BNFAST_RMS;
    static const int items[] = {4, 8, 2, 2};
    const int item = items[call->dtype], param = items[call->param_dtype];
    const int64_t elements = call->samples * call->outer * call->channels * call->inner;
    const int64_t statistics = call->norm == BNFAST_GROUP ? call->samples * call->groups : call->channels;
    for (int a = 0; a < WORKSPACE; a++) {
        const kind k = array[a].kind;
        c->item[a] = k == DATA ? item : k == PARAMS ? param : k == BYTES ? 1 : 8;
        c->size[a] = (k == DATA     ? elements
                      : k == PARAMS ? (points ? call->inner : call->channels)
                      : k == BYTES  ? call->outer * call->inner
                                    : statistics) *
                     c->item[a];
    }
    c->item[WORKSPACE] = 8;
}

static void describe(bytes *b, a_case *c) {
    static const int64_t small[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 0, 64, 49, 65, 100};
    static const int64_t maps[] = {1, 1, 1, 2, 7, 16, 49, 63, 64, 65, 3, 196, 0, 1000};
    bnfast_call *call = &c->call;
    memset(c, 0, sizeof *c);
    c->pass = below(b, 5);
    call->struct_size = sizeof *call;
    call->dtype = below(b, 4);
    call->param_dtype = below(b, 2);
    call->norm = below(b, 4);
    if (c->pass == BNFAST_NORMALIZE || c->pass == BNFAST_NORMALIZE_BACKWARD) call->norm = BNFAST_BATCH;
    const int points = call->norm == BNFAST_LAYER || call->norm == BNFAST_RMS;
    const int options = below(b, 256), large = below(b, 32) == 31;
    call->relu = !points && options & 1;
    call->eps = options & 2 ? 1e-5 : 1e-3;
    call->samples = call->norm == BNFAST_GROUP ? one_of(b, small, 10) : 1;
    call->outer = points ? 1 : one_of(b, small, 14);
    call->channels = one_of(b, small, 18);
    call->inner = one_of(b, maps, 14);
    if (large) { /* for several threads */
        int64_t *grows = !points && options & 4 ? &call->outer : options & 8 ? &call->channels : &call->inner;
        *grows = 1;
        if (call->samples > 8) call->samples = 8;
        const int64_t rest = call->samples * call->outer * call->channels * call->inner;
        if (rest) *grows = 131072 / rest + 1 + below(b, 1000) * 8 / rest;
    }
    if (call->samples * call->outer * call->channels * call->inner > ROOM / 9) call->inner = 1, call->outer = 1;
    if (call->norm == BNFAST_GROUP) {
        static const int64_t divisors[] = {1, 2, 4, 8, 3, 1 << 30};
        const int64_t wanted = one_of(b, divisors, 6);
        call->groups = call->channels % wanted ? call->channels : wanted;
        if (!call->channels) call->groups = 0;
    }

    const int back = c->pass == BNFAST_BACKWARD || c->pass == BNFAST_NORMALIZE_BACKWARD;
    const int frozen = c->pass == BNFAST_NORMALIZE || c->pass == BNFAST_NORMALIZE_BACKWARD;
    const int sums = c->pass == BNFAST_MOMENTS || c->pass == BNFAST_FORWARD;
    for (int a = 0; a < ARRAYS; a++) c->same_as[a] = a;
    c->present[X] = 1;
    c->present[MEAN] = c->present[frozen ? VAR : M2] = 1;
    c->written[MEAN] = c->written[M2] = sums;
    if (c->pass != BNFAST_MOMENTS) {
        c->present[OUT] = c->written[OUT] = 1;
        c->present[GAMMA] = !(options & 16);
        c->present[BETA] = !(options & 32);
    }
    const int in_place = below(b, 4), in_place_too = below(b, 3);
    if (back) {
        c->present[DY] = 1;
        c->present[DGAMMA] = c->written[DGAMMA] = !(options & 64);
        c->present[DBETA] = c->written[DBETA] = options & 64 || options & 128;
        if (call->relu && options & 128)
            c->present[Y] = c->present[DRESIDUAL] = c->written[DRESIDUAL] = 1;
        c->same_as[OUT] = in_place == 1 ? X : in_place == 2 ? DY : in_place == 3 && c->present[Y] ? Y : OUT;
        const int place = in_place_too == 1 ? DY : in_place_too == 2 ? Y : DRESIDUAL;
        if (c->present[Y] && c->same_as[OUT] != place) c->same_as[DRESIDUAL] = place;
    } else if (c->pass != BNFAST_MOMENTS) {
        c->present[RESIDUAL] = !points && options & 128;
        c->same_as[OUT] = in_place == 1 ? X : in_place == 2 && c->present[RESIDUAL] ? RESIDUAL : OUT;
    }
    c->present[MASK] = call->norm == BNFAST_BATCH && below(b, 2);
    const int64_t share = call->norm == BNFAST_GROUP && call->groups ? call->channels / call->groups : 1;
    if (!points && call->outer * call->inner * share == 1 && call->channels && c->pass == BNFAST_FORWARD &&
        !c->present[MASK]) {
        c->expected = BNFAST_BAD_COUNT;
        c->fault = -1;
    }
    measure(c);
}

/* From element i on, the first that the mask leaves out; their number where there is none. */
static int64_t left_out(const a_case *c, int64_t i) {
    const int64_t inner = c->call.inner, sample = c->call.channels * inner, n = c->size[X] / c->item[X];
    while (i < n && original[MASK][i / sample * inner + i % inner]) i++;
    return i;
}

/* Any bits where the mask leaves out an element; but y is 0 there, as forward wrote it. */
static void disturb(const a_case *c, uint64_t *state) {
    static const int inputs[] = {X, DY, RESIDUAL, Y};
    const int64_t n = c->size[X] / c->item[X];
    for (int k = 0; k < 4; k++) {
        const int a = inputs[k];
        for (int64_t i = 0; c->present[a] && (i = left_out(c, i)) < n; i++) {
            const uint64_t bits = a == Y ? 0 : next_random(state);
            memcpy(original[a] + i * c->item[a], &bits, (size_t)c->item[a]);
        }
    }
}

/* Is an output 0 where the mask leaves it out? */
static int clear(const a_case *c, int a) {
    static const char zeros[8];
    const int64_t n = c->size[X] / c->item[X];
    for (int64_t i = 0; (i = left_out(c, i)) < n; i++)
        if (memcmp(c->at[a] + i * c->item[a], zeros, (size_t)c->item[a])) return 0;
    return 1;
}

/* Puts the arrays into memory: `late` ones end at the guard page, the others begin there, `skew` elements from it. */
static void place(a_case *c, int late, int skew) {
    for (int a = 0; a < ARRAYS; a++) {
        int64_t start = (int64_t)skew * c->item[a];
        if (late) start = (space(a) - c->size[a]) / c->item[a] * c->item[a] - start;
        c->at[a] = c->present[a] ? room[a] + start : NULL;
    }
    for (int a = 0; a < ARRAYS; a++) {
        if (c->present[a]) c->at[a] = c->at[c->same_as[a]];
        set_pointer(&c->call, a, c->at[a]);
    }
}

static void load(a_case *c) {
    for (int a = 0; a < ARRAYS; a++) {
        if (!c->present[a] || c->same_as[a] != a) continue;
        char *first = c->at[a] - NEAR < room[a] ? room[a] : c->at[a] - NEAR;
        char *end = c->at[a] + c->size[a];
        char *last = end + NEAR > room[a] + space(a) ? room[a] + space(a) : end + NEAR;
        memset(first, UNTOUCHED, (size_t)(last - first));
        if (!c->written[a]) memcpy(c->at[a], original[a], (size_t)c->size[a]);
    }
}

static int all_untouched(const char *first, const char *last) {
    for (; first < last; first++)
        if (*(const unsigned char *)first != UNTOUCHED) return 0;
    return 1;
}

static int fail(const a_case *c, const char *what, int a, int status) {
    const bnfast_call *k = &c->call;
    snprintf(failure, sizeof failure,
             "seed %llu, case %llu: %s (array %d, status %d, expected %d, fault %d): pass %d dtype %d param_dtype %d "
             "norm %d relu %d threads %d samples %lld outer %lld channels %lld inner %lld groups %lld eps %g out_is %d "
             "dresidual_is %d counted %lld workspace %lld",
             (unsigned long long)seed_now, (unsigned long long)case_now, what, a, status, c->expected, c->fault, c->pass,
             k->dtype, k->param_dtype, k->norm, k->relu, k->threads, (long long)k->samples, (long long)k->outer,
             (long long)k->channels, (long long)k->inner, (long long)k->groups, k->eps, c->same_as[OUT],
             c->same_as[DRESIDUAL], (long long)c->counted, (long long)k->workspace_size);
    return -1;
}

/* After a call: is what surrounds the arrays as it was, and so the inputs, and the outputs too if it failed? */
static int look(const a_case *c, int status) {
    for (int a = 0; a < ARRAYS; a++) {
        if (!c->present[a] || c->same_as[a] != a) continue;
        const char *first = c->at[a] - NEAR < room[a] ? room[a] : c->at[a] - NEAR, *end = c->at[a] + c->size[a];
        const char *last = end + NEAR > room[a] + space(a) ? room[a] + space(a) : end + NEAR;
        if (!all_untouched(first, c->at[a]) || !all_untouched(end, last)) return fail(c, "written outside", a, status);
        int changes = c->written[a] || a == WORKSPACE;
        for (int o = 0; o < ARRAYS; o++) changes |= c->written[o] && c->present[o] && c->same_as[o] == a;
        if (status == BNFAST_OK && changes) continue;
        if (c->written[a] ? !all_untouched(c->at[a], end) : memcmp(c->at[a], original[a], (size_t)c->size[a]))
            return fail(c, status ? "written though refused" : "input changed", a, status);
    }
    return 0;
}

/* The same bits, or both NaN: which of two NaNs a sum is, IEEE arithmetic leaves open. */
static int same(const char *one, const char *other, int64_t size, int item, int bfloat16) {
    if (!memcmp(one, other, (size_t)size)) return 1;
    for (int64_t i = 0; i < size; i += item) {
        const uint64_t exponent = item == 8 ? 0x7ff0000000000000u : item == 4 ? 0x7f800000 : bfloat16 ? 0x7f80 : 0x7c00;
        const uint64_t sign = (uint64_t)1 << (item * 8 - 1);
        uint64_t a = 0, b = 0; /* little endian, as all that this runs on */
        memcpy(&a, one + i, (size_t)item), memcpy(&b, other + i, (size_t)item);
        if (a != b && ((a & ~sign) <= exponent || (b & ~sign) <= exponent)) return 0;
    }
    return 1;
}

/* ---- and one thing wrong with it: sets c->expected, or leaves the call valid where that cannot be wrong here ---- */

static void spoil(bytes *b, a_case *c, const bnfast_call **given, int *pass) {
    static const double no_eps[] = {0, -1e-5, NAN, INFINITY, -INFINITY};
    static const int64_t too_large[] = {INT64_MAX, (int64_t)1 << 62, (int64_t)1 << 57};
    bnfast_call *call = &c->call;
    const int points = call->norm == BNFAST_LAYER || call->norm == BNFAST_RMS;
    const int back = c->pass == BNFAST_BACKWARD || c->pass == BNFAST_NORMALIZE_BACKWARD;
    const int frozen = c->pass == BNFAST_NORMALIZE || c->pass == BNFAST_NORMALIZE_BACKWARD;
    const int which = below(b, ARRAYS), spread = below(b, 256);
    int64_t *sizes[] = {&call->samples, &call->outer, &call->channels, &call->inner};
    switch (c->fault) {
    case 1: *given = NULL; c->expected = BNFAST_BAD_CALL; break;
    case 2:
        call->struct_size += spread % 2 ? 1 + spread : -(int64_t)sizeof *call + spread % 64;
        c->expected = BNFAST_BAD_CALL;
        break;
    case 3: *pass = spread % 2 ? 5 + spread : -1 - spread; c->expected = BNFAST_BAD_CALL; break;
    case 4: call->reserved = 1 + spread; c->expected = BNFAST_BAD_CALL; break;
    case 5: call->dtype = spread % 2 ? 4 + spread : -1 - spread; c->expected = BNFAST_BAD_DTYPE; break;
    case 6: call->param_dtype = spread % 2 ? 2 + spread : -1 - spread; c->expected = BNFAST_BAD_DTYPE; break;
    case 7: call->norm = spread % 2 ? 4 + spread : -1 - spread; c->expected = BNFAST_BAD_NORM; break;
    case 8:
        if (points) call->relu = 1 + spread;
        else if (frozen) call->norm = BNFAST_GROUP + spread % 3;
        else return;
        c->expected = BNFAST_BAD_NORM;
        break;
    case 9: *sizes[which % 4] = -1 - spread; c->expected = BNFAST_BAD_SHAPE; break;
    case 10: *sizes[which % 4] = too_large[spread % 3]; c->expected = BNFAST_BAD_SHAPE; break;
    case 11:
        if (points && spread % 2) call->outer = 2 + spread;
        else if (call->norm != BNFAST_GROUP) call->samples = 2 + spread;
        else return;
        c->expected = BNFAST_BAD_SHAPE;
        break;
    case 12:
        if (call->norm != BNFAST_GROUP || !call->channels) return;
        call->groups = spread % 2 ? call->channels + 1 : -1 - spread;
        c->expected = BNFAST_BAD_GROUPS;
        break;
    case 13: call->threads = -1 - spread; c->expected = BNFAST_BAD_THREADS; break;
    case 14:
        if (c->pass == BNFAST_MOMENTS) return;
        call->eps = no_eps[spread % 5];
        c->expected = BNFAST_BAD_EPS;
        break;
    case 15: {
        const int squares = frozen ? VAR : M2;
        if (!(back || frozen) || !c->size[squares]) return;
        const double negative = -0.5;
        const int64_t at = spread % (c->size[squares] / 8) * 8;
        memcpy(original[squares] + at, &negative, 8);
        memcpy(c->at[squares] + at, &negative, 8);
        c->expected = BNFAST_BAD_VARIANCE;
        break;
    }
    case 16:
        if (!c->present[which] || !c->size[which]) return;
        if (which == WORKSPACE ? !call->workspace_size || !c->counted
                               : array[which].kind == PARAMS || which == RESIDUAL || which == Y || which == MASK)
            return; /* may be missing */
        set_pointer(call, which, NULL);
        c->expected = BNFAST_MISSING;
        break;
    case 17:
        if (!c->present[which] || !c->size[which] || which == MASK) return;
        set_pointer(call, which, c->at[which] + 1);
        c->expected = BNFAST_MISALIGNED;
        break;
    case 18: {
        if (!c->present[which] || !c->size[which] || !c->present[OUT] || c->size[OUT] < 64 || which == OUT) return;
        set_pointer(call, which, c->at[OUT] + c->item[which] * (c->item[OUT] <= c->item[which] ? 1 : 4));
        if (c->same_as[OUT] != OUT && which == c->same_as[OUT]) return set_pointer(call, which, c->at[which]);
        c->expected = c->item[which] == 8 && (size_t)c->at[OUT] % 8 ? BNFAST_MISALIGNED : BNFAST_OVERLAP;
        if (c->item[which] == 4 && (size_t)c->at[OUT] % 4) c->expected = BNFAST_MISALIGNED;
        break;
    }
    case 19:
        if (!call->workspace_size || !c->counted) return; /* where nothing counts, none is needed */
        call->threads = 1;
        call->workspace_size = table->workspace(c->pass, call);
        if (!call->workspace_size) return;
        call->workspace_size -= 1 + spread % call->workspace_size;
        c->expected = BNFAST_SMALL_WORKSPACE;
        break;
    case 20:
        if (!back || call->relu || points) return;
        set_pointer(call, Y, room[Y]);
        set_pointer(call, DRESIDUAL, room[DRESIDUAL]);
        c->expected = BNFAST_BAD_CALL;
        break;
    case 21:
        if (call->norm != BNFAST_BATCH) set_pointer(call, MASK, room[MASK]);
        else if (c->present[MASK] && c->size[MASK]) call->norm = BNFAST_GROUP + spread % 3;
        else return;
        c->expected = BNFAST_BAD_NORM;
        break;
    case 22:
        if (!c->present[MASK] || !c->size[MASK] || !c->present[which] || !c->size[which]) return;
        if (!c->written[which] && which != WORKSPACE) return;
        set_pointer(call, MASK, c->at[which] + spread % c->size[which]);
        c->expected = BNFAST_OVERLAP;
        break;
    default: break;
    }
}

enum { FAULTS = 22 };

static int structured(bytes *b) {
    static char *results[ARRAYS];
    a_case c;
    describe(b, &c);
    const int hard = below(b, 8) == 7, skew = below(b, 20), fault = below(b, 2 * FAULTS + 1);
    uint64_t state = raw(b, 8);
    for (int a = 0; a < WORKSPACE; a++) {
        const int dtype = array[a].kind == DATA ? c.call.dtype : -1;
        if (c.present[a]) fill(original[a], c.size[a], dtype, c.item[a], hard, a == M2 || a == VAR, &state);
    }
    c.counted = c.present[MASK] ? fill_mask(original[MASK], c.size[MASK], below(b, 8), &state) : -1;
    if (c.counted == 1 && c.pass == BNFAST_FORWARD && c.call.channels) c.expected = BNFAST_BAD_COUNT, c.fault = -1;
    if (!c.fault && fault <= FAULTS) c.fault = fault;
    int status = BNFAST_OK;
    for (int turn = 0; turn < 2; turn++) {
        const bnfast_call *given = &c.call;
        int pass = c.pass;
        c.call.threads = turn ? 3 : 1;
        c.call.workspace_size = table->workspace(c.pass, &c.call);
        if (c.call.workspace_size < 0) {
            status = (int)-c.call.workspace_size;
            if (status != c.expected) return fail(&c, "workspace", WORKSPACE, status);
            c.call.workspace_size = 0;
        }
        c.size[WORKSPACE] = c.call.workspace_size;
        c.present[WORKSPACE] = c.call.workspace_size > 0;
        if (c.size[WORKSPACE] > space(WORKSPACE) - PAGE) return fail(&c, "a large workspace", WORKSPACE, 0);
        if (c.present[WORKSPACE]) fill(original[WORKSPACE], c.size[WORKSPACE] / 8 * 8, -1, 8, 1, 0, &state);
        if (c.present[MASK]) disturb(&c, &state);
        place(&c, turn, skew);
        load(&c);
        if (c.fault > 0) spoil(b, &c, &given, &pass);
        status = table->run(pass, given);
        if (status != c.expected) return fail(&c, "another status", -1, status);
        if (!table->strerror(status)[0]) return fail(&c, "no words", -1, status);
        if (look(&c, status)) return -1;
        if (status != BNFAST_OK) return status;
        if (c.present[MASK] && c.present[OUT] && !clear(&c, OUT)) return fail(&c, "not 0 under the mask", OUT, status);
        for (int a = 0; a < WORKSPACE; a++) {
            if (!c.written[a] || !c.present[a]) continue;
            if (!results[a]) results[a] = map(ROOM, PROT_READ | PROT_WRITE);
            if (!turn)
                memcpy(results[a], c.at[a], (size_t)c.size[a]);
            else if (!same(results[a], c.at[a], c.size[a], c.item[a], c.call.dtype == BNFAST_BFLOAT16))
                return fail(&c, "3 threads, or where the arrays lie, change bits", a, status);
        }
    }
    return status;
}

/* ---- any values at all ---- */

static int wild(bytes *b) {
    static const int64_t sizes[] = {0, 1, 2, 3, 5, 8, 16, 64, 1000, 4096, -1, INT64_MAX, INT64_MIN, (int64_t)1 << 31,
                                    (int64_t)1 << 55, (int64_t)1 << 62};
    static const int32_t numbers[] = {0, 1, 2, 3, 0, 1, 2, 3, 4, -1, INT32_MAX, INT32_MIN};
    static const double epses[] = {1e-5, 1, 0, -1, NAN, INFINITY, 1e-320, 1e300};
    static const int offsets[] = {0, 0, 0, 0, 1, 2, 8, 64};
    a_case c;
    memset(&c, 0, sizeof c);
    bnfast_call *call = &c.call;
    call->struct_size = below(b, 16) ? (int64_t)sizeof *call : sizes[below(b, 16)];
    int32_t *fields[] = {&call->dtype, &call->param_dtype, &call->norm, &call->relu, &call->threads};
    for (int i = 0; i < 5; i++) *fields[i] = numbers[below(b, 12)];
    if (call->threads > 64) call->threads = 64; /* so many would be started */
    call->reserved = below(b, 16) == 15;
    int64_t *shape[] = {&call->samples, &call->outer, &call->channels, &call->inner, &call->groups};
    for (int i = 0; i < 5; i++) *shape[i] = sizes[below(b, 16)];
    call->eps = epses[below(b, 8)];
    c.pass = below(b, 16) ? below(b, 5) : numbers[below(b, 12)];
    __int128 product = 8;
    for (int i = 0; i < (call->channels ? 4 : 5); i++) { /* of no channels there may be any number of groups */
        product *= *shape[i] > 1 ? *shape[i] : 1;
        if (product > ROOM) product = ROOM;
    }
    const int fits = product < ROOM - 64;
    for (int a = 0; a < ARRAYS; a++) {
        const int other = below(b, 8) ? a : below(b, ARRAYS);
        c.at[a] = fits && below(b, 8) ? room[other] + offsets[below(b, 8)] : NULL;
        if (a == MASK && call->norm != BNFAST_BATCH && below(b, 8)) c.at[a] = NULL;
        set_pointer(call, a, c.at[a]);
        memset(room[a], 0, NEAR);
        memset(original[a], 0, NEAR);
    }
    call->workspace_size = below(b, 4) ? ROOM - 64 : sizes[below(b, 16)];
    if (call->workspace_size > ROOM - 64) call->workspace_size = ROOM - 64;
    const int64_t need = table->workspace(c.pass, call);
    const int status = table->run(c.pass, call);
    if (need < 0 && status != -need) return fail(&c, "workspace and run disagree", -1, status);
    if (status < BNFAST_OK || status >= BNFAST_STATUSES) return fail(&c, "no such status", -1, status);
    for (int a = 0; a < ARRAYS && status != BNFAST_OK; a++)
        if (memcmp(room[a], original[a], NEAR)) return fail(&c, "written though refused", a, status);
    return status;
}

static int fuzz_one(const uint8_t *data, size_t size) {
    bytes b = {data, size};
    prepare();
    failure[0] = 0;
    return below(&b, 4) ? structured(&b) : wild(&b);
}

#ifdef FUZZ_LIBFUZZER

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    Py_InitializeEx(0);
    if (bnfast_import() < 0) {
        PyErr_Print();
        exit(1);
    }
    table = bnfast_table;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (fuzz_one(data, size) < 0) {
        fprintf(stderr, "%s\n", failure);
        abort();
    }
    return 0;
}

#else

/* Runs cases for so many seconds (or only the case `only`, if that is not negative). counts[status] of them gave a
   status; returns NULL, or what went wrong. */
__attribute__((visibility("default"))) const char *fuzz_run(const bnfast_api *api, uint64_t seed, double seconds,
                                                            int64_t only, int64_t *counts) {
    struct timespec start, now;
    table = api;
    seed_now = seed;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (case_now = only < 0 ? 0 : (uint64_t)only;; case_now++) {
        uint64_t state = seed * 0x2545f4914f6cdd1du + case_now * 0x9e3779b97f4a7c15u, block[32];
        for (int i = 0; i < 32; i++) block[i] = next_random(&state);
        const int status = fuzz_one((const uint8_t *)block, sizeof block);
        if (status < 0) return failure;
        counts[status]++;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (only >= 0 || (double)(now.tv_sec - start.tv_sec) + 1e-9 * (double)(now.tv_nsec - start.tv_nsec) > seconds)
            return NULL;
    }
}

#endif
