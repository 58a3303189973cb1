/* attention_kernel.h: what attention does to a block of scores, between the products. */
#ifndef LK_ATTENTION_KERNEL_H
#define LK_ATTENTION_KERNEL_H
#include <lorikeet/random.h>
#include <lorikeet/tensor.h>

/* Scores of some queries of one head against the first `keys` keys: [rows, keys], rows `ld` elements apart. */
typedef struct lk_scores {
  lk_dtype dtype;
  int64_t rows, keys, ld;
  int64_t first; /* query of row 0 */
  int causal;
  lk_view mask; /* of the head, [queries, keys], u8 or of dtype; p NULL: none */
  double dropout;
  lk_key key;
  uint64_t draw, draws; /* number of row 0's first draw, draws of a row */
} lk_scores;

/* s = probabilities times their sum of the row (dropout applied); inverse = 1 / that sum, 0 where the row sees no key;
 * lse = log of the sum of exponentials, infinite there. */
void lk_scores_softmax(const lk_scores *b, void *s, void *inverse, void *lse);
/* From scores s, their lse and the gradient dp of the probabilities: s = probabilities (dropout applied), dp =
 * gradient of the scores. */
void lk_scores_softmax_back(const lk_scores *b, void *s, void *dp, const void *lse);
/* s = probabilities (dropout applied): all that a gradient of the values alone needs. */
void lk_scores_again(const lk_scores *b, void *s, const void *lse);
/* Rows r of y [rows, n], `ld` apart, times inverse[r]. */
void lk_scores_divide(const lk_scores *b, void *y, int64_t n, int64_t ld, const void *inverse);
/* to [columns, ld] = from [rows, columns] transposed; columns beyond `rows` of `to` are not written. */
void lk_scores_transpose(const lk_view *from, void *to, int64_t ld);

#endif
