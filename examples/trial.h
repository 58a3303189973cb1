/* trial.h: one method trained from several seeds, and what came out. */
#ifndef TRIAL_H
#define TRIAL_H
#include "session.h"

enum { MAX_SEEDS = 10 };

/* A number measured with every seed, and over them. */
typedef struct figure {
  double of[MAX_SEEDS], mean, deviation; /* deviation of one seed: NaN */
} figure;

typedef struct outcome {
  figure test[DOMAINS], train, validation; /* accuracies in percent */
  int64_t trainable;                       /* mean over the seeds: selections differ */
  int64_t nlosses;
  double step_ms, peak_mb;
  double merged_change; /* largest change of a logit by merging; NaN: not merged */
  int routed;           /* cannot be merged: depends on the input */
  double *losses;       /* of the first seed, as notes */
  char *notes;
} outcome;

typedef struct trial {
  char name[48], adapter[160]; /* adapter "": full or probe says what trains */
  int full, probe;
  domain_choice domains;
  double augment;       /* times --augment; 1 at first */
  int passes;           /* times --epochs; 1 at first */
  const char *saved_as; /* directory below OUT for the first seed's adapter, or NULL */
  outcome out;
} trial;

/* Trains with seed number `seed` (from 0) and fills its places of t->out.  ctx: where losses and notes live, longer than
 * the run.  0, or 1 after saying what went wrong. */
int trial_run(lk_ctx *ctx, const settings *o, trial *t, int seed);
/* Means and deviations over seeds. */
void trial_summarise(trial *t, int64_t seeds);
void trial_free(lk_ctx *ctx, trial *t);

/* The accuracies' mean over a set of domains, seed by seed. */
figure trial_average(const trial *t, unsigned domains, int64_t seeds);
void figure_summarise(figure *f, int64_t seeds);

#endif
