/* transpose.c: axes in another order, as a view. */
#include <lorikeet/op.h>

typedef struct attributes {
  int n;
  int order[LK_MAXDIM];
} attributes;

static int transpose_shape(lk_call *c) {
  const int *axes = c->attr;
  int a = lk_op_axis(c, axes[0], c->x->ndim), b = a < 0 ? -1 : lk_op_axis(c, axes[1], c->x->ndim);
  if (b < 0) return -1;
  *c->y = *c->x;
  c->y->shape[a] = c->x->shape[b];
  c->y->shape[b] = c->x->shape[a];
  c->y->stride[a] = c->x->stride[b];
  c->y->stride[b] = c->x->stride[a];
  return 0;
}

static const lk_case transpose_cases[] = {{"3x5", (const int[]){0, 1}, -1, 1, 0},
                                          {"2x3x4", (const int[]){-1, 0}, -1, 1, 0},
                                          {"6", (const int[]){0, -1}, -1, 1, 0},
                                          {0}};
const lk_op lk_op_transpose = {.name = "transpose",
                               .nin = 1,
                               .types = "a",
                               .flags = LK_OP_VIEW,
                               .attr_size = 2 * sizeof(int),
                               .shape = transpose_shape,
                               .cases = transpose_cases};

/* x with two axes exchanged (negative count from the end).  A view; any dtype. */
LK_OP lk_tensor lk_transpose(lk_tape *t, lk_tensor x, int axis0, int axis1) {
  const int axes[] = {axis0, axis1};
  return lk_apply(t, &lk_op_transpose, 1, &x, axes);
}

static int permute_shape(lk_call *c) {
  const attributes *a = c->attr;
  unsigned seen = 0;
  *c->y = *c->x;
  for (int d = 0; d < a->n; d++) {
    int from = lk_op_axis(c, a->order[d], c->x->ndim);
    if (from < 0) return -1;
    if (seen >> from & 1) return lk_op_fail(c, LK_EARG, "axis %d comes twice", from);
    seen |= 1u << from;
    c->y->shape[d] = c->x->shape[from];
    c->y->stride[d] = c->x->stride[from];
  }
  return 0;
}

static const lk_case permute_cases[] = {{"2x3x4", &(attributes){3, {1, 2, 0}}, -1, 1, 0},
                                        {"2x3x1x5", &(attributes){4, {-1, 0, -2, 1}}, -1, 1, 0},
                                        {"-", &(attributes){0, {0}}, -1, 1, 0},
                                        {0}};
const lk_op lk_op_permute = {.name = "permute",
                             .nin = 1,
                             .types = "a",
                             .flags = LK_OP_VIEW,
                             .attr_size = sizeof(attributes),
                             .shape = permute_shape,
                             .cases = permute_cases};

/* Axis d of the result is axis order[d] of x (negative counts from the end); order has as many entries as x axes and
 * names each once.  A view; any dtype. */
LK_OP lk_tensor lk_permute(lk_tape *t, lk_tensor x, const int *order) {
  attributes attr = {.n = lk_ndim(t, x)};
  for (int d = 0; d < attr.n; d++) attr.order[d] = order[d];
  return lk_apply(t, &lk_op_permute, 1, &x, &attr);
}
