/* module.c: the tree of modules and its parameters. */
#include "model.h"

#include <string.h>

/* ---- model ---- */

lk_model *lk_model_new(lk_ctx *ctx, lk_dtype dtype, int flags) {
  lk_model *m = lk_alloc(ctx, sizeof *m);
  if (!m) return NULL;
  m->root.ctx = ctx;
  m->root.model = m;
  m->root.type = "model";
  m->dtype = dtype;
  m->flags = flags;
  m->root.name = lk_strdup(ctx, "");
  m->root.path = lk_strdup(ctx, "");
  if (!lk_dtype_is_real(dtype)) lk_fail(ctx, LK_EDTYPE, "model: %s is not f32 or f64", lk_dtype_name(dtype));
  if (m->root.path && lk_dtype_is_real(dtype)) return m;
  lk_model_free(m);
  return NULL;
}

static void free_module(lk_module *m) {
  lk_ctx *c = m->ctx;
  for (lk_module *child = m->child, *next; child; child = next) {
    next = child->next;
    free_module(child);
  }
  if (m->destroy) m->destroy(m);
  for (lk_param *p = m->params, *next; p; p = next) {
    next = p->next;
    lk_param_free(p);
  }
  if (m->site) lk_coded_free(m->site->coded);
  lk_free(c, m->site);
  lk_free(c, m->name);
  lk_free(c, m->path);
  lk_free(c, m->also);
  lk_free(c, m);
}

void lk_model_free(lk_model *model) {
  if (!model) return;
  lk_ctx *c = model->root.ctx;
  lk_merge_undo(model);
  for (lk_adapter *a = model->adapters, *next; a; a = next) {
    next = a->next;
    lk_adapter_free(a);
  }
  lk_free(c, model->active);
  lk_free(c, model->classes);
  lk_cleanup *cleanups = model->cleanups;
  free_module(&model->root);
  for (lk_cleanup *k = cleanups, *next; k; k = next) {
    next = k->next;
    k->fn(k->arg);
    lk_free(c, k);
  }
}

lk_status lk_model_on_free(lk_model *model, void (*fn)(void *), void *arg) {
  lk_cleanup *k = lk_alloc(lk_model_ctx(model), sizeof *k);
  if (!k) {
    fn(arg);
    return lk_error(lk_model_ctx(model), NULL);
  }
  *k = (lk_cleanup){fn, arg, model->cleanups};
  model->cleanups = k;
  return LK_OK;
}

lk_module *lk_model_root(lk_model *model) { return model ? &model->root : NULL; }

lk_dtype lk_model_dtype(const lk_model *model) { return model ? model->dtype : LK_F32; }

lk_ctx *lk_model_ctx(const lk_model *model) { return model ? model->root.ctx : NULL; }

int lk_model_shapes_only(const lk_model *model) { return model && model->flags & LK_SHAPES_ONLY; }

/* ---- modules ---- */

static char *join(lk_ctx *c, const char *path, const char *name) {
  return *path ? lk_sprintf(c, "%s.%s", path, name) : lk_strdup(c, name);
}

void *lk_module_new(lk_module *parent, const char *name, const char *type, size_t size) {
  if (!parent || lk_error(parent->ctx, NULL)) return NULL;
  lk_ctx *c = parent->ctx;
  lk_module **end = &parent->child;
  for (; *end; end = &(*end)->next)
    if (!strcmp((*end)->name, name)) {
      lk_fail(c, LK_EARG, "module '%s' has a child '%s' already", parent->path, name);
      return NULL;
    }
  lk_module *m = lk_alloc(c, size);
  if (!m) return NULL;
  m->ctx = c;
  m->model = parent->model;
  m->parent = parent;
  m->type = type;
  m->name = lk_strdup(c, name);
  m->path = join(c, parent->path, name);
  if (!m->name || !m->path) {
    lk_free(c, m->name);
    lk_free(c, m->path);
    lk_free(c, m);
    return NULL;
  }
  *end = m;
  return m;
}

lk_param *lk_module_param(lk_module *m, const char *name, int ndim, const int64_t *shape) {
  if (!m || lk_error(m->ctx, NULL)) return NULL;
  char *path = join(m->ctx, m->path, name);
  if (!path) return NULL;
  lk_param *p = lk_model_shapes_only(m->model)
                    ? lk_param_new_shape(m->ctx, path, LK_TRAINED, m->model->dtype, ndim, shape)
                    : lk_param_new(m->ctx, path, LK_TRAINED, m->model->dtype, ndim, shape);
  lk_free(m->ctx, path);
  if (!p) return NULL;
  p->owner = m;
  lk_param **end = &m->params;
  while (*end) end = &(*end)->next;
  return *end = p;
}

lk_status lk_module_also(lk_module *m, const char *path) {
  if (!m || m->also) return m ? lk_fail(m->ctx, LK_EARG, "module %s is also %s already", m->path, m->also) : LK_ENIL;
  m->also = lk_strdup(m->ctx, path);
  return lk_error(m->ctx, NULL);
}

lk_module *lk_module_walk(lk_module *root, lk_module *m) {
  if (m->child) return m->child;
  while (m != root && !m->next) m = m->parent;
  return m == root ? NULL : m->next;
}

lk_module *lk_module_find(lk_module *root, const char *path) {
  for (lk_module *m = root; m; m = lk_module_walk(root, m))
    if (!strcmp(m->path, path)) return m;
  return NULL;
}

lk_param *lk_param_find(lk_module *root, const char *path) {
  for (lk_module *m = root; m; m = lk_module_walk(root, m))
    for (lk_param *p = m->params; p; p = p->next)
      if (!strcmp(p->name, path)) return p;
  return NULL;
}

lk_param *lk_param_walk(lk_model *model, lk_param *p) {
  if (p && p->next) return p->next;
  lk_module *m = p ? lk_module_walk(&model->root, p->owner) : &model->root;
  while (m && !m->params) m = lk_module_walk(&model->root, m);
  return m ? m->params : NULL;
}

/* ---- what trains ---- */

void lk_set_requires_grad(lk_module *root, int on) {
  for (lk_module *m = root; m; m = lk_module_walk(root, m))
    for (lk_param *p = m->params; p; p = p->next) p->requires_grad = on && p->kind == LK_TRAINED;
}

typedef struct {
  lk_ctx *ctx;
  lk_param **p; /* NULL: only count */
  size_t capacity;
  int n;
  int64_t elements;
  int keep;
} collection;

static void collect(collection *c, lk_param *list) {
  for (lk_param *p = list; p; p = p->next) {
    if (p->kind != LK_TRAINED || !p->requires_grad || p->stand_in || p->alias) continue;
    c->elements += lk_param_count(p);
    if (c->keep && lk_grow(c->ctx, &c->p, &c->capacity, (size_t)c->n + 1, sizeof *c->p)) return;
    if (c->keep) c->p[c->n] = p;
    c->n++;
  }
}

static void collect_adapter(collection *c, lk_adapter *a) {
  for (lk_at *at = NULL; (at = lk_adapter_walk(a, at));) collect(c, at->params);
  for (lk_method *m = a->chain; m; m = lk_method_walk(a->chain, m)) collect(c, m->params);
  collect(c, a->stand_ins);
}

static collection collect_all(lk_model *model, int keep) {
  collection c = {.ctx = lk_model_ctx(model), .keep = keep};
  if (!model) return c;
  for (lk_module *m = &model->root; m; m = lk_module_walk(&model->root, m)) collect(&c, m->params);
  for (lk_adapter *a = model->adapters; a; a = a->next) collect_adapter(&c, a);
  return c;
}

lk_param **lk_trainable(lk_model *model, int *n) {
  collection c = collect_all(model, 1);
  *n = c.n;
  return c.p;
}

int64_t lk_trainable_count(lk_model *model) { return collect_all(model, 0).elements; }

int64_t lk_adapter_count(lk_model *model, const char *name) {
  collection c = {.ctx = lk_model_ctx(model)};
  lk_adapter *a = lk_adapter_find(model, name);
  if (a) collect_adapter(&c, a);
  return c.elements;
}

int64_t lk_parameter_count(lk_model *model) {
  int64_t n = 0;
  for (lk_param *p = NULL; model && (p = lk_param_walk(model, p));) n += p->alias ? 0 : lk_param_count(p);
  return n;
}
