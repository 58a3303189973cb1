/* expand.c: axes of size 1 repeated.  A copy, not a view: the gradient of a repeated element is a sum, which a window
 * of stride 0 on one gradient would give only to consumers that add one element after another. */
#include <lorikeet/op.h>

typedef struct attributes {
  int ndim;
  int64_t shape[LK_MAXDIM];
} attributes;

static int shape(lk_call *c) {
  const attributes *a = c->attr;
  int64_t out[LK_MAXDIM];
  int extra = a->ndim - c->x->ndim;
  if (extra < 0) return lk_op_fail(c, LK_ESHAPE, "%d axes to be expanded to %d", c->x->ndim, a->ndim);
  for (int d = 0; d < a->ndim; d++) {
    int64_t n = d < extra ? 1 : c->x->shape[d - extra];
    out[d] = a->shape[d] == -1 && d >= extra ? n : a->shape[d];
    if (out[d] < 0 || (n != 1 && out[d] != n))
      return lk_op_fail(c, LK_ESHAPE, "axis %d: %lld to be expanded to %lld", d, (long long)n, (long long)out[d]);
  }
  if (!lk_view_init(c->y, c->x->dtype, a->ndim, out)) return 0;
  return lk_op_fail(c, LK_ESHAPE, "the result is too large");
}

/* v under y's shape, with stride 0 where it repeats. */
static lk_view repeat(const lk_view *v, const lk_view *y) {
  lk_view r = *y;
  r.p = v->p;
  for (int d = 0, extra = y->ndim - v->ndim; d < y->ndim; d++)
    r.stride[d] = d < extra || (v->shape[d - extra] == 1) ? 0 : v->stride[d - extra];
  return r;
}

static int fwd(lk_call *c) {
  lk_view x = repeat(c->x, c->y);
  lk_view_copy(c->y, &x);
  return 0;
}
static int bwd(lk_call *c) {
  lk_view gx = repeat(c->gx, c->gy);
  lk_view_add(&gx, c->gy, 1);
  return 0;
}
static uint32_t reads(const lk_call *c) { return (void)c, 0; }

static const lk_case cases[] = {{"3x1", &(attributes){2, {3, 4}}, -1, 1, 0},
                                {"1x5", &(attributes){3, {2, 3, -1}}, -1, 1, 0},
                                {"-", &(attributes){2, {2, 3}}, -1, 1, 0},
                                {"2x1x3", &(attributes){3, {-1, 70, 3}}, -1, 1, 0},
                                {0}};
const lk_op lk_op_expand = {.name = "expand",
                            .nin = 1,
                            .types = "a",
                            .attr_size = sizeof(attributes),
                            .shape = shape,
                            .fwd = fwd,
                            .bwd = bwd,
                            .reads = reads,
                            .cases = cases};

/* x repeated along its axes of size 1, and along new ones in front, to [shape[0], ..., shape[ndim-1]]; -1 keeps an
 * axis.  A copy (elementwise ops broadcast by themselves and do not need it); any dtype.  Differentiable if real. */
LK_OP lk_tensor lk_expand(lk_tape *t, lk_tensor x, int ndim, const int64_t *shape) {
  attributes attr = {.ndim = ndim};
  if (ndim < 0 || ndim > LK_MAXDIM) {
    lk_fail(lk_tape_ctx(t), LK_ESHAPE, "expand: %d axes, should be 0 to %d", ndim, LK_MAXDIM);
    return lk_nil();
  }
  for (int d = 0; d < ndim; d++) attr.shape[d] = shape[d];
  return lk_apply(t, &lk_op_expand, 1, &x, &attr);
}
