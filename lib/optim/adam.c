/* adam.c: Adam and AdamW, as in torch.optim: they differ in where the weight decay goes. */
#include "optim/optim.h"

/* One parameter's step. */
struct adam {
  const lk_update *u;
  double keep, l2; /* theta *= keep (AdamW), grad += l2 theta (Adam) */
  double step_size, root_correction;
};

LK_CLONES static void piece(void *arg, int64_t from, int64_t to, int thread) {
  const struct adam *a = arg;
  const lk_update *u = a->u;
  const lk_optim_options *o = u->options;
  (void)thread;
  LK_REAL(u->param->value.dtype, {
    R *restrict x = u->param->value.p, *restrict exp_avg = u->state[0], *restrict exp_avg_sq = u->state[1];
    const R *restrict grad = u->grad;
    const R keep = (R)a->keep, l2 = (R)a->l2, step_size = (R)a->step_size, correction = (R)a->root_correction;
    const R c1 = (R)(1 - o->beta1), beta2 = (R)o->beta2, c2 = (R)(1 - o->beta2), eps = (R)o->eps;
    for (int64_t i = from; i < to; i++) {
      R theta = x[i] * keep;
      R g = grad[i] + l2 * theta;
      R m = exp_avg[i] + c1 * (g - exp_avg[i]);
      R v = beta2 * exp_avg_sq[i] + c2 * g * g;
      exp_avg[i] = m;
      exp_avg_sq[i] = v;
      x[i] = theta - step_size * m / (RSQRT(v) / correction + eps);
    }
  });
}

static void step(const lk_update *u, struct adam a) {
  a.u = u;
  a.step_size = u->lr / (1 - pow(u->options->beta1, (double)u->step));
  a.root_correction = sqrt(1 - pow(u->options->beta2, (double)u->step));
  lk_parallel(u->threads, u->n, LK_OPTIM_GRAIN, piece, &a);
}

static int adam(lk_ctx *ctx, const lk_update *u, int n) {
  (void)ctx;
  for (int i = 0; i < n; i++) step(&u[i], (struct adam){.keep = 1, .l2 = u[i].weight_decay});
  return 0;
}

static int adamw(lk_ctx *ctx, const lk_update *u, int n) {
  (void)ctx;
  for (int i = 0; i < n; i++) step(&u[i], (struct adam){.keep = 1 - u[i].lr * u[i].weight_decay});
  return 0;
}

#define ADAM_OPTIONS(decay)                                                                                            \
  LK_OPTIM_COMMON(1e-3, decay), LK_OPTIM_OPTION(beta1, 0.9, 0, 1, "decay of the average of gradients"),                \
      LK_OPTIM_OPTION(beta2, 0.999, 0, 1, "decay of the average of squared gradients"),                                \
      LK_OPTIM_OPTION(eps, 1e-8, 0, INFINITY, "added to the root of that average"), {                                  \
    0                                                                                                                  \
  }

static const lk_optim_option adam_options[] = {ADAM_OPTIONS(0)};
static const lk_optim_option adamw_options[] = {ADAM_OPTIONS(0.01)};

const lk_optim_class lk_optim_adam = {
    .name = "adam",
    .summary = "adaptive moments, weight decay in the gradient",
    .cite = "Kingma and Ba, Adam: A method for stochastic optimization, ICLR 2015",
    .state = {"exp_avg", "exp_avg_sq"},
    .options = adam_options,
    .update = adam,
};

const lk_optim_class lk_optim_adamw = {
    .name = "adamw",
    .summary = "adaptive moments, decoupled weight decay",
    .cite = "Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019",
    .state = {"exp_avg", "exp_avg_sq"},
    .options = adamw_options,
    .update = adamw,
};
