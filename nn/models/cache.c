/* cache.c: keys and values of earlier tokens, for generating one token at a time. */
#include "models/family.h"

#include <string.h>

struct lk_cache {
  lk_pretrained *p;
  int64_t rows, most, length;
  lk_dtype dtype;
  char *memory; /* layer by layer: keys, then values, each [rows, kv_heads, most, head_width] */
};

/* Bytes of the keys of one layer. */
static size_t block(const lk_cache *c) {
  return (size_t)(c->rows * c->p->kv_heads * c->most * c->p->head_width) * lk_dtype_size(c->dtype);
}

lk_cache *lk_cache_new(lk_pretrained *p, int64_t rows, int64_t most) {
  if (!p) return NULL;
  lk_ctx *ctx = lk_model_ctx(p->model);
  if (!p->kv_heads) lk_fail(ctx, LK_EARG, "cache: a model of the family %s keeps no keys and values", p->family->name);
  if (rows < 1 || most < 1 || (p->most_tokens && most > p->most_tokens) || most > INT32_MAX || rows > INT32_MAX)
    lk_fail(ctx, LK_EARG, "cache: %lld rows of %lld tokens; the model takes %lld", (long long)rows, (long long)most,
            (long long)p->most_tokens);
  const int64_t shape[] = {rows, p->kv_heads, most, p->head_width};
  lk_view v;
  if (!lk_error(ctx, NULL) && lk_view_init(&v, lk_model_dtype(p->model), 4, shape))
    lk_fail(ctx, LK_EARG, "cache: %lld rows of %lld tokens are too many", (long long)rows, (long long)most);
  lk_cache *c = lk_error(ctx, NULL) ? NULL : lk_alloc(ctx, sizeof *c);
  if (!c) return NULL;
  *c = (lk_cache){.p = p, .rows = rows, .most = most, .dtype = lk_model_dtype(p->model)};
  c->memory = lk_alloc_array(ctx, 2 * (size_t)p->layers, block(c));
  if (c->memory) return c;
  lk_free(ctx, c);
  return NULL;
}

void lk_cache_free(lk_cache *c) {
  if (!c) return;
  lk_ctx *ctx = lk_model_ctx(c->p->model);
  lk_free(ctx, c->memory);
  lk_free(ctx, c);
}

int64_t lk_cache_length(const lk_cache *c) { return c->length; }

lk_status lk_cache_truncate(lk_cache *c, int64_t n) {
  if (n < 0 || n > c->length)
    return lk_fail(lk_model_ctx(c->p->model), LK_EARG, "cache: cannot keep %lld of %lld tokens", (long long)n,
                   (long long)c->length);
  c->length = n;
  return LK_OK;
}

/* Copies x behind what the cache holds; all of it becomes *x. */
static lk_status extend(lk_cache *c, lk_tape *t, char *memory, lk_tensor *x) {
  lk_ctx *ctx = lk_tape_ctx(t);
  lk_view from, to;
  if (lk_get(t, *x, &from)) return lk_error(ctx, NULL);
  const int64_t whole[] = {c->rows, c->p->kv_heads, c->most, c->p->head_width};
  if (from.ndim != 4 || from.shape[0] != c->rows || from.shape[1] != whole[1] || from.shape[3] != whole[3])
    return lk_fail(ctx, LK_ESHAPE, "cache: made for %lld rows, the input has %lld", (long long)c->rows,
                   (long long)from.shape[0]);
  if (c->length + from.shape[2] > c->most)
    return lk_fail(ctx, LK_ESHAPE, "cache: %lld tokens and %lld more, but room for %lld", (long long)c->length,
                   (long long)from.shape[2], (long long)c->most);
  lk_view_init(&to, c->dtype, 4, whole);
  to.p = memory + (size_t)(c->length * to.stride[2]) * lk_dtype_size(c->dtype);
  to.shape[2] = from.shape[2];
  lk_view_copy(&to, &from);
  to.p = memory;
  to.shape[2] = c->length + from.shape[2];
  *x = lk_borrow(t, &to);
  return lk_error(ctx, NULL);
}

lk_status lk_cache_extend(lk_cache *c, lk_tape *t, int64_t layer, lk_tensor *k, lk_tensor *v) {
  char *keys = c->memory + 2 * (size_t)layer * block(c);
  int64_t more = lk_size(t, *k, 2);
  if (lk_grad_enabled(t))
    return lk_fail(lk_tape_ctx(t), LK_EARG, "cache: a pass with a cache records no gradients; lk_no_grad(tape, 1)");
  if (extend(c, t, keys, k) || extend(c, t, keys + block(c), v)) return lk_error(lk_tape_ctx(t), NULL);
  if (layer == c->p->layers - 1) c->length += more;
  return LK_OK;
}
