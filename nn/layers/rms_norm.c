/* rms_norm.c: the RMS normalisation layer. */
#include "layer.h"

lk_rms_norm_layer *lk_rms_norm_new(lk_module *parent, const char *name, int64_t width, double eps) {
  lk_rms_norm_layer *l = lk_module_new(parent, name, "rms_norm", sizeof *l);
  if (!l) return NULL;
  l->width = width;
  l->eps = eps;
  l->weight = lk_module_param(&l->module, "weight", 1, &width);
  return l->weight && !lk_param_fill(l->weight, 1) ? l : NULL;
}

lk_tensor lk_rms_norm_forward(lk_rms_norm_layer *l, lk_tape *t, lk_tensor x) {
  uint32_t scope = lk_layer_begin(t, (lk_module *)l, 0);
  return scope ? lk_scope_end(t, scope, lk_rms_norm(t, x, lk_use(t, l->weight), l->eps)) : lk_nil();
}
