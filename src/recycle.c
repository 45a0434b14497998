#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* madvise */
#endif
#include "recycle.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { BLOCKS = 32, UNIT = 1 << 16, HUGE_PAGE = 1 << 21 };

/* Bytes before the caller's, because of 4K aliasing: a CPU takes a load for one of what it has just stored, and waits,
   if the last 12 bits of their addresses agree. Large arrays of malloc, and so of NumPy, begin 16 bytes into a page; an
   output that began a little further into its page would stop the loads of each sweep that makes it from such an
   array. */
enum { HEADER = 3840 };

typedef struct {
    size_t whole; /* bytes, this header included */
} header;

static struct {
    pthread_mutex_t lock;
    size_t limit, held;
    int count;
    header *block[BLOCKS]; /* the oldest first */
} stock = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void take(int i) {
    stock.held -= stock.block[i]->whole;
    memmove(stock.block + i, stock.block + i + 1, (size_t)(--stock.count - i) * sizeof *stock.block);
}

/* The oldest block that `room` more bytes push out, or NULL. Freed by the caller, without the lock. */
static header *pushed_out(size_t room) {
    header *old = NULL;
    pthread_mutex_lock(&stock.lock);
    if (stock.count && (stock.held + room > stock.limit || (room && stock.count == BLOCKS))) {
        old = stock.block[0];
        take(0);
    }
    pthread_mutex_unlock(&stock.lock);
    return old;
}

static void give_back(size_t room) {
    for (header *old; (old = pushed_out(room));) free(old);
}

void *recycle_get(size_t size) {
    /* Few distinct sizes, so that what was one array serves for another; whole huge pages where there will be some. */
    const size_t unit = size >= 2 * (size_t)HUGE_PAGE ? HUGE_PAGE : UNIT;
    if (size > SIZE_MAX / 2) return NULL;
    const size_t whole = (size + HEADER + unit - 1) / unit * unit;
    header *found = NULL;
    pthread_mutex_lock(&stock.lock);
    for (int i = stock.count; i-- && !found;)
        if (stock.block[i]->whole == whole) {
            found = stock.block[i]; /* the newest: its pages are the likeliest to be in the cache */
            take(i);
        }
    pthread_mutex_unlock(&stock.lock);
    if (!found) {
        found = aligned_alloc(unit, whole);
        if (!found) {
            give_back(SIZE_MAX / 2);
            found = aligned_alloc(unit, whole);
            if (!found) return NULL;
        }
#ifdef MADV_HUGEPAGE
        if (unit == HUGE_PAGE) madvise(found, whole, MADV_HUGEPAGE);
#endif
        found->whole = whole;
    }
    return (char *)found + HEADER;
}

void recycle_put(void *block) {
    if (!block) return;
    header *mine = (header *)((char *)block - HEADER);
    pthread_mutex_lock(&stock.lock);
    const int fits = mine->whole <= stock.limit;
    pthread_mutex_unlock(&stock.lock);
    if (fits) give_back(mine->whole); /* one that does not fit anyway pushes nothing out */
    pthread_mutex_lock(&stock.lock);
    if (stock.count < BLOCKS && stock.held + mine->whole <= stock.limit) {
        stock.held += mine->whole;
        stock.block[stock.count++] = mine;
        mine = NULL;
    }
    pthread_mutex_unlock(&stock.lock);
    free(mine);
}

void *recycle_resize(void *block, size_t size) {
    void *new = recycle_get(size);
    if (new && block) {
        const size_t old = ((header *)((char *)block - HEADER))->whole - HEADER;
        memcpy(new, block, old < size ? old : size);
        recycle_put(block);
    }
    return new;
}

void recycle_limit(size_t bytes) {
    pthread_mutex_lock(&stock.lock);
    stock.limit = bytes;
    pthread_mutex_unlock(&stock.lock);
    give_back(0);
}

size_t recycle_held(void) {
    pthread_mutex_lock(&stock.lock);
    const size_t held = stock.held;
    pthread_mutex_unlock(&stock.lock);
    return held;
}

/* A forked child shall find the lock open, whoever held it. */
static void lock(void) { pthread_mutex_lock(&stock.lock); }
static void unlock(void) { pthread_mutex_unlock(&stock.lock); }
__attribute__((constructor)) static void prepare_for_forks(void) { pthread_atfork(lock, unlock, unlock); }
