/* search.c: evolutionary search (Chavan et al., "One-for-All", arXiv 2306.07967, Section 3.3 and evolution.py).
 *
 *   cand = population random genomes
 *   repeat generations times:
 *     top  = first select of stable_sort(top + cand)      by fitness, descending
 *     hall = first 50     of stable_sort(hall + cand)
 *     cand = mutation x mutate(top) + crossover x cross(top) + random ones up to population
 *   answer = hall[0]
 *
 * Candidates are drawn ten at a time; what a phase leaves over is thrown away.  lk_search_ask goes from one accepted
 * candidate to the next in steps, each of which either happens whole or leaves an error and the state as it was. */
#include "search.h"

#include <limits.h>
#include <math.h>
#include <string.h>

enum { BATCH = 10, ATTEMPTS = 10 }; /* candidates drawn at a time; attempts for each child wanted */

static int *genome_at(const lk_search *s, int i) { return s->genomes + (size_t)i * (size_t)s->ngenes; }
static size_t genome_size(const lk_search *s) { return (size_t)s->ngenes * sizeof(int); }
static lk_search_phase_stats *phase(const lk_search *s) { return &s->phases[s->nphases - 1]; }
static int is_random(lk_search_phase p) { return p == LK_SEARCH_RANDOM || p == LK_SEARCH_FILL; }

/* ---- candidates ---- */

static double unit(lk_search *s) {
  double u = s->o.unit ? s->o.unit(s->o.arg) : lk_random_uniform(s->key, s->draws);
  s->draws++;
  if (u >= 0 && u < 1) return u;
  lk_fail(s->ctx, LK_EARG, "search: the random source gave %g; it must stay in [0, 1)", u);
  return 0;
}

static int pick(lk_search *s, int n) { return (int)(unit(s) * n); }

static const int *pick_parent(lk_search *s) { return genome_at(s, s->top[pick(s, s->ntop)]); }

static void draw(lk_search *s, int *g) {
  for (int i = 0; i < s->ngenes; i++) g[i] = pick(s, s->choices[i]);
}

static void mutate(lk_search *s, int *g) {
  memcpy(g, pick_parent(s), genome_size(s));
  for (int i = 0; i < s->ngenes; i++)
    if (unit(s) < s->o.mutation_prob) g[i] = pick(s, s->choices[i]);
}

static void cross(lk_search *s, int *g) {
  const int *p = pick_parent(s), *q = pick_parent(s);
  for (int i = 0; i < s->ngenes; i++) g[i] = pick(s, 2) ? q[i] : p[i];
}

static lk_status draw_batch(lk_search *s) {
  static void (*const make[])(lk_search *, int *) = {
      [LK_SEARCH_RANDOM] = draw, [LK_SEARCH_MUTATION] = mutate, [LK_SEARCH_CROSSOVER] = cross, [LK_SEARCH_FILL] = draw};
  for (int i = 0; i < BATCH; i++) make[phase(s)->phase](s, s->batch + (size_t)i * (size_t)s->ngenes);
  if (!lk_error(s->ctx, NULL)) s->left = BATCH;
  return lk_error(s->ctx, NULL);
}

/* ---- what was evaluated ---- */

/* Where the table has a genome, or the empty place for it. */
static size_t place(const lk_search *s, const int *g) {
  uint64_t h = 0xCBF29CE484222325u; /* FNV-1a, a gene at a time */
  for (int i = 0; i < s->ngenes; i++) h = (h ^ (uint64_t)g[i]) * 0x100000001B3u;
  size_t at = (size_t)(h ^ h >> 32) & (s->table_size - 1);
  while (s->table[at] && memcmp(genome_at(s, s->table[at] - 1), g, genome_size(s))) at = (at + 1) & (s->table_size - 1);
  return at;
}

static int grow_table(lk_search *s) {
  if ((size_t)s->n + 1 <= s->table_size / 2) return 0;
  size_t size = s->table_size ? 2 * s->table_size : 64;
  int *table = lk_alloc_array(s->ctx, size, sizeof *table);
  if (!table) return -1;
  lk_free(s->ctx, s->table);
  s->table = table;
  s->table_size = size;
  for (int i = 0; i < s->n; i++) s->table[place(s, genome_at(s, i))] = i + 1;
  return 0;
}

/* Room for one more genome and one more phase, so that nothing else allocates. */
static int reserve(lk_search *s) {
  size_t n = (size_t)s->n + 1, phases = (size_t)s->nphases + 1;
  return lk_grow(s->ctx, &s->genomes, &s->genome_capacity, n, genome_size(s)) ||
         lk_grow(s->ctx, &s->records, &s->record_capacity, n, sizeof *s->records) || grow_table(s) ||
         lk_grow(s->ctx, &s->phases, &s->phase_capacity, phases, sizeof *s->phases);
}

/* Puts a candidate behind those that are as good: what sorting stably and cutting gives. */
static void insert(const lk_search *s, int *list, int *n, int size, int candidate) {
  int at = *n;
  while (at > 0 && s->records[list[at - 1]].fitness < s->records[candidate].fitness) at--;
  if (at == size) return;
  if (*n < size) ++*n;
  memmove(list + at + 1, list + at, (size_t)(*n - at - 1) * sizeof *list);
  list[at] = candidate;
}

static void rank(lk_search *s) {
  for (; s->first < s->n; s->first++) {
    insert(s, s->top, &s->ntop, s->o.select, s->first);
    insert(s, s->hall, &s->nhall, s->o.hall, s->first);
  }
}

/* ---- going on ---- */

static void begin_phase(lk_search *s, int generation, lk_search_phase p) {
  s->phases[s->nphases++] = (lk_search_phase_stats){.generation = generation, .phase = p};
  s->left = 0;
  s->vain = 0;
}

static void end_phase(lk_search *s) {
  const lk_search_phase_stats *p = phase(s);
  int next = p->phase == LK_SEARCH_FILL ? p->generation + 1 : p->generation;
  if (!is_random(p->phase)) {
    begin_phase(s, next, p->phase + 1);
    return;
  }
  s->finished = next == s->o.generations;
  if (!s->finished || s->o.final_rank) rank(s);
  if (!s->finished) begin_phase(s, next, LK_SEARCH_MUTATION);
}

static int phase_is_over(const lk_search *s) {
  const lk_search_phase_stats *p = phase(s);
  if (is_random(p->phase)) return s->n - s->first >= s->o.population;
  int64_t target = p->phase == LK_SEARCH_MUTATION ? s->o.mutation : s->o.crossover;
  return p->accepted >= target || p->examined >= ATTEMPTS * target;
}

static void finish_early(lk_search *s) {
  rank(s);
  s->finished = 1;
}

static lk_status give_up(lk_search *s) {
  static const char *const words =
      "search: %lld random candidates in a row were refused; in this phase %lld were evaluated "
      "before, %lld cost more than %lld, %lld less than %lld%s";
  const lk_search_phase_stats *p = phase(s);
  const long long v[] = {s->vain, p->seen, p->over, s->o.cost_max, p->under, s->o.cost_min};
  if (!s->n) return lk_fail(s->ctx, LK_EARG, words, v[0], v[1], v[2], v[3], v[4], v[5], "");
  lk_warn(s->ctx, words, v[0], v[1], v[2], v[3], v[4], v[5], ": the search ends early");
  finish_early(s);
  return LK_OK;
}

/* Takes the next candidate of the phase and accepts or refuses it. */
static lk_status examine(lk_search *s) {
  if (!s->left && draw_batch(s)) return lk_error(s->ctx, NULL);
  lk_search_phase_stats *p = phase(s);
  const int *g = s->batch + (size_t)(BATCH - s->left) * (size_t)s->ngenes;
  int seen = s->table[place(s, g)] != 0;
  int64_t cost = s->cost && !seen ? s->cost(s->cost_arg, g) : 0;
  if (cost < 0) lk_fail(s->ctx, LK_EARG, "search: a genome costs %lld; costs are never negative", (long long)cost);
  if (lk_error(s->ctx, NULL)) return lk_error(s->ctx, NULL);
  s->left--;
  p->examined++;
  s->vain++;
  if (seen) p->seen++;
  else if (s->o.cost_max && cost > s->o.cost_max) p->over++;
  else if (cost < s->o.cost_min) p->under++;
  else {
    memcpy(genome_at(s, s->n), g, genome_size(s));
    s->records[s->n] = (search_record){.cost = cost, .phase = (int32_t)p->phase, .generation = p->generation};
    p->accepted++;
    s->vain = 0;
    s->asked = 1;
  }
  return LK_OK;
}

static lk_status step(lk_search *s) {
  if (reserve(s)) return lk_error(s->ctx, NULL);
  if (phase_is_over(s)) end_phase(s);
  else if (is_random(phase(s)->phase) && s->n == s->space) finish_early(s);
  else if (is_random(phase(s)->phase) && s->vain >= s->o.max_random_attempts) return give_up(s);
  else return examine(s);
  return LK_OK;
}

const int *lk_search_ask(lk_search *s) {
  if (!s || lk_error(s->ctx, NULL)) return NULL;
  while (!s->asked && !s->finished)
    if (step(s)) return NULL;
  s->asked_draws = s->draws;
  return s->asked ? genome_at(s, s->n) : NULL;
}

lk_status lk_search_tell(lk_search *s, double fitness) {
  if (!s) return LK_ENIL;
  if (lk_error(s->ctx, NULL)) return lk_error(s->ctx, NULL);
  if (!s->asked)
    return lk_fail(s->ctx, LK_EARG, "lk_search_tell: no genome is waiting for its fitness; ask for one first");
  if (isnan(fitness)) return lk_fail(s->ctx, LK_ENONFINITE, "lk_search_tell: the fitness of candidate %d is NaN", s->n);
  s->records[s->n].fitness = fitness;
  s->table[place(s, genome_at(s, s->n))] = s->n + 1;
  s->n++;
  s->asked = 0;
  return LK_OK;
}

/* ---- made and freed ---- */

lk_search_options lk_search_defaults(void) {
  return (lk_search_options){.population = 50,
                             .select = 10,
                             .mutation = 25,
                             .crossover = 25,
                             .mutation_prob = 0.2,
                             .generations = 20,
                             .hall = 50,
                             .max_random_attempts = 1000000,
                             .seed = 1};
}

static void at_least(lk_ctx *c, const char *name, int64_t value, int64_t least) {
  if (value < least)
    lk_fail(c, LK_EARG, "lk_search_new: %s is %lld; it must be at least %lld", name, (long long)value,
            (long long)least);
}

static lk_status check_options(lk_ctx *c, const lk_search_options *o, int has_cost) {
  at_least(c, "population", o->population, 1);
  at_least(c, "select", o->select, 1);
  at_least(c, "mutation", o->mutation, 0);
  at_least(c, "crossover", o->crossover, 0);
  at_least(c, "generations", o->generations, 0);
  at_least(c, "cost_max", o->cost_max, 0);
  at_least(c, "cost_min", o->cost_min, 0);
  at_least(c, "hall", o->hall, 1);
  at_least(c, "max_random_attempts", o->max_random_attempts, 1);
  if (!(o->mutation_prob >= 0 && o->mutation_prob <= 1))
    lk_fail(c, LK_EARG, "lk_search_new: mutation_prob is %g; it must be in [0, 1]", o->mutation_prob);
  if (o->cost_max && o->cost_min > o->cost_max)
    lk_fail(c, LK_EARG, "lk_search_new: cost_min %lld is above cost_max %lld", (long long)o->cost_min,
            (long long)o->cost_max);
  if (!has_cost && (o->cost_min || o->cost_max))
    lk_fail(c, LK_EARG, "lk_search_new: limits of the cost need a cost function");
  if (!o->generations && !o->final_rank)
    lk_fail(c, LK_EARG, "lk_search_new: with 0 generations nothing is ranked, unless final_rank is set");
  return lk_error(c, NULL);
}

static lk_status check_genes(lk_ctx *c, int ngenes, const int *choices) {
  at_least(c, "ngenes", ngenes, 1);
  if (!choices) lk_fail(c, LK_ENIL, "lk_search_new: choices is NULL");
  for (int i = 0; !lk_error(c, NULL) && i < ngenes; i++)
    if (choices[i] < 1)
      lk_fail(c, LK_EARG, "lk_search_new: gene %d has %d choices; every gene needs one", i, choices[i]);
  return lk_error(c, NULL);
}

/* How many genomes there are, and how many of them will be evaluated at most. */
static lk_status measure(lk_search *s) {
  const lk_search_options *o = &s->o;
  int64_t children = (int64_t)o->mutation + o->crossover, generation = children;
  if (generation < o->population) generation = o->population;
  int64_t most = o->population + o->generations * generation;
  s->space = 1;
  for (int i = 0; i < s->ngenes; i++)
    s->space = s->space > INT64_MAX / s->choices[i] ? INT64_MAX : s->space * s->choices[i];
  if (most > s->space) most = s->space;
  if (most >= INT_MAX)
    return lk_fail(s->ctx, LK_EARG, "lk_search_new: %lld evaluations are more than can be counted", (long long)most);
  s->most = (int)most;
  return LK_OK;
}

lk_search *lk_search_new(lk_ctx *ctx, int ngenes, const int *choices, int64_t (*cost)(void *arg, const int *genome),
                         void *cost_arg, const lk_search_options *options) {
  lk_search_options o = options ? *options : lk_search_defaults();
  if (lk_error(ctx, NULL) || check_genes(ctx, ngenes, choices) || check_options(ctx, &o, cost != NULL)) return NULL;
  lk_search *s = lk_alloc(ctx, sizeof *s);
  if (!s) return NULL;
  *s = (lk_search){.ctx = ctx, .ngenes = ngenes, .cost = cost, .cost_arg = cost_arg, .o = o};
  s->key = lk_key_make(o.seed, "search");
  s->choices = lk_alloc_array(ctx, (size_t)ngenes, sizeof *s->choices);
  s->batch = lk_alloc_array(ctx, (size_t)ngenes, BATCH * sizeof *s->batch);
  if (s->choices) memcpy(s->choices, choices, genome_size(s));
  if (s->batch && !measure(s)) {
    s->top = lk_alloc_array(ctx, (size_t)o.select, sizeof *s->top);
    s->hall = lk_alloc_array(ctx, (size_t)o.hall, sizeof *s->hall);
    if (s->hall && !reserve(s)) begin_phase(s, 0, LK_SEARCH_RANDOM);
  }
  if (!lk_error(ctx, NULL)) return s;
  lk_search_free(s);
  return NULL;
}

void lk_search_free(lk_search *s) {
  if (!s) return;
  void *const blocks[] = {s->choices, s->genomes, s->records, s->table, s->top, s->hall, s->batch, s->phases};
  for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) lk_free(s->ctx, blocks[i]);
  lk_free(s->ctx, s);
}

/* ---- looking ---- */

const int *lk_search_best(const lk_search *s, double *fitness, int64_t *cost) {
  if (!s || !s->nhall) return NULL;
  const search_record *r = &s->records[s->hall[0]];
  if (fitness) *fitness = r->fitness;
  if (cost) *cost = r->cost;
  return genome_at(s, s->hall[0]);
}

int lk_search_finished(const lk_search *s) { return s && s->finished; }
int lk_search_evaluated(const lk_search *s) { return s ? s->n : 0; }
int lk_search_most(const lk_search *s) { return s ? s->most : 0; }
int lk_search_phases(const lk_search *s) { return s ? s->nphases : 0; }
uint64_t lk_search_draws(const lk_search *s) { return s ? s->draws : 0; }

lk_search_candidate lk_search_at(const lk_search *s, int i) {
  if (!s || i < 0 || i >= s->n) return (lk_search_candidate){0};
  const search_record *r = &s->records[i];
  return (lk_search_candidate){genome_at(s, i), r->fitness, r->cost, (lk_search_phase)r->phase, r->generation};
}

lk_search_phase_stats lk_search_phase_at(const lk_search *s, int i) {
  return s && i >= 0 && i < s->nphases ? s->phases[i] : (lk_search_phase_stats){0};
}

static int list(const int *from, int n, const int **indices) {
  if (indices) *indices = from;
  return n;
}

int lk_search_top(const lk_search *s, const int **indices) { return s ? list(s->top, s->ntop, indices) : 0; }
int lk_search_hall(const lk_search *s, const int **indices) { return s ? list(s->hall, s->nhall, indices) : 0; }
