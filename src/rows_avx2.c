/* x86-64 with AVX2, FMA and F16C (Intel since 2013, AMD since 2015). */
#include "rows.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#include <immintrin.h>

#define WIDTH 32
#define SUMS 32
#define AT_ONCE 4
#include "avx.inc"

const rows_isa rows_avx2 = {"avx2", ROWS_TABLES};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
