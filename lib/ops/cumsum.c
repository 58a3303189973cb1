/* cumsum.c: y[i] = x[0] + ... + x[i] along one axis. */
#include "real.h"

#include <lorikeet/op.h>

enum { RUN = 512, PIECE = 1 << 14, SERIAL = 1 << 15 };

/* Sums over the middle axis of [outer, n, inner], forwards or backwards; a unit is a run of columns in one of outer. */
typedef struct job {
  const void *from;
  void *to;
  lk_dtype dtype;
  int64_t n, inner, runs;
  int backwards, add;
} job;

/* One unit of m neighbouring columns, in double. */
LK_CLONES static void sum_columns(const job *j, int64_t offset, int64_t m) {
  double sum[RUN] = {0};
  for (int64_t k = 0; k < j->n; k++) {
    int64_t o = offset + (j->backwards ? j->n - 1 - k : k) * j->inner;
    LK_REAL(j->dtype, {
      const R *x = (const R *)j->from + o;
      R *y = (R *)j->to + o;
      for (int64_t i = 0; i < m; i++) {
        sum[i] += x[i];
        y[i] = (j->add ? y[i] : 0) + (R)sum[i];
      }
    });
  }
}

static void units(void *arg, int64_t from, int64_t to, int thread) {
  const job *j = arg;
  (void)thread;
  for (int64_t u = from; u < to; u++) {
    int64_t first = u % j->runs * RUN, m = j->inner - first < RUN ? j->inner - first : RUN;
    sum_columns(j, u / j->runs * j->n * j->inner + first, m);
  }
}

static int shape(lk_call *c) {
  if (lk_op_axis(c, *(const int *)c->attr, c->x[0].ndim) < 0) return -1;
  return lk_view_init(c->y, c->x[0].dtype, c->x[0].ndim, c->x[0].shape);
}

static int run(lk_call *c, const lk_view *from, const lk_view *to, int backwards, int add) {
  int axis = lk_op_axis(c, *(const int *)c->attr, from->ndim);
  int64_t outer = 1, count = lk_view_count(from);
  job j = {from->p, to->p, from->dtype, from->shape[axis], 1, 0, backwards, add};
  for (int d = 0; d < axis; d++) outer *= from->shape[d];
  for (int d = axis + 1; d < from->ndim; d++) j.inner *= from->shape[d];
  if (!count) return 0;
  j.runs = (j.inner + RUN - 1) / RUN;
  int64_t pieces = outer * j.runs, grain = PIECE * pieces / count;
  lk_parallel(count < SERIAL ? 1 : c->threads, pieces, grain > 1 ? grain : 1, units, &j);
  return 0;
}

static int fwd(lk_call *c) { return run(c, &c->x[0], c->y, 0, 0); }
static int bwd(lk_call *c) { return run(c, c->gy, &c->gx[0], 1, !(c->fresh & LK_X(0))); }

static uint32_t reads(const lk_call *c) {
  (void)c;
  return 0;
}

static const lk_case cases[] = {{"7", &(int){0}, -2, 2, 0},     {"3x5x4", &(int){0}, -2, 2, 0},
                                {"3x5x4", &(int){1}, -2, 2, 0}, {"3x5x4", &(int){-1}, -2, 2, 0},
                                {"3x1", &(int){1}, -2, 2, 0},   {0}};
const lk_op lk_op_cumsum = {.name = "cumsum",
                            .nin = 1,
                            .flags = LK_OP_PACKED | LK_OP_FRESH,
                            .attr_size = sizeof(int),
                            .shape = shape,
                            .fwd = fwd,
                            .bwd = bwd,
                            .reads = reads,
                            .cases = cases};

/* y[i] = x[0] + ... + x[i] along the axis (negative counts from the end); same shape. */
LK_OP lk_tensor lk_cumsum(lk_tape *t, lk_tensor x, int axis) { return lk_apply(t, &lk_op_cumsum, 1, &x, &axis); }
