/* linear.c: the linear layer. */
#include "layer.h"

lk_linear_layer *lk_linear_new(lk_module *parent, const char *name, int64_t in, int64_t out, int flags) {
  if (parent && (in < 1 || out < 1)) {
    lk_fail(parent->ctx, LK_ESHAPE, "linear '%s' in '%s': %lld inputs, %lld outputs", name, parent->path, (long long)in,
            (long long)out);
    return NULL;
  }
  lk_linear_layer *l = lk_module_new(parent, name, "linear", sizeof *l);
  if (!l) return NULL;
  int transposed = (flags & LK_FAN_IN_FAN_OUT) != 0;
  l->in = in;
  l->out = out;
  l->weight = lk_module_param(&l->module, "weight", 2, transposed ? (int64_t[]){in, out} : (int64_t[]){out, in});
  if (!(flags & LK_NO_BIAS)) l->bias = lk_module_param(&l->module, "bias", 1, &out);
  lk_site *site = lk_site_new(&l->module, LK_SITE_LINEAR, l->weight, l->bias);
  if (!site) return NULL;
  site->in = in;
  site->out = out;
  site->fan_in_fan_out = transposed;
  return lk_init_fan_in(l->weight, l->bias, in) ? NULL : l;
}

lk_tensor lk_linear_forward(lk_linear_layer *l, lk_tape *t, lk_tensor x) {
  uint32_t scope = lk_layer_begin(t, (lk_module *)l, 0);
  return scope ? lk_scope_end(t, scope, lk_site_forward(l->module.site, t, x)) : lk_nil();
}
