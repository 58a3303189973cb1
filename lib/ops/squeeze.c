/* squeeze.c: axes of size 1 taken away or put in, as a view. */
#include <lorikeet/op.h>

static int squeeze_shape(lk_call *c) {
  int axis = lk_op_axis(c, *(const int *)c->attr, c->x->ndim);
  if (axis < 0) return -1;
  if (c->x->shape[axis] != 1) return lk_op_fail(c, LK_ESHAPE, "axis %d is not of size 1", axis);
  *c->y = *c->x;
  c->y->ndim--;
  for (int d = axis; d < c->y->ndim; d++) {
    c->y->shape[d] = c->x->shape[d + 1];
    c->y->stride[d] = c->x->stride[d + 1];
  }
  return 0;
}

static const lk_case squeeze_cases[] = {
    {"3x1x2", &(int){1}, -1, 1, 0}, {"4x1", &(int){-1}, -1, 1, 0}, {"1", &(int){0}, -1, 1, 0}, {0}};
const lk_op lk_op_squeeze = {.name = "squeeze",
                             .nin = 1,
                             .types = "a",
                             .flags = LK_OP_VIEW,
                             .attr_size = sizeof(int),
                             .shape = squeeze_shape,
                             .cases = squeeze_cases};

/* x without axis, whose size must be 1 (negative counts from the end).  A view; any dtype. */
LK_OP lk_tensor lk_squeeze(lk_tape *t, lk_tensor x, int axis) { return lk_apply(t, &lk_op_squeeze, 1, &x, &axis); }

static int unsqueeze_shape(lk_call *c) {
  const lk_view *x = c->x;
  int axis = lk_op_axis(c, *(const int *)c->attr, x->ndim + 1);
  if (axis < 0) return -1;
  if (x->ndim == LK_MAXDIM) return lk_op_fail(c, LK_ESHAPE, "the result would have more than %d axes", LK_MAXDIM);
  *c->y = *x;
  c->y->ndim++;
  c->y->shape[axis] = 1;
  c->y->stride[axis] = axis < x->ndim ? x->shape[axis] * x->stride[axis] : 1;
  for (int d = axis; d < x->ndim; d++) {
    c->y->shape[d + 1] = x->shape[d];
    c->y->stride[d + 1] = x->stride[d];
  }
  return 0;
}

static const lk_case unsqueeze_cases[] = {{"3x2", &(int){1}, -1, 1, 0},
                                          {"4x2", &(int){-1}, -1, 1, 0},
                                          {"5", &(int){-2}, -1, 1, 0},
                                          {"-", &(int){0}, -1, 1, 0},
                                          {0}};
const lk_op lk_op_unsqueeze = {.name = "unsqueeze",
                               .nin = 1,
                               .types = "a",
                               .flags = LK_OP_VIEW,
                               .attr_size = sizeof(int),
                               .shape = unsqueeze_shape,
                               .cases = unsqueeze_cases};

/* x with a new axis of size 1, number axis of the result (negative counts from its end).  A view; any dtype. */
LK_OP lk_tensor lk_unsqueeze(lk_tape *t, lk_tensor x, int axis) { return lk_apply(t, &lk_op_unsqueeze, 1, &x, &axis); }
