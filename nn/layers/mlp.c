/* mlp.c: the two-layer perceptron of transformers. */
#include "layer.h"

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
