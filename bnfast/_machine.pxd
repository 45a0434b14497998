"""What this machine offers: the arithmetic, the caches, the threads. One policy each, decided here."""
from libc.stdint cimport int64_t

from ._rows cimport rows_table, rows_type


cdef const rows_table *table(rows_type type) noexcept nogil
cdef void fence() noexcept nogil
cdef int threads_for(int64_t elements, int asked) noexcept nogil
cdef int granted(int count) noexcept nogil
cdef int64_t l2_bytes() noexcept nogil
cdef int64_t llc_bytes() noexcept nogil
cdef int64_t cache_bytes(int threads) noexcept nogil
cdef bint has_mesh() noexcept nogil
