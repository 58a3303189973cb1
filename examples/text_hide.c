/* text_hide.c: hiding tokens, for masked language modelling. */
#include "text_hide.h"

lk_status text_hider_open(text_model *m, text_hider *h) {
  static const char *const names[] = {"[MASK]", "<mask>"};
  lk_encoding e;
  *h = (text_hider){.mask = -1, .vocabulary = m->p->vocabulary};
  for (size_t i = 0; i < sizeof names / sizeof *names && h->mask < 0; i++)
    h->mask = lk_token_id(m->tokenizer, names[i]);
  if (h->mask < 0) return lk_fail(m->ctx, LK_EARG, "the tokenizer has no token [MASK] or <mask>");
  if (lk_encode(m->tokenizer, "", NULL, NULL, &e)) return lk_error(m->ctx, NULL);
  for (int64_t i = 0; i < e.n && h->nspecial < 16; i++)
    if (e.mask[i]) h->special[h->nspecial++] = e.ids[i];
  lk_encoding_free(m->tokenizer, &e);
  return LK_OK;
}

int64_t text_hide(const text_hider *h, lk_key key, const lk_row_batch *b, int64_t row, int64_t j, int64_t *id) {
  int64_t at = row * b->width + j, token = b->ids[at];
  uint64_t draw = (uint64_t)b->index[row] << 24 | (uint64_t)j << 2;
  *id = token;
  if (!b->mask[at] || lk_random_uniform(key, draw) >= .15) return -100;
  for (int i = 0; i < h->nspecial; i++)
    if (token == h->special[i]) return -100;
  double how = lk_random_uniform(key, draw + 1);
  if (how < .8) *id = h->mask;
  else if (how < .9) *id = (int64_t)lk_random_below(key, draw + 2, (uint64_t)h->vocabulary);
  return token;
}
