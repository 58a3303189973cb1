/* compare.c: adapts one pretrained vision transformer to a shifted domain in several ways, and compares them.
 *
 * A small ViT is trained on drawn digits (kept in OUT/pretrained and used again), then adapted to digits that look
 * different, or to real images with --data: a linear probe, full fine-tuning, LoRA and DoRA, each from several
 * seeds.  The result is a table and a picture, OUT/compare.svg; OUT/lora is LoRA's adapter as a PEFT directory.
 * What is kept of a run is what was best on validation images; test images decide nothing. */
#include "run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_METHODS = 8, MAX_SEEDS = 10 };

typedef struct {
  const char *out, *preset, *adapter;
  int64_t seeds, threads, pretrain_epochs, pretrain_images;
  int quiet;
  run_source source;
  run_options train;
} settings;

typedef struct {
  const char *name;
  int full, probe;
  const char *adapter;
} method;

typedef struct {
  int64_t trainable, nlosses;
  double accuracy[MAX_SEEDS], step_ms, peak_mb, merged_change; /* merged_change: NaN without an adapter */
  double mean, deviation;
  double *losses; /* of the first seed, malloc'ed */
} outcome;

static const option options[] = {
    {"out", OPTION_TEXT, offsetof(settings, out), 0, 0, "DIR", "where results go"},
    {"model", OPTION_TEXT, offsetof(settings, preset), 0, 0, "PRESET", "what is pretrained"},
    {"pretrain-epochs", OPTION_INT, offsetof(settings, pretrain_epochs), 1, 1000, "N", "passes of pretraining"},
    {"pretrain-images", OPTION_INT, offsetof(settings, pretrain_images), 100, 1e6, "N", "drawn for pretraining"},
    {"seeds", OPTION_INT, offsetof(settings, seeds), 1, MAX_SEEDS, "N", "runs of each method"},
    {"adapter", OPTION_TEXT, offsetof(settings, adapter), 0, 0, "SPEC", "one more method to compare"},
    {"targets", OPTION_TEXT, offsetof(settings, train.targets), 0, 0, "PATTERNS", "layers that adapters adapt"},
    {"threads", OPTION_INT, offsetof(settings, threads), 0, 64, "N", "0: one per core"},
    {"quiet", OPTION_FLAG, offsetof(settings, quiet), 0, 0, NULL, "no progress"},
    {0}};

/* ---- one context per run, so that memory is counted for it alone ---- */

typedef struct {
  memory memory;
  lk_ctx *ctx;
  run_model model;
  run_data data;
} session;

static lk_status session_open(session *s, const settings *o, const char *model, const run_source *source,
                              uint64_t seed) {
  *s = (session){.ctx = NULL};
  lk_allocator allocator = memory_allocator(&s->memory);
  s->ctx = lk_ctx_new(&(lk_ctx_options){.allocator = &allocator, .seed = seed, .threads = (int)o->threads});
  if (!s->ctx) return LK_ENOMEM;
  if (run_open(s->ctx, model, 0, 0, &s->model)) return lk_error(s->ctx, NULL);
  return run_data_open(s->ctx, source, s->model.vit->config.image_size, &s->data);
}

/* Ends a session; 0, or 1 after saying what went wrong. */
static int session_close(session *s) {
  const char *message = "out of memory";
  int failed = lk_error(s->ctx, &message) != LK_OK;
  if (failed) fprintf(stderr, "compare: %s\n", message);
  for (int i = 0; s->ctx && i < lk_warning_count(s->ctx); i++)
    fprintf(stderr, "compare: warning: %s\n", lk_warning(s->ctx, i));
  if (s->ctx) {
    run_data_close(&s->data);
    run_close(&s->model);
  }
  lk_ctx_free(s->ctx);
  return failed;
}

/* ---- pretraining ---- */

/* What a kept model was made with: it is used again only for the same. */
static void describe(const settings *o, char *text, size_t size) {
  snprintf(text, size, "%s, %lld drawn images, %lld epochs\n", o->preset, (long long)o->pretrain_images,
           (long long)o->pretrain_epochs);
}

static int is_kept(const char *stamp, const char *want) {
  char text[200] = "";
  FILE *f = lk_file_exists(stamp) ? fopen(stamp, "r") : NULL;
  if (!f) return 0;
  size_t n = fread(text, 1, sizeof text - 1, f);
  fclose(f);
  return n == strlen(want) && !strcmp(text, want);
}

static int pretrain(const settings *o, const char *directory) {
  char stamp[1100], want[200];
  session s;
  run_score score;
  run_result result = {0};
  run_source source = run_source_defaults();
  run_options train = run_defaults();
  snprintf(stamp, sizeof stamp, "%s/made_with.txt", directory);
  describe(o, want, sizeof want);
  if (is_kept(stamp, want)) {
    fprintf(stderr, "pretrained model: %s, kept from before\n", directory);
    return 0;
  }
  source.train = o->pretrain_images;
  train.full = 1;
  train.epochs = o->pretrain_epochs;
  train.augment = 1;
  train.label = "pretrain";
  train.progress = o->quiet ? NULL : stderr;
  if (!session_open(&s, o, o->preset, &source, 1) && !run_prepare(&s.model, &train) &&
      !run_train(&s.model, &s.data, &train, &result) && !run_evaluate(&s.model, s.data.test, NULL, &score) &&
      !run_save(&s.model, directory)) {
    lk_writer *w = lk_writer_open(s.ctx, stamp);
    if (w && !lk_write(w, want, strlen(want))) lk_writer_commit(w);
    fprintf(stderr, "pretrained on drawn digits: %.2f %% of held-out ones, %.0f s\n", 100 * score.accuracy,
            result.seconds);
  }
  if (s.ctx) run_result_free(s.ctx, &result);
  return session_close(&s);
}

/* ---- one run ---- */

/* Logits of the first images of d into out[n * classes]; the number of values. */
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

/* Largest change of a logit by merging; the model stays merged. */
static double merge_and_compare(session *s) {
  enum { ROOM = 64 * 64 };
  static double before[ROOM], after[ROOM];
  double change = 0;
  int64_t n = logits(s, s->data.test, before, ROOM);
  if (lk_merge(s->model.model, NULL)) return NAN;
  logits(s, s->data.test, after, ROOM);
  for (int64_t i = 0; i < n; i++) change = fmax(change, fabs(after[i] - before[i]));
  return change;
}

static int run_once(const settings *o, const method *m, const char *pretrained, int seed, outcome *out) {
  session s;
  char label[64], directory[1100];
  run_result result = {0};
  run_score score;
  run_source source = o->source;
  run_options train = o->train;
  source.seed = (uint64_t)seed + 1;
  train.full = m->full;
  train.probe = m->probe;
  train.adapter = m->adapter;
  snprintf(label, sizeof label, "%-16s seed %d", m->name, seed + 1);
  train.label = label;
  train.progress = o->quiet ? NULL : stderr;
  if (!session_open(&s, o, pretrained, &source, (uint64_t)seed + 1)) {
    train.memory = &s.memory;
    if (!run_prepare(&s.model, &train) && !run_train(&s.model, &s.data, &train, &result) &&
        !run_evaluate(&s.model, s.data.test, NULL, &score)) {
      out->trainable = result.trainable;
      out->accuracy[seed] = 100 * score.accuracy;
      out->step_ms = seed ? fmin(out->step_ms, result.step_ms) : result.step_ms;
      out->peak_mb = result.peak_mb;
      snprintf(directory, sizeof directory, "%s/lora", o->out);
      if (!seed && m->adapter && !strcmp(m->name, "LoRA"))
        lk_adapter_save(s.model.model, "default", directory, pretrained);
      out->merged_change = m->adapter ? merge_and_compare(&s) : NAN;
    }
  }
  if (!seed && result.losses) { /* results outlive the context */
    out->nlosses = result.nlosses;
    out->losses = malloc((size_t)result.nlosses * sizeof *out->losses);
    if (out->losses) memcpy(out->losses, result.losses, (size_t)result.nlosses * sizeof *out->losses);
    else out->nlosses = 0;
  }
  if (s.ctx) run_result_free(s.ctx, &result);
  return session_close(&s);
}

static void summarise(outcome *o, int64_t seeds) {
  double squares = 0;
  for (int64_t i = 0; i < seeds; i++) o->mean += o->accuracy[i] / (double)seeds;
  for (int64_t i = 0; i < seeds; i++) squares += (o->accuracy[i] - o->mean) * (o->accuracy[i] - o->mean);
  o->deviation = seeds > 1 ? sqrt(squares / (double)(seeds - 1)) : 0;
}

/* ---- what is shown ---- */

static lk_status print_table(lk_ctx *ctx, const method *m, const outcome *o, int n) {
  static const char *const titles[] = {"method",    "trainable", "test accuracy %",
                                       "ms a step", "memory MB", "|merged - unmerged|"};
  lk_table *t = lk_table_new(ctx, 6, titles);
  for (int i = 0; t && i < n; i++) {
    lk_table_cell(t, "%s", m[i].name);
    lk_table_cell(t, "%lld", (long long)o[i].trainable);
    lk_table_cell(t, "%.2f ± %.2f", o[i].mean, o[i].deviation);
    lk_table_cell(t, "%.2f", o[i].step_ms);
    lk_table_cell(t, "%.1f", o[i].peak_mb);
    if (isnan(o[i].merged_change)) lk_table_cell(t, "-");
    else lk_table_cell(t, "%.1e", o[i].merged_change);
  }
  if (t) lk_table_print(t, stdout);
  lk_table_free(t);
  return lk_error(ctx, NULL);
}

/* Means over runs of `window` steps: single losses are noise. */
static int64_t smooth(const outcome *o, double *x, double *y, int64_t points) {
  int64_t window = (o->nlosses + points - 1) / points, n = 0;
  for (int64_t i = 0; i + window <= o->nlosses && window; i += window, n++) {
    y[n] = 0;
    for (int64_t k = 0; k < window; k++) y[n] += o->losses[i + k] / (double)window;
    x[n] = (double)i + 0.5 * (double)window;
  }
  return n;
}

static lk_status draw(lk_ctx *ctx, const char *path, const char *title, const method *m, const outcome *o, int n) {
  enum { POINTS = 60 };
  static double x[MAX_METHODS][POINTS], y[MAX_METHODS][POINTS], size[MAX_METHODS];
  lk_series accuracy[MAX_METHODS], loss[MAX_METHODS];
  for (int i = 0; i < n; i++) {
    size[i] = (double)o[i].trainable;
    accuracy[i] = (lk_series){.style = LK_SERIES_POINTS, .color = i + 1, .n = 1, .x = &size[i], .y = &o[i].mean};
    accuracy[i].error = &o[i].deviation;
    accuracy[i].labels = &m[i].name;
    loss[i] = (lk_series){.name = m[i].name, .style = LK_SERIES_LINE, .color = i + 1, .x = x[i], .y = y[i]};
    loss[i].n = smooth(&o[i], x[i], y[i], POINTS);
  }
  const lk_panel panels[] = {{.title = "Accuracy against size",
                              .x_label = "trained parameters",
                              .y_label = "test accuracy (%)",
                              .log_x = 1,
                              .nseries = n,
                              .series = accuracy},
                             {.title = "Training loss",
                              .x_label = "step",
                              .y_label = "cross-entropy",
                              .log_y = 1,
                              .nseries = n,
                              .series = loss}};
  return lk_svg_write(ctx, path, title, 2, panels);
}

static int show(const settings *o, const method *m, outcome *out, int n) {
  char path[1100], title[200];
  session s = {.ctx = lk_ctx_new(NULL)};
  for (int i = 0; i < n; i++) summarise(&out[i], o->seeds);
  snprintf(path, sizeof path, "%s/compare.svg", o->out);
  snprintf(title, sizeof title, "%s from drawn digits to %s, %lld training images, %lld seeds", o->preset,
           o->source.directory ? "real images" : o->source.domain, (long long)o->source.train, (long long)o->seeds);
  if (s.ctx && !print_table(s.ctx, m, out, n) && !draw(s.ctx, path, title, m, out, n))
    printf("picture: %s\nLoRA's adapter for PEFT: %s/lora\n", path, o->out);
  return session_close(&s);
}

/* ---- main ---- */

static settings defaults(void) {
  settings o = {.out = "demo", .preset = "vit-tiny-28", .seeds = 2, .pretrain_epochs = 8, .pretrain_images = 8000};
  o.source = run_source_defaults();
  o.source.domain = "inverted+rotated";
  o.source.train = 1000;
  o.train = run_defaults();
  o.train.epochs = 8;
  o.train.targets = "all-linear";
  return o;
}

static int compare(const settings *o) {
  method methods[MAX_METHODS] = {{"linear probe", 0, 1, NULL},
                                 {"full fine-tuning", 1, 0, NULL},
                                 {"LoRA", 0, 0, "lora r=8 alpha=16"},
                                 {"DoRA", 0, 0, "lora r=8 alpha=16 | magnitude"}};
  outcome outcomes[MAX_METHODS] = {{0}};
  char pretrained[1024];
  int n = 4, failed;
  if (o->adapter) methods[n++] = (method){o->adapter, 0, 0, o->adapter};
  snprintf(pretrained, sizeof pretrained, "%s/pretrained", o->out);
  failed = pretrain(o, pretrained);
  for (int i = 0; i < n; i++)
    for (int seed = 0; seed < o->seeds && !failed; seed++)
      failed = run_once(o, &methods[i], pretrained, seed, &outcomes[i]);
  if (!failed) failed = show(o, methods, outcomes, n);
  for (int i = 0; i < n; i++) free(outcomes[i].losses);
  return failed;
}

int main(int argc, char **argv) {
  settings o = defaults();
  const option_group groups[] = {{"Comparison", options, &o},
                                 {"Data to adapt to", run_source_options, &o.source},
                                 {"Training", run_training_options, &o.train},
                                 {0}};
  switch (options_parse("compare", groups, argc, argv)) {
  case OPTIONS_WRONG:
    return 1;
  case OPTIONS_HELP:
    printf("usage: compare [options]\nAdapts a pretrained vision transformer in several ways and compares them.\n\n");
    options_help(groups, stdout);
    return 0;
  default:
    return compare(&o);
  }
}
