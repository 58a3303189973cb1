/* rms_norm.c: rows of the last axis to root mean square 1, scaled (Zhang and Sennrich, arXiv 1910.07467). */
#include "real.h"
#include "rows.h"

#include <lorikeet/op.h>
#include <string.h>

typedef struct job {
  lk_call *c;
  void *inverse; /* 1 / root mean square of each row */
  double eps;
} job;

static int shape(lk_call *c) {
  const lk_view *x = &c->x[0], *gamma = &c->x[1];
  double eps = *(const double *)c->attr;
  if (!x->ndim || !lk_view_cols(x)) return lk_op_fail(c, LK_ESHAPE, "the last axis is empty");
  if (!(eps >= 0)) return lk_op_fail(c, LK_EARG, "eps is %g, should be 0 or more", eps);
  if (gamma->ndim != 1 || gamma->shape[0] != lk_view_cols(x))
    return lk_op_fail(c, LK_ESHAPE, "gamma should have the %lld elements of the last axis", (long long)lk_view_cols(x));
  return lk_view_init(c->y, x->dtype, x->ndim, x->shape);
}

static LK_CLONES void fwd_rows(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  const lk_call *c = j->c;
  int64_t n = lk_view_cols(c->y);
  (void)thread;
  LK_REAL(c->y->dtype, {
    const R *gamma = c->x[1].p;
    for (int64_t r = from; r < to; r++) {
      const R *x = (const R *)c->x[0].p + r * n;
      R *y = (R *)c->y->p + r * n;
      R squares;
      LK_ROW_SUM(R, squares, i, n, x[i] * x[i]);
      R inverse = 1 / RSQRT(squares / (R)n + (R)j->eps);
      for (int64_t i = 0; i < n; i++) y[i] = x[i] * inverse * gamma[i];
      ((R *)j->inverse)[r] = inverse;
    }
  });
}

static int fwd(lk_call *c) {
  int64_t n = lk_view_cols(c->y), rows = lk_view_rows(c->y);
  job j = {.c = c, .eps = *(const double *)c->attr};
  j.inverse = lk_save(c, (size_t)rows * lk_dtype_size(c->y->dtype));
  if (!j.inverse) return -1;
  lk_parallel(c->threads, rows, lk_row_grain(n), fwd_rows, &j);
  return 0;
}

/* With h = x inverse and g = gy gamma:  gx = inverse (g - h mean(g h)) */
static LK_CLONES void bwd_rows(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  const lk_call *c = j->c;
  int64_t n = lk_view_cols(c->y);
  int fresh = c->fresh & LK_X(0);
  (void)thread;
  LK_REAL(c->y->dtype, {
    const R *gamma = c->x[1].p;
    for (int64_t r = from; r < to; r++) {
      const R *x = (const R *)c->x[0].p + r * n, *gy = (const R *)c->gy->p + r * n;
      R *gx = (R *)c->gx[0].p + r * n;
      R inverse = ((const R *)j->inverse)[r];
      R mean;
      LK_ROW_SUM(R, mean, i, n, gy[i] * gamma[i] * x[i]);
      mean *= inverse * inverse / (R)n;
      for (int64_t i = 0; i < n; i++) gx[i] = (fresh ? 0 : gx[i]) + inverse * (gy[i] * gamma[i] - x[i] * mean);
    }
  });
}

enum { COLUMNS = 64, BLOCK = 64 };

/* Gradient of gamma for some columns: a thread goes through all rows in order, summing blocks of them. */
static LK_CLONES void bwd_columns(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  const lk_call *c = j->c;
  int64_t n = lk_view_cols(c->y), rows = lk_view_rows(c->y), width = to - from;
  (void)thread;
  LK_REAL(c->y->dtype, {
    R *ggamma = (R *)c->gx[1].p + from;
    for (int64_t b = 0; b < rows; b += BLOCK) {
      R sum[COLUMNS] = {0};
      for (int64_t r = b; r < rows && r < b + BLOCK; r++) {
        const R *x = (const R *)c->x[0].p + r * n + from, *gy = (const R *)c->gy->p + r * n + from;
        R inverse = ((const R *)j->inverse)[r];
        for (int64_t i = 0; i < width; i++) sum[i] += gy[i] * x[i] * inverse;
      }
      for (int64_t i = 0; i < width; i++) ggamma[i] += sum[i];
    }
  });
}

static int bwd(lk_call *c) {
  int64_t n = lk_view_cols(c->y), rows = lk_view_rows(c->y);
  job j = {.c = c, .inverse = c->saved};
  if (c->gx[0].p) lk_parallel(c->threads, rows, lk_row_grain(n), bwd_rows, &j);
  if (!c->gx[1].p) return 0;
  if (c->fresh & LK_X(1)) memset(c->gx[1].p, 0, lk_view_bytes(&c->gx[1]));
  lk_parallel(rows * n < 32768 ? 1 : c->threads, n, COLUMNS, bwd_columns, &j);
  return 0;
}

static uint32_t reads(const lk_call *c) { return LK_X(0) | (c->want & LK_X(0) ? LK_X(1) : 0); }

static const lk_case cases[] = {{"3x5 5", &(double){1e-5}, -2, 2, 0},   {"2x3x19 19", &(double){1e-3}, -2, 2, 0},
                                {"70x2 2", &(double){1e-1}, 0.5, 2, 0}, {"2x67 67", &(double){1e-6}, -2, 2, 0},
                                {"6 6", &(double){0}, -2, 2, 0},        {0}};
const lk_op lk_op_rms_norm = {.name = "rms_norm",
                              .nin = 2,
                              .flags = LK_OP_PACKED | LK_OP_FRESH | LK_OP_CHEAP,
                              .attr_size = sizeof(double),
                              .shape = shape,
                              .fwd = fwd,
                              .bwd = bwd,
                              .reads = reads,
                              .cases = cases};

/* y = x / sqrt(mean(x^2) + eps) * gamma over the last axis; x [..., n], gamma [n].  Differentiable in both. */
LK_OP lk_tensor lk_rms_norm(lk_tape *t, lk_tensor x, lk_tensor gamma, double eps) {
  return lk_apply(t, &lk_op_rms_norm, 2, (lk_tensor[]){x, gamma}, &eps);
}
