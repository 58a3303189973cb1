/* pool.c: memory of a step: best fit over a sorted list of holes; deterministic.
 *
 * Chunks come from the context's allocator.  A step that needed several is followed by one large chunk, so
 * that a warm step asks the allocator for nothing. */
#include "internal.h"

#include <string.h>
#ifdef LK_SANITIZE
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p))
#endif

#define ALIGN 64

/* A multiple of ALIGN, at least one; what is too large for that stays too large for any allocator. */
static size_t round_up(size_t n) {
  if (n > SIZE_MAX - 2 * ALIGN) return SIZE_MAX - 2 * ALIGN + 1;
  return ((n ? n : 1) + ALIGN - 1) & ~(size_t)(ALIGN - 1);
}
static char *aligned(char *p) { return (char *)(((uintptr_t)p + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1)); }

static void remove_hole(lk_pool *m, size_t i) {
  m->nhole--;
  memmove(m->hole + i, m->hole + i + 1, (m->nhole - i) * sizeof *m->hole);
}

static void insert_hole(lk_pool *m, size_t i, lk_span s) {
  memmove(m->hole + i + 1, m->hole + i, (m->nhole - i) * sizeof *m->hole);
  m->hole[i] = s;
  m->nhole++;
}

/* Holes never outnumber blocks and chunks by more than one, so putting back never allocates. */
static int reserve(lk_pool *m, size_t chunks) {
  size_t before = m->hole_capacity, need = m->blocks + chunks + 3;
  if (need <= before) return 0;
  if (lk_grow(m->ctx, &m->hole, &m->hole_capacity, need, sizeof *m->hole)) return -1;
  m->allocations += m->hole_capacity != before;
  return 0;
}

static int add_chunk(lk_pool *m, size_t size) {
  size_t before = m->chunk_capacity;
  if (reserve(m, m->nchunk + 1)) return -1;
  if (lk_grow(m->ctx, &m->chunk, &m->chunk_capacity, m->nchunk + 1, sizeof *m->chunk)) return -1;
  m->allocations += m->chunk_capacity != before;
  char *p = size < SIZE_MAX - ALIGN ? lk_raw_alloc(m->ctx, size + ALIGN) : NULL;
  if (!p) {
    lk_fail(m->ctx, LK_ENOMEM, "tape: out of memory: %zu bytes more; %zu in use", size, m->live);
    return -1;
  }
  m->allocations++;
  ASAN_POISON_MEMORY_REGION(aligned(p), size);
  m->chunk[m->nchunk] = (lk_span){p, size, 0};
  insert_hole(m, m->nhole, (lk_span){aligned(p), size, (int)m->nchunk});
  m->nchunk++;
  m->reserved += size;
  return 0;
}

/* The first of the smallest holes that hold n bytes; nhole if there is none. */
static size_t best_fit(const lk_pool *m, size_t n) {
  size_t best = m->nhole, least = SIZE_MAX;
  for (size_t i = 0; i < m->nhole && least > n; i++) {
    if (m->hole[i].size < n || m->hole[i].size >= least) continue;
    least = m->hole[i].size;
    best = i;
  }
  return best;
}

void *lk_pool_get(lk_pool *m, size_t size) {
  size_t n = round_up(size);
  if (reserve(m, m->nchunk)) return NULL;
  size_t best = best_fit(m, n);
  if (best == m->nhole) {
    size_t grow = m->reserved / 4;
    if (grow < ((size_t)1 << 16)) grow = (size_t)1 << 16;
    if (add_chunk(m, grow > n ? round_up(grow) : n)) return NULL;
    best = m->nhole - 1;
  }
  char *p = m->hole[best].p;
  m->hole[best].p += n;
  m->hole[best].size -= n;
  if (!m->hole[best].size) remove_hole(m, best);
  m->blocks++;
  m->live += n;
  if (m->live > m->peak) m->peak = m->live;
  ASAN_UNPOISON_MEMORY_REGION(p, n);
  if (m->poison) memset(p, 0xff, n); /* NaN, in every float format */
  return p;
}

void lk_pool_put(lk_pool *m, void *block, size_t size) {
  char *p = block;
  size_t n = round_up(size), i = 0;
  int k = 0;
  if (!p || m->naive) return;
  if (m->poison) memset(p, 0xff, n);
  ASAN_POISON_MEMORY_REGION(p, n);
  m->live -= n;
  m->blocks--;
  while (p < aligned(m->chunk[k].p) || p >= aligned(m->chunk[k].p) + m->chunk[k].size) k++;
  for (size_t high = m->nhole; i < high;) { /* first hole behind the block */
    size_t mid = (i + high) / 2;
    int before = m->hole[mid].chunk < k || (m->hole[mid].chunk == k && m->hole[mid].p < p);
    if (before) i = mid + 1;
    else high = mid;
  }
  int joins_before = i > 0 && m->hole[i - 1].chunk == k && m->hole[i - 1].p + m->hole[i - 1].size == p;
  int joins_after = i < m->nhole && m->hole[i].chunk == k && p + n == m->hole[i].p;
  if (joins_before) {
    m->hole[i - 1].size += n;
    if (!joins_after) return;
    m->hole[i - 1].size += m->hole[i].size;
    remove_hole(m, i);
  } else if (joins_after) {
    m->hole[i].p = p;
    m->hole[i].size += n;
  } else {
    insert_hole(m, i, (lk_span){p, n, k});
  }
}

static void free_chunks(lk_pool *m) {
  for (size_t i = 0; i < m->nchunk; i++) {
    ASAN_UNPOISON_MEMORY_REGION(aligned(m->chunk[i].p), m->chunk[i].size);
    lk_free(m->ctx, m->chunk[i].p);
  }
  m->nchunk = m->nhole = 0;
  m->reserved = 0;
}

void lk_pool_reset(lk_pool *m) {
  size_t size = m->reserved;
  m->live = m->peak = m->blocks = 0;
  if (m->nchunk > 1) {
    free_chunks(m);
    add_chunk(m, round_up(size + size / 4)); /* untouched pages cost nothing */
  } else if (m->nchunk == 1) {
    ASAN_POISON_MEMORY_REGION(aligned(m->chunk[0].p), m->chunk[0].size);
    m->hole[0] = (lk_span){aligned(m->chunk[0].p), m->chunk[0].size, 0};
    m->nhole = 1;
  }
}

void lk_pool_free(lk_pool *m) {
  free_chunks(m);
  lk_free(m->ctx, m->chunk);
  lk_free(m->ctx, m->hole);
}
