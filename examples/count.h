/* count.h: what an adapter would adapt and train, from shapes alone. */
#ifndef COUNT_H
#define COUNT_H
#include "run.h"

/* A model of linear layers without memory: lines "path TAB in TAB out TAB bias" under a line of titles.  NULL on
 * error. */
lk_model *count_read_shapes(lk_ctx *ctx, const char *path);

typedef struct count {
  int64_t sites, parameters; /* of the adapter alone, without modules_to_save and biases of the base */
} count;
/* Attaches what the options say, as run_attachment_new does, and counts it. */
lk_status count_adapter(lk_model *model, const run_options *o, const char *head, count *c);

#endif
