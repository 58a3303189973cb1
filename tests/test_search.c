/* test_search.c: the evolutionary search: the worked example of its reference data, ranking, limits, errors.
 * (Whole runs against the official program are golden cases, tests/methods/search.c.) */
#include "search.h"

/* ---- the worked example ---- */

/* Numbers of the reference data's README, and 0.5 between them. */
typedef struct {
  double u[400];
  int at;
} script;

static double read_script(void *arg) {
  script *s = arg;
  return s->u[s->at++];
}

static void write_script(script *s, int at, int n, const double *u) { memcpy(s->u + at, u, (size_t)n * sizeof *u); }

/* Draws that give these genes when each is picked among its choices. */
static void write_genome(script *s, int at, const int *genome, const int *of) {
  for (int i = 0; i < 10; i++) s->u[at + i] = (genome[i] + 0.5) / of[i];
}

/* Layers 6 -> 9 and 9 -> 5 with rank 4; A, B: lora, vector, constant, none; C: lora, vector, none; D, E: constant, none,
 * vector. */
static int64_t glora_cost(void *arg, const int *g) {
  static const int in[] = {6, 9}, out[] = {9, 5};
  int64_t n = 0;
  (void)arg;
  for (int l = 0; l < 2; l++, g += 5) {
    const int matrix[] = {4 * (in[l] + out[l]), out[l], 1, 0}, C[] = {4 * (in[l] + 1), in[l], 0},
              bias[] = {1, 0, out[l]};
    n += matrix[g[0]] + matrix[g[1]] + C[g[2]] + bias[g[3]] + bias[g[4]];
  }
  return n;
}

static void expect_genome(lk_search *s, const int *want, int64_t cost, double fitness) {
  int at = lk_search_evaluated(s);
  const int *g = lk_search_ask(s);
  ck_assert_ptr_nonnull(g);
  ck_assert_mem_eq(g, want, 10 * sizeof *g);
  ck_assert_int_eq(lk_search_tell(s, fitness), LK_OK);
  ck_assert_int_eq(lk_search_at(s, at).cost, cost);
}

START_TEST(test_worked_example) {
  static const int of[10] = {4, 4, 3, 3, 3, 4, 4, 3, 3, 3};
  static const int P[10] = {0, 1, 2, 0, 2, 3, 0, 1, 1, 0}, Q[10] = {1, 0, 0, 1, 1, 2, 3, 2, 2, 1};
  static const int mutant[10] = {0, 3, 2, 1, 2, 3, 0, 1, 1, 2}, crossing[10] = {0, 0, 0, 0, 1, 3, 3, 1, 2, 0};
  static const double mutation[] = {0.30, 0.63, 0.11, 0.80, 0.45, 0.199, 0.40, 0.20,
                                    0.92, 0.05, 0.10, 0.71, 0.33, 0.15,  0.99};
  static const double cross[] = {0.10, 0.60, 0.12, 0.77, 0.50, 0.49, 0.90, 0.30, 0.66, 0.08, 0.81, 0.25};
  script draws = {.at = 0};
  for (int i = 0; i < 400; i++) draws.u[i] = 0.5;
  write_genome(&draws, 0, P, of);
  write_genome(&draws, 10, Q, of);
  write_script(&draws, 100, 15, mutation);
  write_script(&draws, 100 + 15 + 9 * 11, 12, cross);
  lk_search_options o = lk_search_defaults();
  o.population = o.select = 2;
  o.mutation = o.crossover = 1;
  o.generations = 1;
  o.unit = read_script;
  o.arg = &draws;
  lk_search *s = lk_search_new(ctx, 10, of, glora_cost, NULL, &o);
  expect_genome(s, P, 145, 2);
  expect_genome(s, Q, 103, 1);
  expect_genome(s, mutant, 139, 0);
  expect_genome(s, crossing, 164, 3);
  ck_assert_ptr_null(lk_search_ask(s));
  ck_assert_int_eq(draws.at, 100 + 15 + 9 * 11 + 10 * 12);
  ck_assert_uint_eq(lk_search_draws(s), (uint64_t)draws.at);
  ck_assert_mem_eq(lk_search_best(s, NULL, NULL), P, sizeof P); /* the last generation is not ranked */
  lk_search_free(s);
}
END_TEST

/* ---- asking and telling ---- */

START_TEST(test_ask_is_idempotent) {
  lk_search_options o = small();
  lk_search *s = make(ctx, &o), *once = make(ctx, &o);
  run(once);
  for (const int *g; (g = lk_search_ask(s));) {
    uint64_t draws = lk_search_draws(s);
    for (int i = 0; i < 3; i++) ck_assert_ptr_eq(lk_search_ask(s), g);
    ck_assert_uint_eq(lk_search_draws(s), draws);
    lk_search_tell(s, coarse(g));
  }
  ck_assert_ptr_null(lk_search_ask(s));
  ck_assert(lk_search_finished(s) && !lk_error(ctx, NULL));
  ck_assert_int_eq(lk_search_evaluated(s), lk_search_evaluated(once));
  ck_assert_uint_eq(lk_search_draws(s), lk_search_draws(once));
  lk_search_free(s);
  lk_search_free(once);
}
END_TEST

START_TEST(test_every_candidate_is_new_and_legal) {
  lk_search_options o = small();
  lk_search *s = make(ctx, &o);
  int64_t accepted = 0;
  run(s);
  int n = lk_search_evaluated(s);
  ck_assert_int_eq(n, lk_search_most(s));
  ck_assert_int_eq(n, 8 * 4);
  for (int i = 0; i < n; i++) {
    lk_search_candidate c = lk_search_at(s, i);
    ck_assert(c.cost == sum(NULL, c.genome) && c.cost >= 3 && c.cost <= 9 && c.fitness == coarse(c.genome));
    for (int k = 0; k < GENES; k++) ck_assert(c.genome[k] >= 0 && c.genome[k] < choices[k]);
    for (int j = 0; j < i; j++) ck_assert_mem_ne(c.genome, lk_search_at(s, j).genome, GENES * sizeof(int));
  }
  for (int i = 0; i < lk_search_phases(s); i++) {
    lk_search_phase_stats p = lk_search_phase_at(s, i);
    ck_assert_int_eq(p.examined, p.accepted + p.seen + p.over + p.under);
    accepted += p.accepted;
  }
  ck_assert_int_eq(accepted, n);
  lk_search_free(s);
}
END_TEST

/* The first `size` of a list by fitness, the earlier one first on ties, of the first n candidates. */
static void check_list(const lk_search *s, int n, int size, int have, const int *list) {
  ck_assert_int_eq(have, n < size ? n : size);
  for (int i = 0; i < have; i++) {
    int ahead = 0;
    double f = lk_search_at(s, list[i]).fitness;
    for (int k = 0; k < n; k++) {
      double other = lk_search_at(s, k).fitness;
      ahead += other > f || (other == f && k < list[i]);
    }
    ck_assert_int_eq(ahead, i);
  }
}

START_TEST(test_ranking_is_stable) {
  lk_search_options o = small();
  const int *top, *hall;
  for (o.final_rank = 0; o.final_rank <= 1; o.final_rank++) {
    lk_search *s = make(ctx, &o);
    ck_assert_ptr_null(lk_search_best(s, NULL, NULL));
    for (const int *g; (g = lk_search_ask(s));) {
      int n = lk_search_evaluated(s), ranked = n / 8 * 8, ntop = lk_search_top(s, &top),
          nhall = lk_search_hall(s, &hall);
      check_list(s, ranked, o.select, ntop, top);
      check_list(s, ranked, o.hall, nhall, hall);
      lk_search_tell(s, coarse(g));
    }
    int last = lk_search_evaluated(s) - (o.final_rank ? 0 : 8), nhall = lk_search_hall(s, &hall);
    double fitness;
    int64_t cost;
    check_list(s, last, o.hall, nhall, hall);
    const int *best = lk_search_best(s, &fitness, &cost);
    ck_assert_ptr_eq(best, lk_search_at(s, hall[0]).genome);
    ck_assert(fitness == coarse(best) && cost == sum(NULL, best));
    lk_search_free(s);
  }
}
END_TEST

START_TEST(test_all_tied) {
  lk_search_options o = small();
  lk_search *s = make(ctx, &o);
  const int *hall;
  while (lk_search_ask(s)) lk_search_tell(s, 1);
  ck_assert_int_eq(lk_search_hall(s, &hall), 7);
  for (int i = 0; i < 7; i++) ck_assert_int_eq(hall[i], i);
  lk_search_free(s);
}
END_TEST

START_TEST(test_clones_run_out_of_attempts) {
  lk_search_options o = small();
  o.mutation_prob = 0;
  o.select = 1;
  o.max_random_attempts = 60; /* fewer than mutation and crossover waste */
  lk_search *s = make(ctx, &o);
  run(s);
  for (int i = 1; i < lk_search_phases(s); i++) {
    lk_search_phase_stats p = lk_search_phase_at(s, i);
    int random = p.phase == LK_SEARCH_FILL;
    ck_assert_int_eq(p.accepted, random ? 8 : 0);
    if (!random) ck_assert(p.examined == p.seen && p.seen == (p.phase == LK_SEARCH_MUTATION ? 40 : 30));
  }
  ck_assert_int_eq(lk_search_evaluated(s), 32);
  lk_search_free(s);
}
END_TEST

START_TEST(test_winner_beats_random) {
  enum { N = 40 };
  int of[N];
  for (int i = 0; i < N; i++) of[i] = 4;
  for (uint64_t seed = 1; seed <= 5; seed++) {
    double best[2];
    for (int random = 0; random < 2; random++) {
      lk_search_options o = lk_search_defaults();
      o.seed = seed;
      if (random) o.population = 1050, o.generations = 0, o.final_rank = 1;
      lk_search *s = lk_search_new(ctx, N, of, NULL, NULL, &o);
      ck_assert_int_eq(lk_search_most(s), 1050);
      for (const int *g; (g = lk_search_ask(s));) {
        double f = 0;
        for (int i = 0; i < N; i++) f += g[i] == (i * 7 + i / 4) % 4;
        lk_search_tell(s, f / N);
      }
      ck_assert_int_eq(lk_search_evaluated(s), 1050);
      lk_search_best(s, &best[random], NULL);
      lk_search_free(s);
    }
    ck_assert_msg(best[0] > best[1] + 0.1, "seed %d: %g, random %g", (int)seed, best[0], best[1]);
  }
}
END_TEST

START_TEST(test_seeds_differ) {
  lk_search_options o = small();
  lk_search *a = make(ctx, &o);
  o.seed = 2;
  lk_search *b = make(ctx, &o);
  run(a);
  run(b);
  int differ = 0;
  for (int i = 0; i < 8; i++)
    differ += memcmp(lk_search_at(a, i).genome, lk_search_at(b, i).genome, GENES * sizeof(int)) != 0;
  ck_assert_int_gt(differ, 4);
  lk_search_free(a);
  lk_search_free(b);
}
END_TEST

/* ---- where it ends ---- */

START_TEST(test_small_space_ends) {
  lk_search_options o = lk_search_defaults();
  o.population = 200;
  lk_search *s = lk_search_new(ctx, 3, (int[]){4, 5, 6}, NULL, NULL, &o);
  int times[120] = {0};
  double fitness;
  ck_assert_int_eq(lk_search_most(s), 120);
  for (const int *g; (g = lk_search_ask(s));) {
    int i = (g[0] * 5 + g[1]) * 6 + g[2];
    ck_assert_int_eq(times[i]++, 0);
    lk_search_tell(s, i);
  }
  ck_assert(lk_search_finished(s) && lk_search_evaluated(s) == 120 && !lk_warning_count(ctx));
  ck_assert_int_eq(lk_search_hall(s, NULL), 50);
  lk_search_best(s, &fitness, NULL);
  ck_assert_double_eq(fitness, 119);
  lk_search_free(s);
}
END_TEST

START_TEST(test_unreachable_limits) {
  lk_search_options o = small();
  o.cost_min = 100;
  o.cost_max = 200;
  lk_search *s = make(ctx, &o);
  ck_assert_ptr_null(lk_search_ask(s));
  expect(LK_EARG, "500 random candidates in a row were refused; in this phase 0 were evaluated before, 0 cost more "
                  "than 200, 500 less than 100");
  ck_assert_ptr_null(lk_search_best(s, NULL, NULL));
  lk_search_free(s);
}
END_TEST

/* It is refusals in a row that count, not all of them. */
START_TEST(test_rare_within_limits) {
  lk_search_options o = small();
  o.cost_max = 3;
  o.max_random_attempts = 120;
  lk_search *s = make(ctx, &o);
  for (int i = 0; i < 8; i++) lk_search_tell(s, coarse(lk_search_ask(s)));
  ck_assert_int_gt(lk_search_phase_at(s, 0).over + lk_search_phase_at(s, 0).under, 120);
  ck_assert(!lk_error(ctx, NULL) && !lk_warning_count(ctx));
  lk_search_free(s);
}
END_TEST

START_TEST(test_few_within_limits) {
  lk_search_options o = small();
  o.cost_min = 0;
  o.cost_max = 1; /* the zero genome and six with a one */
  o.max_random_attempts = 20000;
  lk_search *s = make(ctx, &o);
  run(s);
  ck_assert(!lk_error(ctx, NULL) && lk_search_finished(s));
  ck_assert_int_eq(lk_search_evaluated(s), 7);
  ck_assert_int_eq(lk_search_hall(s, NULL), 7);
  ck_assert_int_eq(lk_warning_count(ctx), 1);
  ck_assert_ptr_nonnull(strstr(lk_warning(ctx, 0), "20000 random candidates in a row were refused"));
  ck_assert_ptr_nonnull(strstr(lk_warning(ctx, 0), "ends early"));
  lk_search_free(s);
}
END_TEST

/* ---- what is refused ---- */

static double too_large(void *arg) {
  (void)arg;
  return 1;
}

static double large_at_first(void *arg) { return ++*(int *)arg == 1 ? 1.5 : 0.5; }

static int64_t negative(void *arg, const int *g) {
  (void)arg;
  (void)g;
  return -4;
}

START_TEST(test_refused_options) {
  const lk_search_options d = lk_search_defaults();
  lk_search_options o;
#define REFUSED(change, words)                                                                                         \
  o = d, change;                                                                                                       \
  ck_assert_ptr_null(make(ctx, &o));                                                                                   \
  expect(LK_EARG, words)
  REFUSED(o.population = 0, "population is 0; it must be at least 1");
  REFUSED(o.select = 0, "select is 0");
  REFUSED(o.mutation = -1, "mutation is -1");
  REFUSED(o.crossover = -2, "crossover is -2");
  REFUSED(o.generations = -1, "generations is -1");
  REFUSED(o.generations = 0, "0 generations");
  REFUSED(o.hall = 0, "hall is 0");
  REFUSED(o.max_random_attempts = 0, "max_random_attempts is 0");
  REFUSED(o.mutation_prob = 1.5, "mutation_prob is 1.5; it must be in [0, 1]");
  REFUSED(o.mutation_prob = -0.1, "mutation_prob is -0.1");
  REFUSED(o.mutation_prob = NAN, "mutation_prob is");
  REFUSED(o.cost_max = -1, "cost_max is -1");
  REFUSED(o.cost_min = -1, "cost_min is -1");
  REFUSED((o.cost_max = 5, o.cost_min = 6), "cost_min 6 is above cost_max 5");
#undef REFUSED
  ck_assert_ptr_null(lk_search_new(ctx, 0, choices, NULL, NULL, NULL));
  expect(LK_EARG, "ngenes is 0");
  ck_assert_ptr_null(lk_search_new(ctx, 2, (int[]){1, 0}, NULL, NULL, NULL));
  expect(LK_EARG, "gene 1 has 0 choices");
  ck_assert_ptr_null(lk_search_new(ctx, 2, NULL, NULL, NULL, NULL));
  expect(LK_ENIL, "choices is NULL");
  o = d, o.cost_max = 5;
  ck_assert_ptr_null(lk_search_new(ctx, GENES, choices, NULL, NULL, &o));
  expect(LK_EARG, "need a cost function");
  o = d, o.population = 1 << 30, o.generations = 100;
  int many[40];
  for (int i = 0; i < 40; i++) many[i] = 9;
  ck_assert_ptr_null(lk_search_new(ctx, 40, many, NULL, NULL, &o));
  expect(LK_EARG, "more than can be counted");
}
END_TEST

START_TEST(test_refused_calls) {
  lk_search_options o = small();
  lk_search *s = make(ctx, &o);
  ck_assert_int_eq(lk_search_tell(s, 1), LK_EARG);
  expect(LK_EARG, "ask for one first");
  const int *g = lk_search_ask(s);
  ck_assert_int_eq(lk_search_tell(s, NAN), LK_ENONFINITE);
  ck_assert_ptr_null(lk_search_ask(s));
  expect(LK_ENONFINITE, "candidate 0 is NaN");
  ck_assert_ptr_eq(lk_search_ask(s), g);
  ck_assert_int_eq(lk_search_tell(s, -INFINITY), LK_OK);
  ck_assert_ptr_null(lk_search_at(s, 1).genome);
  ck_assert_ptr_null(lk_search_at(s, -1).genome);
  lk_search_free(s);
  o.unit = too_large;
  s = make(ctx, &o);
  ck_assert_ptr_null(lk_search_ask(s));
  expect(LK_EARG, "the random source gave 1; it must stay in [0, 1)");
  lk_search_free(s);
  int calls = 0;
  o.unit = large_at_first;
  o.arg = &calls;
  s = make(ctx, &o);
  ck_assert_ptr_null(lk_search_ask(s));
  expect(LK_EARG, "the random source gave 1.5");
  ck_assert_ptr_nonnull(lk_search_ask(s)); /* of a new batch */
  ck_assert_int_eq(calls, 2 * 10 * GENES);
  lk_search_free(s);
  o.unit = NULL;
  s = lk_search_new(ctx, GENES, choices, negative, NULL, &o);
  ck_assert_ptr_null(lk_search_ask(s));
  expect(LK_EARG, "costs -4");
  lk_search_free(s);
  lk_search_free(NULL);
  ck_assert(!lk_search_ask(NULL) && lk_search_tell(NULL, 1) == LK_ENIL && lk_search_save(NULL, "x") == LK_ENIL);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("search");
  TCase *tcase = add_case(suite, "search");
  tcase_add_test(tcase, test_worked_example);
  tcase_add_test(tcase, test_ask_is_idempotent);
  tcase_add_test(tcase, test_every_candidate_is_new_and_legal);
  tcase_add_test(tcase, test_ranking_is_stable);
  tcase_add_test(tcase, test_all_tied);
  tcase_add_test(tcase, test_clones_run_out_of_attempts);
  tcase_add_test(tcase, test_winner_beats_random);
  tcase_add_test(tcase, test_small_space_ends);
  tcase_add_test(tcase, test_unreachable_limits);
  tcase_add_test(tcase, test_rare_within_limits);
  tcase_add_test(tcase, test_few_within_limits);
  tcase_add_test(tcase, test_refused_options);
  tcase_add_test(tcase, test_refused_calls);
  tcase_add_test(tcase, test_seeds_differ);
  return run_suite(suite);
}
