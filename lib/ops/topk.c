/* topk.c: positions of the largest or smallest elements along an axis, and of all in order. */
#include "index.h"
#include "real.h"

#include <string.h>

typedef struct attributes {
  int64_t k;
  int axis, largest;
} attributes;

static int axis_of(lk_call *c) { return lk_op_axis(c, ((const attributes *)c->attr)->axis, c->x->ndim); }

static int shape_of(lk_call *c, int64_t k, int axis) {
  int64_t out[LK_MAXDIM];
  for (int d = 0; d < c->x->ndim; d++) out[d] = d == axis ? k : c->x->shape[d];
  return lk_view_init(c->y, LK_I64, c->x->ndim, out);
}
static int topk_shape(lk_call *c) {
  int axis = axis_of(c);
  int64_t k = ((const attributes *)c->attr)->k;
  if (axis < 0) return -1;
  if (k >= 0 && k <= c->x->shape[axis]) return shape_of(c, k, axis);
  return lk_op_fail(c, LK_EARG, "k is %lld, the axis has %lld", (long long)k, (long long)c->x->shape[axis]);
}
static int argsort_shape(lk_call *c) {
  int axis = axis_of(c);
  return axis < 0 ? -1 : shape_of(c, c->x->shape[axis], axis);
}

/* Whether a comes before b; NaN counts as larger than every number. */
static int before(double a, double b, int largest) {
  if (a != a || b != b) return largest ? a != a && b == b : b != b && a == a;
  return largest ? a > b : a < b;
}

/* order[0 .. k-1] = positions of the first k of n keys: each key is moved up a sorted list. */
static void select_few(const double *key, int64_t n, int64_t k, int largest, int64_t *order) {
  int64_t have = 0;
  for (int64_t i = 0; i < n; i++) {
    if (have == k && !before(key[i], key[order[k - 1]], largest)) continue;
    int64_t at = have < k ? have++ : k - 1;
    for (; at > 0 && before(key[i], key[order[at - 1]], largest); at--) order[at] = order[at - 1];
    order[at] = i;
  }
}

/* order = all positions, by a merge sort, which keeps equal keys in their order. */
static void sort_all(const double *key, int64_t n, int largest, int64_t *order, int64_t *other) {
  for (int64_t i = 0; i < n; i++) order[i] = i;
  for (int64_t width = 1; width < n; width *= 2) {
    memcpy(other, order, (size_t)n * sizeof *order);
    for (int64_t from = 0; from < n; from += 2 * width) {
      int64_t middle = from + width < n ? from + width : n, end = middle + width < n ? middle + width : n;
      for (int64_t to = from, i = from, j = middle; to < end; to++) {
        int right = i == middle || (j < end && before(key[other[j]], key[other[i]], largest));
        order[to] = other[right ? j++ : i++];
      }
    }
  }
}

static int fwd(lk_call *c) {
  int axis = axis_of(c), largest = ((const attributes *)c->attr)->largest;
  int64_t n = c->x->shape[axis], k = c->y->shape[axis];
  int few = k <= 64 && k < n;
  lk_view first = lk_select(c->x, axis, 0), result = lk_select(c->y, axis, 0);
  double *key = lk_scratch(c, (size_t)n * sizeof *key);
  int64_t *order = lk_scratch(c, (size_t)(few ? k : 2 * n) * sizeof *order);
  if (!key || !order) return -1;
  for (int64_t r = 0, rows = lk_view_count(&result); k && r < rows; r++) {
    int64_t from = lk_view_offset(&first, r), to = lk_view_offset(&result, r);
    LK_REAL(c->x->dtype, {
      const R *x = (const R *)c->x->p + from;
      for (int64_t i = 0; i < n; i++) key[i] = x[i * c->x->stride[axis]];
    });
    if (few) select_few(key, n, k, largest, order);
    else sort_all(key, n, largest, order, order + n);
    for (int64_t i = 0; i < k; i++) ((int64_t *)c->y->p)[to + i * c->y->stride[axis]] = order[i];
  }
  return 0;
}

static const lk_case topk_cases[] = {{"3x7", &(attributes){3, -1, 1}, -1, 1, 0},
                                     {"5x2x3", &(attributes){2, 0, 0}, -1, 1, 0},
                                     {"9", &(attributes){9, 0, 1}, -1, 1, 0},
                                     {0}};
const lk_op lk_op_topk = {
    .name = "topk", .nin = 1, .attr_size = sizeof(attributes), .shape = topk_shape, .fwd = fwd, .cases = topk_cases};

/* Positions of the k largest (or, with largest 0, smallest) elements along axis, best first; i64, x's shape with k on
 * that axis.  Equal elements: the lower position first.  NaN counts as the largest.  Their values: lk_gather. */
LK_OP lk_tensor lk_topk(lk_tape *t, lk_tensor x, int64_t k, int axis, int largest) {
  const attributes attr = {k, axis, largest != 0};
  return lk_apply(t, &lk_op_topk, 1, &x, &attr);
}

static const lk_case argsort_cases[] = {{"3x7", &(attributes){0, -1, 1}, -1, 1, 0},
                                        {"5x2x3", &(attributes){0, 0, 0}, -1, 1, 0},
                                        {"33", &(attributes){0, 0, 0}, -1, 1, 0},
                                        {0}};
const lk_op lk_op_argsort = {.name = "argsort",
                             .nin = 1,
                             .attr_size = sizeof(attributes),
                             .shape = argsort_shape,
                             .fwd = fwd,
                             .cases = argsort_cases};

/* Positions along axis in ascending (or descending) order of the elements; i64, x's shape.  Stable: equal elements
 * keep their order.  NaN counts as the largest. */
LK_OP lk_tensor lk_argsort(lk_tape *t, lk_tensor x, int axis, int descending) {
  const attributes attr = {0, axis, descending != 0};
  return lk_apply(t, &lk_op_argsort, 1, &x, &attr);
}
