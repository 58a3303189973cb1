/* compose.c: what a site computes: its base and the active adapters, folded from left to right. */
#include "model.h"

#include <lorikeet/ops.h>
#include <stdio.h>

/* ---- the base ---- */

/* As it is stored, which may be bf16 or f16. */
static lk_tensor stored_weight(lk_site *s, lk_tape *t) {
  lk_tensor W = lk_use(t, s->weight);
  return s->fan_in_fan_out ? lk_transpose(t, W, 0, 1) : W;
}

lk_tensor lk_site_weight(lk_site *s, lk_tape *t) {
  if (lk_site_is_coded(s)) return lk_coded_weight(s, t);
  lk_tensor W = stored_weight(s, t);
  lk_dtype d = lk_dtype_of(t, W);
  return d == LK_F32 || d == LK_F64 ? W : lk_cast(t, W, lk_model_dtype(s->module->model));
}

lk_tensor lk_site_bias(lk_site *s, lk_tape *t) { return lk_use(t, s->bias); }

int lk_site_out_axis(const lk_site *s) { return s->kind == LK_SITE_EMBEDDING; }

lk_tensor lk_site_base(lk_site *s, lk_tape *t, lk_tensor x, lk_tensor W, lk_tensor b) {
  switch (s->kind) {
  case LK_SITE_EMBEDDING:
    return lk_embedding(t, W, x);
  case LK_SITE_CONV2D:
    return lk_conv2d(t, x, W, b, &s->conv);
  default:
    return lk_linear(t, x, W, b);
  }
}

lk_tensor lk_site_plain(lk_site *s, lk_tape *t, lk_tensor x) {
  if (lk_site_is_coded(s)) return lk_coded_linear(s, t, x);
  return lk_site_base(s, t, x, stored_weight(s, t), lk_site_bias(s, t));
}

/* ---- chains ---- */

lk_tensor lk_plus(lk_tape *t, lk_tensor y, lk_tensor d) {
  if (lk_is_nil(y)) return d;
  return lk_is_nil(d) ? y : lk_add(t, y, d);
}

/* Can it do without forming its weight in this pass? */
static int has_twin(const lk_at *a, const lk_tape *t) {
  const lk_adapter_class *k = a->method->cls;
  return (k->delta || k->output) && (!k->twin || k->twin(a, t));
}

/* The last adapter that can only change the weight, or NULL. */
static lk_at *last_weight(lk_at *a, const lk_tape *t) {
  lk_at *last = NULL;
  for (; a; a = a->next)
    if (!has_twin(a, t)) last = a;
  return last;
}

static int only_deltas(const lk_at *a, const lk_tape *t) {
  for (; a; a = a->next)
    if (!has_twin(a, t) || a->method->cls->output) return 0;
  return 1;
}

/* W and b after the adapters from `a` up to and including `last`. */
static lk_status fold(lk_at *a, const lk_at *last, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  for (; a; a = a->next) {
    lk_tensor result[2];
    uint32_t scope = lk_scope_begin(t, a->method->cls->name, 0);
    if (a->method->cls->weight && a->method->cls->weight(a, t, W, b)) break;
    result[0] = *W;
    result[1] = *b;
    lk_scope_end_n(t, scope, lk_is_nil(*b) ? 1 : 2, result);
    *W = result[0];
    if (!lk_is_nil(*b)) *b = result[1];
    if (a == last) break;
  }
  return lk_error(lk_tape_ctx(t), NULL);
}

lk_status lk_at_folded(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  lk_at *last = NULL;
  *W = lk_site_weight(at->site, t);
  *b = lk_site_bias(at->site, t);
  for (lk_at *a = at->head; a != at; a = a->next) last = a;
  return last ? fold(at->head, last, t, W, b) : lk_error(lk_tape_ctx(t), NULL);
}

lk_status lk_chain_weight(lk_at *chain, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  for (const lk_at *a = chain; a; a = a->next)
    if (!a->method->cls->weight)
      return lk_fail(lk_tape_ctx(t), LK_EARG, "%s at %s does not change the weight", a->method->cls->name,
                     lk_at_path(a));
  return fold(chain, NULL, t, W, b);
}

static int same(lk_tensor a, lk_tensor b) { return a.id == b.id && a.gen == b.gen; }

/* y with the deltas and outputs from `a` on.  A delta may change y in place if it is `ours`: nobody else reads it, as the
 * backward of an adapter that returned it may have to.  base: what the layer makes of x; nil: y is something else. */
static lk_tensor continue_chain(lk_at *a, lk_tape *t, lk_tensor x, lk_tensor y, lk_tensor base, int ours) {
  for (; a; a = a->next) {
    const lk_adapter_class *k = a->method->cls;
    uint32_t scope = lk_scope_begin(t, k->name, 0);
    int lends = a->inner && !lk_is_nil(base) && same(y, base) && !only_deltas(a->inner, t);
    if (lends) a->base = base;
    if (k->delta) y = ours && !lends ? k->delta(a, t, x, y) : lk_plus(t, y, k->delta(a, t, x, lk_nil()));
    if (k->output) y = k->output(a, t, x, y);
    a->base = lk_nil();
    ours = ours && !k->output;
    y = lk_scope_end(t, scope, y);
  }
  return y;
}

/* What the base reads instead of x. */
static lk_tensor base_input(lk_at *chain, lk_tape *t, lk_tensor x) {
  const lk_adapter_class *k = chain->method->cls;
  return k->input ? k->input(chain, t, x) : x;
}

/* What one chain makes of x, base included: base, unless that is nil, is what the layer makes of x without it. */
static lk_tensor chain_output(lk_at *chain, lk_tape *t, lk_tensor x, lk_tensor base) {
  lk_site *s = chain->site;
  lk_at *last = last_weight(chain, t);
  if (!last) {
    lk_tensor from = base_input(chain, t, x);
    int reads_x = same(from, x), given = reads_x && !lk_is_nil(base);
    lk_tensor y = given ? base : lk_site_plain(s, t, from);
    return continue_chain(chain, t, x, y, reads_x ? y : lk_nil(), !given);
  }
  lk_tensor W = lk_site_weight(s, t), b = lk_site_bias(s, t);
  if (fold(chain, last, t, &W, &b)) return lk_nil();
  return continue_chain(last->next, t, x, lk_site_base(s, t, x, W, b), lk_nil(), 1);
}

lk_tensor lk_chain_delta_from(lk_at *chain, lk_tape *t, lk_tensor x, lk_tensor base, lk_tensor y) {
  if (!chain) return y;
  if (only_deltas(chain, t)) return continue_chain(chain, t, x, y, base, !lk_is_nil(y));
  if (lk_is_nil(base)) base = lk_site_plain(chain->site, t, x);
  return lk_plus(t, y, lk_sub(t, chain_output(chain, t, x, base), base));
}

lk_tensor lk_at_base(lk_at *wrapper, lk_tape *t, lk_tensor x, lk_tensor from) {
  if (only_deltas(wrapper->inner, t)) return lk_nil();
  return same(x, from) && !lk_is_nil(wrapper->base) ? wrapper->base : lk_site_plain(wrapper->site, t, from);
}

lk_tensor lk_chain_delta(lk_at *chain, lk_tape *t, lk_tensor x, lk_tensor y) {
  return lk_chain_delta_from(chain, t, x, lk_nil(), y);
}

/* from + (to - base); nil: nothing there */
static lk_tensor moved(lk_tape *t, lk_tensor from, lk_tensor base, lk_tensor to) {
  if (same(from, base) || lk_is_nil(to)) return lk_is_nil(to) ? from : to;
  return lk_plus(t, from, lk_is_nil(base) ? to : lk_sub(t, to, base));
}

lk_status lk_chain_change(lk_at *chain, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  lk_tensor W0 = lk_site_weight(chain->site, t), b0 = lk_site_bias(chain->site, t), to_W = W0, to_b = b0;
  if (lk_chain_weight(chain, t, &to_W, &to_b)) return lk_error(lk_tape_ctx(t), NULL);
  *W = moved(t, *W, W0, to_W);
  *b = moved(t, *b, b0, to_b);
  return lk_error(lk_tape_ctx(t), NULL);
}

/* ---- sites ---- */

lk_at *lk_site_chain(const lk_site *s, const lk_adapter *a) {
  for (const lk_site_stack *k = s->stacks; k; k = k->next)
    if (k->adapter == a) return k->chain;
  return NULL;
}

/* y0 + sum of w_i (chain_i(x) - y0) over the active adapters, in order. */
static lk_tensor several(lk_site *s, lk_tape *t, lk_tensor x) {
  lk_model *m = s->module->model;
  lk_tensor y = lk_site_plain(s, t, x);
  for (size_t i = 0; i < m->nactive; i++) {
    lk_at *chain = lk_site_chain(s, m->active[i]);
    double w = m->active[i]->weight;
    if (!chain) continue;
    if (w == 1) y = lk_chain_delta(chain, t, x, y);
    else y = lk_add(t, y, lk_scale(t, lk_chain_delta(chain, t, x, lk_nil()), w));
  }
  return y;
}

/* The slices of x whose adapter is number i, as an index; nil: none. */
static lk_tensor samples_of(lk_tape *t, const lk_view *ids, int64_t i) {
  int64_t n = ids->shape[0], found = 0;
  lk_view list;
  for (int64_t k = 0; k < n; k++) found += lk_view_get(ids, k) == (double)i;
  lk_tensor index = found ? lk_input(t, LK_I64, 1, &found, NULL) : lk_nil();
  if (!found || lk_get(t, index, &list)) return lk_nil();
  int64_t *to = list.p;
  for (int64_t k = 0; k < n; k++)
    if (lk_view_get(ids, k) == (double)i) *to++ = k;
  return index;
}

static lk_status check_samples(lk_site *s, lk_tape *t, lk_tensor x, const lk_view *ids) {
  lk_ctx *c = lk_tape_ctx(t);
  int64_t most = (int64_t)s->module->model->nactive, n = lk_ndim(t, x) ? lk_size(t, x, 0) : 0;
  if (ids->dtype != LK_I64 || ids->ndim != 1 || ids->shape[0] != n)
    return lk_fail(c, LK_ESHAPE, "%s: adapter_of_sample should be i64 [%lld], one for each sample", s->module->path,
                   (long long)n);
  for (int64_t k = 0; k < n; k++) {
    int64_t id = (int64_t)lk_view_get(ids, k);
    if (id < -1 || id >= most)
      return lk_fail(c, LK_EARG, "%s: adapter_of_sample[%lld] is %lld; there are %lld active adapters, and -1 for none",
                     s->module->path, (long long)k, (long long)id, (long long)most);
  }
  return lk_error(c, NULL);
}

/* y0, and to the samples of each active adapter what its chain adds for them. */
static lk_tensor by_sample(lk_site *s, lk_tape *t, lk_tensor x, lk_tensor which) {
  lk_model *m = s->module->model;
  lk_view ids;
  if (lk_get(t, which, &ids) || check_samples(s, t, x, &ids)) return lk_nil();
  lk_tensor y = lk_site_plain(s, t, x);
  for (size_t i = 0; i < m->nactive; i++) {
    lk_at *chain = lk_site_chain(s, m->active[i]);
    lk_tensor index = chain ? samples_of(t, &ids, (int64_t)i) : lk_nil();
    if (lk_is_nil(index)) continue;
    lk_tensor d = lk_chain_delta(chain, t, lk_index_select(t, x, 0, index), lk_nil());
    if (!lk_is_nil(d))
      y = lk_index_add(t, y, 0, index, m->active[i]->weight == 1 ? d : lk_scale(t, d, m->active[i]->weight));
  }
  return y;
}

lk_tensor lk_site_forward(lk_site *s, lk_tape *t, lk_tensor x) {
  lk_model *m = s->module->model;
  lk_tensor which = s->stacks && !s->merged ? lk_side_get(t, "adapter_of_sample") : lk_nil();
  lk_at *only = NULL;
  int n = 0;
  for (size_t i = 0; i < m->nactive && s->stacks && !s->merged; i++) {
    lk_at *chain = lk_site_chain(s, m->active[i]);
    if (!chain) continue;
    n += m->active[i]->weight == 1 ? 1 : 2;
    only = chain;
  }
  uint32_t scope = lk_scope_begin(t, s->module->name, 0);
  lk_tensor y = n == 0              ? lk_site_plain(s, t, x)
                : !lk_is_nil(which) ? by_sample(s, t, x, which)
                : n == 1            ? chain_output(only, t, x, lk_nil())
                                    : several(s, t, x);
  return lk_scope_end(t, scope, y);
}

/* ---- dropout in front of an adapter ---- */

lk_tensor lk_at_dropout(lk_at *at, lk_tape *t, const char *label, double p, lk_tensor x) {
  if (p == 0 || !lk_is_training(t) || lk_dtype_of(t, x) == LK_I64) return x; /* indices are never dropped */
  lk_tensor keep = lk_at_side(at, t, label);
  if (lk_is_nil(keep)) return lk_dropout(t, x, p);
  return lk_scale(t, lk_mul(t, x, keep), p < 1 ? 1 / (1 - p) : 0);
}
