/* test_active.c: several named adapters: sums, weights, order, what is active and what trains, copies of base parameters,
 * merging, dropout. */
#include "adapter_net.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

static const char *const names[] = {"default", "b", "c", "d"};
static const char *const specs[] = {"lora r=2 init=random", "lora r=1 init=random | magnitude", "gain | bias",
                                    "dropout p=0.5 (lora r=3 init=random)"};
static const char *const targets[] = {"first,head", "all-linear", "second", "net.first"};

static void attach_all(void) {
  for (int i = 0; i < 4; i++) lk_attach(model, names[i], specs[i], targets[i]);
  test_perturb_trained(model);
  fine();
}

static void activate(int n, const int *which, const double *weights) {
  const char *chosen[4] = {NULL};
  for (int i = 0; i < n; i++) chosen[i] = names[which[i]];
  lk_set_active(model, n, chosen, weights);
  fine();
}

/* ---- sums ---- */

/* What one layer alone makes of fixed numbers, as doubles; their number. */
static int layer_output(lk_linear_layer *l, double *y) {
  double x[10];
  for (int i = 0; i < 10; i++) x[i] = test_number("layer", i);
  lk_tape_reset(t);
  return test_values(t, lk_linear_forward(l, t, lk_input(t, LK_F64, 2, (int64_t[]){2, l->in}, x)), y);
}

static const struct {
  int n, which[4];
  double weights[4];
} mixes[] = {{0, {0}, {0}},
             {1, {1}, {1}},
             {1, {1}, {-0.5}},
             {2, {0, 1}, {1, 1}},
             {2, {1, 0}, {1, 1}},
             {2, {3, 2}, {0.7, -1.3}},
             {4, {0, 1, 2, 3}, {1, 1, 1, 1}},
             {4, {3, 1, 0, 2}, {2, 0, 1, -1}}};

static void check_sum(lk_linear_layer *l, int mix) {
  double y0[TEST_MOST], y[TEST_MOST], want[TEST_MOST], got[TEST_MOST];
  activate(0, NULL, NULL);
  int n = layer_output(l, y0);
  memcpy(want, y0, sizeof y0);
  for (int i = 0; i < mixes[mix].n; i++) {
    activate(1, &mixes[mix].which[i], NULL);
    ck_assert_int_eq(layer_output(l, y), n);
    for (int k = 0; k < n; k++) want[k] += mixes[mix].weights[i] * (y[k] - y0[k]);
  }
  activate(mixes[mix].n, mixes[mix].which, mixes[mix].weights);
  layer_output(l, got);
  ck_assert_msg(test_error(got, want, n) < 1e-14, "%s: off by %g", l->module.path, test_error(got, want, n));
}

/* y0 + sum of w_i (chain_i(x) - y0), at every layer. */
START_TEST(sums) {
  attach_all();
  check_sum(first, _i);
  check_sum(second, _i);
  check_sum(head, _i);
}
END_TEST

/* ---- merging several ---- */

START_TEST(merged) {
  double y[NET_OUT], z[NET_OUT];
  lk_merge_report report;
  attach_all();
  activate(mixes[_i].n, mixes[_i].which, mixes[_i].weights);
  net_state before = net_look();
  net_output(0, y);
  if (!mixes[_i].n) {
    ck_assert_int_ne(lk_merge(model, NULL), LK_OK);
    expect(LK_EARG, "merge: no adapter is active");
    return;
  }
  ck_assert_int_eq(lk_merge(model, &report), LK_OK);
  ck_assert_int_eq(lk_is_merged(model), 1);
  ck_assert_int_ge(report.sites, 2);
  ck_assert(report.max_change > 0 && report.max_relative_change > 0 && report.site);
  net_output(0, z);
  ck_assert_msg(test_error(z, y, NET_OUT) < 1e-13, "off by %g", test_error(z, y, NET_OUT));
  net_output(3, y); /* nothing is left to drop */
  ck_assert(!memcmp(y, z, sizeof y));
  net_state with = net_look();
  ck_assert_int_eq(lk_merge(model, &report), LK_OK);
  net_state again = net_look();
  ck_assert(net_same_bits(&with, &again) && !report.sites);
  ck_assert_int_eq(lk_unmerge(model), LK_OK);
  again = net_look();
  ck_assert(net_same_bits(&before, &again));
}
END_TEST

/* While merged, what would make no sense is refused; freeing the model is fine. */
START_TEST(merged_refusals) {
  attach_all();
  ck_assert_int_eq(lk_merge(model, NULL), LK_OK);
  lk_set_active(model, 0, NULL, NULL);
  expect(LK_EARG, "set_active: the model is merged; unmerge it first");
  lk_attach(model, "e", "gain", "first");
  expect(LK_EARG, "attach: the model is merged");
  lk_detach(model, "b");
  expect(LK_EARG, "detach: the model is merged");
}
END_TEST

/* The report's site is the one that changes most. */
START_TEST(report) {
  lk_merge_report r;
  lk_attach(model, NULL, "gain start=1.5", "first");
  lk_attach(model, "b", "gain start=2", "second");
  ck_assert_int_eq(lk_merge(model, &r), LK_OK);
  ck_assert_int_eq(r.sites, 2);
  ck_assert_str_eq(r.site, "net.second");
  ck_assert_double_eq_tol(r.max_relative_change, 1, 1e-15);
}
END_TEST

START_TEST(unmergeable) {
  net_state before = net_look();
  lk_attach(model, NULL, "gain start=2", "first");
  lk_attach(model, "b", "dropout (bend)", "second");
  before.live = lk_ctx_statistics(ctx).live;
  memset(before.trains, 0, sizeof before.trains);
  ck_assert_int_ne(lk_merge(model, NULL), LK_OK);
  expect(LK_EARG, "merge: bend at net.second cannot be merged");
  ck_unchanged(&before);
  lk_set_active(model, 1, (const char *const[]){"default"}, NULL);
  lk_adapter_find(model, "default")->weight = INFINITY;
  ck_assert_int_ne(lk_merge(model, NULL), LK_OK);
  expect(LK_ENONFINITE, "merge: net.first.weight would hold a value that is not finite");
  ck_unchanged(&before);
}
END_TEST

/* ---- active, and trained ---- */

START_TEST(active_names) {
  attach_all();
  lk_set_active(model, 1, (const char *const[]){"e"}, NULL);
  expect(LK_EARG, "set_active: there is no adapter 'e'");
  lk_set_active(model, 3, (const char *const[]){"b", "c", "b"}, NULL);
  expect(LK_EARG, "set_active: adapter 'b' is named twice");
  for (lk_adapter *a = lk_adapter_first(model); a; a = a->next) ck_assert(a->active && a->weight == 1);
  activate(2, (int[]){3, 1}, (double[]){2, 3});
  ck_assert(!lk_adapter_find(model, "default")->active && !lk_adapter_find(model, "c")->active);
  ck_assert(lk_adapter_find(model, "d")->weight == 2 && lk_adapter_find(model, "b")->weight == 3);
  lk_set_trainable(model, "e", 1);
  expect(LK_EARG, "set_trainable: there is no adapter 'e'");
}
END_TEST

/* Which of an adapter's parameters get a gradient: all 1, none 0, some -1. */
static int reached(const char *adapter) {
  int with = 0, without = 0;
  lk_linear_layer *const layers[] = {first, second, head};
  for (int i = 0; i < 3; i++)
    for (lk_site_stack *s = layers[i]->module.site->stacks; s; s = s->next)
      for (lk_at *a = strcmp(s->adapter->name, adapter) ? NULL : s->chain; a; a = a->inner ? a->inner : a->next)
        for (lk_param *p = a->params; p; p = p->next) *(p->has_grad ? &with : &without) += 1;
  ck_assert_int_gt(with + without, 0);
  return without == 0 ? 1 : with == 0 ? 0 : -1;
}

START_TEST(training_apart_from_being_active) {
  attach_all();
  ck_assert_int_eq(lk_trainable_count(model), lk_adapter_count(model, "default") + lk_adapter_count(model, "b") +
                                                  lk_adapter_count(model, "c") + lk_adapter_count(model, "d"));
  activate(3, (int[]){0, 1, 3}, NULL);
  lk_set_trainable(model, "b", 0);
  ck_assert_int_eq(lk_adapter_count(model, "b"), 0);
  ck_assert_int_eq(net_backward(), LK_OK);
  ck_assert_int_eq(reached("default"), 1);
  ck_assert_int_eq(reached("b"), 0);
  ck_assert_int_eq(reached("c"), 0); /* trains, but takes no part */
  ck_assert_int_eq(reached("d"), 1);
  ck_assert(!first->weight->has_grad && !first->bias->has_grad && !head->weight->has_grad);
  lk_set_trainable(model, "b", 1);
  net_backward();
  ck_assert_int_eq(reached("b"), 1);
  for (int i = 0; i < 4; i++) lk_set_trainable(model, names[i], 0);
  ck_assert_int_eq(lk_trainable_count(model), 0);
  ck_assert_int_ne(net_backward(), LK_OK);
  expect(LK_ENOGRAD, "");
}
END_TEST

/* Taking one off leaves the others what they are. */
START_TEST(detach_one) {
  double y[NET_OUT], z[NET_OUT];
  attach_all();
  activate(2, (int[]){1, 3}, (double[]){2, -1});
  net_output(0, y);
  lk_detach(model, "default");
  lk_detach(model, "c");
  net_output(0, z);
  ck_assert(!memcmp(y, z, sizeof y));
  lk_detach(model, "b");
  lk_detach(model, "d");
  lk_attach(model, "default", specs[0], targets[0]);
  fine();
  ck_assert_str_eq(net_trained(),
                   "net.first.lora_A.weight net.first.lora_B.weight head.lora_A.weight head.lora_B.weight");
}
END_TEST

/* ---- copies of base parameters ---- */

static const lk_attach_options with_copies = {
    .spec = "lora r=1 init=random", .targets = "first,second", .modules_to_save = "head", .bias = LK_BIAS_ADAPTED};

START_TEST(copies) {
  double y[NET_OUT], base[NET_OUT], z[NET_OUT];
  net_output(0, base);
  net_state before = net_look();
  ck_assert_int_eq(lk_attach_with(model, &with_copies), LK_OK);
  ck_assert_str_eq(net_trained(), "net.first.lora_A.weight net.first.lora_B.weight net.second.lora_A.weight "
                                  "net.second.lora_B.weight net.first.bias net.second.bias head.weight head.bias");
  ck_assert_int_eq(lk_adapter_count(model, "default"), 5 + 4 + 4 + 3 + 4 + 3 + 6 + 2);
  ck_assert_int_eq(lk_trainable_count(model), 5 + 4 + 4 + 3 + 4 + 3 + 6 + 2);
  ck_assert_int_eq(net_backward(), LK_OK);
  for (lk_param *p = lk_adapter_find(model, "default")->stand_ins; p; p = p->next) ck_assert(p->has_grad);
  test_perturb_trained(model);
  net_output(0, y);
  ck_assert(test_error(y, base, NET_OUT) > 1e-3);
  net_state now = net_look();
  ck_assert(net_same_bits(&now, &before));
  activate(0, NULL, NULL);
  net_output(0, z);
  ck_assert(!memcmp(z, base, sizeof z));
  activate(1, (int[]){0}, NULL);
  ck_assert_int_eq(lk_merge(model, NULL), LK_OK);
  net_output(0, z);
  ck_assert(test_error(z, y, NET_OUT) < 1e-14);
  ck_assert_ptr_null(head->weight->stand_in);
  ck_assert_int_eq(lk_unmerge(model), LK_OK);
  net_output(0, z);
  ck_assert(!memcmp(z, y, sizeof z));
  lk_detach(model, "default");
  net_output(0, z);
  ck_assert(!memcmp(z, base, sizeof z));
  now = net_look();
  ck_assert(net_same_bits(&now, &before));
}
END_TEST

START_TEST(all_biases) {
  lk_attach_options o = {.name = "x", .spec = "lora r=1", .targets = "first", .bias = LK_BIAS_ALL};
  ck_assert_int_eq(lk_attach_with(model, &o), LK_OK);
  ck_assert_str_eq(net_trained(),
                   "net.first.lora_A.weight@x net.first.lora_B.weight@x net.first.bias@x net.second.bias@x "
                   "head.bias@x");
  o.name = "y";
  lk_attach_with(model, &o);
  expect(LK_EARG, "adapter 'x' trains biases already; only one may");
}
END_TEST

/* Two adapters may own a copy of one parameter, but only one of them can be active. */
START_TEST(clashing_copies) {
  double y[NET_OUT], z[NET_OUT];
  lk_attach_options o = with_copies;
  lk_attach_with(model, &o);
  test_perturb_trained(model);
  net_output(0, y);
  net_state before = net_look();
  o.name = "b";
  o.bias = LK_BIAS_NONE;
  lk_attach_with(model, &o);
  expect(LK_EARG, "adapters 'default' and 'b' both hold a copy of head.weight: only one of them can be active");
  ck_unchanged(&before);
  ck_assert_ptr_null(lk_adapter_find(model, "b"));
  activate(0, NULL, NULL);
  ck_assert_int_eq(lk_attach_with(model, &o), LK_OK);
  lk_set_active(model, 2, (const char *const[]){"b", "default"}, NULL);
  expect(LK_EARG, "adapters 'b' and 'default' both hold a copy");
  activate(1, (int[]){1}, NULL);
  ck_assert_ptr_eq(head->weight->stand_in, lk_adapter_find(model, "b")->stand_ins);
  activate(1, (int[]){0}, NULL);
  net_output(0, z);
  ck_assert(!memcmp(y, z, sizeof y));
  lk_detach(model, "default");
  ck_assert_ptr_null(head->weight->stand_in);
}
END_TEST

/* ---- dropout in front of an adapter ---- */

static const char *const dropping[] = {"lora r=2 init=random dropout=%g", "dropout p=%g (lora r=2 init=random)",
                                       "dropout p=%g (lora r=2 init=random | magnitude)",
                                       "dropout p=%g (gain start=2)"};

static void attach_dropping(int i, double p) {
  char spec[100];
  snprintf(spec, sizeof spec, dropping[i], p);
  if (lk_adapter_first(model)) lk_detach(model, "default");
  lk_attach(model, NULL, spec, "first");
  fine();
}

/* Everything dropped: the base alone (a gain also scales the bias, which no input carries).  In evaluation nothing is. */
START_TEST(all_dropped) {
  double y[TEST_MOST], base[NET_OUT], plain[NET_OUT];
  net_output(0, base);
  attach_dropping(_i, 0);
  net_output(0, plain);
  net_output(1, y);
  ck_assert(!memcmp(plain, y, sizeof plain));
  attach_dropping(_i, 1);
  net_output(0, y);
  ck_assert(!memcmp(plain, y, sizeof plain));
  net_output(1, y);
  ck_assert(test_error(y, base, NET_OUT) < 1e-15);
  attach_dropping(_i, 0.5);
  net_output(1, y);
  ck_assert(test_error(y, base, NET_OUT) > 1e-3 && test_error(y, plain, NET_OUT) > 1e-3);
}
END_TEST

/* A recorded mask takes the place of the draw: y(x keep / (1 - p)) beside the base at x. */
START_TEST(recorded_mask) {
  double x[10], kept[10], keep[10], y[TEST_MOST], y0[TEST_MOST], z[TEST_MOST], z0[TEST_MOST];
  const int64_t shape[] = {2, 5};
  for (int i = 0; i < 10; i++) {
    x[i] = test_number("x", i);
    keep[i] = i % 3 != 0;
    kept[i] = x[i] * keep[i] / 0.75;
  }
  for (int with = 0; with < 2; with++) {
    if (with) attach_dropping(_i, 0.25);
    lk_tape_reset(t);
    test_values(t, lk_linear_forward(first, t, lk_input(t, LK_F64, 2, shape, x)), with ? y : y0);
    test_values(t, lk_linear_forward(first, t, lk_input(t, LK_F64, 2, shape, kept)), with ? z : z0);
  }
  lk_tape_reset(t);
  lk_train(t, 9, 0);
  lk_side(t, "net.first.drop", lk_input(t, LK_F64, 2, shape, keep));
  int n = test_values(t, lk_linear_forward(first, t, lk_input(t, LK_F64, 2, shape, x)), y);
  for (int i = 0; i < n; i++) z[i] += y0[i] - z0[i];
  ck_assert_int_eq(n, 8);
  ck_assert(test_error(y, z, n) < 1e-14);
  lk_side(t, "net.first.drop", lk_input(t, LK_F64, 1, (int64_t[]){3}, keep));
  ck_assert(lk_is_nil(lk_linear_forward(first, t, lk_input(t, LK_F64, 2, shape, x))));
  expect(LK_ESHAPE, "[3]");
}
END_TEST

int main(void) {
  TCase *c = tcase_create("active");
  tcase_add_loop_test(c, sums, 0, COUNT(mixes));
  tcase_add_loop_test(c, merged, 0, COUNT(mixes));
  tcase_add_test(c, merged_refusals);
  tcase_add_test(c, report);
  tcase_add_test(c, unmergeable);
  tcase_add_test(c, active_names);
  tcase_add_test(c, training_apart_from_being_active);
  tcase_add_test(c, detach_one);
  tcase_add_test(c, copies);
  tcase_add_test(c, all_biases);
  tcase_add_test(c, clashing_copies);
  tcase_add_loop_test(c, all_dropped, 0, 3);
  tcase_add_loop_test(c, recorded_mask, 0, COUNT(dropping));
  return run_cases("active", c, NULL);
}
