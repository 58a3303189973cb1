/* rope.h: the angles of rotary position embeddings, as HuggingFace's config.json describes them. */
#ifndef LK_ROPE_H
#define LK_ROPE_H
#include "models/family.h"

typedef enum lk_rope_kind {
  LK_ROPE_DEFAULT,
  LK_ROPE_LINEAR,
  LK_ROPE_DYNAMIC,
  LK_ROPE_LLAMA3,
  LK_ROPE_YARN
} lk_rope_kind;

typedef struct lk_rope {
  lk_rope_kind kind;
  int64_t width;        /* of a head, d */
  double theta, factor; /* base of the frequencies; how much longer rows are than in pretraining */
  double original;      /* tokens of a row in pretraining */
  double low, high;     /* llama3: low_freq_factor, high_freq_factor; yarn: the ramp's first and last frequency */
  double scale;         /* of cosines and sines */
} lk_rope;

/* rope_parameters, or rope_theta and rope_scaling; what is not known is refused by name. */
lk_status lk_rope_read(lk_pretrained *p, int64_t head_width, lk_rope *r);
/* The table of lk_rotary, [T, d], for positions first .. first + T - 1. */
lk_tensor lk_rope_table(const lk_rope *r, lk_tape *t, lk_dtype dtype, int64_t first, int64_t T);

#endif
