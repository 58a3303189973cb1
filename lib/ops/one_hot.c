/* one_hot.c: class numbers as rows of zeros with a one. */
#include "index.h"

#include <string.h>

typedef struct attributes {
  int64_t classes;
  int dtype;
} attributes;

static int shape(lk_call *c) {
  const attributes *a = c->attr;
  int64_t out[LK_MAXDIM];
  if (!lk_dtype_is_real((lk_dtype)a->dtype))
    return lk_op_fail(c, LK_EDTYPE, "the result would be %s, not f32 or f64", lk_dtype_name((lk_dtype)a->dtype));
  if (a->classes < 1) return lk_op_fail(c, LK_EARG, "%lld classes", (long long)a->classes);
  if (c->x->ndim == LK_MAXDIM) return lk_op_fail(c, LK_ESHAPE, "the result would have more than %d axes", LK_MAXDIM);
  for (int d = 0; d < c->x->ndim; d++) out[d] = c->x->shape[d];
  out[c->x->ndim] = a->classes;
  if (!lk_view_init(c->y, (lk_dtype)a->dtype, c->x->ndim + 1, out)) return 0;
  return lk_op_fail(c, LK_ESHAPE, "the result is too large");
}

static int fwd(lk_call *c) {
  int64_t classes = lk_view_cols(c->y);
  if (lk_check_index(c, c->x, classes)) return -1;
  memset(c->y->p, 0, lk_view_bytes(c->y));
  for (int64_t r = 0, rows = lk_view_count(c->x); r < rows; r++)
    lk_view_set(c->y, r * classes + lk_view_index(c->x, lk_view_offset(c->x, r)), 1);
  return 0;
}

static const lk_case cases[] = {{"4", &(attributes){5, LK_F64}, 0, 0, 5},
                                {"2x3", &(attributes){7, LK_F32}, 0, 0, 7},
                                {"-", &(attributes){3, LK_F64}, 0, 0, 3},
                                {0}};
const lk_op lk_op_one_hot = {.name = "one_hot",
                             .nin = 1,
                             .types = "i",
                             .attr_size = sizeof(attributes),
                             .shape = shape,
                             .fwd = fwd,
                             .cases = cases};

/* y[..., j] = 1 where j = index[...], else 0; index [...] -> [..., classes] of the real dtype.
 * An index outside [0, classes) is refused. */
LK_OP lk_tensor lk_one_hot(lk_tape *t, lk_tensor index, int64_t classes, lk_dtype dtype) {
  const attributes attr = {classes, (int)dtype};
  return lk_apply(t, &lk_op_one_hot, 1, &index, &attr);
}
