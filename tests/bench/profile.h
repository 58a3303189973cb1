/* profile.h: where a step's time goes, by op. */
#ifndef PROFILE_H
#define PROFILE_H
#include <lorikeet.h>
#include <stdio.h>

typedef struct profile_row {
  const lk_op *op;
  char shape[48]; /* of the result's last axis and the input's: products differ by it */
  int backward;
  int64_t calls;
  double seconds;
} profile_row;

typedef struct profile {
  profile_row row[256];
  int n;
  double began;
} profile;

/* An lk_watch_fn; arg: a profile of zeros. */
void profile_watch(void *arg, const lk_call *call, int backward, int done);
/* The table: op, sizes, direction, calls and milliseconds a step, share of `total` seconds a step. */
void profile_print(profile *p, FILE *out, int64_t steps, double total);

#endif
