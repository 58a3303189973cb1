/* run_procedure.c: what some adapters want before training (LoRA-drop: which layers matter) or after it (a search for
 * the best structure).  Both see training and validation images only. */
#include "run_procedure.h"

#include "run_resume.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static int stopped(const run_options *o) { return o->stop && *o->stop; }

/* ---- before: importance ---- */

/* A short training on a sample that is balanced over the classes, a pass over it, and the selection. */
static lk_status select_layers(run_model *m, const run_data *data, const run_options *o) {
  int64_t n = (int64_t)(o->sample * (double)data->train->count);
  run_data part = {.train = lk_dataset_limit(data->train, n > 0 ? n : 1, lk_seed(m->ctx))};
  run_options warm = *o;
  run_result result = {0};
  run_score score;
  warm.epochs = o->warm_epochs;
  warm.directory = NULL;
  warm.resume = 0;
  warm.label = "sample";
  if (part.train && !run_loop(m, &part, &warm, &result) && !stopped(o) && !lk_adapter_phase(m->model, "importance") &&
      !run_evaluate(m, part.train, NULL, &score))
    lk_adapter_phase(m->model, "select");
  run_result_free(m->ctx, &result);
  lk_dataset_free(part.train);
  return lk_error(m->ctx, NULL);
}

/* ---- after: structure ---- */

static int64_t cost(void *model, const int *genome) { return lk_adapter_choice_cost(model, "default", genome); }

typedef struct {
  run_model *m;
  const run_data *data;
  const run_options *o;
  int ngenes, *choices;
  lk_search_options options;
  char *file; /* where the search stands; NULL without a directory */
} structure;

static lk_search *open_search(const structure *s) {
  lk_ctx *c = s->m->ctx;
  if (s->file && s->o->resume && lk_file_exists(s->file))
    return lk_search_load(c, s->ngenes, s->choices, cost, s->m->model, &s->options, s->file);
  return lk_search_new(c, s->ngenes, s->choices, cost, s->m->model, &s->options);
}

/* Accuracy on validation images of each structure that the search asks for. */
static void search(const structure *s, lk_search *search) {
  lk_bar bar = {.to = s->o->progress, .label = "search", .unit = "structures", .per_step = 1};
  double best = 0;
  bar.total = lk_search_most(search);
  bar.first = lk_search_evaluated(search);
  lk_bar_start(&bar);
  for (const int *genome; !stopped(s->o) && (genome = lk_search_ask(search));) {
    run_score score;
    if (lk_adapter_choose(s->m->model, "default", genome) || run_evaluate(s->m, s->data->validation, NULL, &score) ||
        lk_search_tell(search, score.accuracy))
      break;
    lk_search_best(search, &best, NULL);
    lk_bar_update(&bar, lk_search_evaluated(search), "best %.2f %%", 100 * best);
    if (s->file && lk_search_evaluated(search) % s->options.population == 0 && lk_search_save(search, s->file)) break;
  }
  lk_bar_finish(&bar);
  if (s->file && stopped(s->o)) lk_search_save(search, s->file);
}

static lk_status find_structure(run_model *m, const run_data *data, const run_options *o, run_result *result) {
  lk_ctx *c = m->ctx;
  structure s = {.m = m, .data = data, .o = o, .ngenes = lk_adapter_genes(m->model, "default", NULL)};
  if (!data->validation || !data->validation->count)
    return lk_fail(c, LK_EARG, "the adapter's structure is chosen on validation images, and there are none");
  s.options = lk_search_defaults();
  s.options.population = (int)o->population;
  s.options.mutation = s.options.crossover = (int)(o->population + 1) / 2;
  s.options.generations = (int)o->generations;
  s.options.cost_max = o->parameter_limit;
  s.options.final_rank = 1;
  s.options.seed = lk_seed(c);
  s.choices = lk_alloc_array(c, (size_t)s.ngenes, sizeof *s.choices);
  s.file = o->directory ? lk_sprintf(c, "%s/search.safetensors", o->directory) : NULL;
  if (s.choices && !lk_error(c, NULL)) lk_adapter_genes(m->model, "default", s.choices);
  lk_search *k = s.choices && !lk_error(c, NULL) ? open_search(&s) : NULL;
  if (k) search(&s, k);
  result->stopped = stopped(o);
  const int *winner = k && !lk_error(c, NULL) && !result->stopped ? lk_search_best(k, NULL, NULL) : NULL;
  if (winner && !lk_adapter_choose(m->model, "default", winner) && !lk_adapter_settle(m->model, "default")) {
    result->trainable = lk_trainable_count(m->model);
    if (s.file && unlink(s.file) && errno != ENOENT) lk_warn(c, "%s: cannot remove: %s", s.file, strerror(errno));
  }
  lk_search_free(k);
  lk_free(c, s.choices);
  lk_free(c, s.file);
  return lk_error(c, NULL);
}

/* ---- all of it ---- */

lk_status run_train(run_model *m, const run_data *data, const run_options *o, run_result *result) {
  *result = (run_result){0};
  int chosen = run_resumes(m->ctx, o); /* what a checkpoint holds was selected before */
  if (!chosen && lk_adapter_has_phase(m->model, "importance") && select_layers(m, data, o))
    return lk_error(m->ctx, NULL);
  if (run_loop(m, data, o, result) || !lk_adapter_find(m->model, "default")) return lk_error(m->ctx, NULL);
  if (!result->stopped && lk_adapter_genes(m->model, "default", NULL)) find_structure(m, data, o, result);
  if (!lk_error(m->ctx, NULL)) result->notes = lk_adapter_notes(m->model, "default");
  return lk_error(m->ctx, NULL);
}

void run_result_free(lk_ctx *ctx, run_result *result) {
  lk_free(ctx, result->losses);
  lk_free(ctx, result->notes);
  *result = (run_result){0};
}
