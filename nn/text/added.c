/* added.c: added tokens: read, and found in a text before the model sees it. */
#include "text.h"

#include <stdlib.h>

/* ---- reading ---- */

static size_t index_of(const lk_tokenizer *k, const lk_token *t) { return (size_t)(t - k->added_vocab.token); }

/* The id of the library: that in the model's vocabulary, or the next one; what the file says is not asked. */
static int32_t id_for(const lk_tokenizer *k, const char *content, size_t n) {
  const lk_token *known = lk_vocab_find(&k->model.vocab, content, n);
  int64_t next = (int64_t)k->model.vocab.n;
  if (known) return known->id;
  for (size_t i = 0; i < k->nadded; i++)
    if (k->added[i].id >= next) next = (int64_t)k->added[i].id + 1;
  return next <= INT32_MAX ? (int32_t)next : -1;
}

static void read_one(lk_reader *r, const lk_json *j) {
  lk_tokenizer *k = r->k;
  const char *content = lk_need_text(r, j, "content");
  size_t n = strlen(content);
  lk_added a = {.single_word = lk_field_flag(r, j, "single_word", 0),
                .lstrip = lk_field_flag(r, j, "lstrip", 0),
                .rstrip = lk_field_flag(r, j, "rstrip", 0),
                .special = lk_field_flag(r, j, "special", 0)};
  a.normalized = lk_field_flag(r, j, "normalized", !a.special);
  lk_field_int(r, j, "id", 0, INT32_MAX, -1);
  if (lk_error(r->ctx, NULL) || !n) return;
  const lk_token *again = lk_vocab_find(&k->added_vocab, content, n);
  if (again) {
    lk_added *old = &k->added[index_of(k, again)];
    a.special |= old->special;
    a.id = old->id;
    *old = a;
    return;
  }
  a.id = id_for(k, content, n);
  if (a.id < 0) lk_refuse(r, "content", "there is no id left for '%s'", content);
  lk_vocab_add(&k->added_vocab, content, n, a.id);
  if (!lk_error(r->ctx, NULL)) k->added[k->nadded++] = a;
}

/* First those that begin with the smaller byte, of these the longer, of these the earlier; special ones are earlier. */
static int in_order(const void *x, const void *y) {
  const lk_added *a = *(const lk_added *const *)x, *b = *(const lk_added *const *)y;
  if (*a->pattern != *b->pattern) return (unsigned char)*a->pattern < (unsigned char)*b->pattern ? -1 : 1;
  if (a->n != b->n) return a->n > b->n ? -1 : 1;
  if (a->special != b->special) return a->special ? -1 : 1;
  return (a > b) - (a < b);
}

static void make_matcher(lk_tokenizer *k, lk_matcher *m, int normalized) {
  m->list = lk_alloc_array(k->ctx, k->nadded + 1, sizeof *m->list);
  if (!m->list) return;
  for (size_t i = 0; i < k->nadded; i++)
    if (!k->added[i].normalized == !normalized) m->list[m->n++] = &k->added[i];
  qsort(m->list, m->n, sizeof *m->list, in_order);
  for (size_t i = 0; i < m->n; i++) m->first[(unsigned char)*m->list[i]->pattern + 1] = i + 1;
  for (int c = 1; c < 257; c++)
    if (m->first[c] < m->first[c - 1]) m->first[c] = m->first[c - 1];
}

/* What is looked for: the token's text, which the normalizers may change. */
static void make_pattern(lk_reader *r, const char *content, size_t n, lk_added *a) {
  lk_text in = {.ctx = r->ctx}, b = in, c = in;
  lk_text_add(&in, content, n);
  in.zero = lk_error(r->ctx, NULL) ? 0 : lk_char_length(in.s);
  const lk_text *out = lk_error(r->ctx, NULL) || !a->normalized ? &in : lk_normalize(&r->k->normalizers, &in, &b, &c);
  if (!out->n && !lk_error(r->ctx, NULL)) lk_refuse(r, NULL, "'%s' is empty when it is normalized", content);
  a->n = out->n;
  a->pattern = out->n ? lk_strndup(r->ctx, out->s, out->n) : NULL;
  lk_text_free(&in);
  lk_text_free(&b);
  lk_text_free(&c);
}

void lk_read_added(lk_reader *r, const lk_json *j) {
  lk_tokenizer *k = r->k;
  lk_json_kind kind = lk_json_type(j);
  if (kind > LK_JSON_NULL && kind != LK_JSON_ARRAY)
    lk_refuse(r, NULL, "must be an array, not %s", lk_json_kind_name(kind));
  size_t n = lk_json_count(j);
  lk_vocab_room(&k->added_vocab, n);
  k->added = lk_alloc_array(r->ctx, n + 1, sizeof *k->added);
  for (size_t i = 0; i < n && !lk_error(r->ctx, NULL); i++) read_one(r, lk_json_at(j, i));
  if (lk_error(r->ctx, NULL)) return;
  lk_vocab_sort(&k->added_vocab);
  for (size_t i = 0; i < k->nadded && !lk_error(r->ctx, NULL); i++) {
    const lk_token *t = &k->added_vocab.token[i];
    make_pattern(r, k->added_vocab.bytes.s + t->at, t->n, &k->added[i]);
  }
  if (lk_error(r->ctx, NULL)) return;
  make_matcher(k, &k->raw, 0);
  make_matcher(k, &k->normalized, 1);
}

/* ---- finding ---- */

/* The longest token at this place. */
static const lk_added *match_at(const lk_matcher *m, const char *s, size_t n) {
  unsigned char c = (unsigned char)*s;
  for (size_t i = m->first[c]; i < m->first[c + 1]; i++)
    if (m->list[i]->n <= n && !memcmp(m->list[i]->pattern, s, m->list[i]->n)) return m->list[i];
  return NULL;
}

/* Where the character before s + i begins. */
static size_t before(const char *s, size_t i) {
  do i--;
  while (i > 0 && ((unsigned char)s[i] & 0xC0) == 0x80);
  return i;
}

static int is_single_word(const char *s, size_t n, size_t start, size_t end) {
  uint32_t c;
  if (start > 0 && lk_char_read(s + before(s, start), &c) && lk_is_word(c)) return 0;
  return !(end < n && lk_char_read(s + end, &c) && lk_is_word(c));
}

/* White space beside the token belongs to it where that is asked for. */
static void widen(const lk_added *a, const char *s, size_t n, size_t done, size_t *start, size_t *end) {
  uint32_t c;
  while (a->lstrip && *start > done && lk_char_read(s + before(s, *start), &c) && lk_is_space(c))
    *start = before(s, *start);
  if (a->lstrip && *start < done) *start = done;
  while (a->rstrip && *end < n) {
    size_t k = lk_char_read(s + *end, &c);
    if (!lk_is_space(c)) break;
    *end += k;
  }
}

static void add_text(lk_pieces *to, const char *s, size_t start, size_t end, size_t zero) {
  size_t n = end - start, left = zero > start ? zero - start : 0;
  lk_piece_add(to, s + start, n, left < n ? left : n, -1);
}

static void cut(const lk_matcher *m, const char *s, size_t n, size_t zero, lk_pieces *to) {
  size_t done = 0;
  for (size_t i = 0; m->n && i < n;) {
    const lk_added *a = match_at(m, s + i, n - i);
    size_t start = i, end = a ? i + a->n : i;
    i += a ? a->n : 1;
    if (!a || (a->single_word && !is_single_word(s, n, start, end))) continue;
    widen(a, s, n, done, &start, &end);
    if (start > end) continue; /* the white space that it consists of belongs to the one before */
    if (done < start) add_text(to, s, done, start, zero);
    if (start < end) lk_piece_add(to, s + start, end - start, 0, a->id);
    done = end;
  }
  if (done < n) add_text(to, s, done, n, zero);
}

void lk_added_split(const lk_tokenizer *k, lk_run *run, const lk_text *text) {
  lk_pieces_clear(&run->from);
  lk_pieces_clear(&run->to);
  cut(&k->raw, text->s, text->n, text->zero, &run->to);
  lk_run_swap(run);
  for (size_t i = 0; i < run->from.n && !lk_error(run->ctx, NULL); i++) {
    const lk_piece *p = &run->from.p[i];
    if (p->id >= 0) {
      lk_piece_add(&run->to, run->from.text.s + p->at, p->n, 0, p->id);
      continue;
    }
    lk_text part = {run->ctx, run->from.text.s + p->at, p->n, 0, p->zero};
    const lk_text *out = lk_normalize(&k->normalizers, &part, &run->a, &run->b);
    if (!lk_error(run->ctx, NULL)) cut(&k->normalized, out->s, out->n, out->zero, &run->to);
  }
  lk_run_swap(run);
}
