/* index_select.c: whole slices picked along an axis by a list of positions, and the reverse: added there. */
#include "index.h"

static int axis_of(lk_call *c) { return lk_op_axis(c, *(const int *)c->attr, c->x->ndim); }

static int select_shape(lk_call *c) {
  int axis = axis_of(c);
  int64_t out[LK_MAXDIM];
  if (axis < 0) return -1;
  if (c->x[1].ndim != 1) return lk_op_fail(c, LK_ESHAPE, "the index should have one axis");
  for (int d = 0; d < c->x->ndim; d++) out[d] = d == axis ? c->x[1].shape[0] : c->x->shape[d];
  if (!lk_view_init(c->y, c->x->dtype, c->x->ndim, out)) return 0;
  return lk_op_fail(c, LK_ESHAPE, "the result is too large");
}
static int select_fwd(lk_call *c) {
  int axis = axis_of(c);
  if (lk_check_index(c, &c->x[1], c->x->shape[axis])) return -1;
  lk_index_walk(c, &c->x[1], &c->x[0], c->y, axis, LK_TAKE);
  return 0;
}
static int select_bwd(lk_call *c) {
  lk_index_walk(c, &c->x[1], &c->gx[0], c->gy, axis_of(c), LK_PUT_ADD);
  return 0;
}
static uint32_t select_reads(const lk_call *c) { return (void)c, LK_X(1); }

static const lk_case select_cases[] = {{"4x3 6", &(int){0}, -1, 1, 4},   {"2x5x3 3", &(int){-2}, -1, 1, 5},
                                       {"2x3 5", &(int){1}, -1, 1, 3},   {"5 2", &(int){-1}, -1, 1, 5},
                                       {"2x260 3", &(int){0}, -1, 1, 2}, {"3x4 0", &(int){0}, -1, 1, 3},
                                       {"3x0 2", &(int){0}, -1, 1, 3},   {0}};
const lk_op lk_op_index_select = {.name = "index_select",
                                  .nin = 2,
                                  .types = "ai",
                                  .attr_size = sizeof(int),
                                  .shape = select_shape,
                                  .fwd = select_fwd,
                                  .bwd = select_bwd,
                                  .reads = select_reads,
                                  .cases = select_cases};

/* y[.., k, ..] = x[.., index[k], ..] along axis: x of any dtype, index [n] -> x with n on that axis.
 * An index outside [0, size of axis) is refused.  Differentiable in x if it is real. */
LK_OP lk_tensor lk_index_select(lk_tape *t, lk_tensor x, int axis, lk_tensor index) {
  const lk_tensor in[] = {x, index};
  return lk_apply(t, &lk_op_index_select, 2, in, &axis);
}

static int add_shape(lk_call *c) {
  int axis = axis_of(c);
  if (axis < 0 || lk_index_fits(c, &c->x[0], &c->x[1], &c->x[2], axis)) return -1;
  return lk_view_init(c->y, c->x->dtype, c->x->ndim, c->x->shape);
}
static int add_fwd(lk_call *c) {
  int axis = axis_of(c);
  if (lk_check_index(c, &c->x[1], c->x->shape[axis])) return -1;
  lk_view_copy(c->y, &c->x[0]);
  lk_index_walk(c, &c->x[1], c->y, &c->x[2], axis, LK_PUT_ADD);
  return 0;
}
static int add_bwd(lk_call *c) {
  if (c->gx[0].p) lk_view_add(&c->gx[0], c->gy, 1);
  if (c->gx[2].p) lk_index_walk(c, &c->x[1], c->gy, &c->gx[2], axis_of(c), LK_TAKE_ADD);
  return 0;
}
static uint32_t add_reads(const lk_call *c) { return c->want & LK_X(2) ? LK_X(1) : 0; }

static const lk_case add_cases[] = {{"4x3 6 6x3", &(int){0}, -1, 1, 4},
                                    {"2x5x3 3 2x3x3", &(int){-2}, -1, 1, 5},
                                    {"2x3 5 2x5", &(int){1}, -1, 1, 3},
                                    {"5 2 2", &(int){-1}, -1, 1, 5},
                                    {0}};
const lk_op lk_op_index_add = {.name = "index_add",
                               .nin = 3,
                               .types = "rir",
                               .attr_size = sizeof(int),
                               .shape = add_shape,
                               .fwd = add_fwd,
                               .bwd = add_bwd,
                               .reads = add_reads,
                               .cases = add_cases};

/* y = x, then y[.., index[k], ..] += src[.., k, ..] along axis; repeated places are summed in order.
 * index [n], src shaped as x but n on that axis.  An index outside [0, size of axis) is refused.
 * Differentiable in x and src. */
LK_OP lk_tensor lk_index_add(lk_tape *t, lk_tensor x, int axis, lk_tensor index, lk_tensor src) {
  const lk_tensor in[] = {x, index, src};
  return lk_apply(t, &lk_op_index_add, 3, in, &axis);
}
