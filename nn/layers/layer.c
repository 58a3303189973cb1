/* layer.c: what the layers' constructors share. */
#include "layer.h"

#include <math.h>

lk_status lk_init_fan_in(lk_param *weight, lk_param *bias, int64_t fan_in) {
  double bound = 1 / sqrt((double)fan_in);
  lk_status bad = lk_param_uniform(weight, -bound, bound);
  return bad || !bias ? bad : lk_param_uniform(bias, -bound, bound);
}

void *lk_block_new(lk_module *parent, const char *name, const char *type, size_t size, int flags) {
  lk_module *m = lk_module_new(parent, name, type, size);
  if (!m || !(flags & LK_NAMELESS)) return m;
  char *path = lk_strdup(m->ctx, parent->path);
  if (!path) return NULL;
  lk_free(m->ctx, m->path);
  m->path = path;
  return m;
}
