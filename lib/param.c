/* param.c: parameters: memory with a name, a gradient and a version. */
#include "half.h"
#include "internal.h"

#include <string.h>

lk_param *lk_param_new_shape(lk_ctx *c, const char *name, lk_param_kind kind, lk_dtype dtype, int ndim,
                             const int64_t *shape) {
  lk_param *p = lk_alloc(c, sizeof *p);
  if (!p) return NULL;
  p->ctx = c;
  p->kind = kind;
  p->requires_grad = kind == LK_TRAINED;
  p->version = 1;
  p->name = lk_strdup(c, name);
  if (p->name && lk_view_init(&p->value, dtype, ndim, shape))
    lk_fail(c, LK_ESHAPE, "parameter %s: its shape is negative or too large", name);
  if (!c->status) return p;
  lk_param_free(p);
  return NULL;
}

lk_param *lk_param_new(lk_ctx *c, const char *name, lk_param_kind kind, lk_dtype dtype, int ndim,
                       const int64_t *shape) {
  lk_param *p = lk_param_new_shape(c, name, kind, dtype, ndim, shape);
  if (!p) return NULL;
  p->value.p = lk_alloc(c, lk_view_bytes(&p->value));
  p->owned = 1;
  if (p->value.p) return p;
  lk_param_free(p);
  return NULL;
}

void lk_param_free(lk_param *p) {
  if (!p) return;
  lk_ctx *c = p->ctx;
  if (p->owned) lk_free(c, p->value.p);
  lk_free(c, p->own_value);
  lk_free(c, p->grad);
  lk_free(c, p->name);
  lk_free(c, p);
}

void lk_param_touch(lk_param *p) {
  for (; p; p = p->alias) p->version++;
}

lk_status lk_param_own(lk_param *p) {
  if (p->owned) return LK_OK;
  if (p->alias) {
    lk_status status = lk_param_own(p->alias);
    p->value.p = p->alias->value.p;
    return status;
  }
  void *copy = lk_alloc(p->ctx, lk_view_bytes(&p->value));
  if (!copy) return lk_error(p->ctx, NULL);
  if (p->value.p) memcpy(copy, p->value.p, lk_view_bytes(&p->value));
  p->value.p = copy;
  p->owned = 1;
  return LK_OK;
}

static int is_float(lk_dtype d) { return lk_dtype_is_real(d) || lk_dtype_is_half(d); }

lk_status lk_param_assign(lk_param *p, const lk_view *from) {
  char a[160], b[160];
  if (!lk_view_same_shape(&p->value, from))
    return lk_fail(p->ctx, LK_ESHAPE, "parameter %s has shape %s, not %s", p->name, lk_view_format(&p->value, a),
                   lk_view_format(from, b));
  if (p->value.dtype != from->dtype && !(is_float(p->value.dtype) && is_float(from->dtype)))
    return lk_fail(p->ctx, LK_EDTYPE, "parameter %s is %s, not %s", p->name, lk_dtype_name(p->value.dtype),
                   lk_dtype_name(from->dtype));
  if (lk_param_own(p)) return lk_error(p->ctx, NULL);
  lk_view_copy(&p->value, from);
  lk_param_touch(p);
  return LK_OK;
}

void lk_param_zero_grad(lk_param *p) { p->has_grad = 0; }

int64_t lk_param_count(const lk_param *p) { return lk_view_count(&p->value); }

/* ---- initialisers ---- */

typedef double draw(lk_key key, uint64_t i);

static lk_status fill(lk_param *p, draw *next, double scale, double shift) {
  if (!p) return LK_ENIL;
  if (!lk_dtype_is_real(p->value.dtype))
    return lk_fail(p->ctx, LK_EDTYPE, "parameter %s is %s: only f32 and f64 can be initialised", p->name,
                   lk_dtype_name(p->value.dtype));
  if (!p->value.p) return LK_OK; /* a shape only */
  if (lk_param_own(p)) return lk_error(p->ctx, NULL);
  lk_key key = lk_key_make(p->ctx->seed, p->name);
  int64_t n = lk_param_count(p);
  for (int64_t i = 0; i < n; i++) {
    double x = next ? shift + scale * next(key, (uint64_t)i) : shift;
    if (p->value.dtype == LK_F64) ((double *)p->value.p)[i] = x;
    else ((float *)p->value.p)[i] = (float)x;
  }
  lk_param_touch(p);
  return LK_OK;
}

lk_status lk_param_uniform(lk_param *p, double low, double high) { return fill(p, lk_random_uniform, high - low, low); }

lk_status lk_param_normal(lk_param *p, double mean, double std) { return fill(p, lk_random_normal, std, mean); }

lk_status lk_param_fill(lk_param *p, double value) { return fill(p, NULL, 0, value); }
