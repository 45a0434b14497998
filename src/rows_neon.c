/* aarch64, where NEON is always there. It has no streaming store of one vector, so STREAM is an ordinary one. */
#include "rows.h"

#if defined(__aarch64__)
#include <arm_neon.h>

typedef __fp16 one_half __attribute__((may_alias));

#define WIDTH 16
#define SUMS 16
#define AT_ONCE 4
#define STREAM(p, v) (*(U *)(p) = (U)(v))
#define MINUS(a, b) ((D)(a) - (D)(b))
#define MULADD(a, b, c) vfmaq_f64((float64x2_t)(c), (float64x2_t)(a), (float64x2_t)(b))
#define MULADD1(a, b, c) __builtin_fma(a, b, c)
#define F16_FEW(p) ((floats_few){F16_ONE(p), F16_ONE((p) + 1)})
#define F16_GET(p) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))
#define F16_NARROW(v) vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)(v)))
#define F16_ONE(p) ((float)*(const one_half *)(p))
#define F16_SET(p, v) (*(one_half *)(p) = (one_half)(v))
#define STREAM_HALF(p, h) (*(halves *)(p) = (halves)(h))
#include "types.inc"

const rows_isa rows_neon = {"neon", ROWS_TABLES};
#endif
