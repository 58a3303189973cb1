/* test_budget.c: AdaLoRA's allocator alone: schedules, importance, the ranking of all triplets, reactivation. */
#include "adapter_net.h"

#include <lorikeet/adalora.h>

enum { PARTS = LK_TRIPLET_PARTS };

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

START_TEST(selection) {
  for (int n = 1; n < 40; n++)
    for (int k = 1; k <= n; k++) {
      double v[40], sorted[40];
      for (int i = 0; i < n; i++)
        sorted[i] = v[i] = floor(4 * test_number("selection", 97 * n + 41 * k + i)); /* ties */
      qsort(sorted, (size_t)n, sizeof *sorted, by_value);
      ck_assert_double_eq(lk_kth_smallest(v, n, k), sorted[k - 1]);
    }
}
END_TEST

START_TEST(budgets) {
  static const int want[] = {12, 12, 12, 10, 9, 8, 8, 7, 7, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6};
  const lk_rank_schedule s = {12, 6, 2, 4, 20, 2}, equal = {12, 12, 0, 1, 10, 1};
  for (int t = 0; t < 20; t++) {
    int due;
    ck_assert_int_eq(lk_rank_budget(&s, t, &due), want[t]);
    ck_assert_int_eq(due, (t > 2 && t % 2 == 0) || t > 16);
    ck_assert_int_eq(lk_rank_budget(&equal, t, NULL), 12);
  }
  ck_assert_ptr_null(lk_rank_schedule_fault(&s));
  ck_assert_ptr_null(lk_rank_schedule_fault(&equal));
  static const lk_rank_schedule bad[] = {{12, -1, 2, 4, 20, 2}, {0, 0, 2, 4, 20, 2},  {12, 13, 2, 4, 20, 2},
                                         {12, 6, 2, 4, 0, 2},   {12, 6, 2, 4, 20, 0}, {12, 6, 16, 4, 20, 2},
                                         {12, 6, -1, 4, 20, 2}, {12, 6, 2, -1, 20, 2}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) ck_assert_ptr_nonnull(lk_rank_schedule_fault(&bad[i]));
}
END_TEST

START_TEST(importance) {
  double w[] = {2, -3}, g[] = {0.5, 1}, Ib[] = {0.1, 0}, Ub[] = {0.2, 0};
  float fw[] = {2, -3}, fg[] = {0.5F, 1}, fIb[] = {0.1F, 0}, fUb[] = {0.2F, 0};
  lk_importance(LK_F64, 2, w, g, 0.75, 0.5, Ib, Ub);
  lk_importance(LK_F32, 2, fw, fg, 0.75, 0.5, fIb, fUb);
  const double want_Ib[] = {0.75 * 0.1 + 0.25 * 1, 0.25 * 3};
  const double want_Ub[] = {0.5 * 0.2 + 0.5 * (1 - want_Ib[0]), 0.5 * (3 - want_Ib[1])};
  for (int i = 0; i < 2; i++) {
    ck_assert_double_eq_tol(Ib[i], want_Ib[i], 1e-15);
    ck_assert_double_eq_tol(Ub[i], want_Ub[i], 1e-15);
    ck_assert_double_eq_tol(fIb[i], want_Ib[i], 1e-6);
    ck_assert_double_eq_tol(fUb[i], want_Ub[i], 1e-6);
  }
  lk_importance(LK_F64, 2, w, NULL, 0.75, 0.5, Ib, Ub); /* no gradient: importance fades */
  ck_assert_double_eq_tol(Ib[1], 0.75 * 0.75, 1e-15);
}
END_TEST

/* Two matrices of three triplets, in = 2, out = 1, whose scores are set by Ib of E alone. */
typedef struct {
  lk_triplets matrix[2];
  double value[2][PARTS][6], Ib[2][PARTS][6], Ub[2][PARTS][6], kept[2][3], score[6], order[6];
  lk_rank_allocator a;
} bench;

static void bench_open(bench *b, const double scores[6]) {
  static const int64_t shapes[PARTS][2] = {{3, 2}, {3, 1}, {1, 3}};
  memset(b, 0, sizeof *b);
  for (int k = 0; k < 2; k++) {
    lk_triplets *m = &b->matrix[k];
    for (int p = 0; p < PARTS; p++) {
      lk_view_init(&m->value[p], LK_F64, 2, shapes[p]);
      m->value[p].p = b->value[k][p];
      m->Ib[p] = b->Ib[k][p];
      m->Ub[p] = b->Ub[k][p];
    }
    m->kept = b->kept[k];
    for (int i = 0; i < 3; i++) {
      b->kept[k][i] = 1;
      b->value[k][LK_TRIPLET_E][i] = 7;
      b->Ib[k][LK_TRIPLET_E][i] = scores[3 * k + i];
      b->Ub[k][LK_TRIPLET_E][i] = 1;
    }
  }
  b->a = (lk_rank_allocator){{6, 2, 0, 1, 10, 1}, 0.5, 0.5, b->matrix, 2, b->score, b->order, 0, 0, 0, 0};
}

/* Which triplets are kept, as bits; E must agree. */
static unsigned kept_bits(const bench *b) {
  unsigned bits = 0;
  for (int i = 0; i < 6; i++) {
    int kept = b->kept[i / 3][i % 3] != 0;
    ck_assert_double_eq(b->value[i / 3][LK_TRIPLET_E][i % 3], kept ? 7 : 0);
    bits |= (unsigned)kept << i;
  }
  return bits;
}

static unsigned pruned_to(const double scores[6], int64_t budget) {
  bench b;
  bench_open(&b, scores);
  ck_assert_int_eq(lk_rank_prune(ctx, &b.a, budget), LK_OK);
  return kept_bits(&b);
}

START_TEST(ranking) {
  static const double apart[] = {1, 5, 3, 6, 2, 4}, ties[] = {1, 3, 3, 3, 2, 4}, zero[6] = {0},
                      most[] = {0, 0, 0, 0, 0, 1};
  ck_assert_uint_eq(pruned_to(apart, 6), 077); /* k = 0: nothing to prune */
  ck_assert_uint_eq(pruned_to(apart, 5), 076);
  ck_assert_uint_eq(pruned_to(apart, 3), 052);
  ck_assert_uint_eq(pruned_to(apart, 1), 010);
  ck_assert_uint_eq(pruned_to(apart, 0), 0);
  ck_assert_uint_eq(pruned_to(ties, 4), 056);
  for (int budget = 1; budget < 4; budget++)
    ck_assert_uint_eq(pruned_to(ties, budget), 040); /* fewer than the budget */
  ck_assert_uint_eq(pruned_to(zero, 3), 077);        /* not everything */
  ck_assert_uint_eq(pruned_to(most, 3), 040);
  ck_assert_uint_eq(pruned_to(ties, 9), 077);
}
END_TEST

START_TEST(no_number) {
  static const double bad[] = {1, 2, NAN, 3, 4, 5}, endless[] = {1, 2, INFINITY, 3, 4, 5};
  bench b;
  bench_open(&b, bad);
  ck_assert_int_eq(lk_rank_prune(ctx, &b.a, 3), LK_ENONFINITE);
  ck_assert_uint_eq(kept_bits(&b), 077);
  expect(LK_ENONFINITE, "not a number");
  ck_assert_uint_eq(pruned_to(endless, 1), 004);
}
END_TEST

START_TEST(parts_of_a_score) {
  static const double zero[6] = {0};
  double score[3];
  bench b;
  bench_open(&b, zero);
  for (int p = 0; p < PARTS; p++)
    for (int i = 0; i < 6; i++) {
      b.Ib[0][p][i] = 1 + i + 10 * p;
      b.Ub[0][p][i] = 2;
    }
  lk_triplet_scores(&b.matrix[0], score);
  for (int i = 0; i < 3; i++) {
    double a = (2 * (1 + 2 * i) + 2 * (2 + 2 * i)) / 2.0, e = 2 * (11 + i), out = 2 * (21 + i);
    ck_assert_double_eq_tol(score[i], e + a + out, 1e-13);
  }
}
END_TEST

START_TEST(reactivation) {
  static const double first_wins[] = {9, 8, 7, 3, 2, 1};
  double grad[2][PARTS][6] = {{{0}}};
  bench b;
  bench_open(&b, first_wins);
  b.a.schedule = (lk_rank_schedule){6, 3, 0, 2, 9, 2};
  ck_assert_int_eq(lk_rank_prune(ctx, &b.a, 3), LK_OK);
  ck_assert_uint_eq(kept_bits(&b), 007);
  for (int k = 0; k < 2; k++)
    for (int p = 0; p < PARTS; p++) b.matrix[k].grad[p] = grad[k][p];
  grad[1][LK_TRIPLET_E][1] = 1000; /* the optimiser has moved it, and it matters now */
  b.value[1][LK_TRIPLET_E][1] = 7;
  ck_assert_int_eq(lk_rank_step(ctx, &b.a, 5), LK_OK); /* between rankings */
  ck_assert(!b.a.ranked && b.value[1][LK_TRIPLET_E][1] == 7 && b.kept[1][1] == 0);
  ck_assert_int_eq(lk_rank_step(ctx, &b.a, 6), LK_OK);
  ck_assert(b.a.ranked && b.kept[1][1] == 1 && b.value[1][LK_TRIPLET_E][1] == 7);
  ck_assert_int_eq(lk_rank_step(ctx, &b.a, 7), LK_OK); /* total - tfinal: the last ranking, then all is forgotten */
  ck_assert(b.a.ranked && b.Ib[1][LK_TRIPLET_E][1] == 0 && b.a.budget == 3);
  b.value[0][LK_TRIPLET_E][0] = b.value[0][LK_TRIPLET_E][1] = b.value[0][LK_TRIPLET_E][2] = 7;
  b.value[1][LK_TRIPLET_E][0] = b.value[1][LK_TRIPLET_E][1] = b.value[1][LK_TRIPLET_E][2] = 7;
  ck_assert_int_eq(lk_rank_step(ctx, &b.a, 8), LK_OK); /* the pattern is replayed */
  kept_bits(&b);
  ck_assert(!b.a.ranked && b.kept[1][1] == 1 && b.Ib[1][LK_TRIPLET_E][1] == 0);
}
END_TEST

int main(void) {
  TCase *c = tcase_create("budget");
  tcase_add_test(c, selection);
  tcase_add_test(c, budgets);
  tcase_add_test(c, importance);
  tcase_add_test(c, ranking);
  tcase_add_test(c, no_number);
  tcase_add_test(c, parts_of_a_score);
  tcase_add_test(c, reactivation);
  return run_cases("budget", c, NULL);
}
