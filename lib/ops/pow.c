/* pow.c: y = x^p for one number p, the usual exponents without calling pow(). */
#include "map.h"

/* Runs: x in forward; gy and x in backward, which computes gy p x^(p - 1). */
#define POWER(id, y, dy)                                                                                               \
  LK_KERNEL(map_##id, const R x = LK_IN(0); o[i] = (y);)                                                               \
  LK_KERNEL(grad_##id, const R x = LK_IN(1); o[i] = LK_IN(0) * (dy);)
#define P ((R)((const double *)attr)[0])

/* clang-format off */
POWER(square,       x * x,         2 * x)
POWER(cube,         x * x * x,     3 * x * x)
POWER(root,         RSQRT(x),      (R)0.5 / RSQRT(x))
POWER(inverse,      1 / x,         -1 / (x * x))
POWER(inverse_root, 1 / RSQRT(x),  (R)-0.5 / (x * RSQRT(x)))
POWER(any,          RPOW(x, P),    P * RPOW(x, P - 1))
/* clang-format on */
LK_KERNEL(map_zero, o[i] = 1;)
LK_KERNEL(grad_zero, o[i] = 0;)
static const lk_kernel first_run = {NULL, NULL}; /* x in forward, gy in backward */

static const struct {
  double p;
  const lk_kernel *forward, *back;
} special[] = {{0, &map_zero, &grad_zero},
               {1, &first_run, &first_run},
               {2, &map_square, &grad_square},
               {3, &map_cube, &grad_cube},
               {0.5, &map_root, &grad_root},
               {-1, &map_inverse, &grad_inverse},
               {-0.5, &map_inverse_root, &grad_inverse_root}};

static lk_kernel kernel_of(lk_call *c, int back) {
  double p = *(const double *)c->attr;
  for (size_t i = 0; i < sizeof special / sizeof *special; i++)
    if (special[i].p == p) return back ? *special[i].back : *special[i].forward;
  return back ? grad_any : map_any;
}

static int fwd(lk_call *c) {
  return lk_map(c, &(lk_map_job){.out = *c->y, .in = {&c->x[0]}, .kernel = kernel_of(c, 0), .attr = c->attr});
}

static int bwd(lk_call *c) {
  lk_map_job job = lk_map_grad(c, 0, kernel_of(c, 1));
  job.in[0] = c->gy;
  if (c->x[0].p) job.in[1] = &c->x[0];
  return lk_map(c, &job);
}

/* The slopes of x^0 and x^1 do not depend on x. */
static uint32_t reads(const lk_call *c) {
  double p = *(const double *)c->attr;
  return p == 0 || p == 1 ? 0 : LK_X(0);
}

static const lk_case cases[] = {{"3x5", &(double){2}, -2, 2, 0},
                                {"7", &(double){3}, -2, 2, 0},
                                {"2x1x3", &(double){0.5}, 0.3, 2, 0},
                                {"-", &(double){-1}, 0.5, 2, 0},
                                {"5", &(double){-0.5}, 0.5, 2, 0},
                                {"5", &(double){1.7}, 0.3, 2, 0},
                                {"5", &(double){-3}, -2, -0.5, 0},
                                {"5", &(double){4}, -2, 2, 0},
                                {"5", &(double){1}, -2, 2, 0},
                                {"5", &(double){0}, -2, 2, 0},
                                {0}};
const lk_op lk_op_pow = {.name = "pow",
                         .nin = 1,
                         .flags = LK_OP_ELEMENTWISE | LK_OP_FRESH,
                         .attr_size = sizeof(double),
                         .fwd = fwd,
                         .bwd = bwd,
                         .reads = reads,
                         .cases = cases};

/* y = x^p, elementwise; as C's pow: NaN for a negative x and a p that is not whole. */
LK_OP lk_tensor lk_pow(lk_tape *t, lk_tensor x, double p) { return lk_apply(t, &lk_op_pow, 1, &x, &p); }
