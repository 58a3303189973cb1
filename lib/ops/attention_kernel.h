/* attention_kernel.h: what attention does to a block of scores, between the products. */
#ifndef LK_ATTENTION_KERNEL_H
#define LK_ATTENTION_KERNEL_H
#include <lorikeet/random.h>
#include <lorikeet/tensor.h>

/* Scores of some queries of one head against the first `keys` keys: [rows, keys], rows `ld` elements apart, a multiple
 * of LK_LANES (rows.h) in 64-byte aligned memory.  What follows the keys in a row may be overwritten. */
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
/* to = the rows of x, [rows, n], one after the other. */
void lk_scores_pack(const lk_view *x, void *to);
/* to [n, ld] = x [rows, n] transposed; columns beyond `rows` are not written. */
void lk_scores_pack_transposed(const lk_view *x, void *to, int64_t ld);
/* y = rows packed in from, row r times inverse[r] */
void lk_scores_unpack_scaled(const lk_view *y, const void *from, const void *inverse);
/* y += rows packed in from */
void lk_scores_unpack_add(const lk_view *y, const void *from);

#endif
