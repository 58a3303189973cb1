/* norm.c: vector norms of any order over any axes. */
#include "reduce.h"

#include <float.h>

#define P (((const lk_reduction *)attr)->number)

/* What is summed (or, for p = +-infinity, compared): in[0] is x. */
LK_KERNEL(size, o[i] = RABS(LK_IN(0));)
LK_KERNEL(square, o[i] = LK_IN(0) * LK_IN(0);)
LK_KERNEL(power, o[i] = RPOW(RABS(LK_IN(0)), (R)P);)
LK_KERNEL(present, o[i] = LK_IN(0) != 0 ? 1 : 0;)

static double root(double sum, const void *attr) {
  (void)attr;
  return sqrt(sum);
}
static double power_root(double sum, const void *attr) { return pow(sum, 1 / P); }

/* Slopes: in[] are gy, x, y, and for p = +-infinity how many elements attain it. */
#define SIGN(x) ((R)(((x) > 0) - ((x) < 0)))
LK_KERNEL(slope_1, o[i] = LK_IN(0) * SIGN(LK_IN(1));)
LK_KERNEL(slope_2, o[i] = LK_IN(2) == 0 ? 0 : LK_IN(0) * LK_IN(1) / LK_IN(2);)
LK_KERNEL(slope_p, const R x = LK_IN(1), y = LK_IN(2);
          o[i] = ((x == 0) | (y == 0)) ? 0 : LK_IN(0) * SIGN(x) * RPOW(RABS(x) / y, (R)(P - 1));)
LK_KERNEL(slope_0, o[i] = 0;)
LK_KERNEL(attains, o[i] = RABS(LK_IN(0)) == LK_IN(1) ? 1 : 0;)
LK_KERNEL(slope_inf, const R x = LK_IN(1); o[i] = RABS(x) == LK_IN(2) ? LK_IN(0) * SIGN(x) / LK_IN(3) : 0;)

static double order(const lk_call *c) { return ((const lk_reduction *)c->attr)->number; }

static int shape(lk_call *c) {
  double p = order(c);
  if (p != p) return lk_op_fail(c, LK_EARG, "p is NaN");
  return p > 0 && p <= DBL_MAX ? lk_reduce_shape(c) : lk_reduce_shape_nonempty(c);
}

static int fwd(lk_call *c) {
  double p = order(c);
  if (isinf(p)) return lk_reduce_map(c, c->y, size, NULL, p > 0 ? LK_FOLD_MAX : LK_FOLD_MIN, NULL);
  if (p == 0) return lk_reduce_map(c, c->y, present, NULL, LK_FOLD_SUM, NULL);
  if (p == 1) return lk_reduce_map(c, c->y, size, NULL, LK_FOLD_SUM, NULL);
  if (p == 2) return lk_reduce_map(c, c->y, square, NULL, LK_FOLD_SUM, root);
  return lk_reduce_map(c, c->y, power, NULL, LK_FOLD_SUM, power_root);
}

static int bwd(lk_call *c) {
  double p = order(c);
  if (isinf(p)) return lk_reduce_share(c, attains, slope_inf);
  return lk_reduce_grad(c, p == 0 ? slope_0 : p == 1 ? slope_1 : p == 2 ? slope_2 : slope_p, NULL);
}

static uint32_t reads(const lk_call *c) {
  double p = order(c);
  return p == 0 ? 0 : p == 1 ? LK_X(0) : LK_X(0) | LK_Y;
}

static const lk_case cases[] = {LK_REDUCE_CASES(2, -2, 2),
                                {"3x5", &(lk_reduction){1, {0}, 0, 1}, -2, 2, 0},
                                {"-", &(lk_reduction){0, {0}, 0, 1}, -2, 2, 0},
                                {"3x5", &(lk_reduction){0, {0}, 1, 1}, -2, 2, 0},
                                {"3x5", &(lk_reduction){1, {1}, 0, INFINITY}, -2, 2, 0},
                                {"3x5", &(lk_reduction){1, {0}, 1, -INFINITY}, -2, 2, 0},
                                {"3x5", &(lk_reduction){1, {1}, 0, 3}, -2, 2, 0},
                                {"3x1", &(lk_reduction){1, {1}, 0, 3}, -2, 2, 0},
                                {"3x5", &(lk_reduction){1, {-2}, 0, 1.5}, 0.3, 2, 0},
                                {"3x5", &(lk_reduction){1, {1}, 0, -1}, 0.3, 2, 0},
                                {"3x5", &(lk_reduction){1, {1}, 0, 0}, 0.3, 2, 0},
                                {0}};
const lk_op lk_op_norm = {.name = "norm",
                          .nin = 1,
                          .flags = LK_OP_FRESH,
                          .attr_size = sizeof(lk_reduction),
                          .shape = shape,
                          .fwd = fwd,
                          .bwd = bwd,
                          .reads = reads,
                          .cases = cases};

/* The vector p-norm over the axes (as in lk_sum): (sum |x|^p)^(1/p) for any real p; p = infinity: the largest |x|,
 * -infinity: the smallest, 0: how many are not 0.  The gradient is 0 where x or the norm is 0, and shared evenly by
 * equal largest (smallest) |x|.  For p <= 0 and the infinities, refuses to take it of nothing. */
LK_OP lk_tensor lk_norm(lk_tape *t, lk_tensor x, double p, int naxes, const int *axes, int keepdim) {
  return lk_reduce(t, &lk_op_norm, x, naxes, axes, keepdim, p);
}
