/* var.c: variance over any axes, in two passes. */
#include "reduce.h"

/* What the kernels and finish need: the number of elements, and the divisor. */
typedef struct sizes {
  double n, divisor;
} sizes;

static sizes sizes_of(const lk_call *c) {
  double n = (double)lk_reduce_size(c);
  return (sizes){n, n - ((const lk_reduction *)c->attr)->number};
}

static int shape(lk_call *c) {
  if (lk_reduce_shape_nonempty(c)) return -1;
  sizes s = sizes_of(c);
  if (!(s.divisor > 0))
    return lk_op_fail(c, LK_EARG, "%g elements are too few for correction %g", s.n, s.n - s.divisor);
  return 0;
}

static double over_n(double sum, const void *attr) { return sum / ((const sizes *)attr)->n; }
static double over_divisor(double sum, const void *attr) { return sum / ((const sizes *)attr)->divisor; }

LK_KERNEL(square_from, const R d = LK_IN(0) - LK_IN(1); o[i] = d * d;)
LK_KERNEL(slope, o[i] = LK_IN(0) * (LK_IN(1) - LK_IN(2)) * (R)(2 / ((const sizes *)attr)->divisor);)

static int fwd(lk_call *c) {
  sizes s = sizes_of(c);
  lk_view mean = lk_reduce_like_y(c, lk_save(c, lk_view_bytes(c->y)));
  if (!mean.p) return -1;
  lk_view wide = lk_reduce_spread(c, &mean);
  if (lk_map(c, &(lk_map_job){.out = wide, .in = {&c->x[0]}, .attr = &s, .finish = over_n})) return -1;
  lk_map_job squares = {.out = lk_reduce_spread(c, c->y), .in = {&c->x[0], &wide}, .kernel = square_from};
  squares.attr = &s;
  squares.finish = over_divisor;
  return lk_map(c, &squares);
}

static int bwd(lk_call *c) {
  sizes s = sizes_of(c);
  lk_view saved = lk_reduce_like_y(c, c->saved);
  lk_view gy = lk_reduce_spread(c, c->gy), mean = lk_reduce_spread(c, &saved);
  lk_map_job job = lk_map_grad(c, 0, slope);
  job.in[0] = &gy;
  job.in[1] = &c->x[0];
  job.in[2] = &mean;
  job.attr = &s;
  return lk_map(c, &job);
}

static uint32_t reads(const lk_call *c) {
  (void)c;
  return LK_X(0);
}

static const lk_case cases[] = {LK_REDUCE_CASES(0.5, -2, 2),
                                {"3x5", &(lk_reduction){1, {1}, 0, 1}, -2, 2, 0},
                                {"3x5", &(lk_reduction){0, {0}, 0, 0}, -2, 2, 0},
                                {0}};
const lk_op lk_op_var = {.name = "var",
                         .nin = 1,
                         .flags = LK_OP_FRESH,
                         .attr_size = sizeof(lk_reduction),
                         .shape = shape,
                         .fwd = fwd,
                         .bwd = bwd,
                         .reads = reads,
                         .cases = cases};

/* The variance over the axes (as in lk_sum): sum of (x - mean)^2 / (n - correction); correction 1 is the unbiased
 * estimate, 0 the mean square.  Refuses n <= correction. */
LK_OP lk_tensor lk_var(lk_tape *t, lk_tensor x, int naxes, const int *axes, int keepdim, double correction) {
  return lk_reduce(t, &lk_op_var, x, naxes, axes, keepdim, correction);
}
