/* memory.c: malloc with a counter. */
#include "memory.h"

#include <stdlib.h>
#include <sys/resource.h>

enum { HEADER = 64 }; /* in front of every block, to hold its size; keeps a cache line's alignment */

static void *take(void *user, size_t size) {
  memory *m = user;
  void *p = size <= SIZE_MAX - 2 * HEADER ? aligned_alloc(HEADER, (size + 2 * HEADER - 1) / HEADER * HEADER) : NULL;
  if (!p) return NULL;
  *(size_t *)p = size;
  m->live += size;
  if (m->live > m->peak) m->peak = m->live;
  return (char *)p + HEADER;
}

static void give(void *user, void *p) {
  memory *m = user;
  char *block = (char *)p - HEADER;
  m->live -= *(size_t *)(void *)block;
  free(block);
}

lk_allocator memory_allocator(memory *m) { return (lk_allocator){take, give, m}; }

double memory_peak_rss_mb(void) {
  struct rusage use;
  return getrusage(RUSAGE_SELF, &use) ? 0 : (double)use.ru_maxrss / 1024;
}
