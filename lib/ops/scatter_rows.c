/* scatter_rows.c: rows added at the places of an index, in the memory of y. */
#include "index.h"

static int shape(lk_call *c) {
  if (c->x->ndim < 1) return lk_op_fail(c, LK_ESHAPE, "y has no rows");
  if (lk_index_fits(c, &c->x[0], &c->x[1], &c->x[2], 0)) return -1;
  *c->y = c->x[0];
  return 0;
}

static int fwd(lk_call *c) {
  if (lk_check_index(c, &c->x[1], c->y->shape[0])) return -1;
  lk_index_walk(c, &c->x[1], c->y, &c->x[2], 0, LK_PUT_ADD);
  return 0;
}

static int bwd(lk_call *c) {
  if (c->gx[2].p) lk_index_walk(c, &c->x[1], c->gy, &c->gx[2], 0, c->fresh & LK_X(2) ? LK_TAKE : LK_TAKE_ADD);
  return 0;
}

static uint32_t reads(const lk_call *c) { return c->want & LK_X(2) ? LK_X(1) : 0; }

static const lk_case cases[] = {{"4x3 6 6x3", NULL, -1, 1, 4}, {"3x2x5 3 3x2x5", NULL, -1, 1, 3},
                                {"5 2 2", NULL, -1, 1, 5},     {"4x3 0 0x3", NULL, -1, 1, 4},
                                {"4x0 3 3x0", NULL, -1, 1, 4}, {0}};
const lk_op lk_op_scatter_rows = {.name = "scatter_rows",
                                  .nin = 3,
                                  .types = "rir",
                                  .flags = LK_OP_INPLACE | LK_OP_FRESH,
                                  .shape = shape,
                                  .fwd = fwd,
                                  .bwd = bwd,
                                  .reads = reads,
                                  .cases = cases};

/* y[index[k], ...] += d[k, ...], written over y: y [T, ...], index [n], d [n, ...]; repeated rows are summed in order.
 * y itself becomes stale: use the result.  An index outside [0, T) is refused, and what lk_accumulate refuses.
 * Differentiable in y and d. */
LK_OP lk_tensor lk_scatter_rows(lk_tape *t, lk_tensor y, lk_tensor index, lk_tensor d) {
  return lk_apply(t, &lk_op_scatter_rows, 3, (lk_tensor[]){y, index, d}, NULL);
}
