/* claims.h: what the parts of the program `claims` share. */
#ifndef CLAIMS_H
#define CLAIMS_H
#include "measure.h"
#include "run.h"

typedef struct claims {
  int speed, quality; /* what to check; neither: speed */
  int64_t threads, seeds;
  /* speed */
  int64_t dim, pairs;
  int cpu;            /* time of all threads together instead of the wall's */
  int first;          /* the layer is the network's first: nobody wants its input's gradient */
  int table;          /* more methods beside LoRA */
  const char *tokens; /* "512,1024,2048" */
  /* quality */
  const char *model; /* directory of the pretrained model; made if it is not there */
  int64_t keep;      /* layers of a type that LoRA-drop keeps */
  run_source source;
  run_options train;
} claims;

/* Prints a claim with what was measured (a text made like printf's), whether it holds, and in a line why. */
void claim_say(int holds, const char *why, const char *format, ...) LK_PRINTF(3, 4);

/* The papers' claims about time, and about what training gives.  0, or 1 after saying what went wrong. */
int claims_speed(const claims *o);
int claims_quality(const claims *o);

#endif
