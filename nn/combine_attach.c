/* combine_attach.c: the new adapter: its spec, its targets, attaching it, and writing its values. */
#include "combine.h"
#include "peft/peft.h"

#include <assert.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>

const lk_method *lk_combine_method(const lk_adapter *a) { return a->chain->inner ? a->chain->inner : a->chain; }

int lk_combine_is_regex(const char *targets) { return !strncmp(targets, "re:", 3); }

/* ---- the new adapter's options ---- */

/* "<before> key=<value>", with a decimal point whatever the locale; the caller's. */
static char *with_number(lk_ctx *c, const char *before, const char *key, double value) {
  char text[64];
  const char *point = localeconv()->decimal_point;
  snprintf(text, sizeof text, "%.17g", value);
  char *at = strstr(text, point);
  if (at) {
    *at = '.';
    memmove(at + 1, at + strlen(point), strlen(at + strlen(point)) + 1);
  }
  return lk_sprintf(c, "%s %s=%s", before, key, text);
}

/* The first source's spec with the new rank; the caller's. */
static char *new_spec(const lk_combine_job *j) {
  const lk_method *chain = j->sources[0].adapter->chain, *lora = lk_combine_method(j->sources[0].adapter);
  double p = lk_method_option(lora, "dropout", 0);
  const char *rslora = lk_method_option(lora, "rslora", 0) != 0 && !j->options->strict ? " rslora" : "";
  char *spec = lk_sprintf(j->ctx, "lora r=%lld alpha=%lld%s%s", (long long)j->rank, (long long)j->rank, rslora,
                          lk_method_option(lora, "bias", 0) != 0 ? " bias" : "");
  char *dropped = spec && p > 0 ? with_number(j->ctx, spec, "dropout", p) : NULL;
  char *outer = spec && chain != lora ? with_number(j->ctx, "dropout", "p", lk_method_option(chain, "p", 0)) : NULL;
  char *whole = lk_sprintf(j->ctx, "%s%s%s%s%s", outer ? outer : "", outer ? " (" : "", dropped ? dropped : spec,
                           lora->next ? " | magnitude" : "", outer ? ")" : "");
  lk_free(j->ctx, spec);
  lk_free(j->ctx, dropped);
  lk_free(j->ctx, outer);
  return whole;
}

static int same_text(const char *a, const char *b) { return !strcmp(a ? a : "", b ? b : ""); }

/* Are targets narrowed in the same way? */
static int same_narrowing(const lk_attach_options *a, const lk_attach_options *b) {
  if (a->nlayers != b->nlayers || !same_text(a->exclude, b->exclude) ||
      !same_text(a->layers_pattern, b->layers_pattern))
    return 0;
  return !a->nlayers || !memcmp(a->layers, b->layers, (size_t)a->nlayers * sizeof *a->layers);
}

/* list = "<list><between><more>", freeing what it was; nothing to be done on an error. */
static void append(lk_ctx *c, char **list, const char *between, const char *more) {
  char *longer = lk_sprintf(c, "%s%s%s", *list ? *list : "", *list ? between : "", more);
  lk_free(c, *list);
  *list = longer;
}

static int has_pattern(lk_ctx *c, const char *list, const char *pattern) {
  int found = 0;
  for (char *p; list && (p = lk_pattern_next(c, &list)); lk_free(c, p)) found |= !strcmp(p, pattern);
  return found;
}

/* Adds those patterns of a list (which may be NULL) that *all does not have. */
static void unite(lk_ctx *c, char **all, const char *list) {
  for (char *p; list && (p = lk_pattern_next(c, &list)); lk_free(c, p))
    if (!has_pattern(c, *all, p)) append(c, all, ",", p);
}

/* The paths of all sites that are adapted, as a regular expression. */
static char *paths(const lk_combine_job *j, const lk_combined *list) {
  char *all = NULL;
  for (; list && !lk_error(j->ctx, NULL); list = list->next) {
    char *path = lk_peft_escape(j->ctx, list->site->module->path);
    if (path) append(j->ctx, &all, all ? "|" : "", path);
    lk_free(j->ctx, path);
  }
  char *regex = all ? lk_sprintf(j->ctx, "re:%s", all) : NULL;
  lk_free(j->ctx, all);
  return regex;
}

/* Can the sources' targets be joined: are they narrowed in the same way, and lists of names or regular expressions? */
static int can_join(const lk_combine_job *j) {
  const lk_attach_options *first = j->sources[0].adapter->options;
  for (int i = 0; i < j->n; i++) {
    const lk_adapter *a = j->sources[i].adapter;
    int mixed = !lk_combine_is_regex(a->targets) && strstr(a->targets, "re:");
    if (mixed || !same_narrowing(first, a->options)) return 0;
  }
  return 1;
}

/* "a,b" of "a" and "a,b"; "re:(x)|(y)" of "re:x" and "re:y". */
static char *joined_targets(const lk_combine_job *j) {
  char *all = NULL;
  for (int i = 0; i < j->n; i++) {
    const char *targets = j->sources[i].adapter->targets;
    if (lk_combine_is_regex(targets)) {
      append(j->ctx, &all, "|(", targets + 3);
      append(j->ctx, &all, "", ")");
    } else {
      unite(j->ctx, &all, targets);
    }
  }
  if (!all || !lk_combine_is_regex(j->sources[0].adapter->targets)) return all;
  char *regex = lk_sprintf(j->ctx, "re:(%s", all);
  lk_free(j->ctx, all);
  return regex;
}

/* ---- attaching and filling ---- */

/* Attaches without activating: nothing that is active can be in the way, or is changed. */
static lk_status attach_inactive(lk_model *model, const lk_attach_options *o) {
  lk_adapter **active = model->active;
  size_t nactive = model->nactive, capacity = model->active_capacity;
  model->active = NULL;
  model->nactive = model->active_capacity = 0;
  lk_status s = lk_attach_with(model, o);
  lk_free(lk_model_ctx(model), model->active);
  model->active = active;
  model->nactive = nactive;
  model->active_capacity = capacity;
  if (s) return s;
  lk_adapter_find(model, o->name)->active = 0;
  lk_stand_ins_link(model);
  return lk_set_trainable(model, o->name, 0);
}

lk_status lk_combine_attach(const lk_combine_job *j, const lk_combined *list) {
  const int joins = can_join(j);
  const lk_adapter *first = j->sources[0].adapter;
  lk_attach_options o = *first->options;
  char *saved = NULL, *spec = new_spec(j), *targets = joins ? joined_targets(j) : paths(j, list);
  for (int i = 0; i < j->n; i++) {
    const lk_attach_options *s = j->sources[i].adapter->options;
    o.lenient |= s->lenient;
    unite(j->ctx, &saved, s->modules_to_save);
  }
  o.name = j->options->name, o.spec = spec, o.targets = targets, o.modules_to_save = saved;
  o.overrides = NULL, o.noverrides = 0;
  if (!joins) o.exclude = o.layers_pattern = NULL, o.nlayers = 0;
  if (!lk_error(j->ctx, NULL)) attach_inactive(j->model, &o);
  lk_free(j->ctx, saved);
  lk_free(j->ctx, spec);
  lk_free(j->ctx, targets);
  return lk_error(j->ctx, NULL);
}

static void write_values(lk_param *p, const double *values) {
  for (int64_t i = 0, n = lk_param_count(p); i < n; i++) lk_view_set(&p->value, i, values[i]);
  lk_param_touch(p);
}

void lk_combine_fill(const lk_combine_job *j, const lk_combined *list) {
  lk_adapter *a = lk_adapter_find(j->model, j->options->name);
  for (; list; list = list->next) {
    const lk_at *at = lk_combine_lora(list->site, a);
    assert(at);
    write_values(at->params, list->A);
    write_values(at->params->next, list->B);
  }
  for (lk_param *p = a->stand_ins; p; p = p->next)
    for (int i = 0; i < j->n; i++)
      for (const lk_param *q = j->sources[i].adapter->stand_ins; q; q = q->next)
        if (q->owner == p->owner) {
          lk_view_copy(&p->value, &q->value);
          lk_param_touch(p);
        }
}
