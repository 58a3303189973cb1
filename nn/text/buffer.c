/* buffer.c: growing texts, lists of pieces, the work space of a call. */
#include "text.h"

void lk_text_add(lk_text *t, const char *s, size_t n) {
  if (lk_grow(t->ctx, &t->s, &t->capacity, t->n + n + 1, 1)) return;
  if (n) memcpy(t->s + t->n, s, n);
  t->n += n;
  t->s[t->n] = 0;
}

void lk_text_put(lk_text *t, uint32_t c) {
  char s[4];
  if (c >= 0x80 || t->n + 1 >= t->capacity) {
    lk_text_add(t, s, lk_char_write(c, s));
    return;
  }
  t->s[t->n++] = (char)c;
  t->s[t->n] = 0;
}

void lk_text_clear(lk_text *t) { t->n = t->zero = 0; }

void lk_text_free(lk_text *t) { lk_free(t->ctx, t->s); }

void lk_piece_add(lk_pieces *to, const char *s, size_t n, size_t zero, int32_t id) {
  lk_ctx *ctx = to->text.ctx;
  if (lk_grow(ctx, &to->p, &to->capacity, to->n + 1, sizeof *to->p)) return;
  size_t at = to->text.n;
  lk_text_add(&to->text, s, n);
  if (to->text.n == at + n) to->p[to->n++] = (lk_piece){at, n, zero, id};
}

void lk_pieces_clear(lk_pieces *p) {
  lk_text_clear(&p->text);
  p->n = 0;
}

void lk_pieces_free(lk_pieces *p) {
  lk_free(p->text.ctx, p->p);
  lk_text_free(&p->text);
}

void lk_run_init(lk_run *run, lk_ctx *ctx) {
  *run = (lk_run){.ctx = ctx};
  run->a.ctx = run->b.ctx = run->from.text.ctx = run->to.text.ctx = ctx;
}

void lk_run_free(lk_run *run) {
  lk_text_free(&run->a);
  lk_text_free(&run->b);
  lk_pieces_free(&run->from);
  lk_pieces_free(&run->to);
  lk_free(run->ctx, run->symbols);
  lk_free(run->ctx, run->heap);
  lk_free(run->ctx, run->ids);
}

void lk_run_add(lk_run *run, int32_t id) {
  if (!lk_grow(run->ctx, &run->ids, &run->ids_capacity, run->nids + 1, sizeof *run->ids)) run->ids[run->nids++] = id;
}

void lk_run_swap(lk_run *run) {
  lk_pieces swap = run->from;
  run->from = run->to;
  run->to = swap;
  lk_pieces_clear(&run->to);
}
