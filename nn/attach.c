/* attach.c: attaching an adapter to the sites that its targets match: all of it or nothing. */
#include "model.h"

#include <stdio.h>
#include <string.h>

/* ---- what classes call ---- */

lk_ctx *lk_at_ctx(const lk_at *at) { return at->site->module->ctx; }

const char *lk_at_path(const lk_at *at) { return at->site->module->path; }

/* Does the wrapper hold more than one chain? */
static int holds_several(const lk_at *wrapper) { return wrapper->inner && wrapper->inner->other; }

/* "<site>.experts.0.experts.1" for a chain in wrappers that hold several. */
static size_t put_experts(const lk_at *at, char *buffer, size_t size) {
  size_t used = at->outer ? put_experts(at->outer, buffer, size) : (size_t)snprintf(buffer, size, "%s", lk_at_path(at));
  if (at->outer && holds_several(at->outer) && used < size)
    used += (size_t)snprintf(buffer + used, size - used, ".experts.%d", at->index);
  return used;
}

const char *lk_at_name(const lk_at *at, const char *label, char *buffer, size_t size) {
  size_t used = put_experts(at, buffer, size);
  if (used < size) snprintf(buffer + used, size - used, ".%s", label);
  return buffer;
}

lk_tensor lk_at_side(const lk_at *at, lk_tape *t, const char *label) {
  char name[512];
  return lk_side_get(t, lk_at_name(at, label, name, sizeof name));
}

lk_key lk_at_key(const lk_at *at, const lk_tape *t, const char *label) {
  char name[512];
  lk_key key = lk_tape_key(t);
  lk_key own = lk_key_make(key.a, lk_at_name(at, label, name, sizeof name));
  return lk_key_fold(own, key.b);
}

/* "<site>[.experts.<i>].<label>.<name>"; with "@<adapter>" behind it unless that is called default. */
static char *param_path(const lk_at *at, const char *name) {
  const char *label = at->method->label, *adapter = at->method->adapter->name;
  int is_default = !strcmp(adapter, "default");
  char site[512];
  put_experts(at, site, sizeof site);
  return lk_sprintf(lk_at_ctx(at), "%s.%s%s%s%s%s", site, label, *label ? "." : "", name, is_default ? "" : "@",
                    is_default ? "" : adapter);
}

static int has_param(lk_at *chain, const char *path) {
  for (lk_at *a = chain; a; a = lk_at_walk(chain, a))
    for (const lk_param *p = a->params; p; p = p->next)
      if (!strcmp(p->name, path)) return 1;
  return 0;
}

lk_param *lk_at_param(lk_at *at, const char *name, lk_param_kind kind, int ndim, const int64_t *shape) {
  lk_ctx *c = lk_at_ctx(at);
  lk_model *m = at->site->module->model;
  char *path = param_path(at, name);
  lk_param *p = NULL;
  if (path && has_param(lk_site_chain(at->site, at->method->adapter), path))
    lk_fail(c, LK_EARG, "attach: %s has a parameter '%s' already; give the second %s a label: \"%s:second ...\"",
            lk_at_path(at), name, at->method->cls->name, at->method->cls->name);
  else if (path)
    p = lk_model_shapes_only(m) ? lk_param_new_shape(c, path, kind, m->dtype, ndim, shape)
                                : lk_param_new(c, path, kind, m->dtype, ndim, shape);
  lk_free(c, path);
  if (!p) return NULL;
  p->owner = at;
  lk_param **end = &at->params;
  while (*end) end = &(*end)->next;
  return *end = p;
}

/* ---- chains at a site ---- */

static void free_chain(lk_ctx *c, lk_at *a) {
  if (a && a->other) free_chain(c, a->other);
  for (lk_at *next; a; a = next) {
    next = a->next;
    free_chain(c, a->inner);
    if (a->method->cls->destroy_at && a->st) a->method->cls->destroy_at(a);
    for (lk_param *p = a->params, *after; p; p = after) {
      after = p->next;
      lk_param_free(p);
    }
    lk_free(c, (void *)a->cfg);
    lk_free(c, a->st);
    lk_free(c, a);
  }
}

/* The method's options with this site's overrides: for each key the first matching entry wins, so they are
 * applied from the last to the first. */
static void *site_options(lk_ctx *c, const lk_method *m, const lk_site *s, const lk_attach_options *o) {
  void *cfg = lk_alloc(c, m->cls->cfg_size + 1);
  if (!cfg) return NULL;
  memcpy(cfg, m->cfg, m->cls->cfg_size);
  for (int i = o->noverrides; i-- > 0;) {
    int used = 0;
    if (lk_match_module(c, o->overrides[i].pattern, s->module))
      lk_options_apply(c, m->cls, cfg, o->overrides[i].options, &used);
  }
  return cfg;
}

static lk_at *make_chain(lk_method *methods, lk_site *s, const lk_attach_options *o, lk_at *outer, int index);

/* A wrapper's chains: one, or as many as it wants. */
static void make_inner(lk_at *a, const lk_attach_options *o) {
  const lk_adapter_class *k = a->method->cls;
  lk_ctx *c = lk_at_ctx(a);
  int n = k->copies && !lk_error(c, NULL) ? k->copies(a) : 1;
  lk_at **end = &a->inner;
  for (int i = 0; i < n && !lk_error(c, NULL); i++) {
    *end = make_chain(a->method->inner, a->site, o, a, i);
    if (*end) end = &(*end)->other;
  }
}

static lk_at *make_chain(lk_method *methods, lk_site *s, const lk_attach_options *o, lk_at *outer, int index) {
  lk_ctx *c = s->module->ctx;
  lk_at *head = NULL, **end = &head;
  for (lk_method *m = methods; m && !lk_error(c, NULL); m = m->next) {
    lk_at *a = lk_alloc(c, sizeof *a);
    if (!a) break;
    *end = a;
    end = &a->next;
    a->method = m;
    a->site = s;
    a->head = head;
    a->outer = outer;
    a->index = index;
    a->cfg = site_options(c, m, s, o);
    a->st = lk_alloc(c, m->cls->site_size + 1);
    lk_method_add(m, a);
    if (m->inner) make_inner(a, o);
  }
  if (!lk_error(c, NULL)) return head;
  free_chain(c, head);
  return NULL;
}

static const char *const kinds[] = {"", "a linear layer", "an embedding", "", "a convolution"};

/* The first of a chain before `end`, wrapped ones included, that gives no weight; NULL if all of them do. */
static const lk_at *without_weight(lk_at *chain, const lk_at *end) {
  for (lk_at *a = chain; a && a != end; a = lk_at_walk(chain, a))
    if (!a->method->cls->weight) return a;
  return NULL;
}

/* What cannot compose is refused by name. */
static lk_status check_at(const lk_at *a) {
  const lk_adapter_class *k = a->method->cls;
  lk_ctx *c = lk_at_ctx(a);
  if (!(k->sites & a->site->kind))
    return lk_fail(c, LK_EARG, "attach: %s cannot adapt %s, which is %s", k->name, lk_at_path(a), kinds[a->site->kind]);
  int needs_weight = k->caps & LK_READS_WEIGHT || (!k->delta && !k->output);
  const lk_at *other = needs_weight ? without_weight(a->head, a) : NULL;
  if (other)
    return lk_fail(c, LK_EARG, "attach: %s needs the weight of what precedes it, and %s does not give one", k->name,
                   other->method->cls->name);
  return k->check ? k->check((lk_at *)a) : LK_OK;
}

static lk_status attach_chain(lk_at *chain) {
  lk_ctx *c = lk_at_ctx(chain);
  for (lk_at *a = chain; a; a = a->next) {
    if (check_at(a)) break;
    if (a->method->cls->attach && a->method->cls->attach(a)) break;
    for (lk_at *i = a->inner; i && !lk_error(c, NULL); i = i->other) attach_chain(i);
    if (lk_error(c, NULL)) break;
  }
  return lk_error(c, NULL);
}

static lk_status attach_site(lk_adapter *a, lk_site *s, const lk_attach_options *o) {
  lk_ctx *c = s->module->ctx;
  lk_site_stack *k = lk_alloc(c, sizeof *k);
  if (!k) return lk_error(c, NULL);
  k->adapter = a;
  k->chain = make_chain(a->chain, s, o, NULL, 0);
  lk_site_stack **end = &s->stacks;
  while (*end) end = &(*end)->next;
  *end = k;
  return k->chain ? attach_chain(k->chain) : lk_error(c, NULL);
}

/* ---- overrides must mean something ---- */

static int used_by(lk_ctx *c, const lk_method *m, const char *options) {
  int used = 0;
  for (; m && !lk_error(c, NULL); m = m->next) {
    void *cfg = lk_alloc(c, m->cls->cfg_size + 1);
    if (cfg) lk_options_apply(c, m->cls, cfg, options, &used);
    lk_free(c, cfg);
    used += used_by(c, m->inner, options);
  }
  return used;
}

static lk_status check_overrides(const lk_adapter *a, const lk_attach_options *o) {
  lk_ctx *c = lk_model_ctx(a->model);
  for (int i = 0; i < o->noverrides; i++)
    if (!used_by(c, a->chain, o->overrides[i].options) && !lk_error(c, NULL))
      lk_fail(c, LK_EARG, "attach: no adapter in '%s' has the option '%s' that is set for '%s'", a->spec,
              o->overrides[i].options, o->overrides[i].pattern);
  return lk_error(c, NULL);
}

/* ---- adapters ---- */

lk_adapter *lk_adapter_first(lk_model *model) { return model ? model->adapters : NULL; }

lk_adapter *lk_adapter_find(lk_model *model, const char *name) {
  for (lk_adapter *a = lk_adapter_first(model); a; a = a->next)
    if (!strcmp(a->name, name)) return a;
  return NULL;
}

static void options_free(lk_ctx *c, lk_attach_options *o) {
  if (!o) return;
  for (int i = 0; o->overrides && i < o->noverrides; i++) {
    lk_free(c, (void *)o->overrides[i].pattern);
    lk_free(c, (void *)o->overrides[i].options);
  }
  lk_free(c, (void *)o->overrides);
  lk_free(c, (void *)o->layers);
  lk_free(c, (void *)o->exclude);
  lk_free(c, (void *)o->modules_to_save);
  lk_free(c, (void *)o->layers_pattern);
  lk_free(c, o);
}

static lk_attach_options *options_copy(lk_ctx *c, const lk_attach_options *o) {
  lk_attach_options *p = lk_alloc(c, sizeof *p);
  if (!p) return NULL;
  *p = *o;
  p->name = p->spec = p->targets = NULL; /* the adapter's own fields hold these */
  p->exclude = lk_strdup(c, o->exclude);
  p->modules_to_save = lk_strdup(c, o->modules_to_save);
  p->layers_pattern = lk_strdup(c, o->layers_pattern);
  int *layers = lk_alloc_array(c, (size_t)o->nlayers + 1, sizeof *layers);
  lk_override *over = lk_alloc_array(c, (size_t)o->noverrides + 1, sizeof *over);
  if (layers && o->nlayers) memcpy(layers, o->layers, (size_t)o->nlayers * sizeof *layers);
  for (int i = 0; over && i < o->noverrides; i++) {
    over[i].pattern = lk_strdup(c, o->overrides[i].pattern);
    over[i].options = lk_strdup(c, o->overrides[i].options);
  }
  p->layers = layers;
  p->overrides = over;
  if (!lk_error(c, NULL)) return p;
  options_free(c, p);
  return NULL;
}

static void unlink_stacks(lk_adapter *a) {
  lk_model *model = a->model;
  for (lk_module *m = &model->root; m; m = lk_module_walk(&model->root, m))
    for (lk_site_stack **k = m->site ? &m->site->stacks : NULL; k && *k;) {
      lk_site_stack *s = *k;
      if (s->adapter != a) {
        k = &s->next;
        continue;
      }
      *k = s->next;
      if (m->site->replaced_by && m->site->replaced_by->method->adapter == a) lk_site_restore(m->site);
      free_chain(m->ctx, s->chain);
      lk_free(m->ctx, s);
    }
}

void lk_adapter_free(lk_adapter *a) {
  lk_ctx *c = lk_model_ctx(a->model);
  unlink_stacks(a);
  for (lk_param *p = a->stand_ins, *next; p; p = next) {
    next = p->next;
    lk_param_free(p);
  }
  lk_method_free(c, a->chain);
  options_free(c, a->options);
  lk_free(c, a->name);
  lk_free(c, a->spec);
  lk_free(c, a->targets);
  lk_free(c, a);
}

static lk_adapter *adapter_new(lk_model *model, const lk_attach_options *o) {
  lk_ctx *c = lk_model_ctx(model);
  lk_adapter *a = lk_alloc(c, sizeof *a);
  if (!a) return NULL;
  a->model = model;
  a->weight = 1;
  a->trainable = 1;
  a->name = lk_strdup(c, o->name ? o->name : "default");
  a->spec = lk_strdup(c, o->spec);
  a->targets = lk_strdup(c, o->targets);
  a->options = options_copy(c, o);
  if (!lk_error(c, NULL)) a->chain = lk_spec_parse(a, a->spec);
  if (!lk_error(c, NULL)) check_overrides(a, o);
  if (!lk_error(c, NULL)) return a;
  lk_adapter_free(a);
  return NULL;
}

static lk_status refuse_early(lk_model *model, const lk_attach_options *o) {
  lk_ctx *c = lk_model_ctx(model);
  const char *name = o->name ? o->name : "default";
  if (!o->spec || !o->targets) return lk_fail(c, LK_ENIL, "attach: a spec and targets are needed");
  if (!*name || strpbrk(name, "/@") || !strcmp(name, ".") || !strcmp(name, ".."))
    return lk_fail(c, LK_EARG, "attach: '%s' cannot be the name of an adapter", name);
  if (lk_adapter_find(model, name)) return lk_fail(c, LK_EARG, "attach: there is an adapter '%s' already", name);
  if (model->merged) return lk_fail(c, LK_EARG, "attach: the model is merged; unmerge it first");
  if (o->nlayers && o->targets && !strncmp(o->targets, "re:", 3))
    return lk_fail(c, LK_EARG, "attach: layers cannot be chosen when the target is a regular expression");
  if (o->layers_pattern && !o->nlayers)
    return lk_fail(c, LK_EARG, "attach: layers_pattern without layers_to_transform means nothing");
  for (lk_adapter *a = model->adapters; a; a = a->next)
    if (o->bias != LK_BIAS_NONE && a->options->bias != LK_BIAS_NONE)
      return lk_fail(c, LK_EARG, "attach: adapter '%s' trains biases already; only one may", a->name);
  return lk_error(c, NULL);
}

/* Builds everything; on an error what was built is left to lk_adapter_free. */
static lk_status build(lk_adapter *a, const lk_attach_options *o) {
  lk_model *model = a->model;
  lk_ctx *c = lk_model_ctx(model);
  lk_target_match match = {NULL, 0};
  if (lk_match_targets(model, o, &match)) return lk_error(c, NULL);
  for (int i = 0; i < match.n && !lk_error(c, NULL); i++) attach_site(a, match.sites[i], o);
  if (!lk_error(c, NULL)) lk_methods_init(a);
  if (!lk_error(c, NULL)) lk_stand_ins_make(a, o, &match);
  if (!lk_error(c, NULL))
    lk_grow(c, &model->active, &model->active_capacity, model->nactive + 1, sizeof *model->active);
  lk_free(c, match.sites);
  return lk_error(c, NULL);
}

lk_status lk_attach_with(lk_model *model, const lk_attach_options *o) {
  if (!model) return LK_ENIL;
  lk_ctx *c = lk_model_ctx(model);
  if (refuse_early(model, o)) return lk_error(c, NULL);
  lk_adapter *a = adapter_new(model, o);
  if (!a) return lk_error(c, NULL);
  lk_adapter **end = &model->adapters;
  while (*end) end = &(*end)->next;
  *end = a;
  int bad = build(a, o) != LK_OK;
  if (!bad) {
    a->active = 1;
    model->active[model->nactive++] = a;
    bad = lk_stand_ins_check(model) != LK_OK;
    if (bad) model->nactive--;
  }
  if (bad) {
    *end = NULL;
    lk_adapter_free(a);
    return lk_error(c, NULL);
  }
  lk_set_requires_grad(&model->root, 0);
  lk_stand_ins_link(model);
  return LK_OK;
}

lk_status lk_attach(lk_model *model, const char *name, const char *spec, const char *targets) {
  return lk_attach_with(model, &(lk_attach_options){.name = name, .spec = spec, .targets = targets});
}

lk_status lk_detach(lk_model *model, const char *name) {
  lk_ctx *c = lk_model_ctx(model);
  lk_adapter *a = lk_adapter_find(model, name);
  if (!a) return lk_fail(c, LK_EARG, "detach: there is no adapter '%s'", name);
  if (model->merged) return lk_fail(c, LK_EARG, "detach: the model is merged; unmerge it first");
  size_t n = 0;
  for (size_t i = 0; i < model->nactive; i++)
    if (model->active[i] != a) model->active[n++] = model->active[i];
  model->nactive = n;
  lk_adapter **p = &model->adapters;
  while (*p != a) p = &(*p)->next;
  *p = a->next;
  a->active = 0;
  for (lk_param *s = a->stand_ins; s; s = s->next) ((lk_param *)s->owner)->stand_in = NULL;
  lk_adapter_free(a);
  lk_stand_ins_link(model);
  return LK_OK;
}
