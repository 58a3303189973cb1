/* gather.c: elements picked along an axis by an index of the result's shape, and the reverse: added at such places. */
#include "index.h"
#include "real.h"

enum { TAKE, TAKE_ADD, PUT_ADD };

/* For each position of the index, with a = picked[.., index[..], ..] and b = plain[..]:
 * b = a (TAKE), b += a (TAKE_ADD) or a += b (PUT_ADD), one after another. */
static void walk(const lk_view *index, lk_view picked, lk_view plain, int axis, int mode) {
  int64_t jump = picked.stride[axis], cols = lk_view_cols(index), count = lk_view_count(index);
  picked.stride[axis] = 0;
  for (int d = 0; d < index->ndim; d++) picked.shape[d] = plain.shape[d] = index->shape[d];
  int64_t step = lk_view_step(index), pstep = lk_view_step(&picked), qstep = lk_view_step(&plain);
  for (int64_t r = 0; r * cols < count; r++) {
    int64_t at = lk_view_row(index, r);
    LK_REAL(picked.dtype, {
      R *p = (R *)picked.p + lk_view_row(&picked, r);
      R *q = (R *)plain.p + lk_view_row(&plain, r);
      for (int64_t i = 0; i < cols; i++) {
        R *a = p + i * pstep + lk_view_index(index, at + i * step) * jump;
        R *b = q + i * qstep;
        if (mode == TAKE) *b = *a;
        else if (mode == TAKE_ADD) *b += *a;
        else *a += *b;
      }
    });
  }
}

/* The index must not be larger than v on any axis but `free_axis` (-1: none is free). */
static int check_fit(lk_call *c, const lk_view *index, const lk_view *v, int free_axis) {
  int fits = index->ndim == v->ndim;
  for (int d = 0; fits && d < v->ndim; d++) fits = d == free_axis || index->shape[d] <= v->shape[d];
  return fits ? 0 : lk_op_fail(c, LK_ESHAPE, "the index has other axes than, or is larger than, what it goes with");
}

static int axis_of(lk_call *c) { return lk_op_axis(c, *(const int *)c->attr, c->x->ndim); }

static int gather_shape(lk_call *c) {
  int axis = axis_of(c);
  if (axis < 0 || check_fit(c, &c->x[1], &c->x[0], axis)) return -1;
  return lk_view_init(c->y, c->x->dtype, c->x[1].ndim, c->x[1].shape);
}
static int gather_fwd(lk_call *c) {
  int axis = axis_of(c);
  if (lk_check_index(c, &c->x[1], c->x->shape[axis])) return -1;
  walk(&c->x[1], c->x[0], *c->y, axis, TAKE);
  return 0;
}
static int gather_bwd(lk_call *c) {
  walk(&c->x[1], c->gx[0], *c->gy, axis_of(c), PUT_ADD);
  return 0;
}
static uint32_t gather_reads(const lk_call *c) { return (void)c, LK_X(1); }

static const lk_case gather_cases[] = {{"3x4 3x4", &(int){0}, -1, 1, 3},
                                       {"3x4 2x9", &(int){-1}, -1, 1, 4},
                                       {"2x5x3 2x7x2", &(int){1}, -1, 1, 5},
                                       {"6 4", &(int){0}, -1, 1, 6},
                                       {0}};
const lk_op lk_op_gather = {.name = "gather",
                            .nin = 2,
                            .types = "ri",
                            .attr_size = sizeof(int),
                            .shape = gather_shape,
                            .fwd = gather_fwd,
                            .bwd = gather_bwd,
                            .reads = gather_reads,
                            .cases = gather_cases};

/* y[i, j, k] = x[i, index[i, j, k], k] for axis 1, and so on: y has the shape of index, which has as many axes as
 * x and is not larger on the others.  An index outside [0, size of axis) is refused.  Differentiable in x. */
LK_OP lk_tensor lk_gather(lk_tape *t, lk_tensor x, int axis, lk_tensor index) {
  const lk_tensor in[] = {x, index};
  return lk_apply(t, &lk_op_gather, 2, in, &axis);
}

static int scatter_shape(lk_call *c) {
  int axis = axis_of(c);
  if (axis < 0 || check_fit(c, &c->x[1], &c->x[0], axis) || check_fit(c, &c->x[1], &c->x[2], -1)) return -1;
  return lk_view_init(c->y, c->x->dtype, c->x->ndim, c->x->shape);
}
static int scatter_fwd(lk_call *c) {
  int axis = axis_of(c);
  if (lk_check_index(c, &c->x[1], c->x->shape[axis])) return -1;
  lk_view_copy(c->y, &c->x[0]);
  walk(&c->x[1], *c->y, c->x[2], axis, PUT_ADD);
  return 0;
}
static int scatter_bwd(lk_call *c) {
  if (c->gx[0].p) lk_view_add(&c->gx[0], c->gy, 1);
  if (c->gx[2].p) walk(&c->x[1], *c->gy, c->gx[2], axis_of(c), TAKE_ADD);
  return 0;
}
static uint32_t scatter_reads(const lk_call *c) { return c->want & LK_X(2) ? LK_X(1) : 0; }

static const lk_case scatter_cases[] = {{"3x4 5x4 5x4", &(int){0}, -1, 1, 3},
                                        {"3x4 2x9 3x11", &(int){-1}, -1, 1, 4},
                                        {"2x5x3 2x7x2 2x7x3", &(int){1}, -1, 1, 5},
                                        {"6 4 4", &(int){0}, -1, 1, 6},
                                        {0}};
const lk_op lk_op_scatter_add = {.name = "scatter_add",
                                 .nin = 3,
                                 .types = "rir",
                                 .attr_size = sizeof(int),
                                 .shape = scatter_shape,
                                 .fwd = scatter_fwd,
                                 .bwd = scatter_bwd,
                                 .reads = scatter_reads,
                                 .cases = scatter_cases};

/* y = x, then y[i, index[i, j, k], k] += src[i, j, k] for axis 1, and so on; repeated places are summed in order.
 * index has as many axes as x and src; it is not larger than src on any axis, nor than x on the other axes.
 * An index outside [0, size of axis) is refused.  Differentiable in x and src. */
LK_OP lk_tensor lk_scatter_add(lk_tape *t, lk_tensor x, int axis, lk_tensor index, lk_tensor src) {
  const lk_tensor in[] = {x, index, src};
  return lk_apply(t, &lk_op_scatter_add, 3, in, &axis);
}
