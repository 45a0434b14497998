/* bnfast.h: normalization for other extensions, without Python and without the GIL.

   You describe a call in a `bnfast_call`, with memory that is all yours, and hand it to one of

     bnfast_moments            x -> mean, m2
     bnfast_forward            x -> out, mean, m2                     by x's own statistics (training)
     bnfast_backward           dy, x, mean, m2 -> out = dx, dgamma, dbeta
     bnfast_normalize          x, mean, var -> out                    by given statistics (inference)
     bnfast_normalize_backward dy, x, mean, var -> out = dx, dgamma, dbeta

   Each returns BNFAST_OK, or says what is wrong with the call and has then written nothing. They allocate no memory for
   data, keep nothing of a call, never call Python, and may be called from any thread that has 32 KiB of stack left, with
   or without the GIL, and from several at once if no call writes what another uses (a workspace belongs to one call at
   a time). Inside an OpenMP parallel region they use the calling thread alone. Results have the same bits for any number
   of threads (of a NaN, only that it is one).

     #include <Python.h>
     #include <bnfast.h>                    compile with -I$(python -c "import bnfast; print(bnfast.get_include())")
     #include <stdlib.h>

     if (bnfast_import() < 0) return NULL;        once, with the GIL, in each file that calls; an ImportError is set.
                                                  It is there only if Python.h comes before bnfast.h

     double mean[64], m2[64];
     bnfast_call call = {.struct_size = sizeof call, .outer = 32, .channels = 64, .inner = 56 * 56, .eps = 1e-5,
                         .x = x, .out = y, .gamma = gamma, .beta = beta, .mean = mean, .m2 = m2};
     int64_t size = bnfast_workspace(BNFAST_FORWARD, &call);
     if (size > 0) call.workspace = malloc(size);      0 bytes for small calls; less than 0 is minus the status, which
     call.workspace_size = size;                       the call then returns, as it does where malloc() found no memory
     int status = bnfast_forward(&call);
     free(call.workspace);
     if (status) puts(bnfast_strerror(status));

   A field that is not named is 0, and 0 always means the plain thing: float32, batch norm, no ReLU, the default threads.

   The table of functions, and bnfast_call, only grow at their ends: what was compiled against an older header runs with
   a newer library, which reads what an older and shorter bnfast_call lacks as 0. A header whose BNFAST_ABI_VERSION is
   another one, or whose BNFAST_API_VERSION is newer than the library, is refused by bnfast_import(). */
#ifndef BNFAST_H
#define BNFAST_H

#include <stdint.h>

#define BNFAST_ABI_VERSION 1 /* another one: what was compiled before does not fit */
#define BNFAST_API_VERSION 1 /* a higher one: something was added */

#ifdef __cplusplus
extern "C" {
#endif

/* Types of elements. float16 and bfloat16 are widened as they are read, computed with in float32, and rounded once. */
enum { BNFAST_FLOAT32, BNFAST_FLOAT64, BNFAST_FLOAT16, BNFAST_BFLOAT16 };

/* What shares a statistic:
     BNFAST_BATCH  all elements of a channel
     BNFAST_GROUP  those of channels / groups neighbouring channels, in each sample of its own (instance norm:
                   groups == channels)
     BNFAST_LAYER  each run of `inner` elements; gamma and beta have `inner` values
     BNFAST_RMS    likewise, but about zero: mean is 0, m2 the sum of squares, and there is no beta

   And what each norm has:

     moments, forward, backward        all
     normalize, normalize_backward     batch
     relu, residual, y, dresidual      batch, group
     mask                              batch */
enum { BNFAST_BATCH, BNFAST_GROUP, BNFAST_LAYER, BNFAST_RMS };

/* The passes, to ask for a workspace. */
enum { BNFAST_MOMENTS, BNFAST_FORWARD, BNFAST_NORMALIZE, BNFAST_BACKWARD, BNFAST_NORMALIZE_BACKWARD };

enum {
    BNFAST_OK,
    BNFAST_BAD_CALL,        /* no call, no such pass, a struct_size that this library does not know, reserved not 0, or y
                               without relu */
    BNFAST_BAD_DTYPE,       /* dtype or param_dtype */
    BNFAST_BAD_NORM,        /* no such norm, or it has not got this pass, a ReLU, a residual or a mask */
    BNFAST_BAD_SHAPE,       /* a negative size, more bytes than 2^63, or not the shape of this norm */
    BNFAST_BAD_GROUPS,      /* groups do not divide channels */
    BNFAST_BAD_COUNT,       /* forward of batch or group norm with one value a statistic: its variance means nothing */
    BNFAST_BAD_EPS,         /* not above 0, or not finite */
    BNFAST_BAD_THREADS,     /* below 0 */
    BNFAST_BAD_VARIANCE,    /* a negative var, or m2 (NaN flows through) */
    BNFAST_MISSING,         /* an array that this pass needs is NULL */
    BNFAST_MISALIGNED,      /* an array does not lie at a multiple of its elements' size, or a workspace of 8 */
    BNFAST_OVERLAP,         /* an output shares memory with another array; out may be x, dy, residual or y themselves */
    BNFAST_SMALL_WORKSPACE, /* less than bnfast_workspace() says */
    BNFAST_STATUSES
};

typedef struct {
    int64_t struct_size;  /* sizeof(bnfast_call) */
    int32_t dtype;        /* of x, dy, residual, y, out, dresidual */
    int32_t param_dtype;  /* of gamma, beta, dgamma, dbeta: BNFAST_FLOAT32 or BNFAST_FLOAT64 */
    int32_t norm;
    int32_t relu;         /* not 0: out = max(.., 0); backward: forward had that */
    int32_t threads;      /* at most so many; 0: what bnfast.get_num_threads() says. Small calls take fewer */
    int32_t reserved;     /* 0 */

    /* The arrays are C-contiguous, (samples, outer, channels, inner), and channels are what gamma and beta go by:

         norm           layout             samples  outer   channels       inner
         batch          NCHW               1        N       C              H*W
         batch          NHWC               1        N*H*W   C              1
         group          NCHW               N        1       C              H*W
         group          NHWC               N        H*W     C              1
         layer, RMS     (rows, features)   1        1       rows           features

       samples of 0 counts as 1; of an empty batch, outer is 0. */
    int64_t samples, outer, channels, inner;
    int64_t groups;       /* group norm only */
    double eps;           /* added to the variance inside the square root; above 0 */

    const void *x;        /* input */
    const void *dy;       /* backward: gradient by the output */
    const void *residual; /* forward, normalize: added before the ReLU; NULL: none */
    const void *y;        /* backward through residual and ReLU: what forward wrote; its sign says where the ReLU shut */
    void *out;            /* the result: y forward, dx backward */
    void *dresidual;      /* backward, if y is given: gradient by the residual; may be dy or y itself. (Without a ReLU
                             there is no y, and that gradient is dy) */

    const void *gamma, *beta; /* scale and shift; NULL: 1 and 0. Backward needs beta only if relu and no y; RMS never */
    void *dgamma, *dbeta;     /* backward: gradients by them; NULL: not wanted. (RMS: dbeta is the sum of dy) */
    double *mean, *m2;        /* each statistic's mean and summed squared deviation: written by moments and forward, read
                                 by backward. channels of them; samples*groups for group norm. The biased variance is m2
                                 over the number of values that share the statistic */
    const double *var;        /* the variance: normalize and normalize_backward read mean and var */

    void *workspace;          /* bnfast_workspace() bytes at a multiple of 8, for best speed of 64; NULL if that is 0.
                                 What is in it before and after means nothing */
    int64_t workspace_size;

    const uint8_t *mask;      /* batch norm: a byte for each of outer * inner positions, 0 where its elements do not count:
                                 whatever they hold, they are in no sum, and `out` is 0 there. NULL: all count */
} bnfast_call;

typedef struct {
    int32_t abi_version, api_version;
    int64_t struct_size;
    int (*run)(int pass, const bnfast_call *call);
    int64_t (*workspace)(int pass, const bnfast_call *call);
    const char *(*strerror)(int status);
    int (*merge)(int64_t n, int64_t count, double *mean, double *m2, int64_t other_count, const double *other_mean,
                 const double *other_m2);
    int (*threads)(int64_t elements, int asked);
} bnfast_api;

/* The table; bnfast_import() sets it in this file. Without Python.h, get it from the capsule "bnfast._call.api". */
static const bnfast_api *bnfast_table;

static inline int bnfast_moments(const bnfast_call *call) { return bnfast_table->run(BNFAST_MOMENTS, call); }
static inline int bnfast_forward(const bnfast_call *call) { return bnfast_table->run(BNFAST_FORWARD, call); }
static inline int bnfast_backward(const bnfast_call *call) { return bnfast_table->run(BNFAST_BACKWARD, call); }
static inline int bnfast_normalize(const bnfast_call *call) { return bnfast_table->run(BNFAST_NORMALIZE, call); }
static inline int bnfast_normalize_backward(const bnfast_call *call) {
    return bnfast_table->run(BNFAST_NORMALIZE_BACKWARD, call);
}

/* Bytes that a pass over this call wants, 0 for small ones, or minus the status if it is a bad call. The pointers to
   data need not be set yet. */
static inline int64_t bnfast_workspace(int pass, const bnfast_call *call) {
    return bnfast_table->workspace(pass, call);
}

/* What a status means, in English; never NULL. */
static inline const char *bnfast_strerror(int status) { return bnfast_table->strerror(status); }

/* Merges the moments of n channels, each over other_count values, into those over count values (Chan's formula).
   BNFAST_OK, BNFAST_BAD_SHAPE (a negative number) or BNFAST_MISSING. */
static inline int bnfast_merge(int64_t n, int64_t count, double *mean, double *m2, int64_t other_count,
                               const double *other_mean, const double *other_m2) {
    return bnfast_table->merge(n, count, mean, m2, other_count, other_mean, other_m2);
}

/* How many threads a call over so many elements takes; asked: bnfast_call.threads. A call that makes sums as well as an
   output (bnfast_forward, the backward ones) counts each element one and a half times. */
static inline int bnfast_threads(int64_t elements, int asked) { return bnfast_table->threads(elements, asked); }

#ifdef Py_PYTHON_H
/* Finds the library's table: 0, or -1 with an ImportError set. Uses only the limited API. */
static inline int bnfast_import(void) {
    PyObject *module = PyImport_ImportModule("bnfast._call"), *capsule;
    const bnfast_api *found;
    if (!module) return -1;
    capsule = PyObject_GetAttrString(module, "api");
    found = capsule ? (const bnfast_api *)PyCapsule_GetPointer(capsule, "bnfast._call.api") : NULL;
    Py_XDECREF(capsule); /* the table lives as long as the process */
    Py_DECREF(module);
    if (!found) {
        PyErr_Clear();
        PyErr_SetString(PyExc_ImportError, "bnfast: no table of functions, bnfast._call.api, in this version");
        return -1;
    }
    if (found->abi_version != BNFAST_ABI_VERSION || found->api_version < BNFAST_API_VERSION) {
        PyErr_Format(PyExc_ImportError, "bnfast: compiled against ABI %d, API %d, but the library has ABI %d, API %d",
                     BNFAST_ABI_VERSION, BNFAST_API_VERSION, (int)found->abi_version, (int)found->api_version);
        return -1;
    }
    bnfast_table = found;
    return 0;
}
#endif

#ifdef __cplusplus
}
#endif
#endif
