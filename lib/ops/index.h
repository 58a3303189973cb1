/* index.h: what the ops with an index input share. */
#ifndef LK_OPS_INDEX_H
#define LK_OPS_INDEX_H
#include <lorikeet/op.h>

/* 0 when every element of the index view lies in [0, n); else refuses with the first that does not. */
static inline int lk_check_index(lk_call *c, const lk_view *index, int64_t n) {
  int64_t cols = lk_view_cols(index), step = lk_view_step(index), count = lk_view_count(index);
  for (int64_t r = 0; r * cols < count; r++) {
    int64_t base = lk_view_row(index, r);
    for (int64_t i = 0; i < cols; i++) {
      int64_t k = lk_view_index(index, base + i * step);
      if (k < 0 || k >= n)
        return lk_op_fail(c, LK_EARG, "index %lld is out of range [0, %lld)", (long long)k, (long long)n);
    }
  }
  return 0;
}

/* The view v cut to one position of an axis, which goes. */
static inline lk_view lk_select(const lk_view *v, int axis, int64_t position) {
  lk_view s = *v;
  s.p = (char *)v->p + position * v->stride[axis] * (int64_t)lk_dtype_size(v->dtype);
  s.ndim--;
  for (int d = axis; d < s.ndim; d++) {
    s.shape[d] = v->shape[d + 1];
    s.stride[d] = v->stride[d + 1];
  }
  return s;
}

#endif
