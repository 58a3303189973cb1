/* scalar.c: elementwise operators of one input and one or two numbers: scale, leaky_relu, elu, clamp, pow. */
#include "map.h"

/* The attributes of all of them; what the numbers are stands at the kernels. */
typedef struct numbers {
  double a, b;
} numbers;
#define A ((R)((const numbers *)attr)->a)
#define B ((R)((const numbers *)attr)->b)

static int map_forward(lk_call *c, lk_kernel kernel) {
  return lk_map(c, &(lk_map_job){.out = *c->y, .in = {&c->x[0]}, .kernel = kernel, .attr = c->attr});
}

/* gx += kernel(gy, x if the op reads it). */
static int map_back(lk_call *c, lk_kernel kernel) {
  lk_map_job job = lk_map_grad(c, 0, kernel);
  job.in[0] = c->gy;
  job.in[1] = c->x[0].p ? &c->x[0] : NULL;
  return lk_map(c, &job);
}

static uint32_t reads_nothing(const lk_call *c) {
  (void)c;
  return 0;
}

static uint32_t reads_x(const lk_call *c) {
  (void)c;
  return LK_X(0);
}

/* An op from its kernels map_id and grad_id, its cases_id, what its backward reads and its shape function. */
#define SCALAR_FUNCTIONS(id)                                                                                           \
  static int fwd_##id(lk_call *c) { return map_forward(c, map_##id); }                                                 \
  static int bwd_##id(lk_call *c) { return map_back(c, grad_##id); }
#define SCALAR_OP(id, read, check)                                                                                     \
  {                                                                                                                    \
    .name = #id, .nin = 1, .flags = LK_OP_ELEMENTWISE | LK_OP_FRESH, .attr_size = sizeof(numbers), .shape = check,     \
    .fwd = fwd_##id, .bwd = bwd_##id, .reads = read, .cases = cases_##id                                               \
  }

/* ---- scale: a is the factor ---- */

LK_KERNEL(map_scale, o[i] = LK_IN(0) * A;)
LK_KERNEL(grad_scale, o[i] = LK_IN(0) * A;)
SCALAR_FUNCTIONS(scale)
static const lk_case cases_scale[] = {
    {"3x5", &(numbers){-1.5, 0}, -2, 2, 0}, {"-", &(numbers){2, 0}, -2, 2, 0}, {"2x1x7", &(numbers){0}, -2, 2, 0}, {0}};
const lk_op lk_op_scale = SCALAR_OP(scale, reads_nothing, NULL);

/* y = s x, elementwise. */
LK_OP lk_tensor lk_scale(lk_tape *t, lk_tensor x, double s) {
  return lk_apply(t, &lk_op_scale, 1, &x, &(numbers){s, 0});
}

/* ---- leaky_relu: a is the slope ---- */

LK_KERNEL(map_leaky_relu, const R x = LK_IN(0); o[i] = x > 0 ? x : A * x;)
LK_KERNEL(grad_leaky_relu, const R x = LK_IN(1); o[i] = LK_IN(0) * (x > 0 ? 1 : A);)
SCALAR_FUNCTIONS(leaky_relu)
static const lk_case cases_leaky_relu[] = {{"3x5", &(numbers){0.01, 0}, -2, 2, 0},
                                           {"7", &(numbers){-0.5, 0}, -2, 2, 0},
                                           {"-", &(numbers){0.2, 0}, 1, 2, 0},
                                           {0}};
const lk_op lk_op_leaky_relu = SCALAR_OP(leaky_relu, reads_x, NULL);

/* y = x for x > 0, else slope x, elementwise. */
LK_OP lk_tensor lk_leaky_relu(lk_tape *t, lk_tensor x, double slope) {
  return lk_apply(t, &lk_op_leaky_relu, 1, &x, &(numbers){slope, 0});
}

/* ---- elu: a is alpha ---- */

/* exp(x) - 1: near 0 the difference would lose digits in f32, so there it is a series. */
LK_INLINE float expm1_f32(float x) {
  float small = x * (1 + x * (0.5f + x * (0.16666667f + x * (0.041666668f + x * 0.0083333333f))));
  float big = lk_fast_exp(x) - 1;
  return ((x > -0.2f) & (x < 0.2f)) ? small : big;
}
#define EXPM1(x) _Generic((x), float : expm1_f32, double : expm1)(x)

LK_KERNEL(map_elu, const R x = LK_IN(0), below = A * EXPM1(x < 0 ? x : 0); o[i] = x < 0 ? below : x;)
LK_KERNEL(grad_elu, const R x = LK_IN(1), below = A * REXP(x < 0 ? x : 0); o[i] = LK_IN(0) * (x > 0 ? 1 : below);)
SCALAR_FUNCTIONS(elu)
static const lk_case cases_elu[] = {{"3x5", &(numbers){1, 0}, -2, 2, 0},
                                    {"7", &(numbers){-0.5, 0}, -2, 2, 0},
                                    {"-", &(numbers){0.2, 0}, -2, -1, 0},
                                    {0}};
const lk_op lk_op_elu = SCALAR_OP(elu, reads_x, NULL);

/* y = x for x > 0, else alpha (exp(x) - 1), elementwise (Clevert et al., ICLR 2016). */
LK_OP lk_tensor lk_elu(lk_tape *t, lk_tensor x, double alpha) {
  return lk_apply(t, &lk_op_elu, 1, &x, &(numbers){alpha, 0});
}

/* ---- clamp: a is the lower bound, b the upper ---- */

LK_KERNEL(map_clamp, const R x = LK_IN(0), low = A, high = B, y = x < low ? low : x; o[i] = y > high ? high : y;)
LK_KERNEL(grad_clamp, const R x = LK_IN(1); o[i] = ((x >= A) & (x <= B)) ? LK_IN(0) : 0;)
SCALAR_FUNCTIONS(clamp)

static int clamp_shape(lk_call *c) {
  const numbers *at = c->attr;
  if (!(at->a <= at->b)) return lk_op_fail(c, LK_EARG, "low %g is not below or equal to high %g", at->a, at->b);
  return lk_view_init(c->y, c->x[0].dtype, c->x[0].ndim, c->x[0].shape);
}

static const lk_case cases_clamp[] = {{"3x5", &(numbers){-0.5, 1}, -2, 2, 0},
                                      {"7", &(numbers){-INFINITY, 0.5}, -2, 2, 0},
                                      {"2x1x7", &(numbers){0, INFINITY}, -2, 2, 0},
                                      {"-", &(numbers){0, 1}, 0.2, 0.8, 0},
                                      {0}};
const lk_op lk_op_clamp = SCALAR_OP(clamp, reads_x, clamp_shape);

/* y = min(max(x, low), high), elementwise; low <= high, either may be infinite.  The gradient passes where
 * low <= x <= high. */
LK_OP lk_tensor lk_clamp(lk_tape *t, lk_tensor x, double low, double high) {
  return lk_apply(t, &lk_op_clamp, 1, &x, &(numbers){low, high});
}
