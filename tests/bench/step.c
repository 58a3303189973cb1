/* step.c: one training (AdamW) or inference step on random data of an architecture's shapes (net.h).
 *
 * utilisation = FLOPs that the step must do / time / the sgemm rate of this process (2048 x 2048 x 2048), both medians of
 * what was measured in turn. */
#include "measure.h"
#include "net.h"
#include "profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define MAX_STEPS 1000

typedef struct {
  const char *model, *adapter, *targets;
  int64_t batch, seq, steps, threads;
  int full, infer, json, recompute, profile, one_token, base, bf16; /* base: lk_quant_kind of frozen weights */
} options;

typedef struct {
  net net;
  options o;
  lk_ctx *ctx;
} bench;

/* ---- measuring ---- */

static int prepare(bench *b) {
  const lk_quantise_options base = {.kind = b->o.bf16 && !b->o.base ? LK_QUANT_BF16 : (lk_quant_kind)b->o.base};
  if (net_open(&b->net) || lk_model_quantise(b->net.model, &base)) return -1;
  if (b->o.bf16 && lk_ctx_bf16_products(b->ctx, 1)) return -1;
  if (b->o.infer || b->o.full || !strcmp(b->o.adapter, "none")) return 0;
  return net_attach(&b->net, b->o.adapter, b->o.targets) ? -1 : 0;
}

static int measure(bench *b) {
  static double times[MAX_STEPS], rates[MAX_STEPS];
  static profile where;
  int n = 0;
  int64_t every = 1 + b->o.steps / 16; /* the machine's speed drifts: it is measured between the steps */
  lk_optim_options o = lk_optim_defaults(&lk_optim_adamw);
  o.lr = 1e-4;
  lk_param **params = b->o.infer ? NULL : lk_trainable(b->net.model, &n);
  lk_optim *opt = b->o.infer ? NULL : lk_optim_new(b->ctx, &lk_optim_adamw, &o, params, n);
  lk_tape *t = lk_tape_new(b->ctx);
  if (lk_error(b->ctx, NULL)) return -1;
  for (int64_t i = 0; i < 2 && !lk_error(b->ctx, NULL); i++) net_step(&b->net, t, opt, i);
  struct rusage usage; /* before the products that only measure */
  getrusage(RUSAGE_SELF, &usage);
  if (b->o.profile) lk_tape_watch(t, profile_watch, &where);
  for (int64_t i = 0; i < b->o.steps && !lk_error(b->ctx, NULL); i++) {
    if (i % every == 0) rates[i / every] = measure_sgemm(b->ctx, measure_now);
    times[i] = net_step(&b->net, t, opt, i + 2);
  }
  if (lk_error(b->ctx, NULL)) return -1;
  double mean = 0;
  for (int64_t i = 0; i < b->o.steps; i++) mean += times[i] / (double)b->o.steps;
  int64_t trained = b->o.infer ? 0 : lk_trainable_count(b->net.model);
  double seconds = measure_quantile(times, b->o.steps, .5), flops = net_flops(&b->net, b->o.full, b->o.infer, trained),
         rate = measure_quantile(rates, (b->o.steps - 1) / every + 1, .5);
  double peak = (double)usage.ru_maxrss / 1024, used = flops / seconds / 1e9 / rate;
  lk_tape_stats stats = lk_tape_statistics(t);
  if (b->o.json)
    printf("{\"model\": \"%s\", \"batch\": %lld, \"threads\": %d, \"trainable\": %lld, \"step_ms\": %.3f, "
           "\"peak_rss_mb\": %.1f, \"tape_mb\": %.1f, \"nodes\": %llu, \"sgemm_gflops\": %.1f, \"gflop\": %.3f, "
           "\"utilisation\": %.4f}\n",
           b->net.s.name, (long long)b->net.batch, lk_threads(b->ctx), (long long)trained, seconds * 1e3, peak,
           (double)stats.peak / 1048576, (unsigned long long)stats.nodes, rate, flops / 1e9, used);
  else
    printf("%s, batch %lld, %d threads, %lld trained: %.2f ms a step, %.0f MB at most, %.1f GFLOP, %.1f %% of sgemm's "
           "%.0f GFLOP/s\n",
           b->net.s.name, (long long)b->net.batch, lk_threads(b->ctx), (long long)trained, seconds * 1e3, peak,
           flops / 1e9, used * 100, rate);
  if (b->o.profile) profile_print(&where, stdout, b->o.steps, mean);
  lk_tape_free(t);
  lk_optim_free(opt);
  lk_free(b->ctx, params);
  return 0;
}

/* ---- command line ---- */

static const char usage[] =
    "usage: step [--model " NET_MODELS "]\n"
    "            [--batch N] [--seq N] [--adapter SPEC|none]\n"
    "            [--targets PATTERNS] [--full] [--infer] [--recompute] [--threads N] [--steps N] [--json] [--profile] "
    "[--one-token]\n"
    "            [--base-dtype f32|bf16|int8|nf4] [--bf16 (frozen weights and their products in bf16)]\n";

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
                : !strcmp(a, "--profile")   ? &o->profile
                : !strcmp(a, "--one-token") ? &o->one_token
                : !strcmp(a, "--bf16")      ? &o->bf16
                                            : NULL;
    if (flag) {
      *flag = 1;
      continue;
    }
    i++;
    if (!strcmp(a, "--model")) o->model = v;
    else if (!strcmp(a, "--adapter")) o->adapter = v;
    else if (!strcmp(a, "--targets")) o->targets = v;
    else if (!strcmp(a, "--base-dtype")) {
      o->base = lk_quant_find(v);
      if (o->base < 0) return fprintf(stderr, "step: --base-dtype %s: want f32, bf16, int8 or nf4\n", v), -1;
    } else if (!strcmp(a, "--batch")) {
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
  bench b = {.o = {"vit-b16", "lora r=8 alpha=16", NULL, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0}};
  const char *message;
  if (argc > 1 && !strcmp(argv[1], "--help")) return fputs(usage, stdout) < 0;
  if (parse(&b.o, argc, argv)) return 1;
  if (!net_find(&b.net, b.o.model)) return fprintf(stderr, "step: there is no model '%s'\n%s", b.o.model, usage), 1;
  int transformer = b.net.s.heads > 0;
  if (b.o.seq && transformer) b.net.s.seq = b.o.seq;
  b.net.batch = b.o.batch ? b.o.batch : transformer ? 8 : 32;
  b.net.recompute = b.o.recompute;
  b.net.one_token = b.o.one_token && b.net.s.heads;
  if (!b.o.targets) b.o.targets = transformer ? "query,value" : "all-linear";
  b.ctx = b.net.ctx = lk_ctx_new(&(lk_ctx_options){.threads = (int)b.o.threads});
  if (!b.ctx) return fputs("step: out of memory\n", stderr), 1;
  int bad = prepare(&b) || measure(&b);
  if (bad && lk_error(b.ctx, &message)) fprintf(stderr, "step: %s\n", message);
  net_close(&b.net);
  lk_ctx_free(b.ctx);
  return bad;
}
