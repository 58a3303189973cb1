/* 07_own_adapter: an adapter of your own, outside the library, in forty lines.
 *
 * You learn: that an adapter class says which parameters a site gets, what they add to the output, and how they change
 * the weight; specs, targets, composition, training, merging and saving follow by themselves.  The method is VeRA
 * (Kopiczko et al., arXiv 2310.11454): LoRA with a random, frozen A and B, where two vectors train, r + out numbers:
 *
 *   y = W x + b + diag(v) B diag(u) A x,   A [r, in], B [out, r], u [r] from 0.1, v [out] from 0 */
#include <lorikeet.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- the adapter ---- */

typedef struct state { /* of one site */
  lk_param *A, *B, *u, *v;
} state;

static const lk_opt opts[] = {{"r", LK_OPT_INT, 0, 64, 1, 1 << 20, NULL, "rank"}, {0}};

/* A buffer is saved, but not trained.  Draws depend on seed and name: attached again, A and B are the same. */
static lk_status attach(lk_at *at) {
  state *s = at->st;
  int64_t r = *(const int *)at->cfg, in = at->site->in, out = at->site->out;
  s->A = lk_at_param(at, "vera_A", LK_BUFFER, 2, (int64_t[]){r, in});
  s->B = lk_at_param(at, "vera_B", LK_BUFFER, 2, (int64_t[]){out, r});
  s->u = lk_at_param(at, "vera_lambda_d", LK_TRAINED, 1, &r);
  s->v = lk_at_param(at, "vera_lambda_b", LK_TRAINED, 1, &out);
  lk_param_normal(s->A, 0, sqrt(2.0 / (double)in));
  lk_param_normal(s->B, 0, sqrt(2.0 / (double)r));
  return lk_param_fill(s->u, 0.1);
}

/* For training: y plus the update, by way of the r numbers of A x. */
static lk_tensor delta(lk_at *at, lk_tape *t, lk_tensor x, lk_tensor y) {
  const state *s = at->st;
  lk_tensor h = lk_mul(t, lk_linear(t, x, lk_use(t, s->A), lk_nil()), lk_use(t, s->u));
  return lk_plus(t, y, lk_mul(t, lk_linear(t, h, lk_use(t, s->B), lk_nil()), lk_use(t, s->v)));
}

/* For merging, and for what comes later in a chain and reads the weight: the same as a change of W; b stays. */
static lk_status weight(lk_at *at, lk_tape *t, lk_tensor *W, lk_tensor *b) {
  const state *s = at->st;
  lk_tensor v = lk_unsqueeze(t, lk_use(t, s->v), 1), Bu = lk_mul(t, lk_use(t, s->B), lk_use(t, s->u));
  *W = lk_add(t, *W, lk_mul(t, v, lk_matmul(t, Bu, lk_use(t, s->A))));
  return (void)b, lk_error(lk_at_ctx(at), NULL);
}

static const lk_adapter_class vera = {.name = "vera",
                                      .summary = "two trained vectors around two frozen random matrices",
                                      .sites = LK_SITE_LINEAR,
                                      .caps = LK_AFFINE | LK_NOOP_AT_START,
                                      .cfg_size = sizeof(int),
                                      .site_size = sizeof(state),
                                      .opts = opts,
                                      .attach = attach,
                                      .weight = weight,
                                      .delta = delta};

/* ---- in use ---- */

enum { ROWS = 64, WIDTH = 32, ALL = ROWS * WIDTH };
static float x[ALL], target[ALL], trained[ALL], merged[ALL]; /* inputs and outputs of a layer, [ROWS, WIDTH] */

/* The outputs into y; with opt, a step towards the target.  Returns the loss. */
static double pass(lk_linear_layer *layer, lk_tape *t, lk_optim *opt, float y[ALL]) {
  lk_view v;
  lk_tape_reset(t);
  lk_tensor out = lk_linear_forward(layer, t, lk_input(t, LK_F32, 2, (int64_t[]){ROWS, WIDTH}, x));
  lk_tensor loss = lk_mse(t, out, lk_input(t, LK_F32, 2, (int64_t[]){ROWS, WIDTH}, target));
  if (!lk_get(t, out, &v)) memcpy(y, v.p, sizeof x);
  if (opt && !lk_backward(t, loss)) lk_step(opt);
  return lk_item(t, loss);
}

/* Attaches, trains, merges, detaches. */
static void adapt(lk_ctx *ctx, lk_model *model, lk_linear_layer *layer, lk_tape *t, const char *spec) {
  int n = 0;
  lk_attach(model, "default", spec, "layer");
  lk_param **params = lk_trainable(model, &n);
  lk_optim *opt = lk_optim_new(ctx, &lk_optim_adamw, NULL, params, n);
  double before = pass(layer, t, NULL, trained), off = 0; /* v is 0: still the base */
  for (int step = 0; step < 2000; step++) pass(layer, t, opt, trained);
  double after = pass(layer, t, NULL, trained);
  lk_merge(model, NULL);
  pass(layer, t, NULL, merged);
  lk_unmerge(model);
  lk_detach(model, "default");
  for (int i = 0; i < ALL; i++) off = fmax(off, fabs((double)trained[i] - merged[i]));
  printf("%-22s loss %.4f, then %.4f; merging changed the outputs by %.0e\n", spec, before, after, off);
  if (!(after < before / 4 && off < 1e-4)) lk_fail(ctx, LK_EARG, "%s should learn, and merge exactly", spec);
  lk_optim_free(opt);
  lk_free(ctx, params);
}

int main(void) {
  int n = 0;
  const char *message;
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_tape *t = lk_tape_new(ctx);
  lk_model *model = lk_model_new(ctx, LK_F32, 0);
  lk_linear_layer *layer = lk_linear_new(lk_model_root(model), "layer", WIDTH, WIDTH, 0);
  lk_adapter_register(model, &vera);
  lk_attach(model, "default", "vera r=16", "layer"); /* a random one makes the target */
  lk_param **params = lk_trainable(model, &n);
  for (int i = 0; i < n; i++) lk_param_normal(params[i], 0, 0.5);
  for (uint64_t i = 0; i < ALL; i++) x[i] = (float)lk_random_normal(lk_key_make(1, "x"), i);
  pass(layer, t, NULL, target);
  lk_detach(model, "default");
  adapt(ctx, model, layer, t, "vera r=16");
  adapt(ctx, model, layer, t, "vera r=16 | magnitude");
  int failed = lk_error(ctx, &message) != LK_OK;
  if (failed) fprintf(stderr, "error: %s\n", message);
  lk_free(ctx, params);
  lk_model_free(model);
  lk_tape_free(t);
  lk_ctx_free(ctx);
  return failed;
}
