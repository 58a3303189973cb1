/* saved.c: copies of base parameters that train with an adapter: modules_to_save and biases.  While the adapter
 * is active the copy stands in for the original, which stays as it is. */
#include "model.h"

#include <string.h>

static lk_status copy(lk_adapter *a, lk_param *p) {
  lk_ctx *c = p->ctx;
  const lk_site *site = ((lk_module *)p->owner)->site;
  const lk_param *from = p->alias ? p->alias : p;
  int coded = site && site->weight == p && lk_site_is_coded(site);
  for (const lk_param *s = a->stand_ins; s; s = s->next)
    if (s->owner == p) return LK_OK;
  int is_default = !strcmp(a->name, "default");
  char *name = lk_sprintf(c, "%s%s%s", p->name, is_default ? "" : "@", is_default ? "" : a->name);
  if (!name) return lk_error(c, NULL);
  lk_dtype dtype = lk_model_dtype(a->model); /* also where the original is stored in half */
  lk_param *s = from->value.p || coded ? lk_param_new(c, name, LK_TRAINED, dtype, p->value.ndim, p->value.shape)
                                       : lk_param_new_shape(c, name, LK_TRAINED, dtype, p->value.ndim, p->value.shape);
  lk_free(c, name);
  if (!s) return lk_error(c, NULL);
  s->owner = p;
  lk_view to = coded && site->fan_in_fan_out ? lk_view_turned(s->value) : s->value;
  if (from->value.p) lk_view_copy(&s->value, &from->value);
  else if (coded && lk_site_read(site, &to)) return lk_param_free(s), lk_error(c, NULL);
  lk_param **end = &a->stand_ins;
  while (*end) end = &(*end)->next;
  *end = s;
  return LK_OK;
}

static int in_targets(const lk_target_match *match, const lk_module *m) {
  for (int i = 0; i < match->n; i++)
    if (match->sites[i]->module == m) return 1;
  return 0;
}

static lk_status copy_module(lk_adapter *a, lk_module *top, const lk_target_match *match) {
  for (lk_module *m = top; m; m = lk_module_walk(top, m)) {
    if (in_targets(match, m))
      return lk_fail(m->ctx, LK_EARG, "attach: %s is both adapted and in modules_to_save", m->path);
    for (lk_param *p = m->params; p; p = p->next)
      if (copy(a, p)) return lk_error(m->ctx, NULL);
  }
  return LK_OK;
}

static lk_status copy_saved_modules(lk_adapter *a, const char *suffixes, int lenient, const lk_target_match *match) {
  lk_module *root = &a->model->root;
  lk_ctx *c = root->ctx;
  for (char *s; suffixes && (s = lk_pattern_next(c, &suffixes)); lk_free(c, s)) {
    int found = 0;
    for (lk_module *m = root; m && !lk_error(c, NULL); m = lk_module_walk(root, m)) {
      if (!lk_suffix_match(c, s, m->path)) continue;
      found = 1;
      copy_module(a, m, match);
    }
    if (!found && lenient) lk_warn(c, "attach: modules_to_save '%s' matches no module", s);
    if (!found && !lenient) lk_fail(c, LK_EARG, "attach: modules_to_save '%s' matches no module", s);
  }
  return lk_error(c, NULL);
}

static int is_bias(const lk_param *p) {
  const char *dot = strrchr(p->name, '.');
  return !strcmp(dot ? dot + 1 : p->name, "bias");
}

lk_status lk_stand_ins_make(lk_adapter *a, const lk_attach_options *o, const lk_target_match *match) {
  lk_ctx *c = lk_model_ctx(a->model);
  if (o->bias == LK_BIAS_ADAPTED)
    for (int i = 0; i < match->n && !lk_error(c, NULL); i++)
      if (match->sites[i]->bias) copy(a, match->sites[i]->bias);
  if (o->bias == LK_BIAS_ALL)
    for (lk_param *p = NULL; (p = lk_param_walk(a->model, p)) && !lk_error(c, NULL);)
      if (is_bias(p)) copy(a, p);
  if (!lk_error(c, NULL)) copy_saved_modules(a, o->modules_to_save, o->lenient, match);
  return lk_error(c, NULL);
}

lk_status lk_stand_ins_check(lk_model *model) {
  for (size_t i = 0; i < model->nactive; i++)
    for (size_t j = 0; j < i; j++)
      for (const lk_param *p = model->active[i]->stand_ins; p; p = p->next)
        for (const lk_param *q = model->active[j]->stand_ins; q; q = q->next)
          if (p->owner == q->owner)
            return lk_fail(p->ctx, LK_EARG,
                           "adapters '%s' and '%s' both hold a copy of %s: only one of them can be active",
                           model->active[j]->name, model->active[i]->name, ((lk_param *)p->owner)->name);
  return LK_OK;
}

void lk_stand_ins_link(lk_model *model) {
  for (lk_adapter *a = model->adapters; a; a = a->next)
    for (lk_param *p = a->stand_ins; p; p = p->next) ((lk_param *)p->owner)->stand_in = NULL;
  for (size_t i = 0; i < model->nactive && !model->merged; i++)
    for (lk_param *p = model->active[i]->stand_ins; p; p = p->next) ((lk_param *)p->owner)->stand_in = p;
}
