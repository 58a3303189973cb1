/* tensor.h: element types, views of memory, and the handle of a value on a tape. */
#ifndef LORIKEET_TENSOR_H
#define LORIKEET_TENSOR_H
#include <lorikeet/ctx.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LK_MAXDIM 6

typedef enum lk_dtype { LK_F32, LK_F64, LK_I64, LK_I32, LK_U8, LK_BF16, LK_F16 } lk_dtype;

/* Memory as op code sees it.  Strides count elements; stride 0 repeats.  Never owns its memory. */
typedef struct lk_view {
  void *p;
  lk_dtype dtype;
  int ndim;
  int64_t shape[LK_MAXDIM];
  int64_t stride[LK_MAXDIM];
} lk_view;

/* A value on a tape, passed by value.  All zero is nil ("no value"). */
typedef struct lk_tensor {
  uint32_t id, gen;
} lk_tensor;

static inline lk_tensor lk_nil(void) {
  lk_tensor nil = {0, 0};
  return nil;
}
static inline int lk_is_nil(lk_tensor x) { return x.gen == 0; }

LK_API size_t lk_dtype_size(lk_dtype dtype);      /* bytes of an element */
LK_API const char *lk_dtype_name(lk_dtype dtype); /* "f32", "i64", ... */
static inline int lk_dtype_is_real(lk_dtype d) { return d == LK_F32 || d == LK_F64; }
static inline int lk_dtype_is_index(lk_dtype d) { return d == LK_I64 || d == LK_I32; }

/* Row-major view without memory (p = NULL).  -1 if a size is negative, ndim is out of [0, LK_MAXDIM]
 * or the number of bytes overflows. */
LK_API int lk_view_init(lk_view *v, lk_dtype dtype, int ndim, const int64_t *shape);
LK_API int64_t lk_view_count(const lk_view *v); /* number of elements */
LK_API size_t lk_view_bytes(const lk_view *v);  /* count times element size */
LK_API int lk_view_contiguous(const lk_view *v);
LK_API int lk_view_same_shape(const lk_view *a, const lk_view *b);
/* Element offset of flat (row-major) index i. */
LK_API int64_t lk_view_offset(const lk_view *v, int64_t i);
/* "[2, 5, 7]" into a buffer of at least 160 bytes; returns the buffer. */
LK_API const char *lk_view_format(const lk_view *v, char *buffer);
/* to[i] = from[i] for views of one shape and any strides; converts between f32 and f64. */
LK_API void lk_view_copy(const lk_view *to, const lk_view *from);
/* to[i] += scale * from[i], same shape, same real dtype, any strides (stride 0 in `to` sums). */
LK_API void lk_view_add(const lk_view *to, const lk_view *from, double scale);
/* One element as a double (or integer) by flat index; for tests, printing and small loops. */
LK_API double lk_view_get(const lk_view *v, int64_t i);
LK_API void lk_view_set(const lk_view *v, int64_t i, double value);
static inline int64_t lk_view_index(const lk_view *v, int64_t element_offset) {
  return v->dtype == LK_I64 ? ((const int64_t *)v->p)[element_offset] : ((const int32_t *)v->p)[element_offset];
}

/* Rows are everything but the last axis; a 0-d view is one row of one element. */
static inline int64_t lk_view_cols(const lk_view *v) { return v->ndim ? v->shape[v->ndim - 1] : 1; }
static inline int64_t lk_view_rows(const lk_view *v) {
  int64_t n = 1;
  for (int d = 0; d + 1 < v->ndim; d++) n *= v->shape[d];
  return n;
}
static inline int64_t lk_view_step(const lk_view *v) { return v->ndim ? v->stride[v->ndim - 1] : 1; }
/* Element offset of row r. */
static inline int64_t lk_view_row(const lk_view *v, int64_t r) {
  int64_t o = 0;
  for (int d = v->ndim - 2; d >= 0; d--) {
    o += r % v->shape[d] * v->stride[d];
    r /= v->shape[d];
  }
  return o;
}

#ifdef __cplusplus
}
#endif
#endif
