/* export.c: an adapter of another method as a plain LoRA for PEFT: its change of the weight is a product B A, and that is
 * written with scaling 1 and a rank for every site. */
#include "peft.h"

#include <lorikeet/ops.h>
#include <string.h>

/* Factors of all sites, a list of parameters in site order: A, B, A, B, ... */
typedef struct {
  lk_adapter *adapter;
  lk_ctx *ctx;
  lk_tape *t;
  lk_param *first, **end;
} factors;

static void factors_free(factors *f) {
  lk_peft_made_free(f->first);
  lk_tape_free(f->t);
}

/* ---- may it be written so? ---- */

static lk_status check(const lk_adapter *a) {
  lk_ctx *c = lk_model_ctx(a->model);
  const lk_method *m = a->chain;
  lk_module *root = lk_model_root(a->model);
  if (m->next)
    return lk_fail(c, LK_EARG,
                   "export_lora: '%s' is a chain; one method whose change of the weight is a product B A "
                   "can be written as a LoRA",
                   a->spec);
  if (!m->cls->factors)
    return lk_fail(c, LK_EARG, "export_lora: the change that %s makes is no product of two thin matrices",
                   m->cls->name);
  if (a->model->merged) return lk_fail(c, LK_EARG, "export_lora: the model is merged; unmerge it first");
  for (lk_module *k = root; k; k = lk_module_walk(root, k))
    if (k->site && k->site->replaced_by && k->site->replaced_by->method->adapter == a)
      return lk_fail(c, LK_EARG,
                     "export_lora: %s has put another base weight into %s, to which the file would not apply",
                     m->cls->name, k->path);
  return lk_error(c, NULL);
}

/* ---- making ---- */

static lk_status add(factors *f, lk_at *at, const char *name, int ndim, const int64_t *shape, lk_tensor value) {
  const char *adapter = f->adapter->name;
  int is_default = !strcmp(adapter, "default");
  lk_view v;
  char *path = lk_sprintf(f->ctx, "%s.%s%s%s", lk_at_path(at), name, is_default ? "" : "@", is_default ? "" : adapter);
  lk_param *p = path ? lk_param_new(f->ctx, path, LK_TRAINED, f->adapter->model->dtype, ndim, shape) : NULL;
  lk_free(f->ctx, path);
  if (!p) return lk_error(f->ctx, NULL);
  p->owner = at;
  *f->end = p;
  f->end = &p->next;
  if (!lk_is_nil(value) && !lk_get(f->t, lk_reshape(f->t, value, ndim, shape), &v)) lk_param_assign(p, &v);
  return lk_error(f->ctx, NULL);
}

/* A site whose change is nothing gets a product of rank 1 that is zero: PEFT knows no rank 0. */
static lk_status add_site(factors *f, lk_at *at) {
  const lk_site *s = at->site;
  const int64_t *w = s->weight->value.shape;
  lk_tensor A = lk_nil(), B = lk_nil();
  lk_tape_reset(f->t);
  if (at->method->cls->factors(at, f->t, &A, &B)) return lk_error(f->ctx, NULL);
  int64_t r = lk_is_nil(A) ? 0 : lk_size(f->t, A, 0);
  if (!r) A = B = lk_nil(), r = 1;
  const int64_t a_shape[] = {r, s->in, w[2], w[3]}, b_shape[] = {s->out, r, 1, 1};
  int embedding = s->kind == LK_SITE_EMBEDDING, ndim = s->kind == LK_SITE_CONV2D ? 4 : 2;
  if (add(f, at, embedding ? "lora_embedding_A" : "lora_A.weight", ndim, a_shape, A)) return lk_error(f->ctx, NULL);
  return add(f, at, embedding ? "lora_embedding_B" : "lora_B.weight", ndim, b_shape, B);
}

static lk_status make(factors *f) {
  lk_module *root = lk_model_root(f->adapter->model);
  f->end = &f->first;
  if (!(f->t = lk_tape_new(f->ctx))) return lk_error(f->ctx, NULL);
  lk_no_grad(f->t, 1);
  lk_tape_in_double(f->t, 1);
  for (lk_module *m = root; m && !lk_error(f->ctx, NULL); m = lk_module_walk(root, m)) {
    lk_at *at = m->site ? lk_site_chain(m->site, f->adapter) : NULL;
    if (at) add_site(f, at);
  }
  return lk_error(f->ctx, NULL);
}

/* ---- writing ---- */

static double rank(const lk_at *chain, const void *arg) {
  const lk_param *p = ((const factors *)arg)->first;
  while (p && p->owner != chain) p = p->next;
  return p ? (double)p->value.shape[0] : 0;
}

static lk_status write_config(const factors *f, lk_json *config) {
  double usual = f->first ? (double)f->first->value.shape[0] : 1;
  const lk_peft_lora_settings settings = {.r = usual, .alpha = usual};
  static const char *const patterns[] = {"rank_pattern", "alpha_pattern"};
  lk_peft_write_lora(f->adapter, &settings, config);
  lk_json_set_bool(f->ctx, config, "init_lora_weights", 1);
  for (int i = 0; i < 2; i++)
    lk_json_set(f->ctx, config, patterns[i], lk_peft_map_of_sites(f->adapter, rank, f, usual));
  return lk_error(f->ctx, NULL);
}

static int holds_none(const lk_param *p) {
  (void)p;
  return 0;
}

lk_status lk_adapter_can_export_lora(lk_model *model, const char *name) {
  if (!model) return LK_ENIL;
  lk_adapter *a = lk_peft_adapter(model, name, "", "export_lora");
  return a ? check(a) : lk_error(lk_model_ctx(model), NULL);
}

lk_status lk_adapter_export_lora(lk_model *model, const char *name, const char *dir, const char *base) {
  if (!model) return LK_ENIL;
  lk_ctx *c = lk_model_ctx(model);
  lk_adapter *a = lk_peft_adapter(model, name, dir, "export_lora");
  if (!a || check(a)) return lk_error(c, NULL);
  lk_peft_format format = lk_peft_lora;
  format.holds = holds_none;
  factors f = {.adapter = a, .ctx = c};
  lk_json *config = make(&f) ? NULL : lk_json_object(c);
  if (config && !write_config(&f, config)) lk_peft_write(a, &format, f.first, config, dir, base);
  lk_json_free(config);
  factors_free(&f);
  return lk_error(c, NULL);
}
