/* rows.c: texts as rows of tokens. */
#include "data/balance.h"

#include <lorikeet/random.h>
#include <lorikeet/texts.h>
#include <string.h>

void lk_rows_free(lk_rows *r) {
  if (!r) return;
  lk_free(r->ctx, r->begin);
  lk_free(r->ctx, r->ids);
  lk_free(r->ctx, r->types);
  lk_free(r->ctx, r->targets);
  lk_free(r->ctx, r->label);
  lk_free(r->ctx, r);
}

/* Rows being made; types and targets are filled together with ids. */
typedef struct {
  lk_rows *r;
  lk_tokenizer *k;
  size_t begins, capacity, type_capacity, target_capacity;
  int64_t n; /* tokens */
} making;

static int begin(making *m, lk_tokenizer *k, const lk_texts *x, int64_t most) {
  *m = (making){.k = k};
  if (!x) return 0;
  if (most < 2) {
    lk_fail(x->ctx, LK_EARG, "rows of %lld tokens are too short", (long long)most);
    return 0;
  }
  m->r = k && !lk_error(x->ctx, NULL) ? lk_alloc(x->ctx, sizeof *m->r) : NULL;
  if (!m->r) return 0;
  m->r->ctx = x->ctx;
  return !lk_grow(x->ctx, &m->r->begin, &m->begins, 1, sizeof *m->r->begin);
}

static lk_rows *finish(making *m) {
  lk_rows *r = m->r;
  if (!r) return NULL;
  if (!lk_error(r->ctx, NULL) && !r->count) lk_fail(r->ctx, LK_EARG, "the texts make no row of tokens");
  if (!lk_error(r->ctx, NULL)) return r;
  lk_rows_free(r);
  return NULL;
}

/* Room for n more tokens. */
static lk_status room(making *m, int64_t n, int types, int targets) {
  lk_rows *r = m->r;
  size_t want = (size_t)(m->n + n);
  lk_grow(r->ctx, &r->ids, &m->capacity, want, sizeof *r->ids);
  if (types) lk_grow(r->ctx, &r->types, &m->type_capacity, want, sizeof *r->types);
  if (targets) lk_grow(r->ctx, &r->targets, &m->target_capacity, want, sizeof *r->targets);
  return lk_error(r->ctx, NULL);
}

/* What was added since the last row is one. */
static lk_status end_row(making *m) {
  lk_rows *r = m->r;
  if (lk_grow(r->ctx, &r->begin, &m->begins, (size_t)r->count + 2, sizeof *r->begin)) return lk_error(r->ctx, NULL);
  int64_t length = m->n - r->begin[r->count];
  if (length > r->longest) r->longest = length;
  r->begin[++r->count] = m->n;
  return LK_OK;
}

lk_rows *lk_rows_classify(lk_tokenizer *k, const lk_texts *x, int64_t most) {
  making m;
  if (!begin(&m, k, x, most)) return finish(&m);
  lk_rows *r = m.r;
  r->classes = x->classes;
  if (x->label) r->label = lk_alloc_array(r->ctx, (size_t)x->count, sizeof *r->label);
  if (r->label) memcpy(r->label, x->label, (size_t)x->count * sizeof *r->label);
  for (int64_t i = 0; i < x->count && !lk_error(r->ctx, NULL); i++) {
    lk_encoding e;
    const lk_encode_options o = {.most = most};
    if (lk_encode(k, x->text[i], x->pair ? x->pair[i] : NULL, &o, &e)) break;
    int64_t n = e.n;
    while (n > 0 && !e.mask[n - 1]) n--; /* padding is added by the batch */
    if (!room(&m, n, 1, 0)) {
      memcpy(r->ids + m.n, e.ids, (size_t)n * sizeof *r->ids);
      memcpy(r->types + m.n, e.types, (size_t)n * sizeof *r->types);
      m.n += n;
      end_row(&m);
    }
    lk_encoding_free(k, &e);
  }
  return finish(&m);
}

/* The tokens of a text without special ones; e is the caller's. */
static lk_status plain_tokens(lk_tokenizer *k, const char *text, lk_encoding *e) {
  return lk_encode(k, text, NULL, &(lk_encode_options){.no_special = 1, .most = INT64_MAX}, e);
}

/* Adds a token to the row; a full row of `width` ends. */
static lk_status put(making *m, int64_t id, int64_t width) {
  lk_rows *r = m->r;
  if (room(m, 1, 0, 1)) return lk_error(r->ctx, NULL);
  r->ids[m->n] = r->targets[m->n] = id;
  m->n++;
  return m->n - r->begin[r->count] == width ? end_row(m) : LK_OK;
}

lk_rows *lk_rows_lm(lk_tokenizer *k, const lk_texts *x, int64_t width, int64_t eos) {
  making m;
  if (!begin(&m, k, x, width)) return finish(&m);
  for (int64_t i = 0; i < x->count && !lk_error(x->ctx, NULL); i++) {
    lk_encoding e;
    if (plain_tokens(k, x->text[i], &e)) break;
    for (int64_t j = 0; j < e.n; j++)
      if (put(&m, e.ids[j], width)) break;
    lk_encoding_free(k, &e);
    if (eos >= 0) put(&m, eos, width);
  }
  int64_t rest = m.n - m.r->begin[m.r->count];
  if (!lk_error(x->ctx, NULL) && rest >= 2) end_row(&m);
  else m.r->cut += rest;
  return finish(&m);
}

/* prompt and completion in one row. */
static lk_status put_pair(making *m, const lk_encoding *prompt, const lk_encoding *completion, int64_t most,
                          int64_t eos) {
  lk_rows *r = m->r;
  int64_t answer = completion->n + (eos >= 0), skip = prompt->n + answer - most;
  if (skip < 0) skip = 0;
  if (skip > prompt->n) skip = prompt->n;
  int64_t ask = prompt->n - skip, keep = ask + answer > most ? most - ask : answer;
  r->cut += skip + answer - keep;
  if (room(m, ask + keep, 0, 1)) return lk_error(r->ctx, NULL);
  for (int64_t i = 0; i < ask; i++, m->n++) {
    r->ids[m->n] = prompt->ids[skip + i];
    r->targets[m->n] = -100;
  }
  for (int64_t i = 0; i < keep; i++, m->n++)
    r->ids[m->n] = r->targets[m->n] = i < completion->n ? completion->ids[i] : eos;
  return end_row(m);
}

lk_rows *lk_rows_complete(lk_tokenizer *k, const lk_texts *x, int64_t most, int64_t eos) {
  making m;
  if (x && !x->pair) lk_fail(x->ctx, LK_EARG, "there are no completions beside the prompts");
  if (!begin(&m, k, x, most)) return finish(&m);
  for (int64_t i = 0; i < x->count && !lk_error(x->ctx, NULL); i++) {
    lk_encoding prompt = {0}, completion = {0};
    if (!lk_encode(k, x->text[i], NULL, &(lk_encode_options){.most = INT64_MAX}, &prompt) &&
        !plain_tokens(k, x->pair[i], &completion))
      put_pair(&m, &prompt, &completion, most, eos);
    lk_encoding_free(k, &prompt);
    lk_encoding_free(k, &completion);
  }
  return finish(&m);
}

/* Row `from` of r behind the rows of m. */
static lk_status copy_row(making *m, const lk_rows *r, int64_t from) {
  int64_t at = r->begin[from], n = r->begin[from + 1] - at;
  size_t bytes = (size_t)n * sizeof *r->ids;
  if (room(m, n, r->types != NULL, r->targets != NULL)) return lk_error(r->ctx, NULL);
  memcpy(m->r->ids + m->n, r->ids + at, bytes);
  if (r->types) memcpy(m->r->types + m->n, r->types + at, bytes);
  if (r->targets) memcpy(m->r->targets + m->n, r->targets + at, bytes);
  if (r->label) m->r->label[m->r->count] = r->label[from];
  m->n += n;
  return end_row(m);
}

lk_rows *lk_rows_subset(const lk_rows *r, int64_t n, const int64_t *index) {
  making m = {0};
  if (!r) return NULL;
  lk_ctx *c = r->ctx;
  for (int64_t i = 0; i < n && !lk_error(c, NULL); i++)
    if (index[i] < 0 || index[i] >= r->count)
      lk_fail(c, LK_EARG, "no row %lld among %lld", (long long)index[i], (long long)r->count);
  m.r = lk_error(c, NULL) ? NULL : lk_alloc(c, sizeof *m.r);
  if (!m.r) return NULL;
  *m.r = (lk_rows){.ctx = c, .classes = r->classes, .cut = r->cut};
  lk_grow(c, &m.r->begin, &m.begins, 1, sizeof *m.r->begin);
  if (r->label) m.r->label = lk_alloc_array(c, (size_t)n + 1, sizeof *m.r->label);
  for (int64_t i = 0; i < n && !lk_error(c, NULL); i++) copy_row(&m, r, index[i]);
  return finish(&m);
}

lk_rows *lk_rows_limit(const lk_rows *r, int64_t n, uint64_t seed) {
  if (!r) return NULL;
  lk_rows *part = NULL;
  int64_t *order = lk_alloc_array(r->ctx, (size_t)r->count, sizeof *order);
  if (order) lk_random_permutation(lk_key_make(seed, "limit"), r->count, order);
  if (order && (!r->label || !lk_balance(r->ctx, r->label, r->count, r->classes, order)))
    part = lk_rows_subset(r, n < r->count ? n : r->count, order);
  lk_free(r->ctx, order);
  return part;
}
