/* rows.h: sums and maxima over one row, for kernels marked LK_CLONES.
 *
 * Sixteen partial results, combined in a fixed order: vector instructions without -ffast-math, and the same
 * bits whatever the alignment of the row and the number of threads. */
#ifndef LK_ROWS_H
#define LK_ROWS_H
#include <stdint.h>

#define LK_LANES 16
#define LK_SIMD _Pragma("omp simd") /* else the lanes are unrolled before they could become vectors */
#define LK_PLUS(a, b) ((a) + (b))
#define LK_LARGER(a, b) ((a) > (b) ? (a) : (b))

/* result = start JOIN term(0) JOIN ... JOIN term(n-1); term is an expression of i, R its type. */
#define LK_ROW_FOLD(R, result, JOIN, start, i, n, term)                                                                \
  do {                                                                                                                 \
    R lane_[LK_LANES];                                                                                                 \
    int64_t whole_ = (n) - (n) % LK_LANES;                                                                             \
    LK_SIMD for (int l_ = 0; l_ < LK_LANES; l_++) lane_[l_] = (start);                                                 \
    for (int64_t b_ = 0; b_ < whole_; b_ += LK_LANES) {                                                                \
      LK_SIMD for (int l_ = 0; l_ < LK_LANES; l_++) {                                                                  \
        int64_t i = b_ + l_;                                                                                           \
        R term_ = (term);                                                                                              \
        lane_[l_] = JOIN(lane_[l_], term_);                                                                            \
      }                                                                                                                \
    }                                                                                                                  \
    for (int w_ = LK_LANES / 2; w_ && whole_; w_ /= 2)                                                                 \
      for (int l_ = 0; l_ < w_; l_++) lane_[l_] = JOIN(lane_[l_], lane_[l_ + w_]);                                     \
    for (int64_t i = whole_; i < (n); i++) {                                                                           \
      R term_ = (term);                                                                                                \
      lane_[0] = JOIN(lane_[0], term_);                                                                                \
    }                                                                                                                  \
    (result) = lane_[0];                                                                                               \
  } while (0)

#define LK_ROW_SUM(R, result, i, n, term) LK_ROW_FOLD(R, result, LK_PLUS, 0, i, n, term)
#define LK_ROW_MAX(R, result, i, n, term) LK_ROW_FOLD(R, result, LK_LARGER, -(R)INFINITY, i, n, term)

/* Rows of a piece for lk_parallel: below 32k elements in all there is one piece. */
static inline int64_t lk_row_grain(int64_t cols) { return 1 + 32768 / (cols + 1); }

#endif
