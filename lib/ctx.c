/* ctx.c: the context: allocator, sticky error, warnings, seed, threads. */
#include "dnnl.h"
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

static void *std_alloc(void *user, size_t size) {
  (void)user;
  return malloc(size);
}

static void std_free(void *user, void *p) {
  (void)user;
  free(p);
}

lk_ctx *lk_ctx_new(const lk_ctx_options *options) {
  lk_allocator a = {std_alloc, std_free, NULL};
  if (options && options->allocator) a = *options->allocator;
  lk_ctx *c = a.alloc(a.user, sizeof *c);
  if (!c) return NULL;
  memset(c, 0, sizeof *c);
  c->allocator = a;
  c->seed = options ? options->seed : 0;
  lk_set_threads(c, options ? options->threads : 0);
  lk_blis_init();
  return c;
}

void lk_ctx_free(lk_ctx *c) {
  if (!c) return;
  lk_warnings_clear(c);
  lk_dnnl_free(c, c->dnnl);
  c->allocator.free(c->allocator.user, c);
}

/* ---- errors and warnings ---- */

lk_status lk_error(const lk_ctx *c, const char **message) {
  if (message) *message = c ? c->message : "there is no context";
  return c ? c->status : LK_ENOMEM;
}

void lk_error_clear(lk_ctx *c) {
  if (!c) return;
  if (!c) return;
  c->status = LK_OK;
  c->message[0] = 0;
}

lk_status lk_fail(lk_ctx *c, lk_status status, const char *format, ...) {
  if (!c) return status;
  if (c->status == LK_OK) {
    va_list ap;
    va_start(ap, format);
    vsnprintf(c->message, sizeof c->message, format, ap);
    va_end(ap);
    c->status = status;
    c->errors++;
  }
  return c->status;
}

void lk_warn(lk_ctx *c, const char *format, ...) {
  if (!c || c->nwarnings == LK_MAX_WARNINGS) return;
  char text[600];
  va_list ap;
  va_start(ap, format);
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  size_t n = strlen(text) + 1;
  char *copy = lk_raw_alloc(c, n);
  if (!copy) return; /* a warning is not worth an error */
  memcpy(copy, text, n);
  c->warnings[c->nwarnings++] = copy;
}

int lk_warning_count(const lk_ctx *c) { return c ? c->nwarnings : 0; }

const char *lk_warning(const lk_ctx *c, int i) { return c && i >= 0 && i < c->nwarnings ? c->warnings[i] : NULL; }

void lk_warnings_clear(lk_ctx *c) {
  while (c->nwarnings) lk_free(c, c->warnings[--c->nwarnings]);
}

const char *lk_status_name(lk_status status) {
  static const char *const names[] = {"ok",       "no memory",   "nil value",    "stale value", "shape",     "dtype",
                                      "argument", "no gradient", "input/output", "format",      "not finite"};
  return (unsigned)status < sizeof names / sizeof *names ? names[status] : "unknown";
}

/* ---- memory ---- */

void *lk_raw_alloc(lk_ctx *c, size_t size) {
  /* BLIS's kernels may read, not use, a few bytes behind a matrix */
  void *p = size < SIZE_MAX - LK_PADDING ? c->allocator.alloc(c->allocator.user, size + LK_PADDING) : NULL;
  if (!p) return NULL;
  c->stats.allocations++;
  c->stats.live++;
  return p;
}

void *lk_alloc(lk_ctx *c, size_t size) {
  if (!c || c->status) return NULL;
  void *p = lk_raw_alloc(c, size);
  if (!p) {
    lk_fail(c, LK_ENOMEM, "out of memory: %zu bytes", size);
    return NULL;
  }
  return memset(p, 0, size ? size : 1);
}

void *lk_alloc_array(lk_ctx *c, size_t count, size_t size) {
  if (size && count > SIZE_MAX / size) {
    lk_fail(c, LK_ENOMEM, "out of memory: %zu elements of %zu bytes", count, size);
    return NULL;
  }
  return lk_alloc(c, count * size);
}

int lk_grow(lk_ctx *c, void *array, size_t *capacity, size_t n, size_t size) {
  void *old, *p;
  if (n <= *capacity) return 0;
  memcpy(&old, array, sizeof old); /* *array may be a pointer to any type */
  size_t more = *capacity ? *capacity : 8;
  while (more < n) more = more > SIZE_MAX / 2 ? n : 2 * more;
  p = lk_alloc_array(c, more, size);
  if (!p) return -1;
  if (old) memcpy(p, old, *capacity * size);
  lk_free(c, old);
  memcpy(array, &p, sizeof p);
  *capacity = more;
  return 0;
}

void lk_free(lk_ctx *c, void *p) {
  if (!p) return;
  c->stats.live--;
  c->allocator.free(c->allocator.user, p);
}

char *lk_strndup(lk_ctx *c, const char *s, size_t n) {
  char *p = s ? lk_alloc(c, n + 1) : NULL;
  return p ? memcpy(p, s, n) : NULL;
}

char *lk_strdup(lk_ctx *c, const char *s) { return s ? lk_strndup(c, s, strlen(s)) : NULL; }

char *lk_sprintf(lk_ctx *c, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  int n = vsnprintf(NULL, 0, format, ap);
  va_end(ap);
  char *p = n < 0 ? NULL : lk_alloc(c, (size_t)n + 1);
  if (!p) return NULL;
  va_start(ap, format);
  vsnprintf(p, (size_t)n + 1, format, ap);
  va_end(ap);
  return p;
}

/* ---- settings ---- */

lk_ctx_stats lk_ctx_statistics(const lk_ctx *c) { return c ? c->stats : (lk_ctx_stats){0, 0}; }

uint64_t lk_seed(const lk_ctx *c) { return c ? c->seed : 0; }

int lk_threads(const lk_ctx *c) { return c ? c->threads : 1; }

void lk_set_threads(lk_ctx *c, int threads) {
#ifdef _OPENMP
  int cores = omp_get_num_procs();
#else
  int cores = 1;
#endif
  c->threads = threads > 0 ? threads : cores;
  if (c->threads > LK_MAX_THREADS) c->threads = LK_MAX_THREADS;
}

lk_status lk_ctx_bf16_products(lk_ctx *c, int on) {
  if (lk_error(c, NULL) || !on == !c->dnnl) return lk_error(c, NULL);
  if (on) c->dnnl = lk_dnnl_new(c);
  else {
    lk_dnnl_free(c, c->dnnl);
    c->dnnl = NULL;
  }
  return lk_error(c, NULL);
}
