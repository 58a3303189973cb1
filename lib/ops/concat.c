/* concat.c: values put one behind the other along an axis, an existing or a new one. */
#include <lorikeet/op.h>
#include <lorikeet/ops.h>

/* The part of y (or gy) that comes from input i, which begins at `from` of the axis. */
static lk_view part_of(const lk_call *c, const lk_view *whole, int i, int axis, int64_t from) {
  lk_view part = *whole;
  part.shape[axis] = c->x[i].shape[axis];
  part.p = (char *)whole->p + from * whole->stride[axis] * (int64_t)lk_dtype_size(whole->dtype);
  return part;
}

static int axis_of(lk_call *c) { return lk_op_axis(c, *(const int *)c->attr, c->x->ndim); }

static int shape(lk_call *c) {
  int axis = axis_of(c);
  int64_t out[LK_MAXDIM];
  if (axis < 0) return -1;
  for (int d = 0; d < c->x->ndim; d++) out[d] = c->x->shape[d];
  for (int i = 1; i < c->nin; i++) {
    const lk_view *x = &c->x[i];
    if (x->dtype != c->x->dtype)
      return lk_op_fail(c, LK_EDTYPE, "x%d is %s, x0 %s", i, lk_dtype_name(x->dtype), lk_dtype_name(c->x->dtype));
    int fits = x->ndim == c->x->ndim;
    for (int d = 0; fits && d < x->ndim; d++) fits = d == axis || x->shape[d] == out[d];
    if (!fits) return lk_op_fail(c, LK_ESHAPE, "x%d differs from x0 on another axis than %d", i, axis);
    out[axis] += x->shape[axis];
  }
  if (!lk_view_init(c->y, c->x->dtype, c->x->ndim, out)) return 0;
  return lk_op_fail(c, LK_ESHAPE, "the result is too large");
}

static int fwd(lk_call *c) {
  int axis = axis_of(c);
  int64_t from = 0;
  for (int i = 0; i < c->nin; from += c->x[i++].shape[axis]) {
    lk_view part = part_of(c, c->y, i, axis, from);
    lk_view_copy(&part, &c->x[i]);
  }
  return 0;
}
static int bwd(lk_call *c) {
  int axis = axis_of(c);
  int64_t from = 0;
  for (int i = 0; i < c->nin; from += c->x[i++].shape[axis]) {
    lk_view part = part_of(c, c->gy, i, axis, from);
    if (!c->gx[i].p) continue;
    if (c->fresh & LK_X(i)) lk_view_copy(&c->gx[i], &part);
    else lk_view_add(&c->gx[i], &part, 1);
  }
  return 0;
}
static uint32_t reads(const lk_call *c) { return (void)c, 0; }

static const lk_case cases[] = {{"3x4 2x4 1x4", &(int){0}, -1, 1, 0},
                                {"2x3x2 2x1x2", &(int){-2}, -1, 1, 0},
                                {"5", &(int){-1}, -1, 1, 0},
                                {"2x1 2x3 2x2 2x1", &(int){1}, -1, 1, 0},
                                {0}};
const lk_op lk_op_concat = {.name = "concat",
                            .nin = -1,
                            .types = "a",
                            .flags = LK_OP_FRESH,
                            .attr_size = sizeof(int),
                            .shape = shape,
                            .fwd = fwd,
                            .bwd = bwd,
                            .reads = reads,
                            .cases = cases};

/* Up to LK_MAXIN values in one op; more in groups of about equal size, those first.  stack: each gets a new axis. */
static lk_tensor join(lk_tape *t, int n, const lk_tensor *xs, int axis, int stack) {
  lk_tensor part[LK_MAXIN];
  int group = 1, parts = 0;
  if (n < 1) {
    lk_fail(lk_tape_ctx(t), LK_EARG, "%s: %d values", stack ? "stack" : "concat", n);
    return lk_nil();
  }
  while (group * (int64_t)LK_MAXIN < n) group *= LK_MAXIN;
  for (int i = 0; i < n; i += group, parts++) {
    int m = n - i < group ? n - i : group;
    if (m > 1) part[parts] = join(t, m, xs + i, axis, stack);
    else part[parts] = stack ? lk_unsqueeze(t, xs[i], axis) : xs[i];
  }
  return lk_apply(t, &lk_op_concat, parts, part, &axis);
}

/* xs[0 .. n-1] one behind the other along axis (negative counts from the end); one dtype, any; the other axes have
 * one size -> that shape with the sizes on axis added up.  Always a copy.  Differentiable in all, if real. */
LK_OP lk_tensor lk_concat(lk_tape *t, int n, const lk_tensor *xs, int axis) { return join(t, n, xs, axis, 0); }

/* xs[0 .. n-1] of one shape side by side on a new axis of size n, number axis of the result (negative counts from
 * its end); one dtype, any.  Always a copy.  Differentiable in all, if real. */
LK_OP lk_tensor lk_stack(lk_tape *t, int n, const lk_tensor *xs, int axis) { return join(t, n, xs, axis, 1); }
