/* layer.h: what the layers share. */
#ifndef LK_LAYER_H
#define LK_LAYER_H
#include <lorikeet/adapter.h>
#include <lorikeet/ops.h>

/* Opens the scope of a layer's forward; 0 when there is no layer, because its constructor failed. */
static inline uint32_t lk_layer_begin(lk_tape *t, const lk_module *m, int recompute) {
  if (m) return lk_scope_begin(t, m->name, recompute ? LK_SCOPE_RECOMPUTE : 0);
  lk_fail(lk_tape_ctx(t), LK_ENIL, "the forward of a layer that is NULL");
  return 0;
}

/* y, and x, of which it was made, is dead to the caller; else it would live to the end of the caller's scope. */
static inline lk_tensor lk_after(lk_tape *t, lk_tensor x, lk_tensor y) {
  lk_drop(t, x);
  return y;
}

/* A module of several layers: lk_module_new, and with LK_NAMELESS in flags the parent's path. */
void *lk_block_new(lk_module *parent, const char *name, const char *type, size_t size, int flags);

/* PyTorch's initialisation of linear and convolutional layers, whose inputs a weight row counts as fan_in. */
lk_status lk_init_fan_in(lk_param *weight, lk_param *bias, int64_t fan_in);

#endif
