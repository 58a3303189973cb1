/* run_procedure.c: what some adapters want before training (LoRA-drop: which layers matter) or after it (a search for
 * the best structure).  Both see training and validation examples only. */
#include "run_procedure.h"

#include "run_resume.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

static int stopped(const run_options *o) { return o->stop && *o->stop; }

/* ---- before: importance ---- */

/* A short training on a sample that is balanced over the classes, a pass over it, and the selection. */
static lk_status select_layers(run_task *t, const run_options *o) {
  int64_t n = (int64_t)(o->sample * (double)t->class->examples(t, RUN_TRAIN));
  run_options warm = *o;
  run_result result = {0};
  run_score score;
  warm.epochs = o->warm_epochs;
  warm.directory = NULL;
  warm.resume = 0;
  warm.label = "sample";
  if (!t->class->sample(t, n > 0 ? n : 1) && !run_loop(t, &warm, &result) && !stopped(o) &&
      !lk_adapter_phase(t->model, "importance") && !t->class->evaluate(t, RUN_TRAIN, NULL, &score))
    lk_adapter_phase(t->model, "select");
  run_result_free(t->ctx, &result);
  t->class->sample(t, 0);
  return lk_error(t->ctx, NULL);
}

/* ---- after: structure ---- */

static int64_t cost(void *model, const int *genome) { return lk_adapter_choice_cost(model, "default", genome); }

typedef struct {
  run_task *task;
  const run_options *o;
  int ngenes, *choices;
  lk_search_options options;
  char *file; /* where the search stands; NULL without a directory */
} structure;

static lk_search *open_search(const structure *s) {
  lk_ctx *c = s->task->ctx;
  if (s->file && s->o->resume && lk_file_exists(s->file))
    return lk_search_load(c, s->ngenes, s->choices, cost, s->task->model, &s->options, s->file);
  return lk_search_new(c, s->ngenes, s->choices, cost, s->task->model, &s->options);
}

/* What each structure that the search asks for scores on validation examples. */
static void search(const structure *s, lk_search *search) {
  lk_status (*evaluate)(run_task *, run_part, run_guess *, run_score *) = s->task->class->evaluate;
  lk_bar bar = {.to = s->o->progress, .label = "search", .unit = "structures", .per_step = 1};
  double best = 0;
  bar.total = lk_search_most(search);
  bar.first = lk_search_evaluated(search);
  lk_bar_start(&bar);
  for (const int *genome; !stopped(s->o) && (genome = lk_search_ask(search));) {
    run_score score;
    if (lk_adapter_choose(s->task->model, "default", genome) || evaluate(s->task, RUN_VALIDATION, NULL, &score) ||
        lk_search_tell(search, isnan(score.accuracy) ? -score.loss : score.accuracy))
      break;
    lk_search_best(search, &best, NULL);
    lk_bar_update(&bar, lk_search_evaluated(search), "best %.4f", best);
    if (s->file && lk_search_evaluated(search) % s->options.population == 0 && lk_search_save(search, s->file)) break;
  }
  lk_bar_finish(&bar);
  if (s->file && stopped(s->o)) lk_search_save(search, s->file);
}

static lk_status find_structure(run_task *t, const run_options *o, run_result *result) {
  lk_ctx *c = t->ctx;
  structure s = {.task = t, .o = o, .ngenes = lk_adapter_genes(t->model, "default", NULL)};
  if (!t->class->examples(t, RUN_VALIDATION))
    return lk_fail(c, LK_EARG, "the adapter's structure is chosen on validation %s, and there are none",
                   t->class->unit);
  s.options = lk_search_defaults();
  s.options.population = (int)o->population;
  s.options.mutation = s.options.crossover = (int)(o->population + 1) / 2;
  s.options.generations = (int)o->generations;
  s.options.cost_max = o->parameter_limit;
  s.options.final_rank = 1;
  s.options.seed = lk_seed(c);
  s.choices = lk_alloc_array(c, (size_t)s.ngenes, sizeof *s.choices);
  s.file = o->directory ? lk_sprintf(c, "%s/search.safetensors", o->directory) : NULL;
  if (s.choices && !lk_error(c, NULL)) lk_adapter_genes(t->model, "default", s.choices);
  lk_search *k = s.choices && !lk_error(c, NULL) ? open_search(&s) : NULL;
  if (k) search(&s, k);
  result->stopped = stopped(o);
  const int *winner = k && !lk_error(c, NULL) && !result->stopped ? lk_search_best(k, NULL, NULL) : NULL;
  if (winner && !lk_adapter_choose(t->model, "default", winner) && !lk_adapter_settle(t->model, "default")) {
    result->trainable = lk_trainable_count(t->model);
    if (s.file && unlink(s.file) && errno != ENOENT) lk_warn(c, "%s: cannot remove: %s", s.file, strerror(errno));
  }
  lk_search_free(k);
  lk_free(c, s.choices);
  lk_free(c, s.file);
  return lk_error(c, NULL);
}

/* ---- all of it ---- */

lk_status run_task_train(run_task *t, const run_options *o, run_result *result) {
  *result = (run_result){0};
  int chosen = run_resumes(t->ctx, o); /* what a checkpoint holds was selected before */
  if (!chosen && lk_adapter_has_phase(t->model, "importance") && select_layers(t, o)) return lk_error(t->ctx, NULL);
  if (run_loop(t, o, result) || !lk_adapter_find(t->model, "default")) return lk_error(t->ctx, NULL);
  if (!result->stopped && lk_adapter_genes(t->model, "default", NULL)) find_structure(t, o, result);
  if (!lk_error(t->ctx, NULL)) result->notes = lk_adapter_notes(t->model, "default");
  return lk_error(t->ctx, NULL);
}

void run_result_free(lk_ctx *ctx, run_result *result) {
  lk_free(ctx, result->losses);
  lk_free(ctx, result->notes);
  *result = (run_result){0};
}
