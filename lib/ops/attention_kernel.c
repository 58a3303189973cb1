/* attention_kernel.c: softmax of score blocks, its gradient, masks and dropout. */
#include "attention_kernel.h"

#include "gemm_kernel.h"
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

/* result = term JOINed over i = 0 .. n - 1, n a multiple of LK_LANES, terms of lane i % LK_LANES first. */
#define FOLD(R, result, JOIN, start, i, n, term)                                                                       \
  do {                                                                                                                 \
    R lane_[LK_LANES], half_[8], quarter_[4];                                                                          \
    for (int l_ = 0; l_ < LK_LANES; l_++) lane_[l_] = (start);                                                         \
    for (int64_t b_ = 0; b_ < (n); b_ += LK_LANES)                                                                     \
      for (int l_ = 0; l_ < LK_LANES; l_++) {                                                                          \
        int64_t i = b_ + l_;                                                                                           \
        R term_ = (term);                                                                                              \
        lane_[l_] = JOIN(lane_[l_], term_);                                                                            \
      }                                                                                                                \
    for (int l_ = 0; l_ < 8; l_++) half_[l_] = JOIN(lane_[l_], lane_[l_ + 8]);                                         \
    for (int l_ = 0; l_ < 4; l_++) quarter_[l_] = JOIN(half_[l_], half_[l_ + 4]);                                      \
    half_[0] = JOIN(quarter_[0], quarter_[2]);                                                                         \
    half_[1] = JOIN(quarter_[1], quarter_[3]);                                                                         \
    (result) = JOIN(half_[0], half_[1]);                                                                               \
  } while (0)

/* exp for x <= 0: lk_fast_exp (real.h) without what only large arguments need. */
LK_INLINE float exp_down(float x) {
  union {
    float f;
    int32_t i;
  } n, p;
  float c = x < -87.f ? -87.f : x;
  n.f = c * 1.44269504f + 12582912.f;
  float k = n.f - 12582912.f;
  float r = c - k * 0.693359375f + k * 2.12194440e-4f;
  float e = 1.9875691500e-4f;
  e = e * r + 1.3981999507e-3f;
  e = e * r + 8.3334519073e-3f;
  e = e * r + 4.1665795894e-2f;
  e = e * r + 1.6666665459e-1f;
  e = e * r + 5.0000001201e-1f;
  p.f = e * r * r + r + 1.f;
  p.i += (int32_t)((uint32_t)n.i << 23); /* times 2^k */
  return x < -87.f ? 0.f : p.f;
}
#define EXP_DOWN(x) _Generic((x), float : exp_down, double : exp)(x)

static int64_t whole(int64_t n) { return (n + LK_LANES - 1) / LK_LANES * LK_LANES; }

static LK_CLONES void softmax(const lk_scores *b, void *scores, void *inverses, void *lses) {
  int64_t keys = whole(b->keys);
  LK_REAL(b->dtype, {
    for (int64_t r = 0; r < b->rows; r++) {
      R *s = (R *)scores + r * b->ld, *inverse = (R *)inverses + r, *lse = (R *)lses + r;
      int64_t seen = visible(b, r), n = whole(seen);
      R top, sum;
      for (int64_t j = seen; j < n; j++) s[j] = -(R)INFINITY;
      FOLD(R, top, LK_LARGER, -(R)INFINITY, j, n, s[j]);
      int none = top == -(R)INFINITY; /* nothing to attend to */
      R from = none ? 0 : top;
      for (int64_t j = 0; j < n; j++) s[j] = EXP_DOWN(s[j] - from);
      for (int64_t j = n; j < keys; j++) s[j] = 0;
      FOLD(R, sum, LK_PLUS, 0, j, n, s[j]);
      *inverse = none ? 0 : 1 / sum;
      *lse = none ? (R)INFINITY : top + RLOG(sum);
    }
  });
}

void lk_scores_softmax(const lk_scores *b, void *s, void *inverse, void *lse) {
  apply_mask(b, s);
  softmax(b, s, inverse, lse);
  drop(b, s);
}

static LK_CLONES void probabilities(const lk_scores *b, void *scores, const void *lses) {
  int64_t keys = whole(b->keys);
  LK_REAL(b->dtype, {
    for (int64_t r = 0; r < b->rows; r++) {
      R *s = (R *)scores + r * b->ld;
      R lse = ((const R *)lses)[r];
      int64_t seen = visible(b, r), n = whole(seen);
      for (int64_t j = seen; j < n; j++) s[j] = -(R)INFINITY;
      for (int64_t j = 0; j < n; j++) s[j] = EXP_DOWN(s[j] - lse);
      for (int64_t j = n; j < keys; j++) s[j] = 0;
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
  int64_t n = whole(b->keys);
  LK_REAL(b->dtype, {
    for (int64_t r = 0; r < b->rows; r++) {
      const R *restrict p = (const R *)probabilities + r * b->ld;
      R *restrict dp = (R *)dps + r * b->ld;
      R sum;
      for (int64_t j = b->keys; j < n; j++) dp[j] = 0;
      FOLD(R, sum, LK_PLUS, 0, j, n, p[j] * dp[j]);
      for (int64_t j = 0; j < n; j++) dp[j] = p[j] * (dp[j] - sum);
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

/* ---- between strided matrices and packed ones ---- */

/* Where the heads of a position are neighbours, the next head's row follows this one: its rows are too far apart for the
 * processor to see them coming. */
#if defined __GNUC__
#define PREFETCH_NEXT(row, n)                                                                                          \
  for (uintptr_t i_ = 0, size_ = (uintptr_t)(n) * sizeof *(row); i_ < size_; i_ += 64)                                 \
  __builtin_prefetch((const void *)((uintptr_t)(row) + size_ + i_))
#else
#define PREFETCH_NEXT(row, n) (void)(row)
#endif

LK_CLONES static void pack(const lk_view *x, void *to) {
  int64_t n = x->shape[1], step = x->stride[1];
  LK_REAL(x->dtype, {
    for (int64_t r = 0; r < x->shape[0]; r++) {
      const R *from = (const R *)x->p + r * x->stride[0];
      R *t = (R *)to + r * n;
      PREFETCH_NEXT(from, n);
      if (step == 1)
        for (int64_t i = 0; i < n; i++) t[i] = from[i];
      else
        for (int64_t i = 0; i < n; i++) t[i] = from[i * step];
    }
  });
}

void lk_scores_pack_transposed(const lk_view *x, void *to, int64_t ld) {
  if (x->dtype == LK_F32 && x->stride[1] == 1) {
    for (int64_t r = 0; r < x->shape[0]; r++) PREFETCH_NEXT((const float *)x->p + r * x->stride[0], x->shape[1]);
    lk_kernel_transpose(x->shape[0], x->shape[1], x->p, x->stride[0], to, ld);
    return;
  }
  LK_REAL(x->dtype, {
    for (int64_t r = 0; r < x->shape[0]; r++)
      for (int64_t i = 0; i < x->shape[1]; i++)
        ((R *)to)[i * ld + r] = ((const R *)x->p)[r * x->stride[0] + i * x->stride[1]];
  });
}

LK_CLONES static void unpack_scaled(const lk_view *y, const void *from, const void *inverse) {
  int64_t n = y->shape[1];
  LK_REAL(y->dtype, {
    for (int64_t r = 0; r < y->shape[0]; r++) {
      const R *restrict f = (const R *)from + r * n;
      R *restrict to = (R *)y->p + r * y->stride[0];
      PREFETCH_NEXT(to, n);
      R scale = ((const R *)inverse)[r];
      for (int64_t i = 0; i < n; i++) to[i] = f[i] * scale;
    }
  });
}

LK_CLONES static void unpack_add(const lk_view *y, const void *from) {
  int64_t n = y->shape[1], step = y->stride[1];
  LK_REAL(y->dtype, {
    for (int64_t r = 0; r < y->shape[0]; r++) {
      const R *restrict f = (const R *)from + r * n;
      R *restrict to = (R *)y->p + r * y->stride[0];
      PREFETCH_NEXT(to, n);
      if (step == 1)
        for (int64_t i = 0; i < n; i++) to[i] += f[i];
      else
        for (int64_t i = 0; i < n; i++) to[i * step] += f[i];
    }
  });
}

/* The clones are this file's own: their resolvers would be exported otherwise. */
void lk_scores_pack(const lk_view *x, void *to) { pack(x, to); }
void lk_scores_unpack_scaled(const lk_view *y, const void *from, const void *inverse) {
  unpack_scaled(y, from, inverse);
}
void lk_scores_unpack_add(const lk_view *y, const void *from) { unpack_add(y, from); }
