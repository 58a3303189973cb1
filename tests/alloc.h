/* alloc.h: an allocator for tests: it counts, fills fresh memory with garbage, and lets one allocation fail. */
#ifndef TEST_ALLOC_H
#define TEST_ALLOC_H
#include <lorikeet/ctx.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct test_allocator {
  uint64_t calls;   /* so far */
  uint64_t live;    /* blocks not freed yet */
  uint64_t fail_at; /* this call returns NULL; 0: none */
} test_allocator;

static inline void *test_alloc(void *user, size_t size) {
  test_allocator *a = user;
  if (++a->calls == a->fail_at) return NULL;
  void *p = malloc(size);
  if (!p) return NULL;
  a->live++;
  return memset(p, 0xA5, size);
}

static inline void test_free(void *user, void *p) {
  test_allocator *a = user;
  a->live--;
  free(p);
}

/* A context whose allocation number fail_at (the context itself is the first) fails; 0: none. */
static inline lk_ctx *test_ctx(test_allocator *a, uint64_t fail_at) {
  lk_allocator allocator = {test_alloc, test_free, a};
  lk_ctx_options options = {.allocator = &allocator, .seed = 1};
  *a = (test_allocator){.fail_at = fail_at};
  return lk_ctx_new(&options);
}

/* Runs the story again and again, in a new context each time, with its 1st, 2nd, ... allocation failing, until it
 * passes untouched.  Every run but the last must fail with LK_ENOMEM and none may leave a block.  Returns NULL, or a
 * sentence saying what went wrong.  *count: how many allocations the story makes; NULL: not wanted. */
static inline const char *test_each_allocation(lk_status (*story)(lk_ctx *ctx, void *arg), void *arg, uint64_t *count) {
  static char why[1200];
  for (uint64_t n = 1;; n++) {
    test_allocator a;
    lk_ctx *ctx = test_ctx(&a, n);
    if (!ctx) continue;
    lk_status returned = story(ctx, arg);
    const char *message;
    lk_status status = lk_error(ctx, &message);
    int hit = a.calls >= n;
    snprintf(why, sizeof why, "allocation %llu: returned %s, context: %s (%s), %llu blocks left", (unsigned long long)n,
             lk_status_name(returned), lk_status_name(status), message, (unsigned long long)a.live - 1);
    lk_ctx_free(ctx);
    if (a.live || returned != status || status != (hit ? LK_ENOMEM : LK_OK)) return why;
    if (!hit) {
      if (count) *count = n - 1;
      return NULL;
    }
  }
}

#endif
