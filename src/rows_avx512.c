/* x86-64 with AVX-512F. */
#include "rows.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx2,fma,f16c")
#endif
#include <immintrin.h>

#define WIDTH 64
#define SUMS 64
#define AT_ONCE 4
/* The upper half of v is compared too, for want of AVX-512VL. */
#define WHOLE(v) _mm512_castps256_ps512((__m256)(v))
#define UNLESS_4(a, b, v) \
    _mm512_maskz_cvtps_pd((__mmask8)_mm512_cmp_ps_mask(WHOLE(a), WHOLE(b), _CMP_NLE_UQ), (__m256)(v))
#define UNLESS_8(a, b, v) _mm512_maskz_mov_pd(_mm512_cmp_pd_mask((__m512d)(a), (__m512d)(b), _CMP_NLE_UQ), (__m512d)(v))
#include "avx.inc"

const rows_isa rows_avx512 = {"avx512", ROWS_TABLES};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
