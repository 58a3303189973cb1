/* layer_norm.c: rows of the last axis to mean 0 and variance 1, scaled and shifted (Ba et al., arXiv 1607.06450). */
#include "real.h"
#include "rows.h"

#include <lorikeet/op.h>
#include <string.h>

typedef struct job {
  lk_call *c;
  void *stats; /* mean and 1 / standard deviation of each row */
  const void *gamma, *beta;
  double eps;
} job;

static int shape(lk_call *c) {
  const lk_view *x = c->x;
  double eps = *(const double *)c->attr;
  int64_t n = lk_view_cols(x);
  if (!x->ndim || !n) return lk_op_fail(c, LK_ESHAPE, "the last axis is empty");
  if (!(eps >= 0)) return lk_op_fail(c, LK_EARG, "eps is %g, should be 0 or more", eps);
  for (int i = 1; i < c->nin; i++)
    if (c->x[i].ndim != 1 || c->x[i].shape[0] != n)
      return lk_op_fail(c, LK_ESHAPE, "%s should have the %lld elements of the last axis", i == 1 ? "gamma" : "beta",
                        (long long)n);
  return lk_view_init(c->y, x->dtype, x->ndim, x->shape);
}

/* Input i, or that many constants if it was not given: one kernel serves both. */
static const void *vector(lk_call *c, int i, double value) {
  if (i < c->nin) return c->x[i].p;
  lk_view v;
  lk_view_init(&v, c->x->dtype, 1, &c->x->shape[c->x->ndim - 1]);
  v.p = lk_scratch(c, lk_view_bytes(&v));
  for (int64_t k = 0; v.p && k < v.shape[0]; k++) lk_view_set(&v, k, value);
  return v.p;
}

static LK_CLONES void fwd_rows(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  const lk_view *xv = j->c->x;
  int64_t n = lk_view_cols(xv);
  (void)thread;
  LK_REAL(xv->dtype, {
    const R *gamma = j->gamma, *beta = j->beta;
    R *stats = j->stats;
    for (int64_t r = from; r < to; r++) {
      const R *x = (const R *)xv->p + r * n;
      R *y = (R *)j->c->y->p + r * n;
      R mean;
      R var;
      LK_ROW_SUM(R, mean, i, n, x[i]);
      mean /= (R)n;
      LK_ROW_SUM(R, var, i, n, (x[i] - mean) * (x[i] - mean));
      R rstd = 1 / RSQRT(var / (R)n + (R)j->eps);
      for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * rstd * gamma[i] + beta[i];
      stats[2 * r] = mean;
      stats[2 * r + 1] = rstd;
    }
  });
}

static int fwd(lk_call *c) {
  int64_t n = lk_view_cols(c->x), rows = lk_view_rows(c->x);
  job j = {.c = c, .eps = *(const double *)c->attr};
  j.stats = lk_save(c, 2 * (size_t)rows * lk_dtype_size(c->x->dtype));
  j.gamma = vector(c, 1, 1);
  j.beta = vector(c, 2, 0);
  if (!j.stats || !j.gamma || !j.beta) return -1;
  lk_parallel(c->threads, rows, lk_row_grain(n), fwd_rows, &j);
  return 0;
}

/* With h = (x - mean) rstd and g = gy gamma:  gx = rstd (g - mean(g) - h mean(g h)) */
static LK_CLONES void bwd_rows(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  const lk_call *c = j->c;
  int64_t n = lk_view_cols(c->y);
  int fresh = c->fresh & LK_X(0);
  (void)thread;
  LK_REAL(c->y->dtype, {
    const R *gamma = j->gamma, *stats = j->stats;
    for (int64_t r = from; r < to; r++) {
      const R *x = (const R *)c->x->p + r * n, *gy = (const R *)c->gy->p + r * n;
      R *gx = (R *)c->gx->p + r * n;
      R mean = stats[2 * r], rstd = stats[2 * r + 1];
      R g_mean;
      R gh_mean;
      LK_ROW_SUM(R, g_mean, i, n, gy[i] * gamma[i]);
      LK_ROW_SUM(R, gh_mean, i, n, gy[i] * gamma[i] * (x[i] - mean));
      g_mean /= (R)n;
      gh_mean *= rstd * rstd / (R)n;
      for (int64_t i = 0; i < n; i++)
        gx[i] = (fresh ? 0 : gx[i]) + rstd * (gy[i] * gamma[i] - g_mean - (x[i] - mean) * gh_mean);
    }
  });
}

enum { COLUMNS = 64, BLOCK = 64 };

/* Gradients of gamma and beta for some columns: a thread goes through all rows in order, summing blocks of them. */
static LK_CLONES void bwd_columns(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  const lk_call *c = j->c;
  int64_t n = lk_view_cols(c->y), rows = lk_view_rows(c->y), width = to - from;
  (void)thread;
  LK_REAL(c->y->dtype, {
    const R *stats = j->stats;
    R *ggamma = c->gx[1].p;
    R *gbeta = c->nin > 2 ? c->gx[2].p : NULL;
    for (int64_t b = 0; b < rows; b += BLOCK) {
      R sum_gamma[COLUMNS] = {0};
      R sum_beta[COLUMNS] = {0};
      for (int64_t r = b; r < rows && r < b + BLOCK; r++) {
        const R *gy = (const R *)c->gy->p + r * n + from;
        for (int64_t i = 0; i < width; i++) sum_beta[i] += gy[i];
        if (!ggamma) continue;
        const R *x = (const R *)c->x->p + r * n + from;
        R mean = stats[2 * r], rstd = stats[2 * r + 1];
        for (int64_t i = 0; i < width; i++) sum_gamma[i] += gy[i] * (x[i] - mean) * rstd;
      }
      for (int64_t i = 0; ggamma && i < width; i++) ggamma[from + i] += sum_gamma[i];
      for (int64_t i = 0; gbeta && i < width; i++) gbeta[from + i] += sum_beta[i];
    }
  });
}

static int bwd(lk_call *c) {
  int64_t n = lk_view_cols(c->y), rows = lk_view_rows(c->y);
  job j = {.c = c, .stats = c->saved};
  if (c->gx[0].p) {
    j.gamma = vector(c, 1, 1);
    if (!j.gamma) return -1;
    lk_parallel(c->threads, rows, lk_row_grain(n), bwd_rows, &j);
  }
  int columns = 0;
  for (int i = 1; i < c->nin; i++) {
    if (c->gx[i].p && c->fresh & LK_X(i)) memset(c->gx[i].p, 0, lk_view_bytes(&c->gx[i]));
    columns |= c->gx[i].p != NULL;
  }
  if (columns) lk_parallel(rows * n < 32768 ? 1 : c->threads, n, COLUMNS, bwd_columns, &j);
  return 0;
}

static uint32_t reads(const lk_call *c) {
  uint32_t r = c->want & (LK_X(0) | LK_X(1)) ? LK_X(0) : 0;
  return c->want & LK_X(0) && c->nin > 1 ? r | LK_X(1) : r;
}

static const lk_case cases[] = {{"3x5", &(double){1e-5}, -2, 2, 0},
                                {"3x5 5", &(double){1e-5}, -2, 2, 0},
                                {"2x3x19 19 19", &(double){1e-3}, -2, 2, 0},
                                {"70x2 2 2", &(double){1e-1}, -2, 2, 0},
                                {"2x67 67 67", &(double){1e-5}, -2, 2, 0},
                                {"6 6 6", &(double){0}, -2, 2, 0},
                                {0}};
const lk_op lk_op_layer_norm = {.name = "layer_norm",
                                .nin = 3,
                                .optional = 2,
                                .flags = LK_OP_PACKED | LK_OP_FRESH | LK_OP_CHEAP,
                                .attr_size = sizeof(double),
                                .shape = shape,
                                .fwd = fwd,
                                .bwd = bwd,
                                .reads = reads,
                                .cases = cases};

/* y = (x - mean) / sqrt(var + eps) * gamma + beta over the last axis, var the biased variance; x [..., n],
 * gamma and beta [n] or nil (beta only together with gamma).  Differentiable in all three. */
LK_OP lk_tensor lk_layer_norm(lk_tape *t, lk_tensor x, lk_tensor gamma, lk_tensor beta, double eps) {
  lk_tensor in[] = {x, gamma, beta};
  if (lk_is_nil(gamma) && !lk_is_nil(beta)) {
    lk_fail(lk_tape_ctx(t), LK_ENIL, "layer_norm: beta is given but gamma is nil");
    return lk_nil();
  }
  return lk_apply(t, &lk_op_layer_norm, lk_is_nil(gamma) ? 1 : lk_is_nil(beta) ? 2 : 3, in, &eps);
}
