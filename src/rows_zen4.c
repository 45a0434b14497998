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

#define WIDTH 64
#define SUMS 32
#define AT_ONCE 8
#define UNLESS_4(a, b, v) _mm256_maskz_cvtps_pd(_mm_cmp_ps_mask((__m128)(a), (__m128)(b), _CMP_NLE_UQ), (__m128)(v))
#define UNLESS_8(a, b, v) _mm256_maskz_mov_pd(_mm256_cmp_pd_mask((__m256d)(a), (__m256d)(b), _CMP_NLE_UQ), (__m256d)(v))
#include "avx.inc"

const rows_isa rows_zen4 = {"zen4", ROWS_TABLES};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
