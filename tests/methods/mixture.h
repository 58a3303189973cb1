/* mixture.h: golden cases of mixtures of experts: what MoLoRA's and MALoRA's share. */
#ifndef GOLDEN_MIXTURE_H
#define GOLDEN_MIXTURE_H
#include "golden.h"

#include <lorikeet/mixture.h>

typedef struct golden_mixture {
  const char *name, *rank,
      *first; /* the adapter; the metadata's key of an expert's rank, and the tensor that tells it */
  const golden_name *params;
  /* Options beyond those of the router and the scaling, " d=4". */
  void (*options)(golden *g, char *text, size_t size);
  /* Rows of the weight that expert i adds to a token, W [out, in] += s (...), with gate 1. */
  void (*add_expert)(golden_layer *l, int i, double s, lk_view *W);
  /* Compares what only this method records; xd: the dropped input. */
  void (*more)(golden_layer *l, lk_tensor xd);
} golden_mixture;

/* One layer: outputs, routing, losses, gradients, the closed form of each expert. */
void golden_mixture_layer(golden *g, const golden_mixture *m);

#endif
