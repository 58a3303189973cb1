/* structure.h: what adapters with choices share (glora, lora): the chosen structure of a site, as a buffer that files
 * hold, and making parameters as small as it needs them, so that it can be taken back. */
#ifndef STRUCTURE_H
#define STRUCTURE_H
#include <lorikeet/adapter.h>

enum { STRUCTURE_GENES = 5, STRUCTURE_PARAMS = 10 }; /* of a site, at most */

typedef struct {
  lk_param *p;
  lk_view whole; /* what its value was; ndim -1: it is as it was */
  int owned;
} lk_cut_param;

typedef struct {
  lk_param
      *stored; /* LK_BUFFER: the choices, -1: free, and behind them 1 when settled; NULL: there is nothing to choose */
  int n, choice[STRUCTURE_GENES], settled;
  lk_cut_param cut[STRUCTURE_PARAMS];
  int ncut;
} lk_structure;

/* A free structure of n genes, with the buffer "<site path>.<name>". */
lk_status lk_structure_new(lk_at *at, lk_structure *s, const char *name, int n);
void lk_structure_free(lk_at *at, lk_structure *s);
int lk_structure_is_chosen(const lk_structure *s);
lk_status lk_structure_choose(lk_structure *s, const int *choice); /* NULL: free */

/* Settling: begin refuses a structure that is not chosen, then each parameter is cut to its leading `rows` and `columns`
 * (-1: all of that axis; 0: retired; NULL for p: nothing), then end. */
lk_status lk_structure_begin(lk_at *at, lk_structure *s);
lk_status lk_structure_cut(lk_structure *s, lk_param *p, int64_t rows, int64_t columns);
lk_status lk_structure_end(lk_structure *s);

/* After a file was read: takes over the stored choices (of which gene i has choices[i]) as not settled; *settle says
 * whether they are to be settled now. */
lk_status lk_structure_load(lk_at *at, lk_structure *s, const int *choices, int *settle);

#endif
