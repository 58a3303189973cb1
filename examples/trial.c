/* trial.c: training one method from one seed, judging it, merging it. */
#include "trial.h"

#include <math.h>
#include <string.h>

/* ---- merging ---- */

/* Logits of the first images of d into out[room]; the number of values. */
static int64_t logits(session *s, const lk_dataset *d, double *out, int64_t room) {
  lk_loader_options o = {.batch = 64};
  lk_batch batch;
  lk_view v;
  int64_t n = 0;
  run_normalise(&s->model, &o);
  lk_loader *loader = lk_loader_new(d, &o);
  lk_tape *t = loader ? lk_tape_new(s->ctx) : NULL;
  if (t && lk_loader_next(loader, &batch)) {
    lk_no_grad(t, 1);
    const int64_t shape[] = {batch.n, batch.channels, batch.height, batch.width};
    lk_tensor y = lk_vit_forward(s->model.vit, t, lk_input(t, LK_F32, 4, shape, batch.images));
    if (!lk_get(t, y, &v))
      for (; n < lk_view_count(&v) && n < room; n++) out[n] = lk_view_get(&v, n);
  }
  lk_tape_free(t);
  lk_loader_free(loader);
  return n;
}

static int is_routed(session *s) {
  lk_adapter *a = lk_adapter_find(s->model.model, "default");
  for (lk_method *m = a ? a->chain : NULL; m; m = lk_method_walk(a->chain, m))
    if (m->cls->caps & LK_ROUTED) return 1;
  return 0;
}

/* Largest change of a logit by merging; the model stays merged. */
static double merge_and_compare(session *s, const lk_dataset *d) {
  enum { ROOM = 64 * 64 };
  static double before[ROOM], after[ROOM];
  double change = 0;
  int64_t n = logits(s, d, before, ROOM);
  if (lk_merge(s->model.model, NULL)) return NAN;
  logits(s, d, after, ROOM);
  for (int64_t i = 0; i < n; i++) change = fmax(change, fabs(after[i] - before[i]));
  return change;
}

/* ---- one run ---- */

static lk_status judge(session *s, const lk_dataset *d, double *percent) {
  run_score score = {0, 0};
  if (d && d->count && !run_evaluate(&s->model, d, NULL, &score)) *percent = 100 * score.accuracy;
  return lk_error(s->ctx, NULL);
}

static lk_status judge_all(session *s, const trial *t, int seed, outcome *out) {
  judge(s, s->data.run.train, &out->train.of[seed]);
  judge(s, s->data.run.validation, &out->validation.of[seed]);
  for (int i = 0; i < DOMAINS && !lk_error(s->ctx, NULL); i++)
    if (t->domains.test & DOMAIN_BIT(i)) judge(s, s->data.tests[i], &out->test[i].of[seed]);
  return lk_error(s->ctx, NULL);
}

/* Takes what begins every path out of a text. */
static void shorten(char *text) {
  static const char prefix[] = "vit.encoder.layer.";
  for (char *at = text; at && (at = strstr(at, prefix));)
    memmove(at, at + sizeof prefix - 1, strlen(at + sizeof prefix - 1) + 1);
}

/* Of the first seed: the adapter as files, merging, losses and notes. */
static void keep_first(lk_ctx *ctx, session *s, const settings *o, const trial *t, const run_result *r, outcome *out) {
  char base[1024], directory[1100];
  snprintf(directory, sizeof directory, "%s/%s", o->out, t->saved_as ? t->saved_as : "");
  if (t->saved_as) lk_adapter_save(s->model.model, "default", directory, pretrained(o, base, sizeof base));
  out->notes = lk_strdup(ctx, r->notes ? r->notes : "");
  shorten(out->notes);
  out->losses = lk_alloc_array(ctx, (size_t)r->nlosses, sizeof *out->losses);
  if (!out->losses) return;
  out->nlosses = r->nlosses;
  if (r->nlosses) memcpy(out->losses, r->losses, (size_t)r->nlosses * sizeof *out->losses);
}

static const lk_dataset *any_test(const session *s) {
  for (int i = 0; i < DOMAINS; i++)
    if (s->data.tests[i]) return s->data.tests[i];
  return s->data.run.train;
}

static void finish(lk_ctx *ctx, session *s, const settings *o, const trial *t, const run_result *r, int seed,
                   outcome *out) {
  out->trainable = (out->trainable * seed + r->trainable) / (seed + 1);
  out->step_ms = seed ? fmin(out->step_ms, r->step_ms) : r->step_ms;
  out->peak_mb = r->peak_mb;
  out->routed = is_routed(s);
  if (!seed) keep_first(ctx, s, o, t, r, out);
  out->merged_change = NAN;
  if (*t->adapter && !out->routed) out->merged_change = merge_and_compare(s, any_test(s));
}

static lk_status open_all(session *s, const settings *o, const trial *t, int seed) {
  char directory[1024];
  run_source source = o->source;
  source.seed = (uint64_t)seed + 1;
  if (session_open(s, o, pretrained(o, directory, sizeof directory), source.seed)) return LK_ENOMEM;
  return domains_open(s->ctx, &source, &t->domains, s->model.vit->config.image_size, &s->data);
}

int trial_run(lk_ctx *ctx, const settings *o, trial *t, int seed) {
  session s;
  char label[80];
  run_result result = {0};
  run_options train = o->train;
  train.full = t->full;
  train.probe = t->probe;
  train.adapter = *t->adapter ? t->adapter : NULL;
  train.augment *= t->augment;
  train.epochs *= t->passes;
  snprintf(label, sizeof label, "%-16s seed %d", t->name, seed + 1);
  train.label = label;
  train.progress = o->quiet || o->exhibit ? NULL : stderr;
  if (!open_all(&s, o, t, seed)) {
    train.memory = &s.memory;
    if (!run_prepare(&s.model, &train) && !run_train(&s.model, &s.data.run, &train, &result) &&
        !judge_all(&s, t, seed, &t->out))
      finish(ctx, &s, o, t, &result, seed, &t->out);
  }
  if (s.ctx) run_result_free(s.ctx, &result);
  return session_close(&s);
}

void trial_free(lk_ctx *ctx, trial *t) {
  lk_free(ctx, t->out.losses);
  lk_free(ctx, t->out.notes);
}

/* ---- over the seeds ---- */

void figure_summarise(figure *f, int64_t seeds) {
  double squares = 0;
  f->mean = 0;
  for (int64_t i = 0; i < seeds; i++) f->mean += f->of[i] / (double)seeds;
  for (int64_t i = 0; i < seeds; i++) squares += (f->of[i] - f->mean) * (f->of[i] - f->mean);
  f->deviation = seeds > 1 ? sqrt(squares / (double)(seeds - 1)) : NAN;
}

void trial_summarise(trial *t, int64_t seeds) {
  figure_summarise(&t->out.train, seeds);
  figure_summarise(&t->out.validation, seeds);
  for (int i = 0; i < DOMAINS; i++) figure_summarise(&t->out.test[i], seeds);
}

figure trial_average(const trial *t, unsigned domains, int64_t seeds) {
  figure f = {.mean = 0};
  int n = 0;
  for (int i = 0; i < DOMAINS; i++) n += (domains & DOMAIN_BIT(i)) != 0;
  for (int i = 0; i < DOMAINS; i++)
    for (int64_t k = 0; k < seeds && domains & DOMAIN_BIT(i); k++) f.of[k] += t->out.test[i].of[k] / n;
  figure_summarise(&f, seeds);
  return f;
}
