/* run.c: the training loop of any task: the best parameters at its end, checkpoints on its way. */
#include "run_procedure.h"
#include "run_resume.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct run {
  run_task *task;
  lk_ctx *ctx;
  const run_options *o;
  run_result *result;
  lk_tape *tape;
  lk_optim *optim;
  lk_schedule schedule;
  lk_progress at;
  lk_snapshot *best; /* of the parameters at step at.best_step */
  lk_metrics *metrics;
  lk_bar bar;
  char *note, *checkpoint, *best_file, *metrics_file; /* NULL without a directory */
  double *times;                                      /* ms, of the steps done now */
  size_t nlosses, losses_capacity, times_capacity;
} run;

double run_now(void) {
  struct timespec t = {0, 0};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- numbers that went wrong ---- */

/* The largest value so far; infinities and NaN count as the largest. */
static void look_for_largest(const lk_param *p, const lk_param **worst, double *largest) {
  for (int64_t i = 0, n = p->value.p ? lk_param_count(p) : 0; i < n && !(*worst && !isfinite(*largest)); i++) {
    double x = fabs(lk_view_get(&p->value, i));
    if (*worst && x <= *largest) continue;
    *worst = p;
    *largest = x;
  }
}

/* Names the tensor that made the loss infinite or not a number. */
static lk_status not_finite(run *r, double loss) {
  const lk_param *worst = NULL;
  double largest = 0;
  int n;
  lk_module *root = lk_model_root(r->task->model);
  for (lk_module *m = root; m; m = lk_module_walk(root, m))
    for (const lk_param *p = m->params; p; p = p->next) look_for_largest(p, &worst, &largest);
  lk_param **trained = lk_trainable(r->task->model, &n);
  for (int i = 0; trained && i < n; i++) look_for_largest(trained[i], &worst, &largest);
  lk_free(r->ctx, trained);
  return lk_fail(r->ctx, LK_ENONFINITE, "step %lld: the loss is %g; %s holds %g%s", (long long)r->at.step + 1, loss,
                 worst->name, largest, isfinite(largest) ? ", the largest value of all; a smaller --lr may help" : "");
}

/* ---- a step ---- */

/* Examples from .. from + n - 1 of a batch: adds the gradients of their share of its loss, which is returned. */
static double train_part(run *r, int64_t from, int64_t n) {
  lk_tape *t = r->tape;
  lk_tape_reset(t);
  lk_train(t, (uint64_t)r->at.step, (uint64_t)from);
  lk_tensor loss = r->task->class->loss(r->task, t, from, n);
  loss = lk_plus(t, loss, lk_adapter_loss(r->task->model, t));
  loss = lk_scale(t, loss, r->task->class->weight(r->task, from, n));
  lk_backward(t, loss);
  return lk_item(t, loss);
}

static lk_status train_step(run *r, int64_t batch, double *loss) {
  int64_t part = (batch + r->o->accumulate - 1) / r->o->accumulate;
  *loss = 0;
  for (int64_t from = 0; from < batch; from += part)
    *loss += train_part(r, from, from + part < batch ? part : batch - from);
  if (!isfinite(*loss)) return not_finite(r, *loss);
  lk_optim_set_lr(r->optim, lk_schedule_lr(&r->schedule, r->at.step));
  return lk_step(r->optim);
}

/* ---- an epoch ---- */

double run_selection(const run_score *s) {
  return isnan(s->accuracy) ? -s->loss : s->accuracy - 1e-9 * fmin(s->loss, 1e3);
}

static lk_status write_checkpoint(run *r) {
  if (!r->checkpoint) return LK_OK;
  return lk_checkpoint_save(r->task->model, r->optim, &r->at, r->note, r->checkpoint);
}

/* Will a search choose the structure?  Then the best step of what is judged now would not be the winner's. */
static int is_open(lk_model *m) { return lk_adapter_find(m, "default") && lk_adapter_genes(m, "default", NULL) > 0; }

static lk_status keep_if_best(run *r, const run_score *score) {
  int too_early = !lk_adapter_is_final(r->task->model, r->at.step) || is_open(r->task->model);
  if (too_early || (r->at.best_step && run_selection(score) <= r->at.best)) return LK_OK;
  r->at.best = run_selection(score);
  r->at.best_step = r->at.step;
  lk_snapshot_take(r->best);
  return r->best_file ? lk_checkpoint_save(r->task->model, NULL, &r->at, r->note, r->best_file) : LK_OK;
}

static void show_epoch(run *r, const run_score *score) {
  if (!r->o->progress) return;
  lk_bar_clear(&r->bar);
  fprintf(r->o->progress, "%s  epoch %lld/%lld  loss %.4f", r->bar.label, (long long)r->at.cursor.epoch,
          (long long)r->o->epochs, r->nlosses ? r->result->losses[r->nlosses - 1] : NAN);
  if (r->best && isnan(score->accuracy)) fprintf(r->o->progress, "  validation loss %.4f", score->loss);
  else if (r->best) fprintf(r->o->progress, "  validation %.2f %%", 100 * score->accuracy);
  if (r->best && r->at.best_step == r->at.step) fputs("  (best)", r->o->progress);
  fputc('\n', r->o->progress);
}

static lk_status end_epoch(run *r) {
  run_score score = {0, 0};
  r->at.cursor = r->task->class->cursor(r->task);
  if (r->best) {
    if (r->task->class->evaluate(r->task, RUN_VALIDATION, NULL, &score) || keep_if_best(r, &score))
      return lk_error(r->ctx, NULL);
  }
  if (r->metrics) {
    lk_metrics_int(r->metrics, "step", r->at.step);
    lk_metrics_int(r->metrics, "epoch", r->at.cursor.epoch);
    if (r->best && !isnan(score.accuracy)) lk_metrics_real(r->metrics, "validation_accuracy", score.accuracy);
    if (r->best) lk_metrics_real(r->metrics, "validation_loss", score.loss);
    lk_metrics_end(r->metrics);
  }
  show_epoch(r, &score);
  return write_checkpoint(r);
}

static lk_status note_step(run *r, double loss, double ms) {
  size_t n = r->nlosses + 1;
  if (lk_grow(r->ctx, &r->result->losses, &r->losses_capacity, n, sizeof(double))) return lk_error(r->ctx, NULL);
  if (lk_grow(r->ctx, &r->times, &r->times_capacity, n, sizeof(double))) return lk_error(r->ctx, NULL);
  r->result->losses[n - 1] = loss;
  r->times[n - 1] = ms;
  r->nlosses = n;
  lk_bar_update(&r->bar, r->at.step, "loss %.4f", loss);
  if (!r->metrics) return LK_OK;
  lk_metrics_int(r->metrics, "step", r->at.step);
  lk_metrics_real(r->metrics, "loss", loss);
  lk_metrics_real(r->metrics, "lr", lk_optim_lr(r->optim));
  lk_metrics_real(r->metrics, "grad_norm", lk_grad_norm(r->optim));
  return lk_metrics_end(r->metrics);
}

static int stopped(const run *r) { return r->o->stop && *r->o->stop; }

/* The steps of one epoch, from where the cursor stands.  A stop is obeyed between steps, never at the epoch's end. */
static lk_status train_epoch(run *r) {
  double loss;
  for (int64_t batch; (batch = r->task->class->next(r->task)) > 0;) {
    double start = run_now();
    if (isnan(r->result->first_step_seconds) && r->o->started > 0)
      r->result->first_step_seconds = start - r->o->started;
    if (train_step(r, batch, &loss)) return lk_error(r->ctx, NULL);
    r->at.step++;
    r->at.cursor = r->task->class->cursor(r->task);
    r->result->step_mb = fmax(r->result->step_mb, (double)lk_tape_statistics(r->tape).peak / 1e6);
    if (note_step(r, loss, 1e3 * (run_now() - start))) return lk_error(r->ctx, NULL);
    if (r->at.cursor.position >= r->task->class->examples(r->task, RUN_TRAIN)) continue;
    if (stopped(r)) return write_checkpoint(r);
    if (r->o->save_every && r->at.step % r->o->save_every == 0 && write_checkpoint(r)) return lk_error(r->ctx, NULL);
  }
  return lk_error(r->ctx, NULL) ? lk_error(r->ctx, NULL) : end_epoch(r);
}

/* ---- beginning ---- */

static void make_optimiser(run *r) {
  lk_optim_options o = lk_optim_defaults(&lk_optim_adamw);
  int n;
  lk_param **trained = lk_trainable(r->task->model, &n);
  o.lr = run_lr(r->o);
  o.weight_decay = r->o->weight_decay;
  o.clip_norm = r->o->clip;
  if (trained) r->optim = lk_optim_new(r->ctx, &lk_optim_adamw, &o, trained, n);
  if (r->optim && r->o->loraplus > 0) lk_optim_loraplus(r->optim, r->o->loraplus, 1e-6);
  lk_free(r->ctx, trained);
  int64_t examples = r->task->class->examples(r->task, RUN_TRAIN);
  int64_t total = r->o->epochs * ((examples + r->o->batch - 1) / r->o->batch);
  if (r->optim && !lk_adapter_follow(r->task->model, r->optim)) lk_adapter_plan(r->task->model, total);
  r->schedule =
      (lk_schedule){(lk_schedule_kind)r->o->schedule, o.lr, (int64_t)(r->o->warmup * (double)total), total, 0};
}

static lk_status remove_file(run *r, const char *path) {
  if (!unlink(path) || errno == ENOENT) return LK_OK;
  return lk_fail(r->ctx, LK_EIO, "%s: cannot remove: %s", path, strerror(errno));
}

/* Best parameters first, then those of the checkpoint over them. */
static lk_status resume(run *r) {
  lk_progress best = {0};
  if (run_check_note(r->ctx, r->checkpoint, r->note)) return lk_error(r->ctx, NULL);
  if (r->best && lk_file_exists(r->best_file)) {
    if (lk_checkpoint_load(r->task->model, NULL, &best, r->note, r->best_file)) return lk_error(r->ctx, NULL);
    lk_snapshot_take(r->best);
  }
  if (lk_checkpoint_load(r->task->model, r->optim, &r->at, r->note, r->checkpoint)) return lk_error(r->ctx, NULL);
  /* a best of a later step is of a killed run: this one will come to it again */
  if (best.best_step < r->at.best_step)
    return lk_fail(r->ctx, LK_EFORMAT, "%s holds step %lld, %s needs step %lld", r->best_file,
                   (long long)best.best_step, r->checkpoint, (long long)r->at.best_step);
  if (r->task->class->seek(r->task, r->at.cursor)) return lk_error(r->ctx, NULL);
  return run_cut_metrics(r->ctx, r->metrics_file, r->at.step);
}

static lk_status name_files(run *r) {
  const char *d = r->o->directory;
  if (!d || lk_make_dirs(r->ctx, d)) return lk_error(r->ctx, NULL);
  r->note = run_note(r->task, r->o);
  r->checkpoint = lk_sprintf(r->ctx, "%s/checkpoint.safetensors", d);
  r->best_file = lk_sprintf(r->ctx, "%s/best.safetensors", d);
  r->metrics_file = lk_sprintf(r->ctx, "%s/metrics.jsonl", d);
  return lk_error(r->ctx, NULL);
}

static lk_status open_files(run *r) {
  if (!r->checkpoint) return LK_OK;
  int go_on = run_resumes(r->ctx, r->o);
  if (r->o->resume && !go_on) lk_warn(r->ctx, "there is no %s: the run begins at its first step", r->checkpoint);
  if (go_on ? resume(r) : remove_file(r, r->checkpoint) || remove_file(r, r->best_file)) return lk_error(r->ctx, NULL);
  r->metrics = lk_metrics_open(r->ctx, r->metrics_file, go_on);
  return lk_error(r->ctx, NULL);
}

static lk_status begin(run *r) {
  const run_task_class *class = r->task->class;
  if (class->check(r->task)) return lk_error(r->ctx, NULL);
  r->result->trainable = lk_trainable_count(r->task->model);
  r->result->parameters = lk_parameter_count(r->task->model);
  r->tape = lk_tape_new(r->ctx);
  if (name_files(r)) return lk_error(r->ctx, NULL);
  if (run_resumes(r->ctx, r->o)) lk_checkpoint_load_structure(r->task->model, r->checkpoint);
  if (!lk_error(r->ctx, NULL) && !class->start(r->task, r->o)) make_optimiser(r);
  if (!lk_error(r->ctx, NULL) && class->examples(r->task, RUN_VALIDATION)) r->best = lk_snapshot_new(r->task->model);
  if (!lk_error(r->ctx, NULL)) open_files(r);
  r->bar = (lk_bar){.to = r->o->progress, .label = r->o->label ? r->o->label : "train", .unit = class->unit};
  r->bar.per_step = (double)r->o->batch;
  r->bar.total = r->schedule.total;
  r->bar.first = r->at.step;
  lk_bar_start(&r->bar);
  return lk_error(r->ctx, NULL);
}

/* ---- all of it ---- */

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *x, size_t n) {
  if (!n) return NAN;
  qsort(x, n, sizeof *x, ascending);
  return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

static void release(run *r) {
  lk_metrics_close(r->metrics);
  lk_snapshot_free(r->best);
  lk_optim_free(r->optim);
  r->task->class->finish(r->task);
  lk_tape_free(r->tape);
  lk_free(r->ctx, r->note);
  lk_free(r->ctx, r->checkpoint);
  lk_free(r->ctx, r->best_file);
  lk_free(r->ctx, r->metrics_file);
  lk_free(r->ctx, r->times);
}

lk_status run_loop(run_task *t, const run_options *o, run_result *result) {
  run r = {.task = t, .ctx = t->ctx, .o = o, .result = result};
  double start = run_now();
  *result = (run_result){.first_step_seconds = NAN};
  if (o->memory) o->memory->peak = o->memory->live;
  int ready = !begin(&r);
  while (ready && !lk_error(r.ctx, NULL) && r.at.cursor.epoch < o->epochs && !stopped(&r)) train_epoch(&r);
  result->stopped = r.at.cursor.epoch < o->epochs;
  if (ready) lk_bar_finish(&r.bar);
  if (ready && !lk_error(r.ctx, NULL) && r.at.best_step && !result->stopped) lk_snapshot_restore(r.best);
  result->steps = r.at.step;
  result->best_step = r.at.best_step;
  result->nlosses = (int64_t)r.nlosses;
  result->step_ms = median(r.times, r.nlosses);
  result->seconds = run_now() - start;
  result->peak_mb = o->memory ? (double)o->memory->peak / 1e6 : NAN;
  release(&r);
  return lk_error(r.ctx, NULL);
}
