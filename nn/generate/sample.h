/* sample.h: choosing tokens with memory that is kept from one to the next. */
#ifndef LK_SAMPLE_H
#define LK_SAMPLE_H
#include <lorikeet/generate.h>

typedef struct lk_candidate {
  int64_t id;
  double value; /* its logit, then its probability */
} lk_candidate;

typedef struct lk_candidates {
  lk_candidate *item;
  size_t n, capacity;
} lk_candidates;

lk_status lk_sample_check(lk_ctx *ctx, const lk_sample_options *o);
/* The tokens that can be drawn, in order of ids, with their probabilities. */
lk_status lk_candidates_find(lk_ctx *ctx, const lk_view *logits, const lk_sample_options *o, lk_candidates *c);
int64_t lk_candidates_draw(const lk_candidates *c, double u);

#endif
