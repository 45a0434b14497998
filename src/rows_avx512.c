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
#include "avx.inc"

const rows_isa rows_avx512 = {"avx512", ROWS_TABLES};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
