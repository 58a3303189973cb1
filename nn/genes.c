/* genes.c: the choices that adapters declare, as one genome of a model: what a structure search works on. */
#include "model.h"

/* The adapter, or NULL with an error. */
static lk_adapter *find(lk_model *model, const char *name, const char *what) {
  lk_ctx *c = lk_model_ctx(model);
  lk_adapter *a = lk_error(c, NULL) ? NULL : lk_adapter_find(model, name);
  if (!a) lk_fail(c, LK_EARG, "%s: there is no adapter '%s'", what, name);
  return a;
}

static int genes_at(const lk_at *at, int *choices) {
  const lk_adapter_class *k = at->method->cls;
  return k->genes ? k->genes(at, choices) : 0;
}

int lk_adapter_genes(lk_model *model, const char *name, int *choices) {
  lk_adapter *a = find(model, name, "genes");
  int n = 0;
  for (lk_at *at = NULL; a && (at = lk_adapter_walk(a, at));) n += genes_at(at, choices ? choices + n : NULL);
  return n;
}

/* Does every gene have this choice?  room: a number for each gene. */
static lk_status check(lk_model *model, lk_adapter *a, const int *genome, int *room) {
  lk_ctx *c = lk_model_ctx(model);
  for (lk_at *at = NULL; (at = lk_adapter_walk(a, at));) {
    int n = genes_at(at, room);
    for (int i = 0; i < n; i++)
      if (genome[i] < 0 || genome[i] >= room[i])
        return lk_fail(c, LK_EARG, "choose: gene %d of %s at %s is %d; it has %d choices", i, at->method->cls->name,
                       lk_at_path(at), genome[i], room[i]);
    genome += n;
  }
  return LK_OK;
}

lk_status lk_adapter_choose(lk_model *model, const char *name, const int *genome) {
  lk_adapter *a = find(model, name, "choose");
  if (!a) return lk_error(lk_model_ctx(model), NULL);
  lk_ctx *c = lk_model_ctx(model);
  int n = lk_adapter_genes(model, name, NULL);
  if (!n) return lk_fail(c, LK_EARG, "choose: adapter '%s' (%s) has no choices", name, a->spec);
  if (model->merged) return lk_fail(c, LK_EARG, "choose: the model is merged; unmerge it first");
  int *room = lk_alloc_array(c, (size_t)n, sizeof *room);
  if (room && genome) check(model, a, genome, room);
  lk_free(c, room);
  for (lk_at *at = NULL; !lk_error(c, NULL) && (at = lk_adapter_walk(a, at));) {
    int k = genes_at(at, NULL);
    if (k) at->method->cls->choose(at, genome);
    if (genome) genome += k;
  }
  return lk_error(c, NULL);
}

int64_t lk_adapter_choice_cost(lk_model *model, const char *name, const int *genome) {
  lk_adapter *a = find(model, name, "choice_cost");
  int64_t sum = 0;
  for (lk_at *at = NULL; a && (at = lk_adapter_walk(a, at));) {
    int k = genes_at(at, NULL);
    if (k) sum += at->method->cls->cost(at, genome);
    genome += k;
  }
  return sum;
}

lk_status lk_adapter_settle(lk_model *model, const char *name) {
  lk_adapter *a = find(model, name, "settle");
  lk_ctx *c = lk_model_ctx(model);
  for (lk_at *at = NULL; a && !lk_error(c, NULL) && (at = lk_adapter_walk(a, at));)
    if (at->method->cls->settle) at->method->cls->settle(at);
  return lk_error(c, NULL);
}
