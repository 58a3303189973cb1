/* adapters.c: a training step with every method beside one with a LoRA of as many trained parameters.
 *
 * Both networks (net.h) have random data and the shapes of one architecture.  The machine's speed may drift: the two take
 * turns, a b, b a, a b, ..., and the ratio is the median over such pairs.  FLOPs are those that the tape counted, memory
 * the tape's peak (activations, gradients, scratch; weights are apart). */
#include "measure.h"
#include "net.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UP = 1, MOST_PAIRS = 100 };

typedef struct {
  const char *name, *spec, *targets; /* NULL: those of the options */
  int selected;                      /* LoRA-drop: after its selection */
} method;

#define MLP_DOWN "fc2"
#define DASHES "------------------------------------------------------------"

static const method methods[] = {
    {"LoRA", "lora r=8 alpha=16", NULL, 0},
    {"LoRA, dropout", "lora r=8 alpha=16 dropout=0.1", NULL, 0},
    {"rsLoRA", "lora r=8 alpha=16 rslora=1", NULL, 0},
    {"LoRA, bias", "lora r=8 alpha=16 bias=1", NULL, 0},
    {"LoRA, supernet", "lora r=8 alpha=16 supernet=1", NULL, 0},
    {"DoRA", "lora r=8 alpha=16 | magnitude", NULL, 0},
    {"DoRA, dropout", "dropout p=0.1 (lora r=8 alpha=16 | magnitude)", NULL, 0},
    {"magnitude", "magnitude", NULL, 0},
    {"MLAE", "mlae r=8 p=0.5", NULL, 0},
    {"MLAE, fixed mask", "mlae r=8 mask=fixed", NULL, 0},
    {"AdaLoRA", "adalora target_r=8 init_r=12", NULL, 0},
    {"NEAT", "neat r=8", NULL, 0},
    {"NEAT, depth 1", "neat r=8 depth=1", NULL, 0},
    {"NEAT, r=32, in", "neat r=32 orientation=in", NULL, 0},
    {"GLoRA", "glora r=4", NULL, 0},
    {"GLoRA, A a vector", "glora r=4 A=vector", NULL, 0},
    {"GLoRA, vectors", "glora A=vector B=vector C=vector D=vector E=vector", NULL, 0},
    {"GLoRA, constants", "glora A=constant B=constant C=none D=none E=constant", NULL, 0},
    {"GLoRA, B alone", "glora r=8 A=none C=none D=none E=none", NULL, 0},
    {"GLoRA, product", "glora r=8 a_mode=product", NULL, 0},
    {"GLoRA, supernet", "glora r=4 supernet=1", NULL, 0},
    {"IA3", "ia3", NULL, 0},
    {"IA3, ff", "ia3 ff=1", MLP_DOWN, 0},
    {"bias", "bias", NULL, 0},
    {"LoRA-drop, sampling", "lora_drop (lora r=8 alpha=16)", NULL, 0},
    {"LoRA-drop, selected", "lora_drop keep_n=4 (lora r=8 alpha=16)", NULL, 1},
    {"MoLoRA", "molora n=8 r=8 k=2", NULL, 0},
    {"MoLoRA, soft", "molora n=4 r=8 soft=1", NULL, 0},
    {"MALoRA", "malora n=8 d=32 R=12 k=2", NULL, 0},
    {"mixture of LoRA", "mixture n=4 k=2 (lora r=8)", NULL, 0},
    {"mixture of DoRA", "mixture n=4 k=2 (lora r=8 | magnitude)", NULL, 0},
};

typedef struct {
  const char *model, *only, *spec, *targets;
  int64_t batch, seq, pairs, threads;
} options;

/* A network that trains. */
typedef struct {
  net net;
  lk_optim *optim;
  lk_tape *tape;
  int64_t steps, trained;
} side;

/* ---- two networks ---- */

static lk_status side_open(side *s, const net *shapes, const char *spec, const char *targets) {
  s->net = *shapes;
  s->tape = lk_tape_new(s->net.ctx);
  if (!s->tape || net_open(&s->net) || net_attach(&s->net, spec, targets)) return lk_error(s->net.ctx, NULL);
  s->trained = lk_trainable_count(s->net.model);
  return lk_error(s->net.ctx, NULL);
}

/* steps: how many there will be */
static lk_status side_train(side *s, int64_t steps) {
  lk_optim_options o = lk_optim_defaults(&lk_optim_adamw);
  int n = 0;
  o.lr = 1e-4;
  lk_param **params = lk_trainable(s->net.model, &n);
  lk_optim_free(s->optim);
  s->optim = params ? lk_optim_new(s->net.ctx, &lk_optim_adamw, &o, params, n) : NULL;
  lk_free(s->net.ctx, params);
  if (!s->optim || lk_adapter_plan(s->net.model, steps)) return lk_error(s->net.ctx, NULL);
  s->trained = lk_trainable_count(s->net.model);
  return lk_adapter_follow(s->net.model, s->optim);
}

static double side_step(side *s) { return net_step(&s->net, s->tape, s->optim, s->steps++); }

static void side_close(side *s) {
  lk_tape_free(s->tape);
  lk_optim_free(s->optim);
  net_close(&s->net);
}

/* LoRA-drop keeps the layers whose adapters do most after a few steps. */
static lk_status select_layers(side *s) {
  side_step(s);
  if (lk_adapter_phase(s->net.model, "importance")) return lk_error(s->net.ctx, NULL);
  net_step(&s->net, s->tape, NULL, 0);
  lk_no_grad(s->tape, 0);
  return lk_adapter_phase(s->net.model, "select");
}

/* The rank that gives a LoRA at the same layers about as many trained parameters, at least 1. */
static int64_t equal_rank(const side *s) {
  const lk_method *m = lk_adapter_find(s->net.model, "default")->chain;
  int64_t head = s->net.s.heads ? NET_CLASSES * (s->net.s.width + 1) : 0, of_one = 0;
  for (int i = 0; i < m->nat; i++) of_one += m->at[i]->site->in + m->at[i]->site->out;
  int64_t rank = (s->trained - head + of_one / 2) / of_one;
  return rank > 1 ? rank : 1;
}

/* ---- pairs ---- */

typedef struct {
  double low, median, high; /* quartiles of first / second */
  double seconds[2];        /* medians */
} ratio;

static ratio compare(side *first, side *second, int64_t pairs) {
  double each[MOST_PAIRS], a[MOST_PAIRS], b[MOST_PAIRS];
  for (int64_t i = -WARM_UP; i < pairs; i++) {
    int64_t k = i < 0 ? 0 : i;
    if (i % 2) b[k] = side_step(second);
    a[k] = side_step(first);
    if (i % 2 == 0) b[k] = side_step(second);
  }
  for (int64_t i = 0; i < pairs; i++) each[i] = a[i] / b[i];
  return (ratio){measure_quantile(each, pairs, .25),
                 measure_quantile(each, pairs, .5),
                 measure_quantile(each, pairs, .75),
                 {measure_quantile(a, pairs, .5), measure_quantile(b, pairs, .5)}};
}

/* The bar of a table's column is none of a spec's. */
static void escape(const char *spec, char *text, size_t size) {
  size_t n = 0;
  for (; *spec && n + 2 < size; spec++) {
    if (*spec == '|') text[n++] = '\\';
    text[n++] = *spec;
  }
  text[n] = 0;
}

static void show_head(void) {
  printf("| %-20s | %-57s | %8s | %5s | %15s | %5s | %5s | %-12s | %11s | %6s |\n", "method", "spec", "trained", "LoRA",
         "GFLOP, LoRA's", "ratio", "time", "quartiles", "ms, LoRA's", "memory");
  printf("|%.22s|%.59s|%.9s:|%.6s:|%.16s:|%.6s:|%.6s:|%.14s|%.12s:|%.7s:|\n", DASHES, DASHES, DASHES, DASHES, DASHES,
         DASHES, DASHES, DASHES, DASHES, DASHES);
}

static void show(const method *m, const side *a, const side *b, int64_t rank, const ratio *r) {
  lk_tape_stats s = lk_tape_statistics(a->tape), base = lk_tape_statistics(b->tape);
  char flops[40], quartiles[40], times[40], spec[100];
  escape(m->spec, spec, sizeof spec);
  snprintf(flops, sizeof flops, "%.1f %.1f", s.flops / 1e9, base.flops / 1e9);
  snprintf(quartiles, sizeof quartiles, "%.3f..%.3f", r->low, r->high);
  snprintf(times, sizeof times, "%.0f %.0f", r->seconds[0] * 1e3, r->seconds[1] * 1e3);
  printf("| %-20s | `%s`%*s | %8lld | r=%-3lld | %15s | %5.3f | %5.3f | %12s | %11s | %6.2f |\n", m->name, spec,
         (int)(55 - strlen(spec)), "", (long long)a->trained, (long long)rank, flops, s.flops / base.flops, r->median,
         quartiles, times, (double)s.peak / (double)base.peak);
  fflush(stdout);
}

static void measure_method(const net *shapes, const options *o, const method *m) {
  side a = {.steps = 0}, b = {.steps = 0};
  const char *targets = m->targets ? m->targets : o->targets;
  int64_t steps = WARM_UP + o->pairs + 1, rank = 0;
  char lora[60];
  if (!side_open(&a, shapes, m->spec, targets) && !side_train(&a, steps) && m->selected && !select_layers(&a))
    side_train(&a, steps);
  if (!lk_error(shapes->ctx, NULL)) {
    rank = equal_rank(&a);
    snprintf(lora, sizeof lora, "lora r=%lld alpha=16", (long long)rank);
    if (!side_open(&b, shapes, lora, targets)) side_train(&b, steps);
  }
  if (!lk_error(shapes->ctx, NULL)) {
    ratio r = compare(&a, &b, o->pairs);
    if (!lk_error(shapes->ctx, NULL)) show(m, &a, &b, rank, &r);
  }
  side_close(&a);
  side_close(&b);
}

/* ---- command line ---- */

static const char usage[] =
    "usage: adapters [--model " NET_MODELS "] [--batch N] [--seq N]\n"
    "                [--targets PATTERNS] [--only 'NAME;NAME' | --spec SPEC] [--pairs N] [--threads N] [--list]\n";

static int number(const char *name, const char *text, int64_t low, int64_t high, int64_t *value) {
  char *end;
  *value = strtoll(text, &end, 10);
  if (end != text && !*end && *value >= low && *value <= high) return 0;
  fprintf(stderr, "adapters: %s %s: want an integer in [%lld, %lld]\n", name, text, (long long)low, (long long)high);
  return -1;
}

static int parse(options *o, int argc, char **argv) {
  for (int i = 1; i < argc; i += 2) {
    const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
    int64_t *count = !strcmp(a, "--batch")     ? &o->batch
                     : !strcmp(a, "--seq")     ? &o->seq
                     : !strcmp(a, "--pairs")   ? &o->pairs
                     : !strcmp(a, "--threads") ? &o->threads
                                               : NULL;
    const char **text = !strcmp(a, "--model")     ? &o->model
                        : !strcmp(a, "--only")    ? &o->only
                        : !strcmp(a, "--spec")    ? &o->spec
                        : !strcmp(a, "--targets") ? &o->targets
                                                  : NULL;
    if (text) *text = v;
    else if (!count) return fprintf(stderr, "adapters: unknown option %s\n%s", a, usage), -1;
    else if (number(a, v, count != &o->threads, count == &o->pairs ? MOST_PAIRS : 1 << 20, count)) return -1;
  }
  return 0;
}

/* Is the name in the list, separated by semicolons? */
static int listed(const char *list, const char *name) {
  size_t n = strlen(name);
  for (const char *at = list; (at = strstr(at, name)); at++)
    if ((at == list || at[-1] == ';') && (!at[n] || at[n] == ';')) return 1;
  return 0;
}

static int run(const net *shapes, const options *o) {
  const method given = {"given", o->spec, NULL, 0};
  const char *message;
  int found = 0;
  show_head();
  if (o->spec) measure_method(shapes, o, &given);
  for (size_t i = 0; i < sizeof methods / sizeof *methods && !o->spec && !lk_error(shapes->ctx, NULL); i++) {
    if (o->only ? !listed(o->only, methods[i].name) : methods[i].targets && !shapes->s.heads) continue;
    measure_method(shapes, o, &methods[i]);
    found = 1;
  }
  if (lk_error(shapes->ctx, &message)) return fprintf(stderr, "adapters: %s\n", message), 1;
  if (!found && !o->spec) return fprintf(stderr, "adapters: --only %s: there is no such method\n", o->only), 1;
  return 0;
}

static int list(void) {
  for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) printf("%-20s %s\n", methods[i].name, methods[i].spec);
  return 0;
}

int main(int argc, char **argv) {
  options o = {"vit-b16", NULL, NULL, NULL, 0, 0, 5, 0};
  net shapes = {.batch = 0};
  if (argc > 1 && !strcmp(argv[1], "--help")) return fputs(usage, stdout) < 0;
  if (argc > 1 && !strcmp(argv[1], "--list")) return list();
  if (parse(&o, argc, argv)) return 1;
  if (!net_find(&shapes, o.model)) return fprintf(stderr, "adapters: there is no model '%s'\n%s", o.model, usage), 1;
  int transformer = shapes.s.heads > 0;
  if (o.seq && transformer) shapes.s.seq = o.seq;
  shapes.batch = o.batch ? o.batch : transformer ? 8 : 32;
  if (!o.targets) o.targets = transformer ? "query,value" : "all-linear";
  shapes.ctx = lk_ctx_new(&(lk_ctx_options){.threads = (int)o.threads});
  if (!shapes.ctx) return fputs("adapters: out of memory\n", stderr), 1;
  printf("%s, batch %lld, %lld tokens, %d threads: medians of %lld pairs of steps; sgemm %.0f GFLOP/s\n\n",
         shapes.s.name, (long long)shapes.batch, (long long)(transformer ? shapes.s.seq : 1), lk_threads(shapes.ctx),
         (long long)o.pairs, measure_sgemm(shapes.ctx, measure_now));
  int failed = run(&shapes, &o);
  lk_ctx_free(shapes.ctx);
  return failed;
}
