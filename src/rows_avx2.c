/* x86-64 with AVX2 and FMA (Intel since 2013, AMD since 2015). */
#include "rows.h"

#include <string.h>

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#include <immintrin.h>

#define WIDTH 32
#define STREAM(p, v) _mm256_stream_si256((__m256i *)(p), (__m256i)(v))
/* a * 1 - b has the bits of a - b, and goes where the additions do not: AMD multiplies and adds on separate pipes. */
#define MINUS(a, b) _mm256_fmsub_pd((__m256d)(a), _mm256_set1_pd(1), (__m256d)(b))
#define MULADD(a, b, c) _mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c))
#define MULADD1(a, b, c) __builtin_fma(a, b, c)
#define REAL float
#define NAME(op) op##_f32
#define LOAD(p) _mm256_cvtps_pd(_mm_loadu_ps(p))
#include "rows.inc"
#define REAL double
#define NAME(op) op##_f64
#define LOAD(p) _mm256_loadu_pd(p)
#include "rows.inc"

const rows_isa rows_avx2 = {"avx2", &table_f32, &table_f64};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
