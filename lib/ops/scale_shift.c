/* scale_shift.c: y = q x + b along the last axis: what adapters do to a layer's outputs, in one pass each way. */
#include "real.h"
#include "rows.h"

#include <lorikeet/op.h>
#include <string.h>

enum { X, Q, B };

#define ROWS 64 /* of a block of backward, whose sums over rows are kept apart */

static int shape(lk_call *c) {
  const lk_view *x = c->x;
  for (int i = Q; i < c->nin; i++)
    if (!x->ndim || x[i].ndim != 1 || x[i].shape[0] != lk_view_cols(x))
      return lk_op_fail(c, LK_ESHAPE, "wants x [..., n], q [n] and b [n]");
  return lk_view_init(c->y, x->dtype, x->ndim, x->shape);
}

static LK_CLONES void fwd_rows(void *arg, int64_t from, int64_t to, int thread) {
  const lk_call *c = arg;
  int64_t n = lk_view_cols(c->y);
  (void)thread;
  LK_REAL(c->y->dtype, {
    const R *q = c->x[Q].p, *b = c->nin > B ? c->x[B].p : NULL;
    for (int64_t r = from; r < to; r++) {
      const R *x = (const R *)c->x[X].p + r * n;
      R *restrict y = (R *)c->y->p + r * n;
      if (b)
        for (int64_t i = 0; i < n; i++) y[i] = q[i] * x[i] + b[i];
      else
        for (int64_t i = 0; i < n; i++) y[i] = q[i] * x[i];
    }
  });
}

static int fwd(lk_call *c) {
  lk_parallel(c->threads, lk_view_rows(c->y), lk_row_grain(lk_view_cols(c->y)), fwd_rows, c);
  return 0;
}

/* ---- backward ---- */

typedef struct job {
  lk_call *c;
  void *sums; /* for every block the sums of gy x, then of gy, over its rows */
} job;

/* gx, and the sums that are wanted.  A row of gy is read while it is in the nearest cache. */
static LK_CLONES void bwd_blocks(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  const lk_call *c = j->c;
  int64_t rows = lk_view_rows(c->gy), n = lk_view_cols(c->gy);
  int fresh = (c->fresh & LK_X(X)) != 0, wants_q = c->gx[Q].p != NULL, wants_b = c->nin > B && c->gx[B].p;
  (void)thread;
  LK_REAL(c->gy->dtype, {
    const R *q = c->x[Q].p;
    for (int64_t k = from; k < to; k++) {
      R *restrict sum_q = (R *)j->sums + 2 * n * k;
      R *restrict sum_b = sum_q + n;
      memset(sum_q, 0, 2 * (size_t)n * sizeof(R));
      for (int64_t r = k * ROWS; r < rows && r < (k + 1) * ROWS; r++) {
        const R *g = (const R *)c->gy->p + r * n, *x = wants_q ? (const R *)c->x[X].p + r * n : NULL;
        R *restrict gx = c->gx[X].p ? (R *)c->gx[X].p + r * n : NULL;
        if (gx && fresh)
          for (int64_t i = 0; i < n; i++) gx[i] = q[i] * g[i];
        else if (gx)
          for (int64_t i = 0; i < n; i++) gx[i] += q[i] * g[i];
        if (wants_q)
          for (int64_t i = 0; i < n; i++) sum_q[i] += g[i] * x[i];
        if (wants_b)
          for (int64_t i = 0; i < n; i++) sum_b[i] += g[i];
      }
    }
  });
}

/* gx[i] += the sums of all blocks, in order; they begin at `offset` in each. */
static void add_sums(const job *j, int i, int64_t blocks, int64_t offset) {
  const lk_call *c = j->c;
  int64_t n = lk_view_cols(c->gy);
  if (i >= c->nin || !c->gx[i].p) return;
  LK_REAL(c->gy->dtype, {
    R *to = c->gx[i].p;
    if (c->fresh & LK_X(i)) memset(to, 0, (size_t)n * sizeof(R));
    for (int64_t k = 0; k < blocks; k++) {
      const R *sum = (const R *)j->sums + 2 * n * k + offset;
      for (int64_t m = 0; m < n; m++) to[m] += sum[m];
    }
  });
}

static int bwd(lk_call *c) {
  int64_t n = lk_view_cols(c->gy), blocks = (lk_view_rows(c->gy) + ROWS - 1) / ROWS;
  job j = {c, lk_scratch(c, (size_t)(2 * n * blocks) * lk_dtype_size(c->gy->dtype) + 1)};
  if (!j.sums) return -1;
  lk_parallel(lk_view_count(c->gy) > 32768 ? c->threads : 1, blocks, 1, bwd_blocks, &j);
  add_sums(&j, Q, blocks, 0);
  add_sums(&j, B, blocks, n);
  return 0;
}

static uint32_t reads(const lk_call *c) {
  return (c->want & LK_X(X) ? LK_X(Q) : 0) | (c->want & LK_X(Q) ? LK_X(X) : 0);
}

static const lk_case cases[] = {
    {"3x5 5 5", NULL, -2, 2, 0}, {"3x5 5", NULL, -2, 2, 0},      {"5 5 5", NULL, -2, 2, 0},
    {"2x3x4 4", NULL, -2, 2, 0}, {"67x3 3 3", NULL, -2, 2, 0},   {"0x3 3 3", NULL, -2, 2, 0},
    {"2x0 0 0", NULL, -2, 2, 0}, {"2x65x1 1 1", NULL, -2, 2, 0}, {0}};
const lk_op lk_op_scale_shift = {.name = "scale_shift",
                                 .nin = 3,
                                 .optional = 1,
                                 .flags = LK_OP_PACKED | LK_OP_FRESH | LK_OP_CHEAP,
                                 .shape = shape,
                                 .fwd = fwd,
                                 .bwd = bwd,
                                 .reads = reads,
                                 .cases = cases};

/* y = q x + b: x [..., n], q [n], b [n] or nil: each number of the last axis has its own factor and shift. */
LK_OP lk_tensor lk_scale_shift(lk_tape *t, lk_tensor x, lk_tensor q, lk_tensor b) {
  return lk_apply(t, &lk_op_scale_shift, 3, (lk_tensor[]){x, q, b}, NULL);
}
