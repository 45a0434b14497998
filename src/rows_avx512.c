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
#define STREAM(p, v) _mm512_stream_si512((__m512i *)(p), (__m512i)(v))
#define MINUS(a, b) _mm512_fmsub_pd((__m512d)(a), _mm512_set1_pd(1), (__m512d)(b)) /* as in rows_avx2.c */
#define MULADD(a, b, c) _mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c))
#define MULADD1(a, b, c) __builtin_fma(a, b, c)
#define WIDEN(v) _mm512_cvtps_pd((__m256)(v))
#define BYTES_4(p) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define BYTES_8(p) _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(p)))
#define F16_FEW(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define F16_GET(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define F16_NARROW(v) _mm512_cvtps_ph((__m512)(v), _MM_FROUND_TO_NEAREST_INT)
#define F16_ONE(p) _cvtsh_ss(*(p))
#define F16_SET(p, v) (*(p) = _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT))
#define WORDS_FEW(p) _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define WORDS(p) _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(p)))
#define BF16_NARROW(v) narrow((__m512)(v))
#define STREAM_HALF(p, h) _mm256_stream_si256((__m256i *)(p), (__m256i)(h))
static inline __m256i narrow(__m512 v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __mmask16 number = _mm512_cmp_ps_mask(v, v, _CMP_ORD_Q);
    const __mmask16 odd = _mm512_mask_test_epi32_mask(number, bits, _mm512_set1_epi32(0x10000));
    const __m512i below = _mm512_mask_add_epi32(bits, number, bits, _mm512_set1_epi32(0x7fff));
    const __m512i up = _mm512_mask_add_epi32(below, odd, below, _mm512_set1_epi32(1));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16));
}
#include "types.inc"

const rows_isa rows_avx512 = {"avx512", ROWS_TABLES};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
