/* active.c: which adapters take part, and which of them train. */
#include "model.h"

#include <string.h>

lk_status lk_set_active(lk_model *model, int n, const char *const *names, const double *weights) {
  lk_ctx *c = lk_model_ctx(model);
  if (lk_error(c, NULL)) return lk_error(c, NULL);
  if (lk_is_merged(model)) return lk_fail(c, LK_EARG, "set_active: the model is merged; unmerge it first");
  lk_adapter **list = lk_alloc_array(c, (size_t)n + 1, sizeof *list), **before = model->active;
  size_t nbefore = model->nactive;
  for (int i = 0; list && i < n; i++) {
    list[i] = lk_adapter_find(model, names[i]);
    if (!list[i]) lk_fail(c, LK_EARG, "set_active: there is no adapter '%s'", names[i]);
    for (int j = 0; j < i; j++)
      if (list[i] && list[j] == list[i]) lk_fail(c, LK_EARG, "set_active: adapter '%s' is named twice", names[i]);
  }
  model->active = list;
  model->nactive = (size_t)n;
  if (lk_error(c, NULL) || lk_stand_ins_check(model)) {
    model->active = before;
    model->nactive = nbefore;
    lk_free(c, list);
    return lk_error(c, NULL);
  }
  lk_free(c, before);
  model->active_capacity = (size_t)n + 1;
  for (lk_adapter *a = model->adapters; a; a = a->next) a->active = 0;
  for (int i = 0; i < n; i++) {
    list[i]->active = 1;
    list[i]->weight = weights ? weights[i] : 1;
  }
  lk_stand_ins_link(model);
  return LK_OK;
}

static void train_params(lk_param *p, int on) {
  for (; p; p = p->next) p->requires_grad = on && p->kind == LK_TRAINED;
}

lk_status lk_set_trainable(lk_model *model, const char *name, int on) {
  lk_ctx *c = lk_model_ctx(model);
  lk_adapter *a = lk_adapter_find(model, name);
  if (!a) return lk_fail(c, LK_EARG, "set_trainable: there is no adapter '%s'", name);
  for (lk_at *at = NULL; (at = lk_adapter_walk(a, at));) train_params(at->params, on);
  for (lk_method *m = a->chain; m; m = lk_method_walk(a->chain, m)) train_params(m->params, on);
  train_params(a->stand_ins, on);
  a->trainable = on != 0;
  return LK_OK;
}
