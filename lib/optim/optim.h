/* optim.h: what the files of lib/optim/ share: the optimiser object. */
#ifndef LK_OPTIM_OPTIM_H
#define LK_OPTIM_OPTIM_H
#include "real.h"

#include <lorikeet/op.h>
#include <lorikeet/optim.h>

/* Elements of a tensor that one thread takes at a time: four f32 arrays of it fit the second cache. */
#define LK_OPTIM_GRAIN 16384

typedef struct lk_slot {
  lk_param *param;
  int64_t n; /* its elements and dtype when state was made */
  lk_dtype dtype;
  double rate, decay; /* factors of its group */
  int64_t step;       /* updates so far */
  void *state[LK_OPTIM_STATES];
} lk_slot;

typedef struct lk_optim_hook {
  int (*before)(void *), (*after)(void *);
  void *arg;
} lk_optim_hook;

struct lk_optim {
  lk_ctx *ctx;
  const lk_optim_class *cls;
  lk_optim_options options;
  double lr, norm;
  int64_t steps;
  int n;
  lk_slot *slots;
  lk_update *updates; /* of one step */
  double *partial;    /* sums of squares of the pieces of one gradient */
  int nentries;
  lk_optim_state *entries; /* what a checkpoint saves */
  size_t nhooks, hook_capacity;
  lk_optim_hook *hooks;
};

/* o->norm of the gradients of updates[0 .. n - 1]; LK_ENONFINITE names the first that is not finite. */
lk_status lk_optim_norm(lk_optim *o, int n);
void lk_optim_scale(lk_optim *o, int n, double coefficient);

#endif
