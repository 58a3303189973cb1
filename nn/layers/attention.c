/* attention.c: the multi-head attention layer, with separate or fused query, key and value. */
#include "layer.h"

static lk_status check(lk_module *parent, const char *name, const lk_multi_head_options *o) {
  if (o->width > 0 && o->heads > 0 && o->width % o->heads == 0) return LK_OK;
  return lk_fail(parent->ctx, LK_EARG, "attention '%s' in '%s': width %lld cannot be split into %lld heads", name,
                 parent->path, (long long)o->width, (long long)o->heads);
}

static const char * or (const char *name, const char *otherwise) { return name ? name : otherwise; }

lk_attention_layer *lk_attention_new(lk_module *parent, const char *name, const lk_multi_head_options *o) {
  if (parent && check(parent, name, o)) return NULL;
  lk_attention_layer *l = lk_block_new(parent, name, "attention", sizeof *l, o->flags);
  if (!l) return NULL;
  lk_module *m = &l->module;
  int flags = o->flags & LK_NO_BIAS;
  l->width = o->width;
  l->heads = o->heads;
  l->causal = o->causal;
  l->dropout = o->dropout;
  l->output_dropout = o->output_dropout;
  if (o->qkv) {
    l->qkv = lk_linear_new(m, o->qkv, o->width, 3 * o->width, flags);
  } else {
    l->query = lk_linear_new(m, or (o->query, "query"), o->width, o->width, flags);
    l->key = lk_linear_new(m, or (o->key, "key"), o->width, o->width, flags);
    l->value = lk_linear_new(m, or (o->value, "value"), o->width, o->width, flags);
  }
  l->output = lk_linear_new(m, or (o->output, "output"), o->width, o->width, 0);
  return lk_error(m->ctx, NULL) ? NULL : l;
}

/* [N, T, heads * d] -> [N, heads, T, d], views. */
static lk_tensor split_heads(lk_attention_layer *l, lk_tape *t, lk_tensor x) {
  const int64_t shape[] = {lk_size(t, x, 0), lk_size(t, x, 1), l->heads, l->width / l->heads};
  return lk_transpose(t, lk_reshape(t, x, 4, shape), 1, 2);
}

static lk_tensor join_heads(lk_attention_layer *l, lk_tape *t, lk_tensor y) {
  const int64_t shape[] = {lk_size(t, y, 0), lk_size(t, y, 2), l->width};
  return lk_reshape(t, lk_transpose(t, y, 1, 2), 3, shape);
}

/* The tokens that ask: all (0), the first n, or the last one (-1). */
static lk_tensor asking(lk_tape *t, lk_tensor x, int64_t n) {
  int64_t T = lk_size(t, x, 1);
  if (n < 0) return lk_slice(t, x, 1, T - 1, 1, 1);
  return n && n < T ? lk_slice(t, x, 1, 0, n, 1) : x;
}

/* q of the tokens that ask, k and v of all, split into heads. */
static void project(lk_attention_layer *l, lk_tape *t, lk_tensor x, int64_t queries, lk_tensor qkv[3]) {
  if (l->qkv) {
    lk_split(t, lk_linear_forward(l->qkv, t, x), -1, 3, qkv);
    qkv[0] = asking(t, qkv[0], queries);
  } else {
    qkv[0] = lk_linear_forward(l->query, t, asking(t, x, queries));
    qkv[1] = lk_linear_forward(l->key, t, x);
    qkv[2] = lk_linear_forward(l->value, t, x);
  }
  for (int i = 0; i < 3; i++) qkv[i] = split_heads(l, t, qkv[i]);
}

lk_tensor lk_attention_forward(lk_attention_layer *l, lk_tape *t, lk_tensor x, lk_tensor mask, int64_t queries) {
  uint32_t scope = lk_layer_begin(t, (lk_module *)l, l && l->recompute);
  if (!scope) return lk_nil();
  if (queries < -1) {
    lk_fail(lk_tape_ctx(t), LK_EARG, "attention: queries is %lld: the first n, 0 (all) or -1 (the last one)",
            (long long)queries);
    return lk_nil();
  }
  const lk_attention_options options = {.causal = l->causal && queries >= 0, /* the last token sees all */
                                        .dropout = l->dropout};
  lk_tensor qkv[3];
  project(l, t, x, queries, qkv);
  lk_tensor y = join_heads(l, t, lk_attention(t, qkv[0], qkv[1], qkv[2], mask, &options));
  return lk_scope_end(t, scope, lk_dropout(t, lk_linear_forward(l->output, t, y), l->output_dropout));
}
