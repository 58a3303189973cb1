/* layer_norm.c: the layer normalisation layer. */
#include "layer.h"

lk_layer_norm_layer *lk_layer_norm_new(lk_module *parent, const char *name, int64_t width, double eps) {
  if (parent && (width < 1 || !(eps >= 0))) {
    lk_fail(parent->ctx, LK_EARG, "layer_norm '%s' in '%s': width %lld, eps %g", name, parent->path, (long long)width,
            eps);
    return NULL;
  }
  lk_layer_norm_layer *l = lk_module_new(parent, name, "layer_norm", sizeof *l);
  if (!l) return NULL;
  l->width = width;
  l->eps = eps;
  l->weight = lk_module_param(&l->module, "weight", 1, &width);
  l->bias = lk_module_param(&l->module, "bias", 1, &width);
  return lk_error(parent->ctx, NULL) || lk_param_fill(l->weight, 1) ? NULL : l;
}

lk_tensor lk_layer_norm_forward(lk_layer_norm_layer *l, lk_tape *t, lk_tensor x) {
  uint32_t scope = lk_layer_begin(t, (lk_module *)l, 0);
  if (!scope) return lk_nil();
  return lk_scope_end(t, scope, lk_layer_norm(t, x, lk_use(t, l->weight), lk_use(t, l->bias), l->eps));
}
