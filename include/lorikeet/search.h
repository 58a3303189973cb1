/* search.h: evolutionary search over genomes, vectors of small integers, by asking and telling.
 *
 *   lk_search *s = lk_search_new(ctx, ngenes, choices, cost, cost_arg, NULL);
 *   for (const int *genome; (genome = lk_search_ask(s));) lk_search_tell(s, fitness_of(genome));
 *   const int *winner = lk_search_best(s, &fitness, &cost);
 *
 * Source: Chavan et al., "One-for-All: Generalized LoRA for Parameter-Efficient Fine-tuning", arXiv 2306.07967, and its
 * official evolution.py, draw for draw.  Gene i takes the values 0 .. choices[i] - 1; what they mean is the caller's.
 * `population` random candidates are evaluated; then each generation
 *   1. ranks: top = the best `select`, hall = the best `hall` ever seen, the earlier one first on ties;
 *   2. evaluates `mutation` children of one parent in top, each gene drawn anew with probability mutation_prob,
 *      `crossover` children of two parents in top, each gene from either, and random candidates up to `population`.
 * No genome is evaluated twice, and none whose cost is outside the limits; mutation and crossover give up after ten
 * attempts for each child wanted.  The answer is hall[0]. */
#ifndef LORIKEET_SEARCH_H
#define LORIKEET_SEARCH_H
#include <lorikeet/ctx.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lk_search lk_search;

typedef struct lk_search_options {
  int population;              /* 50: candidates of a generation, at least 1 */
  int select;                  /* 10: possible parents, at least 1 */
  int mutation, crossover;     /* 25, 25: children of a generation; together they may exceed the population */
  double mutation_prob;        /* 0.2: per gene; the new value may be the old one */
  int generations;             /* 20; 0: random search, which needs final_rank */
  int64_t cost_max, cost_min;  /* 0, 0: inclusive limits in units of `cost`; 0: none */
  int hall;                    /* 50: length of the hall, at least 1 */
  int final_rank;              /* 0, as official: the last generation's candidates are evaluated but never ranked */
  int64_t max_random_attempts; /* 1000000: random candidates refused in a row before lk_search_ask gives up */
  uint64_t seed;               /* 1: of the built-in source, Threefry; its state is the number of draws */
  double (*unit)(void *arg);   /* NULL; or the caller's random source: numbers in [0, 1) */
  void *arg;                   /* of unit */
} lk_search_options;

typedef enum lk_search_phase {
  LK_SEARCH_RANDOM,    /* the first candidates */
  LK_SEARCH_MUTATION,  /* children of one parent */
  LK_SEARCH_CROSSOVER, /* children of two */
  LK_SEARCH_FILL       /* random candidates, where children fell short of the population */
} lk_search_phase;

/* An evaluated genome. */
typedef struct lk_search_candidate {
  const int *genome; /* the search's, until the next ask */
  double fitness;
  int64_t cost;
  lk_search_phase phase;
  int generation; /* from 0, to which the first random candidates belong too */
} lk_search_candidate;

/* What became of the candidates that a phase drew: examined = accepted + seen + over + under. */
typedef struct lk_search_phase_stats {
  int generation;
  lk_search_phase phase;
  int64_t examined;
  int64_t accepted; /* and given out by lk_search_ask */
  int64_t seen;     /* refused: evaluated before */
  int64_t over;     /* refused: cost above cost_max */
  int64_t under;    /* refused: cost below cost_min */
} lk_search_phase_stats;

LK_API lk_search_options lk_search_defaults(void);

/* A search over genomes of ngenes >= 1 genes; choices [ngenes], each >= 1, is copied.  cost: of a genome, never negative,
 * the same whenever it is asked (parameters, for instance); NULL: every cost is 0, and limits are refused.  options NULL:
 * the defaults.  NULL on error (LK_EARG: what is out of range, by name).  The caller frees it, before the context. */
LK_API lk_search *lk_search_new(lk_ctx *ctx, int ngenes, const int *choices,
                                int64_t (*cost)(void *arg, const int *genome), void *cost_arg,
                                const lk_search_options *options);
LK_API void lk_search_free(lk_search *s); /* s may be NULL */

/* The next genome to evaluate, the same one until it is told; it lives until the next ask.  NULL: the search is finished,
 * or the context has an error.  It is finished early, and ranks what it has, when every genome there is was evaluated, or
 * with a warning when max_random_attempts was reached; that is an error (LK_EARG) if not one candidate fitted the limits. */
LK_API const int *lk_search_ask(lk_search *s);
/* The fitness of the genome that was asked for; larger is better, infinities are allowed, NaN is refused
 * (LK_ENONFINITE), telling without asking too (LK_EARG). */
LK_API lk_status lk_search_tell(lk_search *s, double fitness);

/* hall[0], with its fitness and cost if they are not NULL; NULL before the first ranking. */
LK_API const int *lk_search_best(const lk_search *s, double *fitness, int64_t *cost);
LK_API int lk_search_finished(const lk_search *s);
LK_API int lk_search_evaluated(const lk_search *s); /* genomes told so far */
LK_API int lk_search_most(const lk_search *s);      /* genomes evaluated in the end, at most */
/* The i-th evaluated genome, i in [0, lk_search_evaluated); all zero outside. */
LK_API lk_search_candidate lk_search_at(const lk_search *s, int i);
/* As of the last ranking, best first: how many, and which (indices for lk_search_at; the search's, until the next ask). */
LK_API int lk_search_top(const lk_search *s, const int **indices);
LK_API int lk_search_hall(const lk_search *s, const int **indices);
/* Phases begun so far, the last one is going on; all zero outside. */
LK_API int lk_search_phases(const lk_search *s);
LK_API lk_search_phase_stats lk_search_phase_at(const lk_search *s, int i);
LK_API uint64_t lk_search_draws(const lk_search *s); /* random numbers drawn so far */

/* Writes what was evaluated and the options into a file, safetensors, replaced atomically. */
LK_API lk_status lk_search_save(const lk_search *s, const char *path);
/* Reads it into a new search, to be made with the same arguments, which goes on with the same bits as if it had never
 * stopped: the search is run again from its seed with the recorded fitnesses, so `cost` is called again, and a caller's
 * `unit`, to be as it was before the first draw, is called as often as it had been.  NULL on error: other genes, options
 * or costs, another random source and a malformed or altered file are each refused with a sentence (LK_EFORMAT). */
LK_API lk_search *lk_search_load(lk_ctx *ctx, int ngenes, const int *choices,
                                 int64_t (*cost)(void *arg, const int *genome), void *cost_arg,
                                 const lk_search_options *options, const char *path);

#ifdef __cplusplus
}
#endif
#endif
