/* test_adalora.c: AdaLoRA: training with its budget, resuming, trimming, files, and what is refused. */
#include "adapter_net.h"
#include "files.h"

#include <lorikeet/checkpoint.h>
#include <lorikeet/json.h>
#include <lorikeet/safetensors.h>

#define SPEC "adalora target_r=1 init_r=3 tinit=1 tfinal=2 total=10 deltaT=2"
enum { TOTAL = 10 };

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

START_TEST(rank_zero_convolution) {
  double y[18], base[18], x[32];
  for (int i = 0; i < 32; i++) x[i] = test_number("image", i);
  lk_conv2d_layer *l = lk_conv2d_new(lk_model_root(model), "conv", 2, 2, (int64_t[]){2, 2}, NULL, 0);
  for (int adapted = 0; adapted < 2; adapted++) {
    if (adapted) lk_attach(model, NULL, "adalora init_r=3 pruned=3", "conv");
    lk_tape_reset(t);
    lk_tensor out = lk_conv2d_forward(l, t, lk_input(t, LK_F64, 4, (int64_t[]){1, 2, 4, 4}, x));
    ck_assert_int_eq(test_values(t, out, adapted ? y : base), 18);
    fine();
  }
  ck_assert_double_lt(test_error(y, base, 18), 1e-15);
  lk_merge(model, NULL);
  fine();
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

/* Between rankings pruned values come back; the file holds them, and computes the same. */
START_TEST(saved_between_rankings) {
  double y[NET_OUT], z[NET_OUT];
  test_directory();
  attach("adalora target_r=1 init_r=3 tfinal=1 total=20 deltaT=4");
  lk_optim *opt = make_optimiser(1);
  train(opt, 0, 11);
  lk_optim_free(opt);
  char *notes = lk_adapter_notes(model, "default");
  ck_assert(total_kept() < 9 && total_used() == 9);
  ck_assert_msg(strstr(notes, " pruned values that are not 0 again") != NULL, "%s", notes);
  lk_free(ctx, notes);
  net_output(0, y);
  lk_adapter_save(model, "default", "saved", NULL);
  lk_detach(model, "default");
  lk_adapter_load(model, "default", "saved", 1);
  net_output(0, z);
  fine();
  ck_assert_double_lt(test_error(z, y, NET_OUT), 1e-15);
  test_directory_remove();
}
END_TEST

static const struct {
  const char *key, *json, *words;
} bad_configs[] = {{"total_step", "null", "total_step"},
                   {"total_step", "0", "total_step"},
                   {"total_step", "\"ten\"", "total_step"},
                   {"tinit", "8", "no step is left"},
                   {"use_dora", "true", "use_dora"},
                   {"loftq_config", "{\"bits\": 4}", "loftq_config"},
                   {"orth_reg_weight", "-1", "orth"},
                   {"beta1", "1.0", "inside (0, 1)"},
                   {"deltaT", "0", "deltaT"},
                   {"target_r", "-1", "target_r"},
                   {"init_r", "4", "has 3 entries, init_r is 4"},
                   {"rank_pattern", "[true]", "rank_pattern must be an object"},
                   {"rank_pattern", "{\"head.lora_E\": [1, 1, 1]}", "booleans"},
                   {"rank_pattern", "{\"head.lora_E\": true}", "lists"},
                   {"rank_pattern", "{\"head\": [true, true, true]}", "no '<module>.lora_E'"},
                   {"rank_pattern", "null", "does not fit"}};

START_TEST(other_configs) {
  test_directory();
  attach(SPEC);
  lk_optim *opt = make_optimiser(1);
  train(opt, 0, TOTAL);
  lk_optim_free(opt);
  lk_adapter_save(model, "default", "saved", NULL);
  lk_detach(model, "default");
  lk_json *good = lk_json_read(ctx, "saved/adapter_config.json");
  fine();
  for (size_t i = 0; i < sizeof bad_configs / sizeof *bad_configs; i++) {
    lk_json *bad = lk_json_copy(ctx, good);
    const char *json = bad_configs[i].json;
    lk_json_set(ctx, bad, bad_configs[i].key, lk_json_parse(ctx, json, strlen(json), "json"));
    lk_json_write(ctx, "saved/adapter_config.json", bad, 0);
    lk_json_free(bad);
    fine();
    lk_status status = lk_adapter_load(model, "default", "saved", 1);
    ck_assert_msg(status != LK_OK, "%s %s", bad_configs[i].key, json);
    expect(status, bad_configs[i].words);
    ck_assert_ptr_null(lk_adapter_first(model));
  }
  lk_json_free(good);
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
  tcase_set_timeout(c, 240);
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
  tcase_add_test(c, rank_zero_convolution);
  tcase_add_test(c, saved_trimmed);
  tcase_add_test(c, saved_between_rankings);
  tcase_add_test(c, other_configs);
  tcase_add_test(c, saved_whole);
  tcase_add_test(c, as_a_product);
  tcase_add_test(bare, every_allocation);
  return run_cases("adalora", c, bare);
}
