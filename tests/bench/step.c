/* step.c: one training or inference step on random data of an architecture's shapes.
 *
 * The same networks as the PyTorch script that we compare with: pre-norm transformer blocks on random input
 * [batch, seq, width], a head of 10 classes on the first token (gpt2: the last), cross-entropy, AdamW.
 * utilisation = FLOPs that the step must do / time / the sgemm rate of this process (2048 x 2048 x 2048). */
#include "measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define CLASSES 10
#define MAX_STEPS 1000

typedef struct {
  const char *name;
  int64_t width, heads, hidden, layers, seq;
  int causal;
} shapes;

static const shapes models[] = {
    {"vit-b16", 768, 12, 3072, 12, 197, 0}, {"vit-s16", 384, 6, 1536, 12, 197, 0}, {"minilm", 384, 12, 1536, 6, 64, 0},
    {"gpt2", 768, 12, 3072, 12, 256, 1},    {"mlp", 64, 0, 64, 2, 0, 0},
};

typedef struct {
  const char *model, *adapter, *targets;
  int64_t batch, seq, steps, threads;
  int full, infer, json, recompute;
} options;

typedef struct {
  lk_module module;
  lk_layer_norm_layer *norm1, *norm2;
  lk_attention_layer *attention;
  lk_mlp_layer *mlp;
} block;

typedef struct {
  shapes s;
  options o;
  lk_ctx *ctx;
  lk_model *model;
  block *blocks[64];
  lk_linear_layer *linear[64], *head;
  float *x;
  int64_t *labels;
} bench;

/* ---- networks ---- */

static void build(bench *b) {
  char name[32];
  const shapes *s = &b->s;
  lk_module *root = lk_model_root(b->model);
  for (int64_t i = 0; i < s->layers; i++) {
    snprintf(name, sizeof name, s->heads ? "blocks.%lld" : "layers.%lld", (long long)i);
    if (!s->heads) {
      b->linear[i] = lk_linear_new(root, name, s->width, s->width, 0);
      continue;
    }
    block *k = b->blocks[i] = lk_module_new(root, name, "block", sizeof *k);
    lk_module *m = k ? &k->module : NULL;
    if (!m) return;
    k->norm1 = lk_layer_norm_new(m, "norm1", s->width, 1e-6);
    k->attention = lk_attention_new(
        m, "attention", &(lk_multi_head_options){.width = s->width, .heads = s->heads, .causal = s->causal});
    k->norm2 = lk_layer_norm_new(m, "norm2", s->width, 1e-6);
    k->mlp = lk_mlp_new(m, "mlp", &(lk_mlp_options){.width = s->width, .hidden = s->hidden});
  }
  b->head = lk_linear_new(root, "head", s->width, CLASSES, 0);
}

static lk_tensor block_forward(block *k, lk_tape *t, lk_tensor x, int recompute) {
  uint32_t scope = lk_scope_begin(t, k->module.name, recompute ? LK_SCOPE_RECOMPUTE : 0);
  x = lk_add(t, x, lk_attention_forward(k->attention, t, lk_layer_norm_forward(k->norm1, t, x), lk_nil(), 0));
  x = lk_add(t, x, lk_mlp_forward(k->mlp, t, lk_layer_norm_forward(k->norm2, t, x)));
  return lk_scope_end(t, scope, x);
}

static lk_tensor forward(bench *b, lk_tape *t) {
  const shapes *s = &b->s;
  const int64_t shape[] = {b->o.batch, s->seq, s->width}, flat[] = {b->o.batch, s->width};
  lk_view v;
  lk_view_init(&v, LK_F32, s->heads ? 3 : 2, s->heads ? shape : flat);
  v.p = b->x;
  uint32_t scope = lk_scope_begin(t, "net", 0);
  lk_tensor x = lk_borrow(t, &v);
  for (int64_t i = 0; i < s->layers; i++)
    x = s->heads ? block_forward(b->blocks[i], t, x, b->o.recompute)
                 : lk_relu(t, lk_linear_forward(b->linear[i], t, x));
  if (s->heads) x = lk_reshape(t, lk_slice(t, x, 1, s->causal ? s->seq - 1 : 0, 1, 1), 2, flat);
  return lk_scope_end(t, scope, lk_linear_forward(b->head, t, x));
}

/* What a step must do: no gradient of the first block's input, half of a causal attention, nothing twice. */
static double necessary_flops(const bench *b, int64_t trained) {
  const shapes *s = &b->s;
  double rows = (double)(b->o.batch * (s->heads ? s->seq : 1)), d = (double)s->width, f = (double)s->hidden;
  double linear = s->heads ? 2 * rows * (4 * d * d + 2 * d * f) * (double)s->layers
                           : 2 * rows * ((double)s->layers * d * d + d * CLASSES);
  double scores = s->heads ? (s->causal ? 0.5 : 1) * 4 * rows * (double)s->seq * d : 0; /* of one block's forward */
  if (b->o.infer) return linear + scores * (double)s->layers;
  double back = s->heads ? linear - 2 * rows * 3 * d * d : linear; /* gradients of inputs */
  double attention = s->heads ? scores * (double)s->layers * 3 - scores / 2 * !b->o.full : 0;
  double adapters =
      b->o.full ? linear : 6 * rows * (double)trained; /* of weights; forward and both gradients of A, B */
  return linear + back + attention + adapters;
}

/* ---- measuring ---- */

static double step(bench *b, lk_tape *t, lk_optim *opt, int64_t n) {
  double start = measure_now();
  lk_tape_reset(t);
  if (opt) {
    lk_train(t, (uint64_t)n, 0);
    lk_tensor labels = lk_input(t, LK_I64, 1, &b->o.batch, b->labels);
    lk_backward(t, lk_cross_entropy(t, forward(b, t), labels, -100, 0));
    lk_step(opt);
  } else {
    lk_no_grad(t, 1);
    forward(b, t);
  }
  return measure_now() - start;
}

static int prepare(bench *b) {
  int64_t n = b->o.batch * (b->s.heads ? b->s.seq : 1) * b->s.width;
  b->model = lk_model_new(b->ctx, LK_F32, 0);
  if (!b->model) return -1;
  build(b);
  b->x = lk_alloc_array(b->ctx, (size_t)n, sizeof *b->x);
  b->labels = lk_alloc_array(b->ctx, (size_t)b->o.batch, sizeof *b->labels);
  if (lk_error(b->ctx, NULL)) return -1;
  lk_key key = lk_key_make(1, "input");
  for (int64_t i = 0; i < n; i++) b->x[i] = (float)lk_random_normal(key, (uint64_t)i);
  for (int64_t i = 0; i < b->o.batch; i++) b->labels[i] = i % CLASSES;
  if (b->o.infer || b->o.full || !strcmp(b->o.adapter, "none")) return 0;
  return lk_attach_with(b->model, &(lk_attach_options){.spec = b->o.adapter,
                                                       .targets = b->o.targets,
                                                       .modules_to_save = b->s.heads ? "head" : NULL})
             ? -1
             : 0;
}

static int measure(bench *b) {
  static double times[MAX_STEPS];
  int n = 0;
  lk_optim_options o = lk_optim_defaults(&lk_optim_adamw);
  o.lr = 1e-4;
  lk_param **params = b->o.infer ? NULL : lk_trainable(b->model, &n);
  lk_optim *opt = b->o.infer ? NULL : lk_optim_new(b->ctx, &lk_optim_adamw, &o, params, n);
  lk_tape *t = lk_tape_new(b->ctx);
  if (lk_error(b->ctx, NULL)) return -1;
  for (int64_t i = 0; i < 2 && !lk_error(b->ctx, NULL); i++) step(b, t, opt, i);
  for (int64_t i = 0; i < b->o.steps && !lk_error(b->ctx, NULL); i++) times[i] = step(b, t, opt, i + 2);
  if (lk_error(b->ctx, NULL)) return -1;
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  int64_t trained = b->o.infer ? 0 : lk_trainable_count(b->model);
  double seconds = measure_quantile(times, b->o.steps, .5), flops = necessary_flops(b, trained),
         rate = measure_sgemm(b->ctx, measure_now);
  double peak = (double)usage.ru_maxrss / 1024, used = flops / seconds / 1e9 / rate;
  lk_tape_stats stats = lk_tape_statistics(t);
  if (b->o.json)
    printf("{\"model\": \"%s\", \"batch\": %lld, \"threads\": %d, \"trainable\": %lld, \"step_ms\": %.3f, "
           "\"peak_rss_mb\": %.1f, \"tape_mb\": %.1f, \"nodes\": %llu, \"sgemm_gflops\": %.1f, \"gflop\": %.3f, "
           "\"utilisation\": %.4f}\n",
           b->s.name, (long long)b->o.batch, lk_threads(b->ctx), (long long)trained, seconds * 1e3, peak,
           (double)stats.peak / 1048576, (unsigned long long)stats.nodes, rate, flops / 1e9, used);
  else
    printf("%s, batch %lld, %d threads, %lld trained: %.2f ms a step, %.0f MB at most, %.1f GFLOP, %.1f %% of sgemm's "
           "%.0f GFLOP/s\n",
           b->s.name, (long long)b->o.batch, lk_threads(b->ctx), (long long)trained, seconds * 1e3, peak, flops / 1e9,
           used * 100, rate);
  lk_tape_free(t);
  lk_optim_free(opt);
  lk_free(b->ctx, params);
  return 0;
}

/* ---- command line ---- */

static const char usage[] =
    "usage: step [--model vit-b16|vit-s16|minilm|gpt2|mlp] [--batch N] [--seq N] [--adapter SPEC|none]\n"
    "            [--targets PATTERNS] [--full] [--infer] [--recompute] [--threads N] [--steps N] [--json]\n";

static int number(const char *name, const char *text, int64_t low, int64_t high, int64_t *value) {
  char *end;
  *value = strtoll(text, &end, 10);
  if (end != text && !*end && *value >= low && *value <= high) return 0;
  fprintf(stderr, "step: %s %s: want an integer in [%lld, %lld]\n", name, text, (long long)low, (long long)high);
  return -1;
}

static int parse(options *o, int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
    int *flag = !strcmp(a, "--full")        ? &o->full
                : !strcmp(a, "--infer")     ? &o->infer
                : !strcmp(a, "--json")      ? &o->json
                : !strcmp(a, "--recompute") ? &o->recompute
                                            : NULL;
    if (flag) {
      *flag = 1;
      continue;
    }
    i++;
    if (!strcmp(a, "--model")) o->model = v;
    else if (!strcmp(a, "--adapter")) o->adapter = v;
    else if (!strcmp(a, "--targets")) o->targets = v;
    else if (!strcmp(a, "--batch")) {
      if (number(a, v, 1, 1 << 20, &o->batch)) return -1;
    } else if (!strcmp(a, "--seq")) {
      if (number(a, v, 1, 1 << 20, &o->seq)) return -1;
    } else if (!strcmp(a, "--steps")) {
      if (number(a, v, 1, MAX_STEPS, &o->steps)) return -1;
    } else if (!strcmp(a, "--threads")) {
      if (number(a, v, 0, 64, &o->threads)) return -1;
    } else {
      fprintf(stderr, "step: unknown option %s\n%s", a, usage);
      return -1;
    }
  }
  return 0;
}

int main(int argc, char **argv) {
  bench b = {.o = {"vit-b16", "lora r=8 alpha=16", NULL, 0, 0, 5, 0, 0, 0, 0, 0}};
  const char *message;
  if (argc > 1 && !strcmp(argv[1], "--help")) return fputs(usage, stdout) < 0;
  if (parse(&b.o, argc, argv)) return 1;
  for (size_t i = 0; i < sizeof models / sizeof *models; i++)
    if (!strcmp(models[i].name, b.o.model)) b.s = models[i];
  if (!b.s.name) return fprintf(stderr, "step: there is no model '%s'\n%s", b.o.model, usage), 1;
  if (b.o.seq && b.s.heads) b.s.seq = b.o.seq;
  if (!b.o.batch) b.o.batch = b.s.heads ? 8 : 32;
  if (!b.o.targets) b.o.targets = b.s.heads ? "query,value" : "all-linear";
  b.ctx = lk_ctx_new(&(lk_ctx_options){.threads = (int)b.o.threads});
  if (!b.ctx) return fputs("step: out of memory\n", stderr), 1;
  int bad = prepare(&b) || measure(&b);
  if (bad && lk_error(b.ctx, &message)) fprintf(stderr, "step: %s\n", message);
  lk_free(b.ctx, b.x);
  lk_free(b.ctx, b.labels);
  lk_model_free(b.model);
  lk_ctx_free(b.ctx);
  return bad;
}
