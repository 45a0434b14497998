/* x86-64 with AVX-512 that is done by halves (Zen 4): a conversion to double takes longer there than two of half a
   vector, so sums are made in vectors of 256 bits, of which AVX-512VL has 32. */
#include "rows.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx2,fma,f16c")
#endif
#include <immintrin.h>

#define SUMS 32
#define AT_ONCE 8
/* a * 1 - b has the bits of a - b, and goes where the additions do not: AMD multiplies and adds on separate pipes. */
#define MINUS(a, b) _mm256_fmsub_pd((__m256d)(a), _mm256_set1_pd(1), (__m256d)(b))
#define MULADD(a, b, c) _mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c))
#define UNLESS(a, b, v) _mm256_maskz_mov_pd(_mm256_cmp_pd_mask((__m256d)(a), (__m256d)(b), _CMP_NLE_UQ), (__m256d)(v))
#define WIDEN(v) _mm256_cvtps_pd((__m128)(v)) /* GCC converts by halves */
#define F16_FEW(p) _mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)(p)))
#define WORDS_FEW(p) _mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)(p)))
#include "avx512.inc"

const rows_isa rows_zen4 = {"zen4", ROWS_TABLES};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
