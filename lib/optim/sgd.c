/* sgd.c: stochastic gradient descent with momentum, as torch.optim.SGD with dampening 0. */
#include "optim/optim.h"

/* One parameter's step; the direction is g grad + b buf. */
struct sgd {
  const lk_update *u;
  double momentum, g, b;
};

LK_CLONES static void plain(void *arg, int64_t from, int64_t to, int thread) {
  const lk_update *u = ((const struct sgd *)arg)->u;
  (void)thread;
  LK_REAL(u->param->value.dtype, {
    R *restrict x = u->param->value.p;
    const R *restrict grad = u->grad;
    const R lr = (R)u->lr, decay = (R)u->weight_decay;
    for (int64_t i = from; i < to; i++) x[i] -= lr * (grad[i] + decay * x[i]);
  });
}

LK_CLONES static void with_momentum(void *arg, int64_t from, int64_t to, int thread) {
  const struct sgd *s = arg;
  const lk_update *u = s->u;
  (void)thread;
  LK_REAL(u->param->value.dtype, {
    R *restrict x = u->param->value.p, *restrict buf = u->state[0];
    const R *restrict grad = u->grad;
    const R lr = (R)u->lr, decay = (R)u->weight_decay, momentum = (R)s->momentum, cg = (R)s->g, cb = (R)s->b;
    for (int64_t i = from; i < to; i++) {
      R d = grad[i] + decay * x[i];
      R m = momentum * buf[i] + d;
      buf[i] = m;
      x[i] -= lr * (cg * d + cb * m);
    }
  });
}

static int update(lk_ctx *ctx, const lk_update *u, int n) {
  (void)ctx;
  for (int i = 0; i < n; i++) {
    double momentum = u[i].options->momentum;
    struct sgd s = {&u[i], momentum, 0, 1};
    if (u[i].options->nesterov) {
      s.g = 1;
      s.b = momentum;
    }
    lk_parallel(u[i].threads, u[i].n, LK_OPTIM_GRAIN, momentum == 0 ? plain : with_momentum, &s);
  }
  return 0;
}

static int shape(const lk_optim_options *o, const lk_param *p, int i, lk_view *v) {
  (void)p, (void)i, (void)v;
  return o->momentum != 0;
}

static const char *refuse(const lk_optim_options *o) {
  return o->nesterov && o->momentum == 0 ? "nesterov needs a momentum above 0" : NULL;
}

static const lk_optim_option options[] = {
    LK_OPTIM_COMMON(1e-3, 0),
    LK_OPTIM_OPTION(momentum, 0, 0, INFINITY, "momentum factor"),
    LK_OPTIM_SWITCH(nesterov, 0, "Nesterov's momentum"),
    {0},
};

const lk_optim_class lk_optim_sgd = {
    .name = "sgd",
    .summary = "gradient descent with momentum",
    .cite = "Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013",
    .state = {"momentum_buffer"},
    .options = options,
    .refuse = refuse,
    .shape = shape,
    .update = update,
};
