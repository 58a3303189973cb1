/* losses.c: losses that are a sum over pairs of elements: mean squared error, binary cross-entropy, KL divergence. */
#include "map.h"

static int shape(lk_call *c) {
  if (!lk_view_same_shape(&c->x[0], &c->x[1])) return lk_op_fail(c, LK_ESHAPE, "the shapes differ");
  if (!lk_view_count(c->x)) return lk_op_fail(c, LK_ESHAPE, "there are no elements");
  return lk_view_init(c->y, c->x->dtype, 0, NULL);
}
static int batch_shape(lk_call *c) {
  return c->x->ndim ? shape(c) : lk_op_fail(c, LK_ESHAPE, "the batch axis is missing");
}

static double divide(double sum, const void *divisor) { return sum / *(const double *)divisor; }

/* y = sum of kernel(a, b) / divisor */
static int total(lk_call *c, lk_kernel kernel, double divisor) {
  lk_map_job job = {.out = *c->x, .in = {&c->x[0], &c->x[1]}, .kernel = kernel, .attr = &divisor, .finish = divide};
  job.out.p = c->y->p;
  for (int d = 0; d < job.out.ndim; d++) job.out.stride[d] = 0;
  return lk_map(c, &job);
}

/* gx[i] += gy / divisor * (what the kernel computes from a and b) */
static int slope(lk_call *c, int i, lk_kernel kernel, uint32_t reads, double divisor) {
  double scale = lk_view_get(c->gy, 0) / divisor;
  if (!c->gx[i].p) return 0;
  lk_map_job job = lk_map_grad(c, i, kernel);
  job.attr = &scale;
  for (int k = 0; k < 2; k++) job.in[k] = reads & LK_X(k) ? &c->x[k] : NULL;
  return lk_map(c, &job);
}

#define A LK_IN(0)
#define B LK_IN(1)
#define BOTH (LK_X(0) | LK_X(1))

/* A loss: the sum of VALUE over the elements A and B, divided by DIVISOR; DA and DB are the derivatives of VALUE, and
 * READS_A and READS_B say what these look at. */
#define LOSS(NAME, DIVISOR, VALUE, DA, READS_A, DB, READS_B)                                                           \
  LK_KERNEL(NAME##_value, o[i] = (R)(VALUE);)                                                                          \
  LK_KERNEL(NAME##_da, o[i] = (R) * (const double *)attr * (R)(DA);)                                                   \
  LK_KERNEL(NAME##_db, o[i] = (R) * (const double *)attr * (R)(DB);)                                                   \
  static int NAME##_fwd(lk_call *c) { return total(c, NAME##_value, (double)(DIVISOR)); }                              \
  static int NAME##_bwd(lk_call *c) {                                                                                  \
    double divisor = (double)(DIVISOR);                                                                                \
    return slope(c, 0, NAME##_da, READS_A, divisor) || slope(c, 1, NAME##_db, READS_B, divisor);                       \
  }                                                                                                                    \
  static uint32_t NAME##_reads(const lk_call *c) {                                                                     \
    return (c->want & LK_X(0) ? (READS_A) : 0) | (c->want & LK_X(1) ? (READS_B) : 0);                                  \
  }
#define OP(NAME, SHAPE, ...)                                                                                           \
  {                                                                                                                    \
    .name = #NAME, .nin = 2, .flags = LK_OP_FRESH, .shape = SHAPE, .fwd = NAME##_fwd, .bwd = NAME##_bwd,               \
    .reads = NAME##_reads, .cases = (const lk_case[]) {                                                                \
      __VA_ARGS__, { 0 }                                                                                               \
    }                                                                                                                  \
  }

LOSS(mse, lk_view_count(c->x), (A - B) * (A - B), 2 * (A - B), BOTH, 2 * (B - A), BOTH)
const lk_op lk_op_mse = OP(mse, shape, {"3x7 3x7", NULL, -2, 2, 0}, {"- -", NULL, -2, 2, 0});

/* Mean over all elements of (a - b)^2; a and b of one shape -> 0-d.  Differentiable in both. */
LK_OP lk_tensor lk_mse(lk_tape *t, lk_tensor a, lk_tensor b) {
  const lk_tensor in[] = {a, b};
  return lk_apply(t, &lk_op_mse, 2, in, NULL);
}

/* log(1 + exp(a)) = max(a, 0) + log1p(exp(-|a|)) does not overflow; an infinite exp(-a) gives the sigmoid 0. */
LOSS(bce_with_logits, lk_view_count(c->x), (A > 0 ? A : 0) - A * B + RLOG1P(REXP(A > 0 ? -A : A)),
     1 / (1 + REXP(-A)) - B, BOTH, -A, LK_X(0))
const lk_op lk_op_bce_with_logits = OP(bce_with_logits, shape, {"5x4 5x4", NULL, -3, 3, 0},
                                       {"2x1x3 2x1x3", NULL, -30, 30, 0}, {"- -", NULL, 0.2, 1, 0});

/* Mean over all elements of -(target log p + (1 - target) log(1 - p)), p = sigmoid(x), computed without overflow;
 * x and target of one shape, target in [0, 1] -> 0-d.  Differentiable in both. */
LK_OP lk_tensor lk_bce_with_logits(lk_tape *t, lk_tensor x, lk_tensor target) {
  const lk_tensor in[] = {x, target};
  return lk_apply(t, &lk_op_bce_with_logits, 2, in, NULL);
}

LOSS(kl_div, c->x->shape[0], B == 0 ? 0 : B * (RLOG(B) - A), -B, LK_X(1), B == 0 ? 0 : RLOG(B) + 1 - A, BOTH)
const lk_op lk_op_kl_div = OP(kl_div, batch_shape, {"3x5 3x5", NULL, 0.1, 2, 0}, {"4 4", NULL, 0.1, 2, 0});

LOSS(kl_div_log, c->x->shape[0], REXP(B) * (B - A), -REXP(B), LK_X(1), REXP(B) * (B - A + 1), BOTH)
const lk_op lk_op_kl_div_log = OP(kl_div_log, batch_shape, {"3x5 3x5", NULL, -2, 1, 0}, {"4 4", NULL, -2, 1, 0});

/* Kullback-Leibler divergence of p from q: the sum of q (log q - log p) divided by the size of axis 0 (PyTorch's
 * "batchmean").  log_p holds log-probabilities; q probabilities or, with log_target, their logarithms; one shape
 * [batch, ...] -> 0-d.  Where q is 0 the term and the gradient of q are 0.  Differentiable in both. */
LK_OP lk_tensor lk_kl_div(lk_tape *t, lk_tensor log_p, lk_tensor q, int log_target) {
  const lk_tensor in[] = {log_p, q};
  return lk_apply(t, log_target ? &lk_op_kl_div_log : &lk_op_kl_div, 2, in, NULL);
}
