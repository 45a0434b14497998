/* recycle.h: a bounded stock of large memory blocks. A block that was freed has its pages already, which a fresh one
   must first be given by the kernel, page by page: at 100 MB that takes longer than to fill it.

   Any thread may call anything, with or without Python's lock. A block is always wholly the caller's or wholly here. */
#ifndef BNFAST_RECYCLE_H
#define BNFAST_RECYCLE_H

#include <stddef.h>

/* At least `size` bytes on a cache line of their own, from the stock if it has a block of that size; NULL: no memory,
   not even after the stock was given back. */
void *recycle_get(size_t size);

/* Takes back what recycle_get or recycle_resize returned: into the stock, as far as the limit allows. */
void recycle_put(void *block);

/* As realloc. */
void *recycle_resize(void *block, size_t size);

/* The stock's limit in bytes; more than that goes back to the system, now and later. 0: nothing is kept. */
void recycle_limit(size_t bytes);

/* Bytes in the stock. */
size_t recycle_held(void);

#endif
