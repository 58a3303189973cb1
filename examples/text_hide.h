/* text_hide.h: which token a place of a row is to predict; for masked tokens, which of them are hidden. */
#ifndef TEXT_HIDE_H
#define TEXT_HIDE_H
#include "text.h"

/* Of masked language modelling (Devlin et al., arXiv 1810.04805, 3.1): 15 % of the tokens are to be told, of which 80 %
 * become the mask token, 10 % another one, 10 % stay. */
typedef struct text_hider {
  int64_t mask, vocabulary;
  int64_t special[16]; /* tokens that the tokenizer adds to every text: never hidden */
  int nspecial;
} text_hider;

/* Refuses a tokenizer without a mask token. */
lk_status text_hider_open(text_model *m, text_hider *h);
/* The target of token j of the batch's row `row`, -100: none; *id: the token that the model sees.  A function of the key
 * and of the row's number in the data. */
int64_t text_hide(const text_hider *h, lk_key key, const lk_row_batch *b, int64_t row, int64_t j, int64_t *id);

#endif
