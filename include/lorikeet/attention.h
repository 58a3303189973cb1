/* attention.h: options of lk_attention. */
#ifndef LORIKEET_ATTENTION_H
#define LORIKEET_ATTENTION_H

typedef struct lk_attention_options {
  int causal;     /* query t attends to keys 0 .. t only (so with more keys than queries, not to the last ones) */
  double scale;   /* of the scores; 0: 1 / sqrt(d) */
  double dropout; /* of the probabilities, in training; 0 <= dropout < 1, a multiple of 2^-16 */
} lk_attention_options;

#endif
