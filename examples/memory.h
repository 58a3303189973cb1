/* memory.h: malloc with a counter: how much memory a program's context really took. */
#ifndef MEMORY_H
#define MEMORY_H
#include <lorikeet/ctx.h>

typedef struct memory {
  size_t live, peak; /* bytes now, and at most so far; peak may be set back to live */
} memory;

/* Everything that a context with this allocator takes is counted in m, which must outlive the context. */
lk_allocator memory_allocator(memory *m);
double memory_peak_rss_mb(void); /* of the whole process, as the system counts it */

#endif
