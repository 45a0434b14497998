/* x86-64 with AVX-512F. */
#include "rows.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx2,fma,f16c")
#endif
#include <immintrin.h>

#define MINUS(a, b) _mm512_fmsub_pd((__m512d)(a), _mm512_set1_pd(1), (__m512d)(b)) /* as in rows_avx2.c */
#define MULADD(a, b, c) _mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c))
#define WIDEN(v) _mm512_cvtps_pd((__m256)(v))
#define F16_FEW(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define WORDS_FEW(p) _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p)))
#include "avx512.inc"

const rows_isa rows_avx512 = {"avx512", ROWS_TABLES};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
