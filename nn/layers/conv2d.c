/* conv2d.c: the convolution layer. */
#include "layer.h"

/* Zeros that mean 1, filled in. */
static void complete(int64_t pair[2]) {
  if (!pair[0] && !pair[1]) pair[0] = pair[1] = 1;
}

static lk_status check(lk_module *parent, const char *name, int64_t in, int64_t out, const int64_t kernel[2],
                       int64_t groups) {
  if (in < 1 || out < 1 || kernel[0] < 1 || kernel[1] < 1)
    return lk_fail(parent->ctx, LK_ESHAPE, "conv2d '%s' in '%s': %lld inputs, %lld outputs, kernel %lld x %lld", name,
                   parent->path, (long long)in, (long long)out, (long long)kernel[0], (long long)kernel[1]);
  if (groups < 1 || in % groups || out % groups)
    return lk_fail(parent->ctx, LK_ESHAPE, "conv2d '%s' in '%s': %lld groups do not divide %lld inputs, %lld outputs",
                   name, parent->path, (long long)groups, (long long)in, (long long)out);
  return LK_OK;
}

lk_conv2d_layer *lk_conv2d_new(lk_module *parent, const char *name, int64_t in, int64_t out, const int64_t kernel[2],
                               const lk_conv2d_options *options, int flags) {
  lk_conv2d_options o = options ? *options : (lk_conv2d_options){0};
  complete(o.stride);
  complete(o.dilation);
  if (!o.groups) o.groups = 1;
  if (parent && check(parent, name, in, out, kernel, o.groups)) return NULL;
  lk_conv2d_layer *l = lk_module_new(parent, name, "conv2d", sizeof *l);
  if (!l) return NULL;
  l->in = in;
  l->out = out;
  l->options = o;
  const int64_t shape[] = {out, in / o.groups, kernel[0], kernel[1]};
  l->weight = lk_module_param(&l->module, "weight", 4, shape);
  if (!(flags & LK_NO_BIAS)) l->bias = lk_module_param(&l->module, "bias", 1, &out);
  lk_site *site = lk_site_new(&l->module, LK_SITE_CONV2D, l->weight, l->bias);
  if (!site) return NULL;
  site->in = in;
  site->conv = o;
  return lk_init_fan_in(l->weight, l->bias, shape[1] * shape[2] * shape[3]) ? NULL : l;
}

lk_tensor lk_conv2d_forward(lk_conv2d_layer *l, lk_tape *t, lk_tensor x) {
  uint32_t scope = lk_layer_begin(t, (lk_module *)l, 0);
  return scope ? lk_scope_end(t, scope, lk_site_forward(l->module.site, t, x)) : lk_nil();
}
