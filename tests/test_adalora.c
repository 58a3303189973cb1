/* test_adalora.c: AdaLoRA: the allocator alone, training with it, resuming, trimming, files, and what is refused. */
#include "adapter_net.h"
#include "files.h"

#include <lorikeet/adalora.h>
#include <lorikeet/checkpoint.h>
#include <lorikeet/safetensors.h>

#define SPEC "adalora target_r=1 init_r=3 tinit=1 tfinal=2 total=10 deltaT=2"
enum { PARTS = LK_TRIPLET_PARTS, TOTAL = 10 };

/* ---- the allocator alone ---- */

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

/* ---- training ---- */

static lk_optim *make_optimiser(int follow) {
  lk_optim_options o = lk_optim_defaults(&lk_optim_adamw);
  int n;
  o.lr = 0.05;
  lk_param **p = lk_trainable(model, &n);
  lk_optim *opt = lk_optim_new(ctx, &lk_optim_adamw, &o, p, n);
  lk_free(ctx, p);
  if (opt && follow) lk_adapter_follow(model, opt);
  return opt;
}

/* Forward and backward of the loss times `factor`. */
static lk_status pass(int64_t step, double factor) {
  lk_tape_reset(t);
  lk_train(t, (uint64_t)step, 0);
  lk_tensor y = net_forward();
  lk_tensor l = lk_plus(t, lk_sum(t, lk_mul(t, y, y), 0, NULL, 0), lk_adapter_loss(model, t));
  return lk_backward(t, lk_scale(t, l, factor));
}

static lk_status train(lk_optim *opt, int64_t from, int64_t to) {
  for (int64_t step = from; step < to; step++)
    if (pass(step, 1) || lk_step(opt)) break;
  return lk_error(ctx, NULL);
}

static void attach(const char *spec) {
  lk_attach(model, NULL, spec, "all-linear");
  fine();
}

static lk_param *param(const lk_linear_layer *l, const char *name) {
  for (lk_param *p = l->module.site->stacks->chain->params; p; p = p->next) {
    const char *found = strstr(p->name, name);
    if (found && strchr("@", found[strlen(name)])) return p;
  }
  return NULL;
}

static const lk_linear_layer *layer(int i) { return i == 0 ? first : i == 1 ? second : head; }

/* How many triplets are kept. */
static int total_kept(void) {
  int n = 0;
  for (int i = 0; i < 9; i++) n += lk_view_get(&param(layer(i / 3), "rank_pattern")->value, i % 3) != 0;
  return n;
}

/* How many values of E are not 0. */
static int total_used(void) {
  int n = 0;
  for (int i = 0; i < 9; i++) n += lk_view_get(&param(layer(i / 3), "lora_E")->value, i % 3) != 0;
  return n;
}

START_TEST(a_whole_run) {
  attach(SPEC);
  lk_optim *opt = make_optimiser(1);
  train(opt, 0, 2);
  fine();
  ck_assert_int_eq(total_kept(), 9);
  char *early = lk_adapter_notes(model, "default");
  ck_assert_str_eq(early, "ranks kept: 9 of 9, mean 3.0; first 3.0, second 3.0, head 3.0");
  train(opt, 2, 4);
  ck_assert(total_kept() < 9 && total_used() == 9); /* pruned at step 2, and trained at step 3 */
  train(opt, 4, TOTAL);
  fine();
  ck_assert_int_eq(total_kept(), 3);
  ck_assert_int_eq(total_used(), 3);
  char *late = lk_adapter_notes(model, "default");
  ck_assert_msg(strstr(late, "ranks kept: 3 of 9, mean 1.0; first ") == late, "%s", late);
  train(opt, TOTAL, TOTAL + 3); /* the pattern stays in force */
  ck_assert_int_eq(total_used(), 3);
  fine();
  lk_free(ctx, early);
  lk_free(ctx, late);
  lk_optim_free(opt);
}
END_TEST

/* Step `total`, where the last ranking would be, never comes. */
START_TEST(without_a_final_phase) {
  attach("adalora target_r=0 init_r=3 total=8 deltaT=4");
  lk_optim *opt = make_optimiser(1);
  train(opt, 0, 7); /* ranked at step 4: trunc(9 / 8) are kept */
  ck_assert_int_eq(total_kept(), 1);
  train(opt, 7, 8);
  ck_assert_int_eq(total_kept(), 0);
  ck_assert_int_eq(total_used(), 0);
  fine();
  lk_optim_free(opt);
}
END_TEST

START_TEST(equal_ranks) {
  attach("adalora target_r=3 init_r=3 tfinal=1 total=5");
  lk_optim *opt = make_optimiser(1);
  train(opt, 0, 5);
  fine();
  ck_assert_int_eq(total_kept(), 9);
  ck_assert_int_eq(lk_warning_count(ctx), 0);
  lk_optim_free(opt);
}
END_TEST

START_TEST(nothing_is_important) {
  attach("adalora target_r=1 init_r=3 tfinal=1 total=5 orth=0");
  lk_optim *opt = make_optimiser(1);
  for (int64_t step = 0; step < 5; step++)
    if (pass(step, 0) || lk_step(opt)) break;
  fine();
  ck_assert_int_eq(total_kept(), 9);
  ck_assert_int_eq(lk_warning_count(ctx), 1);
  ck_assert_ptr_nonnull(strstr(lk_warning(ctx, 0), "no triplet has any importance"));
  lk_optim_free(opt);
}
END_TEST

/* Averages are updated once per step of the optimiser, with the whole gradient. */
START_TEST(accumulated_gradients) {
  double E[2][9];
  for (int micro = 1; micro <= 2; micro++) {
    if (micro == 2) lk_detach(model, "default");
    attach(SPEC);
    lk_optim *opt = make_optimiser(1);
    for (int64_t step = 0; step < TOTAL; step++) {
      for (int k = 0; k < micro; k++) pass(step, 1.0 / micro);
      lk_step(opt);
    }
    fine();
    for (int i = 0; i < 9; i++) E[micro - 1][i] = lk_view_get(&param(layer(i / 3), "lora_E")->value, i % 3);
    lk_optim_free(opt);
  }
  ck_assert_double_lt(test_error(E[1], E[0], 9), 1e-12);
}
END_TEST

static void all_values(double *values) {
  for (int k = 0; k < 3; k++)
    for (lk_param *p = layer(k)->module.site->stacks->chain->params; p; p = p->next)
      for (int64_t i = 0; i < lk_param_count(p); i++) *values++ = lk_view_get(&p->value, i);
}

/* k steps, a new process, k steps: the same bits as 2k, wherever the run is cut. */
START_TEST(resuming) {
  double whole[600] = {0}, cut[600] = {0};
  lk_progress progress = {0};
  test_directory();
  for (int at = 0; at <= TOTAL; at++) {
    attach(SPEC);
    lk_optim *opt = make_optimiser(1);
    train(opt, 0, at);
    if (at < TOTAL) {
      lk_checkpoint_save(model, opt, &progress, NULL, "now");
      lk_optim_free(opt);
      lk_detach(model, "default");
      attach(SPEC);
      opt = make_optimiser(1);
      lk_checkpoint_load(model, opt, &progress, NULL, "now");
      train(opt, at, TOTAL);
    }
    fine();
    all_values(at ? cut : whole);
    ck_assert_msg(!at || !memcmp(whole, cut, sizeof cut), "cut at %d", at);
    lk_optim_free(opt);
    lk_detach(model, "default");
  }
  test_directory_remove();
}
END_TEST

/* ---- what is forgotten ---- */

START_TEST(nobody_follows) {
  attach(SPEC);
  lk_optim *opt = make_optimiser(0);
  ck_assert_int_eq(train(opt, 0, 4), LK_EARG);
  expect(LK_EARG, "lk_adapter_follow");
  lk_optim_free(opt);
}
END_TEST

/* Values that somebody else writes are no optimiser's. */
START_TEST(written_values) {
  attach(SPEC);
  for (int i = 0; i < 6; i++) {
    test_perturb_trained(model);
    pass(i, 1);
    pass(i, 1);
  }
  fine();
}
END_TEST

START_TEST(no_orthogonality) {
  attach(SPEC);
  lk_optim *opt = make_optimiser(1);
  net_backward();
  lk_step(opt);
  expect(LK_EARG, "term of the loss");
  lk_optim_free(opt);
}
END_TEST

START_TEST(no_total) {
  attach("adalora");
  ck_assert_int_eq(lk_adapter_count(model, "default"), 12 * ((5 + 4 + 1) + (4 + 3 + 1) + (3 + 2 + 1)));
  lk_optim *opt = make_optimiser(1);
  train(opt, 0, 1);
  expect(LK_EARG, "total=N");
  lk_optim_free(opt);
}
END_TEST

static const struct {
  const char *spec, *words;
} refused[] = {{"adalora target_r=4 init_r=3", "target_r = 4 is above init_r = 3"},
               {"adalora init_r=3 total=10", "target_r = 8 is above init_r = 3"},
               {"adalora total=10 tinit=8 tfinal=2", "tinit = 8, total - tfinal = 10 - 2"},
               {"adalora total=10 tfinal=10", "no step is left"},
               {"adalora beta1=0", "inside (0, 1)"},
               {"adalora beta2=1", "inside (0, 1)"},
               {"adalora init_r=3 pruned=4", "pruned = 4 of only init_r = 3"},
               {"adalora init_r=0", "init_r"},
               {"adalora target_r=-1", "target_r"},
               {"adalora deltaT=0", "deltaT"},
               {"adalora orth=-1", "orth"},
               {"adalora total=-1", "total"}};

START_TEST(refusals) {
  net_state before = net_look();
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    lk_attach(model, NULL, refused[i].spec, "all-linear");
    expect(LK_EARG, refused[i].words);
    ck_unchanged(&before);
  }
  const lk_override only = {"head", "deltaT=2"};
  lk_attach_with(model, &(lk_attach_options){
                            .spec = SPEC " beta1=.8", .targets = "all-linear", .overrides = &only, .noverrides = 1});
  fine(); /* deltaT is 2 already */
  lk_detach(model, "default");
  lk_attach_with(model,
                 &(lk_attach_options){.spec = "adalora", .targets = "all-linear", .overrides = &only, .noverrides = 1});
  expect(LK_EARG, "deltaT is one for all sites");
}
END_TEST

START_TEST(convolution_in_groups) {
  const lk_conv2d_options o = {.groups = 2};
  lk_conv2d_new(lk_model_root(model), "conv", 4, 4, (int64_t[]){3, 3}, &o, 0);
  lk_attach(model, NULL, "adalora", "conv");
  expect(LK_EARG, "a convolution in 2 groups");
}
END_TEST

START_TEST(two_adapters) {
  attach(SPEC);
  lk_attach(model, "other", SPEC, "head");
  expect(LK_EARG, "only one can");
  lk_set_trainable(model, "default", 0);
  lk_attach(model, "other", SPEC, "head");
  fine();
  lk_set_trainable(model, "default", 1);
  lk_optim *opt = make_optimiser(1);
  train(opt, 0, 1);
  expect(LK_EARG, "only one can");
  lk_optim_free(opt);
  lk_detach(model, "other");
  lk_attach(model, "other", "adalora init_r=3 pruned=1", "head"); /* trimmed: it has no allocator */
  opt = make_optimiser(1);
  train(opt, 0, TOTAL);
  fine();
  lk_optim_free(opt);
}
END_TEST

/* ---- trimming ---- */

START_TEST(rank_zero) {
  double base[NET_OUT], y[NET_OUT];
  net_output(0, base);
  const lk_override none = {"net.first", "pruned=3"};
  lk_attach_with(model, &(lk_attach_options){.spec = "adalora init_r=3 trimmed init=random",
                                             .targets = "net.first,head",
                                             .overrides = &none,
                                             .noverrides = 1});
  fine();
  ck_assert_int_eq(lk_adapter_count(model, "default"), 3 * (3 + 2 + 1));
  for (lk_site_stack *s = head->module.site->stacks; s; s = s->next)
    for (lk_param *p = s->chain->params; p; p = p->next) lk_param_fill(p, 0);
  net_output(0, y);
  ck_assert_double_lt(test_error(y, base, NET_OUT), 1e-15);
  lk_optim *opt = make_optimiser(1);
  train(opt, 0, 3);
  net_output(0, base);
  lk_merge(model, NULL);
  net_output(0, y);
  fine();
  ck_assert_double_lt(test_error(y, base, NET_OUT), 1e-13);
  lk_optim_free(opt);
}
END_TEST

/* What PEFT's format holds: kept triplets only, and the same outputs. */
START_TEST(saved_trimmed) {
  double y[NET_OUT], z[NET_OUT];
  test_directory();
  attach(SPEC);
  lk_optim *opt = make_optimiser(1);
  train(opt, 0, TOTAL);
  lk_optim_free(opt);
  net_output(0, y);
  lk_adapter_save(model, "default", "saved", NULL);
  ck_assert_int_eq(lk_warning_count(ctx), 0);
  lk_detach(model, "default");
  lk_adapter_load(model, "again", "saved", 1);
  net_output(0, z);
  fine();
  ck_assert_double_lt(test_error(z, y, NET_OUT), 1e-15);
  int64_t kept = 0;
  for (int k = 0; k < 3; k++) kept += param(layer(k), "lora_E")->value.shape[0];
  ck_assert_int_eq(kept, 3);
  opt = make_optimiser(1);
  train(opt, 0, 20); /* no ranking, no total */
  fine();
  lk_optim_free(opt);
  net_output(0, y);
  lk_adapter_save(model, "again", "saved", NULL);
  lk_detach(model, "again");
  lk_adapter_load(model, "third", "saved", 0);
  net_output(0, z);
  fine();
  ck_assert_double_lt(test_error(z, y, NET_OUT), 1e-15);
  test_directory_remove();
}
END_TEST

/* Between rankings pruned values come back; a file cannot hold them. */
START_TEST(saved_too_early) {
  test_directory();
  attach("adalora target_r=1 init_r=3 tfinal=1 total=20 deltaT=4");
  lk_optim *opt = make_optimiser(1);
  train(opt, 0, 11);
  lk_adapter_save(model, "default", "saved", NULL);
  fine();
  ck_assert_int_eq(lk_warning_count(ctx), 1);
  ck_assert_ptr_nonnull(strstr(lk_warning(ctx, 0), "are not 0 any more"));
  lk_optim_free(opt);
  test_directory_remove();
}
END_TEST

/* A chain, which PEFT has not: everything is in the file, the pattern too, and ranking goes on. */
START_TEST(saved_whole) {
  double y[NET_OUT], z[NET_OUT];
  test_directory();
  attach(SPEC " | magnitude");
  lk_optim *opt = make_optimiser(1);
  train(opt, 0, 7);
  lk_optim_free(opt);
  net_output(0, y);
  lk_adapter_save(model, "default", "saved", NULL);
  lk_detach(model, "default");
  lk_adapter_load(model, "default", "saved", 1);
  net_output(0, z);
  fine();
  ck_assert_double_lt(test_error(z, y, NET_OUT), 1e-15);
  ck_assert_int_eq(param(head, "lora_E")->value.shape[0], 3);
  ck_assert(total_kept() < 9 && total_kept() >= 3);
  test_directory_remove();
}
END_TEST

START_TEST(as_a_product) {
  attach(SPEC);
  lk_optim *opt = make_optimiser(1);
  train(opt, 0, TOTAL);
  lk_optim_free(opt);
  for (int k = 0; k < 3; k++) {
    lk_site *s = layer(k)->module.site;
    const lk_at *at = s->stacks->chain;
    double d[TEST_MOST], w[TEST_MOST], w0[TEST_MOST];
    lk_tensor A, B, W, b = lk_nil();
    lk_tape_reset(t);
    lk_no_grad(t, 1);
    at->method->cls->factors((lk_at *)at, t, &A, &B);
    W = lk_site_weight(s, t);
    int n = test_values(t, W, w0);
    at->method->cls->weight((lk_at *)at, t, &W, &b);
    test_values(t, W, w);
    ck_assert_int_eq(test_values(t, lk_matmul(t, B, A), d), n);
    fine();
    for (int i = 0; i < n; i++) ck_assert_double_eq_tol(d[i], w[i] - w0[i], 1e-14);
    int64_t kept = 0;
    for (int i = 0; i < 3; i++) kept += lk_view_get(&param(layer(k), "rank_pattern")->value, i) != 0;
    ck_assert_int_eq(lk_size(t, A, 0), kept ? kept : 1);
  }
}
END_TEST

/* ---- without memory ---- */

static lk_status story(lk_ctx *c, void *arg) {
  (void)arg;
  open_net(c, LK_F64);
  lk_optim *opt = t && !lk_attach(model, NULL, SPEC, "all-linear") ? make_optimiser(1) : NULL;
  if (opt) train(opt, 0, 7);
  lk_optim_free(opt);
  if (!lk_error(c, NULL)) lk_free(c, lk_adapter_notes(model, "default"));
  if (!lk_error(c, NULL)) lk_adapter_save(model, "default", "saved", NULL);
  if (!lk_error(c, NULL)) lk_adapter_load(model, "again", "saved", 1);
  close_net();
  return lk_error(c, NULL);
}

START_TEST(every_allocation) {
  uint64_t n;
  test_directory();
  const char *why = test_each_allocation(story, NULL, &n);
  ck_assert_msg(!why, "%s", why);
  ck_assert_uint_gt(n, 100);
  test_directory_remove();
}
END_TEST

int main(void) {
  TCase *c = tcase_create("adalora"), *bare = tcase_create("memory");
  tcase_set_timeout(c, 60);
  tcase_add_test(c, selection);
  tcase_add_test(c, budgets);
  tcase_add_test(c, importance);
  tcase_add_test(c, ranking);
  tcase_add_test(c, no_number);
  tcase_add_test(c, parts_of_a_score);
  tcase_add_test(c, reactivation);
  tcase_add_test(c, a_whole_run);
  tcase_add_test(c, without_a_final_phase);
  tcase_add_test(c, equal_ranks);
  tcase_add_test(c, nothing_is_important);
  tcase_add_test(c, accumulated_gradients);
  tcase_add_test(c, resuming);
  tcase_add_test(c, nobody_follows);
  tcase_add_test(c, written_values);
  tcase_add_test(c, no_orthogonality);
  tcase_add_test(c, no_total);
  tcase_add_test(c, refusals);
  tcase_add_test(c, convolution_in_groups);
  tcase_add_test(c, two_adapters);
  tcase_add_test(c, rank_zero);
  tcase_add_test(c, saved_trimmed);
  tcase_add_test(c, saved_too_early);
  tcase_add_test(c, saved_whole);
  tcase_add_test(c, as_a_product);
  tcase_add_test(bare, every_allocation);
  return run_cases("adalora", c, bare);
}
