/* reduce_axes.c: see reduce.h. */
#include "reduce.h"

lk_tensor lk_reduce(lk_tape *t, const lk_op *op, lk_tensor x, int naxes, const int *axes, int keepdim, double number) {
  lk_reduction attr = {.naxes = naxes, .keepdim = keepdim, .number = number};
  if (naxes < 0 || naxes > LK_MAXDIM || (naxes && !axes)) attr.naxes = -1;
  for (int i = 0; i < attr.naxes; i++) attr.axes[i] = axes[i];
  return lk_apply(t, op, 1, &x, &attr);
}

/* Bit d of the result: axis d of x is reduced.  -1 with an error. */
static int reduced_axes(lk_call *c) {
  const lk_reduction *r = c->attr;
  int ndim = c->x[0].ndim, bits = 0;
  if (r->naxes < 0)
    return lk_op_fail(c, LK_EARG, "naxes must be 0 (all axes) to %d, and axes then not NULL", LK_MAXDIM), -1;
  if (r->naxes == 0) return (1 << ndim) - 1;
  for (int i = 0; i < r->naxes; i++) {
    int d = lk_op_axis(c, r->axes[i], ndim);
    if (d < 0) return -1;
    if (bits >> d & 1) return lk_op_fail(c, LK_EARG, "axis %d is named twice", d), -1;
    bits |= 1 << d;
  }
  return bits;
}

/* The same of a call whose shape function has run. */
static int is_reduced(const lk_call *c, int d) {
  const lk_reduction *r = c->attr;
  for (int i = 0; i < r->naxes; i++)
    if (r->axes[i] == d || r->axes[i] + c->x[0].ndim == d) return 1;
  return r->naxes == 0;
}

int lk_reduce_shape(lk_call *c) {
  const lk_view *x = &c->x[0];
  const lk_reduction *r = c->attr;
  int64_t shape[LK_MAXDIM];
  int n = 0, bits = reduced_axes(c);
  if (bits < 0) return -1;
  for (int d = 0; d < x->ndim; d++) {
    if (bits >> d & 1 && !r->keepdim) continue;
    shape[n++] = bits >> d & 1 ? 1 : x->shape[d];
  }
  return lk_view_init(c->y, x->dtype, n, shape);
}

int lk_reduce_shape_nonempty(lk_call *c) {
  if (lk_reduce_shape(c)) return -1;
  if (lk_reduce_size(c) == 0) return lk_op_fail(c, LK_ESHAPE, "the reduced axes hold no element");
  return 0;
}

int64_t lk_reduce_size(const lk_call *c) {
  int64_t n = 1;
  for (int d = 0; d < c->x[0].ndim; d++)
    if (is_reduced(c, d)) n *= c->x[0].shape[d];
  return n;
}

lk_view lk_reduce_spread(const lk_call *c, const lk_view *small) {
  const lk_reduction *r = c->attr;
  lk_view wide = c->x[0];
  wide.p = small->p;
  wide.dtype = small->dtype;
  for (int d = 0, k = 0; d < wide.ndim; d++) {
    int reduced = is_reduced(c, d);
    wide.stride[d] = reduced ? 0 : small->stride[k];
    k += !reduced || r->keepdim;
  }
  return wide;
}

lk_view lk_reduce_like_y(const lk_call *c, void *p) {
  lk_view v;
  lk_view_init(&v, c->y->dtype, c->y->ndim, c->y->shape);
  v.p = p;
  return v;
}

int lk_reduce_map(lk_call *c, const lk_view *small, lk_kernel kernel, const lk_view *other, lk_fold fold,
                  double (*finish)(double, const void *)) {
  lk_view second;
  lk_map_job job = {.out = lk_reduce_spread(c, small), .in = {&c->x[0]}, .kernel = kernel, .fold = fold};
  job.attr = c->attr;
  job.finish = finish;
  if (other) {
    second = lk_reduce_spread(c, other);
    job.in[1] = &second;
  }
  return lk_map(c, &job);
}

int lk_reduce_grad(lk_call *c, lk_kernel kernel, const lk_view *other) {
  lk_map_job job = lk_map_grad(c, 0, kernel);
  lk_view gy = lk_reduce_spread(c, c->gy), y = lk_reduce_spread(c, c->y), third;
  job.in[0] = &gy;
  if (c->x[0].p) job.in[1] = &c->x[0];
  if (c->y->p) job.in[2] = &y;
  if (other) {
    third = lk_reduce_spread(c, other);
    job.in[3] = &third;
  }
  return lk_map(c, &job);
}

int lk_reduce_share(lk_call *c, lk_kernel is_one, lk_kernel slope) {
  lk_view count = lk_reduce_like_y(c, lk_scratch(c, lk_view_bytes(c->y)));
  if (!count.p) return -1;
  if (lk_reduce_map(c, &count, is_one, c->y, LK_FOLD_SUM, NULL)) return -1;
  return lk_reduce_grad(c, slope, &count);
}
