/* search.h: the toy problem of the search suites: six genes, a cost with limits, a fitness with many ties. */
#ifndef TEST_SEARCH_H
#define TEST_SEARCH_H
#include "io_suite.h"

#include <lorikeet/search.h>
#include <math.h>

enum { GENES = 6 };
static const int choices[GENES] = {3, 2, 4, 3, 5, 2};

static inline int64_t sum(void *arg, const int *g) {
  int64_t s = 0;
  for (int i = 0; i < GENES; i++) s += g[i];
  return s + (arg ? *(int *)arg : 0);
}

/* Few values, so that ties are many. */
static inline double coarse(const int *g) {
  double f = 0;
  for (int i = 0; i < GENES; i++) f += (i % 3 + 1) * g[i] % 5;
  return floor(f / 4);
}

static inline lk_search_options small(void) {
  lk_search_options o = lk_search_defaults();
  o.population = 8;
  o.select = 3;
  o.mutation = 4;
  o.crossover = 3;
  o.generations = 3;
  o.hall = 7;
  o.cost_max = 9;
  o.cost_min = 3;
  o.max_random_attempts = 500;
  return o;
}

static inline lk_search *make(lk_ctx *c, const lk_search_options *o) {
  return lk_search_new(c, GENES, choices, sum, NULL, o);
}

static inline lk_search *load(lk_ctx *c, const lk_search_options *o, const char *path) {
  return lk_search_load(c, GENES, choices, sum, NULL, o, path);
}

static inline void run(lk_search *s) {
  for (const int *g; (g = lk_search_ask(s));) lk_search_tell(s, coarse(g));
}

#endif
