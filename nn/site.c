/* site.c: sites: where adapters attach, and replacing the frozen base under one. */
#include "model.h"

#include <string.h>

lk_site *lk_site_new(lk_module *m, lk_site_kind kind, lk_param *weight, lk_param *bias) {
  if (!m || !weight || lk_error(m->ctx, NULL)) return NULL;
  int want = kind == LK_SITE_CONV2D ? 4 : 2;
  if (weight->value.ndim != want) {
    lk_fail(m->ctx, LK_ESHAPE, "site %s: the weight has %d axes, want %d", m->path, weight->value.ndim, want);
    return NULL;
  }
  if (m->site) {
    lk_fail(m->ctx, LK_EARG, "site %s: the module is a site already", m->path);
    return NULL;
  }
  lk_site *s = lk_alloc(m->ctx, sizeof *s);
  if (!s) return NULL;
  s->module = m;
  s->kind = kind;
  s->weight = weight;
  s->bias = bias;
  s->in = weight->value.shape[kind == LK_SITE_EMBEDDING ? 0 : 1];
  s->out = weight->value.shape[kind == LK_SITE_EMBEDDING ? 1 : 0];
  return m->site = s;
}

/* Is this the first adapter at its site?  Wrappers before it, that it is the first in, do not count. */
static int is_first(const lk_at *at) {
  const lk_at *a = at->site->stacks ? at->site->stacks->chain : at->head;
  while (a != at && a->inner) a = a->inner;
  return a == at;
}

lk_status lk_at_rebase(lk_at *at, const lk_view *weight) {
  lk_site *s = at->site;
  lk_ctx *c = lk_at_ctx(at);
  const char *name = at->method->cls->name;
  if (!is_first(at))
    return lk_fail(c, LK_EARG, "attach: %s replaces the base weight of %s: it must be the first adapter there", name,
                   lk_at_path(at));
  if (s->replaced_by)
    return lk_fail(c, LK_EARG, "attach: the base weight of %s is replaced by %s already", lk_at_path(at),
                   s->replaced_by->method->cls->name);
  if (s->tied || s->weight->alias || s->weight->stand_in)
    return lk_fail(c, LK_EARG, "attach: %s cannot replace the base weight of %s, which is shared or trained as a copy",
                   name, lk_at_path(at));
  lk_view to = s->weight->value;
  to.dtype = lk_model_dtype(s->module->model); /* also where the original is stored in half */
  to.p = lk_alloc(c, lk_view_bytes(&to));
  if (!to.p) return lk_error(c, NULL);
  void *values = to.p;
  if (s->fan_in_fan_out) { /* storage is [in, out], weight comes as [out, in] */
    int64_t n = to.shape[0], step = to.stride[0];
    to.shape[0] = to.shape[1], to.stride[0] = to.stride[1];
    to.shape[1] = n, to.stride[1] = step;
  }
  lk_view_copy(&to, weight);
  s->original_weight = s->weight->value;
  s->original_owned = s->weight->owned;
  s->replaced_by = at;
  s->weight->value.dtype = to.dtype;
  s->weight->value.p = values;
  s->weight->owned = 1;
  lk_param_touch(s->weight);
  return LK_OK;
}

void lk_site_restore(lk_site *s) {
  if (!s->replaced_by) return;
  lk_free(s->module->ctx, s->weight->value.p);
  s->weight->value = s->original_weight;
  s->weight->owned = s->original_owned;
  lk_param_touch(s->weight);
  s->replaced_by = NULL;
}
