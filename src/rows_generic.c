/* What every CPU of the platform has: SSE2 on x86-64, whatever the compiler makes of 16-byte vectors elsewhere. */
#include "rows.h"

#define WIDTH 16
#define SUMS 16
#define AT_ONCE 4
#if defined(__x86_64__)
#include <emmintrin.h>
#define STREAM(p, v) _mm_stream_si128((__m128i *)(p), (__m128i)(v))
#define STREAM_HALF(p, h) _mm_stream_si64((long long *)(p), (long long)(h))
#else
#define STREAM(p, v) (*(U *)(p) = (U)(v))
#define STREAM_HALF(p, h) (*(halves *)(p) = (h))
#endif
#define MINUS(a, b) ((D)(a) - (D)(b))
#define MULADD(a, b, c) ((D)(a) * (D)(b) + (D)(c))
#define MULADD1(a, b, c) ((a) * (b) + (c))
#define UNLESS_4(a, b, v) UNLESS_8(WIDEN(a), WIDEN(b), WIDEN(v)) /* x86-64 is slow with 8-byte vectors */
#include "types.inc"

const rows_isa rows_generic = {"generic", ROWS_TABLES};
