/* vocab.c: tokens by text and by id, merges by pair: hash tables with open addressing. */
#include "text.h"

#include <stdlib.h>

/* ---- tokens ---- */

/* FNV-1a, folded. */
static size_t hash_text(const char *s, size_t n) {
  uint64_t h = 0xCBF29CE484222325u;
  for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 0x100000001B3u;
  return (size_t)(h ^ h >> 32);
}

void lk_vocab_room(lk_vocab *v, size_t tokens) {
  lk_ctx *ctx = v->bytes.ctx;
  v->slots = 16;
  while (v->slots < 2 * tokens) v->slots *= 2;
  v->slot = lk_alloc_array(ctx, v->slots, sizeof *v->slot);
  v->token = lk_alloc_array(ctx, tokens + 1, sizeof *v->token);
  v->by_id = lk_alloc_array(ctx, tokens + 1, sizeof *v->by_id);
  v->capacity = lk_error(ctx, NULL) ? 0 : tokens;
}

/* Where the token's index stands, or would stand. */
static size_t place_of(const lk_vocab *v, const char *s, size_t n) {
  size_t i = hash_text(s, n) & (v->slots - 1);
  for (; v->slot[i]; i = (i + 1) & (v->slots - 1)) {
    const lk_token *t = &v->token[v->slot[i] - 1];
    if (t->n == n && !memcmp(v->bytes.s + t->at, s, n)) break;
  }
  return i;
}

void lk_vocab_add(lk_vocab *v, const char *s, size_t n, int32_t id) {
  if (v->n == v->capacity) return;
  size_t at = v->bytes.n, place = place_of(v, s, n);
  lk_text_add(&v->bytes, s, n);
  lk_text_add(&v->bytes, "", 1);
  if (v->bytes.n != at + n + 1) return;
  v->token[v->n++] = (lk_token){at, (uint32_t)n, id};
  v->slot[place] = (uint32_t)v->n;
  if (n > v->longest) v->longest = n;
}

/* An id with its token's index: they are sorted together. */
static int by_value(const void *a, const void *b) {
  const uint64_t *x = a, *y = b;
  return (*x > *y) - (*x < *y);
}

void lk_vocab_sort(lk_vocab *v) {
  lk_ctx *ctx = v->bytes.ctx;
  uint64_t *list = lk_alloc_array(ctx, v->n + 1, sizeof *list);
  if (!list) return;
  int sorted = 1;
  for (size_t i = 0; i < v->n; i++) {
    list[i] = (uint64_t)v->token[i].id << 32 | i;
    sorted &= !i || list[i - 1] < list[i];
  }
  if (!sorted) qsort(list, v->n, sizeof *list, by_value);
  for (size_t i = 0; i < v->n; i++) v->by_id[i] = (uint32_t)list[i];
  lk_free(ctx, list);
}

void lk_vocab_free(lk_vocab *v) {
  lk_ctx *ctx = v->bytes.ctx;
  lk_free(ctx, v->slot);
  lk_free(ctx, v->token);
  lk_free(ctx, v->by_id);
  lk_text_free(&v->bytes);
}

const lk_token *lk_vocab_find(const lk_vocab *v, const char *s, size_t n) {
  if (!v->slot || n > v->longest) return NULL;
  uint32_t index = v->slot[place_of(v, s, n)];
  return index ? &v->token[index - 1] : NULL;
}

const lk_token *lk_vocab_by_id(const lk_vocab *v, int64_t id) {
  size_t low = 0, high = v->n;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    const lk_token *t = &v->token[v->by_id[middle]];
    if (t->id == id) return t;
    if (t->id < id) low = middle + 1;
    else high = middle;
  }
  return NULL;
}

/* ---- merges ---- */

int lk_merges_room(lk_ctx *ctx, lk_merges *m, size_t count) {
  m->slots = 16;
  while (m->slots < 2 * count) m->slots *= 2;
  m->slot = lk_alloc_array(ctx, m->slots, sizeof *m->slot);
  for (size_t i = 0; m->slot && i < m->slots; i++) m->slot[i].rank = UINT32_MAX;
  return m->slot ? 0 : -1;
}

/* Fibonacci hashing (Knuth, volume 3, section 6.4). */
static lk_merge *slot_of(const lk_merges *m, uint64_t pair) {
  size_t i = (size_t)(pair * 0x9E3779B97F4A7C15u >> 20) & (m->slots - 1);
  while (m->slot[i].rank != UINT32_MAX && m->slot[i].pair != pair) i = (i + 1) & (m->slots - 1);
  return &m->slot[i];
}

void lk_merges_put(lk_merges *m, lk_merge merge) { *slot_of(m, merge.pair) = merge; }

const lk_merge *lk_merges_find(const lk_merges *m, int32_t left, int32_t right) {
  if (!m->slot) return NULL;
  const lk_merge *found = slot_of(m, (uint64_t)left << 32 | (uint32_t)right);
  return found->rank == UINT32_MAX ? NULL : found;
}
