/* attention_kernel.c: softmax of score blocks, its gradient, masks and dropout. */
#include "attention_kernel.h"

#include "real.h"
#include "rows.h"

#define RUN 256 /* keys whose dropout bits are drawn at a time */

/* How many keys row r sees. */
LK_INLINE int64_t visible(const lk_scores *b, int64_t r) {
  int64_t n = b->first + r + 1;
  return b->causal && n < b->keys ? n : b->keys;
}

static LK_CLONES void apply_mask(const lk_scores *b, void *scores) {
  int64_t row = b->mask.stride[0], step = b->mask.stride[1];
  if (!b->mask.p) return;
  LK_REAL(b->dtype, {
    for (int64_t r = 0; r < b->rows; r++) {
      R *s = (R *)scores + r * b->ld;
      int64_t n = visible(b, r), at = (b->first + r) * row;
      const uint8_t *may = (const uint8_t *)b->mask.p + at;
      const R *more = (const R *)b->mask.p + at;
      if (b->mask.dtype != LK_U8)
        for (int64_t j = 0; j < n; j++) s[j] += more[j * step];
      else if (step == 1)
        for (int64_t j = 0; j < n; j++) s[j] = may[j] ? s[j] : -(R)INFINITY;
      else
        for (int64_t j = 0; j < n; j++) s[j] = may[j * step] ? s[j] : -(R)INFINITY;
    }
  });
}

static LK_CLONES void drop_run(const lk_scores *b, void *p, int64_t n, const uint16_t *restrict bits) {
  uint32_t threshold = (uint32_t)lrint(b->dropout * 65536);
  LK_REAL(b->dtype, {
    R *x = p;
    R scale = (R)(1 / (1 - b->dropout));
    for (int64_t j = 0; j < n; j++) x[j] = bits[j] >= threshold ? x[j] * scale : 0;
  });
}

/* The same elements at every call: the draws depend on the key and on query and key numbers only. */
static void drop(const lk_scores *b, void *p) {
  int64_t size = (int64_t)lk_dtype_size(b->dtype);
  uint16_t bits[RUN];
  if (b->dropout == 0) return;
  for (int64_t r = 0; r < b->rows; r++)
    for (int64_t j0 = 0; j0 < b->keys; j0 += RUN) {
      int64_t n = b->keys - j0 < RUN ? b->keys - j0 : RUN;
      for (int64_t j = 0; j < n; j += 4) {
        uint64_t draw = lk_random_bits(b->key, b->draw + (uint64_t)r * b->draws + (uint64_t)(j0 + j) / 4);
        for (int i = 0; i < 4; i++) bits[j + i] = (uint16_t)(draw >> 16 * i);
      }
      drop_run(b, (char *)p + (r * b->ld + j0) * size, n, bits);
    }
}

static LK_CLONES void softmax(const lk_scores *b, void *scores, void *inverses, void *lses) {
  LK_REAL(b->dtype, {
    for (int64_t r = 0; r < b->rows; r++) {
      R *s = (R *)scores + r * b->ld, *inverse = (R *)inverses + r, *lse = (R *)lses + r;
      int64_t n = visible(b, r);
      R top, sum;
      LK_ROW_MAX(R, top, j, n, s[j]);
      if (top == -(R)INFINITY) { /* nothing to attend to */
        for (int64_t j = 0; j < b->keys; j++) s[j] = 0;
        *inverse = 0;
        *lse = (R)INFINITY;
        continue;
      }
      for (int64_t j = 0; j < n; j++) s[j] = REXP(s[j] - top);
      for (int64_t j = n; j < b->keys; j++) s[j] = 0;
      LK_ROW_SUM(R, sum, j, n, s[j]);
      *inverse = 1 / sum;
      *lse = top + RLOG(sum);
    }
  });
}

void lk_scores_softmax(const lk_scores *b, void *s, void *inverse, void *lse) {
  apply_mask(b, s);
  softmax(b, s, inverse, lse);
  drop(b, s);
}

static LK_CLONES void probabilities(const lk_scores *b, void *scores, const void *lses) {
  LK_REAL(b->dtype, {
    for (int64_t r = 0; r < b->rows; r++) {
      R *s = (R *)scores + r * b->ld;
      R lse = ((const R *)lses)[r];
      int64_t n = visible(b, r);
      for (int64_t j = 0; j < n; j++) s[j] = REXP(s[j] - lse);
      for (int64_t j = n; j < b->keys; j++) s[j] = 0;
    }
  });
}

void lk_scores_again(const lk_scores *b, void *s, const void *lse) {
  apply_mask(b, s);
  probabilities(b, s, lse);
  drop(b, s);
}

/* dp = p (dp - sum(p dp)) */
static LK_CLONES void softmax_back(const lk_scores *b, const void *probabilities, void *dps) {
  LK_REAL(b->dtype, {
    for (int64_t r = 0; r < b->rows; r++) {
      const R *p = (const R *)probabilities + r * b->ld;
      R *dp = (R *)dps + r * b->ld;
      R sum;
      LK_ROW_SUM(R, sum, j, b->keys, p[j] * dp[j]);
      for (int64_t j = 0; j < b->keys; j++) dp[j] = p[j] * (dp[j] - sum);
    }
  });
}

void lk_scores_softmax_back(const lk_scores *b, void *s, void *dp, const void *lse) {
  apply_mask(b, s);
  probabilities(b, s, lse);
  drop(b, dp);
  softmax_back(b, s, dp);
  drop(b, s);
}

LK_CLONES void lk_scores_divide(const lk_scores *b, void *rows, int64_t n, int64_t ld, const void *inverses) {
  LK_REAL(b->dtype, {
    for (int64_t r = 0; r < b->rows; r++) {
      R *y = (R *)rows + r * ld;
      R inverse = ((const R *)inverses)[r];
      for (int64_t i = 0; i < n; i++) y[i] *= inverse;
    }
  });
}

/* Sixteen rows at a time: one line of each is read while their columns are written whole. */
LK_CLONES void lk_scores_transpose(const lk_view *from, void *columns, int64_t ld) {
  int64_t rows = from->shape[0], n = from->shape[1], row = from->stride[0], step = from->stride[1];
  LK_REAL(from->dtype, {
    const R *f = from->p;
    R *to = columns;
    int64_t r0 = 0;
    for (; r0 + 16 <= rows; r0 += 16)
      for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < 16; r++) to[i * ld + r0 + r] = f[(r0 + r) * row + i * step];
    for (; r0 < rows; r0++)
      for (int64_t i = 0; i < n; i++) to[i * ld + r0] = f[r0 * row + i * step];
  });
}
