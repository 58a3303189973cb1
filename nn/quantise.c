/* quantise.c: sites whose frozen weight is stored in codes. */
#include "model.h"

#include <lorikeet/ops.h>
#include <string.h>

static const char heads[] = "lm_head,score,classifier,cls.*";

/* ---- one site ---- */

int lk_site_is_coded(const lk_site *s) { return s->coded && !s->weight->value.p && !s->weight->stand_in; }

lk_quant_kind lk_site_quant(const lk_site *s) {
  if (lk_site_is_coded(s)) return s->coded->quant.kind;
  return s->weight->value.dtype == LK_BF16 ? LK_QUANT_BF16 : LK_QUANT_NONE;
}

void lk_coded_free(lk_coded *k) {
  if (!k) return;
  lk_ctx *c = k->ctx;
  lk_param_free(k->codes);
  lk_param_free(k->scales);
  lk_free(c, k);
}

static lk_param *buffer(lk_site *s, const char *what, const lk_view *shape) {
  lk_ctx *c = s->module->ctx;
  char *name = lk_sprintf(c, "%s.%s", s->weight->name, what);
  lk_param *p = name ? lk_param_new(c, name, LK_BUFFER, shape->dtype, shape->ndim, shape->shape) : NULL;
  lk_free(c, name);
  if (p) p->owner = s->module;
  return p;
}

static lk_coded *coded_new(lk_site *s, const lk_quantise_options *o) {
  lk_ctx *c = s->module->ctx;
  lk_view codes, scales;
  lk_coded *k = lk_alloc(c, sizeof *k);
  if (!k) return NULL;
  k->ctx = c;
  k->quant = (lk_quant){o->kind, o->doubled, s->in};
  if (lk_quant_shapes(&k->quant, lk_model_dtype(s->module->model), s->out, &codes, &scales))
    lk_fail(c, LK_ESHAPE, "%s is too large to be quantised", s->weight->name);
  if (!lk_error(c, NULL)) k->codes = buffer(s, "codes", &codes);
  if (!lk_error(c, NULL)) k->scales = buffer(s, "scales", &scales);
  if (!lk_error(c, NULL)) return k;
  lk_coded_free(k);
  return NULL;
}

/* v, stored as the site stores its weight, as [out, in]. */
static lk_view logical(const lk_site *s, lk_view v) { return s->fan_in_fan_out ? lk_view_turned(v) : v; }

lk_view lk_view_turned(lk_view v) {
  lk_view r = v;
  r.shape[0] = v.shape[1], r.stride[0] = v.stride[1];
  r.shape[1] = v.shape[0], r.stride[1] = v.stride[0];
  return r;
}

/* The weight is `value` from now on (p NULL: it is in the codes), which becomes its own. */
static void set_value(lk_param *p, lk_view value) {
  if (p->owned) lk_free(p->ctx, p->value.p);
  p->value = value;
  p->owned = value.p != NULL;
  lk_param_touch(p);
}

static lk_status to_bf16(lk_site *s, const lk_view *values) {
  lk_param *p = s->weight;
  lk_view v;
  if (lk_model_dtype(s->module->model) != LK_F32)
    return lk_fail(p->ctx, LK_EDTYPE, "quantise: %s is f64; only f32 models have weights in bf16", p->name);
  lk_view_init(&v, LK_BF16, 2, values->shape);
  v.p = lk_alloc(p->ctx, lk_view_bytes(&v));
  if (!v.p) return lk_error(p->ctx, NULL);
  lk_view_copy(&v, values);
  set_value(p, v);
  return LK_OK;
}

/* The gradient's memory is no longer needed. */
static void freeze(lk_param *p) {
  p->kind = LK_BUFFER; /* never trained, also when everything is */
  p->requires_grad = p->has_grad = 0;
  lk_free(p->ctx, p->grad);
  p->grad = NULL;
}

lk_status lk_site_quantise(lk_site *s, const lk_view *values, const lk_quantise_options *o) {
  lk_param *p = s->weight;
  lk_view W = logical(s, *values), shape = p->value;
  if (o->kind == LK_QUANT_BF16) {
    if (!to_bf16(s, values)) freeze(p);
    return lk_error(p->ctx, NULL);
  }
  lk_coded *k = coded_new(s, o);
  if (!k) return lk_error(p->ctx, NULL);
  if (lk_quant_encode(p->ctx, &k->quant, &W, &k->codes->value, &k->scales->value)) {
    lk_coded_free(k);
    if (lk_error(p->ctx, NULL) != LK_ENONFINITE) return lk_error(p->ctx, NULL);
    lk_error_clear(p->ctx);
    return lk_fail(p->ctx, LK_ENONFINITE, "quantise: %s has an element that is not finite", p->name);
  }
  s->coded = k;
  shape.p = NULL;
  shape.dtype = lk_model_dtype(s->module->model);
  set_value(p, shape);
  freeze(p);
  return LK_OK;
}

lk_status lk_site_read(const lk_site *s, const lk_view *to) {
  lk_ctx *c = s->module->ctx;
  if (!lk_site_is_coded(s)) {
    lk_view from = logical(s, s->weight->value);
    if (!from.p) return lk_fail(c, LK_EARG, "parameter %s has a shape but no memory", s->weight->name);
    lk_view_copy(to, &from);
    return LK_OK;
  }
  enum { ROWS = 16 };
  lk_view some, part = *to;
  const lk_coded *k = s->coded;
  lk_view_init(&some, k->scales->value.dtype, 2, (int64_t[]){ROWS, s->in});
  some.p = lk_alloc(c, lk_view_bytes(&some));
  if (!some.p) return lk_error(c, NULL);
  for (int64_t i = 0; i < s->out; i += ROWS) {
    some.shape[0] = part.shape[0] = i + ROWS < s->out ? ROWS : s->out - i;
    part.p = (char *)to->p + i * to->stride[0] * (int64_t)lk_dtype_size(to->dtype);
    lk_quant_decode(&k->quant, &k->codes->value, &k->scales->value, i, some.shape[0], some.p);
    lk_view_copy(&part, &some);
  }
  lk_free(c, some.p);
  return LK_OK;
}

lk_tensor lk_coded_linear(lk_site *s, lk_tape *t, lk_tensor x) {
  const lk_coded *k = s->coded;
  return lk_quant_linear(t, x, lk_use(t, k->codes), lk_use(t, k->scales), lk_site_bias(s, t), &k->quant);
}

lk_tensor lk_coded_weight(lk_site *s, lk_tape *t) {
  const lk_coded *k = s->coded;
  return lk_dequantise(t, lk_use(t, k->codes), lk_use(t, k->scales), &k->quant);
}

/* ---- a model ---- */

static int listed(lk_ctx *c, const char *patterns, const lk_site *s) {
  int found = 0;
  for (char *p; (p = lk_pattern_next(c, &patterns)); lk_free(c, p))
    found |= !strcmp(p, "all-linear") || lk_match_module(c, p, s->module);
  return found;
}

/* Has the weight another name, or another layer a name for it? */
static int is_tied(const lk_site *s) {
  if (s->weight->alias) return 1;
  for (lk_param *p = NULL; (p = lk_param_walk(s->module->model, p));)
    if (p->alias == s->weight) return 1;
  return 0;
}

int lk_site_to_quantise(const lk_site *s, const lk_quantise_options *o) {
  lk_ctx *c = s->module->ctx;
  if (!o || o->kind == LK_QUANT_NONE || s->kind != LK_SITE_LINEAR || s->coded || is_tied(s)) return 0;
  return listed(c, o->targets ? o->targets : "all-linear", s) && !listed(c, o->exclude ? o->exclude : heads, s);
}

static lk_status check(lk_model *model, const char *what) {
  lk_ctx *c = lk_model_ctx(model);
  if (lk_error(c, NULL)) return lk_error(c, NULL);
  if (model->merged) return lk_fail(c, LK_EARG, "%s: the model is merged; unmerge it first", what);
  if (model->adapters)
    return lk_fail(c, LK_EARG, "%s: the adapter '%s' is attached; do this before attaching", what,
                   model->adapters->name);
  if (lk_model_shapes_only(model)) return lk_fail(c, LK_EARG, "%s: the model has shapes only", what);
  return LK_OK;
}

lk_status lk_model_quantise(lk_model *model, const lk_quantise_options *o) {
  if (!model || !o) return LK_ENIL;
  lk_ctx *c = lk_model_ctx(model);
  if (check(model, "quantise")) return lk_error(c, NULL);
  if ((unsigned)o->kind > LK_QUANT_NF4) return lk_fail(c, LK_EARG, "quantise: there is no kind %d", (int)o->kind);
  for (lk_module *m = &model->root; m && !lk_error(c, NULL); m = lk_module_walk(&model->root, m)) {
    if (!m->site || !m->site->weight->value.p || !lk_site_to_quantise(m->site, o)) continue;
    lk_site_quantise(m->site, &m->site->weight->value, o);
  }
  return lk_error(c, NULL);
}

/* The weight of a site in the model's dtype, as it is stored. */
static lk_status decode_site(lk_site *s) {
  lk_param *p = s->weight;
  lk_view v;
  lk_view_init(&v, lk_model_dtype(s->module->model), 2, p->value.shape);
  v.p = lk_alloc(p->ctx, lk_view_bytes(&v));
  if (!v.p) return lk_error(p->ctx, NULL);
  lk_view to = logical(s, v);
  if (lk_site_read(s, &to)) {
    lk_free(p->ctx, v.p);
    return lk_error(p->ctx, NULL);
  }
  set_value(p, v);
  lk_coded_free(s->coded);
  s->coded = NULL;
  p->kind = LK_TRAINED;
  return LK_OK;
}

lk_status lk_model_dequantise(lk_model *model) {
  if (!model) return LK_ENIL;
  lk_ctx *c = lk_model_ctx(model);
  if (check(model, "dequantise")) return lk_error(c, NULL);
  for (lk_module *m = &model->root; m && !lk_error(c, NULL); m = lk_module_walk(&model->root, m))
    if (m->site && m->site->kind == LK_SITE_LINEAR && m->site->weight->kind == LK_BUFFER) decode_site(m->site);
  return lk_error(c, NULL);
}

static int64_t bytes_of(const lk_param *p) { return p->value.p ? (int64_t)lk_view_bytes(&p->value) : 0; }

int64_t lk_model_bytes(lk_model *model) {
  int64_t n = 0;
  for (lk_param *p = NULL; model && (p = lk_param_walk(model, p));) n += p->alias ? 0 : bytes_of(p);
  for (lk_module *m = lk_model_root(model); m; m = lk_module_walk(lk_model_root(model), m))
    if (m->site && m->site->coded) n += bytes_of(m->site->coded->codes) + bytes_of(m->site->coded->scales);
  return n;
}
