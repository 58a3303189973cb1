/* mlp.c: the two-layer perceptron of transformers, and activations by name. */
#include "layer.h"

#include <stdio.h>
#include <string.h>

/* HuggingFace's names (transformers/activations.py).  Its tanh forms of gelu differ by less than 1e-12. */
static const lk_activation activations[] = {
    {"gelu", lk_gelu},           {"gelu_new", lk_gelu_tanh},
    {"gelu_fast", lk_gelu_tanh}, {"gelu_pytorch_tanh", lk_gelu_tanh},
    {"gelu_python", lk_gelu},    {"quick_gelu", lk_gelu_quick},
    {"relu", lk_relu},           {"relu2", lk_relu2},
    {"relu6", lk_relu6},         {"silu", lk_silu},
    {"swish", lk_silu},          {"mish", lk_mish},
    {"sigmoid", lk_sigmoid},     {"tanh", lk_tanh},
};
enum { ACTIVATIONS = sizeof activations / sizeof *activations };

const lk_activation *lk_activation_find(lk_ctx *ctx, const char *name) {
  char known[256] = "";
  size_t n = 0;
  for (int i = 0; i < ACTIVATIONS; i++) {
    if (!strcmp(activations[i].name, name)) return &activations[i];
    n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", activations[i].name);
  }
  lk_fail(ctx, LK_EARG, "there is no activation '%s'; known are %s", name, known);
  return NULL;
}

lk_mlp_layer *lk_mlp_new(lk_module *parent, const char *name, const lk_mlp_options *o) {
  lk_mlp_layer *l = lk_block_new(parent, name, "mlp", sizeof *l, o->flags);
  if (!l) return NULL;
  lk_module *m = &l->module;
  l->dropout = o->dropout;
  l->activation = lk_activation_find(m->ctx, o->activation ? o->activation : "gelu");
  if (!l->activation) return NULL;
  l->up = lk_linear_new(m, o->up ? o->up : "fc1", o->width, o->hidden, o->flags & LK_NO_BIAS);
  l->down = lk_linear_new(m, o->down ? o->down : "fc2", o->hidden, o->width, o->flags & LK_NO_BIAS);
  return l->up && l->down ? l : NULL;
}

lk_tensor lk_mlp_forward(lk_mlp_layer *l, lk_tape *t, lk_tensor x) {
  uint32_t scope = lk_layer_begin(t, (lk_module *)l, l && l->recompute);
  if (!scope) return lk_nil();
  lk_tensor h = l->activation->forward(t, lk_linear_forward(l->up, t, x));
  return lk_scope_end(t, scope, lk_dropout(t, lk_linear_forward(l->down, t, h), l->dropout));
}
