/* finetune.c: fine-tunes a vision transformer: with an adapter, whole, or its head alone.
 *
 *   finetune --model vit-tiny-28 --full --out base                           pretrains on drawn digits
 *   finetune --model base/model --data mnist --limit-train 1000 --out lora   adapts that to real ones
 *
 * Results go to stdout, progress and complaints to stderr.  Exit status: 0; 1 an error; 130 interrupted. */
#include "count.h"
#include "run.h"

#include <math.h>
#include <string.h>

#define NAME "finetune"
#ifndef LK_VERSION
#define LK_VERSION "of the source tree"
#endif

/* ---- settings ---- */

typedef struct settings {
  run_options run;
  run_source source;
  const char *model, *out, *predict, *shapes;
  int64_t seed, threads;
  int merge, as_lora, eval, count, dry_run, json, list_adapters, version;
  int stopped; /* by a signal, before the end */
} settings;

#define PLACE(name) offsetof(settings, name)

static const option model_options[] = {
    {"model", OPTION_TEXT, PLACE(model), 0, 0, "NAME",
     "a directory with config.json and model.safetensors (HuggingFace's layout), or a preset: vit-tiny-28, "
     "vit-small-28, ..."},
    {"seed", OPTION_INT, PLACE(seed), 0, 1e9, "N", "of new weights, of the images' choice and order, of every draw"},
    {"threads", OPTION_INT, PLACE(threads), 0, 1024, "N", "0: one for each core; the results do not depend on it"},
    {0}};

static const option output_options[] = {
    {"out", OPTION_TEXT, PLACE(out), 0, 0, "DIR", "for adapter/ (or model/), checkpoint, metrics.jsonl"},
    {"save-every", OPTION_INT, PLACE(run.save_every), 0, 1e9, "N", "steps between checkpoints; 0: after every epoch"},
    {"resume", OPTION_FLAG, PLACE(run.resume), 0, 0, NULL, "go on from the checkpoint in --out"},
    {"merge", OPTION_FLAG, PLACE(merge), 0, 0, NULL, "also write the merged model to DIR/merged"},
    {"as-lora", OPTION_FLAG, PLACE(as_lora), 0, 0, NULL, "also write the adapter as a plain LoRA for PEFT to DIR/lora"},
    {"predict", OPTION_TEXT, PLACE(predict), 0, 0, "FILE",
     "write index, prediction and probability of each test image"},
    {"json", OPTION_FLAG, PLACE(json), 0, 0, NULL, "results as one JSON object"},
    {0}};

static const option mode_options[] = {
    {"eval", OPTION_FLAG, PLACE(eval), 0, 0, NULL, "judge --model (with a saved --adapter DIR) on the test images"},
    {"dry-run", OPTION_FLAG, PLACE(dry_run), 0, 0, NULL, "show which layers would be adapted"},
    {"count", OPTION_FLAG, PLACE(count), 0, 0, NULL, "count the sites and parameters of the adapter alone"},
    {"shapes", OPTION_TEXT, PLACE(shapes), 0, 0, "FILE",
     "of --count and --dry-run: linear layers, one a line: path, in, out, bias"},
    {"list-adapters", OPTION_FLAG, PLACE(list_adapters), 0, 0, NULL, "show all adapters with their options"},
    {"version", OPTION_FLAG, PLACE(version), 0, 0, NULL, "show the version"},
    {"help", OPTION_FLAG, PLACE(version), 0, 0, NULL, "show this"},
    {0}};

static volatile sig_atomic_t interrupted;
static void interrupt(int number) { interrupted = number; }

static lk_status refuse(lk_ctx *ctx, const settings *s) {
  const run_options *r = &s->run;
  const char *say = NULL;
  int tunes = !s->count && !s->dry_run, adapts = !r->full && !r->probe;
  int details = r->targets || r->exclude || r->layers || r->modules_to_save || r->rank_pattern || r->alpha_pattern;
  if (r->full + r->probe + (r->adapter != NULL) > 1) say = "--full, --probe and --adapter exclude each other";
  else if (s->count + s->dry_run + s->eval > 1) say = "--count, --dry-run and --eval exclude each other";
  else if (s->shapes && tunes) say = "--shapes is for --count and --dry-run";
  else if (s->shapes && s->model) say = "--shapes and --model exclude each other";
  else if (!s->model && !s->shapes)
    say = "--model is needed: a directory, or a preset such as vit-tiny-28 (see --help)";
  else if (s->merge && !s->out) say = "--merge needs --out DIR";
  else if (r->resume && !s->out) say = "--resume needs --out DIR";
  else if (r->resume && s->eval) say = "--resume and --eval exclude each other";
  else if (!adapts && (s->merge || !tunes)) say = "--full and --probe have no adapter to merge or count";
  else if (!adapts && (details || r->bias || r->loraplus > 0))
    say = "--targets, --exclude, --layers, --modules-to-save, --bias, --loraplus and patterns are for adapters";
  return say ? lk_fail(ctx, LK_EARG, "%s", say) : LK_OK;
}

static void print_warnings(lk_ctx *ctx) {
  for (int i = 0; i < lk_warning_count(ctx); i++) fprintf(stderr, NAME ": warning: %s\n", lk_warning(ctx, i));
  lk_warnings_clear(ctx);
}

/* ---- results ---- */

typedef struct report {
  run_result train;
  run_score score[3]; /* on training, validation and test images; NaN: not judged */
  lk_merge_report merge;
} report;

static const char *const parts[] = {"train", "validation", "test"};

static void put_real(lk_ctx *ctx, lk_json *j, const char *key, double value) {
  if (isfinite(value)) lk_json_set_real(ctx, j, key, value);
  else lk_json_set_null(ctx, j, key);
}

static void put_scores(lk_ctx *ctx, lk_json *j, const report *r) {
  for (int i = 0; i < 3; i++) {
    char key[40];
    snprintf(key, sizeof key, "%s_accuracy", parts[i]);
    put_real(ctx, j, key, r->score[i].accuracy);
    snprintf(key, sizeof key, i ? "%s_loss" : "loss", parts[i]);
    put_real(ctx, j, key, r->score[i].loss);
  }
}

static lk_status print_line(lk_ctx *ctx, lk_json *j) {
  char *text = lk_error(ctx, NULL) ? NULL : lk_json_dump(ctx, j, LK_JSON_COMPACT);
  if (text) puts(text);
  lk_free(ctx, text);
  lk_json_free(j);
  return lk_error(ctx, NULL);
}

static lk_status print_json(lk_ctx *ctx, const settings *s, const report *r) {
  lk_json *j = lk_json_object(ctx);
  lk_json_set_string(ctx, j, "model", s->model);
  lk_json_set_string(ctx, j, "method", s->eval && !s->run.adapter ? "none" : run_method_name(&s->run));
  lk_json_set_int(ctx, j, "trainable_parameters", r->train.trainable);
  lk_json_set_int(ctx, j, "parameters", r->train.parameters);
  put_scores(ctx, j, r);
  lk_json_set_int(ctx, j, "steps", r->train.steps);
  lk_json_set_int(ctx, j, "best_step", r->train.best_step);
  put_real(ctx, j, "lr", s->eval ? NAN : run_lr(&s->run));
  put_real(ctx, j, "step_ms", s->eval ? NAN : r->train.step_ms);
  put_real(ctx, j, "seconds", r->train.seconds);
  put_real(ctx, j, "step_mb", r->train.step_mb);
  put_real(ctx, j, "peak_mb", (double)s->run.memory->peak / 1e6);
  put_real(ctx, j, "peak_rss_mb", memory_peak_rss_mb());
  if (s->merge) put_real(ctx, j, "merge_max_relative_change", r->merge.max_relative_change);
  if (r->train.notes) lk_json_set_string(ctx, j, "notes", r->train.notes);
  lk_json_set_int(ctx, j, "seed", s->seed);
  lk_json_set_int(ctx, j, "threads", lk_threads(ctx));
  return print_line(ctx, j);
}

static void print_text(const settings *s, const report *r) {
  if (!s->eval)
    printf("%-11s %lld of %lld\n", "trained", (long long)r->train.trainable, (long long)r->train.parameters);
  for (int i = 0; i < 3; i++)
    if (isfinite(r->score[i].loss))
      printf("%-11s accuracy %.2f %%  loss %.4f\n", parts[i], 100 * r->score[i].accuracy, r->score[i].loss);
  if (r->train.best_step)
    printf("%-11s step %lld of %lld (by validation)\n", "kept", (long long)r->train.best_step,
           (long long)r->train.steps);
  if (r->train.nlosses) printf("%-11s %.3g ms\n", "step", r->train.step_ms);
  for (const char *line = r->train.notes; line && *line; line += strcspn(line, "\n"), line += *line == '\n')
    printf("%-11s %.*s\n", "adapter", (int)strcspn(line, "\n"), line);
  printf("%-11s %.1f MB, all of the process %.1f MB\n", "memory", (double)s->run.memory->peak / 1e6,
         memory_peak_rss_mb());
  if (s->merge)
    printf("%-11s %d layers, largest change %.2g of the largest weight (%s)\n", "merged", r->merge.sites,
           r->merge.max_relative_change, r->merge.site ? r->merge.site : "none");
}

/* ---- judging and saving ---- */

static lk_status write_guesses(lk_ctx *ctx, const char *path, const run_guess *guesses, int64_t n) {
  lk_writer *w = lk_writer_open(ctx, path);
  for (int64_t i = 0; w && i < n; i++)
    lk_writef(w, "%lld\t%lld\t%.6f\n", (long long)i, (long long)guesses[i].prediction, guesses[i].probability);
  return w ? lk_writer_commit(w) : lk_error(ctx, NULL);
}

static lk_status judge(run_model *m, const run_data *data, const settings *s, report *r) {
  lk_dataset *const sets[] = {data->train, data->validation, data->test};
  run_guess *guesses = lk_alloc_array(m->ctx, (size_t)data->test->count + 1, sizeof *guesses);
  for (int i = 0; i < 3 && guesses; i++) {
    r->score[i] = (run_score){NAN, NAN};
    if (sets[i] && sets[i]->count && run_evaluate(m, sets[i], sets[i] == data->test ? guesses : NULL, &r->score[i]))
      break;
  }
  if (s->predict && !lk_error(m->ctx, NULL)) write_guesses(m->ctx, s->predict, guesses, data->test->count);
  lk_free(m->ctx, guesses);
  return lk_error(m->ctx, NULL);
}

/* Saves into a directory below --out. */
static lk_status save_model(run_model *m, const settings *s, const char *name) {
  char *directory = lk_sprintf(m->ctx, "%s/%s", s->out, name);
  if (directory) run_save(m, directory);
  lk_free(m->ctx, directory);
  return lk_error(m->ctx, NULL);
}

/* An adapter is of use with its base only, so one that was drawn here is saved, too. */
static lk_status save_adapter(run_model *m, const settings *s) {
  char *directory = lk_sprintf(m->ctx, "%s/adapter", s->out), *base = lk_sprintf(m->ctx, "%s/base", s->out);
  if (base && directory && m->fresh) run_save(m, base);
  if (base && directory && !lk_error(m->ctx, NULL))
    lk_adapter_save(m->model, "default", directory, m->fresh ? base : s->model);
  lk_free(m->ctx, directory);
  lk_free(m->ctx, base);
  return lk_error(m->ctx, NULL);
}

static lk_status save(run_model *m, const settings *s, report *r) {
  if (!s->out) return LK_OK;
  if (!s->eval && (s->run.full || s->run.probe)) return save_model(m, s, "model");
  if (!s->eval && save_adapter(m, s)) return lk_error(m->ctx, NULL);
  if (!s->merge || lk_merge(m->model, &r->merge)) return lk_error(m->ctx, NULL);
  return save_model(m, s, "merged");
}

/* ---- the program's jobs ---- */

/* What will not work at the end is refused at the beginning: merging, and writing the predictions. */
static lk_status try(run_model *m, const settings *s) {
  if (s->merge && !lk_merge(m->model, NULL)) lk_unmerge(m->model);
  if (s->predict) lk_writer_abort(lk_writer_open(m->ctx, s->predict));
  return lk_error(m->ctx, NULL);
}

/* The images, which must be such as the model takes. */
static lk_status open_data(lk_ctx *ctx, settings *s, run_data *data) {
  lk_vit_config config;
  s->source.test_only = s->eval;
  s->source.seed = (uint64_t)s->seed;
  if (run_config(ctx, s->model, &config)) return lk_error(ctx, NULL);
  if (!s->source.directory && config.channels != 1)
    return lk_fail(ctx, LK_ESHAPE, "drawn digits have 1 channel, %s takes images with %lld: --data is needed", s->model,
                   (long long)config.channels);
  return run_data_open(ctx, &s->source, config.image_size, data);
}

static lk_status train(run_model *m, const run_data *data, settings *s, report *r) {
  struct sigaction action = {.sa_handler = interrupt, .sa_flags = (int)SA_RESETHAND};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  s->run.stop = &interrupted;
  s->run.directory = s->out;
  print_warnings(m->ctx);
  run_train(m, data, &s->run, &r->train);
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  return lk_error(m->ctx, NULL);
}

static lk_status tune_or_judge(lk_ctx *ctx, settings *s, run_model *m, run_data *data, report *r) {
  if (open_data(ctx, s, data)) return lk_error(ctx, NULL);
  int64_t classes = s->eval && !s->run.adapter ? 0 : data->test->classes;
  if (run_open(ctx, s->model, classes, 0, m)) return lk_error(ctx, NULL);
  if (!s->eval || s->run.adapter) run_prepare(m, &s->run);
  if (!lk_error(ctx, NULL)) try(m, s);
  if (!lk_error(ctx, NULL) && !s->eval) train(m, data, s, r);
  if (lk_error(ctx, NULL) || r->train.stopped) return lk_error(ctx, NULL);
  if (s->eval) r->train.parameters = lk_parameter_count(m->model);
  if (judge(m, data, s, r) || save(m, s, r)) return lk_error(ctx, NULL);
  if (s->json) return print_json(ctx, s, r);
  print_text(s, r);
  return LK_OK;
}

static lk_status tune(lk_ctx *ctx, settings *s) {
  run_model m = {0};
  run_data data = {0};
  report r = {0};
  tune_or_judge(ctx, s, &m, &data, &r);
  s->stopped = r.train.stopped && !lk_error(ctx, NULL);
  if (s->stopped)
    fprintf(stderr, NAME ": interrupted after step %lld; %s\n", (long long)r.train.steps,
            s->out ? "--resume goes on from there" : "without --out nothing is kept");
  run_result_free(ctx, &r.train);
  run_data_close(&data);
  run_close(&m);
  return lk_error(ctx, NULL);
}

static lk_status print_count(lk_model *model, const settings *s, const char *head) {
  lk_ctx *ctx = lk_model_ctx(model);
  count c;
  if (count_adapter(model, &s->run, head, &c)) return lk_error(ctx, NULL);
  if (!s->json) {
    printf("sites %lld\nparameters %lld\n", (long long)c.sites, (long long)c.parameters);
    return LK_OK;
  }
  lk_json *j = lk_json_object(ctx);
  lk_json_set_int(ctx, j, "sites", c.sites);
  lk_json_set_int(ctx, j, "parameters", c.parameters);
  return print_line(ctx, j);
}

static lk_status print_matches(lk_model *model, const settings *s, const char *head) {
  lk_ctx *ctx = lk_model_ctx(model);
  run_attachment a;
  lk_status bad = run_attachment_new(ctx, &s->run, head, &a);
  if (!bad) bad = run_attachment_check(model, &a);
  char *text = bad ? NULL : lk_attach_dry_run(model, &a.options);
  if (text) fputs(text, stdout);
  lk_free(ctx, text);
  run_attachment_free(ctx, &a);
  return lk_error(ctx, NULL);
}

/* Counting and match tables, on a model without memory. */
static lk_status look(lk_ctx *ctx, const settings *s) {
  run_model m = {0};
  lk_model *shapes = s->shapes ? count_read_shapes(ctx, s->shapes) : NULL;
  if (!s->shapes) run_open(ctx, s->model, 0, LK_SHAPES_ONLY, &m);
  lk_model *model = shapes ? shapes : m.model;
  const char *head = m.vit ? m.vit->head->module.path : NULL;
  if (!lk_error(ctx, NULL)) s->count ? print_count(model, s, head) : print_matches(model, s, head);
  lk_model_free(shapes);
  run_close(&m);
  return lk_error(ctx, NULL);
}

static lk_status list_adapters(lk_ctx *ctx) {
  char *text = lk_adapter_catalogue(ctx, 0);
  if (text) fputs(text, stdout);
  lk_free(ctx, text);
  return lk_error(ctx, NULL);
}

static lk_status work(lk_ctx *ctx, settings *s) {
  if (s->list_adapters) return list_adapters(ctx);
  if (refuse(ctx, s)) return lk_error(ctx, NULL);
  return s->count || s->dry_run ? look(ctx, s) : tune(ctx, s);
}

static int help(const option_group *groups) {
  printf("Usage: " NAME " --model NAME [options]\n"
         "Fine-tunes a vision transformer on images: with an adapter, whole, or its head alone.\n");
  options_help(groups, stdout);
  return fflush(stdout) || ferror(stdout);
}

int main(int argc, char **argv) {
  memory counter = {0, 0};
  settings s = {.run = run_defaults(), .source = run_source_defaults()};
  const option_group groups[] = {{"Model", model_options, &s},
                                 {"Images", run_source_options, &s.source},
                                 {"What trains", run_method_options, &s.run},
                                 {"Training", run_training_options, &s.run},
                                 {"Output", output_options, &s},
                                 {"Instead of training", mode_options, &s},
                                 {0}};
  options_outcome outcome = options_parse(NAME, groups, argc, argv);
  if (outcome == OPTIONS_HELP) return help(groups);
  if (outcome == OPTIONS_WRONG) return 1;
  if (s.version) return printf(NAME " (lorikeet) " LK_VERSION "\n") < 0 || fflush(stdout);
  signal(SIGXFSZ, SIG_IGN); /* a file that grows too large is an error like a full disk */
  lk_allocator allocator = memory_allocator(&counter);
  s.run.progress = stderr;
  s.run.memory = &counter;
  lk_ctx *ctx = lk_ctx_new(&(lk_ctx_options){&allocator, (uint64_t)s.seed, (int)s.threads});
  const char *message = "out of memory";
  lk_status bad = ctx ? work(ctx, &s) : LK_ENOMEM;
  if (ctx) print_warnings(ctx);
  if (!bad && (fflush(stdout) || ferror(stdout))) bad = lk_fail(ctx, LK_EIO, "cannot write to standard output");
  if (ctx) lk_error(ctx, &message);
  if (bad) fprintf(stderr, NAME ": %s\n", message);
  lk_ctx_free(ctx);
  return bad ? 1 : s.stopped ? 130 : 0;
}
