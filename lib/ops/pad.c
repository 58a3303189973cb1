/* pad.c: a constant border around a value. */
#include <lorikeet/op.h>

typedef struct attributes {
  int64_t before[LK_MAXDIM], after[LK_MAXDIM];
  double value;
} attributes;

static int shape(lk_call *c) {
  const attributes *a = c->attr;
  int64_t out[LK_MAXDIM];
  for (int d = 0; d < c->x->ndim; d++) {
    int64_t most = INT64_MAX / 4;
    if (a->before[d] < 0 || a->after[d] < 0 || a->before[d] > most || a->after[d] > most)
      return lk_op_fail(c, LK_EARG, "axis %d: %lld before and %lld after it", d, (long long)a->before[d],
                        (long long)a->after[d]);
    out[d] = a->before[d] + c->x->shape[d] + a->after[d];
  }
  if (!lk_view_init(c->y, c->x->dtype, c->x->ndim, out)) return 0;
  return lk_op_fail(c, LK_ESHAPE, "the result is too large");
}

/* The part of y (or gy) that is x. */
static lk_view inside(const lk_call *c, const lk_view *y) {
  const attributes *a = c->attr;
  lk_view v = *y;
  int64_t offset = 0;
  for (int d = 0; d < v.ndim; d++) {
    v.shape[d] = c->x->shape[d];
    offset += a->before[d] * v.stride[d];
  }
  v.p = (char *)y->p + offset * (int64_t)lk_dtype_size(y->dtype);
  return v;
}

static int fwd(lk_call *c) {
  lk_view constant = *c->y, part = inside(c, c->y);
  double value = ((const attributes *)c->attr)->value;
  float narrow = (float)value;
  for (int d = 0; d < constant.ndim; d++) constant.stride[d] = 0;
  constant.p = constant.dtype == LK_F64 ? (void *)&value : (void *)&narrow;
  lk_view_copy(c->y, &constant);
  lk_view_copy(&part, c->x);
  return 0;
}
static int bwd(lk_call *c) {
  lk_view part = inside(c, c->gy);
  if (c->fresh & LK_X(0)) lk_view_copy(c->gx, &part);
  else lk_view_add(c->gx, &part, 1);
  return 0;
}
static uint32_t reads(const lk_call *c) { return (void)c, 0; }

static const lk_case cases[] = {{"3x4", &(attributes){{1, 0}, {0, 2}, 0}, -1, 1, 0},
                                {"2x1x3", &(attributes){{0, 2, 1}, {1, 1, 0}, -0.5}, -1, 1, 0},
                                {"5", &(attributes){{2}, {3}, 7}, -1, 1, 0},
                                {0}};
const lk_op lk_op_pad = {.name = "pad",
                         .nin = 1,
                         .flags = LK_OP_FRESH,
                         .attr_size = sizeof(attributes),
                         .shape = shape,
                         .fwd = fwd,
                         .bwd = bwd,
                         .reads = reads,
                         .cases = cases};

/* x with before[d] and after[d] elements of a value added on axis d; both have as many entries as x axes, 0 or more. */
LK_OP lk_tensor lk_pad(lk_tape *t, lk_tensor x, const int64_t *before, const int64_t *after, double value) {
  attributes attr = {.value = value};
  for (int d = 0, n = lk_ndim(t, x); d < n; d++) {
    attr.before[d] = before[d];
    attr.after[d] = after[d];
  }
  return lk_apply(t, &lk_op_pad, 1, &x, &attr);
}
