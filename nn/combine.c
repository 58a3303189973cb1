/* combine.c: a new adapter from several: what may be combined, and the order of things: all values are computed before
 * anything is attached, and nothing can fail after that. */
#include "combine.h"

#include "peft/peft.h"

#include <math.h>
#include <string.h>

/* ---- what may be combined ---- */

static lk_status check_options(lk_ctx *c, const lk_combine_options *o) {
  if (!o || !o->name || !o->names) return lk_fail(c, LK_ENIL, "combine: a name and the names of sources are needed");
  if (o->n < 1) return lk_fail(c, LK_EARG, "combine: %d sources; one at least is needed", o->n);
  for (int i = 0; o->weights && i < o->n; i++)
    if (!isfinite(o->weights[i]))
      return lk_fail(c, LK_ENONFINITE, "combine: the weight of '%s' is %g", o->names[i], o->weights[i]);
  if (o->svd_rank < 0) return lk_fail(c, LK_EARG, "combine: svd_rank is %d; want 1 or more, or 0", o->svd_rank);
  if (!(o->svd_clamp >= 0 && o->svd_clamp <= 1))
    return lk_fail(c, LK_EARG, "combine: svd_clamp is %g; want a quantile in (0, 1], or 0", o->svd_clamp);
  return lk_error(c, NULL);
}

/* The mode, density and majority sign; a single source can only be scaled. */
static lk_status read_rule(lk_combine_job *j) {
  const lk_combine_options *o = j->options;
  const char *sign = o->majority_sign_method ? o->majority_sign_method : "total";
  j->rule = (lk_combine_rule){.density = o->density, .frequency = !strcmp(sign, "frequency")};
  if (!(j->rule.mode = lk_combine_mode_find(j->ctx, o->mode ? o->mode : "svd"))) return lk_error(j->ctx, NULL);
  if (!j->rule.frequency && strcmp(sign, "total") != 0)
    return lk_fail(j->ctx, LK_EARG, "combine: majority_sign_method is '%.60s'; want total or frequency", sign);
  if (o->n == 1) j->rule.mode = lk_combine_mode_find(j->ctx, "linear");
  if (j->rule.mode->prune && !(o->density > 0))
    return lk_fail(j->ctx, LK_EARG, "combine: mode %s keeps a part of the values: density is %g, want above 0 to 1",
                   j->rule.mode->name, o->density);
  return LK_OK;
}

/* The largest rank in a source's spec and overrides, whether or not a site has it. */
static lk_status read_rank(lk_ctx *c, lk_combine_source *s) {
  const lk_method *lora = lk_combine_method(s->adapter);
  const lk_attach_options *o = s->adapter->options;
  lk_method changed = *lora;
  s->rank = (int64_t)lk_method_option(lora, "r", 0);
  changed.cfg = lk_alloc(c, lora->cls->cfg_size);
  for (int i = 0; changed.cfg && i < o->noverrides; i++) {
    int used = 0;
    memcpy(changed.cfg, lora->cfg, lora->cls->cfg_size);
    lk_options_apply(c, lora->cls, changed.cfg, o->overrides[i].options, &used);
    int64_t r = (int64_t)lk_method_option(&changed, "r", 0);
    if (r > s->rank) s->rank = r;
  }
  lk_free(c, changed.cfg);
  return lk_error(c, NULL);
}

static lk_status check_source(lk_combine_job *j, lk_combine_source *s, const char *name) {
  lk_adapter *a = s->adapter = name ? lk_adapter_find(j->model, name) : NULL;
  if (!a) return lk_fail(j->ctx, LK_EARG, "combine: there is no adapter '%s'", name ? name : "(NULL)");
  if (!lk_peft_lora.fits(a))
    return lk_fail(j->ctx, LK_EARG, "combine: adapter '%s' is '%s'; only lora (lora | magnitude) can be combined", name,
                   a->spec);
  if (a->options->bias != LK_BIAS_NONE)
    return lk_fail(j->ctx, LK_EARG, "combine: adapter '%s' trains biases of the base, which only one adapter may",
                   name);
  if (lk_combine_method(a)->next) lk_warn(j->ctx, "combine: the magnitudes of '%s' are not combined", name);
  if (lk_method_option(lk_combine_method(a), "bias", 0) != 0)
    lk_warn(j->ctx, "combine: the biases of '%s' are not combined", name);
  return read_rank(j->ctx, s);
}

/* No two sources hold a copy of one parameter, and none a copy of what another adapts. */
static lk_status check_saved(const lk_combine_job *j, const lk_adapter *a, const lk_adapter *b) {
  const lk_module *root = lk_model_root(j->model);
  for (const lk_param *p = a->stand_ins; p && a != b; p = p->next) {
    for (const lk_param *q = b->stand_ins; q; q = q->next)
      if (p->owner == q->owner)
        return lk_fail(j->ctx, LK_EARG, "combine: '%s' and '%s' both hold a copy of %s (modules_to_save)", a->name,
                       b->name, ((lk_param *)p->owner)->name);
    for (const lk_module *m = root; m; m = lk_module_walk((lk_module *)root, (lk_module *)m))
      if (m->site && m->site->weight == p->owner && lk_site_chain(m->site, b))
        return lk_fail(j->ctx, LK_EARG, "combine: '%s' holds a copy of %s (modules_to_save), which '%s' adapts",
                       a->name, ((lk_param *)p->owner)->name, b->name);
  }
  return LK_OK;
}

static lk_status check_together(lk_combine_job *j) {
  const lk_combine_mode *mode = j->rule.mode;
  const lk_combine_source *first = &j->sources[0];
  j->rank = first->rank;
  for (int i = 1; i < j->n; i++) {
    const lk_combine_source *s = &j->sources[i];
    for (int k = 0; k < i; k++)
      if (check_saved(j, j->sources[k].adapter, s->adapter) || check_saved(j, s->adapter, j->sources[k].adapter))
        return lk_error(j->ctx, NULL);
    if (lk_combine_is_regex(first->adapter->targets) != lk_combine_is_regex(s->adapter->targets))
      return lk_fail(j->ctx, LK_EARG, "combine: the targets of '%s' and '%s' are names and a regular expression",
                     first->adapter->name, s->adapter->name);
    if (!mode->stack && !mode->of_delta && s->rank != first->rank)
      return lk_fail(j->ctx, LK_EARG, "combine: mode %s needs equal ranks; '%s' has %lld and '%s' %lld", mode->name,
                     first->adapter->name, (long long)first->rank, s->adapter->name, (long long)s->rank);
    if (mode->stack) j->rank += s->rank;
    else if (s->rank > j->rank) j->rank = s->rank;
  }
  if (mode->of_delta && j->options->svd_rank) j->rank = j->options->svd_rank;
  const lk_opt *r = lk_combine_method(first->adapter)->cls->opts;
  while (strcmp(r->key, "r") != 0) r++;
  if (j->rank <= r->high) return LK_OK;
  return lk_fail(j->ctx, LK_EARG, "combine: the new rank would be %lld; %.0f is the most", (long long)j->rank, r->high);
}

static lk_status read_sources(lk_combine_job *j) {
  const lk_combine_options *o = j->options;
  j->sources = lk_alloc_array(j->ctx, (size_t)o->n, sizeof *j->sources);
  for (j->n = 0; j->sources && j->n < o->n; j->n++) {
    j->sources[j->n].weight = o->weights ? o->weights[j->n] : 1;
    if (check_source(j, &j->sources[j->n], o->names[j->n])) return lk_error(j->ctx, NULL);
  }
  return lk_error(j->ctx, NULL) ? lk_error(j->ctx, NULL) : check_together(j);
}

/* ---- all of it or nothing ---- */

/* Computes the factors of every site that a source adapts; the list is the caller's even on an error. */
static lk_status compute(const lk_combine_job *j, lk_combined **list) {
  lk_module *root = lk_model_root(j->model);
  for (lk_module *m = root; m; m = lk_module_walk(root, m)) {
    int adapted = 0;
    for (int i = 0; m->site && i < j->n; i++) adapted |= lk_site_chain(m->site, j->sources[i].adapter) != NULL;
    if (!adapted) continue;
    lk_combined *one = *list = lk_alloc(j->ctx, sizeof *one);
    if (!one) break;
    one->site = m->site;
    list = &one->next;
    if (lk_combine_site(j, one)) break;
  }
  return lk_error(j->ctx, NULL);
}

lk_status lk_adapter_combine(lk_model *model, const lk_combine_options *options) {
  if (!model) return LK_ENIL;
  lk_combine_job j = {.ctx = lk_model_ctx(model), .model = model, .options = options};
  lk_combined *list = NULL;
  if (lk_error(j.ctx, NULL) || check_options(j.ctx, options)) return lk_error(j.ctx, NULL);
  if (lk_model_shapes_only(model))
    return lk_fail(j.ctx, LK_EARG, "combine: the model has shapes only, and no values to combine");
  if (lk_is_merged(model)) return lk_fail(j.ctx, LK_EARG, "combine: the model is merged; unmerge it first");
  if (lk_adapter_find(model, options->name)) {
    lk_warn(j.ctx, "combine: there is an adapter '%s' already; it stays as it is", options->name);
    return LK_OK;
  }
  if (!read_rule(&j) && !read_sources(&j) && !compute(&j, &list) && !lk_combine_attach(&j, list))
    lk_combine_fill(&j, list);
  for (lk_combined *next; list; list = next) {
    next = list->next;
    lk_free(j.ctx, list->A);
    lk_free(j.ctx, list->B);
    lk_free(j.ctx, list);
  }
  lk_free(j.ctx, j.sources);
  return lk_error(j.ctx, NULL);
}
