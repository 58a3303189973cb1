/* optim.c: optimisers: classes and their options, creation, state. */
#include "optim/optim.h"

#include <string.h>

static const lk_optim_class *const classes[] = {&lk_optim_sgd, &lk_optim_adam, &lk_optim_adamw, NULL};

const lk_optim_class *const *lk_optim_classes(void) { return classes; }

const lk_optim_class *lk_optim_find(const char *name) {
  for (int i = 0; name && classes[i]; i++)
    if (!strcmp(classes[i]->name, name)) return classes[i];
  return NULL;
}

/* ---- options ---- */

static double get(const lk_optim_options *o, const lk_optim_option *line) {
  const char *at = (const char *)o + line->offset;
  return line->type == LK_OPTIM_FLAG ? *(const int *)at : *(const double *)at;
}

lk_optim_options lk_optim_defaults(const lk_optim_class *cls) {
  lk_optim_options o = {0};
  for (const lk_optim_option *line = cls ? cls->options : NULL; line && line->key; line++) {
    char *at = (char *)&o + line->offset;
    if (line->type == LK_OPTIM_FLAG) *(int *)at = (int)line->value;
    else *(double *)at = line->value;
  }
  return o;
}

static const lk_optim_option *find_option(const lk_optim_class *cls, const char *key) {
  for (const lk_optim_option *line = cls->options; line->key; line++)
    if (!strcmp(line->key, key)) return line;
  return NULL;
}

static lk_status check_options(lk_ctx *ctx, const lk_optim_class *cls, const lk_optim_options *o) {
  for (const lk_optim_option *line = cls->options; line->key; line++) {
    double v = get(o, line);
    if (!(v >= line->low && v < line->below))
      return lk_fail(ctx, LK_EARG, "%s: %s = %g is outside [%g, %g)", cls->name, line->key, v, line->low, line->below);
  }
  for (int i = 0; classes[i]; i++)
    for (const lk_optim_option *line = classes[i]->options; line->key; line++)
      if (get(o, line) != 0 && !find_option(cls, line->key))
        return lk_fail(ctx, LK_EARG, "%s has no option %s (%g): begin with lk_optim_defaults", cls->name, line->key,
                       get(o, line));
  const char *why = cls->refuse ? cls->refuse(o) : NULL;
  return why ? lk_fail(ctx, LK_EARG, "%s: %s", cls->name, why) : LK_OK;
}

/* ---- creation ---- */

static int holds(const lk_optim *o, const lk_param *p) {
  for (int i = 0; i < o->n; i++)
    if (o->slots[i].param == p) return 1;
  return 0;
}

/* Takes p in, with memory that may be written. */
static lk_status add(lk_optim *o, lk_param *p) {
  if (!lk_dtype_is_real(p->value.dtype))
    return lk_fail(o->ctx, LK_EDTYPE, "%s: parameter %s is %s; only f32 and f64 can be trained", o->cls->name, p->name,
                   lk_dtype_name(p->value.dtype));
  if (!p->value.p) return lk_fail(o->ctx, LK_EARG, "%s: parameter %s has a shape but no memory", o->cls->name, p->name);
  if (lk_param_own(p)) return lk_error(o->ctx, NULL);
  o->slots[o->n++] = (lk_slot){.param = p, .n = lk_param_count(p), .dtype = p->value.dtype, .rate = 1, .decay = 1};
  return LK_OK;
}

static lk_status add_all(lk_optim *o, lk_param *const *params, int n) {
  o->slots = lk_alloc_array(o->ctx, (size_t)n, sizeof *o->slots);
  o->updates = lk_alloc_array(o->ctx, (size_t)n, sizeof *o->updates);
  if (!o->slots || !o->updates) return lk_error(o->ctx, NULL);
  for (int i = 0; i < n; i++) {
    lk_param *p = params[i] && params[i]->alias ? params[i]->alias : params[i];
    if (!p) return lk_fail(o->ctx, LK_ENIL, "%s: params[%d] is NULL", o->cls->name, i);
    if (p->kind != LK_TRAINED || !p->requires_grad || holds(o, p)) continue;
    if (add(o, p)) return lk_error(o->ctx, NULL);
  }
  if (o->n) return LK_OK;
  return lk_fail(o->ctx, LK_ENOGRAD, "%s: none of the %d parameters is trainable: all are frozen, buffers or retired",
                 o->cls->name, n);
}

/* Memory of one state tensor and its entry for checkpoints. */
static lk_status add_state(lk_optim *o, lk_slot *s, int i) {
  lk_optim_state *entry = &o->entries[o->nentries];
  lk_view v = s->param->value;
  v.p = NULL;
  if (o->cls->shape && !o->cls->shape(&o->options, s->param, i, &v)) return LK_OK;
  v.p = s->state[i] = lk_alloc(o->ctx, lk_view_bytes(&v));
  entry->name = v.p ? lk_sprintf(o->ctx, "%s.%s", s->param->name, o->cls->state[i]) : NULL;
  if (!entry->name) return lk_error(o->ctx, NULL);
  entry->view = v;
  o->nentries++;
  return LK_OK;
}

static lk_status add_counter(lk_optim *o, const char *prefix, int64_t *counter) {
  lk_optim_state *entry = &o->entries[o->nentries];
  entry->name = lk_sprintf(o->ctx, "%s%sstep", prefix, *prefix ? "." : "");
  if (!entry->name) return lk_error(o->ctx, NULL);
  if (lk_view_init(&entry->view, LK_I64, 0, NULL)) return lk_fail(o->ctx, LK_ESHAPE, "%s: no 0-d view", prefix);
  entry->view.p = counter;
  o->nentries++;
  return LK_OK;
}

static lk_status add_states(lk_optim *o) {
  int64_t largest = 0;
  o->entries = lk_alloc_array(o->ctx, (size_t)o->n * (LK_OPTIM_STATES + 1) + 1, sizeof *o->entries);
  if (!o->entries || add_counter(o, "", &o->steps)) return lk_error(o->ctx, NULL);
  for (int k = 0; k < o->n; k++) {
    lk_slot *s = &o->slots[k];
    for (int i = 0; i < LK_OPTIM_STATES && o->cls->state[i]; i++)
      if (add_state(o, s, i)) return lk_error(o->ctx, NULL);
    if (add_counter(o, s->param->name, &s->step)) return lk_error(o->ctx, NULL);
    if (s->n > largest) largest = s->n;
  }
  o->partial = lk_alloc_array(o->ctx, (size_t)(largest / LK_OPTIM_GRAIN + 1), sizeof *o->partial);
  return lk_error(o->ctx, NULL);
}

lk_optim *lk_optim_new(lk_ctx *ctx, const lk_optim_class *cls, const lk_optim_options *options, lk_param *const *params,
                       int n) {
  if (!cls) {
    lk_fail(ctx, LK_ENIL, "optimiser: no such class; see lk_optim_classes");
    return NULL;
  }
  lk_optim *o = lk_alloc(ctx, sizeof *o);
  if (!o) return NULL;
  o->ctx = ctx;
  o->cls = cls;
  o->options = options ? *options : lk_optim_defaults(cls);
  o->lr = o->options.lr;
  if (!check_options(ctx, cls, &o->options) && !add_all(o, params, n < 0 ? 0 : n) && !add_states(o)) return o;
  lk_optim_free(o);
  return NULL;
}

void lk_optim_free(lk_optim *o) {
  if (!o) return;
  for (int k = 0; k < o->n; k++)
    for (int i = 0; i < LK_OPTIM_STATES; i++) lk_free(o->ctx, o->slots[k].state[i]);
  for (int i = 0; i < o->nentries; i++) lk_free(o->ctx, o->entries[i].name);
  lk_free(o->ctx, o->entries);
  lk_free(o->ctx, o->slots);
  lk_free(o->ctx, o->updates);
  lk_free(o->ctx, o->partial);
  lk_free(o->ctx, o->hooks);
  lk_free(o->ctx, o);
}

int lk_optim_state_count(const lk_optim *o) { return o->nentries; }

const lk_optim_state *lk_optim_state_at(const lk_optim *o, int i) {
  return i >= 0 && i < o->nentries ? &o->entries[i] : NULL;
}
