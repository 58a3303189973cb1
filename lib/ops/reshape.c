/* reshape.c: the same elements in row-major order under another shape. */
#include <lorikeet/op.h>

typedef struct attributes {
  int ndim;
  int64_t shape[LK_MAXDIM];
} attributes;

/* A row-major view of that shape; a -1 stands for what remains.  -1 if the elements do not fit. */
static int resolve(const lk_view *x, const attributes *a, lk_view *y) {
  int64_t out[LK_MAXDIM], count = lk_view_count(x), known = 1;
  int open = -1;
  for (int d = 0; d < a->ndim; d++) {
    out[d] = a->shape[d];
    if (out[d] == -1 && open < 0) open = d;
    else if (out[d] < 0 || (out[d] && known > count / out[d])) return -1;
    else known *= out[d];
  }
  if (open >= 0) {
    if (!known || count % known) return -1;
    out[open] = count / known;
    known = count;
  }
  return known != count || lk_view_init(y, x->dtype, a->ndim, out) ? -1 : 0;
}

/* Gives y the strides with which it is a window on x; 0 if there are none.  Axes of x that lie in one row-major
 * piece must be made of whole axes of y. */
static int window(const lk_view *x, lk_view *y) {
  int dy = y->ndim - 1;
  if (lk_view_count(x) <= 1) return 1;
  for (int d = x->ndim - 1; d >= 0; d--) {
    int64_t size = x->shape[d], step = x->stride[d], covered = 1;
    for (; d > 0 && (x->shape[d - 1] == 1 || x->stride[d - 1] == size * step); d--) size *= x->shape[d - 1];
    for (; dy >= 0 && (covered < size || y->shape[dy] == 1); dy--) {
      y->stride[dy] = covered * step;
      covered *= y->shape[dy];
    }
    if (covered != size) return 0;
  }
  return 1;
}

static int shape(lk_call *c) {
  const attributes *a = c->attr;
  char text[160];
  lk_view asked = {.ndim = a->ndim};
  for (int d = 0; d < a->ndim; d++) asked.shape[d] = a->shape[d];
  if (resolve(c->x, a, c->y)) return lk_op_fail(c, LK_ESHAPE, "does not fit into %s", lk_view_format(&asked, text));
  if (!window(c->x, c->y))
    return lk_op_fail(c, LK_ESHAPE, "the strides allow no view of shape %s", lk_view_format(&asked, text));
  c->y->p = c->x->p;
  return 0;
}

static const lk_case cases[] = {{"6x4", &(attributes){3, {2, -1, 4}}, -1, 1, 0},
                                {"3x1x4", &(attributes){4, {3, 2, 1, 2}}, -1, 1, 0},
                                {"1", &(attributes){0, {0}}, -1, 1, 0},
                                {"-", &(attributes){2, {1, 1}}, -1, 1, 0},
                                {0}};
const lk_op lk_op_reshape = {.name = "reshape",
                             .nin = 1,
                             .types = "a",
                             .flags = LK_OP_VIEW,
                             .attr_size = sizeof(attributes),
                             .shape = shape,
                             .cases = cases};

static int same_shape(lk_call *c) { return lk_view_init(c->y, c->x->dtype, c->x->ndim, c->x->shape); }
static int copy(lk_call *c) {
  lk_view_copy(c->y, c->x);
  return 0;
}
static int copy_bwd(lk_call *c) {
  if (c->fresh & LK_X(0)) lk_view_copy(c->gx, c->gy);
  else lk_view_add(c->gx, c->gy, 1);
  return 0;
}
static uint32_t copy_reads(const lk_call *c) { return (void)c, 0; }

static const lk_case copy_cases[] = {{"3x4", NULL, -1, 1, 0}, {"2x3x5", NULL, -1, 1, 0}, {"-", NULL, -1, 1, 0}, {0}};
const lk_op lk_op_contiguous = {.name = "contiguous",
                                .nin = 1,
                                .types = "a",
                                .flags = LK_OP_FRESH,
                                .shape = same_shape,
                                .fwd = copy,
                                .bwd = copy_bwd,
                                .reads = copy_reads,
                                .cases = copy_cases};

/* x itself if its elements lie in row-major order without gaps, else a copy where they do; any dtype. */
LK_OP lk_tensor lk_contiguous(lk_tape *t, lk_tensor x) {
  lk_view v;
  if (lk_get(t, x, &v)) return lk_nil();
  return lk_view_contiguous(&v) ? x : lk_apply(t, &lk_op_contiguous, 1, &x, NULL);
}

/* The elements of x in row-major order as [shape[0], ..., shape[ndim-1]]; one size may be -1: what remains.
 * A view where the strides of x allow it, else a copy; any dtype. */
LK_OP lk_tensor lk_reshape(lk_tape *t, lk_tensor x, int ndim, const int64_t *shape) {
  attributes attr = {.ndim = ndim};
  lk_view from, to;
  if (ndim < 0 || ndim > LK_MAXDIM) {
    lk_fail(lk_tape_ctx(t), LK_ESHAPE, "reshape: %d axes, should be 0 to %d", ndim, LK_MAXDIM);
    return lk_nil();
  }
  for (int d = 0; d < ndim; d++) attr.shape[d] = shape[d];
  if (lk_get(t, x, &from)) return lk_nil();
  if (!resolve(&from, &attr, &to) && !window(&from, &to)) x = lk_contiguous(t, x);
  return lk_apply(t, &lk_op_reshape, 1, &x, &attr);
}

/* Axes from .. to (both included; negative count from the end) as one; a 0-d value becomes [1]. */
LK_OP lk_tensor lk_flatten(lk_tape *t, lk_tensor x, int from, int to) {
  lk_view v;
  int64_t shape[LK_MAXDIM] = {-1};
  if (lk_get(t, x, &v)) return lk_nil();
  if (!v.ndim) return lk_reshape(t, x, 1, shape);
  int first = from < 0 ? from + v.ndim : from, last = to < 0 ? to + v.ndim : to, ndim = 0;
  if (first < 0 || last < first || last >= v.ndim) {
    lk_fail(lk_tape_ctx(t), LK_ESHAPE, "flatten: axes %d to %d of a value with %d axes", from, to, v.ndim);
    return lk_nil();
  }
  for (int d = 0; d < v.ndim; d++) {
    if (d > first && d <= last) shape[ndim - 1] *= v.shape[d];
    else shape[ndim++] = v.shape[d];
  }
  return lk_reshape(t, x, ndim, shape);
}
