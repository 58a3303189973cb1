/* claims_quality.c: what training gives: LoRA-drop with half of LoRA's parameters, MLAE's masks, the structure search.
 *
 * Every run begins with the same small vision transformer, pretrained on drawn digits, and adapts it to other images.
 * Validation images choose (the best epoch, structures); accuracies are of test images. */
#include "claims.h"
#include "run_procedure.h"

#include <math.h>
#include <string.h>

/* A context of its own for every run, with the model and the images. */
typedef struct trial {
  lk_ctx *ctx;
  run_model m;
  run_data data;
  run_options train;
  run_result result;
} trial;

static int open_trial(const claims *o, const char *model, const char *adapter, int64_t seed, trial *t) {
  run_source source = o->source;
  *t = (trial){.train = o->train};
  source.seed = (uint64_t)seed + 1;
  t->train.adapter = adapter;
  t->train.full = !adapter;
  t->train.label = adapter ? adapter : "pretrain";
  t->ctx = lk_ctx_new(&(lk_ctx_options){.seed = source.seed, .threads = (int)o->threads});
  return !t->ctx || run_open(t->ctx, model, 0, 0, &t->m) ||
         run_data_open(t->ctx, &source, t->m.vit->config.image_size, &t->data) || run_prepare(&t->m, &t->train);
}

/* 0, or 1 after saying what went wrong. */
static int close_trial(trial *t) {
  const char *message = "out of memory";
  int failed = !t->ctx || lk_error(t->ctx, &message);
  if (failed) fprintf(stderr, "claims: %s\n", message);
  if (t->ctx) {
    run_result_free(t->ctx, &t->result);
    run_data_close(&t->data);
    run_close(&t->m);
  }
  lk_ctx_free(t->ctx);
  return failed;
}

static double percent(trial *t, const lk_dataset *d) {
  run_score score = {0, 0};
  run_evaluate(&t->m, d, NULL, &score);
  return 100 * score.accuracy;
}

/* ---- the model that is adapted ---- */

static int pretrain(const claims *o) {
  claims drawn = *o;
  trial t;
  drawn.source = run_source_defaults();
  drawn.source.train = 8000;
  drawn.train = run_defaults();
  drawn.train.epochs = 8;
  drawn.train.progress = stderr;
  if (!open_trial(&drawn, "vit-tiny-28", NULL, 0, &t) && !run_train(&t.m, &t.data, &t.train, &t.result))
    run_save(&t.m, o->model);
  return close_trial(&t);
}

static int is_there(const claims *o) {
  char path[1024];
  snprintf(path, sizeof path, "%s/config.json", o->model);
  return lk_file_exists(path);
}

/* ---- one method ---- */

typedef struct outcome {
  double accuracy, similarity; /* means over the seeds */
  int64_t trained;             /* of the adapter, the head left out */
} outcome;

static double similarity(trial *t) {
  int sites;
  return lk_method_similarity(lk_adapter_find(t->m.model, "default")->chain, &sites);
}

static int run_method(const claims *o, const char *adapter, outcome *out) {
  int failed = 0;
  *out = (outcome){0, 0, 0};
  for (int64_t seed = 0; seed < o->seeds && !failed; seed++) {
    trial t;
    if (!open_trial(o, o->model, adapter, seed, &t) && !run_train(&t.m, &t.data, &t.train, &t.result)) {
      out->accuracy += percent(&t, t.data.test) / (double)o->seeds;
      if (!strncmp(adapter, "mlae", 4)) out->similarity += similarity(&t) / (double)o->seeds;
      out->trained = lk_adapter_count(t.m.model, "default");
    }
    failed = close_trial(&t);
  }
  if (!failed)
    printf("  %-36s %6.2f %%  %7lld trained, with the head\n", adapter, out->accuracy, (long long)out->trained);
  fflush(stdout);
  return failed;
}

/* ---- claims ---- */

static int lora_drop(const claims *o) {
  outcome lora, drop;
  char spec[80];
  snprintf(spec, sizeof spec, "lora_drop keep_n=%lld (%s)", (long long)o->keep, RUN_ADAPTER);
  if (run_method(o, RUN_ADAPTER, &lora) || run_method(o, spec, &drop)) return 1;
  claim_say(drop.accuracy >= lora.accuracy - .5,
            "the idea: the layers that add little to what the model computes do well with one LoRA together",
            "LoRA-drop is within 0.5 points of LoRA: %+.2f with %.0f %% of the parameters",
            drop.accuracy - lora.accuracy, 100 * (double)drop.trained / (double)lora.trained);
  return 0;
}

static int mlae(const claims *o) {
  outcome plain, masked;
  if (run_method(o, "mlae r=8", &plain) || run_method(o, "mlae r=8 p=0.3", &masked)) return 1;
  claim_say(masked.similarity < plain.similarity,
            "the idea: an expert that is left out at times cannot rely on the others: each learns its own part",
            "MLAE's masks make experts less alike: mean |cosine| %.4f with p=0.3, %.4f without (accuracy %+.2f points)",
            masked.similarity, plain.similarity, masked.accuracy - plain.accuracy);
  return 0;
}

static int64_t cost(void *model, const int *genome) { return lk_adapter_choice_cost(model, "default", genome); }

/* The best structure on validation images among those that a search asks for; percent. */
static double search(trial *t, int n, const int *choices, const lk_search_options *o, int *winner, int *evaluated) {
  lk_search *s = lk_search_new(t->ctx, n, choices, cost, t->m.model, o);
  double best = 0;
  const int *genome;
  while (s && (genome = lk_search_ask(s)) && !lk_adapter_choose(t->m.model, "default", genome))
    if (lk_search_tell(s, percent(t, t->data.validation))) break;
  genome = s ? lk_search_best(s, &best, NULL) : NULL;
  *evaluated = s ? lk_search_evaluated(s) : 0;
  if (genome) memcpy(winner, genome, (size_t)n * sizeof *winner);
  lk_search_free(s);
  return best;
}

static double tested(trial *t, const int *genome) {
  return lk_adapter_choose(t->m.model, "default", genome) ? NAN : percent(t, t->data.test);
}

/* Evolution against as many random structures of the same supernet, and on the same budget of parameters. */
static void searches(trial *t) {
  int n = lk_adapter_genes(t->m.model, "default", NULL), evaluated, drawn;
  int *choices = lk_alloc_array(t->ctx, 3 * (size_t)n, sizeof *choices);
  if (!choices) return;
  lk_search_options evolve = lk_search_defaults();
  evolve.population = (int)t->train.population;
  evolve.mutation = evolve.crossover = (evolve.population + 1) / 2;
  evolve.generations = (int)t->train.generations;
  evolve.final_rank = 1;
  evolve.cost_max = t->train.parameter_limit;
  lk_adapter_genes(t->m.model, "default", choices);
  int *found = choices + n, *lucky = found + n;
  double best = search(t, n, choices, &evolve, found, &evaluated);
  lk_search_options random = evolve;
  random.population = evaluated;
  random.generations = 0;
  random.seed = evolve.seed + 1; /* other structures than those that evolution began with */
  double luck = search(t, n, choices, &random, lucky, &drawn);
  if (!lk_error(t->ctx, NULL))
    claim_say(best >= luck,
              "the idea: children of good structures are better than random ones, where structures differ by more than "
              "chance",
              "search's winner is no worse than the best of as many random structures: validation %.2f %% against "
              "%.2f %% (%d and %d structures of %d genes; test %.2f against %.2f)",
              best, luck, evaluated, drawn, n, tested(t, found), tested(t, lucky));
  lk_free(t->ctx, choices);
}

static int glora(const claims *o) {
  int failed = 0;
  for (int64_t seed = 0; seed < o->seeds && !failed; seed++) {
    trial t;
    if (!open_trial(o, o->model, "glora r=4 supernet=1", seed, &t)) {
      run_task *task = run_images_new(&t.m, &t.data);
      t.train.epochs *= 4; /* a step trains one structure of many */
      if (task && !run_loop(task, &t.train, &t.result)) searches(&t);
      run_images_free(task);
    }
    failed = close_trial(&t);
  }
  return failed;
}

int claims_quality(const claims *o) {
  if (!is_there(o) && pretrain(o)) return 1;
  printf("%s, %lld training images, %lld epochs, means of %lld seeds\n",
         o->source.directory ? "real images" : o->source.domain, (long long)o->source.train, (long long)o->train.epochs,
         (long long)o->seeds);
  return lora_drop(o) || mlae(o) || glora(o);
}
