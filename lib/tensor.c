/* tensor.c: views: shapes, strides, copying between them. */
#include "half.h"
#include "real.h"

#include <stdio.h>
#include <string.h>

size_t lk_dtype_size(lk_dtype dtype) {
  static const uint8_t sizes[] = {4, 8, 8, 4, 1, 2, 2};
  return (unsigned)dtype < sizeof sizes ? sizes[dtype] : 0;
}

const char *lk_dtype_name(lk_dtype dtype) {
  static const char *const names[] = {"f32", "f64", "i64", "i32", "u8", "bf16", "f16"};
  return (unsigned)dtype < sizeof names / sizeof *names ? names[dtype] : "unknown";
}

int lk_view_init(lk_view *v, lk_dtype dtype, int ndim, const int64_t *shape) {
  int64_t size[LK_MAXDIM] = {0}; /* shape may be the view's own */
  int bad = ndim < 0 || ndim > LK_MAXDIM || !lk_dtype_size(dtype);
  if (!bad && ndim) memcpy(size, shape, (size_t)ndim * sizeof *size);
  memset(v, 0, sizeof *v);
  v->dtype = dtype;
  v->ndim = ndim;
  if (bad) return -1;
  int64_t step = 1, limit = INT64_MAX / 16;
  for (int d = ndim - 1; d >= 0; d--) {
    int64_t n = size[d];
    if (n < 0 || (n > 0 && step > limit / n)) return -1;
    v->shape[d] = n;
    v->stride[d] = step;
    step *= n ? n : 1;
  }
  return 0;
}

int64_t lk_view_count(const lk_view *v) {
  int64_t n = 1;
  for (int d = 0; d < v->ndim; d++) n *= v->shape[d];
  return n;
}

size_t lk_view_bytes(const lk_view *v) { return (size_t)lk_view_count(v) * lk_dtype_size(v->dtype); }

int lk_view_contiguous(const lk_view *v) {
  int64_t step = 1;
  for (int d = v->ndim - 1; d >= 0; d--) {
    if (v->shape[d] == 0) return 1;
    if (v->shape[d] != 1 && v->stride[d] != step) return 0;
    step *= v->shape[d];
  }
  return 1;
}

int lk_view_same_shape(const lk_view *a, const lk_view *b) {
  if (a->ndim != b->ndim) return 0;
  for (int d = 0; d < a->ndim; d++)
    if (a->shape[d] != b->shape[d]) return 0;
  return 1;
}

int64_t lk_view_offset(const lk_view *v, int64_t i) {
  int64_t o = 0;
  for (int d = v->ndim - 1; d >= 0; d--) {
    o += i % v->shape[d] * v->stride[d];
    i /= v->shape[d];
  }
  return o;
}

const char *lk_view_format(const lk_view *v, char *buffer) {
  size_t used = 0, size = 160;
  used += (size_t)snprintf(buffer, size, "[");
  for (int d = 0; d < v->ndim; d++)
    used += (size_t)snprintf(buffer + used, size - used, "%s%lld", d ? ", " : "", (long long)v->shape[d]);
  snprintf(buffer + used, size - used, "]");
  return buffer;
}

/* Both views with neighbouring axes joined where both allow it; result in a and b, at least one axis. */
static void join_axes(lk_view *a, lk_view *b) {
  int n = 0;
  for (int d = 0; d < a->ndim; d++) {
    if (a->shape[d] == 1) continue;
    if (n && a->stride[n - 1] == a->shape[d] * a->stride[d] && b->stride[n - 1] == b->shape[d] * b->stride[d]) {
      a->shape[n - 1] *= a->shape[d];
    } else {
      a->shape[n] = a->shape[d];
      n++;
    }
    a->stride[n - 1] = a->stride[d];
    b->stride[n - 1] = b->stride[d];
  }
  if (!n) {
    a->shape[0] = a->stride[0] = b->stride[0] = 1;
    n = 1;
  }
  a->ndim = b->ndim = n;
  for (int d = 0; d < n; d++) b->shape[d] = a->shape[d];
}

#define COPY_ROW(name, T, F)                                                                                           \
  static void name(T *to, int64_t st, const F *from, int64_t sf, int64_t n) {                                          \
    for (int64_t i = 0; i < n; i++) to[i * st] = (T)from[i * sf];                                                      \
  }
COPY_ROW(copy_8, uint64_t, uint64_t)
COPY_ROW(copy_4, uint32_t, uint32_t)
COPY_ROW(copy_2, uint16_t, uint16_t)
COPY_ROW(copy_1, uint8_t, uint8_t)
COPY_ROW(narrow, float, double)
COPY_ROW(widen, double, float)

/* Between dtypes of which one is a half. */
static void convert_row(const lk_view *to, int64_t ot, const lk_view *from, int64_t of) {
  int64_t n = lk_view_cols(to), st = lk_view_step(to), sf = lk_view_step(from);
  const uint16_t *q = (const uint16_t *)from->p + of;
  if (to->dtype == LK_F32 && st == 1 && lk_dtype_is_half(from->dtype)) {
    lk_widen(from->dtype, q, sf, n, (float *)to->p + ot);
    return;
  }
  lk_view a = {.dtype = to->dtype, .ndim = 0}, b = {.dtype = from->dtype, .ndim = 0};
  for (int64_t i = 0; i < n; i++) {
    a.p = (char *)to->p + (ot + i * st) * (int64_t)lk_dtype_size(to->dtype);
    b.p = (char *)from->p + (of + i * sf) * (int64_t)lk_dtype_size(from->dtype);
    lk_view_set(&a, 0, lk_view_get(&b, 0));
  }
}

static void copy_row(const lk_view *to, int64_t ot, const lk_view *from, int64_t of) {
  if (to->dtype != from->dtype && (lk_dtype_is_half(to->dtype) || lk_dtype_is_half(from->dtype))) {
    convert_row(to, ot, from, of);
    return;
  }
  int64_t n = lk_view_cols(to), st = lk_view_step(to), sf = lk_view_step(from);
  char *p = (char *)to->p + ot * (int64_t)lk_dtype_size(to->dtype);
  const char *q = (const char *)from->p + of * (int64_t)lk_dtype_size(from->dtype);
  size_t size = lk_dtype_size(to->dtype);
  if (to->dtype == LK_F32 && from->dtype == LK_F64) narrow((float *)p, st, (const double *)q, sf, n);
  else if (to->dtype == LK_F64 && from->dtype == LK_F32) widen((double *)p, st, (const float *)q, sf, n);
  else if (st == 1 && sf == 1) memcpy(p, q, (size_t)n * size);
  else if (size == 8) copy_8((uint64_t *)p, st, (const uint64_t *)q, sf, n);
  else if (size == 4) copy_4((uint32_t *)p, st, (const uint32_t *)q, sf, n);
  else if (size == 2) copy_2((uint16_t *)p, st, (const uint16_t *)q, sf, n);
  else copy_1((uint8_t *)p, st, (const uint8_t *)q, sf, n);
}

void lk_view_copy(const lk_view *to, const lk_view *from) {
  lk_view a = *to, b = *from;
  if (!lk_view_count(&a)) return;
  join_axes(&a, &b);
  for (int64_t r = 0, rows = lk_view_rows(&a); r < rows; r++) copy_row(&a, lk_view_row(&a, r), &b, lk_view_row(&b, r));
}

LK_CLONES static void add_row(const lk_view *a, int64_t oa, const lk_view *b, int64_t ob, double scale) {
  int64_t n = lk_view_cols(a), sa = lk_view_step(a), sb = lk_view_step(b);
  LK_REAL(a->dtype, {
    R *p = (R *)a->p + oa;
    const R *q = (const R *)b->p + ob;
    R s = (R)scale;
    if (sa == 1 && sb == 1)
      for (int64_t i = 0; i < n; i++) p[i] += s * q[i];
    else
      for (int64_t i = 0; i < n; i++) p[i * sa] += s * q[i * sb];
  });
}

void lk_view_add(const lk_view *to, const lk_view *from, double scale) {
  lk_view a = *to, b = *from;
  if (!lk_view_count(&a)) return;
  join_axes(&a, &b);
  for (int64_t r = 0, rows = lk_view_rows(&a); r < rows; r++)
    add_row(&a, lk_view_row(&a, r), &b, lk_view_row(&b, r), scale);
}

double lk_view_get(const lk_view *v, int64_t i) {
  int64_t o = lk_view_offset(v, i);
  switch (v->dtype) {
  case LK_F64:
    return ((const double *)v->p)[o];
  case LK_F32:
    return ((const float *)v->p)[o];
  case LK_I64:
    return (double)((const int64_t *)v->p)[o];
  case LK_I32:
    return ((const int32_t *)v->p)[o];
  case LK_U8:
    return ((const uint8_t *)v->p)[o];
  case LK_BF16:
    return lk_bf16_to_f32(((const uint16_t *)v->p)[o]);
  case LK_F16:
    return lk_f16_to_f32(((const uint16_t *)v->p)[o]);
  default:
    return NAN;
  }
}

void lk_view_set(const lk_view *v, int64_t i, double value) {
  int64_t o = lk_view_offset(v, i);
  switch (v->dtype) {
  case LK_F64:
    ((double *)v->p)[o] = value;
    break;
  case LK_F32:
    ((float *)v->p)[o] = (float)value;
    break;
  case LK_I64:
    ((int64_t *)v->p)[o] = (int64_t)value;
    break;
  case LK_I32:
    ((int32_t *)v->p)[o] = (int32_t)value;
    break;
  case LK_U8:
    ((uint8_t *)v->p)[o] = (uint8_t)value;
    break;
  case LK_BF16:
    ((uint16_t *)v->p)[o] = lk_f32_to_bf16((float)value);
    break;
  case LK_F16:
    ((uint16_t *)v->p)[o] = lk_f32_to_f16((float)value);
    break;
  default:
    break;
  }
}
