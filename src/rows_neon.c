/* aarch64, where NEON is always there. It has no streaming store of one vector, so STREAM is an ordinary one. */
#include "rows.h"

#include <string.h>

#if defined(__aarch64__)

#include <arm_neon.h>

#define WIDTH 16
#define STREAM(p, v) (*(U *)(p) = (v))
#define MINUS(a, b) ((D)(a) - (D)(b))
#define MULADD(a, b, c) vfmaq_f64((float64x2_t)(c), (float64x2_t)(a), (float64x2_t)(b))
#define MULADD1(a, b, c) __builtin_fma(a, b, c)
#define REAL float
#define NAME(op) op##_f32
#define LOAD(p) vcvt_f64_f32(vld1_f32(p))
#include "rows.inc"
#define REAL double
#define NAME(op) op##_f64
#define LOAD(p) vld1q_f64(p)
#include "rows.inc"

const rows_isa rows_neon = {"neon", &table_f32, &table_f64};
#endif
