/* binary.c: elementwise operators of two inputs, one line each; the inputs broadcast. */
#include "map.h"

/* In backward: run 0 is gy, runs 1 to 3 are a, b and y, if the derivative reads them. */
#define READS_0 0
#define READS_A LK_X(0)
#define READS_B LK_X(1)
#define READS_AB (LK_X(0) | LK_X(1))
#define READS_BY (LK_X(1) | LK_Y)
#define LOAD_0
#define LOAD_A const R a = LK_IN(1);
#define LOAD_B const R b = LK_IN(2);
#define LOAD_AB LOAD_A LOAD_B
#define LOAD_BY LOAD_B const R y = LK_IN(3);

/* gx[i] += kernel(gy, what it reads) */
static int map_back(lk_call *c, int i, lk_kernel kernel, uint32_t reads) {
  if (!c->gx[i].p) return 0;
  lk_map_job job = lk_map_grad(c, i, kernel);
  job.in[0] = c->gy;
  if (reads & LK_X(0)) job.in[1] = &c->x[0];
  if (reads & LK_X(1)) job.in[2] = &c->x[1];
  if (reads & LK_Y) job.in[3] = c->y;
  return lk_map(c, &job);
}

#define BINARY_CASES(lo, hi)                                                                                           \
  {                                                                                                                    \
    {"- -", NULL, lo, hi, 0}, {"3x5 3x5", NULL, lo, hi, 0}, {"3x5 5", NULL, lo, hi, 0}, {"7 2x3x7", NULL, lo, hi, 0},  \
        {"4x1x3 2x1", NULL, lo, hi, 0}, {"2x1x5 2x3x1", NULL, lo, hi, 0}, {"- 2x3", NULL, lo, hi, 0}, {                \
      0                                                                                                                \
    }                                                                                                                  \
  }

#define LK_BINARY(id, f, da, reads_a, db, reads_b, lo, hi)                                                             \
  LK_KERNEL(map_##id, const R a = LK_IN(0), b = LK_IN(1); o[i] = (f);)                                                 \
  LK_KERNEL(grad_a_##id, LOAD_##reads_a o[i] = LK_IN(0) * (R)(da);)                                                    \
  LK_KERNEL(grad_b_##id, LOAD_##reads_b o[i] = LK_IN(0) * (R)(db);)                                                    \
  static int fwd_##id(lk_call *c) {                                                                                    \
    return lk_map(c, &(lk_map_job){.out = *c->y, .in = {&c->x[0], &c->x[1]}, .kernel = map_##id});                     \
  }                                                                                                                    \
  static int bwd_##id(lk_call *c) {                                                                                    \
    /* a last: its gradient may overwrite gy */                                                                        \
    return map_back(c, 1, grad_b_##id, READS_##reads_b) || map_back(c, 0, grad_a_##id, READS_##reads_a);               \
  }                                                                                                                    \
  static uint32_t reads_##id(const lk_call *c) {                                                                       \
    return (c->want & LK_X(0) ? READS_##reads_a : 0) | (c->want & LK_X(1) ? READS_##reads_b : 0);                      \
  }                                                                                                                    \
  static const lk_case cases_##id[] = BINARY_CASES(lo, hi);                                                            \
  const lk_op lk_op_##id = {.name = #id,                                                                               \
                            .nin = 2,                                                                                  \
                            .flags = LK_OP_ELEMENTWISE | LK_OP_FRESH | LK_OP_REUSE,                                    \
                            .fwd = fwd_##id,                                                                           \
                            .bwd = bwd_##id,                                                                           \
                            .reads = reads_##id,                                                                       \
                            .cases = cases_##id};                                                                      \
  LK_OP lk_tensor lk_##id(lk_tape *t, lk_tensor a, lk_tensor b) {                                                      \
    return lk_apply(t, &lk_op_##id, 2, (lk_tensor[]){a, b}, NULL);                                                     \
  }

/* LK_BINARY(name, y of a and b, dy/da, what that reads, dy/db, what that reads, domain of the test cases).
 * Where a = b, minimum and maximum give each half the gradient, as PyTorch; NaN wins. */
/* clang-format off */

LK_BINARY(add, a + b, 1, 0, 1, 0, -2, 2)
LK_BINARY(sub, a - b, 1, 0, -1, 0, -2, 2)
LK_BINARY(mul, a * b, b, B, a, A, -2, 2)
/* a (1 + b) */
LK_BINARY(mul_one_plus, a + a * b, 1 + b, B, a, A, -2, 2)
LK_BINARY(div, a / b, 1 / b, B, -y / b, BY, 0.5, 2)
/* The smaller of a and b, elementwise; NaN if either is. Equal values share the gradient evenly. */
LK_BINARY(minimum, ((a < b) | (a != a)) ? a : b, a < b ? 1 : a > b ? 0 : (R)0.5, AB,
          b < a ? 1 : b > a ? 0 : (R)0.5, AB, -2, 2)
/* The larger of a and b, elementwise; NaN if either is. Equal values share the gradient evenly. */
LK_BINARY(maximum, ((a > b) | (a != a)) ? a : b, a > b ? 1 : a < b ? 0 : (R)0.5, AB,
          b > a ? 1 : b < a ? 0 : (R)0.5, AB, -2, 2)
/* clang-format on */
