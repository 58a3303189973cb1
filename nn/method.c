/* method.c: the methods of an adapter across its sites: walking them, parameters, loss, phases, notes. */
#include "model.h"

#include <lorikeet/ops.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- walking ---- */

lk_at *lk_at_walk(lk_at *chain, lk_at *at) {
  if (at->inner) return at->inner;
  for (;; at = at->outer) {
    if (at->next) return at->next;
    if (at->head == chain) return NULL;
    if (at->head->other) return at->head->other;
  }
}

lk_method *lk_method_walk(lk_method *chain, lk_method *m) {
  if (m->inner) return m->inner;
  for (; m; m = m->outer) {
    if (m->next) return m->next;
    if (m->outer == chain->outer) return NULL;
  }
  return NULL;
}

lk_at *lk_adapter_walk(lk_adapter *a, lk_at *at) {
  lk_module *root = &a->model->root, *m = at ? at->site->module : root;
  lk_at *next = at ? lk_at_walk(lk_site_chain(at->site, a), at) : NULL;
  if (next) return next;
  if (at) m = lk_module_walk(root, m);
  for (; m; m = lk_module_walk(root, m))
    if (m->site && (next = lk_site_chain(m->site, a))) return next;
  return NULL;
}

/* ---- types and layers ---- */

/* Is the part of a path up to the next dot a number? */
static int is_number(const char *part) {
  size_t n = strspn(part, "0123456789");
  return n && (!part[n] || part[n] == '.');
}

int lk_at_layer(const lk_at *at) {
  for (const char *s = lk_at_path(at); *s; s += strcspn(s, "."), s += *s == '.')
    if (is_number(s)) return (int)strtol(s, NULL, 10);
  return -1;
}

const char *lk_at_type(const lk_at *at, char *buffer, size_t size) {
  size_t used = 0;
  buffer[0] = 0;
  for (const char *s = lk_at_path(at); *s; s += strcspn(s, "."), s += *s == '.')
    if (!is_number(s) && used < size)
      used += (size_t)snprintf(buffer + used, size - used, "%s%.*s", used ? "." : "", (int)strcspn(s, "."), s);
  return buffer;
}

/* ---- parameters ---- */

lk_ctx *lk_method_ctx(const lk_method *m) { return lk_model_ctx(m->adapter->model); }

lk_param *lk_method_param(lk_method *m, const char *name, lk_param_kind kind, int ndim, const int64_t *shape) {
  lk_ctx *c = lk_method_ctx(m);
  lk_model *model = m->adapter->model;
  const char *adapter = m->adapter->name, *dot = *m->label ? "." : "";
  int is_default = !strcmp(adapter, "default");
  char *path = lk_sprintf(c, "%s.%s%s%s%s%s", m->cls->name, m->label, dot, name, is_default ? "" : "@",
                          is_default ? "" : adapter);
  lk_param *p = NULL;
  for (lk_method *k = m->adapter->chain; k && path; k = lk_method_walk(m->adapter->chain, k))
    for (const lk_param *q = k->params; q; q = q->next)
      if (!strcmp(q->name, path))
        lk_fail(c, LK_EARG, "attach: there is a parameter '%s' already; give the second %s a label: \"%s:second ...\"",
                path, m->cls->name, m->cls->name);
  if (path && !lk_error(c, NULL))
    p = lk_model_shapes_only(model) ? lk_param_new_shape(c, path, kind, model->dtype, ndim, shape)
                                    : lk_param_new(c, path, kind, model->dtype, ndim, shape);
  lk_free(c, path);
  if (!p) return NULL;
  p->owner = m;
  lk_param **end = &m->params;
  while (*end) end = &(*end)->next;
  return *end = p;
}

lk_status lk_param_share(lk_param *p, lk_param *with) {
  if (!p) return LK_ENIL;
  while (with && with->alias) with = with->alias;
  if (p == with) return LK_OK;
  if (with && (!lk_view_same_shape(&p->value, &with->value) || p->value.dtype != with->value.dtype))
    return lk_fail(p->ctx, LK_ESHAPE, "share: %s and %s have different shapes", p->name, with->name);
  if (p->alias == with) return LK_OK;
  p->has_grad = 0;
  if (p->owned) p->own_value = p->value.p;
  p->owned = !with && p->own_value;
  p->value.p = with ? with->value.p : p->own_value ? p->own_value : p->value.p;
  if (!with) p->own_value = NULL;
  p->alias = with;
  p->version++;
  return with ? LK_OK : lk_param_own(p);
}

/* ---- making ---- */

lk_status lk_method_add(lk_method *m, lk_at *at) {
  if (lk_grow(lk_method_ctx(m), &m->at, &m->at_capacity, (size_t)m->nat + 1, sizeof *m->at))
    return lk_error(lk_method_ctx(m), NULL);
  m->at[m->nat++] = at;
  return LK_OK;
}

/* What a wrapper holds comes first: it finds that whole. */
static void init_chain(lk_method *m) {
  for (; m && !lk_error(lk_method_ctx(m), NULL); m = m->next) {
    init_chain(m->inner);
    if (m->cls->init && !lk_error(lk_method_ctx(m), NULL)) m->cls->init(m);
  }
}

lk_status lk_methods_init(lk_adapter *a) {
  init_chain(a->chain);
  return lk_error(lk_model_ctx(a->model), NULL);
}

lk_status lk_methods_loaded(lk_adapter *a) {
  lk_ctx *c = lk_model_ctx(a->model);
  for (lk_method *m = a->chain; m && !lk_error(c, NULL); m = lk_method_walk(a->chain, m))
    if (m->cls->loaded) m->cls->loaded(m);
  return lk_error(c, NULL);
}

/* ---- training ---- */

lk_tensor lk_adapter_loss(lk_model *model, lk_tape *t) {
  lk_tensor sum = lk_nil();
  for (size_t i = 0; model && i < model->nactive; i++) {
    lk_adapter *a = model->active[i];
    for (lk_method *m = a->chain; m; m = lk_method_walk(a->chain, m))
      if (m->cls->loss) sum = lk_plus(t, sum, m->cls->loss(m, t));
  }
  if (model) model->loss_asked = 1;
  return sum;
}

typedef struct {
  lk_model *model;
  lk_optim *opt;
} follower;

/* A balance or orthogonality term that is left out goes unnoticed, but for this. */
static int before_step(void *arg) {
  lk_model *model = ((follower *)arg)->model;
  for (size_t i = 0; i < model->nactive && !model->loss_asked; i++) {
    lk_adapter *a = model->active[i];
    for (lk_method *m = a->chain; m; m = lk_method_walk(a->chain, m))
      if (m->cls->loss && a->trainable)
        return lk_fail(lk_model_ctx(model), LK_EARG,
                       "step: %s has a term of the loss; add lk_adapter_loss(model, tape) to the loss before backward",
                       m->cls->name);
  }
  return 0;
}

static int after_step(void *arg) {
  const follower *f = arg;
  lk_model *model = f->model;
  lk_ctx *c = lk_model_ctx(model);
  model->loss_asked = 0;
  for (size_t i = 0; i < model->nactive; i++) {
    lk_adapter *a = model->active[i];
    for (lk_method *m = a->chain; m && !lk_error(c, NULL); m = lk_method_walk(a->chain, m))
      if (m->cls->stepped && a->trainable) m->cls->stepped(m, lk_optim_step_count(f->opt) - 1);
  }
  return lk_error(c, NULL) != LK_OK;
}

typedef struct {
  lk_ctx *ctx;
  follower f;
} cleanup;

static void free_follower(void *arg) { lk_free(((cleanup *)arg)->ctx, arg); }

lk_status lk_adapter_follow(lk_model *model, lk_optim *opt) {
  if (!model || !opt) return LK_ENIL;
  lk_ctx *c = lk_model_ctx(model);
  cleanup *k = lk_error(c, NULL) ? NULL : lk_alloc(c, sizeof *k);
  if (!k) return lk_error(c, NULL);
  *k = (cleanup){c, {model, opt}};
  if (lk_model_on_free(model, free_follower, k)) return lk_error(c, NULL);
  return lk_optim_on_step(opt, before_step, after_step, &k->f);
}

lk_status lk_adapter_plan(lk_model *model, int64_t steps) {
  lk_ctx *c = lk_model_ctx(model);
  for (size_t i = 0; model && i < model->nactive; i++) {
    lk_adapter *a = model->active[i];
    for (lk_method *m = a->chain; m && !lk_error(c, NULL); m = lk_method_walk(a->chain, m))
      if (m->cls->plan && a->trainable) m->cls->plan(m, steps);
  }
  return lk_error(c, NULL);
}

int lk_adapter_is_final(lk_model *model, int64_t steps) {
  for (size_t i = 0; model && i < model->nactive; i++) {
    lk_adapter *a = model->active[i];
    for (lk_method *m = a->chain; m; m = lk_method_walk(a->chain, m))
      if (m->cls->final && a->trainable && !m->cls->final(m, steps)) return 0;
  }
  return 1;
}

/* Is the name one of "importance, select"? */
static int is_listed(const char *list, const char *name) {
  size_t n = strlen(name);
  for (const char *s = list; s && *s; s += strcspn(s, ","), s += strspn(s, ", "))
    if (strcspn(s, ",") == n && !strncmp(s, name, n)) return 1;
  return 0;
}

int lk_adapter_has_phase(lk_model *model, const char *name) {
  for (size_t i = 0; model && i < model->nactive; i++) {
    lk_adapter *a = model->active[i];
    for (lk_method *m = a->chain; m; m = lk_method_walk(a->chain, m))
      if (is_listed(m->cls->phases, name)) return 1;
  }
  return 0;
}

lk_status lk_adapter_phase(lk_model *model, const char *name) {
  char known[200] = "";
  int found = 0;
  if (!model) return LK_ENIL;
  lk_ctx *c = lk_model_ctx(model);
  if (model->merged) return lk_fail(c, LK_EARG, "phase '%s': the model is merged; unmerge it first", name);
  if (lk_model_shapes_only(model)) return lk_fail(c, LK_EARG, "phase '%s': the model has shapes only", name);
  for (size_t i = 0; i < model->nactive; i++) {
    lk_adapter *a = model->active[i];
    for (lk_method *m = a->chain; m && !lk_error(c, NULL); m = lk_method_walk(a->chain, m)) {
      if (m->cls->phase && m->cls->phase(m, name)) found = 1;
      size_t used = strlen(known);
      if (m->cls->phases)
        snprintf(known + used, sizeof known - used, "%s%s (%s)", used ? ", " : "", m->cls->phases, m->cls->name);
    }
  }
  if (found || lk_error(c, NULL)) return lk_error(c, NULL);
  return lk_fail(c, LK_EARG, "no active adapter has a phase '%s'; there are %s", name, *known ? known : "none");
}

char *lk_adapter_notes(lk_model *model, const char *name) {
  lk_ctx *c = lk_model_ctx(model);
  lk_adapter *a = lk_adapter_find(model, name);
  char *all = lk_strdup(c, "");
  if (!a) lk_fail(c, LK_EARG, "notes: there is no adapter '%s'", name);
  for (lk_method *m = a && !lk_model_shapes_only(model) ? a->chain : NULL; m && all; m = lk_method_walk(a->chain, m)) {
    char *line = m->cls->notes ? m->cls->notes(m) : NULL;
    char *more = line ? lk_sprintf(c, "%s%s%s", all, *all ? "\n" : "", line) : NULL;
    lk_free(c, line);
    if (!more) continue;
    lk_free(c, all);
    all = more;
  }
  if (!lk_error(c, NULL)) return all;
  lk_free(c, all);
  return NULL;
}
