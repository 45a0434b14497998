/* What every CPU of the platform has: SSE2 on x86-64, whatever the compiler makes of 16-byte vectors elsewhere. */
#include "rows.h"

#include <string.h>

#define WIDTH 16
#if defined(__x86_64__)
#include <emmintrin.h>
#define STREAM(p, v) _mm_stream_si128((__m128i *)(p), (__m128i)(v))
#define WIDEN(p) _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)(p))))
#else
#define STREAM(p, v) (*(U *)(p) = (v))
#define WIDEN(p) ((D){(p)[0], (p)[1]})
#endif
#define MINUS(a, b) ((D)(a) - (D)(b))
#define MULADD(a, b, c) ((D)(a) * (D)(b) + (D)(c))
#define MULADD1(a, b, c) ((a) * (b) + (c))
#define REAL float
#define NAME(op) op##_f32
#define LOAD(p) WIDEN(p)
#include "rows.inc"
#define REAL double
#define NAME(op) op##_f64
#define LOAD(p) (*(const E *)(p))
#include "rows.inc"

const rows_isa rows_generic = {"generic", &table_f32, &table_f64};
