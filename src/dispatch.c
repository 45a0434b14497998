/* Which table this CPU gets. A new ISA is a row in each of the two lists here and a file rows_<isa>.c. */
#include "rows.h"

#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

extern const rows_isa rows_generic, rows_avx2, rows_avx512, rows_neon;

const rows_isa *rows_available(int i) {
    const rows_isa *found[4];
    int n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) found[n++] = &rows_avx512;
    /* F16C too, which every CPU with AVX2 has; clang cannot ask for it. */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found[n++] = &rows_avx2;
#elif defined(__aarch64__)
    found[n++] = &rows_neon;
#endif
    found[n++] = &rows_generic;
    return i >= 0 && i < n ? found[i] : NULL;
}

const rows_isa *rows_select(const char *name) {
    const rows_isa *isa = NULL;
    for (int i = 0; (isa = rows_available(i)); i++)
        if (!name || !strcmp(name, isa->name)) break;
    return isa;
}

void rows_fence(void) {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}
