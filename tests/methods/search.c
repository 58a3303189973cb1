/* search.c: golden traces of the evolutionary search: every genome, ranking and draw. */
#include "golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TENSORS = 5, HALL = 50 }; /* A, B, C, D, E */

typedef struct trace {
  golden *g;
  int layers;
  double modulus, rank;
  lk_view in, out;               /* of the layers */
  char names[TENSORS][8][24];    /* of the choices */
  int count[TENSORS], *choices;  /* how many, by tensor and by gene */
  uint64_t state, mult, inc;     /* of the random source */
  double *top, *hall;            /* [generations, select], [generations, HALL]: recorded rankings */
  int64_t generations, rankings; /* wanted, seen */
  lk_search *search;
} trace;

/* ---- what the search is given ---- */

static double lcg(void *arg) {
  trace *t = arg;
  t->state = t->state * t->mult + t->inc;
  return (double)(t->state >> 11) * 0x1p-53;
}

static double fitness_of(const trace *t, const int *genome) {
  int64_t sum = 0;
  for (int i = 0; i < TENSORS * t->layers; i++) sum += (i / TENSORS + 1) * (i % TENSORS + 2) * (int64_t)(genome[i] + 1);
  return fmod((double)sum, t->modulus) / t->modulus;
}

/* The parameters of tensor k (A is 0) in a form. */
static int64_t cost_of(const trace *t, int k, const char *form, int64_t in, int64_t out) {
  const int64_t rank = !strncasecmp(form, "lora_", 5) ? strtoll(form + 5, NULL, 10) : (int64_t)t->rank;
  if (!strncasecmp(form, "lora", 4)) return rank * (in + (k == 2 ? 1 : out));
  if (!strcmp(form, "vector")) return k == 2 ? in : out;
  return !strcmp(form, "constant");
}

static int64_t cost(void *arg, const int *genome) {
  const trace *t = arg;
  int64_t sum = 0;
  for (int i = 0; i < TENSORS * t->layers; i++) {
    int64_t in = (int64_t)lk_view_get(&t->in, i / TENSORS), out = (int64_t)lk_view_get(&t->out, i / TENSORS);
    sum += cost_of(t, i % TENSORS, t->names[i % TENSORS][genome[i]], in, out);
  }
  return sum;
}

/* ---- the metadata ---- */

static uint64_t number(trace *t, const char *key) {
  const char *text = golden_text(t->g, key, NULL);
  if (!text) lk_fail(t->g->ctx, LK_EARG, "the metadata have no %s", key);
  return text ? strtoull(text + (*text == '"'), NULL, 10) : 0;
}

/* "A:lora,vector;B:none": the forms of each tensor. */
static void read_choices(trace *t) {
  const char *text = golden_text(t->g, "choices", "");
  for (int k = 0; k < TENSORS; k++) {
    const char *at = strchr(text, "ABCDE"[k]);
    for (at = at && at[1] == ':' ? at + 1 : ""; *at == ':' || *at == ','; at += strcspn(at, ",;\"")) {
      size_t n = strcspn(++at, ",;\"");
      if (t->count[k] == 8 || n >= sizeof t->names[k][0]) break;
      memcpy(t->names[k][t->count[k]++], at, n);
    }
    if (!t->count[k]) lk_fail(t->g->ctx, LK_EARG, "unsupported: choices '%s'", text);
  }
}

static lk_search_options read_options(trace *t) {
  golden *g = t->g;
  lk_search_options o = lk_search_defaults();
  o.population = (int)golden_real(g, "population_num", o.population);
  o.select = (int)golden_real(g, "select_num", o.select);
  o.mutation = (int)golden_real(g, "mutation_num", o.mutation);
  o.crossover = (int)golden_real(g, "crossover_num", o.crossover);
  o.mutation_prob = golden_real(g, "m_prob", o.mutation_prob);
  o.generations = (int)golden_real(g, "max_generations", o.generations);
  o.cost_max = llround(1e6 * golden_real(g, "param_limit_millions", 0));
  o.cost_min = llround(1e6 * golden_real(g, "min_param_limit_millions", 0));
  o.unit = lcg;
  o.arg = t;
  if (golden_real(g, "batch", 10) != 10) lk_fail(g->ctx, LK_EARG, "unsupported: candidates are drawn ten at a time");
  return o;
}

/* ---- running ---- */

static void note(double *to, int64_t size, int n, const int *indices) {
  for (int64_t i = 0; i < size; i++) to[i] = i < n ? indices[i] : -1;
}

/* Keeps top and hall of a generation as soon as it has ranked. */
static void note_ranking(trace *t, int select) {
  const lk_search_phase_stats p = lk_search_phase_at(t->search, lk_search_phases(t->search) - 1);
  const int *top, *hall;
  if (p.phase == LK_SEARCH_RANDOM || p.generation < t->rankings || p.generation >= t->generations) return;
  int ntop = lk_search_top(t->search, &top), nhall = lk_search_hall(t->search, &hall);
  note(t->top + p.generation * select, select, ntop, top);
  note(t->hall + p.generation * HALL, HALL, nhall, hall);
  t->rankings = p.generation + 1;
}

static lk_view matrix(double *p, int64_t rows, int64_t cols) {
  lk_view v;
  lk_view_init(&v, LK_F64, 2, (int64_t[]){rows, cols});
  v.p = p;
  return v;
}

static void compare(trace *t, const char *name, double *ours, int64_t rows, int64_t cols) {
  lk_view v = matrix(ours, rows, cols), want;
  if (!golden_need(t->g, name, &want)) return;
  if (want.ndim == 3 && want.shape[1] * want.shape[2] == cols)
    lk_view_init(&v, LK_F64, 3, (int64_t[]){rows, want.shape[1], want.shape[2]});
  v.p = ours;
  golden_compare_as(t->g, name, name, &v, 0);
}

static void compare_candidates(trace *t) {
  static const char *const names[] = {"fitness", "params", "phase", "generation"};
  int n = lk_search_evaluated(t->search), genes = TENSORS * t->layers;
  double *v = lk_alloc_array(t->g->ctx, (size_t)n * (size_t)(genes + 4) + 1, sizeof *v);
  if (!v) return;
  double *columns = v + n * genes;
  for (int i = 0; i < n; i++) {
    lk_search_candidate c = lk_search_at(t->search, i);
    const double field[] = {c.fitness, (double)c.cost, c.phase, c.generation};
    for (int k = 0; k < genes; k++) v[i * genes + k] = c.genome[k];
    for (int k = 0; k < 4; k++) columns[k * n + i] = field[k];
  }
  compare(t, "genomes", v, n, genes);
  for (int k = 0; k < 4; k++) compare(t, names[k], columns + k * n, n, 1);
  lk_free(t->g->ctx, v);
}

static void compare_phases(trace *t) {
  int n = lk_search_phases(t->search);
  double *v = lk_alloc_array(t->g->ctx, (size_t)n, 7 * sizeof *v);
  for (int i = 0; v && i < n; i++) {
    lk_search_phase_stats p = lk_search_phase_at(t->search, i);
    const int64_t row[] = {p.generation, p.phase, p.examined, p.accepted, p.seen, p.over, p.under};
    for (int k = 0; k < 7; k++) v[7 * i + k] = (double)row[k];
  }
  if (v) compare(t, "phase_stats", v, n, 7);
  lk_free(t->g->ctx, v);
}

/* The number of draws, and the state that the source is in, which a double cannot hold whole. */
static void compare_source(trace *t) {
  const uint64_t last = number(t, "final_state");
  double ours[] = {(double)lk_search_draws(t->search), (double)(t->state >> 32), (double)(t->state & UINT32_MAX)};
  double theirs[] = {(double)number(t, "draws"), (double)(last >> 32), (double)(last & UINT32_MAX)};
  lk_view got = matrix(ours, 1, 3), want = matrix(theirs, 1, 3);
  golden_expect(t->g, "draws, state", &got, &want, 0);
}

static void run(trace *t) {
  lk_ctx *ctx = t->g->ctx;
  lk_search_options o = read_options(t);
  t->generations = o.generations;
  t->choices = lk_alloc_array(ctx, (size_t)t->layers, TENSORS * sizeof *t->choices);
  t->top = lk_alloc_array(ctx, (size_t)(o.generations * o.select) + 1, sizeof *t->top);
  t->hall = lk_alloc_array(ctx, (size_t)(o.generations * HALL) + 1, sizeof *t->hall);
  if (!t->hall) return;
  for (int i = 0; i < TENSORS * t->layers; i++) t->choices[i] = t->count[i % TENSORS];
  t->search = lk_search_new(ctx, TENSORS * t->layers, t->choices, cost, t, &o);
  for (const int *genome; (genome = lk_search_ask(t->search));) {
    note_ranking(t, o.select);
    lk_search_tell(t->search, fitness_of(t, genome));
  }
  if (lk_error(ctx, NULL)) return;
  compare_candidates(t);
  compare_phases(t);
  compare(t, "top_select", t->top, o.generations, o.select);
  compare(t, "top50", t->hall, o.generations, HALL);
  compare_source(t);
}

void golden_search_trace(golden *g) {
  trace t = {.g = g, .layers = (int)golden_real(g, "n_layers", 0), .rank = golden_real(g, "rank", 4)};
  t.modulus = golden_real(g, "fitness_modulus", 1);
  t.state = number(&t, "lcg_seed");
  t.mult = number(&t, "lcg_mult");
  t.inc = number(&t, "lcg_inc");
  read_choices(&t);
  if (golden_need(g, "layer_in", &t.in) && golden_need(g, "layer_out", &t.out)) {
    if (t.layers < 1 || lk_view_count(&t.in) != t.layers || lk_view_count(&t.out) != t.layers)
      lk_fail(g->ctx, LK_ESHAPE, "layer_in and layer_out do not have n_layers = %d numbers", t.layers);
    if (!lk_error(g->ctx, NULL)) run(&t);
  }
  lk_search_free(t.search);
  lk_free(g->ctx, t.choices);
  lk_free(g->ctx, t.top);
  lk_free(g->ctx, t.hall);
}
