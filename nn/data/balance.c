/* balance.c: examples in rounds, one of each class in a round. */
#include "data/balance.h"

lk_status lk_balance(lk_ctx *ctx, const int64_t *labels, int64_t count, int64_t classes, int64_t *order) {
  int64_t *next = lk_alloc_array(ctx, (size_t)(count + 3 * classes) + 1, sizeof *next);
  if (!next) return lk_error(ctx, NULL);
  /* head[c], next[i]: the queue of a class, in the order given; tail and first follow it */
  int64_t *head = next + count, *tail = head + classes, *turn = tail + classes, turns = 0;
  for (int64_t c = 0; c < classes; c++) head[c] = -1;
  for (int64_t i = 0; i < count; i++) {
    int64_t c = labels[order[i]];
    next[order[i]] = -1;
    if (head[c] < 0) {
      head[c] = order[i];
      turn[turns++] = c;
    } else next[tail[c]] = order[i];
    tail[c] = order[i];
  }
  for (int64_t n = 0; n < count;)
    for (int64_t i = 0; i < turns; i++) {
      int64_t c = turn[i];
      if (head[c] < 0) continue;
      order[n++] = head[c];
      head[c] = next[head[c]];
    }
  lk_free(ctx, next);
  return LK_OK;
}
