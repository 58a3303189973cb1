/* embedding.c: the embedding layer. */
#include "layer.h"

lk_embedding_layer *lk_embedding_new(lk_module *parent, const char *name, int64_t count, int64_t width) {
  if (parent && (count < 1 || width < 1)) {
    lk_fail(parent->ctx, LK_ESHAPE, "embedding '%s' in '%s': %lld vectors of width %lld", name, parent->path,
            (long long)count, (long long)width);
    return NULL;
  }
  lk_embedding_layer *l = lk_module_new(parent, name, "embedding", sizeof *l);
  if (!l) return NULL;
  l->count = count;
  l->width = width;
  l->weight = lk_module_param(&l->module, "weight", 2, (int64_t[]){count, width});
  if (!lk_site_new(&l->module, LK_SITE_EMBEDDING, l->weight, NULL)) return NULL;
  return lk_param_normal(l->weight, 0, 1) ? NULL : l;
}

lk_tensor lk_embedding_forward(lk_embedding_layer *l, lk_tape *t, lk_tensor ids) {
  uint32_t scope = lk_layer_begin(t, (lk_module *)l, 0);
  return scope ? lk_scope_end(t, scope, lk_site_forward(l->module.site, t, ids)) : lk_nil();
}
