/* embedding.c: rows of a table, chosen by index. */
#include "half.h"
#include "index.h"
#include "real.h"
#include "rows.h"

static int shape(lk_call *c) {
  const lk_view *table = &c->x[0], *ids = &c->x[1];
  int64_t out[LK_MAXDIM];
  if (table->ndim != 2) return lk_op_fail(c, LK_ESHAPE, "the table should be [rows, columns]");
  if (ids->ndim >= LK_MAXDIM) return lk_op_fail(c, LK_ESHAPE, "more than %d axes", LK_MAXDIM);
  for (int d = 0; d < ids->ndim; d++) out[d] = ids->shape[d];
  out[ids->ndim] = table->shape[1];
  return lk_view_init(c->y, lk_dtype_is_half(table->dtype) ? LK_F32 : table->dtype, ids->ndim + 1, out);
}

/* Element offset of the table's row for the r-th id. */
static int64_t row_of(const lk_call *c, const lk_view *table, int64_t r) {
  return lk_view_index(&c->x[1], lk_view_offset(&c->x[1], r)) * table->stride[0];
}

static LK_CLONES void copy_rows(void *arg, int64_t from, int64_t to, int thread) {
  const lk_call *c = arg;
  int64_t n = lk_view_cols(c->y), step = c->x->stride[1];
  (void)thread;
  if (lk_dtype_is_half(c->x->dtype)) {
    for (int64_t r = from; r < to; r++)
      lk_widen(c->x->dtype, (const uint16_t *)c->x->p + row_of(c, c->x, r), step, n, (float *)c->y->p + r * n);
    return;
  }
  LK_REAL(c->y->dtype, {
    for (int64_t r = from; r < to; r++) {
      const R *x = (const R *)c->x->p + row_of(c, c->x, r);
      R *y = (R *)c->y->p + r * n;
      if (step == 1)
        for (int64_t i = 0; i < n; i++) y[i] = x[i];
      else
        for (int64_t i = 0; i < n; i++) y[i] = x[i * step];
    }
  });
}

/* Some columns of every row, so that repeated ids are added in their order on any number of threads. */
static LK_CLONES void add_columns(void *arg, int64_t from, int64_t to, int thread) {
  const lk_call *c = arg;
  int64_t rows = lk_view_rows(c->gy), step = c->gx->stride[1], gstep = lk_view_step(c->gy);
  (void)thread;
  LK_REAL(c->gy->dtype, {
    for (int64_t r = 0; r < rows; r++) {
      const R *gy = (const R *)c->gy->p + lk_view_row(c->gy, r);
      R *gx = (R *)c->gx->p + row_of(c, c->gx, r);
      if (step == 1 && gstep == 1)
        for (int64_t i = from; i < to; i++) gx[i] += gy[i];
      else
        for (int64_t i = from; i < to; i++) gx[i * step] += gy[i * gstep];
    }
  });
}

static int fwd(lk_call *c) {
  if (lk_check_index(c, &c->x[1], c->x[0].shape[0])) return -1;
  lk_parallel(c->threads, lk_view_rows(c->y), lk_row_grain(lk_view_cols(c->y)), copy_rows, c);
  return 0;
}
static int bwd(lk_call *c) {
  int threads = lk_view_count(c->gy) < 32768 ? 1 : c->threads;
  lk_parallel(threads, lk_view_cols(c->gy), 64, add_columns, c);
  return 0;
}
static uint32_t reads(const lk_call *c) { return (void)c, LK_X(1); }

static const lk_case cases[] = {
    {"5x3 4", NULL, -1, 1, 5}, {"3x70 2x7", NULL, -1, 1, 3}, {"1x2 -", NULL, -1, 1, 1}, {0}};
const lk_op lk_op_embedding = {.name = "embedding",
                               .nin = 2,
                               .types = "wi",
                               .shape = shape,
                               .fwd = fwd,
                               .bwd = bwd,
                               .reads = reads,
                               .cases = cases};

/* y[..., :] = table[ids[...], :]; table [rows, columns] with any strides (a transposed factor is not copied),
 * ids [...] of indices -> [..., columns].  An id outside [0, rows) is refused.  Differentiable in table; one stored as bf16 or f16 gives f32. */
LK_OP lk_tensor lk_embedding(lk_tape *t, lk_tensor table, lk_tensor ids) {
  const lk_tensor in[] = {table, ids};
  return lk_apply(t, &lk_op_embedding, 2, in, NULL);
}
