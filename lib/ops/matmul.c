/* matmul.c: y = a b over the last two axes; the axes before them broadcast. */
#include "gemm.h"

#include <lorikeet/op.h>

static int shape(lk_call *c) {
  const lk_view *a = &c->x[0], *b = &c->x[1], *longer = a->ndim > b->ndim ? a : b;
  int64_t n[LK_MAXDIM];
  int nd = longer->ndim;
  if (a->ndim < 2 || b->ndim < 2) return lk_op_fail(c, LK_ESHAPE, "wants a [..., m, k] and b [..., k, n], not vectors");
  int64_t m = a->shape[a->ndim - 2], k = a->shape[a->ndim - 1];
  if (k != b->shape[b->ndim - 2])
    return lk_op_fail(c, LK_ESHAPE, "inner sizes differ: %lld and %lld", (long long)k,
                      (long long)b->shape[b->ndim - 2]);
  for (int d = 0; d < nd - 2; d++) {
    int da = d - (nd - a->ndim), db = d - (nd - b->ndim);
    int64_t na = da < 0 ? 1 : a->shape[da], nb = db < 0 ? 1 : b->shape[db];
    if (na != nb && na != 1 && nb != 1)
      return lk_op_fail(c, LK_ESHAPE, "leading axis %d does not broadcast: %lld and %lld", d, (long long)na,
                        (long long)nb);
    n[d] = na == 1 ? nb : na;
  }
  n[nd - 2] = m;
  n[nd - 1] = b->shape[b->ndim - 1];
  return lk_view_init(c->y, a->dtype, nd, n) ? lk_op_fail(c, LK_ESHAPE, "the result is too large") : 0;
}

static int fwd(lk_call *c) {
  lk_gemm_batched(c, lk_gemm_spread(c->x[0], c->y), lk_gemm_spread(c->x[1], c->y), 1, 0, *c->y);
  return 0;
}

/* ga = gy b^T, gb = a^T gy, summed where a or b were broadcast */
static int bwd(lk_call *c) {
  if (c->gx[0].p) {
    lk_view b = lk_gemm_transpose(lk_gemm_spread(c->x[1], c->y));
    lk_gemm_batched(c, *c->gy, b, 1, c->fresh & LK_X(0) ? 0 : 1, lk_gemm_spread(c->gx[0], c->y));
  }
  if (c->gx[1].p) {
    lk_view a = lk_gemm_transpose(lk_gemm_spread(c->x[0], c->y));
    lk_gemm_batched(c, a, *c->gy, 1, c->fresh & LK_X(1) ? 0 : 1, lk_gemm_spread(c->gx[1], c->y));
  }
  return 0;
}

static uint32_t reads(const lk_call *c) {
  return (c->want & LK_X(0) ? LK_X(1) : 0) | (c->want & LK_X(1) ? LK_X(0) : 0);
}

static const lk_case cases[] = {{"3x4 4x5", NULL, -1, 1, 0},     {"2x3x4 4x5", NULL, -1, 1, 0},
                                {"3x4 2x4x5", NULL, -1, 1, 0},   {"2x1x3x4 3x4x2", NULL, -1, 1, 0},
                                {"1x4 4x1", NULL, -1, 1, 0},     {"2x3x1x2 1x3x2x3", NULL, -1, 1, 0},
                                {"3x2x1 1x1x4", NULL, -1, 1, 0}, {"2x2x17 3x1x17x2", NULL, -1, 1, 0},

                                {"3x0 0x2", NULL, -1, 1, 0},     {0}};
const lk_op lk_op_matmul = {.name = "matmul",
                            .nin = 2,
                            .flags = LK_OP_FRESH,
                            .shape = shape,
                            .fwd = fwd,
                            .bwd = bwd,
                            .reads = reads,
                            .cases = cases};

/* y = a b: a [..., m, k], b [..., k, n], y [..., m, n]; the leading axes broadcast.  f32 or f64, any strides, nothing is
 * copied first.  Vectors are refused: give them an axis of size 1. */
LK_OP lk_tensor lk_matmul(lk_tape *t, lk_tensor a, lk_tensor b) {
  return lk_apply(t, &lk_op_matmul, 2, (lk_tensor[]){a, b}, NULL);
}
