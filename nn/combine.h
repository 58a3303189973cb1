/* combine.h: what the files of lk_adapter_combine share. */
#ifndef LK_COMBINE_H
#define LK_COMBINE_H
#include "model.h"

#include <lorikeet/combine.h>
#include <lorikeet/random.h>

/* ---- combine_sum.c: several tensors of one shape become one ---- */

typedef enum lk_prune { LK_PRUNE_NONE, LK_PRUNE_MAGNITUDE, LK_PRUNE_RANDOM } lk_prune;

typedef struct lk_combine_mode {
  const char *name;
  lk_prune prune;
  int elect;    /* keep only the elected sign */
  int of_delta; /* combines s B A and decomposes the result; else A and B apart */
  int stack;    /* combines nothing: one behind the other */
} lk_combine_mode;

const lk_combine_mode *lk_combine_mode_find(lk_ctx *c, const char *word);

/* How to sum. */
typedef struct lk_combine_rule {
  const lk_combine_mode *mode;
  double density;
  int frequency; /* every sign counts alike */
} lk_combine_rule;

/* One tensor of a sum. */
typedef struct lk_combine_term {
  double *p; /* is pruned in place */
  double weight;
  lk_key key; /* of its random mask */
} lk_combine_term;

/* The sum of n terms of count elements; `to` may be one of them. */
lk_status lk_combine_sum(lk_ctx *c, const lk_combine_rule *rule, const lk_combine_term *terms, int n, int64_t count,
                         double *to);

/* ---- combine_site.c: one site ---- */

/* One source of the new adapter. */
typedef struct lk_combine_source {
  lk_adapter *adapter;
  double weight;
  int64_t rank; /* the largest that it has anywhere */
} lk_combine_source;

typedef struct lk_combine_job {
  lk_ctx *ctx;
  lk_model *model;
  const lk_combine_options *options;
  lk_combine_rule rule;
  lk_combine_source *sources;
  int n;
  int64_t rank; /* r' */
} lk_combine_job;

/* The new factors at a site. */
typedef struct lk_combined {
  lk_site *site;
  double *A, *B; /* [r', columns], [rows, r' / groups] */
  struct lk_combined *next;
} lk_combined;

/* The lora of an adapter at a site; NULL if there is none. */
const lk_at *lk_combine_lora(const lk_site *s, const lk_adapter *a);
/* Computes A and B, which are the caller's even on an error, of a site that at least one source adapts. */
lk_status lk_combine_site(const lk_combine_job *job, lk_combined *to);

/* ---- combine_attach.c: the new adapter ---- */

const lk_method *lk_combine_method(const lk_adapter *a); /* its lora */
int lk_combine_is_regex(const char *targets);
/* Attaches the new adapter, inactive, with zero or first values; or changes nothing. */
lk_status lk_combine_attach(const lk_combine_job *job, const lk_combined *list);
/* Writes its values; cannot fail. */
void lk_combine_fill(const lk_combine_job *job, const lk_combined *list);

#endif
