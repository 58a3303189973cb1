/* 07_own_adapter: an adapter of your own, outside the library, in forty lines.
 *
 * You learn: that an adapter class says which parameters a site gets, what they add to the output, and how they change
 * the weight; specs, targets, composition, training, merging and saving follow by themselves.  The method is VeRA
 * (Kopiczko et al., arXiv 2310.11454): LoRA with a random, frozen A and B, where two vectors train, r + out numbers:
 *
 *   y = W x + b + diag(v) B diag(u) A x,   A [r, in], B [out, r], u [r] from 0.1, v [out] from 0 */
#include "course.h"

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

enum { ROWS = 64, WIDTH = 32, ALL = ROWS * WIDTH, STEPS = 400 };
static float x[ALL], target[ALL], trained[ALL], merged[ALL]; /* inputs and outputs, [ROWS, WIDTH] */

static lk_tensor rows(lk_tape *t, const float *data) { return lk_input(t, LK_F32, 2, (int64_t[]){ROWS, WIDTH}, data); }

/* The layer's outputs into y; returns their mean squared distance from the target. */
static double outputs(lk_linear_layer *layer, lk_tape *t, float *y) {
  lk_view v;
  lk_tape_reset(t);
  lk_tensor out = lk_linear_forward(layer, t, rows(t, x));
  if (!lk_get(t, out, &v)) memcpy(y, v.p, sizeof x);
  return lk_item(t, lk_mse(t, out, rows(t, target)));
}

/* Attaches, trains, merges, detaches: a line of the table. */
static void adapt(lk_model *model, lk_linear_layer *layer, lk_tape *t, const char *spec) {
  lk_attach(model, "default", spec, "layer");
  double before = outputs(layer, t, trained); /* v is 0: still what the base gives */
  lk_optim *opt = adamw(model, 0.01);
  for (uint64_t step = 0; step < STEPS; step++) {
    lk_tape_reset(t);
    lk_train(t, step, 0);
    lk_backward(t, lk_mse(t, lk_linear_forward(layer, t, rows(t, x)), rows(t, target)));
    if (lk_step(opt)) break;
  }
  lk_optim_free(opt);
  double after = outputs(layer, t, trained);
  int64_t parameters = lk_trainable_count(model);
  lk_merge(model, NULL);
  outputs(layer, t, merged);
  lk_unmerge(model);
  lk_detach(model, "default");
  double off = largest_difference(ALL, trained, merged);
  if (!(after < before / 4 && off < 1e-4))
    lk_fail(lk_tape_ctx(t), LK_EARG, "%s: loss %g, then %g; merging changed outputs by %g", spec, before, after, off);
  printf("%-28s %7d %8.4f %8.4f %21.0e\n", spec, (int)parameters, before, after, off);
}

int main(void) {
  lk_ctx *ctx = lk_ctx_new(NULL);
  lk_tape *t = lk_tape_new(ctx);
  lk_model *model = lk_model_new(ctx, LK_F32, 0);
  lk_linear_layer *layer = lk_linear_new(lk_model_root(model), "layer", WIDTH, WIDTH, 0);
  lk_adapter_register(model, &vera); /* now it has the same rights as a built-in one */
  /* To be learnt: what the layer does with a random u and v. */
  int n = 0;
  lk_attach(model, "default", "vera r=16", "layer");
  lk_param **params = lk_trainable(model, &n);
  for (int i = 0; i < n; i++) lk_param_normal(params[i], 0, 0.5);
  for (uint64_t i = 0; i < ALL; i++) x[i] = (float)lk_random_normal(lk_key_make(1, "x"), i);
  outputs(layer, t, target);
  lk_detach(model, "default");
  printf("%-28s %7s %8s %8s %21s\n", "spec", "trained", "before", "after", "|merged - unmerged|");
  adapt(model, layer, t, "vera r=16");
  adapt(model, layer, t, "vera r=16 | magnitude");
  adapt(model, layer, t, "dropout p=0.1 (vera r=16)");
  lk_free(ctx, params);
  lk_model_free(model);
  lk_tape_free(t);
  return finish(ctx);
}
