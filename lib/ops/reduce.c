/* reduce.c: sum, mean, max and min over any axes. */
#include "reduce.h"

static uint32_t reads_nothing(const lk_call *c) {
  (void)c;
  return 0;
}

#define REDUCE_OP(id, shape_of, read)                                                                                  \
  {                                                                                                                    \
    .name = #id, .nin = 1, .flags = LK_OP_FRESH, .attr_size = sizeof(lk_reduction), .shape = shape_of,                 \
    .fwd = fwd_##id, .bwd = bwd_##id, .reads = read, .cases = cases_##id                                               \
  }

static const lk_kernel itself = {NULL, NULL};

/* ---- sum, mean ---- */

static int fwd_sum(lk_call *c) { return lk_reduce_map(c, c->y, itself, NULL, LK_FOLD_SUM, NULL); }
static int bwd_sum(lk_call *c) { return lk_reduce_grad(c, itself, NULL); }
static const lk_case cases_sum[] = {LK_REDUCE_CASES(0, -2, 2), {0}};
const lk_op lk_op_sum = REDUCE_OP(sum, lk_reduce_shape, reads_nothing);

/* The sum over the axes (negative ones count from the end; naxes = 0: all), which disappear, or with keepdim become 1.
 * Accumulated in double.  The sum of nothing is 0. */
LK_OP lk_tensor lk_sum(lk_tape *t, lk_tensor x, int naxes, const int *axes, int keepdim) {
  return lk_reduce(t, &lk_op_sum, x, naxes, axes, keepdim, 0);
}

LK_KERNEL(over_n, o[i] = LK_IN(0) * (R)(1 / *(const double *)attr);)
static double divide(double sum, const void *attr) { return sum / *(const double *)attr; }

static int fwd_mean(lk_call *c) {
  double n = (double)lk_reduce_size(c);
  lk_map_job job = {.out = lk_reduce_spread(c, c->y), .in = {&c->x[0]}, .attr = &n, .finish = divide};
  return lk_map(c, &job);
}

static int bwd_mean(lk_call *c) {
  double n = (double)lk_reduce_size(c);
  lk_view gy = lk_reduce_spread(c, c->gy);
  lk_map_job job = lk_map_grad(c, 0, over_n);
  job.in[0] = &gy;
  job.attr = &n;
  return lk_map(c, &job);
}

static const lk_case cases_mean[] = {LK_REDUCE_CASES(0, -2, 2), {0}};
const lk_op lk_op_mean = REDUCE_OP(mean, lk_reduce_shape_nonempty, reads_nothing);

/* The mean over the axes; as lk_sum, but refuses to take it of nothing. */
LK_OP lk_tensor lk_mean(lk_tape *t, lk_tensor x, int naxes, const int *axes, int keepdim) {
  return lk_reduce(t, &lk_op_mean, x, naxes, axes, keepdim, 0);
}

/* ---- max, min ---- */

LK_KERNEL(equal, o[i] = LK_IN(0) == LK_IN(1) ? 1 : 0;)
LK_KERNEL(share, o[i] = LK_IN(1) == LK_IN(2) ? LK_IN(0) / LK_IN(3) : 0;)

static int fwd_max(lk_call *c) { return lk_reduce_map(c, c->y, itself, NULL, LK_FOLD_MAX, NULL); }
static int bwd_max(lk_call *c) { return lk_reduce_share(c, equal, share); }
static const lk_case cases_max[] = {LK_REDUCE_CASES(0, -2, 2), {0}};
const lk_op lk_op_max = REDUCE_OP(max, lk_reduce_shape_nonempty, NULL);

/* The largest element over the axes (as in lk_sum); NaN if there is one.  Equal largest elements share the gradient
 * evenly.  Refuses to take it of nothing. */
LK_OP lk_tensor lk_max(lk_tape *t, lk_tensor x, int naxes, const int *axes, int keepdim) {
  return lk_reduce(t, &lk_op_max, x, naxes, axes, keepdim, 0);
}

static int fwd_min(lk_call *c) { return lk_reduce_map(c, c->y, itself, NULL, LK_FOLD_MIN, NULL); }
static int bwd_min(lk_call *c) { return lk_reduce_share(c, equal, share); }
static const lk_case cases_min[] = {LK_REDUCE_CASES(0, -2, 2), {0}};
const lk_op lk_op_min = REDUCE_OP(min, lk_reduce_shape_nonempty, NULL);

/* The smallest element over the axes; as lk_max. */
LK_OP lk_tensor lk_min(lk_tape *t, lk_tensor x, int naxes, const int *axes, int keepdim) {
  return lk_reduce(t, &lk_op_min, x, naxes, axes, keepdim, 0);
}
