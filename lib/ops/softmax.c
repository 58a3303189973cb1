/* softmax.c: softmax and log softmax over one axis. */
#include "real.h"
#include "rows.h"

#include <lorikeet/op.h>
#include <lorikeet/ops.h>

extern const lk_op lk_op_log_softmax;

static int shape(lk_call *c) {
  const lk_view *x = c->x;
  int axis = lk_op_axis(c, *(const int *)c->attr, x->ndim);
  if (axis < 0) return -1;
  if (axis != x->ndim - 1) return lk_op_fail(c, LK_EARG, "axis %d is not the last; lk_%s takes any", axis, c->op->name);
  return lk_view_init(c->y, x->dtype, x->ndim, x->shape);
}

/* The largest element is subtracted first: no exponential overflows. */
static LK_CLONES void fwd_rows(void *arg, int64_t from, int64_t to, int thread) {
  const lk_call *c = arg;
  int64_t n = lk_view_cols(c->x);
  int is_log = c->op == &lk_op_log_softmax;
  (void)thread;
  LK_REAL(c->x->dtype, {
    for (int64_t r = from; r < to; r++) {
      const R *x = (const R *)c->x->p + r * n;
      R *y = (R *)c->y->p + r * n;
      R top;
      R sum;
      LK_ROW_MAX(R, top, i, n, x[i]);
      for (int64_t i = 0; i < n; i++) y[i] = REXP(x[i] - top);
      LK_ROW_SUM(R, sum, i, n, y[i]);
      R log_sum = RLOG(sum);
      R scale = 1 / sum;
      if (is_log)
        for (int64_t i = 0; i < n; i++) y[i] = x[i] - top - log_sum;
      else
        for (int64_t i = 0; i < n; i++) y[i] *= scale;
    }
  });
}

/* softmax: gx = y (gy - sum(gy y));  log softmax: gx = gy - exp(y) sum(gy) */
static LK_CLONES void bwd_rows(void *arg, int64_t from, int64_t to, int thread) {
  const lk_call *c = arg;
  int64_t n = lk_view_cols(c->y);
  int is_log = c->op == &lk_op_log_softmax, fresh = c->fresh & LK_X(0);
  (void)thread;
  LK_REAL(c->y->dtype, {
    for (int64_t r = from; r < to; r++) {
      const R *y = (const R *)c->y->p + r * n, *gy = (const R *)c->gy->p + r * n;
      R *gx = (R *)c->gx->p + r * n;
      R sum;
      if (is_log) LK_ROW_SUM(R, sum, i, n, gy[i]);
      else LK_ROW_SUM(R, sum, i, n, gy[i] * y[i]);
      if (is_log)
        for (int64_t i = 0; i < n; i++) gx[i] = (fresh ? 0 : gx[i]) + (gy[i] - REXP(y[i]) * sum);
      else
        for (int64_t i = 0; i < n; i++) gx[i] = (fresh ? 0 : gx[i]) + y[i] * (gy[i] - sum);
    }
  });
}

static int fwd(lk_call *c) {
  int64_t n = lk_view_cols(c->x);
  if (n) lk_parallel(c->threads, lk_view_count(c->x) / n, lk_row_grain(n), fwd_rows, c);
  return 0;
}
static int bwd(lk_call *c) {
  int64_t n = lk_view_cols(c->y);
  if (n) lk_parallel(c->threads, lk_view_count(c->y) / n, lk_row_grain(n), bwd_rows, c);
  return 0;
}
static uint32_t reads(const lk_call *c) { return (void)c, LK_Y; }

static const lk_case cases[] = {
    {"5", &(int){0}, -2, 2, 0}, {"3x4", &(int){-1}, -2, 2, 0}, {"2x3x37", &(int){2}, -30, 30, 0}, {0}};

#define SOFTMAX(NAME)                                                                                                  \
  {                                                                                                                    \
    .name = NAME, .nin = 1, .flags = LK_OP_PACKED | LK_OP_FRESH, .attr_size = sizeof(int), .shape = shape, .fwd = fwd, \
    .bwd = bwd, .reads = reads, .cases = cases                                                                         \
  }
const lk_op lk_op_softmax = SOFTMAX("softmax");
const lk_op lk_op_log_softmax = SOFTMAX("log_softmax");

/* Both ops work on the last axis, and refuse one out of range; any other is swapped there and back. */
static lk_tensor over_axis(lk_tape *t, const lk_op *op, lk_tensor x, int axis) {
  int ndim = lk_is_nil(x) ? 0 : lk_ndim(t, x);
  if (axis < -ndim || axis == -1 || axis >= ndim - 1) return lk_apply(t, op, 1, &x, &axis);
  lk_tensor swapped = lk_transpose(t, x, axis, -1);
  return lk_transpose(t, lk_apply(t, op, 1, &swapped, &(int){-1}), axis, -1);
}

/* y = exp(x) / sum(exp(x)) over axis (negative counts from the end); same shape. */
LK_OP lk_tensor lk_softmax(lk_tape *t, lk_tensor x, int axis) { return over_axis(t, &lk_op_softmax, x, axis); }

/* y = x - log(sum(exp(x))) over axis (negative counts from the end); same shape. */
LK_OP lk_tensor lk_log_softmax(lk_tape *t, lk_tensor x, int axis) { return over_axis(t, &lk_op_log_softmax, x, axis); }
