/* search.h: the state of a search. */
#ifndef NN_SEARCH_H
#define NN_SEARCH_H
#include <lorikeet/random.h>
#include <lorikeet/search.h>

typedef struct search_record {
  double fitness;
  int64_t cost;
  int32_t phase, generation;
} search_record;

struct lk_search {
  lk_ctx *ctx;
  int ngenes;
  int *choices;
  int64_t (*cost)(void *arg, const int *genome);
  void *cost_arg;
  lk_search_options o;
  int64_t space; /* how many genomes there are; INT64_MAX: as many or more */
  int most;
  lk_key key;
  uint64_t draws;
  uint64_t asked_draws; /* when lk_search_ask last returned well: what a replay arrives at */
  int n;                /* evaluated; behind them stands the genome that was asked for */
  int *genomes;         /* [n + asked, ngenes] */
  search_record *records;
  size_t genome_capacity, record_capacity;
  int *table; /* of the evaluated, by open addressing: index + 1, 0: empty */
  size_t table_size;
  int *top, *hall;
  int ntop, nhall;
  int first;    /* of this generation's candidates, which end at n */
  int *batch;   /* [10, ngenes] */
  int left;     /* of the batch, not examined yet */
  int64_t vain; /* random candidates refused in a row */
  lk_search_phase_stats *phases;
  int nphases;
  size_t phase_capacity;
  int asked, finished;
};

#endif
