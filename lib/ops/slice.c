/* slice.c: a part of an axis, as a view. */
#include <lorikeet/op.h>

typedef struct attributes {
  int64_t start, length, step;
  int axis;
} attributes;

static int shape(lk_call *c) {
  const attributes *a = c->attr;
  int axis = lk_op_axis(c, a->axis, c->x->ndim);
  if (axis < 0) return -1;
  int64_t n = c->x->shape[axis];
  if (a->step < 1) return lk_op_fail(c, LK_EARG, "the step is %lld, should be 1 or more", (long long)a->step);
  int fits = a->start >= 0 && a->length >= 0 && a->start <= n;
  if (!fits || (a->length > 0 && (a->start == n || a->length - 1 > (n - 1 - a->start) / a->step)))
    return lk_op_fail(c, LK_EARG, "%lld elements from %lld in steps of %lld do not lie on axis %d of %lld",
                      (long long)a->length, (long long)a->start, (long long)a->step, axis, (long long)n);
  *c->y = *c->x;
  c->y->shape[axis] = a->length;
  c->y->stride[axis] *= a->step;
  if (a->length > 0) c->y->p = (char *)c->x->p + a->start * c->x->stride[axis] * (int64_t)lk_dtype_size(c->x->dtype);
  return 0;
}

static const lk_case cases[] = {{"7x3", &(attributes){1, 3, 2, 0}, -1, 1, 0},
                                {"2x5x3", &(attributes){2, 3, 1, -2}, -1, 1, 0},
                                {"4", &(attributes){3, 1, 9, 0}, -1, 1, 0},
                                {0}};
const lk_op lk_op_slice = {.name = "slice",
                           .nin = 1,
                           .types = "a",
                           .flags = LK_OP_VIEW,
                           .attr_size = sizeof(attributes),
                           .shape = shape,
                           .cases = cases};

/* y[.., k, ..] = x[.., start + k step, ..] for k < length along axis (negative counts from the end); step >= 1, and
 * all of it must lie on the axis.  A view; any dtype. */
LK_OP lk_tensor lk_slice(lk_tape *t, lk_tensor x, int axis, int64_t start, int64_t length, int64_t step) {
  const attributes attr = {start, length, step, axis};
  return lk_apply(t, &lk_op_slice, 1, &x, &attr);
}

/* Cuts axis into equal parts, out[0 .. parts-1], views; refused if its size is no multiple of parts.  All nil on
 * error. */
LK_OP lk_status lk_split(lk_tape *t, lk_tensor x, int axis, int parts, lk_tensor *out) {
  int64_t n = lk_size(t, x, axis);
  for (int i = 0; i < parts; i++) out[i] = lk_nil();
  if (lk_error(lk_tape_ctx(t), NULL)) return lk_error(lk_tape_ctx(t), NULL);
  if (parts < 1 || n % parts)
    return lk_fail(lk_tape_ctx(t), LK_EARG, "split: %lld elements of axis %d into %d equal parts", (long long)n, axis,
                   parts);
  for (int i = 0; i < parts; i++) out[i] = lk_slice(t, x, axis, i * (n / parts), n / parts, 1);
  return lk_error(lk_tape_ctx(t), NULL);
}
