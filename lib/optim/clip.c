/* clip.c: the finite check and the global norm of all gradients, in one pass; clipping by that norm. */
#include "optim/optim.h"

#define LANES 16

/* A gradient, and the sum of squares of each of its pieces. */
struct grad {
  lk_dtype dtype;
  void *p;
  double *partial;
  double scale;
};

/* Sixteen sums side by side: the same bits whatever the vector length. */
LK_CLONES static void square_sum(void *arg, int64_t from, int64_t to, int thread) {
  const struct grad *grad = arg;
  double lane[LANES] = {0}, sum = 0;
  (void)thread;
  LK_REAL(grad->dtype, {
    const R *g = grad->p;
    int64_t i = from;
    for (; i + LANES <= to; i += LANES)
      for (int k = 0; k < LANES; k++) lane[k] += (double)g[i + k] * (double)g[i + k];
    for (; i < to; i++) lane[i % LANES] += (double)g[i] * (double)g[i];
  });
  for (int k = 0; k < LANES; k++) sum += lane[k];
  grad->partial[from / LK_OPTIM_GRAIN] = sum;
}

LK_CLONES static void scale_piece(void *arg, int64_t from, int64_t to, int thread) {
  const struct grad *grad = arg;
  (void)thread;
  LK_REAL(grad->dtype, {
    R *g = grad->p;
    const R scale = (R)grad->scale;
    for (int64_t i = from; i < to; i++) g[i] *= scale;
  });
}

/* Which element made the norm not finite. */
static lk_status refuse(lk_ctx *ctx, const lk_param *p) {
  lk_view g = p->value;
  char shape[160];
  int64_t n = lk_view_count(&g), first = -1, bad = 0;
  g.p = p->grad;
  for (int64_t i = 0; i < n; i++) {
    if (isfinite(lk_view_get(&g, i))) continue;
    if (first < 0) first = i;
    bad++;
  }
  if (!bad) return lk_fail(ctx, LK_ENONFINITE, "step: the norm of the gradients overflows at %s", p->name);
  return lk_fail(ctx, LK_ENONFINITE,
                 "step: the gradient of %s %s is not finite: element %lld is %g (%lld of %lld elements); "
                 "nothing was written",
                 p->name, lk_view_format(&g, shape), (long long)first, lk_view_get(&g, first), (long long)bad,
                 (long long)n);
}

lk_status lk_optim_norm(lk_optim *o, int n) {
  double total = 0;
  for (int i = 0; i < n; i++) {
    const lk_update *u = &o->updates[i];
    struct grad g = {u->param->value.dtype, u->param->grad, o->partial, 1};
    lk_parallel(u->threads, u->n, LK_OPTIM_GRAIN, square_sum, &g);
    for (int64_t k = 0; k * LK_OPTIM_GRAIN < u->n; k++) total += o->partial[k];
    if (!isfinite(total)) return refuse(o->ctx, u->param);
  }
  o->norm = sqrt(total);
  return LK_OK;
}

void lk_optim_scale(lk_optim *o, int n, double coefficient) {
  for (int i = 0; i < n; i++) {
    const lk_update *u = &o->updates[i];
    struct grad g = {u->param->value.dtype, u->param->grad, NULL, coefficient};
    lk_parallel(u->threads, u->n, LK_OPTIM_GRAIN, scale_piece, &g);
  }
}
