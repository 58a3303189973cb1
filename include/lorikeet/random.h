/* random.h: counter-based random numbers (Threefry-2x64-20; Salmon et al., "Parallel random numbers: as easy
 * as 1, 2, 3", SC 2011).  A draw is a pure function of key and counter: no state, no order, no thread. */
#ifndef LORIKEET_RANDOM_H
#define LORIKEET_RANDOM_H
#include <lorikeet/ctx.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lk_key {
  uint64_t a, b;
} lk_key;

LK_API lk_key lk_key_make(uint64_t seed, const char *label); /* one stream per (seed, label) */
LK_API lk_key lk_key_fold(lk_key key, uint64_t number);      /* a stream of its own for each number */
LK_API uint64_t lk_random_bits(lk_key key, uint64_t i);      /* the i-th 64-bit draw */
/* bits[k] = lk_random_bits(key, first + k), k in [0, n), several at a time. */
LK_API void lk_random_fill(lk_key key, uint64_t first, int64_t n, uint64_t *bits);
LK_API double lk_random_uniform(lk_key key, uint64_t i);             /* in [0, 1), 53 bits */
LK_API double lk_random_normal(lk_key key, uint64_t i);              /* N(0, 1), Box-Muller */
LK_API uint64_t lk_random_below(lk_key key, uint64_t i, uint64_t n); /* in [0, n) */
/* order = a random permutation of 0 .. n-1 */
LK_API void lk_random_permutation(lk_key key, int64_t n, int64_t *order);

#ifdef __cplusplus
}
#endif
#endif
