/* claims_speed.c: steps of one linear layer with different adapters, side by side.
 *
 * A step is forward, backward (from a given gradient of the output) and AdamW.  The machine may be busy and its speed may
 * drift: two methods are timed in turn, a b, b a, a b, ..., and the ratio is the median over such pairs. */
#include "claims.h"

#include <stdlib.h>
#include <string.h>

enum { WARM_UP = 3 };

/* One layer with one adapter. */
typedef struct layer {
  const char *name, *spec; /* spec "": the frozen layer alone */
  lk_model *model;
  lk_linear_layer *linear;
  lk_optim *optim;
  lk_tape *tape;
  int64_t trained, steps;
} layer;

typedef struct bench {
  const claims *o;
  lk_ctx *ctx;
  double (*clock)(void);
  int64_t tokens;
  float *x, *gx, *gy;
  double *first, *second; /* times of the pairs */
} bench;

typedef struct ratio {
  double median, low, high; /* and quartiles */
  double first, second;     /* medians of the times, ms */
} ratio;

/* ---- one step ---- */

static lk_status layer_open(bench *b, layer *l) {
  lk_optim_options o = lk_optim_defaults(&lk_optim_adamw);
  int n = 0;
  o.lr = 1e-4;
  l->model = lk_model_new(b->ctx, LK_F32, 0);
  l->linear = l->model ? lk_linear_new(lk_model_root(l->model), "linear", b->o->dim, b->o->dim, 0) : NULL;
  l->tape = lk_tape_new(b->ctx);
  if (lk_error(b->ctx, NULL)) return lk_error(b->ctx, NULL);
  lk_set_requires_grad(lk_model_root(l->model), 0);
  if (!*l->spec) return LK_OK;
  if (lk_attach(l->model, "default", l->spec, "linear")) return lk_error(b->ctx, NULL);
  lk_adapter_plan(l->model, WARM_UP + b->o->pairs);
  lk_param **params = lk_trainable(l->model, &n);
  l->optim = params ? lk_optim_new(b->ctx, &lk_optim_adamw, &o, params, n) : NULL;
  lk_free(b->ctx, params);
  l->trained = lk_trainable_count(l->model);
  return l->optim ? lk_adapter_follow(l->model, l->optim) : lk_error(b->ctx, NULL);
}

static void layer_close(layer *l) {
  lk_tape_free(l->tape);
  lk_optim_free(l->optim);
  lk_model_free(l->model);
}

/* x as the output of a layer before, which wants its gradient. */
static lk_tensor input(bench *b, lk_tape *t) {
  lk_view v;
  lk_view_init(&v, LK_F32, 2, (int64_t[]){b->tokens, b->o->dim});
  v.p = b->x;
  return b->o->first ? lk_borrow(t, &v) : lk_leaf(t, &v, b->gx);
}

/* The loss: sum of y times a given matrix, and the adapter's own terms. */
static void train_step(bench *b, layer *l) {
  lk_tape *t = l->tape;
  lk_view v;
  lk_view_init(&v, LK_F32, 2, (int64_t[]){b->tokens, b->o->dim});
  v.p = b->gy;
  lk_tape_reset(t);
  lk_train(t, (uint64_t)l->steps++, 0);
  lk_tensor y = lk_linear_forward(l->linear, t, input(b, t));
  lk_tensor loss = lk_sum(t, lk_mul(t, y, lk_borrow(t, &v)), 0, NULL, 0);
  if (l->optim || !b->o->first) lk_backward(t, lk_plus(t, loss, lk_adapter_loss(l->model, t)));
  if (l->optim) lk_step(l->optim);
}

static void infer(bench *b, layer *l) {
  lk_tape_reset(l->tape);
  lk_no_grad(l->tape, 1);
  lk_linear_forward(l->linear, l->tape, input(b, l->tape));
}

static double seconds(bench *b, layer *l, void (*run)(bench *, layer *)) {
  double start = b->clock();
  run(b, l);
  return b->clock() - start;
}

/* ---- pairs ---- */

static ratio compare(bench *b, layer *first, layer *second, void (*run)(bench *, layer *)) {
  int64_t n = b->o->pairs;
  double *each = b->first + n, *other = b->second + n; /* the latter halves are room to sort in */
  for (int64_t i = 0; i < WARM_UP + n && !lk_error(b->ctx, NULL); i++) {
    int64_t k = i < WARM_UP ? 0 : i - WARM_UP;
    if (i % 2) b->second[k] = seconds(b, second, run);
    b->first[k] = seconds(b, first, run);
    if (i % 2 == 0) b->second[k] = seconds(b, second, run);
  }
  for (int64_t i = 0; i < n; i++) each[i] = b->first[i] / b->second[i];
  ratio r = {.median = measure_quantile(each, n, .5)};
  r.low = measure_quantile(each, n, .25), r.high = measure_quantile(each, n, .75);
  memcpy(each, b->first, (size_t)n * sizeof *each);
  memcpy(other, b->second, (size_t)n * sizeof *other);
  r.first = 1e3 * measure_quantile(each, n, .5), r.second = 1e3 * measure_quantile(other, n, .5);
  return r;
}

/* Two methods, and what the first one's step may take in steps of the second. */
typedef struct pair {
  const char *first, *first_spec, *second, *second_spec;
  double low, high;
  const char *claim, *why; /* NULL: just told */
} pair;

static void show(const layer *a, const layer *b, const ratio *r) {
  lk_tape_stats s = lk_tape_statistics(a->tape), base = lk_tape_statistics(b->tape);
  printf(
      "  %-21s %8.2f ms %4llu nodes %6.2f GFLOP %8lld trained; %-21s %8.2f ms, %.2f GFLOP; ratio %.3f (%.3f .. %.3f)\n",
      a->name, r->first, (unsigned long long)s.nodes, s.flops / 1e9, (long long)a->trained, b->name, r->second,
      base.flops / 1e9, r->median, r->low, r->high);
}

/* The ratio's median. */
static double measure_pair(bench *b, const pair *p) {
  ratio r = {0};
  layer first = {.name = p->first, .spec = p->first_spec}, second = {.name = p->second, .spec = p->second_spec};
  if (!layer_open(b, &first) && !layer_open(b, &second)) {
    r = compare(b, &first, &second, train_step);
    if (!lk_error(b->ctx, NULL)) show(&first, &second, &r);
    if (p->claim) claim_say(r.median >= p->low && r.median <= p->high, p->why, "%s: %.3f", p->claim, r.median);
  }
  layer_close(&first);
  layer_close(&second);
  return r.median;
}

/* ---- what is measured ---- */

#define LORA "LoRA r=8", "lora r=8 alpha=16"
#define LORA_64 "LoRA r=64", "lora r=64 alpha=128"
#define MOLORA "MoLoRA n=8 r=8", "molora n=8 r=8 k=2 dropout=0"
#define MALORA "MALoRA n=8 d=32 R=12", "malora n=8 d=32 R=12 k=2 dropout=0"
#define BASE "the frozen layer", ""

static const pair claimed[] = {
    {MOLORA, MALORA, 1.1, 1e9, "MoLoRA / MALoRA at least 1.1 (paper: 1.2)",
     "with gathered rows MoLoRA multiplies less than MALoRA, and both have the frozen layer's products and a router"},
    {"MoLoRA, all n compute", "molora n=8 r=8 soft=1 dropout=0", MALORA, 0, 0, NULL, NULL}, /* not what is claimed */
    {MALORA, LORA_64, 0, 1.15, "MALoRA / LoRA at most 1.15 (paper: 1.075)",
     "it multiplies less than LoRA with as many parameters, and moves rows of d numbers only"},
    {MOLORA, LORA_64, 0, 0, NULL, NULL},
    {"NEAT r=8", "neat r=8", LORA, 0, 1.15, "NEAT / LoRA at most 1.15",
     "A W0 costs as much as r tokens times the layer, and its backward once more: the fewer tokens, the more it shows"},
};

static const pair table[] = {{"DoRA", "lora r=8 alpha=16 | magnitude", LORA, 0, 0, NULL, NULL},
                             {"MLAE", "mlae r=8 p=0.5", LORA, 0, 0, NULL, NULL},
                             {"NEAT depth=1", "neat r=8 depth=1", LORA, 0, 0, NULL, NULL},
                             {"AdaLoRA", "adalora target_r=4 init_r=8", LORA, 0, 0, NULL, NULL},
                             {"GLoRA, B alone", "glora r=8 A=none C=none D=none E=none", LORA, 0, 0, NULL, NULL},
                             {"GLoRA", "glora r=8", LORA, 0, 0, NULL, NULL},
                             {"GLoRA supernet", "glora r=8 supernet=1", LORA, 0, 0, NULL, NULL},
                             {"LoRA-drop (sampling)", "lora_drop (lora r=8 alpha=16)", LORA, 0, 0, NULL, NULL},
                             {"IA3", "ia3", LORA, 0, 0, NULL, NULL},
                             {"MoLoRA n=4 r=8 soft", "molora n=4 r=8 soft=1 dropout=0", LORA, 0, 0, NULL, NULL}};

/* The frozen layer's products are in every method's step: without them. */
static void own_costs(bench *b) {
  static const pair of_molora = {MOLORA, BASE, 0, 0, NULL, NULL}, of_malora = {MALORA, BASE, 0, 0, NULL, NULL};
  double molora = measure_pair(b, &of_molora) - 1, malora = measure_pair(b, &of_malora) - 1;
  if (!lk_error(b->ctx, NULL))
    claim_say(molora >= 1.1 * malora,
              "MALoRA gathers, scatters and sums gradients of rows of d numbers, MoLoRA of whole ones",
              "what MoLoRA adds to the frozen layer's step / what MALoRA adds at least 1.1: %.2f", molora / malora);
}

/* The op count, the work and the time of a merged GLoRA and of a layer that never had an adapter. */
static void merged_glora(bench *b) {
  layer glora = {.name = "GLoRA, merged", .spec = "glora r=8 init=random"}, base = {.name = "base", .spec = ""};
  if (!layer_open(b, &glora) && !layer_open(b, &base) && !lk_merge(glora.model, NULL)) {
    ratio r = compare(b, &glora, &base, infer);
    lk_tape_stats m = lk_tape_statistics(glora.tape), s = lk_tape_statistics(base.tape);
    if (!lk_error(b->ctx, NULL)) show(&glora, &base, &r);
    claim_say(m.nodes == s.nodes && m.flops == s.flops && r.median > .95 && r.median < 1.05,
              "merging writes all five tensors into weight and bias; nothing of them is left to run",
              "merged GLoRA costs what the base does: %llu nodes and %llu, %.3f GFLOP and %.3f, time %.3f",
              (unsigned long long)m.nodes, (unsigned long long)s.nodes, m.flops / 1e9, s.flops / 1e9, r.median);
  }
  layer_close(&glora);
  layer_close(&base);
}

static void measure(bench *b) {
  printf("%lld tokens of %lld, %d threads, %s, %s: medians of %lld pairs, quartiles\n", (long long)b->tokens,
         (long long)b->o->dim, lk_threads(b->ctx), b->o->cpu ? "CPU time" : "wall time",
         b->o->first ? "first layer (no gradient of its input)" : "inner layer", (long long)b->o->pairs);
  double before = measure_sgemm(b->ctx, b->clock);
  for (size_t i = 0; i < sizeof claimed / sizeof *claimed && !lk_error(b->ctx, NULL); i++) measure_pair(b, &claimed[i]);
  if (!lk_error(b->ctx, NULL)) own_costs(b);
  if (!lk_error(b->ctx, NULL)) merged_glora(b);
  for (size_t i = 0; b->o->table && i < sizeof table / sizeof *table && !lk_error(b->ctx, NULL); i++)
    measure_pair(b, &table[i]);
  printf("  sgemm before and after: %.0f and %.0f GFLOP/s\n", before, measure_sgemm(b->ctx, b->clock));
}

static void fill(float *x, int64_t n, const char *name) {
  lk_key key = lk_key_make(1, name);
  for (int64_t i = 0; i < n; i++) x[i] = (float)lk_random_normal(key, (uint64_t)i);
}

static void run(bench *b) {
  size_t n = (size_t)(b->tokens * b->o->dim);
  b->x = lk_alloc_array(b->ctx, n, sizeof(float));
  b->gx = lk_alloc_array(b->ctx, n, sizeof(float));
  b->gy = lk_alloc_array(b->ctx, n, sizeof(float));
  if (!lk_error(b->ctx, NULL)) {
    fill(b->x, (int64_t)n, "x");
    fill(b->gy, (int64_t)n, "gy");
    measure(b);
  }
  lk_free(b->ctx, b->x);
  lk_free(b->ctx, b->gx);
  lk_free(b->ctx, b->gy);
}

/* The next of "512,1024"; 0 at the end, -1 when it is no number in [1, 65536]. */
static int64_t next_number(const char **at) {
  char *end;
  if (!**at) return 0;
  long n = strtol(*at, &end, 10);
  if (end == *at || (*end && *end != ',') || n < 1 || n > 1 << 16) return -1;
  *at = end + (*end == ',');
  return n;
}

int claims_speed(const claims *o) {
  const char *message, *at = o->tokens;
  bench b = {.o = o,
             .clock = o->cpu ? measure_cpu : measure_now,
             .ctx = lk_ctx_new(&(lk_ctx_options){.threads = (int)o->threads})};
  if (!b.ctx) return fputs("claims: out of memory\n", stderr), 1;
  b.first = lk_alloc_array(b.ctx, 2 * (size_t)o->pairs, sizeof(double));
  b.second = lk_alloc_array(b.ctx, 2 * (size_t)o->pairs, sizeof(double));
  while (!lk_error(b.ctx, NULL) && (b.tokens = next_number(&at))) {
    if (b.tokens < 0) lk_fail(b.ctx, LK_EARG, "--tokens %s: want numbers in [1, 65536] with commas between", o->tokens);
    else run(&b);
  }
  lk_free(b.ctx, b.first);
  lk_free(b.ctx, b.second);
  int failed = lk_error(b.ctx, &message) != LK_OK;
  if (failed) fprintf(stderr, "claims: %s\n", message);
  lk_ctx_free(b.ctx);
  return failed;
}
