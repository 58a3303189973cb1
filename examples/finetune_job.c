/* finetune_job.c: what a job does, whatever its model: attach, train, judge, save, tell; or only count. */
#include "count.h"
#include "finetune.h"

#include <math.h>

static volatile sig_atomic_t interrupted;
static void interrupt(int number) { interrupted = number; }

static const job_class *class_of(lk_ctx *ctx, const settings *s) {
  return text_is_model(ctx, s->model) ? &text_job : &image_job;
}

/* ---- judging and saving ---- */

static lk_status judge(job *j, report *r) {
  const run_task_class *class = j->task->class;
  run_guess *guesses = lk_alloc_array(j->ctx, (size_t) class->examples(j->task, RUN_TEST) + 1, sizeof *guesses);
  for (int part = RUN_TRAIN; part <= RUN_TEST && guesses; part++) {
    run_guess *wanted = part == RUN_TEST && j->s->predict ? guesses : NULL;
    r->score[part] = (run_score){NAN, NAN};
    if (!class->examples(j->task, (run_part)part)) continue;
    if (class->evaluate(j->task, (run_part)part, wanted, &r->score[part])) break;
  }
  if (j->s->predict && !lk_error(j->ctx, NULL)) j->class->predict(j, guesses);
  lk_free(j->ctx, guesses);
  return lk_error(j->ctx, NULL);
}

/* Saves the model into a directory below --out. */
static lk_status save_model(job *j, const char *name) {
  char *directory = lk_sprintf(j->ctx, "%s/%s", j->s->out, name);
  if (directory) j->class->save(j, directory);
  lk_free(j->ctx, directory);
  return lk_error(j->ctx, NULL);
}

/* An adapter is of use with its base only, so one that was drawn here is saved, too. */
static lk_status save_adapter(job *j) {
  char *directory = lk_sprintf(j->ctx, "%s/adapter", j->s->out), *base = lk_sprintf(j->ctx, "%s/base", j->s->out);
  if (base && directory && j->fresh) j->class->save(j, base);
  if (base && directory && !lk_error(j->ctx, NULL) &&
      !lk_adapter_save(j->model, "default", directory, j->fresh ? base : j->s->model))
    j->class->save_names(j, directory);
  lk_free(j->ctx, directory);
  lk_free(j->ctx, base);
  return lk_error(j->ctx, NULL);
}

static lk_status save_as_lora(job *j) {
  char *directory = lk_sprintf(j->ctx, "%s/lora", j->s->out);
  if (directory) lk_adapter_export_lora(j->model, "default", directory, j->s->model);
  lk_free(j->ctx, directory);
  return lk_error(j->ctx, NULL);
}

static lk_status save(job *j, report *r) {
  const settings *s = j->s;
  if (!s->out) return LK_OK;
  if (!s->eval && (s->run.full || s->run.probe)) return save_model(j, "model");
  if (!s->eval && save_adapter(j)) return lk_error(j->ctx, NULL);
  if (s->as_lora && save_as_lora(j)) return lk_error(j->ctx, NULL);
  if (!s->merge || lk_merge(j->model, &r->merge)) return lk_error(j->ctx, NULL);
  return save_model(j, "merged");
}

/* ---- training ---- */

/* What will not work at the end is refused at the beginning: merging, a plain LoRA, and writing the predictions. */
static lk_status try(job *j) {
  if (j->s->merge && !lk_merge(j->model, NULL) && !j->class->can_save(j)) lk_unmerge(j->model);
  if (j->s->as_lora && !lk_error(j->ctx, NULL)) lk_adapter_can_export_lora(j->model, "default");
  if (j->s->predict) lk_writer_abort(lk_writer_open(j->ctx, j->s->predict));
  return lk_error(j->ctx, NULL);
}

static lk_status train(job *j, report *r) {
  settings *s = j->s;
  struct sigaction action = {.sa_handler = interrupt, .sa_flags = (int)SA_RESETHAND};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  s->run.stop = &interrupted;
  s->run.directory = s->out;
  report_warnings(j->ctx);
  run_task_train(j->task, &s->run, &r->train);
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  return lk_error(j->ctx, NULL);
}

/* An adapter's directory knows the classes that it was trained for. */
static lk_status read_labels(job *j) {
  settings *s = j->s;
  if (run_labels_read(j->ctx, s->run.adapter, &s->labels)) return lk_error(j->ctx, NULL);
  if (!s->labels.n && s->model) run_labels_read(j->ctx, s->model, &s->labels);
  s->source.labels = s->texts.labels = &s->labels;
  return lk_error(j->ctx, NULL);
}

static lk_status tune(job *j, report *r) {
  settings *s = j->s;
  if (read_labels(j) || j->class->load(j)) return lk_error(j->ctx, NULL);
  if (!s->eval || s->run.adapter) run_prepare_model(j->model, j->head, &s->run);
  if (!lk_error(j->ctx, NULL)) try(j);
  if (!lk_error(j->ctx, NULL) && !s->eval) train(j, r);
  if (lk_error(j->ctx, NULL) || r->train.stopped) return lk_error(j->ctx, NULL);
  if (s->eval) r->train.parameters = lk_parameter_count(j->model);
  if (judge(j, r) || save(j, r)) return lk_error(j->ctx, NULL);
  return report_print(j, r);
}

lk_status job_tune(lk_ctx *ctx, settings *s) {
  job j = {.class = class_of(ctx, s), .ctx = ctx, .s = s};
  report r = {0};
  if (!lk_error(ctx, NULL)) tune(&j, &r);
  s->stopped = r.train.stopped && !lk_error(ctx, NULL);
  if (s->stopped)
    fprintf(stderr, NAME ": interrupted after step %lld; %s\n", (long long)r.train.steps,
            s->out ? "--resume goes on from there" : "without --out nothing is kept");
  run_result_free(ctx, &r.train);
  run_labels_free(ctx, &s->labels);
  j.class->close(&j);
  return lk_error(ctx, NULL);
}

/* ---- looking ---- */

static lk_status print_count(lk_model *model, const settings *s, const char *head) {
  lk_ctx *ctx = lk_model_ctx(model);
  count c;
  if (count_adapter(model, &s->run, head, &c)) return lk_error(ctx, NULL);
  if (!s->json) {
    printf("sites %lld\nparameters %lld\n", (long long)c.sites, (long long)c.parameters);
    return LK_OK;
  }
  lk_json *json = lk_json_object(ctx);
  lk_json_set_int(ctx, json, "sites", c.sites);
  lk_json_set_int(ctx, json, "parameters", c.parameters);
  return report_line(ctx, json);
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

/* On a model without memory. */
lk_status job_look(lk_ctx *ctx, settings *s) {
  job j = {.class = class_of(ctx, s), .ctx = ctx, .s = s};
  lk_model *shapes = s->shapes ? count_read_shapes(ctx, s->shapes) : NULL;
  if (!s->shapes && !lk_error(ctx, NULL)) j.class->look(&j);
  lk_model *model = shapes ? shapes : j.model;
  if (!lk_error(ctx, NULL)) s->count ? print_count(model, s, j.head) : print_matches(model, s, j.head);
  lk_model_free(shapes);
  j.class->close(&j);
  return lk_error(ctx, NULL);
}
