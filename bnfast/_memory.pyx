"""Where outputs live: large ones in blocks that earlier outputs have left (src/recycle.h).

NumPy attaches the handler that allocated an array's memory to the array (NEP 49), so these are ordinary arrays that own
their data; only the way back differs. The handler is NumPy's current one for the moment of the allocation only.
"""
from ._machine import bytes_wanted, memory_bytes

cimport numpy as cnp
from libc.string cimport memset, strcpy

cnp.import_array()

cdef enum:
    LARGE = 1 << 20  # bytes; below, malloc has such blocks at hand itself


cdef extern from "recycle.h" nogil:
    void *recycle_get(size_t)
    void recycle_put(void *)
    void *recycle_resize(void *, size_t)
    void recycle_limit(size_t)
    size_t recycle_held()


cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyDataMemAllocator:
        void *ctx
        void *(*malloc)(void *, size_t) noexcept nogil
        void *(*calloc)(void *, size_t, size_t) noexcept nogil
        void *(*realloc)(void *, void *, size_t) noexcept nogil
        void (*free)(void *, void *, size_t) noexcept nogil

    ctypedef struct PyDataMem_Handler:
        char name[127]
        unsigned char version
        PyDataMemAllocator allocator

    object PyDataMem_SetHandler(object)
    object PyArray_NewLikeArray(cnp.ndarray, cnp.NPY_ORDER, void *, int)


cdef extern from "Python.h":
    object PyCapsule_New(void *, const char *, void *)


cdef void *handler_malloc(void *ctx, size_t size) noexcept nogil:
    return recycle_get(size)


cdef void *handler_calloc(void *ctx, size_t count, size_t size) noexcept nogil:
    cdef void *block
    if size and count > (<size_t> -1) // size:
        return NULL
    block = recycle_get(count * size)
    if block != NULL:
        memset(block, 0, count * size)
    return block


cdef void *handler_realloc(void *ctx, void *block, size_t size) noexcept nogil:
    return recycle_resize(block, size)


cdef void handler_free(void *ctx, void *block, size_t size) noexcept nogil:
    recycle_put(block)


cdef PyDataMem_Handler handler  # lives as long as the process: arrays may outlive this module
strcpy(handler.name, b"bnfast")
handler.version = 1
handler.allocator.ctx = NULL
handler.allocator.malloc = handler_malloc
handler.allocator.calloc = handler_calloc
handler.allocator.realloc = handler_realloc
handler.allocator.free = handler_free
cdef object capsule = PyCapsule_New(&handler, "mem_handler", NULL)
cdef size_t limit = 0


cpdef output(cnp.ndarray x):
    """A new array of the shape and dtype of x, its values whatever they are."""
    if limit == 0 or cnp.PyArray_NBYTES(x) < LARGE:
        return PyArray_NewLikeArray(x, cnp.NPY_CORDER, NULL, 0)
    before = PyDataMem_SetHandler(capsule)
    try:
        return PyArray_NewLikeArray(x, cnp.NPY_CORDER, NULL, 0)
    finally:
        PyDataMem_SetHandler(before)


def set_limit(size_t size):
    global limit
    limit = size
    recycle_limit(size)


def get_limit():
    return limit


def held():
    return recycle_held()


def release():
    recycle_limit(0)
    recycle_limit(limit)


def _first_limit():
    """BNFAST_RECYCLE in bytes; else 1 GiB, but not more than a sixteenth of the memory that this process may have."""
    return bytes_wanted("BNFAST_RECYCLE", min(1 << 30, memory_bytes() // 16), "keep none")


set_limit(_first_limit())
