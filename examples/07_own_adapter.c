/* 07_own_adapter: an adapter of your own, outside the library, in forty lines.
 *
 * You learn: what an adapter class is (options, parameters of a site, what they do to the weight, what they add to the
 * output), and that everything else follows: specs, targets, composition, training, merging, saving.
 *
 * The method is VeRA (Kopiczko, Blankevoort, Asano: "VeRA: Vector-based Random Matrix Adaptation", arXiv 2310.11454).  A
 * and B are random and stay so; only two vectors train, r + out numbers a layer instead of LoRA's r (in + out):
 *
 *   y = W x + b + diag(v) B diag(u) A x,   A [r, in], B [out, r], u [r] from a constant, v [out] from 0
 *
 * The program needs the installed library only: cc 07_own_adapter.c $(pkg-config --cflags --libs lorikeet) -lm */
#include <lorikeet.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- the adapter ---- */

typedef struct config {
  int r;
  double u;
} config;

typedef struct state { /* of one site */
  lk_param *A, *B, *u, *v;
} state;

static const lk_opt opts[] = {{"r", LK_OPT_INT, offsetof(config, r), 64, 1, 1 << 20, NULL, "rank"},
                              {"u", LK_OPT_REAL, offsetof(config, u), 0.1, -1e9, 1e9, NULL, "u at the start"},
                              {0}};

/* A buffer is saved, but never trained. */
static lk_status attach(lk_at *at) {
  const config *g = at->cfg;
  state *s = at->st;
  int64_t r = g->r, in = at->site->in, out = at->site->out;
  s->A = lk_at_param(at, "vera_A", LK_BUFFER, 2, (int64_t[]){r, in});
  s->B = lk_at_param(at, "vera_B", LK_BUFFER, 2, (int64_t[]){out, r});
  s->u = lk_at_param(at, "vera_lambda_d", LK_TRAINED, 1, &r);
  s->v = lk_at_param(at, "vera_lambda_b", LK_TRAINED, 1, &out);
  lk_param_normal(s->A, 0, sqrt(2.0 / (double)in)); /* Kaiming's */
  lk_param_normal(s->B, 0, sqrt(2.0 / (double)r));
  return lk_param_fill(s->u, g->u);
}

/* For training: cheap, A x has only r numbers a row. */
static lk_tensor delta(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  const state *s = at->st;
  lk_tensor h = lk_mul(t, lk_linear(t, x, lk_use(t, s->A), lk_nil()), lk_use(t, s->u));
  return lk_plus(t, y, lk_mul(t, lk_linear(t, h, lk_use(t, s->B), lk_nil()), lk_use(t, s->v)));
}

/* For merging, and for classes that want to see the weight: the same as a change of W. */
static lk_status weight(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  const state *s = at->st;
  lk_tensor uA = lk_mul(t, lk_unsqueeze(t, lk_use(t, s->u), 1), lk_use(t, s->A));
  lk_tensor vB = lk_mul(t, lk_unsqueeze(t, lk_use(t, s->v), 1), lk_use(t, s->B));
  (void)b; /* the bias stays as it is */
  *W = lk_add(t, *W, lk_matmul(t, vB, uA));
  return lk_error(lk_at_ctx(at), NULL);
}

static const lk_adapter_class vera = {.name = "vera",
                                      .summary = "two trained vectors around two frozen random matrices",
                                      .cite = "arXiv 2310.11454",
                                      .sites = LK_SITE_LINEAR,
                                      .caps = LK_AFFINE | LK_NOOP_AT_START,
                                      .cfg_size = sizeof(config),
                                      .site_size = sizeof(state),
                                      .opts = opts,
                                      .attach = attach,
                                      .weight = weight,
                                      .delta = delta};

/* ---- in use: a linear layer learns what another one does ---- */

enum { ROWS = 64, WIDTH = 32, ALL = ROWS * WIDTH, STEPS = 300 };
static float x[ALL], target[ALL], before[ALL], after[ALL];

static lk_tensor rows(lk_tape *t, const float *data) { return lk_input(t, LK_F32, 2, (int64_t[]){ROWS, WIDTH}, data); }

/* Outputs into y (unless it is NULL); with opt, a training step.  Returns the loss. */
static double pass(lk_linear_layer *layer, lk_tape *t, lk_optim *opt, uint64_t step, float *y) {
  lk_view v;
  lk_tape_reset(t);
  if (opt) lk_train(t, step, 0);
  lk_tensor out = lk_linear_forward(layer, t, rows(t, x)), loss = lk_mse(t, out, rows(t, target));
  if (y && !lk_get(t, out, &v)) memcpy(y, v.p, sizeof x);
  double value = lk_item(t, loss);
  if (opt && !lk_backward(t, loss)) lk_step(opt);
  return value;
}

static void adapt(lk_model *model, lk_linear_layer *layer, lk_tape *t, const char *spec) {
  lk_ctx *ctx = lk_tape_ctx(t);
  int n = 0;
  lk_optim_options options = lk_optim_defaults(&lk_optim_adamw);
  options.lr = 0.01;
  double start = pass(layer, t, NULL, 0, before), off = 0;
  lk_attach(model, "default", spec, "layer");
  if (pass(layer, t, NULL, 0, NULL) != start) lk_fail(ctx, LK_EARG, "%s changes the output at its start", spec);
  lk_param **params = lk_trainable(model, &n);
  lk_optim *opt = lk_optim_new(ctx, &lk_optim_adamw, &options, params, n);
  for (uint64_t step = 0; step < STEPS; step++) pass(layer, t, opt, step, NULL);
  double end = pass(layer, t, NULL, 0, before);
  int trained = (int)lk_trainable_count(model);
  lk_merge(model, NULL);
  pass(layer, t, NULL, 0, after);
  lk_unmerge(model);
  lk_detach(model, "default");
  for (int i = 0; i < ALL; i++) off = fmax(off, fabs((double)before[i] - after[i]));
  if (!(end < start / 4)) lk_fail(ctx, LK_EARG, "%s has not learnt: loss %g, then %g", spec, start, end);
  if (!(off < 1e-4)) lk_fail(ctx, LK_EARG, "%s: weight and delta are no twins: %g apart", spec, off);
  if (!lk_error(ctx, NULL)) printf("%-34s %8d %9.4f %9.4f %21.0e\n", spec, trained, start, end, off);
  lk_optim_free(opt);
  lk_free(ctx, params);
}

int main(void) {
  const char *message;
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_tape *t = lk_tape_new(ctx);
  lk_model *model = lk_model_new(ctx, LK_F32, 0);
  lk_linear_layer *layer = lk_linear_new(lk_model_root(model), "layer", WIDTH, WIDTH, 0);
  for (uint64_t i = 0; i < ALL; i++) x[i] = (float)lk_random_normal(lk_key_make(1, "x"), i);
  lk_adapter_register(model, &vera);
  lk_attach(model, "default", "lora r=1 alpha=2 init=random", "layer");
  pass(layer, t, NULL, 0, target);
  lk_detach(model, "default");
  printf("%-34s %8s %9s %9s %21s\n", "spec", "trained", "before", "after", "|merged - unmerged|");
  adapt(model, layer, t, "lora r=1");
  adapt(model, layer, t, "vera r=64");
  adapt(model, layer, t, "vera r=64 | magnitude");
  adapt(model, layer, t, "dropout p=0.1 (vera r=64)");
  if (lk_attach(model, "default", "vera r=0", "layer"))
    lk_error(ctx, &message), printf("%s\n", message), lk_error_clear(ctx);
  int failed = lk_error(ctx, &message) != LK_OK;
  if (failed) fprintf(stderr, "error: %s\n", message);
  lk_model_free(model);
  lk_tape_free(t);
  lk_ctx_free(ctx);
  return failed;
}
