/* logsumexp.c: y = ln sum exp(x) over any axes, shifted by the largest element. */
#include "reduce.h"

/* An infinite largest element is not subtracted: the difference would be NaN. */
LK_KERNEL(shifted_exp, const R m = LK_IN(1), shift = m - m == 0 ? m : 0; o[i] = REXP(LK_IN(0) - shift);)
LK_KERNEL(log_shifted, const R m = LK_IN(1), shift = m - m == 0 ? m : 0; o[i] = shift + RLOG(LK_IN(0));)
/* Its slope is softmax(x); where x = y = infinity, 1. */
LK_KERNEL(slope, const R d = LK_IN(1) == LK_IN(2) ? 0 : LK_IN(1) - LK_IN(2); o[i] = LK_IN(0) * REXP(d);)

static int fwd(lk_call *c) {
  lk_view sum = lk_reduce_like_y(c, lk_scratch(c, lk_view_bytes(c->y)));
  lk_view top = lk_reduce_like_y(c, lk_scratch(c, lk_view_bytes(c->y)));
  if (!sum.p || !top.p) return -1;
  if (lk_reduce_map(c, &top, (lk_kernel){NULL, NULL}, NULL, LK_FOLD_MAX, NULL)) return -1;
  if (lk_reduce_map(c, &sum, shifted_exp, &top, LK_FOLD_SUM, NULL)) return -1;
  return lk_map(c, &(lk_map_job){.out = *c->y, .in = {&sum, &top}, .kernel = log_shifted});
}

static int bwd(lk_call *c) { return lk_reduce_grad(c, slope, NULL); }

static const lk_case cases[] = {LK_REDUCE_CASES(0, -2, 2), {0}};
const lk_op lk_op_logsumexp = {.name = "logsumexp",
                               .nin = 1,
                               .flags = LK_OP_FRESH,
                               .attr_size = sizeof(lk_reduction),
                               .shape = lk_reduce_shape_nonempty,
                               .fwd = fwd,
                               .bwd = bwd,
                               .cases = cases};

/* ln sum exp(x) over the axes (as in lk_sum), without overflow.  Refuses to take it of nothing. */
LK_OP lk_tensor lk_logsumexp(lk_tape *t, lk_tensor x, int naxes, const int *axes, int keepdim) {
  return lk_reduce(t, &lk_op_logsumexp, x, naxes, axes, keepdim, 0);
}
