/* catalogue.c: texts made from the option tables: the catalogue of adapters, and what attaching would do. */
#include "model.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A text that grows; after a failed allocation it stays as it is. */
typedef struct {
  lk_ctx *ctx;
  char *s;
  size_t used, capacity;
} text;

static void LK_PRINTF(2, 3) put(text *t, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  int n = vsnprintf(NULL, 0, format, ap);
  va_end(ap);
  if (n < 0 || lk_grow(t->ctx, &t->s, &t->capacity, t->used + (size_t)n + 1, 1)) return;
  va_start(ap, format);
  vsnprintf(t->s + t->used, (size_t)n + 1, format, ap);
  va_end(ap);
  t->used += (size_t)n;
}

static char *finish(text *t) {
  if (!lk_error(t->ctx, NULL)) return t->s;
  lk_free(t->ctx, t->s);
  return NULL;
}

/* ---- catalogue ---- */

static void put_range(text *t, const lk_opt *o) {
  const char *words = o->words;
  for (int i = 0; o->type == LK_OPT_WORD && i < (int)o->def; i++) words += strcspn(words, "|") + 1;
  switch (o->type) {
  case LK_OPT_WORD:
    put(t, "%.*s of %s", (int)strcspn(words, "|"), words, o->words);
    break;
  case LK_OPT_FLAG:
    put(t, "%s", o->def != 0 ? "on" : "off");
    break;
  default:
    put(t, "%g in [%.10g, %.10g]", o->def, o->low, o->high);
  }
}

static void put_sites(text *t, unsigned sites) {
  static const char *const names[] = {"linear", "embedding", "conv2d"};
  int n = 0;
  for (int i = 0; i < 3; i++)
    if (sites >> i & 1) put(t, "%s%s", n++ ? ", " : "", names[i]);
}

static void put_plain(text *t, const lk_adapter_class *k) {
  put(t, "%s%s\n    %s (%s)\n    adapts: ", k->name, k->caps & LK_WRAPPER ? " (...)" : "", k->summary, k->cite);
  put_sites(t, k->sites);
  put(t, "%s\n", k->caps & LK_AFFINE ? "; can be merged" : "");
  for (const lk_opt *o = k->opts; o && o->key; o++) {
    put(t, "    %-10s %s; ", o->key, o->help);
    put_range(t, o);
    put(t, "\n");
  }
}

static void put_row(text *t, const lk_adapter_class *k) {
  put(t, "| `%s%s` | %s | ", k->name, k->caps & LK_WRAPPER ? " (...)" : "", k->summary);
  for (const lk_opt *o = k->opts; o && o->key; o++) put(t, "%s`%s`", o == k->opts ? "" : " ", o->key);
  put(t, " | ");
  put_sites(t, k->sites);
  put(t, " | %s |\n", k->cite);
}

char *lk_adapter_catalogue(lk_ctx *ctx, int markdown) {
  text t = {.ctx = ctx};
  if (markdown) put(&t, "| adapter | what it does | options | layers | source |\n|---|---|---|---|---|\n");
  for (const lk_adapter_class *const *k = lk_adapter_classes(); *k; k++) {
    if (markdown) put_row(&t, *k);
    else put_plain(&t, *k);
  }
  return finish(&t);
}

/* ---- dry run ---- */

static int64_t trained(const lk_param *p) {
  int64_t n = 0;
  for (; p; p = p->next) n += p->kind == LK_TRAINED && !p->alias ? lk_param_count(p) : 0;
  return n;
}

static int64_t chain_size(lk_at *chain) {
  int64_t n = 0;
  for (lk_at *a = chain; a; a = lk_at_walk(chain, a)) n += trained(a->params);
  return n;
}

static void widen(int *width, const char *text) {
  if ((int)strlen(text) > *width) *width = (int)strlen(text);
}

static void put_sites_of(text *t, lk_model *model, const lk_adapter *a) {
  static const char *const kinds[] = {"", "linear", "embedding", "", "conv2d"};
  int width = 4;
  int64_t total = 0;
  for (lk_module *m = &model->root; m; m = lk_module_walk(&model->root, m))
    if (m->site && lk_site_chain(m->site, a)) widen(&width, m->path);
  for (const lk_param *p = a->stand_ins; p; p = p->next) widen(&width, ((lk_param *)p->owner)->name);
  put(t, "%-*s  %-9s  %7s  %7s  %10s\n", width, "site", "kind", "in", "out", "trained");
  for (lk_module *m = &model->root; m; m = lk_module_walk(&model->root, m)) {
    lk_at *chain = m->site ? lk_site_chain(m->site, a) : NULL;
    if (!chain) continue;
    put(t, "%-*s  %-9s  %7lld  %7lld  %10lld\n", width, m->path, kinds[m->site->kind], (long long)m->site->in,
        (long long)m->site->out, (long long)chain_size(chain));
    total += chain_size(chain);
  }
  for (lk_method *m = a->chain; m; m = lk_method_walk(a->chain, m)) {
    if (!trained(m->params)) continue;
    put(t, "%-*s  %-9s  %7s  %7s  %10lld\n", width, m->cls->name, "shared", "", "", (long long)trained(m->params));
    total += trained(m->params);
  }
  for (const lk_param *p = a->stand_ins; p; p = p->next) {
    put(t, "%-*s  %-9s  %7s  %7s  %10lld\n", width, ((lk_param *)p->owner)->name, "copy", "", "",
        (long long)lk_param_count(p));
    total += lk_param_count(p);
  }
  put(t, "%-*s  %-9s  %7s  %7s  %10lld\n", width, "all", "", "", "", (long long)total);
}

char *lk_attach_dry_run(lk_model *model, const lk_attach_options *o) {
  lk_ctx *c = lk_model_ctx(model);
  text t = {.ctx = c};
  if (!model) return NULL;
  int flags = model->flags, n = 0;
  const char *name = o->name ? o->name : "default";
  for (lk_param *p = NULL; (p = lk_param_walk(model, p));) n++;
  int *trains = lk_alloc_array(c, (size_t)n + 1, sizeof *trains), i = 0;
  for (lk_param *p = NULL; trains && (p = lk_param_walk(model, p));) trains[i++] = p->requires_grad;
  model->flags |= LK_SHAPES_ONLY; /* parameters are made without memory, the base is left alone */
  int attached = trains && !lk_attach_with(model, o);
  model->flags = flags;
  if (attached) {
    put_sites_of(&t, model, lk_adapter_find(model, name));
    lk_detach(model, name);
  }
  i = 0;
  for (lk_param *p = NULL; trains && (p = lk_param_walk(model, p));) p->requires_grad = trains[i++];
  lk_free(c, trains);
  return finish(&t);
}

/* ---- classes: the registry, generated from nn/local.mk, and the model's own ---- */

#define LK_ADAPTER(name) extern const lk_adapter_class lk_adapter_##name;
#include "adapters.inc"
#undef LK_ADAPTER

const lk_adapter_class *const *lk_adapter_classes(void) {
#define LK_ADAPTER(name) &lk_adapter_##name,
  static const lk_adapter_class *const list[] = {
#include "adapters.inc"
      NULL};
#undef LK_ADAPTER
  return list;
}

const lk_adapter_class *lk_adapter_find_class(lk_model *model, const char *name) {
  for (size_t i = 0; model && i < model->nclasses; i++)
    if (!strcmp(model->classes[i]->name, name)) return model->classes[i];
  for (const lk_adapter_class *const *k = lk_adapter_classes(); *k; k++)
    if (!strcmp((*k)->name, name) || ((*k)->alias && !strcmp((*k)->alias, name))) return *k;
  return NULL;
}

lk_status lk_adapter_register(lk_model *model, const lk_adapter_class *cls) {
  lk_ctx *c = lk_model_ctx(model);
  if (!model) return LK_ENIL;
  if (!cls || !cls->name || !*cls->name || strpbrk(cls->name, " |():=."))
    return lk_fail(c, LK_EARG, "register: an adapter class needs a name without blanks and '|():=.'");
  if (lk_adapter_find_class(model, cls->name))
    return lk_fail(c, LK_EARG, "register: there is an adapter '%s' already", cls->name);
  if (!cls->weight && !cls->delta && !cls->output)
    return lk_fail(c, LK_EARG, "register: %s has none of weight, delta and output", cls->name);
  if (!cls->sites) return lk_fail(c, LK_EARG, "register: %s names no kind of site", cls->name);
  if (lk_grow(c, &model->classes, &model->class_capacity, model->nclasses + 1, sizeof *model->classes))
    return lk_error(c, NULL);
  model->classes[model->nclasses++] = cls;
  return LK_OK;
}
