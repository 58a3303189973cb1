/* bpe.c: byte pair encoding: a word's characters, and of all pairs of neighbours that have a merge the one of lowest
 * rank, leftmost first, is merged until there is none (Sennrich et al., 2016).  A heap of candidates keeps this
 * at n log n. */
#include "text.h"

#include <stdlib.h>

/* ---- the heap: smallest key on top ---- */

static void push(lk_run *run, uint64_t key, int32_t id) {
  if (lk_grow(run->ctx, &run->heap, &run->heap_capacity, run->nheap + 1, sizeof *run->heap)) return;
  size_t i = run->nheap++;
  for (; i > 0 && run->heap[(i - 1) / 2].key > key; i = (i - 1) / 2) run->heap[i] = run->heap[(i - 1) / 2];
  run->heap[i] = (lk_candidate){key, id};
}

static lk_candidate pop(lk_run *run) {
  lk_candidate *h = run->heap, top = h[0], last = h[--run->nheap];
  size_t i = 0, child;
  while ((child = 2 * i + 1) < run->nheap) {
    child += child + 1 < run->nheap && h[child + 1].key < h[child].key;
    if (h[child].key >= last.key) break;
    h[i] = h[child];
    i = child;
  }
  h[i] = last;
  return top;
}

/* ---- symbols: a list linked both ways ---- */

static void add_symbol(lk_run *run, int32_t id) {
  if (lk_grow(run->ctx, &run->symbols, &run->symbols_capacity, run->nsymbols + 1, sizeof *run->symbols)) return;
  int32_t at = (int32_t)run->nsymbols++;
  run->symbols[at] = (lk_symbol){id, at - 1, at + 1};
}

/* The pair that begins at a symbol, if it can be merged. */
static void consider(const lk_merges *merges, lk_run *run, int32_t at) {
  const lk_symbol *s = run->symbols;
  const lk_merge *m = lk_merges_find(merges, s[at].id, s[s[at].next].id);
  if (m) push(run, (uint64_t)m->rank << 32 | (uint32_t)at, m->id);
}

static void merge_all(const lk_merges *merges, lk_run *run) {
  lk_symbol *s = run->symbols;
  int32_t n = (int32_t)run->nsymbols;
  run->nheap = 0;
  for (int32_t i = 0; i + 1 < n; i++) consider(merges, run, i);
  while (run->nheap > 0) {
    lk_candidate c = pop(run);
    int32_t at = (int32_t)(uint32_t)c.key, right = s[at].next;
    if (s[at].id < 0 || right >= n) continue;
    const lk_merge *m = lk_merges_find(merges, s[at].id, s[right].id);
    if (!m || m->id != c.id) continue; /* one of the two has been merged meanwhile */
    s[at].id = c.id;
    s[at].next = s[right].next;
    s[right].id = -1;
    if (s[at].next < n) s[s[at].next].prev = at;
    if (s[at].prev >= 0) consider(merges, run, s[at].prev);
    if (s[at].next < n) consider(merges, run, at);
  }
}

/* ---- a word's first symbols ---- */

typedef struct pending {
  int unknown; /* unknown tokens that wait to be added: 0 or 1 */
} pending;

static void add_pending(const lk_tokenizer *k, lk_run *run, pending *wait) {
  if (wait->unknown) add_symbol(run, k->model.unknown_id);
  wait->unknown = 0;
}

/* All bytes as tokens <0x..>; 0 if one of them is missing. */
static int add_bytes(const lk_model_text *m, lk_run *run, const char *s, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (m->byte[(unsigned char)s[i]] < 0) return 0;
  for (size_t i = 0; i < n; i++) add_symbol(run, m->byte[(unsigned char)s[i]]);
  return 1;
}

/* A character that is no token.  (Bytes overtake an unknown token that waits, as in the library.) */
static void add_stranger(const lk_tokenizer *k, lk_run *run, const char *s, size_t n, pending *wait) {
  const lk_model_text *m = &k->model;
  if (m->byte_fallback && add_bytes(m, run, s, n)) return;
  if (!m->unknown) return;
  if (m->unknown_id < 0) {
    lk_fail(run->ctx, LK_EARG, "a text has an unknown character, but the unknown token '%s' is not in the vocabulary",
            m->unknown);
    return;
  }
  if (!m->fuse_unknown) add_pending(k, run, wait);
  wait->unknown = 1;
}

/* The character with the prefix and suffix that its place in the word asks for. */
static int32_t find_char(const lk_model_text *m, lk_run *run, const char **s, size_t *n, int first, int last) {
  uint32_t c;
  int plain = (first || !m->nprefix) && (!last || !m->nsuffix);
  if (plain && *n <= 2 && lk_char_read(*s, &c) && c < 512) return m->letter[c];
  if (!plain) {
    lk_text_clear(&run->a);
    if (!first) lk_text_add(&run->a, m->prefix, m->nprefix);
    lk_text_add(&run->a, *s, *n);
    if (last) lk_text_add(&run->a, m->suffix, m->nsuffix);
    if (lk_error(run->ctx, NULL)) return -1;
    *s = run->a.s;
    *n = run->a.n;
  }
  const lk_token *t = lk_vocab_find(&m->vocab, *s, *n);
  return t ? t->id : -1;
}

void lk_bpe(const lk_tokenizer *k, lk_run *run, const char *s, size_t n) {
  const lk_model_text *m = &k->model;
  const lk_token *whole = m->ignore_merges ? lk_vocab_find(&m->vocab, s, n) : NULL;
  pending wait = {0};
  if (whole) {
    lk_run_add(run, whole->id);
    return;
  }
  run->nsymbols = 0;
  for (size_t i = 0, length; i < n && !lk_error(run->ctx, NULL); i += length) {
    length = lk_char_length(s + i);
    const char *text = s + i;
    size_t size = length;
    int32_t id = find_char(m, run, &text, &size, i == 0, i + length == n);
    if (id < 0) {
      add_stranger(k, run, text, size, &wait);
      continue;
    }
    add_pending(k, run, &wait);
    add_symbol(run, id);
  }
  add_pending(k, run, &wait);
  if (lk_error(run->ctx, NULL)) return;
  merge_all(&m->merges, run);
  for (size_t i = 0; i < run->nsymbols; i++)
    if (run->symbols[i].id >= 0) lk_run_add(run, run->symbols[i].id);
}
