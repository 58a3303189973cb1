/* memory.c: malloc with a counter. */
#include "memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* Every block begins with its size; large ones keep the alignment of a cache line. */
enum { SMALL = 1024, HEADER = 16, LARGE_HEADER = 64 };

static size_t header(size_t size) { return size < SMALL ? HEADER : LARGE_HEADER; }

static void *block_of(size_t size) {
  if (size < SMALL) return malloc(size + HEADER);
  if (size > SIZE_MAX - 2 * LARGE_HEADER) return NULL;
  return aligned_alloc(LARGE_HEADER, (size + 2 * LARGE_HEADER - 1) / LARGE_HEADER * LARGE_HEADER);
}

static void *take(void *user, size_t size) {
  memory *m = user;
  char *block = block_of(size), *p = block ? block + header(size) : NULL;
  if (!p) return NULL;
  memcpy(p - sizeof size, &size, sizeof size);
  m->live += size;
  if (m->live > m->peak) m->peak = m->live;
  return p;
}

static void give(void *user, void *p) {
  memory *m = user;
  size_t size;
  memcpy(&size, (char *)p - sizeof size, sizeof size);
  m->live -= size;
  free((char *)p - header(size));
}

lk_allocator memory_allocator(memory *m) { return (lk_allocator){take, give, m}; }

double memory_peak_rss_mb(void) {
  struct rusage use;
  return getrusage(RUSAGE_SELF, &use) ? 0 : (double)use.ru_maxrss / 1024;
}
