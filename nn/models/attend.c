/* attend.c: attention of decoders: causal, with a window, padding, and keys and values of earlier tokens. */
#include "models/family.h"

#include <lorikeet/attention.h>

/* u8 [rows, 1, T, S]: which keys each query may attend to; rows is 1 without padding. */
static lk_tensor explicit_mask(lk_tape *t, const lk_attend *a, int64_t past, int64_t T) {
  int64_t S = past + T;
  lk_view padding = {0}, v;
  if (!lk_is_nil(a->mask) && lk_get(t, a->mask, &padding)) return lk_nil();
  const int64_t shape[] = {padding.p ? padding.shape[0] : 1, 1, T, S};
  lk_tensor m = lk_input(t, LK_U8, 4, shape, NULL);
  if (lk_get(t, m, &v)) return lk_nil();
  uint8_t *to = v.p;
  for (int64_t r = 0; r < shape[0]; r++)
    for (int64_t i = 0; i < T; i++)
      for (int64_t j = 0; j < S; j++, to++) {
        int64_t q = past + i;
        *to = j <= q && (!a->window || j > q - a->window) && (!padding.p || lk_view_get(&padding, r * S + j) != 0);
      }
  return m;
}

lk_tensor lk_attend_causal(lk_tape *t, const lk_attend *a, lk_tensor q, lk_tensor k, lk_tensor v) {
  int64_t past = a->cache ? lk_cache_length(a->cache) : 0, T = lk_size(t, q, 2);
  lk_attention_options o = {.scale = a->scale, .dropout = a->dropout, .causal = past == 0};
  lk_tensor mask = a->mask;
  if (a->cache && !lk_is_nil(mask)) {
    lk_fail(lk_tape_ctx(t), LK_EARG, "a pass with a cache takes no mask: all of its tokens are real");
    return lk_nil();
  }
  if (a->cache && lk_cache_extend(a->cache, t, a->layer, &k, &v)) return lk_nil();
  int narrow = a->window && past + T > a->window;
  if (narrow || (past && T > 1)) mask = explicit_mask(t, a, past, T);
  else if (!lk_is_nil(mask)) mask = lk_unsqueeze(t, lk_unsqueeze(t, mask, 1), 1); /* [N, 1, 1, T] */
  return lk_attention(t, q, k, v, mask, &o);
}

lk_tensor lk_heads_split(lk_tape *t, lk_tensor x, int64_t heads) {
  const int64_t shape[] = {lk_size(t, x, 0), lk_size(t, x, 1), heads, lk_size(t, x, 2) / (heads ? heads : 1)};
  return lk_transpose(t, lk_reshape(t, x, 4, shape), 1, 2);
}

lk_tensor lk_heads_join(lk_tape *t, lk_tensor y) {
  const int64_t shape[] = {lk_size(t, y, 0), lk_size(t, y, 2), lk_size(t, y, 1) * lk_size(t, y, 3)};
  return lk_reshape(t, lk_transpose(t, y, 1, 2), 3, shape);
}

lk_status lk_check_tokens(lk_pretrained *p, lk_tape *t, const lk_inputs *in) {
  int64_t T = lk_size(t, in->ids, 1) + (in->cache ? lk_cache_length(in->cache) : 0);
  if (p->most_tokens && T > p->most_tokens)
    return lk_fail(p->ctx, LK_ESHAPE, "rows of %lld tokens; the model takes %lld", (long long)T,
                   (long long)p->most_tokens);
  return lk_error(p->ctx, NULL);
}

lk_tensor lk_last_token(lk_tape *t, lk_tensor h, lk_tensor mask) {
  int64_t N = lk_size(t, h, 0), T = lk_size(t, h, 1), n[2] = {N, lk_size(t, h, 2)};
  lk_view m = {0}, v;
  if (!lk_is_nil(mask) && lk_get(t, mask, &m)) return lk_nil();
  lk_tensor index = lk_input(t, LK_I64, 1, &N, NULL);
  if (lk_get(t, index, &v)) return lk_nil();
  for (int64_t r = 0; r < N; r++) {
    int64_t last = T - 1;
    while (m.p && last > 0 && lk_view_get(&m, r * T + last) == 0) last--;
    ((int64_t *)v.p)[r] = r * T + last;
  }
  h = lk_reshape(t, h, 2, (int64_t[]){N * T, n[1]});
  return lk_index_select(t, h, 0, index);
}

lk_tensor lk_last_place(lk_tape *t, lk_tensor h) {
  int64_t T = lk_size(t, h, 1);
  return T ? lk_slice(t, h, 1, T - 1, 1, 1) : lk_nil();
}
