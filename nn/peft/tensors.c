/* tensors.c: an adapter's parameters in a safetensors file: their names there, writing, reading. */
#include "peft.h"

#include <math.h>
#include <string.h>

/* ---- collecting ---- */

/* The name in the file: the prefix, the module's path (or its other one), `insert`, and the rest of the name. */
static char *file_name(const lk_peft_tensors *e, const lk_param *p, const lk_module *m, const char *path,
                       const char *insert) {
  size_t from = strlen(m->path), n = strlen(p->name) - strlen(e->at_name) - from;
  return lk_sprintf(e->ctx, "%s%s%s%.*s", e->prefix, path, insert, (int)n, p->name + from);
}

/* m: the module that the parameter's name begins with; of_bias: it is a copy of an adapted layer's bias */
static void add(lk_peft_tensors *e, lk_param *p, const lk_module *m, int of_bias) {
  const char *insert = of_bias && *e->prefix ? ".base_layer" : "";
  if (p->kind == LK_SCRATCH || p->kind == LK_RETIRED || (p->alias && !*e->prefix)) return;
  if (lk_grow(e->ctx, &e->list, &e->capacity, e->n + 1, sizeof *e->list)) return;
  lk_peft_tensor *one = &e->list[e->n++];
  *one = (lk_peft_tensor){.param = p, .of_bias = of_bias};
  one->name = file_name(e, p, m, m->path, insert);
  if (of_bias) one->other = file_name(e, p, m, m->path, "");
  if (m->also && *e->prefix) one->also = file_name(e, p, m, m->also, insert);
}

/* A weight of the base with other rows than in its file, unless the adapter has a copy of it. */
static void add_resized(lk_peft_tensors *e, const lk_adapter *a, lk_param *p) {
  size_t n = e->n;
  for (const lk_param *s = p ? a->stand_ins : NULL; s; s = s->next)
    if (s->owner == p) return;
  if (!p) return;
  const lk_module *m = p->owner;
  add(e, p, m, lk_site_chain(m->site, a) != NULL);
  if (e->n > n) e->list[n].of_bias = 0;
  if (e->n > n) e->list[n].of_base = 1;
  if (e->n > n && p->alias) e->list[n].param = p->alias;
}

static void entries_free(lk_peft_tensors *e) {
  for (size_t i = 0; i < e->n; i++) {
    lk_free(e->ctx, e->list[i].name);
    lk_free(e->ctx, e->list[i].other);
    lk_free(e->ctx, e->list[i].also);
  }
  lk_free(e->ctx, e->list);
}

/* Every parameter of the adapter: of its sites in the model's order, then its copies of the base's.  made: NULL, or see
 * lk_peft_write. */
static lk_status collect(lk_adapter *a, const lk_peft_format *f, lk_param *made, lk_peft_tensors *e) {
  lk_module *root = lk_model_root(a->model);
  int ours = !*f->prefix; /* PEFT knows parameters of sites only */
  *e = (lk_peft_tensors){.ctx = root->ctx, .prefix = f->prefix, .at_name = ""};
  char *at_name = strcmp(a->name, "default") ? lk_sprintf(root->ctx, "@%s", a->name) : NULL;
  if (at_name) e->at_name = at_name;
  for (lk_at *at = NULL; (at = lk_adapter_walk(a, at));)
    for (lk_param *p = made ? NULL : at->params; p; p = p->next)
      if (!f->holds || f->holds(p)) add(e, p, at->site->module, 0);
  for (lk_param *p = made; p; p = p->next) add(e, p, ((lk_at *)p->owner)->site->module, 0);
  for (lk_method *m = ours ? a->chain : NULL; m; m = lk_method_walk(a->chain, m))
    for (lk_param *p = m->params; p; p = p->next) add(e, p, root, 0);
  for (lk_param *p = a->stand_ins; p; p = p->next) {
    lk_module *m = ((lk_param *)p->owner)->owner;
    add(e, p, m, m->site && lk_site_chain(m->site, a));
  }
  e->at_name = "";
  for (int i = 0; i < 2; i++) add_resized(e, a, a->model->resized[i]);
  lk_free(root->ctx, at_name);
  if (lk_error(root->ctx, NULL)) entries_free(e);
  return lk_error(root->ctx, NULL);
}

/* ---- writing ---- */

static void warn_of_nonfinite(const lk_adapter *a, const lk_peft_tensors *e) {
  for (size_t k = 0; k < e->n; k++) {
    const lk_view *v = &e->list[k].param->value;
    for (int64_t i = 0, n = lk_view_count(v); i < n; i++)
      if (!isfinite(lk_view_get(v, i))) {
        lk_warn(e->ctx, "adapter_save: %s of adapter '%s' holds values that are not finite", e->list[k].name, a->name);
        return;
      }
  }
}

lk_status lk_peft_write_tensors(lk_adapter *a, const lk_peft_format *f, lk_param *made, const char *path) {
  static const lk_metadata format = {"format", "pt"};
  lk_peft_tensors e;
  if (collect(a, f, made, &e)) return lk_error(e.ctx, NULL);
  lk_named_view *views = lk_alloc_array(e.ctx, 2 * e.n + 1, sizeof *views);
  size_t n = 0;
  for (size_t i = 0; views && i < e.n; i++) {
    views[n++] = (lk_named_view){e.list[i].name, e.list[i].param->value};
    if (e.list[i].also) views[n++] = (lk_named_view){e.list[i].also, e.list[i].param->value};
  }
  if (views) {
    warn_of_nonfinite(a, &e);
    lk_safetensors_write(e.ctx, path, views, n, &format, 1);
  }
  lk_free(e.ctx, views);
  entries_free(&e);
  return lk_error(e.ctx, NULL);
}

/* ---- reading ---- */

static lk_status take(lk_ctx *c, const lk_peft_tensor *one, lk_safetensors *file) {
  lk_view v;
  return lk_safetensors_view(file, one->stored, &v) ? lk_error(c, NULL) : lk_param_assign(one->param, &v);
}

/* What says how the adapter is built (kept layers, a chosen structure) comes first: the rest depends on it. */
static lk_status read_buffers(lk_adapter *a, const lk_peft_format *f, lk_safetensors *file) {
  lk_peft_tensors e;
  lk_view v;
  if (*f->prefix || collect(a, f, NULL, &e)) return lk_error(lk_model_ctx(a->model), NULL);
  for (size_t i = 0; i < e.n && !lk_error(e.ctx, NULL); i++) {
    lk_param *p = e.list[i].param;
    const lk_stored *s = p->kind == LK_BUFFER ? lk_safetensors_find(file, e.list[i].name) : NULL;
    if (s && !lk_safetensors_view(file, s, &v) && lk_view_same_shape(&v, &p->value)) lk_param_assign(p, &v);
  }
  entries_free(&e);
  return lk_methods_loaded(a);
}

lk_status lk_peft_read_tensors(lk_adapter *a, const lk_peft_format *f, lk_safetensors *file, const char *path) {
  lk_peft_tensors e;
  if (read_buffers(a, f, file) || collect(a, f, NULL, &e)) return lk_error(lk_model_ctx(a->model), NULL);
  int fits = !lk_peft_compare(a, &e, file, path);
  for (size_t i = 0; fits && i < e.n; i++)
    if (e.list[i].stored && take(e.ctx, &e.list[i], file)) break;
  entries_free(&e);
  return lk_error(e.ctx, NULL);
}
