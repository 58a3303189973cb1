/* cast.c: another dtype. */
#include "half.h"

#include <lorikeet/op.h>

static int shape(lk_call *c) {
  lk_dtype to = *(const lk_dtype *)c->attr;
  if (!lk_dtype_is_real(to)) return lk_op_fail(c, LK_EDTYPE, "to %s: only f32 and f64 can be made", lk_dtype_name(to));
  return lk_view_init(c->y, to, c->x->ndim, c->x->shape);
}

static int fwd(lk_call *c) {
  lk_view_copy(c->y, c->x);
  return 0;
}

static int bwd(lk_call *c) {
  lk_view g = c->gx[0];
  if (g.dtype == c->gy->dtype) lk_view_add(&g, c->gy, 1);
  else
    for (int64_t i = 0, n = lk_view_count(&g); i < n; i++)
      lk_view_set(&g, i, lk_view_get(&g, i) + lk_view_get(c->gy, i));
  return 0;
}

static uint32_t reads(const lk_call *c) { return (void)c, 0; }

static const lk_dtype wide = LK_F64;
static const lk_case cases[] = {{"3x4", &wide, -1, 1, 0}, {"-", &wide, -1, 1, 0}, {0}};
const lk_op lk_op_cast = {.name = "cast",
                          .nin = 1,
                          .types = "a",
                          .attr_size = sizeof(lk_dtype),
                          .shape = shape,
                          .fwd = fwd,
                          .bwd = bwd,
                          .reads = reads,
                          .cases = cases};

/* x as f32 or f64: x of any real dtype, also bf16 and f16 (which carry no gradient).  Between f32 and f64 it is
 * differentiable; x itself if it has the dtype already. */
LK_OP lk_tensor lk_cast(lk_tape *t, lk_tensor x, lk_dtype dtype) {
  if (lk_dtype_of(t, x) == dtype) return x;
  return lk_apply(t, &lk_op_cast, 1, &x, &dtype);
}
