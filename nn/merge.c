/* merge.c: writing the active adapters into the base, derived from their `weight` hooks.
 *
 * W and b of every site are folded in double from the unmerged base, all before any is written; what was there
 * is kept, so that unmerging is exact to the bit. */
#include "model.h"

#include <lorikeet/ops.h>
#include <math.h>
#include <string.h>

/* New values of one parameter. */
struct lk_merged {
  lk_param *param;
  lk_site *site;   /* whose weight it is, or NULL */
  lk_site *bears;  /* the site that has no bias and gets this one while merged, or NULL */
  lk_view before;  /* what param->value was */
  lk_param *alias; /* and param->alias: whatever is merged has a value of its own */
  int before_owned;
  lk_view after;
  lk_merged *next;
};

typedef struct {
  lk_model *model;
  lk_ctx *ctx;
  lk_tape *t;
  lk_merged *list;
} merging;

/* ---- may it be merged? ---- */

static lk_status check_chain(lk_ctx *c, lk_at *chain) {
  for (lk_at *a = chain; a; a = lk_at_walk(chain, a)) {
    const lk_adapter_class *k = a->method->cls;
    if (k->caps & LK_ROUTED)
      return lk_fail(c, LK_EARG, "merge: %s at %s cannot be merged: what it adds is chosen by the input", k->name,
                     lk_at_path(a));
    if (!(k->caps & LK_AFFINE) || !k->weight)
      return lk_fail(c, LK_EARG, "merge: %s at %s cannot be merged: what it adds is not a change of the weight",
                     k->name, lk_at_path(a));
  }
  return LK_OK;
}

/* ---- one site ---- */

static lk_tensor weighted_change(lk_tape *t, lk_tensor total, lk_tensor from, lk_tensor to, double w) {
  return lk_add(t, total, lk_scale(t, lk_sub(t, to, from), w));
}

/* W0 + sum w_i (W_i - W0), the same for b; nil: neither the layer nor an adapter has one. */
static lk_status fold_site(merging *m, lk_site *s, lk_tensor *W, lk_tensor *b) {
  lk_tape *t = m->t;
  lk_tensor W0 = lk_site_weight(s, t), b0 = lk_site_bias(s, t);
  *W = W0;
  *b = b0;
  for (size_t i = 0; i < m->model->nactive; i++) {
    const lk_adapter *a = m->model->active[i];
    lk_tensor Wi = W0, bi = b0;
    lk_at *chain = lk_site_chain(s, a);
    if (!chain) continue;
    if (lk_chain_weight(chain, t, &Wi, &bi)) return lk_error(m->ctx, NULL);
    *W = weighted_change(t, *W, W0, Wi, a->weight);
    if (!lk_is_nil(b0)) *b = weighted_change(t, *b, b0, bi, a->weight);
    else if (!lk_is_nil(bi)) *b = lk_plus(t, *b, lk_scale(t, bi, a->weight));
  }
  return lk_error(m->ctx, NULL);
}

/* Where the parameter's values are. */
static const lk_view *values_of(const lk_param *p) { return p->alias ? &p->alias->value : &p->value; }

/* Notes the values that a parameter shall have: copied, in its own layout and dtype, checked to be finite. */
static lk_status plan(merging *m, lk_param *p, lk_site *weight_of, lk_view value) {
  lk_merged *e = lk_alloc(m->ctx, sizeof *e);
  if (!e) return lk_error(m->ctx, NULL);
  *e = (lk_merged){.param = p, .site = weight_of, .next = m->list};
  m->list = e;
  lk_view_init(&e->after, values_of(p)->dtype, p->value.ndim, p->value.shape);
  e->after.p = lk_alloc(m->ctx, lk_view_bytes(&e->after));
  if (!e->after.p) return lk_error(m->ctx, NULL);
  lk_view to = e->after;
  if (weight_of && weight_of->fan_in_fan_out) to = lk_view_turned(to);
  lk_view_copy(&to, &value);
  for (int64_t i = 0, n = lk_view_count(&to); i < n; i++)
    if (!isfinite(lk_view_get(&e->after, i)))
      return lk_fail(m->ctx, LK_ENONFINITE, "merge: %s would hold a value that is not finite", p->name);
  return LK_OK;
}

/* A bias for a layer that has none. */
static lk_status plan_new_bias(merging *m, lk_site *s, lk_view value) {
  if (s->kind == LK_SITE_EMBEDDING)
    return lk_fail(m->ctx, LK_EARG, "merge: the adapter at %s has a bias, and an embedding can have none",
                   s->module->path);
  char *name = lk_sprintf(m->ctx, "%s.bias", s->module->path);
  lk_param *p = name ? lk_param_new_shape(m->ctx, name, LK_TRAINED, s->weight->value.dtype, 1, &s->out) : NULL;
  lk_free(m->ctx, name);
  if (!p) return lk_error(m->ctx, NULL);
  p->requires_grad = 0;
  p->owner = s->module;
  lk_merged *before = m->list;
  plan(m, p, NULL, value);
  if (m->list != before) m->list->bears = s;
  else lk_param_free(p);
  return lk_error(m->ctx, NULL);
}

static lk_status plan_site(merging *m, lk_site *s) {
  lk_tensor W, b;
  lk_view v;
  int adapted = 0;
  for (size_t i = 0; i < m->model->nactive; i++) {
    lk_at *chain = lk_site_chain(s, m->model->active[i]);
    adapted |= chain != NULL;
    if (check_chain(m->ctx, chain)) return lk_error(m->ctx, NULL);
  }
  if (!adapted) return LK_OK;
  lk_tape_reset(m->t);
  if (fold_site(m, s, &W, &b) || lk_get(m->t, W, &v) || plan(m, s->weight, s, v)) return lk_error(m->ctx, NULL);
  if (lk_is_nil(b) || lk_get(m->t, b, &v)) return lk_error(m->ctx, NULL);
  if (s->bias) plan(m, s->bias, NULL, v);
  else plan_new_bias(m, s, v);
  return lk_error(m->ctx, NULL);
}

static int is_planned(const merging *m, const lk_param *p) {
  for (const lk_merged *e = m->list; e; e = e->next)
    if (e->param == p) return 1;
  return 0;
}

/* Copies that stand in for other parameters (a site's own bias is merged with the site). */
static lk_status plan_stand_ins(merging *m) {
  for (size_t i = 0; i < m->model->nactive; i++)
    for (lk_param *p = m->model->active[i]->stand_ins; p; p = p->next) {
      if (!is_planned(m, p->owner) && plan(m, p->owner, NULL, p->value)) return lk_error(m->ctx, NULL);
    }
  return LK_OK;
}

/* A head that is tied to what is merged keeps the values that adapters there left alone: it gets them for its own. */
static lk_status plan_parting(merging *m) {
  for (lk_param *p = NULL; (p = lk_param_walk(m->model, p));) {
    if (!p->alias || !is_planned(m, p->alias) || is_planned(m, p)) continue;
    if (plan(m, p, NULL, *values_of(p))) break;
  }
  return lk_error(m->ctx, NULL);
}

/* ---- all of them ---- */

static void free_list(lk_ctx *c, lk_merged *e, int values) {
  for (lk_merged *next; e; e = next) {
    next = e->next;
    if (values) lk_free(c, e->after.p);
    if (e->bears) lk_param_free(e->param);
    lk_free(c, e);
  }
}

/* before: the weight's values, as it is stored */
static void measure(const lk_merged *e, const lk_view *before, lk_merge_report *r) {
  double change = 0, largest = 0;
  for (int64_t i = 0, n = lk_view_count(&e->after); i < n; i++) {
    double was = lk_view_get(before, i), d = fabs(lk_view_get(&e->after, i) - was);
    if (d > change) change = d;
    if (fabs(was) > largest) largest = fabs(was);
  }
  if (change > r->max_change) r->max_change = change;
  if (largest > 0 && change / largest > r->max_relative_change) {
    r->max_relative_change = change / largest;
    r->site = e->site->module->path;
  }
}

/* The same where the weight is in codes. */
static lk_status measure_coded(const lk_merged *e, lk_merge_report *r) {
  lk_ctx *c = e->param->ctx;
  lk_view before = e->after;
  before.p = lk_alloc(c, lk_view_bytes(&before));
  lk_view to = e->site->fan_in_fan_out ? lk_view_turned(before) : before;
  if (before.p && !lk_site_read(e->site, &to)) measure(e, &before, r);
  lk_free(c, before.p);
  return lk_error(c, NULL);
}

/* How far the planned values are from what there is. */
static lk_status measure_all(const merging *m, lk_merge_report *r) {
  for (const lk_merged *e = m->list; e && !lk_error(m->ctx, NULL); e = e->next) {
    r->sites += e->site != NULL;
    if (e->site && lk_site_is_coded(e->site)) measure_coded(e, r);
    else if (e->site) measure(e, values_of(e->param), r);
  }
  return lk_error(m->ctx, NULL);
}

/* The new bias becomes a parameter of the layer, so that it is used and saved; or ceases to be one. */
static void link_bias(const lk_merged *e, int on) {
  lk_param **end = &e->bears->module->params;
  while (*end && *end != e->param) end = &(*end)->next;
  *end = on ? e->param : e->param->next;
  e->bears->bias = on ? e->param : NULL;
}

void lk_merge_undo(lk_model *model) {
  for (lk_merged *e = model->merge; e; e = e->next) {
    lk_free(model->root.ctx, e->param->value.p);
    e->param->value = e->before;
    e->param->owned = e->before_owned;
    e->param->alias = e->alias;
    lk_param_touch(e->param);
    if (e->site) e->site->merged = 0;
    if (e->bears) link_bias(e, 0);
  }
  free_list(model->root.ctx, model->merge, 0);
  model->merge = NULL;
  model->merged = 0;
}

lk_status lk_merge(lk_model *model, lk_merge_report *report) {
  lk_merge_report r = {0};
  merging m = {.model = model, .ctx = lk_model_ctx(model)};
  if (report) *report = r;
  if (lk_error(m.ctx, NULL) || !model || model->merged) return lk_error(m.ctx, NULL);
  if (!model->nactive) return lk_fail(m.ctx, LK_EARG, "merge: no adapter is active");
  if (!(m.t = lk_tape_new(m.ctx))) return lk_error(m.ctx, NULL);
  lk_no_grad(m.t, 1);
  lk_tape_in_double(m.t, 1);
  for (lk_module *k = &model->root; k && !lk_error(m.ctx, NULL); k = lk_module_walk(&model->root, k))
    if (k->site) plan_site(&m, k->site);
  if (!lk_error(m.ctx, NULL) && !plan_stand_ins(&m)) plan_parting(&m);
  lk_tape_free(m.t);
  if (lk_error(m.ctx, NULL) || measure_all(&m, &r)) {
    free_list(m.ctx, m.list, 1);
    return lk_error(m.ctx, NULL);
  }
  for (lk_merged *e = m.list; e; e = e->next) {
    e->before = e->param->value;
    e->before_owned = e->param->owned;
    e->alias = e->param->alias;
    e->param->alias = NULL;
    e->param->value = e->after;
    e->param->owned = 1;
    lk_param_touch(e->param);
    if (e->site) e->site->merged = 1;
    if (e->bears) link_bias(e, 1);
  }
  model->merge = m.list;
  model->merged = 1;
  lk_stand_ins_link(model);
  if (report) *report = r;
  return LK_OK;
}

lk_status lk_unmerge(lk_model *model) {
  if (lk_error(lk_model_ctx(model), NULL) || !lk_is_merged(model)) return lk_error(lk_model_ctx(model), NULL);
  lk_merge_undo(model);
  lk_stand_ins_link(model);
  return LK_OK;
}

int lk_is_merged(const lk_model *model) { return model && model->merged; }

lk_status lk_merge_check_bias(const lk_model *model, const char *who) {
  lk_ctx *c = lk_model_ctx(model);
  const lk_site *first = NULL;
  for (const lk_merged *e = model->merge; e; e = e->next) /* the last one noted comes first */
    if (e->bears) first = e->bears;
  if (!first || lk_error(c, NULL)) return lk_error(c, NULL);
  return lk_fail(c, LK_EARG, "%s: merging gave %s a bias, which models of its type have not; save the adapter instead",
                 who, first->module->path);
}

const lk_param *lk_merge_parted(const lk_model *model) {
  for (const lk_merged *e = model->merge; e; e = e->next)
    if (e->alias) return e->param;
  return NULL;
}
