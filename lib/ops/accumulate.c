/* accumulate.c: y + s x W^T in the memory of y. */
#include "linear.h"

#include <lorikeet/ops.h>

static int shape(lk_call *c) {
  lk_view sum;
  char given[160], made[160];
  if (lk_linear_shape(c, &c->x[1], &c->x[2], &sum)) return -1;
  if (!lk_view_same_shape(&sum, &c->x[0]))
    return lk_op_fail(c, LK_ESHAPE, "y has shape %s, x W^T %s", lk_view_format(&c->x[0], given),
                      lk_view_format(&sum, made));
  *c->y = c->x[0];
  return 0;
}

static int fwd(lk_call *c) { return lk_linear_rows(c, &c->x[1], &c->x[2], *(const double *)c->attr, 1), 0; }
static int bwd(lk_call *c) { return lk_linear_rows_back(c, 1, *(const double *)c->attr), 0; }
static uint32_t reads(const lk_call *c) {
  return (c->want & LK_X(1) ? LK_X(2) : 0) | (c->want & LK_X(2) ? LK_X(1) : 0);
}

static const double half = 0.5;
static const lk_case cases[] = {
    {"3x5 3x4 5x4", &half, -1, 1, 0}, {"2x3x2 2x3x4 2x4", &half, -1, 1, 0}, {"5 4 5x4", &half, -1, 1, 0}, {0}};
const lk_op lk_op_accumulate = {.name = "accumulate",
                                .nin = 3,
                                .flags = LK_OP_INPLACE | LK_OP_FRESH,
                                .attr_size = sizeof(double),
                                .shape = shape,
                                .fwd = fwd,
                                .bwd = bwd,
                                .reads = reads,
                                .cases = cases};

/* y + s x W^T, written over y: y [..., out] or nil (then the result is s x W^T), x [..., in], W [out, in].  y itself
 * becomes stale: use the result.  Refused where a recorded backward will read y, and for parameters. */
LK_OP lk_tensor lk_accumulate(lk_tape *t, lk_tensor y, lk_tensor x, lk_tensor W, double s) {
  if (lk_is_nil(y)) return lk_scaled_linear(t, x, W, s);
  return lk_apply(t, &lk_op_accumulate, 3, (lk_tensor[]){y, x, W}, &s);
}
