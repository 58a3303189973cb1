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

/* The view v cut to n positions of an axis. */
static inline lk_view lk_narrow(const lk_view *v, int axis, int64_t first, int64_t n) {
  lk_view s = *v;
  s.p = (char *)v->p + first * v->stride[axis] * (int64_t)lk_dtype_size(v->dtype);
  s.shape[axis] = n;
  return s;
}

/* ---- index.c: slices of `picked` at the positions of an index [n], against those of `plain` at 0 .. n - 1 ---- */

typedef enum lk_walk { LK_TAKE, LK_TAKE_ADD, LK_PUT_ADD } lk_walk;
/* For each k, with the slices a = picked[.., index[k], ..] and b = plain[.., k, ..] along axis:
 * b = a (LK_TAKE), b += a (LK_TAKE_ADD) or a += b (LK_PUT_ADD), repeated positions in order. */
void lk_index_walk(lk_call *c, const lk_view *index, const lk_view *picked, const lk_view *plain, int axis,
                   lk_walk mode);
/* y[index[k], :] += block[k, :]: y and block of two axes and one real dtype; one thread. */
void lk_put_rows(const lk_view *y, const lk_view *index, const lk_view *block);
/* 0 when index is [n] and plain has picked's shape with n on that axis; else refuses. */
int lk_index_fits(lk_call *c, const lk_view *picked, const lk_view *index, const lk_view *plain, int axis);

#endif
