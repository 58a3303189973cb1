/* cross_entropy.c: softmax and the negative log-likelihood of class indices in one op. */
#include "real.h"
#include "rows.h"

#include <lorikeet/op.h>

typedef struct attributes {
  int64_t ignore_index;
  double label_smoothing;
} attributes;

typedef struct job {
  lk_call *c;
  void *lse;    /* log(sum(exp(logits))) of each row */
  double *row;  /* forward: loss of each row */
  double scale; /* backward: gradient of the loss / rows that count */
} job;

static int shape(lk_call *c) {
  const lk_view *x = &c->x[0], *target = &c->x[1];
  double smoothing = ((const attributes *)c->attr)->label_smoothing;
  int fits = x->ndim == target->ndim + 1 && lk_view_cols(x) > 0;
  for (int d = 0; fits && d < target->ndim; d++) fits = x->shape[d] == target->shape[d];
  if (!fits) return lk_op_fail(c, LK_ESHAPE, "logits should be [..., classes] and target [...]");
  if (!(smoothing >= 0 && smoothing <= 1))
    return lk_op_fail(c, LK_EARG, "label_smoothing is %g, should be in [0, 1]", smoothing);
  return lk_view_init(c->y, x->dtype, 0, NULL);
}

/* Target of row r, or -1 where it is to be ignored. */
static int64_t target_of(const lk_call *c, int64_t r) {
  int64_t target = lk_view_index(&c->x[1], r);
  return target == ((const attributes *)c->attr)->ignore_index ? -1 : target;
}
static int64_t rows_that_count(const lk_call *c) {
  int64_t count = 0;
  for (int64_t r = 0, rows = lk_view_count(&c->x[1]); r < rows; r++) count += target_of(c, r) >= 0;
  return count;
}

static LK_CLONES void fwd_rows(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  const lk_view *xv = j->c->x;
  double smoothing = ((const attributes *)j->c->attr)->label_smoothing;
  int64_t n = lk_view_cols(xv);
  (void)thread;
  LK_REAL(xv->dtype, {
    for (int64_t r = from; r < to; r++) {
      const R *x = (const R *)xv->p + r * n;
      int64_t target = target_of(j->c, r);
      R top;
      R sum;
      j->row[r] = 0;
      if (target < 0) continue;
      LK_ROW_MAX(R, top, i, n, x[i]);
      LK_ROW_SUM(R, sum, i, n, REXP(x[i] - top));
      R log_sum = RLOG(sum);
      ((R *)j->lse)[r] = top + log_sum;
      j->row[r] = (1 - smoothing) * (top - x[target] + log_sum);
      if (smoothing == 0) continue;
      LK_ROW_SUM(R, sum, i, n, top - x[i]);
      j->row[r] += smoothing * (sum / (R)n + log_sum);
    }
  });
}

static int fwd(lk_call *c) {
  int64_t n = lk_view_cols(c->x), rows = lk_view_rows(c->x), count = rows_that_count(c);
  for (int64_t r = 0; r < rows; r++) {
    int64_t target = lk_view_index(&c->x[1], r);
    if ((target < 0 || target >= n) && target != ((const attributes *)c->attr)->ignore_index)
      return lk_op_fail(c, LK_EARG, "target %lld of row %lld is out of range [0, %lld)", (long long)target,
                        (long long)r, (long long)n);
  }
  job j = {.c = c};
  j.lse = lk_save(c, (size_t)rows * lk_dtype_size(c->x->dtype));
  j.row = lk_scratch(c, (size_t)rows * sizeof(double));
  if (!j.lse || !j.row) return -1;
  lk_parallel(c->threads, rows, lk_row_grain(n), fwd_rows, &j);
  double total = 0;
  for (int64_t r = 0; r < rows; r++) total += j.row[r];
  lk_view_set(c->y, 0, count ? total / (double)count : 0);
  return 0;
}

/* gx = scale (softmax(x) - (1 - smoothing) onehot(target) - smoothing / classes) */
static LK_CLONES void bwd_rows(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  const lk_call *c = j->c;
  double smoothing = ((const attributes *)c->attr)->label_smoothing;
  int64_t n = lk_view_cols(c->x);
  int fresh = c->fresh & LK_X(0);
  (void)thread;
  LK_REAL(c->x->dtype, {
    const R scale = (R)j->scale, even = (R)(smoothing / (double)n);
    for (int64_t r = from; r < to; r++) {
      const R *x = (const R *)c->x->p + r * n;
      R *gx = (R *)c->gx->p + r * n;
      int64_t target = target_of(c, r);
      if (target < 0) {
        for (int64_t i = 0; fresh && i < n; i++) gx[i] = 0;
        continue;
      }
      R lse = ((const R *)j->lse)[r];
      for (int64_t i = 0; i < n; i++) gx[i] = (fresh ? 0 : gx[i]) + scale * (REXP(x[i] - lse) - even);
      gx[target] -= scale * (R)(1 - smoothing);
    }
  });
}

static int bwd(lk_call *c) {
  int64_t count = rows_that_count(c);
  job j = {.c = c, .lse = c->saved, .scale = count ? lk_view_get(c->gy, 0) / (double)count : 0};
  lk_parallel(c->threads, lk_view_rows(c->x), lk_row_grain(lk_view_cols(c->x)), bwd_rows, &j);
  return 0;
}

static uint32_t reads(const lk_call *c) { return (void)c, LK_X(0) | LK_X(1); }

static const lk_case cases[] = {
    {"4x5 4", &(attributes){-100, 0}, -3, 3, 5}, {"2x3x33 2x3", &(attributes){-100, 0.1}, -3, 3, 33},
    {"9x3 9", &(attributes){1, 0.3}, -3, 3, 3},  {"3x1 3", &(attributes){0, 0.5}, -3, 3, 1},
    {"7 -", &(attributes){-100, 1}, -3, 3, 7},   {0}};
const lk_op lk_op_cross_entropy = {.name = "cross_entropy",
                                   .nin = 2,
                                   .flags = LK_OP_PACKED | LK_OP_FRESH,
                                   .types = "ri",
                                   .attr_size = sizeof(attributes),
                                   .shape = shape,
                                   .fwd = fwd,
                                   .bwd = bwd,
                                   .reads = reads,
                                   .cases = cases};

/* Mean over the rows whose target is not ignore_index (PyTorch's default is -100) of
 *   (1 - s) (-log p[target]) + s mean over classes of (-log p),  p = softmax(logits), s = label_smoothing.
 * logits [..., classes], target [...] of class numbers (any other value is refused) -> 0-d.  Where every row is
 * ignored the loss and its gradient are 0 (PyTorch gives NaN).  Differentiable in logits. */
LK_OP lk_tensor lk_cross_entropy(lk_tape *t, lk_tensor logits, lk_tensor target, int64_t ignore_index,
                                 double label_smoothing) {
  const lk_tensor in[] = {logits, target};
  const attributes attr = {ignore_index, label_smoothing};
  return lk_apply(t, &lk_op_cross_entropy, 2, in, &attr);
}
