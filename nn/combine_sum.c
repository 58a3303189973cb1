/* combine_sum.c: several tensors of one shape become one: each is pruned, signs are elected, and the rest is summed.
 *
 * TIES: Yadav et al., arXiv 2306.01708, algorithm 1; DARE: Yu et al., arXiv 2311.03099, equation 2. */
#include "combine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const lk_combine_mode modes[] = {{.name = "linear"},
                                        {.name = "cat", .stack = 1},
                                        {.name = "svd", .of_delta = 1},
                                        {.name = "magnitude_prune", .prune = LK_PRUNE_MAGNITUDE},
                                        {.name = "magnitude_prune_svd", .prune = LK_PRUNE_MAGNITUDE, .of_delta = 1},
                                        {.name = "dare_linear", .prune = LK_PRUNE_RANDOM},
                                        {.name = "dare_linear_svd", .prune = LK_PRUNE_RANDOM, .of_delta = 1},
                                        {.name = "ties", .prune = LK_PRUNE_MAGNITUDE, .elect = 1},
                                        {.name = "ties_svd", .prune = LK_PRUNE_MAGNITUDE, .elect = 1, .of_delta = 1},
                                        {.name = "dare_ties", .prune = LK_PRUNE_RANDOM, .elect = 1},
                                        {.name = "dare_ties_svd", .prune = LK_PRUNE_RANDOM, .elect = 1, .of_delta = 1}};
enum { MODES = sizeof modes / sizeof *modes };

const lk_combine_mode *lk_combine_mode_find(lk_ctx *c, const char *word) {
  char names[200] = "";
  for (int i = 0; i < MODES; i++) {
    if (!strcmp(modes[i].name, word)) return &modes[i];
    strcat(names, i ? ", " : "");
    strcat(names, modes[i].name);
  }
  lk_fail(c, LK_EARG, "combine: there is no mode '%.60s'; there are %s", word, names);
  return NULL;
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x < y) - (x > y);
}

/* Keeps the int(density * count) elements of largest magnitude; of equal ones the first. */
static lk_status prune_small(lk_ctx *c, double *p, int64_t count, double density) {
  int64_t keep = (int64_t)(density * (double)count), equal = keep;
  double *sorted = lk_alloc_array(c, (size_t)count + 1, sizeof *sorted);
  if (!sorted) return lk_error(c, NULL);
  for (int64_t i = 0; i < count; i++) sorted[i] = fabs(p[i]);
  qsort(sorted, (size_t)count, sizeof *sorted, by_size);
  double least = keep ? sorted[keep - 1] : INFINITY;
  for (int64_t i = 0; i < count; i++) equal -= fabs(p[i]) > least;
  for (int64_t i = 0; i < count; i++)
    if (fabs(p[i]) < least || (fabs(p[i]) == least && equal-- <= 0)) p[i] = 0;
  lk_free(c, sorted);
  return LK_OK;
}

static void prune_random(const lk_combine_term *term, int64_t count, double density) {
  for (int64_t i = 0; i < count; i++)
    term->p[i] = lk_random_uniform(term->key, (uint64_t)i) < density ? term->p[i] / density : 0;
}

/* Element i of the weighted sum. */
static double plain(const lk_combine_term *terms, int n, int64_t i) {
  double sum = 0;
  for (int k = 0; k < n; k++) sum += terms[k].weight * terms[k].p[i];
  return sum;
}

static double sign(double x) { return (x > 0) - (x < 0); }

/* Element i: the weighted mean of the values that have the elected sign. */
static double elected(const lk_combine_rule *rule, const lk_combine_term *terms, int n, int64_t i) {
  double votes = 0, sum = 0;
  int kept = 0;
  for (int k = 0; k < n; k++) votes += rule->frequency ? sign(terms[k].p[i]) : terms[k].p[i];
  for (int k = 0; k < n; k++) {
    if (sign(terms[k].p[i]) != (votes >= 0 ? 1 : -1)) continue;
    sum += terms[k].weight * terms[k].p[i];
    kept++;
  }
  return kept ? sum / kept : 0;
}

lk_status lk_combine_sum(lk_ctx *c, const lk_combine_rule *rule, const lk_combine_term *terms, int n, int64_t count,
                         double *to) {
  int prunes = rule->density < 1;
  for (int k = 0; k < n && prunes; k++) {
    if (rule->mode->prune == LK_PRUNE_RANDOM) prune_random(&terms[k], count, rule->density);
    else if (rule->mode->prune && prune_small(c, terms[k].p, count, rule->density)) return lk_error(c, NULL);
  }
  for (int64_t i = 0; i < count; i++) to[i] = rule->mode->elect ? elected(rule, terms, n, i) : plain(terms, n, i);
  return LK_OK;
}
