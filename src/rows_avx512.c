/* x86-64 with AVX-512F. */
#include "rows.h"

#include <string.h>

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC target("avx512f")
#endif
#include <immintrin.h>

#define WIDTH 64
#define STREAM(p, v) _mm512_stream_si512((__m512i *)(p), (__m512i)(v))
#define MINUS(a, b) _mm512_fmsub_pd((__m512d)(a), _mm512_set1_pd(1), (__m512d)(b)) /* as in rows_avx2.c */
#define MULADD(a, b, c) _mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c))
#define MULADD1(a, b, c) __builtin_fma(a, b, c)
#define REAL float
#define NAME(op) op##_f32
#define LOAD(p) _mm512_cvtps_pd(_mm256_loadu_ps(p))
#include "rows.inc"
#define REAL double
#define NAME(op) op##_f64
#define LOAD(p) _mm512_loadu_pd(p)
#include "rows.inc"

const rows_isa rows_avx512 = {"avx512", &table_f32, &table_f64};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
