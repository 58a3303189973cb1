/* linear.c: y = s x W^T + b. */
#include "linear.h"

#include "dnnl.h"
#include "gemm.h"
#include "half.h"
#include "real.h"
#include "rows.h"
#include "tiles.h"

/* ---- shared with accumulate.c ---- */

int lk_linear_shape(lk_call *c, const lk_view *x, const lk_view *W, lk_view *y) {
  int64_t n[LK_MAXDIM];
  if (x->ndim < 1 || W->ndim != 2) return lk_op_fail(c, LK_ESHAPE, "wants x [..., in] and a weight [out, in]");
  if (x->shape[x->ndim - 1] != W->shape[1])
    return lk_op_fail(c, LK_ESHAPE, "the last axis of x has %lld elements, the weight's rows %lld",
                      (long long)x->shape[x->ndim - 1], (long long)W->shape[1]);
  for (int d = 0; d < x->ndim; d++) n[d] = x->shape[d];
  n[x->ndim - 1] = W->shape[0];
  return lk_view_init(y, x->dtype, x->ndim, n) ? lk_op_fail(c, LK_ESHAPE, "the result is too large") : 0;
}

/* ---- weights stored in half are widened in tiles ---- */

static void widen_rows(const void *source, int64_t first, int64_t n, lk_dtype dtype, void *to) {
  lk_view from = *(const lk_view *)source, rows;
  lk_view_init(&rows, dtype, 2, (int64_t[]){n, from.shape[1]});
  rows.p = to;
  from.p = (char *)from.p + first * from.stride[0] * (int64_t)lk_dtype_size(from.dtype);
  from.shape[0] = n;
  lk_view_copy(&rows, &from);
}

static lk_tiles half_tiles(const lk_view *W) { return (lk_tiles){W->shape[0], W->shape[1], W, widen_rows}; }

void lk_linear_rows(lk_call *c, const lk_view *x, const lk_view *W, double s, double beta) {
  lk_view y = lk_rows_of(c->y);
  if (lk_dtype_is_half(W->dtype)) {
    lk_tiles half = half_tiles(W);
    lk_tiles_linear(c, lk_rows_of(x), &half, s, beta, y);
    return;
  }
  lk_gemm_batched(c, lk_rows_of(x), lk_gemm_spread(lk_gemm_transpose(*W), &y), s, beta, y);
}

void lk_linear_rows_back(lk_call *c, int ix, double s) {
  lk_view gy = lk_rows_of(c->gy);
  if (c->gx[ix].p && lk_dnnl_takes(c, &gy, &c->x[ix + 1])) {
    lk_view gx = lk_rows_of(&c->gx[ix]);
    lk_dnnl_product(c, &gy, &c->x[ix + 1], s, c->fresh & LK_X(ix) ? 0 : 1, NULL, &gx);
  } else if (c->gx[ix].p && lk_dtype_is_half(c->x[ix + 1].dtype)) {
    lk_tiles half = half_tiles(&c->x[ix + 1]);
    lk_tiles_linear_back(c, gy, &half, s, c->fresh & LK_X(ix) ? 0 : 1, lk_rows_of(&c->gx[ix]));
  } else if (c->gx[ix].p) {
    lk_view W = lk_gemm_spread(c->x[ix + 1], &gy);
    lk_gemm_batched(c, gy, W, s, c->fresh & LK_X(ix) ? 0 : 1, lk_rows_of(&c->gx[ix]));
  }
  if (c->gx[ix + 1].p) {
    lk_view gW = lk_gemm_spread(c->gx[ix + 1], &gy);
    lk_gemm_batched(c, lk_gemm_transpose(gy), lk_rows_of(&c->x[ix]), s, c->fresh & LK_X(ix + 1) ? 0 : 1, gW);
  }
}

/* ---- the bias ---- */

static LK_CLONES void add_bias(void *arg, int64_t from, int64_t to, int thread) {
  const lk_call *c = arg;
  const lk_view *bias = &c->x[c->nin - 1];
  int64_t n = bias->shape[0], step = bias->stride[0];
  (void)thread;
  LK_REAL(bias->dtype, {
    const R *b = bias->p;
    R *y = c->y->p;
    for (int64_t r = from; r < to; r++) {
      if (step == 1)
        for (int64_t i = 0; i < n; i++) y[r * n + i] += b[i];
      else
        for (int64_t i = 0; i < n; i++) y[r * n + i] += b[i * step];
    }
  });
}

#define COLUMNS 64 /* of a piece */
#define ROWS 64    /* summed at a time, so that rounding errors do not grow with all rows */

static LK_CLONES void sum_columns(void *arg, int64_t from, int64_t to, int thread) {
  const lk_call *c = arg;
  const lk_view *gy = c->gy, *gb = &c->gx[c->nin - 1];
  int64_t rows = lk_view_rows(gy), n = lk_view_cols(gy), width = to - from;
  int fresh = (c->fresh & LK_X(c->nin - 1)) != 0;
  (void)thread;
  LK_REAL(gy->dtype, {
    R total[COLUMNS] = {0};
    for (int64_t r0 = 0; r0 < rows; r0 += ROWS) {
      R part[COLUMNS] = {0};
      for (int64_t r = r0; r < rows && r < r0 + ROWS; r++) {
        const R *g = (const R *)gy->p + r * n + from;
        for (int64_t i = 0; i < width; i++) part[i] += g[i];
      }
      for (int64_t i = 0; i < width; i++) total[i] += part[i];
    }
    for (int64_t i = 0; i < width; i++) {
      R *to_gb = (R *)gb->p + (from + i) * gb->stride[0];
      *to_gb = (fresh ? 0 : *to_gb) + total[i];
    }
  });
}

void lk_linear_bias(lk_call *c) {
  lk_parallel(c->threads, lk_view_rows(c->y), lk_row_grain(lk_view_cols(c->y)), add_bias, c);
}

void lk_linear_bias_back(lk_call *c) {
  const lk_view *gb = &c->gx[c->nin - 1];
  /* A repeated bias (stride 0) must not be reached by two threads. */
  int threads = lk_view_count(c->gy) > 32768 && gb->stride[0] ? c->threads : 1;
  if (gb->p) lk_parallel(threads, lk_view_cols(c->gy), COLUMNS, sum_columns, c);
}

/* ---- the op ---- */

static int shape(lk_call *c) {
  if (lk_linear_shape(c, &c->x[0], &c->x[1], c->y)) return -1;
  if (c->nin > 2 && (c->x[2].ndim != 1 || c->x[2].shape[0] != c->x[1].shape[0]))
    return lk_op_fail(c, LK_ESHAPE, "the bias should have shape [%lld]", (long long)c->x[1].shape[0]);
  return 0;
}

static int fwd(lk_call *c) {
  const double *s = c->attr;
  const lk_view *x = &c->x[0], *W = &c->x[1], *b = c->nin > 2 ? &c->x[2] : NULL;
  if (lk_dnnl_takes(c, x, W)) {
    lk_view y = lk_rows_of(c->y), turned = lk_gemm_transpose(*W);
    lk_dnnl_product(c, x, &turned, *s, 0, b, &y);
    return 0;
  }
  lk_linear_rows(c, x, W, *s, 0);
  if (b) lk_linear_bias(c);
  return 0;
}

static int bwd(lk_call *c) {
  lk_linear_rows_back(c, 0, *(const double *)c->attr);
  if (c->nin > 2) lk_linear_bias_back(c);
  return 0;
}

static uint32_t reads(const lk_call *c) {
  return (c->want & LK_X(0) ? LK_X(1) : 0) | (c->want & LK_X(1) ? LK_X(0) : 0);
}

static const double one = 1, half = 0.5;
static const lk_case cases[] = {
    {"3x4 5x4 5", &one, -1, 1, 0},    {"3x4 5x4", &half, -1, 1, 0},   {"4 5x4 5", &one, -1, 1, 0},
    {"2x3x4 2x4 2", &half, -1, 1, 0}, {"4 1x4", &one, -1, 1, 0},      {"2x1x3x2 3x2", &one, -1, 1, 0},
    {"2x0 3x0 3", &one, -1, 1, 0},    {"67x3 2x3 2", &one, -1, 1, 0}, {0}};
const lk_op lk_op_linear = {.name = "linear",
                            .nin = 3,
                            .optional = 1,
                            .flags = LK_OP_FRESH,
                            .types = "rwr",
                            .attr_size = sizeof(double),
                            .shape = shape,
                            .fwd = fwd,
                            .bwd = bwd,
                            .reads = reads,
                            .cases = cases};

/* y = x W^T + b: x [..., in], W [out, in], b [out] or nil, y [..., out].  f32 or f64, a frozen W also bf16 or f16, which
 * is widened in tiles and never copied whole; any strides: a weight stored as
 * [in, out] is passed as its transposed view.  A frozen input costs nothing in backward. */
LK_OP lk_tensor lk_linear(lk_tape *t, lk_tensor x, lk_tensor W, lk_tensor b) {
  return lk_apply(t, &lk_op_linear, 3, (lk_tensor[]){x, W, b}, &one);
}

/* y = s x W^T: the same without bias, times a constant. */
LK_OP lk_tensor lk_scaled_linear(lk_tape *t, lk_tensor x, lk_tensor W, double s) {
  return lk_apply(t, &lk_op_linear, 2, (lk_tensor[]){x, W}, &s);
}
