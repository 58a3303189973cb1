/* encode.c: one text or a pair through all steps: tokens, special tokens, cutting, padding. */
#include "text.h"

#include <stdlib.h>

/* The tokens of one text, appended to run->ids. */
static void encode_text(const lk_tokenizer *k, lk_run *run, const char *s, size_t n) {
  lk_text text = {.ctx = run->ctx};
  lk_text_add_utf8(&text, s, n);
  text.zero = text.n ? lk_char_length(text.s) : 0;
  lk_added_split(k, run, &text);
  lk_text_free(&text);
  lk_pre_tokenize(&k->pre_tokenizers, run);
  for (size_t i = 0; i < run->from.n && !lk_error(run->ctx, NULL); i++) {
    const lk_piece *p = &run->from.p[i];
    if (p->id >= 0) lk_run_add(run, p->id);
    else k->model.encode(k, run, run->from.text.s + p->at, p->n);
  }
}

/* ---- cutting ---- */

/* A range of run->ids. */
typedef struct range {
  size_t at, n;
} range;

static void keep(range *r, size_t n, int left) {
  if (n >= r->n) return;
  if (left) r->at += r->n - n;
  r->n = n;
}

/* The longer of two first, as the library shares the places out. */
static void cut_longest(range *a, range *b, size_t most, int left) {
  size_t shorter = a->n < b->n ? a->n : b->n, longer = shorter;
  int swapped = a->n > b->n;
  if (shorter <= most && most - shorter > shorter) longer = most - shorter;
  if (shorter > most || shorter + longer > most) {
    shorter = most / 2;
    longer = shorter + most % 2;
  }
  keep(a, swapped ? longer : shorter, left);
  keep(b, swapped ? shorter : longer, left);
}

static void cut(const lk_tokenizer *k, range *a, range *b, int is_pair, size_t most) {
  size_t all = a->n + b->n, away = all > most ? all - most : 0;
  range *target = k->cut == LK_ONLY_SECOND ? b : a;
  if (!away) return;
  if (!most) {
    a->n = b->n = 0;
  } else if (k->cut == LK_LONGEST_FIRST) {
    if (is_pair) cut_longest(a, b, most, k->cut_left);
    else keep(a, most, k->cut_left);
  } else if (k->cut == LK_ONLY_SECOND && !is_pair) {
    lk_fail(k->ctx, LK_EARG, "lk_encode: truncation is \"OnlySecond\", but there is no second text");
  } else if (target->n <= away) {
    lk_fail(k->ctx, LK_EARG, "lk_encode: %zu tokens must go to leave %zu, but the text to be cut has only %zu", away,
            most, target->n);
  } else {
    keep(target, target->n - away, k->cut_left);
  }
}

static size_t special_count(const lk_template *t) {
  size_t n = 0;
  for (size_t i = 0; i < t->n; i++) n += t->item[i].id >= 0;
  return n;
}

static void truncate(const lk_tokenizer *k, const lk_encode_options *o, const lk_template *t, range *a, range *b) {
  int64_t most = o->most > 0 ? o->most : o->most == 0 && k->has_truncation ? k->most : INT64_MAX;
  size_t extra = o->no_special ? 0 : special_count(t);
  if (most < (int64_t)extra)
    lk_fail(k->ctx, LK_EARG, "lk_encode: at most %lld tokens are wanted, of which %zu are special ones",
            (long long)most, extra);
  else cut(k, a, b, t == &k->pair, (size_t)most - extra);
}

/* ---- putting together ---- */

static int room(lk_ctx *ctx, lk_encoding *e, size_t n) {
  e->ids = lk_alloc_array(ctx, n + 1, sizeof *e->ids);
  e->types = lk_alloc_array(ctx, n + 1, sizeof *e->types);
  e->mask = lk_alloc(ctx, n + 1);
  e->special = lk_alloc(ctx, n + 1);
  return lk_error(ctx, NULL) == LK_OK;
}

static void put(lk_encoding *e, int64_t id, int64_t type, int mask, int special) {
  e->ids[e->n] = id;
  e->types[e->n] = type;
  e->mask[e->n] = (uint8_t)mask;
  e->special[e->n++] = (uint8_t)special;
}

/* To how many tokens n are filled up. */
static size_t padded(const lk_tokenizer *k, const lk_encode_options *o, size_t n) {
  size_t to = o->pad_to > 0 ? (size_t)o->pad_to : o->pad_to == 0 && k->has_padding ? (size_t)k->pad_to : 0;
  if (to < n) to = n;
  if (o->pad_to == 0 && k->has_padding && k->pad_multiple > 0) {
    size_t base = k->pad_to > 0 ? (size_t)k->pad_to : n, over = base % (size_t)k->pad_multiple;
    base += over ? (size_t)k->pad_multiple - over : 0;
    if (to < base) to = base;
  }
  return to;
}

static size_t count_items(const lk_template *t, const range *a, const range *b, int no_special) {
  size_t n = 0;
  for (size_t i = 0; i < t->n; i++) {
    int32_t id = t->item[i].id;
    n += id == LK_ITEM_A ? a->n : id == LK_ITEM_B ? b->n : !no_special;
  }
  return n;
}

static void assemble(const lk_tokenizer *k, const lk_run *run, const lk_encode_options *o, const lk_template *t,
                     const range *a, const range *b, lk_encoding *e) {
  size_t n = count_items(t, a, b, o->no_special), all = padded(k, o, n);
  int64_t pad_id = o->pad_to > 0 && o->pad_id >= 0 ? o->pad_id : k->has_padding ? k->pad_id : -1;
  if (all > n && pad_id < 0) lk_fail(k->ctx, LK_EARG, "lk_encode: pad_id is -1, but the file says nothing of padding");
  if (lk_error(k->ctx, NULL) || !room(k->ctx, e, all)) return;
  for (size_t i = n; k->pad_left && i < all; i++) put(e, pad_id, k->pad_type, 0, 1);
  for (size_t i = 0; i < t->n; i++) {
    const lk_item *item = &t->item[i];
    const range *part = item->id == LK_ITEM_A ? a : b;
    if (item->id >= 0 && !o->no_special) put(e, item->id, item->type, 1, 1);
    for (size_t j = 0; item->id < 0 && j < part->n; j++) put(e, run->ids[part->at + j], item->type, 1, 0);
  }
  while ((size_t)e->n < all) put(e, pad_id, k->pad_type, 0, 1);
}

static lk_status encode(lk_tokenizer *k, const char *text, size_t n, const char *pair, const lk_encode_options *options,
                        lk_encoding *e) {
  static const lk_encode_options none;
  const lk_encode_options *o = options ? options : &none;
  lk_ctx *ctx = k->ctx;
  size_t npair = pair ? strlen(pair) : 0;
  *e = (lk_encoding){0};
  if (!text) return lk_fail(ctx, LK_ENIL, "lk_encode: the text is NULL");
  if (n > LK_TOKENIZER_MAX_BYTES || npair > LK_TOKENIZER_MAX_BYTES)
    return lk_fail(ctx, LK_EARG, "lk_encode: a text has more than %zu bytes", LK_TOKENIZER_MAX_BYTES);
  lk_run run;
  lk_run_init(&run, ctx);
  const lk_template *t = pair ? &k->pair : &k->single;
  encode_text(k, &run, text, n);
  range a = {0, run.nids}, b = {run.nids, 0};
  if (pair) encode_text(k, &run, pair, npair);
  b.n = run.nids - b.at;
  if (!lk_error(ctx, NULL)) truncate(k, o, t, &a, &b);
  if (!lk_error(ctx, NULL)) assemble(k, &run, o, t, &a, &b, e);
  lk_run_free(&run);
  if (lk_error(ctx, NULL)) lk_encoding_free(k, e);
  return lk_error(ctx, NULL);
}

lk_status lk_encode(lk_tokenizer *k, const char *text, const char *pair, const lk_encode_options *options,
                    lk_encoding *e) {
  return encode(k, text, text ? strlen(text) : 0, pair, options, e);
}

lk_status lk_encode_bytes(lk_tokenizer *k, const char *text, size_t length, const lk_encode_options *options,
                          lk_encoding *e) {
  return encode(k, text, length, NULL, options, e);
}

void lk_encoding_free(lk_tokenizer *k, lk_encoding *e) {
  lk_free(k->ctx, e->ids);
  lk_free(k->ctx, e->types);
  lk_free(k->ctx, e->mask);
  lk_free(k->ctx, e->special);
  *e = (lk_encoding){0};
}
