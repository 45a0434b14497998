/* x86-64 with AVX2, FMA and F16C (Intel since 2013, AMD since 2015). */
#include "rows.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#include <immintrin.h>

typedef int four_bytes __attribute__((may_alias, aligned(1)));

#define WIDTH 32
#define STREAM(p, v) _mm256_stream_si256((__m256i *)(p), (__m256i)(v))
/* a * 1 - b has the bits of a - b, and goes where the additions do not: AMD multiplies and adds on separate pipes. */
#define MINUS(a, b) _mm256_fmsub_pd((__m256d)(a), _mm256_set1_pd(1), (__m256d)(b))
#define MULADD(a, b, c) _mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c))
#define MULADD1(a, b, c) __builtin_fma(a, b, c)
#define WIDEN(v) _mm256_cvtps_pd((__m128)(v)) /* GCC converts by halves */
#define BYTES_4(p) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p)))
#define BYTES_8(p) _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(*(const four_bytes *)(p)))
#define F16_FEW(p) _mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)(p)))
#define F16_GET(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define F16_NARROW(v) _mm256_cvtps_ph((__m256)(v), _MM_FROUND_TO_NEAREST_INT)
#define F16_ONE(p) _cvtsh_ss(*(p))
#define F16_SET(p, v) (*(p) = _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT))
#define WORDS_FEW(p) _mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)(p)))
#define WORDS(p) _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define BF16_NARROW(v) narrow((__m256)(v))
#define STREAM_HALF(p, h) _mm_stream_si128((__m128i *)(p), (__m128i)(h))
static inline __m128i narrow(__m256 v) {
    const __m256i bits = _mm256_castps_si256(v), odd = _mm256_slli_epi32(bits, 15); /* its sign says so */
    const __m256i number = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_ORD_Q));
    const __m256i up = _mm256_sub_epi32(_mm256_set1_epi32(0x7fff), _mm256_srai_epi32(odd, 31));
    const __m256i top = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_and_si256(up, number)), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
}
#include "types.inc"

const rows_isa rows_avx2 = {"avx2", ROWS_TABLES};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
