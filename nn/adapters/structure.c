/* structure.c: a site's chosen structure: keeping it, settling it, and taking that back. */
#include "structure.h"

#include <string.h>

lk_status lk_structure_new(lk_at *at, lk_structure *s, const char *name, int n) {
  s->n = n;
  s->stored = lk_at_param(at, name, LK_BUFFER, 1, (int64_t[]){n + 1});
  return s->stored ? lk_structure_choose(s, NULL) : lk_error(lk_at_ctx(at), NULL);
}

void lk_structure_free(lk_at *at, lk_structure *s) {
  for (int i = 0; i < s->ncut; i++)
    if (s->cut[i].whole.ndim >= 0 && s->cut[i].owned) lk_free(lk_at_ctx(at), s->cut[i].whole.p);
}

int lk_structure_is_chosen(const lk_structure *s) { return s->stored && s->choice[0] >= 0; }

/* A model of shapes has no place for the choices; they count all the same. */
static lk_status store(lk_structure *s) {
  for (int i = 0; i <= s->n && s->stored->value.p; i++)
    lk_view_set(&s->stored->value, i, i < s->n ? s->choice[i] : s->settled);
  lk_param_touch(s->stored);
  return lk_error(s->stored->ctx, NULL);
}

lk_status lk_structure_choose(lk_structure *s, const int *choice) {
  for (int i = 0; i < s->n; i++) s->choice[i] = choice ? choice[i] : -1;
  return store(s);
}

/* ---- settling ---- */

lk_status lk_structure_begin(lk_at *at, lk_structure *s) {
  if (s->choice[0] < 0)
    return lk_fail(lk_at_ctx(at), LK_EARG, "settle: no structure of %s is chosen at %s", at->method->cls->name,
                   lk_at_path(at));
  s->settled = 1; /* so that one that fails half-way can be taken back too */
  s->ncut = 0;
  return lk_error(lk_at_ctx(at), NULL);
}

static void forget_grad(lk_param *p) {
  lk_free(p->ctx, p->grad);
  p->grad = NULL;
  p->has_grad = 0;
  lk_param_touch(p);
}

lk_status lk_structure_cut(lk_structure *s, lk_param *p, int64_t rows, int64_t columns) {
  if (!p) return LK_OK;
  lk_cut_param *cut = &s->cut[s->ncut++];
  lk_view part = p->value, small;
  *cut = (lk_cut_param){.p = p, .whole = {.ndim = -1}};
  if (rows == 0 || columns == 0) {
    p->kind = LK_RETIRED;
    p->requires_grad = 0;
    return LK_OK;
  }
  if (rows > 0) part.shape[0] = rows;
  if (columns > 0 && part.ndim > 1) part.shape[1] = columns;
  if (lk_view_same_shape(&part, &p->value)) return LK_OK;
  lk_view_init(&small, part.dtype, part.ndim, part.shape);
  if (part.p && !(small.p = lk_alloc(p->ctx, lk_view_bytes(&small)))) return lk_error(p->ctx, NULL);
  if (part.p) lk_view_copy(&small, &part);
  cut->whole = p->value;
  cut->owned = p->owned;
  p->value = small;
  p->owned = small.p != NULL;
  forget_grad(p);
  return LK_OK;
}

lk_status lk_structure_end(lk_structure *s) { return store(s); }

static void take_back(const lk_at *at, lk_structure *s) {
  for (int i = 0; i < s->ncut; i++) {
    lk_cut_param *cut = &s->cut[i];
    cut->p->kind = LK_TRAINED;
    cut->p->requires_grad = at->method->adapter->trainable;
    if (cut->whole.ndim < 0) continue;
    if (cut->p->owned) lk_free(cut->p->ctx, cut->p->value.p);
    cut->p->value = cut->whole;
    cut->p->owned = cut->owned;
    forget_grad(cut->p);
  }
  s->ncut = s->settled = 0;
}

/* ---- files ---- */

lk_status lk_structure_load(lk_at *at, lk_structure *s, const int *choices, int *settle) {
  int choice[STRUCTURE_GENES], known = 1;
  *settle = lk_view_get(&s->stored->value, s->n) == 1;
  for (int i = 0; i < s->n; i++) {
    double v = lk_view_get(&s->stored->value, i);
    int whole = v >= -1 && v < choices[i] && v == (int)v;
    choice[i] = whole ? (int)v : -1;
    known &= whole && (choice[i] < 0) == (choice[0] < 0);
  }
  if (!known || (*settle && choice[0] < 0))
    return lk_fail(lk_at_ctx(at), LK_EFORMAT, "%s: the stored structure at %s is none of those there are",
                   at->method->cls->name, lk_at_path(at));
  if (s->settled) take_back(at, s);
  memcpy(s->choice, choice, (size_t)s->n * sizeof *choice);
  return lk_error(lk_at_ctx(at), NULL);
}
