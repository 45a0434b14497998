/* Which table this CPU gets. A new ISA is a row in the list here and a file rows_<isa>.c. */
#include "rows.h"

#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

extern const rows_isa rows_generic, rows_avx2, rows_avx512, rows_zen4, rows_neon;

static int always(void) { return 1; }

#if defined(__x86_64__)
/* Family 19h is Zen 3, which has no AVX-512, and Zen 4. */
static int is_zen4(void) { return __builtin_cpu_is("amdfam19h") && __builtin_cpu_supports("avx512vl"); }
static int with_avx512(void) { return __builtin_cpu_supports("avx512f") != 0; }
/* F16C too, which every CPU with AVX2 has; clang cannot ask for it. */
static int with_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif

static const struct {
    const rows_isa *isa;
    int (*is_there)(void);
} known[] = {
#if defined(__x86_64__)
    {&rows_zen4, is_zen4},
    {&rows_avx512, with_avx512},
    {&rows_avx2, with_avx2},
#elif defined(__aarch64__)
    {&rows_neon, always},
#endif
    {&rows_generic, always},
};

const rows_isa *rows_available(int i) {
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    for (size_t n = 0; n < sizeof known / sizeof *known; n++)
        if (known[n].is_there() && i-- == 0) return known[n].isa;
    return NULL;
}

const rows_isa *rows_select(const char *name) {
    const rows_isa *isa = NULL;
    for (int i = 0; (isa = rows_available(i)); i++)
        if (!name || !strcmp(name, isa->name)) break;
    return isa;
}

int rows_beyond_a_mesh(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_is("intel") && with_avx512(); /* and its clients of 2019 to 2021, which are not measured */
#else
    return 0;
#endif
}

void rows_fence(void) {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}
